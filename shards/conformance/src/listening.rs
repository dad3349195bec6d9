//! The laws of listening.

use crate::Law;

pub(crate) const LAWS: &[Law] = &[];
