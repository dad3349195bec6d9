//! An operator's value inside a one-line error.

use std::fmt;

/// How many characters of a value an error repeats; enough to recognise it, and a log line stays a line.
const SHOWN_CHARS_MAX: usize = 120;

/// Shows a value in quotes, escaped so that it stays on one line, and cut if it is long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(SHOWN_CHARS_MAX).map(|(at, _)| at);
        match end {
            None => write!(f, "{:?}", self.0),
            Some(at) => write!(f, "{:?}… ({} bytes)", &self.0[..at], self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_on_one_line_and_short() {
        assert_eq!(Quoted("a\nb").to_string(), r#""a\nb""#);
        let long = "ü".repeat(10_000);
        let shown = Quoted(&long).to_string();
        assert!(shown.chars().count() < 150, "{shown}");
        assert!(shown.ends_with("… (20000 bytes)"), "{shown}");
    }
}
