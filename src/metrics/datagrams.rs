//! What groups of datagram sockets count on each shard. Shown by shard, with a label `socket`.

use std::rc::Rc;

use super::cells::Counter;
use super::family::{Family, FamilyError, FamilyOptions, Unit};
use super::own::{Row, raise_child};
use super::registry::Declaring;
use super::store::{Children, Store};
use crate::net::datagram::{CountedBy, DatagramStats};

/// Of datagrams that the kernel merged or cut each counts.
const DATAGRAMS: [Row<DatagramStats>; 11] = [
    (
        "waterwheel_datagrams_received_total",
        "Datagrams that the kernel gave to the shard's socket.",
        |stats| stats.received,
    ),
    ("waterwheel_datagrams_received_bytes_total", "Bytes of the received, as they were sent.", |stats| {
        stats.received_bytes
    }),
    ("waterwheel_datagrams_cut_total", "Of the received, those longer than the room for one.", |stats| {
        stats.cut
    }),
    ("waterwheel_datagrams_receive_errors_total", "Times that receiving failed.", |stats| {
        stats.receive_errors
    }),
    (
        "waterwheel_datagrams_discarded_total",
        "Datagrams that the kernel threw away, for want of room or damaged; not among the received.",
        |stats| stats.discarded,
    ),
    ("waterwheel_datagrams_sent_total", "Datagrams that the kernel took.", |stats| stats.sent),
    ("waterwheel_datagrams_sent_bytes_total", "Bytes of the sent.", |stats| stats.sent_bytes),
    ("waterwheel_datagrams_send_errors_total", "Times that sending failed.", |stats| stats.send_errors),
    (
        "waterwheel_datagrams_handed_over_total",
        "Of the received, those handed to the shard they are for.",
        |stats| stats.handed_over,
    ),
    ("waterwheel_datagrams_taken_over_total", "Datagrams that other shards handed to it.", |stats| {
        stats.taken_over
    }),
    (
        "waterwheel_datagrams_kept_total",
        "Of the received, those of a shard that is gone, whose place this one has taken.",
        |stats| stats.kept,
    ),
];
/// A reason, and where it comes from.
type Reason = (&'static str, fn(&DatagramStats) -> u64);

/// Why a datagram that came to the process came to no program.
const LOST: [Reason; 4] = [
    ("crowded", |stats| stats.crowded),
    ("ownerless", |stats| stats.ownerless),
    ("undelivered", |stats| stats.undelivered),
    ("unread", |stats| stats.unread),
];

/// The families.
#[derive(Debug)]
pub(super) struct DatagramFamilies {
    counted: Vec<Family<Counter, 1>>,
    lost: Family<Counter, 2>,
}

impl DatagramFamilies {
    pub(super) fn declare(
        on: &Declaring<'_>,
        options: FamilyOptions,
    ) -> Result<DatagramFamilies, FamilyError> {
        let counted = DATAGRAMS
            .iter()
            .map(|(name, help, _)| on.declare((name, help), Unit::Number, ["socket"], options));
        Ok(DatagramFamilies {
            counted: counted.collect::<Result<_, _>>()?,
            lost: on.declare(
                (
                    "waterwheel_datagrams_lost_total",
                    "Datagrams received and given to no program: the owner had no room, nobody owned them, it ended before it received them, nobody asked for them.",
                ),
                Unit::Number,
                ["socket", "reason"],
                options,
            )?,
        })
    }
}

/// The cells on one shard.
pub(super) struct DatagramCells {
    counted: Vec<Children<Counter, 1>>,
    lost: Children<Counter, 2>,
    /// Held here, since what is kept for a shard goes before its last word.
    sockets: Rc<CountedBy>,
}

impl DatagramCells {
    pub(super) fn new(families: &DatagramFamilies, store: &Rc<Store>) -> DatagramCells {
        let counted = families.counted.iter().map(|family| Children::new(store.clone(), family.clone()));
        DatagramCells {
            counted: counted.collect(),
            lost: Children::new(store.clone(), families.lost.clone()),
            sockets: CountedBy::of(store.shard()),
        }
    }

    pub(super) fn copy(&self) {
        for (socket, stats) in self.sockets.stats() {
            raise_child(&self.counted, &DATAGRAMS, &socket, &stats);
            for (reason, read) in LOST {
                self.lost.with([&socket, reason]).raise_to(read(&stats));
            }
        }
    }
}
