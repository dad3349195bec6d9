//! What a proxy says of a client, in a PROXY header.

use waterwheel::net::proxy_header::{HEADER_BYTES_MAX, LINE_BYTES_MAX, Subject, Version, parse};

use super::line;

/// Beginnings longer than this are like those that are not.
const BEGINNINGS: usize = 400;

/// No beginning says anything but that it goes on, or what the whole says; nothing behind a header counts; what was read
/// and is written again reads back as the same; a limit refuses what is longer and nothing else; and an error is a line.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let read = parse(bytes, HEADER_BYTES_MAX);
    for end in 0..bytes.len().min(BEGINNINGS) {
        let sooner = parse(&bytes[..end], HEADER_BYTES_MAX);
        assert!(sooner == Ok(None) || sooner == read, "{end} bytes say {sooner:?}, and all say {read:?}");
    }
    let (header, length) = match read {
        Ok(None) => return,
        Ok(Some(read)) => read,
        Err(error) => return line::check(&error.to_string(), &[]),
    };
    assert!(length <= bytes.len(), "{length} of {} bytes", bytes.len());
    assert_eq!(parse(&bytes[..length], HEADER_BYTES_MAX), Ok(Some((header.clone(), length))));
    assert_eq!(parse(&bytes[..length - 1], HEADER_BYTES_MAX), Ok(None));
    match header.version {
        Version::One => {
            assert!(length <= LINE_BYTES_MAX && header.extras.is_empty() && !header.checksum);
            assert!(bytes[..length].ends_with(b"\r\n"));
        }
        Version::Two => {
            assert!(parse(bytes, length - 1).is_err() && parse(bytes, length).is_ok());
            assert!(header.subject != Subject::Own || header.extras.is_empty());
        }
    }
    let again = header.encode().unwrap_or_else(|error| panic!("{header:?} was read: {error}"));
    let length = again.len();
    assert_eq!(parse(&again, length), Ok(Some((header, length))), "{bytes:?} was written as {again:?}");
}
