//! Connections, listeners and endpoints of one shard.

mod accepting;
pub mod client_hello;
pub mod codec;
mod connect;
mod connection;
pub mod datagram;
mod endpoint;
mod exchange;
mod futures;
mod hand_over;
pub mod http1;
pub mod layer;
mod linger;
mod listener;
mod lookup;
pub(crate) mod names;
mod network;
mod offered;
mod peek;
mod places;
pub mod protocol;
pub mod proxy_header;
mod pump;
mod queue;
pub(crate) mod quota;
pub(crate) mod quoted;
pub(crate) mod reserve;
#[cfg(test)]
mod spread;
pub(crate) mod units;

pub use connection::{Connection, Receiving, Sending};
pub(crate) use endpoint::is_host_name;
pub use endpoint::{Endpoint, EndpointError, EndpointFault};
pub use exchange::{End, Exchange, Pump};
pub(crate) use linger::lingered;
pub use listener::{Acceptor, Leaving, Listening};
pub(crate) use listener::{SparePorts, Steering};
pub use lookup::{Lookups, ResolveError};
pub use network::{Network, NetworkError, NetworkFault};
pub(crate) use offered::Offered;
pub use peek::PeekError;
pub use places::Places;
pub use pump::pump;
pub(crate) use queue::AcceptedBy;
pub use queue::{AcceptCounters, AcceptStats};
