//! The limits of connections to upstreams, of all versions of the settings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use waterwheel_reactor::Address;

use crate::mesh::{CountLease, WeakCountLease};
use crate::runtime::{Listeners, StartError};

/// One for each upstream that has a limit, or had one while connections of then are still there: they count against what
/// comes after them. A limit that nobody uses any more is given up.
#[derive(Debug, Default)]
pub(super) struct Limits {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    known: BTreeMap<Key, WeakCountLease>,
    /// How often the version that is being made has had an upstream by now.
    met: BTreeMap<(String, Address), usize>,
    /// Limits of groups that this version does not have: they go on where the same address stands in a new group, so that a
    /// rename does not give an upstream its limit twice.
    left: BTreeMap<Address, Vec<WeakCountLease>>,
    /// Limits that end, and have their names still.
    ending: Vec<WeakCountLease>,
    names: Names,
}

/// The path of the group, the address, and which of those there that have it: an address may stand there twice.
type Key = (String, Address, usize);

/// Names live as long as the program, so those of what was given up are used again: there are as many as there ever were
/// limits at once.
#[derive(Debug, Default)]
struct Names {
    free: BTreeSet<&'static str>,
}

impl Limits {
    /// A new version with these groups is made: each upstream is met once more.
    pub(super) fn begin(&self, groups: &BTreeSet<String>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let All { known, met, left, ending, names } = &mut *all;
        met.clear();
        left.clear();
        ending.extend(known.extract_if(.., |_, limit| limit.upgrade().is_none()).map(|(_, limit)| limit));
        names.free.extend(ending.extract_if(.., |limit| limit.is_over()).map(|limit| limit.name()));
        for ((_, address, _), limit) in known.iter().filter(|((group, ..), _)| !groups.contains(group)) {
            left.entry(address.clone()).or_default().push(limit.clone());
        }
    }

    /// So many to this upstream of a group, over all shards.
    pub(super) fn of(
        &self,
        listeners: &Listeners,
        group: &str,
        address: &Address,
        most: usize,
    ) -> Result<CountLease, StartError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let All { known, met, left, ending, names } = &mut *all;
        let met = met.entry((group.to_owned(), address.clone())).or_default();
        let key = (group.to_owned(), address.clone(), *met);
        *met += 1;
        let before = known.get(&key).and_then(WeakCountLease::upgrade);
        let mut left = left.get_mut(address).into_iter().flat_map(|left| left.drain(..));
        let lease = match before.or_else(|| left.find_map(|limit| limit.upgrade())) {
            Some(lease) if lease.limit() == most as u64 => lease,
            Some(lease) => lease.with_limit(most as u64)?,
            None => listeners.count_lease(names.next(listeners), most as u64)?,
        };
        let before = known.insert(key, lease.downgrade());
        ending.extend(before.filter(|before| before.name() != lease.name()));
        Ok(lease)
    }
}

impl Names {
    fn next(&mut self, listeners: &Listeners) -> &'static str {
        self.free
            .pop_first()
            .unwrap_or_else(|| format!("connections to an upstream, limit {}", listeners.next_limit()).leak())
    }
}
