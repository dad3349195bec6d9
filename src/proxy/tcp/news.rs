//! What the shard that checks tells the others of upstreams beside what its checks find: when the settings change.
//!
//! While a change is under way some shards go by the version of before and some by the new one. What is published has to be
//! right for both: it has what is known under the names of both, and the old ones are forgotten when no shard goes by them any
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::down::Down;
use super::part::{Current, State};
use super::upstreams::{Upstream, Upstreams};
use crate::mesh::{OpenError, Replica, Replicated};
use crate::shard::Shard;

/// By then all shards go by a version, or are late with it for a reason that the log has.
const ALL_CHANGED: Duration = Duration::from_secs(10);

/// Publishes what `change` makes of what is known, if it says that this is another.
pub(super) fn publish(replica: &Replica<Down>, change: impl FnOnce(&mut Down) -> bool) {
    let mut down = (*replica.value()).clone();
    if change(&mut down) {
        replica.publish(down);
    }
}

/// Those that are down as far as this shard knows are so, under the names that their groups have; whether that is news.
pub(super) fn tell<'u>(down: &mut Down, groups: impl Iterator<Item = &'u Upstreams>) -> bool {
    turn(down, groups, Upstream::is_down, true)
}

/// Of a group's upstreams some are down, or are not; whether that is news.
fn turn<'u>(
    down: &mut Down,
    groups: impl Iterator<Item = &'u Upstreams>,
    which: impl Fn(&Upstream) -> bool,
    is_down: bool,
) -> bool {
    let mut is_news = false;
    for group in groups {
        for upstream in group.all().iter().filter(|upstream| which(upstream)) {
            is_news |= down.has(group.path(), &*upstream.text) != is_down;
            down.turn(group.path(), upstream.text.clone(), is_down);
        }
    }
    is_news
}

/// Whether this shard is the one that checks.
fn leads(shard: &Shard) -> bool {
    shard.ids().take(shard.id().index()).all(|other| !shard.is_open(other))
}

/// This is new in a version that the shard goes by from now on. All of it is told at once: so no shard has to do with
/// something between what groups were called and what they are. What was found of an upstream that is checked from now on,
/// by checks that had been switched off or in a group that had been taken out, does not count.
pub(super) fn change(
    shard: &Shard,
    health: &Replicated<Down>,
    changed: &[Rc<Current>],
) -> Result<(), OpenError> {
    if !leads(shard) || changed.iter().all(|current| current.checked().next().is_none()) {
        return Ok(());
    }
    publish(&shard.replica(health)?, |down| {
        let later = changed.iter().filter(|current| !current.is_first);
        let begins = |upstream: &Upstream| !upstream.was_checked();
        let are_up = turn(down, later.flat_map(|current| current.checked()), begins, false);
        // After that: an address may stand twice in a group.
        tell(down, changed.iter().flat_map(|current| current.checked())) || are_up
    });
    Ok(())
}

/// A version comes in which less may be checked than before: that is forgotten later, once.
pub(super) fn forget_later(shard: &Shard, state: &Rc<State>) {
    let at = shard.now() + ALL_CHANGED;
    if state.forgets_at.replace(Some(at)).is_some() {
        return;
    }
    let (own, state) = (shard.clone(), Rc::downgrade(state));
    shard.spawn_detached("forget upstreams", async move {
        while let Some(at) = state.upgrade().and_then(|state| state.forgets_at.get()) {
            own.sleep_until(at).await;
            let Some(state) = state.upgrade() else { return };
            // Unless another version came meanwhile.
            if state.forgets_at.get() == Some(at) {
                state.forgets_at.set(None);
                let forgotten = forget_others(&own, state.health(), &state.currents());
                let _ =
                    forgotten.inspect_err(|error| tracing::error!("upstreams are not forgotten: {error}"));
            }
        }
    });
}

/// Of what is checked in none of these the one that checks forgets that it was down.
fn forget_others(shard: &Shard, health: &Replicated<Down>, all: &[Rc<Current>]) -> Result<(), OpenError> {
    let replica = shard.replica(health)?;
    if !leads(shard) || replica.value().is_empty() {
        return Ok(());
    }
    let mut checked: BTreeMap<&str, BTreeSet<&Arc<str>>> = BTreeMap::new();
    for group in all.iter().flat_map(|current| current.checked()) {
        let own = group.all().iter().map(|upstream| &upstream.text);
        checked.entry(group.path()).or_default().extend(own);
    }
    publish(&replica, |down| down.forget_others(&checked));
    Ok(())
}

#[cfg(all(test, feature = "sim"))]
mod tests;
