//! All that a runtime counts, and what its shards have left behind.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cells::{Kind, Value};
use super::family::{self, Declared, Family, FamilyError, FamilyOptions, Unit};
use super::own::Own;
use super::status::Status;
use waterwheel_reactor::Time;

/// What a runtime's shards count, under which names, and how they stand. One for all of them; families are declared on it
/// before they start.
pub struct Registry {
    id: u64,
    families: Mutex<Vec<Arc<Declared>>>,
    /// By shard, the newest that is known of it. Locked when all are asked, and when a shard ends.
    newest: Box<[Mutex<Arc<Snapshot>>]>,
    pub(super) own: Own,
    pub(crate) status: Status,
    /// The reactor's name.
    pub(super) reactor: &'static str,
    /// Whether the shards are threads of this process, and its time theirs.
    pub(super) is_real: bool,
}

/// What a shard has counted up to a moment, all its lives together.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// In which of its lives, and when: what is greater is newer.
    pub(super) taken: (u32, Time),
    /// By the family's index: the children that the shard has, by number.
    pub(super) families: Vec<Vec<(u32, Value)>>,
}

impl Snapshot {
    pub(super) fn children(&self, family: &Declared) -> &[(u32, Value)] {
        self.families.get(family.index).map_or(&[], Vec::as_slice)
    }
}

/// The id of the next registry of this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Registry {
    /// For so many shards; `is_real` if they are threads of this process, and not simulated.
    pub(crate) fn new(shards: usize, reactor: &'static str, is_real: bool) -> Arc<Registry> {
        let (id, families) = (NEXT_ID.fetch_add(1, Relaxed), Mutex::default());
        let own = Own::declare(&Declaring { id, families: &families })
            .expect("the framework's own names are as they should be");
        let newest = (0..shards).map(|_| Mutex::default()).collect();
        Arc::new(Registry { id, families, newest, own, status: Status::new(shards), reactor, is_real })
    }

    /// Declares a family with labels, or, with none, of one child.
    ///
    /// # Errors
    /// A name that makes no sense, is the framework's, or is taken; a limit that makes no sense.
    pub fn declare<K: Kind, const N: usize>(
        &self,
        name: &str,
        help: &str,
        unit: Unit,
        labels: [&'static str; N],
        options: FamilyOptions,
    ) -> Result<Family<K, N>, FamilyError> {
        family::check_not_reserved(K::SORT, name)?;
        self.declaring().declare((name, help), unit, labels, options)
    }

    fn declaring(&self) -> Declaring<'_> {
        Declaring { id: self.id, families: &self.families }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn shards(&self) -> usize {
        self.newest.len()
    }

    /// All families, in the order in which they were declared.
    pub(super) fn families(&self) -> Vec<Arc<Declared>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn place(&self, shard: usize) -> MutexGuard<'_, Arc<Snapshot>> {
        self.newest[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest that is known of a shard.
    pub(super) fn newest(&self, shard: usize) -> Arc<Snapshot> {
        self.place(shard).clone()
    }

    /// A shard has said this, now or before what is known of it already.
    pub(super) fn learn(&self, shard: usize, snapshot: Arc<Snapshot>) {
        let mut known = self.place(shard);
        let older =
            if snapshot.taken >= known.taken { std::mem::replace(&mut *known, snapshot) } else { snapshot };
        drop(known);
        drop(older);
    }
}

/// Where families are declared.
#[derive(Clone, Copy)]
pub(super) struct Declaring<'r> {
    id: u64,
    families: &'r Mutex<Vec<Arc<Declared>>>,
}

impl Declaring<'_> {
    pub(super) fn declare<K: Kind, const N: usize>(
        self,
        (name, help): (&str, &str),
        unit: Unit,
        labels: [&'static str; N],
        options: FamilyOptions,
    ) -> Result<Family<K, N>, FamilyError> {
        let mut all = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (self.id, all.len());
        let declared = Declared::new(place, (name, help), (K::SORT, unit), &labels, options)?;
        if let Some(other) = all.iter().find(|other| other.meets(&declared)) {
            return Err(FamilyError::Taken { name: declared.name, other: other.name.clone() });
        }
        let declared = Arc::new(declared);
        all.push(declared.clone());
        Ok(Family::of(declared))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("Registry").field("families", &families).field("shards", &self.shards()).finish()
    }
}
