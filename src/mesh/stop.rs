//! The end of a shard: however it ends, whoever waits for it learns of it, and nothing vanishes silently.
//!
//! 1. The shard's tasks are dropped (by its root).
//! 2. Every lane's consumer goes into its slot ([`Joined`]).
//! 3. The bell says STOPPED. From here on each ring is answered with it, and whoever gets that answer sweeps its own
//!    lanes to the shard: a message pushed before STOPPED but rung after it is seen by nobody else.
//! 4. Each slot is locked and what is in its lane is failed: messages rung before STOPPED.
//! 5. Every other shard is rung, so that it looks, receives what was sent before the end, and then fails what waits.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::hub::Mesh;
use super::member::Member;
use super::remote::run_jobs;
use super::run_on::Errand;
use crate::shard::Shard;
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

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

    /// On the shard's thread, when its root is made.
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
            mesh.sweep_to(shard);
        }
    }
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

impl Drop for Joined {
    fn drop(&mut self) {
        self.member.retire();
    }
}
