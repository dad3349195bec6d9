//! Flags of `waterwheel proxy tcp` that say how upstreams are watched and spared.

use std::time::Duration;

use clap::Args;

use super::Failure;
use super::values::{YEAR_MS, length, whole};
use crate::net::Endpoint;
use crate::proxy::tcp::{Checks, Ejection, RetryBudget, Settings, unescape};

/// As many as the settings allow.
type Counted = u32;

#[derive(Debug, Args)]
pub(super) struct Upstreams {
    /// Check each upstream by connecting to it, once in so long; one shard checks for all.
    #[arg(long, value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    check_interval: Option<Duration>,
    /// The same while checks contradict what is believed of an upstream. At most --check-interval if that is less.
    #[arg(long, requires = "check_interval", value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    check_fast_interval: Option<Duration>,
    /// By how many percent of itself an interval varies by chance.
    #[arg(long, requires = "check_interval", default_value = "10", value_parser = whole::<Counted, 0, 50>, value_name = "PERCENT")]
    check_jitter: u32,
    /// How long a check may take.
    #[arg(long, requires = "check_interval", default_value = "1s", value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    check_timeout: Duration,
    /// Checks in a row that bring an upstream up again.
    #[arg(long, requires = "check_interval", default_value = "2", value_parser = whole::<Counted, 1, 1_000>, value_name = "COUNT")]
    check_rise: u32,
    /// Failed checks in a row that take it down.
    #[arg(long, requires = "check_interval", default_value = "3", value_parser = whole::<Counted, 1, 1_000>, value_name = "COUNT")]
    check_fall: u32,
    /// What a check sends, with `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH` for bytes that cannot be typed.
    #[arg(long, requires = "check_interval", value_name = "TEXT")]
    check_send: Option<String>,
    /// What has to be in the first 4 KiB of the answer, written as --check-send.
    #[arg(long, requires = "check_interval", value_name = "TEXT")]
    check_expect: Option<String>,
    /// Leave an upstream alone for a while after so many failed connects, or early resets, in a row on one shard.
    #[arg(long, value_parser = whole::<Counted, 1, 1_000>, value_name = "COUNT")]
    eject_after: Option<u32>,
    /// For how long at first; longer each time.
    #[arg(long, requires = "eject_after", default_value = "30s", value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    eject_time: Duration,
    /// And never for longer.
    #[arg(long, requires = "eject_after", default_value = "300s", value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    eject_time_max: Duration,
    /// The most of a group's upstreams that are left alone at once, in percent.
    #[arg(long, requires = "eject_after", default_value = "50", value_parser = whole::<Counted, 0, 100>, value_name = "PERCENT")]
    max_ejected: u32,
    /// If less than so many percent of a group's upstreams are healthy, use all of them; 0: never.
    #[arg(long, default_value = "50", value_parser = whole::<Counted, 0, 100>, value_name = "PERCENT")]
    panic_percent: u32,
    /// The retries per second, in percent of the connections that a shard serves.
    #[arg(long, default_value = "20", value_parser = whole::<Counted, 0, 100>, value_name = "PERCENT")]
    retry_percent: u32,
    /// And so many per second besides, over all shards, but one for each at least; 0: none.
    #[arg(long, default_value = "10", value_parser = whole::<Counted, 0, 1_000_000>, value_name = "COUNT")]
    retry_rate: u32,
    /// Give an upstream that is back a tenth of its weight, and all of it after so long.
    #[arg(long, value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    slow_start: Option<Duration>,
    /// How long a client waits while each upstream has the most connections that it takes; 100 ms at least.
    #[arg(long, default_value = "5s", value_parser = length::<0, YEAR_MS>, value_name = "TIME")]
    queue_timeout: Duration,
    /// The most clients of each group that wait so, over all shards.
    #[arg(long, default_value = "1000", value_parser = whole::<usize, 0, 1_000_000>, value_name = "COUNT")]
    queue_length: usize,
}

impl Upstreams {
    /// The settings that these flags make; the others as by default.
    pub(super) fn settings(self, listen: Vec<Endpoint>) -> Result<Settings, Failure> {
        let ejection = self.eject_after.map(|failures| Ejection {
            failures,
            time: self.eject_time,
            time_max: self.eject_time_max,
            max_ejected_percent: self.max_ejected,
        });
        Ok(Settings {
            retry_budget: Some(RetryBudget { percent: self.retry_percent, per_second: self.retry_rate }),
            panic_percent: self.panic_percent,
            slow_start: self.slow_start,
            queue_timeout: self.queue_timeout,
            queue_length: self.queue_length,
            ejection,
            checks: self.checks()?,
            ..Settings::new(listen, Vec::new())
        })
    }

    fn checks(&self) -> Result<Option<Checks>, Failure> {
        let Some(interval) = self.check_interval else { return Ok(None) };
        let bytes = |flag: &str, text: &Option<String>| {
            let bytes = text.as_deref().map_or(Ok(Vec::new()), unescape);
            bytes.map_err(|error| Failure::Usage(format!("{flag}: {error}")))
        };
        let fast = self.check_fast_interval.unwrap_or(Checks::default().fast_interval.min(interval));
        Ok(Some(Checks {
            interval,
            fast_interval: fast,
            jitter_percent: self.check_jitter,
            timeout: self.check_timeout,
            rise: self.check_rise,
            fall: self.check_fall,
            send: bytes("--check-send", &self.check_send)?,
            expect: bytes("--check-expect", &self.check_expect)?,
        }))
    }
}
