//! Programs that are kept running.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::process::ExitStatus;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, join, select};

use super::child::{Child, last_words};
use super::command::{Command, Stdio};
use super::life::EndUnknown;
use super::told::{Line, Stream, Teller, log};
use crate::runtime::{Failures, Supervision};
use crate::shard::{Shard, Task};

/// When a kept program is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// However it ended: a service.
    Always,
    /// Unless it ended with code 0: a job that is to be done once.
    OnFailure,
}

/// How a program is kept running; see [`Shard::keep_running`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// What it is called in the log.
    pub tag: String,
    /// When it is started again. Default: always.
    pub again: Again,
    /// How long it waits before it is started again, and how often before that is given up. An end counts as a failure, so
    /// does a start that the system refuses. Default: 10 restarts within 10 minutes; the first at once, then after 1 s,
    /// doubling up to 60 s.
    pub supervision: Supervision,
    /// A life of so long was a good one: the failures before it are forgotten. Default 60 s.
    pub good_after: Duration,
    /// How long it may take to end when it is asked to (SIGTERM), before it and all of its group are killed. Default 5 s.
    pub grace: Duration,
    /// Longer lines of its output are told in pieces. In bytes; default 4 096.
    pub line_most: usize,
    /// Lines above it in one second are dropped and counted. Default 1 000.
    pub lines_per_second: usize,
}

impl Keep {
    /// As it is by default.
    pub fn new(tag: impl Into<String>) -> Keep {
        let pause = Duration::from_secs(1);
        let minute = Duration::from_secs(60);
        Keep {
            tag: tag.into(),
            again: Again::Always,
            supervision: Supervision { restarts: 10, within: minute * 10, pause, pause_most: minute },
            good_after: minute,
            grace: Duration::from_secs(5),
            line_most: 4_096,
            lines_per_second: 1_000,
        }
    }
}

/// How keeping a program running came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was stopped, or the shard was.
    Stopped,
    /// It ended with code 0, and is started again [on failure](Again::OnFailure) only.
    Done,
}

/// Why a program is not kept running any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// It failed more often than its [supervision](Keep::supervision) allows.
    #[error(
        "{tag} failed {times} times within {within:?} and is not started any more; the last time: {reason}"
    )]
    TooOften {
        /// What it is called.
        tag: String,
        /// How often.
        times: usize,
        /// In the time that counts.
        within: Duration,
        /// How it failed last.
        reason: String,
    },
    /// Its task panicked: a bug, in what is done with its lines or here.
    #[error("keeping {tag} running panicked")]
    Panicked {
        /// What it is called.
        tag: String,
    },
}

/// A program that is kept running. Dropping this keeps it running on; it is stopped with its shard.
#[derive(Debug)]
pub struct ProcessMonitor {
    state: Rc<State>,
    tag: String,
    task: Task<Result<Kept, KeepError>>,
}

/// What the monitor and its task share.
#[derive(Debug, Default)]
struct State {
    wish: Cell<Wish>,
    waiting: RefCell<Option<Waker>>,
    running: Cell<Option<u32>>,
    starts: Cell<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Run,
    Restart,
    Stop,
}

