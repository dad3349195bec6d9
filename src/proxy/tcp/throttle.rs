//! How many bytes per second a connection may move.

use std::fmt;

use super::settings::{ProxyError, within};
use crate::net::Connection;
use crate::net::layer::Bucket;

/// The most that a direction may be limited to, or a burst be: a TiB. More no connection moves.
pub const THROTTLE_MAX: u64 = 1 << 40;

/// The most bytes per second of each connection, by direction. What is too fast is left in the sockets' buffers, so that
/// whoever sends it feels it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// From the client to the upstream, 1 to [`THROTTLE_MAX`]. Default: as many as there are.
    pub up: Option<u64>,
    /// From the upstream to the client.
    pub down: Option<u64>,
    /// So many at once in each direction after a pause, 1 to [`THROTTLE_MAX`]; `None`: those of a second.
    pub burst: Option<u64>,
}

impl Throttle {
    /// Whether there is a limit.
    pub fn is_set(&self) -> bool {
        self.up.or(self.down).is_some()
    }

    pub(super) fn check(&self) -> Result<(), ProxyError> {
        let Throttle { up, down, burst } = self;
        for (key, bytes) in [("throttle-up", up), ("throttle-down", down), ("throttle-burst", burst)] {
            if let Some(bytes) = bytes {
                within(key, bytes, (1..=THROTTLE_MAX).contains(bytes), "1 to 1024g bytes")?;
            }
        }
        Ok(())
    }

    /// The client's connection with these limits. Bytes still go the reactor's way without a copy, as many at a time as may.
    pub(super) fn limit(&self, client: Connection) -> Connection {
        let shard = client.shard().clone();
        let bucket = |rate: u64| Bucket::new(&shard, rate, self.burst.unwrap_or(rate));
        let client = match self.up {
            Some(rate) => client.throttle_receiving(&bucket(rate)),
            None => client,
        };
        match self.down {
            Some(rate) => client.throttle_sending(&bucket(rate)),
            None => client,
        }
    }
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Throttle { up, down, burst } = self;
        let limits = [("up", up), ("down", down)];
        let mut limits = limits.into_iter().filter_map(|(way, limit)| Some((way, (*limit)?))).peekable();
        while let Some((way, limit)) = limits.next() {
            write!(f, "{limit} bytes per second {way}")?;
            if limits.peek().is_some() {
                f.write_str(", ")?;
            }
        }
        burst.map_or(Ok(()), |burst| write!(f, ", and {burst} at once"))
    }
}
