//! Which way of waking another shard is faster here: a message through the rings, or an eventfd. Reports differ by kernel
//! and machine, three times either way (liburing issue 1150), so it is measured, once per process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fd;
use waterwheel_os::Interrupt;
use waterwheel_reactor::Clock;

use crate::core::MESSAGE;
use crate::features::Features;
use crate::memory::Share;
use crate::ring::Ring;

/// There and back so often in a row, and so many rows of either way in turns: about 5 ms in all.
const TRIPS: u32 = 30;
const ROWS: usize = 6;

/// Longer than any wake takes; whoever is not woken by then never is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether messages are to be used: unless they take longer, or fail.
pub(crate) fn messages_are_faster(features: Features) -> bool {
    static MEASURED: OnceLock<bool> = OnceLock::new();
    *MEASURED.get_or_init(|| match measure(features) {
        Ok([message, interrupt]) => {
            tracing::debug!(?message, ?interrupt, "waking another shard and being woken, through rings and eventfds");
            message <= interrupt
        }
        Err(error) => {
            tracing::info!(%error, "shards wake each other by eventfd: how fast messages are cannot be measured");
            false
        }
    })
}

/// One of two threads that wake each other.
struct Side {
    ring: Ring,
    interrupt: Interrupt,
}

/// How to wake a side.
struct Bell {
    ring: OwnedFd,
    interrupt: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Message,
    Interrupt,
}

/// The shortest time of a row's trip, through the rings and by eventfd.
fn measure(features: Features) -> io::Result<[Duration; 2]> {
    let (to_here, from_there) = channel();
    let (to_there, from_here) = channel();
    thread::scope(|scope| {
        let there = thread::Builder::new().name("waterwheel-wakes".to_owned());
        let there = there.spawn_scoped(scope, move || answer(features, &to_here, &from_here))?;
        let here = ask(features, &to_there, &from_there);
        // Its own error comes from the same cause.
        drop(to_there);
        let answered = there.join().unwrap_or_else(|_| Err(io::Error::other("the other thread panicked")));
        let best = here?;
        answered?;
        Ok(best)
    })
}

fn ask(features: Features, to: &Sender<Bell>, from: &Receiver<Bell>) -> io::Result<[Duration; 2]> {
    let side = Side::new(features)?;
    let gone = |_| io::Error::other("the other thread has no ring");
    to.send(side.bell()?).map_err(|_| io::Error::other("the other thread has ended"))?;
    let other = from.recv().map_err(gone)?;
    let clock = Clock::start();
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROWS {
        for (by, best) in [By::Message, By::Interrupt].into_iter().zip(&mut best) {
            let began = clock.now();
            for _ in 0..TRIPS {
                side.wake(&other, by)?;
                side.sleep()?;
            }
            *best = (*best).min(clock.now().since(began) / TRIPS);
        }
    }
    Ok(best)
}

fn answer(features: Features, to: &Sender<Bell>, from: &Receiver<Bell>) -> io::Result<()> {
    let side = Side::new(features)?;
    to.send(side.bell()?).map_err(|_| io::Error::other("the other thread has ended"))?;
    let Ok(other) = from.recv() else { return Ok(()) };
    for _ in 0..ROWS {
        for by in [By::Message, By::Interrupt] {
            for _ in 0..TRIPS {
                side.sleep()?;
                side.wake(&other, by)?;
            }
        }
    }
    // The last message is still in the queue.
    side.ring.enter(0, None)
}

impl Side {
    fn new(features: Features) -> io::Result<Side> {
        let (ring, _) = Ring::new(features, Share::LEAST.scale)?;
        let side = Side { ring, interrupt: Interrupt::new()? };
        side.listen();
        Ok(side)
    }

    fn bell(&self) -> io::Result<Bell> {
        let interrupt = waterwheel_os::duplicate(self.interrupt.as_fd())?;
        Ok(Bell { ring: self.ring.duplicate()?, interrupt })
    }

    /// Waits for the eventfd, once.
    fn listen(&self) {
        let number = Fd(self.interrupt.as_fd().as_raw_fd());
        // SAFETY: names no memory.
        unsafe { self.ring.push(&opcode::PollAdd::new(number, libc::POLLIN as u32).build()) };
    }

    fn wake(&self, other: &Bell, by: By) -> io::Result<()> {
        match by {
            By::Message => {
                let entry = opcode::MsgRingData::new(Fd(other.ring.as_raw_fd()), MESSAGE, 0, None).build();
                // SAFETY: names no memory.
                unsafe { self.ring.push(&entry.flags(Flags::SKIP_SUCCESS)) };
                Ok(())
            }
            By::Interrupt => Ok(rustix::io::write(&other.interrupt, &1_u64.to_ne_bytes()).map(drop)?),
        }
    }

    fn sleep(&self) -> io::Result<()> {
        let mut woken = Vec::with_capacity(2);
        self.ring.enter(1, Some(PATIENCE))?;
        self.ring.harvest(&mut woken)?;
        match woken[..] {
            [one] if one.result == MESSAGE => Ok(()),
            [one] if one.result == i32::from(libc::POLLIN) => {
                self.interrupt.clear();
                self.listen();
                Ok(())
            }
            _ => Err(io::Error::other(format!("a wake came as {woken:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::probe;

    #[test]
    fn both_ways_are_measured() {
        let Ok(probed) = probe(Features::NONE) else { return };
        let [message, interrupt] = measure(probed.features).expect("both ways work");
        assert!(message < PATIENCE && interrupt < PATIENCE, "{message:?}, {interrupt:?}");
    }
}
