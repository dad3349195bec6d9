//! Peers with plain blocking sockets, and the places where they and a reactor meet.

use std::any::Any;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use waterwheel_reactor::{
    Address, Backend, Bound, ConnectOptions, Incoming, ListenOptions, Listener, Reactor, StreamOptions,
    Transport, UnixName,
};

use super::pattern::Pattern;
use super::{Mail, PeerListener, PeerSocket, Thread, accept, close_listener, surroundings, thread};

/// What kind of sockets a case runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Tcp,
    Unix,
}

/// Small kernel buffers, so that a case fills them with little; the kernel doubles the number and tunes no more. Twice
/// this is still several of the loopback's segments of 64 KiB: less, and the window opens only by the probe timer.
pub(crate) const SMALL_BUFFER: usize = 128 << 10;

/// What the kernel may hold in one direction when both buffers are small: both of them doubled, and one segment above
/// each, since the kernel checks a buffer's limit only before it adds a segment.
pub(crate) const KERNEL_BYTES_MAX: usize = 2 * (2 * SMALL_BUFFER + (64 << 10));

/// A listening socket of the backend under test, made before its shards run.
#[derive(Debug)]
pub(crate) struct Venue {
    bound: Bound,
    // The directory of a Unix socket's file; removed when the case ends.
    directory: Option<TempDir>,
}

impl Venue {
    /// On the loopback, or in a directory of its own.
    pub(crate) fn new(backend: &dyn Backend, family: Family) -> Venue {
        Venue::with(backend, family, StreamOptions::default())
    }

    /// The same, with small buffers in the kernel for the reactor's side of TCP connections.
    pub(crate) fn small(backend: &dyn Backend) -> Venue {
        let (receive_buffer, send_buffer) = (Some(SMALL_BUFFER), Some(SMALL_BUFFER));
        let stream = StreamOptions { receive_buffer, send_buffer, ..StreamOptions::default() };
        Venue::with(backend, Family::Tcp, stream)
    }

    fn with(backend: &dyn Backend, family: Family, stream: StreamOptions) -> Venue {
        let directory = match family {
            Family::Tcp => None,
            Family::Unix => Some(TempDir::new().expect("a temporary directory")),
        };
        let at = match &directory {
            None => LOOPBACK,
            Some(directory) => Address::Unix(UnixName::Path(directory.path().join("socket"))),
        };
        let options = ListenOptions { stream, ..ListenOptions::default() };
        let mut bound = backend.bind(&at, &options, 1).expect("a free place to listen");
        assert_eq!(bound.len(), 1, "one socket was asked for");
        Venue { bound: bound.remove(0), directory }
    }

    /// Begins to serve it on this shard.
    pub(crate) fn open(self, reactor: &Rc<dyn Reactor>) -> Meeting {
        let Venue { bound, directory } = self;
        let (local, stream) = (bound.local.clone(), bound.options.stream);
        let listener = reactor.listen(bound).expect("listening on what was bound");
        Meeting { reactor: Rc::clone(reactor), listener, local, stream, _directory: directory }
    }
}

/// Makes connections, one end of each (or both) on this shard.
#[derive(Debug)]
pub(crate) struct Meeting {
    reactor: Rc<dyn Reactor>,
    listener: Box<dyn Listener>,
    local: Address,
    stream: StreamOptions,
    _directory: Option<TempDir>,
}

impl Meeting {
    /// An accepted connection that nobody owns yet, and its peer.
    pub(crate) async fn incoming(&mut self) -> (Incoming, Peer) {
        // The kernel completes the handshake against the backlog, so this blocks nobody.
        let peer = Peer::connect(&self.local, self.stream);
        let incoming = accept(&mut self.listener).await.expect("accepting a peer that has connected");
        (incoming, peer)
    }

    /// Makes a connection of this shard's out of it.
    pub(crate) fn adopt(&self, incoming: Incoming) -> Transport {
        self.reactor.adopt(incoming).expect("adopting what was accepted")
    }

