//! Calls: a request to another shard and its reply.
//!
//! A request waits for *credit* at the caller: each shard has so many calls to each other shard and port on the way,
//! and no more. The lane for requests has a slot for each credit, and so has the lane for replies, so that neither is
//! ever full: a reply never waits, and two shards that flood each other with calls both finish. A credit comes back
//! with its reply. Handlers run as tasks of their own, so receiving never waits for them either.

mod caller;
pub(in crate::mesh) mod ends;
mod server;
pub(in crate::mesh) mod slots;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use caller::Caller;
pub(super) use ends::Caller as Asker;
pub use server::Server;

use super::hub::{AnyPort, Mesh, drop_contained};
use super::lane::Lanes;
use super::port::{DeclareError, PortOptions};
use slots::Ticket;

/// A typed question over all shards: any shard may [call](crate::shard::Shard::caller), each may
/// [serve](crate::shard::Shard::serve) once. Declared before the shards start, handed to each by clone.
///
/// Nothing is allocated per call once the lanes, the caller's slots and the server's tasks are as many as are in use
/// at once.
pub struct CallPort<Q, R> {
    pub(super) shared: Arc<CallShared<Q, R>>,
}

/// The limits of a call port. Every field has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// Calls that one shard may have on the way to one other: 1 to 1 048 576, default 64. Also bounds the handlers
    /// that run at once on a shard: this many per calling shard.
    pub credits: usize,
}

impl Default for CallOptions {
    fn default() -> CallOptions {
        CallOptions { credits: 64 }
    }
}

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The target shard ended. The request may have been handled or not.
    #[error("the target shard ended")]
    Closed,
    /// The handler panicked, which the target logged. A bug on the target's side.
    #[error("the handler of port {0:?} panicked")]
    Failed(&'static str),
    /// The target stopped serving the port; the request was not handled.
    #[error("the target shard no longer serves port {0:?}")]
    NotServed(&'static str),
    /// A handler of this port called the same port. Such calls could use up each other's credits and wait for ever, so
    /// they are refused. Only seen in the task that runs the handler, not in tasks that it spawns; a circle over two
    /// ports is not seen either: keep calls between ports in one direction.
    #[error("a handler of port {0:?} called the same port")]
    Nested(&'static str),
}

/// What all shards share of a call port.
pub(super) struct CallShared<Q, R> {
    pub(super) name: &'static str,
    pub(super) id: usize,
    pub(super) mesh: u64,
    /// From caller to server.
    pub(super) requests: Lanes<Request<Q>>,
    /// From server to caller.
    pub(super) replies: Lanes<Reply<R>>,
    undelivered: AtomicU64,
}

/// A request in its lane.
pub(super) struct Request<Q> {
    pub(super) ticket: Ticket,
    pub(super) request: Q,
}

/// A reply in its lane.
pub(super) struct Reply<R> {
    pub(super) ticket: Ticket,
    pub(super) outcome: Result<R, CallError>,
}

impl<Q: Send + 'static, R: Send + 'static> CallPort<Q, R> {
    /// A call port between all shards of a runtime, before they start.
    ///
    /// # Errors
    /// The name is taken, or a limit makes no sense.
    pub fn declare(
        mesh: &Mesh,
        name: &'static str,
        options: CallOptions,
    ) -> Result<CallPort<Q, R>, DeclareError> {
        let credits = PortOptions { capacity: options.credits }.check(name)?;
        let shared = mesh.declare(name, |id| CallShared {
            name,
            id,
            mesh: mesh.id(),
            requests: Lanes::new(mesh.shards(), credits),
            replies: Lanes::new(mesh.shards(), credits),
            undelivered: AtomicU64::new(0),
        })?;
        Ok(CallPort { shared })
    }
}

impl<Q, R> CallPort<Q, R> {
    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Requests never handled and replies never fetched, because the shard that should have done so ended. Their
    /// callers, if they live, were told [`CallError::Closed`].
    pub fn undelivered(&self) -> u64 {
        self.shared.undelivered.load(Relaxed)
    }
}

impl<Q, R> CallShared<Q, R> {
    /// How many calls one shard may have on the way to one other.
    pub(super) fn credits(&self) -> usize {
        self.requests.capacity()
    }

    /// Marks a task as running a handler of this port; 0 marks none.
    pub(super) fn mark(&self) -> u32 {
        u32::try_from(self.id).map_or(u32::MAX, |id| id.saturating_add(1))
    }

    /// Counts and drops what nobody will look at.
    pub(super) fn fail<T>(&self, left: impl IntoIterator<Item = T>) {
        for message in left {
            self.undelivered.fetch_add(1, Relaxed);
            drop_contained(message);
        }
    }
}

impl<Q: Send + 'static, R: Send + 'static> AnyPort for CallShared<Q, R> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn sweep_to(&self, target: usize) {
        self.fail(self.requests.sweep_to(target));
        self.fail(self.replies.sweep_to(target));
    }

    fn sweep_between(&self, source: usize, target: usize) {
        self.fail(self.requests.between(source, target).sweep());
        self.fail(self.replies.between(source, target).sweep());
    }
}

impl<Q, R> Clone for CallPort<Q, R> {
    fn clone(&self) -> CallPort<Q, R> {
        CallPort { shared: self.shared.clone() }
    }
}

impl<Q, R> fmt::Debug for CallPort<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl<Q, R> fmt::Debug for CallShared<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallPort").field("name", &self.name).field("credits", &self.credits()).finish()
    }
}
