//! Bytes, ends and resets; descriptors and interrupts.

use std::io::{ErrorKind, IoSlice};
use std::os::fd::AsFd;

use rustix::event::epoll;

use waterwheel_reactor::{Virtual, VirtualSocket};

use super::*;
use crate::{
    Interrupt, PlainEvent, abort, open, raise_descriptor_limit, receive, send, send_vectored,
    shutdown_write, unacknowledged, wait_plainly,
};

/// Receives until the end, or the error that comes instead.
fn drain(socket: &OwnedFd) -> io::Result<usize> {
    let mut total = 0;
    loop {
        wait(socket.as_fd(), PollFlags::IN);
        match receive(socket.as_fd(), &mut [0; 4096])? {
            0 => return Ok(total),
            count => total += count,
        }
    }
}

/// Sends until the kernel takes no more.
fn fill(socket: &OwnedFd) -> usize {
    let mut total = 0;
    loop {
        match send(socket.as_fd(), &[7; 65_536]) {
            Ok(count) => total += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return total;
            }
        }
    }
}

#[test]
fn nothing_waits() {
    let (near, far) = pair();
    assert_eq!(receive(near.as_fd(), &mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(fill(&far) > 0);
}

#[test]
fn what_the_peer_has_no_room_for_is_known_until_it_reads() {
    let (near, far) = pair();
    assert_eq!(unacknowledged(far.as_fd()).unwrap(), 0);
    let sent = fill(&far);
    assert!((1..=sent).contains(&unacknowledged(far.as_fd()).unwrap()));
    shutdown_write(far.as_fd()).unwrap();
    assert_eq!(drain(&near).unwrap(), sent);
    // The last acknowledgement may take its time, and the end counts as a byte until then.
    let acknowledged = (0..1_000).any(|_| {
        let _ = rustix::thread::nanosleep(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 });
        unacknowledged(far.as_fd()).unwrap() == 0
    });
    assert!(acknowledged);
}

#[test]
fn a_half_close_ends_one_direction() {
    let (near, far) = pair();
    send(near.as_fd(), b"request").unwrap();
    shutdown_write(near.as_fd()).unwrap();
    assert_eq!(drain(&far).unwrap(), 7);
    send(far.as_fd(), b"response").unwrap();
    drop(far);
    assert_eq!(drain(&near).unwrap(), 8);
    assert_eq!(send(near.as_fd(), b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn more_slices_than_the_kernel_takes_are_cut_and_not_refused() {
    let (near, far) = pair();
    let slices = vec![IoSlice::new(b"ab"); 3000];
    assert_eq!(send_vectored(near.as_fd(), &slices).unwrap(), 2048);
    drop(near);
    assert_eq!(drain(&far).unwrap(), 2048);
}

#[test]
fn abort_resets_at_once_also_behind_full_buffers_and_after_shutdown() {
    for case in ["idle", "full", "shut", "twice"] {
        let (near, far) = pair();
        match case {
            "full" => drop(fill(&near)),
            "shut" => shutdown_write(near.as_fd()).unwrap(),
            "twice" => abort(near.as_fd()),
            _ => {}
        }
        abort(near.as_fd());
        // `near` is still open: the reset is abort's doing, not that of close.
        wait(far.as_fd(), PollFlags::ERR);
        let error = send(far.as_fd(), b"x").unwrap_err();
        // After a FIN the kernel calls a reset a broken pipe.
        let expected = if case == "shut" { ErrorKind::BrokenPipe } else { ErrorKind::ConnectionReset };
        assert_eq!(error.kind(), expected, "{case}");
    }
}

#[test]
fn abort_ends_a_unix_connection_for_its_peer() {
    let (near, far) = pair_at(&abstract_name("abort"), &ListenOptions::default());
    abort(near.as_fd());
    assert_eq!(drain(&far).unwrap(), 0);
    assert_eq!(send(far.as_fd(), b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn the_soft_limit_becomes_the_hard_one() {
    let limit = raise_descriptor_limit().unwrap();
    let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!((now.current, now.maximum), (limit, limit));
    assert_eq!(raise_descriptor_limit().unwrap(), limit, "asking again changes nothing");
}

struct Nothing;
impl VirtualSocket for Nothing {}

#[test]
fn a_handle_of_a_simulated_world_is_refused() {
    let error = open(Handle::Virtual(Virtual::new(Nothing))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("without a kernel"), "{error}");
}

#[test]
fn each_raise_is_an_edge_though_nobody_clears() {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let interrupt = Interrupt::new().unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&set, &interrupt, epoll::EventData::new_u64(42), flags).unwrap();
    let events = |block| {
        let mut seen = Vec::new();
        wait_plainly(set.as_fd(), block, |event| seen.push(event)).unwrap();
        seen
    };
    assert_eq!(events(false), []);
    for _ in 0..3 {
        interrupt.raise();
        assert_eq!(events(true), [PlainEvent { flags: libc::EPOLLIN as u32, data: 42 }]);
        assert_eq!(events(false), []);
    }
}
