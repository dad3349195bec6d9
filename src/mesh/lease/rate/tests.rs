//! The rules of a rate without shards or messages: whatever is told, late or in whatever order, the shares never add up
//! to more than the limit, or than the greatest of those that may still be gone by, and no more is taken than that allows.

use std::time::Duration;

use proptest::prelude::*;
use waterwheel_reactor::Time;

use super::keeper::Books;
use super::state::State;
use super::{MILLION, Report, Share};
use crate::mesh::lease::limit::Limit;

const SHARDS: usize = 3;

/// What is on its way: reports that are answered, and shares that are reported on.
#[derive(Clone, Copy, Debug)]
enum Way {
    Report(usize, Report),
    Answer(usize, Share),
    Push(usize, Share),
    Acknowledged(usize, Report),
}

struct Play {
    now: Time,
    books: Books,
    shards: Vec<State>,
    ways: Vec<Way>,
    taken: u64,
    /// All there ever were, oldest first.
    limits: Vec<Limit>,
    /// What may have been taken by now: the greatest of those that may still be gone by, through all of time.
    allowed: f64,
}

impl Play {
    fn new(limit: u64) -> Play {
        let now = Time::from_nanos(1);
        let limit = Limit::first("rate", limit).unwrap();
        let shards = (0..SHARDS).map(|_| State::new(limit, SHARDS, now)).collect();
        // The buckets are full at first; each holds one at least.
        let allowed = limit.most as f64 * 0.01 + SHARDS as f64;
        let books = Books::new(limit, SHARDS, now);
        Play { now, books, shards, ways: Vec::new(), taken: 0, limits: vec![limit], allowed }
    }

    fn newest(&self) -> Limit {
        self.limits[self.limits.len() - 1]
    }

    /// The greatest limit since the one that all go by.
    fn greatest(&self) -> u64 {
        let since = self.limits.iter().filter(|limit| **limit >= self.books.reached);
        since.map(|limit| limit.most).max().unwrap()
    }

    /// A shard changes the limit.
    fn change(&mut self, shard: usize, most: u64) {
        let limit = self.newest().next("rate", most).unwrap();
        self.limits.push(limit);
        self.shards[shard].change_for_all(limit, self.now);
        self.shards[shard].await_all();
    }

