//! What all shards of a runtime share: their bells, their queues of jobs, and the registry of ports.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::bell::Bell;
use super::calls::CallPort;
use super::jobs::{Job, Jobs};
use super::port::DeclareError;
use super::run_on::{self, Errand, Parcel};
use super::sync::AtomicU32;
use super::wanted::Wanted;
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// The shards of one runtime and the ports between them. Made before the shards start; ports are declared on it.
pub struct Mesh {
    /// Different in each mesh of the process.
    id: u64,
    stations: Box<[Station]>,
    /// Messages that a port takes from one source in one turn.
    budget: usize,
    /// Locked when one is declared or given up and when a shard ends.
    ports: Mutex<Ports>,
    /// How many ports were given up, so that a shard knows when to look for them.
    given_up: AtomicU64,
    /// Carries closures; always there, served by every shard.
    run_on: OnceLock<CallPort<Errand, Parcel>>,
}

/// Every port that was declared and not given up.
#[derive(Default)]
struct Ports {
    /// By their ids, which are never used again.
    all: BTreeMap<usize, Arc<dyn AnyPort>>,
    names: BTreeSet<&'static str>,
    next: usize,
}

/// What a mesh keeps for each shard, and anybody may use.
struct Station {
    bell: Arc<Bell>,
    /// By source: in which ports that has something for it.
    wanted: Box<[Wanted]>,
    /// What outside threads left for the shard.
    jobs: Jobs<Job>,
    /// By shard: how many lives of this one it has seen end, and is done with. Its own: how many it has ended wholly, so
    /// that nothing of them is on its way any more.
    acknowledged: Box<[AtomicU32]>,
}

/// A port as the registry sees it, whatever its messages are.
pub(super) trait AnyPort: Any + Send + Sync + fmt::Debug {
    fn name(&self) -> &'static str;
    /// Fails what is left in the lanes to a shard that ended.
    fn sweep_to(&self, target: usize);
    /// The same of the lane from one source.
    fn sweep_between(&self, source: usize, target: usize);
    /// A shard that ended begins a new life, in which nobody has opened the port yet.
    fn reopen(&self, _shard: usize) {}
    /// Messages that were accepted and never received, and of which no sender was told.
    #[cfg(feature = "sim")]
    fn lost(&self) -> u64 {
        0
    }
}

