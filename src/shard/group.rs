//! Groups of tasks, as programs see them.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use super::core::Core;
use super::handle::Task;
use super::queue_times::QueueTimes;
use super::schedule::{GROUPS_MAX, GroupId};

/// What the group is called whose tasks nobody spawned into another.
pub(crate) const DEFAULT_NAME: &str = "default";
/// The group of what is of no client, if an operator asks for one.
pub(crate) const CONTROL_NAME: &str = "control";

/// How much of a shard's time a group gets beside others: 300 gets three times as much as 100. From 1 to 10 000.
///
/// They count while several groups have something to do; what one leaves over is the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Shares(pub u32);

impl Shares {
    /// Those of the default group, until they are changed: 100.
    pub const DEFAULT: Shares = Shares(100);
    /// The most that a group may have: 10 000.
    pub const MAX: Shares = Shares(10_000);
}

impl Default for Shares {
    fn default() -> Shares {
        Shares::DEFAULT
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A group that cannot be as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The number of shares makes no sense.
    #[error("the group {name:?} cannot have {shares} shares; allowed: from 1 to {}", Shares::MAX)]
    Shares {
        /// The group.
        name: &'static str,
        /// What it was to have.
        shares: Shares,
    },
    /// There is no room for another one.
    #[error("no room for the group {name:?}: a shard has at most {GROUPS_MAX}")]
    TooMany {
        /// The group.
        name: &'static str,
    },
}

/// Tasks of one shard that share its time with those of other groups. Made by [`Shard::group`](super::Shard::group);
/// lives as long as the shard. Cheap to clone.
///
/// * Tasks: [`spawn`](Group::spawn), [`spawn_detached`](Group::spawn_detached). What a task spawns is of its group, if it
///   does not say otherwise; so a connection's tasks are of the group that accepts.
/// * Time: [`shares`](Group::shares), [`set_shares`](Group::set_shares),
///   [`with_latency_class`](Group::with_latency_class).
/// * Reports: [`name`](Group::name), [`with_queue_times`](Group::with_queue_times),
///   [`Shard::group_stats`](super::Shard::group_stats).
///
/// The time that tasks take is measured, and of the groups with something to do, the one that has had least for its
/// shares runs next. A group that slept begins even with that one: it gets nothing for the past. A task that takes long
/// without giving way keeps everybody waiting, whatever its shares; its group pays for it afterwards.
///
/// ```
/// use waterwheel::runtime::{Config, Runtime};
/// use waterwheel::shard::Shares;
///
/// let runtime = Runtime::new(Config::default().cores(1))?;
/// runtime.run(|shard| async move {
///     let background = shard.group("background", Shares(25))?;
///     let clock = shard.clone();
///     let sum = background.spawn("sum", async move {
///         let mut sum = 0u64;
///         for number in 0..100_000 {
///             sum += number;
///             clock.yield_if_needed().await; // a fifth of the time, if the default group needs the rest
///         }
///         sum
///     });
///     assert_eq!(sum.await?, 4_999_950_000);
///     Ok(())
/// })?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Group {
    core: Rc<Core>,
    id: GroupId,
}

impl Group {
    pub(super) fn find_or_make(
        core: &Rc<Core>,
        name: &'static str,
        shares: Shares,
    ) -> Result<Group, GroupError> {
        check(name, shares)?;
        let id = match core.groups.find(name) {
            Some(id) => {
                core.groups.set_shares(id, shares);
                id
            }
            None => core.groups.add(name, shares).ok_or(GroupError::TooMany { name })?,
        };
        Ok(Group { core: core.clone(), id })
    }

    /// The group of what is of no client, such as checks and the admin endpoint: that of the running task, unless an operator
    /// has named one.
    pub(super) fn control(core: &Rc<Core>) -> Group {
        let id = core.groups.find(CONTROL_NAME).unwrap_or_else(|| core.groups.running());
        Group { core: core.clone(), id }
    }

    /// From now on its shares are not the program's to change.
    pub(crate) fn fixed(self) -> Group {
        self.core.groups.fix(self.id);
        self
    }

    /// Starts a task in this group; otherwise as [`Shard::spawn`](super::Shard::spawn).
    #[track_caller]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
    {
        Task::begin(&self.core, self.id, name, 0, future)
    }

    /// Starts a task in this group whose result nobody wants; it takes less memory than [`spawn`](Group::spawn).
    #[track_caller]
    pub fn spawn_detached(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.core.spawn(name, Location::caller(), 0, self.id, Box::pin(future));
    }

    /// Puts the group in the latency class: its tasks run before all others, as soon as the task that is being polled
    /// gives way; [`yield_if_needed`](super::Shard::yield_if_needed) does for them. For what is short and urgent.
    ///
    /// The shares say how much, the class says when: a group that takes more than its shares, by a turn's time
    /// ([`Budgets::turn`](super::Budgets::turn)), waits like the others until they have theirs.
    pub fn with_latency_class(self) -> Group {
        self.core.set_latency_class(self.id);
        self
    }

    /// Measures from now on how long the group's tasks wait from their wakes to their polls; see
    /// [`GroupStats::queue_times`]. Costs two looks at the clock for each poll of the group.
    pub fn with_queue_times(self) -> Group {
        self.core.keep_queue_times(self.id);
        self
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.core.groups.name(self.id)
    }

    /// Its shares.
    pub fn shares(&self) -> Shares {
        self.core.groups.shares(self.id)
    }

    /// Changes its shares from now on, unless an operator has said what they are
    /// ([`Config::shares`](crate::runtime::Config::shares)).
    ///
    /// # Errors
    /// They make no sense; the group has the same as before.
    pub fn set_shares(&self, shares: Shares) -> Result<(), GroupError> {
        check(self.name(), shares)?;
        self.core.groups.set_shares(self.id, shares);
        Ok(())
    }
}

fn check(name: &'static str, shares: Shares) -> Result<(), GroupError> {
    let good = (1..=Shares::MAX.0).contains(&shares.0);
    if good { Ok(()) } else { Err(GroupError::Shares { name, shares }) }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({:?} of {:?}, {} shares)", self.name(), self.core.id(), self.shares())
    }
}

/// A copy of what a shard counts about one of its groups.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GroupStats {
    /// What it is called.
    pub name: &'static str,
    /// Its shares.
    pub shares: Shares,
    /// Whether its tasks come first.
    pub latency_class: bool,
    /// Polls of its tasks.
    pub polls: u64,
    /// How long they took. For the default group only while another one had something to do too: else nobody looks at
    /// the clock.
    pub run: Duration,
    /// How long its tasks waited for their polls; `None` if nobody asked.
    pub queue_times: Option<QueueTimes>,
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
