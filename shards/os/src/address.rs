//! Addresses, between the seam's words and the kernel's.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use socket2::{Domain, SockAddr, SockRef};
use waterwheel_reactor::{Address, UnixName};

/// Where the socket is bound.
///
/// # Errors
/// As getsockname(2).
pub fn local(socket: BorrowedFd<'_>) -> io::Result<Address> {
    Ok(from_kernel(&SockRef::from(&socket).local_addr()?))
}

/// Where the socket's peer is.
///
/// # Errors
/// As getpeername(2): `NotConnected` while a connect is in progress and after a reset.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Address> {
    Ok(from_kernel(&SockRef::from(&socket).peer_addr()?))
}

/// Whether the socket speaks IPv4 or IPv6, as against the Unix family.
///
/// # Errors
/// The descriptor is not a socket.
pub fn is_internet(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let domain = SockRef::from(&socket).domain()?;
    Ok(domain == Domain::IPV4 || domain == Domain::IPV6)
}

/// The kernel's form of an address.
pub(crate) fn to_kernel(at: &Address) -> io::Result<SockAddr> {
    match at {
        Address::Inet(at) => Ok(SockAddr::from(*at)),
        Address::Unix(UnixName::Path(path)) => {
            // A leading zero byte would make it an abstract name, a later one would cut it short.
            if path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
                return Err(invalid("a Unix socket's path must not be empty or contain a zero byte"));
            }
            SockAddr::unix(path)
        }
        Address::Unix(UnixName::Abstract(name)) => {
            let mut bytes = Vec::with_capacity(name.len() + 1);
            bytes.push(0);
            bytes.extend_from_slice(name);
            SockAddr::unix(OsStr::from_bytes(&bytes))
        }
        Address::Unix(UnixName::Unnamed) => Err(invalid("a Unix socket without a name cannot be reached")),
    }
}

/// The seam's form of an address. rustix would panic on a Unix path of 108 bytes, which any peer may bind to; socket2
/// does not.
pub(crate) fn from_kernel(at: &SockAddr) -> Address {
    if let Some(at) = at.as_socket() {
        Address::Inet(at)
    } else if let Some(path) = at.as_pathname() {
        Address::Unix(UnixName::Path(path.to_owned()))
    } else if let Some(name) = at.as_abstract_namespace() {
        Address::Unix(UnixName::Abstract(name.to_owned()))
    } else {
        Address::Unix(UnixName::Unnamed)
    }
}

/// The socket family that an address needs.
pub(crate) fn domain(at: &Address) -> Domain {
    match at {
        Address::Inet(at) if at.is_ipv4() => Domain::IPV4,
        Address::Inet(_) => Domain::IPV6,
        Address::Unix(_) => Domain::UNIX,
    }
}

pub(crate) fn invalid(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn every_kind_of_address_survives_the_way_there_and_back() {
        let all = [
            Address::Inet("127.0.0.1:80".parse().unwrap()),
            Address::Inet("[2001:db8::1]:443".parse().unwrap()),
            Address::Unix(UnixName::Path(PathBuf::from("/run/x.sock"))),
            Address::Unix(UnixName::Abstract(b"name\0with zero".to_vec())),
        ];
        for at in all {
            assert_eq!(from_kernel(&to_kernel(&at).unwrap()), at);
        }
    }

    #[test]
    fn a_path_with_a_zero_byte_is_not_cut_short() {
        for path in ["", "\0abstract", "/run/a\0b"] {
            let error = to_kernel(&Address::Unix(UnixName::Path(PathBuf::from(path)))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}");
        }
    }
}
