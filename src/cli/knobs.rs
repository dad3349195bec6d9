//! The flags that set what the environment can set too.

use clap::Args;

use super::Failure;
use crate::net::quoted::Quoted;
use crate::runtime::{Config, Knob};
use crate::shard::group::{CONTROL_NAME, DEFAULT_NAME};

/// Each overrides its environment variable.
#[derive(Debug, Args)]
#[command(next_help_heading = "Runtime")]
pub(super) struct Knobs {
    /// How many shards: a number or `auto` (WATERWHEEL_CORES).
    #[arg(long, global = true, value_name = "COUNT")]
    cores: Option<String>,
    /// The CPUs to pin shards to, as in `0-3,8` (WATERWHEEL_CPUS).
    #[arg(long, global = true, value_name = "LIST")]
    cpus: Option<String>,
    /// `auto`, or a name that `waterwheel reactors` lists (WATERWHEEL_REACTOR).
    #[arg(long, global = true, value_name = "NAME")]
    reactor: Option<String>,
    /// What the reactor uring does without, as in `multishot,msg_ring` (WATERWHEEL_URING_OFF).
    #[arg(long, global = true, value_name = "LIST")]
    uring_off: Option<String>,
    /// The most threads for work that blocks (WATERWHEEL_BLOCKING_THREADS).
    #[arg(long, global = true, value_name = "COUNT")]
    blocking_threads: Option<String>,
    /// How connections are assigned to shards: `flow`, `source`, `kernel`, `cpu`, `least`, `key` (WATERWHEEL_STEER).
    #[arg(long, global = true, value_name = "MODE")]
    steer: Option<String>,
    /// Microseconds that an idle shard spins before it parks (WATERWHEEL_SPIN_US).
    #[arg(long, global = true, value_name = "US")]
    spin_us: Option<String>,
    /// Report turns longer than so many milliseconds; 0: none (WATERWHEEL_STALL_MS).
    #[arg(long, global = true, value_name = "MS")]
    stall_ms: Option<String>,
    /// Seconds that connections may take to end when stopping (WATERWHEEL_DRAIN_S).
    #[arg(long, global = true, value_name = "SECONDS")]
    drain_s: Option<String>,
    /// Seconds that all goes on as before when stopping, but for readiness (WATERWHEEL_STOP_DELAY_S).
    #[arg(long, global = true, value_name = "SECONDS")]
    stop_delay_s: Option<String>,
    /// Seconds that steps of the start and the stop may take, as in `before-start=60` (WATERWHEEL_STEPS_S).
    #[arg(long, global = true, value_name = "LIST")]
    steps_s: Option<String>,
    /// What is logged, as in `info` or `warn,waterwheel::net=debug` (WATERWHEEL_LOG).
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Fixes the steering hash's seed (WATERWHEEL_STEER_SEED).
    #[arg(long, global = true, value_name = "SEED")]
    steer_seed: Option<String>,
    /// `off`: shards hand connections over, where the kernel could place them (WATERWHEEL_STEER_PROGRAM).
    #[arg(long, global = true, value_name = "on|off")]
    steer_program: Option<String>,
    /// What is done about a shard that fails: `restart`, `escalate`, `ignore` (WATERWHEEL_ON_FAILURE).
    #[arg(long, global = true, value_name = "WHAT")]
    on_failure: Option<String>,
    /// Failures of a shard within a minute that are followed by a restart (WATERWHEEL_RESTARTS).
    #[arg(long, global = true, value_name = "COUNT")]
    restarts: Option<String>,
    /// Shares of the groups `default` and `control`, as in `default=900,control=100` (WATERWHEEL_SHARES).
    #[arg(long, global = true, value_name = "LIST")]
    shares: Option<String>,
    /// Groups of tasks that come first within their shares, as in `control` (WATERWHEEL_LATENCY_CLASS).
    #[arg(long, global = true, value_name = "LIST")]
    latency_class: Option<String>,
    /// Groups of tasks whose waits for their polls are measured, as in `default` (WATERWHEEL_QUEUE_TIMES).
    #[arg(long, global = true, value_name = "LIST")]
    queue_times: Option<String>,
    /// Accepted connections that a shard has at once; 0: no limit (WATERWHEEL_MAX_CONNECTIONS).
    #[arg(long, global = true, value_name = "COUNT")]
    max_connections: Option<String>,
    /// Descriptors of connections, datagram sockets and children that a shard has at once; 0: no limit
    /// (WATERWHEEL_MAX_DESCRIPTORS).
    #[arg(long, global = true, value_name = "COUNT")]
    max_descriptors: Option<String>,
    /// Bytes that a shard's connections hold outside the kernel, as in `64m`; 0: no limit (WATERWHEEL_MAX_BUFFERED_BYTES).
    #[arg(long, global = true, value_name = "SIZE")]
    max_buffered_bytes: Option<String>,
    /// Where numbers, health and readiness are told over HTTP, as in `tcp:127.0.0.1:9100` (WATERWHEEL_ADMIN).
    #[arg(long, global = true, value_name = "ENDPOINT")]
    admin: Option<String>,
}

