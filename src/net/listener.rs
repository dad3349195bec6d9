//! Listeners: accepted on every shard, steered to the one that owns the connection.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, select};
use tracing::{Instrument, Span};
use waterwheel_os::{SocketFile, may_be_taken_later};
use waterwheel_reactor::{Address, Bound, Handle};

use super::accepting::{Accepting, Steer};
use super::connection::Connection;
use super::door::Door;
use super::leaving::Leaving;
use super::offered::Offered;
use super::places::{Part, Parts, Places};
use super::queue::{AcceptCounters, AcceptedBy, Queue};
use super::quota::Quota;
use super::reserve::Reserve;
use super::sockets::{Counted, Held, Sockets};
use crate::mesh::{Mailbox, Port, PortOptions, Sender};
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
    is_virtual: bool,
    unopened: Mutex<Unopened>,
    sockets: Arc<Sockets>,
    reserve: Arc<Reserve>,
    handoff: Port<Offered>,
    /// Where the port goes when nobody sends through it any more.
    spare: SparePorts,
    /// Of the listeners that had the port before.
    undelivered_before: u64,
    steering: Steering,
    parts: Arc<Parts>,
    /// Of a Unix socket; removed with this at the latest.
    file: Mutex<Option<SocketFile>>,
}

/// The parts that no shard serves now.
#[derive(Default)]
struct Unopened {
    /// By shard.
    parts: Vec<Option<Held>>,
    /// The listener is no more: parts that come back are closed.
    ended: bool,
}

/// The ports of listeners that are no more, for those to come. Ports cannot be given up, so they are used again: there are
/// as many as there ever were listeners at once.
pub(crate) type SparePorts = Arc<Mutex<Vec<Port<Offered>>>>;

impl Drop for Shared {
    fn drop(&mut self) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(self.handoff.clone());
    }
}

/// How long a shard goes on accepting once a listener is left, and then on receiving what others accepted for it, who may
/// have begun to leave later. It comes within a turn; a second is long for a busy shard too.
pub(super) const HANDED_WITHIN: Duration = Duration::from_secs(1);

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
        (handoff, spare): (Port<Offered>, SparePorts),
        steering: Steering,
        file: Option<SocketFile>,
    ) -> Option<Listening> {
        let first = unopened.first()?;
        let (local, is_virtual) = (first.local.clone(), matches!(first.handle, Handle::Virtual(_)));
        let parts = Arc::new(Parts::new(unopened.len(), steering.mode));
        let sockets = Arc::<Sockets>::default();
        let held = |bound| Some(Held { bound, counted: Counted::new(&sockets) });
        let unopened = unopened.into_iter().map(held).collect();
        let unopened = Mutex::new(Unopened { parts: unopened, ended: false });
        let file = Mutex::new(file);
        let undelivered_before = handoff.undelivered();
        let shared = Shared {
            local,
            is_virtual,
            unopened,
            sockets,
            reserve,
            handoff,
            spare,
            undelivered_before,
            steering,
            parts,
            file,
        };
        Some(Listening { shared: Arc::new(shared) })
    }

    pub(super) fn handoff(&self) -> &Port<Offered> {
        &self.shared.handoff
    }

    pub(super) fn steering(&self) -> Steering {
        self.shared.steering
    }

    fn unopened(&self) -> MutexGuard<'_, Unopened> {
        self.shared.unopened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both are the same one.
    pub(crate) fn is(&self, other: &Listening) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Closes the parts that no shard serves, for good, and removes the file of a Unix socket. Those that are served end
    /// with their acceptors.
    pub(crate) fn end(&self) {
        let mut unopened = self.unopened();
        unopened.ended = true;
        let parts = std::mem::take(&mut unopened.parts);
        drop(unopened);
        drop(parts);
        self.remove_file();
    }

    pub(crate) fn remove_file(&self) {
        let file = self.shared.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(file);
    }

    /// Where it listens, port 0 resolved.
    pub fn local(&self) -> &Address {
        &self.shared.local
    }

    /// Connections that a shard handed over to one that had ended when they came, and that were reset; over all
    /// shards, complete once all of them ended. So many are handed over and not taken over.
    pub fn undelivered(&self) -> u64 {
        self.shared.handoff.undelivered() - self.shared.undelivered_before
    }

    /// Whether clients are served: every part was opened, or given up, and not all are closed.
    pub(crate) fn is_served(&self) -> bool {
        self.shared.parts.are_served()
    }

    /// The part of a shard is served no longer, for now: it is there for who opens it next.
    pub(super) fn put_back(&self, shard: usize, held: Held) {
        let mut unopened = self.unopened();
        let ended = unopened.ended;
        if let Some(part) = unopened.parts.get_mut(shard).filter(|_| !ended) {
            *part = Some(held);
        }
    }

    /// Whether it is of a world without a kernel.
    pub(crate) fn is_virtual(&self) -> bool {
        self.shared.is_virtual
    }

    /// Its sockets, wherever they are.
    pub(crate) fn sockets(&self) -> &Arc<Sockets> {
        &self.shared.sockets
    }

    /// Closes a shard's part if it was never opened: the shard has ended.
    pub(crate) fn give_up(&self, shard: usize) {
        self.shared.parts.set(shard, Part::Closed);
        let part = self.unopened().parts.get_mut(shard).and_then(Option::take);
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
    /// Whether the socket stays, for who accepts next, when this goes.
    stays: Rc<Cell<bool>>,
    /// Where it listens.
    local: Address,
    leaving: Leaving,
}

