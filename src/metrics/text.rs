//! The text that Prometheus reads: exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>) and OpenMetrics 1.0
//! (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::cells::{Sort, Value};
use super::distribution::Distribution;
use super::family::{Declared, OTHER, SHARD, Unit, Values};
use super::scrape::Scrape;
use crate::shard::Shard;

/// In which format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The media type, as HTTP names it.
    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Scrape {
    /// All of it as text. Gives way to other tasks of `shard` between families: of many shards it is long.
    pub async fn text(&self, shard: &Shard, format: Format) -> String {
        let mut page = Page { text: String::new(), format };
        for family in self.registry.families() {
            self.family(&mut page, &family);
            shard.yield_if_needed().await;
        }
        self.about_shards(&mut page);
        self.about_process(&mut page);
        if format == Format::OpenMetrics {
            page.text.push_str("# EOF\n");
        }
        page.text
    }

    fn family(&self, page: &mut Page, family: &Declared) {
        page.head(&family.name, &family.help, family.sort);
        let values = family.all_values();
        if family.options.by_shard {
            for (shard, one) in self.shards.iter().enumerate() {
                let shard = shard.to_string();
                for (child, value) in one.snapshot.children(family) {
                    page.child(family, &values, *child, Some(&shard), value);
                }
            }
            return;
        }
        let mut sums: BTreeMap<u32, Value> = BTreeMap::new();
        if family.labels.is_empty() {
            // There before the first is counted, so that one can tell nothing from not known.
            sums.insert(0, family.sort.zero());
        }
        for (child, value) in self.shards.iter().flat_map(|one| one.snapshot.children(family)) {
            match sums.get_mut(child) {
                Some(sum) => sum.merge(value),
                None => drop(sums.insert(*child, value.clone())),
            }
        }
        sums.iter().for_each(|(child, sum)| page.child(family, &values, *child, None, sum));
    }

    fn about_shards(&self, page: &mut Page) {
        let (reactor, version) = (self.registry.reactor, env!("CARGO_PKG_VERSION"));
        page.head("waterwheel_build_info", "The version of the framework, and its reactor.", Sort::Gauge);
        page.line("waterwheel_build_info", "", &[("version", version), ("reactor", reactor)], "1");
        page.head("waterwheel_shards", "Shards of the runtime.", Sort::Gauge);
        page.line("waterwheel_shards", "", &[], &self.shards.len().to_string());
        page.head("waterwheel_scrape_seconds", "How long the shards took to answer this.", Sort::Gauge);
        page.line("waterwheel_scrape_seconds", "", &[], &seconds(self.took));
        page.head(
            "waterwheel_shard_answered",
            "1: the shard answered in time. 0: its numbers are what was known of it last.",
            Sort::Gauge,
        );
        for (shard, one) in self.shards.iter().enumerate() {
            let answered = if one.answered { "1" } else { "0" };
            page.line("waterwheel_shard_answered", "", &[(SHARD, &shard.to_string())], answered);
        }
        page.head("waterwheel_shard_restarts_total", "Lives of the shard after its first.", Sort::Counter);
        for (shard, one) in self.shards.iter().enumerate() {
            let labels = [(SHARD, &*shard.to_string())];
            page.line("waterwheel_shard_restarts_total", "", &labels, &one.restarts.to_string());
        }
    }

    fn about_process(&self, page: &mut Page) {
        let process = &self.process;
        let mut one = |name: &str, help: &str, sort, value: Option<String>| {
            if let Some(value) = value {
                page.head(name, help, sort);
                page.line(name, "", &[], &value);
            }
        };
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let time = |value: Option<Duration>| value.map(seconds);
        let (counter, gauge) = (Sort::Counter, Sort::Gauge);
        one("process_cpu_seconds_total", "User and system time of the process.", counter, time(process.cpu));
        one("process_start_time_seconds", "When it began, since 1970.", gauge, time(process.started));
        one("process_resident_memory_bytes", "Memory in use.", gauge, number(process.resident_bytes));
        one("process_virtual_memory_bytes", "Address space in use.", gauge, number(process.virtual_bytes));
        one("process_threads", "Threads.", gauge, number(process.threads));
        one("process_open_fds", "Open descriptors.", gauge, number(process.open_descriptors));
        one("process_max_fds", "The most descriptors it may have.", gauge, number(process.descriptors_max));
    }
}

/// The text so far.
struct Page {
    text: String,
    format: Format,
}

impl Page {
    fn head(&mut self, name: &str, help: &str, sort: Sort) {
        // OpenMetrics describes a counter by its name without the ending.
        let name = match (self.format, sort) {
            (Format::OpenMetrics, Sort::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let _ = write!(self.text, "# HELP {name} ");
        escape(&mut self.text, help, self.format == Format::OpenMetrics);
        let _ = writeln!(self.text, "\n# TYPE {name} {}", sort.name());
    }

    fn child(
        &mut self,
        family: &Declared,
        values: &[Values],
        child: u32,
        shard: Option<&str>,
        value: &Value,
    ) {
        let values = values.get(child as usize).filter(|_| child != family.other());
        let value_of = |at: usize| values.and_then(|values| values.get(at)).map_or(OTHER, |value| &**value);
        let own = family.labels.iter().enumerate().map(|(at, label)| (*label, value_of(at)));
        let labels: Vec<(&str, &str)> = own.chain(shard.map(|shard| (SHARD, shard))).collect();
        match value {
            Value::Count(count) => self.line(&family.name, "", &labels, &scaled(*count, family.unit)),
            Value::Level(level) => self.line(&family.name, "", &labels, &float(*level)),
            Value::Values(values) => self.histogram(family, &labels, values),
        }
    }

    fn histogram(&mut self, family: &Declared, labels: &[(&str, &str)], values: &Distribution) {
        let count = values.count().to_string();
        let mut bucket = |bound: &str, below: &str| {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            self.line(&family.name, "_bucket", &labels, below);
        };
        for (bound, below) in values.up_to_powers(family.unit.powers()) {
            bucket(&scaled(bound, family.unit), &below.to_string());
        }
        bucket("+Inf", &count);
        self.line(&family.name, "_sum", labels, &scaled(values.sum(), family.unit));
        self.line(&family.name, "_count", labels, &count);
    }

    fn line(&mut self, name: &str, ending: &str, labels: &[(&str, &str)], value: &str) {
        self.text.push_str(name);
        self.text.push_str(ending);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(&mut self.text, value, true);
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        self.text.push_str(value);
        self.text.push('\n');
    }
}

/// A label's value and, without quotes, a help text: each is one line.
fn escape(into: &mut String, text: &str, quotes: bool) {
    for letter in text.chars() {
        match letter {
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '"' if quotes => into.push_str("\\\""),
            other => into.push(other),
        }
    }
}

fn scaled(value: u64, unit: Unit) -> String {
    match unit {
        Unit::Seconds => seconds(Duration::from_nanos(value)),
        Unit::Bytes | Unit::Number => value.to_string(),
    }
}

/// Exact, to the nanosecond.
fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn float(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}
