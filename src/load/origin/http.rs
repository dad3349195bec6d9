//! HTTP/1.1 with bodies of the length that the path names.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::rc::Rc;

use super::OriginSettings;
use super::patience::Patience;
use crate::load::units::parse_size;
use crate::net::http1::{Body, Fed, Framing, HeadBuffer, HeadError, RequestHead, parse_request};
use crate::net::{Connection, Receiving, Sending};
use crate::runtime::Service;
use crate::shard::Shard;

/// The longest body: `/1g`.
const BODY_BYTES_MAX: u64 = 1 << 30;
/// Bodies are sent from one block of this size; shorter ones go out together with their head.
const BLOCK_BYTES: usize = 16 * 1024;
/// Responses to pipelined requests are collected up to this size before they are sent.
const TOGETHER_BYTES: usize = 64 * 1024;
/// So many different short responses are kept ready on each shard.
const READY_MAX: usize = 64;

/// Answers GET and HEAD: `/NNN` has a body of NNN bytes (`/100`, `/1k`, `/4m`), any other path the default length.
/// Keeps connections, serves pipelined requests in order, answers malformed ones with 400 and closes. Sends no Date.
#[derive(Debug)]
pub struct HttpOrigin {
    settings: OriginSettings,
    /// Whole responses with a body of at most one block, for requests that keep the connection.
    ready: RefCell<BTreeMap<u64, Rc<[u8]>>>,
    block: Vec<u8>,
}

impl Service for HttpOrigin {
    type Settings = OriginSettings;

    async fn start(_: &Shard, settings: &OriginSettings) -> anyhow::Result<HttpOrigin> {
        // Text, and not all alike, so that a proxy that loses a part of it shows.
        let block =
            (0..BLOCK_BYTES).map(|at| if at % 64 == 63 { b'\n' } else { b'!' + (at % 89) as u8 }).collect();
        Ok(HttpOrigin { settings: *settings, ready: RefCell::default(), block })
    }

    async fn connection(self: Rc<Self>, mut connection: Connection) -> anyhow::Result<()> {
        let patience = Patience::new(connection.shard().clone(), self.settings.idle);
        let (receiving, sending) = connection.halves();
        let mut client = Client {
            origin: self,
            patience,
            head: HeadBuffer::default(),
            inside: None,
            out: Vec::new(),
            long_body: 0,
            closing: false,
        };
        client.serve(receiving, sending).await?;
        Ok(connection.close().await?)
    }

    fn limit(&self) -> usize {
        self.settings.connections
    }
}

/// One connection.
struct Client {
    origin: Rc<HttpOrigin>,
    patience: Patience,
    head: HeadBuffer,
    /// The request whose body is being received.
    inside: Option<(Asked, Body)>,
    /// Responses that wait to be sent together; empty whenever the client is waited for.
    out: Vec<u8>,
    /// How much of a long body is to be sent behind `out`.
    long_body: u64,
    /// Whether this is the last response.
    closing: bool,
}

/// What remains of a request's head once it is parsed.
#[derive(Clone, Copy, Debug)]
struct Asked {
    method: Method,
    /// `None`: there is no such resource.
    size: Option<u64>,
    keep_alive: bool,
    minor_version: u8,
    framing: Framing,
    expects_continue: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Head,
    Other,
}

impl Asked {
    fn new(head: &RequestHead<'_>, default_size: u64) -> Asked {
        let method = match head.method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            _ => Method::Other,
        };
        let RequestHead { keep_alive, minor_version, framing, expects_continue, .. } = *head;
        let size = size_of(head.target, default_size);
        Asked { method, size, keep_alive, minor_version, framing, expects_continue }
    }
}

/// The length that a path asks for.
fn size_of(target: &str, default_size: u64) -> Option<u64> {
    let path = match target.strip_prefix('/') {
        Some(path) => path,
        // A proxy may send the whole URL (RFC 9112, section 3.2.2).
        None => target.split_once("://")?.1.split_once('/').map_or("", |(_, path)| path),
    };
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    match path.as_bytes().first() {
        Some(b'0'..=b'9') => parse_size(path).ok().filter(|size| *size <= BODY_BYTES_MAX),
        _ => Some(default_size),
    }
}

impl Client {
    async fn serve(&mut self, receiving: &mut Receiving, sending: &mut Sending) -> anyhow::Result<()> {
        while !self.closing {
            let Some(mut lent) = self.patience.fill(receiving).await? else { return Ok(()) };
            if lent.is_empty() {
                return Ok(());
            }
            let before = lent.len();
            while !lent.is_empty() && !self.closing && self.long_body == 0 && self.out.len() < TOGETHER_BYTES
            {
                let used = self.take(lent)?;
                lent = &lent[used..];
            }
            let used = before - lent.len();
            receiving.consume(used);
            self.send(sending).await?;
            // Only a head that is complete has the client a new limit: else one byte a minute would do.
            if !self.head.has_begun() {
                self.patience.renew();
            }
        }
        Ok(())
    }

