//! Token buckets: so many bytes per second, and a burst after a pause.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::Time;

use crate::shard::Shard;

/// What somebody who finds the bucket empty waits for: a hundredth of a second's bytes. So a bucket wakes its shard at
/// most a hundred times a second, however many connections share it.
const PARTS_PER_SECOND: u64 = 100;
const NANOS: u128 = 1_000_000_000;

/// Lets so many bytes per second pass, and after a pause so many at once. Of one shard; clones are the same bucket, so
/// one bucket limits one connection, or all that it is given to together.
///
/// Those who wait are served in the order in which they came, a hundredth of a second's bytes each, so that no connection
/// of a shared bucket starves. Counts by the time of the turn and reads no clock. A limit for a whole program is divided by
/// its shards.
#[derive(Clone)]
pub struct Bucket {
    inner: Rc<Inner>,
}

struct Inner {
    shard: Shard,
    /// Bytes per second.
    rate: u64,
    burst: u64,
    /// Bytes that passed, or are promised, and that no time has paid for yet; in billionths of a byte, so that the rate is
    /// what comes in per nanosecond. Beyond the burst somebody waits.
    debt: Cell<u128>,
    /// When it was last paid.
    paid: Cell<Time>,
}

impl Bucket {
    /// A full bucket: `rate` bytes per second, `burst` at once; at least one of each.
    pub fn new(shard: &Shard, rate: u64, burst: u64) -> Bucket {
        let (rate, burst) = (rate.max(1), burst.max(1));
        let paid = Cell::new(shard.turn_time());
        Bucket { inner: Rc::new(Inner { shard: shard.clone(), rate, burst, debt: Cell::new(0), paid }) }
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.inner.shard
    }

    /// How many bytes could pass now.
    pub fn available(&self) -> u64 {
        let Inner { burst, debt, .. } = &*self.inner;
        self.pay();
        ((u128::from(*burst) * NANOS).saturating_sub(debt.get()) / NANOS) as u64
    }

    /// Takes up to `want` of what is there.
    pub(super) fn take(&self, want: usize) -> usize {
        let taken = usize::try_from(self.available()).unwrap_or(usize::MAX).min(want);
        self.owe(taken);
        taken
    }

    /// Promises up to `want` bytes, at least one, and says when they may pass.
    pub(super) fn promise(&self, want: usize) -> (usize, Time) {
        let Inner { rate, burst, debt, paid, .. } = &*self.inner;
        let part = (rate / PARTS_PER_SECOND).clamp(1, *burst);
        let promised = usize::try_from(part).unwrap_or(usize::MAX).min(want.max(1));
        self.pay();
        self.owe(promised);
        let beyond = debt.get().saturating_sub(u128::from(*burst) * NANOS);
        let nanos = beyond.div_ceil(u128::from(*rate));
        (promised, paid.get() + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Of what was taken or promised so much is not wanted any more.
    pub(super) fn give_back(&self, count: usize) {
        let debt = &self.inner.debt;
        debt.set(debt.get().saturating_sub(count as u128 * NANOS));
    }

    fn owe(&self, count: usize) {
        let debt = &self.inner.debt;
        debt.set(debt.get() + count as u128 * NANOS);
    }

    fn pay(&self) {
        let Inner { shard, rate, debt, paid, .. } = &*self.inner;
        let now = shard.turn_time();
        let passed = now.since(paid.replace(now)).as_nanos();
        debt.set(debt.get().saturating_sub(passed * u128::from(*rate)));
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { rate, burst, .. } = &*self.inner;
        f.debug_struct("Bucket").field("rate", rate).field("burst", burst).finish_non_exhaustive()
    }
}
