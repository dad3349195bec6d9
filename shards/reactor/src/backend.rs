//! A backend: process-wide, a value, the one thing that a program chooses.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::pin::Pin;
use std::rc::Rc;

use crate::{Address, BoundDatagrams, DatagramOptions, ListenOptions, Program, Reactor};

/// The one future that a backend drives for a shard.
pub type Root = Pin<Box<dyn Future<Output = ()>>>;

/// Makes a shard's root, given its new reactor; `None` ends the shard. Asked again after the root ended or panicked.
pub type Start = dyn FnMut(Rc<dyn Reactor>) -> Option<Root> + Send;

/// Starts reactors, one per shard, each on a thread of its own (or, in a simulation, all on one).
pub trait Backend: fmt::Debug + Send + Sync {
    /// The name by which an operator chooses it, in lower case.
    fn name(&self) -> &'static str;

    /// Whether it can run here, found out by doing once what it needs, not by a kernel's version.
    ///
    /// # Errors
    /// Says what is missing. Never panics and never ends the process.
    fn probe(&self) -> Result<(), Unavailable>;

    /// Binds `count` sockets to one address and listens on them, one per shard, in the order of the shards (which is
    /// the order that a program attached to the group sees). Port 0 is resolved once and shared by all. Connections
    /// wait in the kernel from here on, so nothing is lost between `bind` and [`Reactor::listen`].
    ///
    /// A Unix path whose socket nobody serves any more is replaced; one that answers is `AddrInUse`.
    ///
    /// # Errors
    /// As bind(2) and listen(2): `AddrInUse`, `PermissionDenied`, `AddrNotAvailable`; nothing stays bound then.
    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>>;

