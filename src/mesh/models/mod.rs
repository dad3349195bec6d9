//! Models of the bell, of parking, of room, of stopping and of calls: loom runs the code of this floor itself through
//! every order of its atomic operations that the C11 memory model allows, up to a bound on preemptions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p waterwheel --lib --no-default-features --target-dir target/loom mesh::models`
//!
//! What is modelled instead of run: the ring of a lane (`rtrb`, its orderings and cached indices), the queue of jobs
//! (`flume`, a mutex and a deque), the `OnceLock` of the waker, and the backend (a token that is kept until taken).
//! loom treats `SeqCst` as `AcqRel`; nothing here uses it.
//!
//! Each model can fail: [`table`] lists every wrong version of the protocols that [`Break`] knows, and the models that
//! find it out.

mod actor;
mod messages;
mod stops;
mod table;

use loom::model::Builder;

use super::broken::{self, Break};

/// Explores a model; `preemptions` bounds how often a thread loses the processor while it could go on.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// Whether a model finds out that the protocol is broken so.
fn finds(what: Break, preemptions: usize, model: fn()) -> bool {
    broken::set(Some(what));
    let found = std::panic::catch_unwind(|| explore(preemptions, model)).is_err();
    broken::set(None);
    found
}
