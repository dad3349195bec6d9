//! A port that all shards receive datagrams on.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waterwheel_reactor::{Address, BoundDatagrams};

use super::hand_over::HandingOver;
use super::handed::{Handed, Traffic};
use super::socket::DatagramSocket;
#[cfg(doc)]
use super::stats::DatagramStats;
use crate::net::quota::Quota;
use crate::shard::{Shard, ShardId};

/// Datagrams, or merged ones, that are kept for a shard between two of its lives; what comes then is lost.
const WAITING_MAX: usize = 128;

/// A port that all shards receive on, each through a socket of its own. Made before the shards run; each shard opens its part
/// once ([`Shard::datagrams_on`]), and should: datagrams that come to a part that nobody serves wait there, and are lost
/// once it is full.
///
/// In the modes `flow` and `source` a peer's datagrams come to the shard that [`owner`](crate::steer::owner) names: the kernel
/// sees to it where it takes the program, and what comes to another shard's socket all the same is handed over.
///
/// The part of a shard that fails stays, and what came meanwhile waits for its next life; also that of a task that panics with
/// its socket, for who opens it next. A part that was opened closes with its [`DatagramSocket`], one that was not when the
/// shard ends for good; then the next shard by number whose part is open takes the place of the owner, and nobody else's peers
/// move. Either way a [`DatagramSender`](super::DatagramSender) that is left sends no more
/// ([`SocketEnded`](super::SocketEnded)): it would keep peers at a socket that nobody reads.
#[derive(Clone)]
pub struct DatagramGroup {
    shared: Arc<Shared>,
}

struct Shared {
    local: Address,
    steered: bool,
    /// `None`: a peer has no owner, but whoever the kernel chooses.
    handing_over: Option<HandingOver>,
    parts: Mutex<Vec<Part>>,
    /// By shard: datagrams that the kernel has thrown away, as its sockets have last told.
    discarded: Box<[AtomicU32]>,
    /// All receive from one socket.
    is_one_socket: bool,
}

/// How one shard's part stands.
enum Part {
    /// To be opened: by the first life of its shard, or by the next one.
    Unopened(BoundDatagrams, Vec<Handed>),
    /// At work, or between work and what follows.
    Opened,
    /// Nobody receives through it any more.
    Closed,
}

/// Who is to have a datagram that its owner does not take.
#[derive(Debug)]
pub(super) enum Instead {
    /// The owner itself, or who has taken its place: maybe the shard that asks.
    Shard(ShardId, Box<Handed>),
    /// The owner's next life.
    Waits,
    /// Nobody: too many wait for its next life, or too many bytes.
    Crowded,
    /// Nobody is left.
    Nobody,
}

impl DatagramGroup {
    pub(crate) fn new(
        unopened: Vec<BoundDatagrams>,
        steered: bool,
        handing_over: Option<HandingOver>,
    ) -> Option<DatagramGroup> {
        let BoundDatagrams { local, options, .. } = unopened.first()?;
        let (local, is_one_socket) = (local.clone(), local.inet().is_none() || !options.reuse_port);
        let part = |bound| Part::Unopened(bound, Vec::new());
        let discarded = unopened.iter().map(|_| AtomicU32::new(0)).collect();
        let parts = Mutex::new(unopened.into_iter().map(part).collect());
        let shared = Shared { local, steered, handing_over, parts, discarded, is_one_socket };
        Some(DatagramGroup { shared: Arc::new(shared) })
    }

    /// Where it is bound, port 0 resolved.
    pub fn local(&self) -> &Address {
        &self.shared.local
    }

    /// Whether the kernel takes a peer's datagrams to the shard that [`owner`](crate::steer::owner) names. Else it spreads
    /// peers by a hash of its own, and in the modes `flow` and `source` shards hand over what is not theirs.
    pub fn is_steered(&self) -> bool {
        self.shared.steered
    }

    /// Datagrams that a shard handed over to another which ended before it received them, and that are lost: over all
    /// shards, of merged ones each, complete once all shards have ended. So many were [handed over](DatagramStats::handed_over)
    /// and not taken over.
    pub fn undelivered(&self) -> u64 {
        self.traffic().map_or(0, |traffic| traffic.all_undelivered())
    }

