//! Streams through the pipe: that they go there, and come out whole.

use std::any::Any;
use std::rc::Rc;

use waterwheel_conformance::kit::{LongStream, Reader, shard, try_each, with_deadline};
use waterwheel_os::Gulp;
use waterwheel_reactor::{Backend, Reactor};

use crate::Uring;
use crate::core::Core;
use crate::features::{Feature, Features};
use crate::source::UringSource;
use crate::tests::{HUNG, pair};

const BYTES: usize = LongStream::BYTES;

fn stream() -> LongStream {
    LongStream::new(Gulp::MAX)
}

/// What the reactor owns.
fn core_of(reactor: &Rc<dyn Reactor>) -> Rc<Core> {
    let (mut transport, _peer) = pair(reactor);
    let source: &mut dyn Any = transport.source.as_mut();
    source.downcast_mut::<UringSource>().unwrap().core.clone()
}

/// Forwards a stream; answers how many bytes came out right, and how many went through the pipe.
async fn forward(reactor: &Rc<dyn Reactor>, stream: LongStream) -> (usize, u64) {
    let core = core_of(reactor);
    let before = core.pipe.given();
    let whole = with_deadline(reactor, HUNG, "the end of the stream", stream.forward(reactor.as_ref())).await;
    (whole, core.pipe.given() - before)
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
            let (whole, through) = forward(&reactor, LongStream { small, reader, ..stream() }).await;
            assert_eq!(whole, BYTES, "{reader:?}");
            assert!(small || through > BYTES as u64 / 4, "{reader:?}: {through} bytes went through the pipe");
        }
        for _ in 0..5 {
            let (some, _) = forward(&reactor, LongStream { reader: Reader::Resets, ..stream() }).await;
            assert!(some < BYTES);
        }
        let (whole, through) = forward(&reactor, stream()).await;
        assert_eq!(whole, BYTES, "what the broken one left in the pipe came into the next stream");
        assert!(through > 0);
    });
}

#[test]
fn sockets_that_block_and_shards_that_may_not_splice_copy() {
    on_one(Uring::new(), async |reactor: Rc<dyn Reactor>| {
        let blocking = LongStream { blocking: true, reader: Reader::Fitful, ..stream() };
        assert_eq!(forward(&reactor, blocking).await, (BYTES, 0));
    });
    let without = Uring::without(Features::NONE.with(Feature::Splice));
    on_one(without, async |reactor: Rc<dyn Reactor>| {
        assert_eq!(forward(&reactor, stream()).await, (BYTES, 0));
    });
}
