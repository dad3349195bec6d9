//! Whole programs of this crate in simulated worlds.
#![forbid(unsafe_code)]

mod basics;
mod handed;
mod ported;
mod proxied;
