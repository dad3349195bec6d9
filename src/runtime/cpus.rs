//! A list of CPUs as operators and the kernel write it: `0-3,8`.

use std::fmt;
use std::str::FromStr;

/// The highest CPU that a thread can be pinned to: `cpu_set_t` of sched_setaffinity(2) has 1 024 bits.
pub(crate) const CPU_MAX: usize = 1023;

/// CPUs by number, in the order in which shards take them: `0-3,8`. None is named twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// The numbers, in order.
    pub fn numbers(&self) -> &[usize] {
        &self.0
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A text that is no list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// A part between commas is neither a number nor two with a dash.
    #[error("{0:?} is neither a CPU's number nor a range")]
    NotACpu(String),
    /// A range that goes down.
    #[error("the range {0}-{1} goes down")]
    Backwards(usize, usize),
    /// A number too high to pin a thread to.
    #[error("CPU {0} is above 1023")]
    TooHigh(usize),
    /// The same CPU again.
    #[error("CPU {0} is named twice")]
    Twice(usize),
}

/// Takes numbers as they come, as the kernel's own lists do; refuses only what no thread can be pinned to.
impl TryFrom<Vec<usize>> for CpuList {
    type Error = CpuListError;

    fn try_from(numbers: Vec<usize>) -> Result<CpuList, CpuListError> {
        for (at, cpu) in numbers.iter().enumerate() {
            if *cpu > CPU_MAX {
                return Err(CpuListError::TooHigh(*cpu));
            }
            if numbers[..at].contains(cpu) {
                return Err(CpuListError::Twice(*cpu));
            }
        }
        Ok(CpuList(numbers))
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<CpuList, CpuListError> {
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let number = |text: &str| match text.len() {
                // The standard parser would take a sign; seven digits are above every limit and within every integer.
                1..=7 if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
                _ => None,
            };
            let ends = match part.split_once('-') {
                Some((first, last)) => number(first).zip(number(last)),
                None => number(part).map(|cpu| (cpu, cpu)),
            };
            let (first, last): (usize, usize) =
                ends.ok_or_else(|| CpuListError::NotACpu(part.chars().take(20).collect()))?;
            if first > last {
                return Err(CpuListError::Backwards(first, last));
            }
            if last > CPU_MAX {
                return Err(CpuListError::TooHigh(last));
            }
            numbers.extend(first..=last);
            // Checked part by part, so that a long text of ranges cannot grow the list without bound.
            let list = CpuList::try_from(numbers)?;
            numbers = list.0;
        }
        Ok(CpuList(numbers))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..];
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let run = rest.iter().zip(first..).take_while(|(cpu, expected)| **cpu == *expected).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", first + run - 1)?,
            }
            (rest, comma) = (&rest[run..], ",");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_keep_their_order() {
        let list: CpuList = "8,0-2,5".parse().unwrap();
        assert_eq!(list.numbers(), [8, 0, 1, 2, 5]);
        assert_eq!(list.to_string(), "8,0-2,5");
        assert_eq!(CpuList::default().to_string(), "");
    }

    #[test]
    fn nonsense_is_told_apart() {
        let error = |text: &str| text.parse::<CpuList>().unwrap_err();
        for text in ["", ",", "1,", " 1", "0-", "-3", "+1", "0--3", "1-2-3", "0x1", "a", "99999999", "0:2"] {
            assert!(matches!(error(text), CpuListError::NotACpu(_)), "{text:?}");
        }
        assert_eq!(error("3-1"), CpuListError::Backwards(3, 1));
        assert_eq!(error("0-1024"), CpuListError::TooHigh(1024));
        assert_eq!(error("0-3,2"), CpuListError::Twice(2));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(mut numbers in prop::collection::vec(0_usize..=CPU_MAX, 1..40)) {
            let mut seen = std::collections::BTreeSet::new();
            numbers.retain(|cpu| seen.insert(*cpu));
            let list = CpuList::try_from(numbers).unwrap();
            prop_assert_eq!(list.to_string().parse(), Ok(list));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "[0-9,\\-]{0,200}") {
            if let Ok(list) = text.parse::<CpuList>() {
                prop_assert!(list.len() <= CPU_MAX + 1);
            }
        }
    }
}
