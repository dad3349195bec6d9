//! A port that all shards receive datagrams on.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use waterwheel_reactor::{Address, BoundDatagrams};

use super::socket::DatagramSocket;
use crate::shard::Shard;

/// A port that all shards receive on, each through a socket of its own. Made before the shards run; each shard opens its part
/// once ([`Shard::datagrams_on`]), and should: datagrams that come to a part that nobody serves wait there, and are lost
/// once it is full.
///
/// The part of a shard that fails stays, and what came meanwhile waits for its next life. A part that was opened closes with
/// its socket, one that was not when the shard ends for good; its peers' datagrams go to the other parts then.
#[derive(Clone)]
pub struct DatagramGroup {
    shared: Arc<Shared>,
}

struct Shared {
    local: Address,
    steered: bool,
    unopened: Mutex<Vec<Option<BoundDatagrams>>>,
}

impl DatagramGroup {
    pub(crate) fn new(unopened: Vec<BoundDatagrams>, steered: bool) -> Option<DatagramGroup> {
        let local = unopened.first()?.local.clone();
        let unopened = Mutex::new(unopened.into_iter().map(Some).collect());
        Some(DatagramGroup { shared: Arc::new(Shared { local, steered, unopened }) })
    }

    /// Where it is bound, port 0 resolved.
    pub fn local(&self) -> &Address {
        &self.shared.local
    }

    /// Whether the kernel takes a peer's datagrams to the shard that [`owner`](crate::steer::owner) names; else it spreads
    /// peers by a hash of its own.
    pub fn is_steered(&self) -> bool {
        self.shared.steered
    }

    /// Closes a shard's part if nobody has opened it: the shard has ended.
    pub(crate) fn give_up(&self, shard: usize) {
        drop(self.take(shard));
    }

    fn take(&self, shard: usize) -> Option<BoundDatagrams> {
        let mut all = self.shared.unopened.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(shard).and_then(Option::take)
    }

    /// Keeps a part for the shard's next life.
    pub(super) fn put_back(&self, shard: usize, bound: BoundDatagrams) {
        let mut all = self.shared.unopened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = all.get_mut(shard) {
            *part = Some(bound);
        }
    }
}

impl fmt::Debug for DatagramGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramGroup")
            .field("local", &self.shared.local)
            .field("steered", &self.shared.steered)
            .finish()
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
        let bound = group.take(self.id().index()).ok_or_else(|| {
            io::Error::other(format!("udp at {} is served by {:?} already", group.local(), self.id()))
        })?;
        DatagramSocket::new(self, datagrams.serve(bound)?, Some(group.clone()))
    }
}

pub(super) fn not_offered() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this reactor has no datagrams")
}
