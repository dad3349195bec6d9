//! The proxy at work: one task per client connection.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::select;
use waterwheel_reactor::{Address, ConnectOptions, ListenOptions, Side, StreamOptions};

use super::counters::{Cells, Report, ShardReport, UpstreamCounters, add};
use super::first::{self, First, Refusal};
use super::itself::reaches;
use super::measures::Measures;
use super::routes::Routes;
use super::settings::{ProxyError, Settings};
use super::upstreams::{Lease, Upstreams};
use crate::mesh::Remote;
use crate::net::{AcceptCounters, AcceptStats, Connection, End, Endpoint, Listening, PeekError, Places};
use crate::runtime::{OnFailure, Runtime, StartError};
use crate::shard::{Shard, ShardId};

/// How long the asking thread waits for a shard's counters.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// TCP keep-alive is on where the idle limit is longer than this, or none: asking costs packets, and setting it up
/// three system calls for each connection to an upstream.
const KEEPALIVE_WANTED: Duration = Duration::from_secs(600);
/// A silent peer is asked after so long, then at each tenth of it.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// A proxy that is bound and checked, but does not run yet.
#[derive(Clone, Debug)]
pub struct Proxy {
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    settings: Settings,
    listeners: Vec<Listening>,
    /// Those without a name, then each group's.
    upstreams: Vec<Vec<Address>>,
    routes: Routes,
    /// For connections to upstreams.
    options: ConnectOptions,
    reactor: &'static str,
    /// By shard: what it had counted when it ended.
    last: Mutex<Vec<Option<ShardReport>>>,
    /// `None`: another proxy of this runtime has them.
    measures: Option<Measures>,
}

/// What one shard of the proxy shares among its connections.
#[derive(Debug)]
struct State {
    plan: Arc<Plan>,
    /// By the place of their group.
    upstreams: Vec<Upstreams>,
    cells: Cells,
    accepting: Vec<Rc<AcceptCounters>>,
}

impl Proxy {
    /// Resolves the upstreams and binds the listeners. Clients may connect from here on.
    ///
    /// # Errors
    /// No listener or no upstream, a limit of no connections or no time, a name that is not known, a port in use, or an
    /// upstream that is the proxy itself.
    pub fn bind(runtime: &Runtime, settings: Settings) -> Result<Proxy, ProxyError> {
        if settings.listen.is_empty() {
            return Err(ProxyError::NoListener);
        }
        if settings.upstreams.is_empty() && settings.routes.is_empty() {
            return Err(ProxyError::NoUpstream);
        }
        let (connections, shards) = (settings.connections, runtime.shards());
        if connections < shards {
            return Err(ProxyError::TooFewConnections { connections, shards });
        }
        if settings.connect_timeout.is_zero() {
            return Err(ProxyError::NoTimeToConnect);
        }
        if settings.first_bytes_timeout.is_zero() {
            return Err(ProxyError::NoTimeForFirstBytes);
        }
        if settings.header.as_ref().is_some_and(|policy| policy.trusted.is_empty()) {
            return Err(ProxyError::NoTrustedSource);
        }
        let routes = Routes::new(&settings)?;
        let groups = settings.all_upstreams().map(|endpoints| resolve(runtime, endpoints));
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        let stream = StreamOptions { keepalive: keepalive(settings.idle_timeout), ..Default::default() };
        let options = ConnectOptions { stream, ..Default::default() };
        let mut listeners = Vec::new();
        for listen in &settings.listen {
            let listening = runtime.listen_with(listen, &ListenOptions { stream, ..Default::default() })?;
            let mut all = groups.iter().flatten();
            if let Some((upstream, _)) = all.find(|(_, address)| reaches(address, listening.local())) {
                return Err(ProxyError::Itself { upstream: (*upstream).clone(), listener: listen.clone() });
            }
            listeners.push(listening);
        }
        let addresses = |group: Vec<(_, Address)>| group.into_iter().map(|(_, address)| address).collect();
        let upstreams = groups.into_iter().map(addresses).collect();
        let reactor = runtime.choice().reactor;
        let last = Mutex::new(vec![None; shards]);
        let measures = Measures::declare(runtime)
            .inspect_err(|error| tracing::warn!("the metrics are of another proxy alone: {error}"))
            .ok();
        let plan = Plan { settings, listeners, upstreams, routes, options, reactor, last, measures };
        Ok(Proxy { plan: Arc::new(plan) })
    }

