//! One descriptor in the set: what is known of its readiness, and who waits for it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use waterwheel_os::Fault;
use waterwheel_reactor::{Address, Waiter};

use crate::slots::Token;

/// Some of the facts below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts(u16);

impl Facts {
    pub(crate) const NONE: Facts = Facts(0);
    /// An attempt to receive or accept may not have to wait.
    pub(crate) const READABLE: Facts = Facts(1);
    /// An attempt to send may not have to wait.
    pub(crate) const WRITABLE: Facts = Facts(1 << 1);
    /// More may be there though a receive filled less than its buffer: an end, an error, or urgent data, at whose
    /// mark a receive stops short. None of them comes with another edge.
    pub(crate) const DRAIN: Facts = Facts(1 << 2);
    /// The kernel told of an error that nobody has taken yet.
    pub(crate) const BROKEN: Facts = Facts(1 << 3);
    /// The connect has not come to its end.
    pub(crate) const CONNECTING: Facts = Facts(1 << 4);
    /// Our FIN is with the kernel.
    pub(crate) const SHUT: Facts = Facts(1 << 5);
    /// The sink was dropped before the connection was established: send FIN when it is.
    pub(crate) const SHUT_LATER: Facts = Facts(1 << 6);
    /// Not TCP: a receive also stops short at a message that carries descriptors, a send also for want of memory, and
    /// no edge tells of what was left.
    pub(crate) const LOCAL: Facts = Facts(1 << 7);
    /// The same open file may have other descriptors, so that closing ours does not take it out of the set.
    pub(crate) const SHARED: Facts = Facts(1 << 8);
    /// The source was dropped.
    pub(crate) const NO_SOURCE: Facts = Facts(1 << 9);
    /// The sink was dropped.
    pub(crate) const NO_SINK: Facts = Facts(1 << 10);
    /// Reset by its owner: nothing is lent any more.
    pub(crate) const ABORTED: Facts = Facts(1 << 11);
    /// splice(2) does not work for it.
    pub(crate) const NO_SPLICE: Facts = Facts(1 << 12);

    pub(crate) const fn and(self, more: Facts) -> Facts {
        Facts(self.0 | more.0)
    }

    pub(crate) const fn but(self, less: Facts) -> Facts {
        Facts(self.0 & !less.0)
    }

    /// Whether any of `some` holds.
    pub(crate) const fn any(self, some: Facts) -> bool {
        self.0 & some.0 != 0
    }
}

/// Shared by the halves of a connection and the reactor's slots; also used for listeners and watched descriptors.
///
/// Nothing here runs foreign code while something is borrowed, but for the wakers, whose cells are empty meanwhile.
pub(crate) struct Descriptor {
    // `None` when closed, released, or when the reactor ended.
    file: RefCell<Option<OwnedFd>>,
    token: Cell<Token>,
    facts: Cell<Facts>,
    /// The port of this machine that it connects to, where it may meet itself; else 0.
    near: Cell<u16>,
    fault: Fault,
    pub(crate) reader: Waiter,
    pub(crate) writer: Waiter,
}

impl Descriptor {
    pub(crate) fn new(file: OwnedFd, facts: Facts) -> Rc<Descriptor> {
        Rc::new(Descriptor {
            file: RefCell::new(Some(file)),
            token: Cell::new(Token::NONE),
            facts: Cell::new(facts),
            near: Cell::new(0),
            fault: Fault::default(),
            reader: Waiter::default(),
            writer: Waiter::default(),
        })
    }

    /// Of a connection that broke before it had a place in the set.
    pub(crate) fn dead(fault: Fault) -> Rc<Descriptor> {
        Rc::new(Descriptor {
            file: RefCell::new(None),
            token: Cell::new(Token::NONE),
            facts: Cell::new(Facts::READABLE.and(Facts::WRITABLE)),
            near: Cell::new(0),
            fault,
            reader: Waiter::default(),
            writer: Waiter::default(),
        })
    }

    /// Where it connects to.
    pub(crate) fn connects_to(&self, to: &Address) {
        self.near.set(waterwheel_os::near_port(to));
    }

    /// The open file, for as long as it is open. Do not hold the borrow while anything is woken.
    pub(crate) fn file(&self) -> &RefCell<Option<OwnedFd>> {
        &self.file
    }

    pub(crate) fn token(&self) -> Token {
        self.token.get()
    }

    pub(crate) fn set_token(&self, token: Token) {
        self.token.set(token);
    }

    pub(crate) fn is(&self, some: Facts) -> bool {
        self.facts.get().any(some)
    }

