//! The shard that keeps a count: what is free, who holds how much, who waits, who knows of which limit.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Ask, Declared, Told};
use crate::mesh::calls::{Asker, Caller};
use crate::mesh::lease::limit::Limit;
use crate::mesh::lease::tie::each_end;
use crate::mesh::member::Member;
use crate::shard::{Resolver, Shard, ShardId, Task, deferred};

/// Lives on one shard.
pub(super) struct Keeper {
    shard: Shard,
    caller: Caller<Ask, Told>,
    books: RefCell<Books>,
    /// By shard: the task that tells it something, one at a time.
    recalls: RefCell<Box<[Option<Task<()>>]>>,
    /// What hears of ends.
    watches: RefCell<Vec<Task<()>>>,
    /// The lease is given up.
    closed: Cell<bool>,
}

struct Books {
    limit: Limit,
    /// By all shards together.
    held: u64,
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
    /// It was told last that others wait, or that more is out than may be.
    pressed: bool,
    /// It was told last that more is out than may be.
    over: bool,
    /// It goes by this limit, or a newer one.
    knows: Limit,
    /// It wants to hear when all shards go by this one.
    asks: Limit,
    /// It was told last that they go by this one.
    hears: Limit,
    /// The life of the shard that has said what it holds.
    life: Option<u32>,
}

struct Waiting {
    shard: usize,
    count: u64,
    grant: Resolver<u64>,
}

impl Keeper {
    pub(super) fn new(lease: &Declared, shard: &Shard, caller: Caller<Ask, Told>) -> Rc<Keeper> {
        let holders = vec![Account::default(); shard.count()];
        let member = Member::of(shard);
        let own = shard.id().index();
        let again = member.ledger.life(own) > 0;
        let unheard = (0..shard.count())
            .map(|other| again && other != own && !member.ledger.has_ended(other))
            .collect();
        let books =
            Books { limit: lease.limit, held: 0, holders, queue: VecDeque::new(), unheard, tellings: 0 };
        Rc::new(Keeper {
            shard: shard.clone(),
            caller,
            books: RefCell::new(books),
            recalls: RefCell::new((0..shard.count()).map(|_| None).collect()),
            watches: RefCell::default(),
            closed: Cell::new(false),
        })
    }

    /// From now on takes back what shards have that end; and asks those that may hold something.
    pub(super) fn watch(self: &Rc<Self>, lease: &Declared) {
        let mut watches = self.watches.borrow_mut();
        for other in self.shard.ids().filter(|other| *other != self.shard.id()) {
            let keeper = self.clone();
            watches.push(self.shard.spawn("lease of another", async move {
                each_end(&keeper.shard, other, |life| keeper.ended(other.index(), life)).await;
            }));
            if self.books.borrow().unheard[other.index()] {
                let (keeper, lease) = (self.clone(), lease.clone());
                watches.push(self.shard.spawn("lease, calling in", async move {
                    // It says so by itself once it is attached. An error: it ended, which is seen to elsewhere.
                    let attach = move |there: Shard| async move { lease.attach_unless_over(&there) };
                    let _asked = keeper.shard.run_on(other, attach).await;
                }));
            }
        }
    }

    /// The lease is given up: nobody is answered any more.
    pub(super) fn close(&self) {
        self.closed.set(true);
        let queue = std::mem::take(&mut self.books.borrow_mut().queue);
        drop(queue);
        let recalls: Vec<Task<()>> = self.recalls.borrow_mut().iter_mut().filter_map(Option::take).collect();
        recalls.into_iter().chain(self.watches.take()).for_each(Task::cancel);
    }

    /// A shard says how many permits it has out; whatever else it was thought to hold it does not.
    pub(super) fn holds(self: Rc<Self>, from: Asker, count: u64, limit: Limit) -> Told {
        self.forget(from.shard);
        {
            let mut books = self.books.borrow_mut();
            books.held += count;
            books.limit = books.limit.max(limit);
            books.holders[from.shard] =
                Account { held: count, knows: limit, life: Some(from.life), ..Account::default() };
            books.unheard[from.shard] = false;
        }
        self.serve();
        self.told(from.shard, 0)
    }

