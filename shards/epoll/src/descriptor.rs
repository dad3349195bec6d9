//! One descriptor in the set: what is known of its readiness, and who waits for it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Waker};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

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
    /// Somebody waits to read.
    pub(crate) const READER: Facts = Facts(1 << 9);
    /// Somebody waits to write.
    pub(crate) const WRITER: Facts = Facts(1 << 10);
    /// The source was dropped.
    pub(crate) const NO_SOURCE: Facts = Facts(1 << 11);
    /// The sink was dropped.
    pub(crate) const NO_SINK: Facts = Facts(1 << 12);
    /// Reset by its owner: nothing is lent any more.
    pub(crate) const ABORTED: Facts = Facts(1 << 13);
    /// The end of its stream was met.
    pub(crate) const OVER: Facts = Facts(1 << 14);
    /// Our FIN goes to the kernel when the turn ends.
    pub(crate) const SHUT_DUE: Facts = Facts(1 << 15);

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
    /// The system's number of what broke the connection; 0: nothing did.
    error: Cell<i32>,
    // Kept when woken, so that waiting again costs no reference count.
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl Descriptor {
    pub(crate) fn new(file: OwnedFd, facts: Facts) -> Rc<Descriptor> {
        Rc::new(Descriptor {
            file: RefCell::new(Some(file)),
            token: Cell::new(Token::NONE),
            facts: Cell::new(facts),
            near: Cell::new(0),
            error: Cell::new(0),
            reader: Cell::new(None),
            writer: Cell::new(None),
        })
    }

    /// Of a connection that broke before it had a place in the set.
    pub(crate) fn dead(error: i32) -> Rc<Descriptor> {
        Rc::new(Descriptor {
            file: RefCell::new(None),
            token: Cell::new(Token::NONE),
            facts: Cell::new(Facts::READABLE.and(Facts::WRITABLE)),
            near: Cell::new(0),
            error: Cell::new(error),
            reader: Cell::new(None),
            writer: Cell::new(None),
        })
    }

    /// It connects to this machine.
    pub(crate) fn is_near(&self, port: u16) {
        self.near.set(port);
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

    /// Remembers who waits to read.
    pub(crate) fn await_read(&self, cx: &Context<'_>) {
        store(&self.reader, cx);
        self.set(Facts::READER);
    }

    /// Remembers who waits to write.
    pub(crate) fn await_write(&self, cx: &Context<'_>) {
        store(&self.writer, cx);
        self.set(Facts::WRITER);
    }

    /// Forgets who reads.
    pub(crate) fn forget_reader(&self) {
        self.clear(Facts::READER);
        self.reader.take();
    }

    /// Forgets who writes.
    pub(crate) fn forget_writer(&self) {
        self.clear(Facts::WRITER);
        self.writer.take();
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
                Ok(None) if port != 0 && waterwheel_os::met_itself_at(file.as_fd(), port) => {
                    Some(Errno::CONNREFUSED.raw_os_error())
                }
                Ok(None) => None,
                Ok(Some(error)) | Err(error) => Some(number(&error)),
            },
            None => return,
        };
        if let Some(error) = failed {
            self.error.set(error);
            // Nothing can come of it any more, and one that met itself would even work.
            self.file.take();
        } else if self.is(Facts::SHUT_LATER) {
            // If it fails the connection broke, which the source learns by itself.
            let _ = self.shut();
        }
    }

    /// Sends FIN.
    pub(crate) fn shut(&self) -> io::Result<()> {
        let sent = match &*self.file.borrow() {
            Some(file) => waterwheel_os::shutdown_write(file.as_fd()),
            None => return Err(self.failure()),
        };
        match sent {
            Ok(()) => {
                self.set(Facts::SHUT);
                Ok(())
            }
            Err(error) => {
                // ENOTCONN; what broke the connection says more.
                self.take_error();
                Err(self.error().unwrap_or(error))
            }
        }
    }

    /// The turn ends: sends the FIN that is due, unless the file was closed.
    pub(crate) fn shut_now(&self) {
        if self.is(Facts::SHUT_DUE) {
            self.clear(Facts::SHUT_DUE);
            // If it fails the connection broke after its end, which concerns nobody any more.
            let _ = self.shut();
        }
    }

    /// Remembers an error that ends the connection, and answers with the one to report: the first, but for a broken
    /// pipe, which only says that the peer does not read.
    pub(crate) fn fail(&self, error: io::Error) -> io::Error {
        let known = self.error.get();
        if known != 0 && known != PIPE {
            return io::Error::from_raw_os_error(known);
        }
        match error.raw_os_error() {
            // Short of memory, not broken.
            Some(NOBUFS | NOMEM) | None => {}
            Some(number) => self.error.set(number),
        }
        error
    }

    /// Takes the error that the kernel told of, so that it is known to both halves.
    pub(crate) fn take_error(&self) {
        self.clear(Facts::BROKEN);
        let waiting = match &*self.file.borrow() {
            Some(file) => waterwheel_os::take_error(file.as_fd()),
            None => return,
        };
        if let Ok(Some(error)) | Err(error) = waiting {
            self.fail(error);
        }
    }

    /// What broke the connection, if anything did.
    pub(crate) fn error(&self) -> Option<io::Error> {
        match self.error.get() {
            0 => None,
            number => Some(io::Error::from_raw_os_error(number)),
        }
    }

    /// What broke the receiving half: a broken pipe does not.
    pub(crate) fn receive_error(&self) -> Option<io::Error> {
        if self.error.get() == PIPE { None } else { self.error() }
    }

    /// Why there is no file any more.
    pub(crate) fn failure(&self) -> io::Error {
        self.error().unwrap_or_else(|| Errno::NOTCONN.into())
    }

    /// Ends it for both halves: later attempts find no file and report `error`, if there was none before.
    pub(crate) fn end(&self, error: Errno) -> Option<OwnedFd> {
        if self.error.get() == 0 {
            self.error.set(error.raw_os_error());
        }
        self.token.set(Token::NONE);
        self.clear(Facts::CONNECTING);
        let file = self.file.take();
        self.set(Facts::READABLE.and(Facts::WRITABLE));
        self.wake(Facts::READABLE.and(Facts::WRITABLE));
        file
    }

    fn wake(&self, news: Facts) {
        if news.any(Facts::READABLE) && self.is(Facts::READER) {
            self.clear(Facts::READER);
            ring(&self.reader);
        }
        if news.any(Facts::WRITABLE) && self.is(Facts::WRITER) {
            self.clear(Facts::WRITER);
            ring(&self.writer);
        }
    }
}

