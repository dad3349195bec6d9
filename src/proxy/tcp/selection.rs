//! How the upstreams of a group are chosen and judged, apart from the other groups.

use std::time::Duration;

use super::settings::{Balance, Settings};
use super::upstream_settings::{Checks, Ejection, Upstream, UpstreamsError, within};

/// What a [`Group`](super::Group) may have its own of: each field means what the field of that name means in [`Settings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// How an upstream is chosen.
    pub balance: Balance,
    /// Active checks of upstreams.
    pub checks: Option<Checks>,
    /// Whether upstreams that fail for clients are left alone.
    pub ejection: Option<Ejection>,
    /// If less than this share is healthy all are used.
    pub panic_percent: u32,
    /// How long it takes until one that is healthy again has all of its weight.
    pub slow_start: Option<Duration>,
    /// How long a client waits for a place.
    pub queue_timeout: Duration,
    /// The most clients that wait so.
    pub queue_length: usize,
}

impl Selection {
    /// Whether all of it makes sense.
    pub(super) fn check(&self) -> Result<(), UpstreamsError> {
        self.checks.iter().try_for_each(Checks::check)?;
        self.ejection.iter().try_for_each(Ejection::check)?;
        within("panic-percent", self.panic_percent, self.panic_percent <= 100, "0 to 100")?;
        let slow = self.slow_start.unwrap_or(Duration::MAX);
        within("slow-start", slow, !slow.is_zero(), "more than 0s, as in 2s")
    }
}

impl Settings {
    /// What the upstreams without a name go by, and each group that has none of its own.
    pub fn selection(&self) -> Selection {
        Selection {
            balance: self.balance,
            checks: self.checks.clone(),
            ejection: self.ejection.clone(),
            panic_percent: self.panic_percent,
            slow_start: self.slow_start,
            queue_timeout: self.queue_timeout,
            queue_length: self.queue_length,
        }
    }

    /// All upstreams, with the name and the own choice of their group: those that have none, then each group.
    pub(super) fn all_groups(&self) -> impl Iterator<Item = (Option<&str>, Option<&Selection>, &[Upstream])> {
        let groups = self.groups.iter();
        std::iter::once((None, None, &*self.upstreams))
            .chain(groups.map(|group| (Some(&*group.name), group.selection.as_ref(), &*group.upstreams)))
    }
}
