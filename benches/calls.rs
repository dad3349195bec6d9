//! A call's round trip between two shards that spin, beside the floor: two threads that bounce one atomic.

mod common;

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use common::{measure, on_two_threads, spinning};
use criterion::{Criterion, criterion_group, criterion_main};
use waterwheel::mesh::{Mailbox, OpenError, Port};
use waterwheel::shard::ShardId;

fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("round trip");
    group.bench_function("one atomic, two threads", |b| b.iter_custom(bounce));
    group.bench_function("call", |b| b.iter_custom(|n| call(n, 0)));
    group.bench_function("call, 1000 other ports", |b| b.iter_custom(|n| call(n, 1_000)));
    group.bench_function("send and answer", |b| b.iter_custom(answer));
    group.bench_function("run_on", |b| b.iter_custom(run_on));
    group.finish();
}

/// Each thread adds one when the number has its parity.
fn bounce(count: u64) -> Duration {
    let ball = AtomicU64::new(0);
    let play = |parity: u64| {
        for turn in 0..count {
            while ball.load(Acquire) != 2 * turn + parity {
                spin_loop();
            }
            ball.store(2 * turn + parity + 1, Release);
        }
    };
    on_two_threads(|| play(1), || play(0))
}

/// `others`: ports that are open on both shards, and at which nothing happens.
fn call(count: u64, others: usize) -> Duration {
    let runtime = spinning(2);
    let port = runtime.call_port::<u64, u64>("bench").expect("a new name");
    let other = |number: usize| runtime.port::<u64>(format!("other {number}").leak()).expect("a new name");
    let others: Vec<Port<u64>> = (0..others).map(other).collect();
    let stopper = runtime.stopper();
    measure(runtime, move |shard| {
        let (port, others, stopper) = (port.clone(), others.clone(), stopper.clone());
        async move {
            let opened = others.iter().map(|other| shard.open(other));
            let _opened = opened.collect::<Result<Vec<Mailbox<u64>>, OpenError>>()?;
            let _server = shard.serve(&port, |_, request| std::future::ready(request + 1))?;
            if shard.id() == ShardId::new(1) {
                shard.stopping().await;
                return Ok(Duration::ZERO);
            }
            let caller = shard.caller(&port)?;
            caller.call(ShardId::new(1), 0).await?;
            let begin = shard.now();
            for number in 0..count {
                assert_eq!(caller.call(ShardId::new(1), number).await?, number + 1);
            }
            let took = shard.now() - begin;
            stopper.stop(Duration::from_secs(1));
            Ok(took)
        }
    })
}

/// The same by hand: a message there and a message back.
fn answer(count: u64) -> Duration {
    let runtime = spinning(2);
    let port = runtime.port::<u64>("bench").expect("a new name");
    measure(runtime, move |shard| {
        let port = port.clone();
        async move {
            let mailbox = shard.open(&port)?;
            if shard.id() == ShardId::new(1) {
                for _ in 0..=count {
                    let (from, number) = mailbox.receive().await;
                    mailbox.send(from, number + 1).await?;
                }
                return Ok(Duration::ZERO);
            }
            mailbox.send(ShardId::new(1), 0).await?;
            mailbox.receive().await;
            let begin = shard.now();
            for number in 0..count {
                mailbox.send(ShardId::new(1), number).await?;
                assert_eq!(mailbox.receive().await.1, number + 1);
            }
            Ok(shard.now() - begin)
        }
    })
}

fn run_on(count: u64) -> Duration {
    let runtime = spinning(2);
    let stopper = runtime.stopper();
    measure(runtime, move |shard| {
        let stopper = stopper.clone();
        async move {
            if shard.id() == ShardId::new(1) {
                shard.stopping().await;
                return Ok(Duration::ZERO);
            }
            let begin = shard.now();
            for number in 0..count {
                let there = shard.run_on(ShardId::new(1), move |_| std::future::ready(number + 1));
                assert_eq!(there.await?, number + 1);
            }
            let took = shard.now() - begin;
            stopper.stop(Duration::from_secs(1));
            Ok(took)
        }
    })
}

criterion_group! { name = benches; config = common::criterion(); targets = calls }
criterion_main!(benches);
