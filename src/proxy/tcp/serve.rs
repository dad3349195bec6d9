//! The proxy at work: one task per client connection.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;

use waterwheel_reactor::Side;

use super::clients::Key;
use super::connecting::{Unconnected, connect};
use super::counters::{Cells, add};
use super::entry::Entry;
use super::first::{self, First, Refusal};
use super::part::{Current, Part};
use super::upstreams::Lease;
use crate::mesh::{KeyPermit, KeyRefusal};
use crate::net::proxy_header::ProxyHeader;
use crate::net::{Connection, End, PeekError, Pump};

/// Counts a connection as active, and unless another end was counted as cut short, or as ended by a panic.
struct Open {
    part: Rc<Part>,
    ended: bool,
    /// What the log is told, if there is one.
    entry: Option<Box<Entry>>,
}

impl Open {
    fn new(part: Rc<Part>, client: Option<&Connection>) -> Open {
        add(&part.cells.accepted, 1);
        add(&part.cells.active, 1);
        let entry = part.log.as_ref().zip(client).map(|(log, client)| {
            let (current, number) = (part.current(), part.cells.accepted.get());
            Box::new(Entry::new(log.clone(), client, current.plan.name.as_deref(), number))
        });
        Open { part, ended: false, entry }
    }

    fn end(mut self, how: impl FnOnce(&Cells) -> &std::cell::Cell<u64>) {
        self.ended = true;
        let end = how(&self.part.cells);
        add(end, 1);
        if let Some(entry) = &mut self.entry {
            entry.record.end = self.part.cells.name(end);
        }
    }

