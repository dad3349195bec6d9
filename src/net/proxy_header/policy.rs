//! Whose headers are believed.

use std::fmt;
use std::str::FromStr;

use waterwheel_reactor::{Address, Time};

use super::{HEADER_BYTES_MAX, ProxyHeader, ReadHeaderError, Version, read_header, try_header};
use crate::net::quoted::Quoted;
use crate::net::{Connection, Network, NetworkError};

/// Who is believed, and what becomes of the others.
///
/// | | wanted: require | wanted: accept |
/// |---|---|---|
/// | trusted, begins with a header | it is read | it is read |
/// | trusted, begins otherwise | an error | served as it is |
/// | trusted, says nothing by the deadline | an error | an error |
/// | trusted, a wrong header | an error | an error |
/// | not trusted, others: refuse | an error, at once | an error, at once |
/// | not trusted, others: pass | served as it is, whatever it sends | served as it is, whatever it sends |
///
/// Who is not trusted is never believed, and what they send is not even looked at. The peer is who the connection itself
/// comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPolicy {
    /// Whether a trusted source has to send a header.
    pub wanted: Wanted,
    /// Who is believed.
    pub trusted: Vec<TrustedSource>,
    /// What becomes of the others.
    pub others: Others,
    /// The most bytes of a header of version 2, at least those of a line. Default [`HEADER_BYTES_MAX`].
    pub bytes_most: usize,
}

/// Whether a trusted source has to send a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It may. Where the server speaks first, a client without a header waits for it until the deadline: then require it.
    Accept,
    /// It must, as the protocol's text says.
    Require,
}

/// What becomes of those who are not trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// Their connections are an error.
    #[default]
    Refuse,
    /// They are served, and what looks like a header is passed on as a part of what they send.
    Pass,
}

/// Somebody whose headers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrustedSource {
    /// Whoever connects from one of these addresses: `10.0.0.0/8`.
    Network(Network),
    /// Whoever may connect to a Unix socket of ours: `unix`.
    Unix,
}

/// A text that is no trusted source. Shows the text, what is wrong and what is allowed in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}, or unix")]
pub struct TrustedSourceError(#[from] NetworkError);

impl TrustedSource {
    /// Whether a peer is meant by it.
    pub fn matches(&self, peer: &Address) -> bool {
        match (self, peer) {
            (TrustedSource::Network(network), Address::Inet(at)) => network.contains(at.ip()),
            (TrustedSource::Unix, Address::Unix(_)) => true,
            _ => false,
        }
    }
}

impl fmt::Display for TrustedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedSource::Network(network) => network.fmt(f),
            TrustedSource::Unix => f.write_str("unix"),
        }
    }
}

impl FromStr for TrustedSource {
    type Err = TrustedSourceError;

    fn from_str(text: &str) -> Result<TrustedSource, TrustedSourceError> {
        if text == "unix" {
            return Ok(TrustedSource::Unix);
        }
        Ok(TrustedSource::Network(text.parse()?))
    }
}

impl HeaderPolicy {
    /// With the defaults: others are refused.
    pub fn new(wanted: Wanted, trusted: Vec<TrustedSource>) -> HeaderPolicy {
        HeaderPolicy { wanted, trusted, others: Others::default(), bytes_most: HEADER_BYTES_MAX }
    }

    /// Whether a peer is believed.
    pub fn trusts(&self, peer: &Address) -> bool {
        self.trusted.iter().any(|source| source.matches(peer))
    }

    /// Reads the header of a connection, or leaves it as it is where there is none to be believed.
    ///
    /// # Errors
    /// As [`read_header`], or the peer is not trusted.
    pub async fn read(
        &self,
        connection: &mut Connection,
        deadline: Time,
    ) -> Result<Option<ProxyHeader>, ReadHeaderError> {
        let peer = connection.peer().map_err(super::PeekError::from)?;
        match (self.trusts(&peer), self.wanted, self.others) {
            (true, Wanted::Require, _) => read_header(connection, self.bytes_most, deadline).await.map(Some),
            (true, Wanted::Accept, _) => try_header(connection, self.bytes_most, deadline).await,
            (false, _, Others::Refuse) => Err(ReadHeaderError::NotTrusted { peer }),
            (false, _, Others::Pass) => Ok(None),
        }
    }
}

macro_rules! words {
    ($kind:ident, $what:literal, $($word:literal => $value:ident),+) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $($kind::$value => $word,)+
                })
            }
        }

        impl FromStr for $kind {
            type Err = String;

            fn from_str(text: &str) -> Result<$kind, String> {
                match text {
                    $($word => Ok($kind::$value),)+
                    _ => Err(format!("{} is no {}; allowed: {}", Quoted(text), $what, [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(Version, "version of the PROXY protocol", "v1" => One, "v2" => Two);
words!(Wanted, "way to take PROXY headers", "accept" => Accept, "require" => Require);
words!(Others, "way to treat who is not trusted", "refuse" => Refuse, "pass" => Pass);
