//! The PROXY protocol: what a proxy says about a client before the client's own first byte.
//!
//! The peer of a connection that came through a proxy is the proxy. With this protocol ([HAProxy's
//! `doc/proxy-protocol.txt`][text]) the proxy sends one header first, with the addresses that it saw: a line of text
//! (version 1), or a block of bytes (version 2), which can carry more ([`Extra`]). Whoever can send such a header can claim
//! any address, so it is believed from [trusted sources](HeaderPolicy) only.
//!
//! | | |
//! |---|---|
//! | [`parse`] | a header at the start of the bytes that have arrived so far, however they were cut |
//! | [`ProxyHeader::encode`] | a header to send |
//! | [`read_header`], [`try_header`] | the header of a connection, which must or may have one, by a deadline |
//! | [`HeaderPolicy`] | the same, with regard to who the peer is |
//!
//! [text]: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
//!
//! Strict on purpose: what could be read in two ways is an error. Where senders differ in practice, an IPv6 address of a
//! line may end in dotted digits, as inet_ntop(3) writes those that are mapped.

mod block;
mod checksum;
mod extra;
mod line;
mod policy;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use waterwheel_reactor::{Address, Time};

use super::connection::Connection;
use super::peek::PeekError;

pub use block::BlockFault;
pub use extra::{Extra, TlsExtra, TlsFacts, UNIQUE_ID_BYTES_MAX};
pub use line::{LINE_BYTES_MAX, LineFault};
pub use policy::{HeaderPolicy, Others, TrustedSource, TrustedSourceError, Wanted};

/// A header of version 2 is at most so long unless somebody wants more; those of HAProxy with everything that it can say
/// have some hundred bytes.
pub const HEADER_BYTES_MAX: usize = 4 * 1024;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// A line of text: TCP over IPv4 or IPv6, and nothing else.
    One,
    /// Bytes.
    Two,
}

/// A PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// How it is written.
    pub version: Version,
    /// What it says about whose connection this is.
    pub subject: Subject,
    /// What else it says, in order. Version 2 only: version 1 leaves it out.
    pub extras: Vec<Extra>,
    /// Version 2 only: it has a checksum of itself. One that does not fit is an error of [`parse`].
    pub checksum: bool,
}

/// Whose connection follows a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The sender's own, as for a health check (LOCAL). Its addresses are those of the connection itself.
    Own,
    /// Somebody's of whom the sender does not tell (UNKNOWN, UNSPEC). The connection's own addresses have to do.
    Unknown,
    /// Somebody's.
    Relayed(Relayed),
}

/// The connection, or the flow of datagrams, that a proxy relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The client.
    pub source: Address,
    /// Where the client connected to; of the same family.
    pub destination: Address,
    /// It is relayed from datagrams (UDP), and not from a stream. Version 2 only.
    pub datagrams: bool,
}

/// What a peer sent that is no PROXY header, or none that can be believed. Always the peer's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else, up to the byte that tells.
    #[error("this is no PROXY header: {0}")]
    Absent(Excerpt),
    /// A header of version 1 that is wrong.
    #[error("PROXY header {line}: {fault}")]
    Line {
        /// The line, or its beginning.
        line: Excerpt,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// A header of version 2 that is wrong.
    #[error("PROXY header of version 2: {0}")]
    Block(#[from] BlockFault),
}

/// A header that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A Unix socket's name that does not survive being padded with zeroes to 108 bytes: too long, or a path that
    /// contains one, or an abstract name that ends in one.
    #[error("the name of {0} cannot be said in a PROXY header")]
    Name(Address),
    /// An internet address and a Unix socket.
    #[error("a PROXY header cannot say that {source_end} is connected to {destination}")]
    Families {
        /// From where.
        source_end: Address,
        /// To where.
        destination: Address,
    },
    /// A value, or the header, whose length does not fit into 16 bits, or a unique id of more than
    /// [`UNIQUE_ID_BYTES_MAX`] bytes.
    #[error("{bytes} bytes are too many for a PROXY header or a value in it")]
    TooLong {
        /// How many there would have to be.
        bytes: usize,
    },
}

/// What a peer sent, as an error shows it: in quotes, escaped, and cut after 120 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Excerpt(Vec<u8>);

/// Longer than a line of version 1.
const EXCERPT_BYTES_MAX: usize = 120;

