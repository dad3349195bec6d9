//! The backend: on each shard's thread, a loop that polls the root and sleeps in the poller.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use polling::{Events, Poller};
use waterwheel::reactor::*;
use waterwheel_os as os;

use crate::socket::{Accepting, Core, State, transport};

/// Runs each shard on a thread with a poller of its own.
#[derive(Debug)]
pub(crate) struct Polling;

impl Backend for Polling {
    fn name(&self) -> &'static str {
        "polling"
    }
    fn probe(&self) -> Result<(), Unavailable> {
        // Tried, not guessed: a container may forbid what the kernel has.
        let once = || Poller::new()?.wait(&mut Events::new(), Some(Duration::ZERO));
        once().map(drop).map_err(|error| Unavailable::new(format!("polling: {error}")))
    }
    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        os::bind_group(at, options, count)
    }
    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let clock = Clock::start();
        on_threads(launches, |_, start| live(clock, start))
    }
}

/// The root's waker. It may outlive the reactor, so it does not keep the poller open.
#[derive(Debug)]
struct Bell(Doorbell, Weak<Poller>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // The doorbell says whether the thread sleeps: one interrupt per sleep, and none while it is awake.
        if self.0.ring() {
            // It fails only where the eventfd(2) is full, which is as good as written.
            let _ = self.1.upgrade().map(|poller| poller.notify());
        }
    }
}

/// One life of a shard: makes a reactor, asks for the root, drives it to its end.
fn live(clock: Clock, start: &mut Start) -> io::Result<Life> {
    let core = Rc::new(Core::new(clock, Poller::new()?));
    let bell = Arc::new(Bell(Doorbell::default(), Arc::downgrade(&core.poller)));
    let Some(mut root) = start(Rc::new(PollingReactor(core.clone()))) else { return Ok(Life::Over) };
    let (waker, mut events) = (Waker::from(bell.clone()), Events::new());
    loop {
        bell.0.awake();
        if root.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return Ok(Life::Ended);
        }
        let until_alarm = core.alarm.deadline().map(|at| at.since(clock.now()));
        // Where somebody rang meanwhile it only looks: a root that always wakes itself still sees its sockets.
        let limit = if bell.0.may_sleep() { until_alarm } else { Some(Duration::ZERO) };
        events.clear();
        core.poller.wait(&mut events, limit)?;
        // The root is polled next, so wakes from here on, as by the events, need not interrupt anything.
        bell.0.awake();
        core.alarm.fire(clock.now());
        events.iter().for_each(|event| core.ready(event));
    }
}

/// One shard's reactor.
#[derive(Debug)]
struct PollingReactor(Rc<Core>);

impl Reactor for PollingReactor {
    fn now(&self) -> Time {
        self.0.clock.now()
    }
    fn unix_time(&self) -> Duration {
        self.0.clock.unix_time()
    }
    fn seed(&self) -> u64 {
        RandomState::new().hash_one("keyed by the system's random source")
    }
    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.0.alarm.poll_until(self.now(), cx, deadline)
    }
    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        let socket = self.0.register(os::open(bound.handle)?, State::Open)?;
        Ok(Box::new(Accepting { socket: Some(socket), local: bound.local, options: bound.options }))
    }
    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        let (file, progress) = os::begin_connect(to, options)?;
        let state = match progress {
            os::Progress::Failed(error) => State::Over(error.kind()),
            // An event tells both alike.
            os::Progress::Begun | os::Progress::Established => State::Connecting,
        };
        Ok(transport(self.0.register(file, state)?, Vec::new()))
    }
    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        Ok(transport(self.0.register(os::open(incoming.handle)?, State::Open)?, incoming.bytes))
    }
}
