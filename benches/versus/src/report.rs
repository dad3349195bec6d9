//! Tables, for a terminal and as Markdown, and what the numbers were measured on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use crate::asked::{Asked, Of, Part};
use crate::statistics::Ratio;
use crate::subjects::Found;
use crate::targets::Judged;

/// A table and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Table {
    /// What was measured, and how.
    pub title: String,
    /// The columns' names; the first is the subject's.
    pub head: Vec<String>,
    /// As many cells each as the head.
    pub rows: Vec<Vec<String>>,
    /// Below it.
    pub notes: Vec<String>,
    /// What it says of the targets, below that.
    pub judged: Vec<Judged>,
}

impl Table {
    /// For a terminal.
    pub fn text(&self) -> String {
        let rows = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for row in rows() {
            let _infallible = write!(text, "  {:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _infallible = write!(text, "  {cell:>width$}");
            }
            text.push('\n');
        }
        self.notes.iter().for_each(|note| text.extend(["  ", note, "\n"]));
        self.judged.iter().for_each(|judged| text.extend(["  ", &judged.line(), "\n"]));
        text
    }

    /// For a file.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|---{}|\n", "|---:".repeat(self.head.len() - 1));
        let rows = self.rows.iter().map(|row| line(row));
        let notes = self.notes.iter().map(|note| format!("{note}\n\n"));
        let body: String = rows.collect();
        let notes: String = notes.collect();
        format!("## {}\n\n{}{rule}{body}\n{notes}{}", self.title, line(&self.head), listed(&self.judged))
    }
}

/// In Markdown.
fn listed(judged: &[Judged]) -> String {
    let lines: String = judged.iter().map(|judged| format!("* {}\n", judged.line())).collect();
    if lines.is_empty() { lines } else { lines + "\n" }
}

/// A ratio and its interval, in a cell.
pub fn cell(ratio: Ratio) -> String {
    format!("{:.3} ({:.3} to {:.3})", ratio.value, ratio.low, ratio.high)
}

/// What is not known or does not apply, in a cell.
pub const NOTHING: &str = "–";

/// What `--write` gets: on what all was measured, the targets of all tables, the tables.
#[derive(Debug)]
pub struct Report {
    environment: String,
    tables: String,
    /// With the table that says so.
    judged: Vec<(String, Judged)>,
    /// What is being measured.
    part: String,
    has_parts: bool,
}

impl Report {
    /// Before the first table.
    pub fn new(asked: &Asked, found: &[(Of, Found)]) -> Report {
        let mut environment = environment(asked, found);
        // Both kinds of servers leave out the same reactors.
        let notes: BTreeSet<&String> = found.iter().flat_map(|(_, found)| &found.notes).collect();
        notes.iter().for_each(|note| environment.extend(["* ", note, "\n"]));
        let has_parts = asked.parts.len() > 1;
        Report { environment, tables: String::new(), judged: Vec::new(), part: String::new(), has_parts }
    }

    /// Before the tables of a part.
    pub fn part(&mut self, part: &Part) {
        self.part = format!("{}: {}", part.what.title(), part.of.title());
        if self.has_parts {
            self.tables.extend(["\n# ", &self.part, "\n"]);
        }
    }

    /// After those before it.
    pub fn add(&mut self, table: &Table) {
        self.tables.extend(["\n", &table.markdown()]);
        let name = table.title.split([':', ',']).next().unwrap_or_default();
        let place = format!("{}, {name}", self.part);
        self.judged.extend(table.judged.iter().map(|judged| (place.clone(), judged.clone())));
    }

    /// All targets judged so far.
    pub fn summary(&self) -> String {
        let reached = self.judged.iter().filter(|(_, judged)| judged.reached == Some(true)).count();
        let lines = self.judged.iter().map(|(place, judged)| format!("* {place}. {}\n", judged.line()));
        format!("{reached} of {} targets reached:\n\n{}", self.judged.len(), lines.collect::<String>())
    }

    /// All so far.
    pub fn markdown(&self) -> String {
        let summary = if self.has_parts { format!("\n{}", self.summary()) } else { String::new() };
        format!("{}{summary}{}", self.environment, self.tables)
    }
}

