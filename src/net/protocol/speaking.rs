//! The task of a protocol: one connection, from its beginning to its end.

use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::wire::Ending;
use super::{Protocol, Reason, Wire};
use crate::net::codec::{Codec, FramedReceiving, ReceiveError};
use crate::net::connection::{Connection, Sending};
use crate::net::layer::TimedOut;
use crate::shard::{PhaseChange, Sleep, yield_waker};

/// How often one looks whether a connection broke at which nobody waits for bytes.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Looks without progress after which a peer is given up that does not take what is left to send: 30 s.
const LOOKS_MOST: u32 = 15;
/// What is received before others get their turn.
const FRAMES_PER_TURN: usize = 64;
const BYTES_PER_TURN: usize = 256 * 1024;

/// The future of [`Connection::speak`], ready when the connection is over and the protocol knows.
#[must_use = "nobody speaks unless it is awaited"]
pub struct Speaking<P: Protocol> {
    /// `None` once it is over.
    protocol: Option<P>,
    wire: Wire,
    receiving: FramedReceiving<Box<dyn Codec>>,
    sending: Sending,
    stopping: PhaseChange,
    /// A method runs; also seen after it panicked.
    inside: bool,
    connected: bool,
    told_to_stop: bool,
    /// The peer's stream is over, or nothing more can be made of it.
    deaf: Option<Reason>,
    /// The end of our stream was sent.
    ended_write: bool,
    /// Set while nobody waits for bytes of the peer, with how many looks saw that what is left to send is not taken.
    look: Option<(Sleep, u32)>,
}

// No field is ever pinned.
impl<P: Protocol> Unpin for Speaking<P> {}

/// What is to be done next.
enum Next {
    Go,
    Wait,
    /// Others get their turn.
    Yield,
    Over(Reason),
}

impl<P: Protocol> Speaking<P> {
    pub(super) fn new(connection: Connection, protocol: P) -> Speaking<P> {
        let wire = Wire::new(&connection, protocol.queue(), protocol.codec());
        let stopping = connection.shard().stopping();
        let (receiving, sending) = connection.split();
        Speaking {
            receiving: FramedReceiving::new(receiving, protocol.codec()),
            protocol: Some(protocol),
            wire,
            sending,
            stopping,
            inside: false,
            connected: false,
            told_to_stop: false,
            deaf: None,
            ended_write: false,
            look: None,
        }
    }

