//! Several datagrams in one system call: recvmmsg(2) and sendmmsg(2).

use std::fmt;
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};
use waterwheel_reactor::{Address, Datagram, Outgoing};

use super::control::{CONTROL_BYTES, Control};
use super::set;
use crate::address::{from_kernel, invalid, to_kernel};
use crate::is_internet;

/// Datagrams in one call. More save little: with 32 a call's own cost is a thirtieth for each.
const MESSAGES_MAX: usize = 32;
/// Segments that the kernel cuts one send into: `UDP_MAX_SEGMENTS` of Linux 4.18 (since 6.9 it is 128).
const SEGMENTS_MAX: usize = 64;

/// What a socket is and can do.
#[derive(Debug)]
pub(super) struct Traits {
    /// One of UDP's.
    pub(super) internet: bool,
    /// Its only peer.
    pub(super) connected: bool,
    pub(super) segments_max: usize,
}

impl Traits {
    pub(super) fn of(socket: BorrowedFd<'_>, peer: Option<&Address>) -> io::Result<Traits> {
        let internet = is_internet(socket)?;
        // No segments unless a send asks for them: only whether the kernel knows the word.
        let cuts = internet && set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let segments_max = if cuts { SEGMENTS_MAX } else { 1 };
        Ok(Traits { internet, connected: peer.is_some(), segments_max })
    }
}

/// Headers, names and notes of the datagrams of one call. Kept by the socket, so that a call allocates nothing.
#[derive(Default)]
pub(super) struct Messages {
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    names: Vec<SockAddrStorage>,
    controls: Vec<Control>,
    /// Of the names and the notes that are sent.
    lengths: Vec<(usize, usize)>,
}

/// Where the names, slices and notes of a call begin.
struct Places {
    names: *mut SockAddrStorage,
    slices: *mut libc::iovec,
    controls: *mut Control,
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("room", &self.controls.len()).finish_non_exhaustive()
    }
}

impl Messages {
    /// Makes room for so many.
    fn reset(&mut self, count: usize) {
        self.headers.clear();
        self.slices.clear();
        self.lengths.clear();
        if self.names.len() < count {
            self.names.resize_with(count, SockAddrStorage::zeroed);
            self.controls.resize(count, Control::EMPTY);
        }
    }

    fn places(&mut self) -> Places {
        Places {
            names: self.names.as_mut_ptr(),
            slices: self.slices.as_mut_ptr(),
            controls: self.controls.as_mut_ptr(),
        }
    }

    /// Receives what waits, never waits.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: &mut [IoSliceMut<'_>],
        found: &mut [Datagram],
    ) -> io::Result<usize> {
        let count = buffers.len().min(found.len()).min(MESSAGES_MAX);
        if count == 0 {
            return Err(invalid("no room for a datagram"));
        }
        self.reset(count);
        self.slices.extend(
            buffers[..count]
                .iter_mut()
                .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }),
        );
        let places = self.places();
        for at in 0..count {
            self.headers.push(places.header(at, size_of::<SockAddrStorage>(), CONTROL_BYTES));
        }
        // Without waiting for the first, and with each one's true size.
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: each of the `count` headers points at a name, a slice and notes of `self`, none of which is moved or used
        // otherwise until the call returns, with their true sizes; each slice at a buffer that is borrowed for writing
        // until this returns.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                flags as _,
                ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (at, datagram) in found.iter_mut().enumerate().take(got) {
            let libc::mmsghdr { msg_hdr, msg_len } = self.headers[at];
            datagram.size = msg_len as usize;
            datagram.from = self.name(at, msg_hdr.msg_namelen);
            self.controls[at].read(msg_hdr.msg_controllen as _, datagram);
        }
        Ok(got)
    }

    /// The name that the kernel wrote.
    fn name(&self, at: usize, length: libc::socklen_t) -> Address {
        let mut storage = SockAddrStorage::zeroed();
        let size = (length as usize).min(size_of::<SockAddrStorage>());
        // SAFETY: both are of the same type and not each other's; any bytes are a `SockAddrStorage`.
        unsafe { ptr::copy_nonoverlapping(&raw const self.names[at], &raw mut storage, 1) };
        // SAFETY: the kernel wrote a name of `size` bytes; what is behind it was zero or a name before.
        from_kernel(&unsafe { SockAddr::new(storage, size as libc::socklen_t) })
    }

    /// Sends some of them, never waits.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, outgoing: &[Outgoing<'_>]) -> io::Result<usize> {
        let mut count = outgoing.len().min(MESSAGES_MAX);
        self.reset(count);
        self.slices.extend(outgoing[..count].iter().map(|one| libc::iovec {
            iov_base: one.bytes.as_ptr().cast_mut().cast(),
            iov_len: one.bytes.len(),
        }));
        for (at, one) in outgoing[..count].iter().enumerate() {
            let name = match one.to {
                Some(to) => {
                    let name = match to_kernel(to) {
                        Ok(name) => name,
                        // Those before it are sent; whoever sends the rest is told.
                        Err(_) if at > 0 => {
                            count = at;
                            break;
                        }
                        Err(error) => return Err(error),
                    };
                    let length = name.len() as usize;
                    self.names[at] = name.as_storage();
                    length
                }
                None => 0,
            };
            let notes = self.controls[at].write(one);
            self.lengths.push((name, notes));
        }
        let places = self.places();
        self.headers.extend(
            self.lengths.iter().enumerate().map(|(at, (name, notes))| places.header(at, *name, *notes)),
        );
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: each of the `count` headers points at a name, a slice and notes of `self`, or at none of them, with their
        // true sizes; each slice at bytes that are borrowed until this returns. The kernel writes none of them but the
        // headers' counts.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count as libc::c_uint, flags as _)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl Places {
    /// The header of one datagram; what has no length is left out.
    fn header(&self, at: usize, name: usize, control: usize) -> libc::mmsghdr {
        // SAFETY: all of it is numbers and pointers, for which zero is a value; it may have fields that only pad it, so
        // that it cannot be written out.
        let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        if name > 0 {
            header.msg_hdr.msg_name = self.names.wrapping_add(at).cast();
            header.msg_hdr.msg_namelen = name as libc::socklen_t;
        }
        header.msg_hdr.msg_iov = self.slices.wrapping_add(at);
        header.msg_hdr.msg_iovlen = 1;
        if control > 0 {
            header.msg_hdr.msg_control = self.controls.wrapping_add(at).cast();
            header.msg_hdr.msg_controllen = control as _;
        }
        header
    }
}

/// Whether a send of segments failed because they are segments.
pub(super) fn is_about_segments(error: &io::Error) -> bool {
    // EINVAL: larger than the path's packets. EIO: a device that cannot add their checksums.
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO)) || error.kind() == ErrorKind::Unsupported
}
