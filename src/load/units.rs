//! Numbers as people write them: `40k` requests per second, `30s`, `1k` bytes, `0.1%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::net::quoted::Quoted;

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

/// Reads `30s`, `500ms`, `250us`, `250µs`, `90ns`, `5m`, `1h`, `1.5s`. A bare number has no unit and is refused.
///
/// # Errors
/// Says what is allowed. More than a year is refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("duration {}: not one; allowed: a number and ns, us, ms, s, m or h, as in 30s", Quoted(text))
    };
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let nanos = match &text[unit_at..] {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3_600e9,
        _ => return Err(wrong()),
    };
    let total = decimal(&text[..unit_at]).ok_or_else(wrong)? * nanos;
    if total > 365.0 * 86_400e9 {
        return Err(format!("duration {}: longer than a year", Quoted(text)));
    }
    Ok(Duration::from_nanos(total.round() as u64))
}

/// Reads a number of bytes: `64`, `1k` (1 024), `4m` (4 MiB), `1g`.
///
/// # Errors
/// Says what is allowed.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("size {}: not one; allowed: bytes as in 64, 1k (1024), 4m, 1g", Quoted(text));
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let value: u64 = digits.parse().map_err(|_| wrong())?;
    value.checked_mul(1 << shift).ok_or_else(wrong)
}

/// A plain decimal number, digits with at most one point; nothing else that `f64` would also read.
pub(super) fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain && text.bytes().any(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
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
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(parse_duration("250µs"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "30", "s", "30 s", "-1s", "1d", "1e3s", "9999999h", "1..2s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(parse_size("64"), Ok(64));
        assert_eq!(parse_size("1k"), Ok(1024));
        assert_eq!(parse_size("4M"), Ok(4 << 20));
        for text in ["", "k", "-1", "+1", "1.5k", "99999999999999999999", "18446744073709551615k"] {
            assert!(parse_size(text).is_err(), "{text}");
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
            let _ = (text.parse::<Rate>(), parse_duration(&text), parse_size(&text));
        }
    }
}
