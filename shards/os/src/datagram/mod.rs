//! Datagram sockets: UDP, and those of the Unix family, for every reactor: what waits is received by one recvmmsg(2) once the
//! socket is ready, and what is to be sent goes with one sendmmsg(2).
//!
//! That is so on io_uring too. A multishot receive into provided buffers, and a send in the ring for each datagram, submitted
//! with the call that ends the turn, take as much CPU or more: in bare loops that echo on the loopback (Linux 6.18, AMD EPYC;
//! the loop's thread by schedstat, 11 rounds in turn), with 1, 8 and 32 datagrams on their way, for 64 bytes 1.02, 1.04 and
//! 1.04 times that of readiness in the ring with these two calls, for 1 200 bytes 1.00, 1.07 and 1.09 times. Each datagram
//! costs a completion, a submission and a buffer given back, where it costs these calls a place in an array.

mod control;
mod messages;
mod socket;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, SockAddr, Socket, Type};
use waterwheel_reactor::{
    Address, BoundDatagrams, DatagramOptions, DatagramSocket, Handle, Program, Reactor, UnixName,
};

use crate::address::{domain, from_kernel, invalid, to_kernel};
use crate::attach::attach;
use crate::bind::bind_path;
use crate::place::alone;
use crate::{duplicate, open};
use socket::WatchedDatagrams;

/// As `Backend::bind_datagrams` demands: `count` sockets that share the port, in the order of the shards.
///
/// As [`bind_group`](crate::bind_group) in all else: a group of somebody else's on the same port is not joined but refused,
/// and a Unix path whose socket nobody answers on is replaced.
///
/// # Errors
/// As bind(2); `InvalidInput` for a count of 0 or a name that cannot be bound. Nothing stays bound then.
pub fn bind_datagrams(
    at: &Address,
    options: &DatagramOptions,
    count: usize,
) -> io::Result<Vec<BoundDatagrams>> {
    if count == 0 {
        return Err(invalid("datagrams need at least one shard"));
    }
    let sockets = match at {
        Address::Inet(_) if options.reuse_port => share_port(at, options, count)?,
        _ => share_socket(bind_one(at, options)?, count).inspect_err(|_| {
            if let Address::Unix(UnixName::Path(path)) = at {
                drop(fs::remove_file(path))
            }
        })?,
    };
    let local = from_kernel(&sockets[0].local_addr()?);
    let bound = |socket: Socket| BoundDatagrams {
        local: local.clone(),
        handle: Handle::Os(OwnedFd::from(socket)),
        options: *options,
    };
    Ok(sockets.into_iter().map(bound).collect())
}

/// As `Backend::steer_datagrams` demands: see [`steer`](crate::steer). The number that the program answers counts the sockets
/// in the order in which they were bound.
///
/// # Errors
/// As [`steer`](crate::steer).
pub fn steer_datagrams(group: &[BoundDatagrams], program: &Program) -> io::Result<()> {
    let first = group.first().ok_or_else(|| invalid("a group without sockets"))?;
    attach(&first.handle, &first.local, first.options.reuse_port, program)
}

/// As `Datagrams::serve` demands, for a reactor that offers [`watch`](Reactor::watch).
///
/// # Errors
/// As `Datagrams::serve`; `Unsupported` for a reactor that does not.
pub fn serve_datagrams(reactor: &dyn Reactor, bound: BoundDatagrams) -> io::Result<Box<dyn DatagramSocket>> {
    watched(reactor, open(bound.handle)?, None, bound.options)
}

/// As `Datagrams::bind` demands, for a reactor that offers [`watch`](Reactor::watch).
///
/// # Errors
/// As `Datagrams::bind`; `Unsupported` for a reactor that does not.
pub fn bind_datagram_socket(
    reactor: &dyn Reactor,
    at: &Address,
    options: &DatagramOptions,
) -> io::Result<Box<dyn DatagramSocket>> {
    watched(reactor, bind_one(at, options)?.into(), None, *options)
}

