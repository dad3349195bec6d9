//! Sockets: each operation tries first, and waits for readiness only if there was nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use polling::{Event, PollMode, Poller};
use waterwheel::reactor::*;
use waterwheel_os as os;

/// What one shard's reactor owns.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) alarm: Alarm,
    pub(crate) poller: Arc<Poller>,
    /// Who gets an event. No key is used twice, so an event of a socket that is gone finds nobody.
    sockets: RefCell<BTreeMap<usize, Weak<Socket>>>,
    next_key: Cell<usize>,
}

impl Core {
    pub(crate) fn new(clock: Clock, poller: Poller) -> Core {
        let (alarm, sockets, next_key) = Default::default();
        Core { clock, alarm, poller: Arc::new(poller), sockets, next_key }
    }

    /// Both halves try again: an attempt says more than an event.
    pub(crate) fn ready(&self, event: Event) {
        let Some(socket) = self.sockets.borrow().get(&event.key).and_then(Weak::upgrade) else { return };
        if event.writable && socket.state.get() == State::Connecting {
            socket.connected();
        }
        let waiting = socket.waiting.take();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    #[expect(unsafe_code, reason = "polling has no type that owns what is in its set")]
    pub(crate) fn register(self: &Rc<Core>, file: OwnedFd, state: State) -> io::Result<Rc<Socket>> {
        let key = self.next_key.replace(self.next_key.get() + 1);
        // SAFETY: a source must be deleted from the poller before it is closed. The socket owns the file and deletes it
        // when dropped, with a reference to the poller in hand; who takes the file out does so after that.
        unsafe { self.poller.add_with_mode(&file, Event::all(key), PollMode::Edge)? };
        let (core, file, state) = (self.clone(), Rc::new(file), Cell::new(state));
        let (ends, waiting) = Default::default();
        let socket = Rc::new(Socket { core, key, file, state, ends, waiting });
        self.sockets.borrow_mut().insert(key, Rc::downgrade(&socket));
        Ok(socket)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    Connecting,
    Open,
    /// Refused, reset, aborted, or another shard's. The kernel says so once, and both halves have to know.
    Over(ErrorKind),
}

/// A socket in the poller's set, shared by the halves of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    core: Rc<Core>,
    key: usize,
    file: Rc<OwnedFd>,
    state: Cell<State>,
    /// The end was sent, or is to be sent once connected.
    ends: Cell<bool>,
    /// Who waits to read, and who to write.
    waiting: RefCell<[Option<Waker>; 2]>,
}

const READ: usize = 0;
const WRITE: usize = 1;

impl Socket {
    /// Tries, and waits only after an attempt that found nothing, so that no edge is missed.
    fn poll<T, F>(&self, cx: &Context<'_>, half: usize, attempt: F) -> Poll<io::Result<T>>
    where
        F: FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    {
        let outcome = match self.state.get() {
            State::Connecting => Err(ErrorKind::WouldBlock.into()),
            State::Open => attempt(self.file.as_fd()),
            State::Over(why) => Err(why.into()),
        };
        match outcome {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.waiting.borrow_mut()[half] = Some(cx.waker().clone());
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    /// The connect has come to its end, one way or the other.
    fn connected(&self) {
        self.state.set(match os::take_error(self.file.as_fd()) {
            Ok(None) if os::met_itself(self.file.as_fd()) => State::Over(ErrorKind::ConnectionRefused),
            Ok(None) => State::Open,
            Ok(Some(error)) | Err(error) => State::Over(error.kind()),
        });
        if self.ends.take() {
            let _ = self.end();
        }
    }

    /// Sends the end, now or once connected. A drop cannot report that it failed; the source learns it by itself.
    fn end(&self) -> io::Result<()> {
        if self.state.get() == State::Open && !self.ends.get() {
            os::shutdown_write(self.file.as_fd())?;
        }
        self.ends.set(true);
        Ok(())
    }

    /// Remembers what broke it. These two only say that sending is over, and leave the rest for the source to meet.
    fn fail(&self, error: io::Error) -> io::Error {
        if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::NotConnected) {
            self.state.set(State::Over(error.kind()));
        }
        error
    }

    fn abort(&self) {
        if !matches!(self.state.get(), State::Over(_)) {
            os::abort(self.file.as_fd());
            self.state.set(State::Over(ErrorKind::ConnectionAborted));
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.core.sockets.borrow_mut().remove(&self.key);
        // Fails only where it is not in the set, which is what is wanted.
        let _ = self.core.poller.delete(&*self.file);
    }
}

pub(crate) fn transport(socket: Rc<Socket>, bytes: Vec<u8>) -> Transport {
    let source = Receiving { socket: socket.clone(), buffer: bytes, start: 0, over: false };
    Transport { source: Box::new(source), sink: Box::new(Sending { socket, refused: false }) }
}

/// Lends its buffer from `start` on: first what came with the connection, then what it receives, 16 KiB at once. It
/// keeps the buffer; a reactor for many idle connections would share them.
#[derive(Debug)]
struct Receiving {
    socket: Rc<Socket>,
    buffer: Vec<u8>,
    start: usize,
    over: bool,
}

impl Source for Receiving {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let aborted = self.socket.state.get() == State::Over(ErrorKind::ConnectionAborted);
        if aborted || self.start == self.buffer.len() && !self.over {
            self.buffer.resize(16 * 1024, 0);
            let received = self.socket.poll(cx, READ, |file| os::receive(file, &mut self.buffer));
            self.buffer.truncate(if let Poll::Ready(Ok(count)) = received { count } else { 0 });
            self.start = 0;
            self.over = ready!(received).map_err(|error| self.socket.fail(error))? == 0;
        }
        Poll::Ready(Ok(&self.buffer[self.start..]))
    }
    fn consume(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.start, "more consumed than was lent");
        self.start += count;
    }
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        // The sink may still be there, so another descriptor of the same connection crosses.
        let file = ready!(self.socket.poll(cx, READ, os::duplicate))?;
        self.socket.core.poller.delete(&*self.socket.file)?;
        self.socket.state.set(State::Over(ErrorKind::NotConnected));
        self.over = true;
        let bytes = std::mem::take(&mut self.buffer).split_off(std::mem::take(&mut self.start));
        Poll::Ready(Ok(Incoming { handle: Handle::Os(file), bytes, peer: self.peer().ok() }))
    }
    fn abort(&mut self) {
        self.socket.abort();
    }
    fn peer(&self) -> io::Result<Address> {
        os::peer(self.socket.file.as_fd())
    }
    fn local(&self) -> io::Result<Address> {
        os::local(self.socket.file.as_fd())
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.file.as_fd())
    }
}

