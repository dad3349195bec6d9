//! A connection: what both halves share, and what the kernel's answers do to it.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use io_uring::opcode;
use io_uring::types::{Fd, Timespec};
use rustix::io::Errno;
use waterwheel_os::{Fault, SocketName};
use waterwheel_reactor::{Address, Waiter};

use crate::core::Core;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::ring::Completion;
use crate::table::{Kind, NO_PLACE, Owner, Token};

/// Some of the facts below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts(u16);

impl Facts {
    pub(crate) const NONE: Facts = Facts(0);
    /// The connect has not come to its end.
    pub(crate) const CONNECTING: Facts = Facts(1);
    /// The kernel said just now, to somebody who waits for it, that nothing is wrong.
    pub(crate) const SOUND: Facts = Facts(1 << 1);
    /// Our FIN is with the kernel.
    pub(crate) const SHUT: Facts = Facts(1 << 2);
    /// The sink was dropped: send FIN when all that it took is sent.
    pub(crate) const SHUT_LATER: Facts = Facts(1 << 3);
    /// The source was dropped.
    pub(crate) const NO_SOURCE: Facts = Facts(1 << 4);
    /// The sink was dropped.
    pub(crate) const NO_SINK: Facts = Facts(1 << 5);
    /// Reset by its owner: nothing is lent any more.
    pub(crate) const ABORTED: Facts = Facts(1 << 6);
    /// To be closed as soon as no operation is under way.
    pub(crate) const CLOSING: Facts = Facts(1 << 7);
    /// The source waits until no operation is under way.
    pub(crate) const RELEASING: Facts = Facts(1 << 8);
    /// The time that its last bytes have is running.
    pub(crate) const PATIENCE: Facts = Facts(1 << 9);
    /// It is the ring that connects.
    pub(crate) const BY_RING: Facts = Facts(1 << 10);
    /// splice(2) does not work for it.
    pub(crate) const NO_SPLICE: Facts = Facts(1 << 11);

    pub(crate) const fn and(self, more: Facts) -> Facts {
        Facts(self.0 | more.0)
    }

    const fn but(self, less: Facts) -> Facts {
        Facts(self.0 & !less.0)
    }

    /// Whether any of `some` holds.
    const fn any(self, some: Facts) -> bool {
        self.0 & some.0 != 0
    }
}

/// Shared by the halves of a connection and the reactor's table, which keeps it until its last operation has completed:
/// until then its descriptor stays open, since what was queued names it by its number.
#[derive(Debug)]
pub(crate) struct Socket {
    place: Cell<u32>,
    // `None` when closed, released, or when the reactor ended.
    file: RefCell<Option<OwnedFd>>,
    facts: Cell<Facts>,
    /// The port of this machine that it connects to, where it may meet itself; else 0.
    near: Cell<u16>,
    fault: Fault,
    /// Operations that have not completed.
    under_way: Cell<u32>,
    patience: Cell<Patience>,
    pub(crate) reader: Waiter,
    pub(crate) writer: Waiter,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
}

/// What a connect answers that goes on, or was interrupted and goes on.
const UNFINISHED: [Errno; 4] = [Errno::INPROGRESS, Errno::ALREADY, Errno::AGAIN, Errno::INTR];

