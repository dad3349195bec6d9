//! Programs that nobody wrote: operations on two connections, drawn by chance, between peers that are as fitful. What
//! holds of every one of them is what a relay is for.

use std::io::{self, IoSlice};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join;
use waterwheel_reactor::{Backend, Side, Sink, Source, Transport};

use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Meeting, Peer, Venue, errand};
use crate::kit::stream::{flush, forward, peek, release, shutdown, turn, write, write_vectored};
use crate::kit::{on_one, pause};

/// One of each end and more, each over TCP, TCP with small buffers, and Unix sockets.
const PROGRAMS: u64 = 24;

/// A program's longest stream, in bits: longer than the buffers on its way, so that a reactor that treats long streams in
/// a way of its own comes into it, and out again.
const MOST: u32 = 22;
/// A peer's longest piece, in bits.
const PIECE: u32 = 17;

/// STREAM-1, by chance.
pub(super) fn any_order(backend: &dyn Backend) {
    let places: [fn(&dyn Backend) -> Venue; 3] = [
        |backend| Venue::new(backend, Family::Tcp),
        Venue::small,
        |backend| Venue::new(backend, Family::Unix),
    ];
    for (number, place) in (0..).zip(places) {
        let venue = place(backend);
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            for seed in (0..PROGRAMS).map(|program| 3 * program + number) {
                let named = Named(seed);
                let mut rng = Rng::with_seed(seed);
                match seed / 3 % 4 {
                    0 => both_ways(&mut meeting, &mut rng).await,
                    1 => one_way_and_over(&mut meeting, &mut rng).await,
                    2 => left_in_the_middle(&mut meeting, &mut rng).await,
                    _ => reset_in_the_middle(&mut meeting, &mut rng).await,
                }
                drop(named);
            }
            meeting.close().await;
        });
    }
}

/// Says which program failed.
#[derive(Debug)]
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was program {}", self.0);
        }
    }
}

/// Two streams at once through two connections, each half of which works for one of them.
async fn both_ways(meeting: &mut Meeting, rng: &mut Rng) {
    let (mut left, client) = meeting.peer().await;
    let (mut right, server) = meeting.peer().await;
    let [there, back] = [0; 2].map(|_| size(rng, MOST));
    let peers = [
        (client.again(), 1, Some(there)),
        (server.again(), 1, None),
        (server, 2, Some(back)),
        (client, 2, None),
    ];
    let peers = peers.map(|(peer, seed, send)| {
        let rng = rng.fork();
        errand(move || match send {
            Some(count) => {
                let sent = send_fitfully(&peer, seed, count, rng);
                peer.finish();
                sent
            }
            None => {
                let (count, last) = read_fitfully(&peer, seed, rng);
                last.expect("a clean end");
                count
            }
        })
    });
    let (mut one, mut other) = (rng.fork(), rng.fork());
    let (forth, home) = join(
        relay(&mut one, left.source.as_mut(), right.sink.as_mut(), usize::MAX),
        relay(&mut other, right.source.as_mut(), left.sink.as_mut(), usize::MAX),
    )
    .await;
    let relayed = [forth, home].map(|moved| moved.expect("nobody resets anything"));
    assert_eq!(relayed, [there, back], "bytes relayed");
    let [sent, got, answered, heard] = peers;
    let counts = [sent.end().await, got.end().await, answered.end().await, heard.end().await];
    assert_eq!(counts, [there, there, back, back], "bytes sent, got, answered, heard");
}

