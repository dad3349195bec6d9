//! What one shard has of the proxies: their counters, their listeners, and the version that new connections go by.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use waterwheel_reactor::Time;

use super::access::{AccessLog, ShardLog};
use super::budget::Budget;
use super::checks::{self, Checking};
use super::clients::{ClientDoor, Clients};
use super::counters::{Cells, Counters, ProxyCounters, ShardReport, UpstreamCounters};
use super::doors::overlap;
use super::down::Down;
use super::news;
use super::plan::{Plan, Version};
use super::serve::serve_client;
use super::upstreams::{Labels, Upstream, Upstreams};
use crate::mesh::{OpenError, Replicated};
use crate::net::{AcceptCounters, AcceptStats, Acceptor, Leaving, Listening, Places};
use crate::shard::{Phase, Shard, Task};

/// One proxy on one shard, over all versions.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) cells: Cells,
    /// Where connections are told of that have ended.
    pub(super) log: Option<Rc<ShardLog>>,
    /// What a new connection goes by, to its end.
    current: RefCell<Rc<Current>>,
    /// The current version's.
    checking: RefCell<Option<Checking>>,
    places: Places,
    doors: RefCell<Vec<Door>>,
    /// Of the doors that are no more.
    accepted: Cell<AcceptStats>,
}

/// One version of one proxy on one shard. Lives until the last connection that began with it has ended.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) plan: Arc<Plan>,
    /// By the place of their group.
    pub(super) upstreams: Vec<Upstreams>,
    pub(super) budget: Budget,
    /// The shard's life began with it: what others know of its upstreams may be more than what is known here.
    pub(super) is_first: bool,
    /// Where clients have limits.
    pub(super) clients: Option<ClientDoor>,
}

/// A listener at work.
#[derive(Debug)]
struct Door {
    listening: Listening,
    counters: Rc<AcceptCounters>,
    leaving: Leaving,
    moving: Rc<Moving>,
}

/// Whose a door is to be from now on, if another part's.
#[derive(Debug, Default)]
struct Moving {
    /// Not counted: it has the door.
    to: RefCell<Weak<Part>>,
    waker: RefCell<Option<Waker>>,
}

