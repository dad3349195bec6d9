//! Frames over connections that cut and delay at random: whole, in order, and not lost when their futures are dropped.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join;
use waterwheel::net::Connection;
use waterwheel::net::codec::{
    Decoder, Encoder, FrameError, Framed, LineEnding, Lines, Netstrings, Prefixed, ReceiveError, Width,
};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

const PATIENCE: Duration = Duration::from_secs(600);
const LIMIT: usize = 3_000;
const FRAMES: u64 = 20;

/// Frames that a seed decides, without line ends.
fn frame(rng: &mut Random) -> Vec<u8> {
    let most = if rng.below(4) == 0 { LIMIT as u64 + 1 } else { 30 };
    let (length, first) = (rng.below(most), rng.below(200));
    (0..length).map(|at| b'a' + ((first + at) % 26) as u8).collect()
}

/// Answers each frame by itself, with futures that are dropped now and then, until the stream ends.
async fn echo<C: Decoder + Encoder + Clone>(mut framed: Framed<C>, seed: u64) -> anyhow::Result<()> {
    let (shard, mut rng) = (Shard::current().context("a shard")?, Random::new(seed));
    loop {
        let patience = Duration::from_micros(rng.below(300));
        let Ok(received) = shard.timeout(patience, framed.receive()).await else { continue };
        let Some(frame) = received?.map(<[u8]>::to_vec) else { break };
        framed.send(&frame).await?;
        let flushed = shard.timeout(Duration::from_micros(rng.below(300)), framed.flush()).await;
        flushed.unwrap_or(Ok(()))?;
    }
    framed.close().await?;
    Ok(())
}

async fn talk<C: Decoder + Encoder + Clone>(
    world: World,
    connection: Connection,
    codec: C,
) -> anyhow::Result<()> {
    let seed = world.number();
    let (mut receiving, mut sending) = Framed::new(connection, codec).split();
    let send = async {
        let mut rng = Random::new(seed);
        for _ in 0..FRAMES {
            sending.send(&frame(&mut rng)).await?;
            if rng.below(3) == 0 {
                world.sleep(Duration::from_micros(rng.below(2_000))).await;
            }
        }
        sending.close().await?;
        anyhow::Ok(())
    };
    let receive = async {
        let mut rng = Random::new(seed);
        for number in 0..FRAMES {
            let expected = frame(&mut rng);
            let found = receiving.receive().await?.context("the stream ended early")?;
            ensure!(found == expected, "frame {number} is another one");
            // Draws what the sender draws.
            if rng.below(3) == 0 {
                rng.below(2_000);
            }
        }
        ensure!(receiving.receive().await?.is_none(), "a frame too many");
        anyhow::Ok(())
    };
    let (sent, received) = join(send, receive).await;
    sent.and(received)
}

async fn frames_come_back<C>(world: World, codec: C) -> anyhow::Result<()>
where
    C: Decoder + Encoder + Clone + Send + Sync + 'static,
{
    let host = world.host("echo");
    if world.chance(0.5) {
        world.rule(Rule::new(Verdict::ShortWrite(1 + world.below(50) as usize)).with(0.5));
    }
    let runtime = host.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:7")?;
    let (serving, seed) = (codec.clone(), world.number());
    let running = host.start(runtime, move |shard| {
        let (listening, codec) = (listening.clone(), serving.clone());
        async move {
            let serve = move |connection| echo(Framed::new(connection, codec.clone()), seed);
            shard.accept_on(&listening)?.serve(10, serve).await;
            Ok(())
        }
    });
    let to = Address::Inet(host.at(7));
    let connection = world.shard().connect(&to, &ConnectOptions::default()).await?;
    world.shard().timeout(PATIENCE, talk(world.clone(), connection, codec)).await.context("it hangs")??;
    running.stop(Duration::from_secs(5));
    running.await?;
    Ok(())
}

#[test]
fn frames_of_each_kind_come_back() {
    Check::new().seeds(60).run(|world| frames_come_back(world, Lines::new(LineEnding::CrLf, LIMIT)));
    Check::new().seeds(60).run(|world| frames_come_back(world, Lines::new(LineEnding::Lf, LIMIT)));
    Check::new().seeds(60).run(|world| frames_come_back(world, Netstrings::new(LIMIT)));
    Check::new().seeds(60).run(|world| frames_come_back(world, Prefixed::new(Width::Bits16, LIMIT)));
}