/// The machine, the versions, the command and the seed.
fn environment(asked: &Asked, found: &[(Of, Found)]) -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let model = models.first().map_or("unknown CPU", |model| model.trim_start_matches([':', ' ', '\t']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let root = crate::subjects::root();
    let commit = said(Command::new("git").arg("-C").arg(&root).args(["describe", "--always", "--dirty"]));
    let measured = match asked.waterwheel {
        Some(_) => format!("a program given by `--waterwheel`, measured by what is at {commit}"),
        None => commit,
    };
    let mut lines = vec![
        format!("* Machine: {model}, {} CPUs; Linux {}", models.len().max(1), kernel.trim()),
        format!("* Waterwheel: {measured}"),
        format!("* Compiler: {}", said(Command::new("rustc").arg("--version"))),
        format!("* Date: {}", said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))),
        format!("* Command: `cargo run --release --manifest-path benches/versus/Cargo.toml -- {}`", {
            let mut arguments: Vec<String> = std::env::args().skip(1).collect();
            if !arguments.iter().any(|argument| argument == "--seed") {
                arguments.push(format!("--seed {}", asked.seed));
            }
            arguments.join(" ")
        }),
    ];
    let has = |name: &str| {
        found.iter().flat_map(|(_, found)| &found.subjects).any(|subject| subject.name.starts_with(name))
    };
    if has("haproxy") {
        lines.push(format!("* {}", said(Command::new("haproxy").arg("-v"))));
    }
    if has("nginx") {
        lines.push(format!("* {}", said(Command::new("nginx").arg("-v"))));
    }
    let crates = ["glommio", "io-uring", "monoio", "tokio"].map(|name| {
        let versions: Vec<&str> = locked(include_str!("../Cargo.lock"), name).collect();
        format!("{name} {}", versions.join(" and "))
    });
    lines.push(format!("* Crates: {}", crates.join(", ")));
    lines.join("\n") + "\n"
}

/// The versions of a crate in a lock file.
fn locked<'a>(lock: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = move |window: &(&str, &str)| window.0.strip_prefix("name = ") == Some(&format!("\"{name}\""));
    lock.lines()
        .zip(lock.lines().skip(1))
        .filter(named)
        .filter_map(|(_, line)| line.strip_prefix("version = ").map(|version| version.trim_matches('"')))
}

/// The first line that a command says.
fn said(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asked::What;

    #[test]
    fn tables_keep_their_columns() {
        let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        let table = Table {
            title: "Proxies".into(),
            head: row("proxy", "µs"),
            rows: vec![row("ours", "1.5"), row("a long name", "22")],
            notes: vec!["so".into()],
            judged: vec![Judged { text: "ours is 1".into(), reached: Some(true) }],
        };
        assert_eq!(
            table.text(),
            "Proxies\n  proxy         µs\n  ours         1.5\n  a long name   22\n  so\n  \
             Target: ours is 1: reached\n"
        );
        let markdown = "## Proxies\n\n| proxy | µs |\n|---|---:|\n| ours | 1.5 |\n| a long name | 22 |\n\nso\n\n\
                        * Target: ours is 1: reached\n\n";
        assert_eq!(table.markdown(), markdown);
    }

    #[test]
    fn all_targets_are_told_together() {
        let arguments = ["all", "--seed", "7"].map(str::to_owned);
        let mut report = Report::new(&Asked::read(&arguments).unwrap(), &[]);
        let part = Part { what: What::Memory, of: Of::Proxies, workloads: Vec::new() };
        report.part(&part);
        for reached in [Some(true), Some(false)] {
            let judged = vec![Judged { text: "ours is 1".into(), reached }];
            let head = vec!["subject".to_owned()];
            report.add(&Table {
                title: "64b-1: so".into(),
                head,
                rows: Vec::new(),
                notes: Vec::new(),
                judged,
            });
        }
        let summary = "1 of 2 targets reached:\n\n\
                       * Memory: proxies, 64b-1. Target: ours is 1: reached\n\
                       * Memory: proxies, 64b-1. Target: ours is 1: NOT REACHED\n";
        assert_eq!(report.summary(), summary);
        let markdown = report.markdown();
        assert!(markdown.starts_with("* Machine: ") && markdown.contains(summary), "{markdown}");
        assert!(markdown.contains("# Memory: proxies\n\n## 64b-1: so\n"), "{markdown}");
    }

    #[test]
    fn versions_come_from_the_lock() {
        let lock = "[[package]]\nname = \"tokio\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"tokio-util\"\nversion = \"9\"\n";
        assert_eq!(locked(lock, "tokio").collect::<Vec<_>>(), ["1.2.3"]);
        assert!(locked(include_str!("../Cargo.lock"), "io-uring").count() >= 1);
    }
}
