//! What shards count: counters, gauges and histograms, each shard's own, merged by message when somebody asks.
//!
//! A number is declared before the shards start, as ports are, and each shard has its part in it: a plain cell, which only
//! its own tasks touch. Counting takes no lock and no atomic.
//!
//! | declared by | on a shard | is |
//! |---|---|---|
//! | [`Runtime::counter`](crate::runtime::Runtime::counter) | [`Shard::counter`](crate::shard::Shard::counter) | a number that only grows |
//! | [`Runtime::gauge`](crate::runtime::Runtime::gauge) | [`Shard::gauge`](crate::shard::Shard::gauge) | how many there are now |
//! | [`Runtime::histogram`](crate::runtime::Runtime::histogram) | [`Shard::histogram`](crate::shard::Shard::histogram) | how values are distributed |
//! | [`counters`](crate::runtime::Runtime::counters), [`gauges`](crate::runtime::Runtime::gauges), [`histograms`](crate::runtime::Runtime::histograms) | [`Shard::children`](crate::shard::Shard::children) | the same with labels |
//! | [`Runtime::condition`](crate::runtime::Runtime::condition) | | something that is needed to be ready |
//!
//! Who wants to read asks all shards, each of which copies its numbers within one poll ([`Shard::scrape`]), or asks the
//! admin endpoint (`WATERWHEEL_ADMIN=tcp:127.0.0.1:9100`) over HTTP:
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` | all numbers, as Prometheus text or, to who accepts it, OpenMetrics |
//! | `/health` | 200 as long as the shard that serves it turns; names shards that do not answer, wait for their restart or have ended |
//! | `/health/shards` | the same, and 503 while a shard does not answer within 0.5 s or has ended for good: only a new process helps |
//! | `/ready` | 200 while the program serves, else 503 and what it waits for |
//!
//! What holds:
//!
//! * **A counter never goes back** while the runtime runs. A shard that fails leaves what it has counted to its next life,
//!   and what is told of it meanwhile. Of one that does not answer in time there is what it said last, and
//!   `waterwheel_shard_answered` is 0. A gauge ends with the life of its shard.
//! * **Memory is bounded**: a family has a limit of children ([`FamilyOptions::children`]), a label's value one of length.
//! * **The endpoint** is served by the first shard that has not ended for good, without steering: a few connections at once,
//!   each with limits on its head and its time. It answers also while that shard waits for its restart and while it drains.
//!
//! ```
//! use std::time::Duration;
//! use waterwheel::runtime::{Config, Runtime};
//!
//! # #[cfg(feature = "epoll")]
//! # fn main() -> anyhow::Result<()> {
//! let runtime = Runtime::new(Config::default().cores(1).reactor("epoll"))?;
//! let requests = runtime.counter("mill_requests_total", "Requests answered.")?;
//! runtime.run(move |shard| {
//!     let requests = requests.clone();
//!     async move {
//!         let counter = shard.counter(&requests)?;
//!         counter.increment();
//!         let scrape = shard.scrape(Duration::from_secs(1)).await?;
//!         anyhow::ensure!(scrape.counter(&requests, []) == 1);
//!         Ok(())
//!     }
//! })?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "epoll"))]
//! # fn main() {}
//! ```
//!
//! [`Shard::scrape`]: crate::shard::Shard::scrape

pub(crate) mod admin;
mod cells;
mod datagrams;
mod distribution;
mod family;
mod own;
mod process;
mod registry;
mod scrape;
pub(crate) mod status;
mod store;
mod text;

pub use cells::{Counter, Gauge, Histogram, Kind};
pub use distribution::Distribution;
pub use family::{CHILDREN_MAX, Family, FamilyError, FamilyOptions, Unit};
pub use registry::Registry;
pub use scrape::Scrape;
pub use status::Condition;
pub use store::Children;
pub use text::Format;
