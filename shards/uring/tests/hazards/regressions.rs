//! What went wrong once: many small pieces that took a whole buffer each, breaks that nobody was told of or that took bytes
//! with them, and a release that outlived its connection.
//!
//! The root itself plays the peers, so what they do is there, as a whole, when the shard looks.

use std::fs;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::time::{ClockId, clock_gettime};
use waterwheel_conformance::kit::{on_one, sleep, turn, with_deadline};
use waterwheel_conformance::{Law, Outcome};
use waterwheel_reactor::{Backend, Handle, Incoming, Reactor, Sink, Source, Transport};

pub(crate) const LAWS: &[Law] = &[
    Law::new("PIECE-1", "each small message that nobody takes holds a buffer", pieces_for_nobody),
    Law::new("PIECE-2", "each small message of many slow connections holds a buffer", pieces_for_many),
    Law::new("PIECE-3", "small messages that are stuck take the last buffers: the shard spins", |backend| {
        pieces_get_stuck(backend, 1_024)
    })
    .alone(),
    Law::new("PIECE-4", "small messages that are stuck take all buffers: others get none", |backend| {
        pieces_get_stuck(backend, 2_500)
    })
    .alone(),
    Law::new("BREAK-1", "a reset that a shutdown meets first is an end to the source", reset_before_shutdown),
    Law::new("BREAK-2", "a shutdown says that all went out to a peer that was gone", shutdown_after_loss),
    Law::new("BREAK-3", "a TCP peer's last bytes are lost with the break that a flush tells of", |backend| {
        last_bytes_are_lent(backend, tcp)
    }),
    Law::new(
        "BREAK-4",
        "a Unix peer's last bytes are lost with the break that a flush tells of",
        |backend| last_bytes_are_lent(backend, unix),
    ),
    Law::new("BREAK-5", "a reset that a forward meets first is an end to the source", reset_in_a_stream),
    Law::new("ABORT-1", "a release waits for a connection that was aborted", release_after_abort),
];

/// For anything here, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

// ---- connections

/// A connection of the shard's and its peer.
pub(crate) fn tcp(reactor: &Rc<dyn Reactor>) -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("a place in the backlog");
    peer.set_nodelay(true).expect("a flag");
    let (stream, _) = listener.accept().expect("a peer that has connected");
    stream.set_nonblocking(true).expect("a flag");
    (adopt(reactor, stream.into()), peer)
}

fn unix(reactor: &Rc<dyn Reactor>) -> (Transport, UnixStream) {
    let (stream, peer) = UnixStream::pair().expect("two descriptors");
    stream.set_nonblocking(true).expect("a flag");
    (adopt(reactor, stream.into()), peer)
}

/// A connection that takes nothing until its peer reads: the kernel's buffers are full already.
fn full(reactor: &Rc<dyn Reactor>) -> (Transport, UnixStream) {
    let (mut stream, peer) = UnixStream::pair().expect("two descriptors");
    stream.set_nonblocking(true).expect("a flag");
    let blocked = loop {
        if let Err(error) = stream.write(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
    (adopt(reactor, stream.into()), peer)
}

fn adopt(reactor: &Rc<dyn Reactor>, file: OwnedFd) -> Transport {
    let incoming = Incoming { handle: Handle::Os(file), bytes: Vec::new(), peer: None };
    reactor.adopt(incoming).expect("adopting it")
}

/// Closes it with a reset, whatever was read.
fn reset(peer: TcpStream) {
    set_socket_linger(&peer, Some(Duration::ZERO)).expect("an option");
}

/// Blocks the shard until this is so.
fn await_state(file: impl AsFd, state: PollFlags) {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let events = &mut [PollFd::new(&file, state)];
    assert_eq!(poll(events, Some(&timeout)).expect("asking for it"), 1, "no {state:?}");
}

/// Blocks the shard until its own end knows of the break, which nobody is told yet.
fn await_break(source: &dyn Source) {
    // Asked for or not, these are always told of.
    await_state(source.descriptor().expect("an open connection"), PollFlags::HUP);
}

/// Asks for bytes, of which there are none yet, and lets the kernel know.
async fn await_input(source: &mut dyn Source) {
    poll_fn(|cx| {
        assert!(source.poll_fill(cx).is_pending(), "nobody has sent anything");
        Poll::Ready(())
    })
    .await;
    turn().await;
}

async fn take(source: &mut dyn Source) -> io::Result<Vec<u8>> {
    let bytes = poll_fn(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec)).await?;
    source.consume(bytes.len());
    Ok(bytes)
}

async fn write(sink: &mut dyn Sink, bytes: &[u8]) {
    let taken = poll_fn(|cx| sink.poll_write(cx, bytes)).await.expect("nobody knows of a break yet");
    assert_eq!(taken, bytes.len());
}

/// However often it is asked, it says that there was a reset.
async fn says_reset(source: &mut dyn Source) {
    for _ in 0..3 {
        let said = take(source).await.map_err(|error| error.kind());
        assert_eq!(said, Err(ErrorKind::ConnectionReset));
        turn().await;
    }
}

/// Runs this on a shard.
fn hold<F: Future<Output = ()>>(
    backend: &dyn Backend,
    work: impl FnOnce(Rc<dyn Reactor>) -> F + Send + 'static,
) -> Outcome {
    on_one(backend, move |reactor| async move {
        with_deadline(&reactor, PATIENCE, "all of it", work(Rc::clone(&reactor))).await;
    });
    Outcome::Holds
}

// ---- small pieces

/// Memory that this process holds for itself, and does not map from a file.
fn memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line for it");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number");
    kibibytes << 10
}

