//! One shard's reactor, and the listeners on it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use waterwheel_reactor::{
    Address, Alarm, Bound, Buffered, ConnectOptions, Datagrams, Handle, Incoming, Inspect, Listener, Lookup,
    Reactor, Time, Transport, Virtual, VirtualSocket,
};

use crate::errno;
use crate::halves::{Loose, transport};
use crate::names::Looking;
use crate::state::Shared;
use crate::trace::Id;

/// The most that is lent at once.
pub(crate) const CHUNK: usize = 64 << 10;

/// What one life of a shard has.
pub(crate) struct SimReactor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) host: usize,
    pub(crate) shard: Id,
    pub(crate) alarm: Alarm,
    seed: u64,
    /// Buffers that were lent and are empty again, for sources to lend from.
    chunks: RefCell<Vec<Vec<u8>>>,
    /// What sources lend. What sinks took counts as the kernel's.
    pub(crate) buffered: Rc<Buffered>,
    /// This reactor as its own objects hold it.
    me: Weak<SimReactor>,
    ended: Cell<bool>,
    /// Sockets that listeners of this reactor serve.
    serves: RefCell<Vec<(Id, Id)>>,
    /// The same of datagrams.
    pub(crate) outlets: RefCell<Vec<(Id, Id)>>,
    inspected: RefCell<Option<Weak<dyn Inspect>>>,
}

impl SimReactor {
    pub(crate) fn new(shared: &Arc<Shared>, host: usize, shard: Id) -> Rc<SimReactor> {
        let seed = shared.with(|state| state.random.number());
        Rc::new_cyclic(|me| SimReactor {
            shared: shared.clone(),
            host,
            shard,
            alarm: Alarm::default(),
            seed,
            chunks: RefCell::default(),
            buffered: Rc::default(),
            me: me.clone(),
            ended: Cell::new(false),
            serves: RefCell::default(),
            outlets: RefCell::default(),
            inspected: RefCell::default(),
        })
    }

    /// The shard above, if it shows itself.
    pub(crate) fn shown(&self) -> Option<Rc<dyn Inspect>> {
        self.inspected.borrow().as_ref()?.upgrade()
    }

    pub(crate) fn me(&self) -> io::Result<Rc<SimReactor>> {
        let me = self.me.upgrade().filter(|_| !self.ended.get());
        me.ok_or_else(|| errno::error(errno::NOTCONN))
    }

    /// An empty buffer to lend from.
    pub(crate) fn chunk(&self) -> Vec<u8> {
        self.chunks.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    /// Takes a buffer back. Keeps a few, since a source that is read has one at a time.
    pub(crate) fn give_back(&self, mut chunk: Vec<u8>) {
        const KEPT_MAX: usize = 8;
        let mut chunks = self.chunks.borrow_mut();
        if chunks.len() < KEPT_MAX && chunk.capacity() == CHUNK {
            chunk.clear();
            chunks.push(chunk);
        }
    }

    /// The end of this life: whatever it still has is closed.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        let serves = std::mem::take(&mut *self.serves.borrow_mut());
        let outlets = std::mem::take(&mut *self.outlets.borrow_mut());
        self.shared.with(|state| {
            for (outlet, user) in outlets {
                state.outlet_waits_no_more(outlet, user);
                state.leave_outlet(outlet);
            }
            for (socket, listener) in serves {
                state.wait_no_more(socket, listener);
                state.leave_socket(socket);
            }
            let own: Vec<Id> = state
                .ends
                .iter()
                .filter(|(_, end)| end.shard == Some(self.shard))
                .map(|(id, _)| *id)
                .collect();
            for id in own {
                if let Some(end) = state.ends.get_mut(&id) {
                    (end.lease, end.shard) = (end.lease + 1, None);
                }
                state.close(id);
            }
        });
    }

    /// A listener of this reactor goes.
    fn leaves(&self, socket: Id, listener: Id) -> bool {
        let mut serves = self.serves.borrow_mut();
        let place = serves.iter().position(|served| *served == (socket, listener));
        place.map(|place| serves.swap_remove(place)).is_some()
    }
}

