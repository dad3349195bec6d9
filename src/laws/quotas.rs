//! What an operator gives to each shard: shares of groups, how many connections it may have, and how much these may hold.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use waterwheel::net::Connection;
use waterwheel::process::{Command, SpawnError, Stdio};
use waterwheel::reactor::{Address, Buffered, ConnectOptions};
use waterwheel::runtime::{Quotas, Runtime};
use waterwheel::shard::{Phase, Shard, Shares};

use super::kit::{
    Origin, Pattern, Server, client, config, eventually, keep_log, logged, on_each_reactor, spawn,
    until_full, waits,
};

on_each_reactor![
    a_shard_with_all_its_connections_accepts_no_more_until_one_ends,
    descriptors_are_kept_for_what_a_shard_connects_to,
    datagram_sockets_and_children_count_among_descriptors,
    slow_peers_hold_no_more_than_the_quota_and_keep_nobody_from_being_served,
    an_operators_shares_count_before_the_programs,
];

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(connection.close().await?)
}

fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

fn datagram_sockets_and_children_count_among_descriptors(reactor: &str) {
    let quotas = Quotas { descriptors: Some(4), ..Quotas::default() };
    let runtime = Runtime::new(config(reactor, 1).quotas(quotas)).unwrap().without_signals();
    let group = runtime.datagrams("udp:127.0.0.1:0").unwrap();
    let ran = runtime.run(move |shard| {
        let group = group.clone();
        async move {
            let any = Address::Inet("127.0.0.1:0".parse()?);
            let bind = || shard.bind_datagrams(&any, &Default::default());
            let mut sockets = (0..4).map(|_| bind()).collect::<Result<Vec<_>, _>>()?;
            assert_eq!(bind().unwrap_err().kind(), ErrorKind::QuotaExceeded);
            assert_eq!(shard.datagrams_on(&group).unwrap_err().kind(), ErrorKind::QuotaExceeded);
            sockets.truncate(2);
            // What was refused is there for the next attempt.
            sockets.push(shard.datagrams_on(&group)?);
            let child = Command::new("cat").stdin(Stdio::Piped);
            let refused = shard.spawn_process(&child).await.unwrap_err();
            assert!(
                matches!(&refused, SpawnError::System(error) if error.kind() == ErrorKind::QuotaExceeded),
                "{refused}"
            );
            // A sender that is left has no descriptor.
            let left = sockets[2].sender();
            sockets.pop();
            assert!(left.has_ended());
            let mut child = shard.spawn_process(&child).await?;
            assert_eq!(bind().unwrap_err().kind(), ErrorKind::QuotaExceeded);
            child.wait().await?;
            drop(child);
            // The task that saw its end has it for a moment longer.
            while bind().is_err() {
                shard.yield_now().await;
            }
            Ok(())
        }
    });
    ran.unwrap();
}

fn a_shard_with_all_its_connections_accepts_no_more_until_one_ends(reactor: &str) {
    keep_log();
    let quotas = Quotas { connections: Some(2), ..Quotas::default() };
    let server = Server::start(config(reactor, 1).quotas(quotas), echo);
    let mut served = [(); 2].map(|()| client(server.at));
    assert!(served.iter_mut().all(answers));
    // They are connected as far as they know, and wait.
    let mut waiting = [(); 3].map(|()| client(server.at));
    waiting.iter_mut().for_each(|stream| stream.write_all(b"?").unwrap());
    assert!(!waits(&waiting[0], Duration::from_millis(100)), "a third one is served");
    eventually("the reason in the log", || {
        logged(&["the shard has as many connections as it may, clients wait", "shard=0"]).then_some(())
    });
    assert!(served.iter_mut().all(answers), "those that are served are");
    drop(served);
    for stream in waiting {
        let mut stream = stream;
        stream.read_exact(&mut [0]).expect("who waited is served in its turn");
    }
    let counted = server.stop().unwrap();
    assert_eq!((counted[0].accepted, counted[0].shed, counted[0].dropped), (5, 0, 0), "{counted:?}");
    assert!(counted[0].held_back >= 1, "{counted:?}");
}

