//! Listeners of a runtime: bound before its shards run, and while they do.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_os::SocketFile;
use waterwheel_reactor::{Address, Backend, Bound, Handle, ListenOptions, Program, UnixName};

use super::config::Config;
use super::plan::Plan;
use super::runtime::StartError;
use crate::mesh::{CountLease, DeclareError, Mesh, Port};
use crate::net::datagram::{DatagramEndpoint, HandingOver};
use crate::net::reserve::Reserve;
use crate::net::{Endpoint, Listening, Offered, ResolveError, Sockets, SparePorts, Steering};
use crate::steer::{Mode, program};

/// Binds endpoints for all shards of a runtime, from any thread, before they run and while they do. Cheap to clone.
///
/// A listener that is bound while shards run is given to them as everything else is: by a message. Each then calls
/// [`Shard::accept_on`](crate::shard::Shard::accept_on). One that is of no use any more is [closed](Listeners::close)
/// here, and [left](crate::net::Leaving) by each shard.
#[derive(Clone)]
pub struct Listeners {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    mesh: Arc<Mesh>,
    mode: Mode,
    seed: u32,
    /// Whether the kernel may be given a program that places connections.
    program: bool,
    /// The CPU of each shard.
    cpus: Vec<Option<usize>>,
    /// The quota of each.
    buffered_bytes: Option<usize>,
    /// The spare descriptors of all listeners; taken with the first.
    reserve: OnceLock<Arc<Reserve>>,
    /// Every listener that was not closed, so that the parts of shards that end are given up.
    all: Mutex<Open>,
    /// Those of `ports` that no listener has.
    spare: SparePorts,
    /// Every port by which connections go to their shards: as many as there ever were listeners at once.
    ports: Mutex<Vec<Port<Offered>>>,
    /// Numbers the ways of datagrams, whose names are told apart so.
    datagrams: AtomicUsize,
    /// Numbers the limits that were declared in this runtime, whoever declared them.
    limits: AtomicUsize,
}

/// A listener that is closed takes in who waits at it for a second, once its shards hear of it. Who wants its address again
/// waits so long, and then is refused.
const CLOSED_WITHIN: Duration = Duration::from_secs(3);
/// The kernel lets go of an address in the reactor's next turn at the latest. So often it is asked for again, and so long
/// after each time.
const TURNS: usize = 20;
const TURN: Duration = Duration::from_millis(10);

/// Listeners that were not closed, and shards that will never serve one.
#[derive(Debug, Default)]
struct Open {
    listening: Vec<Listening>,
    /// Those that were, as long as a shard has a socket of them. In a simulated world nobody can wait for them.
    closing: Vec<(Address, Arc<Sockets>)>,
    gone: Vec<usize>,
    /// How often one was bound or closed.
    changes: u64,
    /// By shard: who waits for another change.
    waiting: BTreeMap<usize, Waker>,
}

impl Open {
    /// One was bound or closed: who is to hear of it.
    fn change(&mut self) -> BTreeMap<usize, Waker> {
        self.changes += 1;
        std::mem::take(&mut self.waiting)
    }
}

impl Listeners {
    pub(super) fn new(
        config: &Config,
        plan: &Plan,
        backend: &Arc<dyn Backend>,
        mesh: &Arc<Mesh>,
        seed: u32,
    ) -> Listeners {
        let (reserve, all, spare, ports) = Default::default();
        let inner = Inner {
            backend: backend.clone(),
            mesh: mesh.clone(),
            mode: config.steer,
            seed,
            program: config.steer_program,
            cpus: plan.shards.clone(),
            buffered_bytes: config.quotas.buffered_bytes,
            reserve,
            all,
            spare,
            ports,
            datagrams: AtomicUsize::new(0),
            limits: AtomicUsize::new(0),
        };
        Listeners { inner: Arc::new(inner) }
    }

    /// Binds an endpoint for all shards. Clients may connect from here on; they are served once a shard accepts. May wait
    /// for a name to be looked up, and for a listener at the same port that was closed, so it is not for a shard.
    ///
    /// # Errors
    /// The endpoint's name is unknown, or the system refuses it: port in use, also by a listener that was closed three seconds
    /// ago and that a shard still serves; no permission.
    pub fn listen(&self, endpoint: &Endpoint, options: &ListenOptions) -> Result<Listening, StartError> {
        let refused = |error| StartError::Listen { endpoint: endpoint.clone(), error };
        let addresses = self.resolve(endpoint)?;
        let Some((address, others)) = addresses.split_first() else {
            return Err(refused(io::ErrorKind::AddrNotAvailable.into()));
        };
        let shards = self.inner.mesh.shards();
        let bounds = self.bind(address, options).map_err(refused)?;
        let file = bounds.first().and_then(|bound| file_of(&bound.local, &bound.handle));
        if bounds.len() != shards {
            return Err(refused(io::Error::other("the backend did not bind a socket for each shard")));
        }
        let placed = self.steer(address, &bounds);
        let handoff = self.port(endpoint, &bounds[0])?;
        let reserve = self.reserve().map_err(refused)?;
        let Inner { mode, seed, spare, .. } = &*self.inner;
        let steering = Steering { mode: *mode, seed: *seed, placed };
        let listening = Listening::new(bounds, reserve, (handoff, spare.clone()), steering, file)
            .ok_or_else(|| refused(io::Error::other("the backend bound nothing")))?;
        let mut all = self.all();
        all.listening.push(listening.clone());
        // Clients that the kernel gave to a part that nobody opens would wait for ever.
        all.gone.iter().for_each(|shard| listening.give_up(*shard));
        let waiting = all.change();
        drop(all);
        waiting.into_values().for_each(Waker::wake);
        for other in others {
            tracing::warn!("{endpoint} is {other} too, which is not listened on unless it is given itself");
        }
        Ok(listening)
    }

