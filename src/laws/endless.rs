//! STREAM-13 where no kernel limits anything: a reactor whose peers send and take without end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use waterwheel::net::Listening;
use waterwheel::reactor::{
    Address, Alarm, Backend, Bound, Clock, ConnectOptions, Ended, Handle, Incoming, Launch, Life,
    ListenOptions, Listener, Reactor, Sink, Source, Time, Transport, Unavailable, Virtual, VirtualSocket,
    on_threads,
};
use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::Shard;

use super::kit::{LONG, spawn};

/// Bytes lent at once.
const LENT: usize = 64 << 10;
/// What a pump may move in one direction in one turn: a quarter of a MiB, and what was lent when it came to an end.
const TURN_MAX: u64 = (256 << 10) + LENT as u64;

/// Never sleeps: something is always there.
#[derive(Debug)]
struct Torrent;

#[derive(Debug)]
struct TorrentReactor {
    clock: Clock,
    alarm: Alarm,
}

impl Backend for Torrent {
    fn name(&self) -> &'static str {
        "torrent"
    }

    fn probe(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        let bound = |_| Bound {
            local: at.clone(),
            handle: Handle::Virtual(Virtual::new(Nothing)),
            options: *options,
        };
        Ok((0..count).map(bound).collect())
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let clock = Clock::start();
        on_threads(launches, |_, start| {
            let reactor = Rc::new(TorrentReactor { clock, alarm: Alarm::default() });
            let Some(mut root) = start(reactor.clone()) else { return Ok(Life::Over) };
            while root.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                reactor.alarm.fire(clock.now());
                thread::yield_now();
            }
            Ok(Life::Ended)
        })
    }
}

impl Reactor for TorrentReactor {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn unix_time(&self) -> Duration {
        self.clock.unix_time()
    }

    fn seed(&self) -> u64 {
        0
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.alarm.poll_until(self.clock.now(), cx, deadline)
    }

    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(Crowd(Some(bound))))
    }

    fn connect(&self, _: &Address, _: &ConnectOptions) -> io::Result<Transport> {
        Ok(Transport { source: Box::new(Spring(vec![7; LENT])), sink: Box::new(Sea) })
    }

    fn adopt(&self, _: Incoming) -> io::Result<Transport> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Stands for any socket.
struct Nothing;
impl VirtualSocket for Nothing {}

/// Clients without end, none of which can be adopted.
#[derive(Debug)]
struct Crowd(Option<Bound>);

impl Listener for Crowd {
    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        Poll::Ready(Ok(Incoming {
            handle: Handle::Virtual(Virtual::new(Nothing)),
            bytes: Vec::new(),
            peer: None,
        }))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        Poll::Ready(self.0.take().expect("closed once"))
    }
}

/// Lends the same bytes for ever.
#[derive(Debug)]
struct Spring(Vec<u8>);

impl Source for Spring {
    fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Poll::Ready(Ok(&self.0))
    }

    fn consume(&mut self, count: usize) {
        assert!(count <= self.0.len());
    }

    fn poll_release(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn abort(&mut self) {}

    fn peer(&self) -> io::Result<Address> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn local(&self) -> io::Result<Address> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Takes whatever comes.
#[derive(Debug)]
struct Sea;

impl Sink for Sea {
    fn poll_write(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {}
}

/// Runs `main` on one shard of the torrent.
fn on_torrent<F>(main: impl Fn(Shard) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    on_listening_torrent(move |shard, _| main(shard));
}

fn on_listening_torrent<F>(main: impl Fn(Shard, Listening) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let config = Config::default().cores(1).reactor("torrent");
    let runtime = Runtime::with_backends(config, &[&Torrent]).unwrap().without_signals();
    let listening = runtime.listen("tcp:127.0.0.1:1").unwrap();
    let (tell, told) = channel();
    // A shard that gives nobody a turn would hang, and so would who joins it.
    drop(spawn(move || tell.send(runtime.run(move |shard| main(shard, listening.clone())))));
    told.recv_timeout(LONG).expect("a run that ends").unwrap();
}

fn anywhere() -> Address {
    Address::Inet(([127, 0, 0, 1], 1).into())
}

#[test]
fn stream_13_a_pump_moves_a_bounded_share_and_gives_way() {
    on_torrent(|shard| async move {
        let polls: Rc<RefCell<Vec<(usize, u64, u64)>>> = Rc::default();
        for number in 0..3 {
            let (here, polls) = (shard.clone(), polls.clone());
            shard.spawn_detached("pump", async move {
                let near = here.connect(&anywhere(), &ConnectOptions::default()).await.unwrap();
                let far = here.connect(&anywhere(), &ConnectOptions::default()).await.unwrap();
                let mut pump = near.pump(far, Some(Duration::from_secs(1)));
                poll_fn(|cx| {
                    let before = pump.moved();
                    let polled = Pin::new(&mut pump).poll(cx);
                    let after = pump.moved();
                    polls.borrow_mut().push((number, after.0 - before.0, after.1 - before.1));
                    polled
                })
                .await;
            });
        }
        // Timers are not starved either.
        for _ in 0..20 {
            shard.sleep(Duration::from_millis(1)).await;
        }
        let polls = polls.borrow();
        assert!(polls.len() > 30, "{} turns", polls.len());
        for share in polls.iter() {
            assert!(share.1 > 0 && share.1 <= TURN_MAX && share.2 > 0 && share.2 <= TURN_MAX, "{share:?}");
        }
        for turn in polls.chunks_exact(3) {
            assert_ne!(
                (turn[0].0, turn[1].0),
                (turn[1].0, turn[2].0),
                "one was polled twice in a row: {turn:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn stream_7_lingering_is_bounded_in_bytes() {
    on_torrent(|shard| async move {
        let (before, mut turns) = (shard.stats(), 0);
        for _ in 0..10 {
            drop(shard.connect(&anywhere(), &ConnectOptions::default()).await?);
        }
        // A MiB each is thrown away in a few turns; their two seconds are far more.
        while shard.stats().alive > before.alive {
            turns += 1;
            assert!(turns < 100, "they linger on");
            shard.yield_now().await;
        }
        assert_eq!(shard.stats().spawned, before.spawned + 10, "one task lingers for each");
        Ok(())
    });
}

#[test]
fn a_connection_that_cannot_be_adopted_is_counted_and_stops_nothing() {
    on_listening_torrent(|shard, listening| async move {
        let acceptor = shard.accept_on(&listening)?;
        let counters = acceptor.counters();
        shard.spawn_detached("serve", acceptor.serve(1, |_| async { Ok(()) }));
        let begun = shard.now();
        while counters.copy().adopt_failed < 1_000 {
            assert!(shard.now().since(begun) < LONG, "{:?}", counters.copy());
            shard.yield_now().await;
        }
        let counted = counters.copy();
        assert!(
            (counted.adopt_failed..counted.adopt_failed + 300).contains(&counted.accepted),
            "{counted:?}"
        );
        Ok(())
    });
}
