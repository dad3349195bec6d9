//! What may go wrong with instances on other shards.

use crate::mesh::calls::CallError;
use crate::shard::ShardId;

/// Why a closure has not run with an instance, or nobody knows what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvokeError {
    /// There is no instance: not started yet, or stopped. The closure did not run.
    #[error("shard {shard} has no instance of {name:?}")]
    NotRunning {
        /// The name under which the instances were declared.
        name: &'static str,
        /// Which shard.
        shard: ShardId,
    },
    /// The call failed: the shard ended, or the closure panicked there, or this one is nested.
    #[error("asking {name:?} on shard {shard}: {error}")]
    Call {
        /// The name under which the instances were declared.
        name: &'static str,
        /// Which shard.
        shard: ShardId,
        /// Why.
        error: CallError,
    },
}

/// Why instances were not started: the first shard that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpreadError<E> {
    /// The constructor's own error.
    #[error("the instance of shard {shard}: {error}")]
    Instance {
        /// Which shard.
        shard: ShardId,
        /// What the constructor said.
        error: E,
    },
    /// There is one already, or somebody else starts or stops one right now: a bug of the program's.
    #[error("shard {shard} has an instance already")]
    AlreadyStarted {
        /// Which shard.
        shard: ShardId,
    },
    /// The constructor panicked, or the shard ended.
    #[error("the instance of shard {shard}: {error}")]
    Call {
        /// Which shard.
        shard: ShardId,
        /// Why.
        error: CallError,
    },
}
