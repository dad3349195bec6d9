//! Version 1: a line of text (section 2.1).

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use waterwheel_reactor::Address;

use super::{Excerpt, HeaderError, ProxyHeader, Relayed, Subject, Version, begins, in_groups, of_one_family};

/// A line is at most so long, with its end: `PROXY UNKNOWN`, two of the longest addresses, two ports.
pub const LINE_BYTES_MAX: usize = 107;

const SIGNATURE: &[u8] = b"PROXY ";

/// What is wrong with a header of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LineFault {
    /// The end is missing.
    #[error("it does not end with CRLF within {LINE_BYTES_MAX} bytes")]
    Endless,
    /// CR without LF, or LF without CR.
    #[error("CR and LF do not stand together")]
    HalfAnEnd,
    /// The family.
    #[error("the family is none of TCP4, TCP6, UNKNOWN")]
    Family,
    /// Behind the family.
    #[error("what follows the family is not two addresses and two ports, each behind one space")]
    Fields,
    /// The client's address.
    #[error("the source is not an address of that family")]
    Source,
    /// The address that the client connected to.
    #[error("the destination is not an address of that family")]
    Destination,
    /// The client's port.
    #[error("the source's port is not a number from 0 to 65535 without leading zeroes")]
    SourcePort,
    /// The port that the client connected to.
    #[error("the destination's port is not a number from 0 to 65535 without leading zeroes")]
    DestinationPort,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, HeaderError> {
    if !begins(bytes, SIGNATURE)? {
        return Ok(None);
    }
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let wrong = |line: &[u8], fault| HeaderError::Line { line: Excerpt::of(line), fault };
    // As the text has it, nothing is decoded before the end is there.
    let Some(at) = within.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if within.len() < LINE_BYTES_MAX { Ok(None) } else { Err(wrong(within, LineFault::Endless)) };
    };
    let line = &within[..at];
    match (within[at], within.get(at + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) if within.len() < LINE_BYTES_MAX => return Ok(None),
        (b'\r', None) => return Err(wrong(within, LineFault::Endless)),
        _ => return Err(wrong(line, LineFault::HalfAnEnd)),
    }
    let subject = subject(&line[SIGNATURE.len()..]).map_err(|fault| wrong(line, fault))?;
    Ok(Some((ProxyHeader::new(Version::One, subject), at + 2)))
}

fn subject(fields: &[u8]) -> Result<Subject, LineFault> {
    let mut parts = fields.split(|byte| *byte == b' ');
    let family = parts.next().unwrap_or_default();
    // Whatever follows has to be ignored.
    if family == b"UNKNOWN" {
        return Ok(Subject::Unknown);
    }
    if !matches!(family, b"TCP4" | b"TCP6") {
        return Err(LineFault::Family);
    }
    let parts: Vec<&[u8]> = parts.take(5).collect();
    let [source, destination, source_port, destination_port] = parts[..] else {
        return Err(LineFault::Fields);
    };
    let address = |text, fault| ip(text, family == b"TCP4").ok_or(fault);
    let (source, destination) =
        (address(source, LineFault::Source)?, address(destination, LineFault::Destination)?);
    let source_port = port(source_port).ok_or(LineFault::SourcePort)?;
    let destination_port = port(destination_port).ok_or(LineFault::DestinationPort)?;
    let at = |ip, port| Address::Inet(SocketAddr::new(ip, port));
    Ok(Subject::Relayed(Relayed {
        source: at(source, source_port),
        destination: at(destination, destination_port),
        datagrams: false,
    }))
}

/// The standard's parsers take neither leading zeroes in IPv4 addresses nor zones in IPv6 ones.
fn ip(text: &[u8], four: bool) -> Option<IpAddr> {
    fn read<T: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
        text.parse::<T>().ok().map(Into::into)
    }
    let text = str::from_utf8(text).ok()?;
    if four { read::<std::net::Ipv4Addr>(text) } else { read::<std::net::Ipv6Addr>(text) }
}

fn port(text: &[u8]) -> Option<u16> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let leading_zero = text.len() > 1 && text[0] == b'0';
    if !digits || leading_zero {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

pub(super) fn encode(subject: &Subject) -> Vec<u8> {
    let line = match subject {
        Subject::Relayed(Relayed {
            source: Address::Inet(source),
            destination: Address::Inet(destination),
            datagrams: false,
        }) => {
            let [source, destination] = of_one_family(*source, *destination);
            let (from, to) = (source.port(), destination.port());
            match (source.ip(), destination.ip()) {
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    format!("TCP6 {} {} {from} {to}", in_groups(source), in_groups(destination))
                }
                (source, destination) => format!("TCP4 {source} {destination} {from} {to}"),
            }
        }
        _ => "UNKNOWN".to_owned(),
    };
    format!("PROXY {line}\r\n").into_bytes()
}