    /// Everything arrives, until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..100 {
            (0..SHARDS).for_each(|shard| self.step(4, shard, 0));
            while !self.ways.is_empty() {
                self.deliver(0);
            }
            self.step(0, 0, 40);
            // What had to wait.
            self.push();
        }
    }

    fn push(&mut self) {
        let pushes = self.books.pushes(self.now);
        self.ways.extend(pushes.into_iter().map(|(shard, share)| Way::Push(shard, share)));
    }

    /// One step of chance: who, and what.
    fn step(&mut self, kind: u8, who: usize, size: u64) {
        let (now, shard) = (self.now, who % SHARDS);
        match kind {
            0 => {
                let passed = Duration::from_micros(size * 300);
                self.allowed += self.greatest() as f64 * passed.as_secs_f64();
                self.now = now + passed;
            }
            1..=3 => {
                for _ in 0..size {
                    self.taken += u64::from(self.shards[shard].take(now));
                }
            }
            4 => {
                let busy = self.ways.iter().any(|way| match way {
                    Way::Report(from, _) => *from == shard,
                    Way::Answer(to, _) => *to == shard,
                    _ => false,
                });
                if let Some(report) = (!busy).then(|| self.shards[shard].report_if_due(now)).flatten() {
                    self.ways.push(Way::Report(shard, report));
                }
            }
            _ if self.ways.is_empty() => {}
            _ => self.deliver(who % self.ways.len()),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let shares: u64 = self.shards.iter().map(State::share).sum();
        let greatest = self.greatest();
        prop_assert!(shares <= greatest * MILLION, "{} of {}", shares, greatest);
        // One more, which is in no bucket's share yet.
        let most = self.allowed + 1.0;
        prop_assert!(self.taken as f64 <= most, "{} taken, {} allowed", self.taken, most);
        Ok(())
    }

    fn deliver(&mut self, which: usize) {
        let now = self.now;
        match self.ways.swap_remove(which) {
            Way::Report(shard, report) => {
                self.books.hear(shard, 0, report, now);
                self.ways.push(Way::Answer(shard, self.books.share_of(shard)));
            }
            Way::Answer(shard, share) => self.shards[shard].apply(share, now),
            Way::Push(shard, share) => {
                self.shards[shard].apply(share, now);
                self.ways.push(Way::Acknowledged(shard, self.shards[shard].report(now)));
            }
            Way::Acknowledged(shard, report) => {
                self.books.acknowledged(shard, 0);
                self.books.hear(shard, 0, report, now);
            }
        }
        self.push();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_overtakes_what_the_limit_holds(
        limit in 1u64..20_000,
        steps in prop::collection::vec((0..8u8, 0..12usize, 1..40u64), 0..600),
    ) {
        let mut play = Play::new(limit);
        for (kind, who, size) in steps {
            play.step(kind, who, size);
            play.check()?;
        }
    }

    #[test]
    fn whatever_is_changed_meanwhile_the_limits_hold_and_the_newest_is_reached(
        limit in 1u64..20_000,
        changes in prop::collection::vec((0..SHARDS, 1u64..20_000), 1..6),
        steps in prop::collection::vec((0..8u8, 0..12usize, 1..40u64), 0..600),
    ) {
        let mut play = Play::new(limit);
        let pause = steps.len() / changes.len() + 1;
        for (number, (kind, who, size)) in steps.into_iter().enumerate() {
            if let Some((shard, most)) = changes.get(number / pause).filter(|_| number % pause == 0) {
                play.change(*shard, *most);
            }
            play.step(kind, who, size);
            play.check()?;
        }
        play.settle();
        play.check()?;
        let newest = play.newest();
        prop_assert_eq!(play.books.reached, newest);
        for shard in &play.shards {
            prop_assert_eq!((shard.newest(), shard.reached() <= newest), (newest, true));
        }
        let shares: u64 = play.shards.iter().map(State::share).sum();
        prop_assert!(shares <= newest.most * MILLION, "{shares} of {newest:?}");
        // Whoever changed it last was told.
        let told = play.shards.iter().any(|shard| shard.reached() == newest);
        prop_assert!(told, "{newest:?} is reached, and nobody knows");
    }
}

#[test]
fn what_a_bucket_holds_above_its_room_at_a_smaller_rate_is_gone_at_once() {
    let mut play = Play::new(9_000);
    play.settle();
    play.change(1, 30);
    let before = play.taken;
    play.step(1, 1, 39);
    assert_eq!(play.taken - before, 1, "not thirty");
    play.settle();
    let shares: Vec<u64> = play.shards.iter().map(State::share).collect();
    assert!(shares.iter().sum::<u64>() <= 30 * MILLION, "who uses nothing keeps too much: {shares:?}");
    assert_eq!((play.books.reached, play.shards[1].reached()), (play.newest(), play.newest()));
}

#[test]
fn one_that_is_short_gets_what_the_others_do_not_need() {
    let mut play = Play::new(3_000);
    for shard in 0..SHARDS {
        play.step(4, shard, 0);
        while !play.ways.is_empty() {
            play.deliver(0);
        }
    }
    let shares = |play: &Play| play.shards.iter().map(|shard| shard.share() / MILLION).collect::<Vec<_>>();
    assert_eq!(shares(&play), [1_000, 1_000, 1_000], "even parts at first");
    for _ in 0..300 {
        play.step(0, 0, 10);
        play.step(1, 1, 39);
        play.step(4, 1, 0);
        while !play.ways.is_empty() {
            play.deliver(0);
        }
    }
    let shares = shares(&play);
    assert!(
        shares[1] >= 2_985 && shares[0] + shares[2] <= 10,
        "more than floors for who does nothing: {shares:?}"
    );
}
