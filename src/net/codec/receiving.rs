//! The receiving half of a connection, frame by frame.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::task::{Context, Poll, Waker, ready};

use super::{Decoder, FrameError, Part, ReceiveError};
use crate::net::connection::Receiving;
use crate::net::quota::Holding;

/// What the memory for a frame in pieces begins with; it doubles up to the limit.
const FIRST_BYTES: usize = 512;

/// Receives frames.
///
/// After a frame the connection stands exactly behind it: what follows was not taken, so the rest of the stream can be
/// read in another way ([`into_receiving`](FramedReceiving::into_receiving), [`with_decoder`](FramedReceiving::with_decoder)).
#[derive(Debug)]
pub struct FramedReceiving<D> {
    receiving: Receiving,
    decoder: D,
    /// The frame that arrives in pieces, as far as it has come.
    held: Vec<u8>,
    /// Counts its memory.
    holding: Holding,
    /// Where the frame is that was told last.
    told: Option<Told>,
    /// The peer sent what is no frame.
    failed: Option<FrameError>,
}

/// A frame that was told, and that the caller may still look at.
#[derive(Clone, Debug)]
enum Told {
    /// In what the reactor lent: so many bytes belong to it, and these are of the frame itself.
    Lent { used: usize, content: Range<usize> },
    /// In `held`.
    Held,
}

impl<D: Decoder> FramedReceiving<D> {
    /// Frames of what `receiving` receives from here on.
    pub fn new(receiving: Receiving, decoder: D) -> FramedReceiving<D> {
        let (held, holding) = Default::default();
        FramedReceiving { receiving, decoder, held, holding, told: None, failed: None }
    }

    /// The next frame; `None`: the stream ended behind the last one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection broke, or the peer sent what is no frame.
    pub async fn receive(&mut self) -> Result<Option<&[u8]>, ReceiveError> {
        let found = poll_fn(|cx| self.poll_find(cx)).await?;
        self.found(found)
    }

    /// The same for futures written by hand.
    ///
    /// # Errors
    /// As [`receive`](FramedReceiving::receive).
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<&[u8]>, ReceiveError>> {
        let found = ready!(self.poll_find(cx))?;
        Poll::Ready(self.found(found))
    }

    /// Looks for a frame; the one before is over.
    pub(super) fn poll_find(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReceiveError>> {
        self.settle();
        if let Some(error) = self.failed {
            return Poll::Ready(Err(error.into()));
        }
        let found = self.poll_next(cx);
        if let Poll::Ready(Err(ReceiveError::Frame(error))) = &found {
            self.failed = Some(*error);
            self.held = Vec::new();
        }
        self.holding.set(self.receiving.shard(), self.held.capacity());
        found
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReceiveError>> {
        loop {
            let Poll::Ready(lent) = self.receiving.poll_fill(cx)? else {
                // The peer sends nothing now: between frames no memory is held.
                if self.held.is_empty() {
                    self.held = Vec::new();
                }
                return Poll::Pending;
            };
            if lent.is_empty() {
                return Poll::Ready(self.decoder.end().map(|()| false).map_err(ReceiveError::from));
            }
            match self.decoder.advance(lent)? {
                Part::End { used, content, excess } if self.held.is_empty() => {
                    let content = content.start..content.end.saturating_sub(excess);
                    self.told = Some(Told::Lent { used, content });
                    return Poll::Ready(Ok(true));
                }
                Part::End { used, content, excess } => {
                    add(&mut self.held, &lent[content], self.decoder.limit());
                    self.held.truncate(self.held.len().saturating_sub(excess));
                    self.receiving.consume(used);
                    self.told = Some(Told::Held);
                    return Poll::Ready(Ok(true));
                }
                Part::More { content } => {
                    let all = lent.len();
                    add(&mut self.held, &lent[content], self.decoder.limit());
                    self.receiving.consume(all);
                }
            }
        }
    }

    /// The frame that was found.
    pub(super) fn found(&mut self, found: bool) -> Result<Option<&[u8]>, ReceiveError> {
        match self.told.clone() {
            Some(Told::Lent { content, .. }) if found => {
                // Lent and not consumed: it comes back at once, perhaps with more behind it.
                match self.receiving.poll_fill(&mut Context::from_waker(Waker::noop()))? {
                    Poll::Ready(lent) => Ok(lent.get(content)),
                    Poll::Pending => {
                        Err(io::Error::other("the reactor lent bytes and took them back").into())
                    }
                }
            }
            Some(Told::Held) if found => Ok(Some(&self.held)),
            _ => Ok(None),
        }
    }

    /// The frame that was told last is over.
    fn settle(&mut self) {
        match self.told.take() {
            Some(Told::Lent { used, .. }) => self.receiving.consume(used),
            Some(Told::Held) => self.held.clear(),
            None => {}
        }
    }

    /// Whether a frame has begun to arrive and is not whole; its bytes cannot be read in another way any more.
    pub fn is_inside_frame(&self) -> bool {
        self.decoder.end().is_err()
    }

    /// The rest of the stream, to be read in another way. The frame told last is over.
    ///
    /// # Errors
    /// Gives itself back if a frame [has begun](FramedReceiving::is_inside_frame).
    pub fn into_receiving(self) -> Result<Receiving, Box<FramedReceiving<D>>> {
        if self.is_inside_frame() { Err(Box::new(self)) } else { Ok(self.into_bare()) }
    }

    pub(super) fn into_bare(mut self) -> Receiving {
        self.settle();
        self.receiving
    }

    /// The rest of the stream in frames of another kind.
    ///
    /// # Errors
    /// As [`into_receiving`](FramedReceiving::into_receiving).
    pub fn with_decoder<E: Decoder>(self, decoder: E) -> Result<FramedReceiving<E>, Box<FramedReceiving<D>>> {
        Ok(FramedReceiving::new(self.into_receiving()?, decoder))
    }

    /// Sets another decoder of the same type; between frames only.
    pub(in crate::net) fn change_decoder(&mut self, decoder: D) {
        self.settle();
        self.decoder = decoder;
    }

    pub(in crate::net) fn receiving(&mut self) -> &mut Receiving {
        &mut self.receiving
    }
}

/// Adds a piece to a frame. Grows by doubling, but not beyond the limit and an end of line, which `Vec` would.
fn add(held: &mut Vec<u8>, piece: &[u8], limit: usize) {
    let needed = held.len() + piece.len();
    if needed > held.capacity() {
        let roomy = held.capacity().saturating_mul(2).max(FIRST_BYTES).min(limit.saturating_add(2));
        held.reserve_exact(roomy.max(needed) - held.len());
    }
    held.extend_from_slice(piece);
}
