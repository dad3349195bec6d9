//! What one life of a shard counts, and what it leaves to the next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use super::cells::{Cells, Counter, Gauge, Histogram, Kind};
use super::family::{self, Declared, Family, FamilyError, Values};
use super::registry::{Registry, Snapshot};
use crate::shard::Shard;

/// What a shard has counted since it began its life. Kept for it ([`Shard::keep`]), and by its root, which outlives its
/// tasks.
pub(super) struct Store {
    pub(super) registry: Arc<Registry>,
    shard: Shard,
    life: u32,
    /// What the lives before counted.
    before: Arc<Snapshot>,
    /// By the family's index, as far as somebody asked for one; then by the child's number.
    cells: RefCell<Vec<BTreeMap<u32, Cells>>>,
    /// What counts elsewhere, and is copied when somebody asks.
    hooks: RefCell<Vec<Rc<dyn Fn()>>>,
    /// While the hooks run.
    in_hooks: Cell<bool>,
}

impl Store {
    /// The one of this shard.
    pub(super) fn of(shard: &Shard) -> Option<Rc<Store>> {
        shard.kept()
    }

    /// The cells of a family's child.
    pub(super) fn cells(&self, family: &Declared, child: u32) -> Cells {
        let mut all = self.cells.borrow_mut();
        if all.len() <= family.index {
            all.resize_with(family.index + 1, BTreeMap::new);
        }
        all[family.index].entry(child).or_insert_with(|| family.sort.fresh()).clone()
    }

    /// All that was counted up to now.
    pub(super) fn snapshot(&self) -> Snapshot {
        if !self.in_hooks.replace(true) {
            // Copied, since one may add another.
            let hooks = self.hooks.borrow().clone();
            for hook in hooks {
                if catch_unwind(AssertUnwindSafe(|| hook())).is_err() {
                    tracing::error!(shard = self.shard.id().index(), "a hook before a scrape panicked");
                }
            }
            self.in_hooks.set(false);
        }
        let all = self.cells.borrow();
        let families = all.len().max(self.before.families.len());
        let of_family = |index: usize| {
            let before = self.before.families.get(index).into_iter().flatten();
            let mut children: BTreeMap<u32, _> =
                before.filter(|(_, value)| !value.is_level()).cloned().collect();
            for (child, cells) in all.get(index).into_iter().flatten() {
                let value = cells.value();
                match children.get_mut(child) {
                    Some(known) => known.merge(&value),
                    None => drop(children.insert(*child, value)),
                }
            }
            children.into_iter().collect()
        };
        let taken = (self.life, self.shard.now());
        Snapshot { taken, families: (0..families).map(of_family).collect() }
    }

    /// Leaves all of it, but for what is only of now, to the next life and to who asks meanwhile.
    fn leave(&self) {
        let mut last = self.snapshot();
        for children in &mut last.families {
            children.retain(|(_, value)| !value.is_level());
        }
        self.registry.learn(self.shard.id().index(), Arc::new(last));
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("shard", &self.shard).field("life", &self.life).finish_non_exhaustive()
    }
}

/// A life of a shard that counts. To be dropped after its last task; leaves what was counted behind.
pub(crate) struct Life {
    store: Rc<Store>,
    /// What tells other shards of the end.
    joined: Option<Box<dyn std::any::Any>>,
}

impl Registry {
    /// A shard begins a life, and counts from now on. `joined` is dropped at its end, when what was counted has been left.
    pub(crate) fn begin(self: &Arc<Registry>, shard: &Shard, joined: Box<dyn std::any::Any>) -> Life {
        let life = self.status.begins(shard.id().index());
        let before = self.newest(shard.id().index());
        let (cells, hooks, in_hooks) = Default::default();
        let (registry, shard) = (self.clone(), shard.clone());
        let store = Rc::new(Store { registry, shard, life, before, cells, hooks, in_hooks });
        drop(store.shard.keep(store.clone()));
        self.own.watch(&store);
        Life { store, joined: Some(joined) }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Before anybody can hear of the end, so that nobody finds less than was there; and once more with what was
        // counted since.
        self.store.leave();
        drop(self.joined.take());
        self.store.leave();
        // They may hold what holds the store.
        self.store.hooks.borrow_mut().clear();
    }
}

impl Shard {
    /// This shard's part in a counter.
    ///
    /// # Errors
    /// It belongs to another runtime, or the shard ends.
    pub fn counter(&self, family: &Family<Counter>) -> Result<Counter, FamilyError> {
        self.only_child(family)
    }

