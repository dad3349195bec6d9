//! Starting programs, off the shard: until the new program runs, whoever starts it waits.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use waterwheel_os::{Interrupt, duplicate, is_shortage};

use super::child::Child;
use super::command::Command;
use super::error::SpawnError;
use super::orphans;
use crate::shard::Shard;

/// Commands that may wait for the thread of one shard. Each takes it about a millisecond, so the last one waits for
/// less than a tenth of a second; more at once is a mistake.
const WAITING_MAX: usize = 64;

/// A thread that starts programs for one life of a shard. It ends with it, or with the last child that outlives it.
///
/// Not the shard's own: it would do nothing else until the new program runs, and would hand its one CPU on.
#[derive(Clone)]
pub(super) struct Spawner {
    waiting: flume::Sender<Request>,
}

struct Request {
    command: process::Command,
    own_group: bool,
    answer: Answer,
}

/// What a thread was asked for, and who waits for it.
#[derive(Default)]
struct Place {
    outcome: Option<io::Result<Spawned>>,
    waiting: Option<Waker>,
}

/// The thread's end of a place. Dropped without an answer, it says so.
struct Answer(Arc<Mutex<Place>>);

impl Answer {
    fn give(&self, outcome: io::Result<Spawned>) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.outcome.get_or_insert(outcome);
        let waiting = place.waiting.take();
        drop(place);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let given = self.0.lock().unwrap_or_else(PoisonError::into_inner).outcome.is_some();
        if !given {
            self.give(Err(io::Error::other("the thread that starts programs has ended")));
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
        thread::Builder::new()
            .name(format!("spawn-{}", shard.id().index()))
            .spawn(move || work(&requests))
            .map_err(SpawnError::System)?;
        let spawner = Rc::new(Spawner { waiting });
        shard.keep(spawner.clone());
        Ok(spawner)
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("waiting", &self.waiting.len()).finish()
    }
}

fn work(requests: &flume::Receiver<Request>) {
    if let Err(error) = waterwheel_os::unpin() {
        tracing::info!("child processes may run on their shard's CPU only: {error}");
    }
    for Request { mut command, own_group, answer } in requests {
        orphans::sweep();
        // Of a command that nobody waits for any more there is only this reference.
        if Arc::strong_count(&answer.0) > 1 {
            answer.give(Spawned::start(&mut command, own_group));
        }
    }
    // The shard has ended, and with it whoever waited for its children.
    orphans::see_out();
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
    /// waiting. Starting one takes about a millisecond, until the new program runs (measured: [module](crate::process)).
    /// Dropping the future before it is ready kills what it has started.
    ///
    /// # Errors
    /// The command makes no sense; the system cannot run it; too many wait; the reactor cannot have child processes, as
    /// one of a simulation; the system has no process or descriptor left.
    pub async fn spawn_process(&self, command: &Command) -> Result<Child, SpawnError> {
        let ready = command.to_standard()?;
        let spawner = Spawner::of(self)?;
        let asking = Asking { shard: self, command, spawner: &spawner, place: Arc::default() };
        let (own_group, answer) = (command.own_group, Answer(asking.place.clone()));
        let request = Request { command: ready, own_group, answer };
        if let Err(flume::TrySendError::Full(_)) = spawner.waiting.try_send(request) {
            return Err(SpawnError::Busy { program: command.program().to_owned(), most: WAITING_MAX });
        }
        let spawned = poll_fn(|cx| asking.poll(cx)).await.map_err(|error| explained(command, error))?;
        Child::of(self, spawned, command, &spawner).map_err(SpawnError::System)
    }
}

/// Who waits for a program to be started. Dropped before it took the answer, it kills what was started.
struct Asking<'a> {
    shard: &'a Shard,
    command: &'a Command,
    spawner: &'a Rc<Spawner>,
    place: Arc<Mutex<Place>>,
}

impl Asking<'_> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<Spawned>> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match place.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                place.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let outcome = self.place.lock().unwrap_or_else(PoisonError::into_inner).outcome.take();
        // A shard that ends has no tasks any more that could see its end.
        if let Some(Ok(spawned)) = outcome
            && !self.shard.is_clearing()
            && let Ok(child) = Child::of(self.shard, spawned, self.command, self.spawner)
        {
            child.discard();
        }
    }
}

/// The system's reason, with whatever it concerns.
fn explained(command: &Command, error: io::Error) -> SpawnError {
    let passes = is_shortage(&error) || matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Other);
    if passes {
        return SpawnError::System(error);
    }
    let program = command.program().to_owned();
    match command.place() {
        // exec(2) has the same words for both.
        Some(directory) if !directory.is_dir() => {
            SpawnError::Directory { program, directory: directory.clone(), error }
        }
        _ => SpawnError::Program { program, error },
    }
}
