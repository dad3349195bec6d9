//! What a proxy counts, per shard, and the table it makes of it.

use std::cell::Cell;
use std::fmt;

use serde::Serialize;

use crate::mesh::MeshStats;
use crate::net::AcceptStats;
use crate::shard::ShardStats;

/// One shard's counters. Plain cells: only the shard's own tasks touch them.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) accepted: Cell<u64>,
    pub(super) active: Cell<u64>,
    pub(super) finished: Cell<u64>,
    pub(super) idle_closed: Cell<u64>,
    pub(super) expired: Cell<u64>,
    pub(super) client_broke: Cell<u64>,
    pub(super) upstream_broke: Cell<u64>,
    pub(super) connect_failed: Cell<u64>,
    pub(super) no_upstream: Cell<u64>,
    pub(super) no_place: Cell<u64>,
    pub(super) retries: Cell<u64>,
    pub(super) retries_refused: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) too_many: Cell<u64>,
    pub(super) too_often: Cell<u64>,
    pub(super) no_route: Cell<u64>,
    pub(super) shortage: Cell<u64>,
    pub(super) panicked: Cell<u64>,
    pub(super) cut_short: Cell<u64>,
    pub(super) bytes_up: Cell<u64>,
    pub(super) bytes_down: Cell<u64>,
}

/// Adds to a counter.
pub(super) fn add(cell: &Cell<u64>, by: u64) {
    cell.set(cell.get() + by);
}

/// A copy of one shard's counters, or the sum over all. `accepted` is the sum of `active` and the ways to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Client connections that this shard owned.
    pub accepted: u64,
    /// Of these, those that are being served.
    pub active: u64,
    /// Ended in order by both sides.
    pub finished: u64,
    /// Closed because nothing moved for the idle time.
    pub idle_closed: u64,
    /// Reset because they had lasted for the total time.
    pub expired: u64,
    /// Ended by an error of the client's side.
    pub client_broke: u64,
    /// Ended by an error of the upstream's side.
    pub upstream_broke: u64,
    /// Reset because no upstream could be connected, or none is healthy.
    pub no_upstream: u64,
    /// Reset because each upstream had as many connections as it takes, and none ended in time.
    pub no_place: u64,
    /// Reset for what they sent first, or did not send in time: no PROXY header where one is required, a wrong one, one
    /// from nobody who is trusted, or a wrong hello of TLS.
    pub refused: u64,
    /// Reset since their client had as many connections as it may have.
    pub too_many: u64,
    /// Reset since their client made more than it may in a time.
    pub too_often: u64,
    /// Reset since no upstream is for the server's name that they asked for.
    pub no_route: u64,
    /// Reset since this process had no descriptor or memory left to connect to an upstream.
    pub shortage: u64,
    /// Reset by a panic of the task that served them, which the log has.
    pub panicked: u64,
    /// Ended by the end of the drain time.
    pub cut_short: u64,
    /// Attempts to connect to an upstream that failed; the next one may have succeeded.
    pub connect_failed: u64,
    /// Attempts at another upstream after one that failed.
    pub retries: u64,
    /// Attempts at another upstream that were not made, for the retry budget's sake.
    pub retries_refused: u64,
    /// Bytes from clients to upstreams.
    pub bytes_up: u64,
    /// Bytes from upstreams to clients.
    pub bytes_down: u64,
}

impl Cells {
    /// What a way to end is called: as its counter.
    pub(super) fn name(&self, end: &Cell<u64>) -> &'static str {
        let ends = [
            (&self.finished, "finished"),
            (&self.idle_closed, "idle_closed"),
            (&self.expired, "expired"),
            (&self.client_broke, "client_broke"),
            (&self.upstream_broke, "upstream_broke"),
            (&self.no_upstream, "no_upstream"),
            (&self.no_place, "no_place"),
            (&self.refused, "refused"),
            (&self.too_many, "too_many"),
            (&self.too_often, "too_often"),
            (&self.no_route, "no_route"),
            (&self.shortage, "shortage"),
            (&self.panicked, "panicked"),
            (&self.cut_short, "cut_short"),
        ];
        ends.into_iter().find(|(cell, _)| std::ptr::eq(*cell, end)).map_or("unknown", |(_, name)| name)
    }

    pub(super) fn copy(&self) -> Counters {
        Counters {
            accepted: self.accepted.get(),
            active: self.active.get(),
            finished: self.finished.get(),
            idle_closed: self.idle_closed.get(),
            expired: self.expired.get(),
            client_broke: self.client_broke.get(),
            upstream_broke: self.upstream_broke.get(),
            no_upstream: self.no_upstream.get(),
            no_place: self.no_place.get(),
            retries: self.retries.get(),
            retries_refused: self.retries_refused.get(),
            refused: self.refused.get(),
            too_many: self.too_many.get(),
            too_often: self.too_often.get(),
            no_route: self.no_route.get(),
            shortage: self.shortage.get(),
            panicked: self.panicked.get(),
            cut_short: self.cut_short.get(),
            connect_failed: self.connect_failed.get(),
            bytes_up: self.bytes_up.get(),
            bytes_down: self.bytes_down.get(),
        }
    }
}

