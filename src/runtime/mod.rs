//! The runtime floor.

mod config;
mod cpus;
mod knob;

pub use config::{Config, ConfigError};
pub use cpus::{CpuList, CpuListError};
pub use knob::Knob;
