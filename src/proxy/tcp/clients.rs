//! What each client may have: connections at once, and new ones per second.
//!
//! Clients are counted over all shards and listeners of a proxy: each client has a shard that counts it, the one that
//! [steering](crate::steer) by its address would name. So in mode `source` a connection is counted where it is, unless a
//! client is more than an address; in other modes it costs a message, and only where there is such a limit.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use waterwheel_reactor::Address;

use super::settings::{ProxyError, within};
use crate::mesh::{KeyLease, KeyLimiter, KeyLimits, KeyPermit, KeyRate, KeyRefusal, OpenError};
use crate::net::layer::ClientPrefix;
use crate::net::quoted::Quoted;
use crate::shard::{Shard, ShardId};
use crate::steer::{Mode, owner};

/// The most connections that one client may be allowed, at once or in a unit of time.
pub const CLIENT_CONNECTIONS_MAX: u32 = 1_000_000_000;

/// What each client of a proxy may have. A client is who connects, or who a believed PROXY header says; clients of Unix
/// sockets are not limited.
///
/// A connection that is one too many is reset at once. While the shard that counts a client is restarted, the others go by
/// what they have themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// The most connections at once: 1 to [`CLIENT_CONNECTIONS_MAX`]. Default: any number.
    pub connections: Option<u32>,
    /// The most new ones in a time. Default: any number. At each shard 65 536 clients are remembered for it: of more the one
    /// is forgotten whose burst is whole again first.
    pub rate: Option<ClientRate>,
    /// Which addresses are one client. Default: an IPv4 address, an IPv6 network of 64 bits.
    pub prefix: ClientPrefix,
}

/// So many connections in each unit of time, evenly, and after a pause so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRate {
    /// How many, 1 to [`CLIENT_CONNECTIONS_MAX`].
    pub connections: u32,
    /// In what time. More than zero.
    pub per: Duration,
    /// How many at once, 1 to [`CLIENT_CONNECTIONS_MAX`].
    pub burst: u32,
}

const UNITS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_secs(3_600))];

impl FromStr for ClientRate {
    type Err = String;

    /// `10` or `10/s`, `30/m`, `100/h`. The burst is as many.
    fn from_str(text: &str) -> Result<ClientRate, String> {
        let wrong = || {
            format!(
                "rate {}: not one; allowed: connections from 1 to {CLIENT_CONNECTIONS_MAX} in a second, minute or hour, as in \
                 10, 30/m, 100/h",
                Quoted(text)
            )
        };
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let count =
            number.parse::<u32>().ok().filter(|count| digits && is_count(*count)).ok_or_else(wrong)?;
        let (_, per) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        Ok(ClientRate { connections: count, per, burst: count })
    }
}

impl fmt::Display for ClientRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, per)| *per == self.per) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.connections),
            None => write!(f, "{} in {:?}", self.connections, self.per),
        }
    }
}

impl fmt::Display for ClientLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClientLimits { connections, rate, prefix } = self;
        if let Some(connections) = connections {
            write!(f, "{connections} connections, ")?;
        }
        if let Some(rate) = rate {
            write!(f, "{rate} and {} at once, ", rate.burst)?;
        }
        write!(f, "told apart by {} and {} bits", prefix.ipv4, prefix.ipv6)
    }
}

fn is_count(count: u32) -> bool {
    (1..=CLIENT_CONNECTIONS_MAX).contains(&count)
}

impl ClientLimits {
    /// Whether there is any.
    pub fn are_set(&self) -> bool {
        self.connections.is_some() || self.rate.is_some()
    }

    pub(super) fn check(&self) -> Result<(), ProxyError> {
        const COUNT: &str = "1 to 1000000000";
        let ClientLimits { connections, rate, prefix } = self;
        if let Some(connections) = connections {
            within("client-connections", connections, is_count(*connections), COUNT)?;
        }
        if let Some(ClientRate { connections, per, burst }) = rate {
            within("client-rate", connections, is_count(*connections), COUNT)?;
            within("client-rate", per, !per.is_zero(), "more than 0s")?;
            within("client-burst", burst, is_count(*burst), COUNT)?;
        }
        within("client-ipv4-prefix", prefix.ipv4, (1..=32).contains(&prefix.ipv4), "1 to 32")?;
        within("client-ipv6-prefix", prefix.ipv6, (1..=128).contains(&prefix.ipv6), "1 to 128")
    }
}

