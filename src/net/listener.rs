//! Listeners: accepted on every shard, steered to the one that owns the connection.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tracing::{Instrument, Span};
use waterwheel_reactor::{Address, Bound, Incoming, Listener};

use super::accepting::{Accepting, Steer};
use super::connection::Connection;
use super::offered::Offered;
use super::places::{Part, Parts, Places};
use super::queue::{AcceptCounters, AcceptedBy, Queue};
use super::reserve::Reserve;
use crate::mesh::{Mailbox, OpenError, Port, PortOptions, Sender};
use crate::shard::{Shard, Task};
use crate::steer::Mode;

/// A port that all shards listen on. Made before the shards run; each shard opens its part of it once, and should:
/// the kernel spreads clients over all parts from the start, and those of a part that nobody serves wait.
///
/// A shard's part is closed with its acceptor or, if it was never opened, when the shard ends. The kernel then gives
/// its share to the other parts; clients in its queue are reset. The part of a shard that fails stays until it is known
/// that the shard has no next life, and its clients with it.
#[derive(Clone)]
pub struct Listening {
    shared: Arc<Shared>,
}

struct Shared {
    local: Address,
    unopened: Mutex<Vec<Option<Bound>>>,
    reserve: Arc<Reserve>,
    handoff: Port<Offered>,
    steering: Steering,
    parts: Arc<Parts>,
}

/// How connections are to come to their shards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steering {
    pub(crate) mode: Mode,
    pub(crate) seed: u32,
    /// The kernel was given the program that does it.
    pub(crate) placed: bool,
}

impl Listening {
    /// The limits of the port over which connections go to their shards: twice what a shard accepts in a turn. So many
    /// may still come from each other shard to one that has just reached its limit.
    pub(crate) const HAND_OFF: PortOptions = PortOptions { capacity: 64 };

    pub(crate) fn new(
        unopened: Vec<Bound>,
        reserve: Arc<Reserve>,
        handoff: Port<Offered>,
        steering: Steering,
    ) -> Option<Listening> {
        let local = unopened.first()?.local.clone();
        let parts = Arc::new(Parts::new(unopened.len(), steering.mode));
        let unopened = Mutex::new(unopened.into_iter().map(Some).collect());
        Some(Listening { shared: Arc::new(Shared { local, unopened, reserve, handoff, steering, parts }) })
    }

    /// Where it listens, port 0 resolved.
    pub fn local(&self) -> &Address {
        &self.shared.local
    }

    /// Connections that a shard handed over to one that had ended when they came, and that were reset; over all
    /// shards, complete once all of them ended. So many are handed over and not taken over.
    pub fn undelivered(&self) -> u64 {
        self.shared.handoff.undelivered()
    }

    /// Whether clients are served: every part was opened, or given up, and not all are closed.
    pub(crate) fn is_served(&self) -> bool {
        self.shared.parts.are_served()
    }

    /// Closes a shard's part if it was never opened: the shard has ended.
    pub(crate) fn give_up(&self, shard: usize) {
        self.shared.parts.set(shard, Part::Closed);
        let mut all = self.shared.unopened.lock().unwrap_or_else(PoisonError::into_inner);
        let part = all.get_mut(shard).and_then(Option::take);
        drop(all);
        drop(part);
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("local", &self.shared.local)
            .field("steering", &self.shared.steering)
            .finish()
    }
}

/// One shard's part of a listener.
#[derive(Debug)]
pub struct Acceptor {
    shard: Shard,
    mailbox: Mailbox<Offered>,
    own: Rc<Queue>,
    /// Whose turn it was last: a connection accepted here, or one handed over.
    own_first: bool,
    /// A connection that waits for a place here may go to any other shard.
    spreads: bool,
    steer: Rc<Steer>,
    accepting: Option<Task<()>>,
    /// Where it listens.
    local: Address,
}

impl Shard {
    /// Opens this shard's part of a listener, and begins to accept.
    ///
    /// # Errors
    /// It was opened on this shard before, or the reactor refuses the socket.
    pub fn accept_on(&self, listening: &Listening) -> io::Result<Acceptor> {
        let bound = self.take_part(listening)?;
        let handoff = &listening.shared.handoff;
        let mailbox = self.open(handoff).map_err(|error: OpenError| io::Error::other(error))?;
        let steering = listening.shared.steering;
        let stays = Rc::new(Cell::new(false));
        let (own, steer, accepting) = self.accept_by(listening, bound, mailbox.sender(), steering, stays)?;
        let accepting = Some(self.spawn("accept", accepting.run()));
        let spreads = steering.mode.spreads() && self.count() > 1;
        let local = listening.local().clone();
        Ok(Acceptor { shard: self.clone(), mailbox, own, own_first: false, spreads, steer, accepting, local })
    }

