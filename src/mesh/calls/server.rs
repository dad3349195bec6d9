//! The serving side of a call port: a handler, and as many tasks as requests are in work at once.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::caller::ends_of;
use super::ends::{Arrived, CallEnds, Caller, Serve};
use super::slots::Ticket;
use super::{CallError, CallPort};
use crate::mesh::port::OpenError;
use crate::shard::{Shard, ShardId};

impl Shard {
    /// Serves a call port on this shard from the next turn on, until the shard ends or [`Server::stop`]. Requests that
    /// came before wait. Each runs in a task of its own, so a handler may await anything but a call through the same
    /// port ([`CallError::Nested`]); what runs at once is bounded by the callers' credits. The tasks are kept and used
    /// again.
    ///
    /// A handler that panics fails its caller ([`CallError::Failed`]) and nobody else.
    ///
    /// # Errors
    /// The port is served here already, or belongs to another runtime.
    pub fn serve<Q, R, F, W>(&self, port: &CallPort<Q, R>, handler: F) -> Result<Server, OpenError>
    where
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(ShardId, Q) -> W + 'static,
        W: Future<Output = R> + 'static,
    {
        self.serve_askers(port, move |from: Caller, request| handler(ShardId::new(from.shard), request))
    }

    /// As [`serve`](Shard::serve), for handlers that have to know in which of its lives a shard asked.
    pub(in crate::mesh) fn serve_askers<Q, R, F, W>(
        &self,
        port: &CallPort<Q, R>,
        handler: F,
    ) -> Result<Server, OpenError>
    where
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Caller, Q) -> W + 'static,
        W: Future<Output = R> + 'static,
    {
        let ends = ends_of(self, port)?;
        let pool = Rc::new_cyclic(|me| Pool {
            me: me.clone(),
            shard: self.clone(),
            ends: ends.clone(),
            handler,
            idle: RefCell::default(),
            ended: Cell::new(false),
        });
        if ends.serve(pool) { Ok(Server { served: ends }) } else { Err(OpenError::AlreadyOpen(port.name())) }
    }
}

/// A port being served on one shard. Dropping it changes nothing.
#[derive(Clone)]
pub struct Server {
    served: Rc<dyn Served>,
}

impl Server {
    /// Takes no further requests: those that wait and those that come are answered with [`CallError::NotServed`]. What
    /// is being handled is finished. A port cannot be served again on the same shard.
    pub fn stop(&self) {
        self.served.stop();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("port", &self.served.name()).finish()
    }
}

/// What a [`Server`] needs, whatever its messages are.
trait Served {
    fn name(&self) -> &'static str;
    fn stop(&self);
}

impl<Q: Send + 'static, R: Send + 'static> Served for CallEnds<Q, R> {
    fn name(&self) -> &'static str {
        self.port.name
    }

    fn stop(&self) {
        self.end_serving();
    }
}

/// The tasks that run one port's handler on one shard.
struct Pool<Q, R, F> {
    /// For the tasks that it spawns.
    me: std::rc::Weak<Pool<Q, R, F>>,
    shard: Shard,
    ends: Rc<CallEnds<Q, R>>,
    handler: F,
    /// Tasks without work, the latest on top. As many as were ever at work at once: bounded by the callers' credits.
    idle: RefCell<Vec<Rc<Worker<Q>>>>,
    ended: Cell<bool>,
}

/// What a task and its pool share.
struct Worker<Q> {
    next: RefCell<Option<Arrived<Q>>>,
    waker: RefCell<Option<Waker>>,
}

impl<Q> Worker<Q> {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl<Q, R, F, W> Serve<Q> for Pool<Q, R, F>
where
    Q: Send + 'static,
    R: Send + 'static,
    F: Fn(Caller, Q) -> W + 'static,
    W: Future<Output = R> + 'static,
{
    fn start(&self, call: Arrived<Q>) {
        if let Some(worker) = self.idle.borrow_mut().pop() {
            *worker.next.borrow_mut() = Some(call);
            return worker.wake();
        }
        let Some(pool) = self.me.upgrade() else { return };
        let worker = Rc::new(Worker { next: RefCell::new(Some(call)), waker: RefCell::default() });
        let port = &self.ends.port;
        drop(self.shard.spawn_marked(port.name, port.mark(), pool.work(worker)));
    }

    fn end(&self) {
        self.ended.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.iter().for_each(|worker| worker.wake());
    }
}

impl<Q, R, F, W> Pool<Q, R, F>
where
    Q: Send + 'static,
    R: Send + 'static,
    F: Fn(Caller, Q) -> W + 'static,
    W: Future<Output = R> + 'static,
{
    // One task: handles requests until the pool ends. If a handler panics the task ends with it, and is not missed,
    // since it is not among the idle ones.
    async fn work(self: Rc<Self>, worker: Rc<Worker<Q>>) {
        while let Some(Arrived { from, ticket, request }) = poll_fn(|cx| self.poll_next(&worker, cx)).await {
            let owed = Owed { ends: &self.ends, from, ticket, paid: false };
            let reply = (self.handler)(from, request).await;
            owed.pay(reply);
            if !self.ended.get() {
                self.idle.borrow_mut().push(worker.clone());
            }
        }
    }

    fn poll_next(&self, worker: &Worker<Q>, cx: &mut Context<'_>) -> Poll<Option<Arrived<Q>>> {
        if let Some(call) = worker.next.borrow_mut().take() {
            return Poll::Ready(Some(call));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        match &mut *worker.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// A reply that somebody waits for, and gets even if the handler panics. If it is dropped otherwise the shard is
/// ending, which the caller will be told.
struct Owed<'a, Q: Send + 'static, R: Send + 'static> {
    ends: &'a CallEnds<Q, R>,
    from: Caller,
    ticket: Ticket,
    paid: bool,
}

impl<Q: Send + 'static, R: Send + 'static> Owed<'_, Q, R> {
    fn pay(mut self, reply: R) {
        self.paid = true;
        self.ends.reply(self.from, self.ticket, Ok(reply));
    }
}

impl<Q: Send + 'static, R: Send + 'static> Drop for Owed<'_, Q, R> {
    fn drop(&mut self) {
        if !self.paid && std::thread::panicking() {
            let failed = CallError::Failed(self.ends.port.name);
            self.ends.reply(self.from, self.ticket, Err(failed));
        }
    }
}
