//! A shard's part of a rate: its share, its bucket, who waits here, and what it says of them.

use std::cell::RefCell;
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
use super::{KeeperEnded, LITTLE, MILLION, Note, RateLease, Report, Share, TryTakeError};
use crate::mesh::calls::{Asker, Caller};
use crate::mesh::lease::tie::Tie;
use crate::mesh::member::Member;
use crate::mesh::nudge::Nudge;
use crate::mesh::waiters::{Place, Waiters};
use crate::shard::{Shard, ShardId, Sleep};

/// Who took nothing for so long, while others had too little, gives its share up.
const IDLE: Duration = Duration::from_millis(10);
/// For so long after it was told that others have too little, a shard keeps no more than it uses.
const SCARCE: Duration = Duration::from_secs(1);

/// Who got what it wanted, and after so long has too little still, wants all it can get.
const LONG: Duration = Duration::from_millis(20);
/// In such stretches it is counted how much is taken: what a shard suddenly needs.
const STRETCH: Duration = Duration::from_millis(10);

/// Lives on its shard as long as that.
pub(super) struct Holder {
    name: &'static str,
    shard: Shard,
    keeper: ShardId,
    state: RefCell<State>,
    tie: Tie,
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
    /// The last time that somebody wanted one.
    last_try: Time,
    lately: Lately,
    /// Since when its share has been what it wanted; if it is.
    served_since: Time,
    /// A share was lowered much by an answer, which the keeper counts on only when it is confirmed.
    confirms: bool,
    /// Somebody got nothing since the last report; and when that was so last.
    missed: bool,
    missed_at: Time,
    /// As reported last.
    reported: Report,
    reported_at: Time,
    /// What it said that it wants was measured for less than an eighth of a period.
    guessed: bool,
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
            last_try: Time::ZERO,
            lately: Lately::default(),
            served_since: now,
            confirms: false,
            missed: false,
            missed_at: Time::ZERO,
            reported: Report::default(),
            reported_at: Time::ZERO,
            guessed: false,
            scarce_until: Time::ZERO,
            urgent: Pace::of_a_shard(shards),
            resting: false,
        }
    }

    pub(super) fn take(&mut self, now: Time) -> bool {
        self.bucket.fill(now);
        let taken = self.bucket.take();
        if taken {
            if std::mem::take(&mut self.resting) {
                // The next report is about what begins now.
                self.reported_at = now;
            }
            self.used += 1;
            self.last_try = now;
            self.lately.count(now);
        } else {
            self.waits(now);
        }
        taken
    }

    /// Somebody wants one and there is none.
    pub(super) fn waits(&mut self, now: Time) {
        (self.missed, self.missed_at, self.last_try) = (true, now, now);
    }

    fn is_scarce(&self, now: Time) -> bool {
        now < self.scarce_until
    }

    /// Enough that it is worth two messages to give it up.
    fn has_much(&self) -> bool {
        self.bucket.share() > self.limit / 50
    }

    fn is_short(&self, now: Time) -> bool {
        self.missed && now.since(self.missed_at) < LONG
    }

    fn is_idle(&self, now: Time) -> bool {
        now.since(self.last_try) >= IDLE
    }

    /// When to report; `None`: not before something is used.
    pub(super) fn due(&self, now: Time) -> Option<Time> {
        if self.heard == 0 {
            return Some(now);
        }
        let last = &self.reported;
        if self.used == 0 && !self.missed && !self.confirms && last.want <= self.floor() && !last.short {
            return None;
        }
        let regular = self.reported_at + period(self.shards);
        // The last urgent word is kept for when it is short.
        let (complains, gives_up) = (self.urgent.next(0, now), self.urgent.next(1, now));
        let urgent = if self.missed && !last.short {
            complains
        } else if self.confirms {
            gives_up
        } else if !self.is_scarce(now) || !self.has_much() {
            Time::NEVER
        } else if last.short {
            // It was short; once it is no longer, it may have got more than it needs.
            let missed = if self.missed { self.missed_at } else { Time::ZERO };
            gives_up.max((self.reported_at.max(missed) + LONG).min(self.last_try + IDLE))
        } else {
            let measured =
                if self.guessed { self.reported_at + period(self.shards) / 8 } else { Time::NEVER };
            gives_up.max(measured.min(self.last_try + IDLE))
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
    pub(super) fn report(&mut self, now: Time) -> Report {
        self.bucket.fill(now);
        let idle = self.is_scarce(now) && self.is_idle(now) && self.has_much();
        let short = self.is_short(now) && !idle;
        let want = if idle { self.floor() } else { self.want(short, now) };
        if self.is_scarce(now) && !short && want < self.bucket.share() {
            self.bucket.set_share(want, now);
        }
        let (heard, share, spilled) = (self.heard, self.bucket.share(), self.bucket.take_spilled(short));
        self.reported = Report { heard, share, want, short, spilled };
        (self.used, self.missed, self.confirms, self.reported_at) = (0, false, false, now);
        self.lately.most = 0;
        self.reported
    }

    fn want(&mut self, short: bool, now: Time) -> u64 {
        let (since, period) = (now.since(self.reported_at).max(STRETCH), period(self.shards));
        let usage = per_second(self.used, since);
        if short {
            let last = &self.reported;
            if last.short && self.bucket.share() >= last.want {
                // Too early to tell whether what it got is enough; or late enough to tell that it is not.
                return if now.since(self.served_since) < LONG { last.want } else { self.limit };
            }
            let seems = usage.max(self.lately.most_per_second());
            // Who has too little wants no less than when it had enough, however little it got since.
            return (seems + seems / 4 + self.floor()).max(last.want).min(self.limit);
        }
        if self.reported.short && now.since(self.reported_at) < STRETCH {
            // It was told a moment ago, and nothing has been measured since.
            self.guessed = true;
            return self.reported.want;
        }
        // What was used in less than that says as much less.
        let enough = period / 8;
        self.guessed = since < enough;
        let weight = since.min(enough).as_nanos();
        let before =
            if self.reported.short { usage.max(self.lately.most_per_second()) } else { self.reported.want };
        let before = u128::from(before.min(self.limit));
        let want = u128::from((usage + usage / 20 + self.floor()).min(self.limit));
        let mixed = (before * (enough.as_nanos() - weight) + want * weight) / enough.as_nanos();
        u64::try_from(mixed).unwrap_or(self.limit)
    }

    /// What a shard keeps that uses nothing, a two hundredth of an even part: so that after a pause the bucket is full.
    fn floor(&self) -> u64 {
        self.limit / (200 * self.shards as u64)
    }

    /// The keeper's word; `false`: a later one was there before, and only the extra tokens count.
    pub(super) fn apply(&mut self, told: Share, now: Time) {
        self.bucket.fill(now);
        self.bucket.add(told.extra);
        if told.number > self.heard {
            self.heard = told.number;
            self.confirms = told.share + self.limit / LITTLE < self.bucket.share();
            if self.bucket.share() < self.reported.want && told.share >= self.reported.want {
                self.served_since = now;
            }
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

/// The most that was taken in any stretch of time since the last report.
#[derive(Debug, Default)]
struct Lately {
    began: Time,
    count: u64,
    most: u64,
}

impl Lately {
    fn count(&mut self, now: Time) {
        if now.since(self.began) >= STRETCH {
            (self.began, self.count) = (now, 0);
        }
        self.count += 1;
        self.most = self.most.max(self.count);
    }

    fn most_per_second(&self) -> u64 {
        per_second(self.most, STRETCH)
    }
}

/// So many in such a time, as a rate in millionths.
fn per_second(count: u64, time: Duration) -> u64 {
    let rate = u128::from(count) * u128::from(MILLION) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

impl Holder {
    pub(super) fn new(lease: &RateLease, shard: &Shard) -> Holder {
        let mut state = State::new(lease.per_second, shard.count(), shard.turn_time());
        if Member::of(shard).ledger.life(shard.id().index()) > 0 {
            // What was full at the start has been taken by a life before.
            state.bucket = state.bucket.with_rest_of(None);
        }
        Holder {
            name: lease.name(),
            shard: shard.clone(),
            keeper: lease.keeper(),
            state: RefCell::new(state),
            tie: Tie::new(shard, lease.keeper()),
            waiting: RefCell::new(Waiters::new()),
            nudge: Nudge::default(),
        }
    }

    /// Starts what reports, and what hears of the keeper's end.
    pub(super) fn start(self: &Rc<Self>, lease: &RateLease, caller: Caller<Note, Note>) {
        self.shard.spawn_detached("lease", self.clone().lives(lease.clone(), caller));
    }

    pub(super) fn tie(&self) -> &Tie {
        &self.tie
    }

    pub(super) fn share(&self) -> u64 {
        self.state.borrow().share()
    }

    pub(super) fn try_take(&self) -> Result<(), TryTakeError> {
        if self.tie.is_lost() {
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
        let before = (state.resting, state.missed);
        let taken = state.take(self.shard.turn_time());
        if before.0 || !taken && !before.1 {
            self.nudge.nudge();
        }
        taken
    }

    /// Through the lives of the keeper.
    async fn lives(self: Rc<Self>, lease: RateLease, caller: Caller<Note, Note>) {
        let attach = || {
            let lease = lease.clone();
            move |there: &Shard| drop(lease.attach(there))
        };
        self.tie
            .follow(&self.shard, attach, async || self.reports(&caller).await, || self.lose(&lease))
            .await;
    }

    /// To one life of the keeper, until it fails.
    async fn reports(&self, caller: &Caller<Note, Note>) {
        loop {
            let (now, waits) = (self.shard.turn_time(), !self.waiting.borrow().is_empty());
            let (report, due) = {
                let mut state = self.state.borrow_mut();
                if waits {
                    state.waits(now);
                }
                let report = state.report_if_due(now);
                let due = state.due(now);
                state.resting = report.is_none() && due.is_none();
                (report, due)
            };
            match (report, due) {
                (Some(report), _) => {
                    let told = caller.call(self.keeper, Note::Report(report)).await;
                    let Ok(Note::Share(share)) = told else { return };
                    self.tie.complete();
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
    pub(super) fn told(&self, from: Asker, share: Share) -> Report {
        if !self.tie.is_with(from) {
            // Nobody waits for it: who said so has ended.
            return Report::default();
        }
        self.apply(share);
        let (now, mut state) = (self.shard.turn_time(), self.state.borrow_mut());
        if !self.waiting.borrow().is_empty() {
            state.waits(now);
        }
        state.report(now)
    }

    fn apply(&self, share: Share) {
        self.state.borrow_mut().apply(share, self.shard.turn_time());
        self.waiting.borrow().wake_first();
        self.nudge.nudge();
    }

    /// Nothing counts any more but what is in the bucket.
    fn lose(&self, lease: &RateLease) {
        let mut state = self.state.borrow_mut();
        let next = State::new(lease.per_second, self.shard.count(), self.shard.turn_time());
        let before = std::mem::replace(&mut *state, next);
        let bucket = std::mem::replace(&mut state.bucket, before.bucket);
        state.bucket = bucket.with_rest_of(Some(&state.bucket));
        drop(state);
        self.waiting.borrow().wake_all();
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
            if holder.tie.is_lost() {
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
