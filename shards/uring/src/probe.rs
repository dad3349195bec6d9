//! What of io_uring works here, found out by doing it once: kernels refuse what they do not know, and some have it wrong.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::IoUring;
use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use rustix::io::{Errno, write};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use waterwheel_os::{Gulp, Interrupt, Pipe};
use waterwheel_reactor::{Clock, ConnectOptions, Unavailable};

use crate::buffers::{BYTES, Buffers, GROUP};
use crate::core::MESSAGE;
use crate::features::{Feature, Features};
use crate::memory::Share;
use crate::outbox::SENDING;
use crate::ring::{Completion, Ring, Setup};

/// Longer than anything that works takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who is tried: the kernel, as it is. A test stands before it with one that has less.
trait Kernel {
    /// Makes an instance.
    fn make(&self, setup: Setup) -> io::Result<IoUring> {
        setup.build(&setup.builder())
    }

    /// What becomes of an entry on its way.
    fn understand(&self, entry: Entry) -> Entry {
        entry
    }
}

struct AsItIs;

impl Kernel for AsItIs {}

/// What works, and what does not.
#[derive(Clone, Debug)]
pub(crate) struct Probed {
    /// What works and is not switched off.
    pub(crate) features: Features,
    /// What was tried in vain, and how it went.
    pub(crate) missing: Vec<(Feature, String)>,
}

/// Makes a ring and tries what the reactor does with it, but for what is switched off.
///
/// # Errors
/// There is no io_uring here, or one that is of no use.
pub(crate) fn probe(off: Features) -> Result<Probed, Unavailable> {
    probe_of(&AsItIs, off)
}

fn probe_of(kernel: &dyn Kernel, off: Features) -> Result<Probed, Unavailable> {
    let wanted = Feature::ALL.into_iter().filter(|feature| !off.has(*feature));
    let wanted = wanted.fold(Features::NONE, Features::with);
    let unavailable = |error: io::Error| {
        let short = Errno::from_io_error(&error) == Some(Errno::NOMEM);
        let hint = if short { "; too little of it may be locked (ulimit -l)" } else { "" };
        Unavailable::new(format!("io_uring_setup: {error}{hint}"))
    };
    waterwheel_os::survives_io_uring().map_err(Unavailable::new)?;
    let (trial, got) = Trial::of(kernel, wanted).map_err(unavailable)?;
    let mut probed = Probed { features: got, missing: Vec::new() };
    for feature in Feature::ALL {
        if wanted.has(feature) && !got.has(feature) {
            probed.missing.push((feature, "the kernel does not know it, or refuses it".to_owned()));
        }
    }
    trial.polls().map_err(|error| Unavailable::new(format!("io_uring_enter: {error}")))?;
    drop(trial);
    probed.attempt(kernel, Feature::Multishot, Trial::polls_again);
    let multishot = probed.features.has(Feature::Multishot);
    if probed.features.has(Feature::Buffers) {
        let receives = |multishot| Trial::of(kernel, got).and_then(|(trial, _)| trial.receives(multishot));
        match receives(multishot) {
            // One receive at a time may work where many do not.
            Err(wrong) if multishot && receives(false).is_ok() => {
                probed.lacks(Feature::Multishot, &wrong);
            }
            Err(wrong) => probed.lacks(Feature::Buffers, &wrong),
            Ok(()) => {}
        }
    }
    probed.attempt(kernel, Feature::SkipSuccess, Trial::skips);
    probed.attempt(kernel, Feature::MessageRing, Trial::messages);
    probed.attempt(kernel, Feature::Connect, Trial::connects);
    // This one needs no ring.
    if probed.features.has(Feature::Splice)
        && let Err(wrong) = splices()
    {
        probed.lacks(Feature::Splice, &wrong);
    }
    Ok(probed)
}

impl Probed {
    /// Tries something with a ring of its own, since what fails may leave something under way.
    fn attempt<'a>(
        &mut self,
        kernel: &'a dyn Kernel,
        feature: Feature,
        attempt: impl FnOnce(&Trial<'a>) -> io::Result<()>,
    ) {
        if self.features.has(feature)
            && let Err(wrong) = Trial::of(kernel, self.features).and_then(|(trial, _)| attempt(&trial))
        {
            self.lacks(feature, &wrong);
        }
    }

    fn lacks(&mut self, feature: Feature, wrong: &io::Error) {
        self.features = self.features.without(feature);
        self.missing.push((feature, wrong.to_string()));
    }
}

/// A ring to try things with.
struct Trial<'a> {
    ring: Ring,
    kernel: &'a dyn Kernel,
}

/// What attempts are known by, one after the other.
const FIRST: u64 = 1;
const SECOND: u64 = 2;

