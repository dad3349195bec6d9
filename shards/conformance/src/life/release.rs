//! What is left of a reactor, and of operations that nobody waits for any more.

use std::fs;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Address, Backend, Bound, ConnectOptions, Reactor, Time};

use crate::Outcome;
use crate::kit::full::Full;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{self, Meeting, Peer, Venue, errand};
use crate::kit::stream::{once, turn, write_all, write_until_pending};
use crate::kit::{Census, close_listener, local, on_one, shard, sleep, try_each};

/// LIFE-3: lives that end with every kind of operation under way, by returning and by panicking. Descriptors and
/// threads are compared exactly; memory by what the process has mapped, so that rings and buffers count. What the
/// allocator and the thread library keep for the next thread is there after the first lives.
pub(super) fn each_life_leaves_nothing(backend: &dyn Backend) -> Outcome {
    const WARM: usize = 6;
    const LIVES: usize = 32;
    // A ring or a buffer of each life is more; the few steps of 128 KiB in which the heap may grow are less.
    const GROWTH_MAX: u64 = 16 << 10;
    let full = Full::new();
    let census = Census::take();
    let mut before = 0;
    for life in 0..WARM + LIVES {
        if life == WARM {
            before = mapped();
        }
        one_life(backend, full.address(), life % 4 == 3);
        census.assert_restored();
    }
    let growth = mapped().saturating_sub(before);
    assert!(
        growth < LIVES as u64 * GROWTH_MAX,
        "{LIVES} lives left {growth} bytes mapped, {} each",
        growth / LIVES as u64
    );
    Outcome::Holds
}

/// Bytes of address space of this process: the first number of /proc/self/statm, in pages.
fn mapped() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages: u64 = text.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() as u64
}

fn one_life(backend: &dyn Backend, full: Address, panics: bool) {
    let venue = Venue::small(backend);
    let (_, result) = try_each(
        backend,
        vec![shard(move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            let under_way = UnderWay::begin(&reactor, &mut meeting, &full).await;
            let mut listener = reactor.listen(listening()).expect("listening");
            assert!(once(|cx| listener.poll_accept(cx)).await.is_pending());
            drop(close_listener(listener).await);
            assert!(once(|cx| reactor.poll_until(cx, Time::NEVER)).await.is_pending());
            assert!(!panics, "this life ends by a panic, as planned");
            drop(under_way);
        })],
    );
    assert_eq!(result.is_err(), panics, "{result:?}");
}

/// LIFE-4: the reactor goes on; only the operations are dropped. Where a runtime on io_uring drops a pending accept,
/// the connection that completes it later belongs to nobody and stays open until the process ends: its peer waits for
/// an answer that cannot come.
pub(super) fn half_done_operations(backend: &dyn Backend) -> Outcome {
    const ROUNDS: usize = 20;
    let full = Full::new();
    let to = full.address();
    let venue = Venue::small(backend);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        // The first round may bring things that the reactor keeps for the next ones.
        let mut census = None;
        for _ in 0..ROUNDS {
            accept_dropped(&reactor).await;
            drop(UnderWay::begin(&reactor, &mut meeting, &to).await);
            for _ in 0..3 {
                turn().await;
            }
            received_late(&reactor, &mut meeting).await;
            sent_late(&mut meeting).await;
            if let Some(census) = &census {
                let census: &Census = census;
                census.descriptors_restored(&reactor).await;
            } else {
                sleep(&reactor, Duration::from_millis(100)).await;
                census = Some(Census::take());
            }
        }
        meeting.close().await;
    });
    drop(full);
    Outcome::Holds
}

/// A peer connects when the accept was pending and its listener is dropped: it must be told, not left hanging.
async fn accept_dropped(reactor: &Rc<dyn Reactor>) {
    let bound = listening();
    let to = Address::Inet(local(&bound));
    let mut listener = reactor.listen(bound).expect("listening");
    assert!(once(|cx| listener.poll_accept(cx)).await.is_pending(), "nobody has connected yet");
    // In the backlog from here on: no turn lies between this and the drop.
    let peer = Peer::connect(&to, Default::default());
    drop(listener);
    let told = errand(move || peer.drain(&mut Pattern::new(1), 1));
    let (count, _end_or_reset) = told.end().await;
    assert_eq!(count, 0, "bytes from a connection that nobody accepted");
}

/// A receive is pending when its connection is dropped, and bytes arrive afterwards.
async fn received_late(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting) {
    let (mut transport, peer) = meeting.peer().await;
    assert!(once(|cx| transport.source.poll_fill(cx).map_ok(|_| ())).await.is_pending());
    drop(transport);
    // Refused where the connection is gone already.
    let _ = peer.try_write(&[7; 4096]);
    sleep(reactor, Duration::from_millis(1)).await;
    let _ = peer.try_write(&[7; 4096]);
}

/// A send is under way when its connection is dropped: what was taken still arrives, and nothing else does.
async fn sent_late(meeting: &mut Meeting) {
    let (mut transport, peer) = meeting.peer().await;
    let taken = write_until_pending(&mut *transport.sink, &mut Pattern::new(3)).await;
    drop(transport);
    let (count, result) = errand(move || peer.drain(&mut Pattern::new(3), 1 << 16)).end().await;
    result.expect("the end of what was taken");
    assert_eq!(count, taken, "bytes taken and bytes that arrived");
}

/// Every operation that a shard can have under way at once.
#[derive(Debug)]
struct UnderWay {
    _held: Vec<Box<dyn std::fmt::Debug>>,
}

impl UnderWay {
    async fn begin(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting, full: &Address) -> UnderWay {
        let mut accepting = reactor.listen(listening()).expect("listening");
        assert!(once(|cx| accepting.poll_accept(cx)).await.is_pending());
        let mut connecting =
            reactor.connect(full, &ConnectOptions::default()).expect("a connect that begins");
        assert!(once(|cx| connecting.sink.poll_flush(cx)).await.is_pending(), "the backlog is full");
        assert!(once(|cx| connecting.source.poll_fill(cx).map_ok(|_| ())).await.is_pending());
        let unpolled = reactor.connect(full, &ConnectOptions::default()).expect("a connect that begins");
        let (mut receiving, receiver) = meeting.peer().await;
        assert!(once(|cx| receiving.source.poll_fill(cx).map_ok(|_| ())).await.is_pending());
        let (mut sending, sender) = meeting.peer().await;
        write_until_pending(&mut *sending.sink, &mut Pattern::new(2)).await;
        let (mut shutting, shutter) = meeting.peer().await;
        write_all(&mut *shutting.sink, b"half").await.expect("writing");
        let _: Poll<_> = once(|cx| shutting.sink.poll_shutdown(cx)).await;
        UnderWay {
            _held: vec![
                Box::new((accepting, connecting, unpolled)),
                Box::new((receiving, sending, shutting)),
                Box::new((receiver, sender, shutter)),
            ],
        }
    }
}

/// A socket that listens on the loopback, made here since a root has no backend to ask.
fn listening() -> Bound {
    peer::listening().0.share().expect("a duplicate")
}
