//! All proxies of a process, over all shards and versions.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use flume::Sender;

use waterwheel_reactor::Address;

use super::access::AccessLog;
use super::change::{Orders, obey};
use super::checks;
use super::clients::Clients;
use super::counters::{Report, ShardReport};
use super::down::Down;
use super::limits::Limits;
use super::measures::Measures;
use super::part::State;
use super::plan::{Named, Version, plan_all};
use super::settings::{ProxyError, Settings};
use crate::mesh::{Remote, Replicated};
use crate::runtime::{Listeners, OnFailure, RunError, Runtime, Signal, StartError};
use crate::shard::{Shard, ShardId};

/// How long the asking thread waits for a shard's counters.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A proxy that is bound and checked, or several. Clones are the same.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) listeners: Listeners,
    /// By which a new version comes to each shard.
    pub(super) orders: Orders,
    pub(super) limits: Limits,
    /// What the checks found.
    health: Replicated<Down>,
    clients: Clients,
    /// Locked when a shard begins and ends, and by changes.
    newest: Mutex<Newest>,
    /// There is one change at a time.
    pub(super) changing: AtomicBool,
    reactor: &'static str,
    /// `None`: other proxies of this runtime have them.
    measures: Option<Measures>,
    log: OnceLock<AccessLog>,
    /// By shard: what it had counted when it ended.
    last: Mutex<Vec<Option<ShardReport>>>,
}

/// What shards begin with, also those that begin again; and which of them are at work. Both at once, so that a shard either
/// begins with a new version or is told of it.
#[derive(Debug)]
struct Newest {
    version: Arc<Version>,
    /// By shard: the number of the version that it began with, as long as it serves.
    begun: Box<[Option<u64>]>,
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn newest(&self) -> Arc<Version> {
        self.locked().version.clone()
    }

    pub(super) fn set_newest(&self, version: Arc<Version>) {
        let before = std::mem::replace(&mut self.locked().version, version);
        drop(before);
    }

    /// What a shard begins with; from now on it is told of changes.
    fn begin(&self, shard: ShardId) -> Arc<Version> {
        let mut newest = self.locked();
        newest.begun[shard.index()] = Some(newest.version.number);
        newest.version.clone()
    }

    /// Whether a shard is at work.
    pub(super) fn has_begun(&self, shard: ShardId) -> bool {
        self.locked().begun[shard.index()].is_some()
    }

    /// Whether a shard is at work that began with an older version than this, so that it has to be told.
    pub(super) fn has_begun_before(&self, shard: ShardId, number: u64) -> bool {
        self.locked().begun[shard.index()].is_some_and(|begun| begun < number)
    }

    fn last(&self) -> MutexGuard<'_, Vec<Option<ShardReport>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Resolves the upstreams and binds the listeners. Clients may connect from here on.
    ///
    /// # Errors
    /// No listener or no upstream, a limit of no connections or no time, a name that is not known, a port in use, or an
    /// upstream that is the proxy itself.
    pub fn bind(runtime: &Runtime, settings: Settings) -> Result<Proxy, ProxyError> {
        Proxy::bind_all(runtime, vec![(None, settings)])
    }

    /// The same for several proxies at once, which are told apart by their names.
    ///
    /// # Errors
    /// As [`bind`](Proxy::bind), and [`ProxyError::Of`] where a proxy has a name; no proxy at all.
    pub fn bind_all(runtime: &Runtime, wanted: Vec<Named>) -> Result<Proxy, ProxyError> {
        let listeners = runtime.listeners();
        let limits = Limits::default();
        let nothing = Version { number: 0, plans: Vec::new() };
        let (plans, bound) = plan_all(&listeners, &limits, wanted, &nothing)?;
        let first = plans.first().and_then(|plan| plan.listeners.first()).ok_or(ProxyError::NoListener)?;
        // Port names live as long as the program; a runtime has one proxy at an address.
        let name: &'static str = format!("changes of the proxy at {}", first.local()).leak();
        let orders = runtime.call_port(name).map_err(StartError::from)?;
        let health = checks::declare(runtime, &first.local().to_string()).map_err(StartError::from)?;
        let name: &'static str = format!("clients of the proxy at {}", first.local()).leak();
        let lease = runtime.key_lease(name).map_err(StartError::from)?;
        let clients = Clients { lease, seed: listeners.steer_seed() };
        let last = Mutex::new(vec![None; listeners.shards()]);
        drop(bound.keep());
        let (version, begun) = (Arc::new(Version { number: 0, plans }), vec![None; listeners.shards()]);
        let newest = Mutex::new(Newest { version, begun: begun.into() });
        let (changing, reactor) = (AtomicBool::new(false), runtime.choice().reactor);
        let measures = Measures::declare(runtime)
            .inspect_err(|error| tracing::warn!("the metrics are of other proxies alone: {error}"))
            .ok();
        let shared = Shared {
            listeners,
            limits,
            orders,
            health,
            clients,
            newest,
            changing,
            reactor,
            measures,
            log: OnceLock::new(),
            last,
        };
        Ok(Proxy { shared: Arc::new(shared) })
    }

