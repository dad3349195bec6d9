//! Groups of listening sockets on one address.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use waterwheel_reactor::{Address, Bound, Handle, ListenOptions, UnixName};

use crate::address::{from_kernel, invalid, to_kernel};
use crate::place::alone;
use crate::{duplicate, options};

/// Binds and listens as `Backend::bind` demands: `count` sockets that share the port, in the order of the shards.
///
/// With `reuse_port`, an internet address gets one socket per shard (`SO_REUSEPORT`); port 0 is resolved by the first
/// and taken by the others. Else, and for Unix names, it is one socket, duplicated. A group that somebody else
/// listens with on the same port is not joined but refused: connections would be spread over both. With `beside_own` that
/// cannot be told from the program's own listener, so only what the kernel refuses is: sockets that do not share their port,
/// and those of other users.
///
/// A Unix path whose socket nobody answers on is replaced; of several processes that want it at once, one gets it. The
/// file stays when the sockets are gone: the next bind replaces it, or [`SocketFile`](crate::SocketFile) removes it. Who
/// may connect is the umask's to say, as of any new file.
///
/// # Errors
/// As bind(2) and listen(2): `AddrInUse`, `PermissionDenied`, `AddrNotAvailable`; `InvalidInput` for a count of 0 or
/// a name that cannot be bound. Nothing stays bound then.
pub fn bind_group(at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
    if count == 0 {
        return Err(invalid("a listener needs at least one shard"));
    }
    let sockets = match at {
        Address::Inet(_) if options.reuse_port => share_port(at, options, count)?,
        Address::Inet(_) => share_socket(bind_inet(&to_kernel(at)?, options, Sharing::No)?, options, count)?,
        Address::Unix(UnixName::Path(path)) => {
            // Until it listens: nobody answers on it before, and another start would take it for one left behind.
            let _alone = alone(path);
            let socket = bind_path(path, Type::STREAM, |at| bind_unix(at, options))?;
            // The file is ours: it must not outlive a failure.
            share_socket(socket, options, count).inspect_err(|_| drop(fs::remove_file(path)))?
        }
        Address::Unix(_) => share_socket(bind_unix(&to_kernel(at)?, options)?, options, count)?,
    };
    let local = from_kernel(&sockets[0].local_addr()?);
    let bound = |socket: Socket| Bound {
        local: local.clone(),
        handle: Handle::Os(OwnedFd::from(socket)),
        options: *options,
    };
    Ok(sockets.into_iter().map(bound).collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    No,
    Port,
}

/// One socket per shard. A program attached to the group answers with an index in the order of the `listen` calls,
/// and attaching it before the first `listen` makes that fail: so bind all, listen on the first, (attach,) listen on
/// the rest in order.
fn share_port(at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Socket>> {
    let mut kernel = to_kernel(at)?;
    if !options.beside_own && kernel.as_socket().is_some_and(|at| at.port() != 0) {
        // The kernel lets sockets of one user join a listening group; a socket that does not share finds it taken.
        drop(bind_inet(&kernel, options, Sharing::No)?);
    }
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind_inet(&kernel, options, Sharing::Port)?;
        if sockets.is_empty() {
            kernel = socket.local_addr()?;
        }
        sockets.push(socket);
    }
    let (first, rest) = sockets.split_at(1);
    first[0].listen(backlog(options))?;
    // Here is the place to attach a steering program to `first[0]`.
    for socket in rest {
        socket.listen(backlog(options))?;
    }
    Ok(sockets)
}

/// One socket under `count` descriptors.
fn share_socket(socket: Socket, options: &ListenOptions, count: usize) -> io::Result<Vec<Socket>> {
    socket.listen(backlog(options))?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(Socket::from(duplicate(socket.as_fd())?));
    }
    sockets.push(socket);
    Ok(sockets)
}

fn bind_inet(at: &SockAddr, options: &ListenOptions, sharing: Sharing) -> io::Result<Socket> {
    let domain = at.domain();
    let socket = Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    // Without it, connections of a former process in TIME_WAIT keep the port for a minute.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Port {
        socket.set_reuse_port(true)?;
    }
    if domain == Domain::IPV6 {
        // Said in both cases, since net.ipv6.bindv6only may change the default.
        socket.set_only_v6(options.only_v6)?;
    }
    options::apply(&socket, true, &options.stream)?;
    socket.bind(at)?;
    Ok(socket)
}

fn bind_unix(at: &SockAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new_raw(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    options::apply(&socket, false, &options.stream)?;
    socket.bind(at)?;
    Ok(socket)
}

/// Binds a socket of this type to a path, in place of one that nobody answers on any more.
pub(crate) fn bind_path(
    path: &Path,
    kind: Type,
    bind: impl Fn(&SockAddr) -> io::Result<Socket>,
) -> io::Result<Socket> {
    let at = to_kernel(&Address::Unix(UnixName::Path(path.to_owned())))?;
    match bind(&at) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && nobody_answers(path, kind, &at) => {
            fs::remove_file(path)?;
            bind(&at)
        }
        bound => bound,
    }
}

/// Whether `path` is a socket's file left behind by a process that is gone. Anything else that has the name, and a
/// socket that only refuses us, is left alone.
fn nobody_answers(path: &Path, kind: Type, at: &SockAddr) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let ask = || -> io::Result<()> {
        Socket::new_raw(Domain::UNIX, kind.nonblocking().cloexec(), None)?.connect(at)
    };
    is_socket && ask().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn backlog(options: &ListenOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}
