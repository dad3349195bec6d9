//! What the halves of a connection ask of their end, and foreign threads of theirs.

use std::task::{Context, Poll};

use crate::end::End;
use crate::errno;
use crate::fault::{Moment, Verdict};
use crate::state::{Occurrence, State};
use crate::trace::Id;

impl State {
    /// Takes up to `most` bytes and hands them over in one or two pieces; 0 is the end of the stream.
    pub(crate) fn take(
        &mut self,
        id: Id,
        most: usize,
        cx: Option<&Context<'_>>,
        into: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<usize, i32>> {
        let short = self.chance(|options| options.short_read);
        let now = self.now;
        let Some(end) = self.ends.get(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        if end.aborted {
            return Poll::Ready(Err(errno::CONNABORTED));
        }
        let slow = now < end.slow_until;
        if end.arrived == 0 && !slow {
            match end.error {
                Some(error) => return Poll::Ready(Err(error)),
                None if end.fin => return Poll::Ready(Ok(0)),
                None => {}
            }
        }
        if end.arrived == 0 || slow {
            self.await_reading(id, cx);
            return Poll::Pending;
        }
        let mut count = end.arrived.min(most);
        let [reads, sends] = self.sides(end);
        if let Some((Verdict::SlowReader(bytes, pause), _)) = self.ask(Moment::Read, sends, reads, None) {
            count = count.min(bytes.max(1));
            if let Some(end) = self.ends.get_mut(&id) {
                end.slow_until = now + pause;
            }
            self.later(now + pause, Occurrence::Readable { end: id });
        }
        if short {
            count = 1 + self.random.place(count);
        }
        let Some(end) = self.ends.get_mut(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        let (one, other) = end.inbox.as_slices();
        let split = one.len().min(count);
        into(&one[..split]);
        into(&other[..count - split]);
        end.inbox.drain(..count);
        end.arrived -= count;
        self.tell_room(id);
        Poll::Ready(Ok(count))
    }

    pub(crate) fn await_reading(&mut self, id: Id, cx: Option<&Context<'_>>) {
        if let (Some(end), Some(cx)) = (self.ends.get_mut(&id), cx) {
            let before = end.reader.replace(cx.waker().clone());
            self.old.extend(before);
        }
    }

    fn await_writing(&mut self, id: Id, cx: Option<&Context<'_>>) {
        if let (Some(end), Some(cx)) = (self.ends.get_mut(&id), cx) {
            let before = end.writer.replace(cx.waker().clone());
            self.old.extend(before);
        }
    }

    /// The other end may send again, if it has something to send.
    fn tell_room(&mut self, id: Id) {
        let Some(end) = self.ends.get(&id) else { return };
        let (host, other) = (end.host, end.other);
        let Some(sender) = self.ends.get_mut(&other) else { return };
        if sender.out.is_empty() || std::mem::replace(&mut sender.room_due, true) {
            return;
        }
        let there = sender.host;
        let latency = self.latency(host, there);
        self.after(latency, Occurrence::Room { end: other });
    }

    /// Takes some bytes to send.
    pub(crate) fn give(
        &mut self,
        id: Id,
        bytes: &[u8],
        cx: Option<&Context<'_>>,
    ) -> Poll<Result<usize, i32>> {
        let short = self.chance(|options| options.short_write);
        let Some(end) = self.ends.get(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        if let Some(error) = writing(end) {
            return Poll::Ready(Err(error));
        }
        let mut count = bytes.len().min(end.out_max.saturating_sub(end.out.len()));
        // A connect that fails has to say so to whoever writes, so nothing is taken before.
        if end.connecting || (count == 0 && !bytes.is_empty()) {
            self.await_writing(id, cx);
            return Poll::Pending;
        }
        let [from, to] = self.sides(end);
        if let Some((Verdict::ShortWrite(most), _)) = self.ask(Moment::Write, from, to, None) {
            count = count.min(most.max(1));
        }
        if short && count > 0 {
            count = 1 + self.random.place(count);
        }
        if let Some(end) = self.ends.get_mut(&id) {
            end.out.extend(&bytes[..count]);
        }
        self.transmit(id);
        Poll::Ready(Ok(count))
    }

    /// Whether the connection stands and little is queued.
    pub(crate) fn flushed(&mut self, id: Id, cx: &Context<'_>) -> Poll<Result<(), i32>> {
        let Some(end) = self.ends.get(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        if let Some(error) = end.refuses() {
            return Poll::Ready(Err(error));
        }
        if !end.connecting && end.has_room() {
            return Poll::Ready(Ok(()));
        }
        self.await_writing(id, Some(cx));
        Poll::Pending
    }

    /// Ends the stream behind what was taken.
    pub(crate) fn shut(&mut self, id: Id, cx: Option<&Context<'_>>) -> Poll<Result<(), i32>> {
        let Some(end) = self.ends.get_mut(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        if end.shut && !end.is_over() && !end.connecting {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = writing(end) {
            return Poll::Ready(Err(error));
        }
        if end.connecting {
            self.await_writing(id, cx);
            return Poll::Pending;
        }
        end.shut = true;
        self.transmit(id);
        Poll::Ready(Ok(()))
    }

    /// The other side is told that nobody reads here any more: of Unix sockets alone (unix(7)).
    pub(crate) fn read_no_more(&mut self, id: Id) {
        let Some(end) = self.ends.get(&id).filter(|end| end.inet().is_none()) else { return };
        let other = end.other;
        if let Some(writer) = self.ends.get_mut(&other) {
            writer.pipe = true;
        }
        self.wake_writer(other);
    }
}

/// Why this end takes nothing, if so.
fn writing(end: &End) -> Option<i32> {
    end.refuses().or(end.shut.then_some(errno::PIPE))
}
