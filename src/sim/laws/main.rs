//! Whole programs of this crate in simulated worlds.
#![forbid(unsafe_code)]

mod basics;
mod broken;
mod buffered;
mod checks;
mod childless;
mod clients;
mod datagrams;
mod delayed;
mod first;
mod framed;
mod handed;
mod kept;
mod keyed;
mod layered;
mod leased;
mod many;
mod measured;
mod pausing;
mod ported;
mod proxied;
mod reloaded;
mod restarted;
mod short;
mod spoken;
mod started;
mod stepped;
mod tasked;
mod traces;
mod upstreams;
