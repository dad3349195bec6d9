//! Foreign threads: peers with blocking sockets, wakers from outside.

use std::fmt;
use std::sync::mpsc::{Receiver, channel};
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

/// Ends the process when it is dropped by a panic, with the code of one: the law has failed, the panic's message is
/// written, and whoever waits for the thread that panicked would make a hang of it.
#[derive(Debug)]
pub(super) struct FailFast;

impl Drop for FailFast {
    fn drop(&mut self) {
        const PANIC: i32 = 101;
        if thread::panicking() {
            std::process::exit(PANIC);
        }
    }
}

/// Runs `work` on a foreign thread. If that panics, the process ends.
#[expect(clippy::disallowed_methods, reason = "a peer is foreign: it must not run on the reactor it tests")]
pub fn thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Thread<T> {
    let (sender, result) = channel();
    let handle = thread::spawn(move || {
        let _guard = FailFast;
        // Nobody listens any more only where the law has failed already.
        let _ = sender.send(work());
    });
    Thread { result, handle }
}

impl<T> Thread<T> {
    /// Waits for its result.
    ///
    /// # Panics
    /// If the thread needs more than ten seconds.
    pub fn join(self) -> T {
        let result = self.result.recv_timeout(Duration::from_secs(10));
        let result = result.unwrap_or_else(|_| panic!("a foreign thread did not end within 10 s"));
        // The result is sent, so the end is near and nothing can panic any more.
        let _ = self.handle.join();
        result
    }
}

/// Blocks the calling thread: for foreign threads, or before and after a run.
#[expect(clippy::disallowed_methods, reason = "foreign threads have no reactor to sleep on")]
pub fn pause(duration: Duration) {
    thread::sleep(duration);
}
