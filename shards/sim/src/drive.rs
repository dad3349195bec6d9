//! The loop: lets things happen in the order of their times, and polls one shard after the other.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::{Ended, Inspect, Launch, Root, Start, Time, Why, panic_message};

use crate::fault::{Moment, Verdict};
use crate::reactor::SimReactor;
use crate::report::{self, Stuck};
use crate::shard::{Bell, Done, Fresh, Place};
use crate::state::{Shared, State};
use crate::trace::{Id, What};

thread_local! {
    /// Whether a world is driven by this thread: another one would wait for ever, and so would it.
    static DRIVING: Cell<bool> = const { Cell::new(false) };
}

/// The right to drive a world, which one thread has at a time, and one world on a thread. Given back however the drive
/// ends.
pub(crate) struct Driving {
    shared: Arc<Shared>,
}

impl Driving {
    /// # Errors
    /// Why this thread cannot drive this world now.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Result<Driving, &'static str> {
        if DRIVING.get() {
            return Err("a run inside a world would wait for itself: launch it instead");
        }
        if shared.with(|state| std::mem::replace(&mut state.driven, true)) {
            return Err("another thread drives this world");
        }
        DRIVING.set(true);
        Ok(Driving { shared: shared.clone() })
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        DRIVING.set(false);
        self.shared.with(|state| state.driven = false);
    }
}

/// Drives a world until `over`, or until nothing can happen any more, or too much did.
///
/// # Errors
/// It is stuck: who waits for what. All shards are ended then.
pub(crate) fn drive(driving: &Driving, over: &dyn Fn() -> bool) -> Result<(), Stuck> {
    let (lives, groups) = Default::default();
    let mut driver = Driver { shared: driving.shared.clone(), lives, groups };
    let result = driver.run(over);
    driver.abandon();
    result
}

/// All that is bound to the driving thread.
struct Driver {
    shared: Arc<Shared>,
    lives: BTreeMap<Id, Life>,
    groups: Vec<Group>,
}

/// Shards that were launched together.
struct Group {
    left: usize,
    ended: Vec<Ended>,
    done: Option<Done>,
}

/// A shard and its present life.
pub(crate) struct Life {
    pub(crate) host: usize,
    pub(crate) number: usize,
    group: usize,
    start: Box<Start>,
    /// `None` between two lives.
    now: Option<Living>,
    turns: u64,
    lives: u64,
    why: Option<Why>,
}

struct Living {
    root: Root,
    reactor: Rc<SimReactor>,
    bell: Arc<Bell>,
    waker: Waker,
}

impl Life {
    pub(crate) fn reactor(&self) -> Option<&Rc<SimReactor>> {
        self.now.as_ref().map(|living| &living.reactor)
    }
}

/// What a root says that panics because of [`Verdict::Panic`].
pub const PLANNED: &str = "a rule of the simulation said so";

/// What is to be done next.
enum Step {
    Poll {
        shard: Id,
        spurious: bool,
    },
    Alarm(Id),
    /// Nothing is to happen before.
    Wait(Option<Time>),
    TooMuch,
}

impl Driver {
    fn run(&mut self, over: &dyn Fn() -> bool) -> Result<(), Stuck> {
        loop {
            while let Some(fresh) = self.shared.with(|state| state.fresh.pop_front()) {
                self.take_up(fresh);
            }
            if over() {
                return Ok(());
            }
            match self.next() {
                Step::Poll { shard, spurious } => self.poll(shard, spurious),
                Step::Alarm(shard) => self.alarm(shard),
                Step::Wait(Some(until)) if !self.shared.is_live() => self.shared.advance_to(until),
                Step::Wait(_) if self.shared.is_live() => self.wait(),
                Step::Wait(_) => return Err(report::deadlock(&self.shared, &self.lives)),
                Step::TooMuch => return Err(report::endless(&self.shared, &self.lives)),
            }
        }
    }