/// Sends in the caller: what it took is in the kernel's hands, and nothing is queued here.
#[derive(Debug)]
struct Sending {
    socket: Rc<Socket>,
    refused: bool,
}

impl Sink for Sending {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sent = ready!(self.socket.poll(cx, WRITE, |file| os::send(file, bytes)));
        self.refused = sent.is_err();
        Poll::Ready(sent.map_err(|error| self.socket.fail(error)))
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let broken = ready!(self.socket.poll(cx, WRITE, os::take_error))?;
        Poll::Ready(match broken {
            Some(error) => Err(self.socket.fail(error)),
            None if self.refused => Err(ErrorKind::BrokenPipe.into()),
            None => Ok(()),
        })
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(self.socket.poll(cx, WRITE, |_| self.socket.end()));
        Poll::Ready(ended.map_err(|error| self.socket.fail(error)))
    }
    fn abort(&mut self) {
        self.socket.abort();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.socket.end();
    }
}

#[derive(Debug)]
pub(crate) struct Accepting {
    pub(crate) socket: Option<Rc<Socket>>,
    pub(crate) local: Address,
    pub(crate) options: ListenOptions,
}

impl Listener for Accepting {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let Some(socket) = &self.socket else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
        // Without a descriptor left each poll says so, and the connection stays in the queue.
        let (file, peer) = ready!(socket.poll(cx, READ, os::accept))?;
        Poll::Ready(Ok(Incoming { handle: Handle::Os(file), bytes: Vec::new(), peer: Some(peer) }))
    }
    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        // It leaves the set with the socket, and is never shut down, since others may share it.
        let file = self.socket.take().map(|socket| socket.file.clone());
        let handle = Handle::Os(file.and_then(Rc::into_inner).expect("a listener is closed once"));
        Poll::Ready(Bound { local: self.local.clone(), handle, options: self.options })
    }
}