impl std::ops::Add for Counters {
    type Output = Counters;

    fn add(self, other: Counters) -> Counters {
        Counters {
            accepted: self.accepted + other.accepted,
            active: self.active + other.active,
            finished: self.finished + other.finished,
            idle_closed: self.idle_closed + other.idle_closed,
            expired: self.expired + other.expired,
            client_broke: self.client_broke + other.client_broke,
            upstream_broke: self.upstream_broke + other.upstream_broke,
            no_upstream: self.no_upstream + other.no_upstream,
            no_place: self.no_place + other.no_place,
            retries: self.retries + other.retries,
            retries_refused: self.retries_refused + other.retries_refused,
            refused: self.refused + other.refused,
            too_many: self.too_many + other.too_many,
            too_often: self.too_often + other.too_often,
            no_route: self.no_route + other.no_route,
            shortage: self.shortage + other.shortage,
            panicked: self.panicked + other.panicked,
            cut_short: self.cut_short + other.cut_short,
            connect_failed: self.connect_failed + other.connect_failed,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
        }
    }
}

/// Whether an upstream gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum UpstreamState {
    /// It does.
    Up,
    /// The checks found it down.
    Down,
    /// It failed too often for clients of this shard, and is left alone for a while.
    Ejected,
    /// Its weight is 0: it keeps what it has.
    Draining,
}

impl fmt::Display for UpstreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            UpstreamState::Up => "up",
            UpstreamState::Down => "down",
            UpstreamState::Ejected => "ejected",
            UpstreamState::Draining => "draining",
        })
    }
}

/// One shard's dealings with one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UpstreamCounters {
    /// The name of its proxy, if that has one.
    pub proxy: Option<String>,
    /// Its group's name, if it has one.
    pub group: Option<String>,
    /// Where it is.
    pub address: String,
    /// What this shard believes of it.
    pub state: UpstreamState,
    /// Connections and attempts at the moment.
    pub active: u64,
    /// Connections made.
    pub connected: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Connections that it reset before it had sent a byte.
    pub early_resets: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// How often the retry budget let nobody try another one after it had failed.
    pub retries_refused: u64,
    /// Connections made after a wait for a place.
    pub queue_waits: u64,
    /// Checks by this shard that it passed; usually one shard checks for all.
    pub checks_passed: u64,
    /// Those that it failed.
    pub checks_failed: u64,
}

impl UpstreamCounters {
    pub(super) fn of(self, proxy: Option<&str>) -> UpstreamCounters {
        UpstreamCounters { proxy: proxy.map(str::to_owned), ..self }
    }
}

/// One proxy of several, on one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProxyCounters {
    /// Its name.
    pub name: String,
    /// What it counted.
    pub counters: Counters,
}

/// All that one shard counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShardReport {
    /// Its number.
    pub shard: usize,
    /// By which version of the settings new connections are served: 0, and one more with each change.
    pub version: u64,
    /// The proxies' own counters, summed.
    pub counters: Counters,
    /// The listeners' counters, summed.
    pub accepting: AcceptStats,
    /// Each proxy that has a name, as of now.
    pub proxies: Vec<ProxyCounters>,
    /// The upstreams'.
    pub upstreams: Vec<UpstreamCounters>,
    /// Tasks and turns.
    pub tasks: ShardStats,
    /// Messages, parks and wakes.
    pub messages: MeshStats,
}

/// What all shards counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The version of this shape: 1.
    pub schema: u32,
    /// The reactor's name.
    pub reactor: &'static str,
    /// The sum over the shards that answered.
    pub total: Counters,
    /// Each shard that answered, in order.
    pub shards: Vec<ShardReport>,
    /// Connections handed over to a shard that had ended by then, over all shards: closed, and counted by nobody else.
    pub undelivered: u64,
    /// Shards that did not answer in time.
    pub silent: Vec<usize>,
}

impl Report {
    pub(super) fn new(
        reactor: &'static str,
        shards: Vec<ShardReport>,
        undelivered: u64,
        silent: Vec<usize>,
    ) -> Report {
        let total = shards.iter().map(|shard| shard.counters).fold(Counters::default(), std::ops::Add::add);
        Report { schema: 1, reactor, total, shards, undelivered, silent }
    }

