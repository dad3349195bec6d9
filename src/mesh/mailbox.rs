//! A shard's end of a port, as its tasks use it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use waterwheel_reactor::Time;

use super::ends::Ends;
use super::member::Member;
use super::port::{Closed, Envelope, OpenError, Port, TrySendError};
use super::waiters::Place;
use crate::shard::{Shard, ShardId, Sleep};

impl Shard {
    /// Opens a port: this shard receives what others send to it, also what they sent before.
    ///
    /// # Errors
    /// It was opened here before, or belongs to another runtime.
    pub fn open<M: Send + 'static>(&self, port: &Port<M>) -> Result<Mailbox<M>, OpenError> {
        let sender = self.sender(port)?;
        if sender.ends.open() { Ok(Mailbox { sender }) } else { Err(OpenError::AlreadyOpen(port.name())) }
    }

    /// The same for a port whose mailbox was dropped here, once nobody sends through it any more: it is of new use.
    pub(crate) fn open_again<M: Send + 'static>(&self, port: &Port<M>) -> Result<Mailbox<M>, OpenError> {
        let sender = self.sender(port)?;
        if sender.ends.open_again() {
            Ok(Mailbox { sender })
        } else {
            Err(OpenError::AlreadyOpen(port.name()))
        }
    }

    /// The sending half of a port alone; any number of them.
    ///
    /// # Errors
    /// The port belongs to another runtime.
    pub fn sender<M: Send + 'static>(&self, port: &Port<M>) -> Result<Sender<M>, OpenError> {
        let member = Member::of(self);
        if port.shared.mesh != member.ledger.mesh.id() {
            return Err(OpenError::Foreign(port.shared.name));
        }
        let ledger = &member.ledger;
        let ends = member.end(port.shared.id, || Ends::new(port.shared.clone(), ledger.clone()));
        Ok(Sender { shard: self.clone(), ends })
    }
}

/// Sends through one port from one shard. Cheap to clone; all clones share the shard's lanes, so that what they send
/// to one target stays in order.
///
/// A message that was taken is received by the target's mailbox, in a later turn and never inside the call, also when
/// a shard sends to itself; or, if the target ends or drops its mailbox first, it is dropped and counted
/// ([`Port::undelivered`]).
pub struct Sender<M> {
    shard: Shard,
    ends: Rc<Ends<M>>,
}

impl<M: Send + 'static> Sender<M> {
    /// Sends if there is room in the lane and nobody waits for it already. Never waits; allocates nothing once the
    /// lane was used.
    ///
    /// # Errors
    /// The message, and why it was not taken.
    ///
    /// # Panics
    /// If the runtime has no shard `to`.
    pub fn try_send(&self, to: ShardId, message: M) -> Result<(), TrySendError<M>> {
        self.ends.try_send(to.index(), Time::ZERO, message)
    }

    /// As [`try_send`](Sender::try_send), for a message that is not received before `time`, by the target's clock. It
    /// takes its place in the lane until then. Messages of equal times are received in the order in which they were
    /// sent; others may pass them.
    ///
    /// # Errors
    /// The message, and why it was not taken.
    ///
    /// # Panics
    /// If the runtime has no shard `to`.
    pub fn try_send_at(&self, to: ShardId, message: M, time: Time) -> Result<(), TrySendError<M>> {
        self.ends.try_send(to.index(), time, message)
    }

    /// Sends; waits for room, behind those who wait already. Dropping the future before it is ready sends nothing.
    ///
    /// # Errors
    /// The message, if the target receives no more.
    ///
    /// # Panics
    /// If the runtime has no shard `to`.
    pub async fn send(&self, to: ShardId, message: M) -> Result<(), Closed<M>> {
        // A message that need not wait is copied as seldom as possible: while the lines of a lane come from another
        // core, each store more is time.
        match self.try_send(to, message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(message)) => Err(Closed(message)),
            Err(TrySendError::Full(message)) => self.send_at(to, message, Time::ZERO).await,
        }
    }

    /// As [`send`](Sender::send), for a message that is not received before `time`: see
    /// [`try_send_at`](Sender::try_send_at).
    ///
    /// # Errors
    /// The message, if the target receives no more.
    ///
    /// # Panics
    /// If the runtime has no shard `to`.
    pub async fn send_at(&self, to: ShardId, message: M, time: Time) -> Result<(), Closed<M>> {
        let mut envelope = Some(Envelope { at: time, message });
        let mut wait = RoomWait { ends: &self.ends, target: to.index(), place: None };
        poll_fn(|cx| self.ends.poll_send(wait.target, &mut envelope, &mut wait.place, cx.waker())).await;
        match envelope {
            None => Ok(()),
            Some(envelope) => Err(Closed(envelope.message)),
        }
    }

    /// The shard that sends.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }
}

