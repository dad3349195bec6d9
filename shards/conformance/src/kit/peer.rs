//! Peers with plain blocking sockets, and the places where they and a reactor meet.

use std::any::Any;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
use waterwheel_reactor::{
    Address, Backend, Bound, ConnectOptions, Incoming, ListenOptions, Listener, Reactor, StreamOptions,
    Transport, UnixName,
};

use super::pattern::Pattern;
use super::{Mail, Thread, accept, close_listener, thread};

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
            None => Address::Inet(([127, 0, 0, 1], 0).into()),
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

/// Far more than the loopback takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// The other end of a connection: a blocking socket that no reactor knows. Each call gives up after five seconds, with
/// a panic, so that a reactor that stalls is a failure with a place.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: Socket,
}

impl Peer {
    /// Connects; sets the buffers before, since the window is agreed on in the handshake.
    pub(crate) fn connect(to: &Address, options: StreamOptions) -> Peer {
        let (domain, address) = match to {
            Address::Inet(at) => (Domain::for_address(*at), SockAddr::from(*at)),
            Address::Unix(UnixName::Path(path)) => {
                (Domain::UNIX, SockAddr::unix(path).expect("a short name"))
            }
            // A leading zero byte marks a name outside the file system (unix(7)).
            Address::Unix(UnixName::Abstract(name)) => {
                let marked = [b"\0", name.as_slice()].concat();
                (Domain::UNIX, SockAddr::unix(OsStr::from_bytes(&marked)).expect("a short name"))
            }
            Address::Unix(UnixName::Unnamed) => panic!("nothing to connect to"),
        };
        let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
        if let Some(size) = options.receive_buffer {
            socket.set_recv_buffer_size(size).expect("SO_RCVBUF");
        }
        if let Some(size) = options.send_buffer {
            socket.set_send_buffer_size(size).expect("SO_SNDBUF");
        }
        socket.connect(&address).expect("a listener that answers");
        Peer::from_socket(socket)
    }

    /// A connection that the peer accepted itself.
    pub(crate) fn from_stream(stream: TcpStream) -> Peer {
        Peer::from_socket(stream.into())
    }

    fn from_socket(socket: Socket) -> Peer {
        socket.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
        socket.set_write_timeout(Some(PATIENCE)).expect("SO_SNDTIMEO");
        Peer { socket }
    }

    /// The socket, for what this type does not name.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The same socket for another thread.
    pub(crate) fn again(&self) -> Peer {
        Peer { socket: self.socket.try_clone().expect("a duplicate of a socket") }
    }

    /// Sends all the bytes.
    pub(crate) fn write_all(&self, bytes: &[u8]) {
        (&self.socket).write_all(bytes).unwrap_or_else(|error| panic!("the peer could not write: {error}"));
    }

    /// Sends the next `count` bytes of the pattern.
    pub(crate) fn send(&self, pattern: &mut Pattern, count: usize) {
        self.write_all(&pattern.take(count));
    }

    /// Sends the pattern until the socket takes nothing for `quiet`, or `most` bytes were taken; how many were.
    pub(crate) fn send_until_blocked(&self, pattern: &mut Pattern, most: usize, quiet: Duration) -> usize {
        const CHUNK: usize = 16 << 10;
        self.socket.set_write_timeout(Some(quiet)).expect("SO_SNDTIMEO");
        let mut total = 0;
        while total < most {
            let chunk = pattern.clone().take(CHUNK.min(most - total));
            match (&self.socket).write(&chunk) {
                Ok(taken) => {
                    drop(pattern.take(taken));
                    total += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("the peer could not write: {error}"),
            }
        }
        self.socket.set_write_timeout(Some(PATIENCE)).expect("SO_SNDTIMEO");
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
        let count = bytes.len();
        let read = (&self.socket).read_exact(bytes);
        read.unwrap_or_else(|error| panic!("the peer missed some of {count} bytes: {error}"));
    }

    /// Reads as many bytes as `wanted` has, and compares.
    pub(crate) fn expect_bytes(&self, wanted: &[u8]) {
        let mut bytes = vec![0; wanted.len()];
        let read = (&self.socket).read_exact(&mut bytes);
        read.unwrap_or_else(|error| panic!("the peer missed some of {wanted:?}: {error}"));
        assert_eq!(bytes, wanted, "what the peer got");
    }

    /// Expects the end of the stream now.
    pub(crate) fn expect_end(&self) {
        match (&self.socket).read(&mut [0]) {
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
            match (&self.socket).read(&mut buffer) {
                Ok(0) => return (count, Ok(())),
                Ok(size) => {
                    pattern.check(&buffer[..size]);
                    count += size;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
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
            let size = (&self.socket).read(&mut buffer).expect("the peer reads");
            if size == 0 {
                return self.finish();
            }
            self.write_all(&buffer[..size]);
        }
    }

    /// Sends FIN and goes on reading.
    pub(crate) fn finish(&self) {
        self.socket.shutdown(std::net::Shutdown::Write).expect("the peer's half-close");
    }

    /// Sends RST: what close(2) does when nothing may linger (socket(7), SO_LINGER).
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
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
