//! From a client to a connected upstream: the choice, the attempts, and what becomes of those that fail.

use std::io;
use std::net::IpAddr;

use super::counters::add;
use super::first::First;
use super::part::{Current, Part};
use super::upstreams::{Lease, Nowhere, Search};
use crate::net::Connection;

/// Why a client has no upstream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unconnected {
    #[error("nothing is left to connect with: {0}")]
    Shortage(io::Error),
    #[error("each upstream has as many connections as it takes")]
    NoPlace,
    #[error("no upstream is healthy")]
    Nobody,
    #[error("no upstream could be connected: {0}")]
    Failed(io::Error),
}

/// Connects to an upstream: the chosen one, then others, as often as the settings and the budget allow.
pub(super) async fn connect(
    part: &Part,
    current: &Current,
    first: &First,
    client: &Connection,
) -> Result<(Connection, Lease), Unconnected> {
    let (settings, shard) = (&current.plan.settings, client.shard());
    let upstreams = &current.upstreams[first.group];
    let who = if upstreams.go_by_client() { address(first, client) } else { None };
    let (mut tried, mut failed): (Vec<usize>, Option<(io::Error, Lease)>) = (Vec::new(), None);
    while tried.len() <= settings.retries {
        if let Some((_, before)) = &failed {
            if tried.len() == upstreams.all().len() {
                break;
            }
            if !current.budget.take(shard.turn_time(), part.cells.active.get()) {
                add(&part.cells.retries_refused, 1);
                add(&before.counts.retries_refused, 1);
                break;
            }
        }
        // The place of the one that failed is somebody else's from here on.
        let last = failed.take().map(|(error, _)| error);
        let lease = match upstreams.take(shard, Search { client: who, tried: &tried }).await {
            Ok(lease) => lease,
            Err(nowhere) => return Err(unconnected(last, nowhere)),
        };
        if last.is_some() {
            add(&part.cells.retries, 1);
        }
        let connecting = shard.connect(&lease.address, &current.plan.options);
        let error = match shard.timeout(settings.connect_timeout, connecting).await {
            Ok(Ok(connection)) => {
                lease.connects();
                return Ok((connection, lease));
            }
            Ok(Err(error)) if waterwheel_os::is_shortage(&error) => return Err(Unconnected::Shortage(error)),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
        lease.fails(shard.turn_time());
        add(&part.cells.connect_failed, 1);
        tracing::debug!(upstream = %lease.address, "connecting failed: {error}");
        tried.push(lease.place);
        failed = Some((error, lease));
    }
    Err(failed.map_or(Unconnected::Nobody, |(error, _)| Unconnected::Failed(error)))
}

/// What an attempt before came to is the reason, if there was one.
fn unconnected(last: Option<io::Error>, nowhere: Nowhere) -> Unconnected {
    match (nowhere, last) {
        (Nowhere::Full, _) => Unconnected::NoPlace,
        (Nowhere::Nobody, Some(error)) => Unconnected::Failed(error),
        (Nowhere::Nobody, None) => Unconnected::Nobody,
    }
}

/// The client's address, for choices that go by it.
fn address(first: &First, client: &Connection) -> Option<IpAddr> {
    let own = || Some(client.peer().ok()?.inet()?.ip());
    first.client.or_else(own)
}
