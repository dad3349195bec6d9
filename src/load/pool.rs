//! Which connection takes which request: a pure state machine.
//!
//! An arrival takes the connection that has been idle longest, so that all connections are used alike; if there is
//! none it waits, first come first served, and goes out the moment a connection is free. Too many waiting are shed and
//! counted.

use std::collections::VecDeque;

use waterwheel_reactor::Time;

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// When it was planned.
    pub(super) planned: Time,
    /// When the generator saw that it was due.
    pub(super) dispatched: Time,
    /// Whether it had to wait for a connection.
    pub(super) waited: bool,
    /// Which phase planned it; what belongs to an earlier phase is measured no more.
    pub(super) phase: u32,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// This connection takes it now.
    Taken(usize),
    /// It waits.
    Waits,
    /// Too many wait.
    Shed,
}

/// The idle connections and the waiting requests of one shard. Never both.
#[derive(Debug)]
pub(super) struct Pool {
    /// Longest idle first; at most one entry per connection.
    idle: VecDeque<usize>,
    /// At most [`waiting_max`](Pool::waiting_max).
    waiting: VecDeque<Due>,
    waiting_max: usize,
}

/// Memory is taken for so many waiting requests from the start; beyond it the queue grows up to its limit.
const WAITING_FROM_START: usize = 4096;

impl Pool {
    /// For so many connections, none of them idle, and at most so many waiting requests.
    pub(super) fn new(connections: usize, waiting_max: usize) -> Pool {
        Pool {
            idle: VecDeque::with_capacity(connections),
            waiting: VecDeque::with_capacity(waiting_max.min(WAITING_FROM_START)),
            waiting_max,
        }
    }

    /// A request is due.
    pub(super) fn arrive(&mut self, due: Due) -> Offered {
        if let Some(connection) = self.idle.pop_front() {
            return Offered::Taken(connection);
        }
        if self.waiting.len() >= self.waiting_max {
            return Offered::Shed;
        }
        self.waiting.push_back(Due { waited: true, ..due });
        Offered::Waits
    }

    /// A connection is free: it takes the request that waits longest, or becomes idle.
    pub(super) fn free(&mut self, connection: usize) -> Option<Due> {
        let due = self.waiting.pop_front();
        if due.is_none() {
            self.idle.push_back(connection);
        }
        due
    }

    /// Takes a connection that is idle, for a closed loop that starts.
    pub(super) fn take_idle(&mut self) -> Option<usize> {
        self.idle.pop_front()
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes out all waiting requests, longest waiting first.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Due> {
        self.waiting.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn due(nanos: u64) -> Due {
        Due { planned: Time::from_nanos(nanos), dispatched: Time::ZERO, waited: false, phase: 0 }
    }

    #[test]
    fn a_backlog_goes_out_in_order_the_moment_a_connection_frees() {
        let mut pool = Pool::new(1, 2);
        assert_eq!(pool.free(0), None);
        assert_eq!(pool.arrive(due(1)), Offered::Taken(0));
        assert_eq!(
            [pool.arrive(due(2)), pool.arrive(due(3)), pool.arrive(due(4))],
            [Offered::Waits, Offered::Waits, Offered::Shed]
        );
        assert_eq!(pool.free(0), Some(Due { waited: true, ..due(2) }));
        assert_eq!(pool.arrive(due(5)), Offered::Waits, "room again");
        assert_eq!(pool.give_up().map(|due| due.planned.as_nanos()).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(pool.free(0), None);
    }

    #[test]
    fn all_connections_are_used_alike() {
        let mut pool = Pool::new(3, 0);
        (0..3).for_each(|connection| assert_eq!(pool.free(connection), None));
        let mut used = [0; 3];
        for n in 0..300 {
            let Offered::Taken(connection) = pool.arrive(due(n)) else { panic!("one is always idle") };
            used[connection] += 1;
            pool.free(connection);
        }
        assert_eq!(used, [100; 3]);
    }

    proptest! {
        #[test]
        fn no_request_is_lost_or_doubled(steps in prop::collection::vec(0usize..6, 0..300), waiting_max in 0usize..5) {
            // 0 to 3: that connection becomes free if it is not; else: an arrival.
            let mut pool = Pool::new(4, waiting_max);
            let mut busy: [Option<u64>; 4] = [Some(u64::MAX); 4];
            let (mut arrived, mut served, mut shed) = (0, Vec::new(), 0);
            for step in steps {
                if step < 4 {
                    if busy[step].is_some() {
                        busy[step] = pool.free(step).map(|due| due.planned.as_nanos());
                        served.extend(busy[step]);
                    }
                    continue;
                }
                arrived += 1;
                match pool.arrive(due(arrived)) {
                    Offered::Taken(connection) => {
                        prop_assert!(busy[connection].is_none(), "a busy connection was given a second request");
                        busy[connection] = Some(arrived);
                        served.push(arrived);
                    }
                    Offered::Waits => prop_assert!(busy.iter().all(Option::is_some), "waits although one is idle"),
                    Offered::Shed => shed += 1,
                }
                prop_assert!(pool.waiting() <= waiting_max);
            }
            prop_assert!(served.windows(2).all(|pair| pair[0] < pair[1]), "out of order: {:?}", served);
            prop_assert_eq!(served.len() as u64 + shed + pool.waiting() as u64, arrived);
        }
    }
}
