//! The net floor.

mod endpoint;
pub mod http1;
mod lookup;
pub(crate) mod quoted;

pub use endpoint::{Endpoint, EndpointError, EndpointFault};
pub use lookup::{Lookups, ResolveError};
