//! How much of the memory that may be locked each shard's ring takes. A process without `CAP_IPC_LOCK` may lock
//! `RLIMIT_MEMLOCK` bytes (getrlimit(2)), of which kernels before 5.12 and from 6.14 on count rings, for all processes of a
//! user together. Whoever comes first must not take all, or the next shard would have no ring.

use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::buffers::RECORD_BYTES;
use crate::ring::{COMPLETIONS, ENTRIES, SCALE_MAX};

/// What one shard's ring may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// How often its queues are halved.
    pub(crate) scale: u32,
    /// Whether there is room for the list of provided buffers, too.
    pub(crate) buffers: bool,
}

impl Share {
    /// All that is useful.
    pub(crate) const FULL: Share = Share { scale: 0, buffers: true };

    /// A ring to try things with.
    pub(crate) const LEAST: Share = Share { scale: SCALE_MAX, buffers: true };

    /// What each of so many shards may take of so many bytes. Buffers are worth more than long queues, which the kernel
    /// makes longer where they overflow.
    fn of(limit: u64, shards: usize, page: u64) -> Share {
        let each = limit / shards.max(1) as u64;
        let sizes = [true, false]
            .into_iter()
            .flat_map(|buffers| (0..=SCALE_MAX).map(move |scale| Share { scale, buffers }));
        let fits = |share: &Share| share.bytes(page) <= each;
        // What fits nowhere is tried all the same: not every kernel counts it.
        sizes.into_iter().find(fits).unwrap_or(Share { scale: SCALE_MAX, buffers: false })
    }

    /// What the kernel counts for it: whole pages for the entries, for both queues behind a head, and for the buffers.
    fn bytes(self, page: u64) -> u64 {
        const HEAD: u64 = 64;
        let entries = u64::from(ENTRIES >> self.scale);
        let queues = HEAD + 4 * entries + 16 * u64::from(COMPLETIONS >> self.scale);
        let buffers = if self.buffers { RECORD_BYTES as u64 } else { 0 };
        [64 * entries, queues, buffers].into_iter().map(|bytes| bytes.next_multiple_of(page)).sum()
    }
}

/// What this process may lock; `None`: as much as it likes.
pub(crate) fn limit() -> Option<u64> {
    let free = capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK));
    if free { None } else { getrlimit(Resource::Memlock).current }
}

/// What each of so many shards may take here.
pub(crate) fn share(limit: Option<u64>, shards: usize) -> Share {
    limit.map_or(Share::FULL, |limit| Share::of(limit, shards, page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shards_fit_into_little_memory_together() {
        const PAGE: u64 = 4096;
        for shards in 1..=8 {
            let share = Share::of(64 << 10, shards, PAGE);
            assert!(share.bytes(PAGE) * shards as u64 <= 64 << 10, "{shards} shards: {share:?}");
            assert_eq!(share.buffers, shards <= 2, "{shards} shards: {share:?}");
        }
        assert_eq!(Share::of(8 << 20, 64, PAGE), Share::FULL);
        assert_eq!(Share::of(0, 1, PAGE), Share { scale: SCALE_MAX, buffers: false });
    }
}
