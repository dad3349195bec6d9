//! The shard's own laws, on a reactor whose clock the test moves by hand.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use waterwheel_reactor::{Root, Time};

use super::between::{Between, RingForeign, Taken};
use super::core::Core;
use super::hand::Hand;
use super::root::RootFuture;
use super::task::{Foreign, StopWish};
use super::*;

/// No other shards: only the foreign flag, and how often the shard parked.
#[derive(Default)]
struct Alone {
    foreign: Arc<AtomicUsize>,
    parks: Cell<usize>,
    /// Other shards never stop ringing.
    flooded: Cell<bool>,
}

impl Between for Alone {
    fn take(&self) -> Taken {
        Taken { more: false, foreign: self.foreign.swap(0, SeqCst) > 0 }
    }
    fn ring(&self) {}
    fn park(&self) -> bool {
        self.parks.set(self.parks.get() + 1);
        self.foreign.load(SeqCst) == 0
    }
    fn rung(&self) -> bool {
        self.flooded.get() || self.foreign.load(SeqCst) > 0
    }
    fn glance(&self) -> bool {
        self.rung()
    }
    fn set_waker(&self, _: &Waker) {}
}

struct Ring(Arc<AtomicUsize>);

impl RingForeign for Ring {
    fn ring_foreign(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A shard driven by hand.
pub(super) struct Bench {
    pub(super) root: Option<Root>,
    pub(super) hand: Rc<Hand>,
    alone: Rc<Alone>,
    foreign: Arc<Foreign>,
    woken: Arc<Count>,
    pub(super) shard: Shard,
}

impl Bench {
    pub(super) fn new<F: Future<Output = ()> + 'static>(
        budgets: Budgets,
        main: impl FnOnce(Shard) -> F,
    ) -> Bench {
        let hand = Rc::new(Hand::default());
        let alone = Rc::new(Alone::default());
        let foreign = Arc::new(Foreign::new(Arc::new(Ring(alone.foreign.clone()))));
        let core = Core::new(ShardId::new(0), 1, hand.clone(), alone.clone(), foreign.clone(), budgets);
        let shard = Shard::from_core(core.clone());
        let root: Root = Box::pin(RootFuture::new(core, main(shard.clone()), Box::new(())));
        Bench { root: Some(root), hand, alone, foreign, woken: Arc::default(), shard }
    }

    /// One poll of the root. True: it wants another at once.
    pub(super) fn turn(&mut self) -> bool {
        let waker = Waker::from(self.woken.clone());
        self.woken.0.store(0, SeqCst);
        let root = self.root.as_mut().expect("the root has ended");
        if root.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.root = None;
            return false;
        }
        self.woken.0.load(SeqCst) > 0
    }

    /// Whether somebody asked for a turn since the last one began.
    pub(super) fn wants_a_turn(&self) -> bool {
        self.woken.0.load(SeqCst) > 0
    }

    /// Turns until nothing is to do; moves the clock to the alarm and goes on while `until` is not reached.
    fn run(&mut self, until: Time) {
        for _ in 0..100_000 {
            let again = self.turn();
            if self.root.is_none() {
                return;
            }
            if again {
                continue;
            }
            match self.hand.alarm.deadline() {
                Some(at) if at <= until => {
                    self.hand.now.set(at.max(self.hand.now.get()));
                    self.hand.alarm.fire(self.hand.now.get());
                }
                _ => return self.hand.now.set(until),
            }
        }
        panic!("the shard never rests");
    }
}

type Log = Rc<RefCell<Vec<&'static str>>>;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_task_that_panics_ends_alone() {
    let log = Log::default();
    let seen = log.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        let bad = shard.spawn("bad", async { panic!("planned") });
        let good = shard.spawn("good", async { 7 });
        assert_eq!(bad.await, Err::<(), _>(TaskEnded));
        assert_eq!(good.await, Ok(7));
        seen.borrow_mut().push("went on");
    });
    bench.run(Time::ZERO);
    assert_eq!(*log.borrow(), ["went on"]);
    assert_eq!(bench.shard.stats().panics, 1);
    assert!(bench.root.is_none(), "main ended, so the root does");
}

