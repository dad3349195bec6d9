//! More at once than the reactor has room for: completions, and buffers.
//!
//! The root itself plays the peers, so the shard is blocked while they act, and meets all that they did in one turn.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_conformance::kit::{
    Census, DescriptorLimit, accept, close_listener, on_one, turn, with_deadline,
};
use waterwheel_conformance::{Law, Outcome};
use waterwheel_reactor::{Address, Backend, Bound, ListenOptions, Reactor, Transport, UnixName};

use crate::log::Log;

pub(crate) const LAWS: &[Law] = &[OVERFLOW, EXHAUSTION];

pub(crate) const OVERFLOW: Law =
    Law::new("CROWD-1", "more completions than the queue holds: some are lost", completions_overflow);

const EXHAUSTION: Law = Law::new("CROWD-2", "more is lent than there are buffers for", buffers_run_out);

/// More than twice what the longest queue of completions holds, which the log tells.
const MANY: usize = 9_000;

/// Half as many again as there are buffers.
const LENDERS: usize = 1_500;

/// For all of them, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the crowd comes in: a name that goes with the process, and no port.
pub(crate) fn entrance(backend: &dyn Backend, what: &str) -> (Bound, SocketAddr) {
    let name = format!("waterwheel-hazards-{what}-{}", process::id()).into_bytes();
    let there = SocketAddr::from_abstract_name(&name).expect("a short name");
    let at = Address::Unix(UnixName::Abstract(name));
    let mut bound = backend.bind(&at, &ListenOptions::default(), 1).expect("a name of our own");
    (bound.remove(0), there)
}

/// Connections, the shard's ends and the peers'.
struct Crowd {
    transports: Vec<Transport>,
    peers: Vec<UnixStream>,
}

impl Crowd {
    async fn gather(reactor: &Rc<dyn Reactor>, bound: Bound, at: &SocketAddr, count: usize) -> Crowd {
        // Below the backlog, so that nobody who connects waits.
        const BATCH: usize = 500;
        let mut listener = reactor.listen(bound).expect("listening");
        let mut crowd = Crowd { transports: Vec::new(), peers: Vec::new() };
        while crowd.peers.len() < count {
            let batch = BATCH.min(count - crowd.peers.len());
            for _ in 0..batch {
                let peer = UnixStream::connect_addr(at).expect("a place in the backlog");
                peer.set_read_timeout(Some(PATIENCE)).expect("a limit");
                crowd.peers.push(peer);
            }
            for _ in 0..batch {
                let incoming = accept(&mut listener).await.expect("a peer that has connected");
                crowd.transports.push(reactor.adopt(incoming).expect("adopting it"));
            }
        }
        drop(close_listener(listener).await);
        crowd
    }

    /// Asks every source for bytes, of which none was told yet, and gives the shard a turn to ask the kernel.
    async fn await_input(&mut self) {
        poll_fn(|cx| {
            for transport in &mut self.transports {
                assert!(transport.source.poll_fill(cx).is_pending(), "nobody has asked the kernel");
            }
            Poll::Ready(())
        })
        .await;
        turn().await;
    }

    /// Every peer sends a byte.
    fn say(&mut self, round: usize) {
        for (number, peer) in self.peers.iter_mut().enumerate() {
            peer.write_all(&[(number + round) as u8]).expect("room for a byte");
        }
    }

    /// Takes a byte of each; answers who there is.
    async fn hear(&mut self, round: usize) -> Range<usize> {
        let all = 0..self.transports.len();
        for number in all.clone() {
            assert_eq!(self.take(number).await, [(number + round) as u8], "what {number} sent");
        }
        all
    }

