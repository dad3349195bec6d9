//! The memory that receives take: a ring of buffers that the kernel picks from (`IORING_REGISTER_PBUF_RING`, Linux
//! 5.19), so that an idle connection holds none.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering::Release};

use io_uring::types::BufRingEntry;

use crate::ring::Ring;

/// How many there may be; a power of two. 16 MiB of address space, of which a page takes memory once it is used.
pub(crate) const MOST: usize = 1024;
/// Bytes of the list of them, which is memory that the kernel locks.
pub(crate) const RECORD_BYTES: usize = MOST * size_of::<BufRingEntry>();
/// How many the kernel is given at first.
const FIRST: usize = 64;
/// And at least. The kernel takes them in turn and so walks through all that it has: with few it stays in the cache.
const LEAST: usize = 16;
/// Calls after which it is seen how many were needed at once.
const CALLS: u32 = 256;
/// Bytes of each, and the most that one receive takes.
pub(crate) const BYTES: usize = 16 << 10;
/// With fewer than this many left for the kernel, and none in store, those that nobody is busy with are taken back.
const FEW: usize = LEAST;

/// The number under which the kernel knows them.
pub(crate) const GROUP: u16 = 0;

/// Nobody's: the kernel has the buffer.
const NOBODY: u32 = u32::MAX;

/// Zeroed memory of the kernel's, at the start of a page. A page that was never touched takes none.
struct Pages {
    at: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    fn new(bytes: usize) -> io::Result<Pages> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: asks for new memory at whatever address, which touches none that there is.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { at, bytes })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, once, and nobody borrows of it longer than `self` lives.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
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

/// The provided buffers of one reactor. Each is the kernel's, who may write to it, in store, or lent to one connection, by its
/// place in the table.
///
/// The kernel has as many as it lately needed between two calls, twice over: more would be cold when their turn comes, and
/// fewer would stop receives. What it has not is in store, the latest used on top.
pub(crate) struct Buffers {
    // Records of 16 bytes; the last two bytes of the first are the tail.
    records: Pages,
    memory: Pages,
    /// Whose each buffer is.
    holders: RefCell<Box<[u32; MOST]>>,
    store: RefCell<Vec<u16>>,
    /// Where the next one handed over goes.
    tail: Cell<u16>,
    /// How many the kernel has, as far as we know.
    left: Cell<usize>,
    /// How many it is to have.
    wanted: Cell<usize>,
    /// It is to have more than at the call before, which is enough for one call.
    grown: Cell<bool>,
    /// The most that it took between two of the calls counted so far.
    peak: Cell<usize>,
    calls: Cell<u32>,
}

