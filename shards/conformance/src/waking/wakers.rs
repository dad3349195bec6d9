//! Which waker, and from where.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::Duration;

use waterwheel_reactor::{Backend, Reactor};

use super::passing::Passing;
use crate::Outcome;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Meeting, Peer, Venue, errand};
use crate::kit::stream::{once, read, turn, write_until_pending};
use crate::kit::{Mail, bind_local, local, on_each, on_one, pause, shard, sleep, thread, with_deadline};

/// Longer than any wake takes, also on a busy machine.
const LATE: Duration = Duration::from_secs(5);

/// WAKE-1: each source of wakes, finding the reactor awake and finding it asleep.
pub(super) fn from_everywhere(backend: &dyn Backend) -> Outcome {
    on_one(backend, |reactor| async move {
        let itself = async {
            for _ in 0..1_000 {
                turn().await;
            }
        };
        with_deadline(&reactor, LATE, "a root that wakes itself is polled again", itself).await;
    });
    for gap in [Duration::ZERO, Duration::from_millis(3)] {
        another_shard(backend, gap);
        a_foreign_thread(backend, gap);
    }
    Outcome::Holds
}

fn another_shard(backend: &dyn Backend, gap: Duration) {
    let (there, back) = (Mail::default(), Mail::default());
    let (inbox, outbox) = (there.clone(), back.clone());
    let caller = shard(move |reactor: Rc<dyn Reactor>| async move {
        for number in 0..100 {
            sleep(&reactor, gap).await;
            there.send(number);
            let answer =
                with_deadline(&reactor, LATE, "an answer from the other shard", back.receive()).await;
            assert_eq!(answer, number);
        }
    });
    let answerer = shard(move |reactor: Rc<dyn Reactor>| async move {
        for _ in 0..100 {
            outbox.send(with_deadline(&reactor, LATE, "a call from the other shard", inbox.receive()).await);
        }
    });
    on_each(backend, vec![caller, answerer]);
}

fn a_foreign_thread(backend: &dyn Backend, gap: Duration) {
    let mail = Mail::default();
    let sender = mail.clone();
    let thread = thread(move || {
        for number in 0..100 {
            pause(gap);
            sender.send(number);
        }
    });
    on_one(backend, move |reactor| async move {
        for number in 0..100 {
            let got = with_deadline(&reactor, LATE, "a wake from a foreign thread", mail.receive()).await;
            assert_eq!(got, number);
        }
    });
    thread.join();
}

/// WAKE-4.
pub(super) fn latest(backend: &dyn Backend) -> Outcome {
    let (venue, bound) = (Venue::small(backend), bind_local(backend));
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        of_the_alarm(&reactor).await;
        for _ in 0..10 {
            of_each_half(&reactor, &mut meeting).await;
        }
        spurious_polls(&reactor, &mut meeting).await;
        meeting.close().await;
        let to = local(&bound).into();
        let mut listener = reactor.listen(bound).expect("listening");
        let (old, new) = (Passing::new().await, Passing::new().await);
        old.waits(|cx| listener.poll_accept(cx));
        new.waits(|cx| listener.poll_accept(cx));
        let peer = Peer::connect(&to, Default::default());
        with_deadline(&reactor, LATE, "the latest waker of an accept is woken", new.woken()).await;
        drop((listener, peer));
    });
    Outcome::Holds
}

async fn of_the_alarm(reactor: &Rc<dyn Reactor>) {
    let (old, new) = (Passing::new().await, Passing::new().await);
    Passing::wait_for_the_alarm(&[&old, &new], &**reactor, Duration::from_millis(5));
    // No deadline guards this one, since there is one alarm; a hang here is the alarm waking the old waker.
    new.woken().await;
}

/// Each half has a waker of its own, and a later one replaces only that half's.
async fn of_each_half(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting) {
    let (mut transport, peer) = meeting.peer().await;
    let (source, sink) = (&mut transport.source, &mut transport.sink);
    let mut sent = Pattern::new(4);
    let mut taken = write_until_pending(&mut **sink, &mut sent).await;
    let [old_reader, reader, old_writer, writer] =
        [Passing::new().await, Passing::new().await, Passing::new().await, Passing::new().await];
    old_reader.waits(|cx| source.poll_fill(cx).map_ok(|_| ()));
    taken += old_writer.waits_to_write(&mut **sink, &mut sent);
    reader.waits(|cx| source.poll_fill(cx).map_ok(|_| ()));
    taken += writer.waits_to_write(&mut **sink, &mut sent);
    peer.write_all(b"?");
    with_deadline(reactor, LATE, "the latest waker of the receiving half is woken", reader.woken()).await;
    assert_eq!(read(&mut **source).await.expect("reading"), b"?");
    // The receiving half was polled last now; the sending half's waker must still stand.
    let later = Passing::new().await;
    later.waits(|cx| source.poll_fill(cx).map_ok(|_| ()));
    let drained = errand(move || {
        peer.expect(&mut Pattern::new(4), taken);
        peer
    });
    with_deadline(reactor, LATE, "the latest waker of the sending half is woken", writer.woken()).await;
    drained.end().await;
}

/// Polls that nothing called for lose nothing and change nothing.
async fn spurious_polls(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting) {
    let (mut transport, peer) = meeting.peer().await;
    for _ in 0..1_000 {
        let filled = once(|cx| transport.source.poll_fill(cx).map_ok(<[u8]>::len)).await;
        assert!(filled.is_pending(), "nothing was sent, yet a poll gives {filled:?}");
        turn().await;
    }
    peer.write_all(b"late but whole");
    let bytes =
        with_deadline(reactor, LATE, "input after spurious polls", read(&mut *transport.source)).await;
    assert_eq!(bytes.expect("reading"), b"late but whole");
}

/// WAKE-8: the waker is compared in polls that every kind of event brought about, and cloned more often than a
/// counter of 15 bits holds (glommio panics at the 32 768th clone).
pub(super) fn one_for_life(backend: &dyn Backend) -> Outcome {
    const CLONES: usize = 100_000;
    let (venue, mail) = (Venue::new(backend, Family::Tcp), Mail::default());
    let (sender, hoard) = (mail.clone(), mpsc::channel::<Vec<Waker>>());
    let (keep, kept) = hoard;
    let foreign = thread(move || {
        let wakers = kept.recv_timeout(LATE).expect("the root sends its wakers");
        sender.send(());
        wakers
    });
    on_one(backend, move |reactor| async move {
        let first = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let same = async |event: &str| {
            let now = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            assert!(first.will_wake(&now), "another waker after {event}");
        };
        let mut meeting = venue.open(&reactor);
        for _ in 0..100 {
            turn().await;
            same("the root woke itself").await;
            sleep(&reactor, Duration::from_micros(100)).await;
            same("the alarm").await;
            let (mut transport, peer) = meeting.peer().await;
            same("an accept").await;
            peer.write_all(b"x");
            read(&mut *transport.source).await.expect("reading");
            same("input").await;
        }
        keep.send(vec![first.clone(); CLONES]).expect("the foreign thread listens");
        mail.receive().await;
        same("a foreign thread's wake").await;
        meeting.close().await;
    });
    // Nobody is there any more: without effect, and dropped on a thread that never knew the reactor.
    let wakers = foreign.join();
    assert_eq!(wakers.len(), CLONES);
    wakers.iter().take(10).for_each(Waker::wake_by_ref);
    wakers.into_iter().for_each(Waker::wake);
    Outcome::Holds
}
