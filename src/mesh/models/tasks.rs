//! Tasks that other threads wake, wishes to stop, and jobs from outside, on a whole shard: the root itself turns.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::sync::atomic::AtomicUsize;
use loom::thread;
use waterwheel_reactor::Root;

use super::actor::Token;
use super::explore;
use crate::mesh::bell::Bell;
use crate::mesh::hub::Mesh;
use crate::mesh::member::Member;
use crate::mesh::remote::{Remote, TryRunError, run_jobs};
use crate::mesh::stop::StopGuard;
use crate::shard::between::RingForeign;
use crate::shard::core::Core;
use crate::shard::hand::Hand;
use crate::shard::root::RootFuture;
use crate::shard::task::{Foreign, StopWish};
use crate::shard::{Budgets, Shard, ShardId};

/// The shard's bell, which counts how often other threads left something.
struct Counted {
    bell: Arc<Bell>,
    rings: Count,
}

impl RingForeign for Counted {
    fn ring_foreign(&self) {
        self.rings.fetch_add(1, SeqCst);
        self.bell.ring_foreign();
    }
}

/// More turns than any model takes that does not turn for ever.
const TURNS_MAX: u32 = 60;

/// A shard alone, on the thread that made it.
struct Whole {
    root: Option<Root>,
    token: Arc<Token>,
    counted: Arc<Counted>,
    foreign: Arc<Foreign>,
    member: Rc<Member>,
    shard: Shard,
    turns: u32,
}

impl Whole {
    fn new<F: Future<Output = ()> + 'static>(mesh: &Arc<Mesh>, main: impl FnOnce(Shard) -> F) -> Whole {
        let counted = Arc::new(Counted { bell: mesh.bell(0).clone(), rings: Count::new(0) });
        let foreign = Arc::new(Foreign::new(counted.clone()));
        let joined = StopGuard::new(mesh, 0).join();
        let member = joined.member().clone();
        let budgets = Budgets { stall: None, ..Budgets::default() };
        let core =
            Core::new(ShardId::new(0), 1, Rc::new(Hand::default()), member.clone(), foreign.clone(), budgets);
        let shard = Shard::from_core(core.clone());
        let root: Root = Box::pin(RootFuture::new(core, main(shard.clone()), Box::new(joined)));
        Whole { root: Some(root), token: Token::new(), counted, foreign, member, shard, turns: 0 }
    }

    /// One poll of the root; false once it has ended.
    fn turn(&mut self) -> bool {
        self.turns += 1;
        assert!(self.turns < TURNS_MAX, "the shard turns for ever");
        let waker = Waker::from(self.token.clone());
        let Some(root) = &mut self.root else { return false };
        let ended = root.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if ended {
            self.root = None;
        }
        !ended
    }

    /// Turns until it would sleep.
    fn settle(&mut self) {
        while self.turn() && self.token.take() {}
    }

    /// Turns and sleeps until the root ends.
    fn run(mut self) {
        while self.turn() {
            self.token.sleep();
        }
        let (wakes, parks) = (self.counted.bell.wakes(), self.member.ledger.parks.get());
        assert!(wakes <= parks, "woken {wakes} times in {parks} parks");
    }

    fn rings(&self) -> usize {
        self.counted.rings.load(SeqCst)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // A model that failed is over: what the end of a shard does finds no model to run in.
        if std::thread::panicking() {
            std::mem::forget(self.root.take());
        }
    }
}

/// The main task waits until it sees what another thread writes in `steps`, with a wake after each. `restless`: it
/// also wakes itself, once.
fn written(steps: usize, restless: bool) {
    let data = Arc::new(AtomicUsize::new(0));
    let mesh = Mesh::new(1, 64);
    Whole::new(&mesh, |_| {
        let mut thread = None;
        poll_fn(move |cx| {
            if thread.is_none() {
                let (data, waker) = (data.clone(), cx.waker().clone());
                thread = Some(thread::spawn(move || {
                    for step in 1..=steps {
                        data.store(step, Relaxed);
                        waker.wake_by_ref();
                    }
                }));
                if restless {
                    cx.waker().wake_by_ref();
                }
            }
            if data.load(Relaxed) < steps {
                return Poll::Pending;
            }
            thread.take().into_iter().for_each(|thread| thread.join().unwrap());
            Poll::Ready(())
        })
    })
    .run();
}

