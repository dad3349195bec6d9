//! A shard's part of a lease by keys: what it has of the keys that other shards count.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;

use super::home::Home;
use super::{Ask, Declared, KeyLimits, KeyPermit, KeyRefusal, Told};
use crate::mesh::calls::Caller;
use crate::mesh::lease::tie::Tie;
use crate::mesh::nudge::Nudge;
use crate::shard::{Shard, ShardId, Task, deferred};

/// Changes that are told at once, at most.
const CHANGES_AT_ONCE: usize = 1_024;

/// A shard that takes longer to answer is stuck, or as good as that: what is here counts then.
const ALONE_AFTER: Duration = Duration::from_millis(100);
/// Of takes that one shard has not answered there are so many at once; the next ones do not ask it.
const ASKING_MOST: usize = 1_024;

/// What comes of a take.
type Taken<K> = Result<Option<KeyPermit<K>>, KeyRefusal>;

/// Lives on its shard as long as that.
pub(super) struct Holder<K: Ord + Copy + Send + 'static> {
    shard: Shard,
    caller: Caller<Ask<K>, Told>,
    /// For the keys whose home this shard is.
    pub(super) home: Rc<Home<K>>,
    /// By shard; nothing of this one's own.
    far: Box<[Far<K>]>,
    living: RefCell<Vec<Task<()>>>,
}

/// What this shard has of the keys that one other counts.
struct Far<K> {
    counts: RefCell<BTreeMap<K, i64>>,
    /// What that one does not know yet of these.
    untold: RefCell<BTreeMap<K, i64>>,
    tells: Nudge,
    tie: Tie,
    /// Takes that it has not answered.
    asking: Cell<usize>,
}

