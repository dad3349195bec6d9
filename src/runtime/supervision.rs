//! What happens to a shard whose main future panics, or whose reactor fails.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use waterwheel_reactor::Time;

/// What is done about a shard whose main future panicked, whose reactor failed, or whose listener can never be served again.
/// A task that panics ends alone and is no such thing; a main future that returns an error stops the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The shard begins a new life in its place: the same thread and CPU, its listeners with the clients that wait at them, a
    /// new reactor, and the main future made again. Its other tasks and its connections have ended; calls to it have failed
    /// with `Closed`, and it can be sent to again ([`Shard::opened`](crate::shard::Shard::opened)). If it fails too often,
    /// as `Escalate`.
    Restart,
    /// All shards are asked to stop, and the run ends with an error that says why.
    Escalate,
    /// The others go on without it, and the run ends with an error when they end.
    Ignore,
}

impl OnFailure {
    /// Every one, in the order in which they are listed to an operator.
    pub const ALL: [OnFailure; 3] = [OnFailure::Restart, OnFailure::Escalate, OnFailure::Ignore];

    /// The name by which an operator chooses it.
    pub const fn name(self) -> &'static str {
        match self {
            OnFailure::Restart => "restart",
            OnFailure::Escalate => "escalate",
            OnFailure::Ignore => "ignore",
        }
    }
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for OnFailure {
    type Err = ();

    fn from_str(text: &str) -> Result<OnFailure, ()> {
        OnFailure::ALL.into_iter().find(|known| known.name() == text).ok_or(())
    }
}

/// How often a shard is restarted, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supervision {
    /// Failures of one shard within [`within`](Supervision::within) that are followed by a restart; one more escalates.
    /// Default 5.
    pub restarts: u32,
    /// Default 60 s.
    pub within: Duration,
    /// How long the main future waits before it is made after the second failure within that time; it doubles with each
    /// further one. After the first it does not wait. Meanwhile other shards serve the clients of the shard's listeners.
    /// Default 100 ms.
    pub pause: Duration,
    /// It waits no longer than this. Default 5 s.
    pub pause_most: Duration,
}

impl Default for Supervision {
    fn default() -> Supervision {
        Supervision {
            restarts: 5,
            within: Duration::from_secs(60),
            pause: Duration::from_millis(100),
            pause_most: Duration::from_secs(5),
        }
    }
}

/// The failures of one shard, or of whatever else is started again.
#[derive(Debug)]
pub(crate) struct Failures {
    supervision: Supervision,
    recent: VecDeque<Time>,
}

impl Failures {
    pub(crate) fn new(supervision: Supervision) -> Failures {
        Failures { supervision, recent: VecDeque::new() }
    }

    /// One more: how long to wait before the next life begins its work. `None`: it has failed too often.
    pub(crate) fn one_more(&mut self, now: Time) -> Option<Duration> {
        let Supervision { restarts, within, pause, pause_most } = self.supervision;
        while self.recent.front().is_some_and(|failed| now.since(*failed) > within) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let count = self.recent.len() as u32;
        match count {
            _ if count > restarts => None,
            1 => Some(Duration::ZERO),
            _ => Some(pause.saturating_mul(1 << (count - 2).min(20)).min(pause_most)),
        }
    }

    /// How many there were in the time that counts.
    pub(crate) fn count(&self) -> usize {
        self.recent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_then_there_is_no_restart() {
        let second = Duration::from_secs(1);
        let supervision =
            Supervision { restarts: 6, within: second * 60, pause: second, pause_most: second * 5 };
        let mut failures = Failures::new(supervision);
        let mut now = Time::ZERO;
        let mut found = Vec::new();
        for _ in 0..7 {
            now = now + second;
            found.push(failures.one_more(now).map(|pause| pause.as_secs()));
        }
        assert_eq!(found, [Some(0), Some(1), Some(2), Some(4), Some(5), Some(5), None]);
        assert_eq!(failures.count(), 7);
        // Long after, they are forgotten.
        assert_eq!(failures.one_more(now + second * 61), Some(Duration::ZERO));
    }

    #[test]
    fn names_are_read_back() {
        for policy in OnFailure::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("Restart".parse::<OnFailure>(), Err(()));
    }
}
