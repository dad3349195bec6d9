//! io_uring as a bare loop uses it: one thread, one ring, receives that go on, buffers that the kernel picks.
//!
//! What the bare proxy, the bare echo and the generator share, and the only module with `unsafe` in it. It is
//! thin: a method puts one entry into the submission queue, [`Ring::enter`] is one system call for all of
//! them. Set up for one thread whose completions are made when it asks for them (`SINGLE_ISSUER`,
//! `DEFER_TASKRUN`; Linux 6.1), with multishot accept and receive over a ring of provided buffers (Linux
//! 6.0).

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::server::BUFFER_BYTES;

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Entries of the submission queue; when it is full, it is submitted.
    pub submissions: u32,
    /// Entries of the completion queue; what comes beyond the kernel keeps, at a price.
    pub completions: u32,
    /// How many buffers there are to receive into: a power of two.
    pub buffers: u16,
    /// How large each is.
    pub buffer_bytes: u32,
    /// One buffer holds what several receives brought, one behind the other (Linux 6.12). Small messages then
    /// lie close together, and thousands fit where else each took a buffer.
    pub packed: bool,
}

impl Sizes {
    /// A bare loop's. Eight buffers of 128 KiB, which receives fill one behind the other: one MiB, which a
    /// cache holds. With a buffer for each receive the proxy took a quarter more CPU for streams, and both
    /// loops as much for exchanges. Completions: several for each of some thousand connections.
    pub const PACKED: Sizes = Sizes {
        submissions: 1024,
        completions: 16 * 1024,
        buffers: 8,
        buffer_bytes: 128 * 1024,
        packed: true,
    };

    /// For kernels before 6.12. With half as many buffers the proxy's turn under 512 connections took them
    /// all, and receives that found none were a third of all completions.
    pub const SINGLE: Sizes =
        Sizes { buffers: 128, buffer_bytes: BUFFER_BYTES as u32, packed: false, ..Sizes::PACKED };
}

/// Pieces that may wait in a bare loop for one receiver before it receives no more for it; it goes on at half
/// of it. What the kernel received until it hears of that comes on top.
pub const WAITING_MAX: usize = 8;

/// Bytes that were received: part of a buffer, which is the program's until [`Ring::give_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    buffer: u16,
    start: u32,
    length: u32,
}

impl Piece {
    /// How many bytes.
    pub fn len(self) -> usize {
        self.length as usize
    }

    /// There are none.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }
}

/// What became of an operation.
#[derive(Debug)]
pub struct Completion {
    /// What the operation was submitted with.
    pub tag: u64,
    /// What the system call would have returned: a count, or a negative error number.
    pub result: i32,
    /// A multishot operation goes on.
    pub more: bool,
    /// What was received.
    pub piece: Option<Piece>,
    /// The connection that was accepted.
    pub socket: Option<OwnedFd>,
}

/// What completions of [`Ring::accept`] are tagged with, and no others.
pub const ACCEPTED: u64 = u64::MAX;

/// How [`Ring::enter`] waits for a completion.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Not at all.
    Not,
    /// So long at most.
    AtMost(Duration),
    /// For as long as it takes.
    ForEver,
}

/// The submission and completion queues and the buffers of one thread.
pub struct Ring {
    uring: IoUring,
    buffers: Buffers,
    /// Where all connects go: the kernel reads it when they are submitted.
    target: Box<libc::sockaddr_in>,
}

/// The only group of provided buffers.
const GROUP: u16 = 0;

