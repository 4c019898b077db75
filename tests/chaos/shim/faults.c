/*
 * Makes the disk and the clock of one process fail. Loaded by LD_PRELOAD; steered through a file that both sides map
 * or write (CHAOS_CONTROL, the layout of struct control), at run time and without a restart.
 *
 * Only files below CHAOS_LOG, the directory of the log, are touched. The calls are those that the log makes: pwrite
 * (durable by itself on a file that was opened with O_DSYNC), fdatasync, fsync, fallocate. The clock is that of the time
 * of day; the monotonic one is left alone. Everything else of the process runs as always.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum sync_mode { SYNC_FINE, SYNC_FAILS, SYNC_SLOW, SYNC_HANGS };
enum write_mode { WRITE_FINE, WRITE_FAILS, WRITE_HALF, WRITE_NO_SPACE };

/* All fields are 8 bytes; shim.rs knows their order. */
struct control {
    _Atomic uint64_t sync_mode;
    _Atomic uint64_t write_mode;
    _Atomic uint64_t delay_us;
    _Atomic int64_t clock_offset_us;
    _Atomic int64_t clock_drift_ppm;
    /* The monotonic time from which the clock drifts. */
    _Atomic int64_t drift_from_us;
    /* What has been done. */
    _Atomic uint64_t failed_syncs;
    _Atomic uint64_t slow_syncs;
    _Atomic uint64_t hung_syncs;
    _Atomic uint64_t failed_writes;
    _Atomic uint64_t shifted_times;
};

static struct control *control;
static char *log_directory;
static size_t log_directory_length;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void prepare(void) {
    /* Whatever happens to the test, its servers do not outlive it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    /* The server writes its title over its environment. */
    const char *directory = getenv("CHAOS_LOG");
    log_directory = directory ? strdup(directory) : NULL;
    log_directory_length = log_directory ? strlen(log_directory) : 0;
    const char *path = getenv("CHAOS_CONTROL");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0 || !log_directory) {
        fprintf(stderr, "chaos: CHAOS_CONTROL and CHAOS_LOG must name the control file and the log's directory\n");
        _exit(1);
    }
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) {
        perror("chaos: the control file cannot be mapped");
        _exit(1);
    }
    control = mapped;
}

static int is_of_log(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length >= (ssize_t)log_directory_length && memcmp(path, log_directory, log_directory_length) == 0;
}

/* What happens to a sync before it is done: -1 with errno if it fails. */
static int before_sync(int file) {
    if (!control || control->sync_mode == SYNC_FINE || !is_of_log(file)) return 0;
    switch (control->sync_mode) {
    case SYNC_FAILS:
        control->failed_syncs++;
        errno = EIO;
        return -1;
    case SYNC_SLOW:
        control->slow_syncs++;
        usleep((useconds_t)control->delay_us);
        return 0;
    case SYNC_HANGS:
        control->hung_syncs++;
        while (control->sync_mode == SYNC_HANGS) usleep(2000);
        return 0;
    default:
        return 0;
    }
}

int fsync(int file) {
    return before_sync(file) ? -1 : (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    return before_sync(file) ? -1 : (int)syscall(SYS_fdatasync, file);
}

static ssize_t write_at(int file, const void *bytes, size_t length, off_t offset) {
    if (control && control->write_mode != WRITE_FINE && is_of_log(file)) {
        control->failed_writes++;
        switch (control->write_mode) {
        case WRITE_NO_SPACE:
            errno = ENOSPC;
            return -1;
        case WRITE_HALF:
            /* Whole sectors arrive. The caller is told the truth: it did not work. */
            if (length / 2 >= 4096) syscall(SYS_pwrite64, file, bytes, length / 2 / 4096 * 4096, offset);
            /* fall through */
        default:
            errno = EIO;
            return -1;
        }
    }
    int flags = control && control->sync_mode != SYNC_FINE ? fcntl(file, F_GETFL) : 0;
    if (flags > 0 && (flags & O_DSYNC) && before_sync(file)) return -1;
    return syscall(SYS_pwrite64, file, bytes, length, offset);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) {
    return write_at(file, bytes, length, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) {
    return write_at(file, bytes, length, offset);
}

static int reserve(int file, int mode, off_t offset, off_t length) {
    if (control && control->write_mode != WRITE_FINE && is_of_log(file)) {
        control->failed_writes++;
        errno = control->write_mode == WRITE_NO_SPACE ? ENOSPC : EIO;
        return -1;
    }
    return (int)syscall(SYS_fallocate, file, mode, offset, length);
}

int fallocate(int file, int mode, off_t offset, off_t length) {
    return reserve(file, mode, offset, length);
}

int fallocate64(int file, int mode, off64_t offset, off64_t length) {
    return reserve(file, mode, offset, length);
}

static int read_clock(clockid_t clock, struct timespec *time) {
    return real_clock_gettime ? real_clock_gettime(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
}

/* How far the clock of the time of day is off now. */
static int64_t shift_us(void) {
    if (!control) return 0;
    int64_t shift = control->clock_offset_us, drift_ppm = control->clock_drift_ppm;
    if (drift_ppm != 0) {
        struct timespec now;
        if (read_clock(CLOCK_MONOTONIC, &now) == 0) {
            int64_t since_us = now.tv_sec * 1000000LL + now.tv_nsec / 1000 - control->drift_from_us;
            if (since_us > 0) shift += since_us / 1000000 * drift_ppm + since_us % 1000000 * drift_ppm / 1000000;
        }
    }
    if (shift != 0) control->shifted_times++;
    return shift;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = read_clock(clock, time);
    if (result != 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    int64_t shift = shift_us();
    int64_t shifted_ns = time->tv_nsec + shift % 1000000 * 1000;
    time->tv_sec += shift / 1000000;
    if (shifted_ns < 0) {
        shifted_ns += 1000000000;
        time->tv_sec--;
    } else if (shifted_ns >= 1000000000) {
        shifted_ns -= 1000000000;
        time->tv_sec++;
    }
    time->tv_nsec = shifted_ns;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec time;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0) return -1;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
