//! What is asked, and what is answered.

use std::sync::Arc;
use std::time::Duration;

use super::super::registry::Registry;
use super::super::scrape::{One, Scrape};
use super::super::status::Standing;
use super::super::text::Format;
use crate::net::http1::{Framing, HeadError, RequestHead};
use crate::shard::Shard;
use crate::shard::stopping::Step;

/// How long the shards have to answer: a stalled one is to be seen, and Prometheus waits for 10 s.
const SCRAPE_WITHIN: Duration = Duration::from_millis(500);
/// As a rule the media type comes without much else.
const OPEN_METRICS: &[u8] = b"application/openmetrics-text";

/// A request as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: Path,
    pub(super) format: Format,
    pub(super) keep_alive: bool,
    pub(super) minor_version: u8,
    /// A body follows, which nobody here would read.
    pub(super) has_body: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Metrics,
    Health,
    /// Whether all shards turn.
    ShardsHealth,
    Ready,
    Other,
}

impl Asked {
    /// Of a head, and of the bytes that it was parsed from.
    pub(super) fn new(head: &RequestHead<'_>, bytes: &[u8]) -> Asked {
        let method = match head.method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            _ => Method::Other,
        };
        // A proxy may send the whole URL (RFC 9112, section 3.2.2).
        let target = match head.target.split_once("://") {
            Some((_, rest)) if !head.target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
            _ => head.target,
        };
        let path = match target.split_once('?').map_or(target, |(path, _)| path) {
            "/metrics" => Path::Metrics,
            "/health" => Path::Health,
            "/health/shards" => Path::ShardsHealth,
            "/ready" => Path::Ready,
            _ => Path::Other,
        };
        let format = if accepts_open_metrics(bytes) { Format::OpenMetrics } else { Format::Prometheus };
        let (keep_alive, minor_version) = (head.keep_alive, head.minor_version);
        Asked { method, path, format, keep_alive, minor_version, has_body: head.framing != Framing::None }
    }
}

/// Whether an Accept field of this head names OpenMetrics, and not as the last of all choices.
fn accepts_open_metrics(head: &[u8]) -> bool {
    let fields = head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon].eq_ignore_ascii_case(b"accept").then(|| &line[colon + 1..])
    });
    fields.flat_map(|value| value.split(|byte| *byte == b',')).any(|choice| {
        let mut parts = choice.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_it = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(OPEN_METRICS));
        is_it && !parts.any(|part| part == b"q=0" || part == b"q=0.0")
    })
}

/// A response before it is bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: &'static str,
    pub(super) media_type: &'static str,
    /// Whole lines, each with its end.
    pub(super) fields: &'static str,
    pub(super) body: String,
}

impl Response {
    fn text(status: &'static str, body: String) -> Response {
        Response { status, media_type: "text/plain; charset=utf-8", fields: "", body }
    }

    /// To something that is no request.
    pub(super) fn to_nonsense(wrong: HeadError) -> Response {
        let status = match wrong {
            HeadError::TooLong | HeadError::TooManyFields => "431 Request Header Fields Too Large",
            _ => "400 Bad Request",
        };
        Response::text(status, format!("{wrong}\n"))
    }

    /// The bytes: all of them, or for HEAD those of the head.
    pub(super) fn bytes(&self, with_body: bool, keep_alive: bool, minor_version: u8) -> Vec<u8> {
        let connection = match (keep_alive, minor_version) {
            (false, _) => "Connection: close\r\n",
            (true, 0) => "Connection: keep-alive\r\n",
            (true, _) => "",
        };
        let Response { status, media_type, fields, body } = self;
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: waterwheel\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{fields}{connection}\r\n",
            body.len()
        );
        let body = if with_body { body.as_str() } else { "" };
        [head.as_bytes(), body.as_bytes()].concat()
    }
}

