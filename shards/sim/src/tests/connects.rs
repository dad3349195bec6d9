//! How connections come about, in virtual time and beside threads that wait.

use std::io::ErrorKind;
use std::time::Duration;

use waterwheel_conformance::kit::{Mail, Thread, accept, pause, sleep, thread};
use waterwheel_reactor::{ConnectOptions, StreamOptions, UnixName};

use super::*;
use crate::outside::{Gate, Stream, descriptors, still_trying};

/// Longer than a thread of a busy machine takes to begin to wait.
const A_WHILE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn nothing_overtakes_the_answer_to_a_connect() {
    for seed in 0..100 {
        let client = |_, transport: Transport| async move {
            let Transport { mut source, mut sink } = transport;
            let mut connected = false;
            let first = poll_fn(|cx| {
                connected |= sink.poll_flush(cx).map(Result::unwrap).is_ready();
                let lent = std::task::ready!(source.poll_fill(cx)).unwrap();
                assert!(connected, "bytes of a connection that does not stand yet");
                Poll::Ready(lent[0])
            });
            assert_eq!(first.await, b'!');
        };
        let server = |reactor: Rc<dyn Reactor>, transport: Transport| async move {
            let Transport { source: _source, mut sink } = transport;
            write_all(&mut *sink, b"!").await.unwrap();
            sleep(&reactor, Duration::from_secs(1)).await;
        };
        meet(&World::drawn(seed), client, server);
    }
}

#[test]
fn a_connect_that_was_given_up_reaches_nobody() {
    for aborts in [true, false] {
        let world = calm(1);
        let (here, there) = (world.host("client"), world.host("server"));
        let (bound, to) = (bind(&there, StreamOptions::default()), at(&there));
        let client = part(&here, move |reactor| async move {
            let mut given_up = reactor.connect(&to, &ConnectOptions::default()).unwrap();
            if aborts {
                given_up.sink.abort();
                sleep(&reactor, Duration::from_secs(1)).await;
            }
        });
        let server = part(&there, move |reactor| async move {
            let mut listener = reactor.listen(bound).unwrap();
            let late = reactor.now() + Duration::from_secs(2);
            poll_fn(|cx| {
                assert!(listener.poll_accept(cx).is_pending(), "a connection of nobody's");
                reactor.poll_until(cx, late)
            })
            .await;
        });
        play(&world, vec![client, server]).unwrap();
        assert_eq!(world.left_over(), Vec::<String>::new());
    }
}

#[test]
fn a_full_queue_is_tried_again_after_a_second() {
    let world = calm(2);
    let (here, there) = (world.host("client"), world.host("server"));
    let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
    let bound = there.bind(&Address::Inet(([0; 4], PORT).into()), &options, 1).unwrap().remove(0);
    let to = at(&there);
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = times.clone();
    let client = part(&here, move |reactor| async move {
        let begin = |_| reactor.connect(&to, &ConnectOptions::default()).unwrap();
        let transports: Vec<Transport> = (0..2).map(begin).collect();
        for mut transport in transports {
            flush(&mut *transport.sink).await.unwrap();
            seen.lock().unwrap().push(reactor.now().as_nanos() / 1_000_000_000);
        }
    });
    let server = part(&there, move |reactor| async move {
        let mut listener = reactor.listen(bound).unwrap();
        sleep(&reactor, Duration::from_millis(500)).await;
        for _ in 0..2 {
            drop(accept(&mut listener).await.unwrap());
        }
    });
    play(&world, vec![client, server]).unwrap();
    assert_eq!(*times.lock().unwrap(), [0, 1]);
}

fn knock(host: &Host, to: &Address) -> Thread<Option<ErrorKind>> {
    let (host, to) = (host.clone(), to.clone());
    thread(move || {
        Stream::connect(&host, &to, StreamOptions::default(), PATIENCE).err().map(|error| error.kind())
    })
}

#[test]
fn threads_wait_at_a_full_queue_until_there_is_room_or_nobody_listens() {
    let host = World::live().host("only");
    let anywhere = Address::Inet(([127, 0, 0, 1], 0).into());
    let name = Address::Unix(UnixName::Abstract(b"full".to_vec()));
    for (at, closed) in [(anywhere, ErrorKind::ConnectionRefused), (name, ErrorKind::NotFound)] {
        let options = ListenOptions { backlog: 0, reuse_port: false, ..ListenOptions::default() };
        let gate = Gate::new(&host, &at, &options).unwrap();
        let at = gate.local().clone();
        let first = Stream::connect(&host, &at, StreamOptions::default(), PATIENCE).unwrap();
        let patience = Duration::from_millis(20);
        let full = Stream::connect(&host, &at, StreamOptions::default(), patience).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::TimedOut, "{at}");
        let waits = [knock(&host, &at), knock(&host, &at)];
        while still_trying(&host, &at).len() < 2 {
            pause(Duration::from_millis(1));
        }
        // Nobody drives this world, and yet the one that knocked first comes in.
        drop(gate.accept(Some(PATIENCE)).unwrap());
        while still_trying(&host, &at).len() == 2 {
            pause(Duration::from_millis(1));
        }
        pause(A_WHILE);
        assert_eq!(still_trying(&host, &at).len(), 1, "{at}: room for one");
        drop(gate);
        let mut ends = waits.map(Thread::join);
        ends.sort();
        assert_eq!(ends, [None, Some(closed)], "{at}");
        drop(first);
        assert_eq!(descriptors(&host), Vec::<String>::new());
    }
}

#[test]
fn a_thread_that_waits_is_woken_by_what_a_shard_does_and_the_other_way_round() {
    let host = World::live().host("only");
    let bound = bind(&host, StreamOptions::default());
    let to = at(&host);
    let (from, ready) = (host.clone(), Mail::default());
    let goes = ready.clone();
    let peer = thread(move || {
        let stream = Stream::connect(&from, &to, StreamOptions::default(), PATIENCE).unwrap();
        let mut bytes = [0; 4];
        for round in 0..200_u32 {
            stream.write(&round.to_be_bytes(), Some(PATIENCE)).unwrap();
            assert_eq!(stream.read(&mut bytes, Some(PATIENCE)).unwrap(), 4, "round {round}");
            assert_eq!(u32::from_be_bytes(bytes), round + 1);
        }
        goes.send(());
        assert_eq!(stream.read(&mut bytes, Some(PATIENCE)).unwrap(), 0, "the end");
    });
    let serves = Mutex::new(Some((bound, ready)));
    let start: Box<Start> = Box::new(move |reactor| {
        let (bound, ready) = serves.lock().unwrap().take()?;
        Some(Box::pin(async move {
            let mut listener = reactor.listen(bound).unwrap();
            let mut transport = reactor.adopt(accept(&mut listener).await.unwrap()).unwrap();
            for _ in 0..200 {
                let bytes = read(&mut *transport.source).await.unwrap();
                let answer = u32::from_be_bytes(bytes.try_into().unwrap()) + 1;
                write_all(&mut *transport.sink, &answer.to_be_bytes()).await.unwrap();
            }
            ready.receive().await;
        }))
    });
    host.run(vec![launch(0, start)]).unwrap();
    peer.join();
    assert_eq!(host.descriptors(), 0);
}
