//! Bytes and ends: halves that end first, answers that come early, much at once, and closes before all is read.

use super::compare::{same_everywhere, same_everywhere_at_length};
use super::lines::{line, play_all};
use super::peer::{Peer, bytes, hear_then_say, say_and_hear, say_then_hear};

/// Larger than any buffer on the way.
const MUCH: usize = 1 << 20;

#[test]
fn each_half_may_end_first() {
    same_everywhere(|stage| {
        let lines = vec![
            line("client first", |peer| hear_then_say(peer, 1, 9_000), |peer| say_then_hear(peer, 2, 7_000)),
            line("server first", |peer| say_then_hear(peer, 3, 100), |peer| hear_then_say(peer, 4, 4_097)),
            line("both at once", |peer| say_and_hear(peer, 5, 65_536), |peer| say_and_hear(peer, 6, 65_537)),
            line("nothing to say", |peer| hear_then_say(peer, 0, 0), |peer| say_then_hear(peer, 0, 0)),
            line("neither has", |peer| say_and_hear(peer, 0, 0), |peer| say_and_hear(peer, 0, 0)),
            line("one byte", |peer| hear_then_say(peer, 0, 1), |peer| say_then_hear(peer, 1, 1)),
        ];
        play_all(stage, lines)
    });
}

#[test]
fn an_end_stays_the_end_and_our_own_is_final() {
    same_everywhere(|stage| {
        let server = |peer: Peer| hear_then_say(peer, 1, 10);
        let client = async |mut peer: Peer| {
            peer.says.end().await;
            peer.says.end().await;
            peer.says.all(b"more").await;
            for _ in 0..3 {
                peer.hears.until_the_end().await;
            }
        };
        play_all(stage, vec![line("ends", server, client)])
    });
}

#[test]
fn much_goes_both_ways_at_once() {
    same_everywhere_at_length(|stage| {
        let lines = vec![
            line("much", |peer| say_and_hear(peer, 1, MUCH), |peer| say_and_hear(peer, 2, MUCH)),
            line("more", |peer| say_and_hear(peer, 3, MUCH + 7), |peer| say_and_hear(peer, 4, 1_009)),
        ];
        play_all(stage, lines)
    });
}

#[test]
fn an_answer_may_come_before_its_question_has_ended() {
    same_everywhere(|stage| {
        let early = async |mut peer: Peer| {
            peer.hears.exactly(10).await;
            peer.says.all(&bytes(1, 20_000)).await;
            peer.says.end().await;
            peer.hears.until_the_end().await;
        };
        // Has the answer whole before it sends the rest of its question.
        let patient = async |mut peer: Peer| {
            peer.says.all(&bytes(2, 10)).await;
            peer.hears.until_the_end().await;
            peer.says.all(&bytes(3, 300_000)).await;
            peer.says.end().await;
        };
        let lines = vec![
            line("while it asks", early, |peer| say_and_hear(peer, 4, 300_000)),
            line("before it asks on", early, patient),
        ];
        play_all(stage, lines)
    });
}

/// STREAM-7: the answer in flight outlives a close with unread input. Of that there is so little that the smallest buffers
/// of a world hold it: nobody reads it while it is sent.
#[test]
fn a_close_with_unread_input_spares_the_answer() {
    same_everywhere(|stage| {
        let leaves = async |mut peer: Peer| {
            peer.hears.something().await;
            peer.says.all(&bytes(1, 50_000)).await;
        };
        let asks = async |mut peer: Peer| {
            peer.says.all(&bytes(2, 500)).await;
            peer.hears.until_the_end().await;
        };
        // Says more than anybody reads on for; then it is told.
        let floods = async |mut peer: Peer| {
            peer.says.all(&bytes(3, 500)).await;
            peer.hears.until_the_end().await;
            peer.says.until_it_fails().await;
            peer.hears.until_the_end().await;
        };
        let lines = vec![line("asks", leaves, asks), line("floods", leaves, floods)];
        play_all(stage, lines)
    });
}