impl Buffers {
    /// Registers them. They must outlive the ring.
    ///
    /// # Errors
    /// As io_uring_register(2): the kernel does not know such buffers, or knows them wrong.
    pub(crate) fn new(ring: &Ring) -> io::Result<Buffers> {
        let buffers = Buffers {
            records: Pages::new(RECORD_BYTES)?,
            memory: Pages::new(MOST * BYTES)?,
            holders: RefCell::new(Box::new([NOBODY; MOST])),
            store: RefCell::new((0..MOST as u16).rev().collect()),
            tail: Cell::new(0),
            left: Cell::new(0),
            wanted: Cell::new(FIRST),
            grown: Cell::new(false),
            peak: Cell::new(0),
            calls: Cell::new(0),
        };
        let at = buffers.records.at.as_ptr().addr() as u64;
        ring.register(|ring| {
            // SAFETY: the records are MOST of them, at the start of a page, and stay until these buffers are dropped,
            // which is after the ring was closed.
            unsafe { ring.submitter().register_buf_ring_with_flags(at, MOST as u16, GROUP, 0) }
        })?;
        buffers.publish(MOST);
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

    /// Notes that one belongs to another connection now.
    pub(crate) fn pass_on(&self, filled: &Filled, holder: u32) {
        self.holders.borrow_mut()[usize::from(filled.number)] = holder;
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
        // SAFETY: the number is below MOST, since the kernel knows no others.
        unsafe { self.memory.at.as_ptr().add(usize::from(number) * BYTES) }
    }

    /// Gives one back, for the kernel to have after the next [`publish`](Buffers::publish).
    pub(crate) fn give_back(&self, filled: Filled) {
        self.holders.borrow_mut()[usize::from(filled.number)] = NOBODY;
        self.store.borrow_mut().push(filled.number);
    }

    /// The kernel wanted one and had none.
    pub(crate) fn ran_out(&self) {
        if self.grown.replace(true) {
            // A call tells of many at once, and more than one cannot be known to be needed.
            return;
        }
        self.wanted.set((self.wanted.get() * 2).min(MOST));
        self.peak.set(self.wanted.get() / 2);
        self.calls.set(0);
    }

    fn hand_over(&self, number: u16) {
        let tail = self.tail.get();
        let place = usize::from(tail) % MOST;
        // SAFETY: the place is inside the records, which are aligned to a page. The kernel reads it only once the tail is
        // published, and has read what was there before: there are as many places as buffers.
        let record = unsafe { &mut *self.records.at.as_ptr().cast::<BufRingEntry>().add(place) };
        record.set_addr(self.place(number).addr() as u64);
        record.set_len(BYTES as u32);
        record.set_bid(number);
        self.tail.set(tail.wrapping_add(1));
        self.left.set(self.left.get() + 1);
    }

    /// Before each call: gives the kernel as many as it is to have, but no more than `most`. What it has it keeps.
    pub(crate) fn publish(&self, most: usize) {
        self.grown.set(false);
        let wanted = self.wanted.get().min(most);
        let taken = wanted.saturating_sub(self.left.get());
        self.peak.set(self.peak.get().max(taken));
        self.calls.set(self.calls.get() + 1);
        if self.calls.get() == CALLS {
            self.wanted.set((self.peak.get() * 2).next_power_of_two().clamp(LEAST, MOST));
            self.peak.set(0);
            self.calls.set(0);
        }
        let wanted = self.wanted.get().min(most);
        if self.left.get() >= wanted {
            return;
        }
        let mut store = self.store.borrow_mut();
        while self.left.get() < wanted
            && let Some(number) = store.pop()
        {
            self.hand_over(number);
        }
        // SAFETY: the tail lies in the first record, at an even address, and is only written here; the kernel reads it as
        // the atomic that it is.
        let tail = unsafe {
            let records = self.records.at.as_ptr().cast::<BufRingEntry>();
            AtomicU16::from_ptr(BufRingEntry::tail(records).cast_mut())
        };
        tail.store(self.tail.get(), Release);
    }

    /// How many the kernel has, as far as we know.
    pub(crate) fn left(&self) -> usize {
        self.left.get()
    }

    /// Whether the kernel may soon find none.
    pub(crate) fn are_few(&self) -> bool {
        self.left.get() + self.store.borrow().len() < FEW
    }

    /// Whose they are that the kernel has not, each once or more often.
    pub(crate) fn holders(&self, mut each: impl FnMut(u32)) {
        for number in 0..MOST {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Features;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::Ordering::Acquire;

    /// Picks buffers as the kernel does, which has none to fill here.
    struct Kernel {
        head: u16,
    }

    impl Kernel {
        fn records(buffers: &Buffers) -> *mut BufRingEntry {
            buffers.records.at.as_ptr().cast()
        }

        /// How many it may pick.
        fn left(&self, buffers: &Buffers) -> usize {
            // SAFETY: the records live as long as the buffers, and their tail is only ever used as an atomic.
            let tail =
                unsafe { AtomicU16::from_ptr(BufRingEntry::tail(Kernel::records(buffers)).cast_mut()) };
            usize::from(tail.load(Acquire).wrapping_sub(self.head))
        }

        /// Fills the next one with a byte.
        fn fill(&mut self, buffers: &Buffers, byte: u8) -> Option<u16> {
            if self.left(buffers) == 0 {
                return None;
            }
            // SAFETY: below MOST, so inside the records.
            let record = unsafe { &*Kernel::records(buffers).add(usize::from(self.head) % MOST) };
            self.head = self.head.wrapping_add(1);
            let at = buffers.place(record.bid());
            assert_eq!((record.addr(), record.len()), (at.addr() as u64, BYTES as u32));
            // SAFETY: the buffer is the kernel's, which is played here; `take` panics if it were not.
            unsafe { at.write_bytes(byte, BYTES) };
            Some(record.bid())
        }
    }

    /// Runs a case with buffers of a ring, where there is io_uring.
    fn with_buffers(case: impl FnOnce(&Buffers, Kernel)) {
        let Ok((ring, _)) = Ring::new(Features::NONE, 0) else { return };
        let buffers = Buffers::new(&ring).expect("a kernel with provided buffers");
        case(&buffers, Kernel { head: 0 });
        // Before its buffers are freed.
        ring.close();
    }

    #[test]
    fn no_buffer_is_handed_over_while_it_is_lent_and_none_is_lost() {
        with_buffers(|buffers, mut kernel| {
            let mut lent: Vec<(Filled, u8)> = Vec::new();
            let (mut random, mut picked) = (7_u32, 0_u32);
            // The tail has 16 bits.
            while picked < 3 << 16 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Now nearly all of them are lent, now hardly any.
                let many = picked / 20_000 % 2 == 0;
                if (random >> 28 < 9) == many || lent.is_empty() {
                    match kernel.fill(buffers, picked as u8) {
                        Some(number) => {
                            lent.push((
                                buffers.take(number, 1 + picked as usize % BYTES, picked),
                                picked as u8,
                            ));
                            picked += 1;
                        }
                        None if lent.len() < MOST => buffers.ran_out(),
                        None => {}
                    }
                } else {
                    let (filled, byte) = lent.swap_remove((random >> 8) as usize % lent.len());
                    assert!([0, filled.len() - 1].iter().all(|at| buffers.bytes(&filled)[*at] == byte));
                    buffers.give_back(filled);
                }
                if random >> 16 & 3 == 0 || kernel.left(buffers) == 0 {
                    buffers.publish(MOST);
                    let there = kernel.left(buffers) + lent.len() + buffers.store.borrow().len();
                    assert_eq!(there, MOST, "a buffer is lost or there twice");
                }
            }
            let mut holders = Vec::new();
            buffers.holders(|holder| holders.push(holder));
            assert_eq!(holders.len(), lent.len());
        });
    }

    #[test]
    fn the_kernel_has_more_after_it_had_none_and_fewer_when_it_needs_few() {
        with_buffers(|buffers, mut kernel| {
            let mut most = FIRST;
            assert_eq!(kernel.left(buffers), most);
            while most < MOST {
                // However many receives were stopped.
                (0..3).for_each(|_| buffers.ran_out());
                buffers.publish(MOST);
                most *= 2;
                assert_eq!(kernel.left(buffers), most);
            }
            buffers.ran_out();
            buffers.publish(MOST);
            assert_eq!(kernel.left(buffers), MOST, "there are no more");
            // What it has it keeps until it has used it: round once, and then some calls.
            for call in 0..2 * MOST as u32 + 2 * CALLS {
                let number = kernel.fill(buffers, 0).expect("one is enough");
                buffers.give_back(buffers.take(number, 1, call));
                buffers.publish(MOST);
            }
            assert_eq!(kernel.left(buffers), LEAST);
            // And what it needs at once, twice over.
            for _ in 0..3 * CALLS {
                let taken: Vec<u16> = (0..20).map_while(|_| kernel.fill(buffers, 0)).collect();
                if taken.len() < 20 {
                    buffers.ran_out();
                }
                taken.into_iter().for_each(|number| buffers.give_back(buffers.take(number, 1, 0)));
                buffers.publish(MOST);
            }
            assert_eq!(kernel.left(buffers), 64);
        });
    }

    #[test]
    fn a_buffer_that_the_kernel_gives_twice_is_seen() {
        with_buffers(|buffers, mut kernel| {
            let number = kernel.fill(buffers, 0).expect("the kernel has some");
            let _first = buffers.take(number, 1, 1);
            let again = catch_unwind(AssertUnwindSafe(|| buffers.take(number, 1, 2)));
            assert!(again.is_err(), "two read what is written for one");
            let other = kernel.fill(buffers, 0).expect("the kernel has more");
            let too_much = catch_unwind(AssertUnwindSafe(|| buffers.take(other, BYTES + 1, 2)));
            assert!(too_much.is_err(), "more is read than there is");
        });
    }
}
