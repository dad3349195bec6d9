//! What is counted, under which name: declared before the shards start.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cells::{Kind, Sort};

/// The most children that a family may have, besides `other`.
pub const CHILDREN_MAX: usize = 10_000;
/// A label's value is cut after so many bytes.
const VALUE_BYTES_MAX: usize = 128;
/// The label that says which shard, of families that are [shown by shard](FamilyOptions::by_shard).
pub(super) const SHARD: &str = "shard";
/// The values of the labels of what found no room.
pub(super) const OTHER: &str = "other";
/// What the framework's own families begin with, and those that all programs have.
const RESERVED: [&str; 2] = ["waterwheel_", "process_"];

/// Numbers of one name, kind `K` and meaning, one for each set of values of its `N` labels; declared before the shards
/// start, and given to each by clone. [`Shard::counter`](crate::shard::Shard::counter) and its like are a shard's part in
/// one without labels, [`Shard::children`](crate::shard::Shard::children) in one with labels.
pub struct Family<K, const N: usize = 0> {
    pub(super) declared: Arc<Declared>,
    pub(super) kind: PhantomData<fn() -> K>,
}

impl<K, const N: usize> Clone for Family<K, N> {
    fn clone(&self) -> Family<K, N> {
        Family { declared: self.declared.clone(), kind: PhantomData }
    }
}

impl<K, const N: usize> Family<K, N> {
    /// The name under which it was declared.
    pub fn name(&self) -> &str {
        &self.declared.name
    }
}

impl<K, const N: usize> fmt::Debug for Family<K, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Family({} {})", self.declared.sort.name(), self.declared.name)
    }
}

/// What the values of a [`Histogram`](super::Histogram) are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Recorded in nanoseconds, shown in seconds; the name ends with `_seconds`. Counted up to powers of two from 2^10 ns
    /// (a microsecond) to 2^36 ns (69 s).
    Seconds,
    /// The name ends with `_bytes`. Counted up to powers of two from 2^6 to 2^30 bytes.
    Bytes,
    /// Whole numbers of something. Counted up to powers of two from 1 to 2^20.
    Number,
}

impl Unit {
    /// The powers of two up to which values are counted.
    pub(super) fn powers(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Unit::Seconds => 10..=36,
            Unit::Bytes => 6..=30,
            Unit::Number => 0..=20,
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
            Unit::Number => "",
        }
    }
}

/// How a family with labels is kept and shown. Every field has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyOptions {
    /// How many sets of values its labels may have, over all shards and for the whole run: 1 to [`CHILDREN_MAX`], default
    /// 100. What comes beyond that counts in one child whose labels all are `other`, and the log says so once.
    pub children: usize,
    /// Show each shard's number, with a label `shard`, instead of the sum over the shards. Default: the sum.
    pub by_shard: bool,
}

impl Default for FamilyOptions {
    fn default() -> FamilyOptions {
        FamilyOptions { children: 100, by_shard: false }
    }
}

/// Why a family could not be declared, or used: a bug of the program's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FamilyError {
    /// A name that Prometheus would not take, or that says something else than what it is.
    #[error("no {kind} can be named {name:?}: {wrong}; allowed: {allowed}")]
    Name {
        /// What was to be named: `counter`, `gauge`, `histogram`, `label`.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        wrong: &'static str,
        /// What would be right.
        allowed: String,
    },
    /// Two families would be shown under one name.
    #[error("{name:?} is declared already, as or beside {other:?}")]
    Taken {
        /// The name.
        name: String,
        /// Whose it is.
        other: String,
    },
    /// A limit that makes no sense.
    #[error("{name:?} cannot have {children} children; allowed: from 1 to {CHILDREN_MAX}")]
    Children {
        /// The family.
        name: String,
        /// What it was to have.
        children: usize,
    },
    /// It was declared for another runtime, or the shard is ending.
    #[error("{name:?} does not belong to this shard's runtime, or the shard ends")]
    Foreign {
        /// The family.
        name: String,
    },
}

/// What all shards share of a family.
#[derive(Debug)]
pub(super) struct Declared {
    /// Which registry, of all of this process.
    pub(super) registry: u64,
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) help: String,
    pub(super) sort: Sort,
    pub(super) unit: Unit,
    pub(super) labels: Vec<&'static str>,
    pub(super) options: FamilyOptions,
    /// Locked when a shard meets a set of values for the first time, and when all are shown.
    children: Mutex<Table>,
}

/// The sets of values that a family's labels have had. A child's number is its place.
#[derive(Debug, Default)]
struct Table {
    values: Vec<Values>,
    told: bool,
}

/// One set of values, in the order of the labels.
pub(super) type Values = Box<[Box<str>]>;

