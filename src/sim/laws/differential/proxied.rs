//! The TCP proxy between clients and servers: what both see, and what it counted.

use std::time::Duration;

use futures_util::future::join;
use waterwheel::proxy::tcp::{Proxy, Settings, ShardReport};
use waterwheel::reactor::{Address, ConnectOptions};

use super::compare::{same_everywhere, same_everywhere_at_length};
use super::ending::until_refused;
use super::lines::{Act, Role, act, client, count, serve};
use super::peer::{Peer, bytes, hear_then_say, say_and_hear, say_then_hear};
use super::stage::{LONG, Program, Stage};

/// Longer than what happens before it on a busy machine.
const SHORT: Duration = Duration::from_millis(500);

/// So few bytes that the slowest of worlds moves them in a fraction of that.
const FEW: usize = 5_000;

/// A proxy under way.
struct Proxied {
    stage: Stage,
    proxy: Proxy,
    running: Program<ShardReport>,
    at: Address,
}

impl Proxied {
    /// In front of these. Of one shard, so that upstreams take turns in the order in which clients come.
    fn start(
        stage: &Stage,
        upstreams: &[Address],
        change: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<Proxied> {
        let runtime = stage.runtime("proxy", 1)?;
        let upstreams: Result<_, _> = upstreams.iter().map(|at| at.to_string().parse()).collect();
        let mut settings = Settings::new(vec![stage.free("proxy").parse()?], upstreams?);
        change(&mut settings);
        let proxy = Proxy::bind(&runtime, settings)?;
        let (at, serving) = (proxy.local().remove(0), proxy.clone());
        let running = stage.start("proxy", runtime, move |shard| {
            let serving = serving.clone();
            async move { serving.serve(&shard).await }
        });
        Ok(Proxied { stage: stage.clone(), proxy, running, at })
    }

    /// Waits for its end, and writes down what it counted.
    async fn end(self, drain: Duration) -> anyhow::Result<()> {
        self.running.stop(drain);
        let report = self.proxy.final_report(self.running.await?);
        let strand = self.stage.book().strand("proxy");
        strand.note(format!("{:?}", report.total));
        for upstream in report.shards.iter().flat_map(|shard| &shard.upstreams) {
            let (active, connected, failed) = (upstream.active, upstream.connected, upstream.failed);
            strand.note(format!("upstream: active {active}, connected {connected}, failed {failed}"));
        }
        Ok(())
    }
}

/// One server behind a proxy, and one client before it.
async fn through(
    stage: Stage,
    change: impl FnOnce(&mut Settings),
    server: Act,
    talks: Act,
) -> anyhow::Result<()> {
    let (servers, places) = serve(&stage, "server", 1, vec![Role::new("behind", server)])?;
    let proxied = Proxied::start(&stage, &places, change)?;
    client(&stage, "before", &proxied.at, &talks).await;
    proxied.end(LONG).await?;
    count(&stage, "server", servers.end().await?);
    Ok(())
}

/// Reads to the end, then answers and ends.
async fn answers(peer: Peer) {
    hear_then_say(peer, 1, 60_000).await;
}

async fn asks(peer: Peer) {
    say_then_hear(peer, 2, 20_000).await;
}

#[test]
fn a_half_close_goes_through_from_either_side() {
    same_everywhere(|stage| through(stage, |_| {}, act(answers), act(asks)));
    same_everywhere(|stage| through(stage, |_| {}, act(asks), act(answers)));
}

#[test]
fn much_goes_through_both_ways_at_once() {
    let both = |peer: Peer| say_and_hear(peer, 3, 1 << 20);
    same_everywhere_at_length(move |stage| through(stage, |_| {}, act(both), act(both)));
}

/// Nothing is in flight when one side resets, so that what was sent is counted whole.
async fn says_and_resets(mut peer: Peer) {
    peer.says.all(&bytes(4, 20_000)).await;
    peer.hears.exactly(2).await;
    peer.abort();
}

async fn hears_a_reset(mut peer: Peer) {
    peer.hears.exactly(20_000).await;
    peer.says.all(b"ok").await;
    peer.hears.until_the_end().await;
}

#[test]
fn an_upstream_that_resets_in_the_midst_of_its_answer_is_told() {
    same_everywhere(|stage| through(stage, |_| {}, act(says_and_resets), act(hears_a_reset)));
}

#[test]
fn a_client_that_resets_in_the_midst_of_its_question_is_told() {
    same_everywhere(|stage| through(stage, |_| {}, act(hears_a_reset), act(says_and_resets)));
}

/// What the reset side had said comes through, as far as it was there: how far depends on timing. So does what the proxy
/// counted, which is not said.
#[test]
fn a_reset_with_an_answer_in_flight_is_no_end_in_order() {
    same_everywhere(async |stage: Stage| {
        let cuts = act(async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(&bytes(5, 30_000)).await;
            peer.abort();
        });
        let cut = act(async |mut peer: Peer| {
            peer.says.all(&bytes(6, 10)).await;
            peer.hears.a_part_of(&bytes(5, 30_000)).await;
        });
        let (servers, places) = serve(&stage, "server", 1, vec![Role::new("cuts", cuts)])?;
        let proxied = Proxied::start(&stage, &places, |_| {})?;
        client(&stage, "cut", &proxied.at, &cut).await;
        proxied.running.end().await?;
        servers.end().await?;
        Ok(())
    });
}

