//! The io_uring instance of one reactor: what goes in, what comes out, and the one system call between.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_uint;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::cqueue::{buffer_select, more};
use io_uring::squeue::Entry;
use io_uring::{Builder, IoUring};
use rustix::io::Errno;
use rustix::thread::{Timespec, nanosleep};
use waterwheel_reactor::Clock;

use crate::enter::{NO_IOWAIT, Name, enter, register, unregister};
use crate::features::{Feature, Features};
use crate::seldom::Seldom;

/// Operations submitted at once, 16 KiB of entries. More in one turn are submitted in several calls.
pub(crate) const ENTRIES: u32 = 256;

/// Completions that wait at once, 64 KiB. More than that the kernel keeps for us (`IORING_FEAT_NODROP`).
pub(crate) const COMPLETIONS: u32 = 4096;

/// Where little memory may be locked, both are halved at most so often: 8 entries and 128 completions take two pages.
pub(crate) const SCALE_MAX: u32 = 5;

/// The kernel counts the memory of a ring for some milliseconds after its close, so that a new one may find none: then it
/// is asked for again, so often at most, and so long after.
const ASKED_AGAIN_MAX: u32 = 50;
const ASKED_AGAIN_AFTER: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// A deadline this far away is none: the kernel's clock would not count as far as ours.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// How long nothing more is said of overflows after one was.
const OVERFLOW_TOLD_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// An instance to ask the kernel for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// What it is to have; `None`: what Linux 5.18 and before know.
    pub(crate) features: Option<Features>,
    entries: u32,
    completions: u32,
}

impl Setup {
    /// With the flags that go with it.
    pub(crate) fn builder(&self) -> Builder {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(self.completions).setup_clamp();
        let Some(features) = self.features else { return builder };
        builder.setup_submit_all().setup_taskrun_flag();
        if features.has(Feature::DeferTaskrun) {
            builder.setup_single_issuer().setup_defer_taskrun();
        } else {
            builder.setup_coop_taskrun();
        }
        if features.has(Feature::NoSqArray) {
            builder.setup_no_sqarray();
        }
        builder
    }

    /// Made by the kernel.
    ///
    /// # Errors
    /// As io_uring_setup(2).
    pub(crate) fn build(self, builder: &Builder) -> io::Result<IoUring> {
        builder.build(self.entries)
    }
}

/// Who makes an instance: the kernel, as asked.
pub(crate) type Build<'a> = &'a dyn Fn(Setup) -> io::Result<IoUring>;

/// What the kernel said of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// What was asked for, as a [`Token`](crate::table::Token)'s number.
    pub(crate) about: u64,
    /// A count, or an error's number below zero.
    pub(crate) result: i32,
    /// The provided buffer that was used.
    pub(crate) buffer: Option<u16>,
    /// The operation goes on.
    pub(crate) more: bool,
}

/// The queues of one reactor. Only the thread that made it may use it (`IORING_SETUP_SINGLE_ISSUER`).
pub(crate) struct Ring {
    /// `None` once closed.
    open: RefCell<Option<IoUring>>,
    /// What found no room: the kernel was short of memory when the queue was full.
    spilled: RefCell<VecDeque<Entry>>,
    name: Name,
    flags: c_uint,
    clock: Clock,
    overflows: Seldom,
}

impl Ring {
    /// With what of `wanted` the kernel accepts, which is found out by trying, on each call; its queues halved `scale` times.
    ///
    /// # Errors
    /// As io_uring_setup(2): `PermissionDenied` where it is forbidden, `Unsupported` where there is none.
    pub(crate) fn new(wanted: Features, scale: u32) -> io::Result<(Ring, Features)> {
        Ring::made_by(&|setup| setup.build(&setup.builder()), wanted, scale)
    }

