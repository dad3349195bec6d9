//! The end of a shard, step by step: asked, draining, closing, over. Who drives the steps around it is above.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{TaskNote, Time};

use super::Phase;
use super::core::Core;
use super::sleep::PhaseChange;
use super::task::{Key, StopWish};
use super::waiters::Waiters;

/// The mark of the task that follows a shard's life; it is in no report, since it waits as long as the shard lives.
pub(crate) const COURSE: u32 = u32::MAX;
/// The mark of what is to run before, during and after a start or a stop; it outlives the other tasks.
pub(crate) const TRIGGER: u32 = u32::MAX - 1;

/// What a second wish leaves to what runs after the tasks.
pub(crate) const HURRIED: Duration = Duration::from_secs(1);
/// Shorter drains are not reported on at their half.
const WORTH_A_REPORT: Duration = Duration::from_secs(1);
/// Tasks of each kind of which it is told what they wait for; looking that up is slow where there are many timers.
const WAITS_SHOWN: usize = 3;
/// Kinds of tasks in a report; there are rarely more, and a line has to end.
const KINDS_SHOWN: usize = 20;

/// A step of a shard's life that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was asked to stop, which may not have begun yet.
    Asked,
    Draining,
    /// A second wish came: what runs has no time left.
    Hurried,
    Ending,
    /// Its tasks are gone, but for those that are to run after them.
    Closing,
}

/// How long what is to run around a stop may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CloseTimes {
    /// Everything before the close, if nobody has asked the shard to stop.
    pub(crate) unasked: Duration,
    /// The close itself.
    pub(crate) close: Duration,
}

/// Where a shard stands.
#[derive(Debug)]
pub(super) struct Stopping {
    phase: Cell<Phase>,
    /// Tasks that wait for a step.
    pub(super) waiters: RefCell<Waiters>,
    /// A stop that waits until what is to run before it has, and how long it drains then.
    asked: Cell<Option<Duration>>,
    released: Cell<bool>,
    /// Called when a stop begins to wait.
    on_asked: Cell<Option<fn()>>,
    hurried: Cell<bool>,
    at_once: Cell<bool>,
    /// When half of the drain's time is over, until that was said.
    half: Cell<Option<Time>>,
    /// Set where something is to run after the tasks.
    close: Cell<Option<CloseTimes>>,
    /// When the shard ends at the latest, once its tasks are gone.
    closing: Cell<Option<Time>>,
    closed: Cell<bool>,
    /// No other life follows.
    for_good: Cell<bool>,
}

impl Default for Stopping {
    fn default() -> Stopping {
        Stopping {
            phase: Cell::new(Phase::Running),
            waiters: RefCell::default(),
            asked: Cell::new(None),
            released: Cell::new(false),
            on_asked: Cell::new(None),
            hurried: Cell::new(false),
            at_once: Cell::new(false),
            half: Cell::new(None),
            close: Cell::new(None),
            closing: Cell::new(None),
            closed: Cell::new(false),
            for_good: Cell::new(false),
        }
    }
}

impl Stopping {
    /// Whether no other life follows, as far as is known.
    pub(super) fn ends_for_good(&self) -> bool {
        self.for_good.get() || self.phase.get() != Phase::Running
    }

    pub(super) fn has_come_to(&self, step: Step) -> bool {
        let phase = self.phase.get();
        match step {
            Step::Asked => {
                self.asked.get().is_some() || phase != Phase::Running || self.closing.get().is_some()
            }
            Step::Draining => phase != Phase::Running,
            Step::Hurried => self.hurried.get() || self.at_once.get(),
            Step::Ending => phase == Phase::Ending,
            Step::Closing => self.closing.get().is_some(),
        }
    }
}

impl Core {
    pub(crate) fn phase(&self) -> Phase {
        self.stopping.phase.get()
    }

    /// Moves to a later phase (never back) and tells who waits.
    fn set_phase(&self, phase: Phase) {
        let before = self.phase();
        if phase.rank() < before.rank() || phase == before {
            return;
        }
        self.stopping.phase.set(phase);
        self.tell_who_waits();
    }

    fn tell_who_waits(&self) {
        self.stopping.waiters.borrow_mut().wake_all();
        self.wake_root();
    }

    /// Waits for a step of the shard's life.
    pub(crate) fn comes_to(self: &Rc<Core>, step: Step) -> PhaseChange {
        PhaseChange::new(self.clone(), step)
    }

    pub(crate) fn has_come_to(&self, step: Step) -> bool {
        self.stopping.has_come_to(step)
    }

    /// Asks this shard to stop; only ever moves its phase forward.
    pub(super) fn stop(&self, wish: StopWish) {
        let stopping = &self.stopping;
        match wish {
            StopWish::AtOnce => {
                stopping.at_once.set(true);
                self.set_phase(Phase::Ending);
            }
            StopWish::Hurry if stopping.hurried.replace(true) => {}
            StopWish::Hurry => self.hurry(),
            StopWish::Drain(_) if self.phase() != Phase::Running || stopping.asked.get().is_some() => {}
            StopWish::Drain(time) if self.foreign().holds_stops() && !stopping.released.get() => {
                stopping.asked.set(Some(time));
                self.tell_who_waits();
                stopping.on_asked.get().into_iter().for_each(|tell| tell());
            }
            StopWish::Drain(time) => self.drain(time),
        }
    }

    fn drain(&self, time: Duration) {
        let now = self.reactor().now();
        let until = now + time;
        self.wake_at_the_latest(until);
        if time >= WORTH_A_REPORT {
            self.stopping.half.set(Some(now + time / 2));
            self.wake_at_the_latest(now + time / 2);
        }
        self.set_phase(Phase::Draining { until });
    }

