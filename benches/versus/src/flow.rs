//! What a bare loop has of one direction: bytes that were received, and go out again in their order.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use crate::ring::{Piece, Ring, WAITING_MAX};

/// What an operation of a flow is; its tag holds whose too.
pub const RECEIVE: u64 = 0;
/// See [`RECEIVE`].
pub const SEND: u64 = 1;
/// See [`RECEIVE`].
pub const CANCEL: u64 = 2;

/// A direction. At first nothing is under way.
#[derive(Debug, Default)]
pub struct Flow {
    /// Received and not yet sent.
    waiting: VecDeque<Piece>,
    /// How much of the first of them is sent.
    sent: usize,
    sending: bool,
    receiving: bool,
    cancelling: bool,
    /// It stopped because no buffer was left, until somebody says otherwise.
    pub starved: bool,
    /// The sender has no more.
    pub ended: bool,
}

/// How a receive went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// As it may go.
    Well,
    /// No buffer was left.
    Starved,
    /// The connection is broken.
    Failed,
}

impl Flow {
    /// A receive completed.
    pub fn received(&mut self, result: i32, more: bool, piece: Option<Piece>) -> Received {
        self.receiving = more;
        self.waiting.extend(piece);
        match result {
            1.. => {}
            0 => self.ended = true,
            _ if -result == libc::ENOBUFS => {
                self.starved = true;
                return Received::Starved;
            }
            _ if -result == libc::ECANCELED => {}
            _ => return Received::Failed,
        }
        Received::Well
    }

    /// A send completed. False: the connection is broken.
    pub fn sent(&mut self, result: i32, ring: &mut Ring) -> bool {
        self.sending = false;
        let (0.., Some(&piece)) = (result, self.waiting.front()) else { return false };
        self.sent += result as usize;
        if self.sent == piece.len() {
            ring.give_back(piece);
            self.waiting.pop_front();
            self.sent = 0;
        }
        true
    }

    /// A receive was cancelled, or could not be.
    pub fn cancelled(&mut self) {
        self.cancelling = false;
    }

    /// Asks for what can be done next, from one socket to the other; answers how many operations that is.
    pub fn go_on(&mut self, ring: &mut Ring, from: RawFd, to: RawFd, tag: impl Fn(u64) -> u64) -> usize {
        let (waiting, mut begun) = (self.waiting.len(), 0);
        if let (false, Some(&piece)) = (self.sending, self.waiting.front()) {
            ring.send_piece(to, piece, self.sent, tag(SEND));
            self.sending = true;
            begun += 1;
        }
        if self.receiving && !self.cancelling && waiting >= WAITING_MAX {
            ring.cancel(tag(RECEIVE), tag(CANCEL));
            self.cancelling = true;
            begun += 1;
        }
        if self.has_stopped() && !self.ended && waiting <= WAITING_MAX / 2 {
            ring.receive(from, tag(RECEIVE));
            self.receiving = true;
            begun += 1;
        }
        begun
    }

    fn has_stopped(&self) -> bool {
        !self.receiving && !self.cancelling && !self.starved
    }

    /// Nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.has_stopped() && !self.sending
    }

    /// All that was received is sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives back what will never be sent.
    pub fn clear(&mut self, ring: &mut Ring) {
        self.waiting.drain(..).for_each(|piece| ring.give_back(piece));
    }
}
