//! Whether an upstream is the proxy's own listener.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use waterwheel_reactor::{Address, UnixName};

/// Whether a connection to `upstream` would arrive at `listener`.
pub(super) fn reaches(upstream: &Address, listener: &Address) -> bool {
    match (upstream.inet(), listener.inet()) {
        (Some(to), Some(at)) if to.port() == at.port() => {
            let wildcard = at.ip().is_unspecified();
            let same_family = at.is_ipv6() || to.is_ipv4();
            to.ip() == at.ip() || to.ip().is_unspecified() || (wildcard && same_family && is_ours(to))
        }
        (None, None) => same_file(upstream, listener),
        _ => false,
    }
}

/// Whether this machine has the address: then a socket that is connected to it comes from it. Nothing is sent.
///
/// Being allowed to bind to it says nothing where `net.ipv4.ip_nonlocal_bind` is set, as on hosts that share an address
/// by VRRP. In IPv4 a socket has to be bound all the same, since a second address of an interface is reached from the
/// first one; the kernel refuses to connect from what it does not have. In IPv6 it chooses the address itself if it has
/// it (RFC 6724, rule 1 of section 5), also where only a scope tells the interface.
fn is_ours(to: SocketAddr) -> bool {
    let from = match to {
        SocketAddr::V4(four) => SocketAddr::from((*four.ip(), 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let comes_from = || -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        socket.local_addr()
    };
    to.ip().is_loopback() || comes_from().is_ok_and(|from| from.ip() == to.ip())
}

/// Two paths may name one socket.
fn same_file(one: &Address, other: &Address) -> bool {
    let (Address::Unix(UnixName::Path(a)), Address::Unix(UnixName::Path(b))) = (one, other) else {
        return one == other;
    };
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    #[test]
    fn its_own_listener_is_recognised() {
        for (upstream, listener) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("127.0.0.7:80", "0.0.0.0:80"),
            ("127.0.0.1:80", "[::]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::1]:80", "[::]:80"),
        ] {
            assert!(reaches(&at(upstream), &at(listener)), "{upstream} reaches {listener}");
        }
    }

    #[test]
    fn others_are_not() {
        for (upstream, listener) in [
            ("127.0.0.1:81", "127.0.0.1:80"),
            ("127.0.0.2:80", "127.0.0.1:80"),
            ("192.0.2.1:80", "0.0.0.0:80"),
            ("[::1]:80", "0.0.0.0:80"),
        ] {
            assert!(!reaches(&at(upstream), &at(listener)), "{upstream} does not reach {listener}");
        }
    }

    /// The addresses with which this machine talks to others, as its kernel lists them; none where it has none.
    #[test]
    fn every_address_of_an_interface_is_ours_with_its_scope() {
        let listed = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        for line in listed.lines() {
            let mut words = line.split_whitespace();
            let ip = Ipv6Addr::from(u128::from_str_radix(words.next().unwrap(), 16).unwrap());
            let scope = u32::from_str_radix(words.next().unwrap(), 16).unwrap();
            let flags = u32::from_str_radix(words.nth(2).unwrap(), 16).unwrap();
            // IFA_F_DADFAILED and IFA_F_TENTATIVE of linux/if_addr.h: nobody may use it, or not yet.
            if flags & (0x08 | 0x40) != 0 {
                continue;
            }
            // Only such an address needs the interface's number to be reached.
            let scope = if ip.is_unicast_link_local() { scope } else { 0 };
            let to = Address::Inet(std::net::SocketAddrV6::new(ip, 80, 0, scope).into());
            assert!(reaches(&to, &at("[::]:80")), "{to}");
        }
    }

    #[test]
    fn unix_paths_are_compared_by_what_they_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        std::fs::write(&path, "").unwrap();
        let link = folder.path().join("b.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let name = |path: &std::path::Path| Address::Unix(UnixName::Path(path.to_owned()));
        assert!(reaches(&name(&link), &name(&path)));
        assert!(!reaches(&name(&folder.path().join("c.sock")), &name(&path)));
    }
}
