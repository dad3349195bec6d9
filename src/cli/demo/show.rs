//! The demo's result, as a page of text and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::run::{Asked, ShardResult, Span};
use crate::load::histogram::{Histogram, Percentile};
use crate::load::units;
use crate::proxy::tcp::Counters;

/// What one shard did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ShardRow {
    pub(super) shard: usize,
    /// Connections that its clients opened.
    pub(super) connections: usize,
    /// Connections that its part of the proxy owned.
    pub(super) proxied: u64,
    /// Connections that it accepted and another shard owned.
    pub(super) handed_over: u64,
    /// Messages that its clients sent and got back.
    pub(super) messages: u64,
    /// Messages in the tallies that it keeps for another shard's clients.
    pub(super) tallies: u64,
    /// Messages that it sent to shards.
    pub(super) crossed: u64,
    pub(super) parks: u64,
    pub(super) wakes: u64,
    pub(super) turns: u64,
    /// User and system time of its thread, if the kernel says.
    pub(super) cpu_nanos: Option<u64>,
}

/// One line of the percentiles, in nanoseconds.
#[derive(Debug, Serialize)]
struct Latency {
    percentile: String,
    nanos: u64,
}

/// What the demo found.
#[derive(Debug, Serialize)]
pub(super) struct Result {
    /// The version of this shape: 1.
    schema: u32,
    /// Every byte came back right, and every counter agrees.
    pub(super) right: bool,
    faults: Vec<String>,
    reactor: String,
    /// For each shard the CPU that it is pinned to, if it is.
    cpus: Vec<Option<usize>>,
    /// From the first message to the end of the load.
    seconds: f64,
    /// Whether it was stopped before its time.
    interrupted: bool,
    message_bytes: usize,
    messages: u64,
    messages_per_second: f64,
    /// User and system, of the whole process: client, proxy and origin.
    cpu_micros_per_message: Option<f64>,
    latency: Vec<Latency>,
    shards: Vec<ShardRow>,
    proxy: Counters,
    #[serde(skip)]
    histogram: Histogram,
}

impl Result {
    pub(super) fn new(
        asked: Asked,
        reactor: String,
        cpus: Vec<Option<usize>>,
        results: Vec<ShardResult>,
    ) -> Result {
        let mut histogram = Histogram::default();
        let mut proxy = Counters::default();
        let (mut shards, mut faults) = (Vec::new(), Vec::new());
        let span = Span::over(results.iter().filter_map(|result| result.span));
        let interrupted = results.iter().any(|result| result.interrupted);
        for result in results {
            histogram.merge(&result.latency);
            proxy = proxy + result.proxied.counters;
            shards.push(result.row);
            faults.extend(result.faults);
        }
        let cpu: Option<Duration> = shards.iter().map(|row| row.cpu_nanos.map(Duration::from_nanos)).sum();
        let messages: u64 = shards.iter().map(|row| row.messages).sum();
        let tallies: u64 = shards.iter().map(|row| row.tallies).sum();
        let opened: usize = shards.iter().map(|row| row.connections).sum();
        let bytes = messages * asked.size as u64;
        faults.extend(differs("messages in the tallies", tallies, messages));
        faults.extend(differs("bytes through the proxy", proxy.bytes_up, bytes));
        faults.extend(differs("bytes back through the proxy", proxy.bytes_down, bytes));
        faults.extend(differs("connections that the proxy finished", proxy.finished, opened as u64));
        let latency = Percentile::COLUMNS.into_iter().filter_map(|percentile| {
            Some(Latency { percentile: percentile.to_string(), nanos: histogram.at(percentile)? })
        });
        let seconds = span.map_or(0.0, |span| span.to.since(span.from).as_secs_f64());
        Result {
            schema: 1,
            right: faults.is_empty() && messages > 0,
            reactor,
            cpus,
            seconds,
            interrupted,
            message_bytes: asked.size,
            messages,
            messages_per_second: messages as f64 / seconds.max(1e-9),
            cpu_micros_per_message: cpu
                .filter(|_| messages > 0)
                .map(|cpu| cpu.as_secs_f64() * 1e6 / messages as f64),
            latency: latency.collect(),
            shards,
            proxy,
            faults,
            histogram,
        }
    }
}

fn differs(what: &str, found: u64, expected: u64) -> Option<String> {
    (found != expected).then(|| format!("{what}: {found}, expected {expected}"))
}

impl fmt::Display for Result {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: Vec<String> =
            self.cpus.iter().map(|cpu| cpu.map_or("any".to_owned(), |cpu| cpu.to_string())).collect();
        writeln!(f, "client ──▶ proxy ──▶ origin, all on the same {} shards\n", self.cpus.len())?;
        writeln!(f, "reactor      {}", self.reactor)?;
        writeln!(f, "CPUs         {}", cpus.join(", "))?;
        writeln!(
            f,
            "traffic      {} messages of {} bytes in {:.1} s{}, {} a second, there and back through the proxy",
            self.messages,
            self.message_bytes,
            self.seconds,
            if self.interrupted { " (stopped early)" } else { "" },
            units::count(self.messages_per_second)
        )?;
        if let Some(micros) = self.cpu_micros_per_message {
            writeln!(f, "CPU          {micros:.1} µs a message, for client, proxy and origin together")?;
        }
        self.table(f)?;
        self.bars(f)?;
        if self.right {
            writeln!(f, "\nEvery byte came back right.")
        } else {
            self.faults.iter().try_for_each(|fault| writeln!(f, "\nWRONG: {fault}"))?;
            if self.messages == 0 { writeln!(f, "\nWRONG: no message came back") } else { Ok(()) }
        }
    }
}

impl Result {
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:>5} {:>8} {:>8} {:>11} {:>10} {:>10} {:>9} {:>9} {:>9}",
            "shard", "clients", "proxied", "handed-over", "messages", "to-shards", "turns", "parks", "wakes"
        )?;
        for row in &self.shards {
            writeln!(
                f,
                "{:>5} {:>8} {:>8} {:>11} {:>10} {:>10} {:>9} {:>9} {:>9}",
                row.shard,
                row.connections,
                row.proxied,
                row.handed_over,
                row.messages,
                row.crossed,
                row.turns,
                row.parks,
                row.wakes
            )?;
        }
        Ok(())
    }

    /// Percentiles, and how the round trips spread: one line for each doubling.
    fn bars(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.latency.iter().map(|at| format!("{} {}", at.percentile, units::latency(at.nanos)));
        writeln!(f, "\nround trip   {}", line.collect::<Vec<_>>().join("   "))?;
        let buckets = self.histogram.doublings();
        let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        for (below, count) in buckets {
            let width = (count * 50).div_ceil(most) as usize;
            writeln!(f, "  < {:>8} {:>9} {}", units::latency(below), count, "█".repeat(width))?;
        }
        Ok(())
    }
}
