//! What is wrong in a file, and where.

use std::fmt;

use crate::net::quoted::{Bare, Quoted};

/// Where something stands in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1 on.
    pub line: usize,
    /// In characters, from 1 on.
    pub column: usize,
}

impl Place {
    /// Of a byte of a text.
    pub(super) fn of(text: &str, at: usize) -> Place {
        let before = &text.as_bytes()[..at.min(text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        Place { line, column: 1 + String::from_utf8_lossy(&before[start..]).chars().count() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong. Shown in one line: file, line, column, key, value, what is wrong, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was given.
    pub file: String,
    /// Where; `None`: the file as a whole.
    pub place: Option<Place>,
    /// The key with the tables that it is in, between points. Empty: none.
    pub key: String,
    /// The value as it is written there.
    pub value: Option<String>,
    /// What is wrong with it, and what is allowed.
    pub told: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Bare(&self.file))?;
        if let Some(place) = self.place {
            write!(f, ":{place}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", Bare(&self.key))?;
        }
        if let Some(value) = &self.value {
            // As it stands in the file, but for what a terminal would obey.
            let safe = |letter: char| if letter.is_control() { '?' } else { letter };
            write!(f, " = {}", value.chars().map(safe).collect::<String>())?;
        }
        write!(f, ": {}", self.told)
    }
}

/// All that is wrong in a file; never nothing. Shown as one line, which tells the first and how many more there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// In the file's order.
    pub all: Vec<Fault>,
}

/// The most that are told of a file: who has more of them has taken another file.
pub(super) const FAULTS_MAX: usize = 50;

impl Faults {
    /// None is none.
    pub(super) fn of(mut all: Vec<Fault>) -> Result<(), Faults> {
        all.sort_by_key(|fault| fault.place);
        if all.is_empty() { Ok(()) } else { Err(Faults { all }) }
    }

    pub(super) fn of_file(file: &str, told: String) -> Faults {
        let (file, key) = (file.to_owned(), String::new());
        Faults { all: vec![Fault { file, place: None, key, value: None, told }] }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.all.iter();
        let first = all.next().map_or_else(String::new, ToString::to_string);
        match all.len() {
            0 => f.write_str(&first),
            more => write!(f, "{first} (and {more} more)"),
        }
    }
}

impl std::error::Error for Faults {}

/// A name that is near enough to have been meant.
pub(super) fn meant(given: &str, known: &[String]) -> String {
    // Three slips at most, and no more than half of the word.
    let slips_max = 3.min(given.chars().count() / 2);
    let nearest = known.iter().map(|name| (crate::runtime::distance(given, name), name)).min();
    let near = nearest.filter(|(slips, _)| *slips <= slips_max);
    let meant = near.map_or_else(String::new, |(_, name)| format!(", did you mean {name}?"));
    format!("there is no such key{meant}; allowed: {}", known.join(", "))
}

/// A value as it is written, in one short line.
pub(super) fn shown(source: &str) -> String {
    let line = source.lines().next().unwrap_or_default();
    if line.len() < source.len() || line.chars().count() > 80 {
        let start: String = line.chars().take(80).collect();
        return format!("{start}…");
    }
    line.to_owned()
}

/// A text in quotes, for messages.
pub(super) fn quoted(text: &str) -> String {
    Quoted(text).to_string()
}