impl Declared {
    /// # Errors
    /// A name, a label or a limit that makes no sense.
    pub(super) fn new(
        (registry, index): (u64, usize),
        (name, help): (&str, &str),
        (sort, unit): (Sort, Unit),
        labels: &[&'static str],
        options: FamilyOptions,
    ) -> Result<Declared, FamilyError> {
        check_name(sort, unit, name)?;
        for (at, label) in labels.iter().enumerate() {
            check_label(label, labels[..at].contains(label))?;
        }
        if !(1..=CHILDREN_MAX).contains(&options.children) {
            return Err(FamilyError::Children { name: name.to_owned(), children: options.children });
        }
        let (name, help, labels) = (name.to_owned(), help.to_owned(), labels.to_vec());
        let children = Mutex::default();
        Ok(Declared { registry, index, name, help, sort, unit, labels, options, children })
    }

    /// Whether it and another would show a line of the same name.
    pub(super) fn meets(&self, other: &Declared) -> bool {
        self.shown().iter().any(|name| other.shown().contains(name))
    }

    /// The names of its lines, and of its description.
    fn shown(&self) -> Vec<String> {
        let endings: &[&str] = match self.sort {
            Sort::Counter | Sort::Gauge => &[""],
            Sort::Histogram => &["", "_bucket", "_sum", "_count"],
        };
        let mut shown: Vec<String> = endings.iter().map(|ending| format!("{}{ending}", self.name)).collect();
        // OpenMetrics describes a counter by its name without the ending.
        if self.sort == Sort::Counter {
            shown.extend(self.name.strip_suffix("_total").map(str::to_owned));
        }
        shown
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the child with these values; that of `other` if there is no room.
    pub(super) fn child(&self, values: &[&str]) -> u32 {
        let mut table = self.table();
        if let Some(at) = table.values.iter().position(|own| is(own, values)) {
            return at as u32;
        }
        if table.values.len() < self.options.children {
            table.values.push(values.iter().map(|value| cut(value).into()).collect());
            return table.values.len() as u32 - 1;
        }
        if !std::mem::replace(&mut table.told, true) {
            let (name, most) = (&self.name, self.options.children);
            tracing::warn!(
                "{name} has {most} children, the most it may have: what comes now counts as {OTHER}"
            );
        }
        self.other()
    }

    /// The number of the child in which all counts that found no room.
    pub(super) fn other(&self) -> u32 {
        self.options.children as u32
    }

    /// What was met so far, by number.
    pub(super) fn all_values(&self) -> Vec<Values> {
        self.table().values.clone()
    }
}

/// Whether these are those values, as far as they are kept.
pub(super) fn is(kept: &[Box<str>], values: &[&str]) -> bool {
    kept.iter().map(|value| &**value).eq(values.iter().map(|value| cut(value)))
}

/// As much of a value as is kept.
pub(super) fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(VALUE_BYTES_MAX)]
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn check_name(sort: Sort, unit: Unit, name: &str) -> Result<(), FamilyError> {
    let wrong = |wrong, allowed: String| {
        Err(FamilyError::Name { kind: sort.name(), name: name.to_owned(), wrong, allowed })
    };
    if !is_name(name) {
        return wrong(
            "not a name",
            "letters, digits and _, not a digit first, as in app_requests_total".to_owned(),
        );
    }
    let is_total = name.ends_with("_total");
    match sort {
        Sort::Counter if !is_total => wrong("a counter's name says so", format!("{name}_total")),
        Sort::Gauge | Sort::Histogram if is_total => {
            wrong("only a counter is a total", name.trim_end_matches("_total").to_owned())
        }
        Sort::Histogram if !name.ends_with(unit.ending()) => {
            wrong("its name does not say the unit", format!("{name}{}", unit.ending()))
        }
        _ => Ok(()),
    }
}

fn check_label(label: &str, is_there: bool) -> Result<(), FamilyError> {
    let wrong = match label {
        _ if !is_name(label) => "not a name",
        _ if label.starts_with("__") => "Prometheus keeps names that begin so for itself",
        SHARD | "le" | "quantile" => "it has a meaning of its own",
        _ if is_there => "it is there twice",
        _ => return Ok(()),
    };
    let allowed = "letters, digits and _, not a digit first, as in method".to_owned();
    Err(FamilyError::Name { kind: "label", name: label.to_owned(), wrong, allowed })
}

/// Programs leave the framework's names alone.
pub(super) fn check_not_reserved(sort: Sort, name: &str) -> Result<(), FamilyError> {
    if RESERVED.iter().any(|start| name.starts_with(start)) {
        let (name, wrong) = (name.to_owned(), "the framework's own begin so");
        let allowed = "a name that begins with the program's".to_owned();
        return Err(FamilyError::Name { kind: sort.name(), name, wrong, allowed });
    }
    Ok(())
}

impl<K: Kind, const N: usize> Family<K, N> {
    pub(super) fn of(declared: Arc<Declared>) -> Family<K, N> {
        Family { declared, kind: PhantomData }
    }

    pub(super) fn foreign(&self) -> FamilyError {
        FamilyError::Foreign { name: self.declared.name.clone() }
    }
}
