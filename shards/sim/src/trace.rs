//! What happened, in order: a hash over all of it, the last events, and all of them for whoever wants to read them.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

use waterwheel_reactor::Time;

use crate::fault::Verdict;

/// Events that are kept to be shown after a failure.
const KEPT: usize = 400;

/// A number that stands for one end of a connection, for a listening socket or for a shard: unique in its world.
pub type Id = u64;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub at: Time,
    /// Where: the host's number, and the shard's on it if it was one's own doing.
    pub host: usize,
    /// See there.
    pub shard: Option<usize>,
    /// What.
    pub what: What,
}

/// What may happen. Ends of connections and sockets are named by their [`Id`]s.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// A shard's root was polled, for the so many'th time; and whether that was for nothing.
    Turn {
        /// Counted from 1.
        number: u64,
        /// Nobody had woken it.
        spurious: bool,
    },
    /// A root was made, for the so many'th life of the shard.
    Began(u64),
    /// A root ended, and whether by a panic.
    Ended {
        /// Whether it panicked.
        panicked: bool,
    },
    /// The alarm of a shard went off.
    Alarm,
    /// A socket listens.
    Listens {
        /// The socket.
        socket: Id,
        /// Its port; 0 of a Unix socket.
        port: u16,
    },
    /// A socket listens no more.
    Unlistens {
        /// The socket.
        socket: Id,
    },
    /// A connect began.
    Connects {
        /// The connecting end.
        end: Id,
        /// The port it goes to; 0 of a Unix socket.
        port: u16,
    },
    /// It was answered: 0, or the system's number of an error.
    Answered {
        /// The connecting end.
        end: Id,
        /// 0: it stands.
        error: i32,
    },
    /// It waits in a listener's queue.
    Queued {
        /// The accepting end.
        end: Id,
        /// The connecting end.
        from: Id,
        /// The socket.
        socket: Id,
    },
    /// It was accepted.
    Accepted {
        /// The accepting end.
        end: Id,
    },
    /// Accepting failed.
    AcceptFailed {
        /// The system's number of the error.
        error: i32,
    },
    /// A connection became a shard's.
    Adopted {
        /// The end.
        end: Id,
    },
    /// A shard gave a connection away.
    Released {
        /// The end.
        end: Id,
    },
    /// Bytes arrived at an end.
    Arrived {
        /// The receiving end.
        end: Id,
        /// How many.
        bytes: usize,
        /// What they are: a hash.
        hash: u64,
    },
    /// The end of the stream arrived.
    Finished {
        /// The receiving end.
        end: Id,
    },
    /// A reset arrived, or another error broke the connection.
    Broke {
        /// The end.
        end: Id,
        /// The system's number of the error.
        error: i32,
    },
    /// Both halves of an end are gone.
    Closed {
        /// The end.
        end: Id,
    },
    /// An end was reset by its owner.
    Aborted {
        /// The end.
        end: Id,
    },
    /// A datagram socket is bound.
    Binds {
        /// The socket.
        socket: Id,
        /// Its port; 0 of a Unix socket.
        port: u16,
    },
    /// A datagram socket is closed.
    Unbinds {
        /// The socket.
        socket: Id,
    },
    /// A datagram set off.
    Sent {
        /// The sending socket.
        socket: Id,
        /// How many bytes it has.
        bytes: usize,
        /// What they are: a hash.
        hash: u64,
    },
    /// A datagram came to a socket.
    Came {
        /// The receiving socket.
        socket: Id,
        /// How many bytes it has.
        bytes: usize,
    },
    /// A datagram was lost: on the way, or for want of room at the end of it.
    Lost {
        /// The sending socket, or the one without room.
        socket: Id,
        /// How many bytes it had.
        bytes: usize,
    },
    /// A name was asked for.
    Asked(Box<str>),
    /// A rule struck.
    Fault {
        /// The rule's number, in the order in which rules were added.
        rule: usize,
        /// What it did.
        verdict: Verdict,
    },
    /// A line of the program's log, or of the test's own.
    Said(Box<str>),
}

