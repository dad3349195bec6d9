//! A machine of the world: its addresses, its ports, its descriptors.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use waterwheel_reactor::{Address, UnixName};

use crate::end::End;
use crate::errno;
use crate::state::State;
use crate::trace::Id;

/// Where ports that nobody chose begin (`net.ipv4.ip_local_port_range`).
const FIRST_PORT: u16 = 32_768;
/// A path of a Unix socket is at most so long, its end included (unix(7)).
const UNIX_NAME_MAX: usize = 108;

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: Box<str>,
    pub(crate) ips: Vec<IpAddr>,
    /// Descriptors that are open.
    pub(crate) open: usize,
    /// And that may be.
    pub(crate) open_max: usize,
    next_port: u16,
    /// Ports that connections came from by their own choice, with the end that holds each.
    pub(crate) held: BTreeMap<SocketAddr, Id>,
    pub(crate) unix: BTreeMap<UnixName, Id>,
}

impl Host {
    pub(crate) fn new(name: &str, ips: Vec<IpAddr>, open_max: usize) -> Host {
        let (held, unix) = Default::default();
        Host { name: name.into(), ips, open: 0, open_max, next_port: FIRST_PORT, held, unix }
    }

    /// Whether a socket of this host may have this address.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.ips.contains(&ip)
    }

    /// The next port of those that nobody chose, but for those that are taken; `None`: there is none left.
    pub(crate) fn next_port(&mut self, taken: impl Fn(u16) -> bool) -> Option<u16> {
        for _ in FIRST_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !taken(port) {
                return Some(port);
            }
        }
        None
    }

    /// The address that a connection to `to` comes from.
    pub(crate) fn source(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(four) if four.is_loopback() => Some(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(six) if six.is_loopback() => Some(Ipv6Addr::LOCALHOST.into()),
            // An address of its own is reached from itself.
            own if self.ips.contains(&own) => Some(own),
            _ => self.ips.iter().copied().find(|ip| ip.is_ipv4() == to.is_ipv4()),
        }
    }
}

/// Checks a Unix name as unix(7) does.
pub(crate) fn checked(name: &UnixName) -> Result<(), i32> {
    let length = match name {
        UnixName::Path(path) => path.as_os_str().len() + 1,
        UnixName::Abstract(name) => name.len() + 1,
        UnixName::Unnamed => return Err(errno::INVAL),
    };
    if length > UNIX_NAME_MAX { Err(errno::INVAL) } else { Ok(()) }
}

/// An address as it is kept and compared: IPv4 that came mapped into IPv6 is IPv4.
pub(crate) fn plain(at: SocketAddr) -> SocketAddr {
    Address::Inet(at).inet().unwrap_or(at)
}

impl State {
    /// The host that has an address, as seen from another.
    pub(crate) fn route(&self, from: usize, to: IpAddr) -> Option<usize> {
        if to.is_loopback() {
            return Some(from);
        }
        self.hosts.iter().position(|host| host.ips.contains(&to))
    }

    /// A port that nobody uses; `None`: there is none left.
    pub(crate) fn free_port(&mut self, host: usize) -> Option<u16> {
        for _ in FIRST_PORT..=u16::MAX {
            let port = self.hosts[host].next_port;
            self.hosts[host].next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            let listens = self.sockets.values().any(|socket| socket.host == host && socket.port() == port);
            let of_end = |end: &End| end.host == host && end.local.inet().is_some_and(|at| at.port() == port);
            let held = self.hosts[host].held.keys().any(|at| at.port() == port);
            if !listens && !held && !self.ends.values().any(of_end) {
                return Some(port);
            }
        }
        None
    }

    /// Takes a descriptor.
    pub(crate) fn open(&mut self, host: usize) -> Result<(), i32> {
        let host = &mut self.hosts[host];
        if host.open >= host.open_max {
            return Err(errno::MFILE);
        }
        host.open += 1;
        Ok(())
    }

    /// Gives one back.
    pub(crate) fn shut_descriptor(&mut self, host: usize) {
        self.hosts[host].open -= 1;
    }
}
