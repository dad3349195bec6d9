//! Layers on virtual time: each limit at its moment, rates that hold, and pumps that go through them.

use std::any::Any;
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join, join_all};
use waterwheel::net::layer::{Bucket, Clients, TimedOut, Timeouts};
use waterwheel::net::{Connection, End};
use waterwheel::reactor::{Address, ConnectOptions, Incoming, Side, Sink, Source, Time, Transport};
use waterwheel::sim::{Check, Host, Running, World};

const SECOND: Duration = Duration::from_secs(1);
/// What turns, alarms and the wire may add to a moment in a drawn world.
const SLACK: Duration = Duration::from_millis(500);

/// A program that accepts so many connections and serves them together; it fails if one of them does.
fn server<F>(
    world: &World,
    name: &str,
    count: usize,
    serve: impl Fn(Connection) -> F + Clone + Send + Sync + 'static,
) -> anyhow::Result<(Host, Running<()>)>
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let host = world.host(name);
    let runtime = host.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:7")?;
    let running = host.start(runtime, move |shard| {
        let (listening, serve) = (listening.clone(), serve.clone());
        async move {
            let mut acceptor = shard.accept_on(&listening)?;
            let mut serving = Vec::new();
            for _ in 0..count {
                serving.push(serve(acceptor.accept().await.context("a connection")??));
            }
            join_all(serving).await.into_iter().collect()
        }
    });
    Ok((host, running))
}

async fn client(world: &World, host: &Host) -> io::Result<Connection> {
    world.shard().connect(&Address::Inet(host.at(7)), &ConnectOptions::default()).await
}

/// That an operation ended with this timeout, so long after `since`.
fn met<T>(
    result: io::Result<T>,
    limit: TimedOut,
    now: Time,
    since: Time,
    after: Duration,
) -> anyhow::Result<()> {
    let error = result.err().context("it ended well")?;
    ensure!(error.kind() == ErrorKind::TimedOut && TimedOut::of(&error) == Some(limit), "{error:?}");
    let elapsed = now.since(since);
    ensure!(elapsed >= after && elapsed < after + SLACK, "{limit:?} after {elapsed:?}, not {after:?}");
    Ok(())
}

#[test]
fn an_idle_connection_is_told_so_and_may_say_a_last_word() {
    Check::new().run(|world| async move {
        let (host, running) = server(&world, "server", 1, |connection| async move {
            let limit = SECOND * 10;
            let mut connection = connection.timed(Timeouts { idle: Some(limit), ..Timeouts::default() });
            let shard = connection.shard().clone();
            for _ in 0..4 {
                let count = connection.fill().await?.len();
                connection.consume(count);
            }
            // What is sent counts too.
            shard.sleep(SECOND * 6).await;
            connection.write_all(b"still there?").await?;
            let since = shard.now();
            let filled = connection.fill().await.map(<[u8]>::len);
            met(filled, TimedOut::Idle(limit), shard.now(), since, limit)?;
            ensure!(connection.fill().await.is_err(), "reading goes on");
            connection.write_all(b" bye").await?;
            Ok(connection.close().await?)
        })?;
        let mut client = client(&world, &host).await?;
        for _ in 0..4 {
            client.write_all(b"x").await?;
            world.sleep(SECOND * 6).await;
        }
        let mut said = [0; 16];
        client.read_exact(&mut said).await?;
        ensure!(said == *b"still there? bye");
        running.await?;
        Ok(())
    });
}

#[test]
fn the_first_byte_has_its_own_time() {
    Check::new().run(|world| async move {
        let limit = SECOND * 5;
        let timeouts = Timeouts { first_byte: Some(limit), ..Timeouts::default() };
        let (host, running) = server(&world, "server", 2, move |connection| async move {
            let (shard, since) = (connection.shard().clone(), connection.shard().turn_time());
            let mut connection = connection.timed(timeouts);
            let Ok(count) = connection.fill().await.map(<[u8]>::len) else {
                let again = connection.fill().await.map(<[u8]>::len);
                return met(again, TimedOut::FirstByte(limit), shard.now(), since, limit);
            };
            // From now on it has all the time in the world.
            connection.consume(count);
            ensure!(connection.fill().await?.is_empty(), "a byte more");
            ensure!(shard.now().since(since) >= SECOND * 20);
            Ok(())
        })?;
        let (silent, mut late) = (client(&world, &host).await?, client(&world, &host).await?);
        world.sleep(SECOND * 4).await;
        late.write_all(b"x").await?;
        world.sleep(SECOND * 20).await;
        drop((silent, late));
        running.await?;
        Ok(())
    });
}

