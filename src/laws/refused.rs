//! LISTEN-4: the errors of accept(2) that a test cannot bring about in the kernel, from a listener that says them instead
//! of handing out who waits; those of reactors that do not take a listener; and sockets of which nobody will come any more.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;
use waterwheel::net::{AcceptStats, Connection, Listening};
use waterwheel::reactor::{
    Address, Backend, Bound, ConnectOptions, Ended, Handle, Incoming, Launch, ListenOptions, Listener,
    Reactor, Root, Time, Transport, Unavailable,
};
use waterwheel::runtime::{OnFailure, RunError, Runtime, Supervision, reactors};
use waterwheel::shard::Shard;
use waterwheel::steer::Mode;

use super::kit::{LONG, Watch, client, config, eventually, on_each_reactor, pause, spawn};

on_each_reactor![
    listen_4_connections_that_were_gone_before_they_were_accepted_keep_nobody_waiting,
    listen_4_a_system_without_descriptors_or_memory_is_asked_again_without_a_spin,
    listen_4_a_reactor_that_lacks_memory_for_a_listener_is_asked_again_and_nobody_is_lost,
    listen_4_a_reactor_that_will_not_have_a_listener_says_so_and_leaves_the_socket,
    a_listener_that_somebody_shut_down_ends_its_shard_and_supervision_decides,
    the_admin_endpoint_is_tried_again_until_a_reactor_takes_it,
];

/// A reactor whose listeners fail as often as they are told to.
#[derive(Debug)]
struct Refusing {
    inner: &'static dyn Backend,
    script: &'static Script,
}

/// What the listeners do.
#[derive(Debug, Default)]
struct Script {
    /// The error of accept(2).
    error: AtomicI32,
    /// How often it is still told.
    left: AtomicUsize,
    /// How often it was.
    told: AtomicUsize,
    /// The error of the reactors that are to listen, and how often it is still told.
    refusal: AtomicI32,
    refusals: AtomicUsize,
    /// Second descriptors of all sockets that were bound: somebody shares them.
    shared: Mutex<Vec<OwnedFd>>,
}

impl Script {
    fn tell(&self, error: Errno, times: usize) {
        self.told.store(0, SeqCst);
        self.error.store(error.raw_os_error(), SeqCst);
        self.left.store(times, SeqCst);
    }

    fn refuse(&self, error: Errno, times: usize) {
        self.refusal.store(error.raw_os_error(), SeqCst);
        self.refusals.store(times, SeqCst);
    }

    fn next_refusal(&self) -> Option<io::Error> {
        self.refusals.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).ok()?;
        Some(io::Error::from_raw_os_error(self.refusal.load(SeqCst)))
    }

    fn next(&self) -> Option<io::Error> {
        self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).ok()?;
        self.told.fetch_add(1, SeqCst);
        Some(io::Error::from_raw_os_error(self.error.load(SeqCst)))
    }
}

impl Backend for Refusing {
    fn name(&self) -> &'static str {
        "refusing"
    }

    fn probe(&self) -> Result<(), Unavailable> {
        self.inner.probe()
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        let bounds = self.inner.bind(at, options, count)?;
        let sockets = bounds.iter().filter_map(|bound| match &bound.handle {
            Handle::Os(socket) => Some(socket.try_clone().unwrap()),
            Handle::Virtual(_) => None,
        });
        self.script.shared.lock().unwrap().extend(sockets);
        Ok(bounds)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let script = self.script;
        let wrap = |Launch { shard, name, prepare, mut start }| {
            let start =
                Box::new(move |inner| -> Option<Root> { start(Rc::new(Shortened { inner, script })) });
            Launch { shard, name, prepare, start }
        };
        self.inner.run(launches.into_iter().map(wrap).collect())
    }
}

#[derive(Debug)]
struct Shortened {
    inner: Rc<dyn Reactor>,
    script: &'static Script,
}

impl Reactor for Shortened {
    fn now(&self) -> Time {
        self.inner.now()
    }

    fn unix_time(&self) -> Duration {
        self.inner.unix_time()
    }

    fn seed(&self) -> u64 {
        self.inner.seed()
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.inner.poll_until(cx, deadline)
    }

    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        if let Some(refusal) = self.script.next_refusal() {
            return Err(refusal);
        }
        let inner = self.inner.listen(bound)?;
        Ok(Box::new(Scripted { inner, script: self.script, next: None }))
    }

    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        self.inner.connect(to, options)
    }

    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        self.inner.adopt(incoming)
    }
}

/// Fails only while somebody waits, as the kernel does, and keeps who waits for the next attempt.
#[derive(Debug)]
struct Scripted {
    inner: Box<dyn Listener>,
    script: &'static Script,
    next: Option<Incoming>,
}

