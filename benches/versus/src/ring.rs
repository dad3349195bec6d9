//! io_uring as a bare loop uses it: one thread, one ring, receives that go on, buffers that the kernel picks.
//!
//! What the bare proxy, the bare echo and the generator share, and the only module with `unsafe` in it. It is thin: a method puts one entry into the submission queue, [`Ring::enter`] is one system call
//! for all of them. Set up for one thread whose completions are made when it asks for them (`SINGLE_ISSUER`,
//! `DEFER_TASKRUN`; Linux 6.1), with multishot accept and receive over a ring of provided buffers (Linux 6.0).

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

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
    /// The provided buffer that was received into. It is the program's until [`Ring::give_back`].
    pub buffer: Option<u16>,
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
        let buffers = Buffers::new(&uring, sizes.buffers, sizes.buffer_bytes)?;
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

    /// Sends part of a buffer that was received into. It stays the program's until the completion at least.
    pub fn send_buffer(&mut self, socket: RawFd, buffer: u16, part: std::ops::Range<usize>, tag: u64) {
        let entry = send(socket, &self.bytes(buffer)[part]);
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

    /// What a buffer holds that the program has.
    ///
    /// # Panics
    /// The kernel has it.
    pub fn bytes(&self, buffer: u16) -> &[u8] {
        self.buffers.bytes(buffer)
    }

    /// Lets the kernel receive into a buffer again, from the next [`enter`](Ring::enter) on.
    ///
    /// # Panics
    /// The kernel has it.
    pub fn give_back(&mut self, buffer: u16) {
        self.buffers.give_back(buffer);
    }

    /// How many buffers the kernel has to receive into.
    pub fn free_buffers(&self) -> usize {
        self.buffers.lent.len() - self.buffers.lent_count
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
            if let Some(buffer) = buffer {
                self.buffers.take(buffer);
            }
            let is_socket = tag == ACCEPTED && result >= 0;
            // SAFETY: the kernel made the socket for this completion, which is fetched once.
            let socket = is_socket.then(|| unsafe { OwnedFd::from_raw_fd(result) });
            completed.push(Completion { tag, result, more: cqueue::more(flags), buffer, socket });
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
            // SAFETY: what an entry points at lives as long as the kernel may read it: `target` and the buffers as long as
            // `self`, which ends the ring first; all else is `'static`. The kernel writes into provided buffers only,
            // and to those only that `Buffers` says it has.
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
        to.debug_struct("Ring").field("buffers", &self.buffers.lent.len()).finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Before the memory goes. What still sends from it may send anything: its sockets are gone with the ring.
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
    /// One entry per buffer; the tail lies in the first one's spare field. Shared with the kernel, which reads only.
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    buffer_bytes: usize,
    /// Where the next one given back is entered; the kernel sees it after `publish`.
    tail: u16,
    /// By buffer: the program has it, and not the kernel.
    lent: Box<[bool]>,
    lent_count: usize,
}

impl Buffers {
    fn new(uring: &IoUring, count: u16, buffer_bytes: u32) -> io::Result<Buffers> {
        assert!(count.is_power_of_two(), "the kernel masks the tail");
        let buffer_bytes = buffer_bytes as usize;
        let entries = map(usize::from(count) * size_of::<BufRingEntry>())?;
        let mut buffers = Buffers {
            entries: entries.cast(),
            bytes: map(usize::from(count) * buffer_bytes)?,
            buffer_bytes,
            tail: 0,
            lent: vec![true; count.into()].into(),
            lent_count: count.into(),
        };
        // SAFETY: the entries are page-aligned, zeroed memory of the right length, and stay until `Drop` of `Ring` has
        // unregistered them.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, 0)?;
        }
        (0..count).for_each(|buffer| buffers.give_back(buffer));
        buffers.publish();
        Ok(buffers)
    }

    fn bytes(&self, buffer: u16) -> &[u8] {
        assert!(self.lent[usize::from(buffer)], "the kernel has buffer {buffer}");
        // SAFETY: inside the mapping, initialised since it came zeroed, and nobody writes to it while it is lent.
        unsafe {
            let start = self.bytes.add(usize::from(buffer) * self.buffer_bytes);
            std::slice::from_raw_parts(start.as_ptr(), self.buffer_bytes)
        }
    }

    fn take(&mut self, buffer: u16) {
        let lent = &mut self.lent[usize::from(buffer)];
        assert!(!*lent, "the kernel gave buffer {buffer} twice");
        *lent = true;
        self.lent_count += 1;
    }

    fn give_back(&mut self, buffer: u16) {
        let lent = &mut self.lent[usize::from(buffer)];
        assert!(*lent, "the kernel has buffer {buffer}");
        *lent = false;
        self.lent_count -= 1;
        let place = usize::from(self.tail) % self.lent.len();
        // SAFETY: `place` is inside the ring, and the kernel reads no entry at or behind the tail that it knows. Set
        // field by field, since the first entry's spare field is the tail.
        unsafe {
            let entry = self.entries.add(place).as_mut();
            entry.set_addr(self.bytes.add(usize::from(buffer) * self.buffer_bytes).as_ptr() as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all that was given back.
    fn publish(&self) {
        // SAFETY: the tail is an aligned `u16` inside the mapping, which lives as long as `self`; both sides use it
        // atomically.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both were mapped with these lengths and nothing borrows from them any more; the ring that named them
        // has been closed, or never got them.
        unsafe {
            let _unmapped = munmap(self.entries.as_ptr().cast(), self.lent.len() * size_of::<BufRingEntry>());
            let _unmapped = munmap(self.bytes.as_ptr().cast(), self.lent.len() * self.buffer_bytes);
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
