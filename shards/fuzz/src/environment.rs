//! Environments, of which ours are the variables whose names begin with `WATERWHEEL_`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use waterwheel::runtime::{Config, ConfigError, CpuList, Knob, Plan};

use super::line;

const PREFIX: &str = "WATERWHEEL_";

/// By name, as errors show it; what is no variable is left out, and of two with one name the last counts.
type Variables<'b> = BTreeMap<String, &'b [u8]>;

/// Other programs' variables and the order do not matter; an error is one line that names a variable of ours and its
/// value; a setting that is refused changes nothing; and whatever is taken can be planned, or is refused by
/// [`Config::check`] or for the machine's sake.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let all: Variables<'_> = bytes.split(|byte| *byte == 0).filter_map(variable).collect();
    let ours: Variables<'_> = all.clone().into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let read = read(&all);
    assert_eq!(read, self::read(&ours), "a foreign variable counts");
    assert_eq!(read, Config::from_vars(ours.iter().rev().map(texts)), "the order counts");
    one_by_one(&ours, &read);
    match read {
        Ok(config) => planned(&config, &ours),
        Err(error) => named(&error, &ours),
    }
}

fn variable(entry: &[u8]) -> Option<(String, &[u8])> {
    let at = entry.iter().position(|byte| *byte == b'=')?;
    Some((String::from_utf8_lossy(&entry[..at]).into_owned(), &entry[at + 1..]))
}

fn texts<'v>((name, value): (&'v String, &&'v [u8])) -> (&'v OsStr, &'v OsStr) {
    (OsStr::new(name), OsStr::from_bytes(value))
}

fn read(variables: &Variables<'_>) -> Result<Config, ConfigError> {
    Config::from_vars(variables.iter().map(texts))
}

/// Sets what is set, one after the other, as flags would.
fn one_by_one(ours: &Variables<'_>, read: &Result<Config, ConfigError>) {
    let mut config = Config::default();
    for knob in Knob::ALL {
        let value = ours.get(knob.variable()).and_then(|value| str::from_utf8(value).ok());
        let Some(value) = value else { continue };
        let before = config.clone();
        let set = config.set(knob, knob.variable(), value);
        if let Err(error) = set {
            assert_eq!(config, before, "refused and taken: {error}");
            assert!(read.is_err(), "a variable may say {value:?}, a flag may not: {error}");
        }
    }
    if let Ok(read) = read {
        assert_eq!(*read, config, "variables and flags say different things");
    }
}

fn named(error: &ConfigError, ours: &Variables<'_>) {
    let line = error.to_string();
    line::check(&line, &[]);
    let (name, value) = match error {
        ConfigError::Unknown { name, value, .. } => (name, value),
        ConfigError::Malformed { origin, value, .. } => (origin, value),
        other => panic!("found before everything was read: {other}"),
    };
    let given = ours.get(name).map(|value| String::from_utf8_lossy(value));
    assert_eq!(given.as_deref(), Some(value.as_str()), "nobody set {name:?} to that");
    line::check(&line, &[value]);
    assert!(line.starts_with(PREFIX) && line.contains("; allowed: "), "{line}");
}

fn planned(config: &Config, ours: &Variables<'_>) {
    let text = |knob: Knob| ours.get(knob.variable()).and_then(|value| str::from_utf8(value).ok());
    assert_eq!(config.log_filter(), text(Knob::Log).unwrap_or("info"));
    let cores = text(Knob::Cores).filter(|text| *text != "auto");
    let cores: Option<usize> = cores.map(|text| text.parse().expect("it was taken for a number"));
    let cpus: Option<CpuList> = text(Knob::Cpus).map(|text| text.parse().expect("it was taken for a list"));
    if let Some(list) = &cpus {
        assert_eq!(list.to_string().parse().as_ref(), Ok(list), "a list reads back as another");
    }
    let contradicts = cores.zip(cpus.as_ref()).is_some_and(|(count, list)| count != list.numbers().len());
    let checked = config.check();
    assert_eq!(checked.is_err(), contradicts, "{checked:?}");
    // The machine is asked for nothing where the plan would be that of every empty environment.
    if cores.is_none() && cpus.is_none() {
        return;
    }
    match (checked, Plan::here(config)) {
        (Err(error), planned) => {
            line::check(&error.to_string(), &[]);
            assert_eq!(planned, Err(error), "what does not pass the check is planned");
        }
        (Ok(()), Ok(plan)) => {
            let count = cores.or(cpus.map(|list| list.numbers().len()));
            assert_eq!(Some(plan.shards.len()), count, "asked for otherwise");
        }
        (Ok(()), Err(error)) => {
            assert!(matches!(error, ConfigError::Unusable { .. }) && cpus.is_some(), "{error}");
            line::check(&error.to_string(), &[&cpus.map(|list| list.to_string()).unwrap_or_default()]);
        }
    }
}
