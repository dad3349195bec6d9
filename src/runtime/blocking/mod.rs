//! Work that blocks, on threads of its own: files, other people's libraries, long computations.
//!
//! Threads are started when they are needed, up to [`Config::blocking_threads`](super::Config::blocking_threads), and end
//! when they had nothing to do for ten seconds. They are pinned to no CPU. What waits for a thread is bounded too: beyond
//! it, work is refused, since a queue that only grows hides that the disk is stuck.
//!
//! | | |
//! |---|---|
//! | the result | comes back on the shard that asked, in a later turn |
//! | dropping the future | work that has not begun never begins; what has begun is not interrupted, and may [look](Cancelled) |
//! | a panic | is the caller's error, and costs no thread |
//! | the end of the run | work that has not begun is answered with [`BlockingError::Ended`]; for what has begun the run waits up to five seconds |
//!
//! In a simulated world nothing blocks: the work is done on the shard itself, a drawn while later.

mod call;
mod pool;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::shard::Shard;
pub use call::Cancelled;
use call::{Answer, Call, Work};
pub(crate) use pool::{Pool, Workers};

/// Why work on a thread has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// Too much waits for a thread already; this was not added to it.
    #[error("{waiting} pieces of work wait for a blocking thread already")]
    Busy {
        /// The most that may.
        waiting: usize,
    },
    /// The run is over.
    #[error("the run ended before the work began")]
    Ended,
    /// The work panicked; its message, if it was text.
    #[error("the work panicked: {0}")]
    Panicked(String),
    /// The system has no thread to give, and none is there.
    #[error("cannot start a blocking thread: {0}")]
    Threads(io::Error),
}

/// In a simulated world work takes less than so long, in nanoseconds.
const SIMULATED_MOST: u64 = 5_000_000;

impl Shard {
    /// Runs `work` on a thread where it may block, and brings what it answers back to this shard. It is handed over when
    /// this is called, not when the future is first polled. Beginning costs a lock, at times a thread (some tens of
    /// microseconds).
    ///
    /// Dropping the future cancels work that has not begun. The work itself goes to the thread, so it is `Send`; what it
    /// answers comes from there.
    ///
    /// The future's errors: [`BlockingError`].
    pub fn blocking<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Blocking<R> {
        self.blocking_with(move |_| work())
    }

    /// As [`blocking`](Shard::blocking), for work that takes long in steps, and looks now and then whether somebody still
    /// waits for it.
    pub fn blocking_with<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancelled) -> R + Send + 'static,
    ) -> Blocking<R> {
        let call = Arc::new(Call::new(work));
        let workers = self.kept::<Workers>();
        let given = match &workers {
            Some(workers) => workers.give(call.clone()),
            None => {
                let (shard, call) = (self.clone(), call.clone());
                let takes = Duration::from_nanos(self.reactor().seed() % SIMULATED_MOST);
                self.spawn_detached("blocking", async move {
                    shard.sleep(takes).await;
                    call.run();
                });
                Ok(())
            }
        };
        if let Err(error) = given {
            call.refuse(error);
        }
        Blocking { workers, call }
    }
}

/// Gives a shard the threads. Once, before its main future.
pub(super) fn provide(shard: &Shard, workers: Workers) {
    shard.keep(Rc::new(workers));
}

/// Work on its way, and its result.
#[must_use = "dropping it cancels work that has not begun"]
pub struct Blocking<R> {
    workers: Option<Rc<Workers>>,
    call: Arc<dyn Answer<R>>,
}

impl<R> Future for Blocking<R> {
    type Output = Result<R, BlockingError>;

    /// # Panics
    /// If it was ready before.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R, BlockingError>> {
        self.call.poll_answer(cx)
    }
}

impl<R> Drop for Blocking<R> {
    fn drop(&mut self) {
        if let (true, Some(workers)) = (self.call.cancel(), &self.workers) {
            workers.forget(&self.call);
        }
    }
}

impl<R> fmt::Debug for Blocking<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}
