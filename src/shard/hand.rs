//! A reactor for tests of shards by themselves.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use waterwheel_reactor::{
    Address, Alarm, Bound, ConnectOptions, Incoming, Listener, Reactor, Time, Transport,
};

/// A reactor without I/O whose clock stands still until it is moved.
#[derive(Debug, Default)]
pub(crate) struct Hand {
    pub(crate) now: Cell<Time>,
    /// How far each look at the clock moves it.
    pub(crate) step: Cell<Duration>,
    pub(crate) alarm: Alarm,
}

impl Reactor for Hand {
    fn now(&self) -> Time {
        self.now.replace(self.now.get() + self.step.get())
    }
    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
    fn seed(&self) -> u64 {
        0
    }
    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.alarm.poll_until(self.now(), cx, deadline)
    }
    fn listen(&self, _: Bound) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn connect(&self, _: &Address, _: &ConnectOptions) -> io::Result<Transport> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn adopt(&self, _: Incoming) -> io::Result<Transport> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
