//! How much a shard may have in all, over its listeners and services.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use waterwheel_reactor::Buffered;

use super::places::{Place, Places};
use super::queue::Queue;
use crate::shard::Shard;

/// Of the descriptors, one in so many is kept from accepting, for connections that the shard makes itself: a proxy that
/// had accepted all that it may could serve none of them.
const RESERVE_PART: usize = 10;

/// The quotas of one shard. Kept by the shard if it has any; else nobody looks at one.
#[derive(Debug)]
pub(crate) struct Quota {
    connections: Option<Places>,
    /// Up to here accepting goes on.
    descriptors: Option<Places>,
    /// Up to here the shard makes connections.
    descriptors_most: usize,
    /// What connections hold, if that is limited.
    buffered: Option<Rc<Buffered>>,
}

/// How much a shard may have; `None`: as much as it likes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) connections: Option<usize>,
    pub(crate) descriptors: Option<usize>,
    pub(crate) buffered_bytes: Option<usize>,
}

impl Quota {
    /// Gives a shard its quotas, before anything listens there.
    pub(crate) fn provide(shard: &Shard, limits: Limits) {
        let Limits { connections, descriptors, buffered_bytes } = limits;
        if connections.is_none() && descriptors.is_none() && buffered_bytes.is_none() {
            return;
        }
        let buffered = buffered_bytes.map(|most| {
            let buffered = buffered(shard);
            buffered.set_limit(Some(most));
            buffered
        });
        let most = descriptors.unwrap_or(usize::MAX);
        let reserve = if most > 1 { most.div_ceil(RESERVE_PART) } else { 0 };
        shard.keep(Rc::new(Quota {
            connections: connections.map(Places::new),
            descriptors: descriptors.map(|most| Places::new(most - reserve)),
            descriptors_most: most,
            buffered,
        }));
    }

    pub(super) fn of(shard: &Shard) -> Option<Rc<Quota>> {
        shard.kept()
    }

    fn all(&self) -> impl Iterator<Item = &Places> {
        self.connections.iter().chain(&self.descriptors)
    }

    /// Why no more may be accepted; `None`: one may.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        if self.is_full_of_bytes() {
            return Some("the shard's connections hold as many bytes as they may, clients wait");
        }
        let left = self.all().all(Places::are_left_for_more);
        (!left).then_some("the shard has as many connections as it may, clients wait")
    }

    pub(super) fn is_full_of_bytes(&self) -> bool {
        self.buffered.as_ref().is_some_and(|buffered| buffered.is_full())
    }

    /// Remembers who is to hear when fewer bytes are held, if as many are as may be.
    pub(super) fn await_bytes(&self, cx: &Context<'_>) {
        if let Some(buffered) = &self.buffered {
            let _ = buffered.poll_room(cx);
        }
    }

    /// Fewer bytes may be held for this shard by others: tells who waits for that.
    pub(super) fn look_again(shard: &Shard) {
        if let Some(buffered) = Quota::of(shard).and_then(|quota| quota.buffered.clone()) {
            buffered.look_again();
        }
    }

    /// Ready when one that was accepted may be served.
    pub(super) fn poll_left(&self, cx: &Context<'_>) -> Poll<()> {
        let pending = self.all().filter(|places| places.poll_left(cx).is_pending()).count();
        self.await_bytes(cx);
        if pending == 0 && !self.is_full_of_bytes() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A queue that is to hear when there is room.
    pub(super) fn join(&self, queue: &Rc<Queue>) {
        self.all().for_each(|places| places.join(queue));
    }

    /// So many more wait in a queue, or fewer.
    pub(super) fn queued(&self, change: isize) {
        self.all().for_each(|places| places.queued(change));
    }

    /// The places of a connection that was accepted, until this is dropped.
    pub(super) fn accepted(&self) -> Vec<Taken> {
        self.all().map(|places| Taken(places.take())).collect()
    }

    /// Places for descriptors of what the shard makes itself (connections, datagram sockets, pipes), until these are dropped.
    ///
    /// # Errors
    /// `QuotaExceeded`: the shard has not so many left.
    pub(crate) fn descriptors(shard: &Shard, count: usize) -> io::Result<Vec<Taken>> {
        let Some(quota) = Quota::of(shard) else { return Ok(Vec::new()) };
        let Some(places) = &quota.descriptors else { return Ok(Vec::new()) };
        let most = quota.descriptors_most;
        if places.taken() + count > most {
            let told = format!("the shard has {most} descriptors, which is all that it may");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, told));
        }
        Ok((0..count).map(|_| Taken(places.take())).collect())
    }
}

/// Where a shard counts what its connections hold outside the kernel.
pub(super) fn buffered(shard: &Shard) -> Rc<Buffered> {
    // A reactor that does not count leaves what is held above it.
    shard.reactor().buffered().cloned().or_else(|| shard.kept()).unwrap_or_else(|| {
        let own = Rc::<Buffered>::default();
        drop(shard.keep(own.clone()));
        own
    })
}

impl Shard {
    /// How many bytes its connections hold outside the kernel: memory for what was received and not consumed, or taken to
    /// be sent and not in the kernel's hands; and what other shards have [handed over](crate::net::datagram) of datagrams. What
    /// a reactor does not tell ([`Reactor::buffered`]) is not among them, nor is what a program keeps itself.
    ///
    /// [`Reactor::buffered`]: crate::reactor::Reactor::buffered
    pub fn buffered_bytes(&self) -> usize {
        buffered(self).bytes()
    }

    /// The most that they may hold ([`Quotas`](crate::runtime::Quotas)).
    pub fn buffered_bytes_limit(&self) -> Option<usize> {
        buffered(self).limit()
    }
}

/// Memory that a connection holds above the reactor, counted until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// `None` until there is some.
    buffered: Option<Rc<Buffered>>,
    bytes: usize,
}

impl Holding {
    /// So many bytes are held now.
    #[inline]
    pub(super) fn set(&mut self, shard: &Shard, bytes: usize) {
        if bytes != self.bytes {
            self.change(shard, bytes);
        }
    }

    #[cold]
    fn change(&mut self, shard: &Shard, bytes: usize) {
        let buffered = self.buffered.get_or_insert_with(|| buffered(shard));
        buffered.take(bytes);
        buffered.give_back(std::mem::replace(&mut self.bytes, bytes));
    }

    /// Whether the shard holds as much as it may.
    pub(super) fn is_held_back(&self) -> bool {
        self.buffered.as_ref().is_some_and(|buffered| buffered.is_full())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(buffered) = &self.buffered {
            buffered.give_back(self.bytes);
        }
    }
}

/// A part of a quota that is used.
pub(crate) struct Taken(#[expect(dead_code, reason = "held for its drop")] Place);

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Taken")
    }
}
