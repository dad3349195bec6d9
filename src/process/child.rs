//! A child process, held by the shard that started it.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::ExitStatus;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use waterwheel_reactor::Watched;

use super::command::{Command, Stdio};
use super::error::SpawnError;
use super::life::{EndUnknown, Life, SHORT_OF};
use super::pipe::{PipeSink, PipeSource, Rest};
use super::spawner::Spawned;
use crate::net::quota::Taken;
use crate::net::{Receiving, Sending};
use crate::runtime::Signal;
use crate::shard::Shard;

/// A child process. Dropping it lets it run on, unless the command says [otherwise](Command::kill_on_drop); its end is
/// taken from the kernel all the same, so no zombie is left. So it is if the shard ends before.
///
/// * Its streams, where they are pipes: [`stdin`](Child::stdin), [`stdout`](Child::stdout), [`stderr`](Child::stderr), to
///   be taken out. A pipe holds 64 KiB: whoever reads none of them stops a child that writes more.
/// * Its end: [`wait`](Child::wait), [`output`](Child::output), [`try_wait`](Child::try_wait).
/// * Signals: [`signal`](Child::signal), [`signal_group`](Child::signal_group), [`stop`](Child::stop).
#[derive(Debug)]
pub struct Child {
    /// Its input. Dropping it ends the input. Writing to a child that has ended or does not read is `BrokenPipe`.
    pub stdin: Option<Sending>,
    /// Its output. Dropping it makes the child's next write fail.
    pub stdout: Option<Receiving>,
    /// Its output for errors.
    pub stderr: Option<Receiving>,
    life: Rc<Life>,
    shard: Shard,
    /// Of its standard output and error, if they are pipes.
    rests: [Rc<Rest>; 2],
    output_most: usize,
    patience: Duration,
}

/// What a child has written, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What came on its standard output.
    pub stdout: Vec<u8>,
    /// What came on its standard error.
    pub stderr: Vec<u8>,
    /// More came on one of them than [`Command::output_most`], and was dropped.
    pub cut: bool,
    /// Both streams were read to their end. If not, a process that the child left behind holds one open, and the
    /// [patience](Command::patience) was over; what the child itself wrote is there, however late the shard was to look.
    pub ended: bool,
}

impl Child {
    pub(super) fn of(
        shard: &Shard,
        mut spawned: Spawned,
        command: &Command,
        places: Vec<Taken>,
    ) -> io::Result<Child> {
        let watch = |descriptor| watched(shard, descriptor);
        let rests = <[Rc<Rest>; 2]>::default();
        let stream = |pipe: Option<OwnedFd>, rest: &Rc<Rest>| -> io::Result<Option<Receiving>> {
            let Some(pipe) = pipe else { return Ok(None) };
            let source = PipeSource::new(watch(pipe)?, rest.clone());
            Ok(Some(Receiving::alone(shard.clone(), Box::new(source))))
        };
        let stdout = stream(spawned.stdout.take(), &rests[0])?;
        let stderr = stream(spawned.stderr.take(), &rests[1])?;
        let stdin = spawned.stdin.take().map(watch).transpose()?;
        let stdin = stdin.map(|watched| Sending::alone(Box::new(PipeSink::new(watched))));
        let descriptor = spawned.descriptor.as_ref().map_or_else(
            || Err(io::Error::other("the child process has an owner already")),
            |descriptor| descriptor.try_clone(),
        )?;
        let life = Life::new(spawned.id, spawned.own_group, watch(descriptor)?);
        life.kill_on_drop.set(command.kill_on_drop);
        life.dies_with_shard.set(command.dies_with_shard);
        life.group_ends_with_it.set(command.group_ends_with_it);
        life.places.replace(places);
        // From here on it has an owner.
        spawned.descriptor = None;
        let (output_most, patience) = (command.output_most, command.patience);
        let life = Life::begin(shard, life);
        Ok(Child { stdin, stdout, stderr, life, shard: shard.clone(), rests, output_most, patience })
    }

    /// Its process id. It may be another process's once this one has ended: to signal it, use [`signal`](Child::signal).
    pub fn id(&self) -> u32 {
        self.life.id
    }

    /// Ends its input, if that is still held here, and waits for its end. What it wrote may still be in its pipes.
    ///
    /// # Errors
    /// Other code of this process has taken its end from the kernel, by waitpid(2) for any child or by ignoring `SIGCHLD`.
    pub async fn wait(&mut self) -> Result<ExitStatus, EndUnknown> {
        self.stdin = None;
        self.ended().await
    }

    async fn ended(&self) -> Result<ExitStatus, EndUnknown> {
        poll_fn(|cx| self.life.poll_end(cx)).await
    }

