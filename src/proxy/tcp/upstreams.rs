//! The upstreams of one group as one shard sees them: which of them may be chosen, and what happened at each.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Address, Time};

use super::balance::{Candidate, Chooser};
use super::counters::{UpstreamCounters, UpstreamState, add};
use super::ejection::Record;
use super::line::{Line, Waiting};
use super::selection::Selection;
use super::settings::Balance;
use super::upstream_settings::{Checks, Ejection};
use crate::mesh::{CountLease, CountLimiter, OpenError, Permit};
use crate::shard::{Shard, part_of};

/// An upstream as the settings have it, its name looked up.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) weight: u32,
    /// The most connections over all shards.
    pub(super) limit: Option<CountLease>,
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        let limit = |target: &Target| target.limit.as_ref().map(CountLease::limit);
        (&self.address, self.weight, limit(self)) == (&other.address, other.weight, limit(other))
    }
}

/// One upstream of one shard, in one version of the settings. Counts are this shard's own; nothing is shared.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: Address,
    /// That as text, by which the checks know it.
    pub(super) text: Arc<str>,
    weight: u32,
    /// Gives out the places for connections, if they are limited.
    limiter: Option<CountLimiter>,
    /// How many, in this version of the settings.
    limit: Option<CountLease>,
    /// In the version before, too, under whatever name of its group.
    was_checked: bool,
    known: Rc<Known>,
}

/// What is known of an upstream, in all versions that have it.
#[derive(Debug, Default)]
pub(super) struct Known {
    active: Cell<u64>,
    /// When the last attempt failed, unless one has succeeded since.
    failed_at: Cell<Option<Time>>,
    /// The checks found it so.
    down: Cell<bool>,
    /// When they found it up again.
    up_since: Cell<Option<Time>>,
    record: Record,
    pub(super) counts: Counts,
}

/// What is only counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connected: Cell<u64>,
    pub(super) failed: Cell<u64>,
    pub(super) early_resets: Cell<u64>,
    pub(super) retries_refused: Cell<u64>,
    pub(super) queue_waits: Cell<u64>,
    pub(super) checks_passed: Cell<u64>,
    pub(super) checks_failed: Cell<u64>,
}

/// How long an upstream that could not be connected comes behind the others. Then it is tried again: one attempt in so
/// long, instead of one for each connection.
const SHUNNED: Duration = Duration::from_secs(5);

/// The shortest wait for a place: the other shards may have some to spare, and have to be asked for them.
const ASKING: Duration = Duration::from_millis(100);

/// All upstreams of one group on one shard. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Upstreams(Rc<Group>);

#[derive(Debug)]
struct Group {
    name: Option<String>,
    /// The proxy's name and the group's, for metrics; empty where there is none.
    names: [Arc<str>; 2],
    /// What tells it from the groups of other proxies: `web`, `web/shop`; empty where there is only one of all.
    path: Arc<str>,
    all: Vec<Upstream>,
    selection: Selection,
    chooser: Chooser,
    /// Where the next choice begins to look: equals are taken in turn.
    next: Cell<usize>,
    /// Empty between choices, kept for its memory.
    candidates: RefCell<Vec<Candidate>>,
    line: Line,
}

/// A connection to an upstream, or the attempt at one, that counts as active.
#[derive(Debug)]
pub(super) struct Lease {
    group: Rc<Group>,
    pub(super) place: usize,
    /// How long it was waited for.
    pub(super) waited: Duration,
    /// Where connections are limited. Only its drop is of use.
    _permit: Option<Permit>,
}

/// Why nothing was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nowhere {
    /// All that might be chosen have as many connections as they take.
    Full,
    /// There is none that might be.
    Nobody,
}

/// Who looks for an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'a> {
    /// As far as that is known and counts.
    pub(super) client: Option<IpAddr>,
    /// Those that failed for it already.
    pub(super) tried: &'a [usize],
}

