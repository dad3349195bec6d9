//! What a TLS client says first.

use waterwheel::net::client_hello::{ClientHello, HelloError, HelloReader};

use super::line;

type Read = (Result<Option<ClientHello>, HelloError>, usize);

/// However the bytes are cut, the answer is the same, after the same byte; a name is the name of a host in lower case; no
/// protocol is empty; and an error is a line.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (sizes, hello) = bytes.split_at(at);
    // From 1 to 32 bytes, in turn.
    let sizes: Vec<usize> = sizes.iter().map(|byte| usize::from(byte % 32) + 1).collect();
    let (said, after) = read(hello, &[1]);
    if !sizes.is_empty() {
        let (piecewise, no_sooner) = read(hello, &sizes);
        assert_eq!(piecewise, said, "in pieces of {sizes:?}");
        assert!(no_sooner >= after && no_sooner < after + 32);
    }
    assert_eq!(HelloReader::default().feed(hello), said, "at once");
    assert_eq!(HelloReader::default().feed(&hello[..after]), said, "without what follows");
    match said {
        Err(error) => line::check(&error.to_string(), &[]),
        Ok(None) => assert_eq!(after, hello.len()),
        Ok(Some(said)) => {
            if let Some(name) = said.name {
                let of_host =
                    |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
                assert!((1..=253).contains(&name.len()) && name.bytes().all(of_host), "{name:?}");
            }
            assert!(said.protocols.iter().all(|protocol| !protocol.is_empty()));
        }
    }
}

/// Reads in pieces of these sizes, over and over: what was said, and after how many bytes.
fn read(bytes: &[u8], sizes: &[usize]) -> Read {
    let (mut reader, mut used) = (HelloReader::default(), 0);
    for size in sizes.iter().cycle() {
        let piece = &bytes[used..bytes.len().min(used + size)];
        used += piece.len();
        let said = reader.feed(piece);
        if said != Ok(None) || used == bytes.len() {
            return (said, used);
        }
    }
    (Ok(None), used)
}
