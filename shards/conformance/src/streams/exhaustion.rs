//! Many streams at once, each with bytes lent that nobody gives back yet.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{Backend, Reactor, Source, Transport};

use crate::Outcome;
use crate::kit::on_one;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Peer, Venue, errand};
use crate::kit::stream::{all, expect, expect_end, peek, peek_once, turn, within};

/// More connections than a reactor would provide buffers for at once; within 1 024 descriptors with their peers.
const CONNECTIONS: usize = 200;

/// What each peer sends: several buffers' worth, yet little enough that the kernel takes it from a peer whose reader
/// waits, so that one thread can send for all.
const SENT: usize = 40 << 10;

/// To be lent something when all bytes are there, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// STREAM-15.
pub(super) fn all_lent_at_once(backend: &dyn Backend) -> Outcome {
    let venue = Venue::new(backend, Family::Tcp);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let (mut transports, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let (transport, peer) = meeting.peer().await;
            transports.push(transport);
            peers.push(peer);
        }
        // Half of the sources wait when the bytes come, so that their buffers are asked for at once.
        for transport in transports.iter_mut().step_by(2) {
            assert!(peek_once(transport.source.as_mut()).await.is_pending(), "there is nothing to read yet");
        }
        let senders = errand(move || send_to_all(peers));
        lent_by_all(&reactor, &mut transports).await;
        one_reads_while_the_others_hold(&mut transports).await;
        let rest = transports.iter_mut().enumerate().skip(1);
        all(rest.map(|(number, transport)| whole(number, transport.source.as_mut())).collect()).await;
        senders.end().await;
        meeting.close().await;
    });
    Outcome::Holds
}

/// Every connection's bytes differ, so that a buffer given to the wrong one is seen.
fn send_to_all(peers: Vec<Peer>) {
    for (number, peer) in peers.into_iter().enumerate() {
        peer.send(&mut Pattern::new(number as u64), SENT);
    }
}

/// Every source lends something while no other has given anything back, and lends it still some turns later.
async fn lent_by_all(reactor: &Rc<dyn Reactor>, transports: &mut [Transport]) {
    let waiting = transports.iter_mut().enumerate().map(|(number, transport)| {
        let lent: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            let lent = peek(transport.source.as_mut()).await.expect("bytes");
            assert!(!lent.is_empty(), "connection {number} ended before its first byte");
            Pattern::new(number as u64).check(&lent);
        });
        lent
    });
    let lent = within(reactor, PATIENCE, all(waiting.collect())).await;
    lent.unwrap_or_else(|| panic!("some of {CONNECTIONS} sources wait until others give their buffers back"));
    for _ in 0..3 {
        turn().await;
        for (number, transport) in transports.iter_mut().enumerate() {
            let lent = peek(transport.source.as_mut()).await.expect("what was lent");
            assert!(!lent.is_empty(), "connection {number} lost what it was lent");
            Pattern::new(number as u64).check(&lent);
        }
    }
}

/// Those who hold buffers for long must not stop the one who gives its own back.
async fn one_reads_while_the_others_hold(transports: &mut [Transport]) {
    whole(0, transports[0].source.as_mut()).await;
}

fn whole<'a>(number: usize, source: &'a mut dyn Source) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(async move {
        expect(source, &mut Pattern::new(number as u64), SENT).await;
        expect_end(source).await;
    })
}
