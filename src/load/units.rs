//! Numbers as people write them: `40k` requests per second, `30s`, `1k` bytes, `0.1%`.

use std::fmt;
use std::str::FromStr;

use crate::net::quoted::Quoted;
pub(super) use crate::net::units::decimal;
pub use crate::net::units::{parse_duration, parse_size};

/// How many requests are planned per second, to a thousandth. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// So many per second, at most 10⁹.
    ///
    /// # Errors
    /// Zero, or more than 10⁹.
    pub fn per_second(count: u64) -> Result<Rate, String> {
        Rate::per_1000_seconds(count.saturating_mul(1_000))
    }

    /// So many per 1 000 seconds: for fewer than one per second.
    ///
    /// # Errors
    /// Zero, or more than 10¹².
    pub fn per_1000_seconds(count: u64) -> Result<Rate, String> {
        if (1..=1_000_000_000_000).contains(&count) {
            Ok(Rate(count))
        } else {
            Err("a rate must be from 0.001 to 1000m requests per second".to_owned())
        }
    }

    /// Requests per 1 000 seconds; at least 1.
    pub const fn per_1000_s(self) -> u64 {
        self.0
    }

    /// Requests per second.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `40k`, `2.5k`, `1m` (a million), `1g` (a thousand million), `800`, `0.5`; also with `/s` behind.
    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || {
            format!(
                "rate {}: not a number; allowed: requests per second as in 800, 40k, 2.5k, 1m",
                Quoted(text)
            )
        };
        let number = text.strip_suffix("/s").unwrap_or(text);
        let (number, factor) = match number.as_bytes().last() {
            Some(b'k' | b'K') => (&number[..number.len() - 1], 1e6),
            Some(b'm' | b'M') => (&number[..number.len() - 1], 1e9),
            Some(b'g' | b'G') => (&number[..number.len() - 1], 1e12),
            _ => (number, 1e3),
        };
        let value = decimal(number).ok_or_else(wrong)?;
        Rate::per_1000_seconds((value * factor).round() as u64)
            .map_err(|limits| format!("rate {}: {limits}", Quoted(text)))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&count(self.as_f64()))
    }
}

/// A count or rate in at most four digits: `950`, `40k`, `1.25M`; the least [`Rate`] is not shown as none.
pub fn count(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e4 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = match value {
        1000.0.. => 0,
        100.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{}{unit}", fixed(value, digits))
}

/// A latency in two to three digits: `96µs`, `3.4ms`, `28.1ms`, `2.1s`.
pub fn latency(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let whole = unit == "µs" && value >= 10.0 || value >= 100.0;
    format!("{}{unit}", fixed(value, if whole { 0 } else { 1 }))
}

/// A number with at most so many digits behind the point, and none for show.
pub(super) fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_as_people_write_them() {
        for (text, per_1000_s) in [
            ("40k", 40_000_000),
            ("2.5k", 2_500_000),
            ("800", 800_000),
            ("0.5", 500),
            ("1m", 1_000_000_000),
            ("12/s", 12_000),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().per_1000_s(), per_1000_s, "{text}");
        }
        for text in ["", "k", "0", "-1", "1e5", "inf", "NaN", "40 k", "0.0001", "9999999999k", ".", "1.2.3"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_is_shown_as_it_can_be_asked_for() {
        for text in ["0.001", "0.004", "0.05", "1", "800", "40k", "1m", "999m", "1000m", "1g"] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.to_string().parse(), Ok(rate), "{text} is shown as {rate}");
        }
    }

    #[test]
    fn printed_short_and_right() {
        let latencies = [
            (96_000, "96µs"),
            (3_400_000, "3.4ms"),
            (28_100_000, "28.1ms"),
            (999, "999ns"),
            (1_500, "1.5µs"),
        ];
        for (nanos, text) in latencies {
            assert_eq!(latency(nanos), text);
        }
        let counts =
            [(950.0, "950"), (40_000.0, "40k"), (40_100.0, "40.1k"), (1_250_000.0, "1.25M"), (0.5, "0.5")];
        for (value, text) in counts {
            assert_eq!(count(value), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Rate>();
        }
    }
}