    /// Its wire, to be written to from elsewhere.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    fn call(&mut self, method: impl FnOnce(&mut P, &Wire) -> anyhow::Result<()>) -> Next {
        let Some(protocol) = &mut self.protocol else { return Next::Wait };
        self.inside = true;
        let result = method(protocol, &self.wire);
        self.inside = false;
        result.map_or_else(|error| Next::Over(Reason::Failed(error)), |()| Next::Go)
    }

    fn step(&mut self, cx: &mut Context<'_>, budget: &mut Budget) -> Next {
        if !self.connected {
            self.connected = true;
            return self.call(P::connected);
        }
        let shared = self.wire.shared().clone();
        let ending = shared.ending();
        if ending == Ending::Aborting {
            return Next::Over(Reason::Aborted);
        }
        if !self.told_to_stop && ending < Ending::Losing && Pin::new(&mut self.stopping).poll(cx).is_ready() {
            self.told_to_stop = true;
            return self.call(P::stopping);
        }
        let (sent, all) = match self.sending.sink() {
            Ok(sink) => shared.poll_send(cx, sink),
            Err(error) => (0, Poll::Ready(Err(error))),
        };
        if let Poll::Ready(Err(error)) = all {
            return Next::Over(Reason::Broken(error));
        }
        if let Some((_, looks)) = self.look.as_mut().filter(|_| sent > 0) {
            *looks = 0;
        }
        // Who writes whenever there is room, and whose peer takes everything, is not to have the turn for itself.
        budget.bytes = budget.bytes.saturating_sub(sent);
        if budget.is_spent() {
            return Next::Yield;
        }
        if ending < Ending::Losing && shared.has_room_again() {
            return self.call(P::resumed);
        }
        if all.is_ready() && ending > Ending::Open && !self.ended_write {
            match self.sending.poll_end(cx) {
                Poll::Ready(Ok(())) => self.ended_write = true,
                Poll::Ready(Err(error)) => return Next::Over(Reason::Broken(error)),
                Poll::Pending => {}
            }
        }
        let wants_more = ending < Ending::Losing && self.deaf.is_none();
        if self.ended_write && !wants_more {
            return Next::Over(self.deaf.take().unwrap_or(Reason::Closed));
        }
        if wants_more && !shared.holds_back() {
            self.look = None;
            return self.receive(cx, budget);
        }
        self.watch(cx)
    }

    /// Takes in one frame.
    fn receive(&mut self, cx: &mut Context<'_>, budget: &mut Budget) -> Next {
        if !self.receiving.is_inside_frame()
            && let Some(decoder) = self.wire.shared().next_decoder()
        {
            self.receiving.change_decoder(decoder);
        }
        let Some(protocol) = &mut self.protocol else { return Next::Wait };
        match self.receiving.poll_receive(cx) {
            Poll::Pending => Next::Wait,
            Poll::Ready(Ok(Some(frame))) => {
                budget.spend(frame.len());
                self.inside = true;
                let result = protocol.received(&self.wire, frame);
                self.inside = false;
                result.map_or_else(|error| Next::Over(Reason::Failed(error)), |()| Next::Go)
            }
            Poll::Ready(Ok(None)) => {
                self.deaf = Some(Reason::PeerEnded);
                self.call(P::ended)
            }
            Poll::Ready(Err(ReceiveError::Frame(error))) => {
                self.deaf = Some(Reason::Malformed(error));
                let next = self.call(|protocol, wire| protocol.malformed(wire, error));
                self.wire.lose_connection();
                next
            }
            Poll::Ready(Err(ReceiveError::Broken(error))) => Next::Over(Reason::Broken(error)),
        }
    }

    /// Nobody waits for bytes of the peer: looks from time to time whether it is still there.
    fn watch(&mut self, cx: &mut Context<'_>) -> Next {
        let next = self.wire.shard().turn_time() + LOOK_EVERY;
        let shard = self.wire.shard();
        let (sleep, looks) = self.look.get_or_insert_with(|| (shard.sleep_until(next), 0));
        while Pin::new(&mut *sleep).poll(cx).is_ready() {
            sleep.reset(next);
            match self.sending.poll_flushed(cx) {
                // Our own end, which a reactor may remind us of.
                Poll::Ready(Err(error)) if !(self.ended_write && error.kind() == ErrorKind::BrokenPipe) => {
                    return Next::Over(Reason::Broken(error));
                }
                _ => {}
            }
            if self.ended_write || self.wire.shared().ending() < Ending::ClosingWrite {
                continue;
            }
            *looks += 1;
            if *looks == LOOKS_MOST {
                let error =
                    io::Error::new(ErrorKind::TimedOut, "the peer does not take what is left to send");
                return Next::Over(Reason::Broken(error));
            }
        }
        Next::Wait
    }

    /// Ends the connection as the reason asks for, and tells the protocol.
    fn finish(&mut self, reason: Reason) {
        let inside = std::mem::replace(&mut self.inside, false);
        let in_order = match &reason {
            Reason::Broken(error) => TimedOut::of(error).is_some(),
            Reason::Aborted | Reason::Failed(_) => false,
            _ => !inside,
        };
        // A stream that was cut is not to look whole.
        if self.wire.shared().over() || !in_order {
            self.receiving.receiving().abort();
            self.sending.abort();
        }
        if let Some(protocol) = self.protocol.take()
            && self.connected
            && !inside
        {
            protocol.closed(reason);
        }
    }
}

impl<P: Protocol> Future for Speaking<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.protocol.is_none() {
            return Poll::Ready(());
        }
        this.wire.shared().run();
        let mut budget = Budget { frames: FRAMES_PER_TURN, bytes: BYTES_PER_TURN };
        loop {
            match this.step(cx, &mut budget) {
                Next::Go => {}
                Next::Wait => {
                    this.wire.shared().wait(cx);
                    return Poll::Pending;
                }
                Next::Yield => {
                    yield_waker(cx.waker());
                    return Poll::Pending;
                }
                Next::Over(reason) => {
                    this.finish(reason);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl<P: Protocol> Drop for Speaking<P> {
    fn drop(&mut self) {
        if self.protocol.is_some() {
            self.finish(Reason::Cancelled);
        }
    }
}

impl<P: Protocol> fmt::Debug for Speaking<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Speaking").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// What may still be received in this turn.
struct Budget {
    frames: usize,
    bytes: usize,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.frames == 0 || self.bytes == 0
    }

    fn spend(&mut self, bytes: usize) {
        self.frames -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
