//! Heads: start line and fields (RFC 9112, sections 2 to 6).

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

/// A head is at most so long, start line, fields and empty lines together. As nginx and HAProxy have it by default.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A head has at most so many fields. As HAProxy has it by default.
pub const FIELDS_MAX: usize = 100;

/// Why bytes are not a head. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1, or a byte where the grammar does not allow it.
    #[error("malformed head: {0}")]
    Malformed(&'static str),
    /// Longer than [`HEAD_BYTES_MAX`].
    #[error("the head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// More than [`FIELDS_MAX`] fields.
    #[error("the head has more than {FIELDS_MAX} fields")]
    TooManyFields,
    /// The end of the body could be read in two ways, or not at all.
    #[error("ambiguous framing: {0}")]
    Framing(&'static str),
    /// A request of HTTP/1.1 without exactly one Host field (RFC 9112, section 3.2).
    #[error("a request must have one Host field")]
    Host,
}

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Everything until the end of the connection. Responses only.
    UntilClose,
}

/// What the framing of a request's body follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'b> {
    /// The method, as sent: methods are case-sensitive.
    pub method: &'b str,
    /// The request target, as sent.
    pub target: &'b str,
    /// The minor version: 0 or 1.
    pub minor_version: u8,
    /// How the body ends; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
}

/// What the framing of a response's body follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code; below 200 another head follows.
    pub status: u16,
    /// How the body ends.
    pub framing: Framing,
    /// Whether another request may be sent on this connection, once the body has ended.
    pub keep_alive: bool,
}

/// A head and its length in bytes, or `None` if it goes on beyond the bytes given.
pub type Parsed<H> = Option<(H, usize)>;

/// Parses the head of a request at the start of `bytes`.
///
/// # Errors
/// What begins there can never become a head that is safe to act on; answer 400 and close.
pub fn parse_request(bytes: &[u8]) -> Result<Parsed<RequestHead<'_>>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let within = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let status = ParserConfig::default().parse_request_with_uninit_headers(&mut request, within, &mut fields);
    let Some(length) = head_length(status, within)? else { return Ok(None) };
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError::Malformed("no request line"));
    };
    let said = Said::read(request.headers)?;
    if minor_version == 1 && said.hosts != 1 || said.hosts > 1 {
        return Err(HeadError::Host);
    }
    let framing = match said.transfer {
        Transfer::Unsaid => said.length.map_or(Framing::None, Framing::Length),
        Transfer::Chunked if minor_version == 1 => Framing::Chunked,
        Transfer::Chunked => return Err(HeadError::Framing("Transfer-Encoding in HTTP/1.0")),
        Transfer::Other => return Err(HeadError::Framing("a transfer coding other than chunked")),
    };
    let keep_alive = said.keep_alive(minor_version);
    let expects_continue = said.expects_continue && minor_version == 1;
    Ok(Some((RequestHead { method, target, minor_version, framing, keep_alive, expects_continue }, length)))
}

/// Parses the head of a response at the start of `bytes`; `to_head` says that it answers a HEAD request.
///
/// # Errors
/// What begins there can never become a head that is safe to act on; close the connection.
pub fn parse_response(bytes: &[u8], to_head: bool) -> Result<Parsed<ResponseHead>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let within = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let status =
        ParserConfig::default().parse_response_with_uninit_headers(&mut response, within, &mut fields);
    let Some(length) = head_length(status, within)? else { return Ok(None) };
    let (Some(status), Some(minor_version)) = (response.code, response.version) else {
        return Err(HeadError::Malformed("no status line"));
    };
    if !(100..600).contains(&status) {
        return Err(HeadError::Malformed("a status outside 100 to 599"));
    }
    let said = Said::read(response.headers)?;
    let framing = if to_head || status < 200 || status == 204 || status == 304 {
        Framing::None
    } else {
        match said.transfer {
            Transfer::Unsaid => said.length.map_or(Framing::UntilClose, Framing::Length),
            Transfer::Chunked if minor_version == 1 => Framing::Chunked,
            Transfer::Chunked => return Err(HeadError::Framing("Transfer-Encoding in HTTP/1.0")),
            Transfer::Other => Framing::UntilClose,
        }
    };
    let keep_alive = framing != Framing::UntilClose && said.keep_alive(minor_version);
    Ok(Some((ResponseHead { status, framing, keep_alive }, length)))
}

/// The length of a complete head; `None` if it is incomplete and may still become one.
fn head_length(status: httparse::Result<usize>, within: &[u8]) -> Result<Option<usize>, HeadError> {
    match status {
        Ok(Status::Complete(length)) => {
            // The parser takes a bare LF for the end of a line, as RFC 9112, section 2.2 allows. Hops that do and
            // hops that do not see different fields.
            let lone = |at: usize| within[at] == b'\n' && (at == 0 || within[at - 1] != b'\r');
            if (0..length).any(lone) { Err(HeadError::Malformed("LF without CR")) } else { Ok(Some(length)) }
        }
        Ok(Status::Partial) if within.len() == HEAD_BYTES_MAX => Err(HeadError::TooLong),
        Ok(Status::Partial) => Ok(None),
        Err(error) => Err(match error {
            httparse::Error::HeaderName => HeadError::Malformed("field name"),
            httparse::Error::HeaderValue => HeadError::Malformed("field value"),
            httparse::Error::NewLine => HeadError::Malformed("end of line"),
            httparse::Error::Status => HeadError::Malformed("status"),
            httparse::Error::Token => HeadError::Malformed("start line"),
            httparse::Error::TooManyHeaders => HeadError::TooManyFields,
            httparse::Error::Version => HeadError::Malformed("version"),
        }),
    }
}

