//! Messages and calls under random schedules: first-in first-out per pair, nothing lost, nothing twice, no hang; floods
//! end; calls to a shard that dies fail; a budget of each source bounds each turn.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join, join_all};
use waterwheel::mesh::{CallError, CallOptions, CallPort, Mailbox, Port, PortOptions, TrySendError};
use waterwheel::reactor::Time;
use waterwheel::runtime::Config;
use waterwheel::shard::{Budgets, Shard, ShardId};
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

/// Longer than anything here may take: a world that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Messages from one source in one turn, so few that floods meet it.
const BUDGET: usize = 8;

/// A message that says which of its source's messages to its target it is.
#[derive(Clone, Copy, Debug)]
struct Numbered {
    number: u64,
    /// Not to be received before.
    due: Time,
}

/// What all shards of a world share; written from outside of it, so to say.
#[derive(Clone, Default)]
struct Ledger {
    /// Taken by a lane, over all pairs.
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    /// Questions that were asked, with how often they were handled.
    questions: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl Ledger {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn questions(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asks(&self, question: u64) {
        self.questions().insert(question, 0);
    }

    /// At most once, and nothing that nobody asked.
    fn handles(&self, question: u64) {
        let times = self.questions().get_mut(&question).map(|times| {
            *times += 1;
            *times
        });
        if times != Some(1) {
            self.wrong(format!("question {question} was handled {times:?} times"));
        }
    }

    fn answered(&self, question: u64) {
        if self.questions().get(&question) != Some(&1) {
            self.wrong(format!("question {question} was answered by nobody"));
        }
    }

    fn check(&self, undelivered: u64) -> anyhow::Result<()> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        let (sent, received) = (self.sent.load(Relaxed), self.received.load(Relaxed));
        ensure!(
            sent == received + undelivered,
            "{sent} sent, {received} received, {undelivered} undelivered"
        );
        Ok(())
    }
}

/// Sends so many messages to random shards, in every way there is.
async fn sends(shard: Shard, mailbox: Rc<Mailbox<Numbered>>, count: u64, ledger: Ledger, seed: u64) {
    let mut rng = Random::new(seed);
    let mut numbers = vec![0; shard.count()];
    for _ in 0..count {
        let to = ShardId::new(rng.below(shard.count() as u64) as usize);
        let number = numbers[to.index()];
        let message = Numbered { number, due: Time::ZERO };
        let taken = match rng.below(3) {
            0 => mailbox.try_send(to, message).map_err(|error| matches!(error, TrySendError::Closed(_))),
            _ => mailbox.send(to, message).await.map_err(|_| true),
        };
        match taken {
            Ok(()) => {
                numbers[to.index()] += 1;
                ledger.sent.fetch_add(1, Relaxed);
            }
            // Full: it was told, and nothing went.
            Err(false) => {}
            Err(true) => numbers[to.index()] = u64::MAX / 2,
        }
        match rng.below(12) {
            0 => shard.sleep(Duration::from_micros(rng.below(400))).await,
            1 => shard.yield_now().await,
            _ => {}
        }
    }
}

/// Receives until nothing has come for a long time, and holds each message against the rules.
async fn receives(shard: Shard, mailbox: Rc<Mailbox<Numbered>>, ledger: Ledger, pauses: bool) {
    let mut next: BTreeMap<ShardId, u64> = BTreeMap::new();
    let (mut turn, mut in_turn) = (0, vec![0_usize; shard.count()]);
    let quiet = Duration::from_secs(30);
    while let Ok((from, message)) = shard.timeout(quiet, mailbox.receive()).await {
        ledger.received.fetch_add(1, Relaxed);
        let expected = next.entry(from).or_default();
        if message.number != *expected {
            ledger.wrong(format!("{from:?} to {:?}: {} after {expected}", shard.id(), message.number));
        }
        *expected = message.number + 1;
        if shard.now() < message.due {
            ledger.wrong(format!("received {:?} early", message.due.since(shard.now())));
        }
        if shard.stats().turns != turn {
            turn = shard.stats().turns;
            in_turn.fill(0);
        }
        in_turn[from.index()] += 1;
        if in_turn[from.index()] > BUDGET {
            let count = in_turn[from.index()];
            ledger.wrong(format!("{count} messages of {from:?} were received in one turn"));
        }
        if pauses && message.number % 16 == 7 {
            shard.sleep(Duration::from_micros(150)).await;
        }
    }
}

/// Sends some messages that are due later, on a port of their own.
async fn sends_later(shard: Shard, mailbox: Mailbox<Numbered>, ledger: Ledger, seed: u64) {
    let mut rng = Random::new(seed);
    let sender = mailbox.sender();
    let later = async {
        for _ in 0..rng.below(12) {
            let to = ShardId::new(rng.below(shard.count() as u64) as usize);
            let due = shard.now() + Duration::from_micros(rng.below(20_000));
            if sender.send_at(to, Numbered { number: 0, due }, due).await.is_ok() {
                ledger.sent.fetch_add(1, Relaxed);
            }
        }
    };
    let receive = async {
        while let Ok((_, message)) = shard.timeout(Duration::from_secs(30), mailbox.receive()).await {
            ledger.received.fetch_add(1, Relaxed);
            if shard.now() < message.due {
                ledger.wrong(format!("received {:?} early", message.due.since(shard.now())));
            }
        }
    };
    join(later, receive).await;
}

fn config(shards: usize) -> Config {
    Config::default().cores(shards).budgets(Budgets { messages: BUDGET, ..Budgets::default() })
}

async fn messages(world: World) -> anyhow::Result<()> {
    let host = world.host("mesh");
    let shards = 1 + world.below(5) as usize;
    let runtime = host.runtime_with(config(shards))?;
    let options = PortOptions { capacity: 1 + world.below(24) as usize };
    let (port, later): (Port<Numbered>, Port<Numbered>) =
        (runtime.port_with("numbered", options)?, runtime.port_with("later", options)?);
    // Many flood, one trickles; now and then a shard dies.
    let (most, dies) = (1 + world.below(400), world.chance(0.25));
    if dies {
        let dying = world.below(shards as u64) as usize;
        world.rule(Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.02).at_most(1));
    }
    if world.chance(0.3) {
        let slow = world.below(shards as u64) as usize;
        let by = Duration::from_micros(world.below(5_000));
        world.rule(Rule::new(Verdict::SlowTurn(by)).to(("mesh", slow)).with(0.2));
    }
    let (ledger, ports) = (Ledger::default(), (port.clone(), later.clone()));
    let inside = ledger.clone();
    let running = host.start(runtime, move |shard| {
        let (port, later, ledger) = (port.clone(), later.clone(), inside.clone());
        async move {
            let mut rng = Random::new(shard.reactor().seed());
            let mailbox = Rc::new(shard.open(&port)?);
            let own = rng.below(most);
            let pauses = rng.below(3) == 0;
            let sending = sends(shard.clone(), mailbox.clone(), own, ledger.clone(), rng.number());
            let receiving = receives(shard.clone(), mailbox.clone(), ledger.clone(), pauses);
            let late = sends_later(shard.clone(), shard.open(&later)?, ledger, rng.number());
            join(join(sending, receiving), late).await;
            Ok(())
        }
    });
    let ended = world.shard().timeout(PATIENCE, running).await.context("messages hang")?;
    ensure!(ended.is_ok() || dies, "{ended:?}");
    ledger.check(ports.0.undelivered() + ports.1.undelivered())
}