    pub(super) fn handing_over(&self) -> Option<&HandingOver> {
        self.shared.handing_over.as_ref()
    }

    pub(super) fn traffic(&self) -> Option<&Arc<Traffic>> {
        self.handing_over().map(|handing_over| &handing_over.traffic)
    }

    /// How many datagrams the kernel has thrown away of a shard's, as was last told. `None`: another shard tells, which has
    /// the same socket.
    pub(super) fn discarded(&self, shard: usize) -> Option<&AtomicU32> {
        self.shared.discarded.get(shard).filter(|_| shard == 0 || !self.shared.is_one_socket)
    }

    /// Closes a shard's part: the shard has ended, or receives no more.
    pub(crate) fn give_up(&self, shard: usize) {
        let part = self.parts().get_mut(shard).map(|part| std::mem::replace(part, Part::Closed));
        drop(part);
    }

    /// Keeps a part for the shard's next life.
    pub(super) fn put_back(&self, shard: usize, bound: BoundDatagrams) {
        if let Some(part) = self.parts().get_mut(shard) {
            *part = Part::Unopened(bound, Vec::new());
        }
    }

    /// Who is to have a datagram that the shard which should have it does not take now.
    pub(super) fn instead_of(&self, owner: ShardId, mut handed: Box<Handed>) -> Instead {
        let mut parts = self.parts();
        let count = parts.len();
        for shard in (owner.index()..owner.index() + count).map(|shard| shard % count) {
            match &mut parts[shard] {
                Part::Unopened(_, waiting) if waiting.len() < WAITING_MAX && handed.goes_to(shard) => {
                    waiting.push(*handed);
                    return Instead::Waits;
                }
                Part::Unopened(..) => {
                    handed.stays();
                    return Instead::Crowded;
                }
                Part::Opened => return Instead::Shard(ShardId::new(shard), handed),
                Part::Closed => {}
            }
        }
        handed.stays();
        Instead::Nobody
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.shared.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, shard: usize) -> Option<(BoundDatagrams, Vec<Handed>)> {
        let mut parts = self.parts();
        let part = parts.get_mut(shard).filter(|part| matches!(part, Part::Unopened(..)))?;
        match std::mem::replace(part, Part::Opened) {
            Part::Unopened(bound, waiting) => Some((bound, waiting)),
            Part::Opened | Part::Closed => None,
        }
    }
}

impl fmt::Debug for DatagramGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramGroup")
            .field("local", &self.shared.local)
            .field("steered", &self.shared.steered)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// Opens this shard's part of a port that all receive datagrams on.
    ///
    /// # Errors
    /// It was opened on this shard before, no descriptor is left, or the reactor refuses the socket.
    pub fn datagrams_on(&self, group: &DatagramGroup) -> io::Result<DatagramSocket> {
        let datagrams = self.reactor().datagrams().ok_or_else(not_offered)?;
        // Serving takes another descriptor for a while, and a socket that cannot be served is closed: without one left, the part
        // stays for the next attempt.
        drop(self.reactor().spare()?);
        // Before its part is taken, which stays for the next attempt.
        let places = Quota::descriptors(self, 1)?;
        let own = self.id().index();
        let (bound, waiting) = group.open(own).ok_or_else(|| {
            io::Error::other(format!("udp at {} is served by {:?} already", group.local(), self.id()))
        })?;
        let opened = datagrams
            .serve(bound)
            .and_then(|socket| DatagramSocket::of(self, socket, group, (waiting, places)));
        opened.inspect_err(|_| group.give_up(own))
    }
}

