//! Values of flags, and what is said about those that make no sense.

use std::time::Duration;

use crate::load::units::parse_duration;

/// The most connections that anybody may ask to be served at once: as many as a process can have descriptors for.
pub(super) const SERVED_MAX: u64 = 1 << 30;

/// A whole number from `LEAST` to `MOST`.
pub(super) fn whole<T: TryFrom<u64>, const LEAST: u64, const MOST: u64>(text: &str) -> Result<T, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u64>().ok().filter(|number| digits && (LEAST..=MOST).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("not a whole number in its bounds; allowed: {LEAST} to {MOST}"))
}

/// How long a demonstration may take: long enough that every connection says something, and no endurance test.
pub(super) fn demo_length(text: &str) -> Result<Duration, String> {
    const ALLOWED: std::ops::RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_secs(3_600);
    let length = parse_duration(text)?;
    let wrong = || format!("duration {text:?}: too short or too long; allowed: 100ms to 1h");
    Some(length).filter(|length| ALLOWED.contains(length)).ok_or_else(wrong)
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
    fn a_demonstration_has_a_length() {
        assert_eq!(demo_length("100ms"), Ok(Duration::from_millis(100)));
        for text in ["0s", "99ms", "2h", "soon"] {
            assert!(demo_length(text).unwrap_err().contains("allowed: "), "{text}");
        }
    }
}