#[test]
fn spawn_never_runs_inside_its_caller() {
    let log = Log::default();
    let seen = log.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        let inner = seen.clone();
        let task = shard.spawn("inner", async move { inner.borrow_mut().push("inner") });
        seen.borrow_mut().push("caller");
        task.await.unwrap();
    });
    bench.run(Time::ZERO);
    assert_eq!(*log.borrow(), ["caller", "inner"]);
}

/// Found by simulation: a task that was cancelled while it was queued left its entry to whoever got its place, who was
/// then polled for nothing, ahead of others; among timers of one batch that changed their order.
#[test]
fn the_entry_of_a_cancelled_task_is_nobodys() {
    let polls = Rc::new(Cell::new(0));
    let seen = polls.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        shard.spawn("cancelled", std::future::pending::<()>()).cancel();
        shard.spawn_detached(
            "its successor",
            poll_fn(move |_| -> Poll<()> {
                seen.set(seen.get() + 1);
                Poll::Pending
            }),
        );
        shard.sleep(ms(1)).await;
    });
    bench.run(Time::ZERO + ms(2));
    assert_eq!(polls.get(), 1, "polled for a wake that was another's");
}

#[test]
fn time_5_equal_deadlines_fire_in_the_order_set() {
    let log = Log::default();
    let seen = log.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        let at = shard.now() + ms(5);
        let tasks: Vec<_> = ["a", "b", "c", "d"]
            .map(|name| {
                let (shard, seen) = (shard.clone(), seen.clone());
                shard.clone().spawn("sleeper", async move {
                    shard.sleep_until(at).await;
                    seen.borrow_mut().push(name);
                })
            })
            .into();
        futures_util::future::join_all(tasks).await;
    });
    bench.run(Time::ZERO + ms(10));
    assert_eq!(*log.borrow(), ["a", "b", "c", "d"]);
}

#[test]
fn time_6_a_timer_cancelled_by_another_of_its_batch_does_not_fire() {
    let log = Log::default();
    let seen = log.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        let (one, two) = (shard.clone(), shard.clone());
        let victim: Rc<RefCell<Option<Task<()>>>> = Rc::default();
        let (killer, log) = (victim.clone(), seen.clone());
        let first = shard.spawn("first", async move {
            one.sleep(ms(1)).await;
            log.borrow_mut().push("first");
            killer.borrow_mut().take().unwrap().cancel();
        });
        let log = seen.clone();
        *victim.borrow_mut() = Some(shard.spawn("second", async move {
            two.sleep(ms(1)).await;
            log.borrow_mut().push("second");
        }));
        first.await.unwrap();
        shard.sleep(ms(5)).await;
    });
    bench.run(Time::ZERO + ms(10));
    assert_eq!(*log.borrow(), ["first"]);
}

#[test]
fn time_7_a_zero_sleep_is_over_in_the_next_turn() {
    let log = Log::default();
    let seen = log.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        shard.sleep(Duration::ZERO).await;
        seen.borrow_mut().push("slept");
        std::future::pending::<()>().await;
    });
    assert!(bench.turn(), "the root must ask for another turn");
    assert!(log.borrow().is_empty(), "completed in the turn that set it");
    bench.turn();
    assert_eq!(*log.borrow(), ["slept"]);
}

