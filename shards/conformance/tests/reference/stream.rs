//! Connections: every operation tries first and waits for readiness only if it must.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, connect_unspec, recv, send};
use socket2::{SockRef, Socket, Type};
use waterwheel_reactor::{Address, ConnectOptions, Handle, Incoming, Sink, Source, Transport};

use super::fault::Fault;
use super::socket::{from_address, set, to_address};
use super::{Poller, Wait};

/// A place in the reactor's list of who waits; nobody's after it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    poller: Rc<Poller>,
    key: u64,
}

impl Slot {
    pub(super) fn new(poller: &Rc<Poller>) -> Slot {
        let key = poller.keys.get() + 1;
        poller.keys.set(key);
        Slot { poller: Rc::clone(poller), key }
    }

    pub(super) fn wait(&self, descriptor: &Rc<OwnedFd>, flags: PollFlags, cx: &Context<'_>) {
        let mut waits = self.poller.waits.borrow_mut();
        if self.poller.fault == Fault::FirstWakerKept && waits.contains_key(&self.key) {
            return;
        }
        let wait = Wait { descriptor: Rc::clone(descriptor), flags, waker: cx.waker().clone() };
        waits.insert(self.key, wait);
    }

    pub(super) fn clear(&self) {
        let gone = self.poller.waits.borrow_mut().remove(&self.key);
        drop(gone);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What both halves share.
#[derive(Debug)]
struct Shared {
    poller: Rc<Poller>,
    descriptor: Rc<OwnedFd>,
    state: Cell<State>,
    /// Waits to send the end, where the sink was dropped while connecting.
    end: RefCell<Option<Slot>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Broken(Errno),
    /// Belongs to whoever adopts it next.
    Released,
}

impl Shared {
    /// Ready once connected; the error if that failed or the connection broke.
    fn established(&self, slot: &Slot, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.state.get() == State::Connecting {
            let mut polled = [PollFd::new(&*self.descriptor, PollFlags::OUT)];
            if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0 {
                slot.wait(&self.descriptor, PollFlags::OUT, cx);
                return Poll::Pending;
            }
            self.connected(rustix::net::sockopt::socket_error(&*self.descriptor)?);
        }
        Poll::Ready(match self.state.get() {
            State::Broken(_) if self.poller.fault == Fault::RefusalUntyped => Err(io::Error::other("failed")),
            State::Broken(error) => Err(error.into()),
            State::Released => Err(io::ErrorKind::NotConnected.into()),
            State::Open | State::Connecting => Ok(()),
        })
    }

    fn connected(&self, result: Result<(), Errno>) {
        self.poller.connecting.set(self.poller.connecting.get() - 1);
        self.state.set(result.map_or_else(State::Broken, |()| State::Open));
    }

    fn broke(&self, error: Errno) -> io::Error {
        // A broken pipe leaves the receiving half whole.
        if !matches!(error, Errno::AGAIN | Errno::PIPE) {
            self.state.set(State::Broken(error));
        }
        error.into()
    }

    fn abort(&self) {
        if matches!(self.state.get(), State::Open | State::Connecting) {
            // On a Unix socket, which knows no reset, closing both ways is the nearest.
            if connect_unspec(&*self.descriptor).is_err() {
                let _ = SockRef::from(&*self.descriptor).shutdown(Shutdown::Both);
            }
            if self.state.get() == State::Connecting {
                self.poller.connecting.set(self.poller.connecting.get() - 1);
            }
            self.state.set(State::Broken(Errno::CONNABORTED));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.state.get() == State::Connecting {
            self.poller.connecting.set(self.poller.connecting.get() - 1);
            if self.poller.fault == Fault::CancelLeaks {
                mem::forget(Rc::clone(&self.descriptor));
            }
        }
    }
}

pub(super) fn connect(poller: Rc<Poller>, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
    let address = from_address(to)?;
    let socket = Socket::new(address.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
    set(&SockRef::from(&socket), &options.stream)?;
    if let Some(from) = options.from {
        socket.bind(&from.into())?;
    }
    let busy = poller.connecting.get();
    let outcome = match socket.connect(&address) {
        _ if poller.fault == Fault::ConnectsCapped && busy >= 512 => State::Broken(Errno::AGAIN),
        Ok(()) => State::Open,
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::INPROGRESS) => State::Connecting,
            Some(errno) => State::Broken(errno),
            None => return Err(error),
        },
    };
    if outcome == State::Connecting {
        poller.connecting.set(busy + 1);
    }
    Ok(transport(poller, socket.into(), outcome, Vec::new()))
}

pub(super) fn adopt(poller: Rc<Poller>, incoming: Incoming) -> io::Result<Transport> {
    let Handle::Os(descriptor) = incoming.handle else { return Err(io::ErrorKind::InvalidInput.into()) };
    Ok(transport(poller, descriptor, State::Open, incoming.bytes))
}

fn transport(poller: Rc<Poller>, descriptor: OwnedFd, state: State, bytes: Vec<u8>) -> Transport {
    let (slot, other) = (Slot::new(&poller), Slot::new(&poller));
    let (descriptor, state) = (Rc::new(descriptor), Cell::new(state));
    let shared = Rc::new(Shared { poller, descriptor, state, end: RefCell::new(None) });
    let source = Receiving { shared: Rc::clone(&shared), slot, buffer: bytes, start: 0, ended: false };
    Transport {
        source: Box::new(source),
        sink: Box::new(Sending { shared, slot: other, shut: false, refused: false }),
    }
}

#[derive(Debug)]
struct Receiving {
    shared: Rc<Shared>,
    slot: Slot,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
}

impl Receiving {
    const CHUNK: usize = 16 << 10;

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.resize(Receiving::CHUNK, 0);
        let result = recv(&*self.shared.descriptor, &mut *self.buffer, RecvFlags::empty());
        self.start = 0;
        match result {
            Ok((count, _)) => {
                self.buffer.truncate(count);
                self.ended = count == 0;
                Ok(())
            }
            Err(error) => {
                self.buffer = Vec::new();
                Err(self.shared.broke(error))
            }
        }
    }
}

impl Source for Receiving {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let aborted = self.shared.state.get() == State::Broken(Errno::CONNABORTED);
        if aborted || self.start == self.buffer.len() && !self.ended {
            ready!(self.shared.established(&self.slot, cx))?;
            match self.receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.slot.wait(&self.shared.descriptor, PollFlags::IN, cx);
                    return Poll::Pending;
                }
                result => result?,
            }
        }
        Poll::Ready(Ok(&self.buffer[self.start..]))
    }

    fn consume(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.start, "more consumed than was lent");
        self.start += count;
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        ready!(self.shared.established(&self.slot, cx))?;
        let handle = Handle::Os(self.shared.descriptor.as_fd().try_clone_to_owned()?);
        self.shared.state.set(State::Released);
        let bytes = mem::take(&mut self.buffer).split_off(mem::take(&mut self.start));
        self.ended = true;
        Poll::Ready(Ok(Incoming { handle, bytes, peer: self.peer().ok() }))
    }

    fn abort(&mut self) {
        self.shared.abort();
    }

    fn peer(&self) -> io::Result<Address> {
        SockRef::from(&*self.shared.descriptor).peer_addr().map(|peer| to_address(&peer))
    }

    fn local(&self) -> io::Result<Address> {
        SockRef::from(&*self.shared.descriptor).local_addr().map(|local| to_address(&local))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.descriptor.as_fd())
    }
}

