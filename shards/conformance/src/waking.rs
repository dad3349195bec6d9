//! The laws of waking.

use crate::Law;

pub(crate) const LAWS: &[Law] = &[];
