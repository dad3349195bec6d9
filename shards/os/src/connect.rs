//! Beginning to connect, and learning how it went.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use socket2::{SockAddr, SockRef, Socket, Type};
use waterwheel_reactor::{Address, ConnectOptions};

use crate::address::{domain, to_kernel};
use crate::{local, options, peer};

/// The kernel's form of an address (`struct sockaddr`).
pub use socket2::SockAddr as SocketName;

/// How far connect(2) got at once.
#[derive(Debug)]
pub enum Progress {
    /// On its way: wait until the socket is writable, then [`take_error`].
    Begun,
    /// Established already, as Unix sockets are.
    Established,
    /// Refused at once. A reactor reports it from the first flush, as it would if it had come a moment later.
    /// `ResourceBusy`: the queue of a Unix socket's listener is full, which may pass.
    Failed(io::Error),
}

/// Makes a socket, close-on-exec and non-blocking, and begins to connect it.
///
/// # Errors
/// No descriptor, no such family, no such local address (bind(2)), a name that cannot be connected to.
pub fn begin_connect(to: &Address, options: &ConnectOptions) -> io::Result<(OwnedFd, Progress)> {
    let (socket, kernel) = prepare(to, options)?;
    let progress = match socket.connect(&kernel) {
        Ok(()) => Progress::Established,
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => Progress::Begun,
        // A number of its own, since others take this one for "wait", and no event would ever come.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Progress::Failed(Errno::BUSY.into()),
        Err(error) => Progress::Failed(error),
    };
    Ok((OwnedFd::from(socket), progress))
}

/// Makes a socket as [`begin_connect`] does, and leaves it to the caller to connect it to that name.
///
/// # Errors
/// As [`begin_connect`].
pub fn prepare_connect(to: &Address, options: &ConnectOptions) -> io::Result<(OwnedFd, SocketName)> {
    let (socket, kernel) = prepare(to, options)?;
    Ok((OwnedFd::from(socket), kernel))
}

fn prepare(to: &Address, options: &ConnectOptions) -> io::Result<(Socket, SocketName)> {
    let kernel = to_kernel(to)?;
    let internet = to.inet().is_some();
    let socket = Socket::new_raw(domain(to), Type::STREAM.nonblocking().cloexec(), None)?;
    options::apply(&socket, internet, &options.stream)?;
    if let (true, Some(from)) = (internet, options.from) {
        bind_source(&socket, from)?;
    }
    Ok((socket, kernel))
}

/// Chooses the address to come from. With port 0 the choice of a port is left to connect(2), which may use one that
/// is in use towards other peers: 64 000 ports for each peer, not for all of them.
pub(crate) fn bind_source(socket: &Socket, from: SocketAddr) -> io::Result<()> {
    if from.port() == 0 {
        bind_address_no_port(socket.as_fd())?;
    } else {
        // A chosen port may still be in TIME_WAIT towards another peer.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SockAddr::from(from))
}

/// Sets `IP_BIND_ADDRESS_NO_PORT` (ip(7), Linux 4.2), which neither rustix nor socket2 wraps. IPv6 sockets take it too.
fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the option's value is read from `on`, whose
    // size is passed, before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the error that waits on the socket (`SO_ERROR`), if there is one: how a connect failed, or what broke the
/// connection. The kernel tells it once.
///
/// # Errors
/// The descriptor is not a socket.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    SockRef::from(&socket).take_error()
}

/// Whether an address that is connected to is surely this machine's.
pub fn is_near(to: &SocketAddr) -> bool {
    let ip = to.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

/// The port that is connected to, if that [is near](is_near); else 0.
pub fn near_port(to: &Address) -> u16 {
    to.inet().filter(is_near).map_or(0, |at| at.port())
}

/// As [`met_itself`], of a socket that has connected to that [near port](near_port): one system call less, since it seldom
/// comes from it, and none for 0.
pub fn met_itself_at(socket: BorrowedFd<'_>, port: u16) -> bool {
    let comes_from_it =
        || local(socket).ok().and_then(|here| here.inet()).is_some_and(|here| here.port() == port);
    port != 0 && comes_from_it() && met_itself(socket)
}

/// Whether a TCP socket that has just connected is its own peer. That happens when nobody listens on a port of this
/// machine and the kernel chooses that very port to come from (simultaneous open, RFC 9293, 3.5): the program would
/// talk to itself. Treat it as refused. Only worth asking where the peer [is near](is_near).
pub fn met_itself(socket: BorrowedFd<'_>) -> bool {
    matches!((local(socket), peer(socket)), (Ok(here), Ok(there)) if here == there)
}
