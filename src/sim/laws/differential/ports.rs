//! Messages and calls between shards: in order per pair, and what is told of a shard that ended.

use futures_util::future::{join, join_all};
use waterwheel::mesh::{CallPort, Mailbox, Port, PortOptions, TrySendError};
use waterwheel::shard::Shard;

use super::book::Book;
use super::compare::same_everywhere;
use super::stage::{LONG, Stage};

const SHARDS: usize = 3;
/// Messages from each shard to each, so many that lanes fill up.
const EACH: u64 = 300;
/// Calls from each shard to each.
const CALLS: u64 = 40;
/// Places of a lane.
const CAPACITY: usize = 16;

/// Sends to all shards, in turns, and receives from all.
async fn floods(shard: &Shard, mailbox: &Mailbox<u64>, book: &Book) {
    let sends = async {
        for number in 0..EACH {
            for to in shard.ids() {
                let sent = mailbox.send(to, number * 1_000_003 + shard.id().index() as u64).await;
                assert!(sent.is_ok(), "all shards stay until all have received");
            }
        }
    };
    let receives = async {
        for _ in 0..EACH * shard.count() as u64 {
            let (from, number) = mailbox.receive().await;
            let name = format!("messages {} to {}", from, shard.id());
            book.strand(name).bytes(&number.to_be_bytes());
        }
    };
    join(sends, receives).await;
}

/// Nothing is handled inside its sender's call, so that a lane to oneself takes as many as it has places for.
async fn to_oneself(shard: &Shard, mailbox: &Mailbox<u64>, book: &Book) {
    let own = book.strand(format!("messages of {} to itself at once", shard.id()));
    let taken = (0..).take_while(|number| mailbox.try_send(shard.id(), *number).is_ok()).count();
    let told = match mailbox.try_send(shard.id(), 7) {
        Err(TrySendError::Full(back)) => format!("{taken} taken, full, {back} came back"),
        other => format!("{taken} taken, {other:?}"),
    };
    own.note(told);
    for _ in 0..taken {
        own.bytes(&mailbox.receive().await.1.to_be_bytes());
    }
}

async fn messages(shard: Shard, own: Port<u64>, port: Port<u64>, book: Book) -> anyhow::Result<()> {
    let (own, mailbox) = (shard.open(&own)?, shard.open(&port)?);
    to_oneself(&shard, &own, &book).await;
    floods(&shard, &mailbox, &book).await;
    // The last one ends first; the others are told so.
    let last = shard.count() - 1;
    if shard.id().index() != last {
        let to = shard.ids().nth(last).expect("there is a last one");
        while own.send(to, 0).await.is_ok() {
            shard.yield_now().await;
        }
        book.strand(format!("messages of {} to one that has ended", shard.id())).note("closed");
    }
    Ok(())
}

#[test]
fn messages_come_in_order_from_each_shard_to_each() {
    same_everywhere(async |stage: Stage| {
        let runtime = stage.runtime("mesh", SHARDS)?;
        let options = PortOptions { capacity: CAPACITY };
        let (own, port) = (runtime.port_with("own", options)?, runtime.port_with("numbers", options)?);
        let book = stage.book().clone();
        let program = stage
            .start("mesh", runtime, move |shard| messages(shard, own.clone(), port.clone(), book.clone()));
        program.await?;
        Ok(())
    });
}

async fn calls(shard: Shard, port: CallPort<u64, u64>, here: Port<()>, book: Book) -> anyhow::Result<()> {
    let me = shard.id().index() as u64;
    let (mailbox, caller) = (shard.open(&here)?, shard.caller(&port)?);
    let (again, server) = (caller.clone(), shard.clone());
    let serving = shard.serve(&port, move |from, question: u64| {
        let (again, server) = (again.clone(), server.clone());
        async move {
            match question % 10 {
                7 => panic!("on purpose: a handler"),
                // Of its own port, which is refused.
                5 => again.call(from, question).await.unwrap_or(u64::MAX),
                3 => {
                    server.yield_now().await;
                    question * 1_000 + me
                }
                _ => question * 1_000 + me,
            }
        }
    })?;
    let ask = shard.ids().map(|to| {
        let (caller, strand) = (&caller, book.strand(format!("calls {me} to {to}")));
        async move {
            for question in 0..CALLS {
                match caller.call(to, question).await {
                    Ok(answer) => strand.bytes(&answer.to_be_bytes()),
                    Err(error) => strand.note(error.to_string()),
                }
            }
        }
    });
    join_all(ask).await;
    // Nobody goes before all are done.
    for to in shard.ids() {
        anyhow::ensure!(mailbox.send(to, ()).await.is_ok(), "{to} has gone");
    }
    for _ in shard.ids() {
        mailbox.receive().await;
    }
    // The first one stops serving before the others ask once more, and goes last.
    if me == 0 {
        serving.stop();
        let first = caller.call(shard.id(), 1).await.map_err(|error| error.to_string());
        book.strand("calls to oneself that is no longer served").note(format!("{first:?}"));
    }
    Ok(())
}

#[test]
fn every_call_has_its_own_answer_or_its_error() {
    same_everywhere(async |stage: Stage| {
        stage.allow_panics();
        let runtime = stage.runtime("mesh", SHARDS)?;
        let (port, here) = (runtime.call_port("questions")?, runtime.port("here")?);
        let book = stage.book().clone();
        let program =
            stage.start("mesh", runtime, move |shard| calls(shard, port.clone(), here.clone(), book.clone()));
        let shard = stage.shard();
        shard.timeout(LONG, program).await??;
        Ok(())
    });
}
