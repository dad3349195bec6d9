//! A shard on a virtual clock, with targets that answer as a test says: every latency is known exactly.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use waterwheel_reactor::{
    Address, Alarm, Bound, ConnectOptions, Incoming, Listener, Reactor, Root, Sink, Source, Time, Transport,
};

use crate::shard::between::{Between, RingForeign, Taken};
use crate::shard::core::Core;
use crate::shard::root::RootFuture;
use crate::shard::task::{Foreign, StopWish};
use crate::shard::{Budgets, Shard, ShardId};

/// What a target does with bytes that it received.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// Sends these bytes at that time.
    Sends(Time, Vec<u8>),
    /// Ends the stream at that time.
    Ends(Time),
    /// Resets at once.
    Resets,
    /// Nothing, ever.
    Nothing,
}

/// A target: the time, the connection's number and the bytes that came, and what it does then. Empty bytes: a new
/// connection.
type Target = Box<dyn FnMut(Time, usize, &[u8]) -> Vec<Does>>;

/// What arrives when, at which connection; equal times in the order of sending.
type OnTheWay = BTreeMap<(Time, u64), (Rc<Pipe>, Arrives)>;

/// The clock, the targets, and what is on its way.
pub(super) struct World {
    pub(super) now: Cell<Time>,
    alarm: Alarm,
    target: RefCell<Target>,
    on_the_way: RefCell<OnTheWay>,
    order: Cell<u64>,
    connections: Cell<usize>,
    /// Connects fail while this is set, and so many more after it.
    pub(super) refuses: Cell<bool>,
    pub(super) refuses_more: Cell<usize>,
    /// Connects come to no end while this is set.
    pub(super) swallows: Cell<bool>,
    /// From the first to the second time the shard is not polled, whatever happens.
    stopped: Cell<(Time, Time)>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Arrives {
    Bytes(Vec<u8>),
    End,
}

/// What a connection's receiving half has not consumed.
#[derive(Debug, Default)]
struct Pipe {
    bytes: RefCell<Vec<u8>>,
    ended: Cell<bool>,
    reset: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Pipe {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct FakeSource {
    pipe: Rc<Pipe>,
    lent: Vec<u8>,
}

impl Source for FakeSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.lent.append(&mut self.pipe.bytes.borrow_mut());
        if !self.lent.is_empty() || self.pipe.ended.get() {
            return Poll::Ready(Ok(&self.lent));
        }
        if self.pipe.reset.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        *self.pipe.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
    fn consume(&mut self, count: usize) {
        self.lent.drain(..count);
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

#[derive(Debug)]
struct FakeSink {
    world: Rc<World>,
    pipe: Rc<Pipe>,
    number: usize,
}

impl Sink for FakeSink {
    fn poll_write(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.pipe.reset.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.world.reach_target(self.number, &self.pipe, bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.world.swallows.get() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn abort(&mut self) {}
}

impl World {
    fn reach_target(&self, number: usize, pipe: &Rc<Pipe>, bytes: &[u8]) {
        let all = (self.target.borrow_mut())(self.now.get(), number, bytes);
        for does in all {
            let (at, arrives) = match does {
                Does::Sends(at, bytes) => (at, Arrives::Bytes(bytes)),
                Does::Ends(at) => (at, Arrives::End),
                Does::Nothing => continue,
                Does::Resets => {
                    pipe.reset.set(true);
                    pipe.wake();
                    continue;
                }
            };
            self.order.set(self.order.get() + 1);
            self.on_the_way.borrow_mut().insert((at, self.order.get()), (pipe.clone(), arrives));
        }
    }

    /// Makes sure that the clock stops at this time, if only for a look.
    pub(super) fn look_at(&self, at: Time) {
        self.order.set(self.order.get() + 1);
        let nothing = (Rc::default(), Arrives::Bytes(Vec::new()));
        self.on_the_way.borrow_mut().insert((at, self.order.get()), nothing);
    }

    /// Moves the clock to the next thing that happens, if that is not after `until`.
    fn advance(&self, until: Time) -> bool {
        let arrival = self.on_the_way.borrow().keys().next().map(|(at, _)| *at);
        let Some(mut next) = arrival.into_iter().chain(self.alarm.deadline()).min().filter(|at| *at <= until)
        else {
            return false;
        };
        let (from, to) = self.stopped.get();
        if next >= from && next < to {
            next = to;
        }
        self.now.set(next.max(self.now.get()));
        let later = self.on_the_way.borrow_mut().split_off(&(self.now.get() + Duration::from_nanos(1), 0));
        for (pipe, arrives) in self.on_the_way.replace(later).into_values() {
            match arrives {
                Arrives::Bytes(bytes) => pipe.bytes.borrow_mut().extend(bytes),
                Arrives::End => pipe.ended.set(true),
            }
            pipe.wake();
        }
        self.alarm.fire(self.now.get());
        true
    }
}

/// The reactor of the world's one shard.
#[derive(Debug)]
struct Here(Rc<World>);

impl Reactor for Here {
    fn now(&self) -> Time {
        self.0.now.get()
    }
    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
    fn seed(&self) -> u64 {
        0
    }
    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.0.alarm.poll_until(self.now(), cx, deadline)
    }
    fn listen(&self, _: Bound) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn connect(&self, _: &Address, _: &ConnectOptions) -> io::Result<Transport> {
        let more = self.0.refuses_more.get();
        if self.0.refuses.get() || more > 0 {
            self.0.refuses_more.set(more.saturating_sub(1));
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let pipe = Rc::<Pipe>::default();
        let number = self.0.connections.replace(self.0.connections.get() + 1);
        self.0.reach_target(number, &pipe, &[]);
        let source = FakeSource { pipe: pipe.clone(), lent: Vec::new() };
        Ok(Transport {
            source: Box::new(source),
            sink: Box::new(FakeSink { world: self.0.clone(), pipe, number }),
        })
    }
    fn adopt(&self, _: Incoming) -> io::Result<Transport> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Nothing comes from other shards but wakes and the wish to stop.
struct Alone(Arc<AtomicBool>);

impl Between for Alone {
    fn take(&self) -> Taken {
        Taken { more: false, foreign: self.0.swap(false, SeqCst) }
    }
    fn ring(&self) {}
    fn park(&self) -> bool {
        !self.0.load(SeqCst)
    }
    fn rung(&self) -> bool {
        self.0.load(SeqCst)
    }
    fn glance(&self) -> bool {
        false
    }
    fn set_waker(&self, _: &Waker) {}
}

struct Flag(Arc<AtomicBool>);

impl RingForeign for Flag {
    fn ring_foreign(&self) {
        self.0.store(true, SeqCst);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// A world with one shard whose main task is what the test is about.
pub(super) struct Stage {
    pub(super) world: Rc<World>,
    root: Pin<Box<dyn Future<Output = ()>>>,
    foreign: Arc<Foreign>,
    /// Something came from outside, which wakes a shard as soon as it sleeps.
    rung: Arc<AtomicBool>,
}

impl Stage {
    pub(super) fn new<F: Future<Output = ()> + 'static>(
        target: impl FnMut(Time, usize, &[u8]) -> Vec<Does> + 'static,
        main: impl FnOnce(Shard) -> F,
    ) -> Stage {
        let world = Rc::new(World {
            now: Cell::default(),
            alarm: Alarm::default(),
            target: RefCell::new(Box::new(target)),
            on_the_way: RefCell::default(),
            order: Cell::default(),
            connections: Cell::default(),
            refuses: Cell::default(),
            refuses_more: Cell::default(),
            swallows: Cell::default(),
            stopped: Cell::default(),
        });
        let rung = Arc::<AtomicBool>::default();
        let foreign = Arc::new(Foreign::new(Arc::new(Flag(rung.clone()))));
        let here = Rc::new(Here(world.clone()));
        let core = Core::new(
            ShardId::new(0),
            1,
            here,
            Rc::new(Alone(rung.clone())),
            foreign.clone(),
            Budgets::default(),
        );
        let main = main(Shard::from_core(core.clone()));
        let guard: Box<dyn Any> = Box::new(());
        let root: Root = Box::pin(RootFuture::new(core, main, guard));
        Stage { world, root, foreign, rung }
    }

    /// The shard is not polled from `from` on, for `length`.
    pub(super) fn stop_generator(&self, from: Duration, length: Duration) {
        self.world.stopped.set((Time::ZERO + from, Time::ZERO + from + length));
    }

    /// Runs to the end of the main task; `meanwhile` is called after each step.
    pub(super) fn run_while(&mut self, mut meanwhile: impl FnMut(&World, &Foreign)) {
        let woken = Arc::new(Flag(Arc::default()));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let until = Time::ZERO + Duration::from_secs(3_600);
        loop {
            woken.0.store(false, SeqCst);
            if self.root.as_mut().poll(&mut cx).is_ready() {
                return;
            }
            meanwhile(&self.world, &self.foreign);
            if !woken.0.load(SeqCst) && !self.rung.load(SeqCst) {
                assert!(self.world.advance(until), "nothing will ever happen again");
            }
        }
    }

    pub(super) fn run(&mut self) {
        self.run_while(|_, _| {});
    }
}

/// Asks the shard to end at once, as a second signal does.
pub(super) fn ask_to_end(foreign: &Foreign) {
    foreign.ask_to_stop(StopWish::AtOnce);
}

/// Asks the shard to stop, as a signal does.
pub(super) fn ask_to_stop(foreign: &Foreign) {
    foreign.ask_to_stop(StopWish::Drain(Duration::from_secs(30)));
}
