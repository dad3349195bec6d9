//! What is asked of upstreams: how many connections each takes, when it is left alone, and when another one is tried.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::selection::Selection;
use crate::net::quoted::Quoted;
use crate::net::{Endpoint, EndpointError};

/// One place where connections go. A name that has several addresses is as many upstreams, each with this weight and
/// this limit.
///
/// Written as `ENDPOINT`, `ENDPOINT,weight=3` or `ENDPOINT,weight=3,connections=100`, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its share of new connections, next to the others': 0 to [`WEIGHT_MAX`]. With 0 it is *draining*: it keeps the
    /// connections that it has and gets no new one. Default 1.
    pub weight: u32,
    /// The most connections to it at once, attempts included, over all shards: 1 to [`CONNECTIONS_MAX`]. `None`: no
    /// limit. Who finds no upstream below its limit waits: see [`queue_timeout`](super::Settings::queue_timeout).
    /// Default: none.
    pub connections: Option<usize>,
}

/// The greatest weight of an upstream.
pub const WEIGHT_MAX: u32 = 256;
/// The greatest limit of connections to one upstream.
pub const CONNECTIONS_MAX: usize = 1_000_000_000;

impl Upstream {
    /// With the defaults.
    pub fn new(endpoint: Endpoint) -> Upstream {
        Upstream { endpoint, weight: 1, connections: None }
    }
}

impl Upstream {
    fn check(&self) -> Checked {
        within("weight", self.weight, self.weight <= WEIGHT_MAX, "0 to 256")?;
        let limit = self.connections.unwrap_or(1);
        within("connections", limit, (1..=CONNECTIONS_MAX).contains(&limit), A_LIMIT)
    }
}

impl From<Endpoint> for Upstream {
    fn from(endpoint: Endpoint) -> Upstream {
        Upstream::new(endpoint)
    }
}

impl fmt::Display for Upstream {
    /// The canonical form, which reads back as the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)?;
        if self.weight != 1 {
            write!(f, ",weight={}", self.weight)?;
        }
        self.connections.map_or(Ok(()), |most| write!(f, ",connections={most}"))
    }
}

/// Why a text names no upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseUpstreamError {
    /// What stands before the first option.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// An option's value.
    #[error("upstream {}: {option} is not a whole number in its bounds; allowed: {allowed}", Quoted(.text))]
    Value {
        /// The upstream as it was written.
        text: String,
        /// Which option.
        option: &'static str,
        /// Its bounds.
        allowed: &'static str,
    },
    /// An option that there is not, or that stands there twice.
    #[error(
        "upstream {}: {} is no option, or is given twice; allowed: weight, connections, each once",
        Quoted(.text),
        Quoted(.option)
    )]
    Option {
        /// The upstream as it was written.
        text: String,
        /// What was taken for an option.
        option: String,
    },
}

impl FromStr for Upstream {
    type Err = ParseUpstreamError;

    fn from_str(text: &str) -> Result<Upstream, ParseUpstreamError> {
        // From the end, since a Unix socket's path may hold commas.
        let (mut rest, mut weight, mut connections) = (text, None, None);
        while let Some((before, name, value)) = last_option(rest) {
            let number = value.parse::<usize>().ok().filter(|_| value.bytes().all(|b| b.is_ascii_digit()));
            let wrong =
                |option, allowed| ParseUpstreamError::Value { text: text.to_owned(), option, allowed };
            let fresh = match name {
                "weight" => {
                    let fits = number.and_then(|it| u32::try_from(it).ok()).filter(|it| *it <= WEIGHT_MAX);
                    weight.replace(fits.ok_or_else(|| wrong("weight", "0 to 256"))?).is_none()
                }
                "connections" => {
                    let fits = number.filter(|it| (1..=CONNECTIONS_MAX).contains(it));
                    connections.replace(fits.ok_or_else(|| wrong("connections", A_LIMIT))?).is_none()
                }
                _ => false,
            };
            if !fresh {
                let (text, option) = (text.to_owned(), name.to_owned());
                return Err(ParseUpstreamError::Option { text, option });
            }
            rest = before;
        }
        let plain = Upstream::new(rest.parse()?);
        Ok(Upstream { weight: weight.unwrap_or(plain.weight), connections, ..plain })
    }
}

/// What stands before the last `,NAME=VALUE`, the name and the value.
fn last_option(text: &str) -> Option<(&str, &str, &str)> {
    let (before, option) = text.rsplit_once(',')?;
    let (name, value) = option.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    is_name.then_some((before, name, value))
}

