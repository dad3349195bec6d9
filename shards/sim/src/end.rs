//! One end of a stream connection, and how bytes travel from one to the other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_reactor::{Address, StreamOptions, Time};

use crate::errno;
use crate::fault::{Moment, Verdict};
use crate::state::{Occurrence, State};
use crate::trace::{Hash, Id, What};

/// How long the kernel tries to deliver what nobody acknowledges (`net.ipv4.tcp_retries2` of 15, tcp(7)).
pub(crate) const RETRIES: Duration = Duration::from_secs(924);
/// After a partition has healed, what was lost is sent again within so long at most.
const RESENT: Duration = Duration::from_millis(200);

/// Who has an end in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A listener's queue.
    Queue,
    /// Somebody who may adopt it, or a foreign thread.
    Handle,
    /// A shard: which halves are still there.
    Halves { source: bool, sink: bool },
    /// Nobody: it sends what was taken, and is gone.
    Nobody,
}

/// One end.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) host: usize,
    /// The shard whose it is.
    pub(crate) shard: Option<Id>,
    pub(crate) local: Address,
    pub(crate) peer: Address,
    pub(crate) other: Id,
    pub(crate) owner: Owner,
    /// How often it was given away: halves of before find it changed.
    pub(crate) lease: u32,
    /// The connect was not answered yet.
    pub(crate) connecting: bool,
    /// What broke it; stays.
    pub(crate) error: Option<i32>,
    /// Its owner reset it.
    pub(crate) aborted: bool,
    /// The other side reads no more, or is gone: writing fails, reading does not.
    pub(crate) pipe: bool,
    /// The program ended its stream.
    pub(crate) shut: bool,
    /// And the end is on its way.
    fin_sent: bool,
    /// Taken and not sent.
    pub(crate) out: VecDeque<u8>,
    out_max: usize,
    /// Sent and not arrived.
    pub(crate) flight: usize,
    /// When the last of it arrives: nothing overtakes.
    arrival: Time,
    /// Bytes that still travel alone.
    tiny: usize,
    stalled_until: Time,
    /// Nothing that is sent arrives.
    silent: bool,
    expires: bool,
    pub(crate) inbox: VecDeque<u8>,
    in_max: usize,
    /// The other's stream has ended, behind what is in the inbox.
    pub(crate) fin: bool,
    /// The other is to be told that there is room.
    room_due: bool,
    slow_until: Time,
    keepalive: Option<Duration>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl End {
    /// Whether it is gone or broken, so that nothing comes of it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.error.is_some() || self.aborted
    }

    fn inet(&self) -> Option<SocketAddr> {
        self.local.inet()
    }

    /// Where writing resumes.
    fn has_room(&self) -> bool {
        self.out.len() <= self.out_max / 2
    }
}

impl State {
    /// An end that nobody has yet.
    pub(crate) fn new_end(
        &mut self,
        host: usize,
        (local, peer): (Address, Address),
        other: Id,
        stream: StreamOptions,
    ) -> Id {
        let id = self.id();
        let tiny = if self.chance(|options| options.tiny_stream) { self.options.tiny_bytes } else { 0 };
        // The kernel doubles what was asked for (socket(7)).
        let doubled = |asked: Option<usize>, usual: usize| asked.map_or(usual, |bytes| 2 * bytes).max(1);
        let (out, inbox) = Default::default();
        let end = End {
            host,
            shard: None,
            local,
            peer,
            other,
            owner: Owner::Queue,
            lease: 0,
            connecting: false,
            error: None,
            aborted: false,
            pipe: false,
            shut: false,
            fin_sent: false,
            out,
            out_max: doubled(stream.send_buffer, self.options.send_buffer),
            flight: 0,
            arrival: Time::ZERO,
            tiny,
            stalled_until: Time::ZERO,
            silent: false,
            expires: false,
            inbox,
            in_max: doubled(stream.receive_buffer, self.options.receive_buffer),
            fin: false,
            room_due: false,
            slow_until: Time::ZERO,
            keepalive: stream.keepalive,
            reader: None,
            writer: None,
        };
        self.ends.insert(id, end);
        id
    }

