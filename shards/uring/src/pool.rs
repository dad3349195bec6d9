//! Memory for what is to be sent, and for what was received and could not stay where it was.

use std::cell::RefCell;

use crate::buffers::BYTES;

/// Chunks kept for the next use, 1 MiB at the most.
const KEPT_MAX: usize = 64;

/// Chunks of the size of a provided buffer that nobody uses now, the latest used on top, where the cache still has it.
#[derive(Debug)]
pub(crate) struct Pool {
    free: RefCell<Vec<Box<[u8]>>>,
}

/// Chunks that are there from the start: more than one connection takes at once.
const FIRST: usize = 8;

impl Default for Pool {
    fn default() -> Pool {
        let mut free = Vec::with_capacity(KEPT_MAX);
        free.extend((0..FIRST).map(|_| chunk()));
        Pool { free: RefCell::new(free) }
    }
}

fn chunk() -> Box<[u8]> {
    vec![0; BYTES].into_boxed_slice()
}

impl Pool {
    /// A chunk, with whatever bytes it held last.
    pub(crate) fn take(&self) -> Box<[u8]> {
        self.free.borrow_mut().pop().unwrap_or_else(chunk)
    }

    /// Takes a chunk back. What is of another size, such as bytes that came with a connection, is freed.
    pub(crate) fn give_back(&self, chunk: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if chunk.len() == BYTES && free.len() < KEPT_MAX {
            free.push(chunk);
        }
    }

    /// Frees what it keeps.
    pub(crate) fn clear(&self) {
        self.free.take();
    }
}
