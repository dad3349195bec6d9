//! What the peers of a scene saw, as text that depends on no timing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// All strands of a scene. Clones are the same book, on whatever thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    strands: Arc<Mutex<BTreeMap<String, Vec<Entry>>>>,
}

/// What happened in order: on one connection in one direction, or between two shards. Strands are written one beside
/// the other, so that what happens on one is in no order with what happens on another.
#[derive(Clone, Debug)]
pub(crate) struct Strand {
    book: Book,
    name: String,
}

#[derive(Clone, Debug)]
enum Entry {
    /// Bytes in a row, in however many pieces they came: how many, and their hash.
    Bytes(u64, u64),
    Note(String),
}

/// The transcript: a line for each strand.
pub(crate) type Transcript = BTreeMap<String, String>;

impl Book {
    pub(crate) fn strand(&self, name: impl Into<String>) -> Strand {
        Strand { book: self.clone(), name: name.into() }
    }

    pub(crate) fn transcript(&self) -> Transcript {
        let strands = self.strands.lock().unwrap_or_else(PoisonError::into_inner);
        strands.iter().map(|(name, entries)| (name.clone(), line(entries))).collect()
    }
}

fn line(entries: &[Entry]) -> String {
    let text = |entry: &Entry| match entry {
        Entry::Bytes(count, hash) => format!("{count} bytes #{hash:016x}"),
        Entry::Note(text) => text.clone(),
    };
    entries.iter().map(text).collect::<Vec<_>>().join(", ")
}

impl Strand {
    /// More bytes.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        // FNV-1a, 64 bits (RFC 9923).
        let add = |hash: u64| {
            bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
        };
        self.write(|entries| match entries.last_mut() {
            _ if bytes.is_empty() => {}
            Some(Entry::Bytes(count, hash)) => {
                (*count, *hash) = (*count + bytes.len() as u64, add(*hash));
            }
            _ => entries.push(Entry::Bytes(bytes.len() as u64, add(0xcbf2_9ce4_8422_2325))),
        });
    }

    /// Something else.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.write(|entries| entries.push(Entry::Note(text.into())));
    }

    fn write(&self, f: impl FnOnce(&mut Vec<Entry>)) {
        let mut strands = self.book.strands.lock().unwrap_or_else(PoisonError::into_inner);
        f(strands.entry(self.name.clone()).or_default());
    }
}

/// The strands in which two transcripts differ, both sides of each; empty: they are equal.
pub(crate) fn difference(one: (&str, &Transcript), other: (&str, &Transcript)) -> String {
    let names: BTreeSet<&String> = one.1.keys().chain(other.1.keys()).collect();
    let mut text = String::new();
    for name in names {
        let (left, right) = (one.1.get(name), other.1.get(name));
        if left != right {
            let _ = writeln!(text, "{name}:");
            for (who, line) in [(one.0, left), (other.0, right)] {
                let _ = writeln!(text, "  {who}: {}", line.map_or("(nothing)", String::as_str));
            }
        }
    }
    text
}

#[test]
fn pieces_do_not_show_and_everything_else_does() {
    let (one, other) = (Book::default(), Book::default());
    one.strand("a").bytes(b"abc");
    ["a", "", "bc"].iter().for_each(|part| other.strand("a").bytes(part.as_bytes()));
    let differs =
        |one: &Book, other: &Book| difference(("one", &one.transcript()), ("other", &other.transcript()));
    assert_eq!(differs(&one, &other), "");
    one.strand("a").note("end");
    let text = differs(&one, &other);
    assert!(text.starts_with("a:\n  one: 3 bytes #") && text.contains(", end\n  other: 3 bytes #"), "{text}");
    other.strand("a").note("end");
    other.strand("b").bytes(b"abd");
    let text = differs(&one, &other);
    assert!(text.starts_with("b:\n  one: (nothing)\n  other: 3 bytes #"), "{text}");
}
