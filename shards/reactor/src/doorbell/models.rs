//! Models of the doorbell: loom runs it through every order of its atomic operations that the C11 memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p waterwheel-reactor --lib --target-dir target/loom models`
//!
//! Each wrong version of the doorbell, or of the loop around it, makes a model fail; the last test runs this very
//! table. A deadlock is loom's word for threads that all wait: here, a wake-up that was lost. The failing half of the
//! exchange before a sleep is `Relaxed`: the root is polled again, and `awake` acquires before that. Nothing else of
//! the doorbell could be weaker.
//!
//! | wrong version ([`Break`]) | model | result |
//! |---|---|---|
//! | `BornAwake` | `first_poll` | a root that was never polled was slept on |
//! | `AwakeRelaxed` | `one_ring` | deadlock |
//! | `AwakeByStore` | `one_ring` | deadlock |
//! | `AwakeOnlyIfNotified` | `io_and_ring` | the loop turns for ever |
//! | `SleepRelaxed` | `one_ring` | interrupts a sleep that it does not see |
//! | `SleepByStore` | `one_ring` | deadlock |
//! | `SleepByLoad` | `one_ring` | deadlock |
//! | `RingAcquireOnly` | `one_ring` | deadlock |
//! | `RingReleaseOnly` | `one_ring` | interrupts a sleep that it does not see |
//! | `RingSkippedIfSeen` | `one_ring` | deadlock |
//! | `RingOnlyTheSleeping` | `one_ring` | deadlock |
//! | `RingInterruptsAlways` | `one_ring` | interrupts a sleep that it does not see |
//! | `RingInterruptsTheAwake` | `one_ring` | interrupts a sleep that it does not see |
//! | `RingNeverInterrupts` | `one_ring` | deadlock |
//! | `LoopWakesLate` | `one_ring` | deadlock |
//! | `LoopNeverAsks` | `one_ring` | deadlock |

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::broken::set;
use super::*;

/// What a backend sleeps on: kept until it is taken, as an eventfd keeps its count.
struct Interrupt {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Interrupt {
    fn notify(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// More turns than any model takes that does not turn for ever.
const TURNS_MAX: usize = 20;

/// A reactor's loop and `ringers` other threads, each of which has something for the root. `io`: the sleep may also be
/// ended by something else, once.
fn every_ring_is_seen(ringers: usize, io: bool) {
    let door = Arc::new(Doorbell::default());
    let interrupt = Arc::new(Interrupt { rung: Mutex::new(false), changed: Condvar::new() });
    let (interrupts, sleeps) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let news: Vec<_> = (0..ringers).map(|_| Arc::new(AtomicBool::new(false))).collect();
    let mut threads: Vec<_> = news
        .iter()
        .cloned()
        .map(|mine| {
            let (door, interrupt) = (door.clone(), interrupt.clone());
            let (interrupts, sleeps) = (interrupts.clone(), sleeps.clone());
            thread::spawn(move || {
                mine.store(true, Relaxed);
                if door.ring() {
                    interrupts.fetch_add(1, Relaxed);
                    // Counted before each sleep: it stands for what the loop left for whoever interrupts it.
                    assert!(sleeps.load(Relaxed) > 0, "a ring interrupts a sleep that it does not see");
                    interrupt.notify();
                }
            })
        })
        .collect();
    if io {
        let interrupt = interrupt.clone();
        threads.push(thread::spawn(move || interrupt.notify()));
    }
    let mut slept = 0;
    for turn in 0.. {
        assert!(turn < TURNS_MAX, "the loop turns for ever");
        if !broken(Break::LoopWakesLate) {
            door.awake();
        }
        // The poll of the root.
        let done = news.iter().all(|one| one.load(Relaxed));
        if broken(Break::LoopWakesLate) {
            door.awake();
        }
        if done {
            break;
        }
        sleeps.store(slept + 1, Relaxed);
        if door.may_sleep() || broken(Break::LoopNeverAsks) {
            slept += 1;
            interrupt.wait();
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(interrupts.load(Relaxed) <= slept, "a ring interrupted a reactor that was awake");
}

fn first_poll() {
    let door = Doorbell::default();
    assert!(!door.may_sleep(), "a root that was never polled was slept on");
}

fn one_ring() {
    every_ring_is_seen(1, false);
}

fn two_rings() {
    every_ring_is_seen(2, false);
}

fn io_and_ring() {
    every_ring_is_seen(1, true);
}

/// Three preemptions: each wrong version is found within two.
fn explore(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_root_is_polled_before_the_first_sleep() {
    explore(first_poll);
}

#[test]
fn one_ring_is_never_lost() {
    explore(one_ring);
}

#[test]
fn of_two_rings_none_is_lost() {
    explore(two_rings);
}

#[test]
fn a_sleep_that_something_else_ended_is_not_interrupted() {
    explore(io_and_ring);
}

const MODELS: &[(&str, fn())] = &[
    ("first_poll", first_poll),
    ("one_ring", one_ring),
    ("two_rings", two_rings),
    ("io_and_ring", io_and_ring),
];

/// What a model says when the doorbell is broken so; `None`: it does not find it out.
fn finds(what: Break, model: fn()) -> Option<String> {
    set(Some(what));
    let found = std::panic::catch_unwind(|| explore(model)).err();
    set(None);
    found.map(|panic| crate::panic_message(&*panic))
}

#[test]
fn every_wrong_version_is_found_out() {
    let lines = include_str!("models.rs").lines();
    let rows: Vec<Vec<_>> = lines
        .filter_map(|line| line.strip_prefix("//! | `")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").map(|cell| cell.trim_matches('`')).collect())
        .collect();
    let known: Vec<_> = Break::ALL.iter().map(|what| format!("{what:?}")).collect();
    assert_eq!(
        rows.iter().map(|row| row[0]).collect::<Vec<_>>(),
        known,
        "the table lists each wrong version"
    );
    let mut wrong = Vec::new();
    for (row, what) in rows.iter().zip(Break::ALL) {
        let (_, model) = MODELS.iter().find(|(name, _)| *name == row[1]).expect("a model of this name");
        match finds(*what, *model) {
            Some(found) if found.contains(row[2]) => {}
            found => wrong.push(format!("{what:?}: {} says {found:?}", row[1])),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
