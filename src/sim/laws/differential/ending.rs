//! Servers that stop: who comes then is refused, who is there is served to the end, or until the time is up.

use std::time::Duration;

use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::RunError;

use super::compare::same_everywhere;
use super::lines::{Role, act, serve};
use super::peer::{Peer, bytes};
use super::stage::{LONG, Stage};

/// How often somebody asks whether a server has stopped accepting: it tells nobody.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than what happens before it on a busy machine.
const DRAIN: Duration = Duration::from_millis(400);

/// Connects until that fails; writes down how. Who is in the queue when it closes is reset, and asks again.
pub(super) async fn until_refused(stage: &Stage, at: &Address) {
    while stage.shard().connect(at, &ConnectOptions::default()).await.is_ok() {
        stage.shard().sleep(LOOK).await;
    }
    let refused = stage.shard().connect(at, &ConnectOptions::default()).await;
    let told = refused.map(drop).map_err(|error| error.kind());
    stage.book().strand("late client").note(format!("connect: {told:?}"));
}

async fn answers(mut peer: Peer) {
    peer.hears.exactly(100).await;
    peer.says.all(b"ok").await;
    peer.hears.until_the_end().await;
    peer.says.all(&bytes(1, 40_000)).await;
    peer.says.end().await;
}

#[test]
fn a_server_that_stops_serves_those_who_are_there() {
    same_everywhere(async |stage: Stage| {
        let (program, places) = serve(&stage, "server", 1, vec![Role::once("drains", act(answers))])?;
        let connected = stage.shard().connect(&places[0], &ConnectOptions::default()).await?;
        let mut peer = Peer::new(connected, stage.book(), "drains, client");
        peer.says.all(&bytes(2, 100)).await;
        peer.hears.exactly(2).await;
        program.stop(LONG);
        until_refused(&stage, &places[0]).await;
        peer.says.all(&bytes(3, 30_000)).await;
        peer.says.end().await;
        peer.hears.until_the_end().await;
        program.await?;
        Ok(())
    });
}

/// What is cut off by the end of the drain time has an end all the same, and the program's result says that it was cut.
#[test]
fn a_drain_ends_when_its_time_is_up() {
    same_everywhere(async |stage: Stage| {
        let (program, places) = serve(&stage, "server", 2, vec![Role::new("cut off", act(answers))])?;
        let connected = stage.shard().connect(&places[0], &ConnectOptions::default()).await?;
        let mut peer = Peer::new(connected, stage.book(), "cut off, client");
        peer.says.all(&bytes(2, 100)).await;
        peer.hears.exactly(2).await;
        program.stop(DRAIN);
        peer.hears.until_the_end().await;
        let ended = match program.await {
            Err(RunError::Stopped { shards }) => format!("stopped before {} had finished", shards.len()),
            other => format!("{:?}", other.map(drop)),
        };
        stage.book().strand("server").note(ended);
        Ok(())
    });
}