impl Ring {
    /// # Errors
    /// The kernel refuses io_uring, or is older than 6.1.
    pub fn new(sizes: Sizes) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(sizes.completions)
            .build(sizes.submissions)?;
        let buffers = Buffers::new(&uring, sizes)?;
        Ok(Ring { uring, buffers, target: Box::new(address(SocketAddrV4::new([127, 0, 0, 1].into(), 0))) })
    }

    /// Where [`connect`](Ring::connect) goes from now on. Only before the first one.
    pub fn set_target(&mut self, target: SocketAddrV4) {
        *self.target = address(target);
    }

    /// Accepts one connection after the other, each a completion tagged [`ACCEPTED`].
    pub fn accept(&mut self, listener: RawFd) {
        self.push_tagged(opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build(), ACCEPTED);
    }

    /// Connects to the target.
    pub fn connect(&mut self, socket: RawFd, tag: u64) {
        let target = (&raw const *self.target).cast();
        let length = size_of::<libc::sockaddr_in>() as u32;
        self.push(opcode::Connect::new(Fd(socket), target, length).build(), tag);
    }

    /// Receives until the end, an error, or no buffer is left (`ENOBUFS`).
    pub fn receive(&mut self, socket: RawFd, tag: u64) {
        self.push(opcode::RecvMulti::new(Fd(socket), GROUP).build(), tag);
    }

    /// Sends what was received, but for its first bytes. It stays the program's until the completion at
    /// least.
    pub fn send_piece(&mut self, socket: RawFd, piece: Piece, but_for: usize, tag: u64) {
        let entry = send(socket, &self.bytes(piece)[but_for..]);
        self.push(entry, tag);
    }

    /// Sends bytes that live for ever.
    pub fn send(&mut self, socket: RawFd, bytes: &'static [u8], tag: u64) {
        self.push(send(socket, bytes), tag);
    }

    /// Ends what was submitted as `what`.
    pub fn cancel(&mut self, what: u64, tag: u64) {
        self.push(opcode::AsyncCancel::new(what).build(), tag);
    }

    /// What was received.
    ///
    /// # Panics
    /// It was given back.
    pub fn bytes(&self, piece: Piece) -> &[u8] {
        self.buffers.bytes(piece)
    }

    /// Lets the kernel use these bytes' place again, from the next [`enter`](Ring::enter) on.
    ///
    /// # Panics
    /// More was given back than was received.
    pub fn give_back(&mut self, piece: Piece) {
        self.buffers.give_back(piece);
    }

    /// How many buffers the kernel has to receive into.
    pub fn free_buffers(&self) -> usize {
        self.buffers.free
    }

    /// Submits what was put in, waits, and appends what was completed.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub fn enter(&mut self, wait: Wait, completed: &mut Vec<Completion>) -> io::Result<()> {
        self.buffers.publish();
        let queue = self.uring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        let entered = match wait {
            Wait::Not if idle => Ok(0),
            Wait::Not => self.uring.submit(),
            Wait::ForEver => self.uring.submit_and_wait(1),
            Wait::AtMost(time) => {
                let time = Timespec::from(time);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match entered {
            Ok(_) => {}
            // The time is over, a signal came, completions wait to be fetched first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        for entry in self.uring.completion() {
            let (tag, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            let buffer = cqueue::buffer_select(flags);
            let more_fits = cqueue::buffer_more(flags);
            let piece = buffer.map(|buffer| self.buffers.take(buffer, result.max(0) as u32, more_fits));
            let is_socket = tag == ACCEPTED && result >= 0;
            // SAFETY: the kernel made the socket for this completion, which is fetched once.
            let socket = is_socket.then(|| unsafe { OwnedFd::from_raw_fd(result) });
            completed.push(Completion { tag, result, more: cqueue::more(flags), piece, socket });
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry, tag: u64) {
        assert!(tag != ACCEPTED, "that tag is taken");
        self.push_tagged(entry, tag);
    }

    fn push_tagged(&mut self, entry: squeue::Entry, tag: u64) {
        let entry = entry.user_data(tag);
        loop {
            // SAFETY: what an entry points at lives as long as the kernel may read it: `target` and the
            // buffers as long as `self`, which ends the ring first; all else is `'static`. The kernel writes
            // into provided buffers only, and to those only that `Buffers` says it has.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: the kernel takes all of it. An error shows at the next `enter`, which tries again.
            let _submitted = self.uring.submit();
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Ring").field("buffers", &self.buffers.states.len()).finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Before the memory goes. What still sends from it may send anything: its sockets are gone with the
        // ring.
        let _gone = self.uring.submitter().unregister_buf_ring(GROUP);
    }
}

/// `MSG_WAITALL`: the kernel goes on after a short send as long as the socket is open (Linux 5.19).
fn send(socket: RawFd, bytes: &[u8]) -> squeue::Entry {
    opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(of.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// The buffers that the kernel receives into, and the ring that tells it which it has.
struct Buffers {
    /// One entry per buffer; the tail lies in the first one's spare field. Shared with the kernel, which
    /// reads only, but for packed buffers: there it moves an entry's address on as it fills the buffer.
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    buffer_bytes: u32,
    /// Where the next one given back is entered; the kernel sees it after `publish`.
    tail: u16,
    states: Box<[State]>,
    /// How many the kernel has.
    free: usize,
}

/// What is known of one buffer.
#[derive(Clone, Copy, Debug)]
struct State {
    /// The kernel may receive into what is behind `filled`.
    is_kernels: bool,
    filled: u32,
    /// Pieces of it that the program has.
    pieces: u32,
}

/// Register the ring for packed buffers (`IOU_PBUF_RING_INC`).
const PACKED: u16 = 2;

impl Buffers {
    fn new(uring: &IoUring, sizes: Sizes) -> io::Result<Buffers> {
        let Sizes { buffers: count, buffer_bytes, packed, .. } = sizes;
        assert!(count.is_power_of_two(), "the kernel masks the tail");
        let entries = map(usize::from(count) * size_of::<BufRingEntry>())?;
        let mut buffers = Buffers {
            entries: entries.cast(),
            bytes: map(usize::from(count) * buffer_bytes as usize)?,
            buffer_bytes,
            tail: 0,
            states: vec![State { is_kernels: false, filled: 0, pieces: 0 }; count.into()].into(),
            free: 0,
        };
        let flags = if packed { PACKED } else { 0 };
        // SAFETY: the entries are page-aligned, zeroed memory of the right length, and stay until `Drop` of
        // `Ring` has unregistered them.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, flags)?;
        }
        (0..count).for_each(|buffer| buffers.enter(buffer));
        buffers.publish();
        Ok(buffers)
    }

    fn bytes(&self, piece: Piece) -> &[u8] {
        let state = self.states[usize::from(piece.buffer)];
        assert!(state.pieces > 0 && piece.start + piece.length <= state.filled, "{piece:?} was given back");
        // SAFETY: inside the mapping, initialised since it came zeroed, and the kernel writes only behind
        // what is filled as long as the program has a piece of the buffer.
        unsafe {
            let start = self.start(piece.buffer).add(piece.start as usize);
            std::slice::from_raw_parts(start.as_ptr(), piece.length as usize)
        }
    }

    /// Notes what the kernel received, and whether it goes on in the same buffer.
    fn take(&mut self, buffer: u16, length: u32, more_fits: bool) -> Piece {
        let state = &mut self.states[usize::from(buffer)];
        assert!(state.is_kernels, "the kernel gave buffer {buffer} twice");
        let start = state.filled;
        state.filled += length;
        assert!(state.filled <= self.buffer_bytes, "more than buffer {buffer} holds");
        state.pieces += 1;
        state.is_kernels = more_fits;
        self.free -= usize::from(!more_fits);
        Piece { buffer, start, length }
    }

    fn give_back(&mut self, piece: Piece) {
        let state = &mut self.states[usize::from(piece.buffer)];
        assert!(state.pieces > 0, "{piece:?} was given back");
        state.pieces -= 1;
        if state.pieces == 0 && !state.is_kernels {
            self.enter(piece.buffer);
        }
    }

    /// Gives the kernel a whole buffer.
    fn enter(&mut self, buffer: u16) {
        self.states[usize::from(buffer)] = State { is_kernels: true, filled: 0, pieces: 0 };
        self.free += 1;
        let place = usize::from(self.tail) % self.states.len();
        let start = self.start(buffer).as_ptr() as u64;
        // SAFETY: `place` is inside the ring, and the kernel uses no entry at or behind the tail that it
        // knows. Set field by field, since the first entry's spare field is the tail.
        unsafe {
            let entry = self.entries.add(place).as_mut();
            entry.set_addr(start);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn start(&self, buffer: u16) -> NonNull<u8> {
        assert!(usize::from(buffer) < self.states.len(), "there is no buffer {buffer}");
        // SAFETY: inside the mapping, since there is such a buffer.
        unsafe { self.bytes.add(usize::from(buffer) * self.buffer_bytes as usize) }
    }

    /// Shows the kernel all that was given back.
    fn publish(&self) {
        // SAFETY: the tail is an aligned `u16` inside the mapping, which lives as long as `self`; both sides
        // use it atomically.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both were mapped with these lengths and nothing borrows from them any more; the ring that
        // named them has been closed, or never got them.
        unsafe {
            let _unmapped =
                munmap(self.entries.as_ptr().cast(), self.states.len() * size_of::<BufRingEntry>());
            let _unmapped =
                munmap(self.bytes.as_ptr().cast(), self.states.len() * self.buffer_bytes as usize);
        }
    }
}

fn map(length: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping of nobody's memory.
    let start = unsafe {
        mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
    };
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("a mapping at zero"))
}
