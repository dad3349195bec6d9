//! The eventfd that glommio 0.9 leaks with every executor that ran, found and closed.
//!
//! glommio frees a task's memory without dropping its header, which holds a share of the executor's eventfd, and every
//! run is a task. Nothing tells the descriptor's number. So the eventfds of the process are listed before and after an
//! executor is made, and of those that came, the executor itself shows its own: it reads what is written to it, and
//! takes note of that, each time.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::io::write;
use waterwheel_os::duplicate;

/// The eventfd of one executor, closed when this is dropped: after the executor.
pub(crate) struct Leak {
    /// Those that may be it, until [`find`](Leak::find) is called.
    suspects: Cell<Vec<Eventfd>>,
    /// `None`: not found, or it never ran and so leaks nothing.
    found: Cell<Option<Eventfd>>,
}

impl Leak {
    /// Makes an executor, and remembers which eventfds came meanwhile. One at a time, so that there is rarely more than
    /// one.
    pub(crate) fn during<T>(make: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Leak)> {
        apart(|| {
            let before = Eventfd::all();
            let made = make()?;
            let came = Eventfd::all().into_iter().filter(|now| !before.contains(now)).collect();
            Ok((made, Leak { suspects: Cell::new(came), found: Cell::new(None) }))
        })
    }

    /// For a task of the executor: finds its eventfd. `preempted` is glommio's flag that one of its rings has news; a
    /// read of the eventfd is under way in that ring, and ends within a write to it. `settle` lets the loop turn, so
    /// that the flag is down and the next read is under way.
    ///
    /// The flag may go up for another reason just then, and the eventfd be a stranger's that a thread of its own reads.
    /// That both happen [`PROOFS`] times running is left to chance.
    pub(crate) async fn find(&self, preempted: impl Fn() -> bool, settle: impl AsyncFn()) {
        for suspect in self.suspects.take() {
            let (mut proofs, mut misses) = (0, 0);
            for _ in 0..TRIES {
                if suspect.answers(&preempted) {
                    proofs += 1;
                } else if !preempted() {
                    misses += 1;
                }
                if proofs == PROOFS {
                    self.found.set(Some(suspect));
                    return;
                }
                if misses > MISSES {
                    break;
                }
                // Also where there was news before anything was written, which says nothing.
                settle().await;
            }
        }
    }
}

/// Runs what makes or closes eventfds of executors while nothing else does. The kernel gives both numbers of one that was
/// closed to the next, so one that went between two looks would hide the one that came: a run returns a little before
/// its threads have ended, and the next may have begun by then.
pub(crate) fn apart<T>(work: impl FnOnce() -> T) -> T {
    static APART: Mutex<()> = Mutex::new(());
    let _apart = APART.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// How often an eventfd must answer before it is taken for the executor's, and closed at the end.
const PROOFS: usize = 3;

/// How often it may fail to: where the thread is held up, its next read may not be under way yet.
const MISSES: usize = 3;

/// How often it is asked at most: rings that have news each time say nothing about it, and it is left open.
const TRIES: usize = 20;

impl Drop for Leak {
    fn drop(&mut self) {
        if let Some(found) = self.found.take() {
            apart(|| found.close());
        }
    }
}

/// An eventfd by its number and by the number that only the kernel gives: descriptors are reused, both are not at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Eventfd {
    number: RawFd,
    id: u32,
}