    /// As [`new`](Ring::new), by way of somebody who may refuse what the kernel knows.
    ///
    /// # Errors
    /// As [`new`](Ring::new), and those of `build`.
    pub(crate) fn made_by(build: Build<'_>, wanted: Features, scale: u32) -> io::Result<(Ring, Features)> {
        let (ring, mut got) = Ring::set_up(build, wanted, scale)?;
        if !(ring.params().is_feature_nodrop() && ring.params().is_feature_ext_arg()) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring drops completions or takes no deadline: Linux 5.11 or later is needed",
            ));
        }
        let mut flags = 0;
        if got.has(Feature::NoIowait) {
            if ring.params().is_feature_no_iowait() {
                flags = NO_IOWAIT;
            } else {
                got = got.without(Feature::NoIowait);
            }
        }
        let descriptor = ring.as_raw_fd();
        let mut name = Name::Descriptor(descriptor);
        if got.has(Feature::RingFd) {
            match register(descriptor) {
                Ok(registered) => name = registered,
                Err(_) => got = got.without(Feature::RingFd),
            }
        }
        let ring = Ring {
            open: RefCell::new(Some(ring)),
            spilled: RefCell::default(),
            name,
            flags,
            clock: Clock::start(),
            overflows: Seldom::every(OVERFLOW_TOLD_AGAIN_AFTER),
        };
        Ok((ring, got))
    }

    /// Tries the setups from the newest on, since a kernel refuses flags that it does not know, and smaller ones where little
    /// memory may be locked.
    fn set_up(build: Build<'_>, wanted: Features, first: u32) -> io::Result<(IoUring, Features)> {
        let (mut scale, mut asked_again) = (first, 0);
        loop {
            match Ring::set_up_with(build, wanted, scale) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOMEM) => {
                    if asked_again < ASKED_AGAIN_MAX {
                        asked_again += 1;
                        // Cut short by a signal it is asked for sooner.
                        let _ = nanosleep(&ASKED_AGAIN_AFTER);
                    } else if scale < SCALE_MAX {
                        scale += 1;
                    } else {
                        return Err(error);
                    }
                }
                made => {
                    if scale > first && made.is_ok() {
                        let entries = ENTRIES >> scale;
                        tracing::warn!(
                            entries,
                            "no memory for more, or it may not be locked (ulimit -l): a small ring"
                        );
                    }
                    return made;
                }
            }
        }
    }

    fn set_up_with(build: Build<'_>, wanted: Features, scale: u32) -> io::Result<(IoUring, Features)> {
        let without_array = wanted.without(Feature::NoSqArray);
        let oldest = without_array.without(Feature::DeferTaskrun);
        let mut tries = vec![Some(wanted), Some(without_array), Some(oldest), None];
        tries.dedup();
        let mut refused = io::Error::from(Errno::INVAL);
        for features in tries {
            let setup = Setup { features, entries: ENTRIES >> scale, completions: COMPLETIONS >> scale };
            match build(setup) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => refused = error,
                made => return made.map(|ring| (ring, features.unwrap_or(oldest))),
            }
        }
        Err(refused)
    }

    /// Queues an operation for the next [`enter`](Ring::enter). After the close it is dropped.
    ///
    /// # Safety
    /// Whatever memory the entry names must stay valid, and alone the kernel's where the kernel writes, until the
    /// operation's last completion was taken or the ring was closed; for an operation that the kernel never keeps, until
    /// the `enter` that took it has returned.
    pub(crate) unsafe fn push(&self, entry: &Entry) {
        let mut open = self.open.borrow_mut();
        let Some(ring) = &mut *open else { return };
        let mut spilled = self.spilled.borrow_mut();
        // SAFETY: as promised by the caller. In order: a cancellation must not overtake what it is to cancel, nor be overtaken
        // by what is then begun under the same name.
        if spilled.is_empty() && unsafe { ring.submission().push(entry) }.is_ok() {
            return;
        }
        // What it says is said again by the next call.
        let queued = ring.submission().len() as u32;
        let _ = enter(self.name, queued, 0, None, self.flags);
        // SAFETY: as promised by the caller; a spilled entry is pushed later under the same promise.
        if !spilled.is_empty() || unsafe { ring.submission().push(entry) }.is_err() {
            spilled.push_back(entry.clone());
        }
    }

    /// Whether a call would do nothing: no operation is queued, and the kernel has no work for the ring. What it has done
    /// may still be there to be taken.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let Some(ring) = &mut *open else { return true };
        let queue = ring.submission();
        self.spilled.borrow().is_empty() && queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
    }

    /// Whether the kernel has taken all that was pushed.
    pub(crate) fn is_submitted(&self) -> bool {
        let mut open = self.open.borrow_mut();
        self.spilled.borrow().is_empty() && open.as_mut().is_none_or(|ring| ring.submission().is_empty())
    }

    /// Submits what is queued, lets the kernel do its work for the ring, and waits for `want` completions, but not
    /// longer than `timeout` (`None`: without end). A signal ends the wait early.
    ///
    /// # Errors
    /// The kernel's reason: the ring is of no use any more.
    pub(crate) fn enter(&self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let mut open = self.open.borrow_mut();
        let Some(ring) = &mut *open else { return Err(Errno::NOTCONN.into()) };
        self.unspill(ring);
        // What found no room yet must not wait for something to happen.
        let want = if self.spilled.borrow().is_empty() { want } else { 0 };
        let queued = ring.submission().len() as u32;
        let timeout = timeout.filter(|timeout| *timeout < FOREVER);
        match enter(self.name, queued, want, timeout, self.flags) {
            Ok(()) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                // The deadline, a signal; too much to be taken, or no memory now: the next call tries again.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn unspill(&self, ring: &mut IoUring) {
        let mut spilled = self.spilled.borrow_mut();
        while let Some(entry) = spilled.pop_front() {
            // SAFETY: as promised to `push`.
            if unsafe { ring.submission().push(&entry) }.is_err() {
                return spilled.push_front(entry);
            }
        }
    }

    /// Takes all completions that are there, those that the kernel had to keep for us too.
    ///
    /// # Errors
    /// As [`enter`](Ring::enter).
    pub(crate) fn harvest(&self, into: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            let overflown = {
                let mut open = self.open.borrow_mut();
                let Some(ring) = &mut *open else { return Ok(()) };
                into.extend(ring.completion().map(|entry| Completion {
                    about: entry.user_data(),
                    result: entry.result(),
                    buffer: buffer_select(entry.flags()),
                    more: more(entry.flags()),
                }));
                let completions = ring.params().cq_entries();
                ring.submission().cq_overflow().then_some(completions)
            };
            let Some(completions) = overflown else { return Ok(()) };
            self.tell_overflow(completions);
            self.enter(0, None)?;
        }
    }

    /// Says that more came at once than the queue holds. Nothing is lost, but it takes longer.
    fn tell_overflow(&self, completions: u32) {
        if self.overflows.happens(self.clock.now()).is_some() {
            tracing::warn!(completions, "completions overflow the ring's queue, and wait in the kernel");
        }
    }

    /// Another descriptor of the ring, for other rings to send messages to.
    ///
    /// # Errors
    /// As fcntl(2): no descriptor left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        let open = self.open.borrow();
        let ring = open.as_ref().ok_or(Errno::NOTCONN)?;
        // SAFETY: the ring, and so its descriptor, is open for as long as it is borrowed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        waterwheel_os::duplicate(descriptor)
    }

    /// Does something with the instance itself.
    ///
    /// # Errors
    /// `NotConnected` after the close, else what `with` says.
    pub(crate) fn register<T>(&self, with: impl FnOnce(&IoUring) -> io::Result<T>) -> io::Result<T> {
        with(self.open.borrow().as_ref().ok_or(Errno::NOTCONN)?)
    }

    /// Closes the instance, and takes back what keeps it open.
    pub(crate) fn close(&self) {
        self.spilled.borrow_mut().clear();
        if let Some(ring) = self.open.take() {
            unregister(ring.as_raw_fd(), self.name);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("open", &self.open.borrow().is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
