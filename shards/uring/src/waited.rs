//! A descriptor whose readiness somebody waits for: a listener, or one of the user's.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::Context;

use io_uring::opcode;
use io_uring::types::Fd;
use rustix::io::Errno;
use waterwheel_reactor::Waiter;

use crate::core::Core;
use crate::features::Feature;
use crate::ring::Completion;
use crate::table::{Kind, NO_PLACE, Owner, Token};

/// One direction of readiness.
#[derive(Debug)]
pub(crate) struct Direction {
    /// An attempt may not have to wait.
    ready: Cell<bool>,
    /// The kernel tells when that becomes so.
    asked: Cell<bool>,
    waiter: Waiter,
}

impl Default for Direction {
    /// Ready until an attempt shows that it is not.
    fn default() -> Direction {
        Direction { ready: Cell::new(true), asked: Cell::new(false), waiter: Waiter::default() }
    }
}

/// Which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Reading or accepting.
    In,
    /// Writing.
    Out,
}

/// A descriptor that is waited for; kept by the table until its last poll has completed.
#[derive(Debug)]
pub(crate) struct Waited {
    place: Cell<u32>,
    // `None` when closed, given away, or when the reactor ended.
    file: RefCell<Option<OwnedFd>>,
    input: Direction,
    output: Direction,
    under_way: Cell<u32>,
    closing: Cell<bool>,
}

impl Waited {
    pub(crate) fn new(core: &Core, file: OwnedFd) -> Rc<Waited> {
        let waited = Rc::new(Waited {
            place: Cell::new(NO_PLACE),
            file: RefCell::new(Some(file)),
            input: Direction::default(),
            output: Direction::default(),
            under_way: Cell::new(0),
            closing: Cell::new(false),
        });
        waited.place.set(core.insert(Owner::Waited(waited.clone())));
        waited
    }

    /// Does something with the descriptor.
    ///
    /// # Errors
    /// `NotConnected`: it is closed.
    pub(crate) fn with_file<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> io::Result<T> {
        match &*self.file.borrow() {
            Some(file) => Ok(with(file.as_fd())),
            None => Err(Errno::NOTCONN.into()),
        }
    }

    fn direction(&self, way: Way) -> &Direction {
        match way {
            Way::In => &self.input,
            Way::Out => &self.output,
        }
    }

    /// Whether an attempt may not have to wait.
    pub(crate) fn is_ready(&self, way: Way) -> bool {
        self.direction(way).ready.get()
    }

    /// An attempt would have to wait, or one was made.
    pub(crate) fn used(&self, way: Way) {
        self.direction(way).ready.set(false);
    }

    /// Asks the kernel to tell, unless it was asked before, and remembers who waits.
    pub(crate) fn wait(&self, core: &Core, way: Way, cx: &Context<'_>) {
        let direction = self.direction(way);
        direction.waiter.wait(cx);
        if direction.asked.replace(true) {
            return;
        }
        let Some(number) = self.file.borrow().as_ref().map(|file| Fd(file.as_raw_fd())) else { return };
        let (events, kind) = match way {
            Way::In => (libc::POLLIN | libc::POLLRDHUP | libc::POLLPRI, Kind::Readable),
            Way::Out => (libc::POLLOUT, Kind::Writable),
        };
        let entry = opcode::PollAdd::new(number, events as u32).multi(core.has(Feature::Multishot)).build();
        self.under_way.set(self.under_way.get() + 1);
        // SAFETY: names no memory.
        unsafe { core.begin(entry, Token::new(kind, self.place.get())) };
    }

    /// The kernel tells, or stopped telling.
    pub(crate) fn completed(&self, core: &Core, kind: Kind, completion: Completion) {
        let way = match kind {
            Kind::Readable => Way::In,
            Kind::Writable => Way::Out,
            _ => return,
        };
        let direction = self.direction(way);
        if !completion.more {
            direction.asked.set(false);
            self.under_way.set(self.under_way.get() - 1);
        }
        if self.closing.get() {
            if self.under_way.get() == 0 {
                self.leave(core);
            }
            return;
        }
        // Also after an error, which an attempt tells better.
        direction.ready.set(true);
        direction.waiter.wake();
    }

    /// Takes the descriptor out; who waits is woken.
    pub(crate) fn take(&self, core: &Core) -> Option<OwnedFd> {
        let file = self.file.take();
        self.closing.set(true);
        for (direction, kind) in [(&self.input, Kind::Readable), (&self.output, Kind::Writable)] {
            if direction.asked.get() {
                core.cancel(Token::new(kind, self.place.get()));
            }
            direction.ready.set(true);
            direction.waiter.wake();
        }
        if self.under_way.get() == 0 {
            self.leave(core);
        }
        file
    }

    fn leave(&self, core: &Core) {
        drop(core.remove(self.place.replace(NO_PLACE)));
    }

    /// Forgets who waited.
    pub(crate) fn forget_waiters(&self) {
        self.input.waiter.forget();
        self.output.waiter.forget();
    }

    /// The reactor is over, and the kernel has let go.
    pub(crate) fn forget(&self) {
        drop(self.file.take());
        self.closing.set(true);
        for direction in [&self.input, &self.output] {
            direction.ready.set(true);
            direction.waiter.wake();
        }
        self.forget_waiters();
    }
}