impl Eventfd {
    /// The eventfds of this process that look as glommio makes them: reading blocks, and nothing was written. None
    /// where `/proc` does not tell.
    fn all() -> Vec<Eventfd> {
        let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Eventfd::look)
            .collect()
    }

    /// What `number` is now, if it is such an eventfd.
    fn look(number: RawFd) -> Option<Eventfd> {
        let (found, count) = Eventfd::identify(number)?;
        (count == 0).then_some(found)
    }

    /// The same, whatever was written to it, and how much of that nobody has read.
    fn identify(number: RawFd) -> Option<(Eventfd, u64)> {
        let link = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        if link != Path::new("anon_inode:[eventfd]") {
            return None;
        }
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let value = |name: &str| Some(told.lines().find_map(|line| line.strip_prefix(name))?.trim());
        let flags = i32::from_str_radix(value("flags:")?, 8).ok()?;
        let count = u64::from_str_radix(value("eventfd-count:")?, 16).ok()?;
        let id = value("eventfd-id:")?.parse().ok()?;
        (flags & libc::O_NONBLOCK == 0).then_some((Eventfd { number, id }, count))
    }

    /// Whether writing to it does what `noticed` tells of, and what was written is gone after that. Call it while
    /// `noticed` is false.
    fn answers(self, noticed: &impl Fn() -> bool) -> bool {
        // SAFETY: the number was open when it was listed. If it is closed by now the call fails; whatever else it
        // became is looked at below, before anything is done to it.
        let Ok(own) = duplicate(unsafe { BorrowedFd::borrow_raw(self.number) }) else { return false };
        let is_empty = || Eventfd::look(own.as_raw_fd()).is_some_and(|now| now.id == self.id);
        is_empty() && !noticed() && write(&own, &1_u64.to_ne_bytes()).is_ok() && noticed() && is_empty()
    }

    /// Closes it, if it is still there.
    fn close(self) {
        if Eventfd::identify(self.number).is_some_and(|(now, _)| now == self) {
            // SAFETY: it is the eventfd of an executor that is gone. Its owner is memory that nobody can reach.
            drop(unsafe { OwnedFd::from_raw_fd(self.number) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::os::fd::IntoRawFd;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn only_the_eventfd_that_answers_is_closed_and_only_while_it_is_there() {
        let before = Eventfd::all();
        let (mine, other) =
            (eventfd(0, EventfdFlags::CLOEXEC).unwrap(), eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let _not_alike = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let came: Vec<Eventfd> = Eventfd::all().into_iter().filter(|now| !before.contains(now)).collect();
        let numbers: Vec<RawFd> = came.iter().map(|came| came.number).collect();
        assert!(numbers.contains(&mine.as_raw_fd()) && numbers.contains(&other.as_raw_fd()), "{came:?}");
        assert!(!numbers.contains(&_not_alike.as_raw_fd()));
        let number = mine.as_raw_fd();
        let found = came.iter().find(|came| came.number == number).unwrap();
        assert!(!found.answers(&|| false));
        let _ = rustix::io::read(&mine, &mut [0; 8]).unwrap();
        assert!(!found.answers(&|| true), "noticed before anything was written");
        let news = told([false, true], false);
        assert!(!found.answers(&|| news.take_next()), "nobody has read what was written");
        // What is still in it when it is closed says nothing.
        let raw = mine.into_raw_fd();
        found.close();
        // Another test may have been given its number by now.
        assert!(Eventfd::identify(raw).is_none_or(|(now, _)| now != *found), "still open");
        found.close();
    }

    /// A flag that is up or down as written, and then up and down by turns, or down for good.
    struct News {
        first: RefCell<VecDeque<bool>>,
        up: Cell<bool>,
        then_by_turns: bool,
    }

    fn told<const N: usize>(first: [bool; N], then_by_turns: bool) -> News {
        News { first: RefCell::new(first.into()), up: Cell::new(true), then_by_turns }
    }

    impl News {
        fn take_next(&self) -> bool {
            let next = self.first.borrow_mut().pop_front();
            next.unwrap_or_else(|| {
                self.up.set(self.then_by_turns && !self.up.get());
                self.up.get()
            })
        }
    }

    /// Whether an eventfd that somebody reads is taken for the executor's.
    fn claimed(news: &News) -> bool {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let suspect = Eventfd::look(eventfd.as_raw_fd()).unwrap();
        let leak = Leak { suspects: Cell::new(vec![suspect]), found: Cell::new(None) };
        let read = || {
            // Between the write and the flag, as a reader that waits would.
            let _ = rustix::io::read(&eventfd, &mut [0; 8]).unwrap();
        };
        let noticed = || {
            let up = news.take_next();
            // None while something is in it.
            if up && Eventfd::look(eventfd.as_raw_fd()).is_none() {
                read();
            }
            up
        };
        let finding = pin!(leak.find(noticed, async || {}));
        assert!(finding.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        leak.found.take().is_some()
    }

    #[test]
    fn a_strangers_eventfd_that_is_read_while_the_rings_have_news_is_left_alone() {
        assert!(claimed(&told([], true)), "it answers each time");
        assert!(claimed(&told([true, true, true, true], true)), "the rings had other news first");
        assert!(claimed(&told([false, false, false], true)), "its read was not under way at first");
        assert!(!claimed(&told([false, true], false)), "it answered by chance");
        assert!(!claimed(&told([false, true, false, true], false)), "it answered by chance, twice");
    }
}