/// Answers a request.
pub(super) async fn answer(shard: &Shard, registry: &Arc<Registry>, asked: Asked) -> Response {
    if asked.has_body {
        return Response::text("400 Bad Request", "a body is of no use here\n".to_owned());
    }
    if asked.method == Method::Other {
        let fields = "Allow: GET, HEAD\r\n";
        let refusal = Response::text("405 Method Not Allowed", "only GET and HEAD are answered\n".to_owned());
        return Response { fields, ..refusal };
    }
    match asked.path {
        Path::Metrics => match shard.scrape(SCRAPE_WITHIN).await {
            Ok(scrape) => {
                let (media_type, body) = (asked.format.media_type(), scrape.text(shard, asked.format).await);
                Response { media_type, ..Response::text("200 OK", body) }
            }
            Err(error) => Response::text("503 Service Unavailable", format!("{error}\n")),
        },
        Path::Health | Path::ShardsHealth => match shard.scrape(SCRAPE_WITHIN).await {
            Ok(scrape) => {
                let lines = health(&scrape, shard.id().index());
                let is_asked_of_all = asked.path == Path::ShardsHealth;
                let is_stopping = shard.core().has_come_to(Step::Asked);
                match is_asked_of_all && scrape.shards.iter().any(|one| is_lost(one, is_stopping)) {
                    true => {
                        Response::text("503 Service Unavailable", lines.replacen("alive", "not alive", 1))
                    }
                    false => Response::text("200 OK", lines),
                }
            }
            Err(error) => Response::text("503 Service Unavailable", format!("{error}\n")),
        },
        Path::Ready => ready(shard, registry),
        Path::Other => {
            Response::text("404 Not Found", "allowed: /metrics, /health, /health/shards, /ready\n".to_owned())
        }
    }
}

/// A line for each shard that does not work as it should, and one if that is why shard `me` answers.
fn health(scrape: &Scrape, me: usize) -> String {
    let mut lines = String::from("alive\n");
    for (shard, one) in scrape.shards.iter().enumerate() {
        match one.standing {
            Standing::Starting | Standing::Running if one.answered => {}
            Standing::Starting | Standing::Running => {
                lines.push_str(&format!("shard {shard} does not answer\n"));
            }
            standing => lines.push_str(&format!("shard {shard} {}\n", standing.in_words())),
        }
    }
    if me > 0 {
        lines.push_str(&format!("shard {me} serves the admin endpoint, since those before it have ended\n"));
    }
    lines
}

/// Whether nothing in this process brings a shard back. A thread that does not come out of a turn cannot be ended.
fn is_lost(shard: &One, is_stopping: bool) -> bool {
    match shard.standing {
        Standing::Starting | Standing::Running => !shard.answered,
        Standing::Pausing => false,
        Standing::Ended => !is_stopping,
    }
}

fn ready(shard: &Shard, registry: &Registry) -> Response {
    let mut reasons = registry.status.reasons();
    // Also while it goes on as before: that is when a load balancer has to hear of it.
    if shard.core().has_come_to(Step::Asked) {
        reasons.insert(0, "stopping".to_owned());
    }
    if reasons.is_empty() {
        return Response::text("200 OK", "ready\n".to_owned());
    }
    Response::text("503 Service Unavailable", format!("not ready\n{}\n", reasons.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::http1::parse_request;

    fn asked(text: &str) -> Asked {
        let (head, length) = parse_request(text.as_bytes()).unwrap().unwrap();
        Asked::new(&head, &text.as_bytes()[..length])
    }

    #[test]
    fn a_path_is_what_stands_before_the_query_and_behind_the_host() {
        for (target, path) in [
            ("/metrics", Path::Metrics),
            ("/metrics?name[]=x", Path::Metrics),
            ("http://example.org/ready", Path::Ready),
            ("/health", Path::Health),
            ("/health/shards?x", Path::ShardsHealth),
            ("/health/", Path::Other),
            ("http://example.org", Path::Other),
            ("/metrics/", Path::Other),
            ("/x://y/metrics", Path::Other),
            ("*", Path::Other),
        ] {
            assert_eq!(asked(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).path, path, "{target}");
        }
    }

    #[test]
    fn open_metrics_is_for_who_accepts_it() {
        let format = |fields: &str| asked(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).format;
        let prometheus =
            "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
        assert_eq!(format(prometheus), Format::OpenMetrics);
        assert_eq!(format("aCCept:text/plain , Application/OpenMetrics-Text\r\n"), Format::OpenMetrics);
        for fields in [
            "",
            "Accept: */*\r\n",
            "X-Accept: application/openmetrics-text\r\n",
            "Accept: application/openmetrics-text; q=0\r\n",
            "Accept: application/openmetrics-textual\r\n",
        ] {
            assert_eq!(format(fields), Format::Prometheus, "{fields}");
        }
    }

    #[test]
    fn a_response_to_head_has_the_length_and_not_the_body() {
        let response = Response::text("200 OK", "ready\n".to_owned());
        let text = |with_body| String::from_utf8(response.bytes(with_body, true, 1)).unwrap();
        assert!(text(true).ends_with("\r\n\r\nready\n") && text(false).ends_with("\r\n\r\n"));
        assert!(text(false).contains("Content-Length: 6\r\n") && !text(false).contains("Connection"));
    }
}
