//! Whether anybody still uses a lease: if nobody does it is given up, on all shards.

use std::cell::{Cell, RefCell};
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

/// Who may take of a lease on one shard.
#[derive(Default)]
pub(super) struct Users {
    /// Limiters.
    count: Cell<u64>,
    /// While there is one, or as long as it is kept.
    in_use: RefCell<Option<Arc<InUse>>>,
}

impl Users {
    /// One more limiter.
    pub(super) fn enter(&self, in_use: &Arc<InUse>) {
        self.in_use.borrow_mut().get_or_insert_with(|| in_use.clone());
        self.enter_again();
    }

    /// The same where there is one.
    pub(super) fn enter_again(&self) {
        self.count.set(self.count.get() + 1);
    }

    /// A limiter less.
    pub(super) fn leave(&self) {
        self.count.set(self.count.get() - 1);
    }

    /// Whoever used it last on this shard lets it go.
    pub(super) fn settle(&self) {
        if self.count.get() == 0 {
            let in_use = self.in_use.take();
            drop(in_use);
        }
    }
}
