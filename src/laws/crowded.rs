//! Shards at their limit, shards that ended, and handlers that panic: what their neighbours' clients notice of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use waterwheel::net::{Connection, pump};
use waterwheel::runtime::{RunError, Runtime, Stopper};

use super::kit::{LONG, Server, client, config, end_of, on_each_reactor, spawn};

on_each_reactor![
    a_shard_at_its_limit_keeps_no_neighbours_client_waiting,
    a_shard_that_ended_keeps_no_client_waiting,
    a_stop_is_noticed_at_the_limit,
    a_panic_with_half_a_connection_resets_it,
    a_panic_before_the_first_wait_ends_one_connection,
];

async fn echo(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    pump(&mut receiving, &mut sending).await?;
    Ok(())
}

/// A server whose shards have limits of their own; `None`: the shard panics before it listens.
fn limited(
    reactor: &str,
    limits: &'static [Option<usize>],
) -> (SocketAddr, Stopper, JoinHandle<Result<Vec<()>, RunError>>) {
    let (config, (tell, told)) = (config(reactor, limits.len()), channel());
    let running = spawn(move || {
        let runtime = Runtime::new(config).expect("a configuration that suits").without_signals();
        let listening = runtime.listen("127.0.0.1:0").expect("a free port");
        tell.send((listening.local().inet().unwrap(), runtime.stopper())).expect("somebody waits");
        runtime.run(move |shard| {
            let listening = listening.clone();
            async move {
                let limit = limits[shard.id().index()].expect("planned: no instance could be made");
                shard.accept_on(&listening)?.serve(limit, echo).await;
                Ok(())
            }
        })
    });
    let (at, stopper) = told.recv_timeout(LONG).expect("a server that starts");
    (at, stopper, running)
}

fn answered(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read(&mut [0; 8]).is_ok_and(|count| count == 1)
}

fn a_shard_at_its_limit_keeps_no_neighbours_client_waiting(reactor: &str) {
    // More than the crowded shard's queue and its lane hold.
    const CLIENTS: usize = 900;
    let (at, stopper, running) = limited(reactor, &[Some(usize::MAX), Some(1)]);
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| client(at)).collect();
    for stream in &mut clients {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        stream.write_all(b"x").unwrap();
    }
    // One is served by the crowded shard, and so many may wait for it: its queue, and the lane to it.
    let may_wait = 128 + 256;
    let mut open: Vec<TcpStream> = clients;
    for _ in 0..2_000 {
        open.retain_mut(|stream| stream.read(&mut [0; 8]).is_err());
        if open.len() <= may_wait {
            break;
        }
    }
    assert!(open.len() <= may_wait, "{} of {CLIENTS} wait though a shard has room", open.len());
    stopper.stop(Duration::ZERO);
    let _ = running.join().unwrap();
}

fn a_shard_that_ended_keeps_no_client_waiting(reactor: &str) {
    let (at, stopper, running) = limited(reactor, &[Some(usize::MAX), None]);
    let served = (0..40).filter(|_| {
        let mut stream = client(at);
        // Reset, if the shard had it in its queue when it ended; never left to wait.
        stream.set_read_timeout(Some(LONG)).unwrap();
        let answered = answered(&mut stream);
        let waited = stream.take_error().unwrap().is_some_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!waited, "a client waits for a shard that has ended");
        answered
    });
    assert!(served.count() >= 20, "the other shard does not take over");
    stopper.stop(Duration::from_secs(5));
    assert!(matches!(running.join().unwrap(), Err(RunError::Panicked { shard: 1 })));
}

fn a_stop_is_noticed_at_the_limit(reactor: &str) {
    let (at, stopper, running) = limited(reactor, &[Some(1)]);
    let mut only = client(at);
    assert!(answered(&mut only));
    stopper.stop(LONG);
    let refused = (0..1_000).any(|_| {
        let late = TcpStream::connect(at);
        late.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(refused, "a shard at its limit listens on while it drains");
    drop(only);
    running.join().unwrap().unwrap();
}

fn a_panic_with_half_a_connection_resets_it(reactor: &str) {
    let server = Server::start(config(reactor, 1), |connection: Connection| async move {
        let (_receiving, mut sending) = connection.split();
        sending.write_all(b"half").await?;
        panic!("planned: in the middle of an answer");
    });
    let mut stream = client(server.at);
    assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset), "half an answer looks like a whole one");
    server.stop().unwrap();
}

fn a_panic_before_the_first_wait_ends_one_connection(reactor: &str) {
    let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let server = Server::start(config(reactor, 1), move |connection: Connection| {
        assert!(!first.swap(false, std::sync::atomic::Ordering::SeqCst), "planned: the first one");
        echo(connection)
    });
    let mut unlucky = client(server.at);
    assert!(!answered(&mut unlucky));
    assert!(answered(&mut client(server.at)), "one connection's panic ended the listener");
    server.stop().unwrap();
}
