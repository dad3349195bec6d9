//! The generator: clients and, for proxies, the origin too, in one thread on one CPU that never sleeps.
//!
//! It is an io_uring loop of its own, so that it costs less than what it measures, and it spins, so that no
//! subject pays for waking it. Every length is checked, and every byte too but in streams, where it is the
//! ends of each piece received and every eighth piece whole; a wrong one ends the run.

mod clients;
mod generator;
mod origin;
mod pattern;
mod run;

pub use generator::Generator;
pub use run::{Opened, Planned, STALL_MAX, Timing};

use std::time::Duration;

/// What is asked of a subject, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// So many bytes there and the same back, then the next, on a connection that stays.
    Exchange,
    /// The same, each on a connection of its own, which the origin closes first.
    Connect,
    /// Bytes one way without an end; a message is a MiB.
    Stream,
}

/// A load by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// As in `--workload`.
    pub name: &'static str,
    /// What a message is.
    pub kind: Kind,
    /// How many connections there are at any time.
    pub connections: usize,
    /// Bytes of a message.
    pub bytes: usize,
    /// The unit of what is counted.
    pub message: &'static str,
}

impl Workload {
    const fn exchange(name: &'static str, bytes: usize, connections: usize) -> Workload {
        Workload { name, kind: Kind::Exchange, connections, bytes, message: "message" }
    }

    /// What echo servers are asked, and proxies too.
    pub const EXCHANGES: [Workload; 4] = [
        Workload::exchange("64b-1", 64, 1),
        Workload::exchange("64b-64", 64, 64),
        Workload::exchange("64b-512", 64, 512),
        Workload::exchange("16k-64", 16 * 1024, 64),
    ];

    /// What proxies alone are asked.
    pub const OF_PROXIES: [Workload; 2] = [
        Workload { name: "stream-8", kind: Kind::Stream, connections: 8, bytes: MIB, message: "MiB" },
        Workload {
            name: "connect-16",
            kind: Kind::Connect,
            connections: 16,
            bytes: 64,
            message: "connection",
        },
    ];
}

/// Bytes that a message of a stream has.
pub const MIB: usize = 1 << 20;

/// How long connecting, and what is under way at the end, may take.
const PATIENCE: Duration = Duration::from_secs(10);