impl Socket {
    pub(crate) fn new(file: Option<OwnedFd>, facts: Facts, fault: Fault) -> Rc<Socket> {
        Rc::new(Socket {
            place: Cell::new(NO_PLACE),
            file: RefCell::new(file),
            facts: Cell::new(facts),
            near: Cell::new(0),
            fault,
            under_way: Cell::new(0),
            patience: Cell::default(),
            reader: Waiter::default(),
            writer: Waiter::default(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        })
    }

    /// How operations name it.
    pub(crate) fn number(&self) -> Option<Fd> {
        self.file.borrow().as_ref().map(|file| Fd(file.as_raw_fd()))
    }

    pub(crate) fn place(&self) -> u32 {
        self.place.get()
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

    // ---- operations

    pub(crate) fn token(&self, kind: Kind) -> Token {
        Token::new(kind, self.place.get())
    }

    /// One more operation is under way.
    pub(crate) fn begun(&self) {
        self.under_way.set(self.under_way.get() + 1);
    }

    /// One operation less is under way.
    fn ended(self: &Rc<Self>, core: &Core) {
        self.under_way.set(self.under_way.get() - 1);
        if self.under_way.get() > 0 {
            return;
        }
        if self.is(Facts::CLOSING) {
            self.leave(core);
        } else if self.is(Facts::RELEASING) {
            self.reader.wake();
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Whether something has to be done as soon as the kernel has what is being sent.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.writer.waits() || self.outbox.has_more() || self.is(Facts::SHUT_LATER.and(Facts::RELEASING))
    }

    /// Hands an answer of the kernel's to whom it concerns.
    pub(crate) fn completed(self: &Rc<Self>, core: &Core, kind: Kind, completion: Completion) {
        match kind {
            Kind::Receive => self.inbox.received(self, core, completion),
            Kind::Readable => self.inbox.readable(self, core),
            Kind::Send => self.outbox.tried(self, core, completion.result),
            Kind::Connect => self.connect_ended(core, completion.result),
            // Else the poll was cancelled, and the connect with it.
            Kind::Writable if self.is(Facts::CONNECTING) && completion.result >= 0 => {
                let error = self.with_file(waterwheel_os::take_error).flatten();
                self.connected(core, error.unwrap_or_else(Some));
            }
            Kind::Writable => self.outbox.writable(self, core),
            Kind::Patience => self.out_of_time(core),
            _ => return,
        }
        if !completion.more {
            self.ended(core);
        }
    }

    /// A send that says nothing if it went well has gone well.
    pub(crate) fn sent(self: &Rc<Self>, core: &Core) {
        if self.outbox.settle(self, core) {
            self.ended(core);
        }
    }

    /// Whether splice(2) works for it, as far as is known, and would not wait for it. Asked each time: sockets from elsewhere
    /// may be blocking, which all other calls do not mind, and others may make one so.
    pub(crate) fn may_splice(&self) -> bool {
        !self.is(Facts::NO_SPLICE) && self.with_file(waterwheel_os::never_waits).unwrap_or(false)
    }

    /// Waits until something can be sent, or for the end of a connect. False if there is no file any more.
    pub(crate) fn await_writable(&self, core: &Core) -> bool {
        let Some(number) = self.number() else { return false };
        let events = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP) as u32;
        self.begun();
        // SAFETY: names no memory.
        unsafe { core.begin(opcode::PollAdd::new(number, events).build(), self.token(Kind::Writable)) };
        true
    }

    /// Where it connects to.
    pub(crate) fn connects_to(&self, to: &Address) {
        self.near.set(waterwheel_os::near_port(to));
    }

    /// Begins to connect, in the call that ends the turn.
    pub(crate) fn begin_connect(&self, core: &Core, to: SocketName) {
        let Some(number) = self.number() else { return };
        self.begun();
        core.connect(number, to, self.token(Kind::Connect));
    }

    /// The ring has connected, or could not.
    fn connect_ended(self: &Rc<Self>, core: &Core, result: i32) {
        if !self.is(Facts::CONNECTING) {
            return;
        }
        self.clear(Facts::BY_RING);
        if UNFINISHED.iter().any(|errno| errno.raw_os_error() == -result) {
            // Begun, and the ring does not wait for it.
            self.await_writable(core);
        } else {
            self.connected(core, (result < 0).then(|| io::Error::from_raw_os_error(-result)));
        }
    }

    /// Memory is short: looks again a little later, since the kernel would say at once that it can be tried. False if there is
    /// no file any more.
    pub(crate) fn await_memory(&self, core: &Core, kind: Kind) -> bool {
        if self.number().is_none() {
            return false;
        }
        self.wait_for(core, &BREATH, kind);
        true
    }

    /// Completes after this time.
    fn wait_for(&self, core: &Core, time: &'static Timespec, kind: Kind) {
        self.begun();
        let entry = opcode::Timeout::new(time).build();
        // SAFETY: the kernel reads what lives for ever.
        unsafe { core.begin(entry, self.token(kind)) };
    }

    /// The connect came to its end, one way or the other. Whoever waits is told when all of it is known.
    fn connected(self: &Rc<Self>, core: &Core, mut failed: Option<io::Error>) {
        self.clear(Facts::CONNECTING);
        let port = self.near.get();
        let alone = |file: BorrowedFd<'_>| waterwheel_os::met_itself_at(file, port);
        if failed.is_none() && self.with_file(alone).unwrap_or(false) {
            failed = Some(Errno::CONNREFUSED.into());
        }
        if let Some(error) = failed {
            self.fault.end_with(&error);
            // Nothing can come of it any more, and one that met itself would even work.
            return self.close(core);
        }
        if self.writer.waits() {
            self.set(Facts::SOUND);
        }
        self.shut_behind_the_last();
        self.reader.wake();
        self.writer.wake();
    }

    // ---- errors

    /// Remembers an error that ends the connection, and answers with the one to report.
    pub(crate) fn fail(&self, error: io::Error) -> io::Error {
        self.fault.note(error)
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

    /// Asks the kernel for an error that nobody was told of: while nothing is received, nothing tells.
    pub(crate) fn take_error(&self) {
        if let Some(file) = &*self.file.borrow() {
            self.fault.take_from(file.as_fd());
        }
    }

    // ---- the end

    /// Sends FIN, behind what the kernel has.
    pub(crate) fn shut(&self) -> io::Result<()> {
        self.with_file(|file| self.fault.shut(file)).flatten()?;
        self.set(Facts::SHUT);
        Ok(())
    }

    /// Sends the FIN that a dropped sink has left to be sent, once all that it took is.
    pub(crate) fn shut_behind_the_last(&self) {
        if self.outbox.is_empty() && self.is(Facts::SHUT_LATER) && !self.is(Facts::SHUT) {
            // If it fails the connection broke, which the source learns by itself.
            let _ = self.shut();
        }
    }

    /// Does something with the descriptor.
    ///
    /// # Errors
    /// There is none any more.
    pub(crate) fn with_file<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> io::Result<T> {
        match &*self.file.borrow() {
            Some(file) => Ok(with(file.as_fd())),
            None => Err(self.failure()),
        }
    }

    /// Resets the connection.
    pub(crate) fn abort(self: &Rc<Self>, core: &Core) {
        if self.is(Facts::CLOSING) || self.file.borrow().is_none() {
            return;
        }
        let _ = self.with_file(waterwheel_os::abort);
        self.fault.end_with(&Errno::CONNABORTED.into());
        self.set(Facts::ABORTED);
        self.close(core);
    }

    /// Closes the connection when both halves are gone, as soon as what they left is sent.
    pub(crate) fn let_go(self: &Rc<Self>, core: &Core) {
        if !(self.is(Facts::NO_SOURCE) && self.is(Facts::NO_SINK)) {
            return;
        }
        if self.outbox.is_empty() || self.is(Facts::CONNECTING) || self.fault.is_some() {
            self.close(core);
        } else if !self.is(Facts::PATIENCE) && self.outbox.is_stuck() {
            self.set(Facts::PATIENCE);
            self.patience.set(Patience { left: self.left(), rounds: 0 });
            self.wait_for(core, &PATIENCE, Kind::Patience);
        }
    }

    /// What the peer's kernel does not have of what it was sent.
    fn left(&self) -> usize {
        self.outbox.bytes() + self.with_file(waterwheel_os::unacknowledged).flatten().unwrap_or(0)
    }

    /// Nobody waits for this connection any more. While its peer reads, be it slowly, it has more time.
    fn out_of_time(self: &Rc<Self>, core: &Core) {
        if self.is(Facts::CLOSING) {
            return;
        }
        let (Patience { left: before, rounds }, left) = (self.patience.get(), self.left());
        if left < before && rounds < ROUNDS_MAX {
            self.patience.set(Patience { left, rounds: rounds + 1 });
            return self.wait_for(core, &PATIENCE, Kind::Patience);
        }
        core.unread();
        self.abort(core);
    }

    /// Nothing more will come of it: cancels what is under way, wakes who waits, and closes the file as soon as the kernel
    /// has let go of it.
    pub(crate) fn close(self: &Rc<Self>, core: &Core) {
        if self.is(Facts::CLOSING) {
            return;
        }
        self.set(Facts::CLOSING);
        if self.is(Facts::CONNECTING) {
            self.clear(Facts::CONNECTING);
            let kind = if self.is(Facts::BY_RING) { Kind::Connect } else { Kind::Writable };
            core.cancel(self.token(kind));
        }
        self.inbox.end(self, core);
        self.outbox.end(self, core);
        if self.is(Facts::PATIENCE) {
            core.cancel(self.token(Kind::Patience));
        }
        self.fault.end_with(&Errno::NOTCONN.into());
        self.reader.wake();
        self.writer.wake();
        if self.is_quiet() {
            self.leave(core);
        }
    }

    fn leave(self: &Rc<Self>, core: &Core) {
        self.inbox.end(self, core);
        self.outbox.end(self, core);
        drop(core.remove(self.place.replace(NO_PLACE)));
        drop(self.file.take());
        self.reader.wake();
        self.writer.wake();
    }

    /// Takes the file out, to be owned by somebody else. No operation may be under way.
    pub(crate) fn hand_out(self: &Rc<Self>, core: &Core) -> Option<OwnedFd> {
        let file = self.file.take()?;
        self.close(core);
        Some(file)
    }

    /// The reactor is over, and the kernel has let go.
    pub(crate) fn forget(&self) {
        drop(self.file.take());
        self.set(Facts::CLOSING);
        self.fault.end_with(&Errno::NOTCONN.into());
        self.reader.wake();
        self.writer.wake();
        self.reader.forget();
        self.writer.forget();
    }

    /// Gives it a place in the table.
    pub(crate) fn enter(self: &Rc<Self>, core: &Core) {
        self.place.set(core.insert(Owner::Socket(self.clone())));
    }
}

/// How far a peer was with what was left for it when that was last looked at, and how often it was.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    left: usize,
    rounds: u32,
}

/// How often a connection that nobody holds any more is looked at: ten minutes are enough for anybody.
const ROUNDS_MAX: u32 = 20;
/// How long a peer has to read something of what was left for it before it is reset. Tests do not have so long.
static PATIENCE: Timespec = Timespec::new().sec(if cfg!(test) { 1 } else { 30 });

/// Between two attempts while memory is short.
static BREATH: Timespec = Timespec::new().nsec(10_000_000);
