//! Readiness of descriptors from elsewhere.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use waterwheel_reactor::Watched;

use crate::core::Core;
use crate::wait::Wait;

/// Asks poll(2), and waits through glommio.
///
/// glommio waits for readability only, and takes an error from a socket when it does. So each direction has an epoll
/// instance with the descriptor in it, which becomes readable when the descriptor is ready for that direction.
#[derive(Debug)]
pub(crate) struct GlommioWatched {
    core: Rc<Core>,
    descriptor: OwnedFd,
    readable: Option<Wait>,
    writable: Option<Wait>,
}

impl GlommioWatched {
    pub(crate) fn new(core: Rc<Core>, descriptor: OwnedFd) -> io::Result<GlommioWatched> {
        let not_pollable = "this descriptor cannot be polled: a regular file or directory is always ready";
        drop(instance(descriptor.as_fd(), EventFlags::IN).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => io::Error::new(ErrorKind::InvalidInput, not_pollable),
            _ => error,
        })?);
        Ok(GlommioWatched { core, descriptor, readable: None, writable: None })
    }
}

/// An epoll instance, readable as long as the descriptor is ready for `interest`.
fn instance(descriptor: BorrowedFd<'_>, interest: EventFlags) -> io::Result<OwnedFd> {
    let instance = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&instance, descriptor, EventData::new_u64(0), interest)?;
    Ok(instance)
}

fn poll_ready(
    core: &Core,
    cx: &mut Context<'_>,
    descriptor: BorrowedFd<'_>,
    wait: &mut Option<Wait>,
    (now, later): (PollFlags, EventFlags),
) -> Poll<io::Result<()>> {
    core.check()?;
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        // An error and a hang-up are told without being asked for, and end a wait in either direction.
        let mut asked = [PollFd::new(&descriptor, now)];
        if retry_on_intr(|| poll(&mut asked, Some(&at_once)))? > 0 {
            return Poll::Ready(Ok(()));
        }
        if wait.is_none() {
            *wait = Some(Wait::new(instance(descriptor, later)?));
        }
        if let Some(wait) = wait {
            ready!(wait.poll(core, cx))?;
        }
    }
}

impl Watched for GlommioWatched {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ways = (PollFlags::IN, EventFlags::IN);
        poll_ready(&self.core, cx, self.descriptor.as_fd(), &mut self.readable, ways)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ways = (PollFlags::OUT, EventFlags::OUT);
        poll_ready(&self.core, cx, self.descriptor.as_fd(), &mut self.writable, ways)
    }

    fn into_descriptor(self: Box<Self>) -> io::Result<OwnedFd> {
        Ok(self.descriptor)
    }
}