/// A shard's end of a [`Port`]: receives, and sends as [`Sender`] does. Several tasks may receive; each message goes to
/// one of them. Dropping it closes the port on this shard: senders are answered with `Closed`.
pub struct Mailbox<M: Send + 'static> {
    sender: Sender<M>,
}

impl<M: Send + 'static> Mailbox<M> {
    /// The next message and the shard that sent it. Within one turn at most
    /// [`Budgets::messages`](crate::shard::Budgets::messages) are received from each source; the rest is received in
    /// the next turns, after timers and I/O were looked at. Dropping the future loses no message.
    pub fn receive(&self) -> Receive<'_, M> {
        Receive { mailbox: self, place: None, timer: None }
    }

    /// A sender for another task of this shard.
    pub fn sender(&self) -> Sender<M> {
        self.sender.clone()
    }
}

impl<M: Send + 'static> Deref for Mailbox<M> {
    type Target = Sender<M>;

    fn deref(&self) -> &Sender<M> {
        &self.sender
    }
}

impl<M: Send + 'static> Drop for Mailbox<M> {
    fn drop(&mut self) {
        self.sender.ends.close();
    }
}

/// Waits for a message; see [`Mailbox::receive`].
#[must_use = "nothing is received unless it is awaited"]
pub struct Receive<'a, M: Send + 'static> {
    mailbox: &'a Mailbox<M>,
    /// In the queue of those who receive, once it had to wait.
    place: Option<Place>,
    /// Set while messages wait for their time.
    timer: Option<Sleep>,
}

impl<M: Send + 'static> Future for Receive<'_, M> {
    type Output = (ShardId, M);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Sender { shard, ends } = &this.mailbox.sender;
        loop {
            let polled = ends.poll_receive(&|| shard.now(), &mut this.place, cx.waker());
            if let Poll::Ready((source, message)) = polled {
                return Poll::Ready((ShardId::new(source), message));
            }
            let Some(due) = ends.next_due() else {
                this.timer = None;
                return Poll::Pending;
            };
            let timer = this.timer.get_or_insert_with(|| shard.sleep_until(due));
            if timer.deadline() != due {
                timer.reset(due);
            }
            std::task::ready!(Pin::new(timer).poll(cx));
            this.timer = None;
        }
    }
}

impl<M: Send + 'static> Drop for Receive<'_, M> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.mailbox.sender.ends.leave_receivers(&mut self.place);
        }
    }
}

/// A place in the queue for room, left when the wait is over or given up.
struct RoomWait<'a, M: Send + 'static> {
    ends: &'a Ends<M>,
    target: usize,
    place: Option<Place>,
}

impl<M: Send + 'static> Drop for RoomWait<'_, M> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.ends.leave_room(self.target, &mut self.place);
        }
    }
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Sender<M> {
        Sender { shard: self.shard.clone(), ends: self.ends.clone() }
    }
}

impl<M> fmt::Debug for Sender<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("port", &self.ends.port.name).finish_non_exhaustive()
    }
}

impl<M: Send + 'static> fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("port", &self.sender.ends.port.name).finish_non_exhaustive()
    }
}

impl<M: Send + 'static> fmt::Debug for Receive<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receive").field("waits", &self.place.is_some()).finish_non_exhaustive()
    }
}
