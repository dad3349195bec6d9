//! Connections that a program gives to another shard: by what it has read, or as it likes.

use std::io::{self, ErrorKind};

use super::connection::Connection;
use super::offered::Offered;
use crate::shard::ShardId;
use crate::steer::{hash_bytes, jump};

impl Connection {
    /// Gives the connection to the shard that owns `key`: a name that the client sent, an account, an address from a header.
    /// The same key has the same owner in every process with the same number of shards and the same seed
    /// (`WATERWHEEL_STEER_SEED`). For mode [`Key`](crate::steer::Mode::Key), where nobody else decides; in other modes it
    /// overrides what they decided.
    ///
    /// `Some`: this shard owns it, or the owner has ended; go on with it. `None`: the owner serves it now as one that it
    /// accepted, from the first byte that was not consumed; there the same call with the same key gives it back.
    ///
    /// # Errors
    /// As [`hand_to`](Connection::hand_to).
    pub async fn steer_by(self, key: &[u8]) -> io::Result<Option<Connection>> {
        let (seed, shards) = (self.way()?.steering.seed, self.shard().count());
        let owner = ShardId::new(jump(hash_bytes(key, seed), shards));
        if owner == self.shard().id() { Ok(Some(self)) } else { self.hand_to(owner).await }
    }

    /// Gives the connection to another shard of its listener, which serves it as one that it accepted: every byte that was
    /// received and not consumed goes with it, and the peer notices nothing. What was written is sent before. Waits while
    /// that shard has no room; dropped then, it resets the connection.
    ///
    /// `Some`: it is this shard itself, or that shard has ended: nobody but this one serves it.
    ///
    /// # Errors
    /// `InvalidInput`: the connection came by no listener, or there is no such shard; whatever broke the connection. It is
    /// closed then.
    pub async fn hand_to(mut self, shard: ShardId) -> io::Result<Option<Connection>> {
        let way = self.way()?;
        let own = self.shard().clone();
        if shard.index() >= own.count() {
            let told = format!("there is no shard {shard}: they are numbered from 0 to {}", own.count() - 1);
            return Err(io::Error::new(ErrorKind::InvalidInput, told));
        }
        if shard == own.id() {
            return Ok(Some(self));
        }
        // Kept until it is on its way, so that its place here is taken as long as it waits.
        let (escort, _) = self.take_company();
        let incoming = self.release().await?;
        let mut offered = Offered::new(incoming);
        offered.count_for(&way.parts, shard.index());
        match way.to.send(shard, offered).await {
            Ok(()) => {
                way.counters.count(|counted| &mut counted.handed_over);
                Ok(None)
            }
            Err(closed) => {
                let mut offered = closed.0;
                offered.count_for(&way.parts, own.id().index());
                let Some((incoming, _)) = offered.take() else { return Err(ErrorKind::NotConnected.into()) };
                let connection = own.adopt(incoming)?.of(way);
                Ok(Some(match escort {
                    Some(escort) => connection.escorted(escort),
                    None => connection,
                }))
            }
        }
    }
}
