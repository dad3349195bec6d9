//! From one version of the settings to the next, on all shards or on none.
//!
//! Whatever can fail comes first: names are looked up and listeners bound by whoever asks, then each shard opens its part
//! of what is new. Only when all have done so is the version the newest, and each shard is told to go by it. A connection
//! goes by the version that its shard had when it began, to its end.
//!
//! A shard that fails in between begins again with whatever is the newest then.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::time::Duration;

use futures_util::future::join_all;

use super::part::State;
use super::plan::{Named, Version, plan_all};
use super::proxy::{Proxy, Shared};
use super::settings::ProxyError;
use crate::mesh::{CallError, CallPort, OpenError, Remote};
use crate::net::Listening;
use crate::shard::{Shard, ShardId};

/// How long a shard may take to open its part of what is new. It is a few system calls; a shard that is stuck in a turn
/// holds the change up, and nothing else.
const PREPARED_WITHIN: Duration = Duration::from_secs(5);
/// How long an outside thread waits for all of it.
const CHANGED_WITHIN: Duration = Duration::from_secs(20);

/// What shards are told; the answer is why it cannot be done.
pub(super) type Orders = CallPort<Order, Result<(), String>>;

/// What a shard is to do.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// Open what is new in it.
    Prepare(Arc<Version>),
    /// Go by it.
    Commit(Arc<Version>),
    /// The version of this number does not come.
    Abandon(u64),
}

impl Order {
    /// The version that it is about.
    fn number(&self) -> u64 {
        match self {
            Order::Prepare(version) | Order::Commit(version) => version.number,
            Order::Abandon(number) => *number,
        }
    }
}

/// Why the settings stay as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Another change is under way, or came in between.
    #[error("another change came first")]
    Overtaken,
    /// A shard cannot open what is new.
    #[error("shard {shard}: {wrong}")]
    Refused {
        /// Which shard.
        shard: usize,
        /// Why.
        wrong: String,
    },
    /// A shard did not answer in time, or not at all.
    #[error("shard {shard} does not answer")]
    Silent {
        /// Which shard.
        shard: usize,
    },
    /// Whoever asked for it has given it up.
    #[error("it was given up, since it took too long")]
    Withdrawn,
    /// There is no shard left that could do it.
    #[error("the shards have ended")]
    Ended,
    /// The settings themselves, or what they ask for.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// Other settings, checked, looked up and bound: what [`Proxy::change`] makes real. Dropped instead, it closes what was
/// bound.
#[derive(Debug)]
#[must_use = "nothing changes unless it is made real"]
pub struct Change {
    shared: Arc<Shared>,
    version: Arc<Version>,
    added: Vec<Listening>,
    removed: Vec<Listening>,
    fate: Arc<Fate>,
    /// So what it removes is closed when it goes, and not what it adds.
    is_real: bool,
}

impl Change {
    /// How many listeners it adds, and how many it removes.
    pub fn listeners(&self) -> (usize, usize) {
        (self.added.len(), self.removed.len())
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let closed = if self.is_real { &self.removed } else { &self.added };
        closed.iter().for_each(|listening| self.shared.listeners.close(listening));
    }
}

impl Proxy {
    /// Checks other settings, looks their upstreams up and binds the listeners that are new. May wait for a name, so it is
    /// not for a shard. Nothing changes yet.
    ///
    /// A listener whose endpoint or address stays is kept as it is, with the clients that wait in its backlog, also if its
    /// proxy is called otherwise or another one has it from now on. A proxy without a name of before that has such a listener
    /// is the one that had it, if that one is gone: with its counters, and what was learnt of its upstreams.
    ///
    /// A new listener may overlap one that is given up, as `0.0.0.0:80` does `127.0.0.1:80`: it is bound beside it, and who
    /// waits at the other one by then is served.
    ///
    /// # Errors
    /// As [`Proxy::bind_all`]; [`ProxyError::Overlaps`] where the system does not let both listen.
    pub fn prepare(&self, wanted: Vec<Named>) -> Result<Change, ProxyError> {
        let newest = self.shared.newest();
        let (plans, bound) = plan_all(&self.shared.listeners, &self.shared.limits, wanted, &newest)?;
        let old = newest.plans.iter().flat_map(|plan| &plan.listeners);
        let is_kept = |old: &Listening| plans.iter().flat_map(|plan| &plan.listeners).any(|new| new.is(old));
        let removed = old.filter(|old| !is_kept(old)).cloned().collect();
        let version = Arc::new(Version { number: newest.number + 1, plans });
        let (added, fate) = (bound.keep(), Arc::default());
        Ok(Change { shared: self.shared.clone(), version, added, removed, fate, is_real: false })
    }

    /// Makes a change real on all shards, or on none; answers the version's number. New connections go by it from then on.
    ///
    /// # Errors
    /// What is new could not be opened everywhere, or another change came first: all is as it was before.
    pub async fn change(&self, shard: &Shard, mut change: Change) -> Result<u64, ChangeError> {
        let _alone = Alone::enter(&self.shared)?;
        let number = change.version.number;
        if number != self.version() + 1 {
            return Err(ChangeError::Overtaken);
        }
        if let Err(error) = self.tell_all(shard, &Order::Prepare(change.version.clone())).await {
            // Who cannot hear it now hears it later, or forgets by itself.
            let _ = self.tell_all(shard, &Order::Abandon(number)).await;
            return Err(error);
        }
        if !change.fate.is(Fate::MADE) {
            let _ = self.tell_all(shard, &Order::Abandon(number)).await;
            return Err(ChangeError::Withdrawn);
        }
        // From here on nothing brings it back.
        self.shared.set_newest(change.version.clone());
        // Closed whatever becomes of this shard: no other knows of them any more.
        change.is_real = true;
        if let Err(error) = self.tell_all(shard, &Order::Commit(change.version.clone())).await {
            tracing::error!("version {number} of the settings is late on a shard: {error}");
        }
        drop(change);
        Ok(number)
    }

