//! The epoll instance of one reactor.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use waterwheel_os::Interrupt;

use crate::slots::Token;

/// Events taken by one wait: 3 KiB, and rarely filled. What is left comes with the next turn's wait, in a fair order.
const EVENTS_MAX: usize = 256;

/// Room for the events of one wait.
pub(crate) fn events() -> Vec<Event> {
    Vec::with_capacity(EVENTS_MAX)
}

/// Waits for events of the descriptors in its set.
#[derive(Debug)]
pub(crate) struct Poller {
    // `None` once the reactor ended, though somebody may still hold one of its connections.
    open: RefCell<Option<Open>>,
    /// The kernel has no `epoll_pwait2`: deadlines are the timer's.
    plain: Cell<bool>,
}

/// What must be closed at the end.
#[derive(Debug)]
struct Open {
    epoll: OwnedFd,
    timer: OnceCell<OwnedFd>,
}

impl Poller {
    /// With an empty set, but for the interrupt. That is never cleared, since each raise is an edge of its own.
    pub(crate) fn new(interrupt: &Interrupt) -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let quiet = EventData::new_u64(Token::NONE.number());
        epoll::add(&epoll, interrupt, quiet, EventFlags::IN | EventFlags::ET)?;
        let open = Open { epoll, timer: OnceCell::new() };
        Ok(Poller { open: RefCell::new(Some(open)), plain: Cell::new(false) })
    }

    /// Adds a descriptor.
    pub(crate) fn add(&self, descriptor: impl AsFd, token: Token, interest: EventFlags) -> io::Result<()> {
        let open = self.open.borrow();
        let Open { epoll, .. } = open.as_ref().ok_or(Errno::NOTCONN)?;
        Ok(epoll::add(epoll, descriptor, EventData::new_u64(token.number()), interest)?)
    }

    /// Takes a descriptor out. Closing does it too, unless the same open file has another descriptor somewhere.
    pub(crate) fn delete(&self, descriptor: impl AsFd) {
        if let Some(Open { epoll, .. }) = &*self.open.borrow() {
            // It fails only if the descriptor is not in the set, which is what was wanted.
            let _ = epoll::delete(epoll, descriptor);
        }
    }

    /// Waits for events at most so long (`None`: without end), and puts them into `events`, which must be empty. A
    /// signal ends the wait early.
    pub(crate) fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let open = self.open.borrow();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        if self.plain.get() {
            return open.wait_with_timer(events, timeout);
        }
        let limit = timeout.map(timespec);
        match epoll::wait(&open.epoll, spare_capacity(events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            // EPERM is what older container runtimes answer for system calls they do not know.
            Err(error @ (Errno::NOSYS | Errno::PERM)) => {
                tracing::info!(%error, "no epoll_pwait2 here: deadlines cost a second system call");
                self.use_timer();
                open.wait_with_timer(events, timeout)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// From now on does without `epoll_pwait2`.
    pub(crate) fn use_timer(&self) {
        self.plain.set(true);
    }

    /// Closes the instance and the timer; what is in the set leaves it.
    pub(crate) fn close(&self) {
        self.open.take();
    }
}

impl Open {
    /// For kernels before 5.11. The timer may still be set from an earlier wait and end this one early, which is
    /// harmless and rare.
    fn wait_with_timer(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let block = timeout != Some(Duration::ZERO);
        if let (true, Some(timeout)) = (block, timeout) {
            let once = Itimerspec { it_interval: Timespec::default(), it_value: timespec(timeout) };
            timerfd_settime(self.timer()?, TimerfdTimerFlags::empty(), &once)?;
        }
        waterwheel_os::wait_plainly(self.epoll.as_fd(), block, |event| {
            let flags = EventFlags::from_bits_retain(event.flags);
            events.push(Event { flags, data: EventData::new_u64(event.data) });
        })
    }

    fn timer(&self) -> io::Result<&OwnedFd> {
        if let Some(timer) = self.timer.get() {
            return Ok(timer);
        }
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let quiet = EventData::new_u64(Token::NONE.number());
        epoll::add(&self.epoll, &timer, quiet, EventFlags::IN | EventFlags::ET)?;
        Ok(self.timer.get_or_init(|| timer))
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Deadlines are at most 584 years away, so the seconds always fit.
    let tv_sec = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}
