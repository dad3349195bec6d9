//! The shard that keeps a rate: who has which share, who needs more, what came back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use waterwheel_reactor::Time;

use super::bucket::TOKEN;
use super::pace::Pace;
use super::{Declared, LITTLE, MILLION, Note, Report, Share};
use crate::mesh::calls::{Asker, Caller};
use crate::mesh::lease::limit::Limit;
use crate::mesh::lease::tie::each_end;
use crate::shard::{Shard, ShardId, Task};

/// Lives on one shard.
pub(super) struct Keeper {
    shard: Shard,
    caller: Caller<Note, Note>,
    books: RefCell<Books>,
    /// What works for the lease: for each shard what hears of its end, and what tells it of a share; and what does so later.
    tasks: RefCell<BTreeMap<u64, Task<()>>>,
    /// How many there ever were.
    started: Cell<u64>,
    /// The lease is given up.
    closed: Cell<bool>,
}

impl Keeper {
    pub(super) fn new(lease: &Declared, shard: &Shard, caller: Caller<Note, Note>) -> Rc<Keeper> {
        let books = RefCell::new(Books::new(lease.limit, shard.count(), shard.turn_time()));
        let (tasks, started, closed) = Default::default();
        Rc::new(Keeper { shard: shard.clone(), caller, books, tasks, started, closed })
    }

    /// Begins what ends with the lease.
    fn spawn(self: &Rc<Self>, name: &'static str, work: impl Future<Output = ()> + 'static) {
        if self.closed.get() {
            return;
        }
        let (keeper, number) = (self.clone(), self.started.get());
        self.started.set(number + 1);
        let task = self.shard.spawn(name, async move {
            work.await;
            let own = keeper.tasks.borrow_mut().remove(&number);
            drop(own);
        });
        self.tasks.borrow_mut().insert(number, task);
    }

    /// The lease is given up: nobody is told anything any more.
    pub(super) fn close(&self) {
        self.closed.set(true);
        let tasks = self.tasks.take();
        tasks.into_values().for_each(Task::cancel);
    }

    /// From now on takes back the shares of shards that end.
    pub(super) fn watch(self: &Rc<Self>) {
        for other in self.shard.ids().filter(|other| *other != self.shard.id()) {
            let keeper = self.clone();
            self.spawn("lease of another", async move {
                let ended = |life| {
                    keeper.books.borrow_mut().end(other.index(), life, keeper.shard.turn_time());
                    keeper.push();
                };
                each_end(&keeper.shard, other, ended).await;
            });
        }
    }

    /// A shard reports by itself, and is answered.
    pub(super) fn reported(self: &Rc<Self>, from: Asker, report: Report) -> Share {
        let now = self.shard.turn_time();
        let share = {
            let mut books = self.books.borrow_mut();
            // It is said already; what is left is for pushes.
            books.pace.charge(now);
            books.hear(from.shard, from.life, report, now);
            books.share_of(from.shard)
        };
        self.push();
        share
    }

    /// Tells shards that it does not wait to be asked by.
    fn push(self: &Rc<Self>) {
        let now = self.shard.turn_time();
        let (pushes, again) = {
            let mut books = self.books.borrow_mut();
            (books.pushes(now), books.next_push(now))
        };
        if let Some(at) = again {
            let keeper = self.clone();
            self.spawn("shares, later", async move {
                keeper.shard.sleep_until(at).await;
                keeper.books.borrow_mut().postponed = Postponed::No;
                keeper.push();
            });
        }
        for (shard, share) in pushes {
            let keeper = self.clone();
            let life = self.books.borrow().members[shard].life;
            self.spawn("share", async move {
                let told = keeper.caller.call(ShardId::new(shard), Note::Share(share)).await;
                {
                    let mut books = keeper.books.borrow_mut();
                    books.acknowledged(shard, life);
                    // An error: it ended, which is seen to elsewhere.
                    if let Ok(Note::Report(report)) = told {
                        books.hear(shard, life, report, keeper.shard.turn_time());
                    }
                }
                keeper.push();
            });
        }
    }
}

/// What the keeper knows.
#[derive(Debug)]
pub(super) struct Books {
    /// The newest that it has heard of.
    limit: Limit,
    /// All shards go by this, or a newer one, and their shares add up to no more.
    pub(super) reached: Limit,
    /// What came back and what nobody's share was, in parts of a token.
    pool: u128,
    /// Up to when the pool is filled.
    at: Time,
    members: Vec<Member>,
    /// Of reports and pushes.
    pace: Pace,
    postponed: Postponed,
}

