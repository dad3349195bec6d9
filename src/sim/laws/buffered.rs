//! A quota on what connections hold, while peers send much and read late: it is kept but for the floor, clients wait and are all
//! served in the end, no byte is lost, and nothing is held when all are gone.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join, try_join_all};
use waterwheel::net::codec::{Framed, Prefixed, Width};
use waterwheel::net::protocol::{Flow, Protocol, Reason, Wire};
use waterwheel::net::{Connection, Receiving, Sending, pump};
use waterwheel::reactor::{Address, Buffered, ConnectOptions};
use waterwheel::runtime::{Config, Quotas};
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

/// Longer than anything here may take: a world that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
const CLIENTS: u64 = 10;
/// The most that one sends: more than all buffers on the way hold.
const SENT_MOST: u64 = 400 << 10;

/// The byte at a place of the stream that a client sends.
fn byte(at: u64, seed: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9).wrapping_add(seed) >> 7) as u8
}

/// What was seen of all shards.
#[derive(Default)]
struct Book {
    most: AtomicUsize,
    held_back: AtomicUsize,
    /// When the last client had gone.
    left: AtomicUsize,
}

async fn sends(world: &World, mut sending: Sending, count: u64, seed: u64) -> anyhow::Result<()> {
    let mut at = 0;
    while at < count {
        let end = count.min(at + 1 + world.below(64 << 10));
        let piece: Vec<u8> = (at..end).map(|at| byte(at, seed)).collect();
        sending.write_all(&piece).await?;
        at = end;
    }
    Ok(sending.close().await?)
}

async fn reads_late(world: &World, mut receiving: Receiving, count: u64, seed: u64) -> anyhow::Result<()> {
    world.sleep(Duration::from_micros(world.below(100_000))).await;
    let mut at = 0;
    loop {
        let lent = receiving.fill().await?;
        if lent.is_empty() {
            break;
        }
        let wrong = lent.iter().zip(at..).find(|(found, at)| **found != byte(*at, seed));
        ensure!(wrong.is_none(), "{wrong:?} is another byte");
        let taken = lent.len();
        receiving.consume(taken);
        at += taken as u64;
        if world.chance(0.1) {
            world.sleep(Duration::from_micros(world.below(2_000))).await;
        }
    }
    ensure!(at == count, "{at} bytes of {count} came back");
    Ok(())
}

async fn client(world: World, to: Address) -> anyhow::Result<()> {
    world.sleep(Duration::from_micros(world.below(5_000))).await;
    let (count, seed) = (1 + world.below(SENT_MOST), world.number());
    let connection = world.shard().connect(&to, &ConnectOptions::default()).await?;
    let (receiving, sending) = connection.split();
    let (sent, read) =
        join(sends(&world, sending, count, seed), reads_late(&world, receiving, count, seed)).await;
    sent.and(read)
}

async fn looks(shard: Shard, book: Arc<Book>, mut rng: Random) {
    loop {
        book.most.fetch_max(shard.buffered_bytes(), Relaxed);
        shard.sleep(Duration::from_micros(rng.below(200))).await;
    }
}

async fn echoes(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    pump(&mut receiving, &mut sending).await?;
    Ok(())
}

async fn scene(world: World, quota: Option<usize>) -> anyhow::Result<Arc<Book>> {
    let host = world.host("mill");
    let shards = 1 + world.below(3) as usize;
    if world.chance(0.3) {
        world.rule(Rule::new(Verdict::ShortWrite(1 + world.below(5_000) as usize)).with(0.3));
    }
    let quotas = Quotas { buffered_bytes: quota, ..Quotas::default() };
    let runtime = host.runtime_with(Config::default().cores(shards).quotas(quotas))?;
    let listening = runtime.listen("tcp:0.0.0.0:7")?;
    let (book, seed) = (Arc::<Book>::default(), world.number());
    let inside = book.clone();
    let running = host.start(runtime, move |shard| {
        let (listening, book) = (listening.clone(), inside.clone());
        async move {
            drop(shard.spawn("looks", looks(shard.clone(), book.clone(), Random::new(seed))));
            let acceptor = shard.accept_on(&listening)?;
            let counters = acceptor.counters();
            acceptor.serve(usize::MAX, echoes).await;
            book.held_back.fetch_add(counters.copy().held_back as usize, Relaxed);
            book.left.fetch_add(shard.buffered_bytes(), Relaxed);
            Ok(())
        }
    });
    let clients = (0..CLIENTS).map(|_| client(world.clone(), Address::Inet(host.at(7))));
    let served = try_join_all(clients.collect::<Vec<_>>());
    world.shard().timeout(PATIENCE, served).await.context("somebody waits for ever")??;
    running.stop(Duration::from_secs(5));
    running.await?;
    Ok(book)
}

#[test]
fn a_quota_of_bytes_is_kept_and_everybody_is_served() {
    Check::new().seeds(20).run(|world| async move {
        let quota = 1 + world.below(256 << 10) as usize;
        let book = scene(world, Some(quota)).await?;
        let (most, left) = (book.most.load(Relaxed), book.left.load(Relaxed));
        let floors = CLIENTS as usize * Buffered::FLOOR;
        ensure!(most <= quota + floors, "{most} bytes were held, of {quota} and {floors} allowed");
        ensure!(left == 0, "{left} bytes are held for nobody");
        Ok(())
    });
}

