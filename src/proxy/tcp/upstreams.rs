//! The upstreams as one shard sees them, and the choice between them.

use std::cell::Cell;
use std::rc::Rc;

use waterwheel_reactor::Address;

use super::counters::UpstreamCounters;
use super::settings::Balance;

/// One upstream of one shard.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: Address,
    active: Cell<u64>,
    pub(super) connected: Cell<u64>,
    pub(super) failed: Cell<u64>,
}

/// All upstreams of one shard. Counts are this shard's own; nothing is shared.
#[derive(Debug)]
pub(super) struct Upstreams {
    all: Vec<Rc<Upstream>>,
    balance: Balance,
    next: Cell<usize>,
}

/// A connection to an upstream, or the attempt at one, that counts as active.
#[derive(Debug)]
pub(super) struct Lease(Rc<Upstream>);

impl Upstreams {
    /// `first` is where the turn begins: each shard begins elsewhere, so that few connections spread too.
    pub(super) fn new(addresses: &[Address], balance: Balance, first: usize) -> Upstreams {
        let upstream = |address: &Address| {
            let address = address.clone();
            Rc::new(Upstream { address, active: Cell::new(0), connected: Cell::new(0), failed: Cell::new(0) })
        };
        Upstreams {
            all: addresses.iter().map(upstream).collect(),
            balance,
            next: Cell::new(first % addresses.len().max(1)),
        }
    }

    /// The upstream for a new connection: the first place in the order of trying. [`nth`](Upstreams::nth) has the others.
    pub(super) fn choose(&self) -> usize {
        let turn = self.next.get();
        self.next.set((turn + 1) % self.all.len());
        match self.balance {
            Balance::RoundRobin => turn,
            Balance::LeastConnections => (0..self.all.len())
                .map(|step| (turn + step) % self.all.len())
                .min_by_key(|&place| self.all[place].active.get())
                .unwrap_or(turn),
        }
    }

    /// The upstream that is tried after `attempt` others failed, when `first` was tried first; counted as active.
    pub(super) fn nth(&self, first: usize, attempt: usize) -> Lease {
        let upstream = self.all[(first + attempt) % self.all.len()].clone();
        upstream.active.set(upstream.active.get() + 1);
        Lease(upstream)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn counters(&self) -> Vec<UpstreamCounters> {
        let copy = |upstream: &Rc<Upstream>| UpstreamCounters {
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
        Upstreams::new(&[at(1), at(2), at(3)], balance, 0)
    }

    #[test]
    fn round_robin_takes_turns_and_retries_go_on_to_the_next() {
        let all = three(Balance::RoundRobin);
        assert_eq!([0; 5].map(|_| all.choose()), [0, 1, 2, 0, 1]);
        assert_eq!(all.nth(2, 1).address, all.nth(0, 0).address);
    }

    #[test]
    fn least_connections_avoids_the_busy_and_counts_what_ended() {
        let all = three(Balance::LeastConnections);
        let held = [0, 1].map(|place| all.nth(place, 0));
        assert_eq!([0; 3].map(|_| all.choose()), [2, 2, 2]);
        let more = [2, 2].map(|place| all.nth(place, 0));
        drop(held);
        let chosen = [all.choose(), all.choose()];
        assert_eq!(chosen, [0, 1], "of equals the next in turn");
        drop(more);
        assert!(all.counters().iter().all(|upstream| upstream.active == 0));
    }
}