/// Whether a push was not allowed when it was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Postponed {
    No,
    /// It was, and nobody waits for its time yet.
    Wanted,
    /// A task will try again.
    Waited,
}

#[derive(Debug)]
struct Member {
    /// Which of the shard's lives all this is about.
    life: u32,
    /// The most that its share may be, as far as is known here.
    lent: u64,
    /// The number of the latest share that it was told, and that share.
    number: u64,
    told: u64,
    want: u64,
    short: bool,
    /// It has reported, and has not ended.
    present: bool,
    ended: bool,
    /// A push is on its way.
    pushing: bool,
    /// It goes by this limit, or a newer one; and the newest that it was told.
    knows: Limit,
    hears_of: Limit,
    /// It wants to hear when all go by this one.
    asks: Limit,
    /// It was told last that all go by this one.
    hears: Limit,
}

impl Member {
    fn new(life: u32) -> Member {
        Member {
            life,
            lent: 0,
            number: 0,
            told: 0,
            want: 0,
            short: false,
            present: false,
            ended: false,
            pushing: false,
            knows: Limit::default(),
            hears_of: Limit::default(),
            asks: Limit::default(),
            hears: Limit::default(),
        }
    }
}

impl Books {
    pub(super) fn new(limit: Limit, shards: usize, now: Time) -> Books {
        Books {
            limit,
            reached: Limit::default(),
            pool: 0,
            at: now,
            members: (0..shards).map(|_| Member::new(0)).collect(),
            pace: Pace::of_all(),
            postponed: Postponed::No,
        }
    }

    /// The limit, in millionths of a token per second, as all shares.
    fn whole(&self) -> u64 {
        self.limit.most * MILLION
    }

    fn lent(&self) -> u64 {
        self.members.iter().map(|member| member.lent).sum()
    }

    /// What is nobody's share.
    fn free(&self) -> u64 {
        self.whole().saturating_sub(self.lent())
    }

    /// More is lent than may be, since the limit became smaller.
    fn is_over(&self) -> bool {
        self.lent() > self.whole()
    }

    /// What one shard said may have been the last that was missing.
    fn note_reached(&mut self) {
        let present = self.members.iter().filter(|member| member.present);
        let known = present.map(|member| member.knows).min().unwrap_or_default();
        if !self.is_over() {
            self.reached = self.reached.max(known);
        }
    }

    fn pool_max(&self) -> u128 {
        u128::from(self.limit.most) * TOKEN / 100
    }

    fn fill(&mut self, now: Time) {
        let more = u128::from(self.free()) * now.since(self.at).as_nanos();
        self.at = self.at.max(now);
        self.pool = (self.pool + more).min(self.pool_max());
    }

    /// That life of a shard is over.
    pub(super) fn end(&mut self, shard: usize, life: u32, now: Time) {
        self.fill(now);
        let member = &mut self.members[shard];
        if life >= member.life {
            *member = Member { ended: true, ..Member::new(life) };
        }
        self.note_reached();
    }

    /// A push has come back, or will not.
    pub(super) fn acknowledged(&mut self, shard: usize, life: u32) {
        let member = &mut self.members[shard];
        member.pushing &= member.life != life;
    }

    /// A shard's report, from whichever side it came.
    pub(super) fn hear(&mut self, shard: usize, life: u32, report: Report, now: Time) {
        self.fill(now);
        let member = &mut self.members[shard];
        if life > member.life {
            // The end of the one before is not known yet, or this is the first that is heard of it.
            *member = Member::new(life);
        } else if life < member.life || member.ended {
            return;
        }
        self.limit = self.limit.max(report.limit);
        self.pool = (self.pool + u128::from(report.spilled) * TOKEN).min(self.pool_max());
        let even = self.whole() / self.members.len() as u64;
        let (whole, free, scarce) = (self.whole(), self.free(), self.short() > 0);
        let member = &mut self.members[shard];
        (member.want, member.short) = (report.want.min(whole), report.short);
        member.knows = report.limit.max(member.knows);
        if report.awaits {
            member.asks = report.limit.max(member.asks);
        }
        // Else a share is on its way to it. Between two tellings a shard only lowers its share, so that of two reports
        // that overtook each other the lower one is the later.
        if report.heard == member.number {
            member.lent = report.share.min(member.lent);
        } else {
            // And this may have been what was to confirm an earlier one.
            member.told = member.lent;
        }
        if !std::mem::replace(&mut member.present, true) && !scarce {
            // A newcomer gets its even part, if that is free and nobody needs it more.
            member.lent = even.min(free);
        }
        self.note_reached();
    }