/// Else the law above would say nothing.
#[test]
fn without_a_quota_more_is_held_and_nobody_waits() {
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    Check::new().seeds(10).run(move |world| {
        let seen = seen.clone();
        async move {
            let book = scene(world, None).await?;
            seen.fetch_max(book.most.load(Relaxed), Relaxed);
            ensure!(book.held_back.load(Relaxed) == 0, "somebody was held back");
            Ok(())
        }
    });
    let floors = CLIENTS as usize * Buffered::FLOOR;
    assert!(most.load(Relaxed) > floors + (64 << 10), "no more than {most:?}");
}

const FRAME: usize = 100_000;
/// Less than a wire's queue holds before it is full, and more than where it has room again.
const ANSWER: usize = 20_000;

/// Looks at the beginning of a connection, then at a frame, then speaks.
async fn holds(mut connection: Connection, most: Option<usize>) -> anyhow::Result<()> {
    let (own, shard) = (connection.shard().clone(), connection.shard().clone());
    let held = move || shard.buffered_bytes();
    let deadline = connection.shard().now() + PATIENCE;
    let looked = |lent: &[u8], before: usize| {
        assert!(held() >= lent.len() && held() >= before, "{} bytes at {} in hand", held(), lent.len());
        (lent.len() == 8).then_some(((), 8))
    };
    connection.peek_until(deadline, 8, looked).await?;
    let mut framed = Framed::new(connection, Prefixed::new(Width::Bits32, FRAME));
    let frame = framed.receive().await?.context("a frame")?.len();
    ensure!(frame == FRAME && held() >= FRAME, "{} bytes for a frame of {frame}", held());
    let Ok(connection) = framed.into_connection() else { anyhow::bail!("inside a frame") };
    ensure!(held() < FRAME, "{} bytes behind the frame", held());
    let spoken = connection.speak(Writer { expected: if most.is_some() { Flow::Full } else { Flow::Ready } });
    spoken.await;
    // The question may linger until the client goes.
    own.sleep(Duration::from_secs(1)).await;
    ensure!(held() == 0, "{} bytes at the end", held());
    Ok(())
}

/// Answers anything with much.
struct Writer {
    expected: Flow,
}

impl Protocol for Writer {
    fn received(&mut self, wire: &Wire, _: &[u8]) -> anyhow::Result<()> {
        let flow = wire.write(&[b'x'; ANSWER])?;
        assert_eq!(flow, self.expected);
        assert!(wire.shard().buffered_bytes() >= ANSWER);
        wire.lose_connection();
        Ok(())
    }

    fn closed(self, reason: Reason) {
        assert!(matches!(reason, Reason::Closed), "{reason:?}");
    }
}

/// Begins byte by byte, then sends a frame, then anything.
async fn asks(world: World, to: Address) -> anyhow::Result<()> {
    let mut connection = world.shard().connect(&to, &ConnectOptions::default()).await?;
    for byte in 0..8 {
        connection.write_all(&[byte]).await?;
        world.sleep(Duration::from_millis(2)).await;
    }
    connection.write_all(&(FRAME as u32).to_be_bytes()).await?;
    connection.write_all(&[b'f'; FRAME]).await?;
    world.sleep(Duration::from_millis(5)).await;
    connection.write_all(b"?").await?;
    let (mut answer, mut end) = (vec![0; ANSWER], [0]);
    connection.read_exact(&mut answer).await?;
    ensure!(connection.read(&mut end).await? == 0, "more than was said");
    Ok(())
}

#[test]
fn what_is_held_above_the_reactor_counts_too() {
    Check::new().seeds(20).run(|world| async move {
        let (host, most) = (world.host("mill"), world.chance(0.5).then_some(1_000));
        let quotas = Quotas { buffered_bytes: most, ..Quotas::default() };
        let runtime = host.runtime_with(Config::default().cores(1).quotas(quotas))?;
        let listening = runtime.listen("tcp:0.0.0.0:7")?;
        let failed = Arc::<Mutex<Option<String>>>::default();
        let inside = failed.clone();
        let running = host.start(runtime, move |shard| {
            let (listening, failed) = (listening.clone(), inside.clone());
            async move {
                let serve = move |connection| {
                    let failed = failed.clone();
                    async move {
                        let result = holds(connection, most).await;
                        let wrong = result.err().map(|error| format!("{error:#}"));
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = wrong;
                        Ok(())
                    }
                };
                shard.accept_on(&listening)?.serve(10, serve).await;
                Ok(())
            }
        });
        let asked = asks(world.clone(), Address::Inet(host.at(7)));
        world.shard().timeout(PATIENCE, asked).await.context("it hangs")??;
        running.stop(Duration::from_secs(5));
        running.await?;
        let wrong = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        ensure!(wrong.is_none(), "{wrong:?}");
        Ok(())
    });
}