    /// Checks, binds and makes real, for a thread that is no shard and may wait: for 20 s at most, and for names.
    ///
    /// # Errors
    /// Why all is as it was before: a change that is given up does not come later either.
    pub fn change_from_outside(&self, remote: &Remote, wanted: Vec<Named>) -> Result<u64, ChangeError> {
        self.change_within(remote, wanted, CHANGED_WITHIN)
    }

    fn change_within(
        &self,
        remote: &Remote,
        wanted: Vec<Named>,
        within: Duration,
    ) -> Result<u64, ChangeError> {
        let change = self.prepare(wanted)?;
        let (number, fate) = (change.version.number, change.fate.clone());
        let (answer, answered) = flume::bounded(1);
        let proxy = self.clone();
        let mut job: crate::mesh::Job = Box::new(move |shard: &Shard| {
            let own = shard.clone();
            shard.spawn_detached("change of settings", async move {
                let _ = answer.try_send(proxy.change(&own, change).await);
            });
        });
        // Those at work first: another one may be in a pause.
        let (at_work, others): (Vec<ShardId>, Vec<ShardId>) =
            (0..remote.shards()).map(ShardId::new).partition(|shard| self.shared.has_begun(*shard));
        for shard in at_work.into_iter().chain(others) {
            match remote.try_run(shard, job) {
                Ok(()) => {
                    return answered.recv_timeout(within).unwrap_or_else(|_| {
                        if fate.is(Fate::WITHDRAWN) {
                            return Err(ChangeError::Silent { shard: shard.index() });
                        }
                        tracing::warn!(
                            "version {number} of the settings is made, and {shard} has not said so"
                        );
                        Ok(number)
                    });
                }
                Err(error) => job = error.into_inner(),
            }
        }
        Err(ChangeError::Ended)
    }

    /// Tells all shards at once that are at work with a version of before. Others have nothing to do: they begin, or begin
    /// again after a failure and its pause, with the newest version there is then.
    async fn tell_all(&self, shard: &Shard, order: &Order) -> Result<(), ChangeError> {
        let caller = shard.caller(&self.shared.orders).map_err(|_| ChangeError::Ended)?;
        let is_meant = |to: ShardId| self.shared.has_begun_before(to, order.number());
        let calls = shard.ids().filter(|to| is_meant(*to)).map(|to| {
            let caller = caller.clone();
            let told = shard.timeout(PREPARED_WITHIN, async move {
                loop {
                    match caller.call(to, order.clone()).await {
                        // It is back already, and this shard does not know it yet.
                        Err(CallError::Closed) if is_meant(to) => shard.opened(to).await,
                        told => return told,
                    }
                }
            });
            async move {
                match told.await {
                    // Who has ended, or has not begun, begins with the newest version.
                    Ok(Ok(Ok(())) | Err(CallError::Closed | CallError::NotServed(_))) => Ok(()),
                    Ok(Err(error)) => {
                        Err(ChangeError::Refused { shard: to.index(), wrong: error.to_string() })
                    }
                    Ok(Ok(Err(wrong))) => Err(ChangeError::Refused { shard: to.index(), wrong }),
                    Err(_) if !is_meant(to) => Ok(()),
                    Err(_) => Err(ChangeError::Silent { shard: to.index() }),
                }
            }
        });
        join_all(calls).await.into_iter().collect()
    }
}

/// What becomes of a change: who made it real and who gave it up both know, since only the first of them decides.
#[derive(Debug, Default)]
struct Fate(AtomicU8);

impl Fate {
    const OPEN: u8 = 0;
    const MADE: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// Whether this is what becomes of it; it is if nothing was decided yet.
    fn is(&self, fate: u8) -> bool {
        let decided = self.0.compare_exchange(Fate::OPEN, fate, AcqRel, Acquire);
        decided.map_or_else(|decided| decided == fate, |_| true)
    }
}

/// There is one change at a time.
struct Alone<'a>(&'a Shared);

impl Alone<'_> {
    fn enter(shared: &Shared) -> Result<Alone<'_>, ChangeError> {
        if shared.changing.swap(true, AcqRel) { Err(ChangeError::Overtaken) } else { Ok(Alone(shared)) }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.changing.store(false, Release);
    }
}

/// Lets a shard do what it is told.
pub(super) fn obey(shard: &Shard, orders: &Orders, state: &Rc<State>) -> Result<(), OpenError> {
    let (own, state) = (shard.clone(), state.clone());
    shard.serve(orders, move |_, order| {
        let done = match order {
            Order::Prepare(version) => state.prepare(&own, &version),
            Order::Commit(version) => state.commit(&own, &version),
            Order::Abandon(number) => {
                state.abandon(Some(number));
                Ok(())
            }
        };
        std::future::ready(done.map_err(|error: io::Error| error.to_string()))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
