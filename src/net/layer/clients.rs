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
/// Which addresses are one client [`ClientPrefix`] says: an IPv6 network of 64 bits is, unless
/// [`told_apart_by`](Clients::told_apart_by) says otherwise. With [`Mode::Source`](crate::steer::Mode::Source) all connections
/// of an address meet on one shard, so that this count is the whole; in other modes, and of a network, a client has as many
/// on each shard ([`KeyLease`](crate::mesh::KeyLease) counts over all of them). Peers without an address (Unix sockets) are
/// not limited.
///
/// Takes memory only for clients that are connected.
#[derive(Clone)]
pub struct Clients {
    inner: Rc<Inner>,
}

struct Inner {
    most: usize,
    prefix: Cell<ClientPrefix>,
    connected: RefCell<BTreeMap<IpAddr, usize>>,
    refused: Cell<u64>,
}

/// By how many bits of an address clients are told apart. Who has an IPv6 network has all of its addresses, and 64 bits are
/// the least that anybody has (RFC 6177, RFC 7421).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPrefix {
    /// Of IPv4, at most 32. Default 32: each address is a client.
    pub ipv4: u8,
    /// Of IPv6, at most 128. Default 64.
    pub ipv6: u8,
}

impl Default for ClientPrefix {
    fn default() -> ClientPrefix {
        ClientPrefix { ipv4: 32, ipv6: 64 }
    }
}

impl ClientPrefix {
    /// Who an address belongs to: the first address of its network. An IPv4 address mapped into IPv6 is the IPv4 address.
    pub fn client(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(four) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.ipv4.min(32))).unwrap_or(0);
                IpAddr::V4((u32::from(four) & mask).into())
            }
            IpAddr::V6(six) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.ipv6.min(128))).unwrap_or(0);
                IpAddr::V6((u128::from(six) & mask).into())
            }
        }
    }
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
        let (prefix, connected, refused) = Default::default();
        Clients { inner: Rc::new(Inner { most, prefix, connected, refused }) }
    }

    /// The same with other networks. To be said before the first is admitted.
    #[must_use = "it is the answer"]
    pub fn told_apart_by(self, prefix: ClientPrefix) -> Clients {
        self.inner.prefix.set(prefix);
        self
    }

    /// Counts a connection until both of its halves are gone, lingering included.
    ///
    /// # Errors
    /// Its client has too many; it was reset. To say something before, ask [`count`](Clients::count).
    pub fn admit(&self, connection: Connection) -> Result<Connection, TooMany> {
        let peer = connection.peer().ok();
        let Some(client) = peer.and_then(|peer| self.client(&peer)) else { return Ok(connection) };
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
        self.client(client).and_then(|client| connected.get(&client).copied()).unwrap_or(0)
    }

    fn client(&self, peer: &Address) -> Option<IpAddr> {
        Some(self.inner.prefix.get().client(peer.inet()?.ip()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_client() {
        let client = |address: &str, ipv4, ipv6| {
            ClientPrefix { ipv4, ipv6 }.client(address.parse().unwrap()).to_string()
        };
        let ClientPrefix { ipv4, ipv6 } = ClientPrefix::default();
        for (address, own) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(client(address, ipv4, ipv6), own, "{address}");
        }
        assert_eq!(client("192.0.2.7", 24, 64), "192.0.2.0");
        assert_eq!(client("192.0.2.7", 0, 0), "0.0.0.0");
        assert_eq!(client("2001:db8::1", 32, 128), "2001:db8::1");
        assert_eq!(client("2001:db8::1", 32, 0), "::");
        assert_eq!(client("2001:db8:ffff::1", 32, 33), "2001:db8:8000::");
    }
}
