//! How much memory a piece of work takes.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Does `work`. Panics if it held more than `limit_bytes` at once.
pub fn within<T>(limit_bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = work();
    let held = MEMORY.peak_usage().saturating_sub(before);
    assert!(held <= limit_bytes, "{held} bytes of memory, at most {limit_bytes} are allowed");
    result
}