    /// Tells this log of each connection that has ended. To be said before it serves, and once.
    pub fn log_to(&self, log: AccessLog) {
        // The first one counts.
        let _ = self.shared.log.set(log);
    }

    /// Where it listens, ports resolved, in the order of the settings.
    pub fn local(&self) -> Vec<Address> {
        let newest = self.shared.newest();
        let all = newest.plans.iter().flat_map(|plan| &plan.listeners);
        all.map(|listening| listening.local().clone()).collect()
    }

    /// The number of the settings' version: 0, and one more with each change.
    pub fn version(&self) -> u64 {
        self.shared.newest().number
    }

    /// Serves this shard's part until the shard is asked to stop and its connections have ended; answers what it
    /// counted.
    ///
    /// # Errors
    /// A listener that the reactor refuses.
    pub async fn serve(&self, shard: &Shard) -> anyhow::Result<ShardReport> {
        self.serve_from(shard, || {}).await
    }

    /// The same; `begun` is called once this shard serves and answers when it is asked for a report.
    async fn serve_from(&self, shard: &Shard, begun: impl FnOnce()) -> anyhow::Result<ShardReport> {
        let _begun = Begun { shared: &self.shared, shard: shard.id() };
        let state = loop {
            let version = self.shared.begin(shard.id());
            let common = (&self.shared.health, &self.shared.clients);
            match State::begin(shard, &version, common, self.shared.log.get()) {
                Ok(state) => break state,
                // A change took a listener away in between.
                Err(_) if self.version() != version.number => {}
                Err(error) => return Err(error.into()),
            }
        };
        shard.keep(state.clone());
        obey(shard, &self.shared.orders, &state)?;
        if let Some(measures) = &self.shared.measures {
            let (counted, having) = (state.clone(), state.clone());
            measures.watch(shard, move || counted.totals().0, move |told| having.each_upstream(told))?;
        }
        let last = Last { proxy: self, state: &state, shard, written: Cell::default() };
        begun();
        // Whatever still runs when the drain's time is up is cut short, and counted so.
        state.serve(shard).await;
        Ok(last.write())
    }

    /// What this shard has counted so far in its life; `None` if it does not serve yet.
    pub fn shard_report(&self, shard: &Shard) -> Option<ShardReport> {
        shard.kept::<State>().map(|state| state.report(shard))
    }

    /// What all shards have counted so far, asked for from a thread that is no shard. A shard that has ended is there
    /// with what it had counted by then; one that does not answer within a second is named as silent.
    pub fn report(&self, remote: &Remote, shards: usize) -> Report {
        let (answer, answers) = flume::bounded(shards);
        for shard in 0..shards {
            let answer = answer.clone();
            // A shard that has ended, or is too busy to hear, is silent: the table says so.
            let _ = remote.try_run(ShardId::new(shard), move |shard| {
                if let Some(state) = shard.kept::<State>() {
                    let _ = answer.try_send(state.report(shard));
                }
            });
        }
        drop(answer);
        let mut reports: Vec<ShardReport> = Vec::new();
        while let Ok(report) = answers.recv_timeout(ANSWER_WITHIN) {
            reports.push(report);
        }
        self.with_last(reports)
    }

    /// Adds what the shards had counted that have ended. Those of which nothing is known are named as silent.
    fn with_last(&self, mut reports: Vec<ShardReport>) -> Report {
        let all = self.shared.last();
        for last in all.iter().flatten() {
            if reports.iter().all(|report| report.shard != last.shard) {
                reports.push(last.clone());
            }
        }
        reports.sort_by_key(|report| report.shard);
        let silent =
            (0..all.len()).filter(|shard| reports.iter().all(|report| report.shard != *shard)).collect();
        Report::new(self.shared.reactor, reports, self.undelivered(), silent)
    }

    /// The report of a run that has ended.
    pub fn final_report(&self, shards: Vec<ShardReport>) -> Report {
        Report::new(self.shared.reactor, shards, self.undelivered(), Vec::new())
    }

    fn undelivered(&self) -> u64 {
        self.shared.listeners.undelivered()
    }
}