    /// Where it listens, ports resolved, in the order of the settings.
    pub fn local(&self) -> Vec<Address> {
        self.plan.listeners.iter().map(|listening| listening.local().clone()).collect()
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
        let plan = &self.plan;
        let mut acceptors = Vec::new();
        for listening in &plan.listeners {
            acceptors.push(shard.accept_on(listening)?);
        }
        let state = Rc::new(State {
            plan: plan.clone(),
            upstreams: plan.groups(shard.id().index()),
            cells: Cells::default(),
            accepting: acceptors.iter().map(|acceptor| acceptor.counters()).collect(),
        });
        shard.keep(state.clone());
        let measured = state.clone();
        let last = Last { state: state.clone(), shard };
        if let Some(measures) = &plan.measures {
            measures.watch(shard, move |with| with(&measured.cells.copy(), &measured.upstream_counters()))?;
        }
        begun();
        let places = Places::new(shard.part_of(plan.settings.connections).len());
        let serving = acceptors.into_iter().map(|acceptor| {
            let state = state.clone();
            let places = places.clone();
            async move { acceptor.serve_in(&places, move |client| serve_client(state.clone(), client)).await }
        });
        // Whatever still runs when the drain's time is up is cut short, and counted so.
        select(futures_util::future::join_all(serving), pin!(shard.time_up())).await;
        Ok(last.write())
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
        let all = self.plan.last();
        for last in all.iter().flatten() {
            if reports.iter().all(|report| report.shard != last.shard) {
                reports.push(last.clone());
            }
        }
        reports.sort_by_key(|report| report.shard);
        let silent =
            (0..all.len()).filter(|shard| reports.iter().all(|report| report.shard != *shard)).collect();
        Report::new(self.plan.reactor, reports, self.undelivered(), silent)
    }

    /// The report of a run that has ended.
    pub fn final_report(&self, shards: Vec<ShardReport>) -> Report {
        Report::new(self.plan.reactor, shards, self.undelivered(), Vec::new())
    }

    fn undelivered(&self) -> u64 {
        self.plan.listeners.iter().map(Listening::undelivered).sum()
    }
}

/// The addresses of upstreams, each with what stands for it in the settings.
fn resolve<'s>(
    runtime: &Runtime,
    endpoints: &'s [Endpoint],
) -> Result<Vec<(&'s Endpoint, Address)>, ProxyError> {
    let mut resolved = Vec::new();
    for endpoint in endpoints {
        endpoint.check_target().map_err(StartError::from)?;
        let addresses = runtime.resolve_blocking(endpoint)?;
        if let [_, _, ..] = addresses[..] {
            let all = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!("upstream {endpoint} is {} upstreams: {all}", addresses.len());
        }
        resolved.extend(addresses.into_iter().map(|address| (endpoint, address)));
    }
    Ok(resolved)
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
    let (asked, shards, serving) = (proxy.clone(), runtime.shards(), proxy.clone());
    let runtime = runtime.on_report(move |remote| report(asked.report(remote, shards)));
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
    match reports {
        Ok(reports) => Ok(proxy.final_report(reports)),
        Err(error) => Err(ProxyError::Run { error, report: Box::new(proxy.with_last(Vec::new())) }),
    }
}

/// Where the idle limit does not end a connection whose peer is gone without a word, the kernel asks.
fn keepalive(idle: Option<Duration>) -> Option<Duration> {
    idle.is_none_or(|limit| limit > KEEPALIVE_WANTED).then_some(KEEPALIVE)
}

impl State {
    fn upstream_counters(&self) -> Vec<UpstreamCounters> {
        self.upstreams.iter().flat_map(Upstreams::counters).collect()
    }

    fn report(&self, shard: &Shard) -> ShardReport {
        let accepting = self.accepting.iter().map(|counters| counters.copy());
        ShardReport {
            shard: shard.id().index(),
            counters: self.cells.copy(),
            accepting: accepting.fold(AcceptStats::default(), std::ops::Add::add),
            upstreams: self.upstream_counters(),
            tasks: shard.stats(),
            messages: shard.mesh_stats(),
        }
    }
}

impl Plan {
    /// Each group as a shard sees it.
    fn groups(&self, shard: usize) -> Vec<Upstreams> {
        let names = self.settings.groups.iter().map(|group| Some(&*group.name));
        let groups = std::iter::once(None).chain(names).zip(&self.upstreams);
        groups.map(|(name, all)| Upstreams::new(name, all, self.settings.balance, shard)).collect()
    }

    fn last(&self) -> MutexGuard<'_, Vec<Option<ShardReport>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves a shard's report behind when its part ends, however that comes about.
struct Last<'a> {
    state: Rc<State>,
    shard: &'a Shard,
}

impl Last<'_> {
    fn write(&self) -> ShardReport {
        let mut report = self.state.report(self.shard);
        report.counters.cut_short += std::mem::take(&mut report.counters.active);
        let mut all = self.state.plan.last();
        all[report.shard].get_or_insert(report).clone()
    }
}

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.write();
    }
}

/// Counts a connection as active, and unless another end was counted as cut short, or as ended by a panic.
struct Open {
    state: Rc<State>,
    ended: bool,
}

impl Open {
    fn new(state: Rc<State>) -> Open {
        add(&state.cells.accepted, 1);
        add(&state.cells.active, 1);
        Open { state, ended: false }
    }

    fn end(mut self, how: impl FnOnce(&Cells) -> &std::cell::Cell<u64>) {
        self.ended = true;
        add(how(&self.state.cells), 1);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let cells = &self.state.cells;
        cells.active.set(cells.active.get() - 1);
        if !self.ended {
            add(if std::thread::panicking() { &cells.panicked } else { &cells.cut_short }, 1);
        }
    }
}

