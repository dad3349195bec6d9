//! A shard's part of a rate: its share, its bucket, who waits here, and what it says of them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::select;
use waterwheel_reactor::Time;

use super::bucket::Bucket;
use super::pace::{Pace, period};
use super::{KeeperEnded, MILLION, Note, RateLease, Report, Share, TryTakeError};
use crate::mesh::calls::Caller;
use crate::mesh::nudge::Nudge;
use crate::mesh::waiters::{Place, Waiters};
use crate::shard::{Shard, ShardId, Sleep};

/// Who took nothing for so long, while others had too little, gives its share up.
const IDLE: Duration = Duration::from_millis(10);
/// For so long after it was told that others have too little, a shard keeps no more than it uses.
const SCARCE: Duration = Duration::from_secs(1);

/// What a shard may keep that uses so much: a twentieth more, and a two hundredth of an even part, so that the first
/// take after a pause need not wait.
pub(super) fn headroom(usage: u64, limit: u64, shards: usize) -> u64 {
    (usage + usage / 20 + floor(limit, shards)).min(limit)
}

fn floor(limit: u64, shards: usize) -> u64 {
    limit / (200 * shards as u64)
}

/// Lives on its shard as long as that.
pub(super) struct Holder {
    name: &'static str,
    shard: Shard,
    keeper: ShardId,
    state: RefCell<State>,
    keeper_ended: Cell<bool>,
    waiting: RefCell<Waiters>,
    nudge: Nudge,
}

/// What does not depend on tasks.
#[derive(Debug)]
pub(super) struct State {
    limit: u64,
    shards: usize,
    bucket: Bucket,
    /// The number of the latest share that was applied.
    heard: u64,
    /// Taken since the last report.
    used: u64,
    last_use: Time,
    /// Somebody got nothing since the last report.
    missed: bool,
    /// As reported last.
    reported: Report,
    reported_at: Time,
    scarce_until: Time,
    urgent: Pace,
    /// Nothing is due until something is used.
    resting: bool,
}

impl State {
    pub(super) fn new(per_second: u64, shards: usize, now: Time) -> State {
        // All buckets together hold 1 % of a second's tokens.
        let room = (u128::from(per_second) / (100 * shards as u128)).max(1);
        State {
            limit: per_second * MILLION,
            shards,
            bucket: Bucket::new(room, now),
            heard: 0,
            used: 0,
            last_use: Time::ZERO,
            missed: false,
            reported: Report::default(),
            reported_at: Time::ZERO,
            scarce_until: Time::ZERO,
            urgent: Pace::new(period(shards)),
            resting: false,
        }
    }

    pub(super) fn take(&mut self, now: Time) -> bool {
        self.bucket.fill(now);
        let taken = self.bucket.take();
        if taken {
            self.used += 1;
            self.last_use = now;
        } else {
            self.missed = true;
        }
        taken
    }

    fn is_idle(&self, now: Time) -> bool {
        !self.missed && now.since(self.last_use) >= IDLE
    }

    /// When to report; `None`: not before something is used.
    pub(super) fn due(&self, now: Time) -> Option<Time> {
        if self.heard == 0 {
            return Some(now);
        }
        if self.used == 0 && !self.missed && self.reported.usage == 0 && !self.reported.short {
            return None;
        }
        let regular = self.reported_at + period(self.shards);
        let suddenly_short = self.missed && !self.reported.short;
        let much = self.bucket.share() > 2 * floor(self.limit, self.shards);
        let give_up = !self.missed && much && now < self.scarce_until;
        let urgent = match (suddenly_short, give_up) {
            (true, _) => self.urgent.next(now),
            (false, true) => self.urgent.next(now).max(self.last_use + IDLE),
            (false, false) => Time::NEVER,
        };
        Some(regular.min(urgent))
    }

    /// Reports by itself, if it is due; else `None`.
    pub(super) fn report_if_due(&mut self, now: Time) -> Option<Report> {
        if self.due(now)? > now {
            return None;
        }
        let regular = self.heard == 0 || self.reported_at + period(self.shards) <= now;
        (regular || self.urgent.spend(now)).then(|| self.report(now))
    }

    /// What it has to say now.
    fn report(&mut self, now: Time) -> Report {
        self.bucket.fill(now);
        self.reported = Report {
            heard: self.heard,
            usage: self.usage(now),
            short: self.missed,
            spilled: self.bucket.take_spilled(self.missed),
            share: self.bucket.share(),
        };
        if now < self.scarce_until && !self.missed {
            let enough = headroom(self.reported.usage, self.limit, self.shards);
            self.reported.share = self.bucket.share().min(enough);
            self.bucket.set_share(self.reported.share, now);
        }
        (self.used, self.missed, self.reported_at) = (0, false, now);
        self.reported
    }

    // What was used in less than a period says as much less.
    fn usage(&self, now: Time) -> u64 {
        if self.is_idle(now) && (now < self.scarce_until || self.used == 0) {
            return 0;
        }
        let (since, period) = (now.since(self.reported_at).as_nanos().max(1), period(self.shards).as_nanos());
        let lately = u128::from(self.used) * u128::from(MILLION) * 1_000_000_000 / since.max(period / 100);
        let weight = since.min(period);
        let mixed = (u128::from(self.reported.usage) * (period - weight) + lately * weight) / period;
        u64::try_from(mixed).unwrap_or(u64::MAX).min(self.limit)
    }

