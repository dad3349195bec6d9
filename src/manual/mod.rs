//! The manual: one decision per chapter, with code that is compiled and run.
//!
//! | chapter | answers |
//! |---|---|
//! | [`why`] | why one thread per core, for whom, and for whom not |
//! | [`messages`] | how shards talk, and what happens when one is slow, full or gone |
//! | [`steering`] | which shard gets a connection, and how to keep a client's state on one |
//! | [`seam`] | what lies between a shard and its reactor, and why it is cut there |
//! | [`writing_a_reactor`] | what to write, in which order, and what goes wrong |
//! | `simulation` | how to test a program in a world that a seed decides, and what that asks of the program |
//! | [`limits`] | every bound there is, and what happens at it |
//!
//! Before it, the examples: each is one word of the vocabulary in less than 100 lines.

pub mod limits;
pub mod messages;
pub mod seam;
#[cfg(feature = "sim")]
pub mod simulation;
pub mod steering;
pub mod why;
pub mod writing_a_reactor;
