//! Shards at their limit, shards that ended, and handlers that panic: what their neighbours' clients notice of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use waterwheel::net::{AcceptStats, Connection, pump};
use waterwheel::reactor::Address;
use waterwheel::runtime::{Config, RunError, Runtime, Stopper};
use waterwheel::steer::{Mode, owner};

use super::kit::{LONG, Server, Watch, client, config, end_of, eventually, on_each_reactor, pause, spawn};
use super::steering::{client_from, try_client_from};

on_each_reactor![
    a_shard_at_its_limit_keeps_no_neighbours_client_waiting,
    what_three_shards_sent_to_one_at_its_limit_waits_there_no_longer_than_need_be,
    a_shard_that_ended_keeps_no_client_waiting,
    a_stop_is_noticed_at_the_limit,
    a_panic_with_half_a_connection_resets_it,
    a_panic_before_the_first_wait_ends_one_connection,
    a_client_of_a_crowded_shard_keeps_nobody_else_waiting_in_mode_source,
    who_was_accepted_before_a_stop_is_served,
];

async fn echo(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    pump(&mut receiving, &mut sending).await?;
    Ok(())
}

type Counted = Result<Vec<AcceptStats>, RunError>;

/// A server whose shards have limits of their own; `None`: the shard panics before it listens.
fn limited(reactor: &str, limits: &'static [Option<usize>]) -> (SocketAddr, Stopper, JoinHandle<Counted>) {
    limited_with(config(reactor, limits.len()), limits)
}

