//! Hazards of this reactor that the conformance suite, which sees only the seam, cannot name.

mod loops;
mod spliced;
mod streams;
mod watching;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_conformance::kit::turn;
use waterwheel_os::Interrupt;
use waterwheel_reactor::{
    Address, Backend, Bound, Clock, ConnectOptions, ListenOptions, Reactor, Root, Sink, Source, Transport,
};

use crate::Epoll;
use crate::core::{Core, EpollReactor};
use crate::life::{Bell, drive};

/// No test takes so long unless it hangs.
const HUNG: Duration = Duration::from_secs(60);

/// A reactor with its insides in reach.
struct Bench {
    bell: Arc<Bell>,
    interrupt: Arc<Interrupt>,
    core: Rc<Core>,
}

impl Bench {
    fn new() -> Bench {
        let interrupt = Arc::new(Interrupt::new().unwrap());
        let bell = Arc::new(Bell::new(&interrupt));
        let core = Core::new(Clock::start(), &interrupt).unwrap();
        Bench { bell, interrupt, core }
    }

    fn reactor(&self) -> EpollReactor {
        EpollReactor { core: self.core.clone() }
    }

    /// Drives a root to its end, under a deadline.
    fn run<F: Future<Output = ()> + 'static>(&self, root: impl FnOnce(EpollReactor) -> F) {
        let (reactor, work) = (self.reactor(), root(self.reactor()));
        let deadline = reactor.now() + HUNG;
        let root: Root = Box::pin(async move {
            let mut work = pin!(work);
            poll_fn(|cx| {
                assert!(reactor.poll_until(cx, deadline).is_pending(), "hung");
                work.as_mut().poll(cx)
            })
            .await;
        });
        drive(&self.core, &self.bell, root).unwrap();
    }
}

/// Drives a root on a reactor of its own.
fn run<F: Future<Output = ()> + 'static>(root: impl FnOnce(EpollReactor) -> F) {
    Bench::new().run(root);
}

fn loopback() -> Address {
    Address::Inet("127.0.0.1:0".parse().unwrap())
}

fn bound() -> Bound {
    Epoll.bind(&loopback(), &ListenOptions::default(), 1).unwrap().remove(0)
}

/// Two ends of one TCP connection on the same reactor: connected, accepted.
async fn pair(reactor: &EpollReactor) -> (Transport, Transport) {
    let bound = bound();
    let at = bound.local.clone();
    let mut listener = reactor.listen(bound).unwrap();
    let mut near = reactor.connect(&at, &ConnectOptions::default()).unwrap();
    let incoming = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
    poll_fn(|cx| near.sink.poll_flush(cx)).await.unwrap();
    (near, reactor.adopt(incoming).unwrap())
}

async fn write_all(sink: &mut dyn Sink, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = poll_fn(|cx| sink.poll_write(cx, bytes)).await?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

/// Reads `count` bytes, or fewer at the end of the stream.
async fn read(source: &mut dyn Source, count: usize) -> io::Result<Vec<u8>> {
    let mut got = Vec::new();
    while got.len() < count {
        let part = poll_fn(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec)).await?;
        if part.is_empty() {
            break;
        }
        let part = &part[..part.len().min(count - got.len())];
        got.extend_from_slice(part);
        source.consume(part.len());
    }
    Ok(got)
}
