//! A bucket that fills at a rate, in exact numbers.

use std::time::Duration;

use waterwheel_reactor::Time;

/// One token: a share is in millionths of a token per second, and time in nanoseconds.
pub(super) const TOKEN: u128 = 1_000_000 * 1_000_000_000;

/// Filled at a share, emptied by the token; what it has no room for is counted.
#[derive(Debug)]
pub(super) struct Bucket {
    level: u128,
    room: u128,
    spilled: u128,
    share: u64,
    at: Time,
}

impl Bucket {
    /// Full; has room for so many tokens.
    pub(super) fn new(room: u128, now: Time) -> Bucket {
        Bucket { level: room * TOKEN, room: room * TOKEN, spilled: 0, share: 0, at: now }
    }

    /// Empty, or what is left in another one, if it fits.
    pub(super) fn with_rest_of(mut self, other: Option<&Bucket>) -> Bucket {
        self.level = other.map_or(0, |other| other.level.min(self.room));
        self
    }

    /// Has room for so many tokens from now on, and none above that.
    pub(super) fn set_room(&mut self, room: u128, now: Time) {
        self.fill(now);
        self.room = room * TOKEN;
        self.level = self.level.min(self.room);
    }

    /// Up to now.
    pub(super) fn fill(&mut self, now: Time) {
        if now <= self.at {
            return;
        }
        let more = u128::from(self.share) * now.since(self.at).as_nanos();
        self.at = now;
        // Extra tokens may stand above the room.
        let fits = more.min(self.room.saturating_sub(self.level));
        self.level += fits;
        self.spilled += more - fits;
    }

    pub(super) fn share(&self) -> u64 {
        self.share
    }

    pub(super) fn set_share(&mut self, share: u64, now: Time) {
        self.fill(now);
        self.share = share;
    }

    pub(super) fn add(&mut self, tokens: u64) {
        self.level += u128::from(tokens) * TOKEN;
    }

    pub(super) fn take(&mut self) -> bool {
        let rest = self.level.checked_sub(TOKEN);
        self.level = rest.unwrap_or(self.level);
        rest.is_some()
    }

    /// The whole tokens that it had no room for; and, if nobody needs them here, those above its room, which are gone
    /// from it.
    pub(super) fn take_spilled(&mut self, needed: bool) -> u64 {
        if !needed {
            let above = self.level.saturating_sub(self.room);
            self.level -= above;
            self.spilled += above;
        }
        let tokens = self.spilled / TOKEN;
        self.spilled -= tokens * TOKEN;
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// When there will be a token; `None`: never at this share.
    pub(super) fn next_token(&self) -> Option<Time> {
        let missing = TOKEN.saturating_sub(self.level);
        if missing == 0 {
            return Some(self.at);
        }
        let nanos = missing.div_ceil(u128::from((self.share > 0).then_some(self.share)?));
        Some(self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}