/// As `Datagrams::connect` demands, for a reactor that offers [`watch`](Reactor::watch).
///
/// # Errors
/// As `Datagrams::connect`; `Unsupported` for a reactor that does not.
pub fn connect_datagrams(
    reactor: &dyn Reactor,
    to: &Address,
    options: &DatagramOptions,
) -> io::Result<Box<dyn DatagramSocket>> {
    let kernel = to_kernel(to)?;
    let socket = fresh(domain(to), options)?;
    if let Address::Unix(_) = to {
        // An empty name lets the kernel choose an abstract one (unix(7), "Autobind feature").
        socket.bind(&SockAddr::unix("")?)?;
    }
    socket.connect(&kernel)?;
    watched(reactor, socket.into(), Some(to), *options)
}

fn watched(
    reactor: &dyn Reactor,
    file: OwnedFd,
    peer: Option<&Address>,
    options: DatagramOptions,
) -> io::Result<Box<dyn DatagramSocket>> {
    let traits = messages::Traits::of(file.as_fd(), peer)?;
    let watched = reactor.watch(file)?.ok_or(io::ErrorKind::Unsupported)?;
    Ok(Box::new(WatchedDatagrams::new(watched, traits, options)))
}

fn bind_one(at: &Address, options: &DatagramOptions) -> io::Result<Socket> {
    let kernel = to_kernel(at)?;
    match at {
        Address::Unix(UnixName::Path(path)) => {
            let _alone = alone(path);
            bind_path(path, Type::DGRAM, |kernel| bind_to(kernel, options, false))
        }
        _ => bind_to(&kernel, options, false),
    }
}

/// One socket per shard, in order: a program attached to the group answers with an index in the order of the binds.
///
/// The first is bound as if it shared with nobody, and shares from then on. Else the kernel would let it join whatever group
/// of this user has the port, and might choose such a port where none was asked for.
fn share_port(at: &Address, options: &DatagramOptions, count: usize) -> io::Result<Vec<Socket>> {
    let first = bind_to(&to_kernel(at)?, options, false)?;
    first.set_reuse_port(true)?;
    let kernel = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_to(&kernel, options, true)?);
    }
    Ok(sockets)
}

/// One socket under `count` descriptors.
fn share_socket(socket: Socket, count: usize) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(Socket::from(duplicate(socket.as_fd())?));
    }
    sockets.push(socket);
    Ok(sockets)
}

fn bind_to(at: &SockAddr, options: &DatagramOptions, shared: bool) -> io::Result<Socket> {
    let socket = fresh(at.domain(), options)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(at)?;
    Ok(socket)
}

/// Not bound yet, close-on-exec and non-blocking. `SO_REUSEADDR` stays off: for datagrams it would let anybody bind to the
/// same port and take what comes to it.
fn fresh(domain: Domain, options: &DatagramOptions) -> io::Result<Socket> {
    let socket = Socket::new_raw(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
    if domain == Domain::IPV6 {
        // Said in both cases, since net.ipv6.bindv6only may change the default.
        socket.set_only_v6(options.only_v6)?;
    }
    if options.broadcast && domain != Domain::UNIX {
        socket.set_broadcast(true)?;
    }
    if domain != Domain::UNIX {
        tell_all(socket.as_fd());
    }
    if let Some(size) = options.receive_buffer {
        socket.set_recv_buffer_size(size.min(i32::MAX as usize))?;
    }
    if let Some(size) = options.send_buffer {
        socket.set_send_buffer_size(size.min(i32::MAX as usize))?;
    }
    Ok(socket)
}

/// Asks the kernel to say where datagrams came to and what the network says. Before the first can come, since the kernel takes
/// note of it then. What it does not know it leaves out, as it does all of IPv6's words for a socket of IPv4.
fn tell_all(socket: BorrowedFd<'_>) {
    for (level, name) in [
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
        (libc::IPPROTO_IP, libc::IP_RECVTOS),
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    ] {
        let _ = set(socket, level, name, 1);
    }
}

/// How many datagrams the kernel has thrown away that were for this socket (`SO_MEMINFO`, Linux 4.12).
fn discarded(socket: BorrowedFd<'_>) -> Option<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut numbers = [0_u32; DROPS + 1];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes at most `length` bytes to `numbers`,
    // which has as many, and to `length` how many those were.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0 && length as usize == size_of_val(&numbers)).then_some(numbers[DROPS])
}

/// Sets an option that is a number.
fn set(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the option's value is read from `value`, whose
    // size is passed, before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
