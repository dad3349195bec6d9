//! Foreign threads: peers with blocking sockets, wakers from outside.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// A plain thread that belongs to no reactor. It must be [joined](Thread::join) before the law ends, or it counts as
/// left over.
pub struct Thread<T> {
    result: Receiver<T>,
    handle: thread::JoinHandle<()>,
}

impl<T> fmt::Debug for Thread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// Runs `work` on a foreign thread.
#[expect(clippy::disallowed_methods, reason = "a peer is foreign: it must not run on the reactor it tests")]
pub fn thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Thread<T> {
    let (sender, result) = channel();
    let handle = thread::spawn(move || {
        // Nobody listens any more only where the law has failed already.
        let _ = sender.send(work());
    });
    Thread { result, handle }
}

impl<T> Thread<T> {
    /// Waits for its result.
    ///
    /// # Panics
    /// With the thread's own panic if it panicked; if it needs more than ten seconds.
    pub fn join(self) -> T {
        let result = self.result.recv_timeout(Duration::from_secs(10));
        if matches!(result, Err(RecvTimeoutError::Timeout)) {
            panic!("a foreign thread did not end within 10 s");
        }
        if let Err(panic) = self.handle.join() {
            resume_unwind(panic);
        }
        result.expect("a thread that did not panic sent its result")
    }
}

/// Blocks the calling thread: for foreign threads, or before and after a run.
#[expect(clippy::disallowed_methods, reason = "foreign threads have no reactor to sleep on")]
pub fn pause(duration: Duration) {
    thread::sleep(duration);
}