/// A shard is at work, until this is dropped.
struct Begun<'a> {
    shared: &'a Shared,
    shard: ShardId,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.shared.locked().begun[self.shard.index()] = None;
    }
}

/// Leaves a shard's report behind when its part ends, however that comes about.
struct Last<'a> {
    proxy: &'a Proxy,
    state: &'a State,
    shard: &'a Shard,
    written: Cell<bool>,
}

impl Last<'_> {
    fn write(&self) -> ShardReport {
        let mut report = self.state.report(self.shard);
        let own = report.proxies.iter_mut().map(|proxy| &mut proxy.counters);
        for counters in own.chain([&mut report.counters]) {
            counters.cut_short += std::mem::take(&mut counters.active);
        }
        let mut all = self.proxy.shared.last();
        let last = &mut all[report.shard];
        // Once, since what is counted after that is no connection's; and instead of a life before.
        if !self.written.replace(true) {
            *last = None;
        }
        last.get_or_insert(report).clone()
    }
}

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.write();
    }
}

/// Runs a proxy until it is stopped by a signal, and answers what it counted. `ready` is called, on one of the shards,
/// once all of them serve; `report` on each SIGUSR1.
///
/// # Errors
/// As [`Proxy::bind`] and [`Runtime::run`].
pub fn run(
    runtime: Runtime,
    settings: Settings,
    ready: impl FnOnce(&Proxy) + Send + 'static,
    report: impl Fn(Report) + Send + 'static,
) -> Result<Report, ProxyError> {
    let proxy = Proxy::bind(&runtime, settings)?;
    run_all(runtime, proxy, ready, report, None)
}

/// What is done on SIGHUP: [`Proxy::change_from_outside`], as a rule. Called on a thread of its own, which may wait.
pub type Reload = Box<dyn FnMut(&Proxy, &Remote) + Send>;

/// The same with proxies that were bound before. SIGUSR1 also opens the access log anew.
///
/// # Errors
/// As [`Runtime::run`].
pub fn run_all(
    runtime: Runtime,
    proxy: Proxy,
    ready: impl FnOnce(&Proxy) + Send + 'static,
    report: impl Fn(Report) + Send + 'static,
    reload: Option<Reload>,
) -> Result<Report, ProxyError> {
    let failed = |error| ProxyError::Run { error, report: Box::new(proxy.with_last(Vec::new())) };
    let (asked, shards, serving) = (proxy.clone(), runtime.shards(), proxy.clone());
    let runtime = match reload {
        Some(reload) => {
            let ask = reloads(reload, &proxy, runtime.remote()).map_err(RunError::Threads).map_err(failed)?;
            // Full: one that nobody has begun with comes.
            runtime.on_signal(Signal::Hangup, move || _ = ask.try_send(()))
        }
        None => runtime,
    };
    let runtime = runtime.on_report(move |remote| {
        asked.shared.log.get().inspect(|log| log.reopen());
        report(asked.report(remote, shards));
    });
    // Whoever hears that it is ready may stop it or ask it for a report: the signals are handled by then.
    let (ready, begun) = (Mutex::new(Some(ready)), AtomicUsize::new(0));
    let tell = Arc::new(move |proxy: &Proxy| {
        if begun.fetch_add(1, Relaxed) + 1 == shards
            && let Some(ready) = ready.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            ready(proxy);
        }
    });
    let reports = runtime.on_failure(OnFailure::Restart).run(move |shard| {
        let (proxy, tell) = (serving.clone(), tell.clone());
        async move { proxy.serve_from(&shard, || tell(&proxy)).await }
    });
    if let Some(log) = proxy.shared.log.get() {
        log.flush(LOGGED_WITHIN);
    }
    reports.map(|reports| proxy.final_report(reports)).map_err(failed)
}

/// How long the end of a run waits for the access log.
const LOGGED_WITHIN: Duration = Duration::from_secs(2);

/// The thread that reloads, whenever it is asked to. It inherits the caller's CPU mask, and ends with who asks.
fn reloads(mut reload: Reload, proxy: &Proxy, remote: Remote) -> io::Result<Sender<()>> {
    // Of requests that nobody has begun to answer one is enough.
    let (ask, asked) = flume::bounded(1);
    let proxy = proxy.clone();
    thread::Builder::new().name("reload".to_owned()).spawn(move || {
        for () in asked {
            if catch_unwind(AssertUnwindSafe(|| reload(&proxy, &remote))).is_err() {
                tracing::error!("a reload panicked; the settings are now version {}", proxy.version());
            }
        }
    })?;
    Ok(ask)
}