/// Active checks: one shard connects to each upstream from time to time and tells the others what came of it. If that
/// shard ends another one goes on. An upstream is up until it is found down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// From one check of an upstream to the next; more than zero. The upstreams' checks are spread over it. Default 2 s.
    pub interval: Duration,
    /// The same while the last checks of an upstream do not agree with what is believed of it; more than zero. Default
    /// 500 ms.
    pub fast_interval: Duration,
    /// By how much of itself each interval is longer or shorter, by chance: 0 to 50 percent, so that many proxies do not
    /// check in step. Default 10.
    pub jitter_percent: u32,
    /// How long one check may take, all in all; more than zero. Default 1 s.
    pub timeout: Duration,
    /// An upstream that is down is up again after so many checks in a row that passed; 1 to 1000. Default 2.
    pub rise: u32,
    /// It is down after so many in a row that failed; 1 to 1000. Default 3.
    pub fall: u32,
    /// What is sent once it is connected, at most [`CHECK_BYTES_MAX`] bytes. Where [`send_header`](super::Settings::send_header)
    /// is set, a PROXY header that speaks for no client goes first. Default: nothing.
    pub send: Vec<u8>,
    /// What has to be found in its first [`CHECK_BYTES_MAX`] bytes. Default: nothing; being connected is enough.
    pub expect: Vec<u8>,
}

/// The most bytes that a check sends, and the most of an answer that it reads.
pub const CHECK_BYTES_MAX: usize = 4096;

impl Default for Checks {
    fn default() -> Checks {
        Checks {
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            jitter_percent: 10,
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            send: Vec::new(),
            expect: Vec::new(),
        }
    }
}

/// Passive ejection (outlier detection): an upstream that fails for clients is left alone for a while. Each shard judges
/// for itself, by what happened to its own connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// So many failed connects in a row, or so many connections in a row that the upstream reset before it had sent a
    /// byte, eject it. Those before a pause as long as the first ejection, and of 15 s at least, do not count. 1 to 1000.
    /// Default 5.
    pub failures: u32,
    /// The first ejection lasts so long, each further one so much longer than the one before; each such time in which it
    /// was not ejected takes one back. More than zero. Default 30 s.
    pub time: Duration,
    /// No ejection lasts longer. Default 300 s.
    pub time_max: Duration,
    /// Nobody is ejected while more than this share of a group's upstreams would be out of it then, those that checks found
    /// down included and those of weight 0 left out: 0 to 100 percent. Default 50.
    pub max_ejected_percent: u32,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection {
            failures: 5,
            time: Duration::from_secs(30),
            time_max: Duration::from_secs(300),
            max_ejected_percent: 50,
        }
    }
}

/// How many retries (connects to another upstream, after one that failed) there may be, so that an outage is not
/// multiplied by all the clients that it meets. Each shard keeps its own budget.
///
/// Tokens come at a rate per second of so many percent of the shard's connections at that moment, those that wait for
/// an upstream included, and of its even part of `per_second`, or one if that is less; a second's worth of them is kept,
/// and each retry takes one. After Finagle's retry budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// 0 to 100 percent. Default 20.
    pub percent: u32,
    /// Over all shards, whatever is served: 0 to 1 000 000. Default 10.
    pub per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget { percent: 20, per_second: 10 }
    }
}

/// Settings of upstreams that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamsError {
    /// A value out of its bounds.
    #[error("{key}: {value} makes no sense; allowed: {allowed}")]
    Value {
        /// Which setting, as the command's flag is called.
        key: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The same in what a group has of its own.
    #[error("group {}: {error}", Quoted(.group))]
    OfGroup {
        /// Its name.
        group: String,
        /// What is wrong.
        error: Box<UpstreamsError>,
    },
}

/// Whether a value is allowed; if not, why.
pub(super) fn within(
    key: &'static str,
    value: impl fmt::Debug,
    fits: bool,
    allowed: &'static str,
) -> Checked {
    if fits { Ok(()) } else { Err(UpstreamsError::Value { key, value: format!("{value:?}"), allowed }) }
}

type Checked = Result<(), UpstreamsError>;

const A_LIMIT: &str = "1 to 1000000000";
const SOME_TIME: &str = "more than 0s, as in 2s";
const A_COUNT: std::ops::RangeInclusive<u32> = 1..=1000;

impl Checks {
    pub(super) fn check(&self) -> Checked {
        let Checks { interval, fast_interval, jitter_percent, timeout, rise, fall, send, expect } = self;
        within("check-interval", interval, !interval.is_zero(), SOME_TIME)?;
        within("check-fast-interval", fast_interval, !fast_interval.is_zero(), SOME_TIME)?;
        within("check-jitter", jitter_percent, *jitter_percent <= 50, "0 to 50")?;
        within("check-timeout", timeout, !timeout.is_zero(), SOME_TIME)?;
        within("check-rise", rise, A_COUNT.contains(rise), "1 to 1000")?;
        within("check-fall", fall, A_COUNT.contains(fall), "1 to 1000")?;
        for (key, bytes) in [("check-send", send), ("check-expect", expect)] {
            let count = format_args!("{} bytes", bytes.len()).to_string();
            let fits = bytes.len() <= CHECK_BYTES_MAX;
            within(key, Bare(count), fits, "at most 4096 bytes")?;
        }
        Ok(())
    }
}

