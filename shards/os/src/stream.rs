//! Bytes of a connection, and its end.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

/// The most slices that [`send_vectored`] takes at once, as sendmsg(2) does (`UIO_MAXIOV`).
pub const SLICES_MAX: usize = 1024;

const SENDING: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// Receives what is there into `buffer`; 0 is the end of the stream, unless the buffer is empty. Never waits.
///
/// # Errors
/// As recv(2): `WouldBlock` if nothing is there.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (count, _) = retry_on_intr(|| net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT))?;
    Ok(count)
}

/// Sends what the kernel takes of `bytes`. Never waits and never raises `SIGPIPE`.
///
/// # Errors
/// As send(2): `WouldBlock` if the kernel takes nothing now.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| net::send(socket, bytes, SENDING))?)
}

/// As [`send`], for what [`shutdown_write`] or close(2) comes right behind: the FIN then goes out with the last of it, a
/// segment less on the way, and for the peer one event less (`MSG_MORE`, send(2)).
///
/// # Errors
/// As [`send`].
pub fn send_last(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| net::send(socket, bytes, SENDING | SendFlags::MORE))?)
}

/// The same as [`send`] from several slices, in order; of more than [`SLICES_MAX`] the first ones.
///
/// # Errors
/// As [`send`].
pub fn send_vectored(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let slices = &slices[..slices.len().min(SLICES_MAX)];
    Ok(retry_on_intr(|| net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), SENDING))?)
}

/// Says that no more will be sent (FIN). Receiving goes on.
///
/// # Errors
/// As shutdown(2): `NotConnected` before the connection is established and after it broke.
pub fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(net::shutdown(socket, Shutdown::Write)?)
}

/// Resets a connection: its peer sees RST at once, what is queued is dropped, and it is of no use afterwards. Works
/// with operations in flight, where `SO_LINGER` and close(2) would send nothing.
///
/// A Unix socket cannot be reset: its peer sees the end, or a reset if bytes it sent were not read.
pub fn abort(socket: BorrowedFd<'_>) {
    // EINVAL: not TCP. What else fails, fails because there is no connection any more.
    if net::connect_unspec(socket) == Err(Errno::INVAL) {
        // Fails only if there is no connection.
        let _ = net::shutdown(socket, Shutdown::Both);
    }
}

/// How many bytes that [`send`] took are still in this machine's hands: not sent, or not acknowledged by the peer's
/// kernel (over a Unix socket: not received by the peer). [`abort`] would destroy them.
///
/// # Errors
/// As ioctl(2): the descriptor is not a socket.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes one int, to `count`, before
    // the call returns (SIOCOUTQ, tcp(7), which is the same number as TIOCOUTQ).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { Ok(usize::try_from(count).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}
