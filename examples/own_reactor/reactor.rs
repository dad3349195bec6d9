//! The reactor: on each shard's thread a loop that polls the root and sleeps in the poller, and what waits there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::{self, Arc};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use polling::{Event, Events, PollMode, Poller};
use waterwheel::reactor::*;
use waterwheel_os as os;

#[derive(Debug)]
pub(crate) struct Polling;

impl Backend for Polling {
    fn name(&self) -> &'static str {
        "polling"
    }
    fn probe(&self) -> Result<(), Unavailable> {
        Poller::new().map(drop).map_err(|error| Unavailable::new(format!("polling: {error}")))
    }
    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        os::bind_group(at, options, count)
    }
    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let clock = Clock::start();
        on_threads(launches, |_, start| live(clock, start))
    }
}

/// The root's waker. It may outlive the reactor, so it does not keep the poller open.
struct Bell(Doorbell, sync::Weak<Poller>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // The doorbell says whether the thread sleeps: one interrupt per sleep. A full eventfd(2) is one, too.
        if self.0.ring() {
            let _ = self.1.upgrade().map(|poller| poller.notify());
        }
    }
}

/// One life of a shard: makes a reactor, asks for the root, drives it to its end.
fn live(clock: Clock, start: &mut Start) -> io::Result<Life> {
    let (poller, mut events) = (Arc::new(Poller::new()?), Events::new());
    let bell = Arc::new(Bell(Doorbell::default(), Arc::downgrade(&poller)));
    let (alarm, sockets, next_key) = Default::default();
    let shard = Rc::new(PollingReactor { clock, alarm, poller, sockets, next_key });
    let Some(mut root) = start(shard.clone()) else { return Ok(Life::Over) };
    let waker = Waker::from(bell.clone());
    loop {
        bell.0.awake();
        if root.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return Ok(Life::Ended);
        }
        let until_alarm = shard.alarm.deadline().map(|at| at.since(clock.now()));
        // Where somebody rang meanwhile it only looks: a root that always wakes itself still sees its sockets.
        let limit = if bell.0.may_sleep() { until_alarm } else { Some(Duration::ZERO) };
        events.clear();
        shard.poller.wait(&mut events, limit)?;
        // The root is polled next, so wakes from here on, as by the events, need not interrupt anything.
        bell.0.awake();
        shard.alarm.fire(clock.now());
        events.iter().for_each(|event| shard.ready(event));
    }
}

#[derive(Debug)]
struct PollingReactor {
    clock: Clock,
    alarm: Alarm,
    poller: Arc<Poller>,
    sockets: Rc<Sockets>,
    next_key: Cell<usize>,
}

/// Who gets an event, by its key. None is used twice, so an event of a socket that is gone finds nobody.
type Sockets = RefCell<BTreeMap<usize, Weak<Socket>>>;

impl Reactor for PollingReactor {
    fn now(&self) -> Time {
        self.clock.now()
    }
    fn unix_time(&self) -> Duration {
        self.clock.unix_time()
    }
    fn seed(&self) -> u64 {
        RandomState::new().hash_one("keyed by the system's random source")
    }
    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.alarm.poll_until(self.now(), cx, deadline)
    }
    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        let Bound { local, handle, options } = bound;
        Ok(Box::new(Accepting(Some((self.register(os::open(handle)?, Ok(()))?, local, options)))))
    }
    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        let (file, progress) = os::begin_connect(to, options)?;
        // An event tells of what has begun and of what is established alike.
        let state = if let os::Progress::Failed(error) = progress { error.kind() } else { CONNECTING };
        Ok(transport(self.register(file, Err(state))?, Vec::new()))
    }
    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        Ok(transport(self.register(os::open(incoming.handle)?, Ok(()))?, incoming.bytes))
    }
}

impl PollingReactor {
    #[expect(unsafe_code, reason = "polling has no type that owns what is in its set")]
    fn register(&self, file: OwnedFd, open: Result<(), ErrorKind>) -> io::Result<Rc<Socket>> {
        let key = self.next_key.replace(self.next_key.get() + 1);
        // SAFETY: it must leave the set before it is closed. The socket owns it, and its drop sees to that.
        unsafe { self.poller.add_with_mode(&file, Event::all(key), PollMode::Edge)? };
        let (poller, sockets) = (self.poller.clone(), self.sockets.clone());
        let (file, open) = (Rc::new(file), Cell::new(open));
        let (ends, refused, reader, writer) = Default::default();
        let socket = Rc::new(Socket { poller, sockets, key, file, open, ends, refused, reader, writer });
        self.sockets.borrow_mut().insert(key, Rc::downgrade(&socket));
        Ok(socket)
    }
    fn ready(&self, event: Event) {
        let Some(socket) = self.sockets.borrow().get(&event.key).and_then(Weak::upgrade) else { return };
        if event.writable && socket.open.get() == Err(CONNECTING) {
            socket.open.set(match os::take_error(socket.file.as_fd()) {
                Ok(None) if os::met_itself(socket.file.as_fd()) => Err(ErrorKind::ConnectionRefused),
                Ok(None) => Ok(()),
                Ok(Some(error)) | Err(error) => Err(error.kind()),
            });
            let _ = socket.ends.take().then(|| socket.end());
        }
        // Both halves try again: an attempt says more than an event.
        [socket.reader.take(), socket.writer.take()].into_iter().flatten().for_each(Waker::wake);
    }
}

