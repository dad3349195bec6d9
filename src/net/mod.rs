//! Connections, listeners and endpoints of one shard.

mod accepting;
pub mod client_hello;
mod connect;
mod connection;
mod endpoint;
mod exchange;
mod futures;
mod hand_over;
pub mod http1;
mod linger;
mod listener;
mod lookup;
pub(crate) mod names;
mod network;
mod offered;
mod peek;
mod places;
pub mod proxy_header;
mod pump;
mod queue;
pub(crate) mod quoted;
pub(crate) mod reserve;

pub use connection::{Connection, Receiving, Sending};
pub(crate) use endpoint::is_host_name;
pub use endpoint::{Endpoint, EndpointError, EndpointFault};
pub use exchange::{End, Exchange, Pump};
pub(crate) use linger::lingered;
pub(crate) use listener::Steering;
pub use listener::{Acceptor, Listening};
pub use lookup::{Lookups, ResolveError};
pub use network::{Network, NetworkError, NetworkFault};
pub use peek::PeekError;
pub use places::Places;
pub use pump::pump;
pub use queue::{AcceptCounters, AcceptStats};
