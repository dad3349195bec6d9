//! Layers around a connection: what it may take and how long, without a change for whoever serves it.
//!
//! A layer wraps both halves at the seam, as a [`Source`] and a [`Sink`] around others, so a
//! [`Connection`](super::Connection) with layers is a `Connection`: it is read, written, split, framed, pumped and
//! closed as any other. Layers compose; the one put on last is asked first.
//!
//! | layer | by | ends or delays what |
//! |---|---|---|
//! | [`Timeouts`] | [`Connection::timed`](super::Connection::timed) | idle, first byte, total, stalled write |
//! | [`Bucket`] | [`Connection::throttle_receiving`](super::Connection::throttle_receiving), [`throttle_sending`](super::Connection::throttle_sending) | bytes per second, of one connection or of many of a shard |
//! | [`Clients`] | [`Clients::admit`] | connections at once per client address, on this shard |
//! | your own | [`Connection::layered`](super::Connection::layered) | |
//!
//! What a layer costs: two virtual calls and a few stores per operation; [`Clients`] costs nothing after the admission.
//! Nothing is allocated after the layer itself. Pumping still hands the reactor's own source to the reactor's own sink,
//! so that bytes move without a copy where they did so before; only a layer of your own gets what
//! [`Sink::poll_forward`] does by default, which is a copy.
//!
//! Handing a connection to another shard ([`Connection::release`](super::Connection::release)) takes its layers off: they
//! belong to the shard. So does lingering after a close, which has limits of its own.

mod bucket;
mod clients;
mod throttle;
mod timed;
mod timeouts;

use std::any::Any;
use std::io;
use std::task::{Context, Poll};

use waterwheel_reactor::{Side, Sink, Source};

pub use bucket::Bucket;
pub use clients::{ClientPrefix, Clients, TooMany};
use throttle::ThrottledSource;
use timed::TimedSource;
pub use timeouts::{TimedOut, Timeouts};

/// Moves bytes from a source with layers to a sink as [`Sink::poll_forward`] does. Reactors know their own sources only,
/// so each layer is asked in turn, and the sink gets what is inside.
pub(super) fn poll_forward(
    sink: &mut dyn Sink,
    cx: &mut Context<'_>,
    source: &mut dyn Source,
    most: usize,
) -> Poll<Result<usize, Side<io::Error>>> {
    let any: &mut dyn Any = source;
    if let Some(timed) = any.downcast_mut::<TimedSource>() {
        return timed.poll_forward_to(cx, sink, most);
    }
    if let Some(throttled) = any.downcast_mut::<ThrottledSource>() {
        return throttled.poll_forward_to(cx, sink, most);
    }
    sink.poll_forward(cx, source, most)
}

/// The source inside all layers.
pub(super) fn innermost(mut source: Box<dyn Source>) -> Box<dyn Source> {
    loop {
        source = match peeled(source) {
            Ok(inner) => inner,
            Err(bare) => return bare,
        };
    }
}

/// What is inside the outermost layer, or the source itself if it has none.
fn peeled(source: Box<dyn Source>) -> Result<Box<dyn Source>, Box<dyn Source>> {
    let any: &dyn Any = &*source;
    if !any.is::<TimedSource>() && !any.is::<ThrottledSource>() {
        return Err(source);
    }
    let any: Box<dyn Any> = source;
    match any.downcast::<TimedSource>() {
        Ok(timed) => Ok(timed.into_inner()),
        Err(any) => match any.downcast::<ThrottledSource>() {
            Ok(throttled) => Ok(throttled.into_inner()),
            Err(_) => unreachable!("it was one of them"),
        },
    }
}
