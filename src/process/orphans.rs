//! Children that no shard waits for any more: theirs has ended, or nobody took them when they had been started. Yet no zombie
//! is to be left of them.
//!
//! One thread of the process waits for all of them, while there are any, however often shards are restarted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use waterwheel_os::Interrupt;

use crate::runtime::Signal;

/// So many are waited for: each takes a descriptor, of which a process has a few thousand, and more of them than shards and
/// their restarts is a program that leaves children behind without end.
const ORPHANS_MAX: usize = 1_024;

static ORPHANS: Mutex<Orphans> = Mutex::new(Orphans { arrived: Vec::new(), count: 0, thread: None });

#[derive(Debug)]
struct Orphans {
    /// Those that the thread has not seen.
    arrived: Vec<OwnedFd>,
    /// Those that arrived and those that the thread waits for.
    count: usize,
    /// Interrupts the thread's wait, if there is one.
    thread: Option<Arc<Interrupt>>,
}

fn all() -> MutexGuard<'static, Orphans> {
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a child over, and its end from the kernel when it comes.
pub(super) fn adopt(descriptor: OwnedFd) {
    let mut orphans = all();
    if orphans.count >= ORPHANS_MAX {
        drop(orphans);
        return tracing::warn!(
            "a child process will be left as a zombie: {ORPHANS_MAX} others have outlived their shards"
        );
    }
    orphans.arrived.push(descriptor);
    orphans.count += 1;
    match &orphans.thread {
        Some(waits) => waits.raise(),
        None => orphans.begin(),
    }
}

impl Orphans {
    fn begin(&mut self) {
        let begin = |interrupt: Arc<Interrupt>| {
            let own = interrupt.clone();
            thread::Builder::new().name("orphans".to_owned()).spawn(move || see_out(&own))?;
            Ok(interrupt)
        };
        match Interrupt::new().map(Arc::new).and_then(begin) {
            Ok(interrupt) => self.thread = Some(interrupt),
            Err(error) => left_alone(&error),
        }
    }
}

/// Waits, on this thread, until every one has ended.
fn see_out(interrupt: &Interrupt) {
    // It was made on a shard's thread, and would run on that CPU; which is no harm if it cannot be helped.
    let _ = waterwheel_os::unpin();
    let mut mine: Vec<OwnedFd> = Vec::new();
    loop {
        interrupt.clear();
        let mut orphans = all();
        mine.append(&mut orphans.arrived);
        mine.retain(|orphan| matches!(waterwheel_os::reap(orphan.as_fd(), || {}), Ok(None)));
        orphans.count = mine.len();
        if mine.is_empty() {
            orphans.thread = None;
            return;
        }
        drop(orphans);
        if let Err(error) = waterwheel_os::wait_for_one(&mine, interrupt.as_fd()) {
            let mut orphans = all();
            orphans.arrived.append(&mut mine);
            orphans.thread = None;
            drop(orphans);
            return left_alone(&error);
        }
    }
}

fn left_alone(error: &io::Error) {
    tracing::warn!("child processes are left as zombies until there is another one: {error}");
}

/// Kills a child that nobody has waited for, and its group if it was to lead one.
pub(super) fn kill(id: u32, own_group: bool, descriptor: BorrowedFd<'_>) {
    let number = Signal::Kill.number();
    if own_group {
        // There may be none any more: a child may go to another one.
        let _ = waterwheel_os::signal_group(id, number);
    }
    if let Err(error) = waterwheel_os::signal_child(descriptor, number) {
        tracing::debug!(id, "a child process was not killed: {error}");
    }
}