fn limited_with(
    config: Config,
    limits: &'static [Option<usize>],
) -> (SocketAddr, Stopper, JoinHandle<Counted>) {
    let (tell, told) = channel();
    let running = spawn(move || {
        let runtime = Runtime::new(config).expect("a configuration that suits").without_signals();
        let listening = runtime.listen("127.0.0.1:0").expect("a free port");
        tell.send((listening.local().inet().unwrap(), runtime.stopper())).expect("somebody waits");
        runtime.run(move |shard| {
            let listening = listening.clone();
            async move {
                let limit = limits[shard.id().index()].expect("planned: no instance could be made");
                let acceptor = shard.accept_on(&listening)?;
                let counters = acceptor.counters();
                acceptor.serve(limit, echo).await;
                Ok(counters.copy())
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
    none_waits(reactor, &[Some(usize::MAX), Some(1)]);
}

fn what_three_shards_sent_to_one_at_its_limit_waits_there_no_longer_than_need_be(reactor: &str) {
    none_waits(reactor, &[Some(usize::MAX), Some(1), Some(usize::MAX), Some(usize::MAX)]);
}

/// Though some shards are at their limits from the first connection on.
fn none_waits(reactor: &str, limits: &'static [Option<usize>]) {
    // More than the crowded shard's queue and the lanes to it hold.
    const CLIENTS: usize = 900;
    let (at, stopper, running) = limited(reactor, limits);
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| client(at)).collect();
    for stream in &mut clients {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        stream.write_all(b"x").unwrap();
    }
    let mut waiting: Vec<&mut TcpStream> = clients.iter_mut().collect();
    let watch = Watch::start();
    while !waiting.is_empty() {
        assert!(watch.elapsed() < LONG, "{} of {CLIENTS} wait though a shard has room", waiting.len());
        waiting.retain_mut(|stream| match stream.read(&mut [0; 8]) {
            Ok(count) => {
                assert_eq!(count, 1, "closed unserved");
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                true
            }
        });
    }
    stopper.stop(Duration::ZERO);
    let _ = running.join().unwrap();
}

fn a_shard_that_ended_keeps_no_client_waiting(reactor: &str) {
    let (at, stopper, running) = limited(reactor, &[Some(usize::MAX), None]);
    let served = (0..40).filter(|_| {
        // Reset, if the shard had it in its queue when it ended, maybe before connect(2) is back; never left to wait.
        let mut stream = match TcpStream::connect_timeout(&at, LONG) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
            Err(error) => panic!("a client that is neither served nor reset: {error}"),
        };
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
    let first = Arc::new(AtomicBool::new(true));
    let server = Server::start(config(reactor, 1), move |connection: Connection| {
        assert!(!first.swap(false, SeqCst), "planned: the first one");
        echo(connection)
    });
    let mut unlucky = client(server.at);
    assert!(!answered(&mut unlucky));
    assert!(answered(&mut client(server.at)), "one connection's panic ended the listener");
    server.stop().unwrap();
}

/// The seed of the hash, and a host that it gives to each of two shards.
const SEED: u32 = 7;

fn host_of(shard: usize) -> u8 {
    let at = |host: u8| Address::Inet(([127, 0, 0, host], 1).into());
    (1..=254).find(|host| owner(&at(*host), Mode::Source, SEED, 2) == Some(shard)).expect("a host for each")
}

fn sum(counted: &[AcceptStats]) -> AcceptStats {
    counted.iter().copied().fold(AcceptStats::default(), std::ops::Add::add)
}

fn a_client_of_a_crowded_shard_keeps_nobody_else_waiting_in_mode_source(reactor: &str) {
    // More than may wait for the crowded shard: its queue, the lane to it, and what the other holds on to.
    const CLIENTS: usize = 900;
    for program in [true, false] {
        let config = config(reactor, 2).steer(Mode::Source).steer_seed(SEED).steer_program(program);
        let (at, stopper, running) = limited_with(config, &[Some(usize::MAX), Some(1)]);
        let greedy: Vec<_> = (0..CLIENTS).map(|_| try_client_from(host_of(1), at)).collect();
        for _ in 0..20 {
            assert!(answered(&mut client_from(host_of(0), at)), "waits for another's shard");
        }
        drop(greedy);
        stopper.stop(LONG);
        let counted = sum(&running.join().unwrap().unwrap());
        if program {
            // They wait for their shard where they do not stand in anybody's way.
            assert!(counted.crowded == 0 && counted.accepted < CLIENTS as u64, "{counted:?}");
        } else {
            assert!(counted.crowded >= 300 && counted.accepted == CLIENTS as u64 + 20, "{counted:?}");
        }
    }
}

fn who_was_accepted_before_a_stop_is_served(reactor: &str) {
    const CLIENTS: u64 = 20;
    let ((blocks, blocked), (let_go, go)) = (channel(), channel::<()>());
    let (blocks, served) = (Arc::new(Mutex::new(Some((blocks, go)))), Arc::new(AtomicU64::new(0)));
    let (count, handed_over) = (served.clone(), Arc::new(AtomicU64::new(0)));
    let tells = handed_over.clone();
    let config = config(reactor, 2).steer(Mode::Source).steer_seed(SEED).steer_program(false);
    let (tell, told) = channel();
    let running = spawn(move || {
        let runtime = Runtime::new(config).unwrap().without_signals();
        let listening = runtime.listen("127.0.0.1:0").unwrap();
        tell.send((listening.local().inet().unwrap(), runtime.stopper())).unwrap();
        let handed = listening.clone();
        let counted = runtime.run(move |shard| {
            let (listening, blocks, served) = (listening.clone(), blocks.clone(), served.clone());
            let tells = tells.clone();
            async move {
                let acceptor = shard.accept_on(&listening)?;
                let counters = acceptor.counters();
                let (own, looks) = (shard.clone(), counters.clone());
                let telling = shard.spawn("tells", async move {
                    loop {
                        tells.fetch_max(looks.copy().handed_over, SeqCst);
                        own.sleep(Duration::from_millis(1)).await;
                    }
                });
                let serve = move |mut connection: Connection| {
                    let (blocks, served) = (blocks.clone(), served.clone());
                    async move {
                        served.fetch_add(1, SeqCst);
                        if let Some((blocks, go)) = blocks.lock().unwrap().take() {
                            blocks.send(())?;
                            // Blocks the shard itself, while the other one hands connections over to it.
                            let _ = go.recv_timeout(LONG);
                        }
                        Ok(connection.write_all(b".").await?)
                    }
                };
                acceptor.serve(usize::MAX, serve).await;
                telling.cancel();
                Ok(counters.copy())
            }
        });
        (counted, handed.undelivered())
    });
    let (at, stopper) = told.recv_timeout(LONG).unwrap();
    let first = client_from(host_of(1), at);
    blocked.recv_timeout(LONG).unwrap();
    let others: Vec<TcpStream> = (0..CLIENTS).map(|_| client_from(host_of(1), at)).collect();
    eventually("the kernel to give some to the shard that is free", || {
        (handed_over.load(SeqCst) > 0).then_some(())
    });
    stopper.stop(LONG);
    // Time for that shard to end before the one that owns them looks at them.
    pause(Duration::from_millis(300));
    drop(let_go);
    let (counted, undelivered) = running.join().unwrap();
    let counted = sum(&counted.unwrap());
    // The kernel gave about half of them to the shard that was free.
    assert!(counted.taken_over > 0 && counted.handed_over == counted.taken_over, "{counted:?}");
    assert_eq!((counted.accepted, undelivered), (count.load(SeqCst), 0), "{counted:?}");
    drop((first, others));
}
