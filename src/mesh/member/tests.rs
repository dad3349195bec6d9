//! Which ports a turn looks at.

use std::task::Waker;

use waterwheel_reactor::Time;

use super::*;
use crate::mesh::ends::Ends;
use crate::mesh::port::{Port, PortOptions};
use crate::shard::between::Between;

/// A port at which nothing happens: counts how often it is looked at.
struct Idle(Rc<Cell<u64>>);

impl End for Idle {
    fn look(&self, _source: usize, _ended: bool) -> bool {
        self.0.set(self.0.get() + 1);
        false
    }

    fn stats(&self) -> PortStats {
        PortStats { name: "idle", sent: 0, received: 0 }
    }

    fn waits_for(&self, _waker: &Waker) -> Option<String> {
        None
    }

    fn renew(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn reopened(&self) {}

    fn retire(&self) {}
}

fn port(mesh: &Mesh, name: &'static str) -> Port<usize> {
    Port::declare(mesh, name, PortOptions { capacity: 8 }).unwrap()
}

fn ends(member: &Member, port: &Port<usize>) -> Rc<Ends<usize>> {
    let ends = member.end(port.shared.id, || Ends::new(port.shared.clone(), member.ledger.clone()));
    ends.open();
    ends
}

fn pop(ends: &Ends<usize>) -> Option<(usize, usize)> {
    ends.pop(&|| Time::ZERO)
}

/// How often idle ports are looked at, so many of them, while messages pass through another: to another shard, to oneself,
/// beyond a turn's budget, and into a lane that is full.
fn looks_at_idle(count: usize) -> u64 {
    let mesh = Mesh::new(2, 3);
    let busy = port(&mesh, "busy");
    let (from, to) = (Member::new(mesh.clone(), 0), Member::new(mesh.clone(), 1));
    let looks = Rc::new(Cell::new(0));
    // Some with low ids, and some that stand in later words.
    for id in (1..=count).map(|place| place * 5) {
        for member in [&from, &to] {
            member.end(id, || Idle(looks.clone()));
        }
    }
    let (sending, receiving) = (ends(&from, &busy), ends(&to, &busy));
    for member in [&from, &to] {
        member.take();
    }
    assert_eq!(looks.take(), 4 * count as u64, "when they are opened they look at both shards");
    let (mut sent, mut got) = (0, 0);
    for turn in 0..100 {
        from.take();
        while sending.try_send(1, Time::ZERO, sent).is_ok() {
            sent += 1;
        }
        assert!(sending.try_send(0, Time::ZERO, turn).is_ok());
        from.ring();
        to.take();
        while let Some(message) = pop(&receiving) {
            assert_eq!(message, (0, got));
            got += 1;
        }
        to.ring();
        from.take();
        assert_eq!(pop(&sending), Some((0, turn)));
    }
    assert!(got >= 300 && sent <= got + 8, "{got} of {sent}");
    looks.get()
}

#[test]
fn a_thousand_idle_ports_cost_a_message_nothing() {
    assert_eq!([1, 1_000].map(looks_at_idle), [0, 0]);
}

#[test]
fn of_more_ports_than_there_are_bits_each_gets_what_is_for_it() {
    let mesh = Mesh::new(2, 64);
    let (from, to) = (Member::new(mesh.clone(), 0), Member::new(mesh.clone(), 1));
    // Two rounds of bits, and some.
    let ports: Vec<Port<usize>> =
        (0..9_000).map(|number: usize| port(&mesh, format!("port {number}").leak())).collect();
    let used = [0, 62, 63, 64, 4_158, 4_159, 4_160, 8_254, 8_255, 8_256, 8_999];
    let pairs = used.map(|place| (ends(&from, &ports[place]), ends(&to, &ports[place])));
    to.take();
    for round in 0..3 {
        for which in 0..pairs.len() {
            // One alone, and all after it.
            for chosen in [which..which + 1, which..pairs.len()] {
                for (sending, _) in &pairs[chosen.clone()] {
                    assert!(sending.try_send(1, Time::ZERO, round).is_ok());
                }
                from.ring();
                to.take();
                for (place, (_, receiving)) in pairs.iter().enumerate() {
                    assert_eq!(pop(receiving).is_some(), chosen.contains(&place), "{place} of {chosen:?}");
                }
            }
        }
    }
    let stats: Vec<&str> = to.stats().ports.iter().map(|port| port.name).collect();
    let names = used.map(|place| format!("port {place}"));
    assert_eq!(stats, names, "in the order of declaration");
}
