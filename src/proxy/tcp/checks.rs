//! Active checks: one shard connects to each upstream from time to time, and all of them learn what came of it.
//!
//! The shard that checks is the first, by number, that is at work. If it ends, the next one goes on with what is known by
//! then; when it is back, it takes over again, having asked the others what it has missed. Each upstream has a loop of
//! its own, so that one that does not answer delays no other.
//!
//! What is published is which upstreams are down, all of them at once. If two shards publish at the same moment one of
//! the versions is lost, and its checks, which go on failing, publish again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::counters::add;
use super::part::Current;
use super::upstream_settings::{CHECK_BYTES_MAX, Checks};
use super::upstreams::Upstream;
use crate::mesh::{DeclareError, OpenError, Replica, Replicated, Version};
use crate::net::Connection;
use crate::net::proxy_header::{ProxyHeader, Subject, Version as HeaderVersion};
use crate::runtime::Runtime;
use crate::shard::{Shard, Task};
use futures_util::future::{join_all, select, select_all};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The addresses of the upstreams that are down, of all proxies, by the paths of their groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Down(BTreeSet<(Option<String>, String)>);

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
    checks: &Checks,
) -> Result<Checking, OpenError> {
    let replica = shard.replica(health)?;
    let following = shard.spawn("health, learning", follow(shard.clone(), current.clone(), replica.clone()));
    let hello = current.plan.settings.send_header.map(hello).unwrap_or_default();
    let checker = Rc::new(Checker {
        shard: shard.clone(),
        current: current.clone(),
        replica,
        checks: checks.clone(),
        hello,
        rng: RefCell::new(Pcg64Mcg::seed_from_u64(shard.reactor().seed())),
    });
    let leading = shard.spawn("health, checking", checker.lead());
    Ok(Checking(vec![Some(following), Some(leading)]))
}

/// What says that a connection is for no client.
fn hello(version: HeaderVersion) -> Vec<u8> {
    // It has no names and values, so that nothing of it could have no place.
    ProxyHeader::new(version, Subject::Own).encode().unwrap_or_default()
}

/// Lets this shard's upstreams know what is published.
async fn follow(shard: Shard, current: Rc<Current>, replica: Replica<Down>) {
    let mut known = Version::FIRST;
    loop {
        let (version, down) = replica.newer_than(known).await;
        known = version;
        for upstreams in &current.upstreams {
            let own = down.0.iter().filter(|(group, _)| group.as_deref() == upstreams.path());
            let own = own.map(|(_, address)| address.clone()).collect();
            upstreams.learn(shard.now(), &own);
        }
    }
}

struct Checker {
    shard: Shard,
    current: Rc<Current>,
    replica: Replica<Down>,
    checks: Checks,
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

    async fn check_all(self: Rc<Self>) {
        let all = || self.current.upstreams.iter();
        self.forget_others();
        let count: usize = all().map(|upstreams| upstreams.all().len()).sum();
        let each = all().flat_map(|upstreams| upstreams.all().iter().map(|one| (upstreams.path(), one)));
        let loops = each.enumerate().map(|(number, (group, upstream))| {
            // Spread over the interval, so that not all of them are connected to at once.
            let lead = self.checks.interval.mul_f64(number as f64 / count as f64);
            self.check_one(group, upstream, lead)
        });
        join_all(loops).await;
    }

    /// Of this proxy's upstreams those are forgotten that it has no more.
    fn forget_others(&self) {
        let proxy = self.current.plan.name.as_deref();
        let is_own = |path: &Option<String>| {
            let first = path.as_deref().and_then(|path| path.split('/').next());
            proxy.is_none() || first == proxy
        };
        let has = |(path, address): &(Option<String>, String)| {
            let mut groups = self.current.upstreams.iter().filter(|group| group.path() == path.as_deref());
            groups.any(|group| group.all().iter().any(|upstream| upstream.address.to_string() == *address))
        };
        let known = self.replica.value();
        if known.0.iter().any(|key| is_own(&key.0) && !has(key)) {
            let mut down = (*known).clone();
            down.0.retain(|key| !is_own(&key.0) || has(key));
            self.replica.publish(down);
        }
    }

    /// Checks one upstream for ever.
    async fn check_one(&self, group: Option<&str>, upstream: &Upstream, lead: Duration) {
        let key = (group.map(str::to_owned), upstream.address.to_string());
        let mut contradicted = Contradicted::default();
        self.shard.sleep(lead).await;
        loop {
            let began = self.shard.now();
            match self.check(upstream).await {
                // Of our own want of descriptors it is not to blame.
                Err(error) if waterwheel_os::is_shortage(&error) => {
                    tracing::debug!(upstream = key.1, "it cannot be checked: {error}");
                }
                outcome => {
                    let counts = &upstream.counts;
                    add(if outcome.is_ok() { &counts.checks_passed } else { &counts.checks_failed }, 1);
                    let up = !self.replica.value().0.contains(&key);
                    if contradicted.by(outcome.is_ok(), up, &self.checks) {
                        self.turn(&key, outcome);
                    }
                }
            }
            let next = began + self.pause(&contradicted);
            self.shard.sleep_until(next.max(self.shard.now() + LEAST_PAUSE)).await;
        }
    }

    /// Publishes that an upstream is up, or that it is not.
    fn turn(&self, key: &(Option<String>, String), outcome: io::Result<()>) {
        let mut down = (*self.replica.value()).clone();
        match outcome {
            Ok(()) => {
                down.0.remove(key);
                tracing::info!(upstream = key.1, group = key.0, "it is up");
            }
            Err(error) => {
                down.0.insert(key.clone());
                tracing::warn!(upstream = key.1, group = key.0, "it is down: {error}");
            }
        }
        self.replica.publish(down);
    }

    /// From the beginning of one check to that of the next.
    fn pause(&self, contradicted: &Contradicted) -> Duration {
        let Checks { interval, fast_interval, jitter_percent, .. } = self.checks;
        let whole = if contradicted.0 > 0 { fast_interval } else { interval };
        let jitter = f64::from(jitter_percent) / 100.0;
        let drawn = f64::from(self.rng.borrow_mut().next_u32()) / f64::from(u32::MAX);
        whole.mul_f64(1.0 + jitter * (2.0 * drawn - 1.0))
    }

    /// One check: connect, send, and find what is expected.
    async fn check(&self, upstream: &Upstream) -> io::Result<()> {
        let (shard, options) = (&self.shard, &self.current.plan.options);
        let checked = shard.timeout(self.checks.timeout, async {
            let mut connection = shard.connect(&upstream.address, options).await?;
            let asked = self.ask(&mut connection).await;
            // Nobody waits for the end of it, and it leaves nothing behind on either side.
            connection.abort();
            asked
        });
        checked.await?
    }

    async fn ask(&self, connection: &mut Connection) -> io::Result<()> {
        for bytes in [&self.hello, &self.checks.send] {
            if !bytes.is_empty() {
                connection.write_all(bytes).await?;
            }
        }
        let expected = &self.checks.expect;
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