impl Upstreams {
    /// Those of one group of a proxy, on this shard. Each shard begins elsewhere, so that few connections spread too. What
    /// was known of them `before` is known again.
    pub(super) fn new(
        (proxy, name): (Option<&str>, Option<&str>),
        targets: &[Target],
        selection: &Selection,
        shard: &Shard,
        before: Option<&Upstreams>,
    ) -> Result<Upstreams, OpenError> {
        let limiter = |target: &Target| {
            let limiter = target.limit.as_ref().map(|limit| shard.count_limiter(limit)).transpose()?;
            // Asks for a first place, so that the first client need not wait for it.
            drop(limiter.as_ref().map(CountLimiter::try_take));
            Ok(limiter)
        };
        let limiters = targets.iter().map(limiter).collect::<Result<Vec<_>, OpenError>>()?;
        let (place, shards, seed) = (shard.id().index(), shard.count(), shard.reactor().seed());
        Ok(Upstreams::on((proxy, name), targets, limiters, selection, (place, shards, seed), before))
    }

    fn on(
        (proxy, name): (Option<&str>, Option<&str>),
        targets: &[Target],
        limiters: Vec<Option<CountLimiter>>,
        selection: &Selection,
        (shard, shards, seed): (usize, usize, u64),
        before: Option<&Upstreams>,
    ) -> Upstreams {
        // Each is taken once, for an address may stand there twice.
        let mut known: BTreeMap<&Address, VecDeque<&Upstream>> = BTreeMap::new();
        for upstream in before.iter().flat_map(|before| before.all()) {
            known.entry(&upstream.address).or_default().push_back(upstream);
        }
        let upstream = |(target, limiter): (&Target, Option<CountLimiter>)| {
            let Target { address, weight, limit } = target.clone();
            let known = known.get_mut(&address).and_then(VecDeque::pop_front);
            let was_checked = known.is_some() && before.is_some_and(|before| before.checks().is_some());
            let (text, known) = match known {
                Some(Upstream { text, known, .. }) => (text.clone(), known.clone()),
                None => (address.to_string().into(), Rc::default()),
            };
            Upstream { address, text, weight, limiter, limit, was_checked, known }
        };
        let all: Vec<Upstream> = targets.iter().zip(limiters).map(upstream).collect();
        let addresses: Vec<Address> = targets.iter().map(|target| target.address.clone()).collect();
        Upstreams(Rc::new(Group {
            name: name.map(str::to_owned),
            names: [proxy, name].map(|name| name.unwrap_or_default().into()),
            path: path_of(proxy, name).into(),
            all,
            selection: selection.clone(),
            chooser: Chooser::new(selection.balance, &addresses, seed),
            next: Cell::new(shard % targets.len().max(1)),
            candidates: RefCell::default(),
            line: Line::new(part_of(selection.queue_length, shard, shards).len().max(1)),
        }))
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// What tells it from the groups of other proxies.
    pub(super) fn path(&self) -> &Arc<str> {
        &self.0.path
    }

    /// How they are checked, if they are.
    pub(super) fn checks(&self) -> Option<&Checks> {
        self.0.selection.checks.as_ref()
    }

    /// Whether who the client is decides where it goes.
    pub(super) fn go_by_client(&self) -> bool {
        self.0.selection.balance == Balance::Rendezvous
    }

    /// New connections go by this version from now on.
    pub(super) fn begin(&self) {
        for Upstream { limiter, limit, known, .. } in &self.0.all {
            if let (Some(limiter), Some(limit)) = (limiter, limit) {
                limiter.change_limit(limit);
            }
            if self.checks().is_none() {
                // Nobody would ever find it up again.
                known.down.set(false);
            }
        }
    }

    pub(super) fn all(&self) -> &[Upstream] {
        &self.0.all
    }

    /// The upstream to try for a client; counted as active. Those that failed of late come last. Waits for a place, in
    /// line and no longer than the settings say, where all that may be chosen are full.
    pub(super) async fn take(&self, shard: &Shard, search: Search<'_>) -> Result<Lease, Nowhere> {
        let group = &self.0;
        // Also if others wait: for what this one does not need. At a limiter that somebody waits for it gets nothing.
        match self.choose(shard.turn_time(), search) {
            Err(Nowhere::Full) => {}
            chosen => return chosen,
        }
        let waiting = group.line.join().ok_or(Nowhere::Full)?;
        let since = shard.turn_time();
        // On the heap, so that other connections' tasks are not larger for it.
        let waits = Box::pin(self.wait(shard, search, &waiting));
        let mut lease = shard
            .timeout(group.selection.queue_timeout.max(ASKING), waits)
            .await
            .unwrap_or(Err(Nowhere::Full))?;
        lease.waited = shard.turn_time().since(since);
        add(&lease.counts.queue_waits, 1);
        Ok(lease)
    }

    /// Waits until it is first in line, and then for what comes first: a place at one that is full, or another one to
    /// choose.
    async fn wait(&self, shard: &Shard, search: Search<'_>, waiting: &Waiting<'_>) -> Result<Lease, Nowhere> {
        let mut takes: BTreeMap<usize, Take> = BTreeMap::new();
        poll_fn(|cx| {
            let is_first = waiting.is_first(cx.waker());
            let now = shard.turn_time();
            match self.choose(now, search) {
                Err(Nowhere::Full) if is_first => {}
                Err(Nowhere::Full) => return Poll::Pending,
                chosen => return Poll::Ready(chosen),
            }
            let panics = self.0.panics(now);
            let may = |place: usize| self.0.may(place, now, panics) && !search.tried.contains(&place);
            for (place, upstream) in self.0.all.iter().enumerate() {
                if let Some(limiter) = upstream.limiter.as_ref().filter(|_| may(place)) {
                    takes.entry(place).or_insert_with(|| Box::pin(take_from(limiter.clone())));
                }
            }
            takes.retain(|place, _| may(*place));
            for (place, take) in &mut takes {
                if let Poll::Ready(permit) = take.as_mut().poll(cx) {
                    return Poll::Ready(Ok(self.lease(*place, Some(permit))));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The same, at once.
    pub(super) fn choose(&self, now: Time, search: Search<'_>) -> Result<Lease, Nowhere> {
        let group = &self.0;
        let mut candidates = group.candidates.borrow_mut();
        let full = group.gather(now, search.tried, &mut candidates);
        let chosen = group.chooser.choose(&candidates, search.client);
        candidates.clear();
        drop(candidates);
        let place = chosen.ok_or(if full { Nowhere::Full } else { Nowhere::Nobody })?;
        let permit = match &group.all[place].limiter {
            // It had one to spare, but others wait for it, or nobody knows at the moment how many are out.
            Some(limiter) => Some(limiter.try_take().map_err(|_| Nowhere::Full)?),
            None => None,
        };
        Ok(self.lease(place, permit))
    }

    fn lease(&self, place: usize, permit: Option<Permit>) -> Lease {
        let group = &self.0;
        group.next.set((place + 1) % group.all.len());
        let active = &group.all[place].active;
        active.set(active.get() + 1);
        Lease { group: group.clone(), place, waited: Duration::ZERO, _permit: permit }
    }

    /// These are down, too; nothing is said of the others. Unless the shard's life began with this version, that was found
    /// by checks of before: of one that was not checked then it says nothing.
    pub(super) fn learn_besides(&self, down: Option<&BTreeSet<Arc<str>>>, is_first: bool) {
        let is_down = |upstream: &&Upstream| down.is_some_and(|down| down.contains(&upstream.text));
        let is_meant = |upstream: &&Upstream| is_first || upstream.was_checked;
        let down = self.0.all.iter().filter(is_meant).filter(is_down);
        down.for_each(|upstream| upstream.down.set(true));
    }

    /// What the checks found: those that are down, by their addresses.
    pub(super) fn learn(&self, now: Time, down: Option<&BTreeSet<Arc<str>>>) {
        for upstream in &self.0.all {
            let is_down = down.is_some_and(|down| down.contains(&upstream.text));
            if upstream.down.replace(is_down) && !is_down {
                upstream.up_since.set(Some(now));
                upstream.failed_at.set(None);
            }
        }
        // What is up again may be what somebody waits for.
        self.0.line.call();
    }

    /// Each of them, with its labels.
    pub(super) fn each(&self, told: &mut dyn FnMut(Labels, &Upstream)) {
        let [proxy, group] = &self.0.names;
        let labels = |upstream: &Upstream| [proxy, group, &upstream.text].map(Arc::clone);
        self.0.all.iter().for_each(|upstream| told(labels(upstream), upstream));
    }

    pub(super) fn counters(&self, now: Time) -> Vec<UpstreamCounters> {
        let copy = |upstream: &Upstream| {
            let counts = &upstream.counts;
            UpstreamCounters {
                proxy: None,
                group: self.0.name.clone(),
                address: upstream.text.to_string(),
                state: upstream.state(now),
                active: upstream.active.get(),
                connected: counts.connected.get(),
                failed: counts.failed.get(),
                early_resets: counts.early_resets.get(),
                ejections: upstream.record.ejections(),
                retries_refused: counts.retries_refused.get(),
                queue_waits: counts.queue_waits.get(),
                checks_passed: counts.checks_passed.get(),
                checks_failed: counts.checks_failed.get(),
            }
        };
        self.0.all.iter().map(copy).collect()
    }
}

/// By which metrics know an upstream: its proxy, its group, and its address.
pub(super) type Labels = [Arc<str>; 3];

/// A group's path: the proxy's name, if it is one of several, and the group's, if it has one.
pub(super) fn path_of(proxy: Option<&str>, group: Option<&str>) -> String {
    match (proxy, group) {
        (Some(proxy), Some(group)) => format!("{proxy}/{group}"),
        (one, other) => one.or(other).unwrap_or_default().to_owned(),
    }
}

/// Waits for a place at one upstream.
type Take = Pin<Box<dyn Future<Output = Permit>>>;

/// A place, also where the shard that keeps count of them has to be waited for.
async fn take_from(limiter: CountLimiter) -> Permit {
    loop {
        match limiter.take().await {
            Ok(permit) => return permit,
            Err(_) => limiter.kept().await,
        }
    }
}

impl Group {
    /// Lists those that may be chosen, the best there are, in turn; answers whether some were left out for being full.
    fn gather(&self, now: Time, tried: &[usize], candidates: &mut Vec<Candidate>) -> bool {
        let (panics, count, first) = (self.panics(now), self.all.len(), self.next.get());
        let (mut full, mut shunned) = (false, true);
        for place in (first..count).chain(0..first) {
            let upstream = &self.all[place];
            if !self.may(place, now, panics) || tried.contains(&place) {
                continue;
            }
            if let Some(limiter) = upstream.limiter.as_ref().filter(|limiter| limiter.spare() == 0) {
                // Asks for more, which is there for who comes next.
                drop(limiter.try_take());
                full = true;
                continue;
            }
            let active = upstream.active.get();
            let worse = upstream.has_failed_by(now);
            if worse && !shunned {
                continue;
            }
            if !worse && shunned {
                candidates.clear();
                shunned = false;
            }
            candidates.push(Candidate { place, weight: self.weight(upstream, now), active });
        }
        full
    }

    /// Whether one gets new connections.
    fn may(&self, place: usize, now: Time, panics: bool) -> bool {
        match self.all[place].state(now) {
            UpstreamState::Up => true,
            UpstreamState::Down | UpstreamState::Ejected => panics,
            UpstreamState::Draining => false,
        }
    }

    /// Whether so few are healthy that all are used. None is not few: where nothing may be ill nothing is looked for.
    fn panics(&self, now: Time) -> bool {
        let (mut healthy, mut all) = (0, 0);
        for upstream in &self.all {
            let state = upstream.state(now);
            healthy += u64::from(state == UpstreamState::Up);
            all += u64::from(state != UpstreamState::Draining);
        }
        healthy * 100 < u64::from(self.selection.panic_percent) * all
    }

    /// In hundredths: all of its weight, or what a slow start has come to.
    fn weight(&self, upstream: &Upstream, now: Time) -> u64 {
        let whole = u64::from(upstream.weight);
        let Some(slow) = self.selection.slow_start else { return whole * 100 };
        let back = upstream.up_since.get().max(upstream.record.back_since(now));
        let Some(passed) = back.map(|back| now.since(back)).filter(|passed| *passed < slow) else {
            return whole * 100;
        };
        // Less than 90 of them.
        whole * (10 + (passed.as_nanos() * 90 / slow.as_nanos().max(1)) as u64)
    }

    /// Ejects one, unless that would be too many at once.
    fn eject(&self, upstream: &Upstream, now: Time, settings: &Ejection) {
        // What gets no new connections anyway is no part of it, and who is down is as good as ejected.
        let (mut out, mut all) = (0, 0);
        for other in self.all.iter().filter(|other| other.weight > 0) {
            all += 1;
            out += usize::from(other.state(now) != UpstreamState::Up || std::ptr::eq(other, upstream));
        }
        if upstream.record.is_ejected(now) || out * 100 > all * settings.max_ejected_percent as usize {
            return;
        }
        upstream.record.eject(now, settings);
        tracing::warn!(upstream = %upstream.address, "it fails too often and is left alone for a while");
    }
}

impl Upstream {
    /// In the version before, too.
    pub(super) fn was_checked(&self) -> bool {
        self.was_checked
    }

    /// As far as this shard knows from checks.
    pub(super) fn is_down(&self) -> bool {
        self.down.get()
    }

    fn has_failed_by(&self, now: Time) -> bool {
        self.failed_at.get().is_some_and(|at| now.since(at) < SHUNNED)
    }

    /// Connections and attempts at the moment.
    pub(super) fn active(&self) -> u64 {
        self.active.get()
    }

    pub(super) fn ejections(&self) -> u64 {
        self.record.ejections()
    }

    pub(super) fn state(&self, now: Time) -> UpstreamState {
        match () {
            () if self.weight == 0 => UpstreamState::Draining,
            () if self.down.get() => UpstreamState::Down,
            () if self.record.is_ejected(now) => UpstreamState::Ejected,
            () => UpstreamState::Up,
        }
    }
}

impl Lease {
    /// The attempt to connect failed.
    pub(super) fn fails(&self, now: Time) {
        add(&self.counts.failed, 1);
        self.failed_at.set(Some(now));
        if let Some(settings) = &self.group.selection.ejection
            && self.record.connect_failed(now, settings)
        {
            self.group.eject(self, now, settings);
        }
    }

    /// It was connected.
    pub(super) fn connects(&self) {
        add(&self.counts.connected, 1);
        self.failed_at.set(None);
        self.record.connected();
    }

    /// The connection is over, and the upstream sent something.
    pub(super) fn answered(&self) {
        self.record.answered();
    }

    /// The upstream reset it before it had sent a byte.
    pub(super) fn was_reset(&self) {
        add(&self.counts.early_resets, 1);
        // A connection is on a shard, and its handle is gone with it.
        let now = Shard::current().map(|shard| shard.turn_time());
        if let (Some(settings), Some(now)) = (&self.group.selection.ejection, now)
            && self.record.was_reset(now, settings)
        {
            self.group.eject(self, now, settings);
        }
    }
}

impl std::ops::Deref for Upstream {
    type Target = Known;

    fn deref(&self) -> &Known {
        &self.known
    }
}

impl std::ops::Deref for Lease {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.group.all[self.place]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.active.set(self.active.get() - 1);
    }
}

#[cfg(test)]
mod tests;
