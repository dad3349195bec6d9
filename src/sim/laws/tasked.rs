//! Tasks, in groups, timers and deferred values of one shard under a random program: whoever was not cancelled comes to its end,
//! nobody else is cancelled in its place, nothing fires early, and what is equal fires in order.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use waterwheel::shard::{Shard, Shares, Task, deferred};
use waterwheel::sim::{Check, Random, World};

/// What one task has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    Ended,
    /// Asked to be cancelled, before or after its end.
    Cancelled,
}

#[derive(Default)]
struct Book {
    fates: RefCell<Vec<Fate>>,
    early: Cell<u32>,
    after_cancel: Cell<u32>,
}

async fn works(shard: Shard, book: Rc<Book>, me: usize, seed: u64) {
    let mut rng = Random::new(seed);
    let mut below = |end: u64| rng.below(end);
    for _ in 0..below(4) {
        let wait = Duration::from_nanos(below(200_000));
        let due = shard.now() + wait;
        match below(4) {
            0 => shard.yield_now().await,
            1 => {
                let (resolver, value) = deferred();
                shard.spawn_detached("resolver", {
                    let shard = shard.clone();
                    async move {
                        shard.sleep_until(due).await;
                        resolver.resolve(due);
                    }
                });
                if value.await != Ok(due) || shard.now() < due {
                    book.early.set(book.early.get() + 1);
                }
            }
            _ => {
                shard.sleep(wait).await;
                if shard.now() < due {
                    book.early.set(book.early.get() + 1);
                }
            }
        }
        if book.fates.borrow()[me] == Fate::Cancelled {
            book.after_cancel.set(book.after_cancel.get() + 1);
        }
    }
    let fate = &mut book.fates.borrow_mut()[me];
    if *fate == Fate::Runs {
        *fate = Fate::Ended;
    }
}

async fn tasks(world: World) -> anyhow::Result<()> {
    let (shard, book) = (world.shard().clone(), Rc::<Book>::default());
    let mut held: Vec<(usize, Task<()>)> = Vec::new();
    let groups = [
        shard.group("default", Shares(1 + world.below(200) as u32))?,
        shard.group("measured", Shares(1 + world.below(200) as u32))?.with_queue_times(),
        shard.group("urgent", Shares(1 + world.below(200) as u32))?.with_latency_class(),
    ];
    for _ in 0..30 + world.below(100) {
        if world.chance(0.6) {
            let me = book.fates.borrow().len();
            book.fates.borrow_mut().push(Fate::Runs);
            let group = &groups[world.below(groups.len() as u64) as usize];
            held.push((me, group.spawn("works", works(shard.clone(), book.clone(), me, world.number()))));
        }
        // Many have ended by then, and others have their places.
        if world.chance(0.4) && !held.is_empty() {
            let (me, task) = held.swap_remove(world.below(held.len() as u64) as usize);
            let fate = &mut book.fates.borrow_mut()[me];
            if *fate == Fate::Runs {
                *fate = Fate::Cancelled;
            }
            task.cancel();
        }
        if world.chance(0.3) {
            world.sleep(Duration::from_nanos(world.below(100_000))).await;
        }
    }
    for (me, task) in held {
        ensure!(shard.timeout(Duration::from_secs(5), task).await == Ok(Ok(())), "task {me} never ended");
    }
    let left = book.fates.borrow().iter().position(|fate| *fate == Fate::Runs);
    ensure!(left.is_none(), "task {left:?} was cancelled by nobody, and is gone");
    ensure!(book.early.get() == 0, "{} timers fired early", book.early.get());
    ensure!(book.after_cancel.get() == 0, "{} polls after a cancel", book.after_cancel.get());
    in_order(&world).await
}

/// Equal deadlines fire in the order in which they were set, also among others.
async fn in_order(world: &World) -> anyhow::Result<()> {
    let (shard, fired) = (world.shard().clone(), Rc::<RefCell<Vec<_>>>::default());
    let base = shard.now();
    let mut expected = Vec::new();
    for number in 0..1 + world.below(60) {
        let due = base + Duration::from_micros(100 + world.below(5));
        expected.push((due, number));
        let (sleep, fired) = (shard.sleep_until(due), fired.clone());
        shard.spawn_detached("sleeper", async move {
            sleep.await;
            fired.borrow_mut().push((due, number));
        });
    }
    world.sleep(Duration::from_millis(50)).await;
    expected.sort_unstable();
    ensure!(*fired.borrow() == expected, "fired {:?}, not {expected:?}", fired.borrow());
    Ok(())
}

#[test]
fn every_task_that_nobody_cancels_comes_to_its_end() {
    Check::new().seeds(300).run(tasks);
}
