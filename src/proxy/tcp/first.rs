//! What is read of a client before anything is passed on: a PROXY header, and the server's name that it asks for.

use std::net::IpAddr;

use waterwheel_reactor::{Address, Time};

use super::routes::Routes;
use super::settings::Settings;
use crate::net::client_hello::{ClientHello, HELLO_BYTES_MAX, HelloError, PeekHelloError, peek_client_hello};
use crate::net::proxy_header::{Extra, ProxyHeader, ReadHeaderError, Relayed, Subject, Version};
use crate::net::{Connection, PeekError};

/// What follows from a client's first bytes.
#[derive(Debug, Default)]
pub(super) struct First {
    /// The place of the group of its upstreams.
    pub(super) group: usize,
    /// Who a believed header says that the client is.
    pub(super) client: Option<IpAddr>,
    /// The same with the port; for the log.
    pub(super) source: Option<Address>,
    /// The server's name that was asked for; for the log.
    pub(super) sni: Option<String>,
    /// What the upstream is told first; usually nothing.
    pub(super) header: Vec<u8>,
}

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Header(#[from] ReadHeaderError),
    #[error(transparent)]
    Hello(#[from] PeekHelloError),
    #[error("no upstream is for {}", .name.as_deref().unwrap_or("who asks for no server's name"))]
    NoRoute { name: Option<String> },
}

impl Refusal {
    /// What the peek met, if it was that.
    pub(super) fn peek(&self) -> Option<&PeekError> {
        match self {
            Refusal::Header(ReadHeaderError::Peek(error)) | Refusal::Hello(PeekHelloError::Peek(error)) => {
                Some(error)
            }
            _ => None,
        }
    }
}

/// The header that is believed, if there is one. What is none stays where it is.
pub(super) async fn header(
    settings: &Settings,
    client: &mut Connection,
    deadline: Time,
) -> Result<Option<ProxyHeader>, Refusal> {
    match &settings.header {
        Some(policy) => Ok(policy.read(client, deadline).await?),
        None => Ok(None),
    }
}

/// Who the client is: who a believed header says, else who connected. Unix sockets have nobody to tell.
pub(super) fn client(said: Option<&ProxyHeader>, connection: &Connection) -> Option<IpAddr> {
    let believed = said.and_then(ProxyHeader::source).and_then(Address::inet);
    Some(believed.or_else(|| connection.peer().ok()?.inet())?.ip())
}

/// Reads what else the settings ask for, and says what follows from it and the header.
pub(super) async fn read(
    settings: &Settings,
    routes: &Routes,
    client: &mut Connection,
    said: Option<ProxyHeader>,
    deadline: Time,
) -> Result<First, Refusal> {
    let source = said.as_ref().and_then(ProxyHeader::source).cloned();
    let believed = source.as_ref().and_then(Address::inet).map(|source| source.ip());
    let (mut group, mut hello) = (0, ClientHello::default());
    if !routes.is_empty() {
        hello = match peek_client_hello(client, HELLO_BYTES_MAX, deadline).await {
            Err(PeekHelloError::Hello(HelloError::NotTls)) => hello,
            peeked => peeked?,
        };
        let place = hello.name.as_deref().and_then(|name| routes.group(name));
        let default = (!settings.upstreams.is_empty()).then_some(0);
        group = place.or(default).ok_or_else(|| Refusal::NoRoute { name: hello.name.clone() })?;
    }
    let header = settings.send_header.map(|version| told(version, client, said, hello.name.clone()));
    Ok(First { group, client: believed, source, sni: hello.name, header: header.unwrap_or_default() })
}

/// What an upstream is told: what a believed header said, else what this connection says by itself.
fn told(version: Version, client: &Connection, said: Option<ProxyHeader>, name: Option<String>) -> Vec<u8> {
    let said = said.unwrap_or(ProxyHeader::new(version, Subject::Unknown));
    let subject = match said.subject {
        Subject::Relayed(relayed) => Subject::Relayed(relayed),
        Subject::Own | Subject::Unknown => own(client).unwrap_or(Subject::Unknown),
    };
    // Padding has done its work.
    let extras = said.extras.into_iter().filter(|extra| !matches!(extra, Extra::Padding(_)));
    let mut header = ProxyHeader { version, subject, extras: extras.collect(), checksum: true };
    if header.authority().is_none() {
        header.extras.extend(name.map(Extra::Authority));
    }
    header.encode().unwrap_or_else(|error| {
        // The names of our own Unix sockets may have no place in a header.
        tracing::debug!("an upstream is not told who a client is: {error}");
        ProxyHeader::new(version, Subject::Unknown).encode().unwrap_or_default()
    })
}

/// The ends of the client's connection, IPv4 as such where it came mapped.
fn own(client: &Connection) -> Option<Subject> {
    let plain = |address: Address| address.inet().map_or(address, Address::Inet);
    let (source, destination) = (plain(client.peer().ok()?), plain(client.local().ok()?));
    Some(Subject::Relayed(Relayed { source, destination, datagrams: false }))
}
