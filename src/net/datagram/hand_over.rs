//! Datagrams that come to another shard than the one that owns their peer, and how they get there.

use std::fmt;
use std::io;
use std::sync::Arc;

use waterwheel_reactor::Datagram;

use super::group::{DatagramGroup, Instead};
use super::handed::{Handed, Traffic};
use super::stats::{Counters, number_in};
use crate::mesh::{DeclareError, Mailbox, Mesh, Port, PortOptions, TrySendError};
use crate::net::quota::buffered;
use crate::shard::{Shard, ShardId};
use crate::steer::{Mode, owner};

/// The limits of the port over which datagrams go to their owners: four times what a shard receives in a call at most, besides
/// that of their [bytes](Traffic). What finds no room is lost, as in the kernel's buffer.
const HAND_OVER: PortOptions = PortOptions { capacity: 128 };
/// Shards that are asked, one after the other, before a datagram is lost: the owner, whoever is there instead, and once
/// more, since that one may end as well.
const ATTEMPTS_MAX: usize = 3;

/// How the datagrams of a port find their owners.
#[derive(Clone, Debug)]
pub(crate) struct HandingOver {
    port: Port<Box<Handed>>,
    mode: Mode,
    seed: u32,
    pub(super) traffic: Arc<Traffic>,
}

impl HandingOver {
    /// Of a port with this name; `None` where there is nobody to hand anything to, or a peer's address does not say to whom.
    /// `quota` is each shard's of buffered bytes.
    pub(crate) fn declare(
        mesh: &Mesh,
        name: impl FnOnce() -> &'static str,
        (mode, seed): (Mode, u32),
        quota: Option<usize>,
    ) -> Result<Option<HandingOver>, DeclareError> {
        let (Mode::Flow | Mode::Source) = mode else { return Ok(None) };
        if mesh.shards() < 2 {
            return Ok(None);
        }
        let (port, traffic) = (Port::declare(mesh, name(), HAND_OVER)?, Traffic::new(mesh.shards(), quota));
        Ok(Some(HandingOver { port, mode, seed, traffic }))
    }
}

/// What becomes of a datagram that another shard owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Goes,
    Stays,
    Crowded,
    Ownerless,
}

/// One shard's part in it. Dropped when nobody receives here any more, so that others do not wait for this shard.
pub(super) struct Way {
    pub(super) mailbox: Mailbox<Box<Handed>>,
    /// Whose turn it was last: what others hand over, or the shard's own socket.
    pub(super) others_first: bool,
    group: DatagramGroup,
    shard: Shard,
    mode: Mode,
    seed: u32,
    traffic: Arc<Traffic>,
}

impl Way {
    pub(super) fn open(shard: &Shard, group: &DatagramGroup) -> io::Result<Option<Way>> {
        let Some(HandingOver { port, mode, seed, traffic }) = group.handing_over() else { return Ok(None) };
        // Again, if the one before failed and its part was put back. What comes late is of the same port, and as welcome.
        let mailbox = shard.open_again(port).map_err(io::Error::other)?;
        buffered(shard).count_also(traffic.bytes_for(shard.id().index()));
        let (group, shard, traffic) = (group.clone(), shard.clone(), traffic.clone());
        Ok(Some(Way { mailbox, others_first: false, group, shard, mode: *mode, seed: *seed, traffic }))
    }

    /// Gives a datagram to who owns its peer; false: that is this shard, or it has taken the place of who did.
    pub(super) fn passes_on(&self, datagram: &Datagram, bytes: &[u8], counters: &Counters) -> bool {
        let own = self.shard.id();
        let Some(owner) = owner(&datagram.from, self.mode, self.seed, self.shard.count()) else {
            return false;
        };
        if owner == own.index() {
            return false;
        }
        let fate = match Handed::new(&self.traffic, (own.index(), owner), datagram, bytes) {
            Some(handed) => self.hand_over(ShardId::new(owner), Box::new(handed)),
            None => Fate::Crowded,
        };
        let number = number_in(datagram);
        counters.count(|counted| match fate {
            Fate::Goes => counted.handed_over += number,
            Fate::Stays => counted.kept += number,
            Fate::Crowded => counted.crowded += number,
            Fate::Ownerless => counted.ownerless += number,
        });
        fate != Fate::Stays
    }

    fn hand_over(&self, owner: ShardId, mut handed: Box<Handed>) -> Fate {
        let mut to = owner;
        for _ in 0..ATTEMPTS_MAX {
            handed = match self.mailbox.try_send(to, handed) {
                Ok(()) => return Fate::Goes,
                Err(TrySendError::Full(mut handed)) => {
                    handed.stays();
                    return Fate::Crowded;
                }
                Err(TrySendError::Closed(handed)) => handed,
            };
            (to, handed) = match self.group.instead_of(owner, handed) {
                Instead::Shard(shard, mut handed) if shard == self.shard.id() => {
                    handed.stays();
                    return Fate::Stays;
                }
                Instead::Shard(shard, handed) => (shard, handed),
                Instead::Waits => return Fate::Goes,
                Instead::Crowded => return Fate::Crowded,
                Instead::Nobody => return Fate::Ownerless,
            };
            if !handed.goes_to(to.index()) {
                return Fate::Crowded;
            }
        }
        handed.stays();
        Fate::Ownerless
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("mode", &self.mode).finish_non_exhaustive()
    }
}