impl Listener for Scripted {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let waits = match self.next.take() {
            Some(waits) => waits,
            None => ready!(self.inner.poll_accept(cx))?,
        };
        Poll::Ready(match self.script.next() {
            None => Ok(waits),
            Some(error) => {
                self.next = Some(waits);
                Err(error)
            }
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Bound> {
        self.inner.poll_close(cx)
    }
}

/// A reactor that does as the script says.
fn refusing(reactor: &str) -> &'static Refusing {
    let inner = *reactors().iter().find(|backend| backend.name() == reactor).unwrap();
    // For the rest of the process, as backends live.
    Box::leak(Box::new(Refusing { inner, script: Box::leak(Box::default()) }))
}

/// Runs `test` with an echo server of one shard on such a reactor, and answers what was counted.
fn serving(reactor: &str, test: impl FnOnce(&Script, &dyn Fn() -> TcpStream)) -> AcceptStats {
    let backend = refusing(reactor);
    let script = backend.script;
    let runtime = Runtime::with_backends(config("refusing", 1), &[backend]).unwrap().without_signals();
    let listening = runtime.listen("127.0.0.1:0").unwrap();
    let (at, stopper) = (listening.local().inet().unwrap(), runtime.stopper());
    let running = spawn(move || runtime.run(move |shard| one(shard, listening.clone())));
    test(script, &|| client(at));
    stopper.stop(LONG);
    running.join().unwrap().unwrap().remove(0)
}

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(connection.close().await?)
}

#[track_caller]
fn answered(stream: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).expect("an answer");
}

fn listen_4_connections_that_were_gone_before_they_were_accepted_keep_nobody_waiting(reactor: &str) {
    // More than are accepted before others get their turn.
    const GONE: usize = 100;
    let counted = serving(reactor, |script, connect| {
        let mut open = connect();
        answered(&mut open);
        for error in [Errno::CONNABORTED, Errno::PERM] {
            script.tell(error, GONE);
            let began = Watch::start();
            answered(&mut connect());
            assert_eq!(script.told.load(SeqCst), GONE, "{error}");
            // A rest after each, as after a shortage, would take twenty seconds.
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{error}: {:?} for the next one",
                began.elapsed()
            );
            answered(&mut open);
        }
    });
    assert_eq!((counted.errors, counted.shed), (2 * GONE as u64, 0), "{counted:?}");
    assert_eq!(counted.accepted, 3, "{counted:?}");
}

fn listen_4_a_system_without_descriptors_or_memory_is_asked_again_without_a_spin(reactor: &str) {
    let counted = serving(reactor, |script, connect| {
        let mut open = connect();
        answered(&mut open);
        for error in [Errno::NFILE, Errno::MFILE, Errno::NOBUFS, Errno::NOMEM] {
            script.tell(error, usize::MAX);
            let mut waits = connect();
            waits.write_all(b"x").unwrap();
            let watch = Watch::start();
            pause(Duration::from_millis(300));
            answered(&mut open);
            let told = || script.told.load(SeqCst);
            eventually("it to ask", || (told() > 0).then_some(()));
            let (told, time) = (told(), watch.elapsed());
            // Rests of 5, 10, 20 … 200 ms; a shortage of descriptors is tried twice each time. This thread may have been held up.
            let most = 40 + 2 * (time.as_millis() / 200) as usize;
            assert!(told <= most, "{error}: asked {told} times in {time:?}");
            script.left.store(0, SeqCst);
            waits.read_exact(&mut [0]).expect("an answer, once the shortage is over");
            answered(&mut connect());
        }
    });
    assert_eq!(counted.accepted, 1 + 4 * 2, "{counted:?}");
    assert_eq!(counted.shed, 0, "nobody could be told: {counted:?}");
}

fn listen_4_a_reactor_that_lacks_memory_for_a_listener_is_asked_again_and_nobody_is_lost(reactor: &str) {
    const TIMES: usize = 5;
    for error in [Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC, Errno::MFILE, Errno::AGAIN] {
        let backend = refusing(reactor);
        backend.script.refuse(error, TIMES);
        let runtime = Runtime::with_backends(config("refusing", 1), &[backend]).unwrap().without_signals();
        let listening = runtime.listen("127.0.0.1:0").unwrap();
        let (at, stopper) = (listening.local().inet().unwrap(), runtime.stopper());
        // Before anybody serves.
        let mut waits = client(at);
        waits.write_all(b"x").unwrap();
        let running = spawn(move || runtime.run(move |shard| one(shard, listening.clone())));
        waits.read_exact(&mut [0]).expect("an answer");
        assert_eq!(backend.script.refusals.load(SeqCst), 0, "{error}");
        answered(&mut client(at));
        drop(waits);
        stopper.stop(LONG);
        let counted = running.join().unwrap().unwrap().remove(0);
        assert_eq!((counted.errors, counted.accepted), (TIMES as u64 - 1, 2), "{error}: {counted:?}");
    }
}

