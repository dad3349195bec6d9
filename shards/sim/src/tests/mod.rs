//! Programs of two hosts in small worlds: roots of plain futures, without anything above the seam.

mod connects;
mod ends;
mod reports;
mod streams;
mod verdicts;

use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use waterwheel_conformance::kit::{accept, launch};
use waterwheel_reactor::{
    Address, Backend, Bound, ConnectOptions, Launch, ListenOptions, Reactor, Sink, Source, Start,
    StreamOptions, Transport,
};

use crate::{Host, Options, Stuck, World};

const PORT: u16 = 7_000;

/// What one shard does.
struct Part {
    host: Host,
    launch: Launch,
}

/// A shard whose only root this is.
fn part<F>(host: &Host, root: impl FnOnce(Rc<dyn Reactor>) -> F + Send + 'static) -> Part
where
    F: Future<Output = ()> + 'static,
{
    let mut root = Some(root);
    let start: Box<Start> = Box::new(move |reactor| Some(Box::pin(root.take()?(reactor))));
    Part { host: host.clone(), launch: launch(0, start) }
}

/// Drives the world until all parts have ended.
fn play(world: &World, parts: Vec<Part>) -> Result<(), Stuck> {
    let left = Arc::new(AtomicUsize::new(parts.len()));
    for Part { host, launch } in parts {
        let left = left.clone();
        let done = move |ended: Result<(), _>| {
            left.fetch_sub(1, SeqCst);
            ended.expect("roots that end well");
        };
        world.launch(&host, vec![launch], Box::new(done));
    }
    world.drive(|| left.load(SeqCst) == 0)
}

/// Nothing is drawn but latencies.
fn calm(seed: u64) -> World {
    let Options { latency_min, latency_max, .. } = Options::default();
    World::new(seed, Options { latency_min, latency_max, ..Options::calm() })
}

/// One socket at this port, of all addresses.
fn bind(host: &Host, stream: StreamOptions) -> Bound {
    let options = ListenOptions { reuse_port: false, stream, ..ListenOptions::default() };
    let at = Address::Inet(([0, 0, 0, 0], PORT).into());
    host.bind(&at, &options, 1).unwrap().remove(0)
}

/// Where a host listens.
fn at(host: &Host) -> Address {
    Address::Inet((host.ips()[0], PORT).into())
}

/// What a client and a server give in the end who each have one end of a connection.
fn meet<A, B, C, S>(
    world: &World,
    client: impl FnOnce(Rc<dyn Reactor>, Transport) -> C + Send + 'static,
    server: impl FnOnce(Rc<dyn Reactor>, Transport) -> S + Send + 'static,
) -> (A, B)
where
    A: Send + 'static,
    B: Send + 'static,
    C: Future<Output = A> + 'static,
    S: Future<Output = B> + 'static,
{
    meet_with(world, StreamOptions::default(), client, server)
}

/// The same, with options for both sides.
fn meet_with<A, B, C, S>(
    world: &World,
    stream: StreamOptions,
    client: impl FnOnce(Rc<dyn Reactor>, Transport) -> C + Send + 'static,
    server: impl FnOnce(Rc<dyn Reactor>, Transport) -> S + Send + 'static,
) -> (A, B)
where
    A: Send + 'static,
    B: Send + 'static,
    C: Future<Output = A> + 'static,
    S: Future<Output = B> + 'static,
{
    let (here, there) = (world.host("client"), world.host("server"));
    let (bound, to) = (bind(&there, stream), at(&there));
    let results = Arc::new((Mutex::new(None), Mutex::new(None)));
    let (ours, theirs) = (results.clone(), results.clone());
    let client = part(&here, move |reactor| async move {
        let options = ConnectOptions { stream, ..ConnectOptions::default() };
        let transport = reactor.connect(&to, &options).unwrap();
        let result = client(reactor, transport).await;
        *ours.0.lock().unwrap() = Some(result);
    });
    let server = part(&there, move |reactor| async move {
        let mut listener = reactor.listen(bound).unwrap();
        let incoming = accept(&mut listener).await.unwrap();
        drop(listener);
        let transport = reactor.adopt(incoming).unwrap();
        let result = server(reactor, transport).await;
        *theirs.1.lock().unwrap() = Some(result);
    });
    play(world, vec![server, client]).unwrap_or_else(|stuck| panic!("{stuck}\n{}", world.tail(30)));
    assert_eq!(world.left_over(), Vec::<String>::new());
    let taken = (results.0.lock().unwrap().take(), results.1.lock().unwrap().take());
    (taken.0.unwrap(), taken.1.unwrap())
}

/// Reads what is lent next; empty at the end.
async fn read(source: &mut dyn Source) -> io::Result<Vec<u8>> {
    let bytes = poll_fn(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec)).await?;
    source.consume(bytes.len());
    Ok(bytes)
}

/// Reads up to the end or the error.
async fn drain(source: &mut dyn Source) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    loop {
        match read(source).await {
            Ok(bytes) if bytes.is_empty() => return (all, Ok(())),
            Ok(bytes) => all.extend(bytes),
            Err(error) => return (all, Err(error)),
        }
    }
}

/// Writes some; how many.
async fn write(sink: &mut dyn Sink, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| sink.poll_write(cx, bytes)).await
}

async fn write_all(sink: &mut dyn Sink, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = write(sink, bytes).await?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

async fn flush(sink: &mut dyn Sink) -> io::Result<()> {
    poll_fn(|cx| sink.poll_flush(cx)).await
}

async fn shutdown(sink: &mut dyn Sink) -> io::Result<()> {
    poll_fn(|cx| sink.poll_shutdown(cx)).await
}

/// Both futures at once.
async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = other.as_mut().poll(cx)
        {
            second = Some(value);
        }
        if first.is_some() && second.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (first.unwrap(), second.unwrap())
}

/// Bytes that look like no other place of the stream.
fn pattern(length: usize, salt: u64) -> Vec<u8> {
    let mut random = crate::Random::new(salt);
    (0..length).map(|_| random.number() as u8).collect()
}
