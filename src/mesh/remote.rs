//! The way in for outside threads: signals, a blocking pool, a reload.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::hub::Mesh;
use super::jobs::{Job, Refused};
use super::member::Member;
use crate::shard::{Shard, ShardId};

/// Gives work to shards from any thread: before they run (it waits for them), while they do, and after they ended
/// (`Closed`). Cheap to clone. Never waits; each shard has room for 1 024 jobs.
///
/// Between shards use ports, which do not allocate.
#[derive(Clone)]
pub struct Remote {
    mesh: Arc<Mesh>,
}

/// Why a job was not taken; it comes back, and can be offered again as it is.
#[derive(thiserror::Error)]
pub enum TryRunError {
    /// As many jobs as a shard may have wait already.
    #[error("too many jobs wait for the shard")]
    Full(Job),
    /// The shard ended.
    #[error("the shard ended")]
    Closed(Job),
}

impl TryRunError {
    /// The job.
    pub fn into_inner(self) -> Job {
        match self {
            TryRunError::Full(job) | TryRunError::Closed(job) => job,
        }
    }
}

impl Remote {
    /// The way into the shards of a mesh.
    pub(crate) fn new(mesh: &Arc<Mesh>) -> Remote {
        Remote { mesh: mesh.clone() }
    }

    /// Runs `job` on `shard`'s thread, in one of its next turns, in the order in which jobs were given. It may spawn
    /// tasks. If it panics, that is logged, and nothing else happens. If the shard ends before the job ran, it is
    /// dropped and counted ([`lost`](Remote::lost)).
    ///
    /// # Errors
    /// The job, and why it was not taken.
    ///
    /// # Panics
    /// If the runtime has no such shard.
    pub fn try_run(
        &self,
        shard: ShardId,
        job: impl FnOnce(&Shard) + Send + 'static,
    ) -> Result<(), TryRunError> {
        let index = shard.index();
        self.mesh.jobs(index).leave(self.mesh.bell(index), Box::new(job)).map_err(|refused| match refused {
            Refused::Full(job) => TryRunError::Full(job),
            Refused::Closed(job) => TryRunError::Closed(job),
        })
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.mesh.shards()
    }

    /// Jobs that `shard` took and never ran, because it ended.
    ///
    /// # Panics
    /// If the runtime has no such shard.
    pub fn lost(&self, shard: ShardId) -> u64 {
        self.mesh.jobs(shard.index()).lost()
    }
}

impl Shard {
    /// The way into this runtime's shards for outside threads.
    pub fn remote(&self) -> Remote {
        Remote::new(&Member::of(self).ledger.mesh)
    }
}

/// Runs the jobs of one shard, a budget of them in a turn. A task of that shard.
pub(super) async fn run_jobs(member: Rc<Member>, shard: Shard) {
    let mesh = member.ledger.mesh.clone();
    let jobs = mesh.jobs(member.ledger.id);
    loop {
        poll_fn(|cx| {
            member.wait_for_jobs(cx.waker());
            if jobs.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        for job in std::iter::from_fn(|| jobs.take()).take(mesh.budget()) {
            if catch_unwind(AssertUnwindSafe(|| job(&shard))).is_err() {
                tracing::error!(shard = member.ledger.id, "a job from an outside thread panicked");
            }
        }
        shard.yield_now().await;
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("shards", &self.shards()).finish()
    }
}

impl fmt::Debug for TryRunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TryRunError::Full(_) => "Full",
            TryRunError::Closed(_) => "Closed",
        })
    }
}
