//! What it costs that a datagram is received by another shard than the one that the kernel gave it to.
//!
//! `cargo bench --bench datagram_hand_overs`, for one reactor `WATERWHEEL_REACTOR=epoll cargo bench --bench datagram_hand_overs`.
//! Prints the CPU time of the process, clients and kernel included, per datagram of 1 200 bytes and its answer of one: the median
//! of rounds that take turns, and of what those with hand-overs took more than the ones before them, per datagram handed over.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::ensure;
use rustix::time::{ClockId, clock_gettime};
use waterwheel::net::datagram::{DatagramProtocol, DatagramSender, DatagramStats, Received};
use waterwheel::runtime::{Config, Runtime, reactors};

#[path = "common/server.rs"]
mod server;

use server::{Server, median, serve};

const SHARDS: usize = 2;
const BYTES: usize = 1_200;
/// Each has a port of its own, and so an owner.
const CLIENTS: usize = 64;
/// Datagrams of each client in a round.
const EACH: usize = 64;
const ROUNDS: usize = 16;
/// Datagrams that a client sends before it looks for an answer: a shard that sleeps is woken for each, or for some.
const BURSTS: [usize; 2] = [1, 16];

/// Answers with the first byte.
struct Answers;

impl DatagramProtocol for Answers {
    fn received(&mut self, sender: &DatagramSender, datagram: &Received<'_>) -> anyhow::Result<()> {
        Ok(sender.try_answer(datagram, &datagram.bytes[..1])?)
    }
}

fn start(config: Config) -> anyhow::Result<Server<DatagramStats>> {
    let bind = |runtime: &Runtime| {
        let group = runtime.datagrams("udp:127.0.0.1:0")?;
        let at = group.local().clone();
        Ok((group, at))
    };
    serve(config.cores(SHARDS), bind, |shard, group| async move {
        let socket = shard.datagrams_on(&group)?;
        let sender = socket.sender();
        socket.serve(Answers).await;
        Ok(sender.stats())
    })
}

/// What part of the datagrams it has handed over.
fn part(server: Server<DatagramStats>) -> anyhow::Result<f64> {
    let all = server.stop()?;
    ensure!(all.lost() == 0 && all.handed_over == all.taken_over, "{all:?}");
    Ok(all.handed_over as f64 / all.received as f64)
}

fn clients(at: SocketAddr) -> anyhow::Result<Vec<UdpSocket>> {
    let client = || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(at)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    };
    (0..CLIENTS).map(|_| client()).collect()
}

/// The bytes of the next answer.
fn answer(client: &UdpSocket) -> std::io::Result<usize> {
    loop {
        match client.recv(&mut [0; 2]) {
            // A ring that was tried on this thread, and is gone, may still have something to do here.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// Microseconds of CPU time per datagram.
fn round(clients: &[UdpSocket], burst: usize) -> anyhow::Result<f64> {
    let cpu = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime));
    let before = cpu()?;
    for client in clients {
        for _ in 0..EACH / burst {
            for _ in 0..burst {
                client.send(&[7; BYTES])?;
            }
            for _ in 0..burst {
                ensure!(answer(client)? == 1, "another answer");
            }
        }
    }
    Ok((cpu()? - before).as_secs_f64() * 1e6 / (CLIENTS * EACH) as f64)
}

fn measure(reactor: &str) -> anyhow::Result<()> {
    let config = || Config::default().reactor(reactor);
    let servers = [start(config())?, start(config().steer_program(false))?];
    let [placed, handed] = &servers;
    let (placed_clients, handed_clients) = (clients(placed.at)?, clients(handed.at)?);
    let mut costs = BURSTS.map(|_| (Vec::new(), Vec::new()));
    // The first is to warm up.
    for number in 0..=ROUNDS {
        for (burst, (none, some)) in BURSTS.into_iter().zip(&mut costs) {
            let pair = (round(&placed_clients, burst)?, round(&handed_clients, burst)?);
            if number > 0 {
                none.push(pair.0);
                some.push(pair.1);
            }
        }
    }
    let [none, part] = servers.map(part);
    ensure!(none? == 0.0, "the kernel did not place all");
    let part = part?;
    for (burst, (none, some)) in BURSTS.into_iter().zip(costs) {
        // Of rounds that followed each other, since the machine's speed changes.
        let more = median(none.iter().zip(&some).map(|(none, some)| some - none).collect()) / part;
        println!(
            "{reactor:>8}: {burst:>2} at once, placed {:.2} µs, {:.0} % handed over {:.2} µs: {more:.2} µs more for each of these",
            median(none),
            part * 100.0,
            median(some)
        );
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let chosen = std::env::var("WATERWHEEL_REACTOR").unwrap_or_default();
    println!(
        "CPU time per datagram of {BYTES} bytes, clients and kernel included; medians of {ROUNDS} rounds of {}",
        CLIENTS * EACH
    );
    for backend in reactors() {
        if (chosen.is_empty() || chosen == backend.name()) && backend.probe().is_ok() {
            measure(backend.name())?;
        }
    }
    Ok(())
}
