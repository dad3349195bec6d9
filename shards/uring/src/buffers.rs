//! The memory that receives take: a ring of buffers that the kernel picks from (`IORING_REGISTER_PBUF_RING`, Linux
//! 5.19), so that an idle connection holds none.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering::Release};

use io_uring::types::BufRingEntry;

use crate::ring::Ring;

/// How many buffers; a power of two. The kernel takes them in turn and so walks through all of them: few, to stay in the
/// cache. With 64 of 16 KiB a proxy of small messages took a tenth less CPU than with 512 of 32 KiB.
pub(crate) const COUNT: usize = 64;
/// Bytes of each, and the most that one receive takes.
pub(crate) const BYTES: usize = 16 << 10;
/// With fewer than this many left for the kernel, those that nobody is busy with are taken back.
const FEW: usize = COUNT / 4;

/// The number under which the kernel knows them.
pub(crate) const GROUP: u16 = 0;

/// Nobody's: the kernel has the buffer.
const NOBODY: u32 = u32::MAX;

/// Memory at the start of a page, zeroed. A page that was never touched takes no memory.
struct Pages {
    at: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    fn new(bytes: usize) -> Pages {
        let layout = Layout::from_size_align(bytes, rustix::param::page_size()).expect("a small size");
        // SAFETY: the size is a constant above zero.
        let at = unsafe { alloc_zeroed(layout) };
        Pages { at: NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, once.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}

/// A buffer that the kernel filled, of one reactor's. Whoever has it must give it back.
#[derive(Debug)]
pub(crate) struct Filled {
    number: u16,
    start: u32,
    end: u32,
}

impl Filled {
    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Leaves the first `count` bytes out.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "more than there is");
        self.start += count as u32;
    }
}

/// The provided buffers of one reactor. Each is either the kernel's, who may write to it, or lent to one connection, by its
/// place in the table.
pub(crate) struct Buffers {
    // Records of 16 bytes; the last two bytes of the first are the tail.
    records: Pages,
    memory: Pages,
    /// Whose each buffer is.
    holders: RefCell<[u32; COUNT]>,
    /// Where the next one given back goes. Published by `publish`.
    tail: Cell<u16>,
    /// How many the kernel has, as far as we know.
    left: Cell<usize>,
}

impl Buffers {
    /// Registers them. They must outlive the ring.
    ///
    /// # Errors
    /// As io_uring_register(2): the kernel does not know such buffers, or knows them wrong.
    pub(crate) fn new(ring: &Ring) -> io::Result<Buffers> {
        let buffers = Buffers {
            records: Pages::new(COUNT * size_of::<BufRingEntry>()),
            memory: Pages::new(COUNT * BYTES),
            holders: RefCell::new([NOBODY; COUNT]),
            tail: Cell::new(0),
            left: Cell::new(0),
        };
        let at = buffers.records.at.as_ptr().addr() as u64;
        ring.register(|ring| {
            // SAFETY: the records are COUNT of them, at the start of a page, and stay until these buffers are dropped,
            // which is after the ring was closed.
            unsafe { ring.submitter().register_buf_ring_with_flags(at, COUNT as u16, GROUP, 0) }
        })?;
        for number in 0..COUNT as u16 {
            buffers.hand_over(number);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Takes what the kernel filled; the first `count` bytes are from the peer.
    ///
    /// # Panics
    /// If the kernel gave it twice, or filled more than there is: somebody would read what is written for another.
    pub(crate) fn take(&self, number: u16, count: usize, holder: u32) -> Filled {
        let was = std::mem::replace(&mut self.holders.borrow_mut()[usize::from(number)], holder);
        assert!(was == NOBODY && count <= BYTES, "buffer {number} was given twice, or too full");
        self.left.set(self.left.get() - 1);
        Filled { number, start: 0, end: count as u32 }
    }

    /// What is left in one.
    pub(crate) fn bytes<'a>(&'a self, filled: &'a Filled) -> &'a [u8] {
        // SAFETY: inside the memory, which lives as long as `self`. As long as there is a `Filled`, of which there is one
        // for each number that was taken, neither the kernel nor anybody here writes to it.
        unsafe {
            let at = self.place(filled.number).add(filled.start as usize);
            std::slice::from_raw_parts(at, (filled.end - filled.start) as usize)
        }
    }

    fn place(&self, number: u16) -> *mut u8 {
        // SAFETY: the number is below COUNT, since the kernel knows no others.
        unsafe { self.memory.at.as_ptr().add(usize::from(number) * BYTES) }
    }

    /// Gives one back, to be seen by the kernel after the next [`publish`](Buffers::publish).
    pub(crate) fn give_back(&self, filled: Filled) {
        self.holders.borrow_mut()[usize::from(filled.number)] = NOBODY;
        self.hand_over(filled.number);
    }

    fn hand_over(&self, number: u16) {
        let tail = self.tail.get();
        let place = usize::from(tail) % COUNT;
        // SAFETY: the place is inside the records, which are aligned to a page. The kernel reads it only once the tail is
        // published, and has read what was there before: there are as many places as buffers.
        let record = unsafe { &mut *self.records.at.as_ptr().cast::<BufRingEntry>().add(place) };
        record.set_addr(self.place(number).addr() as u64);
        record.set_len(BYTES as u32);
        record.set_bid(number);
        self.tail.set(tail.wrapping_add(1));
        self.left.set(self.left.get() + 1);
    }

    /// Shows the kernel what was given back.
    pub(crate) fn publish(&self) {
        // SAFETY: the tail lies in the first record, at an even address, and is only written here; the kernel reads it as
        // the atomic that it is.
        let tail = unsafe {
            let records = self.records.at.as_ptr().cast::<BufRingEntry>();
            AtomicU16::from_ptr(BufRingEntry::tail(records).cast_mut())
        };
        tail.store(self.tail.get(), Release);
    }

    /// Whether the kernel may soon find none.
    pub(crate) fn are_few(&self) -> bool {
        self.left.get() < FEW
    }

    /// Whose they are that the kernel has not, each once or more often.
    pub(crate) fn holders(&self, mut each: impl FnMut(u32)) {
        for number in 0..COUNT {
            let holder = self.holders.borrow()[number];
            if holder != NOBODY {
                each(holder);
            }
        }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers").field("left", &self.left.get()).finish_non_exhaustive()
    }
}
