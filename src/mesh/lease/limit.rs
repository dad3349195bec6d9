//! What a limit is: a number that may be changed, and which of two is newer.

use crate::mesh::port::DeclareError;

/// The greater one is newer. Of two with one number, made from one value, the one that allows more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Limit {
    /// 0: that with which it was declared.
    number: u64,
    pub(super) most: u64,
}

/// A thousand million, at once or per second.
pub(in crate::mesh) const LIMIT_MAX: u64 = 1_000_000_000;

impl Limit {
    /// One that lets something through and leaves room for sums.
    pub(super) fn first(name: &'static str, most: u64) -> Result<Limit, DeclareError> {
        if (1..=LIMIT_MAX).contains(&most) {
            Ok(Limit { number: 0, most })
        } else {
            Err(DeclareError::Limit { name, limit: most })
        }
    }

    /// A newer one.
    pub(super) fn next(self, name: &'static str, most: u64) -> Result<Limit, DeclareError> {
        Ok(Limit { number: self.number + 1, ..Limit::first(name, most)? })
    }

    /// It is that with which a lease was declared.
    pub(super) fn is_first(self) -> bool {
        self.number == 0
    }
}
