//! Containers that forbid io_uring, or a part of it.

use std::ffi::c_long;

use waterwheel_conformance::kit::{on_one, shard, try_each};
use waterwheel_conformance::{Law, Outcome};
use waterwheel_reactor::Backend;

use crate::filter::{Verdict, filter};
use crate::log::Log;

pub(crate) const LAWS: &[Law] = &[
    Law::new("FORBID-1", "no io_uring_setup: a panic, or no reason", |backend| {
        is_told(backend, libc::SYS_io_uring_setup, PERM, "io_uring_setup: Operation not permitted")
    })
    .unprobed(),
    Law::new("FORBID-2", "no io_uring_enter: a panic, or no reason", |backend| {
        is_told(backend, libc::SYS_io_uring_enter, PERM, "io_uring_enter: Operation not permitted")
    })
    .unprobed(),
    Law::new("FORBID-3", "an old kernel: a panic, or no reason", |backend| {
        is_told(backend, libc::SYS_io_uring_setup, NOSYS, "io_uring_setup: Function not implemented")
    })
    .unprobed(),
    Law::new("FORBID-4", "io_uring_setup kills: the probe ends the program", |backend| {
        is_told(backend, libc::SYS_io_uring_setup, Verdict::Kills, "io_uring_setup: a filter kills")
    })
    .unprobed(),
    Law::new("FORBID-5", "io_uring_enter kills: the probe ends the program", |backend| {
        is_told(backend, libc::SYS_io_uring_enter, Verdict::Kills, "io_uring_enter: a filter kills")
    })
    .unprobed(),
    Law::new("FORBID-6", "io_uring_register kills: the probe ends the program", |backend| {
        is_told(backend, libc::SYS_io_uring_register, Verdict::Kills, "io_uring_register: a filter kills")
    })
    .unprobed(),
    Law::new("FORBID-7", "slower for a forbidden call, and nobody knows why", slower_is_logged),
];

const PERM: Verdict = Verdict::Fails(libc::EPERM);
const NOSYS: Verdict = Verdict::Fails(libc::ENOSYS);

/// The probe says why, each time; a run in spite of it says so too, and nothing of either is left.
fn is_told(backend: &dyn Backend, call: c_long, verdict: Verdict, why: &str) -> Outcome {
    filter(call, verdict);
    for _ in 0..2 {
        let unavailable = backend.probe().expect_err("it cannot run").to_string();
        assert!(unavailable.starts_with(why), "{unavailable}");
    }
    let (values, result) = try_each(backend, vec![shard(|_| async {}), shard(|_| async {})]);
    assert_eq!(values, [None, None]);
    let ended = result.expect_err("no shard has a reactor");
    assert_eq!(ended.len(), 2);
    assert!(ended.iter().all(|ended| ended.to_string().contains(why)), "{ended:?}");
    // SAFETY: the calling process's own children are asked for, and no status.
    let child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
    assert_eq!(child, -1, "a child that tried is left");
    Outcome::Holds
}

/// Nothing can be registered, be it buffers or the ring itself.
pub(crate) fn forbid_registering() {
    filter(libc::SYS_io_uring_register, PERM);
}

fn slower_is_logged(backend: &dyn Backend) -> Outcome {
    forbid_registering();
    let log = Log::begin();
    backend.probe().expect("it can do without");
    on_one(backend, |_| async {});
    log.says_once(&["a feature of io_uring is not used", "feature=buffers", "Operation not permitted"]);
    log.says_once(&["a feature of io_uring is not used", "feature=ring_fd"]);
    Outcome::Holds
}
