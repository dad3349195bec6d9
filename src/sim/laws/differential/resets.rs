//! Connections that are reset: by either side, in the midst of a read or a write, by a panic.

use std::time::Duration;

use super::compare::same_everywhere;
use super::lines::{line, play_all};
use super::peer::{Peer, bytes};

/// Long enough for the other side to be in the midst of what it does; if it is not, nobody sees a difference.
const MOMENT: Duration = Duration::from_millis(30);

/// Says something, and resets once the other has it.
async fn resets(mut peer: Peer) {
    peer.says.all(&bytes(1, 1_000)).await;
    peer.hears.exactly(2).await;
    peer.abort();
}

/// Reads, and goes on reading after all is over.
async fn reads(mut peer: Peer) {
    peer.hears.exactly(1_000).await;
    peer.says.all(b"ok").await;
    for _ in 0..3 {
        peer.hears.until_the_end().await;
    }
    peer.says.all(b"more").await;
    peer.says.end().await;
}

#[test]
fn a_reader_sees_a_reset_of_either_side() {
    same_everywhere(|stage| {
        play_all(stage, vec![line("client resets", reads, resets), line("server resets", resets, reads)])
    });
}

/// Resets while the other writes, of which it has read a little.
async fn resets_a_writer(mut peer: Peer) {
    peer.hears.exactly(10).await;
    peer.shard.sleep(MOMENT).await;
    peer.abort();
}

async fn writes(mut peer: Peer) {
    peer.says.all(&bytes(1, 10)).await;
    peer.says.until_it_fails().await;
    peer.says.all(b"more").await;
    for _ in 0..2 {
        peer.hears.until_the_end().await;
    }
}

#[test]
fn a_writer_sees_a_reset_of_either_side() {
    same_everywhere(|stage| {
        let lines = vec![
            line("client resets", writes, resets_a_writer),
            line("server resets", resets_a_writer, writes),
        ];
        play_all(stage, lines)
    });
}

/// How much of what is in flight outlives a reset depends on timing; that it is some of it, in order, and how it ends,
/// does not.
#[test]
fn a_reset_may_cut_what_is_in_flight_and_never_changes_it() {
    same_everywhere(|stage| {
        let cuts = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(&bytes(1, 30_000)).await;
            peer.abort();
        };
        let cut = async |mut peer: Peer| {
            peer.says.all(&bytes(2, 10)).await;
            peer.hears.a_part_of(&bytes(1, 30_000)).await;
            peer.hears.until_the_end().await;
        };
        play_all(stage, vec![line("server cuts", cuts, cut), line("client cuts", cut, cuts)])
    });
}

/// The end that came before the reset stays the end; writing fails.
#[test]
fn a_reset_behind_an_end() {
    same_everywhere(|stage| {
        let server = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(&bytes(1, 500)).await;
            peer.says.end().await;
            peer.hears.exactly(2).await;
            peer.abort();
        };
        let client = async |mut peer: Peer| {
            peer.says.all(&bytes(2, 10)).await;
            peer.hears.until_the_end().await;
            peer.says.all(b"ok").await;
            peer.says.until_it_fails().await;
            peer.hears.until_the_end().await;
        };
        // Reads only when it knows of the reset: what came before it is there all the same.
        let at_once = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(&bytes(1, 500)).await;
            peer.says.end().await;
            peer.abort();
        };
        let late = async |mut peer: Peer| {
            peer.says.all(&bytes(2, 10)).await;
            peer.says.until_it_fails().await;
            peer.hears.until_the_end().await;
        };
        let lines = vec![line("has read", server, client), line("reads late", at_once, late)];
        play_all(stage, lines)
    });
}

/// The other half of a connection that was reset here.
#[test]
fn a_reset_of_our_own_ends_both_halves() {
    same_everywhere(|stage| {
        let server = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(b"ok").await;
            peer.hears.until_the_end().await;
        };
        let client = async |mut peer: Peer| {
            peer.says.all(&bytes(2, 10)).await;
            peer.hears.exactly(2).await;
            peer.hears.reset();
            peer.hears.until_the_end().await;
            peer.says.all(b"more").await;
        };
        play_all(stage, vec![line("client resets", server, client)])
    });
}

/// A panic must not look like an end in order.
#[test]
fn a_panic_while_serving_is_a_reset() {
    same_everywhere(|stage| {
        stage.allow_panics();
        let server = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(b"ok").await;
            peer.hears.exactly(2).await;
            panic!("on purpose: while a connection is served");
        };
        let client = async |mut peer: Peer| {
            peer.says.all(&bytes(1, 10)).await;
            peer.hears.exactly(2).await;
            peer.says.all(b"go").await;
            peer.hears.until_the_end().await;
        };
        let other = async |mut peer: Peer| {
            peer.says.end().await;
            peer.hears.until_the_end().await;
        };
        play_all(stage, vec![line("panics", server, client), line("does not", other, other)])
    });
}