    /// Waits until every source lends something, none of which is consumed.
    async fn all_lend(&mut self) {
        let mut waiting: Vec<usize> = (0..self.transports.len()).collect();
        poll_fn(|cx| {
            waiting.retain(|number| match self.transports[*number].source.poll_fill(cx) {
                Poll::Pending => true,
                Poll::Ready(lent) => {
                    assert!(!lent.expect("bytes").is_empty(), "{number} ended");
                    false
                }
            });
            if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Takes what each source lends next.
    async fn take(&mut self, number: usize) -> Vec<u8> {
        let source = &mut self.transports[number].source;
        let bytes =
            poll_fn(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec)).await.expect("bytes or the end");
        source.consume(bytes.len());
        bytes
    }
}

/// How long the queue of completions is, as the log says of one that overflew.
fn overflown(log: &Log) -> usize {
    let lines = log.lines(&["WARN", "completions overflow"]);
    let [first, ..] = &lines[..] else { panic!("no queue of completions overflew:\n{}", log.text()) };
    let length = first.split_whitespace().find_map(|word| word.strip_prefix("completions="));
    length.and_then(|length| length.parse().ok()).unwrap_or_else(|| panic!("how long is it? {first}"))
}

/// A byte of each is there when the shard asks for it; another comes while it is asked for, and an answer to
/// each; and then all peers close at once.
fn completions_overflow(backend: &dyn Backend) -> Outcome {
    const OTHERS: u64 = 200;
    let limit = waterwheel_os::raise_descriptor_limit().expect("the hard limit may be had");
    if limit.is_some_and(|limit| limit < 2 * MANY as u64 + OTHERS) {
        return Outcome::NotOffered("too few descriptors are allowed: ulimit -Hn");
    }
    let log = Log::begin();
    let (bound, at) = entrance(backend, "overflow");
    on_one(backend, move |reactor| async move {
        let before = Census::take();
        let work = async {
            let mut crowd = Crowd::gather(&reactor, bound, &at, MANY).await;
            crowd.say(0);
            crowd.await_input().await;
            crowd.hear(0).await;
            crowd.await_input().await;
            crowd.say(1);
            for number in crowd.hear(1).await {
                let sink = &mut crowd.transports[number].sink;
                let answer = [number as u8];
                assert_eq!(poll_fn(|cx| sink.poll_write(cx, &answer)).await.expect("writing"), 1);
            }
            crowd.await_input().await;
            for (number, peer) in crowd.peers.iter_mut().enumerate() {
                let mut answer = [0; 2];
                assert_eq!(peer.read(&mut answer).expect("an answer"), 1, "the answer to {number}");
                assert_eq!(answer[0], number as u8, "the answer to {number}");
            }
            crowd.peers.clear();
            for number in 0..MANY {
                assert_eq!(crowd.take(number).await, [], "the end of {number}");
            }
        };
        with_deadline(&reactor, PATIENCE, "bytes, answers and ends of all", work).await;
        // The listener's own descriptor was there before.
        let gone = |census: &Census| census.descriptors.len();
        with_deadline(&reactor, PATIENCE, "descriptors are closed", async {
            while gone(&Census::take()) >= gone(&before) {
                turn().await;
            }
        })
        .await;
    });
    let length = overflown(&log);
    assert!(MANY > 2 * length, "{MANY} are not more than twice {length}");
    Outcome::Holds
}

/// What a peer sends: told apart from what the others send, and each of its bytes from the next.
fn letter(number: usize, round: usize) -> Vec<u8> {
    (0..1024_usize).map(|place| (number * 31 + round * 7 + place * (number % 13 + 1)) as u8).collect()
}

/// All lend at once and nobody gives anything back; then all do, and it goes on.
fn buffers_run_out(backend: &dyn Backend) -> Outcome {
    let Some(_limit) = DescriptorLimit::raise(2 * LENDERS as u64 + 100) else {
        return Outcome::NotOffered("too few descriptors are allowed");
    };
    let (bound, at) = entrance(backend, "buffers");
    let log = Log::begin();
    on_one(backend, move |reactor| async move {
        let work = async {
            let mut crowd = Crowd::gather(&reactor, bound, &at, LENDERS).await;
            for round in 0..3 {
                crowd.await_input().await;
                for (number, peer) in crowd.peers.iter_mut().enumerate() {
                    peer.write_all(&letter(number, round)).expect("room for it");
                }
                crowd.all_lend().await;
                for _ in 0..3 {
                    turn().await;
                }
                for number in 0..LENDERS {
                    assert_eq!(crowd.take(number).await, letter(number, round), "{number} in round {round}");
                }
            }
        };
        with_deadline(&reactor, PATIENCE, "all lend at once", work).await;
    });
    // Not for each turn of it. Where completions come unasked, so many receives are stopped that buffers may last.
    let (said, may_last) = (log.lines(&["few buffers are left"]).len(), backend.name() == "no-defer");
    assert!(said == 1 || said == 0 && may_last, "said {said} times:\n{}", log.text());
    Outcome::Holds
}
