//! Which reactor runs the shards.

use std::fmt;

use waterwheel_reactor::{Backend, Unavailable};

use super::given::Given;
use super::{Config, ConfigError};

/// The name that leaves the choice to us.
const AUTO: &str = "auto";

/// The order in which `auto` tries the reactors that are compiled in, by the CPU that a proxied message takes: `uring` three
/// quarters of what HAProxy takes, `epoll` about as much, `glommio`, which adds a scheduler of its own under ours, more. The
/// numbers stand in the README. `epoll` runs on every kernel and in every container, so `glommio` is taken only where it is
/// asked for, or compiled in alone.
const ORDER: [&str; 3] = ["uring", "epoll", "glommio"];

/// The reactors that are compiled in, in the order in which `auto` tries them.
pub fn reactors() -> Vec<&'static dyn Backend> {
    let mut all: Vec<&'static dyn Backend> = vec![
        #[cfg(feature = "epoll")]
        &waterwheel_epoll::Epoll,
        #[cfg(feature = "glommio")]
        &waterwheel_glommio::Glommio,
        #[cfg(feature = "uring")]
        const {
            &waterwheel_uring::Uring::new()
        },
    ];
    all.sort_by_key(|backend| ORDER.iter().position(|name| *name == backend.name()));
    all
}

/// The reactor that was chosen. Shows, for one line of the log, which it is and why.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The reactor's name.
    pub reactor: &'static str,
    /// Those that `auto` would rather have taken, and why they cannot run here.
    pub passed_over: Vec<(&'static str, Unavailable)>,
    /// Those that `auto` did not come to.
    pub not_tried: Vec<&'static str>,
    /// Who asked for it, or for `auto`: a variable, a flag or a method; and what was asked for.
    asked: String,
}

#[cfg(feature = "sim")]
impl Choice {
    /// Of a program that has only this one, and says so.
    pub(crate) fn only(backend: &dyn Backend, asked: &str) -> Choice {
        let (passed_over, not_tried) = Default::default();
        Choice { reactor: backend.name(), passed_over, not_tried, asked: asked.to_owned() }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.reactor, self.asked)?;
        for (name, why) in &self.passed_over {
            write!(f, "; {name} cannot run here: {why}")?;
        }
        for name in &self.not_tried {
            write!(f, "; {name} comes after it")?;
        }
        f.write_str(")")
    }
}

/// Chooses the reactor that the configuration asks for, among those compiled in and `extra` ones of the program's
/// own. An extra one with a known name takes that one's place; the others come last for `auto`, which takes the first
/// whose probe passes.
///
/// # Errors
/// No such name; or the one asked for, or with `auto` every one, cannot run here.
pub fn choose<'a>(
    config: &Config,
    extra: &[&'a dyn Backend],
) -> Result<(&'a dyn Backend, Choice), ConfigError> {
    choose_among(&config.reactor, join(configured(config), extra))
}

/// The reactors that are compiled in, set up as the configuration says.
fn configured(config: &Config) -> Vec<&'static dyn Backend> {
    let mut all = reactors();
    #[cfg(feature = "uring")]
    for backend in &mut all {
        let uring = waterwheel_uring::Uring::kept_without(config.uring_off);
        if backend.name() == uring.name() {
            *backend = uring;
        }
    }
    #[cfg(not(feature = "uring"))]
    let _ = (config.uring_off, &mut all);
    all
}

fn join<'a>(known: Vec<&'static dyn Backend>, extra: &[&'a dyn Backend]) -> Vec<&'a dyn Backend> {
    let mut all: Vec<&'a dyn Backend> = known.into_iter().map(|backend| backend as &'a dyn Backend).collect();
    for backend in extra {
        match all.iter_mut().find(|known| known.name() == backend.name()) {
            Some(known) => *known = *backend,
            None => all.push(*backend),
        }
    }
    all
}

fn choose_among<'a>(
    given: &Given<String>,
    all: Vec<&'a dyn Backend>,
) -> Result<(&'a dyn Backend, Choice), ConfigError> {
    let asked = format!("{}={}", given.origin, given.value);
    let mut passed_over = Vec::new();
    let mut candidates = all.iter();
    if given.value == AUTO {
        for &backend in candidates.by_ref() {
            match backend.probe() {
                Ok(()) => {
                    let not_tried = candidates.map(|backend| backend.name()).collect();
                    let reactor = backend.name();
                    return Ok((backend, Choice { reactor, passed_over, not_tried, asked }));
                }
                Err(why) => passed_over.push((backend.name(), why)),
            }
        }
        let reasons: Vec<String> = passed_over.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        let wrong = format!("no reactor can run here ({})", reasons.join("; "));
        return Err(given.unusable(wrong, "a kernel and a container that let one of them run".to_owned()));
    }
    let Some(&backend) = candidates.find(|backend| backend.name() == given.value) else {
        return Err(given.unusable("there is no such reactor".to_owned(), names(&all, None)));
    };
    match backend.probe() {
        Ok(()) => {
            Ok((backend, Choice { reactor: backend.name(), passed_over, not_tried: Vec::new(), asked }))
        }
        Err(why) => {
            Err(given.unusable(format!("it cannot run here: {why}"), names(&all, Some(backend.name()))))
        }
    }
}

