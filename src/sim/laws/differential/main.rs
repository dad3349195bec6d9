//! One scene, one transcript of what its peers saw: on every reactor, in calm worlds and in odd ones.
//!
//! A scene is written once and knows nothing of what it plays on: [`Stage`](stage::Stage). Each peer writes down what it
//! saw in strands that no timing may change ([`Book`](book::Book)), and [`same_everywhere`](compare::same_everywhere)
//! holds the strands of all reactors and seeds against each other. What the kernel does is what counts: the reactors
//! that run on it come first.
#![forbid(unsafe_code)]

mod book;
mod compare;
mod connects;
mod ending;
mod handing;
mod lines;
mod peer;
mod ports;
mod proxied;
mod real;
mod resets;
mod stage;
mod streams;