    /// A shard asks for more: waits until there is one.
    pub(super) async fn take(self: Rc<Self>, from: Asker, count: u64) -> Told {
        let shard = from.shard;
        let (grant, granted) = deferred();
        {
            let mut books = self.books.borrow_mut();
            if !books.is_of(from) || count == 0 || self.closed.get() {
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
        if !self.books.borrow().is_of(from) {
            return Told::default();
        }
        self.books.borrow_mut().take_back(from.shard, count);
        self.serve();
        self.told(from.shard, 0)
    }

    /// A shard has another limit for all.
    pub(super) fn limited(self: Rc<Self>, from: Asker, limit: Limit) -> Told {
        {
            let mut books = self.books.borrow_mut();
            if !books.is_of(from) {
                return Told::default();
            }
            books.limit = books.limit.max(limit);
            let asks = &mut books.holders[from.shard].asks;
            *asks = limit.max(*asks);
        }
        self.serve();
        self.told(from.shard, 0)
    }

    /// That life of a shard is over.
    fn ended(self: &Rc<Self>, shard: usize, life: u32) {
        let is_meant = {
            let mut books = self.books.borrow_mut();
            books.unheard[shard] = false;
            books.holders[shard].life == Some(life)
        };
        if is_meant {
            self.forget(shard);
        }
        self.serve();
    }

    /// What a shard held is free, what it waited for nobody waits for, and what it is being told nobody hears.
    fn forget(&self, shard: usize) {
        let recall = self.recalls.borrow_mut()[shard].take();
        recall.into_iter().for_each(Task::cancel);
        let gone = self.books.borrow_mut().forget(shard);
        drop(gone);
    }

    fn told(&self, shard: usize, count: u64) -> Told {
        self.books.borrow_mut().tell(shard, count)
    }

    /// Gives what is free to those who wait, presses the others if that is not enough, and tells all of a new limit.
    fn serve(self: &Rc<Self>) {
        while let Some((grant, count)) = self.books.borrow_mut().next_grant() {
            grant.resolve(count);
        }
        for shard in 0..self.shard.count() {
            let mut recalls = self.recalls.borrow_mut();
            if recalls[shard].is_none() && !self.closed.get() && self.books.borrow().is_to_hear(shard) {
                recalls[shard] = Some(self.shard.spawn("recall", self.clone().recall(shard)));
            }
        }
    }

    /// Tells a shard how it stands, until there is nothing that it has to hear.
    async fn recall(self: Rc<Self>, shard: usize) {
        while self.books.borrow().is_to_hear(shard) {
            let told = self.told(shard, 0);
            let answer = self.caller.call(ShardId::new(shard), Ask::Recall(told)).await;
            // An error: it ended, which is seen to elsewhere.
            let Ok(Told { count, .. }) = answer else { break };
            let mut books = self.books.borrow_mut();
            books.take_back(shard, count);
            books.holders[shard].knows = told.limit;
            drop(books);
            self.serve();
        }
        let own = self.recalls.borrow_mut()[shard].take();
        drop(own);
    }
}

impl Books {
    fn free(&self) -> u64 {
        self.limit.most.saturating_sub(self.held)
    }

    /// More is out than may be, or may be: while it is not known what is out, a limit that was changed may be exceeded.
    fn is_over(&self) -> bool {
        self.held > self.limit.most || (!self.limit.is_first() && self.unheard.contains(&true))
    }

    /// Whether a shard is to keep nothing that it does not use.
    fn presses(&self, shard: usize) -> bool {
        self.is_over() || self.queue.iter().any(|waiting| waiting.shard != shard)
    }

    /// Whether a shard has to hear something that it does not know, and does not ask for.
    fn is_to_hear(&self, shard: usize) -> bool {
        let Account { held, pressed, over, knows, asks, hears, life } = self.holders[shard];
        let holds_too_much = || (!pressed && self.presses(shard)) || (!over && self.is_over());
        let waits_for_all = || hears < asks && hears < self.reached();
        (held > 0 && holds_too_much()) || (life.is_some() && (knows < self.limit || waits_for_all()))
    }

    /// The limit by which all go that may hold something, or by a newer one.
    fn reached(&self) -> Limit {
        let holders = self.holders.iter().filter(|holder| holder.life.is_some());
        holders.map(|holder| holder.knows).min().unwrap_or_default()
    }

    /// Whether this life of a shard has said what it holds.
    fn is_of(&self, from: Asker) -> bool {
        self.holders[from.shard].life == Some(from.life)
    }

    fn next_grant(&mut self) -> Option<(Resolver<u64>, u64)> {
        let free = self.free();
        if free == 0 || self.unheard.contains(&true) {
            return None;
        }
        let even = (free / self.queue.len().max(1) as u64).max(1);
        let Waiting { shard, count, grant } = self.queue.pop_front()?;
        let count = count.min(even);
        self.held += count;
        self.holders[shard].held += count;
        assert!(self.held <= self.limit.most, "more is granted than may be out");
        Some((grant, count))
    }

    /// What a shard held is free, and what it waited for nobody waits for.
    #[must_use = "dropped when the books are closed"]
    fn forget(&mut self, shard: usize) -> VecDeque<Waiting> {
        self.take_back(shard, u64::MAX);
        self.holders[shard] = Account::default();
        let (gone, queue) = std::mem::take(&mut self.queue).into_iter().partition(|one| one.shard == shard);
        self.queue = queue;
        gone
    }

    // What a shard that has ended sent before was taken back with it: no more than it holds.
    fn take_back(&mut self, shard: usize, count: u64) {
        let count = count.min(self.holders[shard].held);
        self.holders[shard].held -= count;
        self.held -= count;
    }

    /// What a shard is told now, and that it gets so many.
    fn tell(&mut self, shard: usize, count: u64) -> Told {
        let (pressed, over, reached) = (self.presses(shard), self.is_over(), self.reached());
        let holder = &mut self.holders[shard];
        (holder.pressed, holder.over, holder.hears) = (pressed, over, reached.max(holder.hears));
        self.tellings += 1;
        Told { count, pressed, over, number: self.tellings, limit: self.limit, reached }
    }
}
