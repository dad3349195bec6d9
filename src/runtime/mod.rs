//! All shards together: settings, placement, start, signals, stop.

mod blocking;
mod boot;
mod cgroup;
mod choose;
mod config;
mod cpus;
mod datagrams;
mod declare;
mod given;
mod knob;
mod lifecycle;
mod listeners;
mod measured;
mod pausing;
mod plan;
mod portions;
mod protocols;
mod reporter;
#[expect(clippy::module_inception, reason = "the type that the floor is named after")]
mod runtime;
mod service;
mod services;
mod signal;
mod signal_stream;
mod stop;
mod supervision;
mod topology;
mod watch;

pub use blocking::{Blocking, BlockingError, Cancelled};
pub use choose::{Choice, choose, reactors};
pub use config::{Config, ConfigError};
pub use cpus::{CpuList, CpuListError};
pub use knob::Knob;
#[cfg(feature = "cli")]
pub(crate) use knob::distance;
#[cfg(feature = "uring")]
pub use knob::uring::{Feature as UringFeature, Features as UringFeatures};
pub use lifecycle::{StepTimes, TooLate, Trigger, When};
pub use listeners::Listeners;
pub use plan::Plan;
pub use portions::Quotas;
pub use protocols::Protocols;
pub use runtime::{RunError, Runtime, StartError};
pub use service::{Service, serve};
pub use services::{Escalated, Policy, Services};
pub use signal::{Signal, SignalError, Signals};
pub use signal_stream::SignalStream;
pub use stop::Stopper;
pub(crate) use supervision::Failures;
pub use supervision::{OnFailure, Supervision};
