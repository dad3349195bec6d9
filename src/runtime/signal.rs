//! The signals that stop a runtime or make it report, on a thread of their own.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGUSR1,
    SIGUSR2, SIGWINCH,
};
use signal_hook::iterator;

use super::signal_stream::Board;

/// A signal, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Signal {
    /// `SIGHUP`: the terminal is gone; by custom, a service is to read its settings again.
    Hangup,
    /// `SIGINT`: somebody pressed Ctrl-C.
    Interrupt,
    /// `SIGQUIT`: somebody pressed Ctrl-\, and wants a core file.
    Quit,
    /// `SIGABRT`: the program is to end as if it had found a bug in itself.
    Abort,
    /// `SIGKILL`: ends a process, which cannot catch it.
    Kill,
    /// `SIGUSR1`: a runtime makes a report.
    User1,
    /// `SIGUSR2`: whatever the program says.
    User2,
    /// `SIGALRM`: an alarm(2) of the program's.
    Alarm,
    /// `SIGTERM`: the service manager wants the program to end.
    Terminate,
    /// `SIGCHLD`: something became of a child process.
    Child,
    /// `SIGCONT`: goes on after a stop.
    Continue,
    /// `SIGSTOP`: stops a process, which cannot catch it.
    Stop,
    /// `SIGTSTP`: somebody pressed Ctrl-Z.
    TerminalStop,
    /// `SIGWINCH`: the terminal has another size.
    WindowChange,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 14] = [
        Signal::Hangup,
        Signal::Interrupt,
        Signal::Quit,
        Signal::Abort,
        Signal::Kill,
        Signal::User1,
        Signal::User2,
        Signal::Alarm,
        Signal::Terminate,
        Signal::Child,
        Signal::Continue,
        Signal::Stop,
        Signal::TerminalStop,
        Signal::WindowChange,
    ];

    /// Those that a runtime acts on itself.
    pub const OWN: [Signal; 3] = [Signal::Interrupt, Signal::Terminate, Signal::User1];

    /// The system's number for it.
    pub const fn number(self) -> i32 {
        match self {
            Signal::Hangup => SIGHUP,
            Signal::Interrupt => SIGINT,
            Signal::Quit => SIGQUIT,
            Signal::Abort => SIGABRT,
            Signal::Kill => SIGKILL,
            Signal::User1 => SIGUSR1,
            Signal::User2 => SIGUSR2,
            Signal::Alarm => SIGALRM,
            Signal::Terminate => SIGTERM,
            Signal::Child => SIGCHLD,
            Signal::Continue => SIGCONT,
            Signal::Stop => SIGSTOP,
            Signal::TerminalStop => SIGTSTP,
            Signal::WindowChange => SIGWINCH,
        }
    }

    /// The one of this number.
    pub(super) fn of(number: i32) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.number() == number)
    }

    /// Whether a process may catch it (signal(7)).
    pub const fn can_be_caught(self) -> bool {
        !matches!(self, Signal::Kill | Signal::Stop)
    }

    /// Does what the signal does to a program that does not handle it: ends the process.
    pub(super) fn act_as_by_default(self) {
        if let Err(error) = signal_hook::low_level::emulate_default_handler(self.number()) {
            tracing::error!(signal = %self, "cannot end the process: {error}");
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Signal::Hangup => "SIGHUP",
            Signal::Interrupt => "SIGINT",
            Signal::Quit => "SIGQUIT",
            Signal::Abort => "SIGABRT",
            Signal::Kill => "SIGKILL",
            Signal::User1 => "SIGUSR1",
            Signal::User2 => "SIGUSR2",
            Signal::Alarm => "SIGALRM",
            Signal::Terminate => "SIGTERM",
            Signal::Child => "SIGCHLD",
            Signal::Continue => "SIGCONT",
            Signal::Stop => "SIGSTOP",
            Signal::TerminalStop => "SIGTSTP",
            Signal::WindowChange => "SIGWINCH",
        })
    }
}

/// Why the signals cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// There is one owner per process, and there is one already.
    #[error("another runtime of this process handles its signals already")]
    Owned,
    /// The runtime leaves signals to somebody else ([`Runtime::without_signals`](super::Runtime::without_signals)), or it
    /// runs in a simulation, where no signal arrives.
    #[error("this runtime does not handle the process's signals: it was made without, or it is simulated")]
    NotOwner,
    /// The system lets nobody catch it.
    #[error("{signal} cannot be caught by any program; allowed: every other signal")]
    Uncatchable {
        /// Which.
        signal: Signal,
    },
    /// The system's reason.
    #[error("cannot handle signals: {0}")]
    System(#[from] io::Error),
}

/// The process's signals, owned. While it lives, [those that a runtime acts on](Signal::OWN) reach its callback and
/// whoever [listens](crate::shard::Shard::signals), and nothing else; dropping it puts back what the process did on them
/// before, and leaves no thread and no descriptor.
#[derive(Debug)]
pub struct Signals {
    // Fields are dropped in this order: the claim last, so that the next owner finds everything put back.
    board: Arc<Board>,
    handle: iterator::Handle,
    thread: Option<JoinHandle<()>>,
    _claim: Claim,
}

impl Signals {
    /// Takes the signals. `then` is called for each on a thread that inherits the caller's CPU mask, so take them
    /// before the first shard is pinned. Signals of one kind that come faster than `then` returns may be counted as
    /// one, as everywhere in Unix.
    ///
    /// # Errors
    /// They are owned already, or the system refuses a socket pair or a thread; everything is as before then.
    pub fn own(then: impl Fn(Signal) + Send + 'static) -> Result<Signals, SignalError> {
        let claim = Claim::make()?;
        let mut signals = iterator::Signals::new(&[] as &[i32])?;
        let handle = signals.handle();
        let board = Arc::new(Board::new(handle.clone()));
        let told = board.clone();
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever().filter_map(Signal::of) {
                let own = Signal::OWN.contains(&signal);
                if own && catch_unwind(AssertUnwindSafe(|| then(signal))).is_err() {
                    tracing::error!(%signal, "acting on a signal panicked");
                }
                told.tell(signal, own);
            }
        })?;
        // From here on dropping it cleans up.
        let owned = Signals { board, handle, thread: Some(thread), _claim: claim };
        Signal::OWN.into_iter().try_for_each(|signal| owned.board.catch(signal))?;
        Ok(owned)
    }

    /// Where shards listen.
    pub(super) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // First, so that no signal is swallowed by a thread that is ending.
        self.board.close();
        self.handle.close();
        let Some(thread) = self.thread.take() else { return };
        // The callback may hold the last reference to this: a thread cannot wait for itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the thread for signals panicked");
        }
    }
}

/// That the process has an owner of its signals.
#[derive(Debug)]
struct Claim;

static CLAIMED: AtomicBool = AtomicBool::new(false);

impl Claim {
    fn make() -> Result<Claim, SignalError> {
        if CLAIMED.swap(true, SeqCst) { Err(SignalError::Owned) } else { Ok(Claim) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.store(false, SeqCst);
    }
}
