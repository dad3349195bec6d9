//! What is counted of datagrams: by socket for programs, by group for who watches them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use waterwheel_reactor::{Address, Datagram, Outgoing};

use super::handed::Traffic;
use super::sender::Shared;
use crate::shard::Shard;

/// What a datagram socket has counted. Datagrams count as they were sent: of those that the kernel merged, or cut, each.
///
/// What its program was given is `received` and `taken_over` without `handed_over`, `crowded`, `ownerless` and `unread`, and
/// without what it has not asked for yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DatagramStats {
    /// Datagrams that the kernel gave to this socket.
    pub received: u64,
    /// Their bytes, as they were sent.
    pub received_bytes: u64,
    /// Of `received`, those whose end is missing for want of [room](super::DatagramSocket::with_room).
    pub cut: u64,
    /// Times that receiving failed: peers that are not there, no memory.
    pub receive_errors: u64,
    /// Datagrams that came for this socket and that the kernel threw away: no room in its
    /// [buffer](waterwheel_reactor::DatagramOptions::receive_buffer), or damaged. Not in `received`; 0 where the reactor does
    /// not tell.
    pub discarded: u64,
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Times that sending failed: no way there, too large, forbidden.
    pub send_errors: u64,
    /// Of `received`, those that another shard owns, and that were handed over to it or to who has taken its place.
    pub handed_over: u64,
    /// Datagrams that came to other shards' sockets, and were handed over to this one and received.
    pub taken_over: u64,
    /// Of `received`, those that another shard owned, which is gone, and whose place this one has taken.
    pub kept: u64,
    /// Of `received`, those lost since their owner had no room for them: too many were on the way to it, or too many bytes.
    pub crowded: u64,
    /// Of `received`, those lost since their owner was gone, and at that moment nobody had its place.
    pub ownerless: u64,
    /// Of `handed_over`, those lost since the other shard ended before it received them.
    pub undelivered: u64,
    /// Received or taken over, and lost since nobody had asked for them when the socket, or its memory, went.
    pub unread: u64,
}

impl DatagramStats {
    /// Datagrams that came to the process and to no program: over all sockets of a group each counts once. What the kernel
    /// threw away before is not among them.
    pub fn lost(&self) -> u64 {
        self.crowded + self.ownerless + self.undelivered + self.unread
    }
}

impl Add for DatagramStats {
    type Output = DatagramStats;

    fn add(self, other: DatagramStats) -> DatagramStats {
        DatagramStats {
            received: self.received + other.received,
            received_bytes: self.received_bytes + other.received_bytes,
            cut: self.cut + other.cut,
            receive_errors: self.receive_errors + other.receive_errors,
            discarded: self.discarded + other.discarded,
            sent: self.sent + other.sent,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            send_errors: self.send_errors + other.send_errors,
            handed_over: self.handed_over + other.handed_over,
            taken_over: self.taken_over + other.taken_over,
            kept: self.kept + other.kept,
            crowded: self.crowded + other.crowded,
            ownerless: self.ownerless + other.ownerless,
            undelivered: self.undelivered + other.undelivered,
            unread: self.unread + other.unread,
        }
    }
}

impl AddAssign for DatagramStats {
    fn add_assign(&mut self, other: DatagramStats) {
        *self = *self + other;
    }
}

/// Of how many datagrams that were sent this one is.
pub(super) fn number_in(datagram: &Datagram) -> u64 {
    datagram.segment.map_or(1, |segment| datagram.size.div_ceil(segment.max(1)).max(1) as u64)
}

/// What one socket counts. Kept by whoever asks later, too.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counted: RefCell<DatagramStats>,
    /// Of a group whose shards hand over: where it is counted what others did not live to receive, whose it was, and how much
    /// there was when the socket was opened.
    undelivered: Option<(Arc<Traffic>, usize, u64)>,
    /// What the kernel has thrown away, as it was last told.
    discarded: Cell<u32>,
}

impl Counters {
    /// `discarded` was told of by who served the socket before.
    pub(super) fn new(shard: &Shard, traffic: Option<&Arc<Traffic>>, discarded: u32) -> Rc<Counters> {
        let own = shard.id().index();
        let undelivered = traffic.map(|traffic| (traffic.clone(), own, traffic.undelivered(own)));
        Rc::new(Counters { counted: RefCell::default(), undelivered, discarded: Cell::new(discarded) })
    }

    /// So many has the kernel thrown away by now.
    pub(super) fn discarded(&self, now: u32) {
        let more = now.wrapping_sub(self.discarded.replace(now));
        self.count(|counted| counted.discarded += u64::from(more));
    }

