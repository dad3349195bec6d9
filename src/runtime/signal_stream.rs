//! Signals on shards: who listens, and what was caught for them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use signal_hook::iterator;
use waterwheel_os::Disposition;

use super::signal::{Signal, SignalError};
use crate::shard::Shard;

/// What an owner of the process's signals shares with the shards.
pub(crate) struct Board {
    /// `None` once the owner has ended.
    catching: Mutex<Option<Catching>>,
    listeners: Mutex<Audience>,
    /// What is done on signals, whatever becomes of shards.
    acts: Mutex<Vec<(Signal, Act)>>,
}

/// See [`Runtime::on_signal`](super::Runtime::on_signal).
pub(super) struct Act(pub(super) Box<dyn Fn() + Send>);

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Act")
    }
}

/// Who listens, and what came while nobody did.
#[derive(Default)]
struct Audience {
    slots: Vec<Weak<Slot>>,
    /// A bit for each signal.
    unheard: u64,
}

/// The signals that are caught.
struct Catching {
    handle: iterator::Handle,
    /// What the process did on each of them before.
    before: BTreeMap<Signal, Disposition>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(super) fn new(handle: iterator::Handle) -> Board {
        let catching = Catching { handle, before: BTreeMap::new() };
        let (listeners, acts) = Default::default();
        Board { catching: Mutex::new(Some(catching)), listeners, acts }
    }

    /// Does this on each signal of a kind, from now on and on the thread that gets them.
    pub(super) fn act_on(&self, signal: Signal, act: Act) -> Result<(), SignalError> {
        lock(&self.acts).push((signal, act));
        self.catch(signal)
    }

    /// Catches a signal from now on, unless it is caught already.
    pub(super) fn catch(&self, signal: Signal) -> Result<(), SignalError> {
        if !signal.can_be_caught() {
            return Err(SignalError::Uncatchable { signal });
        }
        let mut catching = lock(&self.catching);
        let Catching { handle, before } = catching.as_mut().ok_or(SignalError::NotOwner)?;
        if before.contains_key(&signal) {
            return Ok(());
        }
        let was = Disposition::of(signal.number())?;
        handle.add_signal(signal.number())?;
        before.insert(signal, was);
        hook(signal)?;
        Ok(())
    }

    /// Puts back what the process did before on every signal that was caught.
    pub(super) fn close(&self) {
        // What they hold goes with the owner, too.
        drop(std::mem::take(&mut *lock(&self.acts)));
        let Some(Catching { before, .. }) = lock(&self.catching).take() else { return };
        for (signal, disposition) in before {
            if let Err(error) = disposition.install() {
                tracing::error!(%signal, "cannot put the handling of a signal back: {error}");
            }
        }
    }

    /// Tells everybody who listens for it. `known`: somebody has acted on it already.
    pub(super) fn tell(&self, signal: Signal, known: bool) {
        let mut heard = known;
        for (_, act) in lock(&self.acts).iter().filter(|(of, _)| *of == signal) {
            heard = true;
            if catch_unwind(AssertUnwindSafe(&act.0)).is_err() {
                tracing::error!(%signal, "acting on a signal panicked");
            }
        }
        let mut listeners = lock(&self.listeners);
        listeners.slots.retain(|listener| {
            let Some(slot) = listener.upgrade() else { return false };
            heard |= slot.tell(signal);
            true
        });
        if !heard {
            listeners.unheard |= bit(signal);
            tracing::info!("{signal} came while nobody listened for it: it is kept for who listens next");
        }
    }

    fn listen(self: &Arc<Board>, which: &[Signal]) -> Result<SignalStream, SignalError> {
        // Nothing is caught if one of them cannot be.
        if let Some(signal) = which.iter().find(|signal| !signal.can_be_caught()) {
            return Err(SignalError::Uncatchable { signal: *signal });
        }
        let wanted = which.iter().fold(0, |all, signal| all | bit(*signal));
        let slot = Arc::new(Slot { wanted, pending: AtomicU64::new(0), waiting: Mutex::default() });
        let stream = SignalStream { slot, board: self.clone() };
        // Before the handlers, so that the first signal finds its listener.
        let mut listeners = lock(&self.listeners);
        listeners.slots.retain(|listener| listener.strong_count() > 0);
        listeners.slots.push(Arc::downgrade(&stream.slot));
        drop(listeners);
        which.iter().try_for_each(|signal| self.catch(*signal))?;
        // Not before: who cannot listen takes nothing from who does next.
        let mut listeners = lock(&self.listeners);
        stream.slot.pending.fetch_or(listeners.unheard & wanted, SeqCst);
        listeners.unheard &= !wanted;
        drop(listeners);
        Ok(stream)
    }