#[test]
fn the_whole_time_ends_both_halves_whatever_moves() {
    Check::new().run(|world| async move {
        let limit = SECOND * 10;
        let (host, running) = server(&world, "server", 1, move |connection| async move {
            let timeouts = Timeouts { total: Some(limit), idle: Some(SECOND * 3), ..Timeouts::default() };
            let (shard, since) = (connection.shard().clone(), connection.shard().turn_time());
            let mut connection = connection.timed(timeouts);
            let error = loop {
                match connection.fill().await.map(<[u8]>::len) {
                    Ok(count) => connection.consume(count),
                    Err(error) => break error,
                }
            };
            met::<()>(Err(error), TimedOut::Total(limit), shard.now(), since, limit)?;
            let written = connection.write(b"x").await;
            met(written, TimedOut::Total(limit), shard.now(), since, limit)
        })?;
        let mut client = client(&world, &host).await?;
        let sent = async {
            loop {
                if let Err(error) = client.write_all(b"x").await {
                    return error.kind();
                }
                world.sleep(SECOND).await;
            }
        };
        let kind = world.shard().timeout(SECOND * 20, sent).await.context("not reset")?;
        ensure!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
        running.await?;
        Ok(())
    });
}

#[test]
fn a_peer_that_does_not_read_is_reset_and_both_halves_know() {
    Check::new().run(|world| async move {
        let limit = SECOND * 5;
        let (host, running) = server(&world, "server", 1, move |connection| async move {
            let timeouts = Timeouts { stalled_write: Some(limit), ..Timeouts::default() };
            let (mut receiving, mut sending) = connection.timed(timeouts).split();
            let write = async {
                loop {
                    if let Err(error) = sending.write(&[7; 4096]).await {
                        return error;
                    }
                }
            };
            // Waits for bytes meanwhile, with no limit of its own.
            let (written, filled) = join(write, async { receiving.fill().await.map(<[u8]>::len) }).await;
            ensure!(TimedOut::of(&written) == Some(TimedOut::StalledWrite(limit)), "{written:?}");
            let filled = filled.err().context("the other half does not know")?;
            ensure!(
                matches!(
                    filled.kind(),
                    ErrorKind::TimedOut | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                ),
                "{filled:?}"
            );
            let again = receiving.fill().await.map(<[u8]>::len).err().context("it came back")?;
            ensure!(TimedOut::of(&again) == Some(TimedOut::StalledWrite(limit)), "{again:?}");
            Ok(())
        })?;
        let mut client = client(&world, &host).await?;
        let since = world.now();
        world.shard().timeout(SECOND * 60, running).await.context("it hangs")??;
        ensure!(world.now().since(since) >= limit, "too early");
        let end = loop {
            match client.fill().await.map(<[u8]>::len) {
                Ok(0) => anyhow::bail!("a stream that was cut looks whole"),
                Ok(count) => client.consume(count),
                Err(error) => break error.kind(),
            }
        };
        ensure!(end == ErrorKind::ConnectionReset, "{end:?}");
        Ok(())
    });
}

#[test]
fn a_peer_that_reads_slowly_is_not_stalled() {
    const BYTES: usize = 200_000;
    Check::new().seeds(40).run(|world| async move {
        let (host, running) = server(&world, "server", 1, |connection| async move {
            let timeouts = Timeouts { stalled_write: Some(SECOND * 5), ..Timeouts::default() };
            let mut connection = connection.timed(timeouts);
            connection.write_all(&vec![7; BYTES]).await?;
            Ok(connection.close().await?)
        })?;
        let mut client = client(&world, &host).await?;
        for _ in 0..BYTES / 20_000 {
            client.read_exact(&mut [0; 20_000]).await?;
            world.sleep(Duration::from_millis(1_500)).await;
        }
        running.await?;
        Ok(())
    });
}

