//! Between shards: ports, mailboxes, calls, and the bell that says that there is something to look at.

mod bell;
#[cfg(loom)]
mod broken;
mod calls;
mod ends;
mod hub;
mod jobs;
mod lane;
#[cfg(test)]
#[cfg(not(loom))]
mod laws;
mod ledger;
mod mailbox;
mod member;
#[cfg(test)]
#[cfg(loom)]
mod models;
mod port;
mod remote;
mod run_on;
mod set;
mod stats;
mod stop;
mod sync;
mod waiters;

pub use calls::{CallError, CallOptions, CallPort, Caller, Server};
pub use hub::Mesh;
pub use jobs::Job;
pub use mailbox::{Mailbox, Receive, Sender};
pub use port::{Closed, DeclareError, OpenError, Port, PortOptions, TrySendError};
pub use remote::{Remote, TryRunError};
pub use stats::{MeshStats, PortStats};
pub(crate) use stop::StopGuard;
