//! LISTEN-4: the errors of accept(2) that a test cannot bring about in the kernel, from a listener that says them instead
//! of handing out who waits.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use waterwheel::net::{AcceptStats, Connection};
use waterwheel::reactor::{
    Address, Backend, Bound, ConnectOptions, Ended, Incoming, Launch, ListenOptions, Listener, Reactor, Root,
    Time, Transport, Unavailable,
};
use waterwheel::runtime::{Runtime, reactors};

use super::kit::{LONG, client, config, on_each_reactor, pause, spawn};

on_each_reactor![
    listen_4_connections_that_were_gone_before_they_were_accepted_keep_nobody_waiting,
    listen_4_a_system_without_descriptors_or_memory_is_asked_again_without_a_spin,
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
}

impl Script {
    fn tell(&self, error: Errno, times: usize) {
        self.told.store(0, SeqCst);
        self.error.store(error.raw_os_error(), SeqCst);
        self.left.store(times, SeqCst);
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
        self.inner.bind(at, options, count)
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

/// Runs `test` with an echo server of one shard on such a reactor, and answers what was counted.
fn serving(reactor: &str, test: impl FnOnce(&Script, &dyn Fn() -> TcpStream)) -> AcceptStats {
    let inner = *reactors().iter().find(|backend| backend.name() == reactor).unwrap();
    // For the rest of the process, as backends live.
    let script: &Script = Box::leak(Box::default());
    let backend: &Refusing = Box::leak(Box::new(Refusing { inner, script }));
    let runtime = Runtime::with_backends(config("refusing", 1), &[backend]).unwrap().without_signals();
    let listening = runtime.listen("127.0.0.1:0").unwrap();
    let (at, stopper) = (listening.local().inet().unwrap(), runtime.stopper());
    let running = spawn(move || {
        runtime.run(move |shard| {
            let listening = listening.clone();
            async move {
                let acceptor = shard.accept_on(&listening)?;
                let counters = acceptor.counters();
                acceptor.serve(usize::MAX, echo).await;
                Ok(counters.copy())
            }
        })
    });
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
            let began = super::kit::Watch::start();
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
            pause(Duration::from_millis(300));
            answered(&mut open);
            let told = script.told.load(SeqCst);
            // Rests of 5, 10, 20 … 200 ms; a shortage of descriptors is tried twice each time.
            assert!((1..=40).contains(&told), "{error}: asked {told} times in 300 ms");
            script.left.store(0, SeqCst);
            waits.read_exact(&mut [0]).expect("an answer, once the shortage is over");
            answered(&mut connect());
        }
    });
    assert_eq!(counted.accepted, 1 + 4 * 2, "{counted:?}");
    assert_eq!(counted.shed, 0, "nobody could be told: {counted:?}");
}
