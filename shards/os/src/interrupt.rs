//! Interrupting a sleep in the kernel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};

/// An eventfd(2): a descriptor that becomes readable when [`raise`](Interrupt::raise)d, from any thread.
///
/// Watch it edge-triggered and it need not be cleared: each raise is an edge of its own.
#[derive(Debug)]
pub struct Interrupt {
    descriptor: OwnedFd,
}

impl Interrupt {
    /// Not raised; close-on-exec and non-blocking.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Interrupt> {
        Ok(Interrupt { descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes the descriptor readable. Never blocks and cannot fail: a counter that is full is emptied first.
    pub fn raise(&self) {
        let one = 1_u64.to_ne_bytes();
        if write(&self.descriptor, &one) == Err(Errno::AGAIN) {
            self.clear();
            // If others filled it again in between, it is readable, which is all that was wanted.
            let _ = write(&self.descriptor, &one);
        }
    }

    /// Makes the descriptor unreadable. Answers whether it was raised.
    pub fn clear(&self) -> bool {
        read(&self.descriptor, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_counter_neither_blocks_nor_loses_the_raise() {
        let interrupt = Interrupt::new().unwrap();
        assert!(!interrupt.clear());
        write(&interrupt, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        interrupt.raise();
        assert!(interrupt.clear());
        assert!(!interrupt.clear(), "one clear takes all raises");
    }
}
