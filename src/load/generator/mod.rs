//! The generator of one shard: plans, dispatches, keeps connections, counts.
//!
//! Tasks: one per connection ([`link`]), and the one that runs the phases, which also walks the schedule. They share a
//! [`Generator`] that never leaves the shard. Once warm, a request allocates nothing.

mod link;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use waterwheel_reactor::{Address, ConnectOptions, Time};

use super::plan::Plan;
use super::pool::{Due, Offered, Pool};
use super::progress::Interval;
use super::schedule::{Schedule, Share};
use super::tally::{Fault, FaultStage, Faults, Tally};
use super::usage::ThreadUsage;
use super::workload::Workload;
use crate::net::Connection;
use crate::shard::{Shard, Sleep, Task};

/// Connections of one shard that are being made at the same time: well below a usual backlog, since what does not fit
/// there is asked for again after a second.
const CONNECTING_MAX: usize = 64;
/// Arrivals dispatched without a look at anything else.
const DISPATCHED_PER_LOOK: u32 = 64;

/// One shard's part of a run.
#[derive(Debug)]
pub(super) struct Generator<W> {
    shard: Shard,
    workload: Arc<W>,
    addresses: Arc<[Address]>,
    timeout: Duration,
    share: Share,
    links: Box<[Link]>,
    pool: RefCell<Pool>,
    phase: Cell<Phase>,
    tally: RefCell<Tally>,
    /// What happened since the last line of progress; `None`: nobody looks.
    interval: RefCell<Option<Box<Interval>>>,
    /// Requests that have a connection, also one that does not know it yet, and are not answered.
    in_flight: Cell<usize>,
    /// Who waits for the schedule, or for the last answer.
    conductor: RefCell<Option<Waker>>,
    /// Connections made after the first, and those that are established now.
    reconnects: Cell<u64>,
    established: Cell<usize>,
}

/// What is known about one connection, for the tasks that do not own it.
#[derive(Debug, Default)]
struct Link {
    /// The request that it was given while it was idle.
    given: Cell<Option<Due>>,
    /// The request that it is busy with, and whether it was sent.
    busy: Cell<Option<Due>>,
    sent: Cell<bool>,
    idle_since: Cell<Time>,
    waker: RefCell<Option<Waker>>,
    /// Requests that it brought to an end in this phase.
    done: Cell<u64>,
    /// The latest attempt to connect failed. Not the same as "not established": that is also a connection between two
    /// requests to a target that closes after each.
    refused: Cell<bool>,
}

/// A stretch of time in which requests are planned.
#[derive(Clone, Copy, Debug)]
struct Phase {
    number: u32,
    start: Time,
    end: Time,
    closed_loop: bool,
}

/// What a phase came to.
#[derive(Debug)]
pub(super) struct PhaseResult {
    pub(super) tally: Tally,
    /// How many requests each connection brought to an end.
    pub(super) per_link: Vec<u64>,
    /// When planning began and ended, and when the last answer was no longer waited for.
    pub(super) start: Time,
    pub(super) end: Time,
    pub(super) over: Time,
    /// What this shard's thread had of its CPU from the start to the end of planning, and how long that was; without
    /// the wait for the last answers, in which there is next to nothing to do.
    pub(super) thread: Option<ThreadUsage>,
    pub(super) wall: Duration,
    /// Connections that are established at the end.
    pub(super) established: usize,
    /// Connections whose latest attempt to connect failed.
    pub(super) refused: usize,
    /// Connections made anew since the start of the run.
    pub(super) reconnects: u64,
}

