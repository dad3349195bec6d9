//! The laws of life.

use crate::Law;

pub(crate) const LAWS: &[Law] = &[];
