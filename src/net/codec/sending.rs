//! The sending half of a connection, frame by frame.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use super::{Encoder, SendError, Wrapping};
use crate::net::connection::Sending;

/// Sends frames, each of them whole or not at all.
#[derive(Debug)]
pub struct FramedSending<E> {
    sending: Sending,
    encoder: E,
    /// What is left of a frame whose [`send`](FramedSending::send) was dropped on the way: at most one frame. It goes
    /// before anything else.
    rest: Vec<u8>,
}

impl<E: Encoder> FramedSending<E> {
    /// Frames into what `sending` sends from here on.
    pub fn new(sending: Sending, encoder: E) -> FramedSending<E> {
        FramedSending { sending, encoder, rest: Vec::new() }
    }

    /// Takes a frame to send; waits while the peer does not read. The frame is copied nowhere but into the reactor.
    ///
    /// Dropping the future before the frame has begun to go sends nothing of it; after that the rest of it goes with
    /// the next call of this half.
    ///
    /// # Errors
    /// The connection broke, or the frame cannot be sent; then nothing of it was.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        let wrapping = self.encoder.wrap(frame)?;
        poll_fn(|cx| self.poll_rest(cx)).await?;
        let mut under_way = UnderWay { half: self, wrapping, frame, sent: 0 };
        Ok(poll_fn(|cx| under_way.poll(cx)).await?)
    }

    /// Waits until little is queued; as [`Connection::flush`](crate::net::Connection::flush).
    ///
    /// # Errors
    /// How the connection broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_rest(cx)).await?;
        self.sending.flush().await
    }

    /// Sends what was taken, then the end of the stream.
    ///
    /// # Errors
    /// How the connection broke.
    pub async fn close(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_rest(cx)).await?;
        self.sending.close().await
    }

    /// Sends the rest of a frame.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let taken = ready!(self.sending.sink()?.poll_write(cx, &self.rest))?;
            self.rest.drain(..taken);
        }
        if self.rest.capacity() > 0 {
            self.rest = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// The half itself, for bytes that are no frames.
    ///
    /// # Errors
    /// Gives itself back if the rest of a frame is still to be sent: [`flush`](FramedSending::flush) first.
    pub fn into_sending(self) -> Result<Sending, FramedSending<E>> {
        if self.rest.is_empty() { Ok(self.sending) } else { Err(self) }
    }
}

/// A frame on its way into the reactor. Dropped on the way, it leaves its rest to the half.
struct UnderWay<'a, E> {
    half: &'a mut FramedSending<E>,
    wrapping: Wrapping,
    frame: &'a [u8],
    /// How many bytes went, head and tail included.
    sent: usize,
}

impl<E> UnderWay<'_, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let [head, frame, tail] = left(&self.wrapping, self.frame, self.sent);
            if head.len() + frame.len() + tail.len() == 0 {
                return Poll::Ready(Ok(()));
            }
            let slices = [IoSlice::new(head), IoSlice::new(frame), IoSlice::new(tail)];
            self.sent += ready!(self.half.sending.sink()?.poll_write_vectored(cx, &slices))?;
        }
    }
}

/// What of a frame has not gone yet.
fn left<'a>(wrapping: &'a Wrapping, frame: &'a [u8], mut gone: usize) -> [&'a [u8]; 3] {
    [wrapping.head(), frame, wrapping.tail()].map(|part| {
        let own = gone.min(part.len());
        gone -= own;
        &part[own..]
    })
}

impl<E> Drop for UnderWay<'_, E> {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.half.rest = left(&self.wrapping, self.frame, self.sent).concat();
        }
    }
}
