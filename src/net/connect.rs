//! Connections that a shard makes or is given.

use std::io;

use waterwheel_reactor::{Address, ConnectOptions, Incoming};

use super::connection::Connection;
use crate::shard::Shard;

impl Shard {
    /// Connects to an address; the connection belongs to this shard. Limit the time with
    /// [`timeout`](Shard::timeout): the kernel's own limit is minutes. Dropping the future cancels the attempt.
    ///
    /// # Errors
    /// `ConnectionRefused`, `HostUnreachable`, `TimedOut`, `AddrNotAvailable` (no port left) and their like.
    pub async fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Connection> {
        // Nothing to linger for while it is not established: the transport itself is dropped then.
        let mut transport = self.reactor().connect(to, options)?;
        std::future::poll_fn(|cx| transport.sink.poll_flush(cx)).await?;
        Ok(Connection::new(self.clone(), transport))
    }

    /// Takes over a connection that came from a listener or from another shard.
    ///
    /// # Errors
    /// The kernel's reason; the connection is closed then.
    pub fn adopt(&self, incoming: Incoming) -> io::Result<Connection> {
        Ok(Connection::new(self.clone(), self.reactor().adopt(incoming)?))
    }
}
