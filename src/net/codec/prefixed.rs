//! Frames with their length before them.

use super::{Decoder, EncodeError, Encoder, FrameError, Part, Wrapping, within};

/// How many bits a length has. It is big-endian and does not count itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte: frames of up to 255 bytes.
    Bits8,
    /// Two bytes: up to 65 535.
    Bits16,
    /// Four bytes: up to 4 294 967 295.
    Bits32,
}

impl Width {
    fn bytes(self) -> usize {
        match self {
            Width::Bits8 => 1,
            Width::Bits16 => 2,
            Width::Bits32 => 4,
        }
    }

    fn most(self) -> usize {
        match self {
            Width::Bits8 => usize::from(u8::MAX),
            Width::Bits16 => usize::from(u16::MAX),
            Width::Bits32 => u32::MAX as usize,
        }
    }
}

/// A frame is so many bytes as the length before it says; none is a frame too.
#[derive(Clone, Debug)]
pub struct Prefixed {
    width: Width,
    limit: usize,
    /// Bytes of the length that have arrived, and what they say.
    head: usize,
    /// What the length said so far; once it is whole, how many bytes of the frame are left.
    left: u32,
}

impl Prefixed {
    /// Frames of at most `limit` bytes, or what the width allows if that is less.
    pub fn new(width: Width, limit: usize) -> Prefixed {
        Prefixed { width, limit: limit.min(width.most()), head: 0, left: 0 }
    }
}

impl Decoder for Prefixed {
    fn advance(&mut self, bytes: &[u8]) -> Result<Part, FrameError> {
        let mut begin = 0;
        while self.head < self.width.bytes() {
            let Some(byte) = bytes.get(begin) else { return Ok(Part::More { content: begin..begin }) };
            self.left = self.left << 8 | u32::from(*byte);
            (self.head, begin) = (self.head + 1, begin + 1);
            if self.head == self.width.bytes() && self.left as usize > self.limit {
                return Err(FrameError::Announced { announced: self.left.into(), limit: self.limit });
            }
        }
        let left = self.left as usize;
        let count = left.min(bytes.len() - begin);
        let content = begin..begin + count;
        if count < left {
            self.left -= count as u32;
            return Ok(Part::More { content });
        }
        (self.head, self.left) = (0, 0);
        Ok(Part::End { used: content.end, content, excess: 0 })
    }

    fn end(&self) -> Result<(), FrameError> {
        if self.head == 0 { Ok(()) } else { Err(FrameError::Truncated) }
    }

    fn limit(&self) -> usize {
        self.limit
    }
}

impl Encoder for Prefixed {
    fn wrap(&self, frame: &[u8]) -> Result<Wrapping, EncodeError> {
        let length = (within(frame, self.limit)? as u32).to_be_bytes();
        Ok(Wrapping::new(&length[4 - self.width.bytes()..], &[]))
    }
}
