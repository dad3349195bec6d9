//! Connections, listeners and endpoints of one shard.

mod accepting;
mod connect;
mod connection;
mod endpoint;
mod exchange;
mod futures;
pub mod http1;
mod linger;
mod listener;
mod lookup;
pub(crate) mod names;
mod pump;
pub(crate) mod quoted;

pub use accepting::{AcceptCounters, AcceptStats};
pub use connection::{Connection, Receiving, Sending};
pub use endpoint::{Endpoint, EndpointError, EndpointFault};
pub use exchange::{End, Exchange, Pump};
pub(crate) use linger::lingered;
pub use listener::{Acceptor, Listening};
pub use lookup::{Lookups, ResolveError};
pub use pump::pump;