impl Moving {
    fn go(&self, to: &Rc<Part>) {
        self.to.replace(Rc::downgrade(to));
        let waker = self.waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    async fn gone(&self) -> Rc<Part> {
        poll_fn(|cx| {
            self.waker.replace(Some(cx.waker().clone()));
            self.to().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Where to, once.
    fn to(&self) -> Option<Rc<Part>> {
        self.to.take().upgrade()
    }
}

impl Part {
    fn new(
        shard: &Shard,
        current: Rc<Current>,
        health: &Replicated<Down>,
        log: Option<Rc<ShardLog>>,
    ) -> Rc<Part> {
        let plan = current.plan.clone();
        let checking = RefCell::new(current.begin(shard, health));
        let places = Places::new(shard.part_of(plan.settings.connections).len());
        let (cells, doors, accepted) = Default::default();
        Rc::new(Part { cells, log, current: RefCell::new(current), checking, places, doors, accepted })
    }

    /// The version that a connection that begins now goes by.
    pub(super) fn current(&self) -> Rc<Current> {
        self.current.borrow().clone()
    }

    /// From now on connections go by this. Of upstreams that were there before all is kept that was learnt of them.
    fn change(&self, shard: &Shard, current: Rc<Current>, health: &Replicated<Down>) {
        if Rc::ptr_eq(&self.current(), &current) {
            return;
        }
        // Those of before end first.
        if let Some(checking) = self.checking.take() {
            checks::end(shard, &self.current(), health);
            drop(checking);
        }
        self.checking.replace(current.begin(shard, health));
        self.places.set_most(shard.part_of(current.plan.settings.connections).len());
        let before = self.current.replace(current);
        drop(before);
    }

    /// Nobody comes any more.
    fn end(&self) {
        self.leave_others(&[]);
        drop(self.checking.take());
    }

    fn has(&self, listening: &Listening) -> bool {
        self.doors.borrow().iter().any(|door| door.listening.is(listening))
    }

    /// Whether clients of a listener came to this part before there was that listener.
    fn covers(&self, listening: &Listening) -> bool {
        self.doors.borrow().iter().any(|door| overlap(door.listening.local(), listening.local()))
    }

    /// Leaves those listeners.
    fn leave(&self, is_left: impl Fn(&Listening) -> bool) {
        let doors = self.doors.borrow();
        doors.iter().filter(|door| is_left(&door.listening)).for_each(|door| door.leaving.leave());
    }

    /// Leaves the listeners that are not among these.
    fn leave_others(&self, kept: &[Listening]) {
        self.leave(|listening| !kept.iter().any(|kept| kept.is(listening)));
    }

    /// Serves the clients of a listener until it is left or the shard stops.
    fn serve(self: &Rc<Part>, listening: &Listening, mut acceptor: Acceptor) -> Serving {
        let (counters, leaving, moving) = (acceptor.counters(), acceptor.leaving(), Rc::<Moving>::default());
        let door = Door { listening: listening.clone(), counters, leaving, moving: moving.clone() };
        self.doors.borrow_mut().push(door);
        let (mut part, listening) = (self.clone(), listening.clone());
        Box::pin(async move {
            loop {
                let serving = part.clone();
                let serve = Rc::new(move |client| serve_client(serving.clone(), client));
                let places = part.places.clone();
                // The move first: who comes after it is the other part's.
                let until =
                    match select(pin!(moving.gone()), pin!(acceptor.serve_for_now(&places, &serve))).await {
                        Either::Left((to, _)) => {
                            part = to;
                            continue;
                        }
                        Either::Right((until, _)) => until,
                    };
                break acceptor.end(until, &places, &serve).await;
            }
            let part = moving.to().unwrap_or(part);
            part.forget(&listening);
        })
    }

    /// Gives another part the doors to these listeners, with those who wait behind them.
    fn give(&self, to: &Rc<Part>, is_given: impl Fn(&Listening) -> bool) {
        let given =
            self.doors.borrow_mut().extract_if(.., |door| is_given(&door.listening)).collect::<Vec<_>>();
        given.iter().for_each(|door| door.moving.go(to));
        to.doors.borrow_mut().extend(given);
    }

    /// The counters of a door outlive it.
    fn forget(&self, listening: &Listening) {
        let mut doors = self.doors.borrow_mut();
        if let Some(place) = doors.iter().position(|door| door.listening.is(listening)) {
            let door = doors.swap_remove(place);
            self.accepted.set(self.accepted.get() + door.counters.copy());
        }
    }

    fn accepting(&self) -> AcceptStats {
        let doors = self.doors.borrow();
        doors.iter().map(|door| door.counters.copy()).fold(self.accepted.get(), std::ops::Add::add)
    }

    /// Nothing of it is left but its counters.
    fn is_over(&self) -> bool {
        self.doors.borrow().is_empty() && self.cells.active.get() == 0
    }

    #[cfg(test)]
    pub(super) fn of(plan: Plan) -> Rc<Part> {
        let (budget, upstreams) = (Budget::new(None, 1, Time::ZERO), Vec::new());
        let current = Current { plan: Arc::new(plan), upstreams, budget, is_first: true, clients: None };
        let (cells, checking, doors, accepted) = Default::default();
        let current = RefCell::new(Rc::new(current));
        Rc::new(Part { cells, log: None, current, checking, places: Places::new(1), doors, accepted })
    }
}

impl Current {
    fn new(
        shard: &Shard,
        plan: &Arc<Plan>,
        before: &[Upstreams],
        is_first: bool,
        clients: &Clients,
    ) -> Result<Current, OpenError> {
        let budget = Budget::new(plan.settings.retry_budget.as_ref(), shard.count(), shard.now());
        let clients = clients.door(shard, plan.id, &plan.settings.clients)?;
        let upstreams = plan.groups(shard, before)?;
        Ok(Current { plan: plan.clone(), upstreams, budget, is_first, clients })
    }

    /// The groups that are checked.
    pub(super) fn checked(&self) -> impl Iterator<Item = &Upstreams> {
        self.upstreams.iter().filter(|group| group.checks().is_some())
    }

    /// From now on it counts: its limits of connections do, and its checks, if it has any, begin.
    fn begin(self: &Rc<Current>, shard: &Shard, health: &Replicated<Down>) -> Option<Checking> {
        self.upstreams.iter().for_each(Upstreams::begin);
        self.checked().next()?;
        let begun = checks::begin(shard, self, health);
        begun.inspect_err(|error| tracing::error!("upstreams are not checked: {error}")).ok()
    }
}

/// For each plan the part that goes on as it: that of its name or, if it is another name of a proxy of before, which had one
/// of its listeners, or one that overlaps it, and is gone under its own, that one's.
fn heirs(parts: &[Rc<Part>], version: &Version) -> Vec<Option<Rc<Part>>> {
    let is_called = |part: &Rc<Part>, plan: &Arc<Plan>| part.current().plan.name == plan.name;
    let mut gone: Vec<&Rc<Part>> =
        parts.iter().filter(|part| !version.plans.iter().any(|plan| is_called(part, plan))).collect();
    let of = |plan: &Arc<Plan>| {
        let had_one = |part: &&Rc<Part>| plan.listeners.iter().any(|own| part.has(own) || part.covers(own));
        let renamed = || Some(gone.swap_remove(gone.iter().position(had_one)?));
        parts.iter().find(|part| is_called(part, plan)).or_else(renamed).cloned()
    };
    version.plans.iter().map(of).collect()
}

/// Each listener of a version, with whose it is.
fn listeners_of<'v>(
    parts: &'v [Rc<Part>],
    version: &'v Version,
) -> impl Iterator<Item = (&'v Rc<Part>, &'v Listening)> {
    let each = parts.iter().zip(&version.plans);
    each.flat_map(|(part, plan)| plan.listeners.iter().map(move |listening| (part, listening)))
}

type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// All proxies on one shard.
#[derive(Debug)]
pub(super) struct State {
    /// What the checks found, of all proxies.
    health: Replicated<Down>,
    clients: Clients,
    log: Option<Rc<ShardLog>>,
    /// The version's number.
    version: Cell<u64>,
    /// In the version's order.
    parts: RefCell<Vec<Rc<Part>>>,
    /// Not in the version any more, but there are connections left.
    leaving: RefCell<Vec<Rc<Part>>>,
    /// What those had counted of which nothing is left.
    gone: Cell<(Counters, AcceptStats)>,
    prepared: RefCell<Option<Prepared>>,
    arriving: RefCell<Arriving>,
    /// When it is forgotten what was known of upstreams that are not checked any more.
    pub(super) forgets_at: Cell<Option<Time>>,
}

/// Listeners on their way to the task that serves them.
#[derive(Default)]
struct Arriving {
    serving: Vec<Serving>,
    waker: Option<Waker>,
}

impl std::fmt::Debug for Arriving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Arriving").field(&self.serving.len()).finish()
    }
}

/// The new listeners of a version that may come: opened, and not served.
#[derive(Debug)]
struct Prepared {
    number: u64,
    opened: Opened,
    /// Gives it up.
    forgetting: Option<Task<()>>,
}

/// What was prepared and never comes is given up after so long: whoever asked for it has failed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// What a proxy is from now on, and the part that goes on as it.
type Succession = (Rc<Current>, Option<Rc<Part>>);

/// What a version has and the one before had not.
#[derive(Debug, Default)]
struct Opened {
    /// In the version's order.
    currents: Vec<Succession>,
    acceptors: Vec<(Listening, Acceptor)>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.forgetting.take().into_iter().for_each(Task::cancel);
    }
}