impl Excerpt {
    fn of(bytes: &[u8]) -> Excerpt {
        Excerpt(bytes[..bytes.len().min(EXCERPT_BYTES_MAX)].to_vec())
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses the header at the start of `bytes`, of either version: the header and its length, or `None` if it goes on
/// beyond the bytes given. The answer to a whole header does not depend on what follows it; an error is found at the
/// first byte that makes one, and stays the same with more behind it. A header of version 2 has at most `most` bytes.
///
/// # Errors
/// What begins there can never become a header.
pub fn parse(bytes: &[u8], most: usize) -> Result<Option<(ProxyHeader, usize)>, HeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(first) if *first == block::SIGNATURE[0] => block::parse(bytes, most),
        Some(_) => line::parse(bytes),
    }
}

/// Checks that `bytes` begin with `sign`, as far as they go; `true` if all of it is there.
fn begins(bytes: &[u8], sign: &[u8]) -> Result<bool, HeaderError> {
    match bytes.iter().zip(sign).position(|(is, wanted)| is != wanted) {
        Some(at) => Err(HeaderError::Absent(Excerpt::of(&bytes[..=at]))),
        None => Ok(bytes.len() >= sign.len()),
    }
}

impl ProxyHeader {
    /// A header with nothing but its subject.
    pub fn new(version: Version, subject: Subject) -> ProxyHeader {
        ProxyHeader { version, subject, extras: Vec::new(), checksum: false }
    }

    /// The client, unless its address is that of the connection itself.
    pub fn source(&self) -> Option<&Address> {
        match &self.subject {
            Subject::Relayed(relayed) => Some(&relayed.source),
            Subject::Own | Subject::Unknown => None,
        }
    }

    /// The name of the host that the client asked for, as in TLS's server_name.
    pub fn authority(&self) -> Option<&str> {
        self.extras.iter().find_map(|extra| match extra {
            Extra::Authority(name) => Some(&**name),
            _ => None,
        })
    }

    /// The header as bytes, to be sent before anything else. Addresses of which one is IPv4 and one IPv6 become IPv6 both,
    /// and what version 1 cannot say becomes UNKNOWN there.
    ///
    /// # Errors
    /// A name or a value that has no place in a header.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self.version {
            Version::One => Ok(line::encode(&self.subject)),
            Version::Two => block::encode(self),
        }
    }
}

/// Two internet addresses as they are written: of one family.
fn of_one_family(source: SocketAddr, destination: SocketAddr) -> [SocketAddr; 2] {
    if source.is_ipv4() == destination.is_ipv4() {
        return [source, destination];
    }
    let six = |at: SocketAddr| match at.ip() {
        IpAddr::V4(four) => SocketAddr::from((four.to_ipv6_mapped(), at.port())),
        IpAddr::V6(_) => at,
    };
    [six(source), six(destination)]
}

/// Why a connection's header could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadHeaderError {
    /// What the peer sent.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It came too late, or not to its end, or the connection broke.
    #[error("no PROXY header")]
    Peek(#[from] PeekError),
    /// The peer may not say who it speaks for.
    #[error("{peer} is none of the trusted sources of a PROXY header")]
    NotTrusted {
        /// Who that is.
        peer: Address,
    },
}

/// Reads the header of a connection, of either version, and not a byte behind it. A header of version 2 has at most
/// `most` bytes.
///
/// # Errors
/// What came is none, or not in time. What arrived may be put back then, or not: [abort](Connection::abort) the
/// connection.
pub async fn read_header(
    connection: &mut Connection,
    most: usize,
    deadline: Time,
) -> Result<ProxyHeader, ReadHeaderError> {
    let most = most.max(LINE_BYTES_MAX);
    let look = |all: &[u8], _| match parse(all, most) {
        Ok(None) => None,
        Ok(Some((header, length))) => Some((Ok(header), length)),
        Err(error) => Some((Err(error), 0)),
    };
    Ok(connection.peek_until(deadline, most, look).await??)
}

/// As [`read_header`], but `None`, with nothing consumed, if the connection begins with something else. The protocol
/// forbids to guess, since anybody could pretend to be a proxy then: do so only where all that may come are trusted.
///
/// # Errors
/// A header that is wrong; or nothing came in time, or too little to tell.
pub async fn try_header(
    connection: &mut Connection,
    most: usize,
    deadline: Time,
) -> Result<Option<ProxyHeader>, ReadHeaderError> {
    match read_header(connection, most, deadline).await {
        Ok(header) => Ok(Some(header)),
        // What arrived was put back.
        Err(ReadHeaderError::Header(HeaderError::Absent(_))) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The address of IPv6 that a line can show without dots.
fn in_groups(six: Ipv6Addr) -> impl fmt::Display {
    let mapped = six.to_ipv4_mapped();
    fmt::from_fn(move |f| match mapped {
        Some(_) => {
            let [.., high, low] = six.segments();
            write!(f, "::ffff:{high:x}:{low:x}")
        }
        None => write!(f, "{six}"),
    })
}

#[cfg(test)]
mod tests;
