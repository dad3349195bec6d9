//! One life of a shard: it takes the steps, with the others, and runs what belongs to each.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join_all, maybe_done, select};
use waterwheel_reactor::Time;

use super::owned::Owned;
use super::steps::Done;
use super::{Listed, Shared, TooLate, When, Work};
use crate::shard::stopping::{COURSE, CloseTimes, Step, TRIGGER};
use crate::shard::waiters::{Waiters, wait_until};
use crate::shard::{Phase, Shard};

/// By how much shards may begin a step apart from each other, if all are well.
pub(super) const APART: Duration = Duration::from_secs(1);
/// Shorter steps are not reported on at their half.
const WORTH_A_REPORT: Duration = Duration::from_secs(1);

/// What a shard has to do at which step, and how far it has come. Kept by the shard.
pub(in crate::runtime) struct Course {
    common: Shared,
    /// Somebody takes the steps: from the first trigger on, since a shard that has none has nothing to do.
    followed: Cell<bool>,
    /// This life is not the first, and began while a stop waited for what is to run before it.
    late: bool,
    /// The steps that have begun, as many as there are.
    begun: Cell<usize>,
    added: RefCell<Vec<(u64, When, &'static str, Work)>>,
    next: Cell<u64>,
    /// The main future may be made.
    open: Cell<bool>,
    /// Who waits for that, and for triggers that are added.
    waiting: RefCell<Waiters>,
}

impl Course {
    /// Begins to follow a shard's life; `again`: not its first.
    pub(in crate::runtime) fn begin(shard: &Shard, common: Shared, again: bool) -> Rc<Course> {
        common.steps.begin(shard.id().index());
        let open = Cell::new(!common.has(When::BeforeStart));
        let asked = shard.core().has_come_to(Step::Asked);
        let starts = common.listed.iter().any(|trigger| trigger.when < When::BeforeStop);
        let course = Rc::new(Course {
            common,
            followed: Cell::new(false),
            late: again && asked,
            begun: Cell::new(if starts { 0 } else { When::BeforeStop as usize }),
            added: RefCell::default(),
            next: Cell::new(0),
            open,
            waiting: RefCell::default(),
        });
        if course.common.listed.iter().any(|trigger| trigger.when >= When::BeforeStop) {
            course.set_close(shard);
        }
        shard.keep(course.clone());
        if asked || !course.common.listed.is_empty() {
            course.begin_to_follow(shard);
        }
        shard.core().on_asked(|| {
            if let Some((course, shard)) =
                Shard::current().and_then(|shard| Some((shard.kept::<Course>()?, shard)))
            {
                course.begin_to_follow(&shard);
            }
        });
        course
    }

    fn begin_to_follow(self: &Rc<Course>, shard: &Shard) {
        if !self.followed.replace(true) {
            drop(shard.spawn_marked("lifecycle", COURSE, self.clone().follow(shard.clone())));
        }
    }

    fn set_close(&self, shard: &Shard) {
        let times = self.common.times;
        let unasked = times.before_stop.saturating_add(self.common.drain);
        shard.core().set_close(CloseTimes { unasked, close: times.after_stop.saturating_add(APART) });
    }

    /// Waits until the main future may be made.
    pub(in crate::runtime) async fn opened(&self) {
        wait_until(&self.waiting, || self.open.get().then_some(())).await;
    }

    fn open(&self) {
        self.open.set(true);
        self.waiting.borrow_mut().wake_all();
    }

    pub(super) fn add(
        self: &Rc<Course>,
        shard: &Shard,
        when: When,
        name: &'static str,
        work: Work,
    ) -> Result<u64, TooLate> {
        let draining = shard.core().has_come_to(Step::Draining);
        // The order of the steps is that of their numbers.
        let begun = (when as usize) < self.begun.get() && !(self.late && when == When::BeforeStop);
        if begun || draining && when < When::AfterStop {
            return Err(TooLate { name, when });
        }
        if when == When::BeforeStop {
            self.common.stopper.hold();
        }
        if when >= When::BeforeStop {
            self.set_close(shard);
        }
        self.begin_to_follow(shard);
        let id = self.next.replace(self.next.get() + 1);
        self.added.borrow_mut().push((id, when, name, work));
        self.waiting.borrow_mut().wake_all();
        Ok(id)
    }