impl State {
    fn wish(&self, wish: Wish) {
        // A stop is for good.
        if self.wish.get() != Wish::Stop {
            self.wish.set(wish);
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn poll_wish(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wish.get() != Wish::Run {
            return Poll::Ready(());
        }
        self.waiting.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl ProcessMonitor {
    /// The id of its process, while it runs.
    pub fn running(&self) -> Option<u32> {
        self.state.running.get()
    }

    /// How often it was started.
    pub fn starts(&self) -> u64 {
        self.state.starts.get()
    }

    /// Ends it as [`stop`](ProcessMonitor::stop) does and starts it again at once; if it waits to be started, at once too.
    /// That is no failure.
    pub fn restart(&self) {
        self.state.wish(Wish::Restart);
    }

    /// Asks it to end and waits until it has; it is killed after its [grace](Keep::grace), with its group.
    ///
    /// # Errors
    /// It had failed for good before.
    pub async fn stop(self) -> Result<Kept, KeepError> {
        self.state.wish(Wish::Stop);
        self.ended().await
    }

    /// Waits until it is not kept running any more: the shard is to stop, a job is done, it failed too often.
    ///
    /// # Errors
    /// As [`KeepError`] says.
    pub async fn ended(self) -> Result<Kept, KeepError> {
        let tag = self.tag;
        self.task.await.unwrap_or(Err(KeepError::Panicked { tag }))
    }
}

impl Shard {
    /// Keeps a program running on this shard, until it is stopped or the shard is: started again when it ends, after a
    /// pause that grows while it fails, and given up when it fails too often. Its output goes to the log line by line
    /// unless the command says something else; its group is killed with it.
    ///
    /// What cannot be executed is said once, and tried again after the same pauses. When the shard is asked to stop it is
    /// asked to end: await [`ProcessMonitor::ended`], or it is killed when the main future has returned.
    #[must_use = "it says when the program has failed for good"]
    pub fn keep_running(&self, command: &Command, keep: Keep) -> ProcessMonitor {
        self.keep_running_with(command, keep, log)
    }

    /// The same, with lines of output given to the program's own code in place of the log; on the shard, which it must not
    /// block.
    #[must_use = "it says when the program has failed for good"]
    pub fn keep_running_with(
        &self,
        command: &Command,
        keep: Keep,
        on_line: impl Fn(Line<'_>) + 'static,
    ) -> ProcessMonitor {
        let mut command = command.clone().kill_on_drop(true).group_ends_with_it(true);
        command.stdout.get_or_insert(Stdio::Piped);
        command.stderr.get_or_insert(Stdio::Piped);
        let (state, tag) = (Rc::<State>::default(), keep.tag.clone());
        let (most, per_second) = (keep.line_most, keep.lines_per_second);
        let keeper = Keeper {
            shard: self.clone(),
            failures: Failures::new(keep.supervision),
            teller: Teller::new(self, &tag, Box::new(on_line), most, per_second),
            command,
            keep,
            state: state.clone(),
            said: None,
        };
        ProcessMonitor { state, tag, task: self.spawn("keeps a program", keeper.run()) }
    }
}

/// The task's part.
struct Keeper {
    shard: Shard,
    command: Command,
    keep: Keep,
    state: Rc<State>,
    failures: Failures,
    teller: Teller,
    /// Why it could not be started the last time; not said again while it is the same.
    said: Option<String>,
}

/// What became of one attempt.
enum Attempt {
    /// The system refused to start it.
    Refused(String),
    /// It was to stop, or to begin anew, while it was being started.
    Withdrawn,
    /// It ended; asked to, or by itself.
    Ended { end: Result<ExitStatus, EndUnknown>, asked: bool },
}

impl Keeper {
    async fn run(mut self) -> Result<Kept, KeepError> {
        while !self.is_over() {
            // A restart that was asked for is this start.
            self.state.wish.set(Wish::Run);
            let began = self.shard.now();
            let attempt = self.attempt().await;
            let (reason, refused) = match attempt {
                Attempt::Withdrawn | Attempt::Ended { asked: true, .. } => continue,
                Attempt::Ended { end: Ok(status), .. }
                    if status.success() && self.keep.again == Again::OnFailure =>
                {
                    tracing::info!(program = self.keep.tag, "it is done");
                    return Ok(Kept::Done);
                }
                Attempt::Ended { end: Ok(status), .. } => (format!("it ended: {status}"), false),
                Attempt::Ended { end: Err(unknown), .. } => (unknown.to_string(), false),
                Attempt::Refused(reason) => (reason, true),
            };
            let now = self.shard.now();
            if now.since(began) >= self.keep.good_after {
                self.failures = Failures::new(self.keep.supervision);
            }
            let Some(pause) = self.failures.one_more(now) else { return Err(self.give_up(reason)) };
            self.say(reason, refused, pause);
            select(pin!(self.asked()), self.shard.sleep(pause)).await;
        }
        Ok(Kept::Stopped)
    }

    fn is_over(&self) -> bool {
        self.state.wish.get() == Wish::Stop || self.shard.phase() != crate::shard::Phase::Running
    }

    /// One start, and the life that follows.
    async fn attempt(&mut self) -> Attempt {
        // A start may take for ever, as of a program on a file system that does not answer.
        let mut child = match select(pin!(self.shard.spawn_process(&self.command)), pin!(self.asked())).await
        {
            Either::Left((Ok(child), _)) => child,
            Either::Left((Err(error), _)) => return Attempt::Refused(error.to_string()),
            Either::Right(_) => return Attempt::Withdrawn,
        };
        if self.said.take().is_some() {
            tracing::info!(program = self.keep.tag, "it can be started again");
        }
        self.state.starts.set(self.state.starts.get() + 1);
        self.state.running.set(Some(child.id()));
        tracing::info!(program = self.keep.tag, id = child.id(), "started");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let rests = child.rests_of(&stdout, &stderr);
        let told =
            join(self.teller.follow(stdout, Stream::Output), self.teller.follow(stderr, Stream::Error));
        let life = self.life(&mut child);
        let ended = match select(pin!(life), pin!(told)).await {
            Either::Left((ended, told)) => {
                // Only one who has left its group can hold this up.
                if last_words(&self.shard, &rests, self.command.patience, told).await.is_none() {
                    tracing::warn!(program = self.keep.tag, "somebody it left behind holds its output open");
                }
                ended
            }
            Either::Right((_, life)) => life.await,
        };
        self.state.running.set(None);
        self.teller.end();
        ended
    }

    /// It is to stop, or to begin anew.
    async fn asked(&self) {
        select(poll_fn(|cx| self.state.poll_wish(cx)), self.shard.stopping()).await;
    }

    /// Until it ends, by itself or because it is to.
    async fn life(&self, child: &mut Child) -> Attempt {
        if let Either::Left((end, _)) = select(pin!(child.wait()), pin!(self.asked())).await {
            return Attempt::Ended { end, asked: false };
        }
        let end = child.stop(self.keep.grace).await;
        match &end {
            Ok(status) => tracing::info!(program = self.keep.tag, "stopped: {status}"),
            Err(unknown) => tracing::warn!(program = self.keep.tag, "stopped: {unknown}"),
        }
        Attempt::Ended { end, asked: true }
    }

    /// Says why it is started again; of starts that are refused for the same reason only the first.
    fn say(&mut self, reason: String, refused: bool, pause: Duration) {
        let again = refused && self.said.as_ref() == Some(&reason);
        match (refused, again) {
            (_, true) => tracing::debug!(program = self.keep.tag, ?pause, "{reason}; it is tried again"),
            (true, _) => {
                tracing::error!(
                    program = self.keep.tag,
                    "{reason}; it is tried again, with pauses that grow"
                );
            }
            (false, _) => tracing::warn!(program = self.keep.tag, ?pause, "{reason}; it is started again"),
        }
        self.said = refused.then_some(reason);
    }

    fn give_up(&self, reason: String) -> KeepError {
        let (times, within) = (self.failures.count(), self.keep.supervision.within);
        let error = KeepError::TooOften { tag: self.keep.tag.clone(), times, within, reason };
        tracing::error!(program = self.keep.tag, "{error}");
        error
    }
}
