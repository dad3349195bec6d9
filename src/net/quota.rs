//! How much a shard may have in all, over its listeners and services.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

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
}

impl Quota {
    /// Gives a shard its quotas, before anything listens there.
    pub(crate) fn provide(shard: &Shard, connections: Option<usize>, descriptors: Option<usize>) {
        if connections.is_none() && descriptors.is_none() {
            return;
        }
        let most = descriptors.unwrap_or(usize::MAX);
        let reserve = if most > 1 { most.div_ceil(RESERVE_PART) } else { 0 };
        shard.keep(Rc::new(Quota {
            connections: connections.map(Places::new),
            descriptors: descriptors.map(|most| Places::new(most - reserve)),
            descriptors_most: most,
        }));
    }

    pub(super) fn of(shard: &Shard) -> Option<Rc<Quota>> {
        shard.kept()
    }

    fn all(&self) -> impl Iterator<Item = &Places> {
        self.connections.iter().chain(&self.descriptors)
    }

    /// Whether one more may be accepted.
    pub(super) fn admits(&self) -> bool {
        self.all().all(Places::are_left_for_more)
    }

    /// Ready when one that was accepted may be served.
    pub(super) fn poll_left(&self, cx: &Context<'_>) -> Poll<()> {
        let pending = self.all().filter(|places| places.poll_left(cx).is_pending()).count();
        if pending == 0 { Poll::Ready(()) } else { Poll::Pending }
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

    /// The place of a connection that the shard makes, until this is dropped.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub(super) fn made(&self) -> io::Result<Option<Taken>> {
        let Some(places) = &self.descriptors else { return Ok(None) };
        if places.taken() >= self.descriptors_most {
            let most = self.descriptors_most;
            let told = format!("the shard has {most} connections, which is all that it may");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, told));
        }
        Ok(Some(Taken(places.take())))
    }
}

/// A part of a quota that is used.
pub(super) struct Taken(#[expect(dead_code, reason = "held for its drop")] Place);

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Taken")
    }
}
