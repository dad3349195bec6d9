//! What holds inside a runtime that serves connections: whose thread runs what, and what the others notice.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use waterwheel::net::Connection;
use waterwheel::runtime::{RunError, Runtime};
use waterwheel::shard::{Phase, Shard, ShardId};

use super::kit::{
    Origin, Proxy, Server, Watch, client, config, end_of, eventually, keep_log, meet, on_each_reactor, pause,
    spawn, times_logged,
};

on_each_reactor![
    shard_1_all_of_a_connection_runs_on_one_shard,
    shard_2_threads_are_pinned_as_asked,
    shard_5_a_panic_resets_its_connection_and_no_other,
    shard_5_a_blocked_shard_stops_no_other_and_is_reported,
    shard_6_an_error_of_one_shard_stops_the_others_in_order,
    stream_7_closing_with_unread_input_does_not_destroy_the_answer,
    stream_7_lingering_ends_with_a_peer_that_does_not,
    stream_7_a_shard_that_ends_lingers_too,
];

/// Lets who waits for it go on, also if the test fails.
struct LetGo(Arc<AtomicBool>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Held by who counts reports of stalls.
static ALONE: Mutex<()> = Mutex::new(());

/// Notes which thread drops it.
struct DropNote(Rc<Cell<Option<ThreadId>>>);

impl Drop for DropNote {
    fn drop(&mut self) {
        self.0.set(Some(thread::current().id()));
    }
}

fn shard_1_all_of_a_connection_runs_on_one_shard(reactor: &str) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let serve = move |mut connection: Connection| {
        let count = count.clone();
        async move {
            let (owner, mine) = (connection.shard().id(), thread::current().id());
            let check = move || {
                assert_eq!(thread::current().id(), mine);
                assert_eq!(Shard::current().expect("a shard's thread").id(), owner);
            };
            let shard = connection.shard().clone();
            let dropped = Rc::new(Cell::new(None));
            let note = DropNote(dropped.clone());
            let child = shard.spawn("child", async move {
                let _note = note;
                check();
            });
            let mut buffer = [0; 64];
            loop {
                let got = connection.read(&mut buffer).await?;
                check();
                shard.sleep(Duration::from_millis(1)).await;
                check();
                if got == 0 {
                    break;
                }
                connection.write_all(&buffer[..got]).await?;
                check();
            }
            child.await?;
            assert_eq!(dropped.get(), Some(mine));
            count.fetch_add(1, SeqCst);
            Ok(())
        }
    };
    let server = Server::start(config(reactor, 2), serve);
    let clients: Vec<_> = (0..20).map(|_| client(server.at)).collect();
    for mut stream in clients {
        stream.write_all(b"there and back").unwrap();
        stream.read_exact(&mut [0; 14]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), Ok(0));
    }
    server.stop().unwrap();
    assert_eq!(seen.load(SeqCst), 20, "a check failed");
}

fn shard_2_threads_are_pinned_as_asked(reactor: &str) {
    let mine = rustix::thread::sched_getaffinity(None).unwrap();
    let mut cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| mine.is_set(*cpu)).collect();
    // Not in the order in which they would be taken without being asked for.
    cpus.truncate(3);
    cpus.reverse();
    let list = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut command = Proxy::command(reactor, &[Origin::echo().at]);
    let proxy = Proxy::spawn(command.env_remove("WATERWHEEL_CORES").args(["--cpus", &list]));
    let masks: BTreeMap<String, String> = proxy.process.masks();
    for (shard, cpu) in cpus.iter().enumerate() {
        assert_eq!(masks.get(&format!("waterwheel-{shard}")), Some(&cpu.to_string()), "{masks:?}");
    }
    let others = masks.iter().filter(|(name, _)| !name.starts_with("waterwheel-"));
    assert!(others.into_iter().all(|(_, mask)| cpus.len() == 1 || mask.len() > 1), "not pinned: {masks:?}");
}

/// Echoes; panics at an `!`, blocks its thread at a `#` until `go` is set.
async fn moody(mut connection: Connection, go: Arc<AtomicBool>) -> anyhow::Result<()> {
    loop {
        let mut byte = [0];
        if connection.read(&mut byte).await? == 0 {
            return Ok(());
        }
        match byte {
            [b'!'] => panic!("on purpose"),
            [b'#'] => {
                while !go.load(SeqCst) {
                    pause(Duration::from_millis(1));
                }
            }
            _ => {}
        }
        connection.write_all(&[connection.shard().id().index() as u8]).await?;
    }
}

fn shard_5_a_panic_resets_its_connection_and_no_other(reactor: &str) {
    let server = Server::start(config(reactor, 2), |connection| moody(connection, Arc::default()));
    let mut others: Vec<_> = (0..8).map(|_| client(server.at)).collect();
    for _ in 0..10 {
        let mut stream = client(server.at);
        stream.write_all(b"!").unwrap();
        assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
        for other in &mut others {
            other.write_all(b"?").unwrap();
            other.read_exact(&mut [0]).unwrap();
        }
    }
    drop(others);
    server.stop().unwrap();
}

