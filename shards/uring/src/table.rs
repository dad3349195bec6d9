//! Who a completion is for. An operation is named by a place here, and a place is given to somebody else only after its
//! last operation has completed, so a completion never comes to the wrong one.

use std::rc::Rc;

use crate::socket::Socket;
use crate::waited::Waited;

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nobody waits for it: a cancellation.
    Nothing,
    /// Somebody rang.
    Bell,
    /// Another shard was to be woken.
    Message,
    /// A receive.
    Receive,
    /// A wait until something can be received.
    Readable,
    /// A send, which never waits.
    Send,
    /// A wait until something can be sent, or until a connect has ended.
    Writable,
    /// A connect.
    Connect,
    /// A listener, or a descriptor of the user's, became ready.
    Ready,
    /// What was left to be sent when both halves were dropped has had its time.
    Patience,
}

const KINDS: [Kind; 10] = [
    Kind::Nothing,
    Kind::Bell,
    Kind::Message,
    Kind::Receive,
    Kind::Readable,
    Kind::Send,
    Kind::Writable,
    Kind::Connect,
    Kind::Ready,
    Kind::Patience,
];

/// Names an operation: its kind, and its owner's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl Token {
    pub(crate) fn new(kind: Kind, place: u32) -> Token {
        Token(u64::from(place) << 8 | kind as u64)
    }

    pub(crate) fn from_number(number: u64) -> Token {
        Token(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// What it was for. What no operation of ours has is nothing of ours.
    pub(crate) fn kind(self) -> Kind {
        KINDS.get((self.0 & 0xff) as usize).copied().unwrap_or(Kind::Nothing)
    }

    pub(crate) fn place(self) -> u32 {
        (self.0 >> 8) as u32
    }
}

/// Never a place.
pub(crate) const NO_PLACE: u32 = u32::MAX;

/// Who owns operations.
#[derive(Clone, Debug)]
pub(crate) enum Owner {
    /// A connection.
    Socket(Rc<Socket>),
    /// A listener or a watched descriptor.
    Waited(Rc<Waited>),
}

#[derive(Debug)]
enum Place {
    Free { next: u32 },
    Taken(Owner),
}

/// All owners of one reactor. Grows to the most that were ever there at once.
#[derive(Debug)]
pub(crate) struct Table {
    places: Vec<Place>,
    free: u32,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { places: Vec::new(), free: NO_PLACE }
    }

    /// Gives somebody a place.
    ///
    /// # Panics
    /// After 4 billion at once; the kernel's limits are far below.
    pub(crate) fn insert(&mut self, owner: Owner) -> u32 {
        if self.free == NO_PLACE {
            let fresh = u32::try_from(self.places.len()).ok().filter(|fresh| *fresh != NO_PLACE);
            self.free = fresh.expect("more connections than descriptors can exist");
            self.places.push(Place::Free { next: NO_PLACE });
        }
        let number = self.free;
        let place = &mut self.places[number as usize];
        if let Place::Free { next } = *place {
            self.free = next;
        }
        *place = Place::Taken(owner);
        number
    }

    /// Whose place it is.
    pub(crate) fn get(&self, place: u32) -> Option<&Owner> {
        match self.places.get(place as usize) {
            Some(Place::Taken(owner)) => Some(owner),
            _ => None,
        }
    }

    /// The connection whose place it is.
    pub(crate) fn socket(&self, place: u32) -> Option<&Rc<Socket>> {
        match self.get(place) {
            Some(Owner::Socket(socket)) => Some(socket),
            _ => None,
        }
    }

    /// Takes a place back. Its owner must have no operation under way.
    pub(crate) fn remove(&mut self, place: u32) -> Option<Owner> {
        let there = self.places.get_mut(place as usize)?;
        if matches!(there, Place::Free { .. }) {
            return None;
        }
        let Place::Taken(owner) = std::mem::replace(there, Place::Free { next: self.free }) else {
            return None;
        };
        self.free = place;
        Some(owner)
    }

    /// Whether nobody has a place.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.iter().all(|place| matches!(place, Place::Free { .. }))
    }

    /// Everybody who has a place.
    pub(crate) fn everybody(&self) -> Vec<Owner> {
        let owner = |place: &Place| match place {
            Place::Taken(owner) => Some(owner.clone()),
            Place::Free { .. } => None,
        };
        self.places.iter().filter_map(owner).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_what_it_was_made_of() {
        for kind in KINDS {
            for place in [0, 1, 255, 256, NO_PLACE] {
                let token = Token::from_number(Token::new(kind, place).number());
                assert_eq!((token.kind(), token.place()), (kind, place));
            }
        }
        assert_eq!(Token::from_number(u64::MAX).kind(), Kind::Nothing);
    }
}
