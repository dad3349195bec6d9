//! A root that is always ready to go on.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Backend, Reactor};

use super::passing::Passing;
use crate::Outcome;
use crate::kit::peer::{Family, Meeting, Peer, Venue};
use crate::kit::{on_one, pause, thread};

/// What happens is noticed within so many polls. Reactors that look at the kernel once per millisecond meet it, since a
/// poll of an idle root takes some ten nanoseconds at least.
const POLLS_MAX: u32 = 100_000;

/// WAKE-5.
pub(super) fn served(backend: &dyn Backend) -> Outcome {
    let (venue, accepting) = (Venue::new(backend, Family::Tcp), Venue::new(backend, Family::Tcp));
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        for _ in 0..10 {
            the_alarm(&reactor).await;
            input(&mut meeting).await;
        }
        connections(&reactor, accepting.open(&reactor)).await;
        meeting.close().await;
    });
    Outcome::Holds
}

/// Wakes itself in every poll, and fails if `seen` does not come true within [`POLLS_MAX`] polls after `happened`.
async fn busy_until(what: &str, happened: impl Fn() -> bool, seen: impl Fn() -> bool) {
    let mut polls = 0;
    poll_fn(|cx| {
        if seen() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        if happened() {
            polls += 1;
            assert!(polls < POLLS_MAX, "{what} was not noticed within {polls} polls of a busy root");
        }
        Poll::Pending
    })
    .await;
}

async fn the_alarm(reactor: &Rc<dyn Reactor>) {
    let waiting = Passing::new().await;
    let deadline = Passing::wait_for_the_alarm(&[&waiting], &**reactor, Duration::from_millis(2));
    busy_until("the alarm", || reactor.now() >= deadline, || waiting.wakes() > 0).await;
}

async fn input(meeting: &mut Meeting) {
    let (mut transport, peer) = meeting.peer().await;
    let waiting = Passing::new().await;
    waiting.waits(|cx| transport.source.poll_fill(cx).map_ok(|_| ()));
    let sent = Arc::new(AtomicBool::new(false));
    let sending = Arc::clone(&sent);
    let thread = thread(move || {
        pause(Duration::from_millis(2));
        peer.write_all(b"x");
        sending.store(true, SeqCst);
        peer
    });
    busy_until("input", || sent.load(SeqCst), || waiting.wakes() > 0).await;
    thread.join();
}

async fn connections(reactor: &Rc<dyn Reactor>, meeting: Meeting) {
    let (to, mut listener) = meeting.into_listener();
    for _ in 0..10 {
        let waiting = Passing::new().await;
        waiting.waits(|cx| listener.poll_accept(cx));
        let connected = Arc::new(AtomicBool::new(false));
        let connecting = Arc::clone(&connected);
        let to = to.clone();
        let thread = thread(move || {
            pause(Duration::from_millis(2));
            let peer = Peer::connect(&to, Default::default());
            connecting.store(true, SeqCst);
            peer
        });
        busy_until("a connection", || connected.load(SeqCst), || waiting.wakes() > 0).await;
        let incoming = poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepting");
        drop(reactor.adopt(incoming).expect("adopting"));
        drop(thread.join());
    }
}
