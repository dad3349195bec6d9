//! The end of another shard, as something to wait for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::member::Member;
use crate::shard::{Shard, ShardId};

impl Shard {
    /// Waits for the end of shard `of`, in the life in which it is now; at once if it has ended. What it had sent before
    /// was looked at then. Its own end a shard does not live to see. Dropping the future gives up waiting.
    ///
    /// # Panics
    /// If the runtime has no shard `of`.
    pub fn ended(&self, of: ShardId) -> ShardEnd {
        assert!(of.index() < self.count(), "no such shard in this runtime");
        ShardEnd::new(Member::of(self), of.index())
    }
}

/// Waits for the end of a shard; see [`Shard::ended`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct ShardEnd {
    member: Rc<Member>,
    of: usize,
    /// Which one, as this shard knew it when it began to wait: it may be back before the wait is looked at.
    life: u32,
    place: Option<usize>,
}

impl ShardEnd {
    pub(super) fn new(member: Rc<Member>, of: usize) -> ShardEnd {
        let life = member.ledger.life(of);
        ShardEnd { member, of, life, place: None }
    }
}

impl Future for ShardEnd {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { member, of, life, place } = &mut *self;
        if member.ledger.has_ended(*of) || member.ledger.life(*of) != *life {
            return Poll::Ready(());
        }
        member.mourners.borrow_mut().wait(place, cx.waker());
        if member.ledger.mesh.bell(*of).has_ended() {
            // It ended before anybody here had to do with it: the next turn looks, and tells.
            member.ledger.to_look.insert(*of);
        }
        Poll::Pending
    }
}

impl Drop for ShardEnd {
    fn drop(&mut self) {
        self.member.mourners.borrow_mut().leave(&mut self.place);
    }
}

impl fmt::Debug for ShardEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardEnd").field("of", &self.of).finish_non_exhaustive()
    }
}
