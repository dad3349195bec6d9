//! What is loaded: an echo server, or an HTTP resource.

use std::fmt;
use std::str::FromStr;

use crate::net::quoted::Quoted;
use crate::net::{Endpoint, EndpointError};

/// What is loaded, as an operator writes it: one of
///
/// | text | meaning |
/// |---|---|
/// | `tcp:HOST:PORT` | sends messages of a fixed size and expects each back, byte for byte |
/// | `unix:PATH` | the same over a Unix socket |
/// | `http://HOST:PORT/path` | GET with keep-alive; without a port, 80 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub endpoint: Endpoint,
    /// What to say there.
    pub protocol: Protocol,
}

/// What is spoken to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// What is sent comes back.
    Echo,
    /// HTTP/1.1 GET.
    Http {
        /// The value of the Host field.
        authority: String,
        /// The request target: path and query.
        path: String,
    },
}

/// A text that is no target. Shows the text, what is wrong and what is allowed in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The part that says where to connect is wrong.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The URL is wrong.
    #[error("target {}: {fault}; allowed: http://HOST:PORT/path, tcp:HOST:PORT, unix:PATH", Quoted(.given))]
    Url {
        /// What was given.
        given: String,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        let wrong = |fault| TargetError::Url { given: text.to_owned(), fault };
        // The name of a Unix socket may hold anything, also what looks like a scheme.
        let url = text.split_once("://").filter(|_| !text.starts_with("unix:"));
        let Some((scheme, rest)) = url else {
            let endpoint: Endpoint = text.parse()?;
            endpoint.check_target()?;
            return Ok(Target { endpoint, protocol: Protocol::Echo });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(wrong("TLS is not offered")),
            _ => return Err(wrong("there is no such scheme")),
        }
        let path_at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        if authority.is_empty() || authority.starts_with(':') {
            return Err(wrong("the host is missing"));
        }
        if authority.contains('@') {
            return Err(wrong("user names are not sent"));
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("the path has a character that must be percent-encoded"));
        }
        if path.contains('#') {
            return Err(wrong("a fragment is never sent"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        // Where an authority begins like an endpoint, and is not a host of that name with its port.
        let kind =
            authority.split_once(':').filter(|(_, port)| !port.bytes().all(|byte| byte.is_ascii_digit()));
        match kind.map(|(kind, _)| kind.to_ascii_lowercase()).as_deref() {
            Some("unix") => return Err(wrong("a Unix socket has no URL")),
            Some("tcp") => return Err(wrong("what follows http:// is an endpoint, and must be a host")),
            _ => {}
        }
        let port = if has_port { "" } else { ":80" };
        let endpoint: Endpoint = format!("tcp:{authority}{port}").parse()?;
        endpoint.check_target()?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        let protocol = Protocol::Http { authority: authority.to_owned(), path: format!("{slash}{path}") };
        Ok(Target { endpoint, protocol })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.protocol {
            Protocol::Echo => self.endpoint.fmt(f),
            Protocol::Http { authority, path } => write!(f, "http://{authority}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_as_people_write_them() {
        for (text, endpoint, shown) in [
            ("tcp:127.0.0.1:7", "tcp:127.0.0.1:7", "tcp:127.0.0.1:7"),
            ("unix:/run/x.sock", "unix:/run/x.sock", "unix:/run/x.sock"),
            ("http://127.0.0.1:8080/1k", "tcp:127.0.0.1:8080", "http://127.0.0.1:8080/1k"),
            ("http://example.org", "tcp:example.org:80", "http://example.org/"),
            ("HTTP://example.org:81?a=b", "tcp:example.org:81", "http://example.org:81/?a=b"),
            ("http://tcp:81/", "tcp:tcp:81", "http://tcp:81/"),
            ("http://[::1]/x", "tcp:[::1]:80", "http://[::1]/x"),
            ("http://[::1]:8080/x", "tcp:[::1]:8080", "http://[::1]:8080/x"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.endpoint.to_string(), endpoint, "{text}");
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn a_sockets_path_that_looks_like_a_url_is_a_path() {
        for text in ["unix:/run/http://x", "unix:@a://b"] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.to_string(), target.protocol), (text.to_owned(), Protocol::Echo));
        }
    }

    #[test]
    fn what_cannot_be_loaded_is_refused_with_the_reason() {
        for (text, reason) in [
            ("https://a/", "TLS is not offered"),
            ("ftp://a/", "no such scheme"),
            ("http://me@a/", "user names"),
            ("http://a/b c", "percent-encoded"),
            ("http://a/b\r\nX: y", "percent-encoded"),
            ("http://a/#b", "fragment"),
            ("http://", "host"),
            ("http://a:0/", "0"),
            ("http://unix:x/", "no URL"),
            ("http://tcp:127.0.0.1:1/", "must be a host"),
            ("http://TCP:127.0.0.1:1/", "must be a host"),
            ("http://a:x/", "port"),
            ("tcp:0.0.0.0:80", "connect"),
            ("", "empty"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
