//! Frames in a stream of bytes: lines, netstrings, frames with their length before them.
//!
//! A stream has no messages; a codec says where each one ends. A [`Decoder`] is fed whatever arrived and keeps what it
//! knows between pieces, so the same bytes are the same frames however they are cut; an [`Encoder`] says what goes before
//! and behind a frame. Both are bytes in, bytes out, and know no connection. [`Framed`] is a connection with them.
//!
//! | codec | a frame is | by |
//! |---|---|---|
//! | [`Lines`] | what stands before LF or CR LF | Twisted's `LineReceiver`, RFC 5321 section 2.3.8 |
//! | [`Netstrings`] | `5:hello,` | D. J. Bernstein, "Netstrings", 1997 |
//! | [`Prefixed`] | its length in 8, 16 or 32 bits, big-endian, then itself | Twisted's `IntNStringReceiver`, RFC 1035 section 4.2.2 |
//! | [`Pieces`] | whatever arrived at once | for protocols that look at bytes themselves |
//!
//! Each has a limit, which counts the frame alone. A frame beyond it is an error before any of it is collected, and so
//! is the peer's fault; a frame of our own beyond it is an error before any of it is sent, and ours. A frame that lies
//! whole in what the reactor lent is lent on without a copy; one that arrives in pieces is collected, and takes no more
//! memory than the limit. Nothing is held between frames.

mod framed;
mod lines;
mod netstrings;
mod pieces;
mod prefixed;
mod receiving;
mod sending;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::Range;

pub use framed::Framed;
pub use lines::{LineEnding, Lines};
pub use netstrings::Netstrings;
pub use pieces::Pieces;
pub use prefixed::{Prefixed, Width};
pub use receiving::FramedReceiving;
pub use sending::FramedSending;

/// Finds frames in bytes that arrive in pieces of any size.
///
/// Feed it with [`advance`](Decoder::advance); when the stream ends ask [`end`](Decoder::end). After an error it is of no
/// use.
pub trait Decoder: Debug {
    /// Takes in the next bytes, at least one, up to the end of a frame.
    ///
    /// # Errors
    /// The bytes are no frame, or a frame beyond the limit. All frames before were told.
    fn advance(&mut self, bytes: &[u8]) -> Result<Part, FrameError>;

    /// The stream ended: was that between two frames?
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if not.
    fn end(&self) -> Result<(), FrameError>;

    /// The most bytes that a frame has.
    fn limit(&self) -> usize;
}

/// Says what surrounds a frame on its way.
pub trait Encoder: Debug {
    /// What goes before `frame` and behind it.
    ///
    /// # Errors
    /// The frame is beyond the limit, or holds what would end it.
    fn wrap(&self, frame: &[u8]) -> Result<Wrapping, EncodeError>;
}

/// Both ways, where the kind is chosen while the program runs.
pub trait Codec: Decoder + Encoder {}

impl<C: Decoder + Encoder> Codec for C {}

/// What a decoder made of the bytes it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All bytes belong to a frame that goes on.
    More {
        /// Which of them are of the frame itself.
        content: Range<usize>,
    },
    /// A frame ends.
    End {
        /// How many bytes belonged to it; what follows was not looked at.
        used: usize,
        /// Which of them are of the frame itself.
        content: Range<usize>,
        /// How many bytes at the end of all content of this frame, earlier parts included, only ended it.
        excess: usize,
    },
}

/// Why bytes are not a frame. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame was announced that is beyond the limit; nothing of it was collected.
    #[error("the peer announced a frame of {announced} bytes; {limit} are the limit")]
    Announced {
        /// How many bytes it was to have.
        announced: u64,
        /// How many it may have.
        limit: usize,
    },
    /// A line, whose length nobody announces, went on beyond the limit.
    #[error("the peer sent a line of more than {limit} bytes")]
    Endless {
        /// How many bytes it may have.
        limit: usize,
    },
    /// A byte that the definition does not allow there.
    #[error("the peer sent what is no frame: {0}")]
    Malformed(&'static str),
    /// The stream ended inside a frame.
    #[error("the peer ended its stream inside a frame")]
    Truncated,
}

/// Why a frame cannot be sent. Always the fault of the program here; nothing of the frame was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Longer than the limit, which the other side has too.
    #[error("a frame of {length} bytes is to be sent; {limit} are the limit")]
    TooLong {
        /// Its length.
        length: usize,
        /// How many bytes it may have.
        limit: usize,
    },
    /// A line that holds an end of line: the other side would see two.
    #[error("a line to be sent holds an end of line")]
    HoldsEnding,
}

/// Why no further frame comes.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// The peer sent what is no frame; the same error again if asked again.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Why a frame was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// The program gave what cannot be sent; the connection is as before.
    #[error(transparent)]
    Frame(#[from] EncodeError),
}

/// The longest head of a frame: twenty digits and a colon.
const HEAD_MAX: usize = 21;

/// What goes before and behind a frame.
#[derive(Clone, Copy, Debug)]
pub struct Wrapping {
    head: [u8; HEAD_MAX],
    head_length: u8,
    tail: &'static [u8],
}

impl Wrapping {
    /// A head and a tail.
    ///
    /// # Panics
    /// If the head has more than 21 bytes: no codec needs more.
    pub fn new(head: &[u8], tail: &'static [u8]) -> Wrapping {
        let mut own = [0; HEAD_MAX];
        own[..head.len()].copy_from_slice(head);
        Wrapping { head: own, head_length: head.len() as u8, tail }
    }

    /// What goes before.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_length)]
    }

    /// What goes behind.
    pub fn tail(&self) -> &'static [u8] {
        self.tail
    }
}

/// The length of a frame of our own, if it is within the limit.
fn within(frame: &[u8], limit: usize) -> Result<usize, EncodeError> {
    let length = frame.len();
    if length > limit { Err(EncodeError::TooLong { length, limit }) } else { Ok(length) }
}

impl Decoder for Box<dyn Codec> {
    fn advance(&mut self, bytes: &[u8]) -> Result<Part, FrameError> {
        (**self).advance(bytes)
    }

    fn end(&self) -> Result<(), FrameError> {
        (**self).end()
    }

    fn limit(&self) -> usize {
        (**self).limit()
    }
}

impl Encoder for Box<dyn Codec> {
    fn wrap(&self, frame: &[u8]) -> Result<Wrapping, EncodeError> {
        (**self).wrap(frame)
    }
}
