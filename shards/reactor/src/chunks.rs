//! Memory that one connection after the other receives into, or sends from.

use std::cell::RefCell;

use crate::Buffered;

/// Chunks of `BYTES` bytes that nobody uses now, `KEPT_MAX` of them at the most. Those in use are counted as
/// [held](Buffered), and there may be any number of them.
#[derive(Debug, Default)]
pub struct Chunks<const BYTES: usize, const KEPT_MAX: usize> {
    // The latest used on top, where the cache still has it.
    free: RefCell<Vec<Box<[u8]>>>,
}

impl<const BYTES: usize, const KEPT_MAX: usize> Chunks<BYTES, KEPT_MAX> {
    /// With so many made, and room for all that may be kept, so that a reactor that is at work seldom allocates.
    ///
    /// # Panics
    /// If that is more than may be kept.
    #[must_use]
    pub fn with_made(count: usize) -> Chunks<BYTES, KEPT_MAX> {
        assert!(count <= KEPT_MAX, "{count} chunks made, of which {KEPT_MAX} may be kept");
        let mut free = Vec::with_capacity(KEPT_MAX);
        free.extend((0..count).map(|_| Self::make()));
        Chunks { free: RefCell::new(free) }
    }

    fn make() -> Box<[u8]> {
        vec![0; BYTES].into_boxed_slice()
    }

    /// A chunk, with whatever bytes it held last.
    pub fn take(&self, buffered: &Buffered) -> Box<[u8]> {
        buffered.take(BYTES);
        self.free.borrow_mut().pop().unwrap_or_else(Self::make)
    }

    /// Takes a chunk back that was counted as held. What is of another size, such as bytes that came with a connection, is
    /// freed, and so is one chunk too many. May wake who waits for room, so borrow nothing meanwhile.
    pub fn give_back(&self, buffered: &Buffered, chunk: Box<[u8]>) {
        buffered.give_back(chunk.len());
        let mut free = self.free.borrow_mut();
        if chunk.len() == BYTES && free.len() < KEPT_MAX {
            free.push(chunk);
        }
    }

    /// How many are kept.
    pub fn kept(&self) -> usize {
        self.free.borrow().len()
    }

    /// Frees what is kept.
    pub fn clear(&self) {
        self.free.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again_and_what_is_kept_is_bounded() {
        let (chunks, buffered) = (Chunks::<8, 4>::with_made(1), Buffered::default());
        let chunk = chunks.take(&buffered);
        assert_eq!((chunk.len(), chunks.kept(), buffered.bytes()), (8, 0, 8));
        let at = chunk.as_ptr();
        let other = chunks.take(&buffered);
        chunks.give_back(&buffered, other);
        chunks.give_back(&buffered, chunk);
        let again = chunks.take(&buffered);
        assert_eq!(again.as_ptr(), at, "the latest used comes first");
        buffered.take(3);
        chunks.give_back(&buffered, vec![0; 3].into_boxed_slice());
        let many: Vec<_> = (0..8).map(|_| chunks.take(&buffered)).collect();
        many.into_iter().for_each(|chunk| chunks.give_back(&buffered, chunk));
        assert_eq!(buffered.bytes(), 8, "of the one that is in use");
        assert_eq!(chunks.kept(), 4);
        assert!(chunks.free.borrow().iter().all(|chunk| chunk.len() == 8));
        chunks.clear();
        assert_eq!(chunks.kept(), 0);
    }
}