impl<'a> Trial<'a> {
    fn of(kernel: &'a dyn Kernel, features: Features) -> io::Result<(Trial<'a>, Features)> {
        let (ring, got) = Ring::made_by(&|setup| kernel.make(setup), features, Share::LEAST.scale)?;
        Ok((Trial { ring, kernel }, got))
    }

    /// # Safety
    /// As [`Ring::push`].
    unsafe fn push(&self, entry: Entry, about: u64) {
        // SAFETY: as promised by the caller.
        unsafe { self.ring.push(&self.kernel.understand(entry.user_data(about))) }
    }

    /// Waits for so many completions.
    fn wait(&self, count: usize) -> io::Result<Vec<Completion>> {
        let mut all = Vec::new();
        let clock = Clock::start();
        let until = clock.now() + PATIENCE;
        // A signal may end a wait early.
        while clock.now() < until {
            self.ring.enter((count - all.len()) as u32, Some(until.since(clock.now())))?;
            self.ring.harvest(&mut all)?;
            if all.len() >= count {
                return Ok(all);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it never completes"))
    }

    /// One poll of an eventfd, and the end of another by cancelling it.
    fn polls(&self) -> io::Result<()> {
        let interrupt = Interrupt::new()?;
        let poll = || opcode::PollAdd::new(Fd(interrupt.as_fd().as_raw_fd()), libc::POLLIN as u32);
        // SAFETY: names no memory.
        unsafe { self.push(poll().build(), FIRST) };
        self.ring.enter(0, None)?;
        interrupt.raise();
        expect(&self.wait(1)?, &[(FIRST, i32::from(libc::POLLIN), false)])?;
        interrupt.clear();
        // SAFETY: names no memory.
        unsafe { self.push(poll().build(), FIRST) };
        self.cancel()
    }

    /// A poll that goes on telling.
    fn polls_again(&self) -> io::Result<()> {
        let interrupt = Interrupt::new()?;
        let poll = opcode::PollAdd::new(Fd(interrupt.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(true);
        // SAFETY: names no memory.
        unsafe { self.push(poll.build(), FIRST) };
        for _ in 0..2 {
            self.ring.enter(0, None)?;
            interrupt.raise();
            expect(&self.wait(1)?, &[(FIRST, i32::from(libc::POLLIN), true)])?;
        }
        self.cancel()
    }

    /// Ends what is known as the first.
    fn cancel(&self) -> io::Result<()> {
        // SAFETY: names no memory.
        unsafe { self.push(opcode::AsyncCancel::new(FIRST).build(), SECOND) };
        let mut ends = self.wait(2)?;
        ends.sort_by_key(|end| end.about);
        expect(&ends, &[(FIRST, -Errno::CANCELED.raw_os_error(), false), (SECOND, 0, false)])
    }

    /// Two receives into provided buffers.
    fn receives(&self, multishot: bool) -> io::Result<()> {
        let buffers = Buffers::new(&self.ring)?;
        let outcome = self.receives_into(&buffers, multishot);
        if outcome.is_err() {
            // What is under way may still write.
            std::mem::forget(buffers);
            return outcome;
        }
        self.ring.register(|ring| ring.submitter().unregister_buf_ring(GROUP))
    }

    fn receives_into(&self, buffers: &Buffers, multishot: bool) -> io::Result<()> {
        let (here, there) = pair()?;
        let number = Fd(here.as_raw_fd());
        let receive = || {
            if multishot {
                return opcode::RecvMulti::new(number, GROUP).build();
            }
            let anywhere = std::ptr::null_mut();
            let receive = opcode::Recv::new(number, anywhere, BYTES as u32).buf_group(GROUP);
            receive.build().flags(Flags::BUFFER_SELECT)
        };
        for (round, said) in ["one", "three"].into_iter().enumerate() {
            if round == 0 || !multishot {
                // SAFETY: the buffers are registered until nothing is under way.
                unsafe { self.push(receive(), FIRST) };
            }
            self.ring.enter(0, None)?;
            write(&there, said.as_bytes())?;
            let got = self.wait(1)?;
            expect(&got, &[(FIRST, said.len() as i32, multishot)])?;
            let buffer = got[0].buffer.ok_or_else(|| wrong("no buffer was taken"))?;
            let filled = buffers.take(buffer, said.len(), 0);
            let same = buffers.bytes(&filled) == said.as_bytes();
            buffers.give_back(filled);
            if !same {
                return Err(wrong("other bytes were received than were sent"));
            }
        }
        if multishot { self.cancel() } else { Ok(()) }
    }

    /// A send that says nothing if all was taken, and how much if not.
    fn skips(&self) -> io::Result<()> {
        const MUCH: usize = 4 << 20;
        let (here, there) = pair()?;
        // However much the machine lets sockets hold by default.
        set_socket_send_buffer_size(&here, MUCH / 64)?;
        let bytes = vec![7; MUCH];
        let send = |count: usize| {
            let send = opcode::Send::new(Fd(here.as_raw_fd()), bytes.as_ptr(), count as u32).flags(SENDING);
            send.build().flags(Flags::SKIP_SUCCESS)
        };
        // SAFETY: the bytes outlive the call, which does not wait for room.
        unsafe { self.push(send(5), FIRST) };
        self.ring.enter(0, None)?;
        let mut got = Vec::new();
        self.ring.harvest(&mut got)?;
        expect(&got, &[])?;
        if waterwheel_os::receive(there.as_fd(), &mut [0; 8])? != 5 {
            return Err(wrong("a send that said nothing sent something else"));
        }
        // SAFETY: as before.
        unsafe { self.push(send(MUCH), FIRST) };
        let short = self.wait(1)?;
        if !(short[0].about == FIRST && (1..MUCH as i32).contains(&short[0].result)) {
            return Err(wrong("a send that was cut short does not say so"));
        }
        // SAFETY: as before.
        unsafe { self.push(send(MUCH), FIRST) };
        expect(&self.wait(1)?, &[(FIRST, -Errno::AGAIN.raw_os_error(), false)])
    }

    /// A connect to this machine, where it can be connected to.
    fn connects(&self) -> io::Result<()> {
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else { return Ok(()) };
        let (socket, name) =
            waterwheel_os::prepare_connect(&listener.local_addr()?.into(), &ConnectOptions::default())?;
        let connect = opcode::Connect::new(Fd(socket.as_raw_fd()), name.as_ptr().cast(), name.len());
        // SAFETY: the kernel reads the address when it takes the entry, in the call that follows.
        unsafe { self.push(connect.build(), FIRST) };
        self.ring.enter(0, None)?;
        expect(&self.wait(1)?, &[(FIRST, 0, false)])
    }

    /// A message to oneself.
    fn messages(&self) -> io::Result<()> {
        let ring = self.ring.duplicate()?;
        let message = opcode::MsgRingData::new(Fd(ring.as_raw_fd()), MESSAGE, FIRST, None).build();
        // SAFETY: names no memory.
        unsafe { self.push(message.flags(Flags::SKIP_SUCCESS), SECOND) };
        expect(&self.wait(1)?, &[(FIRST, MESSAGE, false)])
    }
}

/// A byte from one socket to another, through a pipe.
fn splices() -> io::Result<()> {
    let ((from, sender), (to, receiver)) = (pair()?, pair()?);
    write(&sender, b"x")?;
    let mut pipe = Pipe::new(Gulp::MAX)?;
    pipe.take(from.as_fd(), Gulp::MAX)?;
    pipe.give(to.as_fd())?;
    let mut room = [0; 2];
    match waterwheel_os::receive(receiver.as_fd(), &mut room)? {
        1 if room[0] == b'x' => Ok(()),
        _ => Err(wrong("other bytes come out of a pipe than went into it")),
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn wrong(what: &str) -> io::Error {
    io::Error::other(what)
}

/// Completions as they should be: about what, with what result, and whether the operation goes on.
fn expect(got: &[Completion], wanted: &[(u64, i32, bool)]) -> io::Result<()> {
    let told: Vec<_> = got.iter().map(|one| (one.about, one.result, one.more)).collect();
    if told == wanted {
        return Ok(());
    }
    // A refusal says more than a comparison.
    if let [(_, result @ ..0, _), ..] = told[..] {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Err(io::Error::other(format!("it completes with {told:?} where {wanted:?} was due")))
}

#[cfg(test)]
mod refusals;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_switched_off_is_neither_tried_nor_missed() {
        let Ok(all) = probe(Features::NONE) else { return };
        for feature in Feature::ALL {
            let probed = probe(Features::NONE.with(feature)).expect("it runs with everything");
            assert!(!probed.features.has(feature), "{feature}");
            assert!(probed.missing.iter().all(|(missing, _)| *missing != feature), "{feature}: {probed:?}");
        }
        let none = Feature::ALL.into_iter().fold(Features::NONE, Features::with);
        assert_eq!(probe(none).expect("it runs with everything").features, Features::NONE);
        assert_eq!(
            all.missing.len() + Feature::ALL.into_iter().filter(|one| all.features.has(*one)).count(),
            Feature::ALL.len()
        );
    }

    #[test]
    fn a_completion_that_is_not_as_it_should_be_is_told() {
        let one = Completion { about: 1, result: -22, buffer: None, more: false };
        assert_eq!(expect(&[one], &[(1, 0, false)]).unwrap_err().raw_os_error(), Some(22));
        let one = Completion { result: 3, ..one };
        assert!(expect(&[one], &[(1, 4, false)]).unwrap_err().to_string().contains("(1, 4, false)"));
        assert!(expect(&[one], &[(1, 3, false)]).is_ok());
    }
}
