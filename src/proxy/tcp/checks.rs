//! Active checks: one shard connects to each upstream from time to time, and all of them learn what came of it.
//!
//! The shard that checks is the first, by number, that is at work. If it ends, the next one goes on with what is known by
//! then; when it is back, it takes over again, having asked the others what it has missed. Each upstream has a loop of
//! its own, so that one that does not answer delays no other.
//!
//! What is published is which upstreams are down, all of them at once; so those that turn soon after each other are told
//! of together. If two shards publish at the same moment one of the versions is lost, and its checks, which go on failing,
//! publish again.
//!
//! An upstream that nobody checks is up, and one whose checks begin is up until they have found otherwise, as with HAProxy:
//! also if there were checks before, which a change had switched off. What was known goes on where checks do, under
//! whatever name; and is forgotten once no shard can go by the settings of before any more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::counters::add;
use super::down::Down;
use super::news;
use super::part::Current;
use super::upstream_settings::{CHECK_BYTES_MAX, Checks};
use super::upstreams::{Upstream, Upstreams};
use crate::mesh::{DeclareError, OpenError, Replica, Replicated, Version};
use crate::net::Connection;
use crate::net::proxy_header::{ProxyHeader, Subject, Version as HeaderVersion};
use crate::runtime::Runtime;
use crate::shard::waiters::{Waiters, wait_until};
use crate::shard::{Shard, Task};
use futures_util::future::{join, join_all, select, select_all};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What a telling costs each shard grows with the number of upstreams, and so does the pause before the next one: a hundred
/// thousand of them are looked at in a second, at most, however many there are.
const PAUSE_FOR_EACH: Duration = Duration::from_micros(10);

/// How long it takes until checks that panicked begin again.
const AFTER_A_PANIC: Duration = Duration::from_secs(1);

/// What the shards tell each other of the upstreams.
pub(super) fn declare(runtime: &Runtime, listener: &str) -> Result<Replicated<Down>, DeclareError> {
    // Names live as long as the program; there is one for all proxies, and no two listen at one address.
    let name: &'static str = format!("health of the upstreams behind {listener}").leak();
    runtime.replicated(name, Down::default())
}

/// A shard's part of the checks, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Checking(Vec<Option<Task<()>>>);

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.iter_mut().filter_map(Option::take).for_each(Task::cancel);
    }
}

/// Begins to follow what is known, and to check whenever it is this shard's turn.
pub(super) fn begin(
    shard: &Shard,
    current: &Rc<Current>,
    health: &Replicated<Down>,
) -> Result<Checking, OpenError> {
    let replica = shard.replica(health)?;
    // What stands there before these settings may speak of a group by the name that it had. What comes is about these.
    let (known, down) = (replica.version(), replica.value());
    current.checked().for_each(|group| group.learn_besides(down.of(group.path()), current.is_first));
    let follow = follow(shard.clone(), current.clone(), replica.clone(), known);
    let following = shard.control().spawn("health, learning", follow);
    let hello = current.plan.settings.send_header.map(hello).unwrap_or_default();
    let checker = Rc::new(Checker {
        shard: shard.clone(),
        current: current.clone(),
        replica,
        turned: RefCell::default(),
        turning: RefCell::default(),
        hello,
        rng: RefCell::new(Pcg64Mcg::seed_from_u64(shard.reactor().seed())),
    });
    let leading = shard.control().spawn("health, checking", checker.lead());
    Ok(Checking(vec![Some(following), Some(leading)]))
}

/// What says that a connection is for no client.
fn hello(version: HeaderVersion) -> Vec<u8> {
    // It has no names and values, so that nothing of it could have no place.
    ProxyHeader::new(version, Subject::Own).encode().unwrap_or_default()
}

/// Lets this shard's upstreams know what is published from now on.
async fn follow(shard: Shard, current: Rc<Current>, replica: Replica<Down>, mut known: Version) {
    loop {
        let (version, down) = replica.newer_than(known).await;
        known = version;
        learn(&shard, &current, &down);
    }
}

fn learn(shard: &Shard, current: &Current, down: &Down) {
    current.checked().for_each(|group| group.learn(shard.now(), down.of(group.path())));
}

