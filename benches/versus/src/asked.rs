//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::load::Workload;

/// How to call the program.
pub const USAGE: &str = "\
versus proxies|echo              CPU per message, Waterwheel's beside others'
versus latency [proxies|echo]    response times at one rate that all of them bear
versus memory [proxies|echo]     memory per idle connection
versus all                       proxies, echo, latency proxies and memory proxies, one after the other
  --rounds COUNT        how often each subject is measured (12)
  --seconds TIME        how long each time (1)
  --warm-up TIME        how long it is loaded before that (0.3)
  --workload NAME,…     only these loads (not of all)
  --only NAME,…         only these subjects (not of all)
  --seed NUMBER         repeats a run's order (random; it is printed)
  --waterwheel FILE     measures this program instead of building this repository's
  --before FILE         measures an older build of Waterwheel too, as before-REACTOR
  --write FILE          writes the tables as Markdown, with what they were measured on";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// CPU per message.
    Cost,
    /// Response times.
    Latency,
    /// Memory per idle connection.
    Memory,
}

impl What {
    /// For a heading.
    pub fn title(self) -> &'static str {
        match self {
            What::Cost => "CPU per message",
            What::Latency => "Response times",
            What::Memory => "Memory",
        }
    }
}

/// Of which servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// TCP proxies.
    Proxies,
    /// Echo servers.
    Echo,
}

impl Of {
    /// For a heading.
    pub fn title(self) -> &'static str {
        match self {
            Of::Proxies => "proxies",
            Of::Echo => "echo servers",
        }
    }
}

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// See [`What`].
    pub what: What,
    /// See [`Of`].
    pub of: Of,
    /// The loads, in the order of their tables.
    pub workloads: Vec<Workload>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What is measured, in this order.
    pub parts: Vec<Part>,
    /// Times that each subject is measured.
    pub rounds: usize,
    /// How long each time.
    pub window: Duration,
    /// How long it is loaded before.
    pub warm_up: Duration,
    /// Subjects by name; empty: all.
    pub only: Vec<String>,
    /// Decides the order and the bootstrap.
    pub seed: u64,
    /// A program to measure.
    pub waterwheel: Option<PathBuf>,
    /// Another build of it.
    pub before: Option<PathBuf>,
    /// Where Markdown goes.
    pub write: Option<PathBuf>,
}

/// What `all` measures.
const ALL: [(What, Of); 4] = [
    (What::Cost, Of::Proxies),
    (What::Cost, Of::Echo),
    (What::Latency, Of::Proxies),
    (What::Memory, Of::Proxies),
];

/// The longest of all times that can be asked for.
const SECONDS_MAX: f64 = 600.0;
const ROUNDS_MAX: usize = 1000;

impl Asked {
    /// # Errors
    /// The arguments make no sense; the message says which.
    pub fn read(arguments: &[String]) -> anyhow::Result<Asked> {
        let mut rest = arguments.iter().map(String::as_str).peekable();
        let first = rest.next().context("say what to measure")?;
        let is_all = first == "all";
        let parts = match first {
            "proxies" => vec![(What::Cost, Of::Proxies)],
            "echo" => vec![(What::Cost, Of::Echo)],
            "all" => ALL.to_vec(),
            "latency" | "memory" => {
                let what = if first == "latency" { What::Latency } else { What::Memory };
                match rest.next_if(|next| !next.starts_with("--")) {
                    None | Some("proxies") => vec![(what, Of::Proxies)],
                    Some("echo") => vec![(what, Of::Echo)],
                    Some(other) => bail!("{other}: neither proxies nor echo"),
                }
            }
            other => bail!("{other}: cannot be measured"),
        };
        let usual = |(what, of)| Part { what, of, workloads: Asked::usual(what, of) };
        let mut asked = Asked {
            parts: parts.into_iter().map(usual).collect(),
            rounds: 12,
            window: Duration::from_secs(1),
            warm_up: Duration::from_millis(300),
            only: Vec::new(),
            seed: fastrand::u64(..1_000_000),
            waterwheel: None,
            before: None,
            write: None,
        };
        while let Some(flag) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{flag} needs a value"));
            match flag {
                "--workload" | "--only" if is_all => bail!("{flag}: all is all"),
                "--rounds" => asked.rounds = number(flag, value()?)?,
                "--seconds" => asked.window = seconds(flag, value()?)?,
                "--warm-up" => asked.warm_up = seconds(flag, value()?)?,
                "--workload" => {
                    let names = value()?;
                    for part in &mut asked.parts {
                        part.workloads = named(part.what, part.of, names)?;
                    }
                }
                "--only" => asked.only = value()?.split(',').map(str::to_owned).collect(),
                "--seed" => asked.seed = number(flag, value()?)?,
                "--waterwheel" => asked.waterwheel = Some(value()?.into()),
                "--before" => asked.before = Some(value()?.into()),
                "--write" => asked.write = Some(value()?.into()),
                other => bail!("{other}: unknown"),
            }
        }
        ensure!((1..=ROUNDS_MAX).contains(&asked.rounds), "--rounds is from 1 to {ROUNDS_MAX}");
        Ok(asked)
    }

    /// All loads of cost; one of latency and of memory, which does not depend on it.
    fn usual(what: What, of: Of) -> Vec<Workload> {
        match what {
            What::Cost => possible(what, of),
            What::Latency => Workload::EXCHANGES[1..2].to_vec(),
            What::Memory => Workload::EXCHANGES[..1].to_vec(),
        }
    }
}