/// One stream, while both connections go from owner to owner.
async fn one_way_and_over(meeting: &mut Meeting, rng: &mut Rng) {
    let (mut left, client) = meeting.peer().await;
    let (mut right, server) = meeting.peer().await;
    let total = size(rng, MOST);
    let (of_sender, of_reader) = (rng.fork(), rng.fork());
    let sender = errand(move || {
        let sent = send_fitfully(&client, 1, total, of_sender);
        client.finish();
        // Its end of the connection stays open for what comes back: nothing but the end.
        client.expect_end();
        sent
    });
    let reader = errand(move || {
        let (count, last) = read_fitfully(&server, 1, of_reader);
        last.expect("a clean end");
        count
    });
    let mut moved = 0;
    while moved < total {
        let most = rng.usize(1..=total - moved);
        moved += relay(rng, left.source.as_mut(), right.sink.as_mut(), most).await.expect("nobody resets");
        left = passed_on(meeting, left).await;
        right = passed_on(meeting, right).await;
    }
    let more = relay(rng, left.source.as_mut(), right.sink.as_mut(), usize::MAX).await.expect("the end");
    assert_eq!(more, 0, "bytes behind the last one");
    drop(left);
    assert_eq!(sender.end().await, total, "bytes sent");
    assert_eq!(reader.end().await, total, "bytes that came");
}

/// Given back and adopted again.
async fn passed_on(meeting: &Meeting, mut transport: Transport) -> Transport {
    flush(transport.sink.as_mut()).await.expect("flushing before the release");
    let incoming = release(transport.source.as_mut()).await.expect("releasing");
    drop(transport);
    meeting.adopt(incoming)
}

/// The relay goes away under way, its halves in any order: what its sink took arrives, and then the end.
async fn left_in_the_middle(meeting: &mut Meeting, rng: &mut Rng) {
    let (left, client) = meeting.peer().await;
    let (right, server) = meeting.peer().await;
    let total = size(rng, MOST);
    let (of_sender, of_reader) = (rng.fork(), rng.fork());
    let sender = errand(move || send_fitfully(&client, 1, total, of_sender));
    let reader = errand(move || read_fitfully(&server, 1, of_reader));
    let Transport { mut source, sink: unused } = left;
    let Transport { source: quiet, mut sink } = right;
    let most = rng.usize(1..=total);
    let moved = relay(rng, source.as_mut(), sink.as_mut(), most).await.expect("nobody resets");
    let mut halves = [Half::Source(source), Half::Sink(unused), Half::Source(quiet), Half::Sink(sink)];
    rng.shuffle(&mut halves);
    for half in halves {
        drop(half);
        if rng.bool() {
            turn().await;
        }
    }
    let (count, last) = reader.end().await;
    last.expect("a clean end");
    assert_eq!(count, moved, "bytes that came of those that the sink took");
    sender.end().await;
}

