//! Datagrams on the way from the shard that received them to the one that owns their peer: how many bytes of them there may
//! be, and how many do not arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use waterwheel_reactor::{DATAGRAM_BYTES_MAX, Datagram};

use super::stats::number_in;
use crate::net::quota::Quota;
use crate::shard::Shard;

/// The most bytes that are held for one shard of a group, by all that hand over to it: what two of them receive in a call,
/// merged, at most. What finds no room is lost, as in the kernel's buffer.
const BYTES_MAX: usize = 2 << 20;
/// Where a shard has a quota of buffered bytes, one in so many of them at most, but always one datagram of the largest.
const QUOTA_PART: usize = 8;

/// A datagram, or several that the kernel merged, that was handed over.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(super) datagram: Datagram,
    /// As much of it as the shard that received it has room for.
    pub(super) bytes: Box<[u8]>,
    /// As long as it is held for the shard that it is for.
    trip: Option<Trip>,
}

/// What the shards of a group hold for each other.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// By the shard that they are for: bytes on the way, kept for its next life, or received and not given out.
    bytes: Box<[Arc<AtomicUsize>]>,
    bytes_max: usize,
    /// By the shard that handed them over.
    undelivered: Box<[Undelivered]>,
}

/// Datagrams that no shard lived to receive.
#[derive(Debug, Default)]
struct Undelivered {
    all: AtomicU64,
    /// As many as the shard has told of.
    told: AtomicU64,
}

/// A part of that, until this is dropped.
#[derive(Debug)]
struct Trip {
    traffic: Arc<Traffic>,
    from: usize,
    to: usize,
    bytes: usize,
    number: u64,
    /// Nothing gets lost on it any more: it has arrived, or was never begun.
    is_over: bool,
}

impl Traffic {
    /// Between so many shards, each of which may hold so many bytes in all.
    pub(super) fn new(shards: usize, quota: Option<usize>) -> Arc<Traffic> {
        let largest = DATAGRAM_BYTES_MAX + size_of::<Handed>();
        let bytes_max = quota.map_or(BYTES_MAX, |most| (most / QUOTA_PART).clamp(largest, BYTES_MAX));
        let bytes = (0..shards).map(|_| Arc::default()).collect();
        let undelivered = (0..shards).map(|_| Undelivered::default()).collect();
        Arc::new(Traffic { bytes, bytes_max, undelivered })
    }

    /// Datagrams that this shard handed over and that no other lived to receive.
    pub(super) fn undelivered(&self, by: usize) -> u64 {
        self.undelivered[by].all.load(Relaxed)
    }

    /// The same of all shards.
    pub(super) fn all_undelivered(&self) -> u64 {
        (0..self.undelivered.len()).map(|shard| self.undelivered(shard)).sum()
    }

    /// The same as this shard tells of it now, which is kept for its next life.
    pub(super) fn tell(&self, by: usize) -> u64 {
        let all = self.undelivered(by);
        self.undelivered[by].told.store(all, Relaxed);
        all
    }

    /// As much as it has told of.
    pub(super) fn told(&self, by: usize) -> u64 {
        self.undelivered[by].told.load(Relaxed)
    }

    /// Where the bytes for this shard are counted.
    pub(super) fn bytes_for(&self, shard: usize) -> &Arc<AtomicUsize> {
        &self.bytes[shard]
    }

    /// `None`: too many bytes are held for that shard.
    fn begin(self: &Arc<Self>, (from, to): (usize, usize), bytes: usize, number: u64) -> Option<Trip> {
        let more = |held: usize| Some(held + bytes).filter(|held| *held <= self.bytes_max);
        self.bytes[to].fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Trip { traffic: self.clone(), from, to, bytes, number, is_over: false })
    }
}

impl Handed {
    /// A copy of what one shard received, on the way to another; `None`: too many bytes are held for that.
    pub(super) fn new(
        traffic: &Arc<Traffic>,
        (from, to): (usize, usize),
        datagram: &Datagram,
        received: &[u8],
    ) -> Option<Handed> {
        let received = &received[..datagram.size.min(received.len())];
        let bytes = size_of::<Handed>() + received.len();
        let trip = traffic.begin((from, to), bytes, number_in(datagram))?;
        Some(Handed { datagram: datagram.clone(), bytes: received.into(), trip: Some(trip) })
    }

