//! What a TLS client asks for before anything is encrypted: the server's name and the protocols it would speak.
//!
//! For whoever passes TLS on without ending it. The bytes stay where they are: the ClientHello belongs to the server.
//! It is read as far as server_name (RFC 6066, section 3) and application_layer_protocol_negotiation (RFC 7301) need, from
//! the records and messages of TLS 1.0 to 1.3 (RFC 8446, sections 4.1.2 and 5.1), however they are cut into records and
//! pieces. Where the client encrypts its hello (ECH), the name is the public one of who can read it.

mod reader;

use waterwheel_reactor::Time;

use super::connection::Connection;
use super::peek::PeekError;

pub use reader::HelloReader;

/// The most bytes of a hello that are looked at, unless somebody wants more: those of one record without its head. Hellos
/// of today's browsers, with keys of a kind that withstands quantum computers, have about 2 KiB.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host that it wants, in lower case and without a dot at its end; `None`: it does not say, or names an address,
    /// which is none (RFC 6066, section 3).
    pub name: Option<String>,
    /// The protocols that it would speak, the favourite first, as in `h2`. Empty if it does not say.
    pub protocols: Vec<Vec<u8>>,
}

/// What a client sent that is no hello. Always the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HelloError {
    /// It does not begin as TLS does.
    #[error("this is not TLS")]
    NotTls,
    /// It begins as TLS does and goes on otherwise.
    #[error("the ClientHello is wrong: {0}")]
    Malformed(&'static str),
}

/// Why it is not known what a client asks for. What arrived is put back unless the connection broke.
#[derive(Debug, thiserror::Error)]
pub enum PeekHelloError {
    /// What the client sent.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// It did not send enough in time, or too much, or the connection broke.
    #[error("no ClientHello")]
    Peek(#[from] PeekError),
}

/// Looks at the hello of a TLS client. Nothing is consumed.
///
/// # Errors
/// What came is none, or not in time, or longer than `most` bytes, [`HELLO_BYTES_MAX`] as a rule.
pub async fn peek_client_hello(
    connection: &mut Connection,
    most: usize,
    deadline: Time,
) -> Result<ClientHello, PeekHelloError> {
    let mut reader = HelloReader::default();
    let look = |all: &[u8], before: usize| match reader.feed(&all[before..]) {
        Ok(None) => None,
        Ok(Some(hello)) => Some((Ok(hello), 0)),
        Err(error) => Some((Err(error), 0)),
    };
    Ok(connection.peek_until(deadline, most, look).await??)
}

#[cfg(test)]
mod tests;
