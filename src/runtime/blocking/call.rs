//! One piece of work: between the shard that asked and the thread that does it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::panic_message;

use super::BlockingError;

/// What a thread does, whatever it is.
pub(super) trait Work: Send + Sync {
    /// Does it, unless it was cancelled.
    fn run(&self);
    /// It will not be done.
    fn refuse(&self, error: BlockingError);
}

/// What the shard waits for.
pub(super) trait Answer<R>: Work {
    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<R, BlockingError>>;
    /// Nobody waits any more. True: it had not begun, and will not.
    fn cancel(&self) -> bool;
}

/// Whether anybody waits for work that is being done.
pub struct Cancelled(AtomicBool);

impl Cancelled {
    /// Nobody does: its result is dropped.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancelled").field(&self.is_cancelled()).finish()
    }
}

pub(super) struct Call<R, F> {
    state: Mutex<State<R, F>>,
    cancelled: Cancelled,
}

struct State<R, F> {
    stage: Stage<R, F>,
    waiting: Option<Waker>,
}

enum Stage<R, F> {
    Waiting(F),
    Running,
    Done(Result<R, BlockingError>),
    /// The result was taken, or the work cancelled.
    Over,
}

impl<R: Send, F: FnOnce(&Cancelled) -> R + Send> Call<R, F> {
    pub(super) fn new(work: F) -> Call<R, F> {
        let state = State { stage: Stage::Waiting(work), waiting: None };
        Call { state: Mutex::new(state), cancelled: Cancelled(AtomicBool::new(false)) }
    }

    fn lock(&self) -> MutexGuard<'_, State<R, F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What is dropped or woken may do anything: with the lock released.
    fn finish(&self, outcome: Result<R, BlockingError>) {
        let mut state = self.lock();
        let waiting = state.waiting.take();
        let left = match state.stage {
            Stage::Over => Some(outcome),
            _ => match std::mem::replace(&mut state.stage, Stage::Done(outcome)) {
                Stage::Waiting(work) => {
                    drop(state);
                    drop(work);
                    None
                }
                _ => None,
            },
        };
        drop(left);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl<R: Send, F: FnOnce(&Cancelled) -> R + Send> Work for Call<R, F> {
    fn run(&self) {
        let work = {
            let mut state = self.lock();
            match std::mem::replace(&mut state.stage, Stage::Running) {
                Stage::Waiting(work) => work,
                other => {
                    state.stage = other;
                    return;
                }
            }
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&self.cancelled)));
        self.finish(outcome.map_err(|panic| BlockingError::Panicked(panic_message(&*panic))));
    }

    fn refuse(&self, error: BlockingError) {
        self.finish(Err(error));
    }
}

impl<R: Send, F: FnOnce(&Cancelled) -> R + Send> Answer<R> for Call<R, F> {
    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<R, BlockingError>> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.stage, Stage::Over) {
            Stage::Done(outcome) => Poll::Ready(outcome),
            Stage::Over => panic!("a result is taken once"),
            before => {
                state.stage = before;
                match &mut state.waiting {
                    Some(kept) => kept.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn cancel(&self) -> bool {
        self.cancelled.0.store(true, Relaxed);
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.stage, Stage::Over);
        let waiting = state.waiting.take();
        drop(state);
        drop(waiting);
        matches!(before, Stage::Waiting(_))
    }
}
