//! Values of flags, and what is said about those that make no sense.

use std::time::Duration;

use crate::load::units::parse_duration;
use crate::net::quoted::Quoted;

/// The most connections that anybody may ask to be served at once: as many as a process can have descriptors for.
pub(super) const SERVED_MAX: u64 = 1 << 30;

/// A whole number from `LEAST` to `MOST`.
pub(super) fn whole<T: TryFrom<u64>, const LEAST: u64, const MOST: u64>(text: &str) -> Result<T, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u64>().ok().filter(|number| digits && (LEAST..=MOST).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("not a whole number in its bounds; allowed: {LEAST} to {MOST}"))
}

/// The longest time that [`parse_duration`] reads.
pub(super) const YEAR_MS: u64 = 365 * 86_400_000;

/// A time from `LEAST_MS` to `MOST_MS` milliseconds.
pub(super) fn length<const LEAST_MS: u64, const MOST_MS: u64>(text: &str) -> Result<Duration, String> {
    let (least, most) = (Duration::from_millis(LEAST_MS), Duration::from_millis(MOST_MS));
    let length = parse_duration(text)?;
    let shown = |millis: u64| match millis {
        YEAR_MS => "a year".to_owned(),
        hours if hours % 3_600_000 == 0 => format!("{}h", hours / 3_600_000),
        millis => format!("{millis}ms"),
    };
    let wrong = || {
        let (least, most) = (shown(LEAST_MS), shown(MOST_MS));
        format!("duration {}: too short or too long; allowed: {least} to {most}", Quoted(text))
    };
    Some(length).filter(|length| (least..=most).contains(length)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_within_bounds_and_their_type() {
        assert_eq!(whole::<u32, 1, 9>("9"), Ok(9));
        for text in ["0", "10", "-1", "+1", "", "1.0", "99999999999999999999"] {
            let told = whole::<u32, 1, 9>(text).unwrap_err();
            assert!(told.contains("allowed: 1 to 9"), "{told}");
        }
        assert_eq!(whole::<u64, 0, { u64::MAX }>("18446744073709551615"), Ok(u64::MAX));
        assert!(whole::<u8, 0, 1000>("256").is_err());
    }

    #[test]
    fn a_time_has_bounds() {
        let demo = length::<100, 3_600_000>;
        assert_eq!(demo("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(demo("1h"), Ok(Duration::from_secs(3_600)));
        for text in ["0s", "99ms", "2h"] {
            assert!(demo(text).unwrap_err().contains("allowed: 100ms to 1h"), "{text}");
        }
        assert!(demo("soon").unwrap_err().contains("allowed: "));
        assert!(length::<1, YEAR_MS>("0s").unwrap_err().contains("allowed: 1ms to a year"));
        assert_eq!(length::<1, YEAR_MS>("8760h"), Ok(Duration::from_millis(YEAR_MS)));
    }
}
