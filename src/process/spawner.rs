//! Starting programs, off the shard: until the new program runs, whoever starts it waits.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use waterwheel_os::{Interrupt, duplicate, is_shortage};
use waterwheel_reactor::Time;

use super::child::Child;
use super::command::Command;
use super::error::SpawnError;
use super::orphans;
use crate::net::quota::Quota;
use crate::shard::Shard;

/// Commands that may wait for the threads of one shard. Each takes one about a millisecond, so the last one waits for
/// less than a tenth of a second; more at once is a mistake.
const WAITING_MAX: usize = 64;
/// Who has waited for so long waits behind a start that hangs, as of a program on a file system that does not answer; so
/// another thread begins.
const SLOW: Duration = Duration::from_millis(100);
/// Threads of one life of a shard. If all of them hang, others wait for them.
const THREADS_MAX: usize = 4;
/// Threads of all shards of the process, and of their lives that are over and left one behind that hangs: one for each
/// shard that there can be, and some.
const ALL_THREADS_MAX: usize = 2_048;

static ALL_THREADS: AtomicUsize = AtomicUsize::new(0);

/// Threads that start programs for one life of a shard: one as a rule. They end with it, at once unless they hang.
///
/// Not the shard's own: it would do nothing else until the new program runs, and would hand its one CPU on.
pub(super) struct Spawner {
    waiting: flume::Sender<Request>,
    /// For the next thread.
    requests: flume::Receiver<Request>,
    shard: usize,
    threads: Cell<usize>,
    /// When there was a thread more.
    latest: Cell<Time>,
}

struct Request {
    command: process::Command,
    directory: Option<PathBuf>,
    own_group: bool,
    answer: Answer,
}

/// What a thread was asked for, and who waits for it.
#[derive(Default)]
struct Place {
    /// The system's number of the thread that is at it.
    thread: Option<i32>,
    outcome: Option<Result<Spawned, Refusal>>,
    is_answered: bool,
    /// Nobody waits any more.
    is_given_up: bool,
    waiting: Option<Waker>,
}

/// Why a program does not run.
struct Refusal {
    error: io::Error,
    /// The directory in which it was to run is none: exec(2) has the same words for both.
    no_directory: bool,
}

impl Refusal {
    fn passing(error: io::Error) -> Refusal {
        Refusal { error, no_directory: false }
    }

    /// The system's reason, with whatever it concerns.
    fn explained(self, command: &Command) -> SpawnError {
        let Refusal { error, no_directory } = self;
        let program = command.program().to_owned();
        match command.place() {
            _ if passes(&error) => SpawnError::System(error),
            Some(directory) if no_directory => {
                SpawnError::Directory { program, directory: directory.clone(), error }
            }
            _ => SpawnError::Program { program, error },
        }
    }
}

fn passes(error: &io::Error) -> bool {
    is_shortage(error) || matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Other)
}

/// The thread's end of a place. Dropped without an answer, it says so.
struct Answer(Arc<Mutex<Place>>);

impl Answer {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, outcome: Result<Spawned, Refusal>) {
        let mut place = self.place();
        place.outcome = Some(outcome);
        place.is_answered = true;
        let waiting = place.waiting.take();
        drop(place);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let is_answered = self.place().is_answered;
        if !is_answered {
            let error = io::Error::other("the thread that starts programs has ended");
            self.give(Err(Refusal::passing(error)));
        }
    }
}

impl Spawner {
    /// That of a shard, made when it is first needed.
    fn of(shard: &Shard) -> Result<Rc<Spawner>, SpawnError> {
        if let Some(spawner) = shard.kept::<Spawner>() {
            return Ok(spawner);
        }
        // By doing it once: a reactor that cannot watch this cannot watch a child.
        let probe =
            Interrupt::new().and_then(|probe| duplicate(probe.as_fd())).map_err(SpawnError::System)?;
        if shard.reactor().watch(probe).map_err(SpawnError::System)?.is_none() {
            return Err(SpawnError::Unsupported);
        }
        let (waiting, requests) = flume::bounded(WAITING_MAX);
        let (threads, latest) = (Cell::new(0), Cell::new(shard.now()));
        let spawner = Rc::new(Spawner { waiting, requests, shard: shard.id().index(), threads, latest });
        spawner.begin_thread().map_err(SpawnError::System)?;
        shard.keep(spawner.clone());
        Ok(spawner)
    }

    fn begin_thread(&self) -> io::Result<()> {
        let counted = Counted::new()?;
        let requests = self.requests.clone();
        let run = move || {
            let _counted = counted;
            work(&requests);
        };
        thread::Builder::new().name(format!("spawn-{}", self.shard)).spawn(run)?;
        self.threads.set(self.threads.get() + 1);
        Ok(())
    }