fn possible(what: What, of: Of) -> Vec<Workload> {
    let of_proxies = (what, of) == (What::Cost, Of::Proxies);
    let more: &[Workload] = if of_proxies { &Workload::OF_PROXIES } else { &[] };
    [&Workload::EXCHANGES, more].concat()
}

fn named(what: What, of: Of, names: &str) -> anyhow::Result<Vec<Workload>> {
    let possible = possible(what, of);
    let all: Vec<&str> = possible.iter().map(|workload| workload.name).collect();
    let find = |name: &str| {
        let found = possible.iter().find(|workload| workload.name == name).copied();
        found.with_context(|| format!("--workload {name}: unknown; there are {}", all.join(", ")))
    };
    names.split(',').map(find).collect()
}

fn number<N: std::str::FromStr>(flag: &str, value: &str) -> anyhow::Result<N> {
    value.parse().ok().with_context(|| format!("{flag} {value}: no number that fits"))
}

fn seconds(flag: &str, value: &str) -> anyhow::Result<Duration> {
    let seconds: f64 = number(flag, value)?;
    ensure!(
        seconds > 0.0 && seconds <= SECONDS_MAX,
        "{flag} {value}: not more than 0 and at most {SECONDS_MAX} s"
    );
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Asked> {
        Asked::read(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_is_understood() {
        let asked =
            read("proxies --rounds 3 --seconds 0.3 --workload 64b-1,stream-8 --only nginx --seed 9").unwrap();
        let [part] = &asked.parts[..] else { panic!("{asked:?}") };
        assert_eq!((part.what, part.of, asked.rounds, asked.seed), (What::Cost, Of::Proxies, 3, 9));
        assert_eq!(asked.window, Duration::from_millis(300));
        assert_eq!(part.workloads.iter().map(|load| load.name).collect::<Vec<_>>(), ["64b-1", "stream-8"]);
        assert_eq!(asked.only, ["nginx"]);
        assert_eq!(read("latency echo --rounds 2").unwrap().parts[0].of, Of::Echo);
        assert_eq!(read("memory").unwrap().parts[0].workloads.len(), 1);
        assert_eq!(read("echo").unwrap().parts[0].workloads, Workload::EXCHANGES);
    }

    #[test]
    fn all_is_every_table_that_has_targets() {
        let asked = read("all --rounds 10").unwrap();
        let tables = asked
            .parts
            .iter()
            .flat_map(|part| part.workloads.iter().map(|workload| (part.what, part.of, workload.name)));
        let tables: Vec<_> = tables.collect();
        assert_eq!(tables.len(), 6 + 4 + 1 + 1);
        assert!(tables.contains(&(What::Memory, Of::Proxies, "64b-1")));
        for target in crate::targets::TARGETS {
            let table = (target.what, target.of, target.workload);
            assert!(tables.contains(&table) || table.0 == What::Latency && table.1 == Of::Echo, "{target:?}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let cases = [
            ("", "say what"),
            ("everything", "everything"),
            ("latency nothing", "nothing"),
            ("proxies --rounds", "--rounds needs"),
            ("proxies --rounds 0", "from 1 to"),
            ("proxies --rounds many", "many"),
            ("proxies --seconds 0", "--seconds 0"),
            ("proxies --seconds NaN", "NaN"),
            ("proxies --seconds 1e9", "1e9"),
            ("proxies --workload 1b-1", "there are 64b-1"),
            ("echo --workload stream-8", "there are 64b-1"),
            ("latency --workload connect-16", "there are 64b-1"),
            ("proxies --fast", "--fast"),
            ("all --only nginx", "--only"),
            ("all --workload 64b-1", "--workload"),
        ];
        for (text, part) in cases {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