    /// A connection of this shard and its peer.
    pub(crate) async fn peer(&mut self) -> (Transport, Peer) {
        let (incoming, peer) = self.incoming().await;
        (self.adopt(incoming), peer)
    }

    /// Both ends of one connection on this shard: the accepted one, then the connected one.
    pub(crate) async fn own(&mut self) -> (Transport, Transport) {
        let options = ConnectOptions { stream: self.stream, ..ConnectOptions::default() };
        let connected = self.reactor.connect(&self.local, &options).expect("connecting to ourselves");
        (self.own_accepted().await, connected)
    }

    /// The accepted end of a connection that this shard has begun to make.
    pub(crate) async fn own_accepted(&mut self) -> Transport {
        let incoming = accept(&mut self.listener).await.expect("accepting our own connection");
        self.adopt(incoming)
    }

    /// Where it listens.
    pub(crate) fn local(&self) -> &Address {
        &self.local
    }

    /// The listener alone, and where it listens; for places that need no directory.
    pub(crate) fn into_listener(self) -> (Address, Box<dyn Listener>) {
        (self.local, self.listener)
    }

    /// Ends the listener and frees its place.
    pub(crate) async fn close(self) {
        drop(close_listener(self.listener).await);
    }
}

/// A free port of the IPv4 loopback.
pub(crate) const LOOPBACK: Address = Address::Inet(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

/// A peer that listens on the IPv4 loopback, and where.
pub(crate) fn listening() -> (Box<dyn PeerListener>, SocketAddr) {
    const BACKLOG: u32 = 128;
    let listener = surroundings().listen(&LOOPBACK, BACKLOG).expect("a free port");
    let local = listener.local().expect("a bound socket");
    (listener, local.inet().expect("an internet address"))
}

/// A port of the IPv4 loopback that nobody uses, since somebody just gave it up.
pub(crate) fn free_port() -> SocketAddr {
    listening().1
}

/// Far more than the loopback takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a backlog is full, a client tries again after 1, 3, 7 and 15 seconds.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// The other end of a connection: a blocking socket that no reactor knows. Each call gives up after five seconds, with
/// a panic, so that a reactor that stalls is a failure with a place.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: Arc<dyn PeerSocket>,
}

impl Peer {
    /// Connects, with the buffers that are asked for.
    pub(crate) fn connect(to: &Address, options: StreamOptions) -> Peer {
        let socket = surroundings().connect(to, options, CONNECT_PATIENCE);
        Peer { socket: socket.unwrap_or_else(|error| panic!("no listener answers at {to}: {error}")).into() }
    }

    /// The next connection that a peer accepts itself.
    pub(crate) fn accept(listener: &dyn PeerListener) -> Peer {
        Peer { socket: listener.accept(PATIENCE).expect("a connection").into() }
    }

    /// The same socket for another thread; it is closed when both are gone.
    pub(crate) fn again(&self) -> Peer {
        Peer { socket: Arc::clone(&self.socket) }
    }

    /// Its own address.
    pub(crate) fn local(&self) -> Address {
        self.socket.local().expect("connected")
    }

