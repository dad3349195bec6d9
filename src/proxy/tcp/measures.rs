//! What a proxy counts, under the names that a scraper sees.

use super::counters::{Counters, UpstreamCounters};
use crate::metrics::{Children, Counter, Family, FamilyError, FamilyOptions, Gauge};
use crate::runtime::Runtime;
use crate::shard::Shard;

/// How connections came to their end: the value of a label, and its counter.
type End = (&'static str, fn(&Counters) -> u64);

const ENDS: [End; 10] = [
    ("finished", |all| all.finished),
    ("idle", |all| all.idle_closed),
    ("client_broke", |all| all.client_broke),
    ("upstream_broke", |all| all.upstream_broke),
    ("no_upstream", |all| all.no_upstream),
    ("refused", |all| all.refused),
    ("no_route", |all| all.no_route),
    ("shortage", |all| all.shortage),
    ("panicked", |all| all.panicked),
    ("cut_short", |all| all.cut_short),
];
const BYTES: [End; 2] = [("up", |all| all.bytes_up), ("down", |all| all.bytes_down)];
/// Upstreams that are told of one by one.
const UPSTREAMS_MAX: usize = 1_000;

/// The families of a proxy.
#[derive(Debug)]
pub(super) struct Measures {
    accepted: Family<Counter>,
    active: Family<Gauge>,
    ended: Family<Counter, 1>,
    bytes: Family<Counter, 1>,
    upstream_active: Family<Gauge, 2>,
    upstream_connected: Family<Counter, 2>,
    upstream_failed: Family<Counter, 2>,
}

impl Measures {
    pub(super) fn declare(runtime: &Runtime) -> Result<Measures, FamilyError> {
        let options = FamilyOptions { children: UPSTREAMS_MAX, ..FamilyOptions::default() };
        let of_upstreams = ["group", "upstream"];
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
            upstream_active: runtime.gauges(
                "proxy_upstream_connections_active",
                "Connections to an upstream, and attempts at one.",
                of_upstreams,
                options,
            )?,
            upstream_connected: runtime.counters(
                "proxy_upstream_connections_total",
                "Connections made to an upstream.",
                of_upstreams,
                options,
            )?,
            upstream_failed: runtime.counters(
                "proxy_upstream_connects_failed_total",
                "Attempts to connect to an upstream that failed.",
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
        let upstream_active = shard.children(&self.upstream_active)?;
        let upstream_connected = shard.children(&self.upstream_connected)?;
        let upstream_failed = shard.children(&self.upstream_failed)?;
        shard.before_scrape(move || {
            counted(&|all, upstreams| {
                accepted.raise_to(all.accepted);
                active.set(all.active as f64);
                raise(&ended, &ENDS, all);
                raise(&bytes, &BYTES, all);
                for upstream in upstreams {
                    let labels = [upstream.group.as_deref().unwrap_or_default(), &upstream.address];
                    upstream_active.with(labels).set(upstream.active as f64);
                    upstream_connected.with(labels).raise_to(upstream.connected);
                    upstream_failed.with(labels).raise_to(upstream.failed);
                }
            });
        })
    }
}

fn raise(children: &Children<Counter, 1>, rows: &[End], all: &Counters) {
    rows.iter().for_each(|(label, read)| children.with([*label]).raise_to(read(all)));
}
