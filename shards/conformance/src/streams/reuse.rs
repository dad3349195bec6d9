//! Descriptors that are closed and opened again with the same number, while the kernel still has news of the old one.

use std::os::fd::AsRawFd;
use std::rc::Rc;

use waterwheel_reactor::{Backend, ConnectOptions, Reactor, Transport};

use crate::Outcome;
use crate::kit::on_one;
use crate::kit::peer::{Family, Meeting, Peer, Venue};
use crate::kit::stream::{peek_once, read, turn, write_all};

/// Connections that are replaced at once: enough that the events of some are looked at after those of others.
const AT_ONCE: usize = 8;

/// Times that each kind of news is tried. The race is decided within a turn, so few rounds would do; these take no time.
const ROUNDS: usize = 40;

/// What the kernel has to tell about the old connection.
#[derive(Clone, Copy, Debug)]
enum News {
    Data,
    End,
    Reset,
    DataAndReset,
}

/// STREAM-14.
pub(super) fn stale_events(backend: &dyn Backend) -> Outcome {
    let venue = Venue::new(backend, Family::Tcp);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        for round in 0..ROUNDS {
            for news in [News::Data, News::End, News::Reset, News::DataAndReset] {
                for collected in [false, true] {
                    replaced(&reactor, &mut meeting, news, collected, round).await;
                }
            }
        }
        meeting.close().await;
    });
    Outcome::Holds
}

/// The old connections go, and new ones take their numbers, in one turn: before the reactor had a chance to collect
/// the news, or after it has and before anybody asked for them.
async fn replaced(
    reactor: &Rc<dyn Reactor>,
    meeting: &mut Meeting,
    news: News,
    collected: bool,
    round: usize,
) {
    let mut old = Vec::new();
    for _ in 0..AT_ONCE {
        old.push(meeting.peer().await);
    }
    for (transport, _) in &mut old {
        assert!(peek_once(transport.source.as_mut()).await.is_pending(), "there is nothing to read yet");
    }
    turn().await;
    let (transports, peers): (Vec<Transport>, Vec<Peer>) = old.into_iter().unzip();
    // Data keeps its peer to the end, so that nothing but the data is news.
    let _kept: Vec<Peer> = peers.into_iter().filter_map(|peer| tell(peer, news)).collect();
    if collected {
        turn().await;
    }
    let numbers: Vec<i32> = transports.iter().filter_map(number).collect();
    drop(transports);
    let options = ConnectOptions::default();
    let connect = |_| reactor.connect(meeting.local(), &options).expect("connecting to ourselves");
    let connected: Vec<Transport> = (0..AT_ONCE).map(connect).collect();
    let reused = connected.iter().filter_map(number).filter(|number| numbers.contains(number)).count();
    let what =
        format!("{news:?}, collected: {collected}, round {round}, {reused} of {AT_ONCE} numbers used again");
    successors_work(meeting, connected, &what).await;
}

fn number(transport: &Transport) -> Option<i32> {
    transport.source.descriptor().map(|descriptor| descriptor.as_raw_fd())
}

fn tell(peer: Peer, news: News) -> Option<Peer> {
    match news {
        News::Data => {
            peer.write_all(b"for the old one");
            Some(peer)
        }
        News::End => None,
        News::Reset => {
            peer.reset();
            None
        }
        News::DataAndReset => {
            peer.write_all(b"for the old one");
            peer.reset();
            None
        }
    }
}

/// The new connections are neither ended nor reset, and carry their own bytes and no others, both ways.
async fn successors_work(meeting: &mut Meeting, mut connected: Vec<Transport>, what: &str) {
    let mut accepted = Vec::new();
    for _ in 0..AT_ONCE {
        accepted.push(meeting.own_accepted().await);
    }
    for transport in connected.iter_mut().chain(&mut accepted) {
        let early = peek_once(transport.source.as_mut()).await;
        assert!(early.is_pending(), "news on a new connection before anything was sent: {early:?} ({what})");
    }
    for (number, transport) in connected.iter_mut().enumerate() {
        write_all(transport.sink.as_mut(), &[number as u8])
            .await
            .unwrap_or_else(|error| panic!("{error} ({what})"));
    }
    for transport in &mut accepted {
        let got = read(transport.source.as_mut()).await.unwrap_or_else(|error| panic!("{error} ({what})"));
        assert_eq!(got.len(), 1, "one byte was sent ({what})");
        write_all(transport.sink.as_mut(), &got).await.unwrap_or_else(|error| panic!("{error} ({what})"));
    }
    for (number, transport) in connected.iter_mut().enumerate() {
        let got = read(transport.source.as_mut()).await.unwrap_or_else(|error| panic!("{error} ({what})"));
        assert_eq!(got, [number as u8], "the byte that came back ({what})");
    }
}