/// What the fields of a head say about framing and the connection.
#[derive(Debug, Default)]
struct Said {
    length: Option<u64>,
    transfer: Transfer,
    close: bool,
    stay: bool,
    expects_continue: bool,
    hosts: usize,
}

/// What Transfer-Encoding says.
#[derive(Debug, Default, PartialEq, Eq)]
enum Transfer {
    /// There is no such field.
    #[default]
    Unsaid,
    /// `chunked`, and nothing else.
    Chunked,
    /// Something else, so that the body ends with the connection.
    Other,
}

impl Said {
    fn read(fields: &[Header<'_>]) -> Result<Said, HeadError> {
        let mut said = Said::default();
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                4 if is("host") => said.hosts += 1,
                6 if is("expect") => {
                    said.expects_continue = field.value.eq_ignore_ascii_case(b"100-continue");
                }
                10 if is("connection") => {
                    for token in tokens(field.value) {
                        said.close |= token.eq_ignore_ascii_case(b"close");
                        said.stay |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if is("content-length") => {
                    if said.length.is_some() {
                        return Err(HeadError::Framing("more than one Content-Length"));
                    }
                    said.length = Some(length(field.value)?);
                }
                17 if is("transfer-encoding") => said.transfer(field.value)?,
                _ => {}
            }
        }
        if said.length.is_some() && said.transfer != Transfer::Unsaid {
            return Err(HeadError::Framing("both Content-Length and Transfer-Encoding"));
        }
        Ok(said)
    }

    /// Takes in one Transfer-Encoding field. `chunked` together with any other coding is refused: hops disagree on
    /// lists, and nobody sends them.
    fn transfer(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.transfer != Transfer::Unsaid {
            return Err(HeadError::Framing("more than one Transfer-Encoding"));
        }
        let mentions_chunked = value.windows(7).any(|word| word.eq_ignore_ascii_case(b"chunked"));
        self.transfer = match value.eq_ignore_ascii_case(b"chunked") {
            true => Transfer::Chunked,
            false if mentions_chunked => return Err(HeadError::Framing("chunked beside something else")),
            false => Transfer::Other,
        };
        Ok(())
    }

    /// RFC 9112, section 9.3.
    fn keep_alive(&self, minor_version: u8) -> bool {
        !self.close && (minor_version == 1 || self.stay)
    }
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Content-Length is digits and nothing else (RFC 9110, section 8.6): no sign, no list, no space inside.
fn length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::Framing("Content-Length is not a number"));
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or(HeadError::Framing("Content-Length is too large"))
}

/// Collects a head that arrives in pieces. A head that arrives whole is parsed where it lies, without a copy.
#[derive(Debug, Default)]
pub struct HeadBuffer {
    /// What has arrived of an incomplete head, at most [`HEAD_BYTES_MAX`]; no memory is held between heads.
    bytes: Vec<u8>,
}

/// What a [`HeadBuffer`] made of the bytes that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed<H> {
    /// The head, and how many of the bytes belonged to it.
    Complete(H, usize),
    /// All bytes belong to a head that is not complete.
    Partial,
}

impl HeadBuffer {
    /// Whether a head has begun and is not complete.
    pub fn has_begun(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Takes what arrived. `parse` is [`parse_request`] or [`parse_response`] and whatever keeps the result.
    ///
    /// # Errors
    /// As `parse`; the buffer is of no use afterwards.
    pub fn feed<H>(
        &mut self,
        arrived: &[u8],
        parse: impl FnOnce(&[u8]) -> Result<Parsed<H>, HeadError>,
    ) -> Result<Fed<H>, HeadError> {
        if self.bytes.is_empty() {
            if let Some((head, length)) = parse(arrived)? {
                return Ok(Fed::Complete(head, length));
            }
            self.bytes.extend_from_slice(arrived);
            return Ok(Fed::Partial);
        }
        let before = self.bytes.len();
        let room = HEAD_BYTES_MAX.saturating_sub(before);
        self.bytes.extend_from_slice(&arrived[..arrived.len().min(room)]);
        // Nothing can have been completed without an end of line; this keeps a head that comes byte by byte from
        // being parsed once per byte.
        let full = self.bytes.len() == HEAD_BYTES_MAX;
        if !full && !self.bytes[before..].contains(&b'\n') {
            return Ok(Fed::Partial);
        }
        let Some((head, length)) = parse(&self.bytes)? else { return Ok(Fed::Partial) };
        self.bytes = Vec::new();
        Ok(Fed::Complete(head, length - before))
    }
}
