//! What seeds a shard's random choices.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// A number that nobody can foresee.
///
/// # Errors
/// As getrandom(2): the kernel does not know the call.
pub fn random_seed() -> io::Result<u64> {
    let mut seed = [0; 8];
    getrandom(&mut seed, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(seed))
}