    /// How it ended, if this is known already.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, EndUnknown> {
        self.life.end().transpose()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `NotFound`: it has ended. `PermissionDenied`: it runs as somebody else.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.life.signal(signal, false)
    }

    /// Sends a signal to its whole group, if [it leads one](Command::own_group); else to it alone. Once it has ended the
    /// number of its group may be another's: see [`Command::group_ends_with_it`].
    ///
    /// # Errors
    /// As [`signal`](Child::signal).
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        self.life.signal(signal, true)
    }

    /// Asks it to end (SIGTERM to its group, and SIGCONT in case it is stopped), kills it if it has not within `grace`, and
    /// then whatever is left of its group.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub async fn stop(&mut self, grace: Duration) -> Result<ExitStatus, EndUnknown> {
        self.life.group_ends_with_it.set(true);
        for signal in [Signal::Terminate, Signal::Continue] {
            if let Err(error) = self.signal_group(signal) {
                tracing::debug!(id = self.id(), "{signal} was not sent: {error}");
            }
        }
        if let Ok(end) = self.shard.timeout(grace, self.ended()).await {
            return end;
        }
        self.life.kill();
        self.ended().await
    }

    /// Ends its input, reads what it writes and waits for its end: the output is complete then. Dropping the future kills
    /// the child with its group.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub async fn output(mut self) -> Result<Output, EndUnknown> {
        self.life.kill_on_drop.set(true);
        self.stdin = None;
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let rests = self.rests_of(&stdout, &stderr);
        let kept = RefCell::new((Kept::default(), Kept::default()));
        let reading = join(
            read_all(stdout, self.output_most, &self.shard, |bytes, most| {
                kept.borrow_mut().0.keep(bytes, most)
            }),
            read_all(stderr, self.output_most, &self.shard, |bytes, most| {
                kept.borrow_mut().1.keep(bytes, most)
            }),
        );
        let (status, ended) = match select(pin!(self.ended()), pin!(reading)).await {
            Either::Left((status, reading)) => {
                let read = last_words(&self.shard, &rests, self.patience, reading).await;
                (status, read.is_some_and(|(stdout, stderr)| stdout && stderr))
            }
            Either::Right(((stdout, stderr), waiting)) => (waiting.await, stdout && stderr),
        };
        let (stdout, stderr) = kept.into_inner();
        let cut = stdout.cut || stderr.cut;
        Ok(Output { status: status?, stdout: stdout.bytes, stderr: stderr.bytes, cut, ended })
    }

    /// What is to be read of these of its streams when it has ended: those of which nobody reads do not count.
    pub(super) fn rests_of(&self, stdout: &Option<Receiving>, stderr: &Option<Receiving>) -> Vec<Rc<Rest>> {
        let read = [stdout.is_some(), stderr.is_some()].into_iter().zip(&self.rests);
        read.filter(|(is_read, _)| *is_read).map(|(_, rest)| rest.clone()).collect()
    }
}

/// A child has ended, and `reading` takes what comes on its streams: waits for their end. `None`: somebody else holds one
/// open, and `patience` is over; what the child wrote was read before that began, however late the shard was to look.
pub(super) async fn last_words<R: Future + Unpin>(
    shard: &Shard,
    rests: &[Rc<Rest>],
    patience: Duration,
    mut reading: R,
) -> Option<R::Output> {
    if let Some(read) = read_rest(rests, &mut reading).await {
        return Some(read);
    }
    if let Either::Left((read, _)) = select(&mut reading, shard.sleep(patience)).await {
        return Some(read);
    }
    // A stall may have been all of that time.
    read_rest(rests, &mut reading).await
}

/// Reads what is there now; what came of the reading if that is the end.
async fn read_rest<R: Future + Unpin>(rests: &[Rc<Rest>], reading: &mut R) -> Option<R::Output> {
    rests.iter().for_each(|rest| rest.ask());
    let all = poll_fn(|cx| {
        // Each is asked, so that each wakes.
        let left = rests.iter().filter(|rest| rest.poll_read(cx).is_pending()).count();
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    match select(reading, all).await {
        Either::Left((read, _)) => Some(read),
        Either::Right(_) => None,
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.life.kill_on_drop.get() {
            self.life.kill();
        }
    }
}

fn watched(shard: &Shard, descriptor: OwnedFd) -> io::Result<Box<dyn Watched>> {
    shard.reactor().watch(descriptor)?.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Kept {
    fn keep(&mut self, bytes: &[u8], most: usize) {
        let room = most.saturating_sub(self.bytes.len());
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Reads a stream to its end, giving way to others after each piece; answers whether it got there.
async fn read_all(
    stream: Option<Receiving>,
    most: usize,
    shard: &Shard,
    keep: impl Fn(&[u8], usize),
) -> bool {
    let Some(mut stream) = stream else { return true };
    loop {
        match stream.fill().await {
            Ok([]) => return true,
            Ok(bytes) => {
                let count = bytes.len();
                keep(bytes, most);
                stream.consume(count);
            }
            Err(error) if waterwheel_os::is_shortage(&error) => shard.sleep(SHORT_OF).await,
            Err(error) => {
                tracing::warn!("reading a child process's output: {error}");
                return false;
            }
        }
        shard.yield_if_needed().await;
    }
}

impl Shard {
    /// Runs a program, reads all that it writes on its standard output and error, and waits for its end; as
    /// [`Child::output`]. Streams for which the command names something else are left to that.
    ///
    /// # Errors
    /// As [`spawn_process`](Shard::spawn_process); of its end as [`Child::wait`], as [`SpawnError::System`].
    pub async fn output_of(&self, command: &Command) -> Result<Output, SpawnError> {
        let mut command = command.clone().kill_on_drop(true);
        command.stdout.get_or_insert(Stdio::Piped);
        command.stderr.get_or_insert(Stdio::Piped);
        let child = self.spawn_process(&command).await?;
        child.output().await.map_err(|unknown| SpawnError::System(io::Error::other(unknown)))
    }
}
