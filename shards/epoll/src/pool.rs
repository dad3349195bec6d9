//! Buffers that are lent to sources, shared by all connections of a reactor.

use std::cell::RefCell;

use waterwheel_os::Gulp;

/// Bytes received at once. A proxy of 60 kB messages took 30 µs of CPU for each with this, 50 with half and 86 with a
/// quarter of it; small messages touch only the front of a chunk and do not care.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Chunks kept for the next receive, 4 MiB at the most. More are in use only while many sources hold bytes that nobody
/// consumes.
const KEPT_MAX: usize = 64;

/// Chunks that nobody uses now, the latest used on top, where the cache still has it.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: RefCell<Vec<Box<[u8]>>>,
    /// One for what comes back out of a pipe.
    large: RefCell<Option<Box<[u8]>>>,
}

impl Pool {
    /// A chunk, with whatever bytes it held last.
    pub(crate) fn take(&self) -> Box<[u8]> {
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
    }

    /// A chunk for all that a pipe may hold.
    pub(crate) fn take_much(&self) -> Box<[u8]> {
        self.large.take().unwrap_or_else(|| vec![0; Gulp::MAX].into_boxed_slice())
    }

    /// Takes a chunk back. What is of another size, such as bytes that came with a connection, is freed.
    pub(crate) fn give_back(&self, chunk: Box<[u8]>) {
        if chunk.len() == Gulp::MAX {
            self.large.replace(Some(chunk));
            return;
        }
        let mut free = self.free.borrow_mut();
        if chunk.len() == CHUNK && free.len() < KEPT_MAX {
            free.push(chunk);
        }
    }

    /// How many chunks nobody uses.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.free.borrow().len()
    }

    /// Frees what it keeps.
    pub(crate) fn clear(&self) {
        self.free.take();
        self.large.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_reused_and_the_pool_is_bounded() {
        let pool = Pool::default();
        let chunk = pool.take();
        let at = chunk.as_ptr();
        pool.give_back(chunk);
        let again = pool.take();
        assert_eq!(again.as_ptr(), at, "the latest used comes first");
        pool.give_back(vec![0; 3].into_boxed_slice());
        for _ in 0..2 * KEPT_MAX {
            pool.give_back(vec![0; CHUNK].into_boxed_slice());
        }
        assert_eq!(pool.free.borrow().len(), KEPT_MAX);
        assert!(pool.free.borrow().iter().all(|chunk| chunk.len() == CHUNK));
    }
}