impl State {
    /// Opens all that a version has.
    pub(super) fn begin(
        shard: &Shard,
        version: &Version,
        (health, clients): (&Replicated<Down>, &Clients),
        log: Option<&AccessLog>,
    ) -> io::Result<Rc<State>> {
        let state = State {
            health: health.clone(),
            clients: clients.clone(),
            log: log.map(|log| log.on(shard)),
            version: Cell::new(version.number),
            parts: RefCell::default(),
            leaving: RefCell::default(),
            gone: Cell::default(),
            prepared: RefCell::default(),
            arriving: RefCell::default(),
            forgets_at: Cell::default(),
        };
        let state = Rc::new(state);
        let opened = state.open(shard, version)?;
        state.take(shard, version, opened);
        Ok(state)
    }

    /// Opens what this shard does not have of a version, once: a listener that is left until the version comes, or a client that
    /// goes, changes nothing in who goes on as what.
    fn open(&self, shard: &Shard, version: &Version) -> io::Result<Opened> {
        let parts = self.parts.borrow();
        let is_first = parts.is_empty();
        let current = |(plan, heir): (&Arc<Plan>, Option<Rc<Part>>)| {
            let before = heir.as_ref().map(|part| part.current());
            let current = match &before {
                Some(before) if Arc::ptr_eq(&before.plan, plan) => before.clone(),
                Some(before) => {
                    Rc::new(Current::new(shard, plan, &before.upstreams, is_first, &self.clients)?)
                }
                None => Rc::new(Current::new(shard, plan, &[], is_first, &self.clients)?),
            };
            Ok((current, heir))
        };
        let heirs = heirs(&parts, version);
        let currents = version.plans.iter().zip(heirs).map(current).collect::<Result<Vec<_>, OpenError>>();
        let currents = currents.map_err(io::Error::other)?;
        let mut acceptors = Vec::new();
        for listening in version.plans.iter().flat_map(|plan| &plan.listeners) {
            if !parts.iter().any(|part| part.has(listening)) {
                match shard.accept_on(listening) {
                    Ok(acceptor) => acceptors.push((listening.clone(), acceptor)),
                    Err(error) => {
                        acceptors.into_iter().for_each(|(_, acceptor): (_, Acceptor)| acceptor.give_back());
                        return Err(error);
                    }
                }
            }
        }
        Ok(Opened { currents, acceptors })
    }

