//! The threads, and what waits for one.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use waterwheel_os::Affinity;

use super::BlockingError;
use super::call::Work;

/// How much may wait for a thread.
const WAITING_MAX: usize = 1024;
/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);
/// So long the end of a run waits for work that has begun.
const PATIENCE: Duration = Duration::from_secs(5);

/// The threads of one run. Dropping it ends them, after the shards.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

/// A shard's way to the threads of its run.
#[derive(Clone)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is work, or the end has come.
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
    threads_max: usize,
    /// Where threads may run: a shard that starts one is pinned, and it would be too.
    affinity: Affinity,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<dyn Work>>,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    /// How many of them were told that there is some, and have not woken yet.
    told: usize,
    /// Threads that were started so far; for their names.
    started: usize,
    ending: bool,
}

impl Pool {
    /// Of at most so many threads. Starts none; they will run where the caller may.
    pub(crate) fn new(threads_max: usize) -> Pool {
        let shared = Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            threads_max,
            affinity: Affinity::of_this_thread(),
        };
        Pool { shared: Arc::new(shared) }
    }

    pub(crate) fn workers(&self) -> Workers {
        Workers { shared: self.shared.clone() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ending = true;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        self.shared.work.notify_all();
        left.iter().for_each(|work| work.refuse(BlockingError::Ended));
        let state = self.shared.lock();
        let waited = self.shared.ended.wait_timeout_while(state, PATIENCE, |state| state.threads > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.threads > 0 {
            tracing::warn!(
                threads = state.threads,
                "blocking work goes on after the end of the run, and is left"
            );
        }
    }
}

impl Workers {
    /// Hands work over. Never waits.
    pub(super) fn give(&self, work: Arc<dyn Work>) -> Result<(), BlockingError> {
        let mut state = self.shared.lock();
        if state.ending {
            return Err(BlockingError::Ended);
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err(BlockingError::Busy { waiting: WAITING_MAX });
        }
        state.waiting.push_back(work.clone());
        if state.idle > state.told {
            state.told += 1;
            drop(state);
            self.shared.work.notify_one();
            return Ok(());
        }
        if state.threads >= self.shared.threads_max {
            return Ok(());
        }
        state.threads += 1;
        state.started += 1;
        let name = format!("blocking-{}", state.started);
        drop(state);
        let shared = self.shared.clone();
        let Err(error) = thread::Builder::new().name(name).spawn(move || shared.serve()) else {
            return Ok(());
        };
        let mut state = self.shared.lock();
        state.threads -= 1;
        if state.threads > 0 {
            // Those that are there get to it.
            return Ok(());
        }
        // Nobody will: also not what others left here, who counted on the thread that could not be had.
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        for waiting in left.iter().filter(|waiting| !same(waiting, &work)) {
            let reason = io::Error::new(error.kind(), error.to_string());
            waiting.refuse(BlockingError::Threads(reason));
        }
        Err(BlockingError::Threads(error))
    }

    /// Takes cancelled work out of those that wait.
    pub(super) fn forget<W: ?Sized>(&self, work: &Arc<W>) {
        let mut state = self.shared.lock();
        let place = state.waiting.iter().position(|waiting| same(waiting, work));
        let forgotten = place.and_then(|place| state.waiting.remove(place));
        drop(state);
        drop(forgotten);
    }
}

fn same<A: ?Sized, B: ?Sized>(one: &Arc<A>, other: &Arc<B>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread: works until there has been nothing to do for long, or the end.
    fn serve(&self) {
        if let Err(error) = self.affinity.set_for_this_thread() {
            tracing::warn!(%error, "a blocking thread shares the CPU of the shard that started it");
        }
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                drop(state);
                // Its result may be dropped here, and panic while it is.
                if catch_unwind(AssertUnwindSafe(move || work.run())).is_err() {
                    tracing::error!("what nobody waited for panicked while it was dropped");
                }
                state = self.lock();
                continue;
            }
            if state.ending {
                break;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout_while(state, IDLE, |state| state.told == 0 && !state.ending);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            match state.told.checked_sub(1) {
                Some(told) => state.told = told,
                None if state.waiting.is_empty() => break,
                None => {}
            }
        }
        state.threads -= 1;
        drop(state);
        self.ended.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Pool")
            .field("threads", &state.threads)
            .field("waiting", &state.waiting.len())
            .finish()
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::{Context, Poll, Waker};

    use super::super::call::{Answer, Call};
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn the_end_refuses_what_waits_and_all_that_comes_after() {
        let pool = Pool::new(1);
        let workers = pool.workers();
        let (begun, begins) = mpsc::channel();
        let (let_go, wait) = mpsc::channel::<()>();
        let first = Arc::new(Call::new(move |_: &_| {
            begun.send(()).unwrap();
            wait.recv().ok();
        }));
        workers.give(first.clone()).unwrap();
        begins.recv_timeout(LONG).unwrap();
        let second = Arc::new(Call::new(|_: &_| ()));
        workers.give(second.clone()).unwrap();
        let shared = Arc::downgrade(&pool.shared);
        let ending = thread::Builder::new().spawn(move || drop(pool)).unwrap();
        // Answered before what has begun is waited for.
        let refused = loop {
            if let Poll::Ready(outcome) = second.poll_answer(&mut Context::from_waker(Waker::noop())) {
                break outcome;
            }
            thread::yield_now();
        };
        assert!(matches!(refused, Err(BlockingError::Ended)), "{refused:?}");
        assert!(matches!(workers.give(first), Err(BlockingError::Ended)));
        assert!(!ending.is_finished(), "what has begun was not waited for");
        drop(let_go);
        ending.join().unwrap();
        drop(workers);
        // A thread says that it ends a moment before it does.
        while shared.strong_count() > 0 {
            thread::yield_now();
        }
    }
}
