//! One connection, shared by its two halves.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::io::Errno;

use crate::core::Core;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// connect(2) has begun. `near`: to this machine, where it may meet itself.
    Connecting { near: bool },
    /// Established, as far as anybody knows.
    Open,
}

/// What broke a connection, kept since it is asked for more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    System(i32),
    Other(ErrorKind),
}

impl Fault {
    pub(crate) fn of(error: &io::Error) -> Fault {
        error.raw_os_error().map_or(Fault::Other(error.kind()), Fault::System)
    }

    pub(crate) fn error(self) -> io::Error {
        match self {
            Fault::System(number) => io::Error::from_raw_os_error(number),
            Fault::Other(kind) => kind.into(),
        }
    }
}

/// Whether the kernel takes bytes, and who waits for that. glommio itself would send whenever it is asked to wait, four
/// system calls each time that a sink is polled in vain, and take a few bytes of room for enough.
#[derive(Debug, Default)]
struct Room {
    lacking: AtomicBool,
    sink: Mutex<Option<Waker>>,
}

impl Room {
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.lacking.load(Relaxed) {
            self.lack(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn lack(&self, cx: &Context<'_>) {
        self.lacking.store(true, Relaxed);
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sink {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

impl Wake for Room {
    fn wake(self: Arc<Room>) {
        // Only ever on the reactor's thread, though a waker has to be fit for others.
        self.lacking.store(false, Relaxed);
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sink) = sink {
            sink.wake();
        }
    }
}

const PIPE: Fault = Fault::System(Errno::PIPE.raw_os_error());

/// The socket of a connection, and what both halves know of it.
///
/// glommio's stream owns the socket, whatever its family, since it only ever receives, sends and waits on it.
pub(crate) struct Link {
    core: Rc<Core>,
    /// `None` once released.
    stream: RefCell<Option<TcpStream>>,
    stage: Cell<Stage>,
    fault: Cell<Option<Fault>>,
    /// FIN is with the kernel.
    shut: Cell<bool>,
    /// The sink is gone: FIN is due as soon as the connection is established.
    sink_gone: Cell<bool>,
    /// What glommio wakes when it may be sent again; made when that is first waited for.
    room: RefCell<Option<(Arc<Room>, Waker)>>,
    /// Who waits for the connection to be established, and is no sink.
    early_reader: Cell<Option<Waker>>,
}

impl Link {
    pub(crate) fn new(core: Rc<Core>, socket: OwnedFd, stage: Stage) -> Link {
        // SAFETY: the descriptor is open, and the stream becomes its only owner.
        let stream = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
        Link {
            core,
            stream: RefCell::new(Some(stream)),
            stage: Cell::new(stage),
            fault: Cell::new(None),
            shut: Cell::new(false),
            sink_gone: Cell::new(false),
            room: RefCell::new(None),
            early_reader: Cell::new(None),
        }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// The socket, for as long as it is ours.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let number = self.stream.borrow().as_ref()?.as_raw_fd();
        // SAFETY: open until `release` or the drop of `self`. `release` is called through the source, whose borrow
        // covers what it lent; the sink and this crate keep no borrow across a call.
        Some(unsafe { BorrowedFd::borrow_raw(number) })
    }

    /// # Errors
    /// `NotConnected` when it was released.
    pub(crate) fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        self.descriptor().ok_or_else(|| Errno::NOTCONN.into())
    }

    /// What broke the connection, if anything did.
    pub(crate) fn fault(&self) -> Option<io::Error> {
        self.fault.get().map(Fault::error)
    }

    /// What broke the receiving half, if anything did: a broken pipe only says that the peer does not read.
    pub(crate) fn receive_fault(&self) -> Option<io::Error> {
        self.fault.get().filter(|fault| *fault != PIPE).map(Fault::error)
    }

    /// Remembers what broke the connection, and answers what to report: the first that was known, but for a broken
    /// pipe, which says less than any other.
    pub(crate) fn fail(&self, fault: Fault) -> io::Error {
        match self.fault.get() {
            Some(known) if known != PIPE => known.error(),
            _ => {
                self.fault.set(Some(fault));
                fault.error()
            }
        }
    }

    /// The same for what a system call answered. An error that leaves the connection whole is reported and forgotten.
    pub(crate) fn fail_with(&self, error: io::Error) -> io::Error {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            None | Some(Errno::NOBUFS | Errno::NOMEM) => error,
            Some(_) => self.fail(Fault::of(&error)),
        }
    }

    /// Looks whether the connection broke while nobody received or sent.
    pub(crate) fn look_for_fault(&self) -> io::Result<()> {
        if let Some(error) = waterwheel_os::take_error(self.socket()?)? {
            self.fail(Fault::of(&error));
        }
        self.fault().map_or(Ok(()), Err)
    }

    /// Receives into `buffer`, or waits.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.core.check()?;
        self.with_stream(|stream| {
            loop {
                match Pin::new(&mut *stream).poll_read(cx, buffer) {
                    Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                    answer => return answer,
                }
            }
        })
    }

    /// Pending while the last attempt to send found no room, and the kernel has told of none since. For nobody but the
    /// sink, while there is one: there is one waker for the sending direction.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &*self.room.borrow() {
            Some((room, _)) => room.poll(cx),
            None => Poll::Ready(()),
        }
    }

    /// Sends some of `bytes` after all, or waits for [room](Link::poll_room), where nothing could be sent just now.
    pub(crate) fn poll_sendable(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.core.check()?;
        let mut room = self.room.borrow_mut();
        let (room, waker) = room.get_or_insert_with(|| {
            let room = Arc::new(Room::default());
            (Arc::clone(&room), Waker::from(room))
        });
        let mut from_glommio = Context::from_waker(waker);
        let answer = self.with_stream(|stream| {
            loop {
                let send = || Pin::new(&mut *stream).poll_write(&mut from_glommio, bytes);
                let broken = |answer: &Poll<io::Result<usize>>| {
                    matches!(answer, Poll::Ready(Err(error)) if error.kind() == ErrorKind::BrokenPipe)
                };
                match waterwheel_os::without_sigpipe(send, broken) {
                    Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                    answer => return answer,
                }
            }
        });
        if answer.is_pending() {
            room.lack(cx);
        }
        answer
    }

    fn with_stream<T>(
        &self,
        attempt: impl FnOnce(&mut TcpStream) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => attempt(stream),
            None => Poll::Ready(Err(Errno::NOTCONN.into())),
        }
    }

    pub(crate) fn connecting(&self) -> bool {
        self.stage.get() != Stage::Open
    }

    /// Ready once connected. As [`poll_sendable`](Link::poll_sendable), for the sink while there is one.
    pub(crate) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.fault() {
            return Poll::Ready(Err(error));
        }
        if self.connecting() {
            ready!(self.poll_room(cx));
            // A socket that is connecting takes not even nothing.
            let outcome = match ready!(self.poll_sendable(cx, &[])) {
                Ok(_) => self.connected(),
                Err(error) => Err(self.fail_with(error)),
            };
            if let Some(reader) = self.early_reader.take().filter(|_| self.sink_gone.get()) {
                // Nobody else tells it.
                reader.wake();
            }
            return Poll::Ready(outcome);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes note that the connection is established.
    pub(crate) fn connected(&self) -> io::Result<()> {
        let Stage::Connecting { near } = self.stage.replace(Stage::Open) else { return Ok(()) };
        if near && waterwheel_os::met_itself(self.socket()?) {
            return Err(self.fail(Fault::System(Errno::CONNREFUSED.raw_os_error())));
        }
        if self.sink_gone.get() {
            self.shut()?;
        }
        Ok(())
    }

    /// A source that waits while the connection is not established, and has no sink any more, hears how that ends.
    pub(crate) fn await_early(&self, cx: &Context<'_>) {
        self.early_reader.set(Some(cx.waker().clone()));
    }

    /// For a source that goes on only with an established connection, or learns why there is none.
    pub(crate) fn poll_established(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.connecting() || self.fault.get().is_some() {
            return Poll::Ready(self.receive_fault().map_or(Ok(()), Err));
        }
        if self.sink_gone.get() {
            self.await_early(cx);
            return Poll::Pending;
        }
        self.poll_connected(cx)
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.shut.get()
    }

    /// Sends FIN.
    pub(crate) fn shut(&self) -> io::Result<()> {
        if self.shut.get() {
            return Ok(());
        }
        match waterwheel_os::shutdown_write(self.socket()?) {
            Ok(()) => {
                self.shut.set(true);
                Ok(())
            }
            Err(error) => {
                // What broke it says more than that it is not connected.
                self.look_for_fault()?;
                Err(self.fail_with(error))
            }
        }
    }

    /// The sink was dropped.
    pub(crate) fn drop_sink(self: &Rc<Link>) {
        self.sink_gone.set(true);
        if self.connecting() {
            // Now it would cancel the connect.
            self.core.owe_fin(self);
        } else if self.fault.get().is_none() && self.descriptor().is_some() {
            // A connection that broke meanwhile has no use for FIN; the source learns of it by itself.
            let _ = self.shut();
        }
    }

    /// Resets the connection. Whoever waits on it is woken by the kernel, through glommio.
    pub(crate) fn abort(&self) {
        if let Ok(socket) = self.socket()
            && !self.aborted()
        {
            self.stage.set(Stage::Open);
            self.fault.set(Some(ABORTED));
            waterwheel_os::abort(socket);
        }
    }

    pub(crate) fn aborted(&self) -> bool {
        self.fault.get() == Some(ABORTED)
    }

    /// Gives the socket up. glommio's stream has no way to part with it, so this needs a descriptor for a moment.
    ///
    /// # Errors
    /// No descriptor left, or it was released before; nothing has changed then.
    pub(crate) fn release(&self) -> io::Result<OwnedFd> {
        let socket = waterwheel_os::duplicate(self.socket()?)?;
        // What glommio has in flight is a poll, which takes no bytes; it is cancelled with the stream.
        self.stream.take();
        if let Some((_, waker)) = self.room.take() {
            waker.wake();
        }
        Ok(socket)
    }
}

const ABORTED: Fault = Fault::System(Errno::CONNABORTED.raw_os_error());

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("socket", &self.stream.borrow().as_ref().map(AsRawFd::as_raw_fd))
            .field("stage", &self.stage.get())
            .field("fault", &self.fault.get())
            .field("shut", &self.shut.get())
            .finish_non_exhaustive()
    }
}
