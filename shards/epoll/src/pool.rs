//! Buffers that are lent to sources, shared by all connections of a reactor.

use std::cell::RefCell;
use std::rc::Rc;

use waterwheel_os::Gulp;
use waterwheel_reactor::{Buffered, Chunks};

/// Bytes received at once. A proxy of 60 kB messages took 30 µs of CPU for each with this, 50 with half and 86 with a
/// quarter of it; small messages touch only the front of a chunk and do not care.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Chunks kept for the next receive, 4 MiB at the most. More are in use only while many sources hold bytes that nobody
/// consumes.
const KEPT_MAX: usize = 64;

/// Chunks that nobody uses now.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    chunks: Chunks<CHUNK, KEPT_MAX>,
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
        self.chunks.take(&self.buffered)
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
        if chunk.len() == Gulp::MAX {
            self.buffered.give_back(chunk.len());
            self.large.replace(Some(chunk));
            return;
        }
        self.chunks.give_back(&self.buffered, chunk);
    }

    /// How many chunks nobody uses.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.chunks.kept()
    }

    /// Frees what it keeps.
    pub(crate) fn clear(&self) {
        self.chunks.clear();
        self.large.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_used_again_as_what_it_is() {
        let pool = Pool::default();
        let (chunk, large) = (pool.take(), pool.take_much());
        let at = [chunk.as_ptr(), large.as_ptr()];
        pool.adopt(&[0; 3]);
        assert_eq!(pool.buffered.bytes(), CHUNK + Gulp::MAX + 3);
        for used in [chunk, large, vec![0; 3].into_boxed_slice()] {
            pool.give_back(used);
        }
        assert_eq!(pool.buffered.bytes(), 0);
        assert_eq!([pool.take(), pool.take_much()].each_ref().map(|chunk| chunk.as_ptr()), at);
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
