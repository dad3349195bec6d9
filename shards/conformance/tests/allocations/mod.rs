//! Counts what each thread allocates, for the laws about allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use waterwheel_conformance::kit::set_allocation_counter;

/// Tells the suite how to ask for the count. Called before the suite runs.
pub(crate) fn count() {
    set_allocation_counter(|| ALLOCATIONS.get());
}

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    // Without a destructor and without a first use, so that the allocator may touch it at any time.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks of it.
#[derive(Debug)]
struct Counting;

impl Counting {
    fn count() {
        // A thread that is almost gone has no counter any more, and nobody to read it.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the promises of `GlobalAlloc`;
// counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        // SAFETY: the caller's promises about `layout` are the ones that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count();
        // SAFETY: the block came from the system's allocator with this layout, since every call goes there.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
