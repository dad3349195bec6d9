//! Where a socket is: an internet address, or a Unix socket's name.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// An address that a backend can bind or connect to, after names were resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Over IPv4 or IPv6: TCP, or UDP where datagrams are meant.
    Inet(SocketAddr),
    /// Of the Unix family (unix(7)): a stream socket, or one for datagrams.
    Unix(UnixName),
}

/// The three kinds of names that unix(7) knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnixName {
    /// A file; it outlives the socket.
    Path(PathBuf),
    /// A name outside the file system, without the leading zero byte; it goes with its last socket.
    Abstract(Vec<u8>),
    /// No name: what a client usually has.
    Unnamed,
}

impl Address {
    /// The internet address, with an IPv4 address that came mapped into IPv6 (RFC 4291, 2.5.5.2) as plain IPv4.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(SocketAddr::V6(six)) => match six.ip().to_ipv4_mapped() {
                Some(four) => Some(SocketAddr::new(IpAddr::V4(four), six.port())),
                None => Some(SocketAddr::V6(*six)),
            },
            Address::Inet(four) => Some(*four),
            Address::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(at: SocketAddr) -> Address {
        Address::Inet(at)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(at) => write!(f, "tcp:{at}"),
            Address::Unix(UnixName::Path(path)) => write!(f, "unix:{}", path.display()),
            Address::Unix(UnixName::Abstract(name)) => {
                write!(f, "unix:@{}", OsStr::from_bytes(name).display())
            }
            Address::Unix(UnixName::Unnamed) => f.write_str("unix:(unnamed)"),
        }
    }
}
