//! Groups of tasks: who gets how much of a core, and who comes first.
//!
//! `cargo run --example shares`
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use waterwheel::reactor::Time;
use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::{Group, Shard, Shares};

/// Sums numbers until it is told to end, and gives way whenever its group has had its part of the time.
fn count(shard: &Shard, group: &Group, until: Time) -> Rc<Cell<u64>> {
    let numbers = Rc::new(Cell::new(0));
    let (clock, mine) = (shard.clone(), numbers.clone());
    group.spawn_detached("count", async move {
        while clock.turn_time() < until {
            mine.set(mine.get() + (0..1_000u64).map(std::hint::black_box).map(|_| 1).sum::<u64>());
            clock.yield_if_needed().await;
        }
    });
    numbers
}

/// Sleeps for a while, again and again; answers by how much it was late: at the median, and at worst.
async fn ticks(shard: Shard, until: Time) -> (Duration, Duration) {
    let mut late = vec![Duration::ZERO];
    while shard.now() < until {
        let due = shard.now() + Duration::from_micros(1_700);
        shard.sleep_until(due).await;
        late.push(shard.now().since(due));
    }
    late.sort_unstable();
    (late[late.len() / 2], late[late.len() - 1])
}

async fn program(shard: Shard) -> anyhow::Result<()> {
    let second = Duration::from_secs(1);

    // Two groups that always have something to do: three parts for one, one for the other, however many tasks.
    let serving = shard.group("serving", Shares(300))?;
    let background = shard.group("background", Shares(100))?;
    let until = shard.now() + second;
    let more = count(&shard, &serving, until);
    let less: Vec<_> = (0..10).map(|_| count(&shard, &background, until)).collect();
    shard.sleep_until(until).await;
    let less: u64 = less.iter().map(|numbers| numbers.get()).sum();
    println!("serving counted {:.2} times as far as background", more.get() as f64 / less as f64);

    // What one leaves over is the other's: shares cost nothing where nobody competes.
    let until = shard.now() + second;
    let alone = count(&shard, &background, until);
    shard.sleep_until(until).await;
    println!("background alone counted {:.2} times as far as before", alone.get() as f64 / less as f64);

    // The latency class: a crowd that works in pieces makes others wait, but not those that come first.
    let urgent = shard.group("urgent", Shares(100))?.with_latency_class().with_queue_times();
    let until = shard.now() + second;
    let _crowd: Vec<_> = (0..500).map(|_| count(&shard, &serving, until)).collect();
    let first = urgent.spawn("ticks", ticks(shard.clone(), until));
    let last = serving.spawn("ticks", ticks(shard.clone(), until));
    let (median, worst) = first.await?;
    println!("in the latency class a timer is {median:.0?} late, at worst {worst:.0?}");
    let (median, worst) = last.await?;
    println!("in the crowd it is {median:.0?} late, at worst {worst:.0?}");

    for group in shard.group_stats() {
        let (name, shares, polls, run) = (group.name, group.shares, group.polls, group.run);
        print!("{name:>10}: {shares} shares, {polls} polls in {run:.0?}");
        match group.queue_times {
            Some(waits) => println!("; from wake to poll {:.1?} at the median", waits.quantile(0.5)),
            None => println!(),
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let config = Config::from_env()?.cores(1);
    Runtime::new(config)?.run(program)?;
    Ok(())
}