fn descriptors_are_kept_for_what_a_shard_connects_to(reactor: &str) {
    let origin = Origin::echo();
    let to = Address::Inet(origin.at);
    // Nine for who comes, and one more for where they go.
    let quotas = Quotas { descriptors: Some(10), ..Quotas::default() };
    let server =
        Server::start(config(reactor, 1).quotas(quotas), move |connection| passes(connection, to.clone()));
    let mut clients: Vec<TcpStream> = (0..12).map(|_| client(server.at)).collect();
    let asks = |stream: &mut TcpStream, what: &[u8; 1]| -> u8 {
        let mut back = [0];
        stream.write_all(what).unwrap();
        stream.read_exact(&mut back).unwrap();
        back[0]
    };
    assert!(clients[..9].iter_mut().all(|stream| asks(stream, b"?") == b'?'));
    clients[9].write_all(b"?").unwrap();
    assert!(!waits(&clients[9], Duration::from_millis(100)), "a tenth one is served");
    assert_eq!(asks(&mut clients[0], b"c"), b'y', "the one that was kept");
    assert_eq!(asks(&mut clients[1], b"c"), b'n', "there is no other");
    assert_eq!(asks(&mut clients[0], b"d"), b'd');
    assert_eq!(asks(&mut clients[1], b"c"), b'y', "it was given back");
    drop(clients);
    server.stop().unwrap();
}

/// On `c` connects and answers whether that went well; on `d` gives up what it has connected to; else echoes.
async fn passes(mut connection: Connection, to: Address) -> anyhow::Result<()> {
    let (mut byte, mut made) = ([0], Vec::new());
    while connection.read(&mut byte).await? > 0 {
        let shard = connection.shard().clone();
        let answer = match byte {
            [b'c'] => match shard.connect(&to, &ConnectOptions::default()).await {
                Ok(upstream) => {
                    made.push(upstream);
                    b'y'
                }
                Err(error) => {
                    anyhow::ensure!(error.kind() == ErrorKind::QuotaExceeded, "{error}");
                    b'n'
                }
            },
            [b'd'] => {
                made.drain(..).for_each(Connection::abort);
                b'd'
            }
            [other] => other,
        };
        connection.write_all(&[answer]).await?;
    }
    Ok(())
}

