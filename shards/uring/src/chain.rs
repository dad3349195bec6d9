//! Queues of chunks, all in one slab, so that a connection that has nothing to say holds nothing for it.

use std::cell::{Cell, RefCell};

use crate::buffers::BYTES;
use crate::chunk::{Chunk, Own};
use crate::core::Core;

/// Places that there are from the start, 10 KiB. There are as many chunks at once only while many connections wait for
/// somebody.
const PLACES: usize = 256;

const NONE: u32 = u32::MAX;

/// The chunks of all queues of one reactor. Grows to the most that were ever there at once.
#[derive(Debug)]
pub(crate) struct Links {
    links: RefCell<Vec<Link>>,
    free: Cell<u32>,
}

#[derive(Debug)]
struct Link {
    chunk: Option<Chunk>,
    next: u32,
}

impl Default for Links {
    fn default() -> Links {
        Links { links: RefCell::new(Vec::with_capacity(PLACES)), free: Cell::new(NONE) }
    }
}

/// A queue of chunks.
#[derive(Debug)]
pub(crate) struct Chain {
    first: Cell<u32>,
    last: Cell<u32>,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain { first: Cell::new(NONE), last: Cell::new(NONE) }
    }
}

impl Chain {
    /// Puts a chunk behind the others.
    ///
    /// # Panics
    /// With 4 billion chunks at once; memory ends before.
    pub(crate) fn push(&self, all: &Links, chunk: Chunk) {
        let mut links = all.links.borrow_mut();
        let link = Link { chunk: Some(chunk), next: NONE };
        let place = match all.free.get() {
            NONE => {
                links.push(link);
                u32::try_from(links.len() - 1).expect("memory ends before")
            }
            place => {
                let free = std::mem::replace(&mut links[place as usize], link);
                all.free.set(free.next);
                place
            }
        };
        match self.last.replace(place) {
            NONE => self.first.set(place),
            last => links[last as usize].next = place,
        }
    }

    /// Puts a chunk behind the others. If more than one waits there, a small one is packed into memory of ours with those next
    /// to it: so a queue takes little more than twice the bytes that are in it, and is short, in however many pieces they
    /// came.
    pub(crate) fn pack(&self, core: &Core, chunk: Chunk) {
        if !self.has_several() || chunk.len() > BYTES / 2 {
            return self.push(&core.links, chunk);
        }
        let taken = self.with_last(&core.links, |last| match last {
            Chunk::Own(last) => last.append_whole(chunk.bytes(core)),
            Chunk::Filled(_) => false,
        });
        if taken != Some(true) {
            let mut own = Own::empty(core);
            own.append(chunk.bytes(core));
            self.push(&core.links, Chunk::Own(own));
        }
        chunk.release(core);
    }

    /// Takes the first chunk out.
    pub(crate) fn pop(&self, all: &Links) -> Option<Chunk> {
        let place = self.first.get();
        let mut links = all.links.borrow_mut();
        let link = links.get_mut(place as usize)?;
        self.first.set(link.next);
        if link.next == NONE {
            self.last.set(NONE);
        }
        link.next = all.free.replace(place);
        link.chunk.take()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.get() == NONE
    }

    /// Whether there is more than one chunk.
    pub(crate) fn has_several(&self) -> bool {
        self.first.get() != self.last.get()
    }

    /// Does something with the first chunk. It must not touch a queue.
    pub(crate) fn with_first<T>(&self, all: &Links, with: impl FnOnce(&mut Chunk) -> T) -> Option<T> {
        all.links.borrow_mut().get_mut(self.first.get() as usize)?.chunk.as_mut().map(with)
    }

    /// Does something with the last chunk. It must not touch a queue.
    pub(crate) fn with_last<T>(&self, all: &Links, with: impl FnOnce(&mut Chunk) -> T) -> Option<T> {
        all.links.borrow_mut().get_mut(self.last.get() as usize)?.chunk.as_mut().map(with)
    }

    /// Does something with each chunk. It must not touch a queue.
    pub(crate) fn each(&self, all: &Links, mut with: impl FnMut(&mut Chunk)) {
        let mut links = all.links.borrow_mut();
        let mut place = self.first.get();
        while let Some(link) = links.get_mut(place as usize) {
            link.chunk.iter_mut().for_each(&mut with);
            place = link.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Own;
    use std::collections::VecDeque;

    fn chunk(number: usize) -> Chunk {
        Chunk::Own(Own::all(vec![0; number].into_boxed_slice()))
    }

    #[test]
    fn queues_in_one_slab_do_not_mix() {
        let all = Links::default();
        let chains: [Chain; 3] = Default::default();
        let mut oracles: [VecDeque<usize>; 3] = Default::default();
        let mut random = 7u32;
        for number in 1..2000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let which = (random >> 16) as usize % 3;
            if random >> 31 == 0 {
                chains[which].push(&all, chunk(number));
                oracles[which].push_back(number);
            } else {
                assert_eq!(chains[which].pop(&all).map(|chunk| chunk.len()), oracles[which].pop_front());
            }
            let mut there = Vec::new();
            chains[which].each(&all, |chunk| there.push(chunk.len()));
            assert_eq!(there, oracles[which].iter().copied().collect::<Vec<_>>());
            assert_eq!(chains[which].has_several(), oracles[which].len() > 1);
            assert_eq!(chains[which].with_first(&all, |chunk| chunk.len()), oracles[which].front().copied());
            assert_eq!(chains[which].with_last(&all, |chunk| chunk.len()), oracles[which].back().copied());
        }
        let most = all.links.borrow().len();
        assert!(most < 200, "{most} places were not used again");
    }
}