    /// Lets a program say which socket of a group that [`bind`](Backend::bind) made gets a connection, from now on; before
    /// any of them is given to a reactor. It counts the sockets in the order of the shards. One that came before, and
    /// one for which the program has no answer, goes where the backend sends it without a program.
    ///
    /// # Errors
    /// `Unsupported` where this backend has no such thing, as this default has it; or why the program is refused.
    fn steer(&self, group: &[Bound], program: &Program) -> io::Result<()> {
        let _ = (group, program);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Binds `count` datagram sockets to one address, one per shard, in the order of the shards. As [`bind`](Backend::bind),
    /// for sockets that do not listen: datagrams wait in them from here on, as many as their buffers hold.
    ///
    /// # Errors
    /// As bind(2); nothing stays bound then. `Unsupported` where this backend has no such thing, as this default has it.
    fn bind_datagrams(
        &self,
        at: &Address,
        options: &DatagramOptions,
        count: usize,
    ) -> io::Result<Vec<BoundDatagrams>> {
        let _ = (at, options, count);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// As [`steer`](Backend::steer), of a group that [`bind_datagrams`](Backend::bind_datagrams) made.
    ///
    /// # Errors
    /// As [`steer`](Backend::steer).
    fn steer_datagrams(&self, group: &[BoundDatagrams], program: &Program) -> io::Result<()> {
        let _ = (group, program);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A descriptor that is good for nothing but to be given up, as [`Reactor::spare`]; taken before the shards run, when
    /// nobody can have taken them all.
    ///
    /// # Errors
    /// None is left.
    fn spare(&self) -> io::Result<Handle> {
        spare()
    }

    /// The addresses of a name, asked for before the shards run. `None`: this backend knows no names, and the system's
    /// resolver is asked, which may block. As [`Reactor::lookup`].
    ///
    /// # Errors
    /// There is no such name, or no address for it.
    fn lookup(&self, host: &str, port: u16) -> Option<io::Result<Vec<SocketAddr>>> {
        let _ = (host, port);
        None
    }

    /// Runs one shard per launch and returns after the last one ended. May be called again, also by the same thread.
    ///
    /// # Errors
    /// The shards whose last root panicked, or whose reactor could not be made or failed.
    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>>;
}

/// One descriptor that needs nothing of the file system.
pub(crate) fn spare() -> io::Result<Handle> {
    Ok(Handle::Os(UnixDatagram::unbound()?.into()))
}

impl<B: Backend + ?Sized> Backend for &B {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn probe(&self) -> Result<(), Unavailable> {
        (**self).probe()
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        (**self).bind(at, options, count)
    }

    fn steer(&self, group: &[Bound], program: &Program) -> io::Result<()> {
        (**self).steer(group, program)
    }

    fn bind_datagrams(
        &self,
        at: &Address,
        options: &DatagramOptions,
        count: usize,
    ) -> io::Result<Vec<BoundDatagrams>> {
        (**self).bind_datagrams(at, options, count)
    }

    fn steer_datagrams(&self, group: &[BoundDatagrams], program: &Program) -> io::Result<()> {
        (**self).steer_datagrams(group, program)
    }

    fn spare(&self) -> io::Result<Handle> {
        (**self).spare()
    }

    fn lookup(&self, host: &str, port: u16) -> Option<io::Result<Vec<SocketAddr>>> {
        (**self).lookup(host, port)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        (**self).run(launches)
    }
}

/// What a backend needs to run one shard.
pub struct Launch {
    /// The shard's number, from 0, without gaps.
    pub shard: usize,
    /// The name of its thread.
    pub name: String,
    /// Runs first on the thread, before the reactor exists: pinning.
    pub prepare: Box<dyn FnOnce() + Send>,
    /// Makes the root. Dropped on the shard's thread after it answered `None`, or when the shard could not start.
    pub start: Box<Start>,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("shard", &self.shard).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A shard that did not end well.
#[derive(Debug)]
pub struct Ended {
    /// Its number.
    pub shard: usize,
    /// What happened.
    pub why: Why,
}

/// Why a shard did not end well.
#[derive(Debug)]
pub enum Why {
    /// Its root panicked; the message, if it was text.
    Panicked(String),
    /// Its reactor could not be made, or the kernel refused it service.
    Failed(io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Panicked(message) => write!(f, "shard {} panicked: {message}", self.shard),
            Why::Failed(error) => write!(f, "the reactor of shard {} failed: {error}", self.shard),
        }
    }
}

impl std::error::Error for Ended {}

/// Why a backend cannot run here, for the operator: "io_uring_setup: Operation not permitted (os error 1)".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    reason: String,
}

impl Unavailable {
    /// With the reason in a few words, the failing call first.
    pub fn new(reason: impl Into<String>) -> Unavailable {
        Unavailable { reason: reason.into() }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unavailable {}

/// A listening socket that no shard serves yet, or no longer. Dropping the last one of a port frees the port.
#[derive(Debug)]
pub struct Bound {
    /// Where it listens, port 0 resolved.
    pub local: Address,
    /// The socket.
    pub handle: Handle,
    /// What connections accepted from it are asked to do.
    pub options: ListenOptions,
}

/// A socket between two shards: the kernel's, or one that only a simulated world understands. Dropping it closes it.
#[derive(Debug)]
pub enum Handle {
    /// An open descriptor, close-on-exec and non-blocking.
    Os(OwnedFd),
    /// Of a backend that has no kernel under it.
    Virtual(Virtual),
}

/// A socket of a world without a kernel. Only the backend that made it knows what it is; dropping it closes it.
pub struct Virtual {
    socket: Box<dyn VirtualSocket>,
}

/// What stands for a socket where there is no kernel. Its drop has to close it.
pub trait VirtualSocket: Any + Send {
    /// Resets the connection that it is, if it is one; the drop that follows says nothing more.
    fn reset(&mut self) {}
}

impl Virtual {
    /// Wraps what stands for a socket.
    pub fn new(socket: impl VirtualSocket) -> Virtual {
        Virtual { socket: Box::new(socket) }
    }

    /// What stands for the socket, if it is a `T`.
    ///
    /// # Errors
    /// It is something else, of another backend.
    pub fn open<T: VirtualSocket>(self) -> Result<T, Virtual> {
        let Virtual { socket } = self;
        if !(&*socket as &dyn Any).is::<T>() {
            return Err(Virtual { socket });
        }
        let socket: Box<dyn Any> = socket;
        Ok(*socket.downcast().unwrap_or_else(|_| unreachable!("its type was asked for")))
    }

    /// What stands for the socket, if it is a `T`, to look at.
    pub fn look<T: VirtualSocket>(&self) -> Option<&T> {
        (&*self.socket as &dyn Any).downcast_ref()
    }

    /// Resets the connection and closes it.
    pub fn reset(mut self) {
        self.socket.reset();
    }
}

impl fmt::Debug for Virtual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Virtual")
    }
}