    /// Binds when the last socket of a listener at the same port is gone, if one was closed. Beside it, or in its group, the
    /// kernel would spread clients over both, and by another order than the shards'.
    fn bind(&self, address: &Address, options: &ListenOptions) -> io::Result<Vec<Bound>> {
        let bind = || self.inner.backend.bind(address, options, self.shards());
        let mut all = self.all();
        let in_the_way = all.closing.iter().filter(|(closing, _)| is_in_the_way(closing, address));
        let in_the_way: Vec<Arc<Sockets>> = in_the_way.map(|(_, sockets)| sockets.clone()).collect();
        // A reactor may have one for a turn more.
        all.closing.retain(|(_, sockets)| !sockets.are_closed());
        drop(all);
        if in_the_way.is_empty() {
            return bind();
        }
        if !in_the_way.iter().all(|sockets| sockets.wait(CLOSED_WITHIN)) {
            let told = "the listener that had it is closed, and a shard still serves it";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, told));
        }
        for _ in 0..TURNS {
            rest(TURN);
            match bind() {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound,
            }
        }
        bind()
    }

    /// Closes a listener for the shards that do not serve it, and for those that begin again: those that serve it are to
    /// leave it. The file of a Unix socket is removed.
    pub fn close(&self, listening: &Listening) {
        let mut all = self.all();
        all.listening.retain(|other| !other.is(listening));
        let waiting = all.change();
        drop(all);
        listening.end();
        // Where it is the kernel's: its file, if it has one, is nobody's any more.
        if !listening.is_virtual() && !listening.sockets().are_closed() {
            let closing = (listening.local().clone(), listening.sockets().clone());
            self.all().closing.push(closing);
        }
        waiting.into_values().for_each(Waker::wake);
    }

    /// The addresses of an endpoint; may wait, so it is not for a shard.
    ///
    /// # Errors
    /// The name is not known.
    pub fn resolve(&self, endpoint: &Endpoint) -> Result<Vec<Address>, ResolveError> {
        endpoint.resolve_with(|host, port| self.inner.backend.lookup(host, port))
    }

    /// Connections that a shard handed over to one that had ended, or had left the listener, when they came, and that were
    /// reset: of all listeners that there are or were.
    pub fn undelivered(&self) -> u64 {
        // Not of the listeners: one that was closed has its port until the last of its connections has ended.
        self.ports().iter().map(Port::undelivered).sum()
    }

    /// Declares a limit while the shards run, too: see [`Runtime::count_lease`](super::Runtime::count_lease).
    pub(crate) fn count_lease(&self, name: &'static str, limit: u64) -> Result<CountLease, DeclareError> {
        CountLease::declare(&self.inner.mesh, name, limit)
    }

    /// A number that no other limit of this runtime has, from 1.
    pub(crate) fn next_limit(&self) -> usize {
        self.inner.limits.fetch_add(1, Relaxed) + 1
    }

    /// The seed of the hash that says which shard owns a connection.
    pub(crate) fn steer_seed(&self) -> u32 {
        self.inner.seed
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.inner.mesh.shards()
    }

    /// Those that were not closed.
    pub(super) fn open(&self) -> Vec<Listening> {
        self.all().listening.clone()
    }

    /// The same, and how many changes there were until now.
    pub(super) fn open_by_now(&self) -> (Vec<Listening>, u64) {
        let all = self.all();
        (all.listening.clone(), all.changes)
    }

    /// Ready once there were more changes than so many. One task of a shard may wait.
    pub(super) fn poll_changed(&self, shard: usize, changes: u64, cx: &Context<'_>) -> Poll<()> {
        let mut all = self.all();
        if all.changes != changes {
            return Poll::Ready(());
        }
        all.waiting.insert(shard, cx.waker().clone());
        Poll::Pending
    }

    /// A shard has no next life: gives its parts up, also of those that are bound later.
    pub(super) fn give_up(&self, shard: usize) {
        let mut all = self.all();
        all.gone.push(shard);
        all.listening.iter().for_each(|listening| listening.give_up(shard));
    }

    fn all(&self) -> MutexGuard<'_, Open> {
        self.inner.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A port over which connections of a new listener go to their shards.
    fn port(&self, endpoint: &Endpoint, bound: &Bound) -> Result<Port<Offered>, StartError> {
        let spare = self.inner.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(spare) = spare {
            return Ok(spare);
        }
        let mut ports = self.ports();
        // Port names live as long as the program; the number tells them apart.
        let name: &'static str = format!("hand-off of {endpoint} #{} #{}", bound.local, ports.len()).leak();
        let port = Port::declare(&self.inner.mesh, name, Listening::HAND_OFF)?;
        ports.push(port.clone());
        Ok(port)
    }

    fn ports(&self) -> MutexGuard<'_, Vec<Port<Offered>>> {
        self.inner.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A way by which datagrams that come to a new port go to their shards.
    pub(super) fn hand_over_datagrams(
        &self,
        endpoint: &DatagramEndpoint,
        local: &Address,
    ) -> Result<Option<HandingOver>, StartError> {
        if local.inet().is_none() {
            return Ok(None);
        }
        let number = self.inner.datagrams.fetch_add(1, Relaxed);
        let name = || &*format!("hand-over of {endpoint} #{local} #{number}").leak();
        let Inner { mesh, mode, seed, buffered_bytes, .. } = &*self.inner;
        Ok(HandingOver::declare(mesh, name, (*mode, *seed), *buffered_bytes)?)
    }

    /// Lets the kernel place connections where they belong, and says whether it does. If not, shards hand them over.
    fn steer(&self, at: &Address, bounds: &[Bound]) -> bool {
        let shared = bounds.first().is_some_and(|bound| bound.options.reuse_port);
        self.place(at, shared, "connections", |program| self.inner.backend.steer(bounds, program))
    }

    /// The same of `what` comes to a group of sockets that share a port.
    pub(super) fn place(
        &self,
        at: &Address,
        shared: bool,
        what: &str,
        attach: impl FnOnce(&Program) -> io::Result<()>,
    ) -> bool {
        let Inner { mode, seed, cpus, program: wanted, .. } = &*self.inner;
        let shards = self.shards();
        if !wanted || at.inet().is_none() || !shared {
            return false;
        }
        match program(*mode, *seed, shards, cpus) {
            Some(program) => match attach(&program) {
                Ok(()) => return true,
                Err(error) if *mode == Mode::Cpu => {
                    tracing::warn!("the kernel places {what} to {at} as in mode kernel, not by cpu: {error}");
                }
                Err(error) => {
                    tracing::info!("the kernel cannot place {what} to {at} where they belong: {error}");
                }
            },
            None if shards > 1 && matches!(mode, Mode::Flow | Mode::Source | Mode::Cpu) => {
                tracing::info!("too many shards for the kernel to place {what} to {at} where they belong");
            }
            None => {}
        }
        false
    }

    /// The spare descriptors, one for each shard.
    fn reserve(&self) -> io::Result<Arc<Reserve>> {
        let reserve = &self.inner.reserve;
        if let Some(reserve) = reserve.get() {
            return Ok(reserve.clone());
        }
        let fresh = Arc::new(Reserve::new(self.shards(), || self.inner.backend.spare())?);
        Ok(reserve.get_or_init(|| fresh).clone())
    }
}

