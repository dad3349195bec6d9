//! The command line, as far as cargo and its users pass one to a test.

use std::iter::Peekable;

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) task: Task,
    /// A case runs if one of these is part of its name; all run if there is none.
    filters: Vec<String>,
    /// A case whose name has one of these as a part does not run.
    skips: Vec<String>,
    /// Filters and skips must be the whole name.
    exact: bool,
    /// Only what libtest calls ignored, of which there is nothing here.
    ignored: bool,
    /// Print what deviations said, too.
    pub(super) show_output: bool,
    /// How many cases at a time; if not given, what `RUST_TEST_THREADS` says, or as many as there are processors.
    pub(super) threads: Option<usize>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Task {
    #[default]
    Run,
    List,
    /// Run the one case of this name in this process: the runner's call of itself.
    Child(String),
}

/// Flags of the standard harness that take a value; none but `--test-threads` and `--skip` means anything here.
const WITH_VALUE: &[&str] = &["--format", "--color", "--logfile", "--shuffle-seed", "-Z"];

/// The flag with which the runner calls itself.
pub(super) const CHILD: &str = "--one-law";

impl Arguments {
    pub(super) fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut parsed = Arguments::default();
        let mut rest = arguments.peekable();
        while let Some(argument) = rest.next() {
            let (flag, inline) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            match flag {
                CHILD => parsed.task = Task::Child(value(flag, inline, &mut rest)?),
                "--list" => parsed.task = Task::List,
                "--exact" => parsed.exact = true,
                "--show-output" => parsed.show_output = true,
                "--ignored" => parsed.ignored = true,
                "--skip" => parsed.skips.push(value(flag, inline, &mut rest)?),
                "--test-threads" => {
                    let text = value(flag, inline, &mut rest)?;
                    let threads = text.parse().ok().filter(|threads| *threads > 0);
                    parsed.threads = Some(
                        threads
                            .ok_or_else(|| format!("--test-threads {text}: a number from 1 is allowed"))?,
                    );
                }
                _ if WITH_VALUE.contains(&flag) => drop(value(flag, inline, &mut rest)?),
                // Flags of the standard harness (--nocapture, --quiet, …) are for it alone.
                _ if flag.starts_with('-') => {}
                _ => parsed.filters.push(argument),
            }
        }
        Ok(parsed)
    }

    /// Whether the case of this name is to run.
    pub(super) fn admit(&self, name: &str) -> bool {
        let hit = |pattern: &String| if self.exact { name == pattern } else { name.contains(&**pattern) };
        !self.ignored
            && (self.filters.is_empty() || self.filters.iter().any(hit))
            && !self.skips.iter().any(hit)
    }
}

fn value(
    flag: &str,
    inline: Option<String>,
    rest: &mut Peekable<impl Iterator<Item = String>>,
) -> Result<String, String> {
    inline.or_else(|| rest.next()).ok_or_else(|| format!("{flag} needs a value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_flag_of_the_standard_harness_is_no_filter() {
        for line in
            ["", "--nocapture -q", "--format terse", "--format=terse --color always", "-Z unstable-options"]
        {
            assert_eq!(parse(line), Ok(Arguments::default()), "{line}");
        }
        assert_eq!(parse("--test-threads=3").map(|parsed| parsed.threads), Ok(Some(3)));
        assert_eq!(parse("--test-threads 3").map(|parsed| parsed.threads), Ok(Some(3)));
        assert!(parse("--test-threads 0").is_err());
        assert!(parse("--skip").is_err());
    }

    #[test]
    fn filters_skips_and_exact_names_choose_cases() {
        let admitted = |line: &str| {
            let parsed = parse(line).expect("a sound command line");
            let names = ["epoll::LIFE-1", "epoll::LIFE-10", "glommio::TIME-1"];
            names.into_iter().filter(|name| parsed.admit(name)).count()
        };
        assert_eq!(admitted(""), 3);
        assert_eq!(admitted("epoll"), 2);
        assert_eq!(admitted("TIME epoll"), 3);
        assert_eq!(admitted("epoll::LIFE-1"), 2);
        assert_eq!(admitted("--exact epoll::LIFE-1"), 1);
        assert_eq!(admitted("--skip LIFE"), 1);
        assert_eq!(admitted("--ignored"), 0);
    }
}
