//! Streams through the pipe: that they go there, come out whole, and leave nothing in it.

use waterwheel_conformance::kit::{LongStream, Reader};
use waterwheel_os::Gulp;

use super::*;

const BYTES: usize = LongStream::BYTES;

fn stream() -> LongStream {
    LongStream::new(Gulp::MAX)
}

/// Forwards a stream; answers how many bytes came out right, and how many went through the pipe.
async fn forward(reactor: &EpollReactor, stream: LongStream) -> (usize, u64) {
    let before = reactor.core.pipe.given();
    let whole = stream.forward(reactor).await;
    (whole, reactor.core.pipe.given() - before)
}

#[test]
fn a_stream_goes_through_the_pipe_and_comes_out_whole() {
    run(async |reactor| {
        for _ in 0..5 {
            let (whole, through) = forward(&reactor, stream()).await;
            assert_eq!(whole, BYTES, "what a broken one left in the pipe came into this stream");
            assert!(through > BYTES as u64 / 4, "{through} bytes went through the pipe");
            let resets = LongStream { reader: Reader::Resets, ..stream() };
            assert!(forward(&reactor, resets).await.0 < BYTES);
        }
    });
}

#[test]
fn sockets_that_block_are_copied_from() {
    run(async |reactor| {
        assert_eq!(forward(&reactor, LongStream { blocking: true, ..stream() }).await, (BYTES, 0));
    });
}