    /// Sends some of the bytes, where the connection still takes any.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes, PATIENCE)
    }

    /// Reads some bytes, where any are still to come; 0 at the end.
    pub(crate) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.read(bytes, PATIENCE)
    }

    /// Sends all the bytes.
    pub(crate) fn write_all(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.try_write(bytes);
            let taken = taken.unwrap_or_else(|error| panic!("the peer could not write: {error}"));
            bytes = &bytes[taken..];
        }
    }

    /// Sends the next `count` bytes of the pattern.
    pub(crate) fn send(&self, pattern: &mut Pattern, count: usize) {
        self.write_all(&pattern.take(count));
    }

    /// Sends the pattern until the socket takes nothing for `quiet`, or `most` bytes were taken; how many were.
    pub(crate) fn send_until_blocked(&self, pattern: &mut Pattern, most: usize, quiet: Duration) -> usize {
        const CHUNK: usize = 16 << 10;
        let mut total = 0;
        while total < most {
            let chunk = pattern.clone().take(CHUNK.min(most - total));
            match self.socket.write(&chunk, quiet) {
                Ok(taken) => {
                    drop(pattern.take(taken));
                    total += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) => panic!("the peer could not write: {error}"),
            }
        }
        total
    }

    /// Reads `count` bytes and compares them with the pattern.
    pub(crate) fn expect(&self, pattern: &mut Pattern, count: usize) {
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes);
        pattern.check(&bytes);
    }

    /// Fills `bytes`.
    pub(crate) fn read_exact(&self, bytes: &mut [u8]) {
        let (mut done, count) = (0, bytes.len());
        while done < count {
            match self.socket.read(&mut bytes[done..], PATIENCE) {
                Ok(0) => panic!("the peer met the end after {done} of {count} bytes"),
                Ok(size) => done += size,
                Err(error) => panic!("the peer got {done} of {count} bytes: {error}"),
            }
        }
    }

    /// Reads as many bytes as `wanted` has, and compares.
    pub(crate) fn expect_bytes(&self, wanted: &[u8]) {
        let mut bytes = vec![0; wanted.len()];
        self.read_exact(&mut bytes);
        assert_eq!(bytes, wanted, "what the peer got");
    }

    /// Waits for bytes, and leaves them unread.
    pub(crate) fn wait_for_input(&self) {
        self.socket.wait_for_input(PATIENCE).expect("waiting for the bytes to come");
    }

    /// Expects the end of the stream now.
    pub(crate) fn expect_end(&self) {
        match self.socket.read(&mut [0], PATIENCE) {
            Ok(0) => {}
            Ok(_) => panic!("the peer got bytes instead of the end"),
            Err(error) => panic!("the peer got an error instead of the end: {error}"),
        }
    }

    /// Reads up to the end or the error, `most` bytes at once; how many bytes came before, compared with the pattern.
    pub(crate) fn drain(&self, pattern: &mut Pattern, most: usize) -> (usize, io::Result<()>) {
        let mut buffer = vec![0; most.min(64 << 10)];
        let mut count = 0;
        loop {
            match self.socket.read(&mut buffer, PATIENCE) {
                Ok(0) => return (count, Ok(())),
                Ok(size) => {
                    pattern.check(&buffer[..size]);
                    count += size;
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    panic!("the peer heard nothing for {PATIENCE:?} after {count} bytes")
                }
                Err(error) => return (count, Err(error)),
            }
        }
    }

    /// Sends everything that it gets back, to the end, and then its own end.
    pub(crate) fn echo(&self) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let size = self.socket.read(&mut buffer, PATIENCE).expect("the peer reads");
            if size == 0 {
                return self.finish();
            }
            self.write_all(&buffer[..size]);
        }
    }

    /// Sends FIN and goes on reading.
    pub(crate) fn finish(&self) {
        self.socket.shutdown(Shutdown::Write).expect("the peer's half-close");
    }

    /// Reads no more, and says so where the family can.
    pub(crate) fn stop_reading(&self) {
        self.socket.shutdown(Shutdown::Read).expect("the peer stops to read");
    }

    /// Sends RST and closes.
    pub(crate) fn reset(self) {
        self.socket.reset().expect("SO_LINGER");
    }
}

/// Work on a foreign thread whose end a root awaits.
#[derive(Debug)]
pub(crate) struct Errand<T> {
    result: Mail<Result<T, Box<dyn Any + Send>>>,
    thread: Thread<()>,
}

/// Runs `work` on a foreign thread.
pub(crate) fn errand<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Errand<T> {
    let result = Mail::default();
    let reply = result.clone();
    let thread = thread(move || reply.send(catch_unwind(AssertUnwindSafe(work))));
    Errand { result, thread }
}

impl<T> Errand<T> {
    /// Waits for the result without blocking the shard; goes on with the thread's panic if there was one.
    pub(crate) async fn end(self) -> T {
        let result = self.result.receive().await;
        self.thread.join();
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
