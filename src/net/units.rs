//! Times and sizes as people write them: `30s`, `64k`.

use std::time::Duration;

use super::quoted::Quoted;

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
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain && text.bytes().any(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