pub(super) fn one_writer() {
    written(2, false);
}

pub(super) fn one_writer_and_itself() {
    written(2, true);
}

#[test]
fn what_was_written_before_a_wake_is_seen_by_a_poll_after_it() {
    explore(8, one_writer);
}

#[test]
fn a_task_that_also_wakes_itself_loses_no_wake() {
    explore(6, one_writer_and_itself);
}

/// The main task waits for two other threads, each of which writes once and wakes it.
pub(super) fn two_writers() {
    let mesh = Mesh::new(1, 64);
    let data: [_; 2] = std::array::from_fn(|_| Arc::new(AtomicUsize::new(0)));
    Whole::new(&mesh, |_| {
        let mut threads = Vec::new();
        poll_fn(move |cx| {
            if threads.is_empty() {
                threads.extend(data.iter().cloned().map(|one| {
                    let waker = cx.waker().clone();
                    thread::spawn(move || {
                        one.store(1, Relaxed);
                        waker.wake();
                    })
                }));
            }
            if data.iter().any(|one| one.load(Relaxed) == 0) {
                return Poll::Pending;
            }
            threads.drain(..).for_each(|thread| thread.join().unwrap());
            Poll::Ready(())
        })
    })
    .run();
}

#[test]
fn of_two_wakes_none_is_lost() {
    explore(4, two_writers);
}

/// A task that counts its polls and keeps its waker where others find it.
fn counting(polls: &Rc<Cell<usize>>, waker: &Rc<Cell<Option<Waker>>>) -> impl Future<Output = ()> + 'static {
    let (polls, waker) = (polls.clone(), waker.clone());
    poll_fn(move |cx| {
        polls.set(polls.get() + 1);
        waker.set(Some(cx.waker().clone()));
        Poll::Pending
    })
}

/// Two threads wake a task while its shard does not look, then the shard itself does: one entry, one ring, one poll.
pub(super) fn queued() {
    let mesh = Mesh::new(1, 64);
    let (polls, kept) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    let mut whole = Whole::new(&mesh, |_| counting(&polls, &kept));
    whole.settle();
    assert_eq!(polls.get(), 1);
    let waker = kept.take().unwrap();
    let other = waker.clone();
    let threads = [thread::spawn(move || waker.wake()), thread::spawn(move || other.wake())];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(whole.rings(), 1, "a task was queued twice by other threads");
    // The first task of the turn wakes the other one, which another thread woke too.
    let (alarms, alarm) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    whole.shard.spawn_detached("alarm", counting(&alarms, &alarm));
    whole.settle();
    assert_eq!((polls.get(), alarms.get()), (2, 1), "a task was polled twice for one wake");
    let (waker, alarm) = (kept.take().unwrap(), alarm.take().unwrap());
    alarm.wake_by_ref();
    let other = waker.clone();
    thread::spawn(move || other.wake()).join().unwrap();
    waker.wake_by_ref();
    whole.settle();
    assert_eq!((polls.get(), alarms.get()), (3, 2), "a task was polled twice for one wake");
}

#[test]
fn a_task_is_queued_once_until_it_is_polled() {
    explore(8, queued);
}

/// The same where the shard's own wake comes after the entry of another thread arrived.
pub(super) fn queued_on_arrival() {
    let mesh = Mesh::new(1, 64);
    let (polls, kept) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None::<Waker>)));
    let waker = Rc::new(Cell::new(None));
    let mut whole = Whole::new(&mesh, |shard| {
        shard.spawn_detached("sleeper", counting(&polls, &kept));
        let (kept, waker) = (kept.clone(), waker.clone());
        let mut polls = 0;
        poll_fn(move |cx| {
            polls += 1;
            waker.set(Some(cx.waker().clone()));
            if polls == 2 {
                kept.take().unwrap().wake();
            }
            Poll::Pending
        })
    });
    whole.settle();
    let sleeper = kept.take().unwrap();
    kept.set(Some(sleeper.clone()));
    let main = waker.take().unwrap();
    thread::spawn(move || {
        main.wake();
        sleeper.wake();
    })
    .join()
    .unwrap();
    whole.settle();
    assert_eq!(polls.get(), 2, "a task was polled twice for one wake");
}

