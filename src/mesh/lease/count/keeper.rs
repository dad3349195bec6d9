//! The shard that keeps a count: what is free, who holds how much, who waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Ask, CountLease, Told};
use crate::mesh::calls::{Asker, Caller};
use crate::mesh::lease::tie::each_end;
use crate::mesh::member::Member;
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
    /// By shard: may hold permits of the keeper's former life, and has not said how many. Nothing is given before.
    unheard: Vec<bool>,
    /// How often anything was told to a shard.
    tellings: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Granted and not returned.
    held: u64,
    /// It was told last that others wait.
    pressed: bool,
    /// The life of the shard that has said what it holds.
    life: Option<u32>,
    /// How often it was said.
    said: u64,
}

struct Waiting {
    shard: usize,
    count: u64,
    grant: Resolver<u64>,
}

impl Keeper {
    pub(super) fn new(lease: &CountLease, shard: &Shard, caller: Caller<Ask, Told>) -> Rc<Keeper> {
        let holders = vec![Account::default(); shard.count()];
        let member = Member::of(shard);
        let own = shard.id().index();
        let again = member.ledger.life(own) > 0;
        let unheard = (0..shard.count())
            .map(|other| again && other != own && !member.ledger.has_ended(other))
            .collect();
        let books = Books { free: lease.limit, holders, queue: VecDeque::new(), unheard, tellings: 0 };
        Rc::new(Keeper { shard: shard.clone(), caller, books: RefCell::new(books) })
    }

    /// From now on takes back what shards have that end; and asks those that may hold something.
    pub(super) fn watch(self: &Rc<Self>, lease: &CountLease) {
        for other in self.shard.ids().filter(|other| *other != self.shard.id()) {
            let keeper = self.clone();
            self.shard.spawn_detached("lease of another", async move {
                each_end(&keeper.shard, other, |life| keeper.ended(other.index(), life)).await;
            });
            if self.books.borrow().unheard[other.index()] {
                let (keeper, lease) = (self.clone(), lease.clone());
                self.shard.spawn_detached("lease, calling in", async move {
                    // It says so by itself once it is attached. An error: it ended, which is seen to elsewhere.
                    let attach = move |there: Shard| async move { drop(lease.attach(&there)) };
                    let _asked = keeper.shard.run_on(other, attach).await;
                });
            }
        }
    }

    /// A shard says how many permits it has out; whatever else it was thought to hold it does not.
    pub(super) fn holds(self: Rc<Self>, from: Asker, count: u64) -> Told {
        let gone = {
            let mut books = self.books.borrow_mut();
            let gone = books.forget(from.shard);
            let account = &mut books.holders[from.shard];
            (account.life, account.held) = (Some(from.life), count);
            books.free = books.free.saturating_sub(count);
            books.unheard[from.shard] = false;
            gone
        };
        drop(gone);
        self.serve();
        self.told(from.shard, 0)
    }

    /// A shard asks for more: waits until there is one.
    pub(super) async fn take(self: Rc<Self>, from: Asker, count: u64) -> Told {
        let shard = from.shard;
        let (grant, granted) = deferred();
        {
            let mut books = self.books.borrow_mut();
            if books.holders[shard].life != Some(from.life) || count == 0 {
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
    pub(super) fn returned(self: Rc<Self>, from: Asker, count: u64) -> Told {
        if self.books.borrow().holders[from.shard].life != Some(from.life) {
            return Told::default();
        }
        self.books.borrow_mut().take_back(from.shard, count);
        self.serve();
        self.told(from.shard, 0)
    }

    /// That life of a shard is over.
    fn ended(self: &Rc<Self>, shard: usize, life: u32) {
        let mut books = self.books.borrow_mut();
        books.unheard[shard] = false;
        let gone = (books.holders[shard].life == Some(life)).then(|| books.forget(shard));
        drop(books);
        drop(gone);
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
            let Account { held, pressed, said, .. } = books.holders[shard];
            let others_wait = books.queue.iter().any(|waiting| waiting.shard != shard);
            if others_wait && held > 0 && !pressed {
                let number = books.tell(shard, true);
                self.shard.spawn_detached("recall", self.clone().recall(shard, number, said));
            }
        }
    }

    async fn recall(self: Rc<Self>, shard: usize, number: u64, said: u64) {
        // An error: it ended, which is seen to elsewhere. What it answered before it said what it holds is in that.
        let told = self.caller.call(ShardId::new(shard), Ask::Recall(number)).await;
        if let Ok(told) = told
            && self.books.borrow().holders[shard].said == said
        {
            self.books.borrow_mut().take_back(shard, told.count);
            self.serve();
        }
    }
}

impl Books {
    fn next_grant(&mut self) -> Option<(Resolver<u64>, u64)> {
        if self.free == 0 || self.unheard.contains(&true) {
            return None;
        }
        let even = (self.free / self.queue.len().max(1) as u64).max(1);
        let Waiting { shard, count, grant } = self.queue.pop_front()?;
        let count = count.min(even);
        self.free -= count;
        self.holders[shard].held += count;
        Some((grant, count))
    }

    /// What a shard held is free, and what it waited for nobody waits for.
    #[must_use = "dropped when the books are closed"]
    fn forget(&mut self, shard: usize) -> VecDeque<Waiting> {
        let said = self.holders[shard].said + 1;
        self.take_back(shard, u64::MAX);
        self.holders[shard] = Account { said, ..Account::default() };
        let (gone, queue) = std::mem::take(&mut self.queue).into_iter().partition(|one| one.shard == shard);
        self.queue = queue;
        gone
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
