//! A Waterwheel reactor on io_uring: the fast one.
//!
//! One ring per shard, made on the shard's own thread. All that comes up in a turn goes to the kernel in the one system
//! call that ends the turn and waits for what comes next.
//!
//! | file | what |
//! |---|---|
//! | `life`, `bell` | the loop of one shard, and its waker |
//! | `ring`, `enter` | the io_uring instance and its system call |
//! | `buffers`, `pool`, `chunk`, `chain` | memory: what the kernel fills, ours, and bytes in either |
//! | `core`, `table` | what one reactor owns, the seam's [`Reactor`](waterwheel_reactor::Reactor); who a completion is for |
//! | `socket`, `inbox`, `outbox` | a connection, and both its directions |
//! | `source`, `sink`, `listener`, `watched`, `waited` | the seam's objects |
//! | `features`, `probe`, `wakes` | what can be done without, what works here, and how shards wake each other faster |
//! | `memory`, `seldom` | how much of what may be locked each shard takes; what the log is told, and how often |
//!
//! # What the kernel is asked for
//!
//! * *Receiving* is one multishot receive per connection, which takes its memory from a ring of buffers of 16 KiB, as many
//!   as were lately needed in one turn, 1024 at the most. It is asked for when somebody first reads; with 64 KiB received
//!   that nobody took it is stopped, and asked for again when they are taken. The kernel may push 512 KiB more before it
//!   stops (32 buffers; before Linux 6.4, all that there are). A stream, which fills two buffers before the first is taken,
//!   is received in calls of its own, 64 KiB at once, and sent in the next, while it is in the cache. 16 KiB there and back
//!   through a proxy took 0.76 of HAProxy's CPU without that and 0.97 with it, a MiB one way 0.95 and 0.73.
//! * *Sending* never waits in the kernel: every send is tried (`MSG_DONTWAIT`) in the call that ends the turn, and says
//!   something only if the kernel did not take all (`IOSQE_CQE_SKIP_SUCCESS`). What was left waits for a poll. So the kernel
//!   holds no memory of a send between two calls. The last bytes before a FIN are sent with it, in one segment (`MSG_MORE`).
//! * *Forwarding* from a source to a sink of the same reactor moves the buffer that the kernel filled to the send: no byte is
//!   copied, or looked at, in user space. A stream goes through a pipe (splice(2)), which is one per shard, empty between two
//!   calls, and large: with pipes of 64, 128, 256, 512 and 1024 KiB a bare loop took 635, 466, 199, 239 and 110 µs a MiB,
//!   710 with receives and sends of 64 KiB. What a sink turns out not to take is read into memory of ours, and the next time
//!   it is given less; below 64 KiB it is sent what was received.
//! * *Accepting* is a poll and accept4(2), which tells the peer's address; *connecting* is an operation of the ring,
//!   for Unix sockets connect(2) and a poll.
//! * A *deadline* is the call's own timeout.
//! * *Waking* another shard is a message through the rings, sent with the turn's other operations, or a write to an eventfd.
//!
//! # What is not used, and why
//!
//! * *Sends without a copy* (`MSG_ZEROCOPY`, `SEND_ZC`): the kernel copies on the loopback after all, and told so of each send.
//!   A bare loop of eight streams took 950 µs a MiB with them, 64 KiB at once, and 710 without; 600 and 530 with 256 KiB. For
//!   less than 4 to 16 KiB the notification costs more than the copy on any network (liburing's wiki, "What's new in 6.10").
//! * *Larger receives* for streams that are not spliced: in that loop 256 KiB at once took 0.75 of what 64 KiB took, but four
//!   times the memory where a peer does not read.
//! * *Bundles* (of receives, Linux 6.10): a connection that has more than one buffer full is a stream.
//! * *Multishot accept* does not tell the peer's address, which each accepted connection is hashed by: asking for it takes a
//!   call again; and it takes connections out of the queue that a listener at its limit would leave there. A bare proxy that
//!   answers one request per connection took 54.6 µs with it and getpeername(2), 53.0 with a poll and accept4(2) (medians of
//!   five turns of 6 × 0.4 s, from 50 to 61): no difference.
//!
//! # Who owns what the kernel works on
//!
//! A connection keeps its place in the table, and its descriptor, until the last of its operations has completed. A place is
//! its operations' name, so no completion can come to somebody else. Dropping a half cancels what it had begun.
//!
//! Buffers: with few left for the kernel, those are copied out that nobody lends or sends; what is lent then is copied first.
//! So however many connections hold what they were lent, 16 buffers go round among the others.
//!
//! Memory: about 400 bytes per idle connection. Of the buffers a page takes memory once it is used, 16 MiB per shard at the
//! most. A connection whose owner does not read holds up to 576 KiB, and one whose peer does not read up to 320 KiB; small
//! pieces are packed, so that they take little more than twice their bytes. Both halves dropped, what the peer has not read
//! stays for it as long as it reads some of it in each 30 s, ten minutes at the most. Beside its ring a shard has the pipe: two
//! descriptors and 256 KiB, of which a user may have 64 MiB (`fs.pipe-user-pages-soft`) unless the process is privileged;
//! where there is no more, streams are copied. What is left when the reactor ends and does not
//! fit the kernel's buffers is cut off by a reset.