impl Shard {
    /// Opens this shard's part of a listener, and begins to accept: a reactor that is short of memory or descriptors takes it
    /// when it can. A socket that turns out to be of no use ends this life of the shard
    /// ([`RunError::Failed`](crate::runtime::RunError::Failed)).
    ///
    /// # Errors
    /// It was opened on this shard before, or the reactor refuses the socket for a reason that stays. Then another attempt may
    /// be made.
    pub fn accept_on(&self, listening: &Listening) -> io::Result<Acceptor> {
        let held = self.take_part(listening)?;
        let mailbox = match self.open_again(listening.handoff()) {
            Ok(mailbox) => mailbox,
            Err(error) => {
                listening.put_back(self.id().index(), held);
                return Err(io::Error::other(error));
            }
        };
        let steering = listening.steering();
        let stays = Rc::new(Cell::new(false));
        let (own, steer, accepting) =
            self.accept_by(listening, held, mailbox.sender(), steering, stays.clone())?;
        let accepting = Some(self.spawn("accept", accepting.run()));
        let spreads = steering.mode.spreads() && self.count() > 1;
        let (shard, own_first, leaving, local) =
            (self.clone(), false, Leaving::default(), listening.local().clone());
        Ok(Acceptor { shard, mailbox, own, own_first, spreads, steer, accepting, stays, leaving, local })
    }

    pub(super) fn take_part(&self, listening: &Listening) -> io::Result<Held> {
        let part = listening.unopened().parts.get_mut(self.id().index()).and_then(Option::take);
        part.ok_or_else(|| {
            io::Error::other(format!("{} is served by {:?} already", listening.local(), self.id()))
        })
    }

    pub(super) fn accept_by(
        &self,
        listening: &Listening,
        held: Held,
        to: Sender<Offered>,
        steering: Steering,
        stays: Rc<Cell<bool>>,
    ) -> io::Result<(Rc<Queue>, Rc<Steer>, Accepting)> {
        let Shared { parts, reserve, .. } = &*listening.shared;
        let mut door = Door::new(held, listening.clone(), self.clone(), stays.clone());
        if let Err(error) = door.open(reserve)
            && !may_be_taken_later(&error)
        {
            stays.set(true);
            return Err(error);
        }
        let own = Queue::new(parts.clone(), self.id().index(), Quota::of(self));
        let counters = own.counters.clone();
        AcceptedBy::of(self).add(listening.local(), counters.clone());
        let (parts, _of) = (parts.clone(), listening.clone());
        let steer = Rc::new(Steer { steering, to, parts, counters, _of });
        let accepting = Accepting::new(self.clone(), door, own.clone(), steer.clone(), reserve.clone());
        Ok((own, steer, accepting))
    }
}