fn shard_5_a_blocked_shard_stops_no_other_and_is_reported(reactor: &str) {
    const TASK: &str = "task=\"connection\"";
    const BEGUN: [&str; 5] = ["WARN", "a shard is stalled", "shard=0", TASK, "spawned=src/net/listener.rs"];
    const OVER: [&str; 5] = ["WARN", "a turn stalled the shard", "shard=0", TASK, "length_ms="];
    keep_log();
    // Of the reports of other tests that run at the same time nobody can tell this one's.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let go = Arc::new(AtomicBool::new(false));
    let gate = go.clone();
    let config = config(reactor, 2).stall(Some(Duration::from_millis(50)));
    let server = Server::start(config, move |connection| moody(connection, gate.clone()));
    // One connection on each shard.
    let mut found: BTreeMap<u8, _> = BTreeMap::new();
    let watch = Watch::start();
    while found.len() < 2 {
        watch.left("connections on both shards");
        let (mut stream, mut shard) = (client(server.at), [0]);
        stream.write_all(b"?").unwrap();
        stream.read_exact(&mut shard).unwrap();
        found.insert(shard[0], stream);
    }
    let (mut blocked, mut free) = (found.remove(&0).unwrap(), found.remove(&1).unwrap());
    let _let_go = LetGo(go.clone());
    // The second time the shards, and who watches them, have slept before.
    for round in 0..2 {
        go.store(false, SeqCst);
        pause(Duration::from_millis(1_200) * round);
        let (begun, over) = (times_logged(&BEGUN), times_logged(&OVER));
        blocked.write_all(b"#").unwrap();
        let watch = Watch::start();
        while watch.elapsed() < Duration::from_millis(300) {
            free.write_all(b"?").unwrap();
            free.read_exact(&mut [0]).unwrap();
        }
        eventually("the report of a stall that lasts", || (times_logged(&BEGUN) > begun).then_some(()));
        assert_eq!(times_logged(&OVER), over, "it is not over");
        go.store(true, SeqCst);
        blocked.read_exact(&mut [0]).unwrap();
        eventually("the report of a stall that is over", || (times_logged(&OVER) > over).then_some(()));
    }
    drop((blocked, free));
    server.stop().unwrap();
}

fn shard_6_an_error_of_one_shard_stops_the_others_in_order(reactor: &str) {
    let config = config(reactor, 3);
    let run = spawn(move || {
        let runtime = Runtime::new(config).unwrap().without_signals();
        runtime.run(|shard: Shard| async move {
            if shard.id() == ShardId::new(1) {
                shard.sleep(Duration::from_millis(20)).await;
                anyhow::bail!("no luck");
            }
            assert_eq!(shard.phase(), Phase::Running);
            shard.stopping().await;
            assert!(matches!(shard.phase(), Phase::Draining { until } if until > shard.now()));
            Ok(())
        })
    });
    let error = run.join().unwrap().unwrap_err();
    assert!(matches!(error, RunError::Main { shard: 1, .. }), "{error:?}");
    assert_eq!(error.to_string(), "shard 1: no luck");
}

/// Reads the first word, answers at length, and closes.
async fn curt(mut connection: Connection) -> anyhow::Result<()> {
    connection.read_exact(&mut [0; 4]).await?;
    connection.write_all(&[7; 50_000]).await?;
    Ok(())
}

fn stream_7_closing_with_unread_input_does_not_destroy_the_answer(reactor: &str) {
    const ROUNDS: usize = 10;
    let server = Server::start(config(reactor, 1), curt);
    let mut unharmed = 0;
    for _ in 0..ROUNDS {
        let mut stream = client(server.at);
        stream.write_all(&[1; 500_000]).unwrap();
        assert_eq!(end_of(&mut stream), Ok(50_000));
        // The server has closed. What it still reads and throws away would else be answered with a reset.
        unharmed += usize::from((0..10).all(|_| {
            pause(Duration::from_millis(5));
            stream.write_all(&[1; 20_000]).is_ok()
        }));
    }
    // A machine that holds the client up for longer than the server lingers has its way now and then.
    assert!(unharmed > ROUNDS / 2, "{} of {ROUNDS} were reset", ROUNDS - unharmed);
    server.stop().unwrap();
}

fn stream_7_lingering_ends_with_a_peer_that_does_not(reactor: &str) {
    let server = Server::start(config(reactor, 1), curt);
    let mut endless = client(server.at);
    let watch = Watch::start();
    let refused = (0..).find_map(|_| endless.write_all(&[1; 100_000]).err()).unwrap();
    assert!(matches!(refused.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{refused}");
    let mut silent = client(server.at);
    silent.write_all(b"word").unwrap();
    assert_eq!(end_of(&mut silent), Ok(50_000));
    // Only writing finds out that nobody reads any more.
    eventually("the end of lingering", || {
        pause(Duration::from_millis(20));
        silent.write_all(b".").err()
    });
    watch.left("the end of lingering");
    server.stop().unwrap();
}

fn stream_7_a_shard_that_ends_lingers_too(reactor: &str) {
    for _ in 0..5 {
        let both = Arc::new(Barrier::new(2));
        let waits = both.clone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = waterwheel::reactor::Address::Inet(listener.local_addr().unwrap());
        let config = config(reactor, 1);
        // A program that answers and is done.
        let run = spawn(move || {
            let runtime = Runtime::new(config).unwrap().without_signals();
            runtime.run(move |shard| {
                let (to, waits) = (to.clone(), waits.clone());
                async move {
                    let connection = shard.connect(&to, &Default::default()).await?;
                    // Until there is input that nobody has read.
                    waits.wait();
                    curt(connection).await
                }
            })
        });
        let mut stream = meet(&listener);
        stream.write_all(&[1; 300_000]).unwrap();
        both.wait();
        stream.write_all(&[1; 300_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), Ok(50_000));
        run.join().unwrap().unwrap();
    }
}
