//! The system calls against real sockets of this machine, loopback and Unix only.

mod binding;
mod connecting;
mod streams;
mod timer;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use waterwheel_reactor::{Address, Bound, ConnectOptions, Handle, ListenOptions, UnixName};

use crate::{Progress, accept, begin_connect, bind_group, take_error};

/// No wait on this machine takes so long.
const HUNG: Duration = Duration::from_secs(20);

fn loopback() -> Address {
    Address::Inet("127.0.0.1:0".parse().unwrap())
}

fn abstract_name(name: &str) -> Address {
    Address::Unix(UnixName::Abstract(format!("waterwheel-os-{}-{name}", std::process::id()).into_bytes()))
}

fn descriptor(bound: &Bound) -> BorrowedFd<'_> {
    match &bound.handle {
        Handle::Os(descriptor) => descriptor.as_fd(),
        Handle::Virtual(_) => unreachable!("bind_group makes real sockets"),
    }
}

/// Waits until the descriptor is ready for `what`.
fn wait(descriptor: BorrowedFd<'_>, what: PollFlags) {
    let limit = Timespec { tv_sec: HUNG.as_secs() as i64, tv_nsec: 0 };
    let mut set = [PollFd::from_borrowed_fd(descriptor, what)];
    assert_eq!(poll(&mut set, Some(&limit)).unwrap(), 1, "hung");
}

fn is_readable_now(descriptor: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut set, Some(&Timespec::default())).unwrap() == 1
}

/// Connects, and answers how it went in the end.
fn connect(to: &Address, options: &ConnectOptions) -> io::Result<OwnedFd> {
    let (socket, progress) = begin_connect(to, options)?;
    match progress {
        Progress::Established => Ok(socket),
        Progress::Failed(error) => Err(error),
        Progress::Begun => {
            wait(socket.as_fd(), PollFlags::OUT);
            take_error(socket.as_fd())?.map_or(Ok(socket), Err)
        }
    }
}

/// Both ends of a connection, the accepting one last.
fn pair_at(at: &Address, options: &ListenOptions) -> (OwnedFd, OwnedFd) {
    let bound = bind_group(at, options, 1).unwrap().remove(0);
    let near = connect(&bound.local, &ConnectOptions::default()).unwrap();
    wait(descriptor(&bound), PollFlags::IN);
    let (far, _) = accept(descriptor(&bound)).unwrap();
    (near, far)
}

fn pair() -> (OwnedFd, OwnedFd) {
    pair_at(&loopback(), &ListenOptions::default())
}
