//! What a run is asked to do.

use std::time::Duration;

use super::schedule::Arrivals;
use super::units::{Rate, count};

/// What a run is asked to do: one flat record, filled in by a program or by the command's flags.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who decides when a request starts.
    pub mode: Mode,
    /// How many connections all shards have together.
    pub connections: u32,
    /// How long requests are planned and measured.
    pub measure: Duration,
    /// How long requests are planned and not measured, before that.
    pub warm_up: Duration,
    /// How long an exchange may take; also how long the end of a run waits for the answers that are missing.
    pub timeout: Duration,
    /// Seeds the schedule.
    pub seed: u64,
    /// How many requests may wait for a connection, on all shards together; what comes beyond is shed.
    pub waiting_max: usize,
    /// The process whose CPU time and memory are reported.
    pub target_pid: Option<u32>,
}

/// Who decides when a request starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The schedule, whatever the target does: what independent users do.
    Open {
        /// Requests per second of all shards together.
        rate: Rate,
        /// How they are spread.
        arrivals: Arrivals,
    },
    /// Each connection, as soon as its answer is there. Shows what the target can do, and not what a user waits.
    Closed,
}

/// More connections than one machine has ports to one address, and a bound for what is allocated per connection.
pub const CONNECTIONS_MAX: u32 = 1 << 20;

/// More requests per second than a shard can send, by far: with its part of the kernel's work, each takes microseconds.
/// Beyond it a run would only count what it did not do.
pub const RATE_PER_SHARD_MAX: f64 = 1e6;

impl Default for Plan {
    /// A closed loop over 64 connections for 10 s after 2 s of warm-up, 5 s per exchange, a million may wait.
    fn default() -> Plan {
        Plan {
            mode: Mode::Closed,
            connections: 64,
            measure: Duration::from_secs(10),
            warm_up: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            seed: 1,
            waiting_max: 1_000_000,
            target_pid: None,
        }
    }
}

impl Plan {
    /// Checks what no run on so many shards could do.
    ///
    /// # Errors
    /// Names the value, what is wrong with it and what is allowed.
    pub fn check(&self, shards: usize) -> Result<(), String> {
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            return Err(format!("{} connections: allowed are 1 to {CONNECTIONS_MAX}", self.connections));
        }
        if self.measure < Duration::from_millis(10) {
            return Err(format!("a measurement of {:?}: at least 10ms are needed", self.measure));
        }
        if self.timeout < Duration::from_millis(1) {
            return Err(format!("a timeout of {:?}: at least 1ms is needed", self.timeout));
        }
        // A shard without a connection plans nothing.
        let most = RATE_PER_SHARD_MAX * self.connections.min(shards as u32) as f64;
        if let Mode::Open { rate, .. } = self.mode
            && rate.as_f64() > most
        {
            let most = count(most);
            return Err(format!("a rate of {rate}: more than so few shards can send; allowed: up to {most}"));
        }
        Ok(())
    }
}
