//! What a shard knows of a rate, without tasks or messages: its share, its bucket, and what it has to say of them.

use std::time::Duration;

use waterwheel_reactor::Time;

use super::bucket::Bucket;
use super::pace::{Pace, period};
use super::{LITTLE, MILLION, Report, Share};
use crate::mesh::lease::limit::Limit;

/// Who took nothing for so long, while others had too little, gives its share up.
const IDLE: Duration = Duration::from_millis(10);
/// For so long after it was told that others have too little, a shard keeps no more than it uses.
const SCARCE: Duration = Duration::from_secs(1);

/// Who got what it wanted, and after so long has too little still, wants all it can get.
const LONG: Duration = Duration::from_millis(20);
/// In such stretches it is counted how much is taken: what a shard suddenly needs.
const STRETCH: Duration = Duration::from_millis(10);

/// See the module's text.
#[derive(Debug)]
pub(super) struct State {
    /// The newest that this shard knows of, by which it goes.
    newest: Limit,
    /// It has made that so itself, or wants to hear what became of it: to be said at once.
    unsaid: bool,
    /// It waits until all shards go by this.
    awaited: Limit,
    /// All shards that are at work go by this, or a newer one.
    reached: Limit,
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
    pub(super) fn new(limit: Limit, shards: usize, now: Time) -> State {
        State {
            newest: limit,
            unsaid: false,
            awaited: Limit::default(),
            // One that is newer than that of others reaches them by the keeper; the first is everybody's.
            reached: if limit.is_first() { limit } else { Limit::default() },
            shards,
            bucket: Bucket::new(room(limit, shards), now),
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

    /// Of a next life of the shard: what was full at the start has been taken by one before.
    pub(super) fn emptied(mut self) -> State {
        self.bucket = self.bucket.with_rest_of(None);
        self
    }

    /// The keeper ended: nothing counts any more but what is in the bucket, and what is known of limits.
    pub(super) fn lose(&mut self, now: Time) {
        let mut next = State::new(self.newest, self.shards, now);
        (next.awaited, next.reached) = (self.awaited, self.reached);
        next.bucket = next.bucket.with_rest_of(Some(&self.bucket));
        *self = next;
    }

    /// The newest limit that this shard knows of.
    pub(super) fn newest(&self) -> Limit {
        self.newest
    }

    /// All shards that are at work go by this, or a newer one.
    pub(super) fn reached(&self) -> Limit {
        self.reached
    }

    /// The limit, in millionths of a token per second.
    fn limit(&self) -> u64 {
        self.newest.most * MILLION
    }

    /// Goes by another limit from now on, if it is newer; answers that. Its share stays what it is until the keeper says.
    pub(super) fn change(&mut self, limit: Limit, now: Time) -> bool {
        let newer = limit > self.newest;
        if newer {
            self.newest = limit;
            self.bucket.set_room(room(limit, self.shards), now);
            self.reported.want = self.reported.want.min(self.limit());
        }
        newer
    }

    /// The program has another limit: the next report comes at once.
    pub(super) fn change_for_all(&mut self, limit: Limit, now: Time) {
        self.unsaid |= self.change(limit, now);
    }

    /// The program waits until all go by the limit.
    pub(super) fn await_all(&mut self) {
        self.unsaid |= self.awaited < self.newest;
        self.awaited = self.newest;
    }

    /// Takes a token if there is one; the second says whether what reports has to look again for that.
    pub(super) fn try_take(&mut self, now: Time) -> (bool, bool) {
        let (resting, missed) = (self.resting, self.missed);
        let taken = self.take(now);
        (taken, resting || !taken && !missed)
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
        self.bucket.share() > self.limit() / 50
    }

    fn is_short(&self, now: Time) -> bool {
        self.missed && now.since(self.missed_at) < LONG
    }

    fn is_idle(&self, now: Time) -> bool {
        now.since(self.last_try) >= IDLE
    }

    /// When there will be a token; `None`: never at this share.
    pub(super) fn next_token(&self) -> Option<Time> {
        self.bucket.next_token()
    }

    /// Reports by itself, if it is due; else when to look again; `None`: not before something is used.
    pub(super) fn next_report(&mut self, now: Time) -> Result<Report, Option<Time>> {
        let (report, due) = (self.report_if_due(now), self.due(now));
        self.resting = report.is_none() && due.is_none();
        report.ok_or(due)
    }

    /// When to report; `None`: not before something is used.
    fn due(&self, now: Time) -> Option<Time> {
        if self.heard == 0 || self.unsaid {
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
        let regular = self.heard == 0 || self.unsaid || self.reported_at + period(self.shards) <= now;
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
        let awaits = self.reached < self.awaited;
        self.reported = Report { heard, share, want, short, spilled, limit: self.newest, awaits };
        (self.used, self.missed, self.confirms, self.reported_at) = (0, false, false, now);
        self.unsaid = false;
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
                return if now.since(self.served_since) < LONG { last.want } else { self.limit() };
            }
            let seems = usage.max(self.lately.most_per_second());
            // Who has too little wants no less than when it had enough, however little it got since.
            return (seems + seems / 4 + self.floor()).max(last.want).min(self.limit());
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
        let before = u128::from(before.min(self.limit()));
        let want = u128::from((usage + usage / 20 + self.floor()).min(self.limit()));
        let mixed = (before * (enough.as_nanos() - weight) + want * weight) / enough.as_nanos();
        u64::try_from(mixed).unwrap_or(self.limit())
    }

    /// What a shard keeps that uses nothing, a two hundredth of an even part: so that after a pause the bucket is full.
    fn floor(&self) -> u64 {
        self.limit() / (200 * self.shards as u64)
    }

    /// The keeper's word; `false`: a later one was there before, and only the extra tokens count.
    pub(super) fn apply(&mut self, told: Share, now: Time) {
        self.change(told.limit, now);
        self.reached = self.reached.max(told.reached);
        self.bucket.fill(now);
        self.bucket.add(told.extra);
        if told.number > self.heard {
            self.heard = told.number;
            self.confirms = told.share + self.limit() / LITTLE < self.bucket.share();
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

/// In tokens. All buckets together hold 1 % of a second's.
fn room(limit: Limit, shards: usize) -> u128 {
    (u128::from(limit.most) / (100 * shards as u128)).max(1)
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
