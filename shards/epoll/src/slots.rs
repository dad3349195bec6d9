//! Who gets an event: a slab of descriptors, found by a token with a generation.
//!
//! An event names what was registered, and may still be on its way when that has been closed and its place, or its
//! descriptor's number, taken by another. A slot's generation grows with each use, so a late event finds nobody.

use std::rc::Rc;

use crate::descriptor::Descriptor;

/// Names one registration: the slot in the low half, its generation in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl Token {
    /// Of nobody. Its slot is never in use.
    pub(crate) const NONE: Token = Token(u64::MAX);

    fn new(slot: u32, generation: u32) -> Token {
        Token(u64::from(generation) << 32 | u64::from(slot))
    }

    pub(crate) fn from_number(number: u64) -> Token {
        Token(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }

    fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The end of the list of free slots; never a slot.
const NO_SLOT: u32 = u32::MAX;

/// All registrations of one reactor. Grows to the most that were ever there at once, 16 bytes each.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    // Meaningful while the slot is free.
    next_free: u32,
    descriptor: Option<Rc<Descriptor>>,
}

impl Slots {
    /// What one registration takes here.
    #[cfg(test)]
    pub(crate) const SLOT_BYTES: usize = size_of::<Slot>();

    pub(crate) fn new() -> Slots {
        Slots { slots: Vec::new(), free: NO_SLOT }
    }

    /// Gives the descriptor a token.
    ///
    /// # Panics
    /// After 4 billion registrations at once; the kernel's limits are far below.
    pub(crate) fn insert(&mut self, descriptor: Rc<Descriptor>) -> Token {
        if self.free == NO_SLOT {
            let fresh = u32::try_from(self.slots.len()).ok().filter(|fresh| *fresh != NO_SLOT);
            self.free = fresh.expect("more registrations than descriptors can exist");
            self.slots.push(Slot { generation: 0, next_free: NO_SLOT, descriptor: None });
        }
        let number = self.free;
        let slot = &mut self.slots[number as usize];
        self.free = slot.next_free;
        slot.descriptor = Some(descriptor);
        Token::new(number, slot.generation)
    }

    /// Whom an event concerns; nobody if it comes too late.
    pub(crate) fn get(&self, token: Token) -> Option<&Rc<Descriptor>> {
        let slot = self.slots.get(token.slot())?;
        if slot.generation == token.generation() { slot.descriptor.as_ref() } else { None }
    }

    /// Ends a registration; of a token that is over, nothing.
    pub(crate) fn remove(&mut self, token: Token) -> Option<Rc<Descriptor>> {
        let slot = self.slots.get_mut(token.slot())?;
        if slot.generation != token.generation() {
            return None;
        }
        let descriptor = slot.descriptor.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_free = self.free;
        self.free = token.slot() as u32;
        Some(descriptor)
    }

    /// Ends all of them.
    pub(crate) fn take_all(&mut self) -> Vec<Rc<Descriptor>> {
        self.free = NO_SLOT;
        self.slots.drain(..).filter_map(|slot| slot.descriptor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_os::Fault;

    #[test]
    fn a_token_that_is_over_finds_nobody_in_its_reused_slot() {
        let mut slots = Slots::new();
        let old = slots.insert(Descriptor::dead(Fault::default()));
        assert!(slots.remove(old).is_some());
        let new = slots.insert(Descriptor::dead(Fault::default()));
        assert_eq!(old.slot(), new.slot(), "the slot is reused");
        assert!(slots.get(old).is_none());
        assert!(slots.remove(old).is_none(), "and the newcomer stays");
        assert!(slots.get(new).is_some());
        assert!(slots.get(Token::NONE).is_none());
    }

    #[test]
    fn slots_are_reused_before_the_slab_grows() {
        let mut slots = Slots::new();
        for _ in 0..1000 {
            let tokens: Vec<_> = (0..3).map(|_| slots.insert(Descriptor::dead(Fault::default()))).collect();
            for token in tokens {
                assert!(slots.remove(token).is_some());
            }
        }
        assert_eq!(slots.slots.len(), 3);
    }
}