    /// Opens what a version adds, so that nothing can go wrong when it comes.
    pub(super) fn prepare(self: &Rc<State>, shard: &Shard, version: &Version) -> io::Result<()> {
        let number = version.number;
        if number <= self.version.get() {
            return Ok(());
        }
        self.abandon(None);
        let opened = self.open(shard, version)?;
        let (over, state) = (shard.sleep(FORGOTTEN_AFTER), Rc::downgrade(self));
        let forgetting = shard.spawn("forget a change", async move {
            over.await;
            if let Some(state) = state.upgrade() {
                state.abandon(Some(number));
            }
        });
        self.prepared.replace(Some(Prepared { number, opened, forgetting: Some(forgetting) }));
        Ok(())
    }

    /// The version of this number, or whichever was prepared, does not come.
    pub(super) fn abandon(&self, number: Option<u64>) {
        let meant = |prepared: &mut Prepared| number.is_none_or(|number| prepared.number == number);
        let prepared = self.prepared.borrow_mut().take_if(meant);
        let Some(mut prepared) = prepared else { return };
        // Who came to a listener that took clients away from another meant that one.
        for (listening, acceptor) in std::mem::take(&mut prepared.opened.acceptors) {
            if let Some(part) = self.parts.borrow().iter().find(|part| part.covers(&listening)) {
                let serving = part.serve(&listening, acceptor);
                part.leave(|door| door.is(&listening));
                self.arrive([serving]);
            }
        }
    }

    /// From now on these are served.
    fn arrive(&self, serving: impl IntoIterator<Item = Serving>) {
        let mut arriving = self.arriving.borrow_mut();
        arriving.serving.extend(serving);
        arriving.waker.take().into_iter().for_each(Waker::wake);
    }

    /// From now on clients are served by this version.
    pub(super) fn commit(self: &Rc<State>, shard: &Shard, version: &Version) -> io::Result<()> {
        if version.number <= self.version.get() {
            return Ok(());
        }
        let prepared = self.prepared.borrow_mut().take_if(|prepared| prepared.number == version.number);
        // Not prepared: this shard has begun again in between.
        let opened = match prepared {
            Some(mut prepared) => std::mem::take(&mut prepared.opened),
            None => self.open(shard, version)?,
        };
        self.take(shard, version, opened);
        self.version.set(version.number);
        Ok(())
    }

    fn take(self: &Rc<State>, shard: &Shard, version: &Version, opened: Opened) {
        let Opened { currents, mut acceptors } = opened;
        let mut before = self.parts.take();
        self.tell_of(shard, &before, &currents);
        let part_of = |(current, heir): (Rc<Current>, Option<Rc<Part>>)| {
            let new = || Part::new(shard, current.clone(), &self.health, self.log.clone());
            let part = heir.unwrap_or_else(new);
            part.change(shard, current, &self.health);
            part
        };
        let parts: Vec<Rc<Part>> = currents.into_iter().map(part_of).collect();
        // Before anybody leaves one.
        for (part, listening) in listeners_of(&parts, version) {
            let others = before.iter().filter(|other| !Rc::ptr_eq(other, part));
            others.for_each(|other| other.give(part, |door| door.is(listening)));
        }
        // Who still comes to one that is given up means the one that overlaps it.
        for (part, listening) in listeners_of(&parts, version) {
            let stays = |door: &Listening| listeners_of(&parts, version).any(|(_, other)| other.is(door));
            let gives = |door: &Listening| !stays(door) && overlap(door.local(), listening.local());
            let others = before.iter().filter(|other| !Rc::ptr_eq(other, part));
            others.for_each(|other| other.give(part, gives));
        }
        let mut serving = Vec::new();
        for (part, plan) in parts.iter().zip(&version.plans) {
            part.leave_others(&plan.listeners);
            let is_own = |(new, _): &mut (Listening, _)| plan.listeners.iter().any(|own| own.is(new));
            let own = acceptors.extract_if(.., is_own);
            serving.extend(own.map(|(listening, acceptor)| part.serve(&listening, acceptor)));
        }
        before.retain(|before| !parts.iter().any(|part| Rc::ptr_eq(part, before)));
        before.iter().for_each(|part| part.end());
        self.leaving.borrow_mut().extend(before);
        self.parts.replace(parts);
        self.sweep();
        self.arrive(serving);
    }

