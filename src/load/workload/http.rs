//! HTTP/1.1 GET over connections that stay.

use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use super::{Answer, Failure, Marks, Workload};
use crate::net::http1::{Body, Fed, HeadBuffer, ResponseHead, parse_response};
use crate::net::{Connection, Receiving};

/// Interim responses (1xx) before the final one; more are a loop.
const INTERIM_MAX: usize = 16;

/// Asks for one resource, over and over, and checks each answer: status, framing, and the length of the body.
#[derive(Clone, Debug)]
pub struct HttpGet {
    request: Vec<u8>,
    length: BodyLength,
    /// The length of the first good answer's body, on whichever shard.
    first: OnceLock<u64>,
}

/// How long the body of a good answer must be. Its own framing is always checked too; a target that truncates can
/// frame what it sends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Exactly(u64),
    /// As long as that of the first good answer.
    LikeFirst,
    /// As long as it likes to be: for what differs from request to request.
    Any,
}

impl fmt::Display for BodyLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyLength::Exactly(bytes) => write!(f, "bodies of {bytes} bytes"),
            BodyLength::LikeFirst => f.write_str("bodies as long as the first"),
            BodyLength::Any => f.write_str("bodies of any length"),
        }
    }
}

/// What one connection keeps: a head that came in pieces.
#[derive(Debug, Default)]
pub struct HttpClient {
    head: HeadBuffer,
}

impl HttpGet {
    /// Asks for `path` at `authority` (`HOST` or `HOST:PORT`), as [`Target`](crate::load::target::Target) reads them
    /// from a URL. A good answer whose body is not of this length is wrong.
    pub fn new(authority: &str, path: &str, length: BodyLength) -> HttpGet {
        let mut request = String::new();
        let agent = concat!("waterwheel/", env!("CARGO_PKG_VERSION"));
        write!(
            request,
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {agent}\r\nAccept: */*\r\n\r\n"
        )
        .expect("writing to a String does not fail");
        HttpGet { request: request.into_bytes(), length, first: OnceLock::new() }
    }

    fn check(&self, content_bytes: u64) -> Result<(), Failure> {
        let (expected, wrong) = match self.length {
            BodyLength::Any => return Ok(()),
            BodyLength::Exactly(bytes) => (bytes, "the body does not have the expected length"),
            BodyLength::LikeFirst => {
                (*self.first.get_or_init(|| content_bytes), "the body is not as long as the first one")
            }
        };
        if content_bytes == expected { Ok(()) } else { Err(Failure::Wrong(wrong.into())) }
    }
}

impl Workload for HttpGet {
    type Client = HttpClient;

    fn client(&self, _number: u64) -> HttpClient {
        HttpClient::default()
    }

    async fn exchange(
        &self,
        client: &mut HttpClient,
        connection: &mut Connection,
        marks: &Marks,
    ) -> Result<Answer, Failure> {
        let (receiving, sending) = connection.halves();
        marks.sent();
        sending.write_all(&self.request).await?;
        let (head, more) = receive_head(&mut client.head, receiving, marks).await?;
        let (content_bytes, more) = receive_body(Body::new(head.framing), receiving, more).await?;
        let accepted = head.status < 400;
        if accepted {
            self.check(content_bytes)?;
        }
        // Bytes that nobody asked for would be taken for the next answer.
        if more {
            return Err(Failure::Wrong("more came than the response".into()));
        }
        Ok(Answer { accepted, reuse: head.keep_alive, content_bytes })
    }
}

/// The final head (interim ones are skipped), and whether more has arrived behind it.
async fn receive_head(
    buffer: &mut HeadBuffer,
    receiving: &mut Receiving,
    marks: &Marks,
) -> Result<(ResponseHead, bool), Failure> {
    for _ in 0..=INTERIM_MAX {
        let (head, more) = loop {
            let lent = receiving.fill().await?;
            marks.first_byte();
            if lent.is_empty() {
                return Err(Failure::ended());
            }
            match buffer.feed(lent, |bytes| parse_response(bytes, false)) {
                Ok(Fed::Complete(head, used)) => {
                    let more = lent.len() > used;
                    receiving.consume(used);
                    break (head, more);
                }
                Ok(Fed::Partial) => {
                    let all = lent.len();
                    receiving.consume(all);
                }
                Err(wrong) => return Err(Failure::Wrong(wrong.to_string().into())),
            }
        };
        match head.status {
            101 => return Err(Failure::Wrong("switched to a protocol that nobody asked for".into())),
            100..200 => {}
            _ => return Ok((head, more)),
        }
    }
    Err(Failure::Wrong("interim responses without end".into()))
}

/// Receives a body and throws it away: how long it was, and whether more has arrived behind it.
async fn receive_body(
    mut body: Body,
    receiving: &mut Receiving,
    mut more: bool,
) -> Result<(u64, bool), Failure> {
    let mut content_bytes = 0;
    while !body.is_done() {
        let lent = receiving.fill().await?;
        if lent.is_empty() {
            body.end().map_err(|wrong| Failure::Wrong(wrong.to_string().into()))?;
            break;
        }
        let part = body.advance(lent).map_err(|wrong| Failure::Wrong(wrong.to_string().into()))?;
        content_bytes += part.content.len() as u64;
        let used = part.used;
        more = lent.len() > used;
        receiving.consume(used);
    }
    Ok((content_bytes, more))
}
