//! The runtime floor.

mod cgroup;
mod choose;
mod config;
mod cpus;
mod knob;
mod plan;
mod signal;
mod topology;

pub use choose::{Choice, choose, reactors};
pub use config::{Config, ConfigError};
pub use cpus::{CpuList, CpuListError};
pub use knob::Knob;
pub use plan::Plan;
pub use signal::{Signal, SignalError, Signals};
