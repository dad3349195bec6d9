//! The calling side of a call port.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;

use super::ends::CallEnds;
use super::slots::Ticket;
use super::{CallError, CallPort};
use crate::mesh::member::Member;
use crate::mesh::port::OpenError;
use crate::mesh::waiters::Place;
use crate::shard::{Shard, ShardId};

impl Shard {
    /// The calling side of a call port on this shard; any number of them.
    ///
    /// # Errors
    /// The port belongs to another runtime.
    pub fn caller<Q: Send + 'static, R: Send + 'static>(
        &self,
        port: &CallPort<Q, R>,
    ) -> Result<Caller<Q, R>, OpenError> {
        Ok(Caller { shard: self.clone(), ends: ends_of(self, port)? })
    }
}

/// This shard's end of a call port, made at its first use.
pub(super) fn ends_of<Q: Send + 'static, R: Send + 'static>(
    shard: &Shard,
    port: &CallPort<Q, R>,
) -> Result<Rc<CallEnds<Q, R>>, OpenError> {
    let member = Member::of(shard);
    if port.shared.mesh != member.ledger.mesh.id() {
        return Err(OpenError::Foreign(port.shared.name));
    }
    let ledger = &member.ledger;
    Ok(member.end(port.shared.id, || CallEnds::new(port.shared.clone(), ledger.clone())))
}

/// Calls through one port from one shard. Cheap to clone.
pub struct Caller<Q, R> {
    shard: Shard,
    ends: Rc<CallEnds<Q, R>>,
}

impl<Q: Send + 'static, R: Send + 'static> Caller<Q, R> {
    /// Asks shard `to` and waits for its reply: for a credit first, if as many calls are on the way to it as the port
    /// allows. A call to the own shard follows the same rules.
    ///
    /// Dropping the future cancels the call: a request that was sent is handled all the same, its reply is dropped
    /// when it comes, and its credit is free only then. There is no deadline; see
    /// [`Shard::timeout`](crate::shard::Shard::timeout).
    ///
    /// Requests are handled by a task each, so their order is not that of the calls.
    ///
    /// # Errors
    /// [`CallError`]: the target ended, its handler panicked, it stopped serving, or this is a nested call.
    ///
    /// # Panics
    /// If the runtime has no shard `to`.
    pub async fn call(&self, to: ShardId, request: Q) -> Result<R, CallError> {
        let ends = &*self.ends;
        if self.shard.mark() == ends.port.mark() {
            return Err(CallError::Nested(ends.port.name));
        }
        let ticket = {
            let mut request = Some(request);
            let mut wait = CreditWait { ends, target: to.index(), place: None };
            poll_fn(|cx| ends.poll_start(wait.target, &mut request, &mut wait.place, cx.waker())).await?
        };
        let _cancel = CancelOnDrop { ends, ticket };
        poll_fn(|cx| ends.poll_reply(ticket, cx.waker())).await
    }
}

/// A place in the queue for credit, left when the call is dropped.
struct CreditWait<'a, Q: Send + 'static, R: Send + 'static> {
    ends: &'a CallEnds<Q, R>,
    target: usize,
    place: Option<Place>,
}

impl<Q: Send + 'static, R: Send + 'static> Drop for CreditWait<'_, Q, R> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.ends.leave_credit(self.target, &mut self.place);
        }
    }
}

/// A call on its way, cancelled when it is dropped; afterwards nothing happens.
struct CancelOnDrop<'a, Q: Send + 'static, R: Send + 'static> {
    ends: &'a CallEnds<Q, R>,
    ticket: Ticket,
}

impl<Q: Send + 'static, R: Send + 'static> Drop for CancelOnDrop<'_, Q, R> {
    fn drop(&mut self) {
        self.ends.cancel(self.ticket);
    }
}

impl<Q, R> Clone for Caller<Q, R> {
    fn clone(&self) -> Caller<Q, R> {
        Caller { shard: self.shard.clone(), ends: self.ends.clone() }
    }
}

impl<Q, R> fmt::Debug for Caller<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("port", &self.ends.port.name).finish_non_exhaustive()
    }
}
