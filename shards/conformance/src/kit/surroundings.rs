//! What is around a reactor in a law: the peers that it talks to, and the machine whose limits it meets.
//!
//! Laws reach both through [`surroundings`] alone, so that a reactor whose network is no kernel's keeps the same laws.
//! Values between shards, foreign threads and the clock are no part of it: those are the test program's own.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use waterwheel_reactor::{Address, Bound, Source, StreamOptions};

use super::Kernel;

/// The world outside a reactor: peers with blocking sockets, and what the machine counts and limits.
///
/// [`Kernel`] is the one for reactors that use the kernel's sockets. A simulated world makes its own for the backend
/// that lives in it, and hands both over together as a [`Held`](crate::Held).
///
/// # Who calls it
/// Roots, foreign threads, and the thread that runs the law, before, during and after a run. A call that a root makes
/// comes back without any reactor's help: a peer connects against a queue that has room, or finds none for as long as
/// its patience lasts; it writes what the buffers hold. Where a peer has to wait for what a reactor does, a law calls
/// from a foreign thread, which goes on as soon as that is done. What a peer does takes effect at once, and what a
/// reactor has sent or closed reaches peers after its run has ended, too.
///
/// # What a world has
/// * The loopback of IPv4 and of IPv6, of which `[::]` serves both unless it is bound for IPv6 only; but 203.0.113.1 is
///   nobody's (`AddrNotAvailable`), and nothing connects to 255.255.255.255 (`NetworkUnreachable`).
/// * Unix names, as paths and abstract; 108 bytes are too long (`InvalidInput`).
/// * Buffers for at least 64 KiB in each direction where no size was asked for, and for no more than twice what was
///   asked for; queues of connections as long as was asked for, where a connect that finds no room stays in progress.
pub trait Surroundings: fmt::Debug + Send + Sync {
    /// A peer that connects, with the buffers of `options` set before, since the window is agreed on in the handshake.
    /// Waits where the queue of the one who listens is full.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens there; `TimedOut` after `patience`.
    fn connect(
        &self,
        to: &Address,
        options: StreamOptions,
        patience: Duration,
    ) -> io::Result<Box<dyn PeerSocket>>;

    /// A peer that listens, alone at its address; port 0 is resolved. `backlog` connections wait, or one more.
    ///
    /// # Errors
    /// `AddrInUse` while somebody holds the address, listening or not; `AddrNotAvailable` if it is nobody's here.
    fn listen(&self, at: &Address, backlog: u32) -> io::Result<Box<dyn PeerListener>>;

    /// The connects to this internet address that are in progress, one text for each.
    fn still_trying(&self, to: &Address) -> Vec<String>;

    /// Makes a connect that is in progress fail with `TimedOut` when nobody has answered for `limit`, where by itself
    /// it would take minutes. False if that cannot be arranged for this one.
    fn give_up_after(&self, limit: Duration, connecting: &dyn Source) -> bool;

    /// What is open, by its number: `socket:[81337]`. The peers' sockets count as the reactor's do. A simulated world
    /// adds its own to the [`Kernel`]'s, under numbers that no kernel gives, such as negative ones.
    fn descriptors(&self) -> BTreeMap<i32, String>;

    /// Lets `spare` more descriptors be opened and then none (`EMFILE`), by the reactor or by peers, until the guard that
    /// it answers is dropped.
    fn leave_descriptors(&self, spare: usize) -> Box<dyn Any + Send>;

    /// Lets `wanted` descriptors be open at once, until the guard is dropped; `None` if this machine does not allow it.
    fn raise_descriptors(&self, wanted: u64) -> Option<Box<dyn Any + Send>>;

    /// Whether a Unix socket's path is a file: stands in a directory, has permissions, outlives its socket, and may be
    /// somebody's data. If not, it is a name that is free again when its socket is closed.
    fn files(&self) -> bool;

    /// Whether each shard has a thread of its own. If not, a root that blocks stops all others.
    fn threads(&self) -> bool;
}

/// A peer's end of a connection. Dropping it closes it: with FIN, or with RST where input was left unread.
///
/// Calls block, each for `patience` at most, and are `TimedOut` then.
pub trait PeerSocket: fmt::Debug + Send + Sync {
    /// Reads what there is, waiting for the first byte; 0 at the end.
    ///
    /// # Errors
    /// `ConnectionReset`; `TimedOut` after `patience`.
    fn read(&self, bytes: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Waits until [`read`](PeerSocket::read) has something to tell, and leaves it there.
    ///
    /// # Errors
    /// `TimedOut` after `patience`.
    fn wait_for_input(&self, patience: Duration) -> io::Result<()>;

    /// Writes as many of the bytes as find room within `patience`.
    ///
    /// # Errors
    /// `ConnectionReset` or `BrokenPipe`, never with a signal; `TimedOut` if there was no room for any.
    fn write(&self, bytes: &[u8], patience: Duration) -> io::Result<usize>;

    /// Ends one direction: FIN behind what was written, or, over Unix sockets, no more reading.
    ///
    /// # Errors
    /// As shutdown(2).
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;

    /// Makes its close, which follows, drop what is queued and send RST (socket(7), `SO_LINGER` of 0 seconds).
    ///
    /// # Errors
    /// As setsockopt(2).
    fn reset(&self) -> io::Result<()>;

    /// Its own address.
    ///
    /// # Errors
    /// As getsockname(2).
    fn local(&self) -> io::Result<Address>;
}

/// A peer that listens. Dropping it frees its address, unless somebody has [taken part](PeerListener::share) in it.
pub trait PeerListener: fmt::Debug + Send {
    /// The next connection.
    ///
    /// # Errors
    /// `TimedOut` after `patience`.
    fn accept(&self, patience: Duration) -> io::Result<Box<dyn PeerSocket>>;

    /// The same socket once more, as a reactor [listens](waterwheel_reactor::Reactor::listen) on it: what a service
    /// manager that keeps its socket passes on. With the default options.
    ///
    /// # Errors
    /// As dup(2).
    fn share(&self) -> io::Result<Bound>;

    /// Where it listens.
    ///
    /// # Errors
    /// As getsockname(2).
    fn local(&self) -> io::Result<Address>;
}

/// Set in the process of a law before the law begins.
static AROUND: OnceLock<Arc<dyn Surroundings>> = OnceLock::new();

/// The surroundings of the reactor under test; the [`Kernel`] in a process that runs no law.
pub fn surroundings() -> &'static dyn Surroundings {
    AROUND.get().map_or(&Kernel, |around| &**around)
}

/// Says what [`surroundings`] are from now on. The first call counts.
pub(crate) fn surround(around: Arc<dyn Surroundings>) {
    AROUND.get_or_init(|| around);
}