/// How long an acceptor serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until the shard was asked to stop.
    Stopped,
    /// Until the listener was left.
    Left,
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
            let full = places.is_some_and(|places| places.poll_left(cx).is_pending());
            if full || own.quota.as_ref().is_some_and(|quota| quota.poll_left(cx).is_pending()) {
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
                let connection = match &self.own.quota {
                    Some(quota) => connection.escorted(Rc::new(quota.accepted())),
                    None => connection,
                };
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
        let serve = Rc::new(serve);
        let until = self.serve_for_now(places, &serve).await;
        self.end(until, places, &serve).await;
    }

    /// Serves those that are left, after [`serve_for_now`](Acceptor::serve_for_now).
    pub(crate) async fn end<F, S>(self, until: Until, places: &Places, serve: &Rc<S>)
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        match until {
            Until::Left => self.leave_in(places, serve).await,
            Until::Stopped => self.finish(places, serve).await,
        }
    }

    /// Serves connections until the shard is asked to stop, or the listener is left. May be given up, and called again with something else to serve
    /// them, in other places: those that come in between wait.
    pub(crate) async fn serve_for_now<F, S>(&mut self, places: &Places, serve: &Rc<S>) -> Until
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.own.serve_in(places);
        let leaving = self.leaving.clone();
        while let Some(next) = until(poll_fn(|cx| leaving.poll(cx)), self.next(Some(places))).await {
            // If it failed that was counted, and the next one may be fine.
            let Some(accepted) = next else { return Until::Stopped };
            accepted.into_iter().for_each(|connection| self.start(places, serve, connection));
        }
        Until::Left
    }

    /// The listener is left: serves who was accepted by then, as far as the shard goes on.
    async fn leave_in<F, S>(mut self, places: &Places, serve: &Rc<S>)
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.own.drain();
        // What others accept until then is still to be handed over here.
        let accepts_until = self.shard.now() + HANDED_WITHIN;
        let mut accepted = self.shard.sleep_until(accepts_until);
        let (mut over, mut is_over) = (self.shard.sleep_until(accepts_until + HANDED_WITHIN), false);
        let mut stopping = self.shard.stopping();
        let mut received = pin!(self.mailbox.receive());
        loop {
            let next = poll_fn(|cx| {
                if Pin::new(&mut stopping).poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                if self.accepting.is_some() && Pin::new(&mut accepted).poll(cx).is_ready() {
                    end(&mut self.accepting);
                }
                while self.own.takes_more()
                    && let Poll::Ready((_, incoming)) = received.as_mut().poll(cx)
                {
                    received.set(self.mailbox.receive());
                    self.own.counters.count(|counted| &mut counted.taken_over);
                    self.own.push(incoming);
                }
                is_over = is_over || Pin::new(&mut over).poll(cx).is_ready();
                *self.own.taker.borrow_mut() = Some(cx.waker().clone());
                if is_over && self.own.len() == 0 {
                    return Poll::Ready(None);
                }
                let has_place = places.poll_left(cx).is_ready();
                let next = if has_place { self.own.pop() } else { None };
                next.map_or(Poll::Pending, |incoming| Poll::Ready(Some(incoming)))
            });
            let Some(incoming) = next.await else { return };
            self.adopt(incoming).into_iter().for_each(|connection| self.start(places, serve, connection));
        }
    }

    /// The shard stops. Who was accepted before is served, as far as there are places; once more in the next turn, when what
    /// other shards sent in this one has come. Then waits for those that are being served.
    pub(crate) async fn finish<F, S>(mut self, places: &Places, serve: &Rc<S>)
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        end(&mut self.accepting);
        for _ in 0..2 {
            while places.are_left()
                && let Some(incoming) = self.left_over()
            {
                self.adopt(incoming).into_iter().for_each(|connection| self.start(places, serve, connection));
            }
            self.shard.yield_now().await;
        }
        drop(self);
        places.free().await;
    }

    fn start<F, S>(&self, places: &Places, serve: &Rc<S>, connection: Connection)
    where
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        // Taken until both its task and the connection are gone, which may linger.
        let place = Rc::new(places.take());
        let (serve, connection) = (serve.clone(), connection.escorted(place.clone()));
        let span = connection_span(&self.shard, &self.local, &connection);
        let serving = async move {
            if let Err(error) = serve(connection).await {
                tracing::debug!("a connection ended with an error: {error:#}");
            }
            drop(place);
        };
        match span {
            Some(span) => self.shard.spawn_detached("connection", serving.instrument(span)),
            None => self.shard.spawn_detached("connection", serving),
        }
    }

    /// Gives this shard's part back as it was, with the clients that wait there: for who opens it next.
    pub(crate) fn give_back(self) {
        self.stays.set(true);
    }

    /// Ends it before its shard stops.
    pub fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    /// Its counters, which outlive it.
    pub fn counters(&self) -> Rc<AcceptCounters> {
        self.own.counters.clone()
    }
}

/// What a future gives, unless another is ready first.
async fn until<F: Future>(end: impl Future<Output = ()>, future: F) -> Option<F::Output> {
    match select(pin!(end), pin!(future)).await {
        Either::Left(_) => None,
        Either::Right((output, _)) => Some(output),
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

fn end(accepting: &mut Option<Task<()>>) {
    if let Some(accepting) = accepting.take() {
        accepting.cancel();
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        end(&mut self.accepting);
        self.own.close();
    }
}