/// A socket in the poller's set, shared by the halves of a connection.
#[derive(Debug)]
struct Socket {
    poller: Arc<Poller>,
    sockets: Rc<Sockets>,
    key: usize,
    file: Rc<OwnedFd>,
    /// Else it is [`CONNECTING`], or over, in a way that the kernel tells once and that both halves have to know.
    open: Cell<Result<(), ErrorKind>>,
    /// The end was sent, or is to be sent once connected.
    ends: Cell<bool>,
    /// Sending is over, and the source may yet learn why.
    refused: Cell<bool>,
    reader: Waiter,
    writer: Waiter,
}

type Waiter = RefCell<Option<Waker>>;
const CONNECTING: ErrorKind = ErrorKind::WouldBlock;

impl Socket {
    /// Tries, and waits only after an attempt that found nothing, so that no edge is missed.
    fn poll<T, F>(&self, cx: &Context<'_>, waiter: &Waiter, attempt: F) -> Poll<io::Result<T>>
    where
        F: FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    {
        match self.open.get().map_err(io::Error::from).and_then(|()| attempt(self.file.as_fd())) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                *waiter.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }
    /// Sends the end, now or once connected. A drop cannot report that it failed; the source learns it by itself.
    fn end(&self) -> io::Result<()> {
        let first = !self.ends.replace(true);
        if first && self.open.get().is_ok() { os::shutdown_write(self.file.as_fd()) } else { Ok(()) }
    }
    /// Remembers what broke it. These two only say that sending is over, and leave the rest for the source to meet.
    fn fail(&self, error: io::Error) -> io::Error {
        if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::NotConnected) {
            self.open.set(Err(error.kind()));
        }
        error
    }
    fn abort(&self) {
        if matches!(self.open.get(), Ok(()) | Err(CONNECTING)) {
            os::abort(self.file.as_fd());
            self.open.set(Err(ErrorKind::ConnectionAborted));
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.sockets.borrow_mut().remove(&self.key);
        // Fails only where it is not in the set, which is what is wanted.
        let _ = self.poller.delete(&self.file);
    }
}

fn transport(socket: Rc<Socket>, bytes: Vec<u8>) -> Transport {
    let source = Receiving { socket: socket.clone(), buffer: bytes, start: 0, over: false };
    Transport { source: Box::new(source), sink: Box::new(Sending(socket)) }
}

/// Lends its own buffer from `start` on. A reactor for many idle connections would share buffers among them.
#[derive(Debug)]
struct Receiving {
    socket: Rc<Socket>,
    buffer: Vec<u8>,
    start: usize,
    over: bool,
}

impl Source for Receiving {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let aborted = self.socket.open.get() == Err(ErrorKind::ConnectionAborted);
        if aborted || self.start == self.buffer.len() && !self.over {
            self.buffer.resize(16 * 1024, 0);
            let received =
                self.socket.poll(cx, &self.socket.reader, |file| os::receive(file, &mut self.buffer));
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
        let file = ready!(self.socket.poll(cx, &self.socket.reader, os::duplicate))?;
        self.socket.poller.delete(&self.socket.file)?;
        self.socket.open.set(Err(ErrorKind::NotConnected));
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
struct Sending(Rc<Socket>);

impl Sink for Sending {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(self.0.poll(cx, &self.0.writer, |file| os::send(file, bytes)));
        self.0.refused.set(sent.is_err());
        Poll::Ready(sent.map_err(|error| self.0.fail(error)))
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let broken = ready!(self.0.poll(cx, &self.0.writer, os::take_error))?.map(|error| self.0.fail(error));
        let refused = self.0.refused.get().then(|| ErrorKind::BrokenPipe.into());
        Poll::Ready(broken.or(refused).map_or(Ok(()), Err))
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(cx, &self.0.writer, |_| self.0.end()).map_err(|error| self.0.fail(error))
    }
    fn abort(&mut self) {
        self.0.abort();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.0.end();
    }
}

/// Gives back what it was given, still listening: not even a close takes another descriptor.
#[derive(Debug)]
struct Accepting(Option<(Rc<Socket>, Address, ListenOptions)>);

impl Listener for Accepting {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let Some((socket, ..)) = &self.0 else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
        // Without a descriptor left each poll says so, and the connection stays in the queue.
        let (file, peer) = ready!(socket.poll(cx, &socket.reader, os::accept))?;
        Poll::Ready(Ok(Incoming { handle: Handle::Os(file), bytes: Vec::new(), peer: Some(peer) }))
    }
    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        let (socket, local, options) = self.0.take().expect("a listener is closed once");
        let file = socket.file.clone();
        drop(socket); // It leaves the set, and lets go of the file.
        let handle = Handle::Os(Rc::into_inner(file).expect("nobody else has it"));
        Poll::Ready(Bound { local, handle, options })
    }
}
