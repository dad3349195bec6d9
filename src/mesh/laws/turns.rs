//! MESSAGE-7: messages per turn are bounded. TIME-8: so are timers, and what else there is gets its turn.

use std::future::{Future, poll_fn};
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use waterwheel_reactor::Time;

use super::{Bench, id, on_each_reactor};
use crate::mesh::ends::Ends;
use crate::mesh::{CallOptions, CallPort, Mesh, Port, PortOptions, StopGuard};
use crate::shard::Budgets;
use crate::shard::between::Between;

on_each_reactor![
    message_7_a_timer_fires_within_one_turns_budget_of_a_hundred_thousand_messages,
    message_7_requests_begun_in_a_turn_are_bounded_by_the_budget,
    message_7_a_flooding_source_does_not_starve_another,
    ; kernel: time_8_a_flood_of_due_timers_starves_neither_input_nor_messages,
];

/// Notes how many messages were received when it is woken.
#[derive(Default)]
struct Fired {
    received: AtomicUsize,
    at: AtomicUsize,
    main: Mutex<Option<Waker>>,
}

impl Wake for Fired {
    fn wake(self: Arc<Self>) {
        self.at.store(self.received.load(SeqCst), SeqCst);
        self.main.lock().unwrap().take().expect("the sleep was polled").wake();
    }
}

fn message_7_a_timer_fires_within_one_turns_budget_of_a_hundred_thousand_messages(bench: &Bench) {
    const QUEUED: usize = 100_000;
    let mesh = bench.mesh(1);
    let port = Port::declare(&mesh, "queued", PortOptions { capacity: QUEUED }).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            for n in 0..QUEUED {
                mailbox.try_send(shard.id(), n).unwrap();
            }
            // How many were received when the timer's time had come, and when it fired.
            let fired = Arc::new(Fired::default());
            let deadline = shard.now() + Duration::from_millis(1);
            let (seen, receiver) = (fired.clone(), shard.clone());
            let receive = shard.spawn("receiver", async move {
                let mut due = None;
                for expected in 0..QUEUED {
                    assert_eq!(mailbox.receive().await.1, expected);
                    if due.is_none() && receiver.now() >= deadline {
                        due = Some(expected);
                    }
                    seen.received.store(expected + 1, SeqCst);
                }
                due.expect("the timer is due before the last message")
            });
            let waker = Waker::from(fired.clone());
            let mut sleep = shard.sleep_until(deadline);
            poll_fn(|cx| {
                *fired.main.lock().unwrap() = Some(cx.waker().clone());
                Pin::new(&mut sleep).poll(&mut Context::from_waker(&waker))
            })
            .await;
            let after = fired.at.load(SeqCst);
            let due = receive.await.unwrap();
            assert!(after < QUEUED, "all were received before the timer fired");
            let budget = Budgets::default().messages;
            assert!(after - due <= budget, "{} messages after the timer was due", after - due);
        }
    });
}

fn message_7_requests_begun_in_a_turn_are_bounded_by_the_budget(bench: &Bench) {
    let mesh = bench.mesh(1);
    let port = CallPort::<(), u64>::declare(&mesh, "turns", CallOptions { credits: 1_000 }).unwrap();
    bench.run(&mesh, move |shard| {
        let server = shard.clone();
        shard.serve(&port, move |_, ()| std::future::ready(server.stats().turns)).unwrap();
        let caller = shard.caller(&port).unwrap();
        async move {
            let calls = (0..1_000).map(|_| caller.call(id(0), ()));
            let turns = futures_util::future::join_all(calls).await;
            let mut by_turn = std::collections::BTreeMap::new();
            turns.into_iter().for_each(|turn| *by_turn.entry(turn.unwrap()).or_insert(0) += 1);
            assert_eq!(by_turn.values().max(), Some(&Budgets::default().messages), "{by_turn:?}");
        }
    });
}