    /// Host and address of an end, and of the one it talks to.
    pub(crate) fn sides(&self, end: &End) -> [(usize, Option<SocketAddr>); 2] {
        let other = self.ends.get(&end.other).map(|other| other.host);
        let to = end.peer.inet();
        let host = other.or_else(|| to.and_then(|to| self.route(end.host, to.ip()))).unwrap_or(end.host);
        [(end.host, end.inet()), (host, to)]
    }

    pub(crate) fn wake_reader(&mut self, end: Id) {
        let woken = self.ends.get_mut(&end).and_then(|end| end.reader.take());
        self.wakes.extend(woken);
    }

    fn wake_writer(&mut self, end: Id) {
        let woken = self.ends.get_mut(&end).and_then(|end| end.writer.take());
        self.wakes.extend(woken);
    }

    // ---- sending

    /// Sends what there is and the other may take.
    pub(crate) fn transmit(&mut self, id: Id) {
        loop {
            let Some(end) = self.ends.get(&id) else { return };
            if end.connecting || end.is_over() || self.now < end.stalled_until || end.fin_sent {
                return;
            }
            if end.out.is_empty() && !end.shut {
                return;
            }
            if end.silent {
                return self.expire_later(id);
            }
            let room = self
                .ends
                .get(&end.other)
                .map_or(usize::MAX, |other| other.in_max.saturating_sub(other.inbox.len() + end.flight));
            let most = end.out.len().min(room).min(self.options.segment_max);
            let ends_now = end.out.is_empty() && end.shut;
            if (most == 0 && !ends_now) || self.is_struck(id) {
                return;
            }
            let Some(arrival) = self.arrival(id) else { return };
            if ends_now {
                return self.send_fin(id, arrival);
            }
            let size = self.segment(id, most);
            let Some(end) = self.ends.get_mut(&id) else { return };
            let bytes: Vec<u8> = end.out.drain(..size).collect();
            (end.flight, end.arrival) = (end.flight + size, arrival);
            let (to, room) = (end.other, end.has_room());
            self.at(arrival, Occurrence::Segment { from: id, to, bytes });
            if room {
                self.wake_writer(id);
            }
        }
    }