/// How long so many bytes take through a full bucket.
fn paced(bytes: usize, rate: u64, burst: u64) -> Duration {
    Duration::from_secs_f64((bytes as f64 - burst as f64) / rate as f64)
}

async fn read_all(connection: &mut Connection) -> io::Result<usize> {
    let mut all = 0;
    loop {
        match connection.fill().await?.len() {
            0 => return Ok(all),
            count => {
                connection.consume(count);
                all += count;
            }
        }
    }
}

#[test]
fn a_bucket_lets_pass_what_it_says_in_both_directions() {
    const BYTES: usize = 100_000;
    const RATE: u64 = 10_000;
    const BURST: u64 = 5_000;
    Check::new().seeds(40).run(|world| async move {
        let (host, running) = server(&world, "server", 1, |connection| async move {
            let shard = connection.shard().clone();
            let (inward, outward) = (Bucket::new(&shard, RATE, BURST), Bucket::new(&shard, RATE, BURST));
            let mut connection = connection.throttle_receiving(&inward).throttle_sending(&outward);
            let since = shard.turn_time();
            ensure!(read_all(&mut connection).await? == BYTES);
            let took = shard.turn_time().since(since);
            let least = paced(BYTES, RATE, BURST);
            ensure!(took >= least && took < least + SLACK * 2, "receiving took {took:?}, not {least:?}");
            let since = shard.turn_time();
            connection.write_all(&vec![7; BYTES]).await?;
            let took = shard.turn_time().since(since);
            ensure!(took >= least && took < least + SLACK * 2, "sending took {took:?}, not {least:?}");
            connection.close().await?;
            // What was not used is there again.
            shard.sleep(SECOND).await;
            ensure!((inward.available(), outward.available()) == (BURST, BURST));
            Ok(())
        })?;
        let mut client = client(&world, &host).await?;
        client.write_all(&vec![7; BYTES]).await?;
        client.close_write().await?;
        ensure!(read_all(&mut client).await? == BYTES);
        running.await?;
        Ok(())
    });
}

#[test]
fn those_who_share_a_bucket_have_equal_parts() {
    const BYTES: usize = 50_000;
    const RATE: u64 = 40_000;
    const BURST: u64 = 4_000;
    const COUNT: usize = 4;
    Check::new().seeds(40).run(|world| async move {
        let host = world.host("server");
        let runtime = host.runtime(1);
        let listening = runtime.listen("tcp:0.0.0.0:7")?;
        let running = host.start(runtime, move |shard| {
            let listening = listening.clone();
            async move {
                let (mut acceptor, bucket) = (shard.accept_on(&listening)?, Bucket::new(&shard, RATE, BURST));
                let mut all = Vec::new();
                for _ in 0..COUNT {
                    all.push(acceptor.accept().await.context("a connection")??.throttle_sending(&bucket));
                }
                let since = shard.turn_time();
                let took = join_all(all.into_iter().map(async |mut connection| {
                    connection.write_all(&vec![7; BYTES]).await?;
                    let took = shard.turn_time().since(since);
                    connection.close().await?;
                    anyhow::Ok(took)
                }));
                let took: Vec<_> = took.await.into_iter().collect::<Result<_, _>>()?;
                let (least, most) = (took.iter().min().copied(), took.iter().max().copied());
                let (least, most) = least.zip(most).context("nobody")?;
                let expected = paced(COUNT * BYTES, RATE, BURST);
                ensure!(most >= expected && most < expected + SLACK * 2, "{took:?}, not {expected:?}");
                ensure!(least > most.mul_f64(0.8), "not in equal parts: {took:?}");
                Ok(())
            }
        });
        let clients = (0..COUNT).map(|_| async {
            let mut client = client(&world, &host).await?;
            ensure!(read_all(&mut client).await? == BYTES);
            Ok(())
        });
        join_all(clients).await.into_iter().collect::<anyhow::Result<()>>()?;
        running.await?;
        Ok(())
    });
}

