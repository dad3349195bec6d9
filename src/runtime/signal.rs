//! The signals that stop a runtime or make it report, on a thread of their own.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator;
use waterwheel_os::Disposition;

/// A signal that a runtime acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `SIGINT`: somebody pressed Ctrl-C.
    Interrupt,
    /// `SIGTERM`: the service manager wants the program to end.
    Terminate,
    /// `SIGUSR1`: somebody wants a report.
    Report,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 3] = [Signal::Interrupt, Signal::Terminate, Signal::Report];

    const fn number(self) -> i32 {
        match self {
            Signal::Interrupt => SIGINT,
            Signal::Terminate => SIGTERM,
            Signal::Report => SIGUSR1,
        }
    }
}

impl Signal {
    /// Does what the signal does to a program that does not handle it: ends the process.
    pub(super) fn act_as_by_default(self) {
        if let Err(error) = signal_hook::low_level::emulate_default_handler(self.number()) {
            tracing::error!(signal = %self, "cannot end the process: {error}");
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::Report => "SIGUSR1",
        })
    }
}

/// Why the signals cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// There is one owner per process, and there is one already.
    #[error("another runtime of this process handles its signals already")]
    Owned,
    /// The system's reason.
    #[error("cannot handle signals: {0}")]
    System(#[from] io::Error),
}

/// The process's signals, owned. While it lives, they reach its callback and nothing else; dropping it puts back what
/// the process did on them before, and leaves no thread and no descriptor.
#[derive(Debug)]
pub struct Signals {
    // Fields are dropped in this order: the claim last, so that the next owner finds everything put back.
    before: Before,
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
        // The crate below never takes its handlers out again, and installs each only once. So they are kept here,
        // taken out when this is dropped, and put in again by the next owner.
        static HOOKS: OnceLock<Vec<Disposition>> = OnceLock::new();
        let claim = Claim::make()?;
        let before = Before(dispositions()?);
        let mut signals = iterator::Signals::new(Signal::ALL.map(Signal::number))?;
        let handle = signals.handle();
        let now = dispositions()?;
        for hook in HOOKS.get_or_init(|| now) {
            hook.install()?;
        }
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for number in signals.forever() {
                let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.number() == number) else {
                    continue;
                };
                if catch_unwind(AssertUnwindSafe(|| then(signal))).is_err() {
                    tracing::error!(%signal, "acting on a signal panicked");
                }
            }
        })?;
        Ok(Signals { before, handle, thread: Some(thread), _claim: claim })
    }
}

fn dispositions() -> io::Result<Vec<Disposition>> {
    Signal::ALL.into_iter().map(|signal| Disposition::of(signal.number())).collect()
}

impl Drop for Signals {
    fn drop(&mut self) {
        // First, so that no signal is swallowed by a thread that is ending.
        self.before.put_back();
        self.handle.close();
        let Some(thread) = self.thread.take() else { return };
        // The callback may hold the last reference to this: a thread cannot wait for itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the thread for signals panicked");
        }
    }
}

/// What the process did on each signal before there was an owner. Put back when dropped, also if owning failed half
/// way.
#[derive(Debug)]
struct Before(Vec<Disposition>);

impl Before {
    fn put_back(&mut self) {
        for disposition in self.0.drain(..) {
            if let Err(error) = disposition.install() {
                tracing::error!(%error, ?disposition, "cannot put the handling of a signal back");
            }
        }
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        self.put_back();
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
