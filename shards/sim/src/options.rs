//! What a world is like, faults apart.

use std::time::Duration;

use crate::random::Random;

/// Probabilities and durations of one world, all in one place. [`Options::default`] is a lively network without
/// surprises; [`Options::drawn`] is another one for each seed, and now and then an odd one, since what never happens
/// together in one world happens in another (Groce et al., "Swarm testing", ISSTA 2012).
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// One way from host to host, at least. Default 20 µs.
    pub latency_min: Duration,
    /// At most. Default 500 µs. On one host it is a tenth of it.
    pub latency_max: Duration,
    /// How long a turn of a shard takes, at least. Default 1 µs.
    pub turn_min: Duration,
    /// At most. Default 20 µs.
    pub turn_max: Duration,
    /// The probability that a wake is late. Default 0.5.
    pub wake_late: f64,
    /// By how much at most. Default 50 µs.
    pub wake_late_max: Duration,
    /// By how much an alarm is late at most; never early. Default 60 µs, as a kernel's timer slack.
    pub alarm_late_max: Duration,
    /// The probability that a shard is polled once for nothing before it is polled. Default 0.05.
    pub spurious_poll: f64,
    /// The most bytes that travel together. Default 16 KiB.
    pub segment_max: usize,
    /// The probability that fewer travel together than could. Default 0.5.
    pub segment_split: f64,
    /// The probability that a stream begins byte by byte, in one direction. Default 0.1.
    pub tiny_stream: f64,
    /// How many bytes of such a stream come alone. Default 200.
    pub tiny_bytes: usize,
    /// The probability that a write takes only some of what it could. Default 0.05.
    pub short_write: f64,
    /// The probability that a read is lent only some of what is there. Default 0.05.
    pub short_read: f64,
    /// The probability that a listener hands out another connection than the one that waits longest. Default 0.1.
    pub accept_shuffled: f64,
    /// The probability that a reset destroys what came before it and was not read: as where packets before it were lost,
    /// which nobody sends again. Linux keeps what has arrived. Default 0.5.
    pub reset_destroys: f64,
    /// The probability that a connection goes to the first socket of a group that shares a port, as after a hash that
    /// spreads badly; else to any of them. Default 0.
    pub lopsided: f64,
    /// The probability that a program attached to a group has no say in where a connection goes. Default 0.1.
    pub missteered: f64,
    /// The probability that a datagram is lost on its way. Default 0.
    pub datagram_lost: f64,
    /// The probability that a datagram comes twice. Default 0.
    pub datagram_doubled: f64,
    /// The probability that a datagram may overtake others of its socket, or be overtaken. Default 0.
    pub datagram_shuffled: f64,
    /// The probability that there is no room to send a datagram, for as long as one takes to its own host. Default 0.
    pub datagram_waits: f64,
    /// What the receiving side buffers, in bytes, where a socket does not say. Default 64 KiB.
    pub receive_buffer: usize,
    /// What the sending side buffers. Default 64 KiB.
    pub send_buffer: usize,
    /// Descriptors that a host may have open. Default 20 000.
    pub descriptors: usize,
    /// A world that is older than this is given up, and the report says who is busy. Default 24 h.
    pub time_max: Duration,
    /// The same for one in which more than this happened. Default 20 million.
    pub steps_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            latency_min: Duration::from_micros(20),
            latency_max: Duration::from_micros(500),
            turn_min: Duration::from_micros(1),
            turn_max: Duration::from_micros(20),
            wake_late: 0.5,
            wake_late_max: Duration::from_micros(50),
            alarm_late_max: Duration::from_micros(60),
            spurious_poll: 0.05,
            segment_max: 16 << 10,
            segment_split: 0.5,
            tiny_stream: 0.1,
            tiny_bytes: 200,
            short_write: 0.05,
            short_read: 0.05,
            accept_shuffled: 0.1,
            reset_destroys: 0.5,
            lopsided: 0.0,
            missteered: 0.1,
            datagram_lost: 0.0,
            datagram_doubled: 0.0,
            datagram_shuffled: 0.0,
            datagram_waits: 0.0,
            receive_buffer: 64 << 10,
            send_buffer: 64 << 10,
            descriptors: 20_000,
            time_max: Duration::from_secs(24 * 3600),
            steps_max: 20_000_000,
        }
    }
}

impl Options {
    /// With what would stop everything raised to the least that does not: at least a byte travels and is buffered.
    pub(crate) fn possible(mut self) -> Options {
        for size in [&mut self.segment_max, &mut self.receive_buffer, &mut self.send_buffer] {
            *size = (*size).max(1);
        }
        self
    }

    /// Nothing is drawn but who runs next: no latency, no chunks, whole reads and writes.
    pub fn calm() -> Options {
        let none = Duration::ZERO;
        Options {
            latency_min: none,
            latency_max: none,
            turn_min: Duration::from_nanos(100),
            turn_max: Duration::from_nanos(100),
            wake_late: 0.0,
            wake_late_max: none,
            alarm_late_max: none,
            spurious_poll: 0.0,
            segment_max: 64 << 10,
            segment_split: 0.0,
            tiny_stream: 0.0,
            short_write: 0.0,
            short_read: 0.0,
            accept_shuffled: 0.0,
            reset_destroys: 0.0,
            missteered: 0.0,
            ..Options::default()
        }
    }

    /// The options of a seed: each is left as it is, or turned down, or up.
    pub fn drawn(random: &mut Random) -> Options {
        let usual = Options::default();
        let mut probability = |usual: f64, high: f64| match random.below(4) {
            0 => 0.0,
            1 => high,
            _ => usual,
        };
        let (wake_late, spurious_poll) =
            (probability(usual.wake_late, 1.0), probability(usual.spurious_poll, 0.5));
        let (tiny_stream, accept_shuffled) =
            (probability(usual.tiny_stream, 0.6), probability(usual.accept_shuffled, 1.0));
        let (short_write, short_read) =
            (probability(usual.short_write, 0.5), probability(usual.short_read, 0.5));
        let (reset_destroys, lopsided) =
            (probability(usual.reset_destroys, 1.0), probability(usual.lopsided, 0.8));
        let missteered = probability(usual.missteered, 0.8);
        let mut one_of = |choices: [u64; 3]| choices[random.place(3)];
        let micros = Duration::from_micros;
        let drawn = Options {
            latency_max: micros(one_of([20, 500, 20_000])),
            turn_max: micros(one_of([1, 20, 400])),
            wake_late_max: micros(one_of([5, 50, 2_000])),
            alarm_late_max: micros(one_of([0, 60, 1_000])),
            segment_max: one_of([1_448, 16 << 10, 64 << 10]) as usize,
            receive_buffer: one_of([2 << 10, 16 << 10, 64 << 10]) as usize,
            send_buffer: one_of([2 << 10, 16 << 10, 64 << 10]) as usize,
            wake_late,
            spurious_poll,
            tiny_stream,
            accept_shuffled,
            short_write,
            short_read,
            reset_destroys,
            lopsided,
            missteered,
            ..usual
        };
        let mut now_and_then = |high: f64| if random.below(2) == 0 { 0.0 } else { high };
        Options {
            datagram_lost: now_and_then(0.1),
            datagram_doubled: now_and_then(0.1),
            datagram_shuffled: now_and_then(0.5),
            datagram_waits: now_and_then(0.3),
            ..drawn
        }
    }
}
