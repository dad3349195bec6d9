//! MESSAGE-1, MESSAGE-2, MESSAGE-12: where, in which order and when messages are received.

use std::cell::Cell;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{CallOptions, CallPort, Port, PortOptions};
use crate::shard::Shard;

on_each_reactor![
    message_1_messages_are_received_on_the_targets_thread,
    message_1_a_message_to_oneself_is_not_received_inside_the_send_nor_in_the_same_turn,
    message_1_a_call_to_oneself_is_handled_in_a_task_of_its_own,
    message_2_each_source_is_received_in_order_however_tasks_and_lanes_mix,
    message_12_a_scheduled_message_is_not_received_before_its_time_by_the_targets_clock,
    message_12_a_scheduled_message_takes_its_place_in_the_lane_until_its_time,
];

fn message_1_messages_are_received_on_the_targets_thread(bench: &Bench) {
    let mesh = bench.mesh(2);
    // A simulated world has one thread for all of them, and switches between shards.
    let threads = bench.backend.name() != "sim";
    let port = Port::declare(&mesh, "threads", PortOptions::default()).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            let other = id(1 - shard.id().index());
            mailbox.send(other, thread::current().id()).await.unwrap();
            let (from, its_thread) = mailbox.receive().await;
            assert_eq!(from, other);
            assert!(!threads || its_thread != thread::current().id(), "both shards are on one thread");
            assert_eq!(Shard::current().map(|shard| shard.id()), Some(shard.id()));
        }
    });
}

fn message_1_a_message_to_oneself_is_not_received_inside_the_send_nor_in_the_same_turn(bench: &Bench) {
    let mesh = bench.mesh(1);
    let port = Port::declare(&mesh, "self", PortOptions::default()).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            let received = Rc::new(Cell::new(None));
            let (sender, seen, receiver) = (mailbox.sender(), received.clone(), shard.clone());
            // The receiver waits already when the message is sent.
            let task = shard.spawn("receiver", async move {
                let (from, turn) = mailbox.receive().await;
                assert_eq!(from, receiver.id());
                seen.set(Some(receiver.stats().turns - turn));
            });
            shard.yield_now().await;
            sender.try_send(shard.id(), shard.stats().turns).unwrap();
            assert_eq!(received.get(), None, "received inside the send");
            task.await.unwrap();
            assert_eq!(received.get(), Some(1), "received in the next turn");
        }
    });
}

fn message_1_a_call_to_oneself_is_handled_in_a_task_of_its_own(bench: &Bench) {
    let mesh = bench.mesh(1);
    let port = CallPort::<u32, u32>::declare(&mesh, "double", CallOptions::default()).unwrap();
    bench.run(&mesh, move |shard| {
        let handled = Rc::new(Cell::new(0));
        let count = handled.clone();
        let served = shard.serve(&port, move |_, n| {
            count.set(count.get() + 1);
            async move { n * 2 }
        });
        served.unwrap();
        let caller = shard.caller(&port).unwrap();
        async move {
            let mut call = Box::pin(caller.call(shard.id(), 21));
            assert!(futures_util::poll!(&mut call).is_pending());
            assert_eq!(handled.get(), 0, "handled inside the call");
            assert_eq!(call.await, Ok(42));
            assert_eq!(handled.get(), 1);
        }
    });
}

fn message_2_each_source_is_received_in_order_however_tasks_and_lanes_mix(bench: &Bench) {
    const EACH: u32 = 5_000;
    let mesh = bench.mesh(3);
    let port = Port::declare(&mesh, "numbers", PortOptions { capacity: 8 }).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            if shard.id() != id(0) {
                // Waiting for room and not waiting, by turns.
                for n in 0..EACH {
                    if n % 3 == 0 || mailbox.try_send(id(0), n).is_err() {
                        mailbox.send(id(0), n).await.unwrap();
                    }
                }
                return;
            }
            let mut next = [0; 3];
            for _ in 0..2 * EACH {
                let (from, n) = mailbox.receive().await;
                assert_eq!(n, next[from.index()], "out of order from {from}");
                next[from.index()] += 1;
            }
            assert_eq!(next, [0, EACH, EACH]);
        }
    });
}

fn message_12_a_scheduled_message_is_not_received_before_its_time_by_the_targets_clock(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "later", PortOptions { capacity: 4 }).unwrap();
    let meeting = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let (mailbox, meeting) = (shard.open(&port).unwrap(), meeting.clone());
        async move {
            if shard.id() == id(1) {
                let base = shard.now();
                let at = |ms| base + Duration::from_millis(ms);
                for (name, time) in [("c", at(600)), ("a", at(300)), ("b", at(300))] {
                    mailbox.send_at(id(0), (name, time), time).await.unwrap();
                }
                mailbox.send(id(0), ("at once", base)).await.unwrap();
                return meeting.wait().await;
            }
            let mut order = Vec::new();
            for _ in 0..4 {
                let (_, (name, time)) = mailbox.receive().await;
                assert!(shard.now() >= time, "{name} came {:?} early", time - shard.now());
                order.push(name);
            }
            assert_eq!(order, ["at once", "a", "b", "c"]);
            meeting.wait().await;
        }
    });
}

fn message_12_a_scheduled_message_takes_its_place_in_the_lane_until_its_time(bench: &Bench) {
    let mesh = bench.mesh(1);
    let port = Port::declare(&mesh, "held", PortOptions { capacity: 2 }).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            let soon = shard.now() + Duration::from_millis(20);
            mailbox.try_send_at(shard.id(), "b", soon).unwrap();
            mailbox.try_send(shard.id(), "a").unwrap();
            assert!(mailbox.try_send(shard.id(), "full").is_err());
            assert_eq!(mailbox.receive().await.1, "a");
            // One place is free again; the other is taken by a message that is out of the lane already.
            mailbox.try_send(shard.id(), "c").unwrap();
            assert_eq!(mailbox.receive().await.1, "c");
            mailbox.try_send(shard.id(), "d").unwrap();
            assert!(mailbox.try_send(shard.id(), "full").is_err(), "a held message is not counted");
            let sender = mailbox.sender();
            let waits = shard.spawn("waits", async move { sender.send(sender.shard().id(), "e").await });
            assert_eq!(mailbox.receive().await.1, "d");
            assert_eq!(mailbox.receive().await.1, "e");
            assert_eq!(mailbox.receive().await.1, "b");
            assert!(shard.now() >= soon);
            waits.await.unwrap().unwrap();
            // With the held message its place is free again too.
            for name in ["f", "g"] {
                mailbox.try_send(shard.id(), name).expect("a received message is still counted as held");
            }
            assert!(mailbox.try_send(shard.id(), "full").is_err());
        }
    });
}
