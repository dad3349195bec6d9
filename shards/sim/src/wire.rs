//! How bytes travel from one end of a connection to the other.

use std::time::Duration;

use waterwheel_reactor::Time;

use crate::end::Owner;
use crate::errno;
use crate::fault::{Moment, Verdict};
use crate::state::{Occurrence, State};
use crate::trace::{Hash, Id, What};

/// How long the kernel tries to deliver what nobody acknowledges (`net.ipv4.tcp_retries2` of 15, tcp(7)).
const RETRIES: Duration = Duration::from_secs(924);
/// After a partition has healed, what was lost is sent again within so long at most.
const RESENT: Duration = Duration::from_millis(200);

impl State {
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
            // One that is gone has told, as any other, how much it would take; what tells of its end is on the way.
            let room = self.ends.get(&end.other).map_or_else(
                || self.options.receive_buffer.saturating_sub(end.flight),
                |other| other.in_max.saturating_sub(other.inbox.len()),
            );
            let most = end.out.len().min(room).min(self.options.segment_max);
            let ends_now = end.out.is_empty() && end.shut;
            if most == 0 && !ends_now {
                return;
            }
            // What a rule held up goes next, or the rule would hold it up for ever.
            let was_stalled = end.stalled_until > Time::ZERO;
            if was_stalled && let Some(end) = self.ends.get_mut(&id) {
                (end.stalled_until, end.held_since) = (Time::ZERO, None);
            }
            if !was_stalled && self.is_struck(id) {
                return;
            }
            let Some(arrival) = self.arrival(id) else { return };
            if ends_now {
                return self.send_fin(id, arrival);
            }
            let size = self.segment(id, most);
            self.load(id, size);
            let Some(end) = self.ends.get_mut(&id) else { return };
            (end.flight, end.arrival) = (end.flight + size, arrival);
            let (to, room) = (end.other, end.has_room());
            self.at(arrival, Occurrence::Segment { from: id, to, bytes: size });
            if room {
                self.wake_writer(id);
            }
        }
    }

    /// Moves bytes to where they will have arrived: nothing overtakes, so they need no place of their own on the way.
    fn load(&mut self, id: Id, size: usize) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        let (other, mut out) = (end.other, std::mem::take(&mut end.out));
        if let Some(other) = self.ends.get_mut(&other) {
            let (one, two) = out.as_slices();
            let split = one.len().min(size);
            other.inbox.extend(&one[..split]);
            other.inbox.extend(&two[..size - split]);
        }
        out.drain(..size);
        if let Some(end) = self.ends.get_mut(&id) {
            end.out = out;
        }
    }

    fn send_fin(&mut self, id: Id, arrival: Time) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        (end.fin_sent, end.arrival) = (true, arrival);
        let (to, unowned) = (end.other, end.owner == Owner::Nobody);
        self.at(arrival, Occurrence::Fin { to });
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
        // All that fits, as the kernel would, or any part of it.
        let split = most > 1 && self.chance(|options| options.segment_split);
        if split { 1 + self.random.place(most) } else { most }
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
            Verdict::Hold => {
                self.hold(id, until);
                true
            }
            Verdict::Delay(by) => {
                let usual = self.latency(from.0, to.0);
                self.delay(id, now + by + usual);
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

    /// A partition holds back what this end sends, until its rule's time is over or [all rules](State::release) are.
    fn hold(&mut self, id: Id, until: Time) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(&id) else { return };
        (end.stalled_until, end.held_since) = (until, Some(now));
        self.later(now + RETRIES, Occurrence::GiveUp { end: id, held_since: now });
        if until < Time::NEVER {
            let again = until + self.random.duration(Duration::from_nanos(1), RESENT);
            self.later(again, Occurrence::Room { end: id });
        }
    }

    /// All partitions are over: what they held back is sent again soon.
    pub(crate) fn release(&mut self) {
        let held: Vec<Id> =
            self.ends.iter().filter(|(_, end)| end.held_since.is_some()).map(|(id, _)| *id).collect();
        for id in held {
            if let Some(end) = self.ends.get_mut(&id) {
                end.stalled_until = self.now;
            }
            let again = self.now + self.random.duration(Duration::from_nanos(1), RESENT);
            self.later(again, Occurrence::Room { end: id });
        }
    }

    /// Nobody has acknowledged what was sent for as long as anybody tries.
    pub(crate) fn give_up(&mut self, id: Id, since: Time) {
        if self.ends.get(&id).is_some_and(|end| end.held_since == Some(since)) {
            self.break_end(id, errno::TIMEDOUT);
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
            let late = self.now + idle.saturating_add(idle / 10 * 9);
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
    pub(crate) fn arrival(&mut self, id: Id) -> Option<Time> {
        let end = self.ends.get(&id)?;
        let ([(from, _), (to, _)], before) = (self.sides(end), end.arrival);
        let latency = self.latency(from, to);
        Some(before.max(self.now + latency))
    }

    // ---- receiving

    pub(crate) fn arrive(&mut self, from: Id, to: Id, bytes: usize) {
        if let Some(sender) = self.ends.get_mut(&from) {
            sender.flight -= bytes;
        }
        let mut hash = Hash::START;
        match self.ends.get_mut(&to) {
            // Broken already; who sent it learns of that another way.
            Some(end) if end.is_over() => return,
            Some(end) if end.owner != Owner::Nobody => {
                let new = end.arrived..end.arrived + bytes;
                hash.bytes(end.inbox.range(new).copied());
                end.arrived += bytes;
            }
            // Nobody is there to read it.
            _ => return self.answer_reset(from, to),
        }
        self.note_end(to, What::Arrived { end: to, bytes, hash: hash.value() });
        self.wake_reader(to);
    }

    /// What was sent came to nobody.
    fn answer_reset(&mut self, from: Id, to: Id) {
        if self.ends.get(&to).is_some_and(|end| end.owner == Owner::Nobody) {
            self.bury(to);
        }
        let Some(sender) = self.ends.get(&from).filter(|sender| !sender.silent) else { return };
        let ([(here, _), (there, _)], before) = (self.sides(sender), sender.last_words);
        let latency = self.latency(there, here);
        // Behind what was sent before: one that came sooner would be of an older place in the stream, and ignored (RFC
        // 5961, 3.2).
        let arrival = before.max(self.now + latency);
        self.at(arrival, Occurrence::Break { end: from, error: errno::CONNRESET });
    }

    pub(crate) fn finish(&mut self, to: Id) {
        let Some(end) = self.ends.get_mut(&to) else { return };
        if end.is_over() {
            return;
        }
        end.fin = true;
        self.note_end(to, What::Finished { end: to });
        self.wake_reader(to);
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
            (end.pipe, end.stalled_until) = (true, Time::ZERO);
        } else {
            end.error = Some(error);
            if destroys {
                end.empty();
            }
            // What was still on its way never comes.
            let arrived = end.arrived;
            end.inbox.truncate(arrived);
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
}
