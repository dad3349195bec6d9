//! Flags of `waterwheel proxy tcp` that say what each client may have, and each connection.

use clap::Args;

use super::Failure;
use super::values::whole;
use crate::net::layer::ClientPrefix;
use crate::net::units::parse_size;
use crate::proxy::tcp::{CLIENT_CONNECTIONS_MAX, ClientLimits, ClientRate, THROTTLE_MAX, Throttle};

const COUNT_MAX: u64 = CLIENT_CONNECTIONS_MAX as u64;
/// As many as the settings allow.
type Counted = u32;
/// Of an address.
type Bits = u8;

#[derive(Debug, Args)]
pub(super) struct Clients {
    /// The most connections of one client at once, over all shards and listeners; one more is reset. The client is who
    /// connects, or who a believed PROXY header says. Counted exactly while all shards answer; without `--steer source` that costs a message for each
    /// connection.
    #[arg(long, value_parser = whole::<Counted, 1, COUNT_MAX>, value_name = "COUNT")]
    client_connections: Option<u32>,
    /// The most new connections of one client in a second, as in `10`, or in a minute or an hour, as in `30/m`, `100/h`; one
    /// more is reset.
    #[arg(long, value_name = "RATE")]
    client_rate: Option<ClientRate>,
    /// How many of these may come at once after a pause; else as many as the rate says.
    #[arg(long, requires = "client_rate", value_parser = whole::<Counted, 1, COUNT_MAX>, value_name = "COUNT")]
    client_burst: Option<u32>,
    /// By how many bits of an IPv4 address clients are told apart.
    /// [default: 32]
    #[arg(long, value_parser = whole::<Bits, 1, 32>, value_name = "BITS")]
    client_ipv4_prefix: Option<u8>,
    /// The same of IPv6, where a network of 64 bits is the least that anybody has. [default: 64]
    #[arg(long, value_parser = whole::<Bits, 1, 128>, value_name = "BITS")]
    client_ipv6_prefix: Option<u8>,
    /// The most bytes per second of each connection from its client, as in `1m` (a MiB).
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    throttle_up: Option<u64>,
    /// And to its client.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    throttle_down: Option<u64>,
    /// So many at once after a pause, in each direction that has a limit; else those of a second.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    throttle_burst: Option<u64>,
}

fn bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    let fits = (1..=THROTTLE_MAX).contains(&bytes);
    if fits { Ok(bytes) } else { Err(format!("not in its bounds; allowed: 1 to {THROTTLE_MAX} bytes")) }
}

impl Clients {
    pub(super) fn throttle(&self) -> Result<Throttle, Failure> {
        let throttle =
            Throttle { up: self.throttle_up, down: self.throttle_down, burst: self.throttle_burst };
        match throttle.burst {
            Some(burst) if !throttle.is_set() => Err(Failure::Usage(format!(
                "--throttle-burst {burst}: it means nothing without --throttle-up or --throttle-down; allowed: with one"
            ))),
            _ => Ok(throttle),
        }
    }

    pub(super) fn limits(&self) -> Result<ClientLimits, Failure> {
        let prefixes = [("ipv4", self.client_ipv4_prefix), ("ipv6", self.client_ipv6_prefix)];
        let given = prefixes.into_iter().find_map(|(name, bits)| Some((name, bits?)));
        if let Some((name, bits)) = given
            && self.client_connections.is_none()
            && self.client_rate.is_none()
        {
            return Err(Failure::Usage(format!(
                "--client-{name}-prefix {bits}: it means nothing without --client-connections or --client-rate; allowed: both"
            )));
        }
        let plain = ClientPrefix::default();
        let burst = self.client_burst;
        let rate = self.client_rate.map(|rate| ClientRate { burst: burst.unwrap_or(rate.burst), ..rate });
        let prefix = ClientPrefix {
            ipv4: self.client_ipv4_prefix.unwrap_or(plain.ipv4),
            ipv6: self.client_ipv6_prefix.unwrap_or(plain.ipv6),
        };
        Ok(ClientLimits { connections: self.client_connections, rate, prefix })
    }
}