/// A connection between the test and a program that does this with it.
async fn with_server<F>(
    world: &World,
    serve: impl Fn(Connection) -> F + Clone + Send + Sync + 'static,
) -> anyhow::Result<Connection>
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let host = world.host("server");
    let runtime = host.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:7")?;
    drop(host.start(runtime, move |shard| {
        let (listening, serve) = (listening.clone(), serve.clone());
        async move {
            shard.accept_on(&listening)?.serve(10, serve).await;
            Ok(())
        }
    }));
    Ok(world.shard().connect(&Address::Inet(host.at(7)), &ConnectOptions::default()).await?)
}

#[test]
fn a_stream_goes_on_in_another_way_behind_a_frame() {
    Check::new().seeds(100).run(|world| async move {
        let mut client = with_server(&world, |connection| async move {
            let mut lines = Framed::new(connection, Lines::new(LineEnding::Either, 20));
            ensure!(lines.receive().await? == Some(b"raw".as_slice()));
            let mut bare = lines.into_connection().ok().context("between frames")?;
            let mut raw = [0; 7];
            bare.read_exact(&mut raw).await?;
            ensure!(raw == *b"\n\r\nx,y:", "{raw:?}");
            let mut strings = Framed::new(bare, Netstrings::new(20));
            ensure!(strings.receive().await? == Some(b"more".as_slice()));
            let mut lines =
                strings.with_codec(Lines::new(LineEnding::Lf, 20)).ok().context("between frames")?;
            ensure!(lines.receive().await? == Some(b"end".as_slice()));
            lines.send(b"good").await?;
            Ok(lines.close().await?)
        })
        .await?;
        client.write_all(b"raw\r\n\n\r\nx,y:4:more,end\n").await?;
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await?;
        ensure!(answer == *b"good\n", "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_frame_that_is_too_long_is_the_peers_fault_and_stays_an_error() {
    Check::new().seeds(100).run(|world| async move {
        let mut client = with_server(&world, |connection| async move {
            let mut framed = Framed::new(connection, Prefixed::new(Width::Bits32, 1_000));
            ensure!(framed.receive().await?.map(<[u8]>::len) == Some(1_000));
            for _ in 0..2 {
                let expected = FrameError::Announced { announced: 1_001, limit: 1_000 };
                match framed.receive().await {
                    Err(ReceiveError::Frame(error)) if error == expected => {}
                    other => anyhow::bail!("{other:?}"),
                }
            }
            framed.send(b"no").await?;
            Ok(framed.close().await?)
        })
        .await?;
        client.write_all(&[&[0, 0, 3, 232][..], &[7; 1_000], &[0, 0, 3, 233, 7, 7]].concat()).await?;
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await?;
        ensure!(answer == *b"\0\0\0\x02no", "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_send_that_is_dropped_on_the_way_is_whole_all_the_same() {
    const LONG: usize = 1 << 20;
    Check::new().seeds(20).run(|world| async move {
        let client = with_server(&world, |connection| async move {
            let mut framed = Framed::new(connection, Prefixed::new(Width::Bits32, LONG));
            let shard = Shard::current().context("a shard")?;
            // Nobody reads, so that a part of it goes and the rest does not.
            let sent = shard.timeout(Duration::from_secs(1), framed.send(&vec![7; LONG])).await;
            ensure!(sent.is_err(), "all of it was taken");
            // Receiving sends the rest.
            ensure!(framed.receive().await? == Some(b"?".as_slice()));
            framed.send(b"!").await?;
            Ok(framed.close().await?)
        })
        .await?;
        let mut framed = Framed::new(client, Prefixed::new(Width::Bits32, LONG));
        world.sleep(Duration::from_secs(2)).await;
        let first = framed.receive().await?.context("a frame")?;
        ensure!(first.len() == LONG && first.iter().all(|byte| *byte == 7), "{} bytes", first.len());
        framed.send(b"?").await?;
        ensure!(framed.receive().await? == Some(b"!".as_slice()));
        ensure!(framed.receive().await?.is_none());
        Ok(())
    });
}
