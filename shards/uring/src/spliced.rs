//! Streams through the pipe: that they go there, and come out whole.

use std::any::Any;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::net::sockopt::{set_socket_linger, set_socket_send_buffer_size};
use waterwheel_conformance::kit::{Thread, pause, shard, thread, try_each, with_deadline};
use waterwheel_os::Gulp;
use waterwheel_reactor::{Backend, Handle, Incoming, Reactor, Side, Transport};

use crate::Uring;
use crate::features::{Feature, Features};
use crate::source::UringSource;
use crate::tests::HUNG;

/// More than all buffers between hold.
const MUCH: usize = 32 << 20;

/// How the reading peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Fast,
    /// Sleeps now and then, so that the buffers before it fill.
    Fitful,
    /// Resets the connection after a while, mostly while the next bytes are in the pipe.
    Resets,
}

/// The byte at a place of the stream.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

/// A connection of the reactor's and its peer.
fn tcp(reactor: &Rc<dyn Reactor>, blocking: bool, small: bool) -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = listener.accept().unwrap().0;
    ours.set_nonblocking(!blocking).unwrap();
    if small {
        set_socket_send_buffer_size(&ours, 100 << 10).unwrap();
    }
    let incoming = Incoming { handle: Handle::Os(ours.into()), bytes: Vec::new(), peer: None };
    (reactor.adopt(incoming).unwrap(), peer)
}

/// Sends an urgent byte, which is none of the stream's, in the middle: receives stop before it.
fn writes(mut peer: TcpStream) -> Thread<()> {
    thread(move || {
        let mut piece = vec![0; 1 << 20];
        for start in (0..MUCH).step_by(piece.len()) {
            piece.iter_mut().enumerate().for_each(|(at, place)| *place = byte(start + at));
            let urgent = start != MUCH / 2 || rustix::net::send(&peer, b"!", SendFlags::OOB).is_ok();
            if !urgent || peer.write_all(&piece).is_err() {
                return;
            }
        }
    })
}

/// Answers how many bytes came before the end, each the right one.
fn reads(mut peer: TcpStream, reader: Reader) -> Thread<usize> {
    thread(move || {
        let (mut room, mut all, mut nap) = (vec![0; 300 << 10], 0, 1 << 20);
        loop {
            if reader == Reader::Resets && all > 4 << 20 {
                set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
                return all;
            }
            if all > nap && reader == Reader::Fitful {
                nap += 1 << 20;
                pause(Duration::from_millis(5));
            }
            let count = peer.read(&mut room).unwrap();
            if count == 0 {
                return all;
            }
            let wrong = room[..count].iter().enumerate().find(|(at, got)| **got != byte(all + at));
            assert_eq!(wrong.map(|(at, _)| all + at), None, "a byte is wrong");
            all += count;
        }
    })
}

/// Forwards a stream; answers how many bytes came out right, and how many went through the pipe.
async fn forward(reactor: Rc<dyn Reactor>, blocking: bool, small: bool, reader: Reader) -> (usize, u64) {
    let (mut from, writer) = tcp(&reactor, blocking, false);
    let (mut to, reading) = tcp(&reactor, false, small);
    let (writer, reading) = (writes(writer), reads(reading, reader));
    let source: &mut dyn Any = from.source.as_mut();
    let core = source.downcast_mut::<UringSource>().unwrap().core.clone();
    let given = || core.pipe.borrow().as_ref().map_or(0, |pipe| pipe.given());
    let before = given();
    let moves = async {
        loop {
            let most = 1 << 20;
            match poll_fn(|cx| to.sink.poll_forward(cx, from.source.as_mut(), most)).await {
                Ok(0) => return poll_fn(|cx| to.sink.poll_shutdown(cx)).await.unwrap(),
                Ok(count) => assert!(count <= Gulp::MAX),
                Err(Side::Sink(_)) if reader == Reader::Resets => return,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    with_deadline(&reactor, HUNG, "the stream", moves).await;
    let through = given().saturating_sub(before);
    drop((from, to));
    writer.join();
    (reading.join(), through)
}

/// Runs cases on one shard one after the other, since what one left in the pipe would be in the next one's stream.
fn on_one(uring: Uring, cases: impl AsyncFn(Rc<dyn Reactor>) + Copy + Send + 'static) {
    if uring.probe().is_ok() {
        try_each(&uring, vec![shard(move |reactor| async move { cases(reactor).await })]).1.unwrap();
    }
}

#[test]
fn a_stream_goes_through_the_pipe_and_comes_out_whole() {
    on_one(Uring::new(), async |reactor: Rc<dyn Reactor>| {
        for (small, reader) in [(false, Reader::Fast), (false, Reader::Fitful), (true, Reader::Fitful)] {
            let (whole, through) = forward(reactor.clone(), false, small, reader).await;
            assert_eq!(whole, MUCH, "{reader:?}");
            assert!(small || through > MUCH as u64 / 4, "{reader:?}: {through} bytes went through the pipe");
        }
        for _ in 0..5 {
            let (some, _) = forward(reactor.clone(), false, false, Reader::Resets).await;
            assert!(some < MUCH);
        }
        let (whole, through) = forward(reactor.clone(), false, false, Reader::Fast).await;
        assert_eq!(whole, MUCH, "what the broken one left in the pipe came into the next stream");
        assert!(through > 0);
    });
}

#[test]
fn sockets_that_block_and_shards_that_may_not_splice_copy() {
    on_one(Uring::new(), async |reactor: Rc<dyn Reactor>| {
        assert_eq!(forward(reactor, true, false, Reader::Fitful).await, (MUCH, 0));
    });
    let without = Uring::without(Features::NONE.with(Feature::Splice));
    on_one(without, async |reactor: Rc<dyn Reactor>| {
        assert_eq!(forward(reactor, false, false, Reader::Fast).await, (MUCH, 0));
    });
}