/// Echoes on one shard.
async fn one(shard: Shard, listening: Listening) -> anyhow::Result<AcceptStats> {
    let acceptor = shard.accept_on(&listening)?;
    let counters = acceptor.counters();
    acceptor.serve(usize::MAX, echo).await;
    Ok(counters.copy())
}

fn listen_4_a_reactor_that_will_not_have_a_listener_says_so_and_leaves_the_socket(reactor: &str) {
    let backend = refusing(reactor);
    backend.script.refuse(Errno::PERM, 2);
    let runtime = Runtime::with_backends(config("refusing", 1), &[backend]).unwrap().without_signals();
    let listening = runtime.listen("127.0.0.1:0").unwrap();
    let (at, stopper) = (listening.local().inet().unwrap(), runtime.stopper());
    let mut waits = client(at);
    let running = spawn(move || {
        runtime.run(move |shard| {
            let listening = listening.clone();
            async move {
                for _ in 0..2 {
                    let refused = shard.accept_on(&listening).unwrap_err();
                    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
                }
                one(shard, listening).await
            }
        })
    });
    answered(&mut waits);
    drop(waits);
    stopper.stop(LONG);
    running.join().unwrap().unwrap();
}

fn a_listener_that_somebody_shut_down_ends_its_shard_and_supervision_decides(reactor: &str) {
    const SHARDS: usize = 2;
    for policy in [OnFailure::Ignore, OnFailure::Restart] {
        let backend = refusing(reactor);
        let pause = Duration::from_millis(1);
        let supervision = Supervision { restarts: 3, pause, ..Supervision::default() };
        let config = config("refusing", SHARDS).steer(Mode::Kernel).drain(Duration::from_millis(10));
        let config = config.on_failure(policy).supervision(supervision);
        let runtime = Runtime::with_backends(config, &[backend]).unwrap();
        let runtime = runtime.without_signals();
        let listening = runtime.listen("127.0.0.1:0").unwrap();
        let (at, stopper) = (listening.local().inet().unwrap(), runtime.stopper());
        let running = spawn(move || runtime.run(move |shard| one(shard, listening.clone())));
        // Both shards have somebody.
        let mut open: Vec<TcpStream> = (0..32).map(|_| client(at)).collect();
        open.iter_mut().for_each(answered);
        rustix::net::shutdown(&backend.script.shared.lock().unwrap()[1], Shutdown::Read).unwrap();
        let ended = match policy {
            OnFailure::Ignore => {
                // The kernel has taken it out of the group: the other one has all clients.
                eventually("the shard to end", || {
                    open.retain_mut(|stream| {
                        stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
                    });
                    (open.len() < 32).then_some(())
                });
                (0..20).for_each(|_| answered(&mut client(at)));
                assert!(!open.is_empty(), "the other shard has lost its clients");
                stopper.stop(LONG);
                drop(open);
                running.join().unwrap().unwrap_err()
            }
            _ => running.join().unwrap().unwrap_err(),
        };
        match (policy, &ended) {
            (OnFailure::Ignore, RunError::Failed { shard: 1, error }) => {
                assert!(error.to_string().contains(&at.to_string()), "{error}");
            }
            (OnFailure::Restart, RunError::CrashLoop { shard: 1, times: 4, .. }) => {}
            _ => panic!("{policy}: {ended:?}"),
        }
        backend.script.shared.lock().unwrap().clear();
    }
}

fn the_admin_endpoint_is_tried_again_until_a_reactor_takes_it(reactor: &str) {
    let backend = refusing(reactor);
    // Of no kind that passes, and yet it does.
    backend.script.refuse(Errno::PERM, 3);
    let config = config("refusing", 2).admin("tcp:127.0.0.1:0".parse().unwrap());
    let runtime = Runtime::with_backends(config, &[backend]).unwrap().without_signals();
    let (at, stopper) = (runtime.admin_local().unwrap().inet().unwrap(), runtime.stopper());
    let running = spawn(move || {
        runtime.run(|shard| async move {
            shard.stopping().await;
            Ok(())
        })
    });
    let (mut waits, mut answer) = (client(at), String::new());
    waits.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    waits.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("alive"), "{answer}");
    assert_eq!(backend.script.refusals.load(SeqCst), 0);
    stopper.stop(LONG);
    running.join().unwrap().unwrap();
}
