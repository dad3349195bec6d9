//! Texts that say what to load.

use waterwheel::load::target::{Protocol, Target};
use waterwheel::net::Endpoint;
use waterwheel::net::http1::{Framing, parse_request};

use super::line;

/// What is shown reads back as the same; whatever one can connect to can be loaded; a URL becomes one request, for
/// that path, of that host; and an error is one line that names the text, or the endpoint in it.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let read: Result<Target, _> = text.parse();
    if let Ok(endpoint) = text.parse::<Endpoint>()
        && endpoint.check_target().is_ok()
    {
        let echo = Target { endpoint, protocol: Protocol::Echo };
        assert_eq!(read.as_ref(), Ok(&echo), "{text:?} is an endpoint and no target");
    }
    let target = match read {
        Ok(target) => target,
        Err(error) => {
            let error = error.to_string();
            line::check(&error, &[]);
            let names = |what: &str| error.starts_with(&format!("{what} {}", line::shown(text)));
            // Of an URL, the endpoint that it comes to is named.
            let in_url = text.contains("://") && error.starts_with("endpoint \"tcp:");
            let wildcard =
                text.parse::<Endpoint>().is_ok_and(|one| error.contains(&line::shown(&one.to_string())));
            assert!(names("target") || names("endpoint") || in_url || wildcard, "{text:?}: {error}");
            return assert!(error.contains("; allowed: "), "{error}");
        }
    };
    let shown = target.to_string();
    assert_eq!(shown.parse().as_ref(), Ok(&target), "{shown:?} is another target than {text:?}");
    assert_eq!(target.endpoint.check_target(), Ok(()), "{shown}");
    if let Protocol::Http { authority, path } = &target.protocol {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let (head, length) = parse_request(request.as_bytes())
            .unwrap_or_else(|error| panic!("{shown:?}: {error}"))
            .unwrap_or_else(|| panic!("{shown:?} makes no whole request"));
        assert_eq!((head.method, head.target, head.framing), ("GET", &**path, Framing::None));
        assert_eq!(length, request.len(), "{shown:?} makes more than one request");
    }
}
