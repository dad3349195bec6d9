//! The names of what an operator may set, and the reading of each value.

use std::collections::BTreeMap;
use std::fmt;

use super::portions::{BUFFERED_BYTES_MAX, NAMED_MAX, QUOTA_MAX};
use super::{OnFailure, StepTimes};
use crate::net::{Endpoint, EndpointError};
use crate::shard::Shares;
use crate::steer::Mode;

/// The most shards that one runtime runs: one for each CPU that a thread can be pinned to.
pub(crate) const SHARDS_MAX: usize = 1024;

/// Where the admin endpoint may be.
pub(crate) const ADMIN: &str =
    "off, or an endpoint to listen on, as in tcp:127.0.0.1:9100 or unix:/run/waterwheel.sock";

/// One thing that an operator may set, by an environment variable, a flag or a method of [`Config`](super::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Knob {
    /// `WATERWHEEL_CORES`: how many shards, a number or `auto` (what the affinity mask and the cgroup's quota allow).
    Cores,
    /// `WATERWHEEL_CPUS`: which CPUs the shards are pinned to, as in `0-3,8`.
    Cpus,
    /// `WATERWHEEL_REACTOR`: a reactor's name, or `auto`.
    Reactor,
    /// `WATERWHEEL_URING_OFF`: features of io_uring that the reactor `uring` does without, between commas, for kernels that
    /// have them wrong. None by default.
    UringOff,
    /// `WATERWHEEL_BLOCKING_THREADS`: the most threads for [work that blocks](crate::shard::Shard::blocking). Default 16.
    BlockingThreads,
    /// `WATERWHEEL_STEER`: a [steering mode](Mode).
    Steer,
    /// `WATERWHEEL_SPIN_US`: microseconds that an idle shard spins before it parks. Default 0.
    SpinUs,
    /// `WATERWHEEL_STALL_MS`: a turn longer than so many milliseconds is reported; 0 reports none. Default 100.
    StallMs,
    /// `WATERWHEEL_DRAIN_S`: seconds that connections may take to end once the program stops. Default 30.
    DrainS,
    /// `WATERWHEEL_STOP_DELAY_S`: seconds that a program goes on as before once it is asked to stop, and says that it is not
    /// ready. Default 0.
    StopDelayS,
    /// `WATERWHEEL_STEPS_S`: seconds that each step of a start and a stop may take ([`StepTimes`](super::StepTimes)), as in
    /// `before-start=60,after-stop=5`. Those that are not named stay as they are.
    StepsS,
    /// `WATERWHEEL_LOG`: what is logged. Default `info`.
    Log,
    /// `WATERWHEEL_STEER_SEED`: fixes the steering hash's seed, which else is random in each run.
    SteerSeed,
    /// `WATERWHEEL_STEER_PROGRAM`: `on`, or `off`: the kernel is given no program that places connections where they belong,
    /// and shards hand them over.
    SteerProgram,
    /// `WATERWHEEL_ON_FAILURE`: what is done about a shard whose main future panics or whose reactor fails:
    /// [`restart`, `escalate` or `ignore`](super::OnFailure).
    OnFailure,
    /// `WATERWHEEL_RESTARTS`: how many failures of a shard within a minute are followed by a restart. Default 5.
    Restarts,
    /// `WATERWHEEL_SHARES`: the shares of groups of tasks, as in `web=300,batch=100`; they count before those of the program.
    Shares,
    /// `WATERWHEEL_LATENCY_CLASS`: the groups of tasks that come first while they keep within their shares, between commas.
    LatencyClass,
    /// `WATERWHEEL_QUEUE_TIMES`: the groups of tasks whose waits for their polls are measured, between commas.
    QueueTimes,
    /// `WATERWHEEL_MAX_CONNECTIONS`: how many accepted connections a shard has at once; 0: no limit. Default 0.
    MaxConnections,
    /// `WATERWHEEL_MAX_DESCRIPTORS`: how many descriptors a shard has at once for connections of either kind, datagram sockets
    /// and child processes; 0: no limit. Default 0.
    MaxDescriptors,
    /// `WATERWHEEL_MAX_BUFFERED_BYTES`: how much a shard's connections hold outside the kernel, as in `64m`; 0: no limit. Default 0.
    MaxBufferedBytes,
    /// `WATERWHEEL_ADMIN`: where the program tells what it counts and how it stands, over HTTP ([`crate::metrics`]): an
    /// endpoint as in `tcp:127.0.0.1:9100`, `unix:/run/x.sock`, or `off`, the default. Whoever can connect is told.
    Admin,
    /// `WATERWHEEL_SEEDS`: how many seeds each simulated test tries. Its own number by default.
    Seeds,
    /// `WATERWHEEL_SEED`: the one seed that simulated tests replay.
    Seed,
    /// `WATERWHEEL_TRACE`: the file to which a simulated test that replays one seed writes every event.
    Trace,
}

