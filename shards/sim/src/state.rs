//! The world's memory: what exists, what is to happen and when, and who is to be woken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use waterwheel_reactor::{Clock, Time};

use crate::datagrams::{Outlet, Packet};
use crate::end::End;
use crate::fault::{Moment, Party, Rule, Verdict};
use crate::host::Host;
use crate::options::Options;
use crate::random::Random;
use crate::shard::{Fresh, Place};
use crate::socket::Socket;
use crate::trace::{Event, Id, Trace, What};

/// How far each look at a shard's clock moves it: about what reading one takes.
const TICK_NANOS: u64 = 20;

/// The moment of 1970 and after at which every world in virtual time begins: 2026-01-01.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// One world. Whoever holds a connection, a socket or a host of it holds this.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something happened; for foreign threads and for the driver of a live world.
    changed: Condvar,
    /// Virtual time; not used by a live world.
    now: AtomicU64,
    /// Of a live world.
    clock: Option<Clock>,
    /// Shards whose bell was rung and whom nobody has seen to yet. Apart from the state, since anybody may ring at any
    /// time.
    pub(crate) rung: Mutex<Vec<Id>>,
    pub(crate) seed: u64,
}

impl Shared {
    pub(crate) fn new(seed: u64, options: Options, live: bool) -> Shared {
        Shared {
            state: Mutex::new(State::new(seed, options, live)),
            changed: Condvar::new(),
            now: AtomicU64::new(0),
            clock: live.then(Clock::start),
            rung: Mutex::default(),
            seed,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.clock.is_some()
    }

    /// The time. Looking takes some.
    pub(crate) fn now(&self) -> Time {
        match &self.clock {
            Some(clock) => clock.now(),
            None => Time::from_nanos(self.now.fetch_add(TICK_NANOS, Relaxed)),
        }
    }

    /// Moves virtual time forward.
    pub(crate) fn advance_to(&self, time: Time) {
        self.now.fetch_max(time.as_nanos(), Relaxed);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = match &self.clock {
            Some(clock) => clock.now(),
            None => Time::from_nanos(self.now.load(Relaxed)),
        };
        state
    }

    /// Wall time since 1970, by the shards' clock.
    pub(crate) fn unix_time(&self) -> Duration {
        match &self.clock {
            Some(clock) => clock.unix_time(),
            None => BEGIN + self.now().since(Time::ZERO),
        }
    }

    /// Does something to the world, then what follows from it at once, and wakes whom that concerns. A waker may run
    /// anything, so nothing is locked meanwhile.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        self.with_if(f, |_| true)
    }

    /// The same; foreign threads that wait look again only if the result says that something has changed: they would keep
    /// each other awake.
    pub(crate) fn with_if<R>(&self, f: impl FnOnce(&mut State) -> R, changed: impl FnOnce(&R) -> bool) -> R {
        let mut state = self.lock();
        let result = f(&mut state);
        while let Some(occurrence) = state.at_once.pop_front() {
            state.happen(occurrence);
        }
        let waited_for = self.is_live() && changed(&result) && state.changed();
        self.wake(state);
        if waited_for {
            self.changed.notify_all();
        }
        result
    }