/// What may be asked for, with `auto` first.
fn names(all: &[&dyn Backend], without: Option<&str>) -> String {
    let others = all.iter().map(|backend| backend.name()).filter(|name| Some(*name) != without);
    [AUTO].into_iter().chain(others).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use waterwheel_reactor::{Address, Bound, Ended, Launch, ListenOptions};

    /// A reactor that only has a name, and perhaps a reason why it cannot run.
    #[derive(Debug)]
    struct Named(&'static str, Option<&'static str>);

    impl Backend for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn probe(&self) -> Result<(), Unavailable> {
            self.1.map_or(Ok(()), |why| Err(Unavailable::new(why)))
        }
        fn bind(&self, _: &Address, _: &ListenOptions, _: usize) -> io::Result<Vec<Bound>> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn run(&self, _: Vec<Launch>) -> Result<(), Vec<Ended>> {
            Ok(())
        }
    }

    const GOOD: Named = Named("good", None);
    const LATER: Named = Named("later", None);
    const BAD: Named = Named("bad", Some("io_uring_setup: Operation not permitted"));

    fn among(name: &str, all: &[&dyn Backend]) -> Result<Choice, String> {
        let config = Config::from_vars([("WATERWHEEL_REACTOR", name)]).unwrap();
        let chosen = choose_among(&config.reactor, all.to_vec()).map_err(|error| error.to_string())?;
        assert_eq!(chosen.0.name(), chosen.1.reactor);
        Ok(chosen.1)
    }

    #[test]
    fn auto_takes_the_first_that_can_run_and_says_why() {
        let choice = among("auto", &[&BAD, &GOOD, &LATER]).unwrap();
        assert_eq!(choice.reactor, "good");
        assert_eq!(
            choice.to_string(),
            "good (WATERWHEEL_REACTOR=auto; bad cannot run here: io_uring_setup: Operation not permitted; later comes after it)"
        );
    }

    #[test]
    fn a_name_is_taken_at_its_word() {
        let choice = among("later", &[&BAD, &GOOD, &LATER]).unwrap();
        assert_eq!(choice.to_string(), "later (WATERWHEEL_REACTOR=later)");
        let line = among("bad", &[&BAD, &GOOD]).unwrap_err();
        let expected = r#"WATERWHEEL_REACTOR="bad": it cannot run here: io_uring_setup: Operation not permitted; allowed: auto, good"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        for name in ["uring", "", "EPOLL", "good "] {
            let line = among(name, &[&BAD, &GOOD]).unwrap_err();
            let expected =
                format!("WATERWHEEL_REACTOR={name:?}: there is no such reactor; allowed: auto, bad, good");
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn where_nothing_runs_every_reason_is_given() {
        let line = among("auto", &[&BAD, &Named("worse", Some("no epoll"))]).unwrap_err();
        assert!(line.contains("(bad: io_uring_setup: Operation not permitted; worse: no epoll)"), "{line}");
        assert!(among("auto", &[]).is_err());
    }

    #[test]
    fn an_extra_one_joins_last_or_takes_its_namesakes_place() {
        static KNOWN: [&dyn Backend; 2] = [&GOOD, &BAD];
        let names = |all: Vec<&dyn Backend>| all.iter().map(|one| one.name()).collect::<Vec<_>>().join(" ");
        assert_eq!(names(join(KNOWN.to_vec(), &[&LATER])), "good bad later");
        let mine = Named("bad", None);
        let all = join(KNOWN.to_vec(), &[&mine]);
        assert_eq!(names(all.clone()), "good bad");
        assert!(all[1].probe().is_ok());
    }

    #[test]
    fn every_compiled_reactor_has_its_place_in_the_order() {
        let mut names: Vec<&str> = reactors().iter().map(|backend| backend.name()).collect();
        assert!(names.iter().all(|name| ORDER.contains(name) && *name != AUTO), "{names:?}");
        names.dedup();
        assert_eq!(names.len(), reactors().len());
        let compiled = [cfg!(feature = "epoll"), cfg!(feature = "glommio"), cfg!(feature = "uring")];
        let compiled = compiled.into_iter().filter(|compiled| *compiled).count();
        assert_eq!(names.len(), compiled, "{names:?}");
        assert!(names.is_sorted_by_key(|name| ORDER.iter().position(|known| known == name)));
    }

    #[test]
    fn an_own_reactor_can_be_asked_for() {
        let (_, choice) = choose(&Config::default().reactor("later"), &[&LATER]).unwrap();
        assert_eq!(choice.to_string(), "later (Config::reactor=later)");
    }
}
