//! Listeners: accepted on every shard, steered to the one that owns the connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use futures_util::future::{Either, select};
use waterwheel_reactor::{Address, Bound, Incoming};

use super::accepting::{AcceptCounters, Accepting, Queue, Steer, bump};
use super::connection::Connection;
use crate::mesh::{Mailbox, OpenError, Port};
use crate::shard::{Shard, Task};
use crate::steer::Mode;

/// A port that all shards listen on. Made before the shards run; each shard opens its part of it once, and should:
/// the kernel spreads clients over all parts from the start, and those of a part that nobody serves wait.
///
/// A shard's part is closed with its acceptor or, if it was never opened, when the shard ends. The kernel then gives
/// its share to the other parts; clients in its queue are reset.
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

    /// Closes a shard's part if it was never opened: the shard has ended.
    pub(crate) fn give_up(&self, shard: usize) {
        let mut bounds = self.shared.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = bounds.get_mut(shard).and_then(Option::take);
        drop(bounds);
        drop(bound);
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

/// One shard's part of a listener.
#[derive(Debug)]
pub struct Acceptor {
    shard: Shard,
    mailbox: Mailbox<Incoming>,
    own: Rc<Queue>,
    /// Whose turn it was last: a connection accepted here, or one handed over.
    own_first: bool,
    accepting: Option<Task<()>>,
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
        let steer = Steer { mode: listening.shared.mode, seed: listening.shared.seed, to: mailbox.sender() };
        let accepting = Accepting::new(self.clone(), listener, own.clone(), steer)?;
        let accepting = Some(self.spawn("accept", accepting.run()));
        Ok(Acceptor { shard: self.clone(), mailbox, own, own_first: false, accepting })
    }
}

impl Acceptor {
    /// The next connection that this shard owns, whichever shard accepted it; `None` once the shard is asked to stop.
    ///
    /// # Errors
    /// A connection that broke between the kernel and here; the next call goes on.
    pub async fn accept(&mut self) -> Option<io::Result<Connection>> {
        // Those accepted here and those handed over take turns, so that neither starves while there are many of both.
        self.own_first = !self.own_first;
        let (own, own_first) = (self.own.clone(), self.own_first);
        let mut received = pin!(self.mailbox.receive());
        let mut stopping = self.shard.stopping();
        let incoming = poll_fn(|cx| {
            if Pin::new(&mut stopping).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if own_first && let Some(incoming) = own.pop() {
                return Poll::Ready(Some(incoming));
            }
            if let Poll::Ready((_, incoming)) = received.as_mut().poll(cx) {
                bump(&own.counters.taken_over);
                return Poll::Ready(Some(incoming));
            }
            match own.pop() {
                Some(incoming) => Poll::Ready(Some(incoming)),
                None => {
                    *own.taker.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        let incoming = incoming.await?;
        Some(self.shard.adopt(incoming))
    }

    /// Serves connections, each in a task of its own, until the shard is asked to stop; then waits for those that are
    /// being served. At most `limit` are served at once: the others wait in the kernel's backlog.
    ///
    /// An error of `serve` is logged at the debug level with the connection's peer; it concerns nobody else.
    pub async fn serve<F, S>(mut self, limit: usize, serve: S)
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let (live, serve) = (Rc::new(Live::default()), Rc::new(serve));
        loop {
            let below = pin!(live.below(limit.max(1)));
            if let Either::Right(_) = select(below, self.shard.stopping()).await {
                break;
            }
            match self.accept().await {
                None => break,
                Some(Err(error)) => {
                    tracing::debug!(shard = self.shard.id().index(), "adopting failed: {error}")
                }
                Some(Ok(connection)) => {
                    // Counts until both its task and the connection are gone, which may linger.
                    let held = Rc::new(live.clone().enter());
                    let (serve, connection) = (serve.clone(), connection.escorted(held.clone()));
                    self.shard.spawn_detached("connection", async move {
                        if let Err(error) = serve(connection).await {
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
        let dropped = std::mem::take(&mut *self.own.ready.borrow_mut());
        let counter = &self.own.counters.dropped;
        counter.set(counter.get() + dropped.len() as u64);
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