impl fmt::Debug for SimReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimReactor")
            .field("host", &self.host)
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Reactor for SimReactor {
    fn now(&self) -> Time {
        self.shared.now()
    }

    fn unix_time(&self) -> Duration {
        self.shared.unix_time()
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.alarm.poll_until(self.shared.now(), cx, deadline)
    }

    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        let me = self.me()?;
        let bell = opened::<Ear>(bound.handle)?;
        let id = self.shared.with(|state| state.id());
        let socket = bell.take();
        self.serves.borrow_mut().push((socket, id));
        Ok(Box::new(SimListener { reactor: me, socket, id, closed: false }))
    }

    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        let me = self.me()?;
        let end = self.shared.with(|state| state.connect(self.host, to, options, false));
        Ok(transport(&me, end.map_err(errno::error)?, Vec::new()))
    }

    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        let me = self.me()?;
        let loose = opened::<Loose>(incoming.handle)?;
        Ok(transport(&me, loose.take(), incoming.bytes))
    }

    fn spare(&self) -> io::Result<Handle> {
        spare(&self.shared, self.host)
    }

    fn lookup(&self, host: &str, port: u16) -> Option<Lookup> {
        Some(Box::pin(Looking::new(&self.shared, self.host, host, port)))
    }

    fn inspect(&self, shard: Weak<dyn Inspect>) {
        *self.inspected.borrow_mut() = Some(shard);
    }

    fn buffered(&self) -> Option<&Rc<Buffered>> {
        Some(&self.buffered)
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}

/// What a handle of this kind of world is.
pub(crate) fn opened<T: VirtualSocket>(handle: Handle) -> io::Result<T> {
    let other =
        || io::Error::new(io::ErrorKind::InvalidInput, "a socket of another backend, or of another kind");
    match handle {
        Handle::Virtual(socket) => socket.open().map_err(|_| other()),
        Handle::Os(_) => Err(other()),
    }
}

/// Takes a descriptor that is good for nothing.
pub(crate) fn spare(shared: &Arc<Shared>, host: usize) -> io::Result<Handle> {
    shared.with(|state| state.open(host)).map_err(errno::error)?;
    Ok(Handle::Virtual(Virtual::new(Spare { shared: shared.clone(), host })))
}

/// A descriptor that is good for nothing.
struct Spare {
    shared: Arc<Shared>,
    host: usize,
}

impl VirtualSocket for Spare {}

impl Drop for Spare {
    fn drop(&mut self) {
        self.shared.with(|state| state.shut_descriptor(self.host));
    }
}

/// A listening socket that no shard serves. Dropping it closes it.
pub(crate) struct Ear {
    shared: Arc<Shared>,
    socket: Id,
    taken: bool,
}

impl Ear {
    /// The handle of one user of a socket.
    pub(crate) fn handle(shared: &Arc<Shared>, socket: Id) -> Handle {
        Handle::Virtual(Virtual::new(Ear { shared: shared.clone(), socket, taken: false }))
    }

    /// The socket that it stands for.
    pub(crate) fn socket(&self) -> Id {
        self.socket
    }

    fn take(mut self) -> Id {
        self.taken = true;
        self.socket
    }
}

impl VirtualSocket for Ear {}

impl Drop for Ear {
    fn drop(&mut self) {
        if !self.taken {
            self.shared.with(|state| state.leave_socket(self.socket));
        }
    }
}

/// A listening socket at work.
#[derive(Debug)]
struct SimListener {
    reactor: Rc<SimReactor>,
    socket: Id,
    id: Id,
    closed: bool,
}

impl Listener for SimListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        if self.closed || self.reactor.ended.get() {
            return Poll::Ready(Err(errno::error(errno::NOTCONN)));
        }
        let shared = &self.reactor.shared;
        shared.with(|state| state.accept(self.socket, self.id, Some(cx))).map(|accepted| {
            let (end, peer) = accepted.map_err(errno::error)?;
            let handle = Handle::Virtual(Virtual::new(Loose::new(shared.clone(), end)));
            Ok(Incoming { handle, bytes: Vec::new(), peer: Some(peer) })
        })
    }

    /// # Panics
    /// If it gave the socket back already, or the reactor ended: there is none.
    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        let there = !std::mem::replace(&mut self.closed, true) && self.reactor.leaves(self.socket, self.id);
        assert!(there, "a listener that is closed already was polled");
        let shared = &self.reactor.shared;
        let (local, options) = shared.with(|state| {
            state.wait_no_more(self.socket, self.id);
            state.socket_options(self.socket)
        });
        let handle = Ear::handle(shared, self.socket);
        Poll::Ready(Bound { local, handle, options })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if !self.closed && self.reactor.leaves(self.socket, self.id) {
            self.reactor.shared.with(|state| {
                state.wait_no_more(self.socket, self.id);
                state.leave_socket(self.socket);
            });
        }
    }
}