#[test]
fn time_8_a_flood_of_timers_is_bounded_per_turn() {
    let fired = Rc::new(Cell::new(0));
    let seen = fired.clone();
    let budgets = Budgets { timers: 10, ..Budgets::default() };
    let mut bench = Bench::new(budgets, |shard| async move {
        for _ in 0..100 {
            let (shard, seen) = (shard.clone(), seen.clone());
            shard.clone().spawn_detached("sleeper", async move {
                shard.sleep(ms(1)).await;
                seen.set(seen.get() + 1);
            });
        }
        std::future::pending::<()>().await;
    });
    while bench.turn() {}
    bench.hand.now.set(Time::ZERO + ms(2));
    let mut before = 0;
    for _ in 0..30 {
        assert!(bench.turn() || fired.get() == 100, "the root rests while timers are due");
        assert!(fired.get() - before <= 10, "{} timers in one turn", fired.get() - before);
        before = fired.get();
    }
    assert_eq!(fired.get(), 100);
}

#[test]
fn an_idle_shard_asks_for_no_turn_and_wakes_for_its_timer() {
    let mut bench =
        Bench::new(Budgets::default(), |shard| async move { shard.sleep(Duration::from_secs(300)).await });
    while bench.turn() {}
    assert!(bench.alone.parks.get() > 0);
    assert_eq!(bench.hand.alarm.deadline(), Some(Time::ZERO + Duration::from_secs(300)));
    bench.run(Time::ZERO + Duration::from_secs(301));
    assert!(bench.root.is_none());
}

#[test]
fn who_yields_lets_the_others_and_the_reactor_in() {
    let turns = Rc::new(Cell::new(0));
    let seen = turns.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        for _ in 0..5 {
            shard.yield_now().await;
            seen.set(seen.get() + 1);
        }
    });
    bench.turn();
    for turn in 0..5 {
        assert_eq!(turns.get(), turn, "a yield came back in its own turn");
        bench.turn();
    }
}

#[test]
fn a_wake_from_another_thread_arrives() {
    let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
    let (slot, done) = (waker.clone(), Rc::new(Cell::new(false)));
    let seen = done.clone();
    let mut bench = Bench::new(Budgets::default(), |_| async move {
        let mut polls = 0;
        poll_fn(move |cx| {
            polls += 1;
            *slot.borrow_mut() = Some(cx.waker().clone());
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        seen.set(true);
    });
    while bench.turn() {}
    let away = waker.borrow_mut().take().unwrap();
    std::thread::scope(|scope| scope.spawn(move || away.wake()).join().unwrap());
    assert!(!done.get());
    bench.turn();
    assert!(done.get());
}

#[test]
fn a_stop_drains_until_its_deadline_and_then_ends() {
    let log = Log::default();
    let seen = log.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        shard.stopping().await;
        seen.borrow_mut().push("told");
        std::future::pending::<()>().await;
    });
    while bench.turn() {}
    bench.foreign.ask_to_stop(StopWish::Drain(ms(50)));
    bench.run(Time::ZERO + ms(49));
    assert_eq!(*log.borrow(), ["told"]);
    assert!(bench.root.is_some(), "ended before its time");
    bench.run(Time::ZERO + ms(51));
    assert!(bench.root.is_none(), "drains for ever");
}

#[test]
fn a_second_wish_ends_a_drain_at_once() {
    let mut bench = Bench::new(Budgets::default(), |_| std::future::pending());
    while bench.turn() {}
    bench.foreign.ask_to_stop(StopWish::Drain(Duration::from_secs(30)));
    bench.turn();
    assert!(bench.root.is_some());
    bench.foreign.ask_to_stop(StopWish::AtOnce);
    bench.turn();
    assert!(bench.root.is_none());
}