impl What {
    /// Its name and what it carries; all of it goes into the hash.
    fn parts(&self) -> (&'static str, [(&'static str, u64); 3]) {
        const NONE: (&str, u64) = ("", 0);
        let error = |number: &i32| ("error", i64::from(*number) as u64);
        match self {
            What::Turn { number, spurious } => {
                ("turn", [("number", *number), ("spurious", u64::from(*spurious)), NONE])
            }
            What::Began(life) => ("began", [("life", *life), NONE, NONE]),
            What::Ended { panicked } => ("ended", [("panicked", u64::from(*panicked)), NONE, NONE]),
            What::Alarm => ("alarm", [NONE, NONE, NONE]),
            What::Listens { socket, port } => {
                ("listens", [("socket", *socket), ("port", u64::from(*port)), NONE])
            }
            What::Unlistens { socket } => ("unlistens", [("socket", *socket), NONE, NONE]),
            What::Connects { end, port } => ("connects", [("end", *end), ("port", u64::from(*port)), NONE]),
            What::Answered { end, error: number } => ("answered", [("end", *end), error(number), NONE]),
            What::Queued { end, from, socket } => {
                ("queued", [("end", *end), ("from", *from), ("socket", *socket)])
            }
            What::Accepted { end } => ("accepted", [("end", *end), NONE, NONE]),
            What::AcceptFailed { error: number } => ("accept-failed", [error(number), NONE, NONE]),
            What::Adopted { end } => ("adopted", [("end", *end), NONE, NONE]),
            What::Released { end } => ("released", [("end", *end), NONE, NONE]),
            What::Arrived { end, bytes, hash } => {
                ("arrived", [("end", *end), ("bytes", *bytes as u64), ("hash", *hash)])
            }
            What::Finished { end } => ("finished", [("end", *end), NONE, NONE]),
            What::Broke { end, error: number } => ("broke", [("end", *end), error(number), NONE]),
            What::Closed { end } => ("closed", [("end", *end), NONE, NONE]),
            What::Aborted { end } => ("aborted", [("end", *end), NONE, NONE]),
            What::Binds { socket, port } => {
                ("binds", [("socket", *socket), ("port", u64::from(*port)), NONE])
            }
            What::Unbinds { socket } => ("unbinds", [("socket", *socket), NONE, NONE]),
            What::Sent { socket, bytes, hash } => {
                ("sent", [("socket", *socket), ("bytes", *bytes as u64), ("hash", *hash)])
            }
            What::Came { socket, bytes } => ("came", [("socket", *socket), ("bytes", *bytes as u64), NONE]),
            What::Lost { socket, bytes } => ("lost", [("socket", *socket), ("bytes", *bytes as u64), NONE]),
            What::Asked(_) => ("asked", [NONE, NONE, NONE]),
            What::Fault { rule, .. } => ("fault", [("rule", *rule as u64), NONE, NONE]),
            What::Said(_) => ("said", [NONE, NONE, NONE]),
        }
    }

    /// What it carries in words.
    fn text(&self) -> Option<String> {
        match self {
            What::Asked(text) | What::Said(text) => Some(text.to_string()),
            What::Fault { verdict, .. } => Some(verdict.to_string()),
            _ => None,
        }
    }
}