/// What a shard may hold, and the most that it was seen to hold.
#[derive(Clone, Default)]
struct Held {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Held {
    fn look(&self, shard: &Shard) {
        self.now.store(shard.buffered_bytes(), SeqCst);
        self.most.fetch_max(shard.buffered_bytes(), SeqCst);
    }
}

/// More than all buffers on the way hold.
const ANSWER: u64 = 8 << 20;

/// Echoes single bytes. On `s` sends a long answer, with what came behind that byte before it lent meanwhile; then reads that to its
/// end, and tells how much it was.
async fn answers_late(mut connection: Connection, held: Held) -> anyhow::Result<()> {
    let (shard, mut byte) = (connection.shard().clone(), [0]);
    loop {
        if connection.read(&mut byte).await? == 0 {
            return Ok(connection.close().await?);
        }
        if byte == [b's'] {
            break;
        }
        connection.write_all(&byte).await?;
    }
    let mut sent = Pattern::new(1);
    connection.fill().await?;
    while sent.at() < ANSWER {
        held.look(&shard);
        let most = (ANSWER - sent.at()).min(128 << 10) as usize;
        let taken = connection.write(sent.next(most)).await?;
        sent.advance(taken);
    }
    connection.close_write().await?;
    let mut got = 0;
    loop {
        let count = connection.fill().await?.len();
        held.look(&shard);
        if count == 0 {
            break;
        }
        got += count as u64;
        connection.consume(count);
    }
    anyhow::ensure!(got > 0);
    Ok(())
}

fn slow_peers_hold_no_more_than_the_quota_and_keep_nobody_from_being_served(reactor: &str) {
    const QUOTA: usize = 512 << 10;
    const CLIENTS: usize = 64;
    keep_log();
    let held = Held::default();
    let quotas = Quotas { buffered_bytes: Some(QUOTA), ..Quotas::default() };
    let told = held.clone();
    let server = Server::start_with(config(reactor, 1).quotas(quotas), move |_| {
        let told = told.clone();
        move |shard: &Shard| {
            let (looks, own) = (told.clone(), shard.clone());
            drop(shard.spawn("looks", async move {
                loop {
                    looks.look(&own);
                    own.sleep(Duration::from_millis(5)).await;
                }
            }));
            let told = told.clone();
            move |connection| answers_late(connection, told.clone())
        }
    });
    let mut lively = client(server.at);
    let mut slow: Vec<TcpStream> = (0..CLIENTS).map(|_| client(server.at)).collect();
    assert!(answers(&mut lively) && slow.iter_mut().all(answers));
    // They send more than is taken of them, and read nothing.
    let mut sending = Vec::new();
    for (number, mut stream) in slow.into_iter().enumerate() {
        sending.push(spawn(move || {
            let mut sent = Pattern::new(number as u64);
            stream.write_all(b"s").unwrap();
            until_full(&mut stream, &mut sent);
            stream
        }));
    }
    let slow: Vec<TcpStream> = sending.into_iter().map(|stream| stream.join().unwrap()).collect();
    let mut late = client(server.at);
    late.write_all(b"?").unwrap();
    assert!(
        !waits(&late, Duration::from_millis(100)),
        "one more is served, though nothing may be held for it"
    );
    eventually("the reason in the log", || {
        logged(&["the shard's connections hold as many bytes as they may, clients wait", "shard=0"])
            .then_some(())
    });
    assert!((0..100).all(|_| answers(&mut lively)), "who is served goes on, whatever others hold");
    // What io_uring sends may be in two buffers, one of which is with the kernel.
    let floor = Buffered::FLOOR * if reactor == "uring" { 3 } else { 1 };
    let most = held.most.load(SeqCst);
    assert!((QUOTA..=QUOTA + (CLIENTS + 2) * floor).contains(&most), "{most} bytes were held");
    // Then they read, and all of it is there.
    let reading: Vec<_> = slow
        .into_iter()
        .map(|mut stream| {
            spawn(move || {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(Pattern::new(1).read_to_end(&mut stream).unwrap(), ANSWER);
            })
        })
        .collect();
    late.read_exact(&mut [0]).expect("who waited is served");
    reading.into_iter().for_each(|reading| reading.join().unwrap());
    drop((late, lively));
    eventually("nothing to be held", || (held.now.load(SeqCst) == 0).then_some(()));
    let most = held.most.load(SeqCst);
    assert!(most <= QUOTA + (CLIENTS + 2) * floor, "{most} bytes were held");
    let counted = server.stop().unwrap();
    assert_eq!((counted[0].accepted, counted[0].shed, counted[0].dropped), (CLIENTS as u64 + 2, 0, 0));
    assert!(counted[0].held_back >= 1, "{counted:?}");
}

fn an_operators_shares_count_before_the_programs(reactor: &str) {
    let config = config(reactor, 1).shares("web", Shares(300)).latency_class("control");
    let seen = Arc::new(AtomicBool::new(false));
    let tell = seen.clone();
    let runtime = Runtime::new(config).unwrap().without_signals();
    runtime
        .run(move |shard| {
            let tell = tell.clone();
            async move {
                assert_eq!(shard.phase(), Phase::Running);
                let web = shard.group("web", Shares(1))?;
                web.set_shares(Shares(2))?;
                assert_eq!(web.shares(), Shares(300));
                let control = shard.group("control", Shares(7))?;
                assert_eq!(control.shares(), Shares(7), "nobody else has said");
                let stats = shard.group_stats();
                let first = stats.iter().filter(|group| group.latency_class).map(|group| group.name);
                assert_eq!(first.collect::<Vec<_>>(), ["control"]);
                tell.store(true, SeqCst);
                Ok(())
            }
        })
        .unwrap();
    assert!(seen.load(SeqCst));
}
