//! What a task costs: to be woken and polled, alone or beside another group, to be spawned and awaited, to wait for
//! another one's value.

mod common;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use common::on_one_shard;
use criterion::{Criterion, criterion_group, criterion_main};
use waterwheel::shard::{Shard, Shares, deferred};

fn tasks(c: &mut Criterion) {
    let mut group = c.benchmark_group("tasks");
    group.bench_function("wake and poll", |b| b.iter_custom(|n| on_one_shard(move |shard| wakes(shard, n))));
    group.bench_function("wake and poll in a group of its own", |b| {
        b.iter_custom(|n| on_one_shard(move |shard| wakes_in_group(shard, n, false)))
    });
    group.bench_function("wake and poll with queue times", |b| {
        b.iter_custom(|n| on_one_shard(move |shard| wakes_in_group(shard, n, true)))
    });
    group.bench_function("wake and poll beside another group", |b| {
        b.iter_custom(|n| on_one_shard(move |shard| wakes_beside(shard, n)))
    });
    group.bench_function("a turn with one task", |b| {
        b.iter_custom(|n| on_one_shard(move |shard| turns(shard, n)))
    });
    group.bench_function("spawn and await", |b| {
        b.iter_custom(|n| on_one_shard(move |shard| spawns(shard, n)))
    });
    group.bench_function("resolve a deferred", |b| {
        b.iter_custom(|n| on_one_shard(move |shard| resolves(shard, n)))
    });
    group.finish();
}

/// A turn polls many tasks, so that what the turn itself costs is shared, as on a busy shard.
async fn wakes(shard: Shard, times: u64) -> anyhow::Result<Duration> {
    let begin = shard.now();
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    Ok(shard.now() - begin)
}

/// The same where the shard looks whose turn it is, and finds nobody else.
async fn wakes_in_group(shard: Shard, times: u64, queue_times: bool) -> anyhow::Result<Duration> {
    let mut group = shard.group("own", Shares::DEFAULT)?;
    if queue_times {
        group = group.with_queue_times();
    }
    group.spawn("bench", wakes(shard.clone(), times)).await?
}

/// Two groups share the time, so that each of their tasks is polled half as often.
async fn wakes_beside(shard: Shard, times: u64) -> anyhow::Result<Duration> {
    let begin = shard.now();
    let tasks = ["one", "two"].map(|name| {
        let group = shard.group(name, Shares::DEFAULT);
        group.map(|group| group.spawn("bench", wakes(shard.clone(), times / 2)))
    });
    for task in tasks {
        task?.await??;
    }
    Ok(shard.now() - begin)
}

/// A task that gives way waits for the next turn, so this is what a turn costs, a look at the kernel included.
async fn turns(shard: Shard, times: u64) -> anyhow::Result<Duration> {
    let begin = shard.now();
    for _ in 0..times {
        shard.yield_now().await;
    }
    Ok(shard.now() - begin)
}

async fn spawns(shard: Shard, times: u64) -> anyhow::Result<Duration> {
    let begin = shard.now();
    for number in 0..times {
        assert_eq!(shard.spawn("bench", std::future::ready(number)).await?, number);
    }
    Ok(shard.now() - begin)
}

/// A task resolves what another one waits for, and ends.
async fn resolves(shard: Shard, times: u64) -> anyhow::Result<Duration> {
    let begin = shard.now();
    for number in 0..times {
        let (resolver, value) = deferred();
        shard.spawn_detached("bench", async move { resolver.resolve(number) });
        assert_eq!(value.await?, number);
    }
    Ok(shard.now() - begin)
}

criterion_group! { name = benches; config = common::criterion(); targets = tasks }
criterion_main!(benches);