#[derive(Debug)]
struct Sending {
    shared: Rc<Shared>,
    slot: Slot,
    shut: bool,
    refused: bool,
}

impl Sink for Sending {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.shared.established(&self.slot, cx))?;
        if self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match send(&*self.shared.descriptor, bytes, SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => {
                self.slot.wait(&self.shared.descriptor, PollFlags::OUT, cx);
                Poll::Pending
            }
            Err(error) => {
                self.refused = true;
                Poll::Ready(Err(self.shared.broke(error)))
            }
            Ok(count) => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.shared.established(&self.slot, cx))?;
        // Nothing is queued here; but a connection that broke meanwhile is told, also where nobody reads.
        let broken = rustix::net::sockopt::socket_error(&*self.shared.descriptor)?;
        let broken = broken.and(if self.refused { Err(Errno::PIPE) } else { Ok(()) });
        Poll::Ready(broken.map_err(|error| self.shared.broke(error)))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.shared.established(&self.slot, cx))?;
            SockRef::from(&*self.shared.descriptor).shutdown(Shutdown::Write)?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        self.shared.abort();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Shared { poller, descriptor, state, end } = &*self.shared;
        if state.get() == State::Connecting
            && let Ok(again) = descriptor.try_clone()
        {
            let slot = Slot::new(poller);
            let waker = Waker::from(Arc::new(End(again)));
            slot.wait(descriptor, PollFlags::OUT, &Context::from_waker(&waker));
            *end.borrow_mut() = Some(slot);
        } else if state.get() == State::Open && !self.shut {
            send_end(descriptor);
        }
    }
}

/// Sends the end once it is woken.
struct End(OwnedFd);

impl Wake for End {
    fn wake(self: Arc<End>) {
        send_end(&self.0);
    }
}

fn send_end(descriptor: &OwnedFd) {
    // A connection that broke meanwhile has nobody to tell.
    let _ = SockRef::from(descriptor).shutdown(Shutdown::Write);
}
