//! Buffers that are lent to sources, shared by all connections of a reactor.

use std::cell::RefCell;
use std::rc::Rc;

use waterwheel_os::Gulp;
use waterwheel_reactor::Buffered;

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
    /// What sources hold.
    pub(crate) buffered: Rc<Buffered>,
}

impl Pool {
    /// A chunk, with whatever bytes it held last; a small one where the shard holds as much as it may.
    pub(crate) fn take(&self) -> Box<[u8]> {
        if !self.buffered.has_room_for(CHUNK) {
            return self.take_little();
        }
        self.buffered.take(CHUNK);
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
    }

    #[cold]
    fn take_little(&self) -> Box<[u8]> {
        self.buffered.take(Buffered::FLOOR);
        vec![0; Buffered::FLOOR].into_boxed_slice()
    }

    /// A chunk for all that a pipe may hold.
    pub(crate) fn take_much(&self) -> Box<[u8]> {
        self.buffered.take(Gulp::MAX);
        self.large.take().unwrap_or_else(|| vec![0; Gulp::MAX].into_boxed_slice())
    }

    /// Counts what came with a connection, which is given back as a chunk.
    pub(crate) fn adopt(&self, bytes: &[u8]) {
        self.buffered.take(bytes.len());
    }

    /// Takes a chunk back. What is of another size, such as bytes that came with a connection, is freed.
    pub(crate) fn give_back(&self, chunk: Box<[u8]>) {
        self.buffered.give_back(chunk.len());
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
        pool.adopt(&[0; 3]);
        pool.give_back(vec![0; 3].into_boxed_slice());
        let many: Vec<_> = (0..2 * KEPT_MAX).map(|_| pool.take()).collect();
        many.into_iter().for_each(|chunk| pool.give_back(chunk));
        assert_eq!(pool.buffered.bytes(), CHUNK, "of the one that is in use");
        assert_eq!(pool.free.borrow().len(), KEPT_MAX);
        assert!(pool.free.borrow().iter().all(|chunk| chunk.len() == CHUNK));
    }

    #[test]
    fn a_shard_that_holds_as_much_as_it_may_takes_little() {
        let pool = Pool::default();
        pool.buffered.set_limit(Some(2 * CHUNK));
        let chunks = [pool.take(), pool.take(), pool.take()];
        assert_eq!(chunks.each_ref().map(|chunk| chunk.len()), [CHUNK, CHUNK, Buffered::FLOOR]);
        assert_eq!(pool.buffered.bytes(), 2 * CHUNK + Buffered::FLOOR);
        chunks.into_iter().for_each(|chunk| pool.give_back(chunk));
        assert_eq!(pool.buffered.bytes(), 0);
        assert_eq!(pool.take().len(), CHUNK, "there is room again");
    }
}
