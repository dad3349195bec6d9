//! The load harness: tells what a server does, and when the harness itself is the bottleneck.
//!
//! | part | what it knows |
//! |---|---|
//! | [`plan`] | what a run is asked to do |
//! | [`schedule`] | when requests are planned, from numbers alone |
//! | [`workload`] | what one request is; write your own |
//! | [`job`] | one run over all shards |
//! | [`account`] | where each planned request ended; the sum is checked |
//! | [`tally`], [`histogram`] | what a shard counts; latencies, and when a percentile may be printed |
//! | [`slo`] | thresholds |
//! | [`target`] | what is loaded |
//! | [`usage`] | what the kernel counted: CPU and memory of the target and of ourselves |
//! | [`progress`] | the last second |
//! | [`verdict`], [`report`] | whether it may be believed; what it came to, for people and machines |
//! | [`origin`] | servers to load |
//!
//! On each shard one task per connection, and one that walks the schedule. An arrival takes an idle connection or waits
//! for one. Shards meet only between the phases of a run (connect, warm up, measure).

pub mod account;
mod generator;
pub mod histogram;
pub mod job;
mod meeting;
pub mod origin;
pub mod plan;
mod pool;
pub mod progress;
pub mod report;
pub mod schedule;
pub mod slo;
pub mod tally;
pub mod target;
pub mod units;
pub mod usage;
pub mod verdict;
pub mod workload;

#[cfg(test)]
mod tests;
