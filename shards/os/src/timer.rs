//! When the kernel ends a thread's sleep.

use std::io;
use std::num::NonZeroU64;

/// Lets the calling thread's sleeps end when they are due. By default Linux may let them go on for 50 µs, to end several
/// at once (`PR_SET_TIMERSLACK`, prctl(2)); whoever measures microseconds would measure that.
///
/// # Errors
/// The kernel's reason.
pub fn sleep_exactly() -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?)
}
