//! The laws of handing over.

use crate::Law;

pub(crate) const LAWS: &[Law] = &[];
