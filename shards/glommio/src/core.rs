//! What one reactor owns, and the seam's view of it.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use waterwheel_os::Progress;
use waterwheel_reactor::{
    Address, Alarm, Bound, Buffered, Chunks, Clock, ConnectOptions, Datagrams, Incoming, Listener, Reactor,
    Time, Transport, Watched,
};

use crate::link::{Fault, Link, Stage};
use crate::listener::GlommioListener;
use crate::sink::GlommioSink;
use crate::source::GlommioSource;
use crate::watched::GlommioWatched;

/// Bytes received at once, and the most that a source holds which nobody polls.
pub(crate) const CHUNK: usize = 16 << 10;

const _: () = assert!(CHUNK <= Buffered::FLOOR, "or sources would have to be held back");

/// Chunks kept for the next receive, 1 MiB. More are in use only while many sources hold bytes that nobody consumes.
const CHUNKS_KEPT_MAX: usize = 64;

/// One reactor, shared by its objects.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) alarm: Alarm,
    seed: u64,
    /// Chunks that no source holds now.
    chunks: Chunks<CHUNK, CHUNKS_KEPT_MAX>,
    /// What sources hold. A chunk is no more than each may hold anyway, so nobody is held back here.
    pub(crate) buffered: Rc<Buffered>,
    /// Connections whose sink went before they were established: at most those that are being made.
    fins_owed: RefCell<Vec<Weak<Link>>>,
    /// Set when the root is gone: glommio panics if its sockets are used after its executor.
    ended: Cell<bool>,
}

impl Core {
    pub(crate) fn new(clock: Clock) -> io::Result<Rc<Core>> {
        Ok(Rc::new(Core {
            clock,
            alarm: Alarm::default(),
            seed: waterwheel_os::random_seed()?,
            chunks: Chunks::default(),
            buffered: Rc::default(),
            fins_owed: RefCell::default(),
            ended: Cell::new(false),
        }))
    }

    /// A chunk, with whatever bytes it held last.
    pub(crate) fn take_chunk(&self) -> Box<[u8]> {
        self.chunks.take(&self.buffered)
    }

    /// Takes a chunk back, or bytes that came with a connection.
    pub(crate) fn give_back(&self, chunk: Box<[u8]>) {
        self.chunks.give_back(&self.buffered, chunk);
    }

    /// Sends FIN on `link` as soon as it is established, if anybody still has it then.
    pub(crate) fn owe_fin(&self, link: &Rc<Link>) {
        self.fins_owed.borrow_mut().push(Rc::downgrade(link));
    }

    /// Sends what FINs are due by now, and has `cx` woken when more are: after each poll of the root, which may have
    /// dropped sinks.
    pub(crate) fn send_fins(&self, cx: &mut Context<'_>) {
        if self.fins_owed.borrow().is_empty() {
            return;
        }
        // Taken out, since a source may be woken meanwhile, and a waker may run anything.
        let mut owed = self.fins_owed.take();
        owed.retain(|link| link.upgrade().is_some_and(|link| link.poll_connected(cx).is_pending()));
        self.fins_owed.borrow_mut().append(&mut owed);
    }

    /// The reactor is over; what somebody still holds of it answers with errors.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.chunks.clear();
        self.fins_owed.take();
    }

    /// # Errors
    /// `NotConnected` once the reactor is over.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.ended.get() { Err(Errno::NOTCONN.into()) } else { Ok(()) }
    }
}

/// The seam's view of a core.
#[derive(Debug)]
pub(crate) struct GlommioReactor {
    pub(crate) core: Rc<Core>,
}

impl GlommioReactor {
    fn transport(&self, link: Link, bytes: Vec<u8>, peer: Option<Address>) -> Transport {
        let link = Rc::new(link);
        Transport {
            source: Box::new(GlommioSource::new(Rc::clone(&link), bytes, peer)),
            sink: Box::new(GlommioSink::new(link)),
        }
    }
}

waterwheel_os::datagrams_by_watching!(GlommioReactor);

impl Reactor for GlommioReactor {
    fn now(&self) -> Time {
        self.core.clock.now()
    }

    fn unix_time(&self) -> Duration {
        self.core.clock.unix_time()
    }

    fn seed(&self) -> u64 {
        self.core.seed
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.core.alarm.poll_until(self.core.clock.now(), cx, deadline)
    }

    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        self.core.check()?;
        Ok(Box::new(GlommioListener::new(Rc::clone(&self.core), bound)?))
    }

    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        self.core.check()?;
        let (socket, progress) = waterwheel_os::begin_connect(to, options)?;
        let stage = match (&progress, to.inet()) {
            (Progress::Begun, Some(at)) => Stage::Connecting { near: waterwheel_os::is_near(&at) },
            (Progress::Begun, None) => Stage::Connecting { near: false },
            (Progress::Established | Progress::Failed(_), _) => Stage::Open,
        };
        let link = Link::new(Rc::clone(&self.core), socket, stage);
        if let Progress::Failed(error) = progress {
            link.fail(Fault::of(&error));
        }
        Ok(self.transport(link, Vec::new(), None))
    }

    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        self.core.check()?;
        let socket = waterwheel_os::open(incoming.handle)?;
        let link = Link::new(Rc::clone(&self.core), socket, Stage::Open);
        Ok(self.transport(link, incoming.bytes, incoming.peer))
    }

    fn watch(&self, descriptor: OwnedFd) -> io::Result<Option<Box<dyn Watched>>> {
        self.core.check()?;
        Ok(Some(Box::new(GlommioWatched::new(Rc::clone(&self.core), descriptor)?)))
    }

    fn buffered(&self) -> Option<&Rc<Buffered>> {
        Some(&self.core.buffered)
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}
