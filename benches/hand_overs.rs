//! What it costs that a connection is served by another shard than the one that accepted it.
//!
//! `cargo bench --bench hand_overs`, for one reactor `WATERWHEEL_REACTOR=epoll cargo bench --bench hand_overs`. Prints the CPU time
//! of the process, client and kernel included, per connection of one byte there and back: the median of rounds that take turns.
//! Says whether a hand-over costs more than it may: to a shard that sleeps, as each does where connections come one after the
//! other, and to one that is at work, where many come at once.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use rustix::net::sockopt::set_socket_linger;
use rustix::time::{ClockId, clock_gettime};
use waterwheel::net::{AcceptStats, Connection};
use waterwheel::runtime::{Config, Runtime, reactors};
use waterwheel::shard::ShardId;
use waterwheel::steer::Mode;

#[path = "common/server.rs"]
mod server;

use server::{Server, median, serve};

const SHARDS: usize = 2;
const CONNECTIONS: usize = 512;
/// So many connections are there at a time.
const AT_ONCE: [usize; 2] = [1, 16];
const ROUNDS: usize = 16;
/// What a hand-over may cost more than none: what the project asks for.
const MOST: f64 = 40.0;

/// What decides who serves, and whether that is who accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The kernel, by the hash.
    Placed,
    /// The shard that accepts, by the hash.
    Handed,
    /// The program, by the first byte, which says: here.
    Stays,
    /// The same, which says where.
    Given,
}

const WAYS: [Way; 4] = [Way::Placed, Way::Handed, Way::Stays, Way::Given];

/// Goes where the first byte says, and sends it back.
async fn answer(mut connection: Connection) -> anyhow::Result<()> {
    let first = connection.fill().await?.first().copied();
    let to = match first {
        Some(digit @ b'0'..=b'9') => ShardId::new(usize::from(digit - b'0')),
        _ => connection.shard().id(),
    };
    let Some(mut connection) = connection.hand_to(to).await? else { return Ok(()) };
    let mut byte = [0];
    connection.read_exact(&mut byte).await?;
    connection.write_all(&byte).await?;
    // The client ends it, by a reset.
    let _ = connection.read(&mut byte).await;
    Ok(())
}

fn start(config: Config) -> anyhow::Result<Server<AcceptStats>> {
    let bind = |runtime: &Runtime| {
        let listening = runtime.listen("tcp:127.0.0.1:0")?;
        let at = listening.local().clone();
        Ok((listening, at))
    };
    serve(config.cores(SHARDS), bind, |shard, listening| async move {
        let acceptor = shard.accept_on(&listening)?;
        let counters = acceptor.counters();
        acceptor.serve(usize::MAX, answer).await;
        Ok(counters.copy())
    })
}

/// One byte there and back on so many connections. They end by a reset, so that no port waits until it may be used again.
fn clients(at: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
    let mut streams = Vec::with_capacity(bytes.len());
    for byte in bytes {
        let mut stream = TcpStream::connect(at)?;
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.write_all(&[*byte])?;
        streams.push(stream);
    }
    for (mut stream, byte) in streams.into_iter().zip(bytes) {
        let mut back = [0];
        stream.read_exact(&mut back)?;
        ensure!(back == [*byte], "{byte} came back as {back:?}");
    }
    Ok(())
}

fn round(at: SocketAddr, way: Way, at_once: usize) -> anyhow::Result<f64> {
    let byte = |number| if way == Way::Given { b'0' + (number % SHARDS) as u8 } else { b'-' };
    let bytes: Vec<u8> = (0..CONNECTIONS).map(byte).collect();
    let cpu = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime));
    let before = cpu()?;
    for bytes in bytes.chunks(at_once) {
        clients(at, bytes)?;
    }
    Ok((cpu()? - before).as_secs_f64() * 1e6 / CONNECTIONS as f64)
}

fn measure(reactor: &str, at_once: usize) -> anyhow::Result<()> {
    let config = || Config::default().reactor(reactor);
    let placed = start(config())?;
    let handed = start(config().steer_program(false))?;
    let given = start(config().steer(Mode::Kernel))?;
    let at = [placed.at, handed.at, given.at, given.at];
    let mut costs = [(); 4].map(|()| Vec::new());
    // The first is to warm up.
    for number in 0..=ROUNDS {
        for ((way, at), costs) in WAYS.into_iter().zip(at).zip(&mut costs) {
            let cost = round(at, way, at_once)?;
            costs.extend((number > 0).then_some(cost));
        }
    }
    // Of rounds that followed each other, since the machine's speed changes.
    let more =
        |than: usize, way: usize| median(costs[way].iter().zip(&costs[than]).map(|(a, b)| a - b).collect());
    let (by_hash_more, by_byte_more) = (more(0, 1), more(2, 3));
    let [none, some, stays, goes] = costs.map(median);
    ensure!(placed.stop()?.handed_over == 0, "the kernel did not place all");
    let part = |counted: AcceptStats| counted.handed_over as f64 / counted.accepted as f64;
    let by_hash_part = part(handed.stop()?);
    // Half of its rounds say where.
    let by_byte_part = 2.0 * part(given.stop()?);
    let (automatic, explicit) = (by_hash_more / by_hash_part, by_byte_more / by_byte_part);
    println!(
        "{reactor:>8}, {at_once:>2} at once: placed {none:.1} µs, {:.0} % handed over {some:.1} µs: {automatic:.1} µs each{}",
        by_hash_part * 100.0,
        verdict(automatic)
    );
    println!(
        "{:>8}              kept {stays:.1} µs, {:.0} % handed over after a byte {goes:.1} µs: {explicit:.1} µs each{}",
        "",
        by_byte_part * 100.0,
        verdict(explicit)
    );
    Ok(())
}

/// Whether it costs no more than it may.
fn verdict(cost: f64) -> &'static str {
    if cost < MOST { "" } else { ": **too much**" }
}

fn main() -> anyhow::Result<()> {
    let chosen = std::env::var("WATERWHEEL_REACTOR").unwrap_or_default();
    println!(
        "CPU time per connection, client and kernel included; medians of {ROUNDS} rounds of {CONNECTIONS}; a hand-over is to \
         cost less than {MOST} µs"
    );
    for at_once in AT_ONCE {
        for backend in reactors() {
            if (chosen.is_empty() || chosen == backend.name()) && backend.probe().is_ok() {
                measure(backend.name(), at_once)?;
            }
        }
    }
    Ok(())
}
