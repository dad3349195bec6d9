//! An operator's value inside a one-line error.

use std::fmt;

/// How many characters of a value an error repeats; enough to recognise it, and a log line stays a line.
const SHOWN_CHARS_MAX: usize = 120;

/// Shows a value in quotes, escaped so that it stays on one line, and cut if it is long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, rest) = cut(self.0);
        write!(f, "{start:?}{rest}")
    }
}

/// Shows a name as [`Quoted`] shows a value, but without quotes: nobody writes them around one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare<'a>(pub(crate) &'a str);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, rest) = cut(self.0);
        write!(f, "{}{rest}", start.escape_debug())
    }
}

/// The start of a text, and what to say where it is not all.
fn cut(text: &str) -> (&str, Rest) {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => (text, Rest(None)),
        Some((at, _)) => (&text[..at], Rest(Some(text.len()))),
    }
}

/// The length of a text that was cut.
struct Rest(Option<usize>);

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |bytes| write!(f, "… ({bytes} bytes)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_on_one_line_and_short() {
        assert_eq!(Quoted("a\nb").to_string(), r#""a\nb""#);
        assert_eq!(Bare("a\nb").to_string(), r"a\nb");
        let long = "ü".repeat(10_000);
        for shown in [Quoted(&long).to_string(), Bare(&long).to_string()] {
            assert!(shown.chars().count() < 150, "{shown}");
            assert!(shown.ends_with("… (20000 bytes)"), "{shown}");
        }
    }
}
