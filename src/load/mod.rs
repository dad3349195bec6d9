//! The load harness: tells what a server does, and when the harness itself is the bottleneck.
//!
//! | part | what it knows |
//! |---|---|
//! | [`schedule`] | when requests are planned, from numbers alone |
//! | [`account`] | where each planned request ended; the sum is checked |
//! | [`histogram`] | latencies, and when a percentile may be printed |
//! | [`slo`] | thresholds |
//! | [`target`] | what is loaded |
//! | [`usage`] | what the kernel counted: CPU and memory of the target and of ourselves |

pub mod account;
pub mod histogram;
pub mod schedule;
pub mod slo;
pub mod target;
pub mod units;
pub mod usage;
