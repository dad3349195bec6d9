//! Stopping all shards, from any thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::Mesh;
use crate::shard::task::{Foreign, StopWish};

/// Stops a runtime from any thread, before its shards run, while they do, and after.
#[derive(Clone)]
pub struct Stopper {
    shards: Arc<[Arc<Foreign>]>,
}

impl Stopper {
    pub(crate) fn new(mesh: &Arc<Mesh>) -> Stopper {
        let shards = (0..mesh.shards()).map(|shard| Arc::new(Foreign::new(mesh.bell(shard).clone())));
        Stopper { shards: shards.collect() }
    }

    /// Asks every shard to stop: what runs may finish within `drain`. Zero ends all at once, also a drain that was
    /// begun before.
    pub fn stop(&self, drain: Duration) {
        let wish = if drain.is_zero() { StopWish::AtOnce } else { StopWish::Drain(drain) };
        self.shards.iter().for_each(|shard| shard.ask_to_stop(wish));
    }

    /// The drain of a stop that was begun is over now; what is to run [after it](super::When::AfterStop) has a second. As a
    /// second signal does.
    pub fn hurry(&self) {
        self.shards.iter().for_each(|shard| shard.ask_to_stop(StopWish::Hurry));
    }

    /// From now on a stop waits for what is to run before it.
    pub(super) fn hold(&self) {
        self.shards.iter().for_each(|shard| shard.hold_stops());
    }

    /// Whether somebody has asked in a way that does not wait for what is to run before a stop.
    pub(super) fn waits_for_nothing(&self) -> bool {
        self.shards.iter().any(|shard| match shard.stop_wish() {
            None => false,
            Some(StopWish::Drain(_)) => !shard.holds_stops(),
            Some(StopWish::Hurry | StopWish::AtOnce) => true,
        })
    }

    /// Whether anybody has asked.
    #[cfg(feature = "sim")]
    pub(crate) fn was_asked(&self) -> bool {
        self.shards.iter().any(|shard| shard.stop_wish().is_some())
    }

    /// What other threads leave for each shard.
    pub(super) fn all(&self) -> Arc<[Arc<Foreign>]> {
        self.shards.clone()
    }

    /// What other threads leave for one shard.
    pub(crate) fn foreign(&self, shard: usize) -> Arc<Foreign> {
        self.shards[shard].clone()
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper").field("shards", &self.shards.len()).finish()
    }
}