    /// Has something written down for the log.
    fn note(&mut self, note: impl FnOnce(&mut Entry)) {
        if let Some(entry) = &mut self.entry {
            note(entry);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let cells = &self.part.cells;
        cells.active.set(cells.active.get() - 1);
        if !self.ended {
            let end = if std::thread::panicking() { &cells.panicked } else { &cells.cut_short };
            add(end, 1);
            let name = cells.name(end);
            self.note(|entry| entry.record.end = name);
        }
        if let Some(entry) = self.entry.take() {
            entry.write();
        }
    }
}

/// Why a client came to no upstream.
enum Unreached {
    TurnedAway(Refusal),
    /// The total time is up.
    Expired,
    /// Its client has enough.
    Crowded(KeyRefusal),
    Unconnected(Unconnected),
    /// The upstream took no PROXY header.
    Header(io::Error),
}

impl Unreached {
    fn end(self, open: Open, client: Connection) -> anyhow::Result<()> {
        let error = match self {
            Unreached::TurnedAway(refusal) => return turn_away(open, client, refusal),
            Unreached::Expired => {
                open.end(|cells| &cells.expired);
                anyhow::anyhow!("a client's time was up before it came to an upstream")
            }
            Unreached::Crowded(refusal) => {
                open.end(|cells| match refusal {
                    KeyRefusal::TooMany => &cells.too_many,
                    KeyRefusal::TooOften => &cells.too_often,
                });
                anyhow::Error::new(refusal).context("a client has enough connections")
            }
            Unreached::Unconnected(error) => {
                open.end(|cells| match error {
                    Unconnected::Shortage(_) => &cells.shortage,
                    Unconnected::NoPlace => &cells.no_place,
                    Unconnected::Nobody | Unconnected::Failed(_) => &cells.no_upstream,
                });
                error.into()
            }
            Unreached::Header(error) => {
                open.end(|cells| &cells.upstream_broke);
                anyhow::Error::new(error).context("an upstream took no PROXY header")
            }
        };
        // An upstream's refusal is passed on as what it was: a reset. Ours is one, since it costs the least.
        client.abort();
        Err(error)
    }
}

/// Where a client came to.
struct Reached {
    upstream: Connection,
    lease: Lease,
    /// Counts the connection as its client's.
    permit: Option<KeyPermit<Key>>,
}

/// From the first bytes to an upstream that may be written to.
async fn reach(
    part: &Part,
    current: &Current,
    open: &mut Open,
    client: &mut Connection,
) -> Result<Reached, Unreached> {
    let settings = &current.plan.settings;
    let deadline = client.shard().turn_time() + settings.first_bytes_timeout;
    let said = first::header(settings, client, deadline).await.map_err(Unreached::TurnedAway)?;
    // Before anything else is read of one who has enough.
    let door = current.clients.as_ref();
    let permit = match door.and_then(|door| Some((door, first::client(said.as_ref(), client)?))) {
        Some((door, who)) => match door.admit(who).await {
            Ok(permit) => permit,
            Err(refusal) => {
                open.note(|entry| entry.believes(said.as_ref().and_then(ProxyHeader::source)));
                return Err(Unreached::Crowded(refusal));
            }
        },
        None => None,
    };
    let first = match settings.asks_first() {
        true => first::read(settings, &current.plan.routes, client, said, deadline).await,
        false => Ok(First::default()),
    };
    let first = first.map_err(Unreached::TurnedAway)?;
    open.note(|entry| entry.heard(&first, current.upstreams[first.group].name()));
    let connected = connect(part, current, &first, client).await;
    let (mut upstream, lease) = connected.map_err(Unreached::Unconnected)?;
    open.note(|entry| entry.connected(&lease));
    if !first.header.is_empty() {
        let writing = upstream.write_all(&first.header);
        // It is little, and the first that is sent: only an upstream that is gone does not take it.
        let written = client.shard().timeout(settings.connect_timeout, writing).await;
        if let Err(error) = written.map_err(io::Error::from).flatten() {
            upstream.abort();
            lease.was_reset();
            return Err(Unreached::Header(error));
        }
    }
    Ok(Reached { upstream, lease, permit })
}

/// From the first bytes to what goes on between both sides.
async fn begin(
    part: &Part,
    current: &Current,
    open: &mut Open,
    mut client: Connection,
) -> Result<(Pump, Lease), (Unreached, Connection)> {
    let settings = &current.plan.settings;
    let (shard, total) = (client.shard().clone(), settings.total_timeout);
    let began = shard.turn_time();
    let reached = {
        let reaching = pin!(reach(part, current, open, &mut client));
        match total {
            Some(total) => shard.timeout(total, reaching).await.unwrap_or(Err(Unreached::Expired)),
            None => reaching.await,
        }
    };
    let Reached { upstream, lease, permit } = match reached {
        Ok(reached) => reached,
        Err(unreached) => return Err((unreached, client)),
    };
    if let Some(permit) = permit {
        client = client.escorted(Rc::new(permit));
    }
    if settings.throttle.is_set() {
        client = settings.throttle.limit(client);
    }
    let mut pump = client.pump(upstream, settings.idle_timeout);
    if let Some(total) = total {
        pump.end_at(began + total);
    }
    Ok((pump, lease))
}

pub(super) async fn serve_client(part: Rc<Part>, client: Connection) -> anyhow::Result<()> {
    let mut open = Open::new(part.clone(), Some(&client));
    // To its end, whatever comes meanwhile.
    let current = part.current();
    // On the heap, and gone when bytes flow: there are many connections, and few of them begin.
    let (mut pump, lease) = match Box::pin(begin(&part, &current, &mut open, client)).await {
        Ok(begun) => begun,
        Err((unreached, client)) => return unreached.end(open, client),
    };
    let (mut up, mut down) = (0, 0);
    let exchange = std::future::poll_fn(|cx| {
        let polled = Pin::new(&mut pump).poll(cx);
        let (forth, back) = pump.moved();
        add(&part.cells.bytes_up, forth - std::mem::replace(&mut up, forth));
        add(&part.cells.bytes_down, back - std::mem::replace(&mut down, back));
        open.note(|entry| (entry.record.bytes_up, entry.record.bytes_down) = (forth, back));
        polled
    })
    .await;
    match &exchange.end {
        End::Broken(Side::Sink(_)) if down == 0 => lease.was_reset(),
        _ if down > 0 => lease.answered(),
        _ => {}
    }
    drop(lease);
    match exchange.end {
        End::Finished => open.end(|cells| &cells.finished),
        End::Idle => open.end(|cells| &cells.idle_closed),
        End::Expired => open.end(|cells| &cells.expired),
        End::Broken(Side::Source(_)) => open.end(|cells| &cells.client_broke),
        End::Broken(Side::Sink(_)) => open.end(|cells| &cells.upstream_broke),
    }
    Ok(())
}

/// Ends a connection for its first bytes.
fn turn_away(mut open: Open, client: Connection, refusal: Refusal) -> anyhow::Result<()> {
    if let Refusal::NoRoute { name } = &refusal {
        open.note(|entry| entry.record.sni.clone_from(name));
    }
    match refusal.peek() {
        // As those who only look whether somebody listens.
        Some(PeekError::Ended { bytes: 0 }) => {
            open.end(|cells| &cells.finished);
            return Ok(());
        }
        Some(PeekError::Broken(_)) => open.end(|cells| &cells.client_broke),
        _ if matches!(refusal, Refusal::NoRoute { .. }) => open.end(|cells| &cells.no_route),
        _ => open.end(|cells| &cells.refused),
    }
    client.abort();
    Err(anyhow::Error::new(refusal).context("a client was turned away"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tcp::plan::Plan;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_is_not_taken_for_the_end_of_the_drain() {
        let part = Part::of(Plan::default());
        let panics = || {
            let _open = Open::new(part.clone(), None);
            panic!("planned: while a connection is served");
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        drop(Open::new(part.clone(), None));
        let counters = part.cells.copy();
        assert_eq!((counters.panicked, counters.cut_short, counters.active), (1, 1, 0));
    }
}
