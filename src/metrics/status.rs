//! How the shards of a runtime stand, for who asks whether it is alive and ready.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::net::Listening;

/// How one shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Standing {
    /// It has not begun its work.
    Starting,
    /// Its main future runs.
    Running,
    /// It failed, and waits for its restart.
    Pausing,
    /// It is over, and has no next life.
    Ended,
}

impl Standing {
    const ALL: [Standing; 4] = [Standing::Starting, Standing::Running, Standing::Pausing, Standing::Ended];

    pub(super) fn in_words(self) -> &'static str {
        match self {
            Standing::Starting => "is starting",
            Standing::Running => "is running",
            Standing::Pausing => "waits for its restart",
            Standing::Ended => "has ended",
        }
    }
}

/// How all of them stand. Written when a life begins, works or ends; a hint that may be a moment old.
#[derive(Debug)]
pub(crate) struct Status {
    shards: Box<[One]>,
    listeners: OnceLock<Listeners>,
    conditions: Mutex<Vec<Arc<Named>>>,
}

/// Answers what the program listens on.
struct Listeners(Box<dyn Fn() -> Vec<Listening> + Send + Sync>);

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listeners")
    }
}

#[derive(Debug)]
struct One {
    standing: AtomicU8,
    lives: AtomicU32,
}

#[derive(Debug)]
struct Named {
    name: &'static str,
    is_met: AtomicBool,
}

/// Something that a program needs before it is ready: a cache that is filled, a leader that is known. Not met at first. May
/// be kept on any thread; clones are the same condition.
#[derive(Clone, Debug)]
pub struct Condition(Arc<Named>);

impl Condition {
    /// Says whether it is met now.
    pub fn set(&self, is_met: bool) {
        self.0.is_met.store(is_met, Relaxed);
    }
}

impl Status {
    pub(super) fn new(shards: usize) -> Status {
        let one = || One { standing: AtomicU8::new(Standing::Starting as u8), lives: AtomicU32::new(0) };
        let (listeners, conditions) = Default::default();
        Status { shards: (0..shards).map(|_| one()).collect(), listeners, conditions }
    }

    /// A life of a shard begins: which one it is, from 1.
    pub(super) fn begins(&self, shard: usize) -> u32 {
        self.shards[shard].lives.fetch_add(1, Relaxed) + 1
    }

    /// How often it was begun again.
    pub(super) fn restarts(&self, shard: usize) -> u32 {
        self.shards[shard].lives.load(Relaxed).saturating_sub(1)
    }

    /// A shard stands so from now on.
    pub(crate) fn set(&self, shard: usize, standing: Standing) {
        self.shards[shard].standing.store(standing as u8, Relaxed);
    }

    pub(super) fn of(&self, shard: usize) -> Standing {
        Standing::ALL[usize::from(self.shards[shard].standing.load(Relaxed)) % Standing::ALL.len()]
    }

    /// The program listens on these at the time of asking, and on no others.
    pub(crate) fn listens_on(&self, listeners: impl Fn() -> Vec<Listening> + Send + Sync + 'static) {
        // Once in a run.
        let _ = self.listeners.set(Listeners(Box::new(listeners)));
    }

    /// One condition more.
    pub(crate) fn condition(&self, name: &'static str) -> Condition {
        let named = Arc::new(Named { name, is_met: AtomicBool::new(false) });
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).push(named.clone());
        Condition(named)
    }

    /// What there is to wait for before the program serves; none: it is ready. Whether it is asked to stop the shards
    /// themselves know.
    pub(super) fn reasons(&self) -> Vec<String> {
        let standings = (0..self.shards.len()).map(|shard| (shard, self.of(shard)));
        let starting = standings.filter(|(_, standing)| *standing == Standing::Starting);
        let mut reasons: Vec<String> =
            starting.map(|(shard, standing)| format!("shard {shard} {}", standing.in_words())).collect();
        let listeners = self.listeners.get().map_or_else(Vec::new, |listeners| listeners.0());
        let closed = listeners.iter().filter(|listening| !listening.is_served());
        reasons.extend(closed.map(|listening| format!("{} is not served", listening.local())));
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let unmet = conditions.iter().filter(|condition| !condition.is_met.load(Relaxed));
        reasons.extend(unmet.map(|condition| format!("{} is not met", condition.name)));
        reasons
    }
}
