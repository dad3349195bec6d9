//! Who of a group gets a connection: a program of ours in the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use waterwheel_reactor::{Address, Bound, Handle, Program};

use crate::address::invalid;

/// As `Backend::steer` demands: attaches the program to the group that [`bind_group`](crate::bind_group) made
/// (socket(7), `SO_ATTACH_REUSEPORT_CBPF`; Linux 4.5, no privilege needed). It takes the place of one attached before.
///
/// The number that it answers counts the sockets in the order in which they began to listen. Once one of them is closed
/// the last has its number, so a group that is steered is best closed as a whole.
///
/// # Errors
/// `InvalidInput` for what is no group of internet sockets, or a program that the kernel refuses; `OutOfMemory` for one
/// longer than `net.core.optmem_max` allows; whatever a sandbox that knows no such option says.
pub fn steer(group: &[Bound], program: &Program) -> io::Result<()> {
    let first = group.first().ok_or_else(|| invalid("a group without sockets"))?;
    attach(&first.handle, &first.local, first.options.reuse_port, program)
}

/// Attaches the program to the group of one of its sockets.
pub(crate) fn attach(handle: &Handle, local: &Address, shared: bool, program: &Program) -> io::Result<()> {
    let Handle::Os(socket) = handle else {
        return Err(invalid("no socket of the kernel's"));
    };
    if local.inet().is_none() || !shared {
        return Err(invalid("a program needs a group of sockets that share a port"));
    }
    let filters: Vec<libc::sock_filter> = program
        .instructions()
        .iter()
        .map(|one| libc::sock_filter { code: one.code, jt: one.if_true, jf: one.if_false, k: one.operand })
        .collect();
    let Ok(len) = u16::try_from(filters.len()) else {
        return Err(invalid("a program longer than the kernel takes"));
    };
    let whole = libc::sock_fprog { len, filter: filters.as_ptr().cast_mut() };
    // SAFETY: the option's value is a `sock_fprog` that points at `len` filters; both live until the call returns, and the
    // kernel copies them and writes neither.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const whole).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