/// A client of a proxy, by the number of that and the first address of its network.
pub(super) type Key = (u64, IpAddr);

/// What counts clients, for all proxies of a process.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    pub(super) lease: KeyLease<Key>,
    /// That of the steering.
    pub(super) seed: u32,
}

impl Clients {
    /// What a proxy asks whether a client may come; `None` where each may.
    pub(super) fn door(
        &self,
        shard: &Shard,
        proxy: u64,
        limits: &ClientLimits,
    ) -> Result<Option<ClientDoor>, OpenError> {
        if !limits.are_set() {
            return Ok(None);
        }
        let rate = limits.rate.map(|rate| KeyRate::new(rate.connections, rate.per, rate.burst));
        Ok(Some(ClientDoor {
            limiter: shard.key_limiter(&self.lease)?,
            proxy,
            limits: KeyLimits { most: limits.connections, rate },
            prefix: limits.prefix,
            seed: self.seed,
            shards: shard.count(),
        }))
    }
}

/// One version of one proxy on one shard: lets clients in, or not.
#[derive(Debug)]
pub(super) struct ClientDoor {
    limiter: KeyLimiter<Key>,
    proxy: u64,
    limits: KeyLimits,
    prefix: ClientPrefix,
    seed: u32,
    shards: usize,
}

impl ClientDoor {
    /// What counts the connection, until that is dropped.
    pub(super) async fn admit(&self, client: IpAddr) -> Result<Option<KeyPermit<Key>>, KeyRefusal> {
        let client = self.prefix.client(client);
        let peer = Address::Inet(SocketAddr::new(client, 0));
        let home = owner(&peer, Mode::Source, self.seed, self.shards).unwrap_or(0);
        self.limiter.take(ShardId::new(home), (self.proxy, client), self.limits).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_shown() {
        for text in ["1/s", "30/m", "1000000000/h"] {
            assert_eq!(text.parse::<ClientRate>().unwrap().to_string(), text);
        }
        let rate = ClientRate { connections: 10, per: Duration::from_secs(1), burst: 10 };
        assert_eq!("10".parse(), Ok(rate));
        for text in ["", "0", "-1", "+1", "1.5", "10/d", "10/", "/s", "1000000001", "99999999999", "1 /s"] {
            let told = text.parse::<ClientRate>().unwrap_err();
            assert!(told.contains("allowed: connections from 1 to 1000000000"), "{text}: {told}");
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_told_with_what_is_allowed() {
        let rate = |connections, burst| {
            let per = Duration::from_secs(1);
            ClientLimits { rate: Some(ClientRate { connections, per, burst }), ..ClientLimits::default() }
        };
        let prefix =
            |ipv4, ipv6| ClientLimits { prefix: ClientPrefix { ipv4, ipv6 }, ..ClientLimits::default() };
        for (limits, told) in [
            (
                ClientLimits { connections: Some(0), ..ClientLimits::default() },
                "client-connections: 0 makes no sense; allowed: 1 to",
            ),
            (rate(0, 1), "client-rate: 0 makes no sense"),
            (rate(1, u32::MAX), "client-burst: 4294967295 makes no sense"),
            (prefix(33, 64), "client-ipv4-prefix: 33 makes no sense; allowed: 1 to 32"),
            (prefix(32, 0), "client-ipv6-prefix: 0 makes no sense; allowed: 1 to 128"),
        ] {
            assert!(limits.check().unwrap_err().to_string().starts_with(told), "{limits:?}");
        }
        assert!(ClientLimits::default().check().is_ok() && !ClientLimits::default().are_set());
    }
}
