//! What a timer costs: one that is set and cancelled, as a request's timeout; one that is re-armed, as a connection's
//! idle timeout; and many that fire together.

mod common;

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use common::on_one_shard;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use waterwheel::shard::{Shard, Sleep};

const FAR: Duration = Duration::from_secs(30);
const TOGETHER: u64 = 256;

fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timers");
    group.bench_function("set and cancel", |b| {
        b.iter_custom(|n| on_one_shard(move |shard| set_and_cancel(shard, n)))
    });
    for others in [0, 10_000] {
        group.bench_function(format!("re-arm an idle timeout, {others} others"), |b| {
            b.iter_custom(|n| on_one_shard(move |shard| rearm(shard, others, n)))
        });
    }
    group.throughput(Throughput::Elements(TOGETHER));
    group.bench_function(format!("set and fire, {TOGETHER} together"), |b| {
        b.iter_custom(|n| on_one_shard(move |shard| set_and_fire(shard, n)))
    });
    group.finish();
}

/// Without the clock: what a timer is set to is mostly known from the turn.
async fn set_and_cancel(shard: Shard, times: u64) -> anyhow::Result<Duration> {
    let begin = shard.now();
    let far = begin + FAR;
    poll_fn(|cx| {
        for _ in 0..times {
            let sleep = pin!(shard.sleep_until(far));
            assert!(black_box(sleep.poll(cx)).is_pending());
        }
        Poll::Ready(())
    })
    .await;
    Ok(shard.now() - begin)
}

async fn rearm(shard: Shard, others: usize, times: u64) -> anyhow::Result<Duration> {
    let mut sleeps: Vec<Pin<Box<Sleep>>> = (0..=others).map(|_| Box::pin(shard.sleep(FAR))).collect();
    poll_fn(|cx| {
        sleeps.iter_mut().for_each(|sleep| assert!(sleep.as_mut().poll(cx).is_pending()));
        Poll::Ready(())
    })
    .await;
    let begin = shard.now();
    let mut at = begin + FAR;
    for _ in 0..times {
        at = at + Duration::from_nanos(100);
        black_box(&mut sleeps[0]).reset(at);
    }
    Ok(shard.now() - begin)
}

async fn set_and_fire(shard: Shard, times: u64) -> anyhow::Result<Duration> {
    let begin = shard.now();
    let mut sleeps: Vec<Sleep> = Vec::with_capacity(TOGETHER as usize);
    for _ in 0..times {
        let due = shard.turn_time();
        sleeps.extend((0..TOGETHER).map(|_| shard.sleep_until(due)));
        poll_fn(|cx| {
            sleeps.retain_mut(|sleep| Pin::new(sleep).poll(cx).is_pending());
            if sleeps.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    Ok(shard.now() - begin)
}

criterion_group! { name = benches; config = common::criterion(); targets = timers }
criterion_main!(benches);
