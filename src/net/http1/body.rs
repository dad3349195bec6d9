//! Bodies: where they end (RFC 9112, sections 6 and 7).

use super::Framing;

/// Chunk extensions and trailers of one body are together at most so long.
pub const CHUNK_EXTRAS_MAX: usize = 16 * 1024;

/// Why bytes are not a body. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The size of a chunk is not a hexadecimal number of at most 16 digits.
    #[error("malformed chunk size")]
    ChunkSize,
    /// A byte that a chunk extension may not have.
    #[error("malformed chunk extension")]
    ChunkExtension,
    /// A chunk is not followed by CR LF.
    #[error("a chunk does not end where it should")]
    ChunkEnd,
    /// A byte that a trailer may not have.
    #[error("malformed trailer")]
    Trailer,
    /// More than [`CHUNK_EXTRAS_MAX`] bytes of extensions and trailers.
    #[error("more than {CHUNK_EXTRAS_MAX} bytes of chunk extensions and trailers")]
    TooManyExtras,
    /// The connection ended before the body did.
    #[error("the connection ended inside a body")]
    Truncated,
}

/// Finds the end of a body that arrives in pieces of any size.
///
/// Feed it with [`advance`](Body::advance) until [`is_done`](Body::is_done); what comes after belongs to the next
/// message. When the connection ends, ask [`end`](Body::end).
#[derive(Clone, Debug)]
pub struct Body {
    state: State,
    /// Bytes of extensions and trailers so far.
    extras: usize,
}

/// A piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'b> {
    /// How many of the bytes given were used, at least one unless none was given or the body is done.
    pub used: usize,
    /// Which of them are content.
    pub content: &'b [u8],
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of content.
    Length(u64),
    /// Content until the end of the connection.
    UntilClose,
    /// A digit of a chunk's size, or its end.
    Size {
        value: u64,
        digits: u8,
    },
    /// A blank between a chunk's size and the semicolon before an extension; without one there may be no blank.
    SizeBlank {
        size: u64,
    },
    /// A byte of a chunk's extension, or the CR that ends it.
    Extension {
        size: u64,
    },
    /// The LF after a chunk's size.
    SizeEnd {
        size: u64,
    },
    /// Content of a chunk, at least one byte.
    Chunk {
        left: u64,
    },
    /// CR and LF after a chunk's content.
    ChunkCr,
    ChunkLf,
    /// The start of a trailer, or the CR of the empty line.
    TrailerStart,
    /// A byte of a trailer's name, or the colon behind it.
    TrailerName,
    /// A byte of a trailer's value, or its CR, then its LF.
    Trailer,
    TrailerLf,
    /// The LF of the empty line.
    LastLf,
    Done,
}

impl Body {
    /// A body of which nothing was seen yet.
    pub fn new(framing: Framing) -> Body {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Body { state, extras: 0 }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The connection ended: was that the end of the body?
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if not.
    pub fn end(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Uses up to the end of the next stretch of content, or of the body.
    ///
    /// # Errors
    /// The bytes are not a body; the connection cannot be used again.
    pub fn advance<'b>(&mut self, bytes: &'b [u8]) -> Result<Part<'b>, BodyError> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            match self.state {
                State::Done => break,
                State::UntilClose => return Ok(Part { used: bytes.len(), content: &bytes[used..] }),
                State::Length(left) => {
                    let content = front(&bytes[used..], left);
                    let left = left - content.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Part { used: used + content.len(), content });
                }
                State::Chunk { left } => {
                    let content = front(&bytes[used..], left);
                    let left = left - content.len() as u64;
                    self.state = if left == 0 { State::ChunkCr } else { State::Chunk { left } };
                    return Ok(Part { used: used + content.len(), content });
                }
                between => self.state = self.between_chunks(between, byte)?,
            }
            used += 1;
        }
        Ok(Part { used, content: &[] })
    }

    /// One byte of what surrounds chunks.
    fn between_chunks(&mut self, state: State, byte: u8) -> Result<State, BodyError> {
        Ok(match (state, byte) {
            (State::Size { value, digits: digits @ 0..16 }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).ok_or(BodyError::ChunkSize)?;
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { value, digits: 1.. }, b'\r') => State::SizeEnd { size: value },
            (State::Size { value: size, digits: 1.. } | State::SizeBlank { size }, b' ' | b'\t') => {
                self.extra()?;
                State::SizeBlank { size }
            }
            (State::Size { value: size, digits: 1.. } | State::SizeBlank { size }, b';') => {
                self.extra()?;
                State::Extension { size }
            }
            (State::Size { .. } | State::SizeBlank { .. }, _) => return Err(BodyError::ChunkSize),
            (State::Extension { size }, b'\r') => State::SizeEnd { size },
            (State::Extension { .. }, byte) if is_control(byte) => return Err(BodyError::ChunkExtension),
            (State::Extension { .. } | State::Trailer, byte) if !is_control(byte) => {
                self.extra()?;
                state
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeEnd { size }, b'\n') => State::Chunk { left: size },
            (State::SizeEnd { .. }, _) => return Err(BodyError::ChunkSize),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::ChunkCr | State::ChunkLf, _) => return Err(BodyError::ChunkEnd),
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::Done,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::TrailerStart | State::TrailerName, byte) if is_of_a_name(byte) => {
                self.extra()?;
                State::TrailerName
            }
            (State::TrailerName, b':') => {
                self.extra()?;
                State::Trailer
            }
            _ => return Err(BodyError::Trailer),
        })
    }

    fn extra(&mut self) -> Result<(), BodyError> {
        self.extras += 1;
        if self.extras > CHUNK_EXTRAS_MAX { Err(BodyError::TooManyExtras) } else { Ok(()) }
    }
}

/// At most `most` bytes from the front.
fn front(bytes: &[u8], most: u64) -> &[u8] {
    &bytes[..usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len()))]
}

/// RFC 9110, section 5.6.2: a token.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Control characters, TAB excepted: CR and LF in particular may only end lines.
fn is_control(byte: u8) -> bool {
    byte != b'\t' && byte.is_ascii_control()
}
