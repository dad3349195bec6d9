//! What groups of tasks get of a real shard's time, by the work that they get done.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use waterwheel::runtime::Runtime;
use waterwheel::shard::{Budgets, Group, Shard, Shares};

use super::kit::{config, on_each_reactor};

on_each_reactor![
    three_to_one_holds_on_a_busy_shard,
    the_latency_class_waits_for_less_than_a_turn,
    a_group_alone_gets_all_of_a_shard,
];

/// Works without end, in pieces that take microseconds; answers how many it has done.
fn works(shard: &Shard, group: &Group) -> Rc<Cell<u64>> {
    let done = Rc::new(Cell::new(0));
    let (clock, count) = (shard.clone(), done.clone());
    group.spawn_detached("works", async move {
        loop {
            let sum = (0..2_000u64).fold(0, |sum, number| sum ^ black_box(number));
            black_box(sum);
            count.set(count.get() + 1);
            clock.yield_if_needed().await;
        }
    });
    done
}

fn on_one_shard<F>(reactor: &str, main: impl Fn(Shard) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    Runtime::new(config(reactor, 1)).unwrap().without_signals().run(main).unwrap();
}

/// What was found while the shard, which is busy, had its core nearly to itself: what others take of it is charged to
/// whoever ran just then. If that never happens here, says so and answers nothing.
async fn undisturbed<T>(shard: &Shard, measure: impl AsyncFn() -> T) -> Option<T> {
    let cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    for _ in 0..10 {
        let (cpu_before, before) = (cpu(), shard.now());
        let found = measure().await;
        let had = (cpu() - cpu_before).as_secs_f64() / shard.now().since(before).as_secs_f64();
        if had > 0.98 {
            return Some(found);
        }
    }
    println!("NOT TESTED: what shares there are on a core that others leave alone, since they did not");
    None
}

/// What came of a counter in a quarter of a second.
async fn in_a_while<const N: usize>(shard: &Shard, read: impl Fn() -> [f64; N]) -> [f64; N] {
    let before = read();
    shard.sleep(Duration::from_millis(250)).await;
    let after = read();
    std::array::from_fn(|at| after[at] - before[at])
}

fn three_to_one_holds_on_a_busy_shard(reactor: &str) {
    on_one_shard(reactor, |shard| async move {
        let more = works(&shard, &shard.group("more", Shares(300))?);
        // A group of many tasks gets no more for that.
        let less = shard.group("less", Shares(100))?;
        let less: Vec<_> = (0..4).map(|_| works(&shard, &less)).collect();
        let read = || [more.get() as f64, less.iter().map(|done| done.get()).sum::<u64>() as f64];
        if let Some([more, less]) = undisturbed(&shard, async || in_a_while(&shard, read).await).await {
            let part = more / (more + less);
            anyhow::ensure!((0.70..0.80).contains(&part), "{part} of the work, not three quarters");
        }
        // Of the clock's time also where others take the core away.
        shard.sleep(Duration::from_millis(500)).await;
        let runs: Vec<f64> = shard.group_stats()[1..].iter().map(|group| group.run.as_secs_f64()).collect();
        let part = runs[0] / (runs[0] + runs[1]);
        anyhow::ensure!((0.70..0.80).contains(&part), "{part} of the time, not three quarters");
        Ok(())
    });
}

fn the_latency_class_waits_for_less_than_a_turn(reactor: &str) {
    on_one_shard(reactor, |shard| async move {
        let urgent = shard.group("urgent", Shares(100))?.with_latency_class().with_queue_times();
        let crowd = shard.group("crowd", Shares(1_000))?;
        let _crowd: Vec<_> = (0..100).map(|_| works(&shard, &crowd)).collect();
        let measure = async || {
            let clock = shard.clone();
            let late = urgent.spawn("urgent", async move {
                let mut late = Vec::new();
                for _ in 0..50 {
                    let due = clock.now() + Duration::from_micros(1_700);
                    clock.sleep_until(due).await;
                    late.push(clock.now().since(due));
                }
                late.sort_unstable();
                late
            });
            late.await
        };
        if let Some(late) = undisturbed(&shard, measure).await {
            let late = late?;
            let turn = Budgets::default().turn;
            // Its timer fires in the turn that follows the one in which it became due.
            anyhow::ensure!(
                late[late.len() / 2] < turn,
                "half of the sleeps: {:?} late",
                late[late.len() / 2]
            );
            let groups = shard.group_stats();
            let waits = groups[1].queue_times.as_ref().expect("asked for");
            anyhow::ensure!(waits.count() >= 50 && waits.quantile(0.5) < turn / 4, "{waits:?}");
        }
        Ok(())
    });
}

fn a_group_alone_gets_all_of_a_shard(reactor: &str) {
    on_one_shard(reactor, |shard| async move {
        // The other one is there, has had its time, and sleeps.
        let idle = shard.group("idle", Shares(10_000))?;
        idle.spawn("brief", async {}).await?;
        let small = shard.group("small", Shares(1))?;
        let _done = works(&shard, &small);
        let read = || [shard.group_stats()[2].run.as_secs_f64(), shard.now().as_nanos() as f64 / 1e9];
        if let Some([run, time]) = undisturbed(&shard, async || in_a_while(&shard, read).await).await {
            anyhow::ensure!(run / time > 0.9, "{run} s of {time} s");
        }
        Ok(())
    });
}