/// What a handler answers.
fn answer(question: u64) -> u64 {
    question.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

/// Asks others at random; gives some of its calls up.
async fn calls(shard: Shard, port: CallPort<u64, u64>, seed: u64, wrong: Ledger) -> anyhow::Result<()> {
    let caller = shard.caller(&port)?;
    let mut rng = Random::new(seed);
    let tasks = (0..1 + rng.below(6)).map(|_| {
        let (caller, shard, wrong) = (caller.clone(), shard.clone(), wrong.clone());
        let mut rng = Random::new(rng.number());
        async move {
            for _ in 0..rng.below(40) {
                let to = ShardId::new(rng.below(shard.count() as u64) as usize);
                let question = rng.number();
                let call = caller.call(to, question);
                wrong.asks(question);
                let outcome = match rng.below(3) {
                    0 => shard.timeout(Duration::from_micros(rng.below(300)), call).await,
                    _ => Ok(call.await),
                };
                match outcome {
                    Ok(Ok(got)) if got != answer(question) => {
                        wrong.wrong(format!("{:?} got the reply to another call", shard.id()));
                    }
                    Ok(Ok(_)) => wrong.answered(question),
                    Ok(Err(error @ CallError::Nested(_))) => wrong.wrong(error.to_string()),
                    _ => {}
                }
            }
        }
    });
    join_all(tasks.collect::<Vec<_>>()).await;
    Ok(())
}

async fn questions(world: World) -> anyhow::Result<()> {
    let host = world.host("mesh");
    let shards = 1 + world.below(4) as usize;
    let runtime = host.runtime_with(config(shards))?;
    let options = CallOptions { credits: 1 + world.below(6) as usize };
    let port: CallPort<u64, u64> = runtime.call_port_with("questions", options)?;
    let (here, dies) = (runtime.port::<()>("here")?, world.chance(0.4));
    if dies {
        let dying = world.below(shards as u64) as usize;
        world.rule(Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.02).at_most(1));
    }
    let ledger = Ledger::default();
    let inside = ledger.clone();
    let running = host.start(runtime, move |shard| {
        let (port, here, ledger) = (port.clone(), here.clone(), inside.clone());
        async move {
            let rng = Rc::new(RefCell::new(Random::new(shard.reactor().seed())));
            let most = 30_000;
            let handled = ledger.clone();
            let (slow, server) = (rng.clone(), shard.clone());
            let serving = shard.serve(&port, move |_from, question| {
                let (slow, server) = (slow.clone(), server.clone());
                handled.handles(question);
                async move {
                    let pause = slow.borrow_mut().below(4) * 100;
                    server.sleep(Duration::from_micros(pause)).await;
                    answer(question)
                }
            })?;
            let mailbox = shard.open(&here)?;
            let seed = rng.borrow_mut().number();
            calls(shard.clone(), port, seed, ledger).await?;
            // The others may still ask; one that has died says nothing more.
            for to in shard.ids() {
                let _ = mailbox.send(to, ()).await;
            }
            for _ in shard.ids() {
                let _ = shard.timeout(Duration::from_millis(most), mailbox.receive()).await;
            }
            drop(serving);
            Ok(())
        }
    });
    let ended = world.shard().timeout(PATIENCE, running).await.context("calls hang")?;
    ensure!(ended.is_ok() || dies, "{ended:?}");
    ledger.check(0)
}

#[test]
fn messages_keep_their_order_and_none_is_lost() {
    Check::new().seeds(400).run(messages);
}

#[test]
fn every_call_ends_with_its_own_reply_or_an_error() {
    Check::new().seeds(400).run(questions);
}
