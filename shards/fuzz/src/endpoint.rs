//! Texts that say where to listen or to connect.

use waterwheel::net::Endpoint;
use waterwheel::reactor::{Address, UnixName};

use super::line;

/// What is shown reads back as the same, `tcp:` may be left out, an address is what was written, and an error is one
/// line that names the text.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let endpoint: Endpoint = match text.parse() {
        Ok(endpoint) => endpoint,
        Err(error) => return line::check(&format!("{error}"), &[text]),
    };
    let shown = endpoint.to_string();
    assert!(shown.starts_with("tcp:") || shown.starts_with("unix:"), "no canonical form: {shown:?}");
    assert_eq!(shown.parse().as_ref(), Ok(&endpoint), "{shown:?} is another endpoint than {text:?}");
    if !text.starts_with("tcp:") && !text.starts_with("unix:") {
        assert_eq!(
            format!("tcp:{text}").parse().as_ref(),
            Ok(&endpoint),
            "tcp: cannot be left out of {text:?}"
        );
    }
    assert_eq!(endpoint.port().is_some(), shown.starts_with("tcp:"));
    literal(&endpoint, &shown);
    match endpoint.check_target() {
        Ok(()) => assert_ne!(endpoint.port(), Some(0), "{shown}: nothing can connect to port 0"),
        Err(error) => line::check(&error.to_string(), &[&shown]),
    }
}

fn literal(endpoint: &Endpoint, shown: &str) {
    match endpoint.literal() {
        Some(Address::Inet(address)) => {
            assert_eq!(format!("tcp:{address}"), shown);
            assert_eq!(Some(address.port()), endpoint.port());
        }
        Some(Address::Unix(UnixName::Path(path))) => {
            let path = path.to_str().expect("it came out of a text");
            assert_eq!(format!("unix:{path}"), shown);
            unix_name(path.as_bytes());
        }
        Some(Address::Unix(UnixName::Abstract(name))) => {
            assert_eq!([b"unix:@", &name[..]].concat(), shown.as_bytes());
            unix_name(&name);
        }
        Some(other) => panic!("{shown}: {other:?} cannot be written"),
        None => assert!(endpoint.port().is_some(), "a socket's name needs no lookup: {shown}"),
    }
}

/// `sun_path` of unix(7) has 108 bytes, and one more is needed for a zero.
fn unix_name(name: &[u8]) {
    assert!((1..=107).contains(&name.len()) && !name.contains(&0), "no name for a socket: {name:?}");
}
