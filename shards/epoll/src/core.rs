//! What one reactor owns, and the seam's view of it.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::epoll::{Event, EventFlags};
use rustix::io::Errno;
use waterwheel_os::{Fault, Interrupt, Progress, StreamPipe};
use waterwheel_reactor::{
    Address, Alarm, Bound, Buffered, Clock, ConnectOptions, Datagrams, Incoming, Listener, Reactor, Time,
    Transport, Watched,
};

use crate::descriptor::{Descriptor, Facts};
use crate::listener::EpollListener;
use crate::poller::Poller;
use crate::pool::Pool;
use crate::sink::EpollSink;
use crate::slots::{Slots, Token};
use crate::source::EpollSource;
use crate::watched::EpollWatched;

/// What a connection is registered for, once. Urgent data is of interest only since receiving stops at its mark.
const STREAM: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP)
    .union(EventFlags::PRI)
    .union(EventFlags::ET);
const LISTEN: EventFlags = EventFlags::IN.union(EventFlags::ET);
const WATCH: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// One reactor's possessions, shared by its objects.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) alarm: Alarm,
    pub(crate) poller: Poller,
    pub(crate) pool: Pool,
    /// What streams are forwarded through.
    pub(crate) pipe: StreamPipe,
    slots: RefCell<Slots>,
    seed: u64,
    ended: Cell<bool>,
}

impl Core {
    pub(crate) fn new(clock: Clock, interrupt: &Interrupt) -> io::Result<Rc<Core>> {
        Ok(Rc::new(Core {
            clock,
            alarm: Alarm::default(),
            poller: Poller::new(interrupt)?,
            pool: Pool::default(),
            pipe: StreamPipe::new(),
            slots: RefCell::new(Slots::new()),
            seed: waterwheel_os::random_seed()?,
            ended: Cell::new(false),
        }))
    }

    /// Hands an event to whom it concerns, if it is still there.
    pub(crate) fn dispatch(&self, event: Event) {
        let token = Token::from_number({ event.data }.u64());
        // Cloned, since waking may run anything, which may end or begin a registration.
        let descriptor = self.slots.borrow().get(token).cloned();
        if let Some(descriptor) = descriptor {
            descriptor.ready(event.flags);
        }
    }

    /// Puts a descriptor into the set.
    fn register(&self, file: OwnedFd, interest: EventFlags, facts: Facts) -> io::Result<Rc<Descriptor>> {
        if self.ended.get() {
            return Err(Errno::NOTCONN.into());
        }
        let descriptor = Descriptor::new(file, facts);
        let token = self.slots.borrow_mut().insert(descriptor.clone());
        let added = match &*descriptor.file().borrow() {
            Some(file) => self.poller.add(file, token, interest),
            None => Ok(()),
        };
        if let Err(error) = added {
            self.slots.borrow_mut().remove(token);
            return Err(error);
        }
        descriptor.set_token(token);
        Ok(descriptor)
    }

    /// Takes a descriptor out of the set and out of its owners' hands; later attempts report `error`.
    pub(crate) fn take(&self, descriptor: &Descriptor, error: Errno) -> Option<OwnedFd> {
        self.slots.borrow_mut().remove(descriptor.token());
        let file = descriptor.end(error)?;
        self.poller.delete(&file);
        Some(file)
    }

    /// Closes a descriptor that nobody uses any more.
    pub(crate) fn close(&self, descriptor: &Descriptor) {
        self.slots.borrow_mut().remove(descriptor.token());
        let shared = descriptor.is(Facts::SHARED);
        let file = descriptor.end(Errno::NOTCONN);
        if let (true, Some(file)) = (shared, &file) {
            self.poller.delete(file);
        }
    }

    /// Resets a connection.
    pub(crate) fn abort(&self, descriptor: &Descriptor) {
        if let Some(file) = self.take(descriptor, Errno::CONNABORTED) {
            waterwheel_os::abort(file.as_fd());
            descriptor.set(Facts::ABORTED);
        }
    }

    /// Ends the reactor: closes everything, also what somebody still holds.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        let descriptors = self.slots.borrow_mut().take_all();
        for descriptor in descriptors {
            drop(descriptor.end(Errno::NOTCONN));
            descriptor.reader.forget();
            descriptor.writer.forget();
        }
        // The root's waker holds a descriptor.
        self.alarm.forget();
        self.pool.clear();
        self.pipe.close();
        self.poller.close();
    }
}

/// The seam's view of a core.
#[derive(Debug)]
pub(crate) struct EpollReactor {
    pub(crate) core: Rc<Core>,
}

impl EpollReactor {
    fn transport(&self, descriptor: Rc<Descriptor>, bytes: Vec<u8>, peer: Option<Address>) -> Transport {
        Transport {
            source: Box::new(EpollSource::new(self.core.clone(), descriptor.clone(), bytes, peer)),
            sink: Box::new(EpollSink::new(self.core.clone(), descriptor)),
        }
    }
}

waterwheel_os::datagrams_by_watching!(EpollReactor);

impl Reactor for EpollReactor {
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
        let file = waterwheel_os::open(bound.handle)?;
        let descriptor = self.core.register(file, LISTEN, Facts::READABLE)?;
        Ok(Box::new(EpollListener::new(self.core.clone(), descriptor, bound.local, bound.options)))
    }

    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        let (file, progress) = waterwheel_os::begin_connect(to, options)?;
        let facts = if to.inet().is_some() { Facts::NONE } else { Facts::LOCAL };
        let descriptor = match progress {
            Progress::Begun => self.core.register(file, STREAM, facts.and(Facts::CONNECTING))?,
            Progress::Established => {
                self.core.register(file, STREAM, facts.and(Facts::READABLE).and(Facts::WRITABLE))?
            }
            Progress::Failed(error) => Descriptor::dead(Fault::of(&error)),
        };
        descriptor.connects_to(to);
        Ok(self.transport(descriptor, Vec::new(), None))
    }

    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        let file = waterwheel_os::open(incoming.handle)?;
        let internet = match &incoming.peer {
            Some(peer) => matches!(peer, Address::Inet(_)),
            None => waterwheel_os::is_internet(file.as_fd())?,
        };
        let facts = if internet { Facts::NONE } else { Facts::LOCAL };
        let facts = facts.and(Facts::READABLE).and(Facts::WRITABLE);
        let descriptor = self.core.register(file, STREAM, facts)?;
        Ok(self.transport(descriptor, incoming.bytes, incoming.peer))
    }

    fn watch(&self, descriptor: OwnedFd) -> io::Result<Option<Box<dyn Watched>>> {
        let not_pollable = "this descriptor cannot be polled: a regular file or directory is always ready";
        let descriptor =
            self.core.register(descriptor, WATCH, Facts::NONE).map_err(|error| match error.kind() {
                ErrorKind::PermissionDenied => io::Error::new(ErrorKind::InvalidInput, not_pollable),
                _ => error,
            })?;
        EpollWatched::new(self.core.clone(), descriptor)
            .map(|watched| Some(Box::new(watched) as Box<dyn Watched>))
    }

    fn buffered(&self) -> Option<&Rc<Buffered>> {
        Some(&self.core.pool.buffered)
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}