/// These settings end: learns what was published under their names, and nobody has looked at yet.
pub(super) fn end(shard: &Shard, current: &Current, health: &Replicated<Down>) {
    if let Ok(replica) = shard.replica(health) {
        learn(shard, current, &replica.value());
    }
}

/// The path of an upstream's group, and its address.
type Key = (Arc<str>, Arc<str>);

struct Checker {
    shard: Shard,
    current: Rc<Current>,
    replica: Replica<Down>,
    /// Whether they are down, of those of whom that was found since the last publication; as many as there are upstreams.
    turned: RefCell<BTreeMap<Key, bool>>,
    turning: RefCell<Waiters>,
    /// Goes before everything.
    hello: Vec<u8>,
    rng: RefCell<Pcg64Mcg>,
}

/// Checks in a row that contradict what is believed.
#[derive(Debug, Default)]
struct Contradicted(u32);

impl Contradicted {
    /// One more check, while an upstream is believed to be up or not: whether it is the other from now on.
    fn by(&mut self, passed: bool, up: bool, checks: &Checks) -> bool {
        self.0 = if passed == up { 0 } else { self.0 + 1 };
        let turns = self.0 >= if up { checks.fall } else { checks.rise };
        if turns {
            self.0 = 0;
        }
        turns
    }
}

impl Checker {
    /// Checks while all shards before this one have ended.
    async fn lead(self: Rc<Self>) {
        let before = || self.shard.ids().take(self.shard.id().index());
        if before().next().is_none() {
            return self.check_always().await;
        }
        loop {
            for other in before() {
                self.shard.ended(other).await;
            }
            let back = select_all(before().map(|other| Box::pin(self.shard.opened(other))));
            select(back, pin!(self.clone().check_always())).await;
        }
    }

    /// Checks all upstreams; once more if that should panic.
    async fn check_always(self: Rc<Self>) {
        loop {
            let checking = Cancelled(Some(self.shard.spawn("checks", self.clone().check_all())));
            checking.ended().await;
            self.shard.sleep(AFTER_A_PANIC).await;
        }
    }

    /// The groups that are checked.
    fn groups(&self) -> impl Iterator<Item = (&Upstreams, &Checks)> {
        self.current.upstreams.iter().filter_map(|group| Some((group, group.checks()?)))
    }

    /// How many upstreams are checked.
    fn count(&self) -> usize {
        self.groups().map(|(group, _)| group.all().len()).sum()
    }

    async fn check_all(self: Rc<Self>) {
        self.tell_all();
        let count = self.count();
        let each = self.groups().flat_map(|(group, checks)| {
            group.all().iter().map(move |upstream| (group.path(), checks, upstream))
        });
        let loops = each.enumerate().map(|(number, (group, checks, upstream))| {
            // Spread over the interval, so that not all of them are connected to at once.
            let lead = checks.interval.mul_f64(number as f64 / count as f64);
            self.check_one((group, checks), upstream, lead)
        });
        join(self.publish(), join_all(loops)).await;
    }

    /// What this shard knows of the upstreams, who checked before it may not have told.
    fn tell_all(&self) {
        news::publish(&self.replica, |down| news::tell(down, self.current.checked()));
    }

    /// Checks one upstream for ever.
    async fn check_one(&self, (group, checks): (&Arc<str>, &Checks), upstream: &Upstream, lead: Duration) {
        let key = (group.clone(), upstream.text.clone());
        let mut contradicted = Contradicted::default();
        self.shard.sleep(lead).await;
        loop {
            let began = self.shard.now();
            match self.check(upstream, checks).await {
                // Of our own want of descriptors it is not to blame.
                Err(error) if waterwheel_os::is_shortage(&error) => {
                    tracing::debug!(upstream = &*key.1, "it cannot be checked: {error}");
                }
                outcome => {
                    let counts = &upstream.counts;
                    add(if outcome.is_ok() { &counts.checks_passed } else { &counts.checks_failed }, 1);
                    if contradicted.by(outcome.is_ok(), !self.is_down(&key), checks) {
                        self.turn(&key, outcome);
                    }
                }
            }
            let next = began + self.pause(&contradicted, checks);
            self.shard.sleep_until(next.max(self.shard.now() + LEAST_PAUSE)).await;
        }
    }

    /// What is believed of an upstream, whether others know it or not.
    fn is_down(&self, key: &Key) -> bool {
        let turned = self.turned.borrow().get(key).copied();
        turned.unwrap_or_else(|| self.replica.value().has(&key.0, &*key.1))
    }

