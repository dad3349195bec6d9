//! Whole programs in a simulated world.
mod check;
mod host;
mod log;
mod world;

pub use check::{Check, Ending, check};
pub use host::{Host, Running};
pub use waterwheel_sim::{Options, Random, Rule, Standing, Stuck, Verdict, Whom};
pub use world::World;
