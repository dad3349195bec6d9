//! The runtime floor.

mod cgroup;
mod config;
mod cpus;
mod knob;
mod plan;
mod topology;

pub use config::{Config, ConfigError};
pub use cpus::{CpuList, CpuListError};
pub use knob::Knob;
pub use plan::Plan;
