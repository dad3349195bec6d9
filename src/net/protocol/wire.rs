//! What a protocol writes to.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::{Address, Sink};

use crate::net::codec::{Codec, Decoder, EncodeError, Encoder};
use crate::net::connection::Connection;
use crate::net::quota::Holding;
use crate::shard::Shard;

/// What an empty queue keeps of its memory; more goes back, so that an idle connection holds little.
const KEPT_BYTES: usize = 1024;

/// The near end of a protocol's connection. Never blocks; clones are the same wire, for other tasks of the shard, and
/// may outlive the connection.
///
/// * Sending: [`send`](Wire::send) frames, [`write`](Wire::write) bytes. Both copy into the queue.
/// * Receiving: [`pause_receiving`](Wire::pause_receiving), [`resume_receiving`](Wire::resume_receiving),
///   [`set_codec`](Wire::set_codec).
/// * Ending: [`close_write`](Wire::close_write), [`lose_connection`](Wire::lose_connection), [`abort`](Wire::abort).
///
/// Nothing is called back inside these: what they ask for is done when the protocol's task runs.
#[derive(Clone)]
pub struct Wire {
    shared: Rc<Shared>,
}

/// What a wire's queue holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// With more than this it is full: nothing more is received until it has room again.
    pub high: usize,
    /// With no more than this it has room again.
    pub low: usize,
    /// The most that it takes.
    pub most: usize,
}

impl Default for QueueLimits {
    /// 64 KiB, 16 KiB, 1 MiB.
    fn default() -> QueueLimits {
        QueueLimits { high: 64 << 10, low: 16 << 10, most: 1 << 20 }
    }
}

/// Whether one should go on writing. Who answers what is received need not look: nothing is received while the queue is
/// full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// There is room.
    Ready,
    /// Taken, but the queue is full: stop until [`resumed`](super::Protocol::resumed).
    Full,
}

/// Why nothing was written. The program's fault, unless the connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The connection is closed, or is to be.
    #[error("the connection is closed")]
    Closed,
    /// The queue holds no more: somebody writes on although it is full.
    #[error("{length} bytes do not fit into the queue, which has room for {room}")]
    NoRoom {
        /// How many bytes there were to write.
        length: usize,
        /// How many there was room for.
        room: usize,
    },
    /// The frame cannot be sent.
    #[error(transparent)]
    Frame(#[from] EncodeError),
}

/// How far the end has come that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// Not at all.
    Open,
    /// What was written, then the end of our stream; receiving goes on.
    ClosingWrite,
    /// What was written, then the end.
    Losing,
    /// The end, now.
    Aborting,
    /// It is over.
    Over,
}

pub(super) struct Shared {
    shard: Shard,
    peer: Option<Address>,
    local: Option<Address>,
    limits: QueueLimits,
    pub(super) queue: RefCell<VecDeque<u8>>,
    /// Counts the queue's memory.
    holding: RefCell<Holding>,
    /// The queue was more than full, and the protocol has not been told that it has room again.
    full: Cell<bool>,
    paused: Cell<bool>,
    ending: Cell<Ending>,
    encoder: RefCell<Box<dyn Codec>>,
    /// What is to decode from the next frame on.
    decoder: RefCell<Option<Box<dyn Codec>>>,
    /// Of the task; `None` while it runs, which looks at everything before it waits.
    waker: RefCell<Option<Waker>>,
}

