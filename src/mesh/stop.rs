//! The end of a shard: however it ends, whoever waits for it learns of it, and nothing vanishes silently.
//!
//! 1. The shard's tasks are dropped (by its root).
//! 2. Every lane's consumer goes into its slot ([`Joined`]).
//! 3. The bell says STOPPED. From here on each ring is answered with it, and whoever gets that answer sweeps its own
//!    lanes to the shard: a message pushed before STOPPED but rung after it is seen by nobody else.
//! 4. Each slot is locked and what is in its lane is failed: messages rung before STOPPED.
//! 5. Every other shard is rung, so that it looks, receives what was sent before the end, and then fails what waits.
//!
//! A shard may have a next life. It joins with nothing of the one before, and is *reopened* once every other shard has said
//! that it has looked (at work) or that it has rung everybody itself (ended): from then on nothing that concerned the life
//! before is left anywhere, but messages that were received and wait to be looked at, and handlers whose reply nobody waits
//! for.
//!
//! 6. Its life's number goes up, STOPPED goes off, every other shard is rung: it finds the shard back.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::hub::Mesh;
use super::member::Member;
use super::remote::run_jobs;
use super::run_on::Errand;
use super::waiters::Place;
#[cfg(loom)]
use crate::shard::broken::{Break, broken};
use crate::shard::{Shard, ShardId};

/// Ends a shard's part in the mesh when it is dropped. Made with the shard's `Launch`, so that it also speaks for a
/// shard that never starts; moved into the root by [`join`](StopGuard::join), so that it also speaks for one that
/// panics.
#[must_use = "dropping it ends the shard for all others"]
pub(crate) struct StopGuard {
    mesh: Arc<Mesh>,
    shard: usize,
}

impl StopGuard {
    /// The guard of shard `shard`. One per shard.
    pub(crate) fn new(mesh: &Arc<Mesh>, shard: usize) -> StopGuard {
        assert!(shard < mesh.shards(), "no such shard in this runtime");
        StopGuard { mesh: mesh.clone(), shard }
    }

    /// On the shard's thread, when its root is made. A shard that ended before is not back by that, but by
    /// [`reopened`].
    pub(crate) fn join(self) -> Joined {
        let member = Rc::new(Member::new(self.mesh.clone(), self.shard));
        Joined { member, _guard: self }
    }
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        let (mesh, me) = (&self.mesh, self.shard);
        #[cfg(loom)]
        if broken(Break::PeerRingFirst) {
            ring_others(mesh, me);
        }
        #[cfg(loom)]
        if broken(Break::StopperSweepsFirst) {
            mesh.sweep_to(me);
        }
        mesh.bell(me).stop();
        #[cfg(loom)]
        if broken(Break::StopperSweepsFirst) || broken(Break::StopperNeverSweeps) {
            return ring_others(mesh, me);
        }
        // Sweeping drops messages, which may panic; the others are rung all the same.
        let others = RingOthers { mesh, me };
        mesh.sweep_to(me);
        #[cfg(loom)]
        if broken(Break::PeerRingFirst) || broken(Break::NoPeerRing) {
            std::mem::forget(others);
            return;
        }
        drop(others);
    }
}

/// Rings the other shards when it is dropped.
struct RingOthers<'a> {
    mesh: &'a Mesh,
    me: usize,
}

impl Drop for RingOthers<'_> {
    fn drop(&mut self) {
        ring_others(self.mesh, self.me);
    }
}

fn ring_others(mesh: &Mesh, me: usize) {
    for shard in (0..mesh.shards()).filter(|shard| *shard != me) {
        // One that ended before looks no more: what this shard sent it last is failed here.
        let stopped = mesh.bell(shard).ring(me).stopped;
        #[cfg(loom)]
        let stopped = stopped && !broken(Break::PeerNeverSwept);
        if stopped {
            mesh.sweep_between(me, shard);
        }
    }
    // Only now: another that ended is not to be back before what was sent to its life before is swept.
    mesh.acknowledge(me, me, mesh.bell(me).life().number);
}

impl fmt::Debug for StopGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopGuard").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// A shard that takes part. The root holds it and drops it after the tasks.
#[derive(Debug)]
pub(crate) struct Joined {
    member: Rc<Member>,
    /// Dropped after the member retired: see [`Drop`].
    _guard: StopGuard,
}

impl Joined {
    /// What the shard does in each turn.
    pub(crate) fn member(&self) -> &Rc<Member> {
        &self.member
    }

    /// Begins to serve what every shard serves: closures of other shards, and jobs from outside threads. Once, when
    /// the shard's handle exists.
    pub(crate) fn start(&self, shard: &Shard) {
        let handle = shard.clone();
        let run_on = self.member.ledger.mesh.run_on();
        let served = shard.serve(run_on, move |_, errand: Errand| errand(handle.clone()));
        assert!(served.is_ok(), "a shard starts once");
        shard.spawn_detached("jobs", run_jobs(self.member.clone(), shard.clone()));
    }
}

/// Waits until all others know of the end of this shard's life before, and lets them send to it again. What this life wants
/// to send meanwhile waits as if the lanes were full: others would take it for something that its end has left behind.
pub(crate) async fn reopened(shard: &Shard) {
    const LOOK_AGAIN: Duration = Duration::from_micros(100);
    const LOOK_AGAIN_MOST: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(1);
    let member = Member::of(shard);
    let mesh = &member.ledger.mesh;
    let (me, began) = (shard.id().index(), shard.now());
    let (mut pause, mut told) = (LOOK_AGAIN, false);
    while let Some(other) = mesh.unaware_of_the_end(me) {
        // Those that sleep were woken, so that this waits for one that is in the middle of a turn.
        shard.sleep(pause).await;
        pause = (pause * 2).min(LOOK_AGAIN_MOST);
        if !told && shard.now().since(began) >= LONG {
            told = true;
            tracing::warn!(
                shard = me,
                "cannot go on before shard {other}, which is in a long turn, has heard of its end"
            );
        }
    }
    member.reopen();
}

impl Shard {
    /// Whether another shard can be sent to, as far as this one knows: it has not ended, or is back.
    ///
    /// # Panics
    /// If the runtime has no such shard.
    pub fn is_open(&self, shard: ShardId) -> bool {
        assert!(shard.index() < self.count(), "no shard {shard} in this runtime");
        !Member::of(self).ledger.has_ended(shard.index())
    }

    /// Waits until another shard can be sent to: at once unless it has ended, and for ever if it never comes back. After
    /// `Closed`, for what has to go on with the next life of that shard; see
    /// [`Supervision`](crate::runtime::Supervision).
    ///
    /// # Panics
    /// If the runtime has no such shard.
    pub async fn opened(&self, shard: ShardId) {
        assert!(shard.index() < self.count(), "no shard {shard} in this runtime");
        let mut wait = ReturnWait { member: Member::of(self), place: None };
        poll_fn(|cx| wait.member.poll_return(shard.index(), &mut wait.place, cx.waker())).await;
    }
}

/// A place in the queue of those who wait for a shard, left when the wait is given up.
struct ReturnWait {
    member: Rc<Member>,
    place: Option<Place>,
}

impl Drop for ReturnWait {
    fn drop(&mut self) {
        self.member.leave_returns(&mut self.place);
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.member.retire();
    }
}
