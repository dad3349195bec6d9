//! No frames at all.

use super::{Decoder, EncodeError, Encoder, FrameError, Part, Wrapping};

/// A frame is whatever arrived at once, so that it says nothing: the bytes as they come. Nothing is ever collected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces;

impl Decoder for Pieces {
    fn advance(&mut self, bytes: &[u8]) -> Result<Part, FrameError> {
        Ok(Part::End { used: bytes.len(), content: 0..bytes.len(), excess: 0 })
    }

    fn end(&self) -> Result<(), FrameError> {
        Ok(())
    }

    fn limit(&self) -> usize {
        usize::MAX
    }
}

impl Encoder for Pieces {
    fn wrap(&self, _frame: &[u8]) -> Result<Wrapping, EncodeError> {
        Ok(Wrapping::new(&[], &[]))
    }
}