    /// This shard's part in a gauge.
    ///
    /// # Errors
    /// As [`counter`](Shard::counter).
    pub fn gauge(&self, family: &Family<Gauge>) -> Result<Gauge, FamilyError> {
        self.only_child(family)
    }

    /// This shard's part in a histogram.
    ///
    /// # Errors
    /// As [`counter`](Shard::counter).
    pub fn histogram(&self, family: &Family<Histogram>) -> Result<Histogram, FamilyError> {
        self.only_child(family)
    }

    fn only_child<K: Kind>(&self, family: &Family<K>) -> Result<K, FamilyError> {
        Ok(self.children(family)?.with([]))
    }

    /// This shard's part in a family with labels.
    ///
    /// # Errors
    /// As [`counter`](Shard::counter).
    pub fn children<K: Kind, const N: usize>(
        &self,
        family: &Family<K, N>,
    ) -> Result<Children<K, N>, FamilyError> {
        let store = Store::of(self).filter(|store| store.registry.id() == family.declared.registry);
        Ok(Children::new(store.ok_or_else(|| family.foreign())?, family.clone()))
    }

    /// Calls `hook` on this shard whenever somebody is about to read what it has counted: to copy what is counted elsewhere
    /// ([`Counter::raise_to`], [`Gauge::set`]). Until the shard ends; so it should be quick, and called once.
    ///
    /// # Errors
    /// The shard ends, or is none of a runtime.
    pub fn before_scrape(&self, hook: impl Fn() + 'static) -> Result<(), FamilyError> {
        let store = Store::of(self).ok_or(FamilyError::Foreign { name: "a hook".to_owned() })?;
        store.add_hook(hook);
        Ok(())
    }
}

impl Store {
    pub(super) fn add_hook(&self, hook: impl Fn() + 'static) {
        self.hooks.borrow_mut().push(Rc::new(hook));
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }
}

/// A shard's part in a family with labels. Cheap to clone.
pub struct Children<K, const N: usize> {
    store: Rc<Store>,
    family: Family<K, N>,
    /// Those that this shard has met, by their values.
    met: Rc<RefCell<Vec<(Values, K)>>>,
    /// All that the family may have were met, by this shard too: what is not among them is `other`.
    full: Rc<Cell<bool>>,
}

impl<K, const N: usize> Clone for Children<K, N> {
    fn clone(&self) -> Children<K, N> {
        let (store, family) = (self.store.clone(), self.family.clone());
        Children { store, family, met: self.met.clone(), full: self.full.clone() }
    }
}

impl<K, const N: usize> fmt::Debug for Children<K, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children").field("family", &self.family).finish_non_exhaustive()
    }
}

impl<K: Kind, const N: usize> Children<K, N> {
    pub(super) fn new(store: Rc<Store>, family: Family<K, N>) -> Children<K, N> {
        let (met, full) = Default::default();
        Children { store, family, met, full }
    }

    /// The child with these values of the labels, in their order; made when it is asked for first. Looked up by binary
    /// search: what counts often keeps the handle. Values are cut after 128 bytes.
    ///
    /// If the family has as many children as it may have ([`FamilyOptions::children`](super::FamilyOptions::children)),
    /// it is the one that all others share.
    pub fn with(&self, values: [&str; N]) -> K {
        let found = self.find(&values);
        match found {
            Ok(child) => child,
            Err(_) if self.full.get() => self.child(self.family.declared.other()),
            Err(at) => self.meet(at, &values),
        }
    }

    fn find(&self, values: &[&str]) -> Result<K, usize> {
        let met = self.met.borrow();
        let compared = |(own, _): &(Values, K)| {
            own.iter().map(|value| &**value).cmp(values.iter().map(|value| family::cut(value)))
        };
        met.binary_search_by(compared).map(|at| met[at].1.clone())
    }

    fn meet(&self, at: usize, values: &[&str]) -> K {
        let declared = &self.family.declared;
        let number = declared.child(values);
        let child = self.child(number);
        if number == declared.other() {
            // From now on nobody else is met, and no lock is taken: all that other shards have met is copied.
            for (number, values) in declared.all_values().into_iter().enumerate() {
                let known: Vec<&str> = values.iter().map(|value| &**value).collect();
                if let Err(at) = self.find(&known) {
                    let child = self.child(number as u32);
                    self.met.borrow_mut().insert(at, (values, child));
                }
            }
            self.full.set(true);
        } else {
            let values = values.iter().map(|value| family::cut(value).into()).collect();
            self.met.borrow_mut().insert(at, (values, child.clone()));
        }
        child
    }

    fn child(&self, number: u32) -> K {
        K::of(&self.store.cells(&self.family.declared, number)).expect("a family is of one kind")
    }
}