#[test]
fn a_task_that_arrived_is_queued() {
    explore(8, queued_on_arrival);
}

/// Another thread wakes a task while it ends, and after; a new task takes its place.
pub(super) fn ended() {
    let mesh = Mesh::new(1, 64);
    let (polls, kept) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    let mut whole = Whole::new(&mesh, |_| pending());
    let task = whole.shard.spawn("old", counting(&polls, &kept));
    whole.settle();
    let waker = kept.take().unwrap();
    let other = waker.clone();
    let thread = thread::spawn(move || other.wake());
    task.cancel();
    let news = Rc::new(Cell::new(0));
    whole.shard.spawn_detached("new", counting(&news, &kept));
    whole.settle();
    thread.join().unwrap();
    let rings = whole.rings();
    thread::spawn(move || waker.wake()).join().unwrap();
    assert_eq!(whole.rings(), rings, "a wake of an ended task rang the shard");
    whole.settle();
    assert_eq!(polls.get(), 1, "an ended task was polled");
    assert_eq!(news.get(), 1, "a wake of an ended task reached the one in its place");
}

#[test]
fn wakes_of_an_ended_task_are_silent() {
    explore(8, ended);
}

/// A shard with nothing to do is asked to stop by another thread, `first` in time by a third one.
fn stop(first: bool) {
    let mesh = Mesh::new(1, 64);
    let whole = Whole::new(&mesh, |_| pending());
    let mut wishes = vec![StopWish::AtOnce];
    wishes.extend(first.then_some(StopWish::Drain(Duration::from_secs(1))));
    let threads: Vec<_> = wishes
        .into_iter()
        .map(|wish| {
            let foreign = whole.foreign.clone();
            thread::spawn(move || foreign.ask_to_stop(wish))
        })
        .collect();
    // The clock stands still: only a wish to stop at once ends it.
    whole.run();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

pub(super) fn one_wish() {
    stop(false);
}

pub(super) fn two_wishes() {
    stop(true);
}

#[test]
fn a_wish_to_stop_is_heard() {
    explore(8, one_wish);
}

#[test]
fn a_wish_to_stop_at_once_is_not_softened_by_another() {
    explore(4, two_wishes);
}

/// Another thread leaves two jobs for a shard that ends when it ran one, or by itself at any time.
fn jobs(by_itself: bool) {
    let mesh = Mesh::new(1, 64);
    let ran = Arc::new(Count::new(0));
    let mut whole = Whole::new(&mesh, |_| async move {
        if !by_itself {
            pending::<()>().await;
        }
    });
    whole.shard.spawn_detached("jobs", run_jobs(whole.member.clone(), whole.shard.clone()));
    let (remote, theirs) = (Remote::new(&mesh), ran.clone());
    let thread = thread::spawn(move || {
        let mut refused = 0;
        for _ in 0..2 {
            let ran = theirs.clone();
            let job = move |shard: &Shard| {
                ran.fetch_add(1, SeqCst);
                shard.stop(Duration::ZERO);
            };
            match remote.try_run(ShardId::new(0), job) {
                Ok(()) => {}
                Err(TryRunError::Closed(_)) => refused += 1,
                Err(TryRunError::Full(_)) => unreachable!("there is room for both"),
            }
        }
        refused
    });
    while whole.turn() {
        whole.token.sleep();
    }
    let refused = thread.join().unwrap();
    let lost = mesh.jobs(0).lost() as usize;
    assert_eq!(ran.load(SeqCst) + lost + refused, 2, "a job vanished");
}

pub(super) fn job_ends_it() {
    jobs(false);
}

pub(super) fn jobs_at_the_end() {
    jobs(true);
}

#[test]
fn jobs_wake_a_shard_that_sleeps() {
    explore(6, job_ends_it);
}

#[test]
fn jobs_for_a_shard_that_ends_are_accounted_for() {
    explore(6, jobs_at_the_end);
}
