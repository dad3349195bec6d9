//! Whole programs of this crate in simulated worlds.
#![forbid(unsafe_code)]

mod basics;
mod checks;
mod handed;
mod leased;
mod ported;
mod proxied;
mod short;
mod tasked;
mod traces;