#[track_caller]
fn assert_grew_little(before: usize, most: usize) {
    let grown = memory().saturating_sub(before);
    println!("{} KiB more", grown >> 10);
    assert!(grown < most, "{} KiB more are held", grown >> 10);
}

fn byte_at(place: usize) -> u8 {
    // A prime, so that no buffer begins as another does.
    (place % 251) as u8
}

/// All comes that was sent, as [`byte_at`] says.
async fn all_comes(source: &mut dyn Source, count: usize) {
    let mut place = 0;
    while place < count {
        let bytes = take(source).await.expect("bytes");
        assert!(!bytes.is_empty(), "the end after {place} of {count}");
        for byte in bytes {
            assert_eq!(byte, byte_at(place), "at {place}");
            place += 1;
        }
    }
    assert_eq!(place, count);
}

fn pieces_for_nobody(backend: &dyn Backend) -> Outcome {
    const COUNT: usize = 4_000;
    hold(backend, |reactor| async move {
        let (mut slow, mut peer) = tcp(&reactor);
        await_input(&mut *slow.source).await;
        let before = memory();
        for place in 0..COUNT {
            peer.write_all(&[byte_at(place)]).expect("room for a byte");
            turn().await;
        }
        assert_grew_little(before, 4 << 20);
        all_comes(&mut *slow.source, COUNT).await;
    })
}

fn pieces_for_many(backend: &dyn Backend) -> Outcome {
    const CONNECTIONS: usize = 40;
    const ROUNDS: usize = 300;
    const PIECE: usize = 30;
    hold(backend, |reactor| async move {
        let mut all: Vec<_> = (0..CONNECTIONS).map(|_| tcp(&reactor)).collect();
        for (slow, _) in &mut all {
            await_input(&mut *slow.source).await;
        }
        let before = memory();
        for round in 0..ROUNDS {
            let piece: Vec<u8> = (round * PIECE..(round + 1) * PIECE).map(byte_at).collect();
            for (_, peer) in &mut all {
                peer.write_all(&piece).expect("room for it");
            }
            turn().await;
        }
        assert_grew_little(before, 8 << 20);
        for (slow, _) in &mut all {
            all_comes(&mut *slow.source, ROUNDS * PIECE).await;
        }
    })
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Forwards so many pieces to a peer that does not read, which are all less than a sink takes. What the shard does then
/// takes no time, and another connection goes on.
fn pieces_get_stuck(backend: &dyn Backend, count: usize) -> Outcome {
    const PIECE: usize = 16;
    const IDLE: Duration = Duration::from_millis(400);
    const OTHERS_PATIENCE: Duration = Duration::from_secs(2);
    on_one(backend, move |reactor| async move {
        let (mut from, mut sending) = tcp(&reactor);
        let (mut to, _nobody) = full(&reactor);
        let (mut other, mut others) = tcp(&reactor);
        await_input(&mut *from.source).await;
        for _ in 0..count {
            sending.write_all(&[7; PIECE]).expect("room for it");
            turn().await;
            forward(&mut from, &mut to).await.expect("forwarding");
        }
        let before = cpu_time();
        sleep(&reactor, IDLE).await;
        let busy = cpu_time() - before;
        assert!(busy < IDLE / 2, "{busy:?} of {IDLE:?}, in which nothing happened");
        let receiving = async {
            await_input(&mut *other.source).await;
            others.write_all(b"hello").expect("room for it");
            assert_eq!(take(&mut *other.source).await.expect("bytes"), b"hello");
        };
        with_deadline(&reactor, OTHERS_PATIENCE, "another connection receives", receiving).await;
    });
    Outcome::Holds
}

// ---- breaks

fn reset_before_shutdown(backend: &dyn Backend) -> Outcome {
    hold(backend, |reactor| async move {
        let (mut broken, peer) = tcp(&reactor);
        await_input(&mut *broken.source).await;
        let mut peer = Some(peer);
        let shut = poll_fn(|cx| {
            if let Some(peer) = peer.take() {
                reset(peer);
                await_break(&*broken.source);
                let written = broken.sink.poll_write(cx, b"hello");
                assert!(matches!(written, Poll::Ready(Ok(5))), "{written:?} before anybody looked");
            }
            broken.sink.poll_shutdown(cx)
        })
        .await;
        shut.expect_err("nothing of it went out");
        says_reset(&mut *broken.source).await;
    })
}

fn shutdown_after_loss(backend: &dyn Backend) -> Outcome {
    hold(backend, |reactor| async move {
        let (mut left, peer) = unix(&reactor);
        await_input(&mut *left.source).await;
        drop(peer);
        write(&mut *left.sink, b"hello").await;
        turn().await;
        let shut = poll_fn(|cx| left.sink.poll_shutdown(cx)).await;
        shut.expect_err("nobody was there to get it");
    })
}

/// The peer answers and goes without having read all: that is a reset, behind the answer.
fn last_bytes_are_lent<P>(backend: &dyn Backend, pair: fn(&Rc<dyn Reactor>) -> (Transport, P)) -> Outcome
where
    P: Write + AsFd + 'static,
{
    hold(backend, move |reactor| async move {
        let (mut broken, mut peer) = pair(&reactor);
        write(&mut *broken.sink, b"a question, and more").await;
        turn().await;
        await_state(&peer, PollFlags::IN);
        peer.write_all(b"an answer").expect("room for it");
        drop(peer);
        await_break(&*broken.source);
        let flushed = poll_fn(|cx| broken.sink.poll_flush(cx)).await.map_err(|error| error.kind());
        assert_eq!(flushed, Err(ErrorKind::ConnectionReset));
        assert_eq!(take(&mut *broken.source).await.expect("what came before"), b"an answer");
        says_reset(&mut *broken.source).await;
    })
}

/// Forwards what there is now. The destination's own source has nothing to say meanwhile.
async fn forward(from: &mut Transport, to: &mut Transport) -> io::Result<()> {
    let result = poll_fn(|cx| {
        loop {
            match to.sink.poll_forward(cx, &mut *from.source, usize::MAX) {
                Poll::Ready(Ok(count)) => assert!(count > 0, "nobody has ended it"),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into_inner())),
                Poll::Pending => return Poll::Ready(Ok(())),
            }
        }
    })
    .await;
    turn().await;
    result
}