fn message_7_a_flooding_source_does_not_starve_another(bench: &Bench) {
    const FLOOD: usize = 20_000;
    let mesh = bench.mesh(3);
    let port = Port::declare(&mesh, "fair", PortOptions { capacity: FLOOD }).unwrap();
    let full = super::Meeting::of(3);
    bench.run(&mesh, move |shard| {
        let (mailbox, full) = (shard.open(&port).unwrap(), full.clone());
        async move {
            let count = [0, FLOOD, 1][shard.id().index()];
            for n in 0..count {
                mailbox.try_send(id(0), n).unwrap();
            }
            full.wait().await;
            if shard.id() != id(0) {
                return;
            }
            let mut before = 0;
            while mailbox.receive().await.0 != id(2) {
                before += 1;
            }
            let budget = Budgets::default().messages;
            assert!(before <= 2 * budget, "{before} messages of the flood went first");
        }
    });
}

/// Counts timers as they fire: no task runs for them, so that no other budget hides that theirs is gone.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn time_8_a_flood_of_due_timers_starves_neither_input_nor_messages(bench: &Bench) {
    const FLOOD: usize = 30_000;
    // A reactor may poll its root some times before it looks at input: glommio's does so 16 times at most.
    let few = 20 * Budgets::default().timers;
    let mesh = bench.mesh(1);
    let port = Port::declare(&mesh, "beside", PortOptions::default()).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            let (fired, deadline) = (Arc::new(Counted::default()), shard.now() + Duration::from_secs(1));
            let waker = Waker::from(fired.clone());
            let mut sleeps: Vec<_> = (0..FLOOD).map(|_| shard.sleep_until(deadline)).collect();
            for sleep in &mut sleeps {
                assert!(Pin::new(sleep).poll(&mut Context::from_waker(&waker)).is_pending());
            }
            let (reader, mut writer) = std::io::pipe().unwrap();
            let mut watched = shard.reactor().watch(reader.into()).unwrap().expect("it watches pipes");
            assert!(futures_util::poll!(poll_fn(|cx| watched.poll_readable(cx))).is_pending());
            // The thread is held up until all of them are due, and then the others come.
            while shard.now() < deadline {
                std::hint::spin_loop();
            }
            writer.write_all(b"!").unwrap();
            mailbox.try_send(shard.id(), ()).unwrap();
            let count = fired.clone();
            let message = shard.spawn("message", async move {
                mailbox.receive().await;
                count.0.load(SeqCst)
            });
            poll_fn(|cx| watched.poll_readable(cx)).await.unwrap();
            let input = fired.0.load(SeqCst);
            assert!(input <= few, "{input} of {FLOOD} timers fired before the input was looked at");
            let message = message.await.unwrap();
            assert!(message <= few, "{message} of {FLOOD} timers fired before the message was received");
        }
    });
}

#[test]
fn message_7_another_source_goes_first_in_each_turn() {
    let mesh = Mesh::new(3, 2);
    let port = Port::<()>::declare(&mesh, "turns", PortOptions { capacity: 8 }).unwrap();
    let joined: Vec<_> = (0..3).map(|shard| StopGuard::new(&mesh, shard).join()).collect();
    let ends = |shard: usize| {
        let member = joined[shard].member();
        member.end(port.shared.id, || Ends::new(port.shared.clone(), member.ledger.clone()))
    };
    let target = ends(0);
    target.open();
    for source in [1, 2] {
        (0..8).for_each(|_| ends(source).try_send(0, Time::ZERO, ()).unwrap());
        joined[source].member().ring();
    }
    let firsts = (0..4).map(|_| {
        joined[0].member().take();
        let sources: Vec<_> =
            std::iter::from_fn(|| target.pop(&|| Time::ZERO)).map(|(source, ())| source).collect();
        assert_eq!(sources.len(), 4, "two messages of each source: {sources:?}");
        sources[0]
    });
    let firsts: Vec<_> = firsts.skip(1).collect();
    assert_eq!(firsts, [1, 2, 1]);
}
