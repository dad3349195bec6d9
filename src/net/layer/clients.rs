//! How many connections a client has at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use waterwheel_reactor::Address;

use crate::net::connection::Connection;

/// Counts the connections of each client address on one shard, and admits no more than so many at once. Clones count
/// together.
///
/// With [`Mode::Source`](crate::steer::Mode::Source) all connections of a client meet on one shard, so that this count is
/// the whole; in other modes a client has as many on each shard. An IPv4 address mapped into IPv6 is the IPv4 address.
/// Peers without an address (Unix sockets) are not limited.
///
/// Takes memory only for clients that are connected.
#[derive(Clone)]
pub struct Clients {
    inner: Rc<Inner>,
}

struct Inner {
    most: usize,
    connected: RefCell<BTreeMap<IpAddr, usize>>,
    refused: Cell<u64>,
}

/// A client has as many connections as it may have; this one was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client {client} has {most} connections already; the one more was reset")]
pub struct TooMany {
    /// Who.
    pub client: IpAddr,
    /// How many it may have.
    pub most: usize,
}

impl Clients {
    /// At most so many connections for each client; with 0 nobody who has an address is admitted.
    pub fn new(most: usize) -> Clients {
        let (connected, refused) = Default::default();
        Clients { inner: Rc::new(Inner { most, connected, refused }) }
    }

    /// Counts a connection until both of its halves are gone, lingering included.
    ///
    /// # Errors
    /// Its client has too many; it was reset. To say something before, ask [`count`](Clients::count).
    pub fn admit(&self, connection: Connection) -> Result<Connection, TooMany> {
        let Some(client) = connection.peer().ok().as_ref().and_then(address) else { return Ok(connection) };
        let mut connected = self.inner.connected.borrow_mut();
        let count = connected.entry(client).or_default();
        if *count < self.inner.most {
            *count += 1;
            return Ok(connection.escorted(Rc::new(Counted { clients: self.inner.clone(), client })));
        }
        if *count == 0 {
            connected.remove(&client);
        }
        drop(connected);
        self.inner.refused.set(self.inner.refused.get() + 1);
        connection.abort();
        Err(TooMany { client, most: self.inner.most })
    }

    /// How many connections a client has now.
    pub fn count(&self, client: &Address) -> usize {
        let connected = self.inner.connected.borrow();
        address(client).and_then(|client| connected.get(&client).copied()).unwrap_or(0)
    }

    /// How many clients have any.
    pub fn connected(&self) -> usize {
        self.inner.connected.borrow().len()
    }

    /// How many connections were not admitted so far.
    pub fn refused(&self) -> u64 {
        self.inner.refused.get()
    }
}

fn address(peer: &Address) -> Option<IpAddr> {
    Some(peer.inet()?.ip().to_canonical())
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("most", &self.inner.most)
            .field("connected", &self.connected())
            .finish()
    }
}

/// A connection that counts, until this is dropped.
struct Counted {
    clients: Rc<Inner>,
    client: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut connected = self.clients.connected.borrow_mut();
        if let Some(count) = connected.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.client);
            }
        }
    }
}