    pub(super) fn copy(&self) -> DatagramStats {
        let undelivered = self.undelivered.as_ref();
        let undelivered = undelivered.map_or(0, |(traffic, own, before)| traffic.undelivered(*own) - before);
        DatagramStats { undelivered, ..*self.counted.borrow() }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut DatagramStats)) {
        change(&mut self.counted.borrow_mut());
    }

    /// The kernel gave these, into buffers of so many bytes.
    pub(super) fn received(&self, found: &[Datagram], room: usize) {
        self.count(|counted| {
            for datagram in found {
                counted.received += number_in(datagram);
                counted.received_bytes += datagram.size as u64;
                counted.cut += u64::from(datagram.size > room);
            }
        });
    }

    /// The kernel took these.
    pub(super) fn sent(&self, outgoing: &[Outgoing<'_>]) {
        self.count(|counted| {
            for Outgoing { bytes, segment, .. } in outgoing {
                let number = segment.map_or(1, |segment| bytes.len().div_ceil(segment.max(1)).max(1));
                counted.sent += number as u64;
                counted.sent_bytes += bytes.len() as u64;
            }
        });
    }
}

/// What all groups' sockets of a shard count, in this life of it.
#[derive(Debug, Default)]
pub(crate) struct CountedBy {
    /// By address, in words. There are few, and each is opened seldom.
    groups: RefCell<BTreeMap<String, OfGroup>>,
}

#[derive(Debug, Default)]
struct OfGroup {
    /// Of sockets that nobody has any more.
    ended: DatagramStats,
    open: Vec<(Rc<Counters>, Weak<Shared>)>,
    /// Where it is counted what others did not live to receive, and whose it was.
    traffic: Option<(Arc<Traffic>, usize)>,
    /// How much of that the lives before have told of.
    told_before: u64,
}

impl CountedBy {
    /// The one that is kept for this shard.
    pub(crate) fn of(shard: &Shard) -> Rc<CountedBy> {
        shard.kept().unwrap_or_else(|| {
            let own = Rc::new(CountedBy::default());
            drop(shard.keep(own.clone()));
            own
        })
    }

    /// A socket of a group.
    pub(super) fn add(&self, socket: &Rc<Shared>, traffic: Option<&Arc<Traffic>>) {
        let at = match socket.local() {
            Address::Inet(at) => format!("udp:{at}"),
            other => other.to_string(),
        };
        let mut groups = self.groups.borrow_mut();
        let group = groups.entry(at).or_insert_with(|| {
            let own = socket.shard.id().index();
            let told_before = traffic.map_or(0, |traffic| traffic.told(own));
            OfGroup {
                traffic: traffic.map(|traffic| (traffic.clone(), own)),
                told_before,
                ..OfGroup::default()
            }
        });
        let OfGroup { ended, open, .. } = group;
        open.retain(|(counters, _)| {
            let counts = Rc::strong_count(counters) > 1;
            if !counts {
                *ended += *counters.counted.borrow();
            }
            counts
        });
        open.push((socket.counters.clone(), Rc::downgrade(socket)));
    }

    /// What was counted so far, by group.
    pub(crate) fn stats(&self) -> Vec<(String, DatagramStats)> {
        let groups = self.groups.borrow();
        groups.iter().map(|(at, group)| (at.clone(), group.stats())).collect()
    }
}

impl OfGroup {
    fn stats(&self) -> DatagramStats {
        let open = self.open.iter().map(|(counters, socket)| {
            socket.upgrade().iter().for_each(|socket| socket.ask_discarded());
            *counters.counted.borrow()
        });
        let mut sum = open.fold(self.ended, Add::add);
        if let Some((traffic, own)) = &self.traffic {
            // Also what came to nothing between two lives is told of once.
            sum.undelivered = traffic.tell(*own) - self.told_before;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_and_cut_datagrams_count_as_they_were_sent() {
        let of = |size, segment| number_in(&Datagram { size, segment, ..Datagram::default() });
        assert_eq!([of(0, None), of(9_000, None), of(0, Some(100)), of(1, Some(100))], [1; 4]);
        assert_eq!([of(300, Some(100)), of(301, Some(100)), of(60_000, Some(1_200))], [3, 4, 50]);
        let counters = Counters::default();
        let to_peer = |bytes| Outgoing::to_peer(bytes);
        counters.sent(&[to_peer(b""), Outgoing { segment: Some(2), ..to_peer(b"12345") }, to_peer(b"123")]);
        counters.received(&[Datagram { size: 7, ..Datagram::default() }, Datagram::default()], 6);
        [7, 7, 9, 3].into_iter().for_each(|now| counters.discarded(now));
        let counted = counters.copy();
        assert_eq!(counted.discarded, u64::from(u32::MAX) + 4, "it went round");
        assert_eq!((counted.sent, counted.sent_bytes), (5, 8));
        assert_eq!((counted.received, counted.received_bytes, counted.cut), (2, 7, 1));
    }
}
