//! A reactor on poll(2), as plain as can be, with faults to choose: it shows that every law can hold, and that every
//! law can fail. Each fault is one `if` where a real reactor would have the mistake.

mod datagrams;
mod fault;
mod halves;
mod socket;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use waterwheel_reactor::{
    Address, Alarm, Backend, Bound, BoundDatagrams, Clock, ConnectOptions, DatagramOptions, Datagrams,
    Doorbell, Ended, Incoming, Launch, Life, ListenOptions, Listener, Reactor, Start, Time, Transport,
    Unavailable, Watched, on_threads,
};

pub(crate) use fault::{FAULTS, Fault};
pub(crate) use halves::MISTAKES;

/// The backend.
#[derive(Debug)]
pub(crate) struct Reference {
    name: &'static str,
    fault: Fault,
    runs: AtomicUsize,
}

impl Reference {
    pub(crate) fn new() -> Reference {
        Reference { name: "reference", fault: Fault::None, runs: AtomicUsize::new(0) }
    }

    pub(crate) fn faulty(name: &'static str, fault: Fault) -> Reference {
        Reference { name, fault, runs: AtomicUsize::new(0) }
    }
}

impl Backend for Reference {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> Result<(), Unavailable> {
        match eventfd(0, EventfdFlags::CLOEXEC) {
            Ok(_) => Ok(()),
            Err(error) if self.fault == Fault::ProbePanics => panic!("no eventfd: {error}"),
            Err(error) => Err(Unavailable::new(format!("eventfd: {error}"))),
        }
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        socket::bind(self.fault, at, options, count)
    }

    fn bind_datagrams(
        &self,
        at: &Address,
        options: &DatagramOptions,
        count: usize,
    ) -> io::Result<Vec<BoundDatagrams>> {
        // As where nobody thinks of a socket for each shard.
        let reuse_port = options.reuse_port && self.fault != Fault::GroupIsOneSocket;
        waterwheel_os::bind_datagrams(at, &DatagramOptions { reuse_port, ..*options }, count)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let fault = self.fault;
        if self.runs.fetch_add(1, Relaxed) > 0 && fault == Fault::RunsOnce {
            return Ok(());
        }
        let clock = Clock::start();
        let result = on_threads(launches, move |shard, start| life(fault, clock, shard, start));
        if fault == Fault::PanicSwallowed { Ok(()) } else { result }
    }
}

fn life(fault: Fault, clock: Clock, shard: usize, start: &mut Start) -> io::Result<Life> {
    let reactor = Rc::new(Poller {
        fault,
        clock,
        shard,
        turns: Cell::new(0),
        alarm: Alarm::default(),
        waits: RefCell::default(),
        keys: Cell::new(0),
        connecting: Cell::new(0),
    });
    let Some(mut root) = start(Rc::new(Handle(Rc::clone(&reactor)))) else { return Ok(Life::Over) };
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    if fault == Fault::LifeLeaks {
        mem::forget(event.try_clone()?);
    }
    let bell =
        Arc::new(Bell { fault, door: Doorbell::default(), event, thread: std::thread::current().id() });
    let mut waker = Waker::from(Arc::clone(&bell));
    LATE.set(Some(Vec::new()));
    loop {
        bell.door.awake();
        if fault == Fault::WakerPerPoll {
            let door = Doorbell::default();
            // A bell that only passes on: it is another waker for the same root.
            waker = Waker::from(Arc::new(Other { door, bell: Arc::clone(&bell) }));
        }
        if root.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return Ok(Life::Ended);
        }
        LATE.with_borrow_mut(|late| {
            late.iter_mut().flat_map(|late| late.drain(..)).for_each(|bell| bell.interrupt())
        });
        reactor.turns.set(reactor.turns.get() + 1);
        reactor.wait(&bell)?;
        reactor.alarm.fire(reactor.now());
    }
}

