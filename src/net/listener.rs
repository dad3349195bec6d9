//! Listeners: accepted on every shard, steered to the one that owns the connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, select};
use waterwheel_os::Reserve;
use waterwheel_reactor::{Address, Bound, Incoming, Listener, Time};

use super::connection::Connection;
use crate::mesh::{Mailbox, OpenError, Port, Sender};
use crate::shard::{Shard, ShardId, Task};
use crate::steer::{Mode, owner};

/// Connections that were accepted for this shard and wait to be served. The kernel's backlog holds the others.
const QUEUE: usize = 128;
/// How long accepting rests after the kernel refused a descriptor or memory, at first and at most.
const REST: Duration = Duration::from_millis(5);
const REST_MOST: Duration = Duration::from_millis(200);
/// Connections closed in one go when descriptors are short, before others get their turn.
const SHED_AT_ONCE: u64 = 64;
/// A shortage is logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// A port that all shards listen on. Made before the shards run; each shard opens its part of it once.
///
/// Owned by the runtime: the sockets stay open until it ends, so that their order, which the kernel's steering
/// depends on, never changes.
#[derive(Clone)]
pub struct Listening {
    shared: Arc<Shared>,
}

struct Shared {
    local: Address,
    bounds: Mutex<Vec<Option<Bound>>>,
    handoff: Port<Incoming>,
    mode: Mode,
    seed: u32,
}

impl Listening {
    pub(crate) fn new(
        bounds: Vec<Bound>,
        handoff: Port<Incoming>,
        mode: Mode,
        seed: u32,
    ) -> Option<Listening> {
        let local = bounds.first()?.local.clone();
        let bounds = Mutex::new(bounds.into_iter().map(Some).collect());
        Some(Listening { shared: Arc::new(Shared { local, bounds, handoff, mode, seed }) })
    }

    /// Where it listens, port 0 resolved.
    pub fn local(&self) -> &Address {
        &self.shared.local
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("local", &self.shared.local)
            .field("mode", &self.shared.mode)
            .finish()
    }
}

/// What a shard's part of a listener counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct AcceptStats {
    /// Connections that the kernel gave to this shard.
    pub accepted: u64,
    /// Of these, those that another shard owns, handed over.
    pub handed_over: u64,
    /// Connections that other shards handed to this one.
    pub taken_over: u64,
    /// Connections closed at once because no descriptor was left.
    pub shed: u64,
    /// Times that accepting failed, for whatever reason.
    pub errors: u64,
}

/// One shard's part of a listener.
#[derive(Debug)]
pub struct Acceptor {
    shard: Shard,
    mailbox: Mailbox<Incoming>,
    own: Rc<Queue>,
    accepting: Option<Task<()>>,
}

/// What the accepting task and the acceptor share.
#[derive(Debug, Default)]
struct Queue {
    ready: RefCell<VecDeque<Incoming>>,
    /// The acceptor waits for an entry.
    taker: RefCell<Option<Waker>>,
    /// The accepting task waits for room.
    giver: RefCell<Option<Waker>>,
    counters: Rc<AcceptCounters>,
}

/// What a shard's part of a listener counts, for those who ask later.
#[derive(Debug, Default)]
pub struct AcceptCounters {
    accepted: Cell<u64>,
    handed_over: Cell<u64>,
    taken_over: Cell<u64>,
    shed: Cell<u64>,
    errors: Cell<u64>,
}

impl AcceptCounters {
    /// What was counted so far.
    pub fn copy(&self) -> AcceptStats {
        AcceptStats {
            accepted: self.accepted.get(),
            handed_over: self.handed_over.get(),
            taken_over: self.taken_over.get(),
            shed: self.shed.get(),
            errors: self.errors.get(),
        }
    }
}

impl std::ops::Add for AcceptStats {
    type Output = AcceptStats;

