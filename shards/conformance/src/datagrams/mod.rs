//! The laws of datagrams, a capability: what a reactor without it does not break.

mod groups;
mod many;
mod one;

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{
    Address, Backend, Datagram, DatagramOptions, DatagramSocket, Datagrams, Outgoing, Reactor, UnixName,
};

use crate::kit::peer::LOOPBACK;
use crate::kit::stream::once;
use crate::kit::{on_one, with_deadline};
use crate::{Law, Outcome};

pub(crate) const LAWS: &[Law] = &[
    Law::new("DATAGRAM-1", "a datagram changes, or an error about one ends the socket", one::law),
    Law::new("DATAGRAM-2", "many in one call are lost, mixed up or cut in the wrong place", many::law),
    Law::new("DATAGRAM-3", "a socket of a group is not woken, or loses what waits in it", groups::law),
];

/// Longer than any datagram takes, also on a busy machine.
const LATE: Duration = Duration::from_secs(10);

/// What is known of each of some datagrams, and what came of it.
type Got = Vec<(Datagram, Vec<u8>)>;

/// Whether the reactor has datagrams; if so, the law is tried.
fn offered(backend: &dyn Backend, law: impl FnOnce(&dyn Backend)) -> Outcome {
    if !on_one(backend, |reactor| async move { reactor.datagrams().is_some() }) {
        return Outcome::NotOffered("datagrams");
    }
    law(backend);
    Outcome::Holds
}

fn datagrams(reactor: &Rc<dyn Reactor>) -> &dyn Datagrams {
    reactor.datagrams().expect("it was asked for before")
}

/// A socket at an address of its own.
fn bind(reactor: &Rc<dyn Reactor>, at: &Address) -> Box<dyn DatagramSocket> {
    datagrams(reactor).bind(at, &DatagramOptions::default()).expect("a datagram socket")
}

fn connect(reactor: &Rc<dyn Reactor>, to: &Address) -> Box<dyn DatagramSocket> {
    datagrams(reactor).connect(to, &DatagramOptions::default()).expect("a connected datagram socket")
}

fn six() -> Address {
    Address::Inet("[::1]:0".parse().expect("an address"))
}

fn name(name: &str) -> Address {
    Address::Unix(UnixName::Abstract(format!("waterwheel-law-{}-{name}", std::process::id()).into_bytes()))
}

/// Sends all of them, in as many calls as it takes.
async fn send(
    reactor: &Rc<dyn Reactor>,
    socket: &mut dyn DatagramSocket,
    mut all: &[Outgoing<'_>],
) -> io::Result<()> {
    while !all.is_empty() {
        let sent =
            with_deadline(reactor, LATE, "room to send", poll_fn(|cx| socket.poll_send(cx, all))).await?;
        assert!((1..=all.len()).contains(&sent), "{sent} of {} were sent", all.len());
        all = &all[sent..];
    }
    Ok(())
}

async fn send_one(
    reactor: &Rc<dyn Reactor>,
    socket: &mut dyn DatagramSocket,
    bytes: &[u8],
    to: &Address,
) -> io::Result<()> {
    send(reactor, socket, &[Outgoing::new(bytes, to)]).await
}

/// Receives once into `count` buffers of `room` bytes: what is known of each, and what came of it.
async fn receive(
    reactor: &Rc<dyn Reactor>,
    socket: &mut dyn DatagramSocket,
    count: usize,
    room: usize,
) -> io::Result<Got> {
    let received = poll_fn(|cx| poll_receive(cx, socket, count, room));
    with_deadline(reactor, LATE, "a datagram", received).await
}

/// The next one.
async fn receive_one(
    reactor: &Rc<dyn Reactor>,
    socket: &mut dyn DatagramSocket,
    room: usize,
) -> io::Result<(Datagram, Vec<u8>)> {
    let mut all = receive(reactor, socket, 1, room).await?;
    assert_eq!(all.len(), 1, "there was room for one");
    Ok(all.remove(0))
}

/// What is there now.
async fn receive_now(socket: &mut dyn DatagramSocket) -> Poll<io::Result<Got>> {
    once(|cx| poll_receive(cx, socket, 1, 2_000)).await
}

fn poll_receive(
    cx: &mut std::task::Context<'_>,
    socket: &mut dyn DatagramSocket,
    count: usize,
    room: usize,
) -> Poll<io::Result<Got>> {
    let mut buffers = vec![vec![0; room]; count];
    let mut found = vec![Datagram::default(); count];
    let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
    socket.poll_receive(cx, &mut slices, &mut found).map_ok(|got| {
        assert!((1..=count).contains(&got), "{got} were received into {count} buffers");
        let both = found.into_iter().zip(buffers).take(got);
        both.map(|(datagram, mut bytes)| {
            bytes.truncate(datagram.size);
            (datagram, bytes)
        })
        .collect()
    })
}

/// Bytes that tell where in which datagram they stood.
fn pattern(seed: usize, count: usize) -> Vec<u8> {
    (0..count).map(|at| ((at * 31 + seed * 7 + (at >> 8)) % 251) as u8).collect()
}
