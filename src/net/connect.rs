//! Connections that a shard makes or is given.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{Address, ConnectOptions, Incoming};

use super::connection::Connection;
use super::quota::Quota;
use crate::shard::Shard;

/// How long a connect rests while the listener's queue is full, at first and at most; and for how long it tries again.
const REST: Duration = Duration::from_millis(5);
const REST_MOST: Duration = Duration::from_millis(100);
const BUSY_MOST: Duration = Duration::from_secs(60);

impl Shard {
    /// Connects to an address; the connection belongs to this shard. Limit the time with
    /// [`timeout`](Shard::timeout): the kernel's own limit is minutes. Dropping the future cancels the attempt.
    ///
    /// While the queue of a Unix socket's listener is full, it tries again, for a minute at most: the kernel does not
    /// tell when there is room.
    ///
    /// # Errors
    /// `ConnectionRefused`, `HostUnreachable`, `TimedOut`, `AddrNotAvailable` (no port left) and their like;
    /// `QuotaExceeded`: the shard has as many connections as it [may](crate::runtime::Quotas).
    pub async fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Connection> {
        let (began, mut rest) = (self.turn_time(), REST);
        loop {
            match self.connect_once(to, options).await {
                Err(error)
                    if error.kind() == ErrorKind::ResourceBusy
                        && self.turn_time().since(began) < BUSY_MOST =>
                {
                    self.sleep(rest).await;
                    rest = (rest * 2).min(REST_MOST);
                }
                connected => return connected,
            }
        }
    }

    async fn connect_once(&self, to: &Address, options: &ConnectOptions) -> io::Result<Connection> {
        // Nothing to linger for while it is not established: the transport itself is dropped then.
        let place = Quota::descriptors(self, 1)?.pop();
        let mut transport = self.reactor().connect(to, options)?;
        poll_fn(|cx| transport.sink.poll_flush(cx)).await?;
        let connection = Connection::new(self.clone(), transport);
        Ok(match place {
            Some(place) => connection.escorted(Rc::new(place)),
            None => connection,
        })
    }

    /// Takes over a connection that came from a listener or from another shard.
    ///
    /// # Errors
    /// The kernel's reason; the connection is closed then.
    pub fn adopt(&self, incoming: Incoming) -> io::Result<Connection> {
        Ok(Connection::new(self.clone(), self.reactor().adopt(incoming)?))
    }
}
