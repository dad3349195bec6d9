//! What one core's reactor offers to the shard on it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::Location;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::{Address, Bound, Buffered, ConnectOptions, Datagrams, Handle, Time, Transport};

/// What a shard shows of itself to the reactor under it.
pub trait Inspect {
    /// Its tasks.
    fn tasks(&self) -> Vec<TaskNote>;
    /// How many timers are set.
    fn timers(&self) -> usize;
    /// How many values are still to come: resolvers that have neither resolved nor been dropped.
    fn resolvers(&self) -> usize;
    /// How many of its tasks have panicked so far.
    fn panics(&self) -> u64;
}

/// What is known of a task.
#[derive(Clone, Debug)]
pub struct TaskNote {
    /// What kind of task it is.
    pub name: &'static str,
    /// Where it was spawned.
    pub spawned: &'static Location<'static>,
    /// Its waker, by which those who are to wake it can be found ([`Waker::will_wake`]).
    pub waker: Waker,
    /// What it waits for within its runtime, as far as the shard knows: "a message of port jobs".
    pub waits: Vec<String>,
}

/// A name being looked up: its addresses, at least one, in the order of preference.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>>>>;

/// One core's reactor. It never leaves its thread; methods are called while the root is polled or between polls.
///
/// Wakers: the waker of the latest poll of an object (of each half of a connection) is the one woken. Spurious polls
/// are harmless and spurious wakes are allowed.
pub trait Reactor: fmt::Debug {
    /// The time, read from the clock now. One origin per run for all shards; never goes back.
    fn now(&self) -> Time;

    /// Wall time since 1970, for log lines and HTTP dates only.
    fn unix_time(&self) -> Duration;

    /// A number that seeds the shard's random choices: different in each shard and run, unless a seed was fixed.
    fn seed(&self) -> u64;

    /// The shard's one alarm: ready once `deadline` has come, never early. The latest call wins, sooner or later than
    /// the one before. A deadline centuries away is none.
    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()>;

    /// Serves a socket that [`Backend::bind`](crate::Backend::bind) made.
    ///
    /// # Errors
    /// A handle of another backend's kind, or the kernel's reason. The socket is closed then.
    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>>;

    /// Begins to connect and returns at once; nothing completes inside the call. The transport's empty
    /// [`flush`](crate::Sink::poll_flush) is ready once connected, or tells why not (`ResourceBusy`: the queue of a Unix
    /// socket's listener is full, which may pass). Bytes written before wait.
    ///
    /// # Errors
    /// What can be known at once: no descriptor, no such local address, no such family.
    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport>;

    /// Makes a connection of this shard's out of one that came from a listener or from another shard. The bytes that
    /// came with it are lent first.
    ///
    /// # Errors
    /// A handle of another backend's kind, or the kernel's reason. The connection is closed then.
    fn adopt(&self, incoming: Incoming) -> io::Result<Transport>;

    /// Waits for readiness of any descriptor that the kernel can poll; `None`: this reactor does not offer it.
    ///
    /// # Errors
    /// `InvalidInput`: the descriptor cannot be polled (a regular file). Else the kernel's reason.
    fn watch(&self, descriptor: OwnedFd) -> io::Result<Option<Box<dyn Watched>>> {
        drop(descriptor);
        Ok(None)
    }

    /// A descriptor that is good for nothing but to be given up: at the limit of descriptors, dropping it makes room for
    /// one connection, which can then be accepted and told.
    ///
    /// # Errors
    /// None is left.
    fn spare(&self) -> io::Result<Handle> {
        crate::backend::spare()
    }

    /// Looks a name up with the reactor's own resolver; `None`: it has none, and the system's is asked on other threads.
    fn lookup(&self, host: &str, port: u16) -> Option<Lookup> {
        let _ = (host, port);
        None
    }

    /// Lets the reactor look into the shard that it drives, for reports of what waits and what is left over; kept by
    /// reactors that make such reports. Called once, before the root is first polled.
    fn inspect(&self, shard: Weak<dyn Inspect>) {
        drop(shard);
    }

    /// Where this reactor counts what its connections hold outside the kernel; `None`: it does not. With a limit, it holds
    /// connections back as [`Buffered`] says.
    fn buffered(&self) -> Option<&Rc<Buffered>> {
        None
    }

    /// Datagram sockets; `None`: this reactor does not offer them.
    fn datagrams(&self) -> Option<&dyn Datagrams> {
        None
    }
}

/// A listening socket at work on one shard.
pub trait Listener: fmt::Debug {
    /// The next connection.
    ///
    /// # Errors
    /// `NotConnected` once it was closed. As accept(2): `EMFILE` and its like are reported once per attempt; the listener stays usable, does not spin,
    /// and a later poll tries again. Who polls again, and when, is the caller's decision.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>>;

    /// Stops accepting and gives the socket back, still listening; the connections in its queue stay there.
    /// Connections that were accepted but not yet handed out are closed.
    ///
    /// # Panics
    /// If it was ready before: there is nothing to give back, and who waited for it would wait for ever.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Bound>;
}

/// A connection on its way to the shard that will own it. Dropping it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    /// The socket.
    pub handle: Handle,
    /// Bytes already read from it, to be lent first by whoever adopts it.
    pub bytes: Vec<u8>,
    /// The peer's address if it is known without asking the kernel again: accept(2) tells it.
    pub peer: Option<Address>,
}

/// Readiness of one descriptor. Level-triggered in effect: ready means that an attempt now would not have to wait,
/// or that another made it so and the attempt answers `WouldBlock`.
pub trait Watched: fmt::Debug {
    /// The descriptor, to read, write or accept with.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Ready when reading may succeed or meet the end; clears the readiness, so read until `WouldBlock`.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready when writing may succeed or fail for good; clears the readiness, so write until `WouldBlock`.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Gives the descriptor back, for whoever uses it next. A reactor that keeps one of its own gives that, and needs no other:
    /// at the limit of descriptors it would be lost.
    ///
    /// # Errors
    /// No descriptor is left, where another is needed. It is closed then.
    fn into_descriptor(self: Box<Self>) -> io::Result<OwnedFd> {
        self.descriptor().try_clone_to_owned()
    }
}
