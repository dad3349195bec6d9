//! Streams through the pipe: that they go there, come out whole, and leave nothing in it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::net::sockopt::set_socket_linger;
use waterwheel_conformance::kit::{Thread, thread};
use waterwheel_reactor::{Handle, Incoming, Side};

use super::*;

/// More than all buffers between hold.
const MUCH: usize = 24 << 20;

/// The byte at a place of the stream.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

fn tcp(reactor: &EpollReactor, blocking: bool) -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = listener.accept().unwrap().0;
    ours.set_nonblocking(!blocking).unwrap();
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

/// Reads to the end, or so many bytes and resets then; answers how many came, each the right one if it reads
/// to the end.
fn reads(mut peer: TcpStream, most: usize) -> Thread<usize> {
    thread(move || {
        let (mut room, mut all) = (vec![0; 300 << 10], 0);
        while all < most {
            let count = peer.read(&mut room).unwrap();
            if count == 0 {
                return all;
            }
            // Who resets is fast, so that the next bytes are in the pipe then and not before a full sink.
            if most > MUCH {
                let wrong = room[..count].iter().enumerate().find(|(at, got)| **got != byte(all + at));
                assert_eq!(wrong.map(|(at, _)| all + at), None, "a byte is wrong");
            }
            all += count;
        }
        set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        all
    })
}

/// Forwards a stream; answers how many bytes came out right, and how many went through the pipe.
async fn forward(reactor: &EpollReactor, blocking: bool, most: usize) -> (usize, u64) {
    let (mut from, writer) = tcp(reactor, blocking);
    let (mut to, reader) = tcp(reactor, false);
    let (writer, reader) = (writes(writer), reads(reader, most));
    let given = || reactor.core.pipe.borrow().as_ref().map_or(0, |pipe| pipe.given());
    let before = given();
    loop {
        match poll_fn(|cx| to.sink.poll_forward(cx, from.source.as_mut(), usize::MAX)).await {
            Ok(0) => break poll_fn(|cx| to.sink.poll_shutdown(cx)).await.unwrap(),
            Ok(_) => {}
            Err(Side::Sink(_)) if most < MUCH => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    let through = given().saturating_sub(before);
    drop((from, to));
    writer.join();
    (reader.join(), through)
}

#[test]
fn a_stream_goes_through_the_pipe_and_comes_out_whole() {
    run(async |reactor| {
        for _ in 0..5 {
            let (whole, through) = forward(&reactor, false, usize::MAX).await;
            assert_eq!(whole, MUCH, "what a broken one left in the pipe came into this stream");
            assert!(through > MUCH as u64 / 4, "{through} bytes went through the pipe");
            assert!(forward(&reactor, false, 4 << 20).await.0 < MUCH);
        }
    });
}

#[test]
fn sockets_that_block_are_copied_from() {
    run(async |reactor| assert_eq!(forward(&reactor, true, usize::MAX).await, (MUCH, 0)));
}