    /// The keeper's word; `false`: a later one was there before, and only the extra tokens count.
    pub(super) fn apply(&mut self, told: Share, now: Time) {
        self.bucket.fill(now);
        self.bucket.add(told.extra);
        if told.number > self.heard {
            self.heard = told.number;
            self.bucket.set_share(told.share, now);
        }
        if told.scarce {
            self.scarce_until = now + SCARCE;
        }
    }

    pub(super) fn share(&self) -> u64 {
        self.bucket.share()
    }
}

impl Holder {
    pub(super) fn new(lease: &RateLease, shard: &Shard) -> Holder {
        Holder {
            name: lease.name(),
            shard: shard.clone(),
            keeper: lease.keeper(),
            state: RefCell::new(State::new(lease.per_second, shard.count(), shard.turn_time())),
            keeper_ended: Cell::new(false),
            waiting: RefCell::new(Waiters::new()),
            nudge: Nudge::default(),
        }
    }

    /// Starts what reports, and what hears of the keeper's end.
    pub(super) fn start(self: &Rc<Self>, lease: &RateLease, caller: Caller<Note, Note>) {
        self.shard.spawn_detached("lease, reporting", self.clone().reports(lease.clone(), caller));
        if self.keeper != self.shard.id() {
            let holder = self.clone();
            self.shard.spawn_detached("lease, its keeper", async move {
                holder.shard.ended(holder.keeper).await;
                holder.lose();
            });
        }
    }

    pub(super) fn share(&self) -> u64 {
        self.state.borrow().share()
    }

    pub(super) fn try_take(&self) -> Result<(), TryTakeError> {
        if self.keeper_ended.get() {
            return Err(TryTakeError::KeeperEnded(self.name));
        }
        if self.waiting.borrow().is_empty() && self.take_token() {
            return Ok(());
        }
        Err(TryTakeError::Empty(self.name))
    }

    pub(super) async fn take(&self) -> Result<(), KeeperEnded> {
        let mut wait = Wait { holder: self, place: None, timer: None };
        poll_fn(|cx| wait.poll(cx)).await
    }

    fn take_token(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let missed_before = state.missed;
        let taken = state.take(self.shard.turn_time());
        if std::mem::take(&mut state.resting) || !taken && !missed_before {
            self.nudge.nudge();
        }
        taken
    }

    async fn reports(self: Rc<Self>, lease: RateLease, caller: Caller<Note, Note>) {
        // The keeper need not have been here itself.
        let attach = move |there: Shard| async move { drop(lease.attach(&there)) };
        if self.shard.run_on(self.keeper, attach).await.is_err() {
            return self.lose();
        }
        loop {
            let (now, waits) = (self.shard.turn_time(), !self.waiting.borrow().is_empty());
            let (report, due) = {
                let mut state = self.state.borrow_mut();
                state.missed |= waits;
                let report = state.report_if_due(now);
                let due = state.due(now);
                state.resting = report.is_none() && due.is_none();
                (report, due)
            };
            match (report, due) {
                (Some(report), _) => {
                    let told = caller.call(self.keeper, Note::Report(report)).await;
                    let Ok(Note::Share(share)) = told else { return self.lose() };
                    self.apply(share);
                }
                (None, Some(due)) => {
                    select(pin!(self.nudge.wished()), pin!(self.shard.sleep_until(due))).await;
                }
                (None, None) => self.nudge.wished().await,
            }
        }
    }

    /// The keeper tells it without being asked, and hears how things are.
    pub(super) fn told(&self, share: Share) -> Report {
        self.apply(share);
        let waits = !self.waiting.borrow().is_empty();
        let mut state = self.state.borrow_mut();
        state.missed |= waits;
        state.report(self.shard.turn_time())
    }

    fn apply(&self, share: Share) {
        self.state.borrow_mut().apply(share, self.shard.turn_time());
        self.waiting.borrow().wake_first();
        self.nudge.nudge();
    }

    fn lose(&self) {
        if !self.keeper_ended.replace(true) {
            self.waiting.borrow().wake_all();
        }
    }
}

/// A task that waits for a token; the first of them has a timer. Leaves the queue when it has got one or is dropped.
struct Wait<'a> {
    holder: &'a Holder,
    place: Option<Place>,
    timer: Option<Sleep>,
}

impl Wait<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), KeeperEnded>> {
        let holder = self.holder;
        loop {
            if holder.keeper_ended.get() {
                return Poll::Ready(Err(KeeperEnded(holder.name)));
            }
            let first = holder.waiting.borrow().is_first(self.place.as_ref());
            if first && holder.take_token() {
                return Poll::Ready(Ok(()));
            }
            holder.waiting.borrow_mut().wait(&mut self.place, cx.waker());
            let due = if first { holder.state.borrow().bucket.next_token() } else { None };
            let Some(due) = due else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| holder.shard.sleep_until(due));
            if timer.deadline() != due {
                timer.reset(due);
            }
            std::task::ready!(Pin::new(timer).poll(cx));
            self.timer = None;
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.holder.waiting.borrow_mut().leave(&mut self.place);
        }
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.name)
            .field("state", &self.state.borrow())
            .finish_non_exhaustive()
    }
}
