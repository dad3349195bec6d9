//! One line of an access log.

use std::fmt::{self, Write};
use std::time::Duration;

use super::LogFormat;

/// What is told of a connection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Record {
    /// When it began, since 1970 (UTC).
    pub began: Duration,
    /// The shard that served it.
    pub shard: usize,
    /// Its number on that shard, from 1 on in each of its lives.
    pub id: u64,
    /// Who connected.
    pub client: Option<String>,
    /// Who a believed PROXY header says that the client is.
    pub believed: Option<String>,
    /// Where it arrived.
    pub listener: Option<String>,
    /// The proxy's name, if it is one of several.
    pub proxy: Option<String>,
    /// The server's name that it asked for, if that was read.
    pub sni: Option<String>,
    /// The group of upstreams that it went to, if that has a name.
    pub group: Option<String>,
    /// The upstream to which it was connected.
    pub upstream: Option<String>,
    /// Bytes from the client to the upstream.
    pub bytes_up: u64,
    /// Bytes from the upstream to the client.
    pub bytes_down: u64,
    /// From its beginning to its end.
    pub duration: Duration,
    /// From when an upstream was chosen until it was connected, attempts that failed included.
    pub connect: Option<Duration>,
    /// How long it waited for a place at an upstream.
    pub queue: Option<Duration>,
    /// How it ended, by the name of the counter that counted it.
    pub end: &'static str,
}

impl Record {
    /// Writes it as a line, at the end of `to`.
    pub fn write(&self, format: LogFormat, to: &mut String) {
        // Writing to a text does not fail.
        let _ = match format {
            LogFormat::Text => self.text(to),
            LogFormat::Json => self.json(to),
        };
    }

    fn names(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("client", self.client.as_deref()),
            ("believed", self.believed.as_deref()),
            ("listener", self.listener.as_deref()),
            ("proxy", self.proxy.as_deref()),
            ("sni", self.sni.as_deref()),
            ("group", self.group.as_deref()),
            ("upstream", self.upstream.as_deref()),
        ]
    }

    fn times(&self) -> [(&'static str, Option<Duration>); 3] {
        [("duration", Some(self.duration)), ("connect", self.connect), ("queue", self.queue)]
    }

    fn text(&self, to: &mut String) -> fmt::Result {
        write!(to, "{} shard={} id={}", Utc(self.began), self.shard, self.id)?;
        for (name, value) in self.names() {
            write!(to, " {name}=")?;
            match value {
                None => to.push('-'),
                Some(value) => plain(value, to)?,
            }
        }
        write!(to, " up={} down={}", self.bytes_up, self.bytes_down)?;
        for (name, time) in self.times() {
            match time {
                None => write!(to, " {name}=-")?,
                Some(time) => write!(to, " {name}={}", Seconds(time))?,
            }
        }
        writeln!(to, " end={}", self.end)
    }

    fn json(&self, to: &mut String) -> fmt::Result {
        write!(to, r#"{{"time":"{}","shard":{},"id":{}"#, Utc(self.began), self.shard, self.id)?;
        for (name, value) in self.names() {
            write!(to, r#","{name}":"#)?;
            match value {
                None => to.push_str("null"),
                Some(value) => escaped(value, to)?,
            }
        }
        write!(to, r#","bytes_up":{},"bytes_down":{}"#, self.bytes_up, self.bytes_down)?;
        for (name, time) in self.times() {
            match time {
                None => write!(to, r#","{name}_s":null"#)?,
                Some(time) => write!(to, r#","{name}_s":{}"#, Seconds(time))?,
            }
        }
        writeln!(to, r#","end":"{}"}}"#, self.end)
    }
}

/// A value of the text format: in quotes if it holds anything that could be taken for something else, so that nobody can
/// forge a line or a field by a name.
fn plain(value: &str, to: &mut String) -> fmt::Result {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    if value.is_empty() || value == "-" || !value.bytes().all(is_plain) {
        let escaped = value.chars().flat_map(char::escape_default);
        to.push('"');
        to.extend(escaped);
        to.push('"');
        return Ok(());
    }
    to.write_str(value)
}

/// A string of JSON (RFC 8259, section 7). What is not ASCII is escaped too: a terminal that shows the log is not to be
/// played tricks on.
fn escaped(value: &str, to: &mut String) -> fmt::Result {
    to.push('"');
    for letter in value.chars() {
        match letter {
            '"' | '\\' => {
                to.push('\\');
                to.push(letter);
            }
            ' '..='~' => to.push(letter),
            _ => {
                let mut units = [0; 2];
                for unit in letter.encode_utf16(&mut units) {
                    write!(to, "\\u{unit:04x}")?;
                }
            }
        }
    }
    to.push('"');
    Ok(())
}

/// Seconds to the microsecond.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

/// A time since 1970, as RFC 3339 has it.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0.as_secs() / 86_400, self.0.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        let micros = self.0.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// The date of a day since 1970, in the Gregorian calendar. Counted from the first of March of the year 0, so that the day
/// that leap years have more is the last one; 146 097 days make 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    // From there to 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months have 153 days, beginning with March.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(record: &Record, format: LogFormat) -> String {
        let mut text = String::new();
        record.write(format, &mut text);
        text
    }

    #[test]
    fn a_line_has_everything() {
        let record = Record {
            began: Duration::new(1_709_210_096, 789_012_345),
            shard: 1,
            id: 7,
            client: Some("tcp:192.0.2.1:5".to_owned()),
            sni: Some("a b\n".to_owned()),
            bytes_up: 3,
            bytes_down: 4,
            duration: Duration::from_millis(1_500),
            connect: Some(Duration::from_micros(70)),
            end: "finished",
            ..Record::default()
        };
        assert_eq!(
            line(&record, LogFormat::Text),
            "2024-02-29T12:34:56.789012Z shard=1 id=7 client=tcp:192.0.2.1:5 believed=- listener=- proxy=- \
             sni=\"a b\\n\" group=- upstream=- up=3 down=4 duration=1.500000 connect=0.000070 queue=- end=finished\n"
        );
        let json: serde_json::Value = serde_json::from_str(&line(&record, LogFormat::Json)).unwrap();
        assert_eq!(json["sni"], "a b\n");
        assert_eq!((&json["time"], &json["bytes_down"]), (&"2024-02-29T12:34:56.789012Z".into(), &4.into()));
        assert_eq!((&json["duration_s"], &json["queue_s"]), (&1.5.into(), &serde_json::Value::Null));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert!(Utc(Duration::from_secs(seconds)).to_string().starts_with(date), "{seconds}");
        }
    }

    proptest! {
        /// Whatever a client says, it makes neither a line nor a field nor what a terminal obeys.
        #[test]
        fn names_forge_nothing(sni in "\\PC*|[\\x00-\\xff ]*", group in ".*") {
            let record =
                Record { sni: Some(sni.clone()), group: Some(group), end: "finished", ..Record::default() };
            let text = line(&record, LogFormat::Text);
            prop_assert!(text.bytes().filter(|byte| !matches!(byte, b' '..=b'~')).eq([b'\n']));
            let outside: String = text.replace("\\\\", "").replace("\\\"", "").split('"').step_by(2).collect();
            prop_assert_eq!(outside.matches(" sni=").count(), 1);
            let json = line(&record, LogFormat::Json);
            prop_assert!(json.bytes().filter(|byte| !matches!(byte, b' '..=b'~')).eq([b'\n']));
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&json["sni"], &sni);
        }
    }
}
