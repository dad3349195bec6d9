//! Hazards of this reactor that the conformance suite, which sees only the seam, cannot name. Those that need a process of
//! their own are in `tests/hazards`.

use std::future::poll_fn;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use waterwheel_conformance::kit::{shard, sleep, try_each, turn, with_deadline};
use waterwheel_reactor::{Backend, Handle, Incoming, Reactor, Transport};

use crate::Uring;

/// No test takes so long unless it hangs.
pub(crate) const HUNG: Duration = Duration::from_secs(20);

/// A connection and its peer.
pub(crate) fn pair(reactor: &Rc<dyn Reactor>) -> (Transport, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let incoming = Incoming { handle: Handle::Os(ours.into()), bytes: Vec::new(), peer: None };
    (reactor.adopt(incoming).unwrap(), peer)
}

/// Writes until the peer, who reads nothing, has all that it can have without; drops both halves; how much was taken.
async fn leave_behind(reactor: &Rc<dyn Reactor>, mut transport: Transport) -> usize {
    const QUIET: Duration = Duration::from_millis(100);
    let piece = [7; 10_000];
    let mut taken = 0;
    loop {
        let deadline = reactor.now() + QUIET;
        let more = poll_fn(|cx| {
            if reactor.poll_until(cx, deadline).is_ready() {
                return Poll::Ready(None);
            }
            transport.sink.poll_write(cx, &piece).map(Some)
        });
        match more.await {
            Some(count) => taken += count.unwrap(),
            None => return taken,
        }
    }
}

/// Whether the reactor's end is closed.
fn is_closed(peer: &UnixStream) -> bool {
    let mut polled = [PollFd::new(peer, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).unwrap();
    polled[0].revents().contains(PollFlags::HUP)
}

#[test]
fn a_peer_that_never_reads_keeps_nothing_for_ever_and_a_late_one_loses_nothing() {
    if Uring::new().probe().is_err() {
        return;
    }
    let root = shard(|reactor: Rc<dyn Reactor>| async move {
        let (late, mut late_peer) = pair(&reactor);
        let (never, never_peer) = pair(&reactor);
        let left = leave_behind(&reactor, late).await;
        late_peer.set_nonblocking(true).unwrap();
        assert!(!is_closed(&late_peer), "{left} bytes, and nobody had time to read them");
        let mut got = Vec::new();
        with_deadline(&reactor, HUNG, "all that was left", async {
            while let Err(error) = late_peer.read_to_end(&mut got) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "after {} of {left}", got.len());
                turn().await;
            }
        })
        .await;
        assert!(got.len() == left && got.iter().all(|byte| *byte == 7), "{} of {left} bytes came", got.len());
        assert!(leave_behind(&reactor, never).await > 0);
        assert!(!is_closed(&never_peer), "nobody had time to read");
        let deadline = reactor.now() + HUNG;
        while !is_closed(&never_peer) {
            assert!(reactor.now() < deadline, "the connection stays for ever");
            sleep(&reactor, Duration::from_millis(5)).await;
        }
    });
    try_each(&Uring::new(), vec![root]).1.unwrap();
}
