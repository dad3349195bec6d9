//! What whoever asks for a change is told when no answer comes: what is known, and nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

use waterwheel_reactor::Clock;

use super::*;
use crate::proxy::tcp::Settings;
use crate::runtime::{Config, RunError, Runtime, Stopper};

const LONG: Duration = Duration::from_secs(60);

struct Running {
    proxy: Proxy,
    remote: Remote,
    stopper: Stopper,
    thread: JoinHandle<Result<(), RunError>>,
}

fn wanted(connections: usize) -> Vec<Named> {
    proxy("tcp:127.0.0.1:0", "tcp:127.0.0.1:9", connections)
}

fn proxy(listen: &str, upstream: &str, connections: usize) -> Vec<Named> {
    let settings = Settings::new(vec![listen.parse().unwrap()], vec![upstream.parse().unwrap()]);
    vec![(None, Settings { connections, ..settings })]
}

impl Running {
    /// On two shards, both of which are at work.
    fn start(wanted: Vec<Named>) -> Running {
        let runtime = Runtime::new(Config::default().cores(2)).unwrap().without_signals();
        let proxy = Proxy::bind_all(&runtime, wanted).unwrap();
        let (remote, stopper, serving) = (runtime.remote(), runtime.stopper(), proxy.clone());
        let run = move || {
            let ran = runtime.run(move |shard| {
                let serving = serving.clone();
                async move { serving.serve(&shard).await }
            });
            ran.map(drop)
        };
        let thread = thread::Builder::new().spawn(run).unwrap();
        let running = Running { proxy, remote, stopper, thread };
        while !(0..2).all(|shard| running.proxy.shared.has_begun(ShardId::new(shard))) {
            running.on(0, |_| ());
        }
        running
    }

    /// Does something on a shard, and waits for what comes of it.
    fn on<T: Send + 'static>(&self, shard: usize, work: impl FnOnce(&Shard) -> T + Send + 'static) -> T {
        let (answer, answered) = flume::bounded(1);
        let asked = self.remote.try_run(ShardId::new(shard), move |shard| {
            answer.send(work(shard)).unwrap();
        });
        assert!(asked.is_ok());
        answered.recv_timeout(LONG).unwrap()
    }

    fn stop(self) {
        self.stopper.stop(LONG);
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn a_change_that_is_given_up_does_not_come_later() {
    let running = Running::start(wanted(10));
    let (free, stuck) = flume::bounded::<()>(1);
    // Until the other end is dropped.
    let _ = running.remote.try_run(ShardId::new(0), move |_| _ = stuck.recv_timeout(LONG));
    let gone = running.proxy.change_within(&running.remote, wanted(20), Duration::from_millis(50));
    assert!(matches!(gone, Err(ChangeError::Silent { shard: 0 })), "{gone:?}");
    drop(free);
    // There is one change at a time, and the shard may yet have to look at the one that was given up.
    let clock = Clock::start();
    let asked = clock.now();
    let made = loop {
        match running.proxy.change_within(&running.remote, wanted(30), LONG) {
            Err(ChangeError::Overtaken) if clock.now().since(asked) < LONG => thread::yield_now(),
            made => break made,
        }
    };
    assert!(matches!(made, Ok(1)), "the first there is: {made:?}");
    let proxy = running.proxy.clone();
    running.stop();
    assert_eq!(proxy.version(), 1, "nothing came after it");
}

#[test]
fn each_proxy_has_clients_of_its_own_through_changes() {
    let named = |name: &str| (Some(name.to_owned()), wanted(10).remove(0).1);
    let running = Running::start(vec![named("a"), named("b")]);
    let ids = || -> Vec<u64> { running.proxy.shared.newest().plans.iter().map(|plan| plan.id).collect() };
    let before = ids();
    running.proxy.change_within(&running.remote, vec![named("a"), named("c"), named("b")], LONG).unwrap();
    let after = ids();
    assert_eq!([after[0], after[2]], [before[0], before[1]], "who is known goes on");
    assert!(!before.contains(&after[1]) && before[0] != before[1], "{before:?}, then {after:?}");
    running.stop();
}

#[test]
fn a_change_that_was_made_is_not_said_to_be_off() {
    let running = Running::start(wanted(10));
    let (free, stuck) = flume::bounded::<()>(1);
    let proxy = running.proxy.clone();
    running.on(0, move |shard| {
        let own = shard.clone();
        // What it tells itself comes in the next turn at the soonest, and so does its answer.
        shard.spawn_detached("is stuck once the change is made", async move {
            while proxy.version() == 0 {
                own.yield_now().await;
            }
            let _ = stuck.recv_timeout(LONG);
        });
    });
    // Long enough for all shards to prepare, also where others have the processor.
    let made = running.proxy.change_within(&running.remote, wanted(20), Duration::from_secs(5));
    assert!(matches!(made, Ok(1)), "{made:?}");
    assert_eq!(running.proxy.version(), 1);
    drop(free);
    running.stop();
}

#[test]
fn who_came_to_a_narrower_listener_is_served_although_it_is_given_up() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("tcp:{}", origin.local_addr().unwrap());
    let running = Running::start(proxy("tcp:0.0.0.0:0", &upstream, 100));
    let port = running.proxy.local()[0].inet().unwrap().port();
    let narrow = format!("127.0.0.1:{port}");
    let change = running.proxy.prepare(proxy(&narrow, &upstream, 100)).unwrap();
    assert_eq!(change.listeners(), (1, 1));
    // They wait where nobody serves yet, and on both shards.
    let clients: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&narrow).unwrap()).collect();
    assert!(change.fate.is(Fate::WITHDRAWN));
    let (proxy, (answer, answered)) = (running.proxy.clone(), flume::bounded(1));
    running.on(0, move |shard| {
        let own = shard.clone();
        shard.spawn_detached("change", async move { answer.send(proxy.change(&own, change).await).unwrap() });
    });
    let gone = answered.recv_timeout(LONG).unwrap();
    assert!(matches!(gone, Err(ChangeError::Withdrawn)), "{gone:?}");
    // Each arrives there.
    let (at, over) = (origin.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let is_over = over.clone();
    let greets = thread::Builder::new().spawn(move || {
        for client in origin.incoming().take_while(|_| !is_over.load(Acquire)) {
            let _ = client.unwrap().write_all(&[7]);
        }
    });
    let is_served = |mut client: TcpStream| {
        client.set_read_timeout(Some(LONG)).unwrap();
        client.read_exact(&mut [0])
    };
    for client in clients {
        is_served(client).unwrap();
    }
    // And so do those who come later: in between the kernel resets who came after the last look and before the close.
    let next = (0..1_000).find(|_| TcpStream::connect(&narrow).and_then(is_served).is_ok());
    assert!(next.is_some(), "nobody is served any more");
    over.store(true, Release);
    drop(TcpStream::connect(at));
    greets.unwrap().join().unwrap();
    running.stop();
}