/// Clients one after the other, so that it is their order that says who gets which upstream. One that refuses is tried
/// once; then it comes behind the others for longer than this takes.
#[test]
fn an_upstream_that_refuses_costs_no_client() {
    same_everywhere(async |stage: Stage| {
        let roles = ["one", "two"].map(|name| Role::new(name, act(answers)));
        let (servers, mut places) = serve(&stage, "server", 1, roles.into())?;
        places.insert(1, stage.nobody()?);
        let proxied = Proxied::start(&stage, &places, |_| {})?;
        for number in 1..=7 {
            client(&stage, &format!("number {number}"), &proxied.at, &act(asks)).await;
        }
        proxied.end(LONG).await?;
        count(&stage, "server", servers.end().await?);
        Ok(())
    });
}

/// Whether the reset comes before the client sees that it is connected depends on timing; that it is one does not.
#[test]
fn without_any_upstream_a_client_is_reset() {
    same_everywhere(async |stage: Stage| {
        let nobody = [stage.nobody()?, stage.nobody()?];
        let proxied = Proxied::start(&stage, &nobody, |_| {})?;
        let connected = stage.shard().connect(&proxied.at, &ConnectOptions::default()).await;
        let told = match connected {
            Ok(mut connection) => connection.fill().await.map(<[u8]>::len),
            Err(error) => Err(error),
        };
        stage.book().strand("client").note(format!("{:?}", told.map_err(|error| error.kind())));
        proxied.end(LONG).await
    });
}

#[test]
fn an_idle_connection_is_closed_on_both_sides() {
    let server = async |mut peer: Peer| {
        peer.hears.exactly(10).await;
        peer.says.all(&bytes(1, 100)).await;
        peer.hears.until_the_end().await;
    };
    let talks = async |mut peer: Peer| {
        peer.says.all(&bytes(2, 10)).await;
        peer.hears.until_the_end().await;
    };
    let idle = |settings: &mut Settings| settings.idle_timeout = Some(SHORT);
    same_everywhere(move |stage| through(stage, idle, act(server), act(talks)));
}

/// One client is in the midst of its talk when the proxy is asked to stop, and has its answer; one is silent, and is cut
/// off when the time is up.
#[test]
fn a_drain_serves_who_talks_and_ends_by_its_deadline() {
    same_everywhere(async |stage: Stage| {
        let begins = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(b"ok").await;
            peer.hears.until_the_end().await;
            peer.says.all(&bytes(1, FEW)).await;
            peer.says.end().await;
        };
        let waits = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(b"ok").await;
            peer.hears.until_the_end().await;
        };
        let roles = [Role::new("one", act(begins)), Role::new("two", act(waits))];
        let (servers, places) = serve(&stage, "server", 1, roles.into())?;
        let proxied = Proxied::start(&stage, &places, |_| {})?;
        let mut peers = Vec::new();
        for name in ["one", "two"] {
            let to = &proxied.at;
            let connected = stage.shard().connect(to, &ConnectOptions::default()).await?;
            let mut peer = Peer::new(connected, stage.book(), &format!("{name}, client"));
            peer.says.all(&bytes(7, 10)).await;
            peer.hears.exactly(2).await;
            peers.push(peer);
        }
        let [mut talks, mut silent] = <[Peer; 2]>::try_from(peers).ok().expect("two clients");
        proxied.running.stop(2 * SHORT);
        let (at, stage) = (proxied.at.clone(), &stage);
        let talking = async {
            talks.says.all(&bytes(8, FEW)).await;
            talks.says.end().await;
            talks.hears.until_the_end().await;
        };
        join(talking, silent.hears.until_the_end()).await;
        until_refused(stage, &at).await;
        proxied.end(2 * SHORT).await?;
        count(stage, "server", servers.end().await?);
        Ok(())
    });
}