    /// Somebody has waited for long: there is to be one thread more, unless there is a new one, or there are enough.
    fn begin_another(&self, now: Time) {
        if self.threads.get() < THREADS_MAX && now.since(self.latest.get()) >= SLOW {
            self.latest.set(now);
            match self.begin_thread() {
                Ok(()) => tracing::info!(shard = self.shard, "a program takes long to start: others pass it"),
                Err(error) => {
                    tracing::debug!(shard = self.shard, "no thread more to start programs: {error}")
                }
            }
        }
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// One thread of [`ALL_THREADS`].
struct Counted;

impl Counted {
    fn new() -> io::Result<Counted> {
        let counted = Counted;
        if ALL_THREADS.fetch_add(1, Relaxed) < ALL_THREADS_MAX {
            Ok(counted)
        } else {
            Err(io::Error::other(format!("{ALL_THREADS_MAX} threads start programs already")))
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALL_THREADS.fetch_sub(1, Relaxed);
    }
}

fn work(requests: &flume::Receiver<Request>) {
    if let Err(error) = waterwheel_os::unpin() {
        tracing::info!("child processes may run on their shard's CPU only: {error}");
    }
    for Request { mut command, directory, own_group, answer } in requests {
        let mut place = answer.place();
        let is_given_up = place.is_given_up;
        // With one lock: who gives it up from here on knows whose start it is to end.
        place.thread = Some(waterwheel_os::thread_number());
        drop(place);
        if !is_given_up {
            let refused = |error| {
                // Asked here, since a file system may take its time.
                let no_directory = !passes(&error) && directory.is_some_and(|directory| !directory.is_dir());
                Refusal { error, no_directory }
            };
            answer.give(Spawned::start(&mut command, own_group).map_err(refused));
        }
    }
}

/// A child that nobody owns yet. Dropped like that, it is killed.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) id: u32,
    pub(super) own_group: bool,
    /// Our ends, which never wait.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Readable once it has ended; `None` once it has an owner.
    pub(super) descriptor: Option<OwnedFd>,
}

impl Spawned {
    fn start(command: &mut process::Command, own_group: bool) -> io::Result<Spawned> {
        let mut child = command.spawn()?;
        let descriptor = match waterwheel_os::child(child.id()) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                // Without a descriptor nobody would hear of its end. This thread may wait.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(error);
            }
        };
        let spawned = Spawned {
            id: child.id(),
            own_group,
            stdin: child.stdin.take().map(OwnedFd::from),
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
            descriptor: Some(descriptor),
        };
        for pipe in [&spawned.stdin, &spawned.stdout, &spawned.stderr].into_iter().flatten() {
            waterwheel_os::never_wait(pipe)?;
        }
        Ok(spawned)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(descriptor) = self.descriptor.take() {
            orphans::kill(self.id, self.own_group, descriptor.as_fd());
            orphans::adopt(descriptor);
        }
    }
}

impl Shard {
    /// Starts a program as a child of this process that belongs to this shard. It runs when this is ready.
    ///
    /// The shard goes on meanwhile: programs are started by a thread of the shard's, one after the other, at most 64
    /// waiting. Starting one takes about a millisecond, until the new program runs (measured: [module](crate::process));
    /// one that hangs, as if it lies on a file system that does not answer, is passed by the others after a tenth of a
    /// second, until four hang. Dropping the future before it is ready kills what it has started, also if that hangs.
    ///
    /// # Errors
    /// The command makes no sense; the system cannot run it; too many wait; the reactor cannot have child processes, as
    /// one of a simulation; the system has no process or descriptor left.
    pub async fn spawn_process(&self, command: &Command) -> Result<Child, SpawnError> {
        let ready = command.to_standard()?;
        let spawner = Spawner::of(self)?;
        let places = Quota::descriptors(self, command.descriptors()).map_err(SpawnError::System)?;
        let asked = Asked { place: Arc::default(), shard: self.clone() };
        let (directory, own_group) = (command.place().cloned(), command.own_group);
        let request = Request { command: ready, directory, own_group, answer: Answer(asked.place.clone()) };
        if let Err(flume::TrySendError::Full(_)) = spawner.waiting.try_send(request) {
            return Err(SpawnError::Busy { program: command.program().to_owned(), most: WAITING_MAX });
        }
        let spawned = asked.outcome(self, &spawner).await.map_err(|refusal| refusal.explained(command))?;
        Child::of(self, spawned, command, places).map_err(SpawnError::System)
    }
}

/// How often a thread is looked at whose start was given up before it had forked, the first time so soon; twice as long lies
/// before each further time, two seconds in all.
const LOOKS: u32 = 11;
const LOOK: Duration = Duration::from_millis(1);

/// The shard's end of a place. Dropped before there was an answer, it ends the start, which may hang; an answer that it has
/// not taken is dropped by the last who has the place.
struct Asked {
    place: Arc<Mutex<Place>>,
    shard: Shard,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if end(&self.place) {
            return;
        }
        let (place, shard) = (self.place.clone(), self.shard.clone());
        self.shard.spawn_detached("give up a start", async move {
            for look in 0..LOOKS {
                shard.sleep(LOOK * (1 << look)).await;
                if end(&place) {
                    return;
                }
            }
        });
    }
}

/// Ends the start that nobody waits for any more. False: it has begun, and there is no process yet that could be killed.
fn end(place: &Mutex<Place>) -> bool {
    // Held meanwhile, so that the thread cannot go on to somebody else's start.
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    place.is_given_up = true;
    let Some(thread) = place.thread.filter(|_| !place.is_answered) else { return true };
    waterwheel_os::kill_unborn(thread).unwrap_or_else(|error| {
        tracing::debug!("the start of a program goes on until it runs: {error}");
        true
    })
}

impl Asked {
    async fn outcome(&self, shard: &Shard, spawner: &Spawner) -> Result<Spawned, Refusal> {
        let mut outcome = poll_fn(|cx| self.poll(cx));
        while self.place().thread.is_none() {
            if let Either::Left((outcome, _)) = select(&mut outcome, shard.sleep(SLOW)).await {
                return outcome;
            }
            if self.place().thread.is_none() {
                spawner.begin_another(shard.now());
            }
        }
        outcome.await
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Spawned, Refusal>> {
        let mut place = self.place();
        match place.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                place.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