impl Knob {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Knob; 26] = [
        Knob::Cores,
        Knob::Cpus,
        Knob::Reactor,
        Knob::UringOff,
        Knob::BlockingThreads,
        Knob::Steer,
        Knob::SpinUs,
        Knob::StallMs,
        Knob::DrainS,
        Knob::StopDelayS,
        Knob::StepsS,
        Knob::Log,
        Knob::SteerSeed,
        Knob::SteerProgram,
        Knob::OnFailure,
        Knob::Restarts,
        Knob::Shares,
        Knob::LatencyClass,
        Knob::QueueTimes,
        Knob::MaxConnections,
        Knob::MaxDescriptors,
        Knob::MaxBufferedBytes,
        Knob::Admin,
        Knob::Seeds,
        Knob::Seed,
        Knob::Trace,
    ];

    /// Its environment variable.
    pub const fn variable(self) -> &'static str {
        match self {
            Knob::Cores => "WATERWHEEL_CORES",
            Knob::Cpus => "WATERWHEEL_CPUS",
            Knob::Reactor => "WATERWHEEL_REACTOR",
            Knob::UringOff => "WATERWHEEL_URING_OFF",
            Knob::BlockingThreads => "WATERWHEEL_BLOCKING_THREADS",
            Knob::Steer => "WATERWHEEL_STEER",
            Knob::SpinUs => "WATERWHEEL_SPIN_US",
            Knob::StallMs => "WATERWHEEL_STALL_MS",
            Knob::DrainS => "WATERWHEEL_DRAIN_S",
            Knob::StopDelayS => "WATERWHEEL_STOP_DELAY_S",
            Knob::StepsS => "WATERWHEEL_STEPS_S",
            Knob::Log => "WATERWHEEL_LOG",
            Knob::SteerSeed => "WATERWHEEL_STEER_SEED",
            Knob::SteerProgram => "WATERWHEEL_STEER_PROGRAM",
            Knob::OnFailure => "WATERWHEEL_ON_FAILURE",
            Knob::Restarts => "WATERWHEEL_RESTARTS",
            Knob::Shares => "WATERWHEEL_SHARES",
            Knob::LatencyClass => "WATERWHEEL_LATENCY_CLASS",
            Knob::QueueTimes => "WATERWHEEL_QUEUE_TIMES",
            Knob::MaxConnections => "WATERWHEEL_MAX_CONNECTIONS",
            Knob::MaxDescriptors => "WATERWHEEL_MAX_DESCRIPTORS",
            Knob::MaxBufferedBytes => "WATERWHEEL_MAX_BUFFERED_BYTES",
            Knob::Admin => "WATERWHEEL_ADMIN",
            Knob::Seeds => "WATERWHEEL_SEEDS",
            Knob::Seed => "WATERWHEEL_SEED",
            Knob::Trace => "WATERWHEEL_TRACE",
        }
    }

    /// What it may be set to, in words.
    pub(crate) fn allowed(self) -> String {
        match self {
            Knob::Cores => format!("auto, or a number from 1 to {SHARDS_MAX}"),
            Knob::Cpus => "numbers and ranges of CPUs from 0 to 1023, as in 0-3,8".to_owned(),
            Knob::Reactor => "auto, or a reactor's name".to_owned(),
            Knob::UringOff => uring::FEATURES.to_owned(),
            Knob::BlockingThreads => format!("a number from 1 to {BLOCKING_THREADS_MAX}"),
            Knob::Steer => Mode::ALL.map(Mode::name).join(", "),
            Knob::SpinUs => format!("microseconds from 0 to {SPIN_US_MAX}"),
            Knob::StallMs => format!("milliseconds from 1 to {STALL_MS_MAX}, or 0 for no reports"),
            Knob::DrainS | Knob::StopDelayS => format!("seconds from 0 to {DRAIN_S_MAX}"),
            Knob::StepsS => format!(
                "STEP=SECONDS between commas, steps {}, seconds from 0 to {DRAIN_S_MAX}, as in before-start=60,after-stop=5",
                StepTimes::NAMES.join(", ")
            ),
            Knob::Log => {
                "LEVEL or TARGET=LEVEL between commas, as in info or warn,waterwheel=debug".to_owned()
            }
            Knob::SteerSeed => "a number from 0 to 4294967295, or 0x0 to 0xffffffff".to_owned(),
            Knob::SteerProgram => "on, off".to_owned(),
            Knob::OnFailure => OnFailure::ALL.map(OnFailure::name).join(", "),
            Knob::Restarts => format!("a number from 0 to {RESTARTS_MAX}"),
            Knob::Shares => format!(
                "NAME=SHARES between commas, shares from 1 to {}, at most {NAMED_MAX} groups, as in web=300,batch=100",
                Shares::MAX
            ),
            Knob::LatencyClass | Knob::QueueTimes => {
                format!("names of groups between commas, at most {NAMED_MAX}, as in web,control")
            }
            Knob::MaxConnections | Knob::MaxDescriptors => {
                format!("a number from 1 to {QUOTA_MAX}, or 0 for no limit")
            }
            Knob::MaxBufferedBytes => {
                format!("bytes from 1 to {BUFFERED_BYTES_MAX}, as in 65536, 512k, 64m, 1g, or 0 for no limit")
            }
            Knob::Admin => ADMIN.to_owned(),
            Knob::Seeds => format!("a number from 1 to {SEEDS_MAX}"),
            Knob::Seed => format!("a number from 0 to {}", u64::MAX),
            Knob::Trace => "the path of a file".to_owned(),
        }
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.variable())
    }
}