    /// Lets the others know what is new of upstreams in a version, before anything of it is looked at here.
    fn tell_of(self: &Rc<State>, shard: &Shard, before: &[Rc<Part>], currents: &[Succession]) {
        let is_new = |(current, heir): &&Succession| {
            heir.as_ref().is_none_or(|heir| !Rc::ptr_eq(&heir.current(), current))
        };
        let changed: Vec<Rc<Current>> = currents.iter().filter(is_new).map(|(new, _)| new.clone()).collect();
        let told = news::change(shard, &self.health, &changed);
        let _ = told.inspect_err(|error| tracing::error!("upstreams are not told of: {error}"));
        // Also where this life may follow one that was about to.
        let may_be_late = before.is_empty() && self.version.get() > 0;
        if may_be_late || before.iter().any(|part| part.current().checked().next().is_some()) {
            news::forget_later(shard, self);
        }
    }

    pub(super) fn health(&self) -> &Replicated<Down> {
        &self.health
    }

    /// What new connections go by, of all proxies.
    pub(super) fn currents(&self) -> Vec<Rc<Current>> {
        self.parts.borrow().iter().map(|part| part.current()).collect()
    }

    /// Keeps only the counters of what is over.
    fn sweep(&self) {
        let over: Vec<Rc<Part>> = self.leaving.borrow_mut().extract_if(.., |part| part.is_over()).collect();
        for part in over {
            let (counters, accepting) = self.gone.get();
            self.gone.set((counters + part.cells.copy(), accepting + part.accepting()));
        }
    }

    /// Serves until the shard stops and all connections have ended, or its time is up.
    pub(super) async fn serve(&self, shard: &Shard) {
        let mut time_up = pin!(shard.time_up());
        let mut serving: Vec<Serving> = Vec::new();
        poll_fn(|cx| {
            let mut arriving = self.arriving.borrow_mut();
            serving.append(&mut arriving.serving);
            arriving.waker = Some(cx.waker().clone());
            drop(arriving);
            serving.retain_mut(|door| door.as_mut().poll(cx).is_pending());
            let over = time_up.as_mut().poll(cx).is_ready();
            if over || (serving.is_empty() && shard.phase() != Phase::Running) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        self.abandon(None);
        // Those of proxies that a change has removed, too: their doors were over long before.
        let left: Vec<Rc<Part>> = self.leaving.borrow().clone();
        let ended = join_all(left.iter().map(|part| part.places.free()));
        select(pin!(ended), time_up).await;
    }

    pub(super) fn report(&self, shard: &Shard) -> ShardReport {
        let (counters, accepting) = self.totals();
        let parts = self.parts.borrow();
        let named = parts.iter().filter_map(|part| {
            let name = part.current().plan.name.clone()?;
            Some(ProxyCounters { name, counters: part.cells.copy() })
        });
        ShardReport {
            shard: shard.id().index(),
            version: self.version.get(),
            counters,
            accepting,
            proxies: named.collect(),
            upstreams: self.upstreams(shard),
            tasks: shard.stats(),
            messages: shard.mesh_stats(),
        }
    }

    /// What all its proxies have counted together, those that a change has removed included.
    pub(super) fn totals(&self) -> (Counters, AcceptStats) {
        self.sweep();
        let (parts, leaving) = (self.parts.borrow(), self.leaving.borrow());
        let add = |(counters, accepting), part: &Rc<Part>| {
            (counters + part.cells.copy(), accepting + part.accepting())
        };
        parts.iter().chain(&*leaving).fold(self.gone.get(), add)
    }

    /// Each upstream of all proxies, with its labels.
    pub(super) fn each_upstream(&self, told: &mut dyn FnMut(Labels, &Upstream)) {
        let parts = self.parts.borrow();
        parts.iter().for_each(|part| part.current().upstreams.iter().for_each(|group| group.each(told)));
    }

    pub(super) fn upstreams(&self, shard: &Shard) -> Vec<UpstreamCounters> {
        let (parts, now) = (self.parts.borrow(), shard.now());
        let of_part = |part: &Rc<Part>| {
            let current = part.current();
            let all: Vec<_> = current.upstreams.iter().flat_map(|group| group.counters(now)).collect();
            let name = current.plan.name.as_deref();
            all.into_iter().map(|counters| counters.of(name)).collect::<Vec<_>>()
        };
        parts.iter().flat_map(of_part).collect()
    }
}
