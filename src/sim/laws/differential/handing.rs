//! Connections that go from shard to shard in the midst of a stream.

use std::rc::Rc;

use futures_util::future::select;
use waterwheel::mesh::Mailbox;
use waterwheel::net::Listening;
use waterwheel::reactor::{Incoming, ListenOptions};
use waterwheel::shard::{Shard, ShardId};

use super::book::Book;
use super::compare::same_everywhere;
use super::lines::{act, client};
use super::peer::{Peer, say_and_hear};
use super::stage::Stage;

/// How many bytes each owner echoes before it hands the connection on.
const EACH: usize = 5_000;
/// And how many do.
const OWNERS: usize = 5;

/// A connection on its way, and how many owners it had.
struct Moving(Incoming, usize);

/// Echoes some, then gives the connection to the next shard with whatever has come meanwhile; the last one echoes the
/// rest.
async fn serve(
    shard: &Shard,
    to: &Mailbox<Moving>,
    book: &Book,
    incoming: Incoming,
    owner: usize,
) -> anyhow::Result<()> {
    let mut peer = Peer::new(shard.adopt(incoming)?, book, &format!("owner {owner}"));
    if owner == OWNERS {
        while let Some(some) = peer.hears.whole(EACH).await {
            peer.says.all(&some).await;
        }
        peer.says.end().await;
        return Ok(());
    }
    if let Some(some) = peer.hears.whole(EACH).await {
        peer.says.all(&some).await;
    }
    // So that bytes are there which nobody has taken.
    peer.hears.something().await;
    let moving = Moving(peer.into_connection().release().await?, owner + 1);
    let next = ShardId::new((shard.id().index() + 1) % shard.count());
    to.send(next, moving).await.map_err(|_| anyhow::anyhow!("shard {next} takes no more"))
}

async fn run(shard: Shard, listening: Listening, mailbox: Mailbox<Moving>, book: Book) -> anyhow::Result<()> {
    let (mut acceptor, mailbox) = (shard.accept_on(&listening)?, Rc::new(mailbox));
    let begin = |incoming: Incoming, owner: usize| {
        let (shard, mailbox, book) = (shard.clone(), mailbox.clone(), book.clone());
        shard.clone().spawn_detached("owner", async move {
            if let Err(error) = serve(&shard, &mailbox, &book, incoming, owner).await {
                book.strand(format!("owner {owner}")).note(error.to_string());
            }
        });
    };
    let accepting = async {
        while let Some(accepted) = acceptor.accept().await {
            if let Ok(connection) = accepted
                && let Ok(incoming) = connection.release().await
            {
                begin(incoming, 1);
            }
        }
    };
    let receiving = async {
        loop {
            let (_, Moving(incoming, owner)) = mailbox.receive().await;
            begin(incoming, owner);
        }
    };
    select(std::pin::pin!(accepting), std::pin::pin!(receiving)).await;
    Ok(())
}

/// HAND-3 and HAND-4: no owner misses a byte or sees one twice, and the client notices nothing.
#[test]
fn a_connection_moves_in_the_midst_of_a_stream() {
    same_everywhere(async |stage: Stage| {
        let runtime = stage.runtime("server", 3)?;
        let listening = stage.listen(&runtime, "server", &ListenOptions::default())?;
        let (port, book, at) = (runtime.port("moving")?, stage.book().clone(), listening.local().clone());
        let program = stage.start("server", runtime, move |shard| {
            let (listening, book, opened) = (listening.clone(), book.clone(), shard.open(&port));
            async move { run(shard, listening, opened?, book).await }
        });
        let talks = act(|peer: Peer| say_and_hear(peer, 1, EACH * OWNERS + 1));
        client(&stage, "moved", &at, &talks).await;
        program.end().await?;
        Ok(())
    });
}
