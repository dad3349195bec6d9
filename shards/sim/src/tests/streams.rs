//! Whether bytes arrive, all of them and in order, whatever is drawn.

use std::time::Duration;

use waterwheel_conformance::kit::{accept, sleep};
use waterwheel_reactor::{ConnectOptions, StreamOptions, Transport};

use super::*;
use crate::{Rule, Verdict};

/// Sends `sent`, then the end, and reads meanwhile what the other side sends.
async fn exchange(transport: Transport, sent: Vec<u8>) -> Vec<u8> {
    let Transport { mut source, mut sink } = transport;
    let sending = async {
        write_all(&mut *sink, &sent).await.unwrap();
        shutdown(&mut *sink).await.unwrap();
    };
    let ((), (got, end)) = both(sending, drain(&mut *source)).await;
    end.unwrap();
    got
}

#[test]
fn order_and_content_hold_whatever_is_drawn() {
    for seed in 0..200 {
        let world = World::drawn(seed);
        // Up to 1 MiB, small ones as often as large ones.
        let size = || 1 + (world.number() >> 44) as usize % (1 << (world.number() % 21));
        let (there, back) = (pattern(size(), 2 * seed), pattern(size(), 2 * seed + 1));
        let (ours, theirs) = (there.clone(), back.clone());
        let client = move |_, transport| exchange(transport, ours);
        let server = move |_, transport| exchange(transport, theirs);
        let (got_back, got_there) = meet(&world, client, server);
        assert!(got_back == back, "seed {seed}: {} bytes of {} came back", got_back.len(), back.len());
        assert!(got_there == there, "seed {seed}: {} bytes of {} arrived", got_there.len(), there.len());
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_another() {
    let run = |seed| {
        let world = World::drawn(seed);
        let client = move |_, transport| exchange(transport, pattern(50_000, 1));
        meet(&world, client, move |_, transport| exchange(transport, pattern(5_000, 2)));
        (world.trace_hash(), world.events(), world.now())
    };
    let runs: Vec<_> = (0..20).map(run).collect();
    assert_eq!(runs, (0..20).map(run).collect::<Vec<_>>());
    let mut hashes: Vec<u64> = runs.into_iter().map(|(hash, ..)| hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20);
}

/// How long the world took in which a client sends this much.
fn takes(world: &World, bytes: usize, stream: StreamOptions) -> Duration {
    let client = move |_, transport: Transport| async move {
        let Transport { source, mut sink } = transport;
        write_all(&mut *sink, &pattern(bytes, 9)).await.unwrap();
        shutdown(&mut *sink).await.unwrap();
        source
    };
    let client = move |reactor, transport| async move {
        let mut source = client(reactor, transport).await;
        drain(&mut *source).await.1.unwrap();
    };
    let server = |reactor: Rc<dyn Reactor>, transport: Transport| async move {
        let Transport { mut source, sink: _sink } = transport;
        let (got, end) = drain(&mut *source).await;
        end.unwrap();
        (got, reactor.now().since(Default::default()))
    };
    let ((), (got, when)) = meet_with(world, stream, client, server);
    assert!(got == pattern(bytes, 9), "{} bytes of {bytes}", got.len());
    when
}

#[test]
fn a_partition_loses_nothing_and_its_bytes_come_when_it_has_healed() {
    let second = Duration::from_secs(1);
    let healthy = takes(&calm(1), 100_000, StreamOptions::default());
    assert!(healthy < second, "{healthy:?}");
    let world = calm(1);
    // It begins while the bytes are on their way.
    world.rule(Rule::new(Verdict::Hold).between(healthy / 2..=30 * second));
    let parted = takes(&world, 100_000, StreamOptions::default());
    assert!((30 * second..31 * second).contains(&parted), "{parted:?}");
}

#[test]
fn a_slow_reader_slows_the_writer_down() {
    let world = calm(2);
    let pause = Duration::from_millis(10);
    world.rule(Rule::new(Verdict::SlowReader(1_000, pause)).to("server"));
    let took = takes(&world, 100_000, StreamOptions::default());
    assert!((99 * pause..110 * pause).contains(&took), "a hundred reads, {took:?}");
}

#[test]
fn short_writes_keep_every_byte() {
    let world = calm(3);
    world.rule(Rule::new(Verdict::ShortWrite(3)));
    takes(&world, 5_000, StreamOptions::default());
    let options = Options { short_write: 1.0, short_read: 1.0, tiny_stream: 1.0, ..Options::default() };
    takes(&World::new(3, options), 20_000, StreamOptions::default());
}

#[test]
fn buffers_hold_what_was_asked_for_and_not_much_more() {
    const ASKED: usize = 10_000;
    for (asked, most) in [(Some(ASKED), 4 * ASKED), (None, 2 * (64 << 10))] {
        let stream = StreamOptions { receive_buffer: asked, send_buffer: asked, ..StreamOptions::default() };
        let client = |reactor: Rc<dyn Reactor>, mut transport: Transport| async move {
            flush(&mut *transport.sink).await.unwrap();
            let (mut total, late) = (0, reactor.now() + Duration::from_secs(1));
            poll_fn(|cx| {
                while let Poll::Ready(taken) = transport.sink.poll_write(cx, &[7; 1_000]) {
                    total += taken.unwrap();
                }
                reactor.poll_until(cx, late)
            })
            .await;
            transport.source.abort();
            total
        };
        let server = |reactor: Rc<dyn Reactor>, transport: Transport| async move {
            sleep(&reactor, Duration::from_secs(2)).await;
            drop(transport);
        };
        let (held, ()) = meet_with(&calm(4), stream, client, server);
        assert_eq!(held, most, "{asked:?}");
    }
}

/// In which order a listener hands out ten connections that came one after the other.
fn order(accept_shuffled: f64) -> Vec<u8> {
    let world = World::new(5, Options { accept_shuffled, ..Options::calm() });
    let (here, there) = (world.host("client"), world.host("server"));
    let (bound, to) = (bind(&there, StreamOptions::default()), at(&there));
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let client = part(&here, move |reactor| async move {
        let mut held = Vec::new();
        for number in 0..10 {
            let mut transport = reactor.connect(&to, &ConnectOptions::default()).unwrap();
            flush(&mut *transport.sink).await.unwrap();
            write_all(&mut *transport.sink, &[number]).await.unwrap();
            held.push(transport);
        }
        sleep(&reactor, Duration::from_secs(2)).await;
    });
    let server = part(&there, move |reactor| async move {
        sleep(&reactor, Duration::from_secs(1)).await;
        let mut listener = reactor.listen(bound).unwrap();
        for _ in 0..10 {
            let mut accepted = reactor.adopt(accept(&mut listener).await.unwrap()).unwrap();
            let number = read(&mut *accepted.source).await.unwrap();
            seen.lock().unwrap().extend(number);
        }
    });
    play(&world, vec![client, server]).unwrap();
    Arc::try_unwrap(order).unwrap().into_inner().unwrap()
}

#[test]
fn a_listener_hands_out_in_order_unless_it_is_to_shuffle() {
    let in_order: Vec<u8> = (0..10).collect();
    assert_eq!(order(0.0), in_order);
    let mut shuffled = order(1.0);
    assert_ne!(shuffled, in_order);
    shuffled.sort_unstable();
    assert_eq!(shuffled, in_order, "each of them once");
}

/// What tells of the other's end cannot arrive before the turn ends, so that a program that writes until it fails or has
/// to wait would never end it.
#[test]
fn one_that_is_gone_takes_in_one_turn_what_buffers_hold_and_no_more() {
    for seed in 0..20 {
        let world = World::drawn(seed);
        let client = |_, transport: Transport| async move {
            let Transport { mut source, mut sink } = transport;
            drain(&mut *source).await.1.unwrap();
            let mut taken = 0;
            poll_fn(|cx| {
                while let Poll::Ready(Ok(count)) = sink.poll_write(cx, &[7; 4_096]) {
                    taken += count;
                    assert!(taken < 1 << 20, "{taken} bytes went to nobody");
                }
                Poll::Ready(())
            })
            .await;
        };
        meet(&world, client, |_, transport| async move { drop(transport) });
    }
}
