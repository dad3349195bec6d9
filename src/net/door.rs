//! A listening socket of one shard: at work, or until its reactor takes it.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waterwheel_os::{AcceptTrouble, duplicate};
use waterwheel_reactor::{Address, Bound, Handle, Incoming, Listener};

use super::listener::Listening;
use super::reserve::Reserve;
use super::sockets::{Counted, Held};
use crate::shard::Shard;

/// A listener can never be served again as it is; its shard's life ends of it, and supervision decides.
#[derive(Debug, thiserror::Error)]
#[error("nobody can be accepted at {local} any more: {error}")]
pub(super) struct Broken {
    pub(super) local: Address,
    pub(super) error: io::Error,
}

/// A reactor has not taken a listening socket.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: io::Error,
    /// The socket, with the clients that wait there; `None` if it is no descriptor: those are closed.
    pub(crate) bound: Option<Bound>,
}

/// Has a shard's reactor serve a socket. It closes what it refuses, so that the socket has a second descriptor meanwhile, at
/// the limit one of the reserve's: without it the port would lose this part for want of a few bytes.
pub(crate) fn open(
    shard: &Shard,
    bound: Bound,
    reserve: Option<&Reserve>,
) -> Result<Box<dyn Listener>, Box<Refused>> {
    let second = match &bound.handle {
        Handle::Os(socket) => match second(socket.as_fd(), reserve) {
            Ok(second) => Some(second),
            Err(error) => return Err(Box::new(Refused { error, bound: Some(bound) })),
        },
        Handle::Virtual(_) => None,
    };
    let (local, options) = (bound.local.clone(), bound.options);
    let opened = shard.reactor().listen(bound).map_err(|error| (error, second));
    if let Some(reserve) = reserve.filter(|reserve| opened.is_ok() && reserve.is_short()) {
        reserve.refill(|| shard.reactor().spare());
    }
    opened.map_err(|(error, second)| {
        let bound = second.map(|socket| Bound { local, handle: Handle::Os(socket), options });
        Box::new(Refused { error, bound })
    })
}

fn second(socket: BorrowedFd<'_>, reserve: Option<&Reserve>) -> io::Result<OwnedFd> {
    let second = duplicate(socket);
    let is_short =
        second.as_ref().is_err_and(|error| AcceptTrouble::of(error) == AcceptTrouble::NoDescriptor);
    if is_short && reserve.is_some_and(Reserve::spend) { duplicate(socket) } else { second }
}

/// A shard's part of a listener, which finds its way back when it is to be used again: the shard failed, and may have a next
/// life.
pub(super) struct Door {
    state: State,
    /// `None` once the socket is where it came from.
    counted: Option<Counted>,
    listening: Listening,
    shard: Shard,
    /// Whether the socket stays, for who accepts next, when this goes.
    stays: Rc<Cell<bool>>,
}

enum State {
    /// The reactor has not taken it.
    Waits(Bound),
    Works(Box<dyn Listener>),
    Gone,
}

impl Door {
    pub(super) fn new(held: Held, listening: Listening, shard: Shard, stays: Rc<Cell<bool>>) -> Door {
        let Held { bound, counted } = held;
        Door { state: State::Waits(bound), counted: Some(counted), listening, shard, stays }
    }

    /// Gives the socket to the reactor, unless it has it.
    ///
    /// # Errors
    /// It does not take it. Another attempt may succeed.
    pub(super) fn open(&mut self, reserve: &Reserve) -> io::Result<()> {
        let bound = match std::mem::replace(&mut self.state, State::Gone) {
            State::Waits(bound) => bound,
            state => {
                self.state = state;
                return Ok(());
            }
        };
        let (state, opened) = match open(&self.shard, bound, Some(reserve)) {
            Ok(listener) => (State::Works(listener), Ok(())),
            Err(refused) => {
                let Refused { error, bound } = *refused;
                (bound.map_or(State::Gone, State::Waits), Err(error))
            }
        };
        self.state = state;
        opened
    }

    /// The next connection; `NotConnected` where there is no socket at work.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        match &mut self.state {
            State::Works(listener) => listener.poll_accept(cx),
            State::Waits(_) | State::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// An error of it that does not pass: the life of its shard ends, and the next one has the socket.
    pub(super) fn fail(self, error: io::Error) {
        self.stays.set(true);
        let local = self.listening.local().clone();
        self.shard.core().fail(Box::new(Broken { local, error }));
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !(self.stays.get() || self.shard.is_clearing() || std::thread::panicking()) {
            return;
        }
        let bound = match std::mem::replace(&mut self.state, State::Gone) {
            State::Waits(bound) => bound,
            State::Works(mut listener) => {
                match listener.poll_close(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(bound) => bound,
                    Poll::Pending => return,
                }
            }
            State::Gone => return,
        };
        if let Some(counted) = self.counted.take() {
            self.listening.put_back(self.shard.id().index(), Held { bound, counted });
        }
    }
}
