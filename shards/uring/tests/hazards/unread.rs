//! A peer that never reads, behind a source that gives much.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_conformance::kit::{accept, close_listener, on_one, thread, with_deadline};
use waterwheel_conformance::{Law, Outcome};
use waterwheel_reactor::{Backend, Listener, Reactor, Transport};

use crate::crowds::entrance;

pub(crate) const LAWS: &[Law] = &[Law::new(
    "UNREAD-1",
    "a peer that never reads fills the memory, or stops the others",
    forwarded_to_nobody,
)];

/// What the sink holds at most, what the source has received beside that, and a large chunk on either way.
const HELD_MAX: usize = 4 * (64 << 10);

/// The kernel's part: a Unix socket's writer may have this much on the way (`net.core.wmem_default`), of which small pieces
/// count for more than they are; twice, since the bytes pass two of them.
const KERNEL_MAX: usize = 2 * (208 << 10);

const PATIENCE: Duration = Duration::from_secs(10);

/// Far more than both.
const PUSHED: usize = 8 << 20;

fn forwarded_to_nobody(backend: &dyn Backend) -> Outcome {
    let (bound, at) = entrance(backend, "unread");
    on_one(backend, move |reactor| async move {
        let mut listener = reactor.listen(bound).expect("listening");
        let mut connections = Vec::new();
        for _ in 0..3 {
            let peer = UnixStream::connect_addr(&at).expect("a place in the backlog");
            connections.push((accepted(&reactor, &mut listener).await, peer));
        }
        let (echoing, echoed) = connections.pop().expect("three");
        let (to_nobody, nobody) = connections.pop().expect("two");
        let (fast, pushing) = connections.pop().expect("one");
        let forwarding = forward_all(fast, to_nobody);
        let mut forwarding = pin!(forwarding);
        let others = others_go_on(pushing, echoing, echoed);
        let mut others = pin!(others);
        let work = poll_fn(|cx| {
            assert!(forwarding.as_mut().poll(cx).is_pending(), "nobody has read anything");
            others.as_mut().poll(cx)
        });
        let (pushing, count) = with_deadline(&reactor, PATIENCE, "the other connection", work).await;
        println!("{count} bytes left the peer");
        assert!(count <= HELD_MAX + KERNEL_MAX, "{count} bytes are held for a peer that reads nothing");
        // Held back is not lost.
        drop(pushing);
        let reader = thread(move || read_all(nobody));
        with_deadline(&reactor, PATIENCE, "the end of the stream", forwarding).await;
        let got = reader.join();
        assert_eq!(got.len(), count);
        assert!(got.iter().enumerate().all(|(place, byte)| *byte == byte_at(place)), "a byte is wrong");
        drop(close_listener(listener).await);
    });
    Outcome::Holds
}

async fn accepted(reactor: &Rc<dyn Reactor>, listener: &mut Box<dyn Listener>) -> Transport {
    let incoming = accept(listener).await.expect("a peer that has connected");
    reactor.adopt(incoming).expect("adopting it")
}

/// Forwards to the end, which it passes on.
async fn forward_all(mut from: Transport, mut to: Transport) {
    while poll_fn(|cx| to.sink.poll_forward(cx, from.source.as_mut(), usize::MAX)).await.expect("forwarding")
        > 0
    {}
    poll_fn(|cx| to.sink.poll_shutdown(cx)).await.expect("ending");
}

/// Until nothing more is taken of the pushing peer, which is asked between rounds of another connection. Answers how much
/// was taken.
async fn others_go_on(
    mut pushing: UnixStream,
    mut echoing: Transport,
    mut echoed: UnixStream,
) -> (UnixStream, usize) {
    /// Rounds in a row in which nothing was taken.
    const QUIET: usize = 50;
    pushing.set_nonblocking(true).expect("a flag");
    let (mut count, mut quiet) = (0, 0);
    while quiet < QUIET && count < PUSHED {
        let piece: Vec<u8> = (count..count + (16 << 10)).map(byte_at).collect();
        match pushing.write(&piece) {
            Ok(taken) => {
                count += taken;
                quiet = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => quiet += 1,
            Err(error) => panic!("pushing: {error}"),
        }
        echoed.write_all(&[7]).expect("room for a byte");
        let source = &mut echoing.source;
        let bytes = poll_fn(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec)).await.expect("a byte");
        source.consume(bytes.len());
        assert_eq!(bytes, [7]);
    }
    (pushing, count)
}

fn byte_at(place: usize) -> u8 {
    // A prime, so that no buffer begins as another does.
    (place % 251) as u8
}

fn read_all(mut peer: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    peer.set_read_timeout(Some(PATIENCE)).expect("a limit");
    peer.read_to_end(&mut all).expect("everything, and the end");
    all
}
