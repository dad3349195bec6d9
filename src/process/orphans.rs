//! Children whose shard has ended: nobody waits for them any more, and yet no zombie is to be left of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::Signal;

/// As many as there are such children. Looked through whenever a program is started or a shard with children ends, so
/// that no more zombies are left than at that moment; of a process that ends, its parent takes them.
static ORPHANS: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// How long one that was killed is waited for: the kernel takes it apart meanwhile, which is over in less unless it is
/// stuck in a call that cannot be interrupted.
const LAST_MOMENT: Duration = Duration::from_millis(20);

/// Takes a child over; one that was killed just now is gone when this returns, as a rule.
pub(super) fn adopt(descriptor: OwnedFd, killed: bool) {
    if killed {
        // Interrupted or not: it is looked at next, and again later.
        let _ = waterwheel_os::wait_briefly(descriptor.as_fd(), LAST_MOMENT);
    }
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner).push(descriptor);
    sweep();
}

/// Takes from the kernel what has ended.
pub(super) fn sweep() {
    let mut orphans = ORPHANS.lock().unwrap_or_else(PoisonError::into_inner);
    orphans.retain(|orphan| matches!(waterwheel_os::reap(orphan.as_fd(), || {}), Ok(None)));
}

/// Kills a child that nobody has waited for, with its group if it leads one.
pub(super) fn kill(id: u32, own_group: bool, descriptor: BorrowedFd<'_>) {
    let number = Signal::Kill.number();
    let killed = match own_group {
        true => waterwheel_os::signal_group(id, number),
        false => waterwheel_os::signal_child(descriptor, number),
    };
    if let Err(error) = killed {
        tracing::debug!(id, "a child process was not killed: {error}");
    }
}
