//! Where datagrams are received or sent to, as an operator writes it.

use std::fmt;
use std::str::FromStr;

use waterwheel_reactor::Address;

use crate::net::{Endpoint, EndpointError};

/// Where datagrams are received or sent to: as an [`Endpoint`], with `udp:` in place of `tcp:`. `udp:` may be left out.
///
/// ```
/// use waterwheel::net::datagram::DatagramEndpoint;
/// assert_eq!("*:53".parse::<DatagramEndpoint>()?.to_string(), "udp:0.0.0.0:53");
/// assert!("tcp:127.0.0.1:53".parse::<DatagramEndpoint>().is_err(), "a stream");
/// # Ok::<(), waterwheel::net::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatagramEndpoint(Endpoint);

impl DatagramEndpoint {
    /// Its address, if it is written as one: see [`Endpoint::literal`].
    pub fn literal(&self) -> Option<Address> {
        self.0.literal()
    }

    /// The UDP port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        self.0.port()
    }

    /// Checks that one can send to it: see [`Endpoint::check_target`].
    ///
    /// # Errors
    /// For port 0 and for "every interface".
    pub fn check_target(&self) -> Result<(), EndpointError> {
        self.0.check_target()
    }

    /// What can be looked up ([`Shard::resolve`](crate::shard::Shard::resolve), [`Endpoint::resolve_blocking`]). It connects
    /// nowhere: shown it says `udp:`, and what reads that as an endpoint refuses it.
    pub fn as_endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl fmt::Display for DatagramEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DatagramEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<DatagramEndpoint, EndpointError> {
        Endpoint::for_datagrams(text).map(DatagramEndpoint)
    }
}
