//! The rules of a rate without shards or messages: whatever is told, late or in whatever order, the shares never add up
//! to more than the limit, and no more is taken than it allows.

use std::time::Duration;

use proptest::prelude::*;
use waterwheel_reactor::Time;

use super::holder::State;
use super::keeper::Books;
use super::{MILLION, Report, Share};

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
}

impl Play {
    fn new(limit: u64) -> Play {
        let now = Time::from_nanos(1);
        let shards = (0..SHARDS).map(|_| State::new(limit, SHARDS, now)).collect();
        Play { now, books: Books::new(limit, SHARDS, now), shards, ways: Vec::new(), taken: 0 }
    }

    /// One step of chance: who, and what.
    fn step(&mut self, kind: u8, who: usize, size: u64) {
        let (now, shard) = (self.now, who % SHARDS);
        match kind {
            0 => self.now = now + Duration::from_micros(size * 300),
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
        let pushes = self.books.pushes(now);
        self.ways.extend(pushes.into_iter().map(|(shard, share)| Way::Push(shard, share)));
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
            let shares: u64 = play.shards.iter().map(State::share).sum();
            prop_assert!(shares <= limit * MILLION, "{shares} of {limit}");
            let seconds = play.now.since(Time::ZERO).as_secs_f64();
            // The pool and the buckets, each of which holds one at least.
            let most = limit as f64 * (seconds + 0.02) + SHARDS as f64 + 1.0;
            prop_assert!(play.taken as f64 <= most, "{} taken, {most} allowed", play.taken);
        }
    }
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
