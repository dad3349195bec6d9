//! A long stream through a reactor, for what it does to those only.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::net::sockopt::{set_socket_linger, set_socket_send_buffer_size};
use waterwheel_reactor::{Handle, Incoming, Reactor, Side, Transport};

use super::pattern::Pattern;
use super::stream::{forward, shutdown};
use super::thread::{Thread, pause, thread};

/// How the peer reads that the stream comes out to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// As fast as it can.
    Fast,
    /// Sleeps now and then, so that the buffers before it fill.
    Fitful,
    /// Resets the connection after 4 MiB, mostly while the next bytes are on their way.
    Resets,
}

/// A stream over TCP from one connection of the reactor's to another, with an urgent byte in its middle, which is none
/// of the stream's: receives stop before it.
#[derive(Clone, Copy, Debug)]
pub struct LongStream {
    /// The socket that it comes in by blocks.
    pub blocking: bool,
    /// The socket that it goes out by has a small buffer.
    pub small: bool,
    /// Who reads it.
    pub reader: Reader,
    /// The most that may go at once, however much is asked for.
    pub at_once: usize,
}

impl LongStream {
    /// How many bytes: more than all buffers between hold.
    pub const BYTES: usize = 32 << 20;

    /// To a fast reader, by sockets as listeners make them.
    pub fn new(at_once: usize) -> LongStream {
        LongStream { blocking: false, small: false, reader: Reader::Fast, at_once }
    }

    /// Forwards it to its end, or to the reset; answers how many bytes came out.
    ///
    /// # Panics
    /// If a byte came out wrong, or anything broke but what was to.
    pub async fn forward(self, reactor: &dyn Reactor) -> usize {
        let (mut from, writer) = connection(reactor, self.blocking, false);
        let (mut to, reader) = connection(reactor, false, self.small);
        let (writer, reader) = (writes(writer), reads(reader, self.reader));
        loop {
            match forward(to.sink.as_mut(), from.source.as_mut(), usize::MAX).await {
                Ok(0) => break shutdown(to.sink.as_mut()).await.expect("passing the end on"),
                Ok(count) => assert!(count <= self.at_once, "{count} bytes went at once"),
                Err(Side::Sink(_)) if self.reader == Reader::Resets => break,
                Err(error) => panic!("{self:?}: {error:?}"),
            }
        }
        drop((from, to));
        writer.join();
        reader.join()
    }
}

/// A connection of the reactor's, and its peer.
fn connection(reactor: &dyn Reactor, blocking: bool, small: bool) -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("a place in the backlog");
    let ours = listener.accept().expect("who connected").0;
    ours.set_nonblocking(!blocking).expect("a flag");
    if small {
        set_socket_send_buffer_size(&ours, 100 << 10).expect("an option");
    }
    let incoming = Incoming { handle: Handle::Os(ours.into()), bytes: Vec::new(), peer: None };
    (reactor.adopt(incoming).expect("adopting it"), peer)
}

fn writes(mut peer: TcpStream) -> Thread<()> {
    thread(move || {
        const PIECE: usize = 1 << 20;
        let mut pattern = Pattern::new(1);
        for start in (0..LongStream::BYTES).step_by(PIECE) {
            let urgent = start == LongStream::BYTES / 2;
            let sent = !urgent || rustix::net::send(&peer, b"!", SendFlags::OOB).is_ok();
            // After a reset nobody takes the rest.
            if !sent || peer.write_all(&pattern.take(PIECE)).is_err() {
                return;
            }
        }
    })
}

/// Answers how many bytes came, each the right one.
fn reads(mut peer: TcpStream, reader: Reader) -> Thread<usize> {
    thread(move || {
        const NAP_AFTER: u64 = 1 << 20;
        let mut room = vec![0; 300 << 10];
        let mut pattern = Pattern::new(1);
        if reader == Reader::Resets {
            // Looked at afterwards: it is fast, so that no sink is full when it resets.
            let mut all = Vec::new();
            while all.len() < 4 << 20 {
                let count = peer.read(&mut room).expect("reading");
                assert_ne!(count, 0, "the stream ended before it was reset");
                all.extend_from_slice(&room[..count]);
            }
            set_socket_linger(&peer, Some(Duration::ZERO)).expect("an option");
            drop(peer);
            pattern.check(&all);
            return all.len();
        }
        let mut nap = NAP_AFTER;
        loop {
            if reader == Reader::Fitful && pattern.at() > nap {
                nap += NAP_AFTER;
                pause(Duration::from_millis(5));
            }
            match peer.read(&mut room).expect("reading") {
                0 => return pattern.at() as usize,
                count => pattern.check(&room[..count]),
            }
        }
    })
}
