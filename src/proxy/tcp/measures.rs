//! What a proxy counts, under the names that a scraper sees.

use std::cell::RefCell;
use std::collections::BTreeMap;

use waterwheel_reactor::Time;

use super::counters::{Counters, UpstreamState};
use super::upstreams::{Labels, Upstream};
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
type OfUpstream = (&'static str, &'static str, fn(&Upstream) -> u64);

const OF_UPSTREAMS: [OfUpstream; 8] = [
    ("proxy_upstream_connections_total", "Connections made to an upstream.", |one| {
        one.counts.connected.get()
    }),
    ("proxy_upstream_connects_failed_total", "Attempts to connect to an upstream that failed.", |one| {
        one.counts.failed.get()
    }),
    (
        "proxy_upstream_early_resets_total",
        "Connections that an upstream reset before it had sent a byte.",
        |one| one.counts.early_resets.get(),
    ),
    (
        "proxy_upstream_ejections_total",
        "How often a shard left an upstream alone because connections to it failed.",
        Upstream::ejections,
    ),
    (
        "proxy_upstream_retries_refused_total",
        "Failed attempts after which the budget allowed no other.",
        |one| one.counts.retries_refused.get(),
    ),
    (
        "proxy_upstream_queue_waits_total",
        "Connections that waited for a place at some upstream before they got this one.",
        |one| one.counts.queue_waits.get(),
    ),
    ("proxy_upstream_checks_passed_total", "Active checks that an upstream passed.", |one| {
        one.counts.checks_passed.get()
    }),
    ("proxy_upstream_checks_failed_total", "Active checks that an upstream failed.", |one| {
        one.counts.checks_failed.get()
    }),
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

    /// Copies what a shard counts whenever somebody is about to ask: `totals`, and of `each` upstream what is given to whom
    /// it is given.
    ///
    /// # Errors
    /// The shard ends.
    pub(super) fn watch(
        &self,
        shard: &Shard,
        totals: impl Fn() -> Counters + 'static,
        each: impl Fn(&mut dyn FnMut(Labels, &Upstream)) + 'static,
    ) -> Result<(), FamilyError> {
        let (accepted, active) = (shard.counter(&self.accepted)?, shard.gauge(&self.active)?);
        let (ended, bytes) = (shard.children(&self.ended)?, shard.children(&self.bytes)?);
        let retries = shard.counter(&self.retries)?;
        let upstream_up = shard.children(&self.upstream_up)?;
        let upstream_active = shard.children(&self.upstream_active)?;
        let of_upstreams =
            self.of_upstreams.iter().map(|family| shard.children(family)).collect::<Result<Vec<_>, _>>()?;
        let (known, own) = (RefCell::<Known>::default(), shard.clone());
        shard.before_scrape(move || {
            let all = totals();
            accepted.raise_to(all.accepted);
            active.set(all.active as f64);
            raise(&ended, &ENDS, &all);
            raise(&bytes, &BYTES, &all);
            retries.raise_to(all.retries);
            let (mut known, now) = (known.borrow_mut(), own.now());
            each(&mut |labels, upstream| known.meet(labels, upstream, now));
            known.tell(|labels, told| {
                let labels = labels.each_ref().map(|label| &**label);
                upstream_up.with(labels).set(told.up as f64);
                upstream_active.with(labels).set(told.active as f64);
                for (children, (before, counted)) in
                    of_upstreams.iter().zip(told.before.iter().zip(&told.counted))
                {
                    // Less than before: one that was taken out of the settings and put back began anew.
                    children.with(labels).add(counted.checked_sub(*before).unwrap_or(*counted));
                }
            });
        })
    }
}

/// What was told of upstreams, by their labels. Made when one is met first, and kept while it is met: so a scrape makes
/// nothing.
#[derive(Debug, Default)]
struct Known(BTreeMap<Labels, Told>);

impl Known {
    fn meet(&mut self, labels: Labels, upstream: &Upstream, now: Time) {
        self.0.entry(labels).or_default().add(upstream, now);
    }

    /// Tells of all that were met since the last time, and of those that were not, once, that nothing is there: they would
    /// stand there for ever as they were.
    fn tell(&mut self, tell: impl Fn(&Labels, &Told)) {
        self.0.retain(|labels, told| {
            let is_there = told.met > 0;
            if !is_there {
                told.counted = told.before;
            }
            tell(labels, told);
            *told = Told { before: told.counted, ..Told::default() };
            is_there
        });
    }
}

/// What is told of the upstreams that have the same labels: an address may stand twice in a group.
#[derive(Debug, Default)]
struct Told {
    /// How many those are.
    met: u64,
    up: u64,
    active: u64,
    counted: [u64; OF_UPSTREAMS.len()],
    /// That, as it was told last.
    before: [u64; OF_UPSTREAMS.len()],
}

impl Told {
    fn add(&mut self, upstream: &Upstream, now: Time) {
        self.met += 1;
        self.up += u64::from(upstream.state(now) == UpstreamState::Up);
        self.active += upstream.active();
        for (counted, (_, _, read)) in self.counted.iter_mut().zip(&OF_UPSTREAMS) {
            *counted += read(upstream);
        }
    }
}

fn raise(children: &Children<Counter, 1>, rows: &[End], all: &Counters) {
    rows.iter().for_each(|(label, read)| children.with([*label]).raise_to(read(all)));
}
