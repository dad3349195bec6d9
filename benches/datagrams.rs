//! What a datagram costs on the loopback, sent and received by one shard: one in each call, several in one call, and cut and
//! merged by the kernel.
//!
//! `cargo bench --bench datagrams`, for one reactor `WATERWHEEL_REACTOR=epoll cargo bench --bench datagrams`. Prints the CPU
//! time of the process per datagram of 1 200 bytes, sending and receiving together, the median of five runs.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::ensure;
use rustix::time::{ClockId, clock_gettime};
use waterwheel::net::datagram::DatagramSocket;
use waterwheel::reactor::{Address, DatagramOptions, Outgoing};
use waterwheel::runtime::{Config, Runtime, reactors};
use waterwheel::shard::Shard;

const BYTES: usize = 1_200;
/// Datagrams between two looks at the receiver: what its buffer holds.
const ROUND: usize = 48;
const ROUNDS: usize = 2_000;
const RUNS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    OneByOne,
    SeveralInACall,
    Segments,
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

async fn round(way: Way, sending: &DatagramSocket, receiving: &mut DatagramSocket) -> anyhow::Result<usize> {
    let bytes = [7; BYTES * ROUND];
    let to: Address = receiving.local().clone();
    match way {
        Way::OneByOne => {
            for piece in bytes.chunks(BYTES) {
                sending.send_to(piece, &to).await?;
            }
        }
        Way::SeveralInACall => {
            let all: Vec<_> = bytes.chunks(BYTES).map(|piece| Outgoing::new(piece, &to)).collect();
            let mut rest = &all[..];
            while !rest.is_empty() {
                rest = &rest[sending.send_some(rest).await?..];
            }
        }
        Way::Segments => sending.send_segments(&bytes, BYTES, Some(&to)).await?,
    }
    let mut received = 0;
    while received < ROUND {
        received += receiving.receive_batch().await?.filter(|one| one.bytes.len() == BYTES).count();
    }
    Ok(received)
}

async fn measure(shard: &Shard, way: Way) -> anyhow::Result<Duration> {
    let at = Address::Inet("127.0.0.1:0".parse()?);
    let options = DatagramOptions { receive_buffer: Some(1 << 20), ..DatagramOptions::default() };
    let sending = shard.bind_datagrams(&at, &options)?;
    // One buffer: a call for each. Small ones: nothing is merged.
    let mut receiving = match way {
        Way::OneByOne => shard.bind_datagrams(&at, &options)?.with_room(1, 2_048),
        Way::SeveralInACall => shard.bind_datagrams(&at, &options)?.with_room(32, 2_048),
        Way::Segments => shard.bind_datagrams(&at, &options)?,
    };
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let (began, mut count) = (cpu_time(), 0);
        for _ in 0..ROUNDS {
            count += round(way, &sending, &mut receiving).await?;
        }
        ensure!(count == ROUND * ROUNDS);
        runs.push((cpu_time() - began) / count as u32);
    }
    runs.sort_unstable();
    Ok(runs[RUNS / 2])
}

fn main() -> anyhow::Result<()> {
    let chosen = std::env::var("WATERWHEEL_REACTOR").unwrap_or_default();
    println!("CPU time per datagram of {BYTES} bytes, sent and received");
    for backend in reactors() {
        if !(chosen.is_empty() || chosen == backend.name()) || backend.probe().is_err() {
            continue;
        }
        let config = Config::default().reactor(backend.name()).cores(1);
        let lines = Runtime::new(config)?.run(|shard| async move {
            let mut lines = String::new();
            for way in [Way::OneByOne, Way::SeveralInACall, Way::Segments] {
                lines += &format!("  {way:?} {:?}", measure(&shard, way).await?);
            }
            Ok(lines)
        })?;
        println!("{:>8}:{}", backend.name(), lines.concat());
    }
    Ok(())
}