    /// Ends that the table has no column for; what did not happen is not told.
    fn fmt_ended(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { shortage, panicked, refused, no_route, .. } = self.total;
        if shortage + panicked > 0 {
            writeln!(f, "reset for want of descriptors or memory: {shortage}, by a panic: {panicked}")?;
        }
        if refused + no_route > 0 {
            writeln!(
                f,
                "reset for their first bytes: {refused}, for a name that no route takes: {no_route}"
            )?;
        }
        let Counters { too_many, too_often, expired, .. } = self.total;
        if expired > 0 {
            writeln!(f, "reset at the end of their total time: {expired}")?;
        }
        if too_many + too_often > 0 {
            writeln!(f, "reset for their client's connections at once: {too_many}, in a time: {too_often}")?;
        }
        let Counters { no_place, retries, retries_refused, .. } = self.total;
        if no_place + retries + retries_refused > 0 {
            writeln!(
                f,
                "reset for want of a place: {no_place}, retries: {retries}, and refused: {retries_refused}"
            )?;
        }
        Ok(())
    }

    /// A line per proxy, if there are several, summed over the shards.
    fn fmt_proxies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxies = self.shards.first().map_or(&[][..], |shard| &shard.proxies);
        for ProxyCounters { name, .. } in proxies.iter().filter(|_| proxies.len() > 1) {
            let own = self.shards.iter().flat_map(|shard| &shard.proxies).filter(|one| one.name == *name);
            let sum = own.map(|one| one.counters).fold(Counters::default(), std::ops::Add::add);
            let Counters { accepted, active, finished, bytes_up, bytes_down, .. } = sum;
            writeln!(
                f,
                "proxy {name}: accepted {accepted}, active {active}, finished {finished}, bytes up {bytes_up}, down {bytes_down}"
            )?;
        }
        Ok(())
    }

    /// A line per upstream, summed over the shards.
    fn fmt_upstreams(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, upstream) in
            self.shards.first().map_or(&[][..], |shard| &shard.upstreams).iter().enumerate()
        {
            // A shard may be a version behind.
            let same = |one: &&UpstreamCounters| one.address == upstream.address;
            let each = || self.shards.iter().filter_map(|shard| shard.upstreams.get(place)).filter(same);
            let sum = |of: fn(&UpstreamCounters) -> u64| -> u64 { each().map(of).sum() };
            let path: Vec<&str> =
                [&upstream.proxy, &upstream.group].into_iter().flatten().map(|name| &**name).collect();
            let group = if path.is_empty() { String::new() } else { format!(" of {}", path.join("/")) };
            write!(
                f,
                "upstream {}{group}: {}, active {}, connected {}, failed {}",
                upstream.address,
                // Each shard ejects for itself, so they need not agree.
                each()
                    .map(|one| one.state)
                    .find(|state| *state != UpstreamState::Up)
                    .unwrap_or(upstream.state),
                sum(|u| u.active),
                sum(|u| u.connected),
                sum(|u| u.failed),
            )?;
            // What is not asked for, or did not happen, is not told.
            for (name, count) in [
                ("early resets", sum(|u| u.early_resets)),
                ("ejections", sum(|u| u.ejections)),
                ("retries refused", sum(|u| u.retries_refused)),
                ("after a wait", sum(|u| u.queue_waits)),
                ("checks passed", sum(|u| u.checks_passed)),
                ("checks failed", sum(|u| u.checks_failed)),
            ] {
                if count > 0 {
                    write!(f, ", {name} {count}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    /// A table, a row per shard and one for all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>5} {:>9} {:>7} {:>9} {:>6} {:>7} {:>9} {:>11} {:>9} {:>10} {:>10} {:>8} {:>8} {:>8}",
            "shard",
            "accepted",
            "active",
            "finished",
            "idle",
            "client!",
            "upstream!",
            "no-upstream",
            "cut-short",
            "MiB-up",
            "MiB-down",
            "handed",
            "shed",
            "crowded"
        )?;
        let row = |f: &mut fmt::Formatter<'_>, name: &dyn fmt::Display, c: &Counters, a: &AcceptStats| {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            writeln!(
                f,
                "{name:>5} {:>9} {:>7} {:>9} {:>6} {:>7} {:>9} {:>11} {:>9} {:>10.1} {:>10.1} {:>8} {:>8} {:>8}",
                c.accepted,
                c.active,
                c.finished,
                c.idle_closed,
                c.client_broke,
                c.upstream_broke,
                c.no_upstream,
                c.cut_short,
                mib(c.bytes_up),
                mib(c.bytes_down),
                a.handed_over,
                a.shed,
                a.crowded,
            )
        };
        let mut accepting = AcceptStats::default();
        for shard in &self.shards {
            accepting = accepting + shard.accepting;
            row(f, &shard.shard, &shard.counters, &shard.accepting)?;
        }
        row(f, &"all", &self.total, &accepting)?;
        self.fmt_ended(f)?;
        self.fmt_proxies(f)?;
        self.fmt_upstreams(f)?;
        for shard in &self.silent {
            writeln!(f, "shard {shard} did not answer")?;
        }
        Ok(())
    }
}
