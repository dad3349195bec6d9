//! Memory for what is to be sent, and for what was received and could not stay where it was.

use std::cell::RefCell;
use std::rc::Rc;

use waterwheel_reactor::Buffered;

use crate::buffers::BYTES;

/// Bytes that are received at once where much comes. A proxy of 1 MiB messages took 0.5 of HAProxy's CPU with this, and 1.0
/// with 16 KiB.
pub(crate) const MUCH: usize = 64 << 10;

/// Chunks of either size kept for the next use: 1 MiB and 2 MiB at the most.
const KEPT_MAX: [usize; 2] = [64, 32];

/// Small chunks that are there from the start: more than one connection takes at once.
const FIRST: usize = 8;

/// Chunks that nobody uses now, the latest used on top, where the cache still has it. Small ones are as large as a provided
/// buffer.
#[derive(Debug)]
pub(crate) struct Pool {
    free: [RefCell<Vec<Box<[u8]>>>; 2],
    /// What connections hold, in buffers of the kernel's too.
    pub(crate) buffered: Rc<Buffered>,
}

const SIZES: [usize; 2] = [BYTES, MUCH];

const _: () = assert!(BYTES <= Buffered::FLOOR, "a small chunk is what each may hold");

impl Default for Pool {
    fn default() -> Pool {
        let free = KEPT_MAX.map(|most| RefCell::new(Vec::with_capacity(most)));
        let pool = Pool { free, buffered: Rc::default() };
        pool.free[0].borrow_mut().extend((0..FIRST).map(|_| chunk(BYTES)));
        pool
    }
}

fn chunk(bytes: usize) -> Box<[u8]> {
    vec![0; bytes].into_boxed_slice()
}

impl Pool {
    /// A small chunk, with whatever bytes it held last.
    pub(crate) fn take(&self) -> Box<[u8]> {
        self.buffered.take(BYTES);
        self.free[0].borrow_mut().pop().unwrap_or_else(|| chunk(BYTES))
    }

    /// A large one; a small one where the shard holds as much as it may.
    pub(crate) fn take_much(&self) -> Box<[u8]> {
        if !self.buffered.has_room_for(MUCH) {
            return self.take();
        }
        self.buffered.take(MUCH);
        self.free[1].borrow_mut().pop().unwrap_or_else(|| chunk(MUCH))
    }

    /// Counts what came with a connection, which is given back as a chunk.
    pub(crate) fn adopt(&self, bytes: &[u8]) {
        self.buffered.take(bytes.len());
    }

    /// Takes a chunk back. What is of another size, such as bytes that came with a connection, is freed.
    pub(crate) fn give_back(&self, chunk: Box<[u8]>) {
        self.buffered.give_back(chunk.len());
        for (kind, size) in SIZES.into_iter().enumerate() {
            let mut free = self.free[kind].borrow_mut();
            if chunk.len() == size && free.len() < KEPT_MAX[kind] {
                return free.push(chunk);
            }
        }
    }

    /// Frees what it keeps.
    pub(crate) fn clear(&self) {
        self.free.iter().for_each(|free| drop(free.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_reused_and_the_pool_is_bounded() {
        let pool = Pool::default();
        let (small, large) = (pool.take(), pool.take_much());
        let at = [small.as_ptr(), large.as_ptr()];
        pool.give_back(large);
        pool.give_back(small);
        pool.adopt(&[0; 3]);
        pool.give_back(vec![0; 3].into_boxed_slice());
        assert_eq!(pool.buffered.bytes(), 0);
        let again = [pool.take(), pool.take_much()];
        assert_eq!(again.each_ref().map(|chunk| chunk.as_ptr()), at, "the latest used comes first");
        let many: Vec<_> = (0..2 * KEPT_MAX[0]).flat_map(|_| [pool.take(), pool.take_much()]).collect();
        many.into_iter().for_each(|chunk| pool.give_back(chunk));
        assert_eq!(pool.buffered.bytes(), BYTES + MUCH, "of the two that are in use");
        for (kind, size) in SIZES.into_iter().enumerate() {
            let free = pool.free[kind].borrow();
            assert_eq!(free.len(), KEPT_MAX[kind]);
            assert!(free.iter().all(|chunk| chunk.len() == size));
        }
    }

    #[test]
    fn a_shard_that_holds_as_much_as_it_may_takes_little() {
        let pool = Pool::default();
        pool.buffered.set_limit(Some(MUCH));
        let chunks = [pool.take_much(), pool.take_much(), pool.take()];
        assert_eq!(chunks.each_ref().map(|chunk| chunk.len()), [MUCH, BYTES, BYTES]);
        assert_eq!(pool.buffered.bytes(), MUCH + 2 * BYTES);
        chunks.into_iter().for_each(|chunk| pool.give_back(chunk));
        assert_eq!((pool.buffered.bytes(), pool.take_much().len()), (0, MUCH));
    }
}
