//! What an HTTP server answers to a GET.

use waterwheel::net::http1::{
    Body, Fed, Framing, HEAD_BYTES_MAX, HeadBuffer, Parsed, ResponseHead, parse_response,
};

/// Interim heads that are skipped; more end the exchange.
const INTERIM_MAX: usize = 16;

/// What a reader makes of the bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// All heads that were complete.
    heads: Vec<ResponseHead>,
    content: Vec<u8>,
    /// How many bytes belong to the response.
    used: usize,
    /// Whether it is complete.
    whole: bool,
}

/// However the bytes are cut, the answer is the same, or there is none; no more is used than was given; the content is
/// as long as it was framed; and what was read is what a reader of all bytes at once reads.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (sizes, message) = bytes.split_at(at);
    // From 1 to 32 bytes, in turn.
    let sizes: Vec<usize> = sizes.iter().map(|byte| usize::from(byte % 32) + 1).collect();
    head(message);
    let whole = read(message, &[message.len().max(1)]);
    assert_eq!(read(message, &[1]), whole, "byte by byte");
    if !sizes.is_empty() {
        assert_eq!(read(message, &sizes), whole, "in pieces of {sizes:?}");
    }
    if let Some(answer) = whole {
        account(&answer, message);
        // What comes behind a whole response that ends by itself belongs to the next one.
        if answer.whole && answer.used < message.len() {
            assert_eq!(read(&message[..answer.used], &[message.len()]), Some(answer), "without what follows");
        }
    }
}

/// A head as it lies there, without anything that collects it.
fn head(message: &[u8]) {
    for to_head in [false, true] {
        let parsed = parse_response(message, to_head);
        let Ok(Some((head, length))) = parsed else { continue };
        assert!(length <= message.len().min(HEAD_BYTES_MAX), "{length} bytes of {}", message.len());
        assert!(message[..length].ends_with(b"\r\n\r\n"), "a head ends with an empty line");
        assert!((100..600).contains(&head.status));
        assert!(!(head.keep_alive && head.framing == Framing::UntilClose), "used again after its end");
        let bodiless = to_head || head.status < 200 || matches!(head.status, 204 | 304);
        assert!(!bodiless || head.framing == Framing::None, "{head:?}");
        // Nothing shorter is a head, and nothing behind a head changes it.
        assert_eq!(parse_response(&message[..length], to_head), parsed);
        assert_eq!(parse_response(&message[..length - 1], to_head), Ok(None));
    }
}

fn account(answer: &Answer, message: &[u8]) {
    assert!(answer.used <= message.len(), "{} of {} bytes", answer.used, message.len());
    let Some(last) = answer.heads.last() else { return };
    let content = answer.content.len();
    match last.framing {
        Framing::None => assert_eq!(content, 0),
        Framing::Length(length) if answer.whole => assert_eq!(content as u64, length),
        Framing::Length(length) => assert!((content as u64) < length),
        Framing::Chunked => assert!(content <= answer.used),
        Framing::UntilClose => assert_eq!(answer.used, message.len()),
    }
}

/// Reads one response in pieces of these sizes, over and over, as the load generator does; then the connection ends.
/// `None`: an error.
fn read(message: &[u8], sizes: &[usize]) -> Option<Answer> {
    let (mut reader, mut rest) = (Reader::default(), message);
    for size in sizes.iter().cycle() {
        let (mut piece, after) = rest.split_at(rest.len().min(*size));
        while !piece.is_empty() && !reader.answer.whole {
            let used = reader.take(piece)?;
            assert!(used <= piece.len(), "{used} of {} bytes used", piece.len());
            piece = &piece[used..];
            reader.answer.used += used;
        }
        if reader.answer.whole || after.is_empty() {
            break;
        }
        rest = after;
    }
    reader.end()
}

#[derive(Debug, Default)]
struct Reader {
    head: HeadBuffer,
    body: Option<Body>,
    answer: Answer,
}

impl Reader {
    /// Takes some of a piece, at least one byte of it or the step to the body.
    fn take(&mut self, piece: &[u8]) -> Option<usize> {
        let Some(body) = &mut self.body else { return self.take_head(piece) };
        let part = body.advance(piece).ok()?;
        assert!(part.used > 0, "no progress");
        assert!(part.content.len() <= part.used, "more content than bytes");
        self.answer.content.extend_from_slice(part.content);
        self.answer.whole = body.is_done();
        Some(part.used)
    }

    fn take_head(&mut self, piece: &[u8]) -> Option<usize> {
        let parse = |bytes: &[u8]| -> Result<Parsed<ResponseHead>, _> { parse_response(bytes, false) };
        match self.head.feed(piece, parse).ok()? {
            Fed::Partial => Some(piece.len()),
            Fed::Complete(head, used) => {
                assert!(!self.head.has_begun(), "a complete head is kept");
                self.answer.heads.push(head);
                match head.status {
                    101 => return None,
                    100..200 if self.answer.heads.len() > INTERIM_MAX => return None,
                    100..200 => {}
                    _ => {
                        let body = Body::new(head.framing);
                        self.answer.whole = body.is_done();
                        self.body = Some(body);
                    }
                }
                Some(used)
            }
        }
    }

    /// The connection ended.
    fn end(mut self) -> Option<Answer> {
        // Without a final head there is no answer, whether what came of it is wrong or only short: what is wrong with a
        // line that arrives in pieces is said when the line ends, at the latest.
        self.answer.whole = self.body?.end().is_ok();
        Some(self.answer)
    }
}
