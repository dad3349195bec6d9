//! Children whose shard has ended: nobody waits for them any more, and yet no zombie is to be left of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::runtime::Signal;

/// As many as there are such children.
static ORPHANS: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<OwnedFd>> {
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a child over; whoever does so makes sure that [`see_out`] or [`sweep`] is called later.
pub(super) fn adopt(descriptor: OwnedFd) {
    all().push(descriptor);
}

/// Waits, on this thread, until every one has ended.
pub(super) fn see_out() {
    loop {
        sweep();
        let mine: io::Result<Vec<OwnedFd>> = all().iter().map(OwnedFd::try_clone).collect();
        let waited = mine.and_then(|mine| {
            if mine.is_empty() { Ok(true) } else { waterwheel_os::wait_for_one(&mine).map(|()| false) }
        });
        match waited {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => return tracing::warn!("child processes will be left as zombies: {error}"),
        }
    }
}

/// Takes from the kernel what has ended.
pub(super) fn sweep() {
    all().retain(|orphan| matches!(waterwheel_os::reap(orphan.as_fd(), || {}), Ok(None)));
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
