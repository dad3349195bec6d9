//! What an operator gives to each shard: shares of groups, and how many connections it may have.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use waterwheel::net::Connection;
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::{Quotas, Runtime};
use waterwheel::shard::{Phase, Shares};

use super::kit::{Origin, Server, client, config, eventually, keep_log, logged, on_each_reactor, waits};

on_each_reactor![
    a_shard_with_all_its_connections_accepts_no_more_until_one_ends,
    descriptors_are_kept_for_what_a_shard_connects_to,
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

fn a_shard_with_all_its_connections_accepts_no_more_until_one_ends(reactor: &str) {
    keep_log();
    let quotas = Quotas { connections: Some(2), descriptors: None };
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
    let quotas = Quotas { connections: None, descriptors: Some(10) };
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