    fn add(self, other: AcceptStats) -> AcceptStats {
        AcceptStats {
            accepted: self.accepted + other.accepted,
            handed_over: self.handed_over + other.handed_over,
            taken_over: self.taken_over + other.taken_over,
            shed: self.shed + other.shed,
            errors: self.errors + other.errors,
        }
    }
}

fn bump(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Shard {
    /// Opens this shard's part of a listener, and begins to accept.
    ///
    /// # Errors
    /// It was opened on this shard before, or the reactor refuses the socket.
    pub fn accept_on(&self, listening: &Listening) -> io::Result<Acceptor> {
        let mut bounds = listening.shared.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = bounds.get_mut(self.id().index()).and_then(Option::take);
        drop(bounds);
        let Some(bound) = bound else {
            return Err(io::Error::other(format!(
                "{} is served by {:?} already",
                listening.local(),
                self.id()
            )));
        };
        let mailbox =
            self.open(&listening.shared.handoff).map_err(|error: OpenError| io::Error::other(error))?;
        let listener = self.reactor().listen(bound)?;
        let own = Rc::new(Queue::default());
        let accepting = Accepting {
            shard: self.clone(),
            listener,
            queue: own.clone(),
            steer: Steer { mode: listening.shared.mode, seed: listening.shared.seed, to: mailbox.sender() },
            reserve: Reserve::new()?,
            complained: None,
        };
        let accepting = Some(self.spawn("accept", accepting.run()));
        Ok(Acceptor { shard: self.clone(), mailbox, own, accepting })
    }
}

impl Acceptor {
    /// The next connection that this shard owns, whichever shard accepted it; `None` once the shard is asked to stop.
    ///
    /// # Errors
    /// A connection that broke between the kernel and here; the next call goes on.
    pub async fn accept(&mut self) -> Option<io::Result<Connection>> {
        let stopping = self.shard.stopping();
        let own = self.own.clone();
        let local = poll_fn(|cx| match own.ready.borrow_mut().pop_front() {
            Some(incoming) => Poll::Ready(incoming),
            None => {
                *own.taker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        });
        let received = pin!(self.mailbox.receive());
        let next = select(local, received);
        let incoming = match select(stopping, next).await {
            Either::Left(_) => return None,
            Either::Right((Either::Left((incoming, _)), _)) => {
                if let Some(giver) = self.own.giver.borrow_mut().take() {
                    giver.wake();
                }
                incoming
            }
            Either::Right((Either::Right(((_, incoming), _)), _)) => {
                bump(&self.own.counters.taken_over);
                incoming
            }
        };
        Some(self.shard.adopt(incoming))
    }

    /// Serves connections, each in a task of its own, until the shard is asked to stop; then waits for those that are
    /// being served. At most `limit` are served at once: the others wait in the kernel's backlog.
    ///
    /// An error of `serve` is logged at the debug level with the connection's peer; it concerns nobody else.
    pub async fn serve<F, S>(mut self, limit: usize, serve: S)
    where
        S: Fn(Connection) -> F,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let live = Rc::new(Live::default());
        loop {
            // At the limit too, a shard that stops lets go of its listener.
            if let Either::Left(_) = select(self.shard.stopping(), pin!(live.below(limit.max(1)))).await {
                break;
            }
            match self.accept().await {
                None => break,
                Some(Err(error)) => {
                    tracing::debug!(shard = self.shard.id().index(), "adopting failed: {error}")
                }
                Some(Ok(connection)) => {
                    let held = live.clone().enter();
                    let served = serve(connection);
                    self.shard.spawn_detached("connection", async move {
                        if let Err(error) = served.await {
                            tracing::debug!("a connection ended with an error: {error:#}");
                        }
                        drop(held);
                    });
                }
            }
        }
        drop(self);
        live.below(1).await;
    }

    /// Its counters, which outlive it.
    pub fn counters(&self) -> Rc<AcceptCounters> {
        self.own.counters.clone()
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.cancel();
        }
    }
}

/// How many connections are being served, and who waits for fewer.
#[derive(Debug, Default)]
struct Live {
    count: Cell<usize>,
    waiter: RefCell<Option<Waker>>,
}

