//! Whether an upstream is the proxy's own listener.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use waterwheel_reactor::{Address, UnixName};

/// Whether a connection to `upstream` would arrive at `listener`.
pub(super) fn reaches(upstream: &Address, listener: &Address) -> bool {
    match (upstream.inet(), listener.inet()) {
        (Some(to), Some(at)) if to.port() == at.port() => {
            let wildcard = at.ip().is_unspecified();
            let same_family = at.is_ipv6() || to.is_ipv4();
            to.ip() == at.ip() || to.ip().is_unspecified() || (wildcard && same_family && is_ours(to.ip()))
        }
        (None, None) => same_file(upstream, listener),
        _ => false,
    }
}

/// Whether this machine has the address: then a socket can be bound to it. Nothing is sent.
fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
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