/// To be dropped.
enum Half {
    Source(#[expect(dead_code, reason = "only dropped")] Box<dyn Source>),
    Sink(#[expect(dead_code, reason = "only dropped")] Box<dyn Sink>),
}

/// One of the peers resets under way: its side is blamed, and what came to the other is the beginning of what was sent.
async fn reset_in_the_middle(meeting: &mut Meeting, rng: &mut Rng) {
    let (mut left, client) = meeting.peer().await;
    let (mut right, server) = meeting.peer().await;
    let (total, until) = (size(rng, MOST), size(rng, MOST));
    let (of_sender, of_reader) = (rng.fork(), rng.fork());
    let by_the_client = rng.bool();
    let sender = errand(move || {
        let sent = send_fitfully(&client, 1, total, of_sender);
        // Else its drop sends FIN.
        if by_the_client {
            client.reset();
        }
        sent
    });
    let reader = errand(move || {
        if by_the_client {
            return read_fitfully(&server, 1, of_reader).0;
        }
        let mut got = Pattern::new(1);
        let mut buffer = vec![0; 10_000];
        while (got.at() as usize) < until.min(total) {
            match server.try_read(&mut buffer).expect("the relay sends until it is reset") {
                0 => break,
                size => got.check(&buffer[..size]),
            }
        }
        server.reset();
        got.at() as usize
    });
    let relayed = relay(rng, left.source.as_mut(), right.sink.as_mut(), usize::MAX).await;
    match relayed {
        // All of it had been taken before the reset came.
        Ok(moved) => assert_eq!(moved, total, "bytes relayed up to a clean end"),
        Err(Side::Source(error)) => {
            assert!(by_the_client, "the server has reset, the client is blamed: {error}");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "the client's reset: {error}");
        }
        Err(Side::Sink(error)) => {
            assert!(!by_the_client, "the client has reset, the server is blamed: {error}");
            // The last: its end could not be sent.
            let known =
                [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::NotConnected];
            assert!(known.contains(&error.kind()), "the server's reset: {error}");
        }
    }
    drop((left, right));
    let (sent, got) = (sender.end().await, reader.end().await);
    assert!(got <= sent, "{got} bytes came of {sent}");
}

/// Moves up to `most` bytes by whatever operation comes to mind, and at the end of the stream passes that on. How many.
async fn relay(
    rng: &mut Rng,
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    most: usize,
) -> Result<usize, Side<io::Error>> {
    const AT_ONCE: [usize; 6] = [1, 100, 4_097, 16_384, 65_536, usize::MAX];
    let (mut moved, mut same, mut operation, mut at_once) = (0, 0, 0, 0);
    while moved < most {
        if same == 0 {
            // Long runs of the same, too: what a reactor finds out about a connection, it finds out over a while.
            (same, operation, at_once) = (1 << rng.u8(..8), rng.u8(..8), rng.usize(..AT_ONCE.len()));
        }
        same -= 1;
        let part = AT_ONCE[at_once].min(most - moved);
        let count = match operation {
            0..4 => forward(sink, source, part).await?,
            4..6 => copy(rng, source, sink, part).await?,
            6 => {
                flush(sink).await.map_err(Side::Sink)?;
                same = 0;
                continue;
            }
            _ => {
                turn().await;
                continue;
            }
        };
        moved += count;
        if count == 0 {
            shutdown(sink).await.map_err(Side::Sink)?;
            break;
        }
    }
    Ok(moved)
}

/// Some bytes by hand; not all that are lent, and of what is offered not all is taken.
async fn copy(
    rng: &mut Rng,
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    most: usize,
) -> Result<usize, Side<io::Error>> {
    let lent = peek(source).await.map_err(Side::Source)?;
    if lent.is_empty() {
        return Ok(0);
    }
    let part = &lent[..rng.usize(1..=lent.len().min(most))];
    let taken = if rng.bool() {
        write(sink, part).await
    } else {
        let (head, tail) = part.split_at(rng.usize(..=part.len()));
        write_vectored(sink, &[head, tail].map(IoSlice::new)).await
    };
    let taken = taken.map_err(Side::Sink)?;
    source.consume(taken);
    Ok(taken)
}

/// Sends the pattern in pieces of any size, with rests, until all is sent or the connection takes no more; how many.
fn send_fitfully(peer: &Peer, seed: u64, count: usize, mut rng: Rng) -> usize {
    let mut pattern = Pattern::new(seed);
    while (pattern.at() as usize) < count {
        let left = count - pattern.at() as usize;
        let piece = pattern.clone().take(size(&mut rng, PIECE).min(left));
        match peer.try_write(&piece) {
            Ok(taken) => drop(pattern.take(taken)),
            Err(_) => break,
        }
        rest(&mut rng);
    }
    pattern.at() as usize
}

/// Reads the pattern in pieces of any size, with rests, to the end or the error; how many bytes came before.
fn read_fitfully(peer: &Peer, seed: u64, mut rng: Rng) -> (usize, io::Result<()>) {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 1 << PIECE];
    let last = loop {
        let room = size(&mut rng, PIECE);
        match peer.try_read(&mut buffer[..room]) {
            Ok(0) => break Ok(()),
            Ok(count) => pattern.check(&buffer[..count]),
            Err(error) => break Err(error),
        }
        rest(&mut rng);
    };
    (pattern.at() as usize, last)
}

/// From one byte up to as many as so many bits can count, each power of two as likely as the next.
fn size(rng: &mut Rng, most: u32) -> usize {
    let bits = rng.u32(..=most);
    rng.usize(1 << bits >> 1..=1 << bits).max(1)
}

fn rest(rng: &mut Rng) {
    if rng.u8(..16) == 0 {
        pause(Duration::from_micros(size(rng, 11) as u64));
    }
}
