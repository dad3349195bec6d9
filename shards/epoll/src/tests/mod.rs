//! Hazards of this reactor that the conformance suite, which sees only the seam, cannot name.

mod streams;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{
    Address, Backend, Bound, ConnectOptions, Launch, ListenOptions, Reactor, Root, Sink, Source, Transport,
};

use crate::Epoll;

/// No test takes so long unless it hangs.
const HUNG: Duration = Duration::from_secs(20);

/// Runs one shard with one root, under a deadline.
fn on_shard<F>(root: impl FnOnce(Rc<dyn Reactor>) -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let mut root = Some(root);
    let start = move |reactor: Rc<dyn Reactor>| -> Option<Root> {
        let work = root.take()?(reactor.clone());
        Some(Box::pin(async move {
            let deadline = reactor.now() + HUNG;
            let mut work = pin!(work);
            poll_fn(|cx| {
                assert!(reactor.poll_until(cx, deadline).is_pending(), "hung");
                work.as_mut().poll(cx)
            })
            .await;
        }))
    };
    let launch =
        Launch { shard: 0, name: "epoll-test".into(), prepare: Box::new(|| {}), start: Box::new(start) };
    Epoll.run(vec![launch]).unwrap_or_else(|ended| panic!("{ended:?}"));
}

fn bound() -> Bound {
    let at = Address::Inet("127.0.0.1:0".parse().unwrap());
    Epoll.bind(&at, &ListenOptions::default(), 1).unwrap().remove(0)
}

/// Two ends of one TCP connection on the same reactor: connected, accepted.
async fn pair(reactor: &dyn Reactor) -> (Transport, Transport) {
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
