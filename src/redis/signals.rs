//! SIGTERM and SIGINT while this node leads: kept back until leadership was handed over, then given to the server's
//! own handler.
//!
//! The server offers no event before a shutdown begins, only one at its end, when its event loop does not turn any
//! more and no client can be answered. Its own wait for replicas (`shutdown-timeout`) cannot be used either: it pauses
//! writes, and ends the process when a module replicates anything meanwhile (`propagateNow` asserts it), the mark of
//! the last batch for example.
//!
//! While this node does not lead, and for the second signal, the server's handler runs at once, as without the module.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::OnceLock;

static LEADING: AtomicBool = AtomicBool::new(false);
/// The signal that is kept back; 0 = none.
static KEPT: AtomicI32 = AtomicI32::new(0);
/// It was not handed to the main thread yet.
static FRESH: AtomicBool = AtomicBool::new(false);

struct Installed {
    process: u32,
    wake_fd: c_int,
    terminate: libc::sigaction,
    interrupt: libc::sigaction,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// Puts a handler before the server's own. `wake_fd` wakes the main thread's event loop.
pub fn install(wake_fd: c_int) {
    // SAFETY: the calls read and write plain structures of this function; a zeroed one is valid.
    let own = |signal: c_int| unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let read = libc::sigaction(signal, std::ptr::null(), &mut action);
        let handled = action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN;
        (read == 0 && handled).then_some(action)
    };
    let (Some(terminate), Some(interrupt)) = (own(libc::SIGTERM), own(libc::SIGINT)) else {
        log::warn!("the server handles no signals: a SIGTERM will not hand leadership over");
        return;
    };
    let installed = Installed { process: std::process::id(), wake_fd, terminate, interrupt };
    if INSTALLED.set(installed).is_err() {
        return;
    }
    for (signal, former) in [(libc::SIGTERM, terminate), (libc::SIGINT, interrupt)] {
        let mut action = former;
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags |= libc::SA_SIGINFO;
        // SAFETY: the handler does only what a signal handler may.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            log::warn!("cannot handle signal {signal}: {}", std::io::Error::last_os_error());
        }
    }
}

/// This node leads, or has stopped leading: what is kept back stays so until it is given on.
pub fn set_leading(leading: bool) {
    LEADING.store(leading, Ordering::SeqCst);
}

/// A signal that came since the last call.
pub fn take() -> Option<c_int> {
    FRESH.swap(false, Ordering::SeqCst).then(|| KEPT.load(Ordering::SeqCst))
}

/// Gives `signal` to the server's own handler, here and now.
pub fn give_on(signal: c_int) {
    KEPT.store(signal, Ordering::SeqCst);
    // SAFETY: raises a signal in this thread; the handler below passes it on, since one is kept.
    unsafe { libc::raise(signal) };
    KEPT.store(0, Ordering::SeqCst);
}

/// The shutdown that it asked for was aborted.
pub fn forget() {
    KEPT.store(0, Ordering::SeqCst);
}

/// Only atomics, `getpid` and `write`: all allowed in a signal handler.
unsafe extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(installed) = INSTALLED.get() else { return };
    // A forked child shares the descriptor, and must not shut its parent down.
    let own = std::process::id() == installed.process;
    if own && LEADING.load(Ordering::SeqCst) && KEPT.swap(signal, Ordering::SeqCst) == 0 {
        FRESH.store(true, Ordering::SeqCst);
        let one = 1u64.to_ne_bytes();
        // A full counter means that the main thread is awake already.
        let _ = libc::write(installed.wake_fd, one.as_ptr().cast(), one.len());
        return;
    }
    let former = if signal == libc::SIGINT { &installed.interrupt } else { &installed.terminate };
    if former.sa_flags & libc::SA_SIGINFO != 0 {
        type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        std::mem::transmute::<usize, Handler>(former.sa_sigaction)(signal, info, context);
    } else {
        std::mem::transmute::<usize, unsafe extern "C" fn(c_int)>(former.sa_sigaction)(signal);
    }
}