    /// Wakes whom the state names and drops what it has done with, a few at a time, so that it costs no allocation.
    fn wake<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        const AT_ONCE: usize = 4;
        while !(state.wakes.is_empty() && state.old.is_empty()) {
            let few = |from: &mut VecDeque<Waker>| -> [Option<Waker>; AT_ONCE] {
                std::array::from_fn(|_| from.pop_front())
            };
            let (wakes, old) = (few(&mut state.wakes), few(&mut state.old));
            let more = !(state.wakes.is_empty() && state.old.is_empty());
            drop(state);
            drop(old);
            wakes.into_iter().flatten().for_each(Waker::wake);
            if !more {
                return;
            }
            state = self.lock();
        }
    }

    /// Waits until something has changed, or for so long: for threads of a live world.
    pub(crate) fn wait(&self, mut state: MutexGuard<'_, State>, most: Option<Duration>) {
        state.waiting += 1;
        let changed = &self.changed;
        let mut state = match most {
            Some(most) => changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0,
            None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.waiting -= 1;
    }

    /// A shard's bell was rung.
    pub(crate) fn ring(&self, shard: Id) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).push(shard);
        // Locked, so that a driver that is about to wait has either seen the ring or hears this.
        if self.is_live() && self.lock().waiting > 0 {
            self.changed.notify_all();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// What is to happen. Names ends, sockets and shards that may be gone by then.
#[derive(Debug)]
pub(crate) enum Occurrence {
    /// So many bytes arrive, which lie in the inbox already.
    Segment { from: Id, to: Id, bytes: usize },
    /// The end of a stream arrives.
    Fin { to: Id },
    /// A connection breaks.
    Break { end: Id, error: i32 },
    /// There is room again where this end sends to, or a stall is over.
    Room { end: Id },
    /// A partition that began then has lasted for as long as anybody tries.
    GiveUp { end: Id, held_since: Time },
    /// A connect is tried again, for the so many'th time.
    TryAgain { end: Id, attempt: u32 },
    /// A slow reader may read on.
    Readable { end: Id },
    /// A connect arrives, for the so many'th time.
    Syn { end: Id, attempt: u32 },
    /// A connect is answered.
    Answer { end: Id, error: i32 },
    /// A shard may be polled.
    Run { shard: Id },
    /// A shard's alarm may be due.
    Alarm { shard: Id },
    /// A name is answered.
    Found { lookup: Id },
    /// A datagram comes to a host.
    Datagram { there: usize, packet: Packet },
    /// A socket learns that nobody is where it sent a datagram.
    Unreachable { socket: Id },
    /// There is room to send a datagram again.
    OutletRoom { socket: Id },
}

/// When something is to happen; equal times in the order in which they were set.
#[derive(Debug)]
struct Due {
    at: Time,
    number: u64,
    occurrence: Occurrence,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.number == other.number
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// All of it. Maps are ordered and keyed by numbers that are never used twice, so nothing depends on chance but what
/// is drawn.
pub(crate) struct State {
    pub(crate) now: Time,
    pub(crate) live: bool,
    pub(crate) options: Options,
    pub(crate) random: Random,
    next_id: Id,
    queue: BinaryHeap<Reverse<Due>>,
    number: u64,
    /// What follows from what is being done, in this very moment.
    pub(crate) at_once: VecDeque<Occurrence>,
    /// To be woken once nothing is locked.
    pub(crate) wakes: VecDeque<Waker>,
    /// To be dropped then, since that may run anything too.
    pub(crate) old: VecDeque<Waker>,
    /// How often something has changed that a foreign thread may wait for.
    pub(crate) changes: u64,
    /// A thread drives this world.
    pub(crate) driven: bool,
    /// Threads that wait for a change.
    waiting: usize,
    pub(crate) hosts: Vec<Host>,
    pub(crate) ends: BTreeMap<Id, End>,
    pub(crate) sockets: BTreeMap<Id, Socket>,
    pub(crate) outlets: BTreeMap<Id, Outlet>,
    pub(crate) shards: BTreeMap<Id, Place>,
    /// Shards that may be polled now.
    pub(crate) ready: Vec<Id>,
    /// Alarms that may be due.
    pub(crate) alarms: Vec<Id>,
    /// Launches that the driver has not taken up yet.
    pub(crate) fresh: VecDeque<Fresh>,
    pub(crate) lookups: BTreeMap<Id, crate::names::Asked>,
    pub(crate) rules: Vec<Rule>,
    /// Hosts that rules name and that there are not yet.
    pub(crate) unknown: BTreeSet<Box<str>>,
    pub(crate) trace: Trace,
    /// The shard that is polled at the moment: its host, and its number there.
    pub(crate) polled: Option<(usize, usize)>,
    pub(crate) steps: u64,
    /// What was found to be left over, one line each.
    pub(crate) leaks: Vec<String>,
    /// Shards on which tasks panicked, one line each.
    pub(crate) panics: Vec<String>,
}

impl State {
    fn new(seed: u64, options: Options, live: bool) -> State {
        State {
            now: Time::ZERO,
            live,
            options,
            random: Random::new(seed),
            next_id: 1,
            queue: BinaryHeap::new(),
            number: 0,
            at_once: VecDeque::new(),
            wakes: VecDeque::new(),
            old: VecDeque::new(),
            changes: 0,
            driven: false,
            waiting: 0,
            hosts: Vec::new(),
            ends: BTreeMap::new(),
            sockets: BTreeMap::new(),
            outlets: BTreeMap::new(),
            shards: BTreeMap::new(),
            ready: Vec::new(),
            alarms: Vec::new(),
            fresh: VecDeque::new(),
            lookups: BTreeMap::new(),
            rules: Vec::new(),
            unknown: BTreeSet::new(),
            trace: Trace::default(),
            polled: None,
            steps: 0,
            leaks: Vec::new(),
            panics: Vec::new(),
        }
    }

    /// Takes the hosts that there are out of those that rules name.
    pub(crate) fn forget_known(&mut self) {
        self.unknown.retain(|name| self.hosts.iter().all(|host| host.name != *name));
    }

    pub(crate) fn id(&mut self) -> Id {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Something is to happen after so long; at once, if that is no time at all in a live world, where foreign threads
    /// look while no shard runs.
    pub(crate) fn after(&mut self, wait: Duration, occurrence: Occurrence) {
        self.at(self.now + wait, occurrence);
    }

    pub(crate) fn at(&mut self, at: Time, occurrence: Occurrence) {
        if self.live && at <= self.now {
            self.at_once.push_back(occurrence);
        } else {
            self.later(at, occurrence);
        }
    }

    /// The same, and never in this call.
    pub(crate) fn later(&mut self, at: Time, occurrence: Occurrence) {
        self.number += 1;
        self.queue.push(Reverse(Due { at, number: self.number, occurrence }));
    }

    /// When the next thing is to happen.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse(due)| due.at)
    }

    /// The next thing that is due by now.
    pub(crate) fn due(&mut self) -> Option<Occurrence> {
        if self.next()? > self.now {
            return None;
        }
        self.queue.pop().map(|Reverse(due)| due.occurrence)
    }

    pub(crate) fn happen(&mut self, occurrence: Occurrence) {
        self.steps += 1;
        match occurrence {
            Occurrence::Segment { from, to, bytes } => self.arrive(from, to, bytes),
            Occurrence::Fin { to } => self.finish(to),
            Occurrence::Break { end, error } => self.break_end(end, error),
            Occurrence::Room { end } => self.room(end),
            Occurrence::GiveUp { end, held_since } => self.give_up(end, held_since),
            Occurrence::TryAgain { end, attempt } => self.set_out(end, false, attempt),
            Occurrence::Readable { end } => self.wake_reader(end),
            Occurrence::Syn { end, attempt } => self.syn(end, attempt),
            Occurrence::Answer { end, error } => self.answered(end, error),
            Occurrence::Run { shard } => self.run(shard),
            Occurrence::Alarm { shard } => self.alarms.push(shard),
            Occurrence::Found { lookup } => self.found(lookup),
            Occurrence::Datagram { there, packet } => self.datagram(there, packet),
            Occurrence::Unreachable { socket } => self.unreachable(socket),
            Occurrence::OutletRoom { socket } => self.outlet_room(socket),
        }
    }

    /// Nobody has anything to do now.
    pub(crate) fn is_quiet(&self) -> bool {
        self.ready.is_empty() && self.alarms.is_empty() && self.fresh.is_empty()
    }

    /// Something has changed; whether anybody waits for that.
    fn changed(&mut self) -> bool {
        self.changes += 1;
        self.waiting > 0
    }

    /// No shard is left: turns and alarms concern nobody. What is on its way between hosts stays so.
    pub(crate) fn forget_shards(&mut self) {
        let concerns_shards =
            |due: &Due| matches!(due.occurrence, Occurrence::Run { .. } | Occurrence::Alarm { .. });
        self.queue.retain(|Reverse(due)| !concerns_shards(due));
        self.ready.clear();
        self.alarms.clear();
    }

    /// Adds to the trace; what happens while a shard of that host is polled is that shard's doing.
    pub(crate) fn note(&mut self, host: usize, shard: Option<usize>, what: What) {
        let (at, polled) = (self.now, self.polled.filter(|(of, _)| *of == host));
        let shard = shard.or(polled.map(|(_, number)| number));
        self.trace.add(Event { at, host, shard, what });
    }

    /// The same about an end: of the shard that it belongs to, if it does.
    pub(crate) fn note_end(&mut self, end: Id, what: What) {
        let Some(known) = self.ends.get(&end) else { return };
        let shard = known.shard.and_then(|shard| self.shards.get(&shard)).map(|place| place.number);
        self.note(known.host, shard, what);
    }

    /// How long something takes from one host to another.
    pub(crate) fn latency(&mut self, from: usize, to: usize) -> Duration {
        if self.live {
            return Duration::ZERO;
        }
        let drawn = self.random.duration(self.options.latency_min, self.options.latency_max);
        if from == to { drawn / 10 } else { drawn }
    }

    /// Asks the rules about this moment: the verdict of the first that strikes, and until when its time lasts.
    pub(crate) fn ask(
        &mut self,
        moment: Moment,
        from: (usize, Option<SocketAddr>),
        to: (usize, Option<SocketAddr>),
        shard: Option<usize>,
    ) -> Option<(Verdict, Time)> {
        let State { rules, hosts, random, now, .. } = self;
        if rules.is_empty() {
            return None;
        }
        let party = |(host, at): (usize, Option<SocketAddr>)| Party {
            host: hosts.get(host).map(|host| &*host.name),
            shard,
            at,
        };
        let (from_party, to_party) = (party(from), party(to));
        let (number, rule) = rules.iter_mut().enumerate().find(|(_, rule)| {
            rule.concerns(moment, *now, &from_party, &to_party) && random.chance(rule.probability)
        })?;
        rule.spend();
        let (verdict, end) = (rule.verdict, rule.end);
        self.note(from.0, shard, What::Fault { rule: number, verdict });
        Some((verdict, end))
    }

    /// A probability of the options, drawn; never in a live world.
    pub(crate) fn chance(&mut self, of: fn(&Options) -> f64) -> bool {
        let probability = of(&self.options);
        !self.live && self.random.chance(probability)
    }

    /// A time up to a limit of the options; none in a live world.
    pub(crate) fn up_to(&mut self, of: fn(&Options) -> Duration) -> Duration {
        let most = of(&self.options);
        if self.live { Duration::ZERO } else { self.random.duration(Duration::ZERO, most) }
    }
}