/// Reads what the kernel has; how many bytes.
fn read_now(mut peer: &TcpStream, room: &mut [u8]) -> usize {
    let mut count = 0;
    loop {
        match peer.read(room) {
            Ok(0) => panic!("an end"),
            Ok(bytes) => count += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("reading: {error}"),
        }
    }
}

fn reset_in_a_stream(backend: &dyn Backend) -> Outcome {
    const MUCH: usize = 8 << 20;
    hold(backend, |reactor| async move {
        let (mut from, mut pushing) = tcp(&reactor);
        let (mut to, reading) = tcp(&reactor);
        pushing.set_nonblocking(true).expect("a flag");
        reading.set_nonblocking(true).expect("a flag");
        let (piece, mut room) = (vec![7; 256 << 10], vec![0; 64 << 10]);
        await_input(&mut *to.source).await;
        let (mut pushed, mut count) = (0, 0);
        while count < MUCH {
            pushed += pushing.write(&piece).expect("room for some");
            // All goes through, so that nothing is held back when the reset comes.
            while count < pushed {
                forward(&mut from, &mut to).await.expect("forwarding");
                count += read_now(&reading, &mut room);
            }
        }
        pushing.write_all(&piece[..64 << 10]).expect("room for it");
        // The shard knows of these bytes, so that it forwards them as soon as it is asked, and of no reset yet.
        turn().await;
        reset(reading);
        await_break(&*to.source);
        // It may say so now, or when there is something to forward again.
        let _ = forward(&mut from, &mut to).await;
        says_reset(&mut *to.source).await;
    })
}

// ---- aborts

fn release_after_abort(backend: &dyn Backend) -> Outcome {
    hold(backend, |reactor| async move {
        let (mut aborted, _peer) = full(&reactor);
        await_input(&mut *aborted.source).await;
        write(&mut *aborted.sink, b"never read").await;
        turn().await;
        let released = poll_fn(|cx| {
            assert!(aborted.source.poll_release(cx).is_pending(), "something has not gone out");
            aborted.sink.abort();
            Poll::Ready(aborted.source.poll_release(cx))
        })
        .await;
        let Poll::Ready(released) = released else { panic!("a wait for what was aborted") };
        released.map(drop).expect_err("it was aborted");
    })
}