/// Shown as it is.
struct Bare(String);

impl fmt::Debug for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ejection {
    pub(super) fn check(&self) -> Checked {
        let Ejection { failures, time, time_max, max_ejected_percent } = self;
        within("eject-after", failures, A_COUNT.contains(failures), "1 to 1000")?;
        within("eject-time", time, !time.is_zero(), SOME_TIME)?;
        within("eject-time-max", time_max, time_max >= time, "at least the time of the first ejection")?;
        within("max-ejected", max_ejected_percent, *max_ejected_percent <= 100, "0 to 100")
    }
}

impl RetryBudget {
    pub(super) fn check(&self) -> Checked {
        within("retry-percent", self.percent, self.percent <= 100, "0 to 100")?;
        within("retry-rate", self.per_second, self.per_second <= 1_000_000, "0 to 1000000")
    }
}

impl super::Settings {
    /// Whether all that concerns upstreams makes sense.
    pub(super) fn check_upstreams(&self) -> Checked {
        self.selection().check()?;
        self.retry_budget.iter().try_for_each(RetryBudget::check)?;
        for (group, own, upstreams) in self.all_groups() {
            let checked = own.map_or(Ok(()), Selection::check);
            checked.and_then(|()| upstreams.iter().try_for_each(Upstream::check)).map_err(
                |error| match group {
                    Some(group) => {
                        UpstreamsError::OfGroup { group: group.to_owned(), error: Box::new(error) }
                    }
                    None => error,
                },
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[test]
    fn an_upstream_reads_back_as_it_is_shown() {
        for text in ["tcp:127.0.0.1:80", "tcp:[::1]:80,weight=3", "unix:/a,b,weight=0,connections=7"] {
            assert_eq!(text.parse::<Upstream>().unwrap().to_string(), text);
        }
        let swapped: Upstream = "127.0.0.1:80,connections=9,weight=256".parse().unwrap();
        assert_eq!((swapped.weight, swapped.connections), (256, Some(9)));
        assert_eq!("unix:/a,b".parse::<Upstream>().unwrap().endpoint.to_string(), "unix:/a,b");
    }

    #[test]
    fn options_that_make_no_sense_are_told_with_what_is_allowed() {
        for (text, told) in [
            ("tcp:h:1,weight=257", "allowed: 0 to 256"),
            ("tcp:h:1,weight=", "allowed: 0 to 256"),
            ("tcp:h:1,weight=+1", "allowed: 0 to 256"),
            ("tcp:h:1,connections=0", "allowed: 1 to 1000000000"),
            ("tcp:h:1,wieght=2", "\"wieght\" is no option"),
            ("tcp:h:1,weight=1,weight=2", "given twice"),
            ("tcp:h,weight=1", "the port is missing"),
        ] {
            let error = text.parse::<Upstream>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn settings_out_of_bounds_are_told() {
        let zero = Duration::ZERO;
        let check = |checks: Checks| checks.check().unwrap_err().to_string();
        let told = check(Checks { interval: zero, ..Checks::default() });
        assert_eq!(told, "check-interval: 0ns makes no sense; allowed: more than 0s, as in 2s");
        assert!(check(Checks { jitter_percent: 51, ..Checks::default() }).contains("allowed: 0 to 50"));
        assert!(check(Checks { rise: 0, ..Checks::default() }).starts_with("check-rise: 0"));
        assert!(check(Checks { expect: vec![0; 4097], ..Checks::default() }).contains("4097 bytes"));
        let eject = Ejection { time_max: Duration::from_secs(1), ..Ejection::default() };
        assert!(eject.check().unwrap_err().to_string().starts_with("eject-time-max: 1s"));
        assert!(RetryBudget { percent: 101, per_second: 0 }.check().is_err());
        let upstreams = |text: &str| {
            let mut settings = Settings::new(Vec::new(), Vec::new());
            settings.upstreams.push(text.parse().unwrap());
            settings
        };
        let mut none = upstreams("tcp:127.0.0.1:80");
        assert_eq!(none.check_upstreams(), Ok(()));
        none.upstreams[0].connections = Some(0);
        assert!(none.check_upstreams().unwrap_err().to_string().starts_with("connections: 0"));
        let instant = Settings { slow_start: Some(zero), ..upstreams("tcp:127.0.0.1:80") };
        assert!(instant.check_upstreams().unwrap_err().to_string().starts_with("slow-start: 0ns"));
    }
}