/// A hash of events and bytes: FNV-1a over words instead of bytes (Fowler, Noll, Vo), and a rotation so that the high
/// bits count. Against chance, not against an adversary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) const START: Hash = Hash(0xcbf2_9ce4_8422_2325);

    pub(crate) fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub(crate) fn bytes(&mut self, bytes: impl ExactSizeIterator<Item = u8>) {
        self.word(bytes.len() as u64);
        let (mut word, mut count) = (0, 0);
        for byte in bytes {
            word = (word << 8) | u64::from(byte);
            count += 1;
            if count == 8 {
                self.word(word);
                (word, count) = (0, 0);
            }
        }
        self.word(word);
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

/// The record of one world.
pub(crate) struct Trace {
    hash: Hash,
    count: u64,
    last: VecDeque<Event>,
    out: Option<Box<dyn Write + Send>>,
    /// Why nothing is written any more.
    broken: Option<io::Error>,
    /// By number.
    pub(crate) hosts: Vec<Box<str>>,
}

impl Default for Trace {
    fn default() -> Trace {
        let (last, hosts) = Default::default();
        Trace { hash: Hash::START, count: 0, last, out: None, broken: None, hosts }
    }
}

impl Trace {
    pub(crate) fn write_to(&mut self, out: Box<dyn Write + Send>) {
        self.out = Some(out);
    }

    pub(crate) fn add(&mut self, event: Event) {
        let (name, parts) = event.what.parts();
        self.hash.word(event.at.as_nanos());
        self.hash.word(((event.host as u64) << 32) | event.shard.map_or(0, |shard| shard as u64 + 1));
        self.hash.bytes(name.bytes());
        parts.iter().for_each(|(_, number)| self.hash.word(*number));
        if let Some(text) = event.what.text() {
            self.hash.bytes(text.bytes());
        }
        self.count += 1;
        if let Some(out) = &mut self.out
            && let Err(error) = writeln!(out, "{}", Json { event: &event, hosts: &self.hosts })
        {
            (self.out, self.broken) = (None, Some(error));
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    /// Over all events so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.value()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Hands what is written on to whoever reads it.
    ///
    /// # Errors
    /// Why some or all of it could not be written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        self.out.as_mut().map_or(Ok(()), |out| out.flush())
    }

    /// The last `most` events but turns of shards, of which there are many, a line each.
    pub(crate) fn tail(&self, most: usize) -> String {
        let told = |event: &&Event| !matches!(event.what, What::Turn { .. } | What::Alarm);
        let mut lines: Vec<String> =
            self.last.iter().rev().filter(told).take(most).map(|event| self.line(event)).collect();
        lines.reverse();
        lines.concat()
    }

    fn line(&self, event: &Event) -> String {
        let host = self.hosts.get(event.host).map_or("?", |name| name);
        let mut line = format!("{:>14} {host}", format!("{:?}", event.at));
        if let Some(shard) = event.shard {
            let _ = write!(line, "/{shard}");
        }
        let (name, parts) = event.what.parts();
        let _ = write!(line, " {name}");
        for (key, number) in parts.iter().filter(|(key, _)| !key.is_empty() && *key != "hash") {
            let _ = write!(line, " {key} {number}");
        }
        if let Some(text) = event.what.text() {
            let _ = write!(line, " {text}");
        }
        line.push('\n');
        line
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("count", &self.count).finish_non_exhaustive()
    }
}

/// An event as one line of JSON (RFC 8259).
struct Json<'a> {
    event: &'a Event,
    hosts: &'a [Box<str>],
}

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { at, host, shard, what } = self.event;
        let (name, parts) = what.parts();
        write!(f, "{{\"at_ns\":{},\"host\":", at.as_nanos())?;
        quoted(f, self.hosts.get(*host).map_or("?", |name| name))?;
        if let Some(shard) = shard {
            write!(f, ",\"shard\":{shard}")?;
        }
        write!(f, ",\"event\":\"{name}\"")?;
        for (key, number) in parts.iter().filter(|(key, _)| !key.is_empty()) {
            // A number of 64 bits would lose some in readers whose numbers are floating-point.
            if *key == "hash" {
                write!(f, ",\"{key}\":\"{number:016x}\"")?;
            } else {
                write!(f, ",\"{key}\":{}", *number as i64)?;
            }
        }
        if let Some(text) = what.text() {
            f.write_str(",\"text\":")?;
            quoted(f, &text)?;
        }
        f.write_str("}")
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' | '\\' => write!(f, "\\{letter}")?,
            control if control < ' ' => write!(f, "\\u{:04x}", u32::from(control))?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn said(at: u64, text: &str) -> Event {
        Event { at: Time::from_nanos(at), host: 0, shard: Some(1), what: What::Said(text.into()) }
    }

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_part_of_an_event_changes_the_hash() {
        let arrived = |at, host, shard, end, bytes, hash| {
            let mut trace = Trace::default();
            let what = What::Arrived { end, bytes, hash };
            trace.add(Event { at: Time::from_nanos(at), host, shard, what });
            trace.hash()
        };
        let hashes = [
            arrived(1, 1, Some(1), 1, 1, 1),
            arrived(2, 1, Some(1), 1, 1, 1),
            arrived(1, 2, Some(1), 1, 1, 1),
            arrived(1, 1, Some(2), 1, 1, 1),
            arrived(1, 1, None, 1, 1, 1),
            arrived(1, 1, Some(1), 2, 1, 1),
            arrived(1, 1, Some(1), 1, 2, 1),
            arrived(1, 1, Some(1), 1, 1, 2),
        ];
        for (place, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..place].contains(hash), "{place}");
        }
    }

    #[test]
    fn lines_are_json_whatever_was_said() {
        let (mut trace, paper) = (Trace::default(), Paper::default());
        trace.hosts.push("a \"host\"".into());
        trace.write_to(Box::new(paper.clone()));
        trace.add(said(5, "tab\there \\ and \u{1}"));
        trace.flush().unwrap();
        let wanted = concat!(
            r#"{"at_ns":5,"host":"a \"host\"","shard":1,"event":"said","text":"tab\u0009here \\ and \u0001"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(paper.0.lock().unwrap().clone()).unwrap(), wanted);
    }

    #[test]
    fn a_full_disk_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut trace = Trace::default();
        trace.write_to(Box::new(Full));
        trace.add(said(1, "lost"));
        assert_eq!(trace.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn the_tail_is_the_end_of_it() {
        let mut trace = Trace::default();
        (0..1_000).for_each(|number| trace.add(said(number, &format!("line {number}"))));
        let tail = trace.tail(2);
        assert_eq!(tail.lines().count(), 2);
        assert!(tail.ends_with("line 999\n"), "{tail}");
    }
}
