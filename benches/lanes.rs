//! Messages from one busy core to one other: a lane, and the channels that a program would use instead. All of them
//! bounded alike; a message is four words.

mod common;

use std::hint::spin_loop;
use std::time::Duration;

use common::{measure, on_two_threads, spinning};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use waterwheel::mesh::PortOptions;
use waterwheel::shard::ShardId;

type Message = [u64; 4];

const CAPACITY: usize = 1024;
/// Per iteration, so that starting the threads is lost in it.
const BATCH: u64 = 10_000;

fn lanes(c: &mut Criterion) {
    let mut group = c.benchmark_group("lanes");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("waterwheel", |b| b.iter_custom(|n| lane(n * BATCH)));
    group.bench_function("flume, blocking", |b| b.iter_custom(|n| flume_blocking(n * BATCH)));
    group.bench_function("flume, spinning", |b| b.iter_custom(|n| flume_spinning(n * BATCH)));
    group.bench_function("crossbeam, blocking", |b| b.iter_custom(|n| crossbeam_blocking(n * BATCH)));
    group.bench_function("crossbeam, spinning", |b| b.iter_custom(|n| crossbeam_spinning(n * BATCH)));
    group.finish();
}

/// Shard 0 receives what shard 1 sends.
fn lane(count: u64) -> Duration {
    let runtime = spinning(2);
    let port = runtime.port_with::<Message>("bench", PortOptions { capacity: CAPACITY }).expect("a new name");
    measure(runtime, move |shard| {
        let port = port.clone();
        async move {
            let mailbox = shard.open(&port)?;
            if shard.id() == ShardId::new(1) {
                for number in 0..=count {
                    mailbox.send(ShardId::new(0), [number; 4]).await?;
                }
                return Ok(Duration::ZERO);
            }
            mailbox.receive().await;
            let begin = shard.now();
            for number in 1..=count {
                let (_, message) = mailbox.receive().await;
                assert_eq!(message[3], number);
            }
            Ok(shard.now() - begin)
        }
    })
}

fn flume_blocking(count: u64) -> Duration {
    let (sender, receiver) = flume::bounded::<Message>(CAPACITY);
    on_two_threads(
        move || (0..count).for_each(|number| sender.send([number; 4]).expect("received")),
        move || (0..count).for_each(|number| assert_eq!(receiver.recv().expect("sent")[3], number)),
    )
}

fn flume_spinning(count: u64) -> Duration {
    let (sender, receiver) = flume::bounded::<Message>(CAPACITY);
    on_two_threads(
        move || (0..count).for_each(|number| spin(|| sender.try_send([number; 4]).ok())),
        move || (0..count).for_each(|number| assert_eq!(spin(|| receiver.try_recv().ok())[3], number)),
    )
}

fn crossbeam_blocking(count: u64) -> Duration {
    let (sender, receiver) = crossbeam_channel::bounded::<Message>(CAPACITY);
    on_two_threads(
        move || (0..count).for_each(|number| sender.send([number; 4]).expect("received")),
        move || (0..count).for_each(|number| assert_eq!(receiver.recv().expect("sent")[3], number)),
    )
}

fn crossbeam_spinning(count: u64) -> Duration {
    let (sender, receiver) = crossbeam_channel::bounded::<Message>(CAPACITY);
    on_two_threads(
        move || (0..count).for_each(|number| spin(|| sender.try_send([number; 4]).ok())),
        move || (0..count).for_each(|number| assert_eq!(spin(|| receiver.try_recv().ok())[3], number)),
    )
}

fn spin<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        spin_loop();
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = lanes }
criterion_main!(benches);