    /// It was not taken there, and goes to another shard; false: too many bytes are held for that, and it stays.
    pub(super) fn goes_to(&mut self, to: usize) -> bool {
        if let Some(Trip { traffic, from, to: before, bytes, number, .. }) = &self.trip
            && *before != to
        {
            let trip = traffic.begin((*from, to), *bytes, *number);
            self.stays();
            self.trip = trip;
        }
        self.trip.is_some()
    }

    /// It was not taken by anybody.
    pub(super) fn stays(&mut self) {
        self.arrives();
        self.trip = None;
    }

    /// It is received: what becomes of it now is counted elsewhere.
    pub(super) fn arrives(&mut self) {
        if let Some(trip) = &mut self.trip {
            trip.is_over = true;
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.traffic.bytes[self.to].fetch_sub(self.bytes, Relaxed);
        if !self.is_over {
            self.traffic.undelivered[self.from].all.fetch_add(self.number, Relaxed);
        }
        // Others than that shard drop only what it does not live to receive.
        if let Some(shard) = Shard::current().filter(|shard| shard.id().index() == self.to) {
            Quota::look_again(&shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(size: usize) -> Datagram {
        Datagram { size, ..Datagram::default() }
    }

    fn held(traffic: &Traffic) -> Vec<usize> {
        traffic.bytes.iter().map(|bytes| bytes.load(Relaxed)).collect()
    }

    #[test]
    fn what_is_held_for_a_shard_is_bounded_and_counted_until_it_is_dropped() {
        let (traffic, each) = (Traffic::new(2, None), size_of::<Handed>() + 60_000);
        let hand = |to| Handed::new(&traffic, (1 - to, to), &datagram(60_000), &[0; 65_536]);
        let mut all: Vec<Handed> = std::iter::from_fn(|| hand(1)).take(1_000).collect();
        assert_eq!(all.len(), BYTES_MAX / each);
        assert_eq!(held(&traffic), [0, all.len() * each]);
        assert!(!all[0].bytes.is_empty() && hand(0).is_some(), "another shard has room of its own");
        all.pop();
        assert!(hand(1).is_some_and(|handed| handed.bytes.len() == 60_000));
        drop(all);
        assert_eq!(held(&traffic), [0, 0]);
    }

    #[test]
    fn what_does_not_arrive_counts_for_who_has_sent_it() {
        let traffic = Traffic::new(3, None);
        let merged = Datagram { size: 3_000, segment: Some(1_000), ..Datagram::default() };
        let hand = |from| Handed::new(&traffic, (from, 2), &merged, &[0; 3_000]).expect("there is room");
        let (mut arrived, mut kept, moved) = (hand(0), hand(0), hand(1));
        arrived.arrives();
        kept.stays();
        drop((arrived, kept));
        assert_eq!(traffic.all_undelivered(), 0);
        let mut moved = moved;
        assert!(moved.goes_to(0));
        assert_eq!(traffic.all_undelivered(), 0, "it is on its way");
        drop((moved, hand(0), hand(0)));
        assert_eq!((traffic.undelivered(0), traffic.undelivered(1), traffic.undelivered(2)), (6, 3, 0));
        assert_eq!((traffic.told(0), traffic.tell(0), traffic.told(0), traffic.told(1)), (0, 6, 6, 0));
    }

    #[test]
    fn who_is_for_another_shard_takes_room_there() {
        let traffic = Traffic::new(3, Some(0));
        let hand = |to| Handed::new(&traffic, (1, to), &datagram(65_000), &[0; 65_000]);
        let (mut one, other) = (hand(0).expect("the largest has room"), hand(2).expect("there too"));
        assert!(hand(0).is_none() && one.goes_to(0) && one.goes_to(1));
        assert_eq!(held(&traffic), [0, 65_000 + size_of::<Handed>(), 65_000 + size_of::<Handed>()]);
        assert!(!one.goes_to(2), "it would be too much");
        assert_eq!(held(&traffic)[..2], [0, 0]);
        drop(other);
        assert_eq!(held(&traffic), [0, 0, 0]);
        drop(one);
        assert_eq!(traffic.all_undelivered(), 1, "the other was on its way, and this one stayed");
        for (quota, most) in [(16 << 20, 2 << 20), (1 << 30, 2 << 20), (4 << 20, 512 << 10)] {
            assert_eq!(Traffic::new(1, Some(quota)).bytes_max, most);
        }
    }
}
