//! The epoll instance of one reactor.

use std::cell::{OnceCell, RefCell};
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
}

/// What must be closed at the end.
#[derive(Debug)]
struct Open {
    epoll: OwnedFd,
    /// Keeps the deadlines where there is no `epoll_pwait2`. Made at the start, since descriptors may be used up later.
    timer: OnceCell<OwnedFd>,
}

impl Poller {
    /// With an empty set, but for the interrupt. That is never cleared, since each raise is an edge of its own.
    pub(crate) fn new(interrupt: &Interrupt) -> io::Result<Poller> {
        let open = Open { epoll: epoll::create(CreateFlags::CLOEXEC)?, timer: OnceCell::new() };
        // Asked while the set is empty: an edge of the interrupt must not be taken here.
        open.wait(&mut events(), Some(Duration::ZERO))?;
        epoll::add(&open.epoll, interrupt, quiet(), EventFlags::IN | EventFlags::ET)?;
        Ok(Poller { open: RefCell::new(Some(open)) })
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
        self.open.borrow().as_ref().ok_or(Errno::NOTCONN)?.wait(events, timeout)
    }

    /// From now on does without `epoll_pwait2`.
    #[cfg(test)]
    pub(crate) fn use_timer(&self) -> io::Result<()> {
        self.open.borrow().as_ref().ok_or(Errno::NOTCONN)?.use_timer()
    }

    /// Closes the instance and the timer; what is in the set leaves it.
    pub(crate) fn close(&self) {
        self.open.take();
    }
}

impl Open {
    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        if let Some(timer) = self.timer.get() {
            return self.wait_with(timer, events, timeout);
        }
        let limit = timeout.map(timespec);
        match epoll::wait(&self.epoll, spare_capacity(events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            // Known from the first wait on, unless the program forbids itself the call later. EPERM is what older
            // container runtimes answer for system calls they do not know.
            Err(error @ (Errno::NOSYS | Errno::PERM)) => {
                tracing::info!(%error, "no epoll_pwait2 here: deadlines cost a second system call");
                self.use_timer()?;
                self.wait(events, timeout)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// For kernels before 5.11. The timer may still be set from an earlier wait and end this one early, which is
    /// harmless and rare.
    fn wait_with(
        &self,
        timer: &OwnedFd,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let block = timeout != Some(Duration::ZERO);
        if let (true, Some(timeout)) = (block, timeout) {
            let once = Itimerspec { it_interval: Timespec::default(), it_value: timespec(timeout) };
            timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        }
        waterwheel_os::wait_plainly(self.epoll.as_fd(), block, |event| {
            let flags = EventFlags::from_bits_retain(event.flags);
            events.push(Event { flags, data: EventData::new_u64(event.data) });
        })
    }

    fn use_timer(&self) -> io::Result<()> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&self.epoll, &timer, quiet(), EventFlags::IN | EventFlags::ET)?;
        // One that was there already stays.
        let _ = self.timer.set(timer);
        Ok(())
    }
}

/// What the events of our own descriptors carry: nobody is told.
fn quiet() -> EventData {
    EventData::new_u64(Token::NONE.number())
}

fn timespec(duration: Duration) -> Timespec {
    // Deadlines are at most 584 years away, so the seconds always fit.
    let tv_sec = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}