/// One connection being served.
struct Held(Rc<Live>);

impl Live {
    fn enter(self: Rc<Self>) -> Held {
        self.count.set(self.count.get() + 1);
        Held(self)
    }

    async fn below(&self, limit: usize) {
        poll_fn(|cx| {
            if self.count.get() < limit {
                return Poll::Ready(());
            }
            *self.waiter.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if let Some(waiter) = self.0.waiter.borrow_mut().take() {
            waiter.wake();
        }
    }
}

/// The task that accepts and steers.
struct Accepting {
    shard: Shard,
    listener: Box<dyn Listener>,
    queue: Rc<Queue>,
    steer: Steer,
    reserve: Reserve,
    /// When the log last heard of a shortage.
    complained: Option<Time>,
}

struct Steer {
    mode: Mode,
    seed: u32,
    to: Sender<Incoming>,
}

impl Steer {
    /// The shard that owns a connection; `None`: whoever accepted it.
    fn owner(&self, incoming: &Incoming, shards: usize) -> Option<ShardId> {
        owner(incoming.peer.as_ref()?, self.mode, self.seed, shards).map(ShardId::new)
    }
}

impl Accepting {
    async fn run(mut self) {
        let mut rest = REST;
        loop {
            self.room().await;
            match poll_fn(|cx| self.listener.poll_accept(cx)).await {
                Ok(incoming) => {
                    rest = REST;
                    bump(&self.queue.counters.accepted);
                    self.route(incoming).await;
                }
                Err(error) => {
                    bump(&self.queue.counters.errors);
                    if passes(&error) {
                        self.shard.yield_now().await;
                    } else if self.shed(&error).await {
                        rest = REST;
                        self.shard.yield_now().await;
                    } else {
                        self.shard.sleep(rest).await;
                        rest = (rest * 2).min(REST_MOST);
                    }
                }
            }
        }
    }

    /// Waits until the queue has room, so that what nobody serves waits in the kernel's backlog.
    async fn room(&self) {
        let queue = &self.queue;
        poll_fn(|cx| {
            if queue.ready.borrow().len() < QUEUE {
                return Poll::Ready(());
            }
            *queue.giver.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn route(&mut self, incoming: Incoming) {
        match self.steer.owner(&incoming, self.shard.count()) {
            Some(owner) if owner != self.shard.id() => {
                // A shard that has ended cannot own anything: then the connection is served here.
                match self.steer.to.send(owner, incoming).await {
                    Ok(()) => bump(&self.queue.counters.handed_over),
                    Err(closed) => self.keep(closed.0),
                }
            }
            _ => self.keep(incoming),
        }
    }

    fn keep(&self, incoming: Incoming) {
        self.queue.ready.borrow_mut().push_back(incoming);
        if let Some(taker) = self.queue.taker.borrow_mut().take() {
            taker.wake();
        }
    }

    /// No descriptor is left: accepts what waits with the one held in reserve and closes it, so that nobody hangs.
    /// Answers whether anybody was told; if not, accepting must rest.
    async fn shed(&mut self, error: &io::Error) -> bool {
        let mut told = 0;
        while told < SHED_AT_ONCE && self.reserve.spend() {
            let accepted = poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx))).await;
            let another = matches!(&accepted, Poll::Ready(Ok(_)));
            drop(accepted);
            self.reserve.refill();
            if !another {
                break;
            }
            told += 1;
        }
        self.queue.counters.shed.set(self.queue.counters.shed.get() + told);
        let (shard, at) = (self.shard.id().index(), self.shard.now());
        if self.complained.is_none_or(|last| at.since(last) >= COMPLAIN_EVERY) {
            self.complained = Some(at);
            tracing::warn!(
                shard,
                shed = self.queue.counters.shed.get(),
                "cannot accept, new connections are closed: {error}"
            );
        }
        told > 0
    }
}

/// The connection was gone before it was accepted (accept(2)): nothing is short, the next one may be fine.
fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied)
}
