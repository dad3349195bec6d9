//! The laws of time.

use crate::Law;

pub(crate) const LAWS: &[Law] = &[];
