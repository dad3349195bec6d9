//! One defect, one law: what every life of a reactor is known to leave behind is not held against the other laws.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use waterwheel_reactor::{Address, Backend, Bound, Ended, Launch, ListenOptions, Unavailable};

use crate::kit::{Census, launch};

/// The law that each life releases all it took. Only where it stands in the list of deviations is anything set off.
pub(super) const RELEASES: &str = "LIFE-3";

/// Passes everything on, and counts the shards that were run.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    backend: &'a dyn Backend,
    shards: AtomicUsize,
}

impl<'a> Counted<'a> {
    pub(super) fn new(backend: &'a dyn Backend) -> Counted<'a> {
        Counted { backend, shards: AtomicUsize::new(0) }
    }

    /// What the shards that were run may have left, if each leaves `of_one`.
    pub(super) fn known(&self, of_one: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
        let shards = self.shards.load(SeqCst);
        of_one.iter().map(|(what, count)| (what.clone(), count * shards)).collect()
    }
}

impl Backend for Counted<'_> {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn probe(&self) -> Result<(), Unavailable> {
        self.backend.probe()
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        self.backend.bind(at, options, count)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        self.shards.fetch_add(launches.len(), SeqCst);
        self.backend.run(launches)
    }
}

/// What one shard that does nothing leaves open, by kind. The first run is not counted, since it may open things once
/// for the whole process.
pub(super) fn of_one_shard(backend: &dyn Backend) -> BTreeMap<String, usize> {
    let idle = || backend.run(vec![launch(0, Box::new(|_| None))]);
    let (_first, before) = (idle(), Census::take());
    let _second = idle();
    let mut left = BTreeMap::new();
    for (number, what) in Census::take().descriptors {
        if before.descriptors.get(&number) != Some(&what) {
            *left.entry(what).or_default() += 1;
        }
    }
    left
}