#[test]
fn a_last_word_is_heard_behind_any_queue_of_tasks_and_timers() {
    for wish in [StopWish::AtOnce, StopWish::Drain(ms(50))] {
        let log = Log::default();
        let seen = log.clone();
        let budgets = Budgets { tasks: 5, timers: 5, ..Budgets::default() };
        let mut bench = Bench::new(budgets, |shard| async move {
            for _ in 0..100 {
                let sleeper = shard.clone();
                shard.spawn_detached("busy", async move {
                    sleeper.sleep(ms(50)).await;
                    loop {
                        sleeper.yield_now().await;
                    }
                });
            }
            shard.time_up().await;
            seen.borrow_mut().push("a last word");
        });
        while bench.turn() {}
        bench.foreign.ask_to_stop(wish);
        bench.turn();
        bench.hand.now.set(Time::ZERO + ms(60));
        if bench.root.is_some() {
            bench.turn();
        }
        assert!(bench.root.is_none(), "{wish:?} did not end it");
        assert_eq!(*log.borrow(), ["a last word"], "{wish:?}");
    }
}

#[test]
fn tasks_spawned_while_tasks_are_dropped_go_too() {
    struct Spawner(Shard, Rc<Cell<usize>>);
    impl Drop for Spawner {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
            let count = self.1.clone();
            self.0.spawn_detached("late", async move {
                let _held = count;
                std::future::pending::<()>().await;
            });
        }
    }
    let drops = Rc::new(Cell::new(0));
    let count = drops.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        let spawner = Spawner(shard.clone(), count);
        shard.spawn_detached("spawner", async move {
            let _held = spawner;
            std::future::pending::<()>().await;
        });
        shard.yield_now().await;
    });
    bench.run(Time::ZERO);
    assert_eq!(drops.get(), 1);
    assert_eq!(Rc::strong_count(&drops), 1, "a task outlived its shard");
    assert!(Shard::current().is_none());
}

#[test]
fn a_shard_that_spins_sees_its_reactor_however_often_it_is_rung() {
    let budgets = Budgets { spin: Duration::from_millis(1), ..Budgets::default() };
    let mut bench = Bench::new(budgets, |_| std::future::pending());
    assert!(bench.turn(), "it does not sleep yet");
    let quiet = bench.shard.stats().turns;
    bench.alone.flooded.set(true);
    bench.hand.step.set(Duration::from_micros(5));
    assert!(bench.turn());
    bench.hand.step.set(Duration::ZERO);
    let flooded = bench.shard.stats().turns - quiet;
    assert!((2..10).contains(&flooded), "{flooded} turns in one poll");
    bench.alone.flooded.set(false);
    bench.hand.now.set(Time::ZERO + Duration::from_millis(2));
    assert!(!bench.turn(), "its spin is over");
    assert_eq!(bench.alone.parks.get(), 1);
}

#[test]
fn what_is_kept_may_spawn_while_it_is_dropped_and_nothing_is_left() {
    let left = Rc::new(());
    struct Spawner(Shard, Rc<()>);
    impl Drop for Spawner {
        fn drop(&mut self) {
            let (shard, left) = (self.0.clone(), self.1.clone());
            self.0.spawn_detached("lingers", async move {
                let _left = left;
                shard.sleep(ms(1)).await;
            });
        }
    }
    let kept = left.clone();
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        shard.keep(Rc::new(Spawner(shard.clone(), kept)));
    });
    bench.run(Time::ZERO);
    assert_eq!(Rc::strong_count(&left), 1, "a task was spawned by a destructor and never dropped");
    // So does a handle that outlives the shard.
    drop(Spawner(bench.shard.clone(), left.clone()));
    assert_eq!(Rc::strong_count(&left), 1, "a task was spawned after the end and never dropped");
    assert_eq!(bench.shard.stats().alive, 0);
}

#[test]
fn a_task_that_was_woken_before_it_gives_way_does_not_run_again_in_the_same_turn() {
    let mut bench = Bench::new(Budgets::default(), |shard| async move {
        for _ in 0..3 {
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::Ready(())
            })
            .await;
            let turn = shard.stats().turns;
            shard.yield_now().await;
            assert_eq!(shard.stats().turns, turn + 1);
        }
    });
    bench.run(Time::ZERO);
    assert_eq!(bench.shard.stats().panics, 0);
    assert!(bench.root.is_none());
}
