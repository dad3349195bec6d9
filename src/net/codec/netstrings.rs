//! Netstrings (D. J. Bernstein, 1997-02-01): `[length]":"[bytes]","`, the length in decimal digits.

use super::{Decoder, EncodeError, Encoder, FrameError, HEAD_MAX, Part, Wrapping, within};

/// Digits of a length: as many as fit into 64 bits whatever they are.
const DIGITS_MAX: u8 = 19;

/// A frame is a netstring's bytes. As the definition has it, strictly: no sign, no space, no zero before other digits.
#[derive(Clone, Debug)]
pub struct Netstrings {
    limit: usize,
    state: State,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A digit of the length, or the colon behind it.
    Length { value: u64, digits: u8 },
    /// So many bytes.
    Bytes { left: usize },
    /// The comma behind them.
    Comma,
}

const START: State = State::Length { value: 0, digits: 0 };

impl Netstrings {
    /// Netstrings of at most `limit` bytes; their lengths and the punctuation do not count.
    pub fn new(limit: usize) -> Netstrings {
        Netstrings { limit, state: START }
    }

    /// One byte of a length. Answers how many bytes follow, once that is known.
    fn length(&self, value: u64, digits: u8, byte: u8) -> Result<State, FrameError> {
        match (byte, digits) {
            (b'0'..=b'9', 1..) if value == 0 => Err(FrameError::Malformed("a length with a zero before it")),
            (b'0'..=b'9', 0..DIGITS_MAX) => {
                Ok(State::Length { value: value * 10 + u64::from(byte - b'0'), digits: digits + 1 })
            }
            (b'0'..=b'9', _) => Err(FrameError::Malformed("a length of more than 19 digits")),
            (b':', 1..) => match usize::try_from(value) {
                Ok(0) => Ok(State::Comma),
                Ok(left) if left <= self.limit => Ok(State::Bytes { left }),
                _ => Err(FrameError::Announced { announced: value, limit: self.limit }),
            },
            (_, 0) => Err(FrameError::Malformed("no digit where a length begins")),
            _ => Err(FrameError::Malformed("neither a digit nor a colon in a length")),
        }
    }
}

impl Decoder for Netstrings {
    fn advance(&mut self, bytes: &[u8]) -> Result<Part, FrameError> {
        let mut at = 0;
        while let (State::Length { value, digits }, Some(byte)) = (self.state, bytes.get(at)) {
            self.state = self.length(value, digits, *byte)?;
            at += 1;
        }
        let begin = at;
        if let State::Bytes { left } = self.state {
            let count = left.min(bytes.len() - at);
            at += count;
            self.state = if count == left { State::Comma } else { State::Bytes { left: left - count } };
        }
        match (self.state, bytes.get(at)) {
            (State::Comma, Some(b',')) => {
                self.state = START;
                Ok(Part::End { used: at + 1, content: begin..at, excess: 0 })
            }
            (State::Comma, Some(_)) => Err(FrameError::Malformed("no comma behind the bytes")),
            _ => Ok(Part::More { content: begin..at }),
        }
    }

    fn end(&self) -> Result<(), FrameError> {
        if self.state == START { Ok(()) } else { Err(FrameError::Truncated) }
    }

    fn limit(&self) -> usize {
        self.limit
    }
}

impl Encoder for Netstrings {
    fn wrap(&self, frame: &[u8]) -> Result<Wrapping, EncodeError> {
        let mut left = within(frame, self.limit)?;
        // Written from the end, as digits come.
        let (mut head, mut at) = ([b':'; HEAD_MAX], HEAD_MAX - 1);
        loop {
            at -= 1;
            head[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                return Ok(Wrapping::new(&head[at..], b","));
            }
        }
    }
}
