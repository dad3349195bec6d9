//! Datagram sockets by readiness, with the mistakes that a reactor may make of them.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::net::{RecvFlags, recv};
use waterwheel_reactor::{
    Address, BoundDatagrams, Datagram, DatagramOptions, DatagramSocket, Datagrams, Outgoing, Watched,
};

use super::fault::Fault;
use super::stream::Slot;
use super::{Handle, Poller};

impl Datagrams for Handle {
    fn serve(&self, bound: BoundDatagrams) -> io::Result<Box<dyn DatagramSocket>> {
        waterwheel_os::serve_datagrams(self, bound).map(|good| self.spoiled_datagrams(good))
    }

    fn bind(&self, at: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>> {
        waterwheel_os::bind_datagram_socket(self, at, options).map(|good| self.spoiled_datagrams(good))
    }

    fn connect(&self, to: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>> {
        waterwheel_os::connect_datagrams(self, to, options).map(|good| self.spoiled_datagrams(good))
    }
}

impl Handle {
    fn spoiled_datagrams(&self, good: Box<dyn DatagramSocket>) -> Box<dyn DatagramSocket> {
        Box::new(Spoiled { fault: self.0.fault, good, ended: false })
    }
}

/// A socket with the reactor's mistake, if it makes one with datagrams.
#[derive(Debug)]
struct Spoiled {
    fault: Fault,
    good: Box<dyn DatagramSocket>,
    /// For [`Fault::ErrorEndsSocket`]: there was an error.
    ended: bool,
}

impl Spoiled {
    /// A stream is over after an error, and so is a socket that is taken for one.
    fn ends<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        self.ended = self.ended || (outcome.is_err() && self.fault == Fault::ErrorEndsSocket);
        outcome
    }

    fn is_over(&self) -> io::Result<()> {
        if self.ended { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
    }
}

impl DatagramSocket for Spoiled {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        found: &mut [Datagram],
    ) -> Poll<io::Result<usize>> {
        self.is_over()?;
        let received = ready!(self.good.poll_receive(cx, buffers, found));
        let count = self.ends(received)?;
        match self.fault {
            Fault::CutUntold => {
                for (datagram, buffer) in found.iter_mut().zip(&*buffers).take(count) {
                    datagram.size = datagram.size.min(buffer.len());
                }
            }
            Fault::MergedUntold => found.iter_mut().for_each(|datagram| datagram.segment = None),
            // As where no bytes mean that there was nothing.
            Fault::EmptyPassedOver if count == 1 && found[0].size == 0 => {
                return self.poll_receive(cx, buffers, found);
            }
            _ => {}
        }
        Poll::Ready(Ok(count))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, outgoing: &[Outgoing<'_>]) -> Poll<io::Result<usize>> {
        self.is_over()?;
        match self.fault {
            Fault::SegmentsJoined => {
                let whole: Vec<_> = outgoing.iter().map(|one| Outgoing { segment: None, ..*one }).collect();
                self.good.poll_send(cx, &whole)
            }
            // As where each is sent by a call of its own, and the first failure is the answer.
            Fault::ErrorHidesSent => {
                for one in outgoing {
                    ready!(self.good.poll_send(cx, std::slice::from_ref(one)))?;
                }
                Poll::Ready(Ok(outgoing.len()))
            }
            _ => {
                let sent = ready!(self.good.poll_send(cx, outgoing));
                Poll::Ready(self.ends(sent))
            }
        }
    }

    fn segments_max(&self) -> usize {
        self.good.segments_max()
    }

    fn merge(&mut self, on: bool) -> bool {
        self.good.merge(on)
    }

    fn local(&self) -> io::Result<Address> {
        self.good.local()
    }

    fn release(self: Box<Self>) -> io::Result<BoundDatagrams> {
        let bound = self.good.release()?;
        if self.fault == Fault::ReleaseEmpties
            && let waterwheel_reactor::Handle::Os(file) = &bound.handle
        {
            while recv(file, &mut [0u8; 1 << 16], RecvFlags::DONTWAIT).is_ok() {}
        }
        Ok(bound)
    }
}

/// A descriptor of the user's: the kernel is asked each time.
#[derive(Debug)]
pub(super) struct Polled {
    fault: Fault,
    descriptor: Rc<OwnedFd>,
    reader: Slot,
    writer: Slot,
}

impl Polled {
    pub(super) fn new(poller: &Rc<Poller>, descriptor: OwnedFd) -> io::Result<Polled> {
        // poll(2) answers that these are always ready.
        let always = [FileType::RegularFile, FileType::Directory];
        if always.contains(&FileType::from_raw_mode(fstat(&descriptor)?.st_mode)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let descriptor = Rc::new(descriptor);
        Ok(Polled { fault: poller.fault, descriptor, reader: Slot::new(poller), writer: Slot::new(poller) })
    }

    fn poll(&self, slot: &Slot, flags: PollFlags, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut polled = [PollFd::new(&*self.descriptor, flags)];
        if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
            return Poll::Ready(Ok(()));
        }
        // As where readiness to send is not asked for.
        if !(flags == PollFlags::OUT && self.fault == Fault::RoomUntold) {
            slot.wait(&self.descriptor, flags, cx);
        }
        Poll::Pending
    }
}

impl Watched for Polled {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(&self.reader, PollFlags::IN, cx)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As where a descriptor has one waiter for both directions.
        let slot = if self.fault == Fault::OneWaiter { &self.reader } else { &self.writer };
        self.poll(slot, PollFlags::OUT, cx)
    }

    fn into_descriptor(self: Box<Self>) -> io::Result<OwnedFd> {
        drop((self.reader, self.writer));
        // Somebody may still be polling it.
        Rc::try_unwrap(self.descriptor).or_else(|shared| shared.try_clone())
    }
}