    /// A listener is gone. What it has not seen, and nobody else has heard of, is for who listens next.
    fn leave(&self, slot: &Arc<Slot>) {
        let mut listeners = lock(&self.listeners);
        let mut others = 0;
        listeners.slots.retain(|listener| {
            let Some(other) = listener.upgrade().filter(|other| !Arc::ptr_eq(other, slot)) else {
                return false;
            };
            others |= other.wanted;
            true
        });
        listeners.unheard |= slot.pending.load(SeqCst) & !others;
    }
}

/// Makes sure that the handler is installed.
///
/// The crate below never takes its handlers out again, and installs each only once. So they are kept here, taken out when
/// an owner ends, and put in again by the next one.
fn hook(signal: Signal) -> io::Result<()> {
    static HOOKS: Mutex<BTreeMap<Signal, Disposition>> = Mutex::new(BTreeMap::new());
    let mut hooks = lock(&HOOKS);
    match hooks.get(&signal) {
        Some(hook) => hook.install(),
        None => {
            hooks.insert(signal, Disposition::of(signal.number())?);
            Ok(())
        }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caught = lock(&self.catching).as_ref().map(|now| now.before.keys().copied().collect::<Vec<_>>());
        f.debug_struct("Board").field("caught", &caught).finish()
    }
}

/// What one listener has not seen yet. Signals of one kind are counted as one, so it has a bound.
struct Slot {
    /// A bit for each signal.
    wanted: u64,
    pending: AtomicU64,
    waiting: Mutex<Option<Waker>>,
}

fn bit(signal: Signal) -> u64 {
    1 << signal.number()
}

impl Slot {
    /// Whether it listens for it.
    fn tell(&self, signal: Signal) -> bool {
        if self.wanted & bit(signal) == 0 {
            return false;
        }
        self.pending.fetch_or(bit(signal), SeqCst);
        let waiting = lock(&self.waiting).take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        true
    }

    fn take(&self) -> Option<Signal> {
        let pending = self.pending.load(SeqCst);
        let signal = Signal::ALL.into_iter().find(|signal| pending & bit(*signal) != 0)?;
        self.pending.fetch_and(!bit(signal), SeqCst);
        Some(signal)
    }
}

/// Signals, as one shard hears of them: see [`Shard::signals`]. Dropping it ends the listening; the signals stay caught.
pub struct SignalStream {
    slot: Arc<Slot>,
    board: Arc<Board>,
}

impl Drop for SignalStream {
    fn drop(&mut self) {
        self.board.leave(&self.slot);
    }
}

impl SignalStream {
    /// Waits for the next signal. Those of one kind that came since the last one of it was answered count as one, as
    /// everywhere in Unix; of those of several kinds the order is not known.
    pub async fn next(&mut self) -> Signal {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same, for those who write futures by hand.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.slot.take() {
            return Poll::Ready(signal);
        }
        *lock(&self.slot.waiting) = Some(cx.waker().clone());
        // One that came in between saw no waker.
        self.slot.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl fmt::Debug for SignalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = Signal::ALL.into_iter().filter(|signal| self.slot.wanted & bit(*signal) != 0);
        f.debug_tuple("SignalStream").field(&wanted.collect::<Vec<_>>()).finish()
    }
}

/// What a shard keeps to listen with.
#[derive(Debug)]
struct Hearing(Arc<Board>);

/// Lets a shard listen. Once, before its main future.
pub(super) fn provide(shard: &Shard, board: Arc<Board>) {
    shard.keep(Rc::new(Hearing(board)));
}

impl Shard {
    /// Listens for signals of this process. Everybody who listens for a signal hears of it, on whatever shard; in a
    /// program with a settings file one shard listens for [`Signal::Hangup`] and tells the others.
    ///
    /// From the first call that names it on, a signal does not do any more what it does by default, until the run has
    /// ended; then everything is as it was before. That holds also after this is dropped: a shard that is being restarted
    /// is no reason for SIGHUP to end the program. One that comes while nobody listens, or that the last one to listen has
    /// not seen, is kept for who listens next, as a signal that is blocked is pending; what has to be done whatever becomes
    /// of shards is better said to [`Runtime::on_signal`](super::Runtime::on_signal). [Those that the runtime acts
    /// on](Signal::OWN) it goes on acting on.
    ///
    /// ```no_run
    /// # use waterwheel::runtime::{Runtime, Signal};
    /// # fn main() -> anyhow::Result<()> {
    /// Runtime::from_env()?.run(|shard| async move {
    ///     let mut signals = shard.signals(&[Signal::Hangup, Signal::User2])?;
    ///     while signals.next().await == Signal::Hangup {
    ///         // read the settings again
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SignalError::NotOwner`]: the runtime was told to leave signals alone, or is simulated.
    /// [`SignalError::Uncatchable`]: SIGKILL and SIGSTOP. Else the system's reason.
    pub fn signals(&self, which: &[Signal]) -> Result<SignalStream, SignalError> {
        let hearing = self.kept::<Hearing>().ok_or(SignalError::NotOwner)?;
        hearing.0.listen(which)
    }
}
