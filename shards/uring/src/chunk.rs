//! Some bytes of a connection, wherever they lie.

use std::mem;

use crate::buffers::{BYTES, Filled};
use crate::core::Core;

/// Bytes on their way through, in order, to be [released](Chunk::release) by whoever has them last.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// Where the kernel put them.
    Filled(Filled),
    /// In memory of the pool's, or what came with a connection.
    Own(Own),
}

/// Bytes in memory of ours.
#[derive(Debug)]
pub(crate) struct Own {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Own {
    /// All of some memory.
    pub(crate) fn all(memory: Box<[u8]>) -> Own {
        let end = memory.len();
        Own { memory, start: 0, end }
    }

    /// A chunk of the pool, of which nothing is in use.
    pub(crate) fn empty(core: &Core) -> Own {
        Own { memory: core.pool.take(), start: 0, end: 0 }
    }

    /// A large chunk of the pool, of which nothing is in use.
    pub(crate) fn empty_and_large(core: &Core) -> Own {
        Own { memory: core.pool.take_much(), start: 0, end: 0 }
    }

    /// As much of `bytes` as there is room for behind what is in use; answers how much.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.memory[self.end..];
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// All of `bytes`, if there is room for them behind what is in use.
    pub(crate) fn append_whole(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.memory.len() - self.end;
        if fits {
            self.append(bytes);
        }
        fits
    }

    /// Fills it with what `receive` puts there, and answers what it answered.
    pub(crate) fn fill<E>(
        &mut self,
        receive: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let count = receive(&mut self.memory[self.end..])?;
        self.end += count;
        Ok(count)
    }
}

impl Chunk {
    pub(crate) fn len(&self) -> usize {
        match self {
            Chunk::Filled(filled) => filled.len(),
            Chunk::Own(own) => own.end - own.start,
        }
    }

    /// The bytes themselves.
    pub(crate) fn bytes<'a>(&'a self, core: &'a Core) -> &'a [u8] {
        match self {
            // There is none without buffers.
            Chunk::Filled(filled) => core.buffers().map_or(&[], |buffers| buffers.bytes(filled)),
            Chunk::Own(own) => &own.memory[own.start..own.end],
        }
    }

    /// Leaves the first `count` bytes out.
    pub(crate) fn advance(&mut self, count: usize) {
        match self {
            Chunk::Filled(filled) => filled.advance(count),
            Chunk::Own(own) => {
                own.start += count;
                assert!(own.start <= own.end, "more than there is");
            }
        }
    }

    /// It belongs to another connection now.
    pub(crate) fn pass_on(&self, core: &Core, holder: u32) {
        if let (Chunk::Filled(filled), Some(buffers)) = (self, core.buffers()) {
            buffers.pass_on(filled, holder);
        }
    }

    /// Whether it lies in a buffer of the kernel's.
    pub(crate) fn is_filled(&self) -> bool {
        matches!(self, Chunk::Filled(_))
    }

    /// Moves the bytes into memory of ours, and gives the kernel its buffer back.
    pub(crate) fn copy_out(&mut self, core: &Core) {
        if let Chunk::Filled(_) = self {
            let mut own = Own::empty(core);
            own.append(self.bytes(core));
            mem::replace(self, Chunk::Own(own)).release(core);
        }
    }

    /// Gives the memory back.
    pub(crate) fn release(self, core: &Core) {
        match self {
            Chunk::Filled(filled) => {
                if let Some(buffers) = core.buffers() {
                    buffers.give_back(filled);
                    core.pool.buffered.give_back(BYTES);
                }
            }
            Chunk::Own(own) => core.pool.give_back(own.memory),
        }
    }
}