/// A second: a shard that spins longer than that is not idle but busy.
pub(crate) const SPIN_US_MAX: u64 = 1_000_000;
/// An hour.
pub(crate) const STALL_MS_MAX: u64 = 3_600_000;
/// A day: a drain, or another step, that takes longer has no deadline.
pub(crate) const DRAIN_S_MAX: u64 = 86_400;

/// More threads than that wait for each other.
pub(crate) const BLOCKING_THREADS_MAX: u64 = 1_024;

/// Within a minute: more than one in 60 ms is a loop.
pub(crate) const RESTARTS_MAX: u64 = 1_000;

/// More seeds than anybody waits for.
pub(crate) const SEEDS_MAX: u64 = 1_000_000_000;

/// `NAME=VALUE` between commas, `what` in words; nothing: none. Each is read by `read`, and named once.
pub(super) fn pairs<T>(
    text: &str,
    what: &str,
    read: impl Fn(&str, &str) -> Result<T, String>,
) -> Result<BTreeMap<String, T>, String> {
    let mut pairs = BTreeMap::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not {what}"))?;
        if pairs.insert(name.to_owned(), read(name, value)?).is_some() {
            return Err(format!("{name} is named twice"));
        }
    }
    Ok(pairs)
}

/// A whole number in decimal digits, at most `max`.
pub(crate) fn number(text: &str, max: u64) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("not a whole number".to_owned());
    }
    // Only overflow is left to fail.
    text.parse().ok().filter(|number| *number <= max).ok_or_else(|| format!("more than {max}"))
}

/// A seed, in decimal or with `0x` in hexadecimal.
pub(crate) fn seed(text: &str) -> Result<u32, String> {
    let Some(digits) = text.strip_prefix("0x") else {
        return number(text, u64::from(u32::MAX)).map(|seed| seed as u32);
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("not a hexadecimal number".to_owned());
    }
    u32::from_str_radix(digits, 16).map_err(|_| "more than 0xffffffff".to_owned())
}

pub(crate) fn shard_count(count: usize) -> Result<usize, String> {
    match count {
        0 => Err("no shard could run".to_owned()),
        1..=SHARDS_MAX => Ok(count),
        _ => Err(format!("more than {SHARDS_MAX}")),
    }
}

/// Where the admin endpoint is to be; `None`: there is to be none.
pub(crate) fn admin(text: &str) -> Result<Option<Endpoint>, String> {
    let endpoint = || text.parse().map_err(|error: EndpointError| error.fault().to_string());
    if text == "off" { Ok(None) } else { endpoint().map(Some) }
}