    fn take_part(&self, listening: &Listening) -> io::Result<Bound> {
        let mut all = listening.shared.unopened.lock().unwrap_or_else(PoisonError::into_inner);
        let part = all.get_mut(self.id().index()).and_then(Option::take);
        drop(all);
        part.ok_or_else(|| {
            io::Error::other(format!("{} is served by {:?} already", listening.local(), self.id()))
        })
    }

    fn accept_by(
        &self,
        listening: &Listening,
        bound: Bound,
        to: Sender<Offered>,
        steering: Steering,
        stays: Rc<Cell<bool>>,
    ) -> io::Result<(Rc<Queue>, Rc<Steer>, Accepting)> {
        let listener = self.reactor().listen(bound)?;
        let Shared { parts, reserve, .. } = &*listening.shared;
        let own = Queue::new(parts.clone(), self.id().index());
        let counters = own.counters.clone();
        AcceptedBy::of(self).add(listening.local(), counters.clone());
        let steer = Rc::new(Steer { steering, to, parts: parts.clone(), counters });
        let door = Door::new(listener, listening.clone(), self.clone(), stays);
        let accepting = Accepting::new(self.clone(), door, own.clone(), steer.clone(), reserve.clone());
        Ok((own, steer, accepting))
    }

    /// Until it is dropped, clients that come to this shard's part of a listener are handed on to other shards; the socket
    /// stays then. What other shards send here waits.
    pub(crate) fn pass_on_clients_of(&self, listening: &Listening) -> io::Result<PassingOn> {
        let bound = self.take_part(listening)?;
        let sender = self.sender(&listening.shared.handoff).map_err(io::Error::other)?;
        let Steering { mode, seed, .. } = listening.shared.steering;
        // In mode `source` they wait for this shard: no other has what it will know of them. Else whoever has room is as good.
        let mode = if mode == Mode::Source { mode } else { Mode::Flow };
        let steering = Steering { mode, seed, placed: true };
        let stays = Rc::new(Cell::new(true));
        let (own, _, accepting) = self.accept_by(listening, bound, sender, steering, stays)?;
        // With no place of its own, it has none for anybody.
        own.serve_in(&Places::new(0));
        Ok(PassingOn { own, accepting: Some(self.spawn("pass on", accepting.run())) })
    }
}

/// See [`Shard::pass_on_clients_of`].
#[derive(Debug)]
pub(crate) struct PassingOn {
    own: Rc<Queue>,
    accepting: Option<Task<()>>,
}

impl Drop for PassingOn {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.cancel();
        }
        self.own.close();
    }
}

/// A listening socket at work, which finds its way back when it is to be used again: the shard failed, and may have a next
/// life.
pub(super) struct Door {
    listener: Box<dyn Listener>,
    listening: Listening,
    shard: Shard,
    /// Whether the socket stays, for who accepts next, when this goes.
    stays: Rc<Cell<bool>>,
}

impl Door {
    fn new(listener: Box<dyn Listener>, listening: Listening, shard: Shard, stays: Rc<Cell<bool>>) -> Door {
        Door { listener, listening, shard, stays }
    }

    /// The next connection.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        self.listener.poll_accept(cx)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !(self.stays.get() || self.shard.is_clearing() || std::thread::panicking()) {
            return;
        }
        if let Poll::Ready(bound) = self.listener.poll_close(&mut Context::from_waker(Waker::noop())) {
            let mut all = self.listening.shared.unopened.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(part) = all.get_mut(self.shard.id().index()) {
                *part = Some(bound);
            }
        }
    }
}

impl Acceptor {
    /// The next connection that this shard owns, whichever shard accepted it; `None` once the shard is asked to stop.
    ///
    /// # Errors
    /// A connection that broke between the kernel and here; the next call goes on.
    pub async fn accept(&mut self) -> Option<io::Result<Connection>> {
        self.next(None).await
    }

