//! Whether io_uring is here and does what glommio needs, asked before glommio is touched: where something is missing,
//! glommio 0.9 panics or ends the process.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Resource, getrlimit};
use waterwheel_os::duplicate;
use waterwheel_reactor::Unavailable;

/// The operations that glommio 0.9 asks for, by their number in `linux/io_uring.h`.
const OPERATIONS: &[(u8, &str)] = &[
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (14, "ASYNC_CANCEL"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];

/// Below this soft limit on locked memory glommio makes no executor.
const MEMLOCK_MIN: u64 = 512 << 10;

/// `IORING_SETUP_IOPOLL`: one of glommio's three rings is of this kind.
const SETUP_IOPOLL: u32 = 1;
/// `IORING_REGISTER_PROBE`.
const REGISTER_PROBE: libc::c_uint = 8;
/// `IO_URING_OP_SUPPORTED`.
const OP_SUPPORTED: u16 = 1;

/// What else needs a descriptor while an executor is made: its eventfd, and looking for that one.
const SPARE_DESCRIPTORS: usize = 4;

/// Makes the rings that glommio makes, enters one, asks for the operations, for descriptors and for the limit on
/// locked memory.
///
/// # Errors
/// Names the first thing that is missing.
pub(crate) fn probe() -> Result<(), Unavailable> {
    waterwheel_os::survives_io_uring().map_err(Unavailable::new)?;
    let ring = setup(0).map_err(|error| missing("io_uring_setup", &error))?;
    let _second = setup(0).map_err(|error| missing("io_uring_setup", &error))?;
    let _third =
        setup(SETUP_IOPOLL).map_err(|error| missing("io_uring_setup with IORING_SETUP_IOPOLL", &error))?;
    // All at once: without a descriptor glommio panics where it asks for the operations, and never recovers.
    let _spare = (0..SPARE_DESCRIPTORS)
        .map(|_| duplicate(ring.as_fd()))
        .collect::<io::Result<Vec<OwnedFd>>>()
        .map_err(|error| missing("dup", &error))?;
    enter(&ring).map_err(|error| missing("io_uring_enter", &error))?;
    let mut answer = Probe::default();
    ask(&ring, &mut answer)
        .map_err(|error| missing("io_uring_register with IORING_REGISTER_PROBE", &error))?;
    operations(&answer)?;
    memlock(getrlimit(Resource::Memlock).current)
}

fn missing(call: &str, error: &io::Error) -> Unavailable {
    Unavailable::new(format!("{call}: {error}"))
}

fn operations(answer: &Probe) -> Result<(), Unavailable> {
    let lacking: Vec<&str> =
        OPERATIONS.iter().filter(|(number, _)| !answer.supports(*number)).map(|(_, name)| *name).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Unavailable::new(format!(
        "io_uring lacks operations that came with Linux 5.8: {}",
        lacking.join(", ")
    )))
}

/// `None` is no limit.
fn memlock(soft: Option<u64>) -> Result<(), Unavailable> {
    match soft {
        Some(limit) if limit < MEMLOCK_MIN => Err(Unavailable::new(format!(
            "RLIMIT_MEMLOCK: {} KiB of memory may be locked, glommio wants {} KiB (ulimit -l)",
            limit >> 10,
            MEMLOCK_MIN >> 10
        ))),
        _ => Ok(()),
    }
}

/// A ring of two entries.
fn setup(flags: u32) -> io::Result<OwnedFd> {
    // `struct io_uring_params`: 30 words, of which the third is `flags`; zero asks for nothing.
    let mut params = [0u32; 30];
    params[2] = flags;
    // SAFETY: the kernel reads and writes the 120 bytes of `params`, which live until it returns.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2 as c_long, params.as_mut_ptr()) };
    let ring = RawFd::try_from(succeeded(ring)?).map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(ring) })
}

/// Submits nothing and waits for nothing: tells whether a filter forbids the call.
fn enter(ring: &OwnedFd) -> io::Result<()> {
    let none: c_long = 0;
    // SAFETY: without operations and without a signal mask the kernel touches no memory of ours.
    let entered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            none,
            none,
            none,
            std::ptr::null::<libc::sigset_t>(),
            none,
        )
    };
    succeeded(entered).map(drop)
}

/// `struct io_uring_probe` with room for every operation that there can be.
#[repr(C)]
struct Probe {
    last_op: u8,
    ops_len: u8,
    reserved: u16,
    reserved_words: [u32; 3],
    operations: [ProbedOperation; Probe::ROOM],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProbedOperation {
    number: u8,
    reserved: u8,
    flags: u16,
    reserved_word: u32,
}

impl Probe {
    const ROOM: usize = 256;

    fn supports(&self, number: u8) -> bool {
        number < self.ops_len && self.operations[usize::from(number)].flags & OP_SUPPORTED != 0
    }
}

impl Default for Probe {
    fn default() -> Probe {
        let operations = [ProbedOperation::default(); Probe::ROOM];
        Probe { last_op: 0, ops_len: 0, reserved: 0, reserved_words: [0; 3], operations }
    }
}

fn ask(ring: &OwnedFd, answer: &mut Probe) -> io::Result<()> {
    // SAFETY: the kernel writes at most the header and `ROOM` operations, which is what `Probe` is.
    let asked = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_PROBE,
            std::ptr::from_mut(answer),
            Probe::ROOM as libc::c_uint,
        )
    };
    succeeded(asked).map(drop)
}

fn succeeded(answer: c_long) -> io::Result<c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_is_missing_is_named_before_glommio_exits_over_it() {
        let mut answer = Probe { ops_len: 28, ..Probe::default() };
        for (number, _) in OPERATIONS {
            answer.operations[usize::from(*number)].flags = OP_SUPPORTED;
        }
        assert_eq!(operations(&answer), Ok(()));
        answer.operations[6].flags = 0;
        answer.ops_len = 27;
        let why = operations(&answer).unwrap_err().to_string();
        assert!(why.ends_with(": POLL_ADD, RECV"), "{why}");
    }

    #[test]
    fn a_low_limit_on_locked_memory_is_told_with_both_numbers() {
        assert_eq!(memlock(None), Ok(()));
        assert_eq!(memlock(Some(512 << 10)), Ok(()));
        let why = memlock(Some(64 << 10)).unwrap_err().to_string();
        assert!(why.contains("64 KiB") && why.contains("512 KiB"), "{why}");
    }
}
