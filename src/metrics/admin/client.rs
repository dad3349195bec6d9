//! One client of the admin endpoint, within limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::super::registry::Registry;
use super::answer::{Asked, Method, Response, answer};
use crate::net::Connection;
use crate::net::http1::{Fed, HeadBuffer, HeadError, parse_request};
use crate::shard::Shard;
use crate::shard::stopping::Step;

/// How long a client may keep its connection between two requests: Prometheus asks every 15 s or every minute.
const IDLE: Duration = Duration::from_secs(90);
/// A head is there so soon after its first byte.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A response is taken so soon.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// Serves one client until it goes, or is too slow. `is_last`: nobody else could connect while it stays, so it gets one
/// answer.
pub(super) async fn serve(
    mut connection: Connection,
    registry: &Arc<Registry>,
    is_last: bool,
) -> io::Result<()> {
    let shard = connection.shard().clone();
    loop {
        match shard.timeout(if is_last { HEAD_WITHIN } else { IDLE }, connection.fill()).await {
            Ok(lent) if lent.as_ref().is_ok_and(|lent| lent.is_empty()) => break,
            Ok(lent) => drop(lent?),
            Err(_) => break,
        }
        let Ok(head) = shard.timeout(HEAD_WITHIN, head(&mut connection)).await else {
            connection.abort();
            return Ok(());
        };
        let (bytes, keep_alive) = match head? {
            Some(Ok(asked)) => respond(&shard, registry, asked, is_last).await,
            Some(Err(wrong)) => (Response::to_nonsense(wrong).bytes(true, false, 1), false),
            None => break,
        };
        let Ok(sent) = shard.timeout(SENT_WITHIN, connection.write_all(&bytes)).await else {
            connection.abort();
            return Ok(());
        };
        sent?;
        if !keep_alive {
            break;
        }
    }
    connection.close().await
}

async fn respond(shard: &Shard, registry: &Arc<Registry>, asked: Asked, is_last: bool) -> (Vec<u8>, bool) {
    let response = answer(shard, registry, asked).await;
    let keep_alive =
        asked.keep_alive && !asked.has_body && !is_last && !shard.core().has_come_to(Step::Asked);
    (response.bytes(asked.method != Method::Head, keep_alive, asked.minor_version), keep_alive)
}

/// The next request; `None`: the client went before it was complete.
async fn head(connection: &mut Connection) -> io::Result<Option<Result<Asked, HeadError>>> {
    let mut buffer = HeadBuffer::default();
    loop {
        let lent = connection.fill().await?;
        if lent.is_empty() {
            return Ok(None);
        }
        let (length, fed) = (
            lent.len(),
            buffer.feed(lent, |bytes| {
                Ok(parse_request(bytes)?.map(|(head, length)| (Asked::new(&head, &bytes[..length]), length)))
            }),
        );
        let (used, asked) = match fed {
            Ok(Fed::Partial) => (length, None),
            Ok(Fed::Complete(asked, used)) => (used, Some(Ok(asked))),
            Err(wrong) => (length, Some(Err(wrong))),
        };
        connection.consume(used);
        if asked.is_some() {
            return Ok(asked);
        }
    }
}
