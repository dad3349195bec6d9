//! What every error owes an operator: it names what was given, and is one line of a log.

/// How many characters of a value an error repeats.
const SHOWN_CHARS_MAX: usize = 120;
/// What an error says besides, with room to spare: the longest lists all variables.
const SAID_BYTES_MAX: usize = 1_000;
/// An escaped character is at most so long: `\u{10ffff}`.
const ESCAPE_BYTES_MAX: usize = 10;

/// The value as errors show it: in quotes, escaped, and only its start if it is long.
pub fn shown(value: &str) -> String {
    let start: String = value.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{start:?}")
}

/// Checks an error that has to name each of `values`.
///
/// # Panics
/// If it does not, or is no line.
pub fn check(error: &str, values: &[&str]) {
    // Beside the control characters, what Unicode takes for the end of a line.
    let ends_line = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    assert!(!error.contains(ends_line), "more than a line: {error:?}");
    let long = SAID_BYTES_MAX + 2 * ESCAPE_BYTES_MAX * SHOWN_CHARS_MAX;
    assert!(error.len() <= long, "{} bytes: {error}", error.len());
    for value in values {
        assert!(error.contains(&shown(value)), "does not name {value:?}: {error}");
    }
}