    fn next(&mut self) -> Step {
        let shared = self.shared.clone();
        shared.with(|state| {
            state.polled = None;
            self.hear(state);
            if let Some(shard) = state.alarms.pop() {
                return Step::Alarm(shard);
            }
            while let Some(occurrence) = state.due() {
                state.happen(occurrence);
                // What woke somebody is seen to before the next thing happens, as far as the seed lets it.
                if !state.wakes.is_empty() || !state.alarms.is_empty() {
                    return Step::Wait(Some(state.now));
                }
            }
            let old = state.now > Time::ZERO + state.options.time_max;
            if !state.live && (old || state.steps > state.options.steps_max) {
                return Step::TooMuch;
            }
            if let Some(shard) = state.choose() {
                return Step::Poll { shard, spurious: false };
            }
            let next = state.next();
            match next.and_then(|_| state.choose_idle()) {
                Some(shard) => Step::Poll { shard, spurious: true },
                None => Step::Wait(next),
            }
        })
    }

    /// Sees to the bells that were rung.
    fn hear(&self, state: &mut State) {
        let mut rung = self.shared.rung.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in rung.drain(..) {
            state.heard(shard);
        }
    }

    /// In a live world: until the next thing is to happen, or until somebody does something.
    fn wait(&self) {
        let state = self.shared.lock();
        let rung = !self.shared.rung.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let next = state.next();
        if rung || !state.is_quiet() || next.is_some_and(|next| next <= state.now) {
            return;
        }
        let most = next.map(|next| next.since(self.shared.now()));
        self.shared.wait(state, most);
    }

    // ---- lives

    fn take_up(&mut self, fresh: Fresh) {
        let Fresh { host, launches, done } = fresh;
        let group = self.groups.len();
        self.groups.push(Group { left: launches.len(), ended: Vec::new(), done: Some(done) });
        if launches.is_empty() {
            return self.group_over(group);
        }
        for Launch { shard: number, prepare, start, .. } in launches {
            let shard = self.shared.with(|state| {
                let id = state.id();
                state.shards.insert(id, Place::new(number));
                id
            });
            let (turns, lives, now) = (0, 0, None);
            let life = Life { host, number, group, start, now, turns, lives, why: None };
            self.lives.insert(shard, life);
            match catch_unwind(AssertUnwindSafe(prepare)) {
                Ok(()) => self.live(shard),
                Err(panic) => self.over(shard, Some(Why::Panicked(panic_message(&*panic)))),
            }
        }
    }

    /// Asks for a root, again after one that panicked at its birth.
    fn live(&mut self, shard: Id) {
        loop {
            let Some(life) = self.lives.get_mut(&shard) else { return };
            let reactor = SimReactor::new(&self.shared, life.host, shard);
            let started = catch_unwind(AssertUnwindSafe(|| (life.start)(reactor.clone())));
            match started {
                Ok(Some(root)) => {
                    let bell = Arc::new(Bell::new(&self.shared, shard));
                    let waker = Waker::from(bell.clone());
                    life.lives += 1;
                    let (host, number, what) = (life.host, life.number, What::Began(life.lives));
                    life.now = Some(Living { root, reactor, bell, waker });
                    self.shared.with(|state| {
                        state.note(host, Some(number), what);
                        state.heard(shard);
                    });
                    return;
                }
                Ok(None) => {
                    reactor.end();
                    let why = life.why.take();
                    return self.over(shard, why);
                }
                Err(panic) => {
                    reactor.end();
                    life.why = Some(Why::Panicked(panic_message(&*panic)));
                }
            }
        }
    }

    fn alarm(&mut self, shard: Id) {
        let Some(life) = self.lives.get(&shard) else { return };
        let Some(reactor) = life.reactor() else { return };
        let now = self.shared.with(|state| {
            if let Some(place) = state.shards.get_mut(&shard) {
                place.alarm_at = Time::NEVER;
            }
            let (now, deadline) = (state.now, reactor.alarm.deadline());
            if deadline.is_some_and(|deadline| deadline <= now) {
                state.note(life.host, Some(life.number), What::Alarm);
            } else {
                state.set_alarm(shard, deadline);
            }
            now
        });
        reactor.alarm.fire(now);
    }

