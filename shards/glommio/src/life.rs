//! One life of a shard: an executor, a reactor, a root.

use std::any::Any;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use waterwheel_reactor::{Clock, Life, Start};

use crate::bell::Bell;
use crate::core::{Core, GlommioReactor};
use crate::drive::{Drive, pause};
use crate::leak::{Leak, apart};

/// Entries of each of glommio's three rings. More operations than that wait in memory, without a limit of their own:
/// there are at most three per connection and one per listener.
const RING_DEPTH: usize = 256;

/// Registered memory for file input and output, which nobody does here: the least that glommio takes, three times per
/// shard against `RLIMIT_MEMLOCK`.
const IO_MEMORY: usize = 64 << 10;

/// Never, as far as anybody lives to see: the drive gives way by itself.
///
/// glommio asks for a short one, and hangs with it: if the timer fires after the rings were looked at and before a
/// task was run, as when the thread is held up in between, glommio 0.9 takes that for nothing to run and sleeps with
/// its one task queued, until something else happens in a ring. Measured with glommio's own echo server and 1 ms, on
/// a busy processor: three runs of four ended so, within some thousand messages.
const PREEMPT_TIMER: Duration = Duration::from_secs(24 * 3600);

/// Turns of glommio's loop after the root was dropped, for one. The first hands the cancellations to the kernel, which then
/// lets go of the sockets; the second collects what came of them.
const TURNS_TO_SETTLE: usize = 2;

thread_local! {
    /// This thread's executor between two lives: a shard that is started again gets the same one, since making one
    /// takes time and glommio 0.9 leaks something with each.
    static EXECUTOR: RefCell<Option<Executor>> = const { RefCell::new(None) };
}

/// An executor, and the eventfd that it leaks; dropped in this order.
struct Executor {
    /// `None` only while it is dropped.
    glommio: Option<LocalExecutor>,
    leak: Leak,
}

impl Drop for Executor {
    fn drop(&mut self) {
        apart(|| drop(self.glommio.take()));
    }
}

impl Executor {
    fn new() -> io::Result<Executor> {
        let (glommio, leak) = Leak::during(make)?;
        Ok(Executor { glommio: Some(glommio), leak })
    }
}

/// How a life came out, told by a task that must not panic itself: glommio aborts the process in some of its drops.
enum Outcome {
    Over,
    Ended,
    Panicked(Box<dyn Any + Send>),
}

/// Lives once on this thread.
///
/// # Errors
/// The executor could not be made.
pub(crate) fn live(clock: Clock, start: &mut Start) -> io::Result<Life> {
    let executor = match EXECUTOR.take() {
        Some(executor) => executor,
        None => Executor::new()?,
    };
    let core = Core::new(clock)?;
    let glommio = executor.glommio.as_ref().expect("it is not being dropped");
    match glommio.run(life(core, &executor.leak, start)) {
        Outcome::Over => Ok(Life::Over),
        Outcome::Ended => {
            EXECUTOR.set(Some(executor));
            Ok(Life::Ended)
        }
        Outcome::Panicked(panic) => {
            EXECUTOR.set(Some(executor));
            resume_unwind(panic)
        }
    }
}

/// An executor on this thread, which stays where it was pinned.
pub(crate) fn make() -> io::Result<LocalExecutor> {
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER)
        // None: the thread that glommio would start for blocking calls is never joined, and nobody here uses it.
        .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()));
    match catch_unwind(AssertUnwindSafe(|| builder.make())) {
        Ok(made) => made.map_err(io::Error::from),
        Err(_) => Err(io::Error::other("glommio panicked when it made its executor")),
    }
}

/// Asks for the root, drives it to its end, drops it and lets the kernel settle, all as one task of glommio's, since
/// its sockets can be made and dropped only there.
async fn life(core: Rc<Core>, leak: &Leak, start: &mut Start) -> Outcome {
    leak.find(|| glommio::executor().need_preempt(), settle).await;
    let reactor = Rc::new(GlommioReactor { core: Rc::clone(&core) });
    let bell = Arc::new(Bell::default());
    let outcome = match catch_unwind(AssertUnwindSafe(|| start(reactor))) {
        Ok(Some(root)) => drive(Drive::new(Rc::clone(&core), Arc::clone(&bell), root)).await,
        Ok(None) => Outcome::Over,
        Err(panic) => Outcome::Panicked(panic),
    };
    bell.remove();
    core.end();
    settle().await;
    outcome
}

/// Lets glommio's loop turn until what was asked of the kernel before is done.
async fn settle() {
    let mut breath = None;
    for _ in 0..TURNS_TO_SETTLE {
        let mut paused = false;
        poll_fn(|cx| {
            if paused {
                return Poll::Ready(());
            }
            paused = true;
            pause(&mut breath, cx);
            Poll::Pending
        })
        .await;
    }
}

/// Drives a root to its end and drops it, whatever it panics with.
async fn drive(mut drive: Drive) -> Outcome {
    let driven = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut drive).poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(())) => Poll::Ready(Outcome::Ended),
        Err(panic) => Poll::Ready(Outcome::Panicked(panic)),
    })
    .await;
    match (driven, catch_unwind(AssertUnwindSafe(|| drop(drive)))) {
        (Outcome::Ended, Err(panic)) => Outcome::Panicked(panic),
        (driven, _) => driven,
    }
}