    /// What each may have: max-min fair by what they want; and what nobody wants goes to those who were short, who may
    /// not know how much they need.
    fn goals(&self) -> Vec<u64> {
        let want = |member: &Member| if member.present { member.want } else { 0 };
        let mut goals: Vec<u64> = self.members.iter().map(want).collect();
        let mut modest: Vec<usize> = (0..goals.len()).collect();
        modest.sort_by_key(|shard| goals[*shard]);
        let mut rest = self.whole();
        for (before, shard) in modest.iter().enumerate() {
            let even = rest / (goals.len() - before) as u64;
            goals[*shard] = goals[*shard].min(even);
            rest -= goals[*shard];
        }
        let short = |member: &&Member| member.short;
        let wanted: u128 = self.members.iter().filter(short).map(|member| u128::from(member.want)).sum();
        for (goal, member) in goals.iter_mut().zip(&self.members).filter(|(_, member)| member.short) {
            let more = u128::from(rest) * u128::from(member.want) / wanted.max(1);
            *goal += u64::try_from(more).unwrap_or(0);
        }
        goals
    }

    /// Less than this is not worth two messages.
    fn little(&self) -> u64 {
        self.whole() / LITTLE
    }

    fn short(&self) -> u64 {
        self.members.iter().filter(|member| member.short).count() as u64
    }

    /// What to tell a shard now. It counts as told.
    pub(super) fn share_of(&mut self, shard: usize) -> Share {
        let (goals, free, little) = (self.goals(), self.free(), self.little());
        let lacks =
            |other: usize| self.members[other].short || goals[other] > self.members[other].lent + little;
        let scarce = self.is_over() || (0..goals.len()).any(|other| other != shard && lacks(other));
        let (limit, reached) = (self.limit, self.reached);
        let goal = goals[shard];
        let short = u128::from(self.short());
        let member = &mut self.members[shard];
        let share = match member.lent {
            lent if goal > lent => goal.min(lent + free),
            // Lowered only for somebody.
            lent if scarce => lent.min(goal),
            lent => lent,
        };
        let extra = if member.short { self.pool / short / TOKEN } else { 0 };
        self.pool -= extra * TOKEN;
        member.number += 1;
        member.told = share;
        member.lent = member.lent.max(share);
        (member.hears_of, member.hears) = (limit, reached);
        let (number, extra) = (member.number, u64::try_from(extra).unwrap_or(u64::MAX));
        Share { number, share, extra, scarce, limit, reached }
    }

    /// Whom to tell what although they have not asked: of a new limit, and that all go by it; those who have more than they
    /// should while others are short, or all together too much; and once they have answered, those who are short.
    pub(super) fn pushes(&mut self, now: Time) -> Vec<(usize, Share)> {
        self.fill(now);
        let (goals, free) = (self.goals(), self.free());
        let (little, over, limit, reached) = (self.little(), self.is_over(), self.limit, self.reached);
        let lacks = |(member, goal): (&Member, &u64)| *goal > member.lent + free + little;
        let lack = self.members.iter().zip(&goals).any(lacks);
        let quiet = !self.members.iter().any(|member| member.pushing);
        let mut pushes = Vec::new();
        for (shard, goal) in goals.into_iter().enumerate() {
            let member = &mut self.members[shard];
            // Who was told to lower it will confirm that by itself.
            let too_much = lack && member.lent.min(member.told) > goal + little;
            let too_little = quiet && goal.min(member.lent + free) > member.lent + little;
            // Without what is little: all of them count. Nor is it enough that one was told: it has to say so.
            let too_much = too_much || over && member.lent > goal;
            let is_all_known = member.hears < member.asks && member.hears < reached;
            let news = member.hears_of < limit || is_all_known;
            let wanted = news || member.knows < limit || too_much || too_little;
            let wanted = wanted && member.present && !member.pushing;
            if wanted && news {
                self.pace.charge(now);
            }
            if wanted && (news || self.pace.spend(now)) {
                member.pushing = true;
                pushes.push((shard, self.share_of(shard)));
            } else if wanted && self.postponed == Postponed::No {
                self.postponed = Postponed::Wanted;
            }
        }
        pushes
    }

    /// When to try again, for one task at a time.
    fn next_push(&mut self, now: Time) -> Option<Time> {
        let wanted = self.postponed == Postponed::Wanted;
        wanted.then(|| {
            self.postponed = Postponed::Waited;
            self.pace.next(0, now)
        })
    }
}
