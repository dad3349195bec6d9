//! DATAGRAM-2: several in one call.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;

use waterwheel_reactor::{Address, Backend, DATAGRAM_BYTES_MAX, Datagram, DatagramSocket, Outgoing, Reactor};

use super::{LOOPBACK, bind, offered, pattern, receive, send, six};
use crate::Outcome;
use crate::kit::on_one;

pub(super) fn law(backend: &dyn Backend) -> Outcome {
    offered(backend, |backend| {
        on_one(backend, to_several);
        for at in [LOOPBACK, six()] {
            for merge in [false, true] {
                let at = at.clone();
                on_one(backend, move |reactor| in_segments(reactor, at, merge));
            }
        }
        on_one(backend, the_first_error);
    })
}

/// One call to three peers, and one that receives them all.
async fn to_several(reactor: Rc<dyn Reactor>) {
    const EACH: usize = 20;
    let mut here = bind(&reactor, &LOOPBACK);
    let mut peers: Vec<_> = (0..3).map(|_| bind(&reactor, &LOOPBACK)).collect();
    let names: Vec<Address> = peers.iter().map(|peer| peer.local().expect("bound")).collect();
    let all: Vec<_> = (0..3 * EACH).map(|number| pattern(number, 10 + number)).collect();
    let outgoing: Vec<_> =
        all.iter().enumerate().map(|(number, bytes)| Outgoing::new(bytes, &names[number % 3])).collect();
    send(&reactor, &mut *here, &outgoing).await.expect("they go");
    for (number, peer) in peers.iter_mut().enumerate() {
        let mut got = Vec::new();
        while got.len() < EACH {
            let some = receive(&reactor, &mut **peer, 7, 200).await.expect("they come");
            got.extend(some.into_iter().map(|(_, bytes)| bytes));
        }
        let sent: Vec<_> = all.iter().skip(number).step_by(3).cloned().collect();
        assert!(got == sent, "what peer {number} got, in order");
    }
}

/// What is cut by the kernel comes as so many datagrams, merged or not; what cannot be cut says so.
async fn in_segments(reactor: Rc<dyn Reactor>, at: Address, merge: bool) {
    let (mut here, mut there) = (bind(&reactor, &at), bind(&reactor, &at));
    let to = there.local().expect("bound");
    let merges = there.merge(merge);
    assert!(merge || !merges, "it merges only when asked to");
    let most = here.segments_max();
    assert!(most >= 1);
    for (segment, whole) in [(1_000, 9_500), (1_200, 2_400), (100, 101), (1_000, 400)] {
        let bytes = pattern(segment, whole);
        let one = Outgoing { segment: Some(segment), ..Outgoing::new(&bytes, &to) };
        match send(&reactor, &mut *here, &[one]).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let singles: Vec<_> = bytes.chunks(segment).map(|piece| Outgoing::new(piece, &to)).collect();
                send(&reactor, &mut *here, &singles).await.expect("one by one");
            }
            sent => sent.expect("it goes in segments"),
        }
        let pieces = receive_pieces(&reactor, &mut *there, whole).await;
        let sent: Vec<_> = bytes.chunks(segment).map(<[u8]>::to_vec).collect();
        assert!(pieces == sent, "{whole} bytes in segments of {segment}");
    }
}

/// Receives so many bytes, and takes apart what was merged.
async fn receive_pieces(
    reactor: &Rc<dyn Reactor>,
    socket: &mut dyn DatagramSocket,
    whole: usize,
) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    while pieces.iter().map(Vec::len).sum::<usize>() < whole {
        for (Datagram { size, segment, .. }, bytes) in
            receive(reactor, socket, 4, DATAGRAM_BYTES_MAX).await.expect("they come")
        {
            assert_eq!(bytes.len(), size, "nothing is cut");
            pieces.extend(bytes.chunks(segment.unwrap_or(size).max(1)).map(<[u8]>::to_vec));
        }
    }
    pieces
}

/// The error of one in the middle comes when it is the first, and those before it went.
async fn the_first_error(reactor: Rc<dyn Reactor>) {
    let (mut here, mut there) = (bind(&reactor, &LOOPBACK), bind(&reactor, &LOOPBACK));
    let to = there.local().expect("bound");
    let large = pattern(0, 65_508);
    let all = [Outgoing::new(b"one", &to), Outgoing::new(&large, &to), Outgoing::new(b"three", &to)];
    let first = poll_fn(|cx| here.poll_send(cx, &all)).await.expect("the first goes");
    assert_eq!(first, 1, "those before an error are counted, and told of before it");
    let error = send(&reactor, &mut *here, &all[1..]).await.expect_err("the second is too large");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()), "{error}");
    send(&reactor, &mut *here, &all[2..]).await.expect("it goes");
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(receive(&reactor, &mut *there, 4, 100).await.expect("they come"));
    }
    let got: Vec<_> = got.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(got, [b"one".to_vec(), b"three".to_vec()]);
}