    fn hurry(&self) {
        let now = self.reactor().now();
        self.tell_who_waits();
        match self.stopping.closing.get() {
            Some(until) => {
                let until = until.min(now + HURRIED);
                self.stopping.closing.set(Some(until));
                self.wake_at_the_latest(until);
                self.set_phase(Phase::Ending);
            }
            None => self.set_phase(Phase::Draining { until: now }),
        }
    }

    /// What to call when a stop begins to wait until it is [released](Core::release_stop). On the shard's thread.
    pub(crate) fn on_asked(&self, tell: fn()) {
        self.stopping.on_asked.set(Some(tell));
    }

    /// What was to run before the stop has: it may begin.
    pub(crate) fn release_stop(&self) {
        self.stopping.released.set(true);
        if let Some(time) = self.stopping.asked.get()
            && self.phase() == Phase::Running
        {
            self.drain(time);
        }
    }

    /// The main future has returned: no other life follows.
    pub(crate) fn end_for_good(&self) {
        self.stopping.for_good.set(true);
    }

    /// Something is to run after the tasks, for so long.
    pub(crate) fn set_close(&self, times: CloseTimes) {
        self.stopping.close.set(Some(times));
    }

    /// What was to run after the tasks has: the shard may end.
    pub(crate) fn has_closed(&self) {
        self.stopping.closed.set(true);
        self.wake_root();
    }

    /// When the shard ends at the latest, once it closes.
    pub(crate) fn closes_until(&self) -> Option<Time> {
        self.stopping.closing.get()
    }

    /// Whether the shard, which has nothing else to do or no time left for it, still waits for what runs after the tasks.
    /// The first time the tasks are ended.
    pub(super) fn closes(&self, now: Time, late: bool) -> bool {
        let stopping = &self.stopping;
        let Some(times) = stopping.close.get() else { return false };
        if stopping.at_once.get() || stopping.closed.get() {
            return false;
        }
        if let Some(until) = stopping.closing.get() {
            if late {
                self.set_phase(Phase::Ending);
            }
            if now >= until {
                let waits = self.unfinished_triggers();
                let shard = self.id().index();
                tracing::warn!(shard, "the time for the end is up; triggers that have not ended: {waits}");
            }
            return now < until;
        }
        // One that fails while nobody stops it begins again, or is looked at by nobody: it is no end of what it serves.
        if !stopping.for_good.get() && !late && matches!(self.phase(), Phase::Running) {
            return false;
        }
        let until = match self.phase() {
            _ if stopping.hurried.get() => now + HURRIED,
            Phase::Running => now + times.unasked + times.close,
            Phase::Draining { until } => until.max(now) + times.close,
            Phase::Ending => now + times.close,
        };
        stopping.closing.set(Some(until));
        self.wake_at_the_latest(until);
        self.clear_all_but([COURSE, TRIGGER]);
        self.tell_who_waits();
        true
    }

    /// The shard ends in this turn: polls the main task once more, that it may sum up. Its own wake may stand behind a
    /// queue longer than a turn's budget.
    pub(super) fn last_word(&self, main: Key) {
        self.set_phase(Phase::Ending);
        self.poll_task(main);
    }

    /// Whether what still runs is to be ended. Says what that is, and once before, at half of the time.
    pub(super) fn is_out_of_time(&self, now: Time) -> bool {
        let stopping = &self.stopping;
        match self.phase() {
            Phase::Running => false,
            Phase::Ending => true,
            Phase::Draining { until } if now < until => {
                if stopping.half.get().is_some_and(|half| half <= now) {
                    stopping.half.set(None);
                    self.report_wait("half of the drain's time is over; it waits for");
                }
                false
            }
            Phase::Draining { .. } if stopping.hurried.get() => {
                self.report_wait("the drain was cut short; it still waited for");
                true
            }
            Phase::Draining { .. } => {
                self.report_wait("the drain ran out of time; it still waited for");
                true
            }
        }
    }

    fn report_wait(&self, what: &str) {
        let notes = self.notes_of(|mark| mark != COURSE && mark != TRIGGER, WAITS_SHOWN);
        // The main task may have had its last word in this turn, and nobody else be left.
        if !notes.is_empty() {
            tracing::warn!(shard = self.id().index(), "{what} {}", summary(notes));
        }
    }

    /// The triggers that have not ended, and what they wait for.
    pub(crate) fn unfinished_triggers(&self) -> String {
        summary(self.notes_of(|mark| mark == TRIGGER, WAITS_SHOWN))
    }
}

/// "connection ×12, main (until 3s)": what a stuck stop waits for.
fn summary(notes: Vec<TaskNote>) -> String {
    let mut kinds: BTreeMap<&str, (usize, BTreeSet<String>)> = BTreeMap::new();
    for note in notes {
        let (count, waits) = kinds.entry(note.name).or_default();
        *count += 1;
        waits.extend(note.waits);
    }
    let more = kinds.len().saturating_sub(KINDS_SHOWN);
    let mut parts: Vec<String> = kinds.into_iter().take(KINDS_SHOWN).map(kind).collect();
    if more > 0 {
        parts.push(format!("{more} more kinds of tasks"));
    }
    parts.join(", ")
}

fn kind((name, (count, waits)): (&str, (usize, BTreeSet<String>))) -> String {
    let name = if count == 1 { name.to_owned() } else { format!("{name} ×{count}") };
    // Many wait for many things: the first ones tell enough.
    let waits: Vec<String> = waits.into_iter().take(WAITS_SHOWN).collect();
    if waits.is_empty() { name } else { format!("{name} ({})", waits.join("; ")) }
}
