//! Origins: each connection says how it wants to be treated.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::future::join;
use waterwheel::net::{Connection, Receiving, Sending};
use waterwheel::reactor::{ListenOptions, StreamOptions};
use waterwheel::sim::Host;

use super::ORIGIN_PORT;
use super::client::HEADER;
use super::ledger::{Ledger, Way, bytes};

/// How many ways there are to answer.
pub(super) const STYLES: u64 = 6;

/// Those in which everything comes whole.
pub(super) const WHOLE: [u32; 4] = [AFTER, 1, BEFORE, 5];

/// Answers once everything has come.
pub(super) const AFTER: u32 = 0;
/// Answers while it receives; so does every style that is not named.
/// Answers and ends, then receives the rest.
const BEFORE: u32 = 2;
/// Resets in the middle of its answer.
pub(super) const RESETS: u32 = 3;
/// Closes after half of what comes, and with what is unread.
const LEAVES: u32 = 4;

pub(super) fn start(host: &Host, ledger: &Ledger) {
    let runtime = host.runtime(2);
    let stream = StreamOptions { keepalive: Some(Duration::from_secs(60)), ..StreamOptions::default() };
    let options = ListenOptions { stream, ..ListenOptions::default() };
    // Its name stands for an address of each family.
    let endpoint = format!("tcp:[::]:{ORIGIN_PORT}").parse().expect("an endpoint");
    let listening = runtime.listen_with(&endpoint, &options).expect("a port of its own");
    let ledger = ledger.clone();
    drop(host.start(runtime, move |shard| {
        let (listening, ledger) = (listening.clone(), ledger.clone());
        async move {
            shard.accept_on(&listening)?.serve(1_000, move |one| serve(one, ledger.clone())).await;
            Ok(())
        }
    }));
}

async fn serve(mut connection: Connection, ledger: Ledger) -> anyhow::Result<()> {
    let mut header = [0; HEADER];
    // Part of what was sent, and so of what was got.
    match connection.read_exact(&mut header).await {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            ledger.nobody();
            return Ok(());
        }
        read => read?,
    }
    let mut words =
        header.chunks_exact(4).map(|part| u32::from_be_bytes([part[0], part[1], part[2], part[3]]));
    let mut next = || words.next().unwrap_or(0);
    let (id, up, down, style) = (next(), next() as usize, next() as usize, next());
    ledger.write(id, Way::Up, |stream| stream.headers += 1);
    let (mut receiving, mut sending) = connection.split();
    match style {
        AFTER => {
            receive(id, &mut receiving, &ledger, usize::MAX).await?;
            answer(id, down, &mut sending, &ledger).await
        }
        BEFORE => {
            answer(id, down, &mut sending, &ledger).await?;
            receive(id, &mut receiving, &ledger, usize::MAX).await
        }
        RESETS => {
            let half = bytes(id, Way::Down, down / 2);
            let _ = ledger.send(id, Way::Down, &half, &mut sending).await;
            receiving.abort();
            sending.abort();
            Ok(())
        }
        LEAVES => {
            receive(id, &mut receiving, &ledger, up / 2).await?;
            // Dropping it says that this was all.
            ledger.write(id, Way::Down, |stream| stream.ended = true);
            Ok(())
        }
        _ => {
            let (received, answered) = join(
                receive(id, &mut receiving, &ledger, usize::MAX),
                answer(id, down, &mut sending, &ledger),
            )
            .await;
            received.and(answered)
        }
    }
}

async fn receive(id: u32, receiving: &mut Receiving, ledger: &Ledger, most: usize) -> anyhow::Result<()> {
    let mut got = 0;
    while got < most {
        let lent = receiving.fill().await?;
        if lent.is_empty() {
            ledger.write(id, Way::Up, |stream| stream.saw_end = true);
            return Ok(());
        }
        if let Err(wrong) = ledger.receive(id, Way::Up, lent) {
            ledger.complain(wrong);
        }
        let count = lent.len();
        got += count;
        receiving.consume(count);
    }
    Ok(())
}

async fn answer(id: u32, count: usize, sending: &mut Sending, ledger: &Ledger) -> anyhow::Result<()> {
    ledger.send(id, Way::Down, &bytes(id, Way::Down, count), sending).await?;
    sending.close().await?;
    ledger.write(id, Way::Down, |stream| stream.ended = true);
    Ok(())
}