impl Mesh {
    /// A mesh of `shards` shards, numbered from 0, that take at most `budget` messages per source and port in a turn.
    ///
    /// # Panics
    /// If there is no shard at all, or no budget.
    pub(crate) fn new(shards: usize, budget: usize) -> Arc<Mesh> {
        assert!(shards > 0, "a mesh has at least one shard");
        assert!(budget > 0, "without a budget no message is ever received");
        let stations = (0..shards).map(|_| Station {
            bell: Arc::new(Bell::new()),
            wanted: (0..shards).map(|_| Wanted::new()).collect(),
            jobs: Jobs::new(JOBS),
            acknowledged: (0..shards).map(|_| AtomicU32::new(0)).collect(),
        });
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let mesh = Mesh {
            id,
            stations: stations.collect(),
            budget,
            ports: Mutex::default(),
            given_up: AtomicU64::new(0),
            run_on: OnceLock::new(),
        };
        // Models have no use for it, and explore every lock of its lanes.
        #[cfg(not(loom))]
        mesh.run_on();
        Arc::new(mesh)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.stations.len()
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// The bell of a shard, also for what rings it from outside.
    pub(crate) fn bell(&self, shard: usize) -> &Arc<Bell> {
        &self.stations[shard].bell
    }

    /// In which ports one shard has something for one other.
    pub(super) fn wanted(&self, source: usize, target: usize) -> &Wanted {
        &self.stations[target].wanted[source]
    }

    /// Shard `by` is done with all that concerned this life of `shard`, which has ended.
    pub(super) fn acknowledge(&self, shard: usize, by: usize, life: u32) {
        self.stations[shard].acknowledged[by].store(life + 1, Release);
    }

    /// Whether a shard is between two lives, or after its last, and what it sent in the one before is settled or can be seen.
    fn is_gone(&self, shard: usize) -> bool {
        let life = self.bell(shard).life();
        #[cfg(loom)]
        if broken(Break::GoneAtOnce) {
            return life.is_over;
        }
        // Its own word is the last thing that it does: until then a ring of it may be one for the life before.
        life.is_over && self.stations[shard].acknowledged[shard].load(Acquire) == life.number + 1
    }

    /// A shard that ended, in a new life: who has to learn of the end first, if anybody.
    pub(super) fn unaware_of_the_end(&self, shard: usize) -> Option<usize> {
        let Station { bell, acknowledged, .. } = &self.stations[shard];
        let ended = bell.life().number + 1;
        #[cfg(loom)]
        if broken(Break::ReopenUnheard) {
            return None;
        }
        let aware = |other: usize| {
            other == shard || acknowledged[other].load(Acquire) == ended || self.is_gone(other)
        };
        (0..self.shards()).find(|other| !aware(*other))
    }

    /// A shard that ended begins a new life: everybody else is aware of the end. From here on it can be sent to.
    pub(super) fn reopen(&self, shard: usize) {
        self.copy_ports().iter().for_each(|port| port.reopen(shard));
        let bell = self.bell(shard);
        // Else a thread that left a job for the life before might take out those of the new one.
        self.jobs(shard).undisturbed(|| bell.reopen());
        // What was asked of it meanwhile, it has not heard.
        bell.ring_foreign();
        #[cfg(loom)]
        if broken(Break::ReopenUntold) {
            return;
        }
        for other in (0..self.shards()).filter(|other| *other != shard) {
            self.bell(other).ring(shard);
        }
    }

    pub(super) fn jobs(&self, shard: usize) -> &Jobs<Job> {
        &self.stations[shard].jobs
    }

    pub(super) fn run_on(&self) -> &CallPort<Errand, Parcel> {
        self.run_on.get_or_init(|| run_on::declare(self).expect("the first port of a mesh"))
    }

    /// Registers a port that `make` makes of its id.
    pub(super) fn declare<P: AnyPort>(
        &self,
        name: &'static str,
        make: impl FnOnce(usize) -> P,
    ) -> Result<Arc<P>, DeclareError> {
        let mut ports = self.ports();
        if !ports.names.insert(name) {
            return Err(DeclareError::NameTaken(name));
        }
        let id = ports.next;
        ports.next += 1;
        let port = Arc::new(make(id));
        ports.all.insert(id, port.clone());
        Ok(port)
    }

    /// Nobody uses the port any more: its name is free, and each shard closes its end when it looks at its bell next.
    /// `over` says so to those who are about to open it once more; what is over before this is counted here.
    pub(super) fn give_up(&self, id: usize, over: &AtomicBool) {
        let mut ports = self.ports();
        let port = ports.all.remove(&id);
        if let Some(port) = &port {
            ports.names.remove(port.name());
        }
        drop(ports);
        // After the name is free, so that whoever sees it may use that.
        over.store(true, Release);
        self.given_up.fetch_add(1, AcqRel);
        for Station { bell, .. } in &self.stations {
            bell.ring_foreign();
        }
    }

    /// How many ports were given up.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up.load(Acquire)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So that no lock is held while something is done with each: dropping a message may run anything.
    fn copy_ports(&self) -> Vec<Arc<dyn AnyPort>> {
        self.ports().all.values().cloned().collect()
    }

    /// How many ports there are.
    #[cfg(test)]
    pub(super) fn port_count(&self) -> usize {
        self.ports().all.len()
    }

    /// The ports with messages that nobody received, by their names; complete once all shards have ended.
    #[cfg(feature = "sim")]
    pub(crate) fn lost(&self) -> Vec<(&'static str, u64)> {
        let ports = self.ports();
        ports.all.values().map(|port| (port.name(), port.lost())).filter(|(_, lost)| *lost > 0).collect()
    }

    /// After `shard` set STOPPED, by itself: fails everything that was sent to it and nobody received.
    pub(super) fn sweep_to(&self, shard: usize) {
        self.copy_ports().iter().for_each(|port| port.sweep_to(shard));
        #[cfg(loom)]
        if broken(Break::StopperLeavesJobs) {
            return;
        }
        self.jobs(shard).sweep();
    }

    /// By a shard `source` that ends and found that another ended before: fails what it sent there and nobody received. What
    /// others sent is theirs to fail, and may be for the next life of that shard, which waits only for those who have not
    /// heard of the end.
    pub(super) fn sweep_between(&self, source: usize, shard: usize) {
        #[cfg(loom)]
        if broken(Break::PeerSweepsAll) {
            return self.sweep_to(shard);
        }
        self.copy_ports().iter().for_each(|port| port.sweep_between(source, shard));
    }
}

/// Drops what nobody will receive. A panic in its destructor ends here: others still wait to be told.
pub(super) fn drop_contained<T>(left: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(left))).is_err() {
        tracing::error!("a message that nobody received panicked while it was dropped");
    }
}

/// The id of the next mesh of this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Jobs that may wait for one shard: a signal, a reload, a finished piece of blocking work each are one.
const JOBS: usize = 1024;

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("shards", &self.shards()).finish_non_exhaustive()
    }
}
