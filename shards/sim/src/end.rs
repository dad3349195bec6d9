//! One end of a stream connection, from its making to its end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::Waker;
use std::time::Duration;

use waterwheel_reactor::{Address, StreamOptions, Time};

use crate::errno;
use crate::fault::{Moment, Verdict};
use crate::state::{Occurrence, State};
use crate::trace::{Id, What};

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
    pub(crate) fin_sent: bool,
    /// Taken and not sent.
    pub(crate) out: VecDeque<u8>,
    pub(crate) out_max: usize,
    /// Sent and not arrived.
    pub(crate) flight: usize,
    /// When the last of it arrives: nothing overtakes.
    pub(crate) arrival: Time,
    /// When the last arrives of what the other sent that is gone by now.
    pub(crate) last_words: Time,
    /// Bytes that still travel alone.
    pub(crate) tiny: usize,
    pub(crate) stalled_until: Time,
    /// Nothing that is sent arrives.
    pub(crate) silent: bool,
    pub(crate) expires: bool,
    /// Since when a partition has held back what it sends.
    pub(crate) held_since: Option<Time>,
    /// What has arrived, and behind it what is on its way here.
    pub(crate) inbox: VecDeque<u8>,
    /// How much of it has arrived.
    pub(crate) arrived: usize,
    pub(crate) in_max: usize,
    /// The other's stream has ended, behind what is in the inbox.
    pub(crate) fin: bool,
    /// The other is to be told that there is room.
    pub(crate) room_due: bool,
    pub(crate) slow_until: Time,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl End {
    /// Why nothing comes of it any more, if so: its owner reset it, or it broke.
    pub(crate) fn broken(&self) -> Option<i32> {
        self.aborted.then_some(errno::CONNABORTED).or(self.error)
    }

    /// The same for what is to be written: also that the other side reads no more.
    pub(crate) fn refuses(&self) -> Option<i32> {
        self.broken().or(self.pipe.then_some(errno::PIPE))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.broken().is_some()
    }

    pub(crate) fn inet(&self) -> Option<SocketAddr> {
        self.local.inet()
    }

    /// What has come is lost, and what was on its way.
    pub(crate) fn empty(&mut self) {
        self.inbox.clear();
        self.arrived = 0;
    }

    /// Where writing resumes.
    pub(crate) fn has_room(&self) -> bool {
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
            last_words: Time::ZERO,
            tiny,
            stalled_until: Time::ZERO,
            silent: false,
            expires: false,
            held_since: None,
            inbox,
            arrived: 0,
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

    pub(crate) fn wake_writer(&mut self, end: Id) {
        let woken = self.ends.get_mut(&end).and_then(|end| end.writer.take());
        self.wakes.extend(woken);
    }

    // ---- the end of an end

    /// Resets the connection.
    pub(crate) fn abort(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if std::mem::replace(&mut end.aborted, true) {
            return;
        }
        let broken = end.error.is_some();
        end.connecting = false;
        end.out.clear();
        end.empty();
        self.note_end(id, What::Aborted { end: id });
        self.wake_reader(id);
        self.wake_writer(id);
        if !broken {
            self.send_reset(id);
        }
    }

    fn send_reset(&mut self, id: Id) {
        let Some(arrival) = self.reset_arrival(id) else { return };
        let Some(end) = self.ends.get_mut(&id) else { return };
        end.arrival = arrival;
        let other = end.other;
        self.at(arrival, Occurrence::Break { end: other, error: errno::CONNRESET });
    }

    /// When a reset arrives, if it does.
    fn reset_arrival(&mut self, id: Id) -> Option<Time> {
        let end = self.ends.get(&id).filter(|end| !end.silent)?;
        let [from, to] = self.sides(end);
        let struck = self.ask(Moment::Reset, from, to, None);
        let arrival = self.arrival(id)?;
        match struck {
            Some((Verdict::Delay(by), _)) => Some(arrival + by),
            // Nobody sends it again; the other side learns of it once it tries to send.
            Some((Verdict::Hold, until)) if until == Time::NEVER => None,
            Some((Verdict::Hold, until)) => Some(arrival.max(until)),
            _ => Some(arrival),
        }
    }

    /// Nobody has it any more: what was taken is sent, and the end; a close with unread input is a reset (RFC 2525,
    /// 2.17).
    pub(crate) fn close(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id).filter(|end| end.owner != Owner::Nobody) else { return };
        let counted = end.owner != Owner::Queue;
        let host = end.host;
        self.note_end(id, What::Closed { end: id });
        if counted {
            self.shut_descriptor(host);
        }
        let Some(end) = self.ends.get_mut(&id) else { return };
        (end.owner, end.shard) = (Owner::Nobody, None);
        let (at, lost, cancelled) = (end.local.inet(), end.is_over(), end.connecting);
        let unread = end.arrived > 0;
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
    pub(crate) fn bury(&mut self, id: Id) {
        if let Some(mut end) = self.ends.remove(&id) {
            if let Some(other) = self.ends.get_mut(&end.other) {
                other.last_words = end.arrival;
            }
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