const PIPE: i32 = Errno::PIPE.raw_os_error();
const NOBUFS: i32 = Errno::NOBUFS.raw_os_error();
const NOMEM: i32 = Errno::NOMEM.raw_os_error();

/// What an ordinary event does not carry.
const RARE: EventFlags =
    EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR).union(EventFlags::PRI);

/// The system's number of an error from connect(2) or `SO_ERROR`.
pub(crate) fn number(error: &io::Error) -> i32 {
    // One that is not the kernel's has none; there is none such at present.
    error.raw_os_error().unwrap_or(Errno::CONNREFUSED.raw_os_error())
}

fn store(cell: &Cell<Option<Waker>>, cx: &Context<'_>) {
    let waker = match cell.take() {
        Some(mut waker) => {
            waker.clone_from(cx.waker());
            waker
        }
        None => cx.waker().clone(),
    };
    cell.set(Some(waker));
}

fn ring(cell: &Cell<Option<Waker>>) {
    if let Some(waker) = cell.take() {
        waker.wake_by_ref();
        // A waker may run anything; whoever registered meanwhile is later, and stays.
        let later = cell.take();
        cell.set(later.or(Some(waker)));
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptor")
            .field("file", &self.file)
            .field("token", &self.token.get())
            .field("facts", &self.facts.get())
            .field("error", &self.error.get())
            .finish_non_exhaustive()
    }
}
