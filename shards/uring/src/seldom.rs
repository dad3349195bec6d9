//! What the log is told when it happens, but not each time: a peer must not be able to fill a disk.

use std::cell::Cell;
use std::time::Duration;

use waterwheel_reactor::Time;

/// Between two lines about the same cause, as a rule.
const PAUSE: Duration = Duration::from_secs(10);

/// One cause of log lines.
#[derive(Debug)]
pub(crate) struct Seldom {
    pause: Duration,
    last: Cell<Option<Time>>,
    left_out: Cell<u64>,
}

impl Default for Seldom {
    fn default() -> Seldom {
        Seldom::every(PAUSE)
    }
}

impl Seldom {
    /// At most one line in so long.
    pub(crate) const fn every(pause: Duration) -> Seldom {
        Seldom { pause, last: Cell::new(None), left_out: Cell::new(0) }
    }

    /// As if it had been told long ago.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.last.set(None);
    }

    /// It happened again. Whether to say so, and how often it happened since it was said.
    pub(crate) fn happens(&self, now: Time) -> Option<u64> {
        if self.last.get().is_some_and(|last| now.since(last) < self.pause) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(1 + self.left_out.take())
    }
}

/// The causes of one reactor.
#[derive(Debug, Default)]
pub(crate) struct Causes {
    /// Nearly all buffers hold what nobody takes.
    pub(crate) few_buffers: Seldom,
    /// A peer did not read to the end what was left for it.
    pub(crate) unread: Seldom,
    /// A shard could not be woken by a message.
    pub(crate) no_message: Seldom,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_at_once_and_then_seldom_with_its_count() {
        let cause = Seldom::default();
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert_eq!(cause.happens(at(5)), Some(1));
        assert_eq!([6, 7, 14].map(|seconds| cause.happens(at(seconds))), [None; 3]);
        assert_eq!(cause.happens(at(15)), Some(4));
        assert_eq!(cause.happens(at(16)), None);
        assert_eq!(cause.happens(at(100)), Some(2));
    }
}
