//! What a header of version 2 can say besides: values with a type and a length (section 2.2, "TLV").

use super::EncodeError;
use super::block::BlockFault;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
pub(super) const CHECKSUM: u8 = 0x03;
const PADDING: u8 = 0x04;
const UNIQUE_ID: u8 = 0x05;
const TLS: u8 = 0x20;
const TLS_VERSION: u8 = 0x21;
const TLS_COMMON_NAME: u8 = 0x22;
const TLS_CIPHER: u8 = 0x23;
const TLS_SIGNATURE: u8 = 0x24;
const TLS_KEY: u8 = 0x25;
const NAMESPACE: u8 = 0x30;

/// A unique id has at most so many bytes (section 2.2.5).
pub const UNIQUE_ID_BYTES_MAX: usize = 128;

/// The bytes of a type and a length.
pub(super) const HEAD_BYTES: usize = 3;
/// The bytes of [`TlsFacts`] before its own extras.
const TLS_HEAD_BYTES: usize = 5;

/// Something that a header of version 2 says besides addresses. The checksum is none of these:
/// [`ProxyHeader::checksum`](super::ProxyHeader::checksum).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The protocol that follows, as TLS names it (RFC 7301): `h2`.
    Alpn(Vec<u8>),
    /// The host name that the client asked for.
    Authority(String),
    /// So many bytes that say nothing.
    Padding(usize),
    /// Names the connection, through all proxies. At most [`UNIQUE_ID_BYTES_MAX`] bytes.
    UniqueId(Vec<u8>),
    /// The client speaks TLS to the proxy.
    Tls(TlsFacts),
    /// The name of the network namespace in which the proxy has the connection. ASCII.
    Namespace(String),
    /// What has no name here: of types for applications (0xE0 to 0xEF), for experiments (0xF0 to 0xF7), or later ones.
    Other {
        /// The type; none of the above, nor that of the checksum (0x03).
        kind: u8,
        /// The value.
        value: Vec<u8>,
    },
}

/// What a proxy says of the TLS that it speaks with the client (section 2.2.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Bits: [`OVER_TLS`](TlsFacts::OVER_TLS) and the other two.
    pub client: u8,
    /// Zero if the client has shown a certificate which was verified.
    pub verify: u32,
    /// Further facts, in order.
    pub extras: Vec<TlsExtra>,
}

/// A fact about a client's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsExtra {
    /// `TLSv1.3`. ASCII.
    Version(String),
    /// The common name in the client's certificate.
    CommonName(String),
    /// `ECDHE-RSA-AES128-GCM-SHA256`. ASCII.
    Cipher(String),
    /// How the proxy's certificate is signed: `RSA-SHA256`. ASCII.
    Signature(String),
    /// The key of the proxy's certificate: `RSA2048`. ASCII.
    Key(String),
    /// What has no name here.
    Other {
        /// The type; none of 0x21 to 0x25.
        kind: u8,
        /// The value.
        value: Vec<u8>,
    },
}

impl TlsFacts {
    /// The client is connected over TLS.
    pub const OVER_TLS: u8 = 0x01;
    /// It has shown a certificate on this connection.
    pub const CERTIFICATE_NOW: u8 = 0x02;
    /// It has shown a certificate at least once in this TLS session.
    pub const CERTIFICATE_BEFORE: u8 = 0x04;

    /// Whether the client has shown a certificate which was verified.
    pub fn is_verified(&self) -> bool {
        let shown = Self::CERTIFICATE_NOW | Self::CERTIFICATE_BEFORE;
        self.client & shown != 0 && self.verify == 0
    }

    fn parse(value: &[u8]) -> Result<TlsFacts, BlockFault> {
        let Some((head, rest)) = value.split_first_chunk::<TLS_HEAD_BYTES>() else {
            return Err(BlockFault::ShortTls { bytes: value.len() });
        };
        let [client, verify @ ..] = *head;
        let extras = values(rest).map(|read| read.and_then(|(kind, value)| TlsExtra::parse(kind, value)));
        Ok(TlsFacts { client, verify: u32::from_be_bytes(verify), extras: extras.collect::<Result<_, _>>()? })
    }

    fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut value = vec![self.client];
        value.extend_from_slice(&self.verify.to_be_bytes());
        for extra in &self.extras {
            let (kind, bytes) = match extra {
                TlsExtra::Version(text) => (TLS_VERSION, text.as_bytes()),
                TlsExtra::CommonName(text) => (TLS_COMMON_NAME, text.as_bytes()),
                TlsExtra::Cipher(text) => (TLS_CIPHER, text.as_bytes()),
                TlsExtra::Signature(text) => (TLS_SIGNATURE, text.as_bytes()),
                TlsExtra::Key(text) => (TLS_KEY, text.as_bytes()),
                TlsExtra::Other { kind, value } => (*kind, &**value),
            };
            put(&mut value, kind, bytes)?;
        }
        Ok(value)
    }
}

impl TlsExtra {
    fn parse(kind: u8, value: &[u8]) -> Result<TlsExtra, BlockFault> {
        Ok(match kind {
            TLS_VERSION => TlsExtra::Version(ascii(kind, value)?),
            TLS_COMMON_NAME => TlsExtra::CommonName(text(kind, value)?),
            TLS_CIPHER => TlsExtra::Cipher(ascii(kind, value)?),
            TLS_SIGNATURE => TlsExtra::Signature(ascii(kind, value)?),
            TLS_KEY => TlsExtra::Key(ascii(kind, value)?),
            kind => TlsExtra::Other { kind, value: value.to_vec() },
        })
    }
}

impl Extra {
    pub(super) fn parse(kind: u8, value: &[u8]) -> Result<Extra, BlockFault> {
        Ok(match kind {
            ALPN => Extra::Alpn(value.to_vec()),
            AUTHORITY => Extra::Authority(text(kind, value)?),
            PADDING => Extra::Padding(value.len()),
            UNIQUE_ID if value.len() > UNIQUE_ID_BYTES_MAX => {
                return Err(BlockFault::LongUniqueId { bytes: value.len() });
            }
            UNIQUE_ID => Extra::UniqueId(value.to_vec()),
            TLS => Extra::Tls(TlsFacts::parse(value)?),
            NAMESPACE => Extra::Namespace(ascii(kind, value)?),
            kind => Extra::Other { kind, value: value.to_vec() },
        })
    }

    pub(super) fn encode(&self, to: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Extra::Alpn(value) => put(to, ALPN, value),
            Extra::Authority(name) => put(to, AUTHORITY, name.as_bytes()),
            Extra::Padding(bytes) if *bytes > usize::from(u16::MAX) => {
                Err(EncodeError::TooLong { bytes: *bytes })
            }
            Extra::Padding(bytes) => put(to, PADDING, &vec![0; *bytes]),
            Extra::UniqueId(value) if value.len() > UNIQUE_ID_BYTES_MAX => {
                Err(EncodeError::TooLong { bytes: value.len() })
            }
            Extra::UniqueId(value) => put(to, UNIQUE_ID, value),
            Extra::Tls(facts) => put(to, TLS, &facts.encode()?),
            Extra::Namespace(name) => put(to, NAMESPACE, name.as_bytes()),
            Extra::Other { kind, value } => put(to, *kind, value),
        }
    }
}

/// The values that follow each other, as far as they are whole.
pub(super) fn values(bytes: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), BlockFault>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = std::mem::take(&mut rest);
        let Some(([kind, length @ ..], after)) = cut.split_first_chunk::<HEAD_BYTES>() else {
            return Some(Err(BlockFault::CutExtra { bytes: cut.len() }));
        };
        let Some((value, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            return Some(Err(BlockFault::CutExtra { bytes: cut.len() }));
        };
        rest = after;
        Some(Ok((*kind, value)))
    })
}

pub(super) fn put(to: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), EncodeError> {
    let length =
        u16::try_from(value.len()).map_err(|_| EncodeError::TooLong { bytes: value.len() + HEAD_BYTES })?;
    to.push(kind);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(value);
    Ok(())
}

fn text(kind: u8, value: &[u8]) -> Result<String, BlockFault> {
    str::from_utf8(value).map(str::to_owned).map_err(|_| BlockFault::NoText { kind })
}

fn ascii(kind: u8, value: &[u8]) -> Result<String, BlockFault> {
    if value.is_ascii() { text(kind, value) } else { Err(BlockFault::NoText { kind }) }
}
