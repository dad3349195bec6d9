//! Shards that die at any moment and begin again, several of them and at once: nothing is lost uncounted, received twice or
//! out of order; every call ends with its own reply or an error; clients are served again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::mesh::{CallError, CallPort, Mailbox, Port, PortOptions};
use waterwheel::net::{Connection, Listening};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

/// Longer than anything here may take: a world that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the shards work; they die in the first half.
const WORK: Duration = Duration::from_millis(400);
const SERVER_PORT: u16 = 80;

/// Which of the messages from one life of its source to one target it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Numbered {
    life: u64,
    number: u64,
}

/// What all lives of all shards share; written from outside of them, so to say.
#[derive(Clone, Default)]
struct Book {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    lives: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Book {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// Sends without end, waiting for room, or for a target that is dead to be back.
async fn sends(shard: Shard, mailbox: Rc<Mailbox<Numbered>>, life: u64, book: Book, mut rng: Random) {
    let mut numbers = vec![0; shard.count()];
    loop {
        let to = ShardId::new(rng.below(shard.count() as u64) as usize);
        let number = &mut numbers[to.index()];
        let message = Numbered { life, number: *number };
        let sent = match rng.below(2) {
            0 => mailbox.try_send(to, message).is_ok(),
            _ => mailbox.send(to, message).await.is_ok(),
        };
        if sent {
            *number += 1;
            book.sent.fetch_add(1, Relaxed);
        } else if rng.below(2) == 0 {
            shard.opened(to).await;
        }
        shard.sleep(Duration::from_micros(rng.below(2_000))).await;
    }
}

async fn receives(mailbox: Rc<Mailbox<Numbered>>, book: Book, me: ShardId) {
    let mut last: BTreeMap<ShardId, Numbered> = BTreeMap::new();
    loop {
        let (from, message) = mailbox.receive().await;
        book.received.fetch_add(1, Relaxed);
        if last.insert(from, message).is_some_and(|before| before >= message) {
            book.wrong(format!("{me:?} got {message:?} of {from:?} again, or late"));
        }
    }
}

fn answer(question: u64) -> u64 {
    question.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

/// Calls without end; some are given up.
async fn calls(shard: Shard, port: CallPort<u64, u64>, book: Book, mut rng: Random) {
    let Ok(caller) = shard.caller(&port) else { return };
    loop {
        let to = ShardId::new(rng.below(shard.count() as u64) as usize);
        let question = rng.number();
        let call = caller.call(to, question);
        let outcome = match rng.below(3) {
            0 => shard.timeout(Duration::from_micros(rng.below(2_000)), call).await,
            _ => Ok(call.await),
        };
        match outcome {
            Ok(Ok(got)) if got != answer(question) => {
                book.wrong(format!("{:?} got the reply to another call", shard.id()));
            }
            Ok(Ok(_)) | Err(_) => {}
            // A handler that its dying shard drops says that it failed.
            Ok(Err(CallError::Closed | CallError::Failed(_))) => shard.opened(to).await,
            Ok(Err(error)) => book.wrong(error.to_string()),
        }
        shard.sleep(Duration::from_micros(rng.below(2_000))).await;
    }
}

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut buffer = [0; 100];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(connection.close().await?),
            count => connection.write_all(&buffer[..count]).await?,
        }
    }
}

/// One life of a shard: does everything at once until it is asked to stop.
async fn lives(
    shard: Shard,
    (port, questions): (Port<Numbered>, CallPort<u64, u64>),
    listening: Listening,
    book: Book,
) -> anyhow::Result<()> {
    let life = book.lives.fetch_add(1, Relaxed);
    let rng = RefCell::new(Random::new(shard.reactor().seed() ^ life << 32));
    let next = || Random::new(rng.borrow_mut().number());
    let mailbox = Rc::new(shard.open(&port)?);
    let server = shard.clone();
    let pauses = Rc::new(RefCell::new(next()));
    let _serving = shard.serve(&questions, move |_from, question| {
        let (server, pauses) = (server.clone(), pauses.clone());
        async move {
            // Some are still at work when who asked has died, and is back.
            let pause = pauses.borrow_mut().below(5_000);
            server.sleep(Duration::from_micros(pause)).await;
            answer(question)
        }
    })?;
    shard.spawn_detached("receives", receives(mailbox.clone(), book.clone(), shard.id()));
    shard.spawn_detached("sends", sends(shard.clone(), mailbox, life, book.clone(), next()));
    for _ in 0..2 {
        shard.spawn_detached("calls", calls(shard.clone(), questions.clone(), book.clone(), next()));
    }
    let acceptor = shard.accept_on(&listening)?;
    shard.spawn_detached("serves", async move { acceptor.serve(usize::MAX, echo).await });
    shard.stopping().await;
    Ok(())
}

/// Whether somebody answers.
async fn asks(world: &World, to: &Address) -> anyhow::Result<bool> {
    let asked = async {
        let mut connection = world.shard().connect(to, &ConnectOptions::default()).await?;
        connection.write_all(b"ping").await?;
        let mut back = [0; 4];
        connection.read_exact(&mut back).await?;
        connection.close().await?;
        anyhow::Ok(back == *b"ping")
    };
    let asked = world.shard().timeout(Duration::from_secs(60), asked).await;
    // Reset, if it was with a shard that died; but never left to wait.
    Ok(asked.context("a client is left to wait")?.unwrap_or(false))
}

async fn scene(world: World) -> anyhow::Result<()> {
    world.allow_panics();
    let host = world.host("mesh");
    let shards = 2 + world.below(3) as usize;
    let pause = Duration::from_micros(world.below(3_000));
    let supervision = Supervision { restarts: 1_000, pause, pause_most: pause * 2, ..Supervision::default() };
    let config = Config::default().cores(shards).on_failure(OnFailure::Restart).supervision(supervision);
    let runtime = host.runtime_with(config)?;
    let capacity = 1 + world.below(6) as usize;
    let port = runtime.port_with("numbered", PortOptions { capacity })?;
    let questions = runtime.call_port("questions")?;
    let listening = runtime.listen(&format!("tcp:{}", host.at(SERVER_PORT)))?;
    let to = listening.local().clone();
    for dying in 0..shards {
        let deaths = world.below(4) as usize;
        if deaths > 0 {
            let rule = Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.02);
            world.rule(rule.at_most(deaths as u64).between(Duration::ZERO..=WORK / 2));
        }
    }
    let book = Book::default();
    let (inside, ports) = (book.clone(), (port.clone(), questions));
    let running =
        host.start(runtime, move |shard| lives(shard, ports.clone(), listening.clone(), inside.clone()));
    // Half of the time they may die, and for a quarter more somebody looks.
    let began = world.now();
    while world.now() < began + WORK / 4 * 3 {
        let early = world.now() < began + WORK / 2;
        let served = asks(&world, &to).await?;
        ensure!(served || early, "nobody dies any more, and a client is not served");
        world.sleep(Duration::from_micros(world.below(20_000))).await;
    }
    running.stop(Duration::from_millis(50));
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    ensure!(ended.is_ok(), "{ended:?}");
    let wrong = book.wrong.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    let (sent, received) = (book.sent.load(Relaxed), book.received.load(Relaxed));
    let undelivered = port.undelivered();
    ensure!(sent == received + undelivered, "{sent} sent, {received} received, {undelivered} undelivered");
    Ok(())
}

#[test]
fn shards_that_die_at_any_moment_are_back_and_owe_nothing() {
    Check::new().seeds(300).run(scene);
}