impl Knobs {
    /// What a file says, overridden by the environment, and that by the flags that were given.
    pub(super) fn config(&self, file: Config) -> Result<Config, Failure> {
        let flags = [
            (Knob::Cores, "--cores", &self.cores),
            (Knob::Cpus, "--cpus", &self.cpus),
            (Knob::Reactor, "--reactor", &self.reactor),
            (Knob::UringOff, "--uring-off", &self.uring_off),
            (Knob::BlockingThreads, "--blocking-threads", &self.blocking_threads),
            (Knob::Steer, "--steer", &self.steer),
            (Knob::SpinUs, "--spin-us", &self.spin_us),
            (Knob::StallMs, "--stall-ms", &self.stall_ms),
            (Knob::DrainS, "--drain-s", &self.drain_s),
            (Knob::StopDelayS, "--stop-delay-s", &self.stop_delay_s),
            (Knob::StepsS, "--steps-s", &self.steps_s),
            (Knob::Log, "--log", &self.log),
            (Knob::SteerSeed, "--steer-seed", &self.steer_seed),
            (Knob::SteerProgram, "--steer-program", &self.steer_program),
            (Knob::OnFailure, "--on-failure", &self.on_failure),
            (Knob::Restarts, "--restarts", &self.restarts),
            (Knob::Shares, "--shares", &self.shares),
            (Knob::LatencyClass, "--latency-class", &self.latency_class),
            (Knob::QueueTimes, "--queue-times", &self.queue_times),
            (Knob::MaxConnections, "--max-connections", &self.max_connections),
            (Knob::MaxDescriptors, "--max-descriptors", &self.max_descriptors),
            (Knob::MaxBufferedBytes, "--max-buffered-bytes", &self.max_buffered_bytes),
            (Knob::Admin, "--admin", &self.admin),
        ];
        let usage = |error: crate::runtime::ConfigError| Failure::Usage(error.to_string());
        let mut config = file.with_env().map_err(usage)?;
        for (knob, flag, value) in flags {
            if let Some(value) = value {
                config.set(knob, flag, value).map_err(usage)?;
            }
        }
        let strange = config.named_groups().find(|name| !GROUPS.contains(name)).map(str::to_owned);
        match strange {
            Some(name) => Err(Failure::Usage(format!(
                "{}, {} or {}: the command has no group {}; allowed: {}",
                Knob::Shares,
                Knob::LatencyClass,
                Knob::QueueTimes,
                Quoted(&name),
                GROUPS.join(", ")
            ))),
            None => Ok(config),
        }
    }
}

/// The groups of the command's tasks: those of clients, and those of nobody's.
const GROUPS: [&str; 2] = [DEFAULT_NAME, CONTROL_NAME];
