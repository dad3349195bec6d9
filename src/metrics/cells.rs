//! What a shard counts with: handles to cells of its own. No atomics, no locks; none of them ever leaves its shard.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::distribution::{Distribution, Recorded};
use crate::shard::QueueTimes;

/// A number that only grows, as long as its shard lives and over its restarts. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Counter {
    count: Rc<Cell<u64>>,
}

impl Counter {
    /// One more.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    #[inline]
    pub fn add(&self, count: u64) {
        self.count.set(self.count.get().wrapping_add(count));
    }

    /// At least so many: for what something else counts, in a [hook](crate::shard::Shard::before_scrape).
    pub fn raise_to(&self, total: u64) {
        self.count.set(self.count.get().max(total));
    }

    /// What this life of the shard has counted.
    pub fn count(&self) -> u64 {
        self.count.get()
    }
}

/// A number that goes up and down: how many there are now. Gone with its shard. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Gauge {
    level: Rc<Cell<f64>>,
}

impl Gauge {
    /// It is this now.
    pub fn set(&self, level: f64) {
        self.level.set(level);
    }

    /// So much more, or less.
    #[inline]
    pub fn add(&self, change: f64) {
        self.level.set(self.level.get() + change);
    }

    /// What it is now on this shard.
    pub fn level(&self) -> f64 {
        self.level.get()
    }
}

/// How values are distributed: see [`Distribution`]. Four kilobytes. Cheap to clone; all clones record together.
#[derive(Clone, Debug)]
pub struct Histogram {
    recorded: Rc<Recorded>,
}

impl Histogram {
    /// One value more, in whole numbers of its [`Unit`](super::Unit): nanoseconds, bytes.
    #[inline]
    pub fn record(&self, value: u64) {
        self.recorded.record(value);
    }

    /// One duration more, where the unit is [`Unit::Seconds`](super::Unit::Seconds).
    #[inline]
    pub fn record_time(&self, time: Duration) {
        self.record(time.as_nanos() as u64);
    }

    /// What this life of the shard has recorded.
    pub fn distribution(&self) -> Distribution {
        self.recorded.copy()
    }

    /// What a group's queue recorded by itself.
    pub(super) fn copy_from(&self, times: &QueueTimes) {
        let nanos = |time: Duration| time.as_nanos() as u64;
        self.recorded
            .replace(nanos(times.sum()), times.buckets().map(|(longest, count)| (nanos(longest), count)));
    }
}

/// The cells of one child of a family.
#[derive(Clone, Debug)]
pub(super) enum Cells {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// What a child of a family is on a shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Count(u64),
    Level(f64),
    Values(Distribution),
}

impl Cells {
    pub(super) fn value(&self) -> Value {
        match self {
            Cells::Counter(counter) => Value::Count(counter.count()),
            Cells::Gauge(gauge) => Value::Level(gauge.level()),
            Cells::Histogram(histogram) => Value::Values(histogram.distribution()),
        }
    }
}

impl Value {
    /// Adds what another shard, or another life, has of the same.
    pub(super) fn merge(&mut self, other: &Value) {
        match (self, other) {
            (Value::Count(own), Value::Count(more)) => *own = own.wrapping_add(*more),
            (Value::Level(own), Value::Level(more)) => *own += more,
            (Value::Values(own), Value::Values(more)) => own.merge(more),
            _ => unreachable!("a family is of one kind"),
        }
    }

    /// Whether it ends with the life of its shard.
    pub(super) fn is_level(&self) -> bool {
        matches!(self, Value::Level(_))
    }
}

/// What a family is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Counter,
    Gauge,
    Histogram,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
            Sort::Histogram => "histogram",
        }
    }

    pub(super) fn fresh(self) -> Cells {
        match self {
            Sort::Counter => Cells::Counter(Counter { count: Rc::default() }),
            Sort::Gauge => Cells::Gauge(Gauge { level: Rc::default() }),
            Sort::Histogram => Cells::Histogram(Histogram { recorded: Rc::new(Recorded::new()) }),
        }
    }

    /// Nothing was counted.
    pub(super) fn zero(self) -> Value {
        match self {
            Sort::Counter => Value::Count(0),
            Sort::Gauge => Value::Level(0.0),
            Sort::Histogram => Value::Values(Distribution::default()),
        }
    }
}

/// What a [`Family`](super::Family) may be of: [`Counter`], [`Gauge`], [`Histogram`], and nothing else.
pub trait Kind: Clone + sealed::Sealed + 'static {}

impl Kind for Counter {}
impl Kind for Gauge {}
impl Kind for Histogram {}

pub(super) mod sealed {
    use super::{Cells, Counter, Gauge, Histogram, Sort};

    #[expect(unnameable_types, reason = "nobody else is to implement it")]
    pub trait Sealed: Sized {
        #[expect(private_interfaces, reason = "nobody else is to call it")]
        const SORT: Sort;
        #[expect(private_interfaces, reason = "nobody else is to call it")]
        fn of(cells: &Cells) -> Option<Self>;
    }

    macro_rules! kinds {
        ($($kind:ident,)*) => {
            $(impl Sealed for $kind {
                #[expect(private_interfaces, reason = "nobody else is to call it")]
                const SORT: Sort = Sort::$kind;
                #[expect(private_interfaces, reason = "nobody else is to call it")]
                fn of(cells: &Cells) -> Option<$kind> {
                    match cells {
                        Cells::$kind(own) => Some(own.clone()),
                        _ => None,
                    }
                }
            })*
        };
    }

    kinds![Counter, Gauge, Histogram,];
}