async fn serve_client(state: Rc<State>, mut client: Connection) -> anyhow::Result<()> {
    let open = Open::new(state.clone());
    let settings = &state.plan.settings;
    // On the heap, so that other connections' tasks are not larger for it.
    let first = match settings.asks_first() {
        true => Box::pin(first::read(settings, &state.plan.routes, &mut client)).await,
        false => Ok(First::default()),
    };
    let First { group, header } = match first {
        Ok(first) => first,
        Err(refusal) => return turn_away(open, client, refusal),
    };
    let (mut upstream, lease) = match connect(&state, group, client.shard()).await {
        Ok(connected) => connected,
        Err(error) => {
            // The upstream's refusal is passed on as what it was: a reset.
            client.abort();
            let shortage = waterwheel_os::is_shortage(&error);
            open.end(|cells| if shortage { &cells.shortage } else { &cells.no_upstream });
            return Err(anyhow::Error::new(error).context("no upstream could be connected"));
        }
    };
    if !header.is_empty() {
        let writing = Box::pin(upstream.write_all(&header));
        // It is little, and the first that is sent: only an upstream that is gone does not take it.
        let written = client.shard().timeout(settings.connect_timeout, writing).await;
        if let Err(error) = written.map_err(io::Error::from).flatten() {
            client.abort();
            upstream.abort();
            open.end(|cells| &cells.upstream_broke);
            return Err(anyhow::Error::new(error).context("an upstream took no PROXY header"));
        }
    }
    let mut pump = client.pump(upstream, settings.idle_timeout);
    let (mut up, mut down) = (0, 0);
    let exchange = std::future::poll_fn(|cx| {
        let polled = Pin::new(&mut pump).poll(cx);
        let (forth, back) = pump.moved();
        add(&state.cells.bytes_up, forth - std::mem::replace(&mut up, forth));
        add(&state.cells.bytes_down, back - std::mem::replace(&mut down, back));
        polled
    })
    .await;
    drop(lease);
    match exchange.end {
        End::Finished => open.end(|cells| &cells.finished),
        End::Idle => open.end(|cells| &cells.idle_closed),
        End::Broken(Side::Source(_)) => open.end(|cells| &cells.client_broke),
        End::Broken(Side::Sink(_)) => open.end(|cells| &cells.upstream_broke),
    }
    Ok(())
}

/// Ends a connection for its first bytes.
fn turn_away(open: Open, client: Connection, refusal: Refusal) -> anyhow::Result<()> {
    match refusal.peek() {
        // As those who only look whether somebody listens.
        Some(PeekError::Ended { bytes: 0 }) => {
            open.end(|cells| &cells.finished);
            return Ok(());
        }
        Some(PeekError::Broken(_)) => open.end(|cells| &cells.client_broke),
        _ if matches!(refusal, Refusal::NoRoute { .. }) => open.end(|cells| &cells.no_route),
        _ => open.end(|cells| &cells.refused),
    }
    client.abort();
    Err(anyhow::Error::new(refusal).context("a client was turned away"))
}

/// Connects to an upstream: the chosen one, then others, as often as the settings allow.
async fn connect(state: &State, group: usize, shard: &Shard) -> io::Result<(Connection, Lease)> {
    let (settings, upstreams) = (&state.plan.settings, &state.upstreams[group]);
    let (turn, mut tried) = (upstreams.turn(), Vec::new());
    let mut last = io::Error::from(io::ErrorKind::NotConnected);
    while tried.len() <= settings.retries
        && let Some((place, lease)) = upstreams.choose(shard.turn_time(), turn, &tried)
    {
        let connecting = shard.connect(&lease.address, &state.plan.options);
        last = match shard.timeout(settings.connect_timeout, connecting).await {
            Ok(Ok(connection)) => {
                lease.connects();
                return Ok((connection, lease));
            }
            Ok(Err(error)) if waterwheel_os::is_shortage(&error) => return Err(error),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
        lease.fails(shard.turn_time());
        add(&state.cells.connect_failed, 1);
        tracing::debug!(upstream = %lease.address, "connecting failed: {last}");
        tried.push(place);
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_is_not_taken_for_the_end_of_the_drain() {
        let plan = Plan {
            settings: Settings::new(Vec::new(), Vec::new()),
            listeners: Vec::new(),
            upstreams: Vec::new(),
            routes: Routes::default(),
            options: ConnectOptions::default(),
            reactor: "none",
            last: Mutex::default(),
            measures: None,
        };
        let state = Rc::new(State {
            upstreams: Vec::new(),
            plan: Arc::new(plan),
            cells: Cells::default(),
            accepting: Vec::new(),
        });
        let panics = || {
            let _open = Open::new(state.clone());
            panic!("planned: while a connection is served");
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        drop(Open::new(state.clone()));
        let counters = state.cells.copy();
        assert_eq!((counters.panicked, counters.cut_short, counters.active), (1, 1, 0));
    }
}