/// Whether who wants an address cannot have it beside one that is closing. The name of a Unix socket's file is free at once.
fn is_in_the_way(closing: &Address, wanted: &Address) -> bool {
    match (closing.inet(), wanted.inet()) {
        (Some(closing), Some(wanted)) => {
            let is_any = |at: &SocketAddr| at.ip().to_canonical().is_unspecified();
            let is_same = closing.ip().to_canonical() == wanted.ip().to_canonical();
            closing.port() == wanted.port() && (is_same || is_any(&closing) || is_any(&wanted))
        }
        (None, None) => closing == wanted && !matches!(wanted, Address::Unix(UnixName::Path(_))),
        _ => false,
    }
}

/// For a thread that may wait.
fn rest(time: Duration) {
    let (nobody, never) = (Mutex::new(()), Condvar::new());
    drop(never.wait_timeout(nobody.lock().unwrap_or_else(PoisonError::into_inner), time));
}

/// The file that was made for a Unix socket, if one was.
pub(super) fn file_of(local: &Address, handle: &Handle) -> Option<SocketFile> {
    let (Address::Unix(UnixName::Path(path)), Handle::Os(_)) = (local, handle) else { return None };
    let unremoved =
        |error: &io::Error| tracing::warn!("{} will not be removed at the end: {error}", path.display());
    SocketFile::of(path).inspect_err(unremoved).ok()
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&*self.all()).finish()
    }
}

/// Removes the files of Unix sockets when the runtime goes, whether it ran or not.
#[derive(Debug)]
pub(super) struct Files(pub(super) Listeners);

impl Drop for Files {
    fn drop(&mut self) {
        self.0.open().iter().for_each(Listening::remove_file);
    }
}
