//! What decides which shard owns a connection.

use std::fmt;
use std::str::FromStr;

/// How connections are assigned to shards; chosen once per runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The peer's address and port decide: connections spread evenly, also those of one client.
    #[default]
    Flow,
    /// The peer's address decides: all connections of one client meet on one shard, so that state kept per client
    /// needs no lock.
    Source,
    /// The kernel decides, and a connection stays on the shard that accepted it.
    Kernel,
    /// The CPU that the network's interrupts come to decides: a connection goes to the shard that is pinned there, and for
    /// other CPUs to the one that `flow` names. It stays on the shard that accepted it.
    Cpu,
    /// The shard with the fewest connections of the listener gets it: for few and long ones, which a hash spreads
    /// unevenly.
    Least,
    /// The program decides, by what it reads first: the connection stays on the shard that accepted it until that calls
    /// [`Connection::steer_by`](crate::net::Connection::steer_by).
    Key,
}

impl Mode {
    /// Every mode, in the order in which they are listed to an operator.
    pub const ALL: [Mode; 6] = [Mode::Flow, Mode::Source, Mode::Kernel, Mode::Cpu, Mode::Least, Mode::Key];

    /// The name by which an operator chooses it.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Flow => "flow",
            Mode::Source => "source",
            Mode::Kernel => "kernel",
            Mode::Cpu => "cpu",
            Mode::Least => "least",
            Mode::Key => "key",
        }
    }

    /// Whether the shard that accepts a connection may have to pass it on at once.
    pub(crate) const fn passes_on(self) -> bool {
        matches!(self, Mode::Flow | Mode::Source | Mode::Least)
    }

    /// Whether any shard may serve any connection, so that one that waits here may go where there is room.
    pub(crate) const fn spreads(self) -> bool {
        matches!(self, Mode::Flow | Mode::Least)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no steering mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no steering mode; allowed: flow, source, kernel, cpu, least, key")]
pub struct UnknownMode {
    /// The name, or the start of it: an error is one line.
    given: String,
}

/// How many characters of an unknown name are repeated.
const GIVEN_CHARS_MAX: usize = 120;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Mode, UnknownMode> {
        let known = Mode::ALL.into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| UnknownMode { given: text.chars().take(GIVEN_CHARS_MAX).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }

    #[test]
    fn an_endless_name_is_no_endless_error() {
        let error = "x".repeat(10_000).parse::<Mode>().unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn an_unknown_name_is_told_what_is_allowed() {
        let error = "Flow".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(error, r#""Flow" is no steering mode; allowed: flow, source, kernel, cpu, least, key"#);
        for mode in Mode::ALL {
            assert!(error.contains(mode.name()), "{mode} is not offered");
        }
    }
}