impl Wire {
    pub(super) fn new(connection: &Connection, limits: QueueLimits, encoder: Box<dyn Codec>) -> Wire {
        Wire {
            shared: Rc::new(Shared {
                shard: connection.shard().clone(),
                peer: connection.peer().ok(),
                local: connection.local().ok(),
                limits,
                queue: RefCell::default(),
                holding: RefCell::default(),
                full: Cell::new(false),
                paused: Cell::new(false),
                ending: Cell::new(Ending::Open),
                encoder: RefCell::new(encoder),
                decoder: RefCell::default(),
                waker: RefCell::default(),
            }),
        }
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// The shard it belongs to.
    pub fn shard(&self) -> &Shard {
        &self.shared.shard
    }

    /// The peer's address, if it was known at the beginning.
    pub fn peer(&self) -> Option<&Address> {
        self.shared.peer.as_ref()
    }

    /// Our address.
    pub fn local(&self) -> Option<&Address> {
        self.shared.local.as_ref()
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// Nothing was queued: the frame cannot be sent, the queue has no room, or the connection is closed.
    pub fn send(&self, frame: &[u8]) -> Result<Flow, WriteError> {
        let wrapping = self.shared.encoder.borrow().wrap(frame)?;
        self.push([wrapping.head(), frame, wrapping.tail()])
    }

    /// Queues bytes as they are.
    ///
    /// # Errors
    /// Nothing was queued: the queue has no room, or the connection is closed.
    pub fn write(&self, bytes: &[u8]) -> Result<Flow, WriteError> {
        self.push([bytes, &[], &[]])
    }

    fn push(&self, parts: [&[u8]; 3]) -> Result<Flow, WriteError> {
        let Shared { queue, limits, full, ending, .. } = &*self.shared;
        if ending.get() != Ending::Open {
            return Err(WriteError::Closed);
        }
        let mut queue = queue.borrow_mut();
        let length = parts.iter().map(|part| part.len()).sum();
        let room = limits.most.saturating_sub(queue.len());
        if length > room {
            return Err(WriteError::NoRoom { length, room });
        }
        parts.into_iter().for_each(|part| queue.extend(part));
        let mut holding = self.shared.holding.borrow_mut();
        holding.set(&self.shared.shard, queue.capacity());
        // Where the shard holds as much as it may, little is much.
        let high = if holding.is_held_back() { limits.high.min(limits.low) } else { limits.high };
        full.set(full.get() || queue.len() > high);
        drop((queue, holding));
        self.shared.wake();
        Ok(if full.get() { Flow::Full } else { Flow::Ready })
    }

    /// How many bytes wait in the queue.
    pub fn queued(&self) -> usize {
        self.shared.queue.borrow().len()
    }

    /// Receives nothing more until it is [resumed](Wire::resume_receiving), not even the end of the stream; what comes
    /// stays with the kernel and slows the peer down. That the connection broke is noticed within 2 s.
    pub fn pause_receiving(&self) {
        self.shared.paused.set(true);
    }

    /// Goes on receiving.
    pub fn resume_receiving(&self) {
        if self.shared.paused.replace(false) {
            self.shared.wake();
        }
    }

    /// From the next frame on, and for what is sent from now on, frames are of another kind. Whatever came behind the
    /// last frame is read as the new kind, also if it came with it.
    pub fn set_codec<C: Decoder + Encoder + Clone + 'static>(&self, codec: C) {
        *self.shared.encoder.borrow_mut() = Box::new(codec.clone());
        *self.shared.decoder.borrow_mut() = Some(Box::new(codec));
    }

    /// Ends our stream behind what was written; receiving goes on. Nothing can be written from now on.
    pub fn close_write(&self) {
        self.shared.end(Ending::ClosingWrite);
    }

    /// Closes behind what was written. Nothing can be written and nothing is received from now on. A peer that takes
    /// nothing for 30 s is reset.
    pub fn lose_connection(&self) {
        self.shared.end(Ending::Losing);
    }

    /// Resets the connection, and drops what was written and not sent.
    pub fn abort(&self) {
        self.shared.end(Ending::Aborting);
    }

    /// Whether nothing can be written any more.
    pub fn is_closed(&self) -> bool {
        self.shared.ending.get() != Ending::Open
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("peer", &self.shared.peer)
            .field("queued", &self.queued())
            .field("ending", &self.shared.ending.get())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// The task waits.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
    }

    /// The task runs.
    pub(super) fn run(&self) {
        drop(self.waker.borrow_mut().take());
    }

    /// Only ever goes on.
    pub(super) fn end(&self, ending: Ending) {
        if ending > self.ending.get() {
            self.ending.set(ending);
            self.wake();
        }
    }

    pub(super) fn ending(&self) -> Ending {
        self.ending.get()
    }

    /// Whether nothing is to be received now.
    pub(super) fn holds_back(&self) -> bool {
        self.paused.get() || self.full.get()
    }

    /// Whether the queue was full and has room again; once.
    pub(super) fn has_room_again(&self) -> bool {
        self.full.get() && self.queue.borrow().len() <= self.limits.low && self.full.replace(false)
    }

    pub(super) fn next_decoder(&self) -> Option<Box<dyn Codec>> {
        self.decoder.borrow_mut().take()
    }

    /// Sends of the queue what the sink takes. Ready when nothing is left; answers how much went.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        sink: &mut dyn Sink,
    ) -> (usize, Poll<io::Result<()>>) {
        let (mut queue, mut sent) = (self.queue.borrow_mut(), 0);
        while !queue.is_empty() {
            let (front, back) = queue.as_slices();
            match sink.poll_write_vectored(cx, &[IoSlice::new(front), IoSlice::new(back)]) {
                Poll::Ready(Ok(taken)) => {
                    queue.drain(..taken);
                    sent += taken;
                }
                Poll::Ready(Err(error)) => return (sent, Poll::Ready(Err(error))),
                Poll::Pending => return (sent, Poll::Pending),
            }
        }
        if queue.capacity() > KEPT_BYTES {
            *queue = VecDeque::new();
            self.holding.borrow_mut().set(&self.shard, 0);
        }
        (sent, Poll::Ready(Ok(())))
    }

    /// It is over. Answers whether something was left to send.
    pub(super) fn over(&self) -> bool {
        self.ending.set(Ending::Over);
        self.holding.take();
        !std::mem::take(&mut *self.queue.borrow_mut()).is_empty()
    }
}
