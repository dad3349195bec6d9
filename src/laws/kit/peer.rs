//! Clients and origins with plain blocking sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket, sockopt};

use super::{LONG, eventually, pause, spawn};

/// A connection whose reads and writes have a deadline.
pub(crate) fn client(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, LONG).unwrap_or_else(|error| panic!("{to}: {error}"));
    patient(stream)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LONG)).expect("a deadline");
    stream.set_write_timeout(Some(LONG)).expect("a deadline");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// The next connection of a listener.
pub(crate) fn meet(listener: &TcpListener) -> TcpStream {
    assert!(waits(listener, LONG), "nobody came within {LONG:?}");
    patient(listener.accept().expect("somebody waits").0)
}

/// Whether somebody, or something to read, comes within a time.
pub(crate) fn waits(socket: &impl AsFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&limit)).expect("a socket") > 0
}

/// Ends a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("lingering");
}

/// Reads to the end: how many bytes there were, or what broke the stream.
pub(crate) fn end_of(stream: &mut impl Read) -> Result<usize, ErrorKind> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map_err(|error| error.kind())
}

/// Writes `pattern` until nothing goes for a while; answers how many bytes went.
pub(crate) fn until_full(stream: &mut TcpStream, pattern: &mut Pattern) -> u64 {
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a deadline");
    let began = pattern.at();
    loop {
        match stream.write(pattern.next(64 << 10)) {
            Ok(count) => pattern.advance(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("writing: {error}"),
        }
    }
    stream.set_write_timeout(Some(LONG)).expect("a deadline");
    pattern.at() - began
}

/// A port on which connections are refused, for as long as this lives.
pub(crate) fn dead_port() -> (OwnedFd, SocketAddr) {
    let held = bound();
    let at = local(&held);
    (held, at)
}

fn bound() -> OwnedFd {
    let held = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    held
}

fn local(socket: &OwnedFd) -> SocketAddr {
    SocketAddr::try_from(getsockname(socket.as_fd()).expect("bound")).expect("an internet address")
}

/// A place where connecting takes for ever: a listener whose backlog is full.
#[derive(Debug)]
pub(crate) struct Unreachable {
    pub(crate) at: SocketAddr,
    _listening: OwnedFd,
    _waiting: Vec<TcpStream>,
}

impl Unreachable {
    pub(crate) fn new() -> Unreachable {
        let listening = bound();
        listen(&listening, 0).expect("listening");
        let at = local(&listening);
        let mut waiting = Vec::new();
        // A backlog of 0 takes one connection; a kernel that takes more than a few does not limit it at all.
        while waiting.len() < 16 {
            match TcpStream::connect_timeout(&at, Duration::from_millis(200)) {
                Ok(stream) => waiting.push(stream),
                Err(_) => return Unreachable { at, _listening: listening, _waiting: waiting },
            }
        }
        panic!("the kernel does not limit a backlog");
    }
}

/// Listens and serves each connection on a thread of its own, until it is dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) at: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Origin {
    pub(crate) fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Origin {
        Origin::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), serve)
    }

    /// The same at a place of the test's own.
    pub(crate) fn on(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Origin {
        let at = listener.local_addr().expect("bound");
        let (over, serve) = (Arc::new(AtomicBool::new(false)), Arc::new(serve));
        let ended = over.clone();
        // Nobody joins it: it ends when it is called once more.
        drop(spawn(move || {
            for stream in listener.incoming() {
                if ended.load(SeqCst) {
                    return;
                }
                let serve = serve.clone();
                drop(spawn(move || serve(patient(stream.expect("a connection")))));
            }
        }));
        Origin { at, over }
    }

    /// Sends back what it gets, and the end too.
    pub(crate) fn echo() -> Origin {
        Origin::start(echo)
    }

    /// The same at a port where one was before.
    pub(crate) fn echo_at(at: SocketAddr) -> Origin {
        Origin::on(eventually("the port to be free", || TcpListener::bind(at).ok()), echo)
    }
}

fn echo(mut stream: TcpStream) {
    let mut back = stream.try_clone().expect("a descriptor");
    // A client that breaks off is the test's own.
    let _ = io::copy(&mut stream, &mut back);
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        drop(TcpStream::connect(self.at));
    }
}

/// Bytes whose place can be told from their value: random ones, repeated after a prime number of them, so that bytes
/// that are lost, doubled or moved by the size of any buffer are seen.
#[derive(Debug)]
pub(crate) struct Pattern {
    bytes: Vec<u8>,
    at: u64,
}

const PRIME: usize = 65_521;
/// Bytes that are written or read at once, at most.
const MOST: usize = 128 << 10;

impl Pattern {
    pub(crate) fn new(seed: u64) -> Pattern {
        let mut random = Random::new(seed);
        let mut bytes: Vec<u8> = (0..PRIME).map(|_| random.next() as u8).collect();
        // So much longer that any stretch of a chunk can be lent.
        (0..MOST).for_each(|place| bytes.push(bytes[place]));
        Pattern { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The next `count` bytes, at most 128 KiB.
    pub(crate) fn next(&self, count: usize) -> &[u8] {
        let from = (self.at % PRIME as u64) as usize;
        &self.bytes[from..from + count]
    }

    pub(crate) fn advance(&mut self, count: usize) {
        self.at += count as u64;
    }

    /// Writes the next `count` bytes.
    pub(crate) fn write(&mut self, stream: &mut impl Write, count: usize) -> io::Result<()> {
        stream.write_all(self.next(count))?;
        self.advance(count);
        Ok(())
    }

    /// Reads up to `most` bytes (at most 128 KiB) and compares them; answers how many there were.
    ///
    /// # Panics
    /// If they are others, with the place.
    pub(crate) fn read(&mut self, stream: &mut impl Read, most: usize) -> io::Result<usize> {
        let mut got = vec![0; most];
        let count = loop {
            match stream.read(&mut got) {
                // A process that is stopped and continued sees it, where there is a deadline.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if got[..count] != *self.next(count) {
            let place = self.next(count).iter().zip(&got).position(|(want, got)| want != got);
            panic!("byte {} is wrong", self.at + place.unwrap_or_default() as u64);
        }
        self.advance(count);
        Ok(count)
    }

    /// Reads and compares until the end.
    pub(crate) fn read_to_end(&mut self, stream: &mut impl Read) -> io::Result<u64> {
        while self.read(stream, 64 << 10)? > 0 {}
        Ok(self.at)
    }
}

/// Numbers that look random, the same for the same seed (SplitMix64; Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 1 to `most`.
    pub(crate) fn up_to(&mut self, most: u64) -> usize {
        (self.next() % most) as usize + 1
    }
}

/// Waits a moment that is part of the case itself.
pub(crate) fn moment() {
    pause(Duration::from_millis(20));
}
