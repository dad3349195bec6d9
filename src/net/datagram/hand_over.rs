//! Datagrams that come to another shard than the one that owns their peer, and how they get there.

use std::fmt;
use std::io;

use waterwheel_reactor::Datagram;

use super::group::{DatagramGroup, Instead};
use super::sender::Shared;
use crate::mesh::{DeclareError, Mailbox, Mesh, Port, PortOptions, TrySendError};
use crate::shard::{Shard, ShardId};
use crate::steer::{Mode, owner};

/// The limits of the port over which datagrams go to their owners: four times what a shard receives in a call at most. What
/// finds no room is lost, as in the kernel's buffer.
const HAND_OVER: PortOptions = PortOptions { capacity: 128 };
/// Shards that are asked, one after the other, before a datagram is lost: the owner, whoever is there instead, and once
/// more, since that one may end as well.
const ATTEMPTS_MAX: usize = 3;

/// What became of datagrams, merged ones counted as one, whose peer another shard owns. Of one socket of a
/// [`DatagramGroup`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramStats {
    /// Came to this shard's socket, and went to their owner.
    pub handed_over: u64,
    /// Came to another shard's socket, and were received here.
    pub taken_over: u64,
    /// Received here, since this shard has taken the place of an owner that is gone.
    pub kept: u64,
    /// Lost, since their owner had no room for them, or was gone in just that moment.
    pub lost: u64,
}

/// A datagram, or several that the kernel merged, on the way to who owns their peer.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(super) datagram: Datagram,
    /// As much of it as the shard that received it has room for.
    pub(super) bytes: Box<[u8]>,
}

/// How the datagrams of a port find their owners.
#[derive(Clone, Debug)]
pub(crate) struct HandingOver {
    port: Port<Box<Handed>>,
    mode: Mode,
    seed: u32,
}

impl HandingOver {
    /// Of a port with this name; `None` where there is nobody to hand anything to, or a peer's address does not say to whom.
    pub(crate) fn declare(
        mesh: &Mesh,
        name: impl FnOnce() -> &'static str,
        mode: Mode,
        seed: u32,
    ) -> Result<Option<HandingOver>, DeclareError> {
        let (Mode::Flow | Mode::Source) = mode else { return Ok(None) };
        if mesh.shards() < 2 {
            return Ok(None);
        }
        Ok(Some(HandingOver { port: Port::declare(mesh, name(), HAND_OVER)?, mode, seed }))
    }
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
}

impl Way {
    pub(super) fn open(shard: &Shard, group: &DatagramGroup) -> io::Result<Option<Way>> {
        let Some(HandingOver { port, mode, seed }) = group.handing_over() else { return Ok(None) };
        // Again, if the one before failed and its part was put back. What comes late is of the same port, and as welcome.
        let mailbox = shard.open_again(port).map_err(io::Error::other)?;
        let (group, shard) = (group.clone(), shard.clone());
        Ok(Some(Way { mailbox, others_first: false, group, shard, mode: *mode, seed: *seed }))
    }

    /// Gives a datagram to who owns its peer; false: that is this shard, or it has taken the place of who did.
    pub(super) fn passes_on(&self, datagram: &Datagram, bytes: &[u8], shared: &Shared) -> bool {
        let own = self.shard.id();
        let Some(owner) = owner(&datagram.from, self.mode, self.seed, self.shard.count()) else {
            return false;
        };
        if owner == own.index() {
            return false;
        }
        let bytes = bytes[..datagram.size.min(bytes.len())].into();
        let mut handed = Box::new(Handed { datagram: datagram.clone(), bytes });
        let mut to = ShardId::new(owner);
        for _ in 0..ATTEMPTS_MAX {
            handed = match self.mailbox.try_send(to, handed) {
                Ok(()) => {
                    shared.count(|counted| &mut counted.handed_over);
                    return true;
                }
                Err(TrySendError::Full(_)) => break,
                Err(TrySendError::Closed(handed)) => handed,
            };
            (to, handed) = match self.group.instead_of(ShardId::new(owner), handed) {
                Instead::Shard(shard, _) if shard == own => {
                    shared.count(|counted| &mut counted.kept);
                    return false;
                }
                Instead::Shard(shard, handed) => (shard, handed),
                Instead::Waits => {
                    shared.count(|counted| &mut counted.handed_over);
                    return true;
                }
                Instead::Nobody => break,
            };
        }
        shared.count(|counted| &mut counted.lost);
        true
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("mode", &self.mode).finish_non_exhaustive()
    }
}