    pub(super) fn remove(&self, id: u64) -> bool {
        let mut added = self.added.borrow_mut();
        let found = added.iter().position(|(own, ..)| *own == id);
        let removed = found.map(|at| added.remove(at));
        drop(added);
        removed.is_some()
    }

    async fn follow(self: Rc<Course>, shard: Shard) {
        // What begins while a stop waits is to come as far as what began before.
        let no_further = if self.late { Step::Draining } else { Step::Asked };
        let (me, steps) = (shard.id().index(), &self.common.steps);
        let latest = self.common.released_at().filter(|_| self.late).unwrap_or(Time::NEVER);
        let over = select(shard.core().comes_to(no_further), poll_fn(|cx| steps.poll_released(me, cx)));
        let over = select(over, shard.sleep_until(latest));
        select(pin!(self.starts(&shard)), over).await;
        self.open();
        shard.core().comes_to(Step::Asked).await;
        self.begun.set(self.begun.get().max(When::BeforeStop as usize));
        self.stops(&shard).await;
        shard.core().has_closed();
    }

    /// The steps of the start; none of them waits for others if nobody has anything to do in it.
    async fn starts(&self, shard: &Shard) {
        if self.begun.get() > When::AfterStart as usize {
            return;
        }
        let times = self.common.times;
        self.run(shard, When::BeforeStart, times.before_start).await;
        if self.common.has(When::BeforeStart) {
            self.together(shard, Done::BeforeStart, shard.now() + times.before_start).await;
        }
        self.open();
        let began = shard.now();
        self.run(shard, When::DuringStart, times.during_start).await;
        if self.common.has(When::DuringStart) || self.common.has(When::AfterStart) {
            self.together(shard, Done::Start, began + times.during_start + APART).await;
        }
        self.run(shard, When::AfterStart, times.after_start).await;
        self.common.steps.reach(shard.id().index(), Done::Start);
    }

    /// The steps of the stop. Ended by the root when the time for all is up.
    async fn stops(&self, shard: &Shard) {
        let core = shard.core();
        let times = self.common.times;
        let everybody = self.before_stop(shard).await;
        self.common.steps.reach(shard.id().index(), Done::BeforeStop);
        if everybody {
            self.common.steps.release();
        }
        core.release_stop();
        let drain = match shard.phase() {
            Phase::Draining { until } => until.since(shard.now()),
            Phase::Running => self.common.drain,
            Phase::Ending => Duration::ZERO,
        };
        let drained = shard.now() + drain;
        let during = self.run(shard, When::DuringStop, drain);
        select(pin!(during), core.comes_to(Step::Ending)).await;
        core.comes_to(Step::Closing).await;
        self.common.steps.reach(shard.id().index(), Done::Stop);
        let left = || core.closes_until().map_or(Duration::ZERO, |until| until.since(shard.now()));
        if everybody {
            let drained = self.together(shard, Done::Stop, drained + APART);
            if let Either::Right(_) = select(pin!(drained), core.comes_to(Step::Hurried)).await {
                self.together(shard, Done::Stop, shard.now() + left() / 2).await;
            }
        }
        self.run(shard, When::AfterStop, left().min(times.after_stop)).await;
    }

    /// What is to run before the stop. True: all shards stop, and are as far. A life that ends by itself meanwhile waits for
    /// nobody: another one may follow, while the others still wait.
    async fn before_stop(&self, shard: &Shard) -> bool {
        let (core, steps) = (shard.core(), &self.common.steps);
        let wished = core.foreign().stop_wish().is_some();
        if wished && self.late && steps.are_released() {
            return true;
        }
        let asked = if wished { steps.asked(shard.now()) } else { shard.now() };
        let until = asked + self.common.times.before_stop;
        let in_this_life = !wished || steps.prepares(shard.id().index());
        let time = self.common.times.before_stop;
        let own = self.run_those(shard, When::BeforeStop, time, |_| in_this_life);
        let mut own = pin!(maybe_done(own));
        // A second wish, or the end of what there was to do, makes it shorter.
        if wished {
            let all = async {
                own.as_mut().await;
                if core.foreign().holds_stops() {
                    shard.sleep_until(asked + self.common.delay).await;
                    self.together(shard, Done::BeforeStop, until + APART).await;
                }
            };
            let (all, added) = (pin!(all), pin!(self.run_added(shard, until)));
            let over = select(core.comes_to(Step::Draining), core.comes_to(Step::Closing));
            select(select(all, added), over).await;
        }
        let by_itself = !wished || core.has_come_to(Step::Closing) && !core.has_come_to(Step::Draining);
        if by_itself {
            select(own, core.comes_to(Step::Draining)).await;
        }
        !by_itself
    }

