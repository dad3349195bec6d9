//! How the suite learns what a reactor allocates: a program has one allocator, which is its own to choose.

use std::sync::OnceLock;

static COUNTER: OnceLock<fn() -> u64> = OnceLock::new();

/// Tells the suite how to learn how many allocations the calling thread has made so far. Called by a test program
/// that counts them in its `#[global_allocator]`, before [`main`](crate::main); without it the laws about allocation
/// are *not offered*. The first call counts.
pub fn set_allocation_counter(counter: fn() -> u64) {
    COUNTER.get_or_init(|| counter);
}

/// The counter, if the program has one.
pub(crate) fn allocation_counter() -> Option<fn() -> u64> {
    COUNTER.get().copied()
}