    pub(crate) fn set(&self, more: Facts) {
        self.facts.set(self.facts.get().and(more));
    }

    pub(crate) fn clear(&self, less: Facts) {
        self.facts.set(self.facts.get().but(less));
    }

    /// Takes note of an event, and wakes whom it concerns.
    pub(crate) fn ready(&self, event: EventFlags) {
        let mut news = Facts::NONE;
        if self.is(Facts::CONNECTING) {
            if !event.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                return;
            }
            self.connected();
            // Whoever waits looks again, be it to see the failure.
            news = Facts::READABLE.and(Facts::WRITABLE);
        }
        if event.intersects(EventFlags::IN) {
            news = news.and(Facts::READABLE);
        }
        if event.intersects(EventFlags::OUT) {
            news = news.and(Facts::WRITABLE);
        }
        if event.intersects(RARE) {
            news = news.and(Facts::READABLE).and(Facts::DRAIN);
            if event.intersects(EventFlags::ERR) {
                news = news.and(Facts::BROKEN).and(Facts::WRITABLE);
            }
            if event.intersects(EventFlags::HUP) {
                news = news.and(Facts::WRITABLE);
            }
        }
        self.set(news);
        self.wake(news);
    }

    /// The connect came to its end, one way or the other.
    fn connected(&self) {
        self.clear(Facts::CONNECTING);
        let port = self.near.get();
        let failed = match &*self.file.borrow() {
            Some(file) => match waterwheel_os::take_error(file.as_fd()) {
                Ok(None) if waterwheel_os::met_itself_at(file.as_fd(), port) => {
                    Some(Errno::CONNREFUSED.into())
                }
                Ok(None) => None,
                Ok(Some(error)) | Err(error) => Some(error),
            },
            None => return,
        };
        if let Some(error) = failed {
            self.fault.end_with(&error);
            // Nothing can come of it any more, and one that met itself would even work.
            self.file.take();
        } else if self.is(Facts::SHUT_LATER) {
            // If it fails the connection broke, which the source learns by itself.
            let _ = self.shut();
        }
    }

    /// Whether splice(2) works for it, as far as is known, and would not wait for it. Asked each time: sockets from elsewhere
    /// may be blocking, which all other calls do not mind, and others may make one so.
    pub(crate) fn may_splice(&self) -> bool {
        let never_waits = |file: &OwnedFd| waterwheel_os::never_waits(file.as_fd());
        !self.is(Facts::NO_SPLICE) && self.file.borrow().as_ref().is_some_and(never_waits)
    }

    /// Sends FIN.
    pub(crate) fn shut(&self) -> io::Result<()> {
        match &*self.file.borrow() {
            Some(file) => self.fault.shut(file.as_fd())?,
            None => return Err(self.failure()),
        }
        self.set(Facts::SHUT);
        Ok(())
    }

    /// Remembers an error that ends the connection, and answers with the one to report.
    pub(crate) fn fail(&self, error: io::Error) -> io::Error {
        self.fault.note(error)
    }

    /// Takes the error that the kernel told of, so that it is known to both halves.
    pub(crate) fn take_error(&self) {
        self.clear(Facts::BROKEN);
        if let Some(file) = &*self.file.borrow() {
            self.fault.take_from(file.as_fd());
        }
    }

    /// What broke the connection, if anything did.
    pub(crate) fn error(&self) -> Option<io::Error> {
        self.fault.error()
    }

    /// What broke the receiving half.
    pub(crate) fn receive_error(&self) -> Option<io::Error> {
        self.fault.receive_error()
    }

    /// Why there is no file any more.
    pub(crate) fn failure(&self) -> io::Error {
        self.fault.failure()
    }

    /// Ends it for both halves: later attempts find no file and report `error`, if there was none before.
    pub(crate) fn end(&self, error: Errno) -> Option<OwnedFd> {
        self.fault.end_with(&error.into());
        self.token.set(Token::NONE);
        self.clear(Facts::CONNECTING);
        let file = self.file.take();
        self.set(Facts::READABLE.and(Facts::WRITABLE));
        self.wake(Facts::READABLE.and(Facts::WRITABLE));
        file
    }

    fn wake(&self, news: Facts) {
        if news.any(Facts::READABLE) {
            self.reader.wake();
        }
        if news.any(Facts::WRITABLE) {
            self.writer.wake();
        }
    }
}

/// What an ordinary event does not carry.
const RARE: EventFlags =
    EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR).union(EventFlags::PRI);

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptor")
            .field("file", &self.file)
            .field("token", &self.token.get())
            .field("facts", &self.facts.get())
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
