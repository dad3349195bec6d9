//! Binding, listening and accepting.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use waterwheel_reactor::{
    Address, Bound, Handle, Incoming, ListenOptions, Listener, StreamOptions, UnixName,
};

use super::Poller;
use super::fault::Fault;
use super::stream::Slot;

pub(super) fn bind(
    fault: Fault,
    at: &Address,
    options: &ListenOptions,
    count: usize,
) -> io::Result<Vec<Bound>> {
    let result = bind_all(fault, at, options, count);
    if fault == Fault::ErrorsUntyped { result.map_err(io::Error::other) } else { result }
}

fn bind_all(fault: Fault, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
    let mut at = at.clone();
    let mut bound: Vec<Bound> = Vec::new();
    for _ in 0..count {
        let grouped = options.reuse_port && matches!(at, Address::Inet(_));
        let socket = match bound.first() {
            Some(Bound { handle: Handle::Os(first), .. }) if !grouped => Socket::from(first.try_clone()?),
            _ => bind_one(fault, &at, options)?,
        };
        at = to_address(&socket.local_addr()?);
        bound.push(Bound { local: at.clone(), handle: Handle::Os(socket.into()), options: *options });
    }
    Ok(bound)
}

fn bind_one(fault: Fault, at: &Address, options: &ListenOptions) -> io::Result<Socket> {
    let address = from_address(at)?;
    let socket = Socket::new(address.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.domain() == Domain::IPV6 {
        socket.set_only_v6(options.only_v6)?;
    }
    if !address.is_unix() {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.reuse_port)?;
    }
    match (socket.bind(&address), at) {
        (Err(error), Address::Unix(UnixName::Path(path))) if error.kind() == io::ErrorKind::AddrInUse => {
            if fault != Fault::PathStolen && !is_stale(path, &address)? {
                return Err(error);
            }
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        (result, _) => result?,
    }
    socket.listen(options.backlog.min(i32::MAX as u32) as i32)?;
    Ok(socket)
}

/// A socket's file that nobody answers at.
fn is_stale(path: &Path, address: &SockAddr) -> io::Result<bool> {
    let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
    let caller = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    Ok(is_socket && caller.connect(address).is_err_and(refused))
}

pub(super) fn from_address(at: &Address) -> io::Result<SockAddr> {
    match at {
        Address::Inet(at) => Ok(SockAddr::from(*at)),
        Address::Unix(UnixName::Path(path)) => SockAddr::unix(path),
        Address::Unix(UnixName::Abstract(name)) => {
            SockAddr::unix(OsStr::from_bytes(&[b"\0", name.as_slice()].concat()))
        }
        Address::Unix(UnixName::Unnamed) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

pub(super) fn to_address(at: &SockAddr) -> Address {
    if let Some(at) = at.as_socket() {
        return Address::Inet(at);
    }
    Address::Unix(match (at.as_pathname(), at.as_abstract_namespace()) {
        (Some(path), _) => UnixName::Path(path.to_owned()),
        (_, Some(name)) => UnixName::Abstract(name.to_owned()),
        _ => UnixName::Unnamed,
    })
}

/// Sets what `options` ask for; a socket that is not TCP knows none of it.
pub(super) fn set(socket: &SockRef<'_>, options: &StreamOptions) -> io::Result<()> {
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if socket.domain()? == Domain::UNIX {
        return Ok(());
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(idle) = options.keepalive {
        let interval = (idle / 10).max(Duration::from_secs(1));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval))?;
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct Accepting {
    poller: Rc<Poller>,
    descriptor: Option<Rc<OwnedFd>>,
    slot: Slot,
    options: ListenOptions,
    accepted: u64,
}

impl Accepting {
    pub(super) fn new(poller: Rc<Poller>, bound: Bound) -> io::Result<Accepting> {
        let Handle::Os(descriptor) = bound.handle else { return Err(io::ErrorKind::InvalidInput.into()) };
        if poller.fault == Fault::PortKept {
            mem::forget(descriptor.try_clone()?);
        }
        let slot = Slot::new(&poller);
        let descriptor = Some(Rc::new(descriptor));
        Ok(Accepting { poller, descriptor, slot, options: bound.options, accepted: 0 })
    }

    fn accept(&mut self) -> io::Result<Incoming> {
        let descriptor = self.descriptor.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let forgets = self.poller.fault == Fault::OptionsForgotten;
        let flags =
            if forgets { SocketFlags::NONBLOCK } else { SocketFlags::CLOEXEC | SocketFlags::NONBLOCK };
        let mut socket = accept_with(descriptor, flags)?;
        self.accepted += 1;
        if self.poller.fault == Fault::BurstCut && self.accepted.is_multiple_of(16) {
            socket = accept_with(descriptor, flags)?;
        }
        set(&SockRef::from(&socket), &self.options.stream)?;
        let peer = SockRef::from(&socket).peer_addr().ok().map(|peer| to_address(&peer));
        Ok(Incoming { handle: Handle::Os(socket), bytes: Vec::new(), peer })
    }
}

impl Listener for Accepting {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        match self.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(descriptor) = &self.descriptor {
                    self.slot.wait(descriptor, PollFlags::IN, cx);
                }
                Poll::Pending
            }
            Err(error) if self.poller.fault == Fault::LimitSpins && error.raw_os_error() == Some(24) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        let descriptor = self.descriptor.take().expect("closed once");
        self.slot.clear();
        let descriptor = Rc::into_inner(descriptor).expect("nobody waits for it any more");
        if self.poller.fault == Fault::AdoptedShutDown {
            let _ = SockRef::from(&descriptor).shutdown(Shutdown::Both);
        }
        let local = to_address(&SockRef::from(&descriptor.as_fd()).local_addr().expect("a bound socket"));
        Poll::Ready(Bound { local, handle: Handle::Os(descriptor), options: self.options })
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        if self.poller.fault == Fault::PendingAcceptLeaks
            && let Ok(incoming) = self.accept()
        {
            mem::forget(incoming);
        }
    }
}
