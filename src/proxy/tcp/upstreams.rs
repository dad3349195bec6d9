//! The upstreams as one shard sees them, and the choice between them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{Address, Time};

use super::counters::UpstreamCounters;
use super::settings::Balance;

/// One upstream of one shard.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: Address,
    active: Cell<u64>,
    connected: Cell<u64>,
    failed: Cell<u64>,
    /// When the last attempt failed, unless one has succeeded since.
    failed_at: Cell<Option<Time>>,
}

/// How long an upstream that could not be connected comes behind the others. Then it is tried again: one attempt in so
/// long, instead of one for each connection.
const SHUNNED: Duration = Duration::from_secs(5);

impl Upstream {
    /// An attempt to connect failed.
    pub(super) fn fails(&self, now: Time) {
        self.failed.set(self.failed.get() + 1);
        self.failed_at.set(Some(now));
    }

    /// It was connected.
    pub(super) fn connects(&self) {
        self.connected.set(self.connected.get() + 1);
        self.failed_at.set(None);
    }

    fn has_failed_by(&self, now: Time) -> bool {
        self.failed_at.get().is_some_and(|at| now.since(at) < SHUNNED)
    }
}

/// All upstreams of one shard. Counts are this shard's own; nothing is shared.
#[derive(Debug)]
pub(super) struct Upstreams {
    group: Option<String>,
    all: Vec<Rc<Upstream>>,
    balance: Balance,
    next: Cell<usize>,
}

/// A connection to an upstream, or the attempt at one, that counts as active.
#[derive(Debug)]
pub(super) struct Lease(Rc<Upstream>);

impl Upstreams {
    /// `first` is where the turn begins: each shard begins elsewhere, so that few connections spread too.
    pub(super) fn new(
        group: Option<&str>,
        addresses: &[Address],
        balance: Balance,
        first: usize,
    ) -> Upstreams {
        let upstream = |address: &Address| {
            let address = address.clone();
            let (active, connected, failed, failed_at) = Default::default();
            Rc::new(Upstream { address, active, connected, failed, failed_at })
        };
        Upstreams {
            group: group.map(str::to_owned),
            all: addresses.iter().map(upstream).collect(),
            balance,
            next: Cell::new(first % addresses.len().max(1)),
        }
    }

    /// Where a new connection begins to look for an upstream.
    pub(super) fn turn(&self) -> usize {
        let turn = self.next.get();
        self.next.set((turn + 1) % self.all.len());
        turn
    }

    /// The upstream to try for a connection that began at `turn` and has tried some others; counted as active. Those
    /// that failed of late come last.
    pub(super) fn choose(&self, now: Time, turn: usize, tried: &[usize]) -> Option<(usize, Lease)> {
        let rank = |&place: &usize| {
            let upstream = &self.all[place];
            let busy = match self.balance {
                Balance::RoundRobin | Balance::Rendezvous => 0,
                Balance::LeastConnections | Balance::TwoChoices => upstream.active.get(),
            };
            (upstream.has_failed_by(now), busy)
        };
        let in_turn = (0..self.all.len()).map(|step| (turn + step) % self.all.len());
        let place = in_turn.filter(|place| !tried.contains(place)).min_by_key(rank)?;
        let upstream = self.all[place].clone();
        upstream.active.set(upstream.active.get() + 1);
        Some((place, Lease(upstream)))
    }

    pub(super) fn counters(&self) -> Vec<UpstreamCounters> {
        let copy = |upstream: &Rc<Upstream>| UpstreamCounters {
            group: self.group.clone(),
            address: upstream.address.to_string(),
            active: upstream.active.get(),
            connected: upstream.connected.get(),
            failed: upstream.failed.get(),
        };
        self.all.iter().map(copy).collect()
    }
}

impl std::ops::Deref for Lease {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(balance: Balance) -> Upstreams {
        let at = |port| Address::Inet(([127, 0, 0, 1], port).into());
        Upstreams::new(None, &[at(1), at(2), at(3)], balance, 0)
    }

    /// Where the next connection goes, if it may try all.
    fn next(all: &Upstreams) -> usize {
        all.choose(Time::ZERO, all.turn(), &[]).unwrap().0
    }

    fn leases(all: &Upstreams, places: [usize; 2]) -> [Lease; 2] {
        let others = |place| (0..3).filter(|other| *other != place).collect::<Vec<_>>();
        places.map(|place| all.choose(Time::ZERO, 0, &others(place)).unwrap().1)
    }

    #[test]
    fn round_robin_takes_turns_and_retries_go_on_to_the_next() {
        let all = three(Balance::RoundRobin);
        assert_eq!([0; 5].map(|_| next(&all)), [0, 1, 2, 0, 1]);
        let second = |tried: &[usize]| all.choose(Time::ZERO, 2, tried).map(|(place, _)| place);
        assert_eq!([second(&[2]), second(&[2, 0]), second(&[2, 0, 1])], [Some(0), Some(1), None]);
    }

    #[test]
    fn least_connections_avoids_the_busy_and_counts_what_ended() {
        let all = three(Balance::LeastConnections);
        let held = leases(&all, [0, 1]);
        assert_eq!([0; 3].map(|_| next(&all)), [2, 2, 2]);
        let more = leases(&all, [2, 2]);
        drop(held);
        let chosen = [next(&all), next(&all)];
        assert_eq!(chosen, [0, 1], "of equals the next in turn");
        drop(more);
        assert!(all.counters().iter().all(|upstream| upstream.active == 0));
    }

    #[test]
    fn one_that_failed_is_no_favourite_for_having_no_connections() {
        for balance in [Balance::LeastConnections, Balance::RoundRobin] {
            let all = three(balance);
            let dead = leases(&all, [1, 1]);
            dead[0].fails(Time::ZERO);
            drop(dead);
            let _busy = leases(&all, [0, 2]);
            let places = [0, 1, 2].map(|turn| all.choose(Time::ZERO, turn, &[]).unwrap().0);
            assert_eq!(places, [0, 2, 2], "{balance}");
            let last = all.choose(Time::ZERO, 0, &[0, 2]).unwrap().0;
            assert_eq!(last, 1, "if all others failed too it is tried");
            let later = all.choose(Time::ZERO + SHUNNED, 1, &[]).unwrap();
            assert_eq!(later.0, 1, "and when its time is over");
            later.1.fails(Time::ZERO + SHUNNED);
            later.1.connects();
            assert_eq!(all.choose(Time::ZERO + SHUNNED, 1, &[]).unwrap().0, 1, "it is back");
        }
    }
}
