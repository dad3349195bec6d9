//! Memory for what is to be sent, and for what was received and could not stay where it was.

use std::rc::Rc;

use waterwheel_reactor::{Buffered, Chunks};

use crate::buffers::BYTES;

/// Bytes that are received at once where much comes. A proxy of 1 MiB messages took 0.5 of HAProxy's CPU with this, and 1.0
/// with 16 KiB.
pub(crate) const MUCH: usize = 64 << 10;

/// Small chunks that are there from the start: more than one connection takes at once.
const FIRST: usize = 8;

/// Chunks that nobody uses now. Small ones are as large as a provided buffer.
#[derive(Debug)]
pub(crate) struct Pool {
    /// 1 MiB at the most.
    small: Chunks<BYTES, 64>,
    /// 2 MiB at the most.
    large: Chunks<MUCH, 32>,
    /// What connections hold, in buffers of the kernel's too.
    pub(crate) buffered: Rc<Buffered>,
}

const _: () = assert!(BYTES <= Buffered::FLOOR, "a small chunk is what each may hold");

impl Default for Pool {
    fn default() -> Pool {
        Pool { small: Chunks::with_made(FIRST), large: Chunks::with_made(0), buffered: Rc::default() }
    }
}

impl Pool {
    /// A small chunk, with whatever bytes it held last.
    pub(crate) fn take(&self) -> Box<[u8]> {
        self.small.take(&self.buffered)
    }

    /// A large one; a small one where the shard holds as much as it may.
    pub(crate) fn take_much(&self) -> Box<[u8]> {
        if !self.buffered.has_room_for(MUCH) {
            return self.take();
        }
        self.large.take(&self.buffered)
    }

    /// Counts what came with a connection, which is given back as a chunk.
    pub(crate) fn adopt(&self, bytes: &[u8]) {
        self.buffered.take(bytes.len());
    }

    /// Takes a chunk back. What is of another size, such as bytes that came with a connection, is freed.
    pub(crate) fn give_back(&self, chunk: Box<[u8]>) {
        match chunk.len() {
            MUCH => self.large.give_back(&self.buffered, chunk),
            _ => self.small.give_back(&self.buffered, chunk),
        }
    }

    /// Frees what it keeps.
    pub(crate) fn clear(&self) {
        self.small.clear();
        self.large.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_used_again_as_what_it_is() {
        let pool = Pool::default();
        let (small, large) = (pool.take(), pool.take_much());
        let at = [small.as_ptr(), large.as_ptr()];
        pool.adopt(&[0; 3]);
        assert_eq!(pool.buffered.bytes(), BYTES + MUCH + 3);
        for used in [large, small, vec![0; 3].into_boxed_slice()] {
            pool.give_back(used);
        }
        assert_eq!(pool.buffered.bytes(), 0);
        assert_eq!([pool.take(), pool.take_much()].each_ref().map(|chunk| chunk.as_ptr()), at);
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