thread_local! {
    /// On a shard's thread, wakes to be sent when the root returns: for [`Fault::WakesKeptBack`].
    static LATE: RefCell<Option<Vec<Arc<Bell>>>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Bell {
    fault: Fault,
    door: Doorbell,
    event: OwnedFd,
    thread: std::thread::ThreadId,
}

impl Bell {
    fn interrupt(&self) {
        // Full means that an interrupt is on its way already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        let own = std::thread::current().id() == self.thread;
        match self.fault {
            Fault::OwnWakeIgnored if own => return,
            Fault::DoorbellBlocks => {
                let most = (u64::MAX - 1).to_ne_bytes();
                while rustix::io::write(&self.event, &most).is_err() {
                    std::thread::yield_now();
                }
            }
            Fault::WakesKeptBack if LATE.with_borrow(Option::is_some) => {
                if self.door.ring() {
                    LATE.with_borrow_mut(|late| late.get_or_insert_default().push(Arc::clone(self)));
                }
                return;
            }
            _ => {}
        }
        if self.door.ring() {
            self.interrupt();
        }
    }
}

#[derive(Debug)]
struct Other {
    #[expect(dead_code, reason = "only its address must differ")]
    door: Doorbell,
    bell: Arc<Bell>,
}

impl Wake for Other {
    fn wake(self: Arc<Other>) {
        self.bell.wake_by_ref();
    }
}

/// One shard's reactor.
#[derive(Debug)]
struct Poller {
    fault: Fault,
    clock: Clock,
    shard: usize,
    turns: Cell<u64>,
    alarm: Alarm,
    /// Who waits for which descriptor, by the number of the half that waits.
    waits: RefCell<BTreeMap<u64, Wait>>,
    keys: Cell<u64>,
    connecting: Cell<usize>,
}

#[derive(Debug)]
struct Wait {
    descriptor: Rc<OwnedFd>,
    flags: PollFlags,
    waker: Waker,
}

impl Poller {
    fn now(&self) -> Time {
        let now = self.clock.now();
        match self.fault {
            // As where a processor's counter is taken to tick in nanoseconds.
            Fault::ClockFast => Time::from_nanos(now.as_nanos() / 4 * 5),
            _ => now,
        }
    }

    /// Sleeps until a descriptor is ready, the alarm's time has come or the bell rings; not at all if it rang.
    fn wait(&self, bell: &Bell) -> io::Result<()> {
        let sleeps = if self.fault == Fault::WakeLost { !bell.door.awake() } else { bell.door.may_sleep() };
        if !sleeps && self.fault == Fault::BusyStarves {
            return Ok(());
        }
        if self.fault == Fault::WakeLost {
            // Looked, and then lay down: what comes in between is lost.
            std::thread::yield_now();
            let _ = bell.door.may_sleep();
        }
        let timeout = self.timeout(sleeps);
        let (keys, wakers) = {
            let waits = self.waits.borrow();
            let mut polled = vec![PollFd::new(&bell.event, PollFlags::IN)];
            polled.extend(waits.values().map(|wait| PollFd::new(&*wait.descriptor, wait.flags)));
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = polled[1..].iter().zip(&*waits).filter(|(polled, _)| !polled.revents().is_empty());
            ready.map(|(_, (key, wait))| (*key, wait.waker.clone())).unzip::<_, _, Vec<_>, Vec<_>>()
        };
        // Empty where something else ended the sleep.
        let _ = rustix::io::read(&bell.event, &mut [0u8; 8]);
        for key in keys {
            self.waits.borrow_mut().remove(&key);
        }
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn timeout(&self, sleeps: bool) -> Option<Timespec> {
        let left = match self.alarm.deadline() {
            _ if !sleeps => Duration::ZERO,
            None if self.fault == Fault::IdleTicks => Duration::from_millis(1),
            None => return None,
            Some(at) if self.fault == Fault::CoarseTimer => at.since(self.now()) + Duration::from_millis(4),
            Some(at) => at.since(self.now()),
        };
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
    }
}

/// The reactor as its shard sees it.
#[derive(Debug)]
struct Handle(Rc<Poller>);

impl Reactor for Handle {
    fn now(&self) -> Time {
        let now = self.0.now();
        let turns = self.0.turns.get();
        if self.0.fault == Fault::ClockGoesBack && turns % 2 == 1 {
            return Time::from_nanos(now.as_nanos().saturating_sub(1_000_000));
        }
        now
    }

    fn unix_time(&self) -> Duration {
        self.0.clock.unix_time()
    }

    fn seed(&self) -> u64 {
        self.0.shard as u64
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        let deadline = match self.0.fault {
            Fault::AlarmEarly => Time::from_nanos(deadline.as_nanos() / 1_000_000 * 1_000_000),
            Fault::FirstAlarmWins => self.0.alarm.deadline().map_or(deadline, |set| set.min(deadline)),
            // As where nanoseconds go through a signed 64-bit number on their way to the kernel.
            Fault::AbsurdOverflows if deadline.as_nanos() > i64::MAX as u64 => Time::ZERO,
            _ => deadline,
        };
        self.0.alarm.poll_until(self.0.now(), cx, deadline)
    }

    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        let accepting = socket::Accepting::new(Rc::clone(&self.0), bound)?;
        match self.0.fault {
            Fault::Halves(mistake) => Ok(halves::listener(mistake, accepting)),
            _ => Ok(Box::new(accepting)),
        }
    }

    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        let transport = stream::connect(Rc::clone(&self.0), to, options)?;
        self.spoiled(transport)
    }

    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        if let Fault::Halves(mistake) = self.0.fault {
            halves::admit(mistake, &incoming)?;
        }
        let transport = stream::adopt(Rc::clone(&self.0), incoming)?;
        self.spoiled(transport)
    }

    fn watch(&self, descriptor: OwnedFd) -> io::Result<Option<Box<dyn Watched>>> {
        Ok(Some(Box::new(datagrams::Polled::new(&self.0, descriptor)?)))
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}

impl Handle {
    /// The connection with the reactor's mistake, if it makes one with connections.
    fn spoiled(&self, transport: Transport) -> io::Result<Transport> {
        match self.0.fault {
            Fault::Halves(mistake) => halves::transport(mistake, &self.0, transport),
            _ => Ok(transport),
        }
    }
}
