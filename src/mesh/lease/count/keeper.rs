//! The shard that keeps a count: what is free, who holds how much, who waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Ask, CountLease, Told};
use crate::mesh::calls::Caller;
use crate::shard::{Resolver, Shard, ShardId, deferred};

/// Lives on one shard.
pub(super) struct Keeper {
    shard: Shard,
    caller: Caller<Ask, Told>,
    books: RefCell<Books>,
}

struct Books {
    free: u64,
    /// By shard.
    holders: Vec<Account>,
    /// Who waits, in the order of asking: at most one entry per shard, since each asks once at a time.
    queue: VecDeque<Waiting>,
    /// How often anything was told to a shard.
    tellings: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Granted and not returned.
    held: u64,
    /// It was told last that others wait.
    pressed: bool,
    ended: bool,
}

struct Waiting {
    shard: usize,
    count: u64,
    grant: Resolver<u64>,
}

impl Keeper {
    pub(super) fn new(lease: &CountLease, shard: &Shard, caller: Caller<Ask, Told>) -> Rc<Keeper> {
        let holders = vec![Account::default(); shard.count()];
        let books = Books { free: lease.limit, holders, queue: VecDeque::new(), tellings: 0 };
        Rc::new(Keeper { shard: shard.clone(), caller, books: RefCell::new(books) })
    }

    /// From now on takes back what shards have that end.
    pub(super) fn watch(self: &Rc<Self>) {
        for other in self.shard.ids().filter(|other| *other != self.shard.id()) {
            let keeper = self.clone();
            self.shard.spawn_detached("lease of another", async move {
                keeper.shard.ended(other).await;
                keeper.ended(other.index());
            });
        }
    }

    /// A shard asks for more: waits until there is one.
    pub(super) async fn take(self: Rc<Self>, shard: usize, count: u64) -> Told {
        let (grant, granted) = deferred();
        {
            let mut books = self.books.borrow_mut();
            if books.holders[shard].ended || count == 0 {
                return Told::default();
            }
            books.queue.push_back(Waiting { shard, count, grant });
        }
        self.serve();
        // Abandoned: the shard ended, and nobody reads the answer.
        let count = granted.await.unwrap_or(0);
        self.told(shard, count)
    }

    /// A shard gives back.
    pub(super) fn returned(self: Rc<Self>, shard: usize, count: u64) -> Told {
        self.books.borrow_mut().take_back(shard, count);
        self.serve();
        self.told(shard, 0)
    }

    fn ended(self: &Rc<Self>, shard: usize) {
        let mut books = self.books.borrow_mut();
        books.holders[shard].ended = true;
        books.take_back(shard, u64::MAX);
        let (gone, queue) = std::mem::take(&mut books.queue).into_iter().partition(|one| one.shard == shard);
        books.queue = queue;
        drop(books);
        let _gone: VecDeque<Waiting> = gone;
        self.serve();
    }

    fn told(&self, shard: usize, count: u64) -> Told {
        let mut books = self.books.borrow_mut();
        let pressed = books.queue.iter().any(|waiting| waiting.shard != shard);
        Told { count, pressed, number: books.tell(shard, pressed) }
    }

    /// Gives what is free to those who wait, and presses the others if that is not enough.
    fn serve(self: &Rc<Self>) {
        while let Some((grant, count)) = self.books.borrow_mut().next_grant() {
            grant.resolve(count);
        }
        let mut books = self.books.borrow_mut();
        for shard in 0..books.holders.len() {
            let Account { held, pressed, ended } = books.holders[shard];
            let others_wait = books.queue.iter().any(|waiting| waiting.shard != shard);
            if others_wait && held > 0 && !pressed && !ended {
                let number = books.tell(shard, true);
                self.shard.spawn_detached("recall", self.clone().recall(shard, number));
            }
        }
    }

    async fn recall(self: Rc<Self>, shard: usize, number: u64) {
        // An error: it ended, which is seen to elsewhere.
        if let Ok(told) = self.caller.call(ShardId::new(shard), Ask::Recall(number)).await {
            self.books.borrow_mut().take_back(shard, told.count);
            self.serve();
        }
    }
}

impl Books {
    fn next_grant(&mut self) -> Option<(Resolver<u64>, u64)> {
        if self.free == 0 {
            return None;
        }
        let even = (self.free / self.queue.len().max(1) as u64).max(1);
        let Waiting { shard, count, grant } = self.queue.pop_front()?;
        let count = count.min(even);
        self.free -= count;
        self.holders[shard].held += count;
        Some((grant, count))
    }

    // What a shard that has ended sent before was taken back with it: no more than it holds.
    fn take_back(&mut self, shard: usize, count: u64) {
        let count = count.min(self.holders[shard].held);
        self.holders[shard].held -= count;
        self.free += count;
    }

    fn tell(&mut self, shard: usize, pressed: bool) -> u64 {
        self.holders[shard].pressed = pressed;
        self.tellings += 1;
        self.tellings
    }
}
