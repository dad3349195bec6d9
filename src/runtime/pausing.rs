//! A shard that pauses before its next life: others serve the clients that come to its parts of the listeners.

use std::future::poll_fn;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::lifecycle::Shared;
use super::listeners::Listeners;
use crate::net::{Listening, PassingOn};
use crate::shard::Shard;
use crate::shard::stopping::Step;

/// For so long, or until all stop. Follows what is bound and closed meanwhile.
pub(super) async fn keep_clients(shard: &Shard, listeners: &Listeners, lifecycle: &Shared, pause: Duration) {
    let me = shard.id().index();
    let released = poll_fn(|cx| lifecycle.poll_released(me, cx));
    let stopping = select(shard.core().comes_to(Step::Draining), released);
    let mut over = select(shard.sleep(pause), stopping);
    let mut kept = Vec::new();
    loop {
        let (open, changes) = listeners.open_by_now();
        follow(shard, &mut kept, &open);
        // Nobody else is to wait for what was closed.
        drop(open);
        let changed = poll_fn(|cx| listeners.poll_changed(me, changes, cx));
        if let Either::Left(_) = select(&mut over, changed).await {
            return;
        }
    }
}

fn follow(shard: &Shard, kept: &mut Vec<(Listening, PassingOn)>, open: &[Listening]) {
    let is_closed = |own: &Listening| !open.iter().any(|other| other.is(own));
    let closed: Vec<_> = kept.extract_if(.., |(own, _)| is_closed(own)).collect();
    closed.into_iter().for_each(|(_, passing)| passing.leave(shard));
    for listening in open {
        if kept.iter().any(|(own, _)| own.is(listening)) {
            continue;
        }
        match shard.pass_on_clients_of(listening) {
            Ok(passing) => kept.push((listening.clone(), passing)),
            Err(error) => {
                let (shard, at) = (shard.id().index(), listening.local());
                tracing::warn!(shard, "clients of {at} wait here until the shard is back: {error}");
            }
        }
    }
}