pub(super) fn not_offered() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this reactor has no datagrams")
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::atomic::Ordering::Relaxed;

    use waterwheel_reactor::{Datagram, DatagramOptions, Handle};

    use super::*;

    fn bound() -> BoundDatagrams {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = Address::Inet(socket.local_addr().unwrap());
        BoundDatagrams { local, handle: Handle::Os(socket.into()), options: DatagramOptions::default() }
    }

    fn group(shards: usize) -> DatagramGroup {
        DatagramGroup::new((0..shards).map(|_| bound()).collect(), false, None).unwrap()
    }

    fn one(byte: u8) -> Box<Handed> {
        of_bytes(&Traffic::new(4, None), &[byte])
    }

    fn of_bytes(traffic: &Arc<Traffic>, bytes: &[u8]) -> Box<Handed> {
        let datagram = Datagram { size: bytes.len(), ..Datagram::default() };
        Box::new(Handed::new(traffic, (0, 0), &datagram, bytes).expect("there is room"))
    }

    /// Who is asked to take what shard `owner` does not; `None`: it waits.
    fn instead(group: &DatagramGroup, owner: usize) -> Option<usize> {
        match group.instead_of(ShardId::new(owner), one(7)) {
            Instead::Shard(shard, handed) => {
                assert_eq!(*handed.bytes, [7]);
                Some(shard.index())
            }
            Instead::Waits => None,
            Instead::Crowded | Instead::Nobody => panic!("somebody is there, with room"),
        }
    }

    #[test]
    fn the_next_by_number_takes_the_place_of_who_is_gone() {
        let group = group(4);
        (0..4).for_each(|shard| drop(group.open(shard).unwrap()));
        assert_eq!(instead(&group, 2), Some(2), "it is there, whatever who asks knows");
        group.give_up(2);
        group.give_up(3);
        let heirs: Vec<_> = (0..4).map(|owner| instead(&group, owner)).collect();
        assert_eq!(heirs, [Some(0), Some(1), Some(0), Some(0)]);
        // One that has a next life keeps its peers, and those that it took over.
        group.put_back(0, bound());
        assert_eq!((instead(&group, 3), instead(&group, 0), instead(&group, 1)), (None, None, Some(1)));
        assert_eq!(group.open(0).unwrap().1.len(), 2, "both are received by the next life");
        (0..4).for_each(|shard| group.give_up(shard));
        assert!(matches!(group.instead_of(ShardId::new(1), one(7)), Instead::Nobody));
    }

    #[test]
    fn so_many_wait_for_a_next_life_and_no_more() {
        let group = group(2);
        drop(group.open(1).unwrap());
        group.put_back(1, bound());
        let waits =
            |number: usize| matches!(group.instead_of(ShardId::new(1), one(number as u8)), Instead::Waits);
        assert!((0..WAITING_MAX).all(waits));
        assert!(matches!(group.instead_of(ShardId::new(1), one(0)), Instead::Crowded));
        let (_bound, waiting) = group.open(1).unwrap();
        let order: Vec<u8> = waiting.iter().map(|handed| handed.bytes[0]).collect();
        assert_eq!(order, (0..WAITING_MAX as u8).collect::<Vec<_>>());
        assert!(group.open(1).is_none(), "opened once");
    }

    #[test]
    fn one_shard_tells_what_is_thrown_away_of_a_socket_that_all_have() {
        let tell = |group: &DatagramGroup| [0, 1, 2].map(|shard| group.discarded(shard).is_some());
        assert_eq!(tell(&group(2)), [true, true, false]);
        let shared = || BoundDatagrams {
            options: DatagramOptions { reuse_port: false, ..bound().options },
            ..bound()
        };
        let group = DatagramGroup::new(vec![shared(), shared()], false, None).unwrap();
        assert_eq!(tell(&group), [true, false, false]);
    }

    #[test]
    fn so_many_bytes_wait_and_no_more() {
        let group = group(2);
        let traffic = Traffic::new(2, Some(0));
        let waits =
            || matches!(group.instead_of(ShardId::new(1), of_bytes(&traffic, &[0; 40_000])), Instead::Waits);
        assert!(waits() && !waits());
        drop(group.open(1));
        assert_eq!(traffic.bytes_for(1).load(Relaxed), 0);
        group.put_back(1, bound());
        assert!(waits());
        group.give_up(1);
        assert_eq!(traffic.bytes_for(1).load(Relaxed), 0, "what waited for nobody is gone");
        assert_eq!(traffic.all_undelivered(), 2, "and counted, as is what was not received");
    }
}