    /// The main future of a life that is late may add what it wants done before it has to stop. Nobody waits for that.
    async fn run_added(&self, shard: &Shard, until: Time) {
        if !self.late {
            pending::<()>().await;
        }
        let is_there = || self.added.borrow().iter().any(|(_, when, ..)| *when == When::BeforeStop);
        loop {
            wait_until(&self.waiting, || is_there().then_some(())).await;
            self.run_those(shard, When::BeforeStop, until.since(shard.now()), |_| false).await;
        }
    }

    /// Has come so far; waits for the other shards, up to a deadline.
    async fn together(&self, shard: &Shard, done: Done, deadline: Time) {
        let (me, steps) = (shard.id().index(), &self.common.steps);
        steps.reach(me, done);
        let all = poll_fn(|cx| steps.poll_all(me, done, cx));
        if let Either::Right(_) = select(all, shard.sleep_until(deadline)).await {
            let behind = steps.behind(done);
            tracing::warn!(
                shard = me,
                "goes on without shards {behind:?}, which have not come as far in time"
            );
        }
    }

    /// Runs the triggers of one step together, no longer than `time`.
    async fn run(&self, shard: &Shard, when: When, time: Duration) {
        self.run_those(shard, when, time, |_| true).await;
    }

    /// The same of those of the program that are wanted, and of the shard's own.
    async fn run_those(&self, shard: &Shard, when: When, time: Duration, wanted: impl Fn(&Listed) -> bool) {
        self.begun.set(self.begun.get().max(when as usize + 1));
        let listed = self.common.listed.iter().enumerate();
        let listed = listed.filter(|(_, listed)| listed.when == when && wanted(listed));
        let mut work: Vec<(&'static str, Work)> = listed
            .map(|(at, listed)| {
                let (common, shard) = (self.common.clone(), shard.clone());
                // Made in its task, since making it may panic too.
                let work: Work = Box::pin(async move { (common.listed[at].make)(shard).await });
                (listed.name, work)
            })
            .collect();
        let own: Vec<_> = self.added.borrow_mut().extract_if(.., |(_, own, ..)| *own == when).collect();
        work.extend(own.into_iter().map(|(_, _, name, work)| (name, work)));
        if !work.is_empty() {
            run_all(shard, when, time, work).await;
        }
    }
}

async fn run_all(shard: &Shard, when: When, time: Duration, work: Vec<(&'static str, Work)>) {
    let me = shard.id().index();
    let deadline = shard.now() + time;
    let tasks: Vec<_> = work
        .into_iter()
        .map(|(trigger, work)| (trigger, Owned::new(shard.spawn_marked(trigger, TRIGGER, work))))
        .collect();
    let all = join_all(tasks.into_iter().map(async |(trigger, mut task)| match (&mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(shard = me, trigger, "a trigger {when} failed: {error:#}"),
        // The panic itself was told of with the task's name.
        Err(_) => tracing::error!(shard = me, trigger, "a trigger {when} panicked"),
    }));
    let mut all = pin!(all);
    if time >= WORTH_A_REPORT {
        let half = shard.sleep_until(shard.now() + time / 2);
        if let Either::Left(_) = select(all.as_mut(), half).await {
            return;
        }
        let waits = shard.core().unfinished_triggers();
        tracing::warn!(shard = me, "half of the time for what runs {when} is over; it waits for {waits}");
    }
    if let Either::Right(_) = select(all, shard.sleep_until(deadline)).await {
        let waits = shard.core().unfinished_triggers();
        tracing::warn!(shard = me, "the time for what runs {when} is up; it still waited for {waits}");
    }
}
