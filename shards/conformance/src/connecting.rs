//! The laws of connecting.

use crate::Law;

pub(crate) const LAWS: &[Law] = &[];
