//! Services that fail beside others that do not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use waterwheel::net::Connection;
use waterwheel::runtime::{OnFailure, Policy, RunError, Runtime, Service, Services, Stopper, Supervision};
use waterwheel::shard::Shard;

use super::kit::{LONG, client, config, eventually, keep_log, logged, on_each_reactor, spawn};

on_each_reactor![
    a_service_that_fails_is_restarted_alone_behind_its_listener,
    a_service_that_always_fails_ends_all_with_the_reason,
    a_service_that_is_ignored_is_over_and_the_others_go_on,
    what_panics_before_its_task_begins_is_a_failure_as_any_other,
];

/// How a service fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    /// Its own work panics once a client has said so.
    Told,
    /// It cannot be made.
    Always,
    Never,
}

#[derive(Clone)]
struct Settings {
    fails: Fails,
    lives: Arc<AtomicUsize>,
}

/// Echoes a byte with the number of its life. One that is told to fail does so when it has seen an `!`.
struct Echo {
    settings: Settings,
    life: u8,
    told: std::cell::Cell<bool>,
    shard: Shard,
}

impl Service for Echo {
    type Settings = Settings;

    async fn start(shard: &Shard, settings: &Settings) -> anyhow::Result<Echo> {
        let life = settings.lives.fetch_add(1, SeqCst) as u8;
        anyhow::ensure!(settings.fails != Fails::Always, "no database");
        Ok(Echo { settings: settings.clone(), life, told: Default::default(), shard: shard.clone() })
    }

    async fn connection(self: Rc<Self>, mut connection: Connection) -> anyhow::Result<()> {
        let mut byte = [0];
        while connection.read(&mut byte).await? > 0 {
            self.told.set(self.told.get() || byte == *b"!");
            connection.write_all(&[self.life]).await?;
        }
        Ok(connection.close().await?)
    }

    async fn run(self: Rc<Self>) -> anyhow::Result<()> {
        while !self.told.get() {
            self.shard.sleep(Duration::from_millis(1)).await;
        }
        assert!(self.settings.fails != Fails::Told, "planned");
        Ok(())
    }
}

struct Running {
    at: [SocketAddr; 2],
    stopper: Stopper,
    lives: [Arc<AtomicUsize>; 2],
    thread: JoinHandle<Result<(), RunError>>,
}

/// Two services on one shard; the first may fail.
fn start(reactor: &str, fails: Fails, policy: Policy) -> Running {
    let config = config(reactor, 1).drain(Duration::from_secs(1));
    let (tell, told) = channel();
    let thread = spawn(move || {
        let runtime = Runtime::new(config).unwrap().without_signals();
        let listening = [(); 2].map(|()| runtime.listen("127.0.0.1:0").unwrap());
        let lives: [Arc<AtomicUsize>; 2] = Default::default();
        let at = listening.clone().map(|listening| listening.local().inet().unwrap());
        tell.send((at, runtime.stopper(), lives.clone())).unwrap();
        let [weak, strong] = listening;
        let [first, second] = lives;
        let services = Services::new()
            .with::<Echo>("weak", weak, Settings { fails, lives: first }, policy)
            .with::<Echo>(
            "strong",
            strong,
            Settings { fails: Fails::Never, lives: second },
            Policy::default(),
        );
        runtime.run_services(services)
    });
    let (at, stopper, lives) = told.recv_timeout(LONG).unwrap();
    Running { at, stopper, lives, thread }
}

/// Which life of the service answers; `None`: none does.
fn asks(stream: &mut TcpStream, byte: u8) -> Option<u8> {
    let mut back = [0];
    stream.write_all(&[byte]).ok()?;
    stream.read_exact(&mut back).ok()?;
    Some(back[0])
}

fn quick(restarts: u32) -> Policy {
    let pause = Duration::from_millis(5);
    Policy { supervision: Supervision { restarts, pause, ..Supervision::default() }, ..Policy::default() }
}

fn a_service_that_fails_is_restarted_alone_behind_its_listener(reactor: &str) {
    const DEATHS: u8 = 4;
    keep_log();
    let running = start(reactor, Fails::Told, quick(100));
    let mut other = client(running.at[1]);
    let mut old = client(running.at[0]);
    assert_eq!(asks(&mut old, b'?'), Some(0));
    for death in 1..=DEATHS {
        assert_eq!(asks(&mut client(running.at[0]), b'!'), Some(death - 1));
        eventually("a new life", || (running.lives[0].load(SeqCst) > usize::from(death)).then_some(()));
        assert_eq!(asks(&mut client(running.at[0]), b'?'), Some(death), "behind the same listener");
        assert_eq!(asks(&mut other, b'?'), Some(0), "the other service was disturbed");
        assert_eq!(asks(&mut old, b'?'), Some(0), "connections are not ended");
    }
    drop((other, old));
    running.stopper.stop(LONG);
    running.thread.join().unwrap().unwrap();
    assert_eq!(running.lives[1].load(SeqCst), 1);
    assert!(logged(&["ERROR", "failed, and is restarted: it panicked", "name=\"weak\"", "shard=0"]));
}

fn a_service_that_always_fails_ends_all_with_the_reason(reactor: &str) {
    let running = start(reactor, Fails::Always, quick(3));
    let ended = running.thread.join().unwrap().unwrap_err();
    assert_eq!(ended.to_string(), "shard 0: weak failed 4 times within 60s: no database");
    assert_eq!(running.lives[0].load(SeqCst), 4);
    // Without a restart it is as sudden as that.
    let at_once = Policy { on_failure: OnFailure::Escalate, ..quick(3) };
    let running = start(reactor, Fails::Always, at_once);
    let ended = running.thread.join().unwrap().unwrap_err();
    assert_eq!(ended.to_string(), "shard 0: weak failed: no database");
    assert_eq!(running.lives[0].load(SeqCst), 1);
}

fn a_service_that_is_ignored_is_over_and_the_others_go_on(reactor: &str) {
    let ignored = Policy { on_failure: OnFailure::Ignore, ..quick(3) };
    let running = start(reactor, Fails::Told, ignored);
    assert_eq!(asks(&mut client(running.at[0]), b'!'), Some(0));
    eventually("its listener to be closed", || match TcpStream::connect(running.at[0]) {
        Ok(mut early) => asks(&mut early, b'?').is_none().then_some(()),
        Err(_) => Some(()),
    });
    assert_eq!(asks(&mut client(running.at[1]), b'?'), Some(0));
    running.stopper.stop(LONG);
    running.thread.join().unwrap().unwrap();
    assert_eq!(running.lives[0].load(SeqCst), 1);
}

fn what_panics_before_its_task_begins_is_a_failure_as_any_other(reactor: &str) {
    keep_log();
    let makes = Arc::new(AtomicUsize::new(0));
    let own = makes.clone();
    let runtime = Runtime::new(config(reactor, 1).on_failure(OnFailure::Ignore)).unwrap().without_signals();
    let supervision = Supervision { restarts: 2, pause: Duration::ZERO, ..Supervision::default() };
    let policy = Policy { supervision, ..Policy::default() };
    let services = Services::new().with_task("hasty", policy, move |_| {
        let made = own.fetch_add(1, SeqCst);
        assert!(made == 100, "planned before it begins");
        async { Ok(()) }
    });
    let error = runtime.run_services(services).unwrap_err().to_string();
    assert!(error.starts_with("shard 0: hasty failed 3 times within "), "{error}");
    assert!(error.ends_with("it panicked when it was made"), "{error}");
    assert_eq!(makes.load(SeqCst), 3);
    assert!(logged(&["planned before it begins", "hasty"]));
}