impl<W: Workload> Generator<W> {
    pub(super) fn new(
        shard: Shard,
        workload: Arc<W>,
        addresses: Arc<[Address]>,
        plan: &Plan,
    ) -> Rc<Generator<W>> {
        let share = Share::of(shard.id().index(), shard.count(), plan.connections);
        let count = share.count as usize;
        let waiting_max = plan.waiting_max * count / plan.connections as usize;
        Rc::new(Generator {
            shard,
            workload,
            addresses,
            timeout: plan.timeout,
            share,
            links: (0..count).map(|_| Link::default()).collect(),
            pool: RefCell::new(Pool::new(count, waiting_max)),
            phase: Cell::new(Phase { number: 0, start: Time::ZERO, end: Time::ZERO, closed_loop: false }),
            tally: RefCell::default(),
            interval: RefCell::new(None),
            in_flight: Cell::new(0),
            conductor: RefCell::new(None),
            reconnects: Cell::new(0),
            established: Cell::new(0),
        })
    }

    pub(super) fn share(&self) -> Share {
        self.share
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Makes all connections, a few at a time, and adds their tasks to `tasks`. Those that could not be made go on
    /// trying by themselves. After as many failures in a row as are tried at a time the others are left to that as
    /// well: a target that is not there must not cost a timeout for each few of ten thousand.
    pub(super) async fn connect(self: &Rc<Self>, tasks: &mut Vec<Task<()>>) {
        let failed = Cell::new(0);
        let mut attempts = stream::iter(0..self.links.len())
            .map(|at| {
                let failed = &failed;
                async move {
                    let goes = failed.get() < CONNECTING_MAX;
                    (at, if goes { Some(self.attempt().await) } else { None })
                }
            })
            .buffer_unordered(CONNECTING_MAX);
        while let Some((at, attempt)) = attempts.next().await {
            let connection = match attempt {
                Some(Ok(connection)) => {
                    failed.set(0);
                    Some(connection)
                }
                Some(Err(fault)) => {
                    failed.set(failed.get() + 1);
                    self.tally.borrow_mut().faults.count(fault);
                    None
                }
                None => None,
            };
            self.links[at].refused.set(connection.is_none());
            tasks.push(self.shard.spawn("load-connection", link::keep(self.clone(), at, connection)));
        }
    }

    /// Why connections could not be made so far; a phase begins with no fault of the time before.
    pub(super) fn take_faults(&self) -> Faults {
        std::mem::take(&mut self.tally.borrow_mut().faults)
    }

    /// One attempt to connect, to each address until one answers.
    async fn attempt(&self) -> Result<Connection, Fault> {
        let mut fault = Fault::of(FaultStage::Connect, &std::io::ErrorKind::AddrNotAvailable.into());
        let options = ConnectOptions::default();
        for address in self.addresses.iter() {
            let connecting = self.shard.connect(address, &options);
            match self
                .shard
                .timeout(self.timeout, connecting)
                .await
                .unwrap_or_else(|elapsed| Err(elapsed.into()))
            {
                Ok(connection) => {
                    self.established.set(self.established.get() + 1);
                    return Ok(connection);
                }
                Err(error) => fault = Fault::of(FaultStage::Connect, &error),
            }
        }
        Err(fault)
    }

    pub(super) fn established(&self) -> usize {
        self.established.get()
    }

    /// Runs one phase from `start`: plans for `length`, then waits up to `drain` for the answers that are missing.
    /// `schedule` is `None` in a closed loop, and also on a shard that has no connection.
    pub(super) async fn run_phase(
        self: &Rc<Self>,
        start: Time,
        length: Duration,
        drain: Duration,
        schedule: Option<Schedule>,
        closed_loop: bool,
    ) -> PhaseResult {
        let number = self.phase.get().number + 1;
        self.tally.replace(Tally::default());
        self.links.iter().for_each(|link| link.done.set(0));
        self.phase.set(Phase { number, start, end: start + length, closed_loop });
        let before = ThreadUsage::current();
        match schedule {
            Some(schedule) => self.walk(schedule, start, drain).await,
            None => {
                self.until(start).await;
                self.release_idle();
            }
        }
        self.until_end().await;
        let thread = before.zip(ThreadUsage::current()).map(|(before, after)| after.since(&before));
        let now = self.shard.now();
        self.until_answered(now + drain).await;
        PhaseResult { thread, wall: now.since(start), ..self.close_phase() }
    }

    /// Ends planning now; what was planned until now still gets its answers.
    pub(super) fn interrupt(&self) {
        let phase = self.phase.get();
        self.phase.set(Phase { end: phase.end.min(self.shard.now()), ..phase });
        self.wake_conductor();
    }

    /// Dispatches each request of the schedule when it is due. The clock is read once per request. What is not
    /// dispatched when the end is further away than `drain` is given up: more was planned than this shard can do.
    async fn walk(&self, schedule: Schedule, start: Time, drain: Duration) {
        let mut sleep = self.shard.sleep_until(start);
        let mut since_look = 0;
        let mut schedule = schedule.map(|at| start + Duration::from_nanos(at));
        while let Some(planned) = schedule.next() {
            if planned >= self.phase.get().end {
                return;
            }
            let mut now = self.shard.now();
            if now < planned {
                self.sleep_unless_interrupted(&mut sleep, planned).await;
                if planned >= self.phase.get().end {
                    return;
                }
                now = self.shard.now();
                since_look = 0;
            }
            if self.is_ending() {
                self.interrupt();
            }
            if self.is_ending() || now >= self.phase.get().end + drain {
                return self.give_up(std::iter::once(planned).chain(schedule)).await;
            }
            self.arrive(planned, now);
            since_look += 1;
            if since_look == DISPATCHED_PER_LOOK {
                self.shard.yield_now().await;
                since_look = 0;
            }
        }
    }

    /// Counts what was still planned and will not be sent: late by now already, and by our own fault.
    async fn give_up(&self, rest: impl Iterator<Item = Time>) {
        let now = self.shard.now();
        for (n, planned) in rest.take_while(|planned| *planned < self.phase.get().end).enumerate() {
            self.tally.borrow_mut().give_up(now.since(planned));
            if n % 64 == 63 && !self.is_ending() {
                self.shard.yield_if_needed().await;
            }
        }
    }

    fn arrive(&self, planned: Time, now: Time) {
        let phase = self.phase.get();
        let due = Due { planned, dispatched: now, waited: false, phase: phase.number };
        let mut tally = self.tally.borrow_mut();
        tally.account.planned += 1;
        tally.late += u64::from(now >= phase.end);
        if let Some(interval) = &mut *self.interval.borrow_mut() {
            interval.planned += 1;
        }
        match self.pool.borrow_mut().arrive(due) {
            Offered::Taken(at) => self.give(at, due),
            Offered::Waits => {}
            Offered::Shed => tally.account.shed += 1,
        }
    }

    /// Gives a request to an idle connection.
    fn give(&self, at: usize, due: Due) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.links[at].given.set(Some(due));
        if let Some(waker) = &*self.links[at].waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// A closed loop begins: every idle connection starts.
    fn release_idle(&self) {
        while self.phase.get().closed_loop {
            let Some(at) = self.pool.borrow_mut().take_idle() else { return };
            match self.next_in_loop() {
                Some(due) => self.give(at, due),
                None => {
                    self.pool.borrow_mut().free(at);
                    return;
                }
            }
        }
    }

    /// The next request of a connection in a closed loop, while the phase lasts: planned when the connection is free.
    fn next_in_loop(&self) -> Option<Due> {
        let phase = self.phase.get();
        if !phase.closed_loop {
            return None;
        }
        let now = self.shard.now();
        if now < phase.start || now >= phase.end {
            return None;
        }
        self.tally.borrow_mut().account.planned += 1;
        if let Some(interval) = &mut *self.interval.borrow_mut() {
            interval.planned += 1;
        }
        Some(Due { planned: now, dispatched: now, waited: false, phase: phase.number })
    }

    /// Sorts what has not come to its end: waiting requests were not sent, others are in flight.
    fn close_phase(&self) -> PhaseResult {
        let over = self.shard.now();
        let phase = self.phase.get();
        let mut tally = self.tally.take();
        let at_least = |due: &Due| over.as_nanos().saturating_sub(due.planned.as_nanos());
        for due in self.pool.borrow_mut().give_up() {
            tally.account.unsent += 1;
            tally.unanswered.record(at_least(&due));
            tally.wake_lag.record(due.dispatched.as_nanos().saturating_sub(due.planned.as_nanos()));
        }
        for link in &self.links {
            let given = link.given.get().map(|due| (due, false));
            let request = given.or_else(|| Some((link.busy.get()?, link.sent.get())));
            let Some((due, sent)) = request.filter(|(due, _)| due.phase == phase.number) else { continue };
            *if sent { &mut tally.account.in_flight } else { &mut tally.account.unsent } += 1;
            tally.unanswered.record(at_least(&due));
        }
        // What belongs to this phase is counted; answers that still come are not.
        self.phase.set(Phase { number: phase.number + 1, ..phase });
        PhaseResult {
            tally,
            per_link: self.links.iter().map(|link| link.done.get()).collect(),
            start: phase.start,
            end: phase.end,
            over,
            thread: None,
            wall: Duration::ZERO,
            established: self.established.get(),
            refused: self.links.iter().filter(|link| link.refused.get()).count(),
            reconnects: self.reconnects.get(),
        }
    }

    // ---- progress

    /// From now on intervals are counted.
    pub(super) fn watch(&self) {
        self.interval.replace(Some(Box::default()));
    }

    /// What happened since the last call. What happens from now on is counted in `empty`.
    pub(super) fn swap_interval(&self, empty: Box<Interval>) -> Option<Box<Interval>> {
        let mut interval = self.interval.borrow_mut().replace(empty)?;
        interval.in_flight = self.in_flight.get() as u64;
        interval.waiting = self.pool.borrow().waiting() as u64;
        Some(interval)
    }

    // ---- waiting

    async fn until(&self, moment: Time) {
        let mut sleep = self.shard.sleep_until(moment);
        self.sleep_unless_interrupted(&mut sleep, moment).await;
    }

    /// Waits for the end of the phase, which an interrupt brings forward.
    async fn until_end(&self) {
        let mut sleep = self.shard.sleep_until(self.phase.get().end);
        while self.shard.now() < self.phase.get().end {
            self.sleep_unless_interrupted(&mut sleep, self.phase.get().end).await;
        }
    }

    /// Whether the shard ends in this turn, and polls this for the last time: whoever waits any longer loses the report.
    fn is_ending(&self) -> bool {
        self.shard.phase() == crate::shard::Phase::Ending
    }

    /// Sleeps until `deadline`, or until the phase was interrupted.
    async fn sleep_unless_interrupted(&self, sleep: &mut Sleep, deadline: Time) {
        let end = self.phase.get().end;
        sleep.reset(deadline);
        poll_fn(|cx| {
            if self.is_ending() {
                self.interrupt();
            }
            if self.is_ending() || self.phase.get().end < end {
                return Poll::Ready(());
            }
            self.conduct(cx);
            Pin::new(&mut *sleep).poll(cx)
        })
        .await;
    }

    /// Waits until nothing waits or is in flight, or until `deadline`, or the end of the shard.
    async fn until_answered(&self, deadline: Time) {
        let mut sleep = self.shard.sleep_until(deadline);
        poll_fn(|cx| {
            let all = self.in_flight.get() == 0 && self.pool.borrow().waiting() == 0;
            if all || self.is_ending() {
                return Poll::Ready(());
            }
            self.conduct(cx);
            Pin::new(&mut sleep).poll(cx)
        })
        .await;
    }

    fn conduct(&self, cx: &Context<'_>) {
        remember(&mut self.conductor.borrow_mut(), cx);
    }

    fn wake_conductor(&self) {
        if let Some(waker) = &*self.conductor.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Keeps a waker without touching its count if it is the same one.
fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}
