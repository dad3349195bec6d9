//! Whether anybody still uses a lease: if nobody does it is given up, on all shards.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::mesh::hub::Mesh;

/// Held by all who may take of a lease: whoever has it declared, and each shard while something is out there or may be
/// taken. Dropped by the last of them, on whatever thread, it gives the lease's port up; what works for the lease on the
/// shards does not hold it, and ends.
pub(super) struct InUse {
    mesh: Arc<Mesh>,
    port: usize,
    over: Arc<AtomicBool>,
}

impl InUse {
    pub(super) fn new(mesh: &Arc<Mesh>, port: usize, over: &Arc<AtomicBool>) -> InUse {
        InUse { mesh: mesh.clone(), port, over: over.clone() }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.mesh.give_up(self.port, &self.over);
    }
}
