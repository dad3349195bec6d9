//! All shards together: settings, placement, start, signals, stop.

mod blocking;
mod boot;
mod cgroup;
mod choose;
mod config;
mod cpus;
mod declare;
mod knob;
mod measured;
mod plan;
mod protocols;
mod reporter;
#[expect(clippy::module_inception, reason = "the type that the floor is named after")]
mod runtime;
mod service;
mod signal;
mod stop;
mod supervision;
mod topology;

pub use blocking::{Blocking, BlockingError, Cancelled};
pub use choose::{Choice, choose, reactors};
pub use config::{Config, ConfigError};
pub use cpus::{CpuList, CpuListError};
pub use knob::Knob;
#[cfg(feature = "uring")]
pub use knob::uring::{Feature as UringFeature, Features as UringFeatures};
pub use plan::Plan;
pub use protocols::Protocols;
pub use runtime::{RunError, Runtime, StartError};
pub use service::{Service, serve};
pub use signal::{Signal, SignalError, Signals};
pub use stop::Stopper;
pub use supervision::{OnFailure, Supervision};