    /// The same; with `places` only while one of them is left.
    async fn next(&mut self, places: Option<&Places>) -> Option<io::Result<Connection>> {
        // Those accepted here and those handed over take turns, so that neither starves while there are many of both.
        self.own_first = !self.own_first;
        let (own, own_first, spreads) = (self.own.clone(), self.own_first, self.spreads);
        let mut received = pin!(self.mailbox.receive());
        let mut stopping = self.shard.stopping();
        let incoming = poll_fn(|cx| {
            if Pin::new(&mut stopping).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if let Some(places) = places
                && places.poll_left(cx).is_pending()
            {
                // What others sent before they saw that there is no room here may find it elsewhere.
                while spreads
                    && own.takes_more()
                    && let Poll::Ready((_, incoming)) = received.as_mut().poll(cx)
                {
                    received.set(self.mailbox.receive());
                    own.counters.count(|counted| &mut counted.taken_over);
                    own.push(incoming);
                }
                if spreads && !own.takes_more() {
                    *own.taker.borrow_mut() = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            if own_first && let Some(incoming) = own.pop() {
                return Poll::Ready(Some(incoming));
            }
            if let Poll::Ready((_, incoming)) = received.as_mut().poll(cx) {
                own.counters.count(|counted| &mut counted.taken_over);
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
        Some(self.adopt(incoming))
    }

    /// A connection that waits here now; for the end, when nobody accepts any more.
    fn left_over(&self) -> Option<Offered> {
        let own = self.own.pop();
        own.or_else(|| match pin!(self.mailbox.receive()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((_, incoming)) => {
                self.own.counters.count(|counted| &mut counted.taken_over);
                Some(incoming)
            }
            Poll::Pending => None,
        })
    }

    fn adopt(&self, offered: Offered) -> io::Result<Connection> {
        let adopted = match offered.take() {
            Some((incoming, counted)) => self.shard.adopt(incoming).map(|connection| {
                let connection = connection.of(self.steer.clone());
                match counted {
                    Some(counted) => connection.escorted(Rc::new(counted)),
                    None => connection,
                }
            }),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        adopted.inspect_err(|error| {
            let counters = &self.own.counters;
            counters.count(|counted| &mut counted.adopt_failed);
            counters.complain(&self.shard, "a connection cannot be adopted and is closed", error);
        })
    }

    /// Serves connections, each in a task of its own, until the shard is asked to stop; then waits for those that are
    /// being served. At most `limit`, and at least one, are served at once. A shard at its limit accepts only for
    /// shards that are below theirs; the others wait in the kernel's backlog.
    ///
    /// An error of `serve` is logged at the debug level; it concerns nobody else.
    pub async fn serve<F, S>(self, limit: usize, serve: S)
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.serve_in(&Places::new(limit.max(1)), serve).await;
    }

    /// The same within places that other acceptors of this shard use too.
    pub async fn serve_in<F, S>(mut self, places: &Places, serve: S)
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.own.serve_in(places);
        let (serve, local) = (Rc::new(serve), self.local.clone());
        let start = |shard: &Shard, connection: Connection| {
            // Taken until both its task and the connection are gone, which may linger.
            let place = Rc::new(places.take());
            let (serve, connection) = (serve.clone(), connection.escorted(place.clone()));
            let span = connection_span(shard, &local, &connection);
            let serving = async move {
                if let Err(error) = serve(connection).await {
                    tracing::debug!("a connection ended with an error: {error:#}");
                }
                drop(place);
            };
            match span {
                Some(span) => shard.spawn_detached("connection", serving.instrument(span)),
                None => shard.spawn_detached("connection", serving),
            }
        };
        while let Some(accepted) = self.next(Some(places)).await {
            // If it failed that was counted, and the next one may be fine.
            accepted.into_iter().for_each(|connection| start(&self.shard, connection));
        }
        // The shard stops. Who was accepted before is served, as far as there are places; once more in the next turn,
        // when what other shards sent in this one has come.
        self.end_accepting();
        for _ in 0..2 {
            while places.are_left()
                && let Some(incoming) = self.left_over()
            {
                self.adopt(incoming).into_iter().for_each(|connection| start(&self.shard, connection));
            }
            self.shard.yield_now().await;
        }
        drop(self);
        places.free().await;
    }

    fn end_accepting(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.cancel();
        }
    }

    /// Its counters, which outlive it.
    pub fn counters(&self) -> Rc<AcceptCounters> {
        self.own.counters.clone()
    }
}

/// What a connection's events are within, where somebody wants to know: its task is not wrapped otherwise, and a level that
/// is off costs one relaxed load, when it is accepted.
fn connection_span(shard: &Shard, listener: &Address, connection: &Connection) -> Option<Span> {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return None;
    }
    let peer = connection.peer().map_or_else(|error| error.to_string(), |peer| peer.to_string());
    let (shard, id) = (shard.id().index(), AcceptedBy::of(shard).next_id());
    let span = tracing::debug_span!("connection", shard, id, peer, %listener);
    (!span.is_disabled()).then_some(span)
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.end_accepting();
        self.own.close();
    }
}