impl<K: Ord + Copy + Send + 'static> Holder<K> {
    pub(super) fn new(shard: &Shard, caller: Caller<Ask<K>, Told>, home: Rc<Home<K>>) -> Holder<K> {
        let far = |of| Far {
            counts: RefCell::default(),
            untold: RefCell::default(),
            tells: Nudge::default(),
            tie: Tie::new(shard, of),
            asking: Cell::default(),
        };
        let far = shard.ids().map(far).collect();
        Holder { shard: shard.clone(), caller, home, far, living: RefCell::default() }
    }

    /// Starts what tells the others, and what hears of their ends.
    pub(super) fn start(self: &Rc<Self>, lease: &Declared<K>) {
        let others = self.shard.ids().filter(|other| *other != self.shard.id());
        let lives = others.map(|other| {
            let (holder, lease) = (self.clone(), lease.clone());
            self.shard.spawn("keys", async move { holder.lives(other, lease).await })
        });
        self.living.replace(lives.collect());
    }

    /// Through the lives of another shard.
    async fn lives(&self, home: ShardId, lease: Declared<K>) {
        let far = &self.far[home.index()];
        let attach = || {
            let lease = lease.clone();
            move |there: &Shard| drop(lease.attach(there))
        };
        far.tie.follow(&self.shard, attach, async || self.works(home).await, || ()).await;
    }

    /// With one life of it, until it fails.
    async fn works(&self, home: ShardId) {
        let far = &self.far[home.index()];
        let all = far.counts.borrow().clone();
        far.untold.replace(all);
        let Ok(Told::Heard) = self.caller.call(home, Ask::Hold).await else { return };
        loop {
            let changes = far.next_changes();
            if changes.is_empty() {
                far.tie.complete();
                far.tells.wished().await;
                continue;
            }
            // More may come than a round trip takes, for ever; that is told as it is at all times.
            let are_all = far.untold.borrow().is_empty();
            let Ok(Told::Heard) = self.caller.call(home, Ask::Change(changes)).await else { return };
            if are_all {
                far.tie.complete();
            }
        }
    }

    pub(super) async fn take(self: &Rc<Self>, home: ShardId, key: K, limits: KeyLimits) -> Taken<K> {
        if home == self.shard.id() {
            self.home.take(key, limits)?;
            return Ok(self.permit(home, key, limits));
        }
        // In a task of its own, whose permit goes back if nobody waits for it any more: a call that is given up half-way
        // counts there all the same.
        let (grant, granted) = deferred();
        let holder = self.clone();
        self.shard.spawn_detached("key", async move {
            let taken = holder.take_far(home, key, limits).await;
            grant.resolve(taken.map(|()| holder.permit(home, key, limits)));
        });
        // Abandoned: this shard ends.
        granted.await.unwrap_or(Ok(None))
    }

    fn permit(self: &Rc<Self>, home: ShardId, key: K, limits: KeyLimits) -> Option<KeyPermit<K>> {
        limits.most.map(|_| KeyPermit { holder: self.clone(), home, key })
    }

    async fn take_far(self: &Rc<Self>, home: ShardId, key: K, limits: KeyLimits) -> Result<(), KeyRefusal> {
        let far = &self.far[home.index()];
        // More than are out here alone nobody has to be asked for.
        if limits.most.is_some_and(|most| far.count(key) >= i64::from(most)) {
            return Err(KeyRefusal::TooMany);
        }
        if !far.tie.is_tied() && !far.tie.is_lost() {
            // At the start. Who never begins is waited for by nobody.
            let answered = pin!(far.tie.answered());
            let _ = self.shard.timeout(ALONE_AFTER, select(answered, self.shard.ended(home))).await;
        }
        let life = far.tie.life();
        let told = if far.tie.is_tied() { self.ask(home, key, limits).await } else { None };
        let is_known = match told {
            Some(Told::Refused(refusal)) => return Err(refusal),
            // It may have ended since, and its next life been told what there was.
            Some(Told::Heard) => far.tie.life() == life,
            Some(Told::Stranger) | None => {
                self.take_alone(far, key, limits)?;
                false
            }
        };
        if limits.most.is_some() {
            far.change(key, 1, is_known);
        }
        Ok(())
    }

    /// What the home of a key says, unless that takes too long, or too many wait for it already.
    async fn ask(self: &Rc<Self>, home: ShardId, key: K, limits: KeyLimits) -> Option<Told> {
        let far = &self.far[home.index()];
        if far.asking.get() >= ASKING_MOST {
            return None;
        }
        far.asking.set(far.asking.get() + 1);
        let (answer, answered) = deferred();
        let (holder, life, is_late) = (self.clone(), far.tie.life(), Rc::new(Cell::new(false)));
        let late = is_late.clone();
        self.shard.spawn_detached("key, asking", async move {
            let told = holder.caller.call(home, Ask::Take(key, limits)).await.ok();
            let far = &holder.far[home.index()];
            far.asking.set(far.asking.get() - 1);
            if !late.get() {
                answer.resolve(told);
            } else if told == Some(Told::Heard) && limits.most.is_some() && far.tie.life() == life {
                // It counts one there for what was taken alone here, and told as such.
                far.tell(key, -1);
            }
        });
        let told = self.shard.timeout(ALONE_AFTER, answered).await;
        is_late.set(told.is_err());
        told.ok()?.ok()?
    }

    /// Nobody can be asked: what is here counts.
    fn take_alone(&self, far: &Far<K>, key: K, limits: KeyLimits) -> Result<(), KeyRefusal> {
        if limits.most.is_some_and(|most| far.count(key) >= i64::from(most)) {
            return Err(KeyRefusal::TooMany);
        }
        match limits.rate {
            Some(rate) if !self.home.take_rate(key, rate) => Err(KeyRefusal::TooOften),
            _ => Ok(()),
        }
    }

    pub(super) fn put_back(&self, home: ShardId, key: K) {
        if home == self.shard.id() {
            self.home.put_back(key);
        } else {
            self.far[home.index()].change(key, -1, false);
        }
    }

    /// How many of a key are out, as far as this shard knows.
    pub(super) fn count(&self, home: ShardId, key: K) -> u64 {
        if home == self.shard.id() {
            return self.home.count(key);
        }
        u64::try_from(self.far[home.index()].count(key)).unwrap_or(0)
    }

    /// How many keys of other shards something of is out here for, and how many of them those shards do not know yet.
    pub(super) fn far_keys(&self) -> (usize, usize) {
        let sum = |of: fn(&Far<K>) -> usize| self.far.iter().map(of).sum();
        (sum(|far| far.counts.borrow().len()), sum(|far| far.untold.borrow().len()))
    }
}

impl<K: Ord + Copy> Far<K> {
    fn count(&self, key: K) -> i64 {
        self.counts.borrow().get(&key).copied().unwrap_or(0)
    }

    fn change(&self, key: K, change: i64, is_known: bool) {
        add(&mut self.counts.borrow_mut(), key, change);
        // A life that has been told nothing will be told all.
        if !is_known {
            self.tell(key, change);
        }
    }

    /// The home is to count so many more.
    fn tell(&self, key: K, change: i64) {
        if self.tie.life().is_some() {
            add(&mut self.untold.borrow_mut(), key, change);
            self.tells.nudge();
        }
    }

    fn next_changes(&self) -> Box<[(K, i64)]> {
        let mut untold = self.untold.borrow_mut();
        std::iter::from_fn(|| untold.pop_first()).take(CHANGES_AT_ONCE).collect()
    }
}

/// What comes to nothing takes no memory.
fn add<K: Ord + Copy>(to: &mut BTreeMap<K, i64>, key: K, change: i64) {
    let count = to.entry(key).or_default();
    *count += change;
    if *count == 0 {
        to.remove(&key);
    }
}

impl<K: Ord + Copy + Send + 'static> fmt::Debug for Holder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLimiter").field("shard", &self.shard.id()).finish_non_exhaustive()
    }
}
