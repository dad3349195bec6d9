//! The shard that counts a key: who has how many of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use waterwheel_reactor::Time;

use super::rates::{KEYS_MAX, Rates};
use super::{Ask, KeyLimits, KeyRate, KeyRefusal, Told};
use crate::mesh::calls::Asker;
use crate::mesh::lease::tie::each_end;
use crate::shard::{Shard, Task};

/// Lives on one shard, for the keys whose home that is.
pub(super) struct Home<K> {
    shard: Shard,
    books: RefCell<Books<K>>,
    /// What hears of ends.
    watches: RefCell<Vec<Task<()>>>,
}

struct Books<K> {
    /// By key and shard; never zero. Below it for a moment, where of two that overtook each other the later came first.
    counts: BTreeMap<(K, usize), i64>,
    /// By shard: the life of it that has said what it has.
    lives: Vec<Option<u32>>,
    rates: Rates<K>,
}

impl<K: Ord + Copy + Send + 'static> Home<K> {
    pub(super) fn new(shard: &Shard) -> Rc<Home<K>> {
        let books =
            Books { counts: BTreeMap::new(), lives: vec![None; shard.count()], rates: Rates::new(KEYS_MAX) };
        Rc::new(Home { shard: shard.clone(), books: RefCell::new(books), watches: RefCell::default() })
    }

    /// From now on takes back what shards have that end.
    pub(super) fn watch(self: &Rc<Self>) {
        let mut watches = self.watches.borrow_mut();
        for other in self.shard.ids().filter(|other| *other != self.shard.id()) {
            let home = self.clone();
            watches.push(self.shard.spawn("keys of another", async move {
                each_end(&home.shard, other, |life| home.ended(other.index(), life)).await;
            }));
        }
    }

    fn ended(&self, shard: usize, life: u32) {
        let mut books = self.books.borrow_mut();
        if books.lives[shard] == Some(life) {
            books.lives[shard] = None;
            books.forget(shard);
        }
    }

    /// What another shard says or wants.
    pub(super) fn answer(&self, from: Asker, ask: Ask<K>) -> Told {
        let mut books = self.books.borrow_mut();
        if let Ask::Hold = ask {
            books.lives[from.shard] = Some(from.life);
            books.forget(from.shard);
            return Told::Heard;
        }
        if books.lives[from.shard] != Some(from.life) {
            return Told::Stranger;
        }
        match ask {
            Ask::Hold => {}
            Ask::Change(changes) => {
                changes.iter().for_each(|(key, change)| books.change(*key, from.shard, *change));
            }
            Ask::Take(key, limits) => {
                return match books.take(key, from.shard, limits, self.shard.turn_time()) {
                    Ok(()) => Told::Heard,
                    Err(refusal) => Told::Refused(refusal),
                };
            }
        }
        Told::Heard
    }

    /// One more on this shard itself.
    pub(super) fn take(&self, key: K, limits: KeyLimits) -> Result<(), KeyRefusal> {
        let (own, now) = (self.shard.id().index(), self.shard.turn_time());
        self.books.borrow_mut().take(key, own, limits, now)
    }

    /// One less on this shard itself.
    pub(super) fn put_back(&self, key: K) {
        self.books.borrow_mut().change(key, self.shard.id().index(), -1);
    }

    /// The rate of a key whose home nobody can ask: what this shard itself saw of it counts.
    pub(super) fn take_rate(&self, key: K, rate: KeyRate) -> bool {
        self.books.borrow_mut().rates.take(key, rate, self.shard.turn_time())
    }

    /// How many of a key are out, over all shards.
    pub(super) fn count(&self, key: K) -> u64 {
        self.books.borrow().count(key)
    }
}

impl<K: Ord + Copy> Books<K> {
    fn count(&self, key: K) -> u64 {
        let all = self.counts.range((key, 0)..=(key, usize::MAX));
        u64::try_from(all.map(|(_, count)| count).sum::<i64>()).unwrap_or(0)
    }

    fn take(&mut self, key: K, shard: usize, limits: KeyLimits, now: Time) -> Result<(), KeyRefusal> {
        let KeyLimits { most, rate } = limits;
        if most.is_some_and(|most| self.count(key) >= u64::from(most)) {
            return Err(KeyRefusal::TooMany);
        }
        if rate.is_some_and(|rate| !self.rates.take(key, rate, now)) {
            return Err(KeyRefusal::TooOften);
        }
        if most.is_some() {
            self.change(key, shard, 1);
        }
        Ok(())
    }

    fn change(&mut self, key: K, shard: usize, change: i64) {
        let count = self.counts.entry((key, shard)).or_default();
        *count += change;
        if *count == 0 {
            self.counts.remove(&(key, shard));
        }
    }

    /// A shard has nothing.
    fn forget(&mut self, shard: usize) {
        self.counts.retain(|(_, of), _| *of != shard);
    }
}