    fn send_fin(&mut self, id: Id, arrival: Time) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        (end.fin_sent, end.arrival) = (true, arrival);
        let (to, unowned) = (end.other, end.owner == Owner::Nobody);
        self.at(arrival, Occurrence::Fin { from: id, to });
        if unowned {
            self.bury(id);
        }
    }

    /// How many of the bytes that may be sent travel together.
    fn segment(&mut self, id: Id, most: usize) -> usize {
        let tiny = self.ends.get(&id).map_or(0, |end| end.tiny);
        if tiny > 0
            && let Some(end) = self.ends.get_mut(&id)
        {
            end.tiny -= 1;
            return 1;
        }
        // Half of the time all that fits, as the kernel would; else any part of it.
        if self.live || most == 1 || self.random.chance(0.5) { most } else { 1 + self.random.place(most) }
    }

    /// Whether a rule stops what this end is about to send.
    fn is_struck(&mut self, id: Id) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let Some(end) = self.ends.get(&id) else { return true };
        let ([from, to], other) = (self.sides(end), end.other);
        let Some((verdict, until)) = self.ask(Moment::Send, from, to, None) else { return false };
        let now = self.now;
        match verdict {
            Verdict::Reset => {
                for end in [id, other] {
                    self.after(Duration::ZERO, Occurrence::Break { end, error: errno::CONNRESET });
                }
                // Until then it is as good as broken.
                if let Some(end) = self.ends.get_mut(&id) {
                    end.stalled_until = Time::NEVER;
                }
                true
            }
            Verdict::HalfOpen => {
                for end in [id, other] {
                    self.silence(end);
                }
                self.expire_later(id);
                true
            }
            Verdict::Hold if until == Time::NEVER => {
                self.silence(id);
                self.expire_later(id);
                true
            }
            Verdict::Hold => {
                let again = until + self.random.duration(Duration::from_nanos(1), RESENT);
                self.delay(id, again);
                false
            }
            Verdict::Delay(by) => {
                self.delay(id, now + by);
                false
            }
            Verdict::Stall(by) => {
                if let Some(end) = self.ends.get_mut(&id) {
                    end.stalled_until = now + by;
                }
                self.later(now + by, Occurrence::Room { end: id });
                true
            }
            _ => false,
        }
    }

    /// What this end sends arrives no sooner.
    pub(crate) fn delay(&mut self, id: Id, until: Time) {
        if let Some(end) = self.ends.get_mut(&id) {
            end.arrival = end.arrival.max(until);
        }
    }

    /// Nothing of this end arrives any more; it learns of it by keep-alive, if it has that: as many probes as
    /// `net.ipv4.tcp_keepalive_probes` says, 9, a tenth of the idle time apart.
    fn silence(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        end.silent = true;
        if let Some(idle) = end.keepalive {
            let late = self.now + idle + idle * 9 / 10;
            self.later(late, Occurrence::Break { end: id, error: errno::TIMEDOUT });
        }
    }

    /// What this end sends is never acknowledged.
    fn expire_later(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if end.owner == Owner::Nobody {
            return self.bury(id);
        }
        if !std::mem::replace(&mut end.expires, true) {
            let late = self.now + RETRIES;
            self.later(late, Occurrence::Break { end: id, error: errno::TIMEDOUT });
        }
    }

    /// When what is sent now arrives: never before what was sent before.
    fn arrival(&mut self, id: Id) -> Option<Time> {
        let end = self.ends.get(&id)?;
        let ([(from, _), (to, _)], before) = (self.sides(end), end.arrival);
        let latency = self.latency(from, to);
        Some(before.max(self.now + latency))
    }

    // ---- receiving

    pub(crate) fn arrive(&mut self, from: Id, to: Id, bytes: &[u8]) {
        if let Some(sender) = self.ends.get_mut(&from) {
            sender.flight -= bytes.len();
        }
        match self.ends.get_mut(&to) {
            // Broken already; who sent it learns of that another way.
            Some(end) if end.is_over() => return,
            Some(end) if end.owner != Owner::Nobody => end.inbox.extend(bytes),
            // Nobody is there to read it.
            _ => return self.answer_reset(from, to),
        }
        let mut hash = Hash::START;
        hash.bytes(bytes.iter().copied());
        self.note_end(to, What::Arrived { end: to, bytes: bytes.len(), hash: hash.value() });
        self.wake_reader(to);
    }

    /// What was sent came to nobody.
    fn answer_reset(&mut self, from: Id, to: Id) {
        if self.ends.get(&to).is_some_and(|end| end.owner == Owner::Nobody) {
            self.bury(to);
        }
        let Some(sender) = self.ends.get(&from) else { return };
        let [(here, _), (there, _)] = self.sides(sender);
        let latency = self.latency(there, here);
        self.after(latency, Occurrence::Break { end: from, error: errno::CONNRESET });
    }

    pub(crate) fn finish(&mut self, from: Id, to: Id) {
        let Some(end) = self.ends.get_mut(&to) else { return };
        if end.is_over() {
            return;
        }
        end.fin = true;
        self.note_end(to, What::Finished { end: to });
        self.wake_reader(to);
        let _ = from;
    }

    /// The connection breaks at this end: a reset arrived, or nobody answers.
    pub(crate) fn break_end(&mut self, id: Id, error: i32) {
        let destroys = self.chance(|options| options.reset_destroys);
        let Some(end) = self.ends.get_mut(&id) else { return };
        if end.is_over() {
            return;
        }
        if end.owner == Owner::Nobody {
            return self.bury(id);
        }
        end.out.clear();
        end.connecting = false;
        if end.fin && error == errno::CONNRESET {
            // The end that came before it stays the end (tcp_reset() in net/ipv4/tcp_input.c: EPIPE in CLOSE_WAIT).
            end.pipe = true;
        } else {
            end.error = Some(error);
            if destroys {
                end.inbox.clear();
            }
        }
        self.note_end(id, What::Broke { end: id, error });
        self.wake_reader(id);
        self.wake_writer(id);
    }

    /// There may be room, or time, to send again.
    pub(crate) fn room(&mut self, id: Id) {
        if let Some(end) = self.ends.get_mut(&id) {
            end.room_due = false;
        }
        self.transmit(id);
    }

    // ---- what the halves ask

    /// Takes up to `most` bytes to lend; empty is the end of the stream. In a live world all that is there.
    pub(crate) fn take(
        &mut self,
        id: Id,
        most: usize,
        cx: Option<&Context<'_>>,
    ) -> Poll<Result<Vec<u8>, i32>> {
        let short = self.chance(|options| options.short_read);
        let now = self.now;
        let Some(end) = self.ends.get(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        if end.aborted {
            return Poll::Ready(Err(errno::CONNABORTED));
        }
        let slow = now < end.slow_until;
        if end.inbox.is_empty() && !slow {
            match end.error {
                Some(error) => return Poll::Ready(Err(error)),
                None if end.fin => return Poll::Ready(Ok(Vec::new())),
                None => {}
            }
        }
        if end.inbox.is_empty() || slow {
            self.await_reading(id, cx);
            return Poll::Pending;
        }
        let mut count = end.inbox.len().min(most);
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
        let bytes = end.inbox.drain(..count).collect();
        self.tell_room(id);
        Poll::Ready(Ok(bytes))
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
        if count == 0 && !bytes.is_empty() {
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
        if end.aborted {
            return Poll::Ready(Err(errno::CONNABORTED));
        }
        if let Some(error) = end.error.or(end.pipe.then_some(errno::PIPE)) {
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
        let Some(other) = self.ends.get(&id).map(|end| end.other) else { return };
        if let Some(writer) = self.ends.get_mut(&other) {
            writer.pipe = true;
        }
        self.wake_writer(other);
    }

    // ---- the end of an end

    /// Resets the connection.
    pub(crate) fn abort(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if std::mem::replace(&mut end.aborted, true) {
            return;
        }
        let (broken, silent) = (end.error.is_some(), end.silent);
        end.connecting = false;
        end.out.clear();
        end.inbox.clear();
        self.note_end(id, What::Aborted { end: id });
        self.wake_reader(id);
        self.wake_writer(id);
        if !broken && !silent {
            self.send_reset(id);
        }
    }

    fn send_reset(&mut self, id: Id) {
        let Some(arrival) = self.arrival(id) else { return };
        let Some(end) = self.ends.get_mut(&id) else { return };
        end.arrival = arrival;
        let other = end.other;
        self.at(arrival, Occurrence::Break { end: other, error: errno::CONNRESET });
    }

    /// Nobody has it any more: what was taken is sent, and the end; a close with unread input is a reset (RFC 2525,
    /// 2.17).
    pub(crate) fn close(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        let counted = !matches!(end.owner, Owner::Queue | Owner::Nobody);
        let host = end.host;
        self.note_end(id, What::Closed { end: id });
        if counted {
            self.shut_descriptor(host);
        }
        let Some(end) = self.ends.get_mut(&id) else { return };
        end.owner = Owner::Nobody;
        let (at, lost, cancelled) = (end.local.inet(), end.is_over(), end.connecting);
        let unread = !end.inbox.is_empty();
        self.hosts[host].held.retain(|held, holder| Some(*held) != at || *holder != id);
        if lost {
            return self.bury(id);
        }
        if unread || cancelled {
            self.send_reset(id);
            return self.bury(id);
        }
        end_stream(self, id);
    }

    /// Takes an end out of the world.
    fn bury(&mut self, id: Id) {
        if let Some(mut end) = self.ends.remove(&id) {
            self.old.extend(end.reader.take());
            self.old.extend(end.writer.take());
        }
    }
}

fn end_stream(state: &mut State, id: Id) {
    let Some(end) = state.ends.get_mut(&id) else { return };
    if end.fin_sent {
        return state.bury(id);
    }
    end.shut = true;
    state.transmit(id);
}

/// Why this end takes nothing, if so.
fn writing(end: &End) -> Option<i32> {
    match end {
        _ if end.aborted => Some(errno::CONNABORTED),
        End { error: Some(error), .. } => Some(*error),
        _ if end.pipe || end.shut => Some(errno::PIPE),
        _ => None,
    }
}
