//! The laws of streams.

use crate::Law;

pub(crate) const LAWS: &[Law] = &[];
