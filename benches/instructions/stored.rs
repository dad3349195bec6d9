//! The numbers to compare with, and how.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Where they are, in the package.
const STORED: &str = "benches/instructions/bounds.txt";

/// What a bound leaves above what was measured, in per cent; what is further below lowers it. More for glommio:
/// some runs had 8 % more than the others, and why is not known.
fn slack(reactor: &str) -> u64 {
    if reactor == "glommio" { 10 } else { 5 }
}

/// One stored number, or one to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) reactor: String,
    pub(crate) connections: usize,
    pub(crate) measured: u64,
    pub(crate) bound: u64,
}

impl Row {
    pub(crate) fn new(reactor: &str, connections: usize, turns: &[u64]) -> Row {
        let mut sorted = turns.to_vec();
        sorted.sort_unstable();
        let measured = sorted[sorted.len() / 2];
        let bound = (measured * (100 + slack(reactor))).div_ceil(100);
        Row { reactor: reactor.to_owned(), connections, measured, bound }
    }

    /// Nothing for comments.
    fn read(line: &str) -> anyhow::Result<Option<Row>> {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let [reactor, connections, measured, bound] = words[..] else {
            ensure!(words.is_empty(), "{line:?} is no row");
            return Ok(None);
        };
        let (connections, measured, bound) = (connections.parse()?, measured.parse()?, bound.parse()?);
        Ok(Some(Row { reactor: reactor.to_owned(), connections, measured, bound }))
    }

    fn write(&self) -> String {
        format!("{:<10} {:>11} {:>10} {:>7}\n", self.reactor, self.connections, self.measured, self.bound)
    }

    /// What to say of it beside the stored ones, and whether it will do.
    pub(crate) fn judge(&self, stored: &[Row]) -> (String, bool) {
        let same = |row: &&Row| row.reactor == self.reactor && row.connections == self.connections;
        let Some(stored) = stored.iter().find(same) else {
            return (format!("FAILED: no bound is stored; {} would do", self.bound), false);
        };
        let (bound, before) = (stored.bound, stored.measured);
        if self.measured > bound {
            return (format!("FAILED: above the bound of {bound}; it was {before}"), false);
        }
        if self.bound < before {
            return (
                format!("FAR BELOW the bound of {bound}, which should be lowered to {}", self.bound),
                true,
            );
        }
        (format!("within {bound}"), true)
    }
}

/// The numbers to compare with.
pub(crate) struct Stored {
    pub(crate) rows: Vec<Row>,
    /// What measured them, in a comment.
    pub(crate) tools: String,
}

impl Stored {
    fn file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(STORED)
    }

    pub(crate) fn read() -> anyhow::Result<Stored> {
        let text = fs::read_to_string(Stored::file()).context(STORED)?;
        let rows: anyhow::Result<Vec<_>> =
            text.lines().filter_map(|line| Row::read(line).transpose()).collect();
        Ok(Stored { rows: rows.context(STORED)?, tools: text.lines().next().unwrap_or_default().to_owned() })
    }

    pub(crate) fn write(rows: &[Row], tools: &str) -> anyhow::Result<()> {
        let what = "User instructions per forwarded message; `.ci/instructions` compares, `.ci/instructions --set` writes.";
        let rows: String = rows.iter().map(Row::write).collect();
        let text = format!("# {tools}\n# {what}\n# reactor connections   measured   bound\n{rows}");
        Ok(fs::write(Stored::file(), text)?)
    }
}
