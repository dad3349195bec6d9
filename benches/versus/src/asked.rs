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
  --rounds COUNT        how often each subject is measured (12)
  --seconds TIME        how long each time (1)
  --warm-up TIME        how long it is loaded before that (0.3)
  --workload NAME,…     only these loads
  --only NAME,…         only these subjects
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

/// Of which servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// TCP proxies.
    Proxies,
    /// Echo servers.
    Echo,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// See [`What`].
    pub what: What,
    /// See [`Of`].
    pub of: Of,
    /// Times that each subject is measured.
    pub rounds: usize,
    /// How long each time.
    pub window: Duration,
    /// How long it is loaded before.
    pub warm_up: Duration,
    /// The loads, in the order of their table.
    pub workloads: Vec<Workload>,
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

/// The longest of all times that can be asked for.
const SECONDS_MAX: f64 = 600.0;
const ROUNDS_MAX: usize = 1000;

impl Asked {
    /// # Errors
    /// The arguments make no sense; the message says which.
    pub fn read(arguments: &[String]) -> anyhow::Result<Asked> {
        let mut rest = arguments.iter().map(String::as_str).peekable();
        let (what, of) = match rest.next().context("say what to measure")? {
            "proxies" => (What::Cost, Of::Proxies),
            "echo" => (What::Cost, Of::Echo),
            word @ ("latency" | "memory") => {
                let what = if word == "latency" { What::Latency } else { What::Memory };
                match rest.next_if(|next| !next.starts_with("--")) {
                    None | Some("proxies") => (what, Of::Proxies),
                    Some("echo") => (what, Of::Echo),
                    Some(other) => bail!("{other}: neither proxies nor echo"),
                }
            }
            other => bail!("{other}: cannot be measured"),
        };
        let mut asked = Asked {
            what,
            of,
            rounds: 12,
            window: Duration::from_secs(1),
            warm_up: Duration::from_millis(300),
            workloads: Asked::usual(what, of),
            only: Vec::new(),
            seed: fastrand::u64(..1_000_000),
            waterwheel: None,
            before: None,
            write: None,
        };
        while let Some(flag) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{flag} needs a value"));
            match flag {
                "--rounds" => asked.rounds = number(flag, value()?)?,
                "--seconds" => asked.window = seconds(flag, value()?)?,
                "--warm-up" => asked.warm_up = seconds(flag, value()?)?,
                "--workload" => asked.workloads = named(what, of, value()?)?,
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
        assert_eq!((asked.what, asked.of, asked.rounds, asked.seed), (What::Cost, Of::Proxies, 3, 9));
        assert_eq!(asked.window, Duration::from_millis(300));
        assert_eq!(asked.workloads.iter().map(|load| load.name).collect::<Vec<_>>(), ["64b-1", "stream-8"]);
        assert_eq!(asked.only, ["nginx"]);
        assert_eq!(read("latency echo --rounds 2").unwrap().of, Of::Echo);
        assert_eq!(read("memory").unwrap().workloads.len(), 1);
        assert_eq!(read("echo").unwrap().workloads, Workload::EXCHANGES);
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
        ];
        for (text, part) in cases {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
