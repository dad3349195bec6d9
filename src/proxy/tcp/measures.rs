//! What a proxy counts, under the names that a scraper sees.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::counters::{Counters, UpstreamCounters, UpstreamState};
use crate::metrics::{Children, Counter, Family, FamilyError, FamilyOptions, Gauge};
use crate::runtime::Runtime;
use crate::shard::Shard;

/// How connections came to their end: the value of a label, and its counter.
type End = (&'static str, fn(&Counters) -> u64);

const ENDS: [End; 14] = [
    ("finished", |all| all.finished),
    ("idle", |all| all.idle_closed),
    ("expired", |all| all.expired),
    ("client_broke", |all| all.client_broke),
    ("upstream_broke", |all| all.upstream_broke),
    ("no_upstream", |all| all.no_upstream),
    ("no_place", |all| all.no_place),
    ("refused", |all| all.refused),
    ("too_many", |all| all.too_many),
    ("too_often", |all| all.too_often),
    ("no_route", |all| all.no_route),
    ("shortage", |all| all.shortage),
    ("panicked", |all| all.panicked),
    ("cut_short", |all| all.cut_short),
];
const BYTES: [End; 2] = [("up", |all| all.bytes_up), ("down", |all| all.bytes_down)];
/// What is counted of each upstream: its name, what it is, and its counter.
type OfUpstream = (&'static str, &'static str, fn(&UpstreamCounters) -> u64);

const OF_UPSTREAMS: [OfUpstream; 8] = [
    ("proxy_upstream_connections_total", "Connections made to an upstream.", |one| one.connected),
    ("proxy_upstream_connects_failed_total", "Attempts to connect to an upstream that failed.", |one| {
        one.failed
    }),
    (
        "proxy_upstream_early_resets_total",
        "Connections that an upstream reset before it had sent a byte.",
        |one| one.early_resets,
    ),
    (
        "proxy_upstream_ejections_total",
        "How often a shard left an upstream alone because connections to it failed.",
        |one| one.ejections,
    ),
    (
        "proxy_upstream_retries_refused_total",
        "Failed attempts after which the budget allowed no other.",
        |one| one.retries_refused,
    ),
    (
        "proxy_upstream_queue_waits_total",
        "Connections that waited for a place at some upstream before they got this one.",
        |one| one.queue_waits,
    ),
    ("proxy_upstream_checks_passed_total", "Active checks that an upstream passed.", |one| one.checks_passed),
    ("proxy_upstream_checks_failed_total", "Active checks that an upstream failed.", |one| one.checks_failed),
];
/// Upstreams that are told of one by one.
const UPSTREAMS_MAX: usize = 1_000;

/// The families of a proxy.
#[derive(Debug)]
pub(super) struct Measures {
    accepted: Family<Counter>,
    active: Family<Gauge>,
    ended: Family<Counter, 1>,
    bytes: Family<Counter, 1>,
    retries: Family<Counter>,
    upstream_up: Family<Gauge, 3>,
    upstream_active: Family<Gauge, 3>,
    of_upstreams: Vec<Family<Counter, 3>>,
}

impl Measures {
    pub(super) fn declare(runtime: &Runtime) -> Result<Measures, FamilyError> {
        let options = FamilyOptions { children: UPSTREAMS_MAX, ..FamilyOptions::default() };
        let of_upstreams = ["proxy", "group", "upstream"];
        let counted =
            OF_UPSTREAMS.iter().map(|(name, help, _)| runtime.counters(name, help, of_upstreams, options));
        Ok(Measures {
            accepted: runtime.counter("proxy_connections_total", "Client connections.")?,
            active: runtime.gauge("proxy_connections_active", "Client connections that are being served.")?,
            ended: runtime.counters(
                "proxy_connections_ended_total",
                "Client connections by how they ended.",
                ["how"],
                options,
            )?,
            bytes: runtime.counters(
                "proxy_forwarded_bytes_total",
                "Bytes from clients (up) and to them (down).",
                ["direction"],
                options,
            )?,
            retries: runtime
                .counter("proxy_retries_total", "Attempts at another upstream after one failed.")?,
            upstream_up: runtime.gauges(
                "proxy_upstream_up",
                "Shards that send new connections to an upstream.",
                of_upstreams,
                options,
            )?,
            of_upstreams: counted.collect::<Result<_, _>>()?,
            upstream_active: runtime.gauges(
                "proxy_upstream_connections_active",
                "Connections to an upstream, and attempts at one.",
                of_upstreams,
                options,
            )?,
        })
    }

    /// Copies what a shard counts whenever somebody is about to ask; `counted` gives it to whom it is given.
    ///
    /// # Errors
    /// The shard ends.
    pub(super) fn watch(
        &self,
        shard: &Shard,
        counted: impl Fn(&dyn Fn(&Counters, &[UpstreamCounters])) + 'static,
    ) -> Result<(), FamilyError> {
        let (accepted, active) = (shard.counter(&self.accepted)?, shard.gauge(&self.active)?);
        let (ended, bytes) = (shard.children(&self.ended)?, shard.children(&self.bytes)?);
        let retries = shard.counter(&self.retries)?;
        let upstream_up = shard.children(&self.upstream_up)?;
        let upstream_active = shard.children(&self.upstream_active)?;
        let of_upstreams =
            self.of_upstreams.iter().map(|family| shard.children(family)).collect::<Result<Vec<_>, _>>()?;
        let known: RefCell<BTreeMap<[String; 3], Told>> = RefCell::default();
        shard.before_scrape(move || {
            counted(&|all, upstreams| {
                accepted.raise_to(all.accepted);
                active.set(all.active as f64);
                raise(&ended, &ENDS, all);
                raise(&bytes, &BYTES, all);
                retries.raise_to(all.retries);
                let mut now: BTreeMap<[String; 3], Told> = BTreeMap::new();
                for upstream in upstreams {
                    now.entry(labels(upstream)).or_default().add(upstream);
                }
                let before = known.take();
                // One that the settings do not have any more would stand there for ever as it was.
                for labels in before.keys().filter(|labels| !now.contains_key(*labels)) {
                    let labels = labels.each_ref().map(|label| &**label);
                    upstream_up.with(labels).set(0.0);
                    upstream_active.with(labels).set(0.0);
                }
                for (labels, told) in &now {
                    let counted = before.get(labels).map(|before| before.counted).unwrap_or_default();
                    let labels = labels.each_ref().map(|label| &**label);
                    upstream_up.with(labels).set(told.up as f64);
                    upstream_active.with(labels).set(told.active as f64);
                    for (place, children) in of_upstreams.iter().enumerate() {
                        // Less than before: one that was taken out of the settings and put back began anew.
                        let more = told.counted[place].checked_sub(counted[place]);
                        children.with(labels).add(more.unwrap_or(told.counted[place]));
                    }
                }
                known.replace(now);
            });
        })
    }
}

fn labels(upstream: &UpstreamCounters) -> [String; 3] {
    let UpstreamCounters { proxy, group, address, .. } = upstream;
    [proxy.as_deref().unwrap_or_default(), group.as_deref().unwrap_or_default(), address].map(str::to_owned)
}

/// What was told of the upstreams that have the same labels: an address may stand twice in a group.
#[derive(Debug, Default)]
struct Told {
    up: u64,
    active: u64,
    counted: [u64; OF_UPSTREAMS.len()],
}

impl Told {
    fn add(&mut self, upstream: &UpstreamCounters) {
        self.up += u64::from(upstream.state == UpstreamState::Up);
        self.active += upstream.active;
        for (counted, (_, _, read)) in self.counted.iter_mut().zip(&OF_UPSTREAMS) {
            *counted += read(upstream);
        }
    }
}

fn raise(children: &Children<Counter, 1>, rows: &[End], all: &Counters) {
    rows.iter().for_each(|(label, read)| children.with([*label]).raise_to(read(all)));
}
