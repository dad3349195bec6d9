//! MESSAGE-5: wakes are at most as many as parks.

use std::sync::{Arc, Mutex};

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{MeshStats, Port, PortOptions};

on_each_reactor![
    message_5_wakes_are_at_most_as_many_as_parks_when_each_message_wakes,
    message_5_wakes_are_at_most_as_many_as_parks_when_shards_are_busy,
    message_5_many_messages_of_one_turn_ring_once,
];

/// Ping-pong over two shards, `in_flight` balls at once; what each shard counted.
fn ping_pong(bench: &Bench, in_flight: u64, rounds: u64) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "ball", PortOptions::default()).unwrap();
    let stats: Arc<Mutex<Vec<MeshStats>>> = Arc::default();
    let (seen, meeting) = (stats.clone(), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        let (stats, meeting) = (seen.clone(), meeting.clone());
        async move {
            let other = id(1 - shard.id().index());
            if shard.id() == id(0) {
                for _ in 0..in_flight {
                    mailbox.try_send(other, 0).unwrap();
                }
            }
            for _ in 0..in_flight * rounds {
                let (_, n) = mailbox.receive().await;
                mailbox.try_send(other, n + 1).ok();
            }
            meeting.wait().await;
            stats.lock().unwrap().push(shard.mesh_stats());
        }
    });
    for stats in &*stats.lock().unwrap() {
        assert!(stats.woken <= stats.parks, "woken {} times in {} parks", stats.woken, stats.parks);
        let port = stats.ports.iter().find(|port| port.name == "ball").unwrap();
        assert_eq!(port.received, in_flight * rounds);
        assert!(
            stats.wakes <= stats.rings && stats.rings <= port.sent + 10,
            "one ring a turn and target: {stats:?}"
        );
    }
}

fn message_5_wakes_are_at_most_as_many_as_parks_when_each_message_wakes(bench: &Bench) {
    ping_pong(bench, 1, 5_000);
}

fn message_5_wakes_are_at_most_as_many_as_parks_when_shards_are_busy(bench: &Bench) {
    ping_pong(bench, 100, 500);
}

fn message_5_many_messages_of_one_turn_ring_once(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "burst", PortOptions::default()).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            if shard.id() == id(0) {
                for _ in 0..200 {
                    mailbox.receive().await;
                }
                return;
            }
            let before = shard.mesh_stats().rings;
            for n in 0..200 {
                mailbox.try_send(id(0), n).unwrap();
            }
            shard.yield_now().await;
            assert_eq!(shard.mesh_stats().rings - before, 1);
        }
    });
}
