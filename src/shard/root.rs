//! The root future: what a backend drives. One poll is one turn of the wheel.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use waterwheel_reactor::Time;

use super::core::{Core, drop_contained};
use super::schedule::GroupId;
use super::task::Key;

/// How often a shard that spins looks at its bell before it looks at the kernel again: about 2 µs.
const GLANCES: usize = 100;
/// How long such a shard may take turns for messages alone before it looks at the kernel again: a few dozen turns.
const UNSEEN: Duration = Duration::from_micros(20);

/// The root of one shard. Ends when its main task ended, or when a stop has run out of time; drops every task then.
pub(crate) struct RootFuture {
    core: Rc<Core>,
    main: Key,
    /// Set by the main task's end.
    over: Rc<std::cell::Cell<bool>>,
    /// The deadline that the reactor's alarm was last set to; `None`: it has fired or was never set.
    armed: Option<Time>,
    /// Since when there is nothing to do; for the idle spin.
    idle_since: Option<Time>,
    /// The bell rang while the shard spun, so that the next turn need not wait for the reactor.
    rung: bool,
    /// What must outlive the tasks and go with the root: the guard that tells other shards.
    guard: Option<Box<dyn std::any::Any>>,
}

impl RootFuture {
    /// A root whose shard lives as long as `main`, which was begun at `made`. `guard` is dropped after the last task.
    pub(crate) fn made_at(
        made: &'static Location<'static>,
        core: Rc<Core>,
        main: impl Future<Output = ()> + 'static,
        guard: Box<dyn std::any::Any>,
    ) -> RootFuture {
        let over = Rc::new(std::cell::Cell::new(false));
        core.enter();
        let ended = EndMark(over.clone());
        let main = async move {
            let _ended = ended;
            main.await;
        };
        let main = core.spawn("main", made, 0, GroupId::DEFAULT, Box::pin(main));
        RootFuture { core, main, over, armed: None, idle_since: None, rung: false, guard: Some(guard) }
    }

    /// The same for a test, begun where this is called.
    #[cfg(test)]
    #[track_caller]
    pub(crate) fn new(
        core: Rc<Core>,
        main: impl Future<Output = ()> + 'static,
        guard: Box<dyn std::any::Any>,
    ) -> RootFuture {
        RootFuture::made_at(Location::caller(), core, main, guard)
    }

    /// One turn: messages, timers, tasks, bells.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let core = self.core.clone();
        core.begin_turn();
        let taken = core.between().take();
        if taken.foreign {
            core.drain_foreign();
        }
        let now = core.turn_began();
        if self.armed.is_some_and(|at| at <= now) {
            self.armed = None;
        }
        let timers_left = core.fire_timers(now);
        let polls = core.stats.polls.get();
        core.run_ready();
        if core.stats.polls.get() != polls {
            self.idle_since = None;
        }
        core.between().ring();
        core.end_turn();
        core.stats.turns.set(core.stats.turns.get() + 1);
        core.look_at_length();
        // Said also where the main task has heard of it by itself: what still runs is cut short.
        let late = core.is_out_of_time(now);
        if late && !self.over.get() {
            core.last_word(self.main);
        }
        if (late || self.over.get()) && !core.closes(now, late) {
            return Poll::Ready(());
        }
        let more = taken.more || timers_left || !core.nothing_ready();
        if more || !self.sleeps(cx, now) {
            core.wake_root();
        }
        Poll::Pending
    }

    /// Nothing is to do: sets the alarm and parks. False if something came, or if the shard is to keep looking.
    fn sleeps(&mut self, cx: &mut Context<'_>, now: Time) -> bool {
        let next = self.core.wheel.next_deadline();
        if next != self.armed {
            self.armed = next;
            if self.core.reactor().poll_until(cx, next.unwrap_or(Time::NEVER)).is_ready() {
                self.armed = None;
                return false;
            }
        }
        !self.spins(now) && self.core.between().park()
    }

    /// Whether the shard keeps looking instead of sleeping: for a while after it last had something to do.
    fn spins(&mut self, now: Time) -> bool {
        let spin = self.core.budgets.spin;
        let spins = !spin.is_zero() && now.since(*self.idle_since.get_or_insert(now)) < spin;
        self.rung = spins && self.rings_soon();
        spins
    }

    /// Looks at the bell for a while, and at nothing else: asking the kernel takes longer than a message.
    fn rings_soon(&self) -> bool {
        let between = self.core.between();
        between.rung()
            || (0..GLANCES).any(|_| {
                std::hint::spin_loop();
                between.glance()
            })
    }
}

impl Future for RootFuture {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.core.enter();
        this.core.set_root(cx.waker());
        let mut first = None;
        loop {
            this.rung = false;
            if this.turn(cx).is_ready() {
                return Poll::Ready(());
            }
            let now = this.core.turn_began();
            if !this.rung || now.since(*first.get_or_insert(now)) >= UNSEEN {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for RootFuture {
    fn drop(&mut self) {
        self.core.enter();
        self.core.clear();
        drop_contained(self.guard.take());
        // What the guard dropped, servers and their handlers, may have spawned: a connection that lingers.
        self.core.clear();
        self.core.end();
        self.core.leave();
    }
}

/// Set when the main task is gone, however it went.
struct EndMark(Rc<std::cell::Cell<bool>>);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.set(true);
    }
}
