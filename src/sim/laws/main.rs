//! Whole programs of this crate in simulated worlds.
#![forbid(unsafe_code)]

mod basics;
mod checks;
mod first;
mod framed;
mod handed;
mod kept;
mod layered;
mod leased;
mod measured;
mod ported;
mod proxied;
mod restarted;
mod short;
mod spoken;
mod tasked;
mod traces;