#[cfg(not(target_os = "linux"))]
compile_error!("io_uring is Linux only");

mod bell;
mod buffers;
mod chain;
mod chunk;
mod core;
mod enter;
mod features;
mod inbox;
mod life;
mod listener;
mod memory;
mod outbox;
mod pool;
mod probe;
mod ring;
mod seldom;
mod sink;
mod socket;
mod source;
#[cfg(test)]
mod spliced;
mod table;
#[cfg(test)]
mod tests;
mod waited;
mod wakes;
mod watched;

use std::io;

use waterwheel_reactor::{Backend, Clock, Ended, Launch, Unavailable, on_threads};

use memory::Share;

pub use features::{Feature, Features, UnknownFeature};

/// Runs each shard on a thread with a ring of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uring {
    off: Features,
}

impl Uring {
    /// With all that the kernel has.
    pub const fn new() -> Uring {
        Uring { off: Features::NONE }
    }

    /// Without some features, which the kernel may have wrong.
    #[must_use]
    pub const fn without(off: Features) -> Uring {
        Uring { off }
    }

    /// The same, to be kept for good: what is chosen when the program runs.
    pub fn kept_without(off: Features) -> &'static Uring {
        static ALL: [Uring; Features::SETS] = {
            let mut all = [Uring::new(); Features::SETS];
            let mut bits = 0;
            while bits < Features::SETS {
                all[bits] = Uring::without(Features::from_bits(bits));
                bits += 1;
            }
            all
        };
        &ALL[off.bits()]
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn probe(&self) -> Result<(), Unavailable> {
        probe::probe(self.off).map(drop)
    }

    waterwheel_os::bind_by_the_kernel!();

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let clock = Clock::start();
        let share = share_of(launches.len());
        let probed = probe::probe(self.off).map(|probed| self.settle(&probed, launches.len(), share));
        on_threads(launches, |_, start| match &probed {
            Ok(features) => life::live(clock, *features, share, start),
            Err(unavailable) => Err(io::Error::other(unavailable.clone())),
        })
    }
}

/// What each shard takes of the memory that may be locked. Says so where that is less than is useful.
fn share_of(shards: usize) -> Share {
    let limit = memory::limit();
    let share = memory::share(limit, shards);
    if let Some(bytes) = limit.filter(|_| share != Share::FULL) {
        let without = if share.buffers { "" } else { ", receives without buffers" };
        let entries = ring::ENTRIES >> share.scale;
        tracing::warn!(
            bytes,
            shards,
            entries,
            "little memory may be locked (ulimit -l): small rings{without}, wakes by eventfd",
        );
    }
    share
}

impl Uring {
    /// What to use: of what works, what is faster. Says once what is not used, and why.
    fn settle(&self, probed: &probe::Probed, shards: usize, share: Share) -> Features {
        if self.off != Features::NONE {
            tracing::info!(off = %self.off, "features of io_uring are switched off");
        }
        for (feature, why) in &probed.missing {
            tracing::info!(%feature, "a feature of io_uring is not used: {why}");
        }
        let mut features = probed.features;
        if !features.has(Feature::SkipSuccess) {
            // Each message would wake its sender, too.
            features = features.without(Feature::MessageRing);
        }
        if share != Share::FULL {
            // To measure takes two rings more.
            return features.without(Feature::MessageRing);
        }
        if shards > 1 && features.has(Feature::MessageRing) && !wakes::messages_are_faster(features) {
            return features.without(Feature::MessageRing);
        }
        features
    }
}
