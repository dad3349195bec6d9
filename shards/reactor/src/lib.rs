//! The seam between one core's reactor and everything above it.
//!
//! A *reactor* is how one core waits: for sockets, for one alarm, for a wake-up. A *backend* is a value that starts
//! reactors, one per shard. Everything else that Waterwheel does (tasks, timers, messages, steering, proxies) is
//! written once, above these traits, and runs on every backend unchanged.
//!
//! | type | what it is |
//! |---|---|
//! | [`Backend`] | process-wide, chosen by value: binds sockets, runs [`Launch`]es |
//! | [`Reactor`] | one per shard, never leaves its thread: clock, alarm, listeners, connections |
//! | [`Listener`] | accepts; gives its [`Bound`] back when closed |
//! | [`Source`], [`Sink`] | the receiving and the sending half of a connection |
//! | [`Incoming`] | a connection between two shards: it may cross, and is adopted on the other side |
//! | [`Datagrams`], [`DatagramSocket`] | datagrams, several in one call; a reactor need not have them |
//! | [`Buffered`] | how much memory connections hold; a reactor need not tell |
//! | [`Chunks`] | memory that one connection after the other receives into |
//! | [`Doorbell`] | the sleep and wake protocol that a backend's waker needs, model-checked once for all |
//! | [`Waiter`] | the one who waits at a source or a sink |
//!
//! # Writing your own reactor
//!
//! The backend drives *one* future per shard, the [`Root`]. Tasks, timers and mailboxes live inside it, so a new
//! reactor is only input and output, one alarm and a waker. In the order in which one writes it:
//!
//! 1. **A loop.** [`on_threads`] spawns and names the threads, runs [`Launch::prepare`], catches panics and asks
//!    [`Launch::start`] again. You give it one function that makes a reactor, asks for the root, and drives it until
//!    it is ready.
//! 2. **A waker.** Put a [`Doorbell`] behind [`std::task::Wake`]. Call [`Doorbell::awake`] before each poll, sleep
//!    only if [`Doorbell::may_sleep`] says so, and interrupt the sleep when [`Doorbell::ring`] returns true. Poll a
//!    root with one waker for its whole life.
//! 3. **A clock and an alarm.** [`Reactor::now`] counts from one origin for all shards of a run.
//!    [`Reactor::poll_until`] keeps one deadline; the latest call wins.
//! 4. **Streams.** [`Reactor::connect`] and [`Reactor::adopt`] make a [`Transport`]. A [`Source`] lends bytes from a
//!    buffer of yours; a [`Sink`] takes bytes and sends them without being polled again.
//! 5. **Listeners.** [`Reactor::listen`] takes a socket that [`Backend::bind`] made.
//! 6. **The suite.** Run `waterwheel-conformance` over your backend: every law is a test with a name.
//!
//! This is a whole loop, without sockets:
//!
//! ```
//! use std::{io, rc::Rc, sync::Arc, task::{Context, Poll, Wake, Waker}, time::Duration};
//! use waterwheel_reactor as seam;
//! use seam::{Address, Doorbell, Incoming, Reactor, Time, Transport};
//!
//! /// Interrupts the sleep of the thread that drives the root.
//! #[derive(Debug)]
//! struct Bell { door: Doorbell, thread: std::thread::Thread }
//! impl Wake for Bell {
//!     fn wake(self: Arc<Self>) { self.wake_by_ref() }
//!     fn wake_by_ref(self: &Arc<Self>) { if self.door.ring() { self.thread.unpark() } }
//! }
//!
//! #[derive(Debug)]
//! struct Still { clock: seam::Clock, alarm: seam::Alarm }
//! impl Reactor for Still {
//!     fn now(&self) -> Time { self.clock.now() }
//!     fn unix_time(&self) -> Duration { self.clock.unix_time() }
//!     fn seed(&self) -> u64 { 1 }
//!     fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
//!         self.alarm.poll_until(self.now(), cx, deadline)
//!     }
//!     fn listen(&self, _: seam::Bound) -> io::Result<Box<dyn seam::Listener>> { Err(io::ErrorKind::Unsupported.into()) }
//!     fn connect(&self, _: &Address, _: &seam::ConnectOptions) -> io::Result<Transport> { Err(io::ErrorKind::Unsupported.into()) }
//!     fn adopt(&self, _: Incoming) -> io::Result<Transport> { Err(io::ErrorKind::Unsupported.into()) }
//! }
//!
//! /// One life of one shard: make a reactor, ask for the root, drive it to its end.
//! fn life(clock: seam::Clock, start: &mut seam::Start) -> io::Result<seam::Life> {
//!     let reactor = Rc::new(Still { clock, alarm: seam::Alarm::default() });
//!     let Some(mut root) = start(reactor.clone()) else { return Ok(seam::Life::Over) };
//!     let bell = Arc::new(Bell { door: Doorbell::default(), thread: std::thread::current() });
//!     let waker = Waker::from(bell.clone());
//!     let mut cx = Context::from_waker(&waker);
//!     loop {
//!         bell.door.awake();
//!         if root.as_mut().poll(&mut cx).is_ready() { return Ok(seam::Life::Ended) }
//!         match reactor.alarm.deadline() {
//!             _ if !bell.door.may_sleep() => {}
//!             Some(at) => std::thread::park_timeout(at.since(reactor.now())),
//!             None => std::thread::park(),
//!         }
//!         reactor.alarm.fire(reactor.now());
//!     }
//! }
//!
//! let clock = seam::Clock::start();
//! let launch = seam::Launch {
//!     shard: 0, name: "still-0".into(), prepare: Box::new(|| {}),
//!     start: { let mut once = true; Box::new(move |reactor| std::mem::take(&mut once).then(|| -> seam::Root {
//!         let until = reactor.now() + Duration::from_millis(5);
//!         Box::pin(std::future::poll_fn(move |cx| reactor.poll_until(cx, until)))
//!     })) },
//! };
//! seam::on_threads(vec![launch], move |_, start| life(clock, start)).unwrap();
//! ```
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("Waterwheel runs on Linux only: its reactors are built on epoll and io_uring");

mod address;
mod backend;
mod buffered;
mod chunks;
mod datagram;
mod doorbell;
mod options;
pub mod program;
mod reactor;
mod stream;
mod threads;
mod time;
mod waiter;

pub use address::{Address, UnixName};
pub use backend::{
    Backend, Bound, Ended, Handle, Launch, Root, Start, Unavailable, Virtual, VirtualSocket, Why,
};
pub use buffered::Buffered;
pub use chunks::Chunks;
pub use datagram::{
    BoundDatagrams, Congestion, DATAGRAM_BYTES_MAX, Datagram, DatagramSocket, Datagrams, Outgoing, Via,
};
pub use doorbell::Doorbell;
pub use options::{ConnectOptions, DatagramOptions, ListenOptions, StreamOptions};
pub use program::Program;
pub use reactor::{Incoming, Inspect, Listener, Lookup, Reactor, TaskNote, Watched};
pub use stream::{Side, Sink, Source, Transport, forward_by_writing};
pub use threads::{Life, on_threads, panic_message};
pub use time::{Alarm, Clock, Time};
pub use waiter::Waiter;