    /// An upstream is up from now on, or it is not.
    fn turn(&self, key: &Key, outcome: io::Result<()>) {
        // A group without a name has none in the log.
        let group = Some(&*key.0).filter(|group| !group.is_empty());
        match &outcome {
            Ok(()) => tracing::info!(upstream = &*key.1, group, "it is up"),
            Err(error) => tracing::warn!(upstream = &*key.1, group, "it is down: {error}"),
        }
        self.turned.borrow_mut().insert(key.clone(), outcome.is_err());
        self.turning.borrow_mut().wake_all();
    }

    /// Lets all shards know what turned: at once, and then not too soon again.
    async fn publish(&self) {
        let pause = PAUSE_FOR_EACH * u32::try_from(self.count()).unwrap_or(u32::MAX);
        loop {
            wait_until(&self.turning, || (!self.turned.borrow().is_empty()).then_some(())).await;
            let mut down = (*self.replica.value()).clone();
            for ((group, address), is_down) in self.turned.take() {
                down.turn(&group, address, is_down);
            }
            self.replica.publish(down);
            self.shard.sleep(pause).await;
        }
    }

    /// From the beginning of one check to that of the next.
    fn pause(&self, contradicted: &Contradicted, checks: &Checks) -> Duration {
        let whole = if contradicted.0 > 0 { checks.fast_interval } else { checks.interval };
        let jitter = f64::from(checks.jitter_percent) / 100.0;
        let drawn = f64::from(self.rng.borrow_mut().next_u32()) / f64::from(u32::MAX);
        whole.mul_f64(1.0 + jitter * (2.0 * drawn - 1.0))
    }

    /// One check: connect, send, and find what is expected.
    async fn check(&self, upstream: &Upstream, checks: &Checks) -> io::Result<()> {
        let (shard, options) = (&self.shard, &self.current.plan.options);
        let checked = shard.timeout(checks.timeout, async {
            let mut connection = shard.connect(&upstream.address, options).await?;
            let asked = self.ask(&mut connection, checks).await;
            // Nobody waits for the end of it, and it leaves nothing behind on either side.
            connection.abort();
            asked
        });
        checked.await?
    }

    async fn ask(&self, connection: &mut Connection, checks: &Checks) -> io::Result<()> {
        for bytes in [&self.hello, &checks.send] {
            if !bytes.is_empty() {
                connection.write_all(bytes).await?;
            }
        }
        let expected = &checks.expect;
        let mut got = Vec::new();
        while !expected.is_empty() && !got.windows(expected.len()).any(|part| part == expected) {
            let lent = connection.fill().await?;
            let count = lent.len().min(CHECK_BYTES_MAX - got.len());
            if count == 0 {
                return Err(io::Error::other("its answer is not as expected"));
            }
            got.extend_from_slice(&lent[..count]);
            connection.consume(count);
        }
        Ok(())
    }
}

/// A check that took all of its interval is not followed by the next one at once.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// A task that ends when nobody waits for it any more.
struct Cancelled(Option<Task<()>>);

impl Cancelled {
    async fn ended(mut self) {
        if let Some(task) = &mut self.0 {
            // An error: it panicked, which the log has.
            let _ = task.await;
        }
        self.0 = None;
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_checks_in_a_row_turn_what_is_believed_and_one_between_them_begins_anew() {
        let checks = Checks { rise: 2, fall: 3, ..Checks::default() };
        let (mut contradicted, mut up) = (Contradicted::default(), true);
        let mut believed = |passed: bool| {
            up ^= contradicted.by(passed, up, &checks);
            up
        };
        for (passed, expected) in [
            (false, true),
            (false, true),
            (true, true),
            (false, true),
            (false, true),
            (false, false),
            (true, false),
            (false, false),
            (true, false),
            (true, true),
            (false, true),
        ] {
            assert_eq!(believed(passed), expected);
        }
    }

    #[test]
    fn a_check_says_that_it_is_for_no_client() {
        assert_eq!(hello(HeaderVersion::One), b"PROXY UNKNOWN\r\n");
        // Version 2, LOCAL, of no family, without anything further.
        assert!(hello(HeaderVersion::Two).ends_with(&[0x20, 0, 0, 0]));
    }
}
