//! What of io_uring works here, found out by doing it once.

use waterwheel_reactor::Unavailable;

use crate::features::{Feature, Features};
use crate::ring::Ring;

/// Makes a ring and tries what the reactor does with it. Answers what of it works, but for what is switched off.
///
/// # Errors
/// There is no io_uring here, or one that is of no use.
pub(crate) fn probe(off: Features) -> Result<Features, Unavailable> {
    let wanted = Feature::ALL.into_iter().filter(|feature| !off.has(*feature));
    let wanted = wanted.fold(Features::NONE, Features::with);
    let missing = |error| Unavailable::new(format!("io_uring_setup: {error}"));
    let (_ring, got) = Ring::new(wanted).map_err(missing)?;
    Ok(got)
}