/// Checks a log filter: levels, each for everything or for one target.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        let (target, level) = part.split_once('=').unwrap_or(("all", part));
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            let level: String = level.chars().take(20).collect();
            return Err(format!("{level:?} is not one of the levels {}", LEVELS.join(", ")));
        }
        let of_target = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
        if target.is_empty() || !target.bytes().all(of_target) {
            let target: String = target.chars().take(20).collect();
            return Err(format!("{target:?} is not the name of a target"));
        }
    }
    Ok(text.to_owned())
}

/// What the reactor on io_uring does without.
#[cfg(feature = "uring")]
pub(crate) mod uring {
    pub use waterwheel_uring::{Feature, Features};

    /// What may be named.
    pub(crate) const FEATURES: &str = "buffers, multishot, skip, msg_ring, defer_taskrun, no_sqarray, ring_fd, connect, splice, no_iowait, between commas";

    pub(crate) fn features(text: &str) -> Result<Features, String> {
        text.parse().map_err(|error: waterwheel_uring::UnknownFeature| error.to_string())
    }
}

/// The same in a program without that reactor.
#[cfg(not(feature = "uring"))]
pub(crate) mod uring {
    /// Nothing can be switched off.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Features;

    pub(crate) const FEATURES: &str = "nothing, since this program was built without the reactor uring";

    pub(crate) fn features(text: &str) -> Result<Features, String> {
        if text.is_empty() { Ok(Features) } else { Err("there is nothing to switch off".to_owned()) }
    }
}

/// The variable that was probably meant by `name`, if one is near.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    // Three slips at most; more of them make another word.
    const SLIPS_MAX: usize = 3;
    let distances = Knob::ALL.map(|knob| (distance(name, knob.variable()), knob.variable()));
    distances.into_iter().filter(|(slips, _)| *slips <= SLIPS_MAX).min().map(|(_, known)| known)
}

/// How many letters must be inserted, deleted or replaced to turn one text into the other (Levenshtein 1966).
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let other = other.as_bytes();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, letter) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, expected) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *expected);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_within_bounds() {
        assert_eq!(number("0", 9), Ok(0));
        assert_eq!(number("9", 9), Ok(9));
        assert_eq!(number("10", 9), Err("more than 9".to_owned()));
        assert_eq!(number("99999999999999999999999", 9), Err("more than 9".to_owned()));
        for text in ["", "+1", "-1", " 1", "1 ", "1.5", "1e3", "0x1", "١"] {
            assert_eq!(number(text, 9), Err("not a whole number".to_owned()), "{text:?}");
        }
    }

    #[test]
    fn seeds_are_read_in_both_bases() {
        assert_eq!(seed("4294967295"), Ok(u32::MAX));
        assert_eq!(seed("0xFFffFFff"), Ok(u32::MAX));
        for text in ["4294967296", "0x100000000", "0x", "0x+1", "ff", "-1", ""] {
            assert!(seed(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn log_filters_are_levels() {
        for text in ["info", "OFF", "warn,waterwheel::net=debug,other-crate=trace"] {
            assert_eq!(log_filter(text).as_deref(), Ok(text));
        }
        for text in ["", "inof", "info,", "=info", "waterwheel=", "a[b]=info", "a=b=info", "waterwheel"] {
            assert!(log_filter(text).is_err(), "{text:?}");
        }
    }

    #[cfg(feature = "uring")]
    #[test]
    fn every_feature_of_uring_may_be_named() {
        for feature in waterwheel_uring::Feature::ALL {
            assert!(uring::features(feature.name()).is_ok());
            assert!(uring::FEATURES.split(", ").any(|name| name == feature.name()), "{feature}");
        }
        assert_eq!(uring::features("skip,magic"), Err("no feature is named \"magic\"".to_owned()));
    }

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        for (given, meant) in [
            ("WATERWHEEL_CORE", Some("WATERWHEEL_CORES")),
            ("WATERWHEEL_CPU", Some("WATERWHEEL_CPUS")),
            ("WATERWHEEL_REACTORS", Some("WATERWHEEL_REACTOR")),
            ("WATERWHEEL_STEERSEED", Some("WATERWHEEL_STEER_SEED")),
            ("WATERWHEEL_SPIN_MS", Some("WATERWHEEL_SPIN_US")),
            ("WATERWHEEL_drain_s", None),
            ("WATERWHEEL_THREADPOOL", None),
        ] {
            assert_eq!(nearest(given), meant, "{given}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
