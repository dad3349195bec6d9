//! Children whose shard has ended: nobody waits for them any more, and yet no zombie is to be left of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::Signal;

/// As many as there are such children. Looked through whenever a program is started or a shard with children ends, so
/// that no more zombies are left than at that moment; of a process that ends, its parent takes them.
static ORPHANS: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// Takes a child over. One that was killed just now is waited for, for so long.
pub(super) fn adopt(descriptor: OwnedFd, most: Duration) {
    if !most.is_zero() {
        // Interrupted or not: it is looked at next, and again later.
        let _ = waterwheel_os::wait_briefly(descriptor.as_fd(), most);
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
