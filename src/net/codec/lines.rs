//! Lines, as SMTP, IMAP, FTP, Redis and many others speak in.

use super::{Decoder, EncodeError, Encoder, FrameError, Part, Wrapping, within};

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnding {
    /// LF. A CR before it belongs to the line.
    Lf,
    /// CR LF and nothing else: a lone CR or LF belongs to the line (RFC 5321, section 2.3.8).
    CrLf,
    /// LF or CR LF, whichever the peer sends; we send CR LF.
    Either,
}

/// A frame is a line, without its end. The limit does not count the end either.
///
/// A last line that the stream's end cuts off is an error: nobody can tell whether it was whole.
#[derive(Clone, Debug)]
pub struct Lines {
    ending: LineEnding,
    limit: usize,
    /// Bytes of the line so far.
    length: usize,
    /// The last of them was a CR, which may belong to the end.
    after_cr: bool,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(ending: LineEnding, limit: usize) -> Lines {
        // Less than the largest number, so that nothing overflows that counts the end too.
        Lines { ending, limit: limit.min(usize::MAX - 2), length: 0, after_cr: false }
    }

    /// Whether the LF at `at` ends the line, and how many bytes the end has.
    fn end_at(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let after_cr = if at == 0 { self.after_cr } else { bytes[at - 1] == b'\r' };
        match (self.ending, after_cr) {
            (LineEnding::Lf, _) | (LineEnding::Either, false) => Some(1),
            (LineEnding::CrLf | LineEnding::Either, true) => Some(2),
            (LineEnding::CrLf, false) => None,
        }
    }
}

impl Decoder for Lines {
    fn advance(&mut self, bytes: &[u8]) -> Result<Part, FrameError> {
        // Beyond these the line is too long, whatever comes.
        let seen = &bytes[..bytes.len().min(self.limit + 2 - self.length)];
        let mut from = 0;
        while let Some(at) = find_lf(&seen[from..]).map(|at| from + at) {
            if let Some(excess) = self.end_at(seen, at) {
                if self.length + at + 1 - excess > self.limit {
                    return Err(FrameError::Endless { limit: self.limit });
                }
                (self.length, self.after_cr) = (0, false);
                return Ok(Part::End { used: at + 1, content: 0..at + 1, excess });
            }
            from = at + 1;
        }
        let after_cr = seen.last() == Some(&b'\r');
        let may_end = usize::from(after_cr && self.ending != LineEnding::Lf);
        if seen.len() < bytes.len() || self.length + seen.len() - may_end > self.limit {
            return Err(FrameError::Endless { limit: self.limit });
        }
        self.length += seen.len();
        self.after_cr = after_cr;
        Ok(Part::More { content: 0..seen.len() })
    }

    fn end(&self) -> Result<(), FrameError> {
        if self.length == 0 { Ok(()) } else { Err(FrameError::Truncated) }
    }

    fn limit(&self) -> usize {
        self.limit
    }
}

impl Encoder for Lines {
    fn wrap(&self, frame: &[u8]) -> Result<Wrapping, EncodeError> {
        within(frame, self.limit)?;
        let (tail, held): (&[u8], _) = match self.ending {
            LineEnding::Lf => (b"\n", find_lf(frame).is_some()),
            LineEnding::CrLf => (b"\r\n", frame.windows(2).any(|pair| pair == b"\r\n")),
            LineEnding::Either => (b"\r\n", find_lf(frame).is_some()),
        };
        if held { Err(EncodeError::HoldsEnding) } else { Ok(Wrapping::new(&[], tail)) }
    }
}

/// Where the first LF is. By blocks, which compilers turn into vector instructions; byte by byte they do not.
pub(super) fn find_lf(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let is_in = |block: &[u8]| block.iter().fold(false, |found, byte| found | (*byte == b'\n'));
    let at = bytes.chunks_exact(BLOCK).position(is_in).unwrap_or(bytes.len() / BLOCK) * BLOCK;
    bytes[at..].iter().position(|byte| *byte == b'\n').map(|further| at + further)
}