/// A layer of one's own: sees whether a reactor's way to forward without a copy would be taken.
#[derive(Debug)]
struct OwnSource(Box<dyn Source>);
#[derive(Debug)]
struct OwnSink(Box<dyn Sink>, Rc<Cell<u64>>);

impl Source for OwnSource {
    fn poll_fill(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<&[u8]>> {
        self.0.poll_fill(cx)
    }
    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
    fn poll_release(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<Incoming>> {
        self.0.poll_release(cx)
    }
    fn abort(&mut self) {
        self.0.abort();
    }
    fn peer(&self) -> io::Result<Address> {
        self.0.peer()
    }
    fn local(&self) -> io::Result<Address> {
        self.0.local()
    }
}

impl Sink for OwnSink {
    fn poll_write(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }
    fn poll_forward(
        &mut self,
        cx: &mut Cx<'_>,
        from: &mut dyn Source,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        let any: &mut dyn Any = from;
        let Some(own) = any.downcast_mut::<OwnSource>() else {
            return Poll::Ready(Err(Side::Sink(io::Error::other("not the source that is inside"))));
        };
        let moved = self.0.poll_forward(cx, &mut *own.0, most);
        if let Poll::Ready(Ok(count)) = moved {
            self.1.set(self.1.get() + count as u64);
        }
        moved
    }
    fn poll_flush(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }
    fn poll_shutdown(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
    fn abort(&mut self) {
        self.0.abort();
    }
}

fn own(connection: Connection, forwarded: &Rc<Cell<u64>>) -> Connection {
    let forwarded = forwarded.clone();
    connection.layered(|Transport { source, sink }| Transport {
        source: Box::new(OwnSource(source)),
        sink: Box::new(OwnSink(sink, forwarded)),
    })
}

#[test]
fn a_pump_goes_through_layers_to_what_is_inside_them() {
    const BYTES: usize = 60_000;
    const RATE: u64 = 20_000;
    const BURST: u64 = 10_000;
    Check::new().seeds(40).run(|world| async move {
        let (origin, at_origin) = server(&world, "origin", 1, |mut connection| async move {
            let all = read_all(&mut connection).await?;
            connection.write_all(&vec![8; all]).await?;
            Ok(connection.close().await?)
        })?;
        let to = Address::Inet(origin.at(7));
        let (proxy, at_proxy) = server(&world, "proxy", 1, move |near| {
            let to = to.clone();
            async move {
                let shard = near.shard().clone();
                let far = shard.connect(&to, &ConnectOptions::default()).await?;
                let (forwarded, bucket) = (Rc::default(), Bucket::new(&shard, RATE, BURST));
                let timeouts = Timeouts {
                    idle: Some(SECOND * 60),
                    first_byte: Some(SECOND * 60),
                    total: Some(SECOND * 600),
                    stalled_write: Some(SECOND * 60),
                };
                let near = own(near, &forwarded).timed(timeouts).throttle_receiving(&bucket);
                let far = own(far, &forwarded).throttle_sending(&bucket).timed(timeouts);
                let since = shard.turn_time();
                let exchange = near.pump(far, None).await;
                ensure!(matches!(exchange.end, End::Finished), "{exchange:?}");
                ensure!((exchange.forth, exchange.back) == (BYTES as u64, BYTES as u64), "{exchange:?}");
                ensure!(forwarded.get() == 2 * BYTES as u64, "not all of it went inside the layers");
                // Each byte forth is paid twice, those back not at all.
                let (took, least) = (shard.turn_time().since(since), paced(2 * BYTES, RATE, BURST));
                ensure!(took >= least && took < least + SLACK * 4, "it took {took:?}, not {least:?}");
                Ok(())
            }
        })?;
        let mut client = client(&world, &proxy).await?;
        client.write_all(&vec![7; BYTES]).await?;
        client.close_write().await?;
        ensure!(read_all(&mut client).await? == BYTES);
        at_proxy.await?;
        at_origin.await?;
        Ok(())
    });
}

#[test]
fn a_pump_ends_at_a_limit_of_either_side() {
    Check::new().run(|world| async move {
        let (origin, at_origin) = server(&world, "origin", 1, |mut connection| async move {
            // Reset, however long it waits.
            ensure!(read_all(&mut connection).await.is_err(), "a cut stream looks whole");
            Ok(())
        })?;
        let (to, near_is_timed) = (Address::Inet(origin.at(7)), world.chance(0.5));
        let (proxy, at_proxy) = server(&world, "proxy", 1, move |near| {
            let to = to.clone();
            async move {
                let shard = near.shard().clone();
                let far = shard.connect(&to, &ConnectOptions::default()).await?;
                let timeouts = Timeouts { idle: Some(SECOND * 5), ..Timeouts::default() };
                let exchange = match near_is_timed {
                    true => near.timed(timeouts).pump(far, None).await,
                    false => near.pump(far.timed(timeouts), None).await,
                };
                let End::Broken(side) = exchange.end else { anyhow::bail!("{exchange:?}") };
                ensure!(matches!(side, Side::Source(_)) == near_is_timed, "{side:?}");
                ensure!(TimedOut::of(&side.into_inner()) == Some(TimedOut::Idle(SECOND * 5)));
                Ok(())
            }
        })?;
        let mut client = client(&world, &proxy).await?;
        for _ in 0..4 {
            client.write_all(b"x").await?;
            world.sleep(SECOND * 3).await;
        }
        at_proxy.await?;
        at_origin.await?;
        Ok(())
    });
}

#[test]
fn what_lingers_is_neither_throttled_nor_timed() {
    const SENT: usize = 50_000;
    Check::new().seeds(40).run(|world| async move {
        let (host, running) = server(&world, "server", 1, |connection| async move {
            let bucket = Bucket::new(connection.shard(), 10, 10);
            let timeouts = Timeouts { idle: Some(SECOND / 1_000), ..Timeouts::default() };
            let mut connection = connection.timed(timeouts).throttle_receiving(&bucket);
            connection.write_all(b"no").await?;
            Ok(connection.close().await?)
        })?;
        let mut client = client(&world, &host).await?;
        world.sleep(SECOND / 2).await;
        client.write_all(&vec![7; SENT]).await?;
        client.close_write().await?;
        world.sleep(SECOND * 10).await;
        let mut said = [0; 2];
        client.read_exact(&mut said).await.context("the answer was destroyed")?;
        ensure!(said == *b"no" && client.fill().await?.is_empty());
        running.await?;
        Ok(())
    });
}

#[test]
fn a_client_has_so_many_connections_and_gets_its_places_back() {
    Check::new().run(|world| async move {
        let host = world.host("server");
        let runtime = host.runtime(1);
        let listening = runtime.listen("tcp:0.0.0.0:7")?;
        let running = host.start(runtime, move |shard| {
            let listening = listening.clone();
            async move {
                let clients = Clients::new(2);
                let inside = clients.clone();
                let serve = move |connection| {
                    let clients = inside.clone();
                    async move {
                        let mut connection = clients.admit(connection)?;
                        connection.write_all(b"!").await?;
                        read_all(&mut connection).await?;
                        Ok(connection.close().await?)
                    }
                };
                shard.accept_on(&listening)?.serve(100, serve).await;
                ensure!(clients.connected() == 0, "{clients:?} when all are gone");
                Ok(clients.refused())
            }
        });
        let mut refused = 0;
        for _ in 0..3 {
            let mut admitted = Vec::new();
            for _ in 0..5 {
                // Whoever is refused may be so before it knows that it is connected.
                let served = async {
                    let mut client = client(&world, &host).await?;
                    client.fill().await?;
                    io::Result::Ok(client)
                };
                match served.await {
                    Ok(client) => admitted.push(client),
                    Err(_) => refused += 1,
                }
            }
            ensure!(admitted.len() == 2, "{} were admitted", admitted.len());
            for client in admitted {
                client.close().await?;
            }
            // What lingers counts.
            world.sleep(SECOND * 5).await;
        }
        running.stop(SECOND * 5);
        ensure!(running.await? == [refused]);
        Ok(())
    });
}