    /// Uses bytes up to the end of a head or of a stretch of a body; how many.
    fn take(&mut self, lent: &[u8]) -> anyhow::Result<usize> {
        if let Some((asked, body)) = &mut self.inside {
            let used = match body.advance(lent) {
                Ok(part) => part.used,
                Err(wrong) => {
                    self.refuse("400 Bad Request", &wrong.to_string());
                    return Ok(lent.len());
                }
            };
            if body.is_done() {
                let asked = *asked;
                self.inside = None;
                self.respond(asked);
            }
            return Ok(used);
        }
        let default_size = self.origin.settings.size;
        let fed = self.head.feed(lent, |bytes| {
            Ok(parse_request(bytes)?.map(|(head, length)| (Asked::new(&head, default_size), length)))
        });
        match fed {
            Ok(Fed::Partial) => Ok(lent.len()),
            Ok(Fed::Complete(asked, used)) => {
                let body = Body::new(asked.framing);
                if body.is_done() {
                    self.respond(asked);
                } else {
                    if asked.expects_continue {
                        self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    self.inside = Some((asked, body));
                }
                Ok(used)
            }
            Err(wrong) => {
                let status = match wrong {
                    HeadError::TooLong | HeadError::TooManyFields => "431 Request Header Fields Too Large",
                    _ => "400 Bad Request",
                };
                self.refuse(status, &wrong.to_string());
                Ok(lent.len())
            }
        }
    }

    /// Answers something that is no request: where the next one would begin is unknown.
    fn refuse(&mut self, status: &str, why: &str) {
        self.closing = true;
        self.text(status, why, "Connection: close\r\n", true);
    }

    fn respond(&mut self, asked: Asked) {
        self.closing = !asked.keep_alive;
        let connection = match (asked.keep_alive, asked.minor_version) {
            (false, _) => "Connection: close\r\n",
            (true, 0) => "Connection: keep-alive\r\n",
            (true, _) => "",
        };
        let with_body = asked.method != Method::Head;
        if asked.method == Method::Other {
            let fields = format!("Allow: GET, HEAD\r\n{connection}");
            return self.text("405 Method Not Allowed", "only GET and HEAD are answered", &fields, true);
        }
        let Some(size) = asked.size else {
            return self.text("404 Not Found", "a path is / and a size, at most 1g", connection, with_body);
        };
        if with_body && connection.is_empty() && size <= BLOCK_BYTES as u64 {
            let ready = self.origin.ready(size);
            self.out.extend_from_slice(&ready);
            return;
        }
        head(&mut self.out, "200 OK", size, connection);
        if with_body {
            self.long_body = size;
        }
    }

    fn text(&mut self, status: &str, why: &str, fields: &str, with_body: bool) {
        head(&mut self.out, status, why.len() as u64 + 1, fields);
        if with_body {
            self.out.extend_from_slice(why.as_bytes());
            self.out.push(b'\n');
        }
    }

    /// Sends what was collected. An idle client holds little memory afterwards.
    async fn send(&mut self, sending: &mut Sending) -> anyhow::Result<()> {
        self.patience.send(sending, &self.out).await?;
        self.out.clear();
        self.out.shrink_to(2 * BLOCK_BYTES);
        while self.long_body > 0 {
            // A client that takes all at once must not keep the others waiting.
            self.patience.give_way().await;
            let block = &self.origin.block[..self.long_body.min(BLOCK_BYTES as u64) as usize];
            self.patience.send(sending, block).await?;
            self.long_body -= block.len() as u64;
        }
        Ok(())
    }
}

impl HttpOrigin {
    /// The whole response with a short body.
    fn ready(&self, size: u64) -> Rc<[u8]> {
        let mut ready = self.ready.borrow_mut();
        if let Some(response) = ready.get(&size) {
            return response.clone();
        }
        let mut response = Vec::new();
        head(&mut response, "200 OK", size, "");
        response.extend_from_slice(&self.block[..size as usize]);
        let response: Rc<[u8]> = response.into();
        if ready.len() < READY_MAX {
            ready.insert(size, response.clone());
        }
        response
    }
}

fn head(out: &mut Vec<u8>, status: &str, length: u64, fields: &str) {
    write!(
        out,
        "HTTP/1.1 {status}\r\nServer: waterwheel\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{fields}\r\n"
    )
    .expect("writing to a Vec does not fail");
}
