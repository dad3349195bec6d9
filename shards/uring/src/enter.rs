//! io_uring_enter(2) by the ring's registered descriptor, which saves looking the ring up in the process's table, and
//! counting its users, in every turn. The crate `io-uring` keeps such a registration only while it borrows the ring.

use std::ffi::{c_long, c_uint};
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// `IORING_ENTER_GETEVENTS`: work for the ring is done, and completions are waited for.
const GETEVENTS: c_uint = 1;
/// `IORING_ENTER_EXT_ARG`: the last argument is a [`GetEvents`].
const EXT_ARG: c_uint = 1 << 3;
/// `IORING_ENTER_REGISTERED_RING`: the first argument is no descriptor but its place among the registered ones.
const REGISTERED_RING: c_uint = 1 << 4;
/// `IORING_ENTER_NO_IOWAIT`.
pub(crate) const NO_IOWAIT: c_uint = 1 << 7;

/// `IORING_REGISTER_RING_FDS` and `IORING_UNREGISTER_RING_FDS`.
const REGISTER_RING_FDS: c_uint = 20;
const UNREGISTER_RING_FDS: c_uint = 21;

/// How the kernel knows the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// By its descriptor.
    Descriptor(RawFd),
    /// By its place among the thread's registered rings.
    Registered(u32),
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct GetEvents {
    mask: u64,
    mask_bytes: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct Timeout {
    seconds: i64,
    nanos: i64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Submits `count` operations, lets the kernel work for the ring, and waits for `want` completions until `timeout`.
///
/// # Errors
/// As io_uring_enter(2).
pub(crate) fn enter(
    ring: Name,
    count: u32,
    want: u32,
    timeout: Option<Duration>,
    flags: c_uint,
) -> io::Result<()> {
    let (first, flags) = match ring {
        Name::Descriptor(descriptor) => (c_long::from(descriptor), flags | GETEVENTS | EXT_ARG),
        Name::Registered(place) => (c_long::from(place), flags | GETEVENTS | EXT_ARG | REGISTERED_RING),
    };
    let until = timeout.map(|timeout| Timeout {
        seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        nanos: timeout.subsec_nanos().into(),
    });
    let timeout = until.as_ref().map_or(0, |until| std::ptr::from_ref(until).addr() as u64);
    let arguments = GetEvents { mask: 0, mask_bytes: 0, min_wait_us: 0, timeout };
    // SAFETY: the kernel reads `arguments`, whose size is passed, and `until` behind it, both of which live until it
    // returns. What the queued operations name is promised by whoever queued them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            first,
            c_long::from(count),
            c_long::from(want),
            c_long::from(flags),
            &raw const arguments,
            size_of::<GetEvents>(),
        )
    };
    succeeded(answer).map(drop)
}

/// Registers a ring with this thread. It has 16 places for them.
///
/// # Errors
/// As io_uring_register(2).
pub(crate) fn register(descriptor: RawFd) -> io::Result<Name> {
    let mut update = Update { offset: u32::MAX, reserved: 0, data: descriptor as u64 };
    change(descriptor, REGISTER_RING_FDS, &mut update)?;
    Ok(Name::Registered(update.offset))
}

/// Takes the registration back.
pub(crate) fn unregister(descriptor: RawFd, ring: Name) {
    if let Name::Registered(offset) = ring {
        // It fails only if it is not registered.
        let _ = change(descriptor, UNREGISTER_RING_FDS, &mut Update { offset, reserved: 0, data: 0 });
    }
}

fn change(descriptor: RawFd, what: c_uint, update: &mut Update) -> io::Result<()> {
    let one: c_long = 1;
    // SAFETY: the kernel reads and writes the one record that it is told of.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            c_long::from(descriptor),
            c_long::from(what),
            std::ptr::from_mut(update),
            one,
        )
    };
    succeeded(answer).map(drop)
}

fn succeeded(answer: c_long) -> io::Result<c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