    fn poll(&mut self, shard: Id, spurious: bool) {
        let Some(life) = self.lives.get_mut(&shard) else { return };
        let Some(living) = life.now.take() else { return };
        life.turns += 1;
        let (host, number, turn) = (life.host, life.number, life.turns);
        let verdict = self.shared.with(|state| {
            state.steps += 1;
            state.polled = Some((host, number));
            state.note(host, Some(number), What::Turn { number: turn, spurious });
            let side = (host, None);
            state.ask(Moment::Turn, side, side, Some(number)).map(|(verdict, _)| verdict)
        });
        let Living { root, reactor, bell, waker } = living;
        let shown = reactor.shown();
        bell.door.awake();
        // Taken along, so that a root that panics is dropped while its thread panics, as anywhere.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut root = root;
            if verdict == Some(Verdict::Panic) {
                // Without the words of the panic hook, since nothing is wrong with the program.
                resume_unwind(Box::new(PLANNED));
            }
            let polled = root.as_mut().poll(&mut Context::from_waker(&waker));
            (root, polled)
        }));
        self.shared.with(|state| {
            let took = state.random.duration(state.options.turn_min, state.options.turn_max);
            if !state.live {
                self.shared.advance_to(state.now + took);
            }
            if let Some(Verdict::SlowTurn(by)) = verdict {
                state.busy(shard, state.now + took + by);
            }
        });
        match polled {
            Ok((root, Poll::Pending)) => {
                let (deadline, sleeps) = (reactor.alarm.deadline(), bell.door.may_sleep());
                self.shared.with(|state| {
                    state.set_alarm(shard, deadline);
                    if !sleeps {
                        state.heard(shard);
                    }
                });
                if let Some(life) = self.lives.get_mut(&shard) {
                    life.now = Some(Living { root, reactor, bell, waker });
                }
            }
            Ok((root, Poll::Ready(()))) => {
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(root)));
                self.ended(shard, &reactor, shown, dropped.err());
            }
            Err(panic) => self.ended(shard, &reactor, shown, Some(panic)),
        }
    }

    /// A root is gone: what it left is looked at, and another one asked for.
    fn ended(
        &mut self,
        shard: Id,
        reactor: &Rc<SimReactor>,
        shown: Option<Rc<dyn Inspect>>,
        panic: Option<Box<dyn Any + Send>>,
    ) {
        let Some(life) = self.lives.get_mut(&shard) else { return };
        let what = What::Ended { panicked: panic.is_some() };
        life.why = panic.map(|panic| Why::Panicked(panic_message(&*panic)));
        let (host, number) = (life.host, life.number);
        // Shown for the first time in this very turn, perhaps.
        let shown = shown.or_else(|| reactor.shown());
        report::panicked(&self.shared, host, number, shown.as_ref());
        report::left_by_shard(&self.shared, host, number, shown.as_ref());
        drop(shown);
        reactor.end();
        self.shared.with(|state| state.note(host, Some(number), what));
        self.live(shard);
    }

    fn over(&mut self, shard: Id, why: Option<Why>) {
        let Some(life) = self.lives.remove(&shard) else { return };
        self.shared.with(|state| state.shards.remove(&shard));
        let Life { number, group, start, .. } = life;
        if catch_unwind(AssertUnwindSafe(|| drop(start))).is_err() {
            // It said so itself.
        }
        let Some(known) = self.groups.get_mut(group) else { return };
        known.ended.extend(why.map(|why| Ended { shard: number, why }));
        known.left -= 1;
        if known.left == 0 {
            self.group_over(group);
        }
    }

    fn group_over(&mut self, group: usize) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let mut ended = std::mem::take(&mut group.ended);
        ended.sort_by_key(|ended| ended.shard);
        if let Some(done) = group.done.take() {
            done(if ended.is_empty() { Ok(()) } else { Err(ended) });
        }
    }

    /// Ends every shard that is left, and takes up none that comes.
    fn abandon(&mut self) {
        // Those that are dropped may launch more, which may be dropped too; nobody does so for ever.
        while let Some((shard, mut life)) = self.lives.pop_first() {
            if let Some(Living { root, reactor, .. }) = life.now.take() {
                report::panicked(&self.shared, life.host, life.number, reactor.shown().as_ref());
                let _ = catch_unwind(AssertUnwindSafe(|| drop(root)));
                reactor.end();
            }
            let _ = catch_unwind(AssertUnwindSafe(|| drop(life)));
            self.shared.with(|state| state.shards.remove(&shard));
        }
        let fresh = self.shared.with(|state| std::mem::take(&mut state.fresh));
        let _ = catch_unwind(AssertUnwindSafe(|| drop(fresh)));
        self.shared.with(State::forget_shards);
    }
}
