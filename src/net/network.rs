//! A network of addresses, as an operator writes it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::quoted::Quoted;

/// All addresses that begin with the same bits (RFC 4632, section 3.1; RFC 4291, section 2.3): `10.0.0.0/8`,
/// `2001:db8::/32`. A single address is a network of its own: `192.0.2.7`. IPv4 addresses that are mapped into IPv6
/// count as IPv4, in the network as in what it is asked about.
///
/// ```
/// use waterwheel::net::Network;
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains("10.1.2.3".parse().unwrap()));
/// assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
/// assert!("10.1.2.3/8".parse::<Network>().is_err(), "it has bits behind its first 8");
/// # Ok::<(), waterwheel::net::NetworkError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Never mapped, and zero behind the first `bits`.
    address: IpAddr,
    bits: u32,
}

/// The bits of which each mapped IPv4 address begins with the same (RFC 4291, 2.5.5.2).
const MAPPED_BITS: u32 = 96;

impl Network {
    /// Those whose first `bits` bits are those of `address`; its other bits do not count.
    ///
    /// # Errors
    /// More bits than the address has.
    pub fn new(address: IpAddr, bits: u32) -> Result<Network, NetworkError> {
        let error = |fault| NetworkError { given: format!("{address}/{bits}"), fault };
        let (address, bits) = match address {
            IpAddr::V6(six) => match six.to_ipv4_mapped() {
                Some(four) if bits >= MAPPED_BITS => (IpAddr::V4(four), bits - MAPPED_BITS),
                _ => (address, bits),
            },
            IpAddr::V4(_) => (address, bits),
        };
        let most = if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
        if bits > most {
            return Err(error(NetworkFault::Bits { most }));
        }
        Ok(Network { address: start(address, bits), bits })
    }

    /// Whether an address is one of its.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && start(address, self.bits) == self.address
    }
}

/// The address with zeroes behind its first bits.
fn start(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(Ipv4Addr::BITS - bits).unwrap_or(0);
            Ipv4Addr::from_bits(four.to_bits() & mask).into()
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(Ipv6Addr::BITS - bits).unwrap_or(0);
            Ipv6Addr::from_bits(six.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A text that is no network. Shows the text, what is wrong and what is allowed in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("network {}: {fault}; allowed: {}", Quoted(.given), .fault.allowed())]
pub struct NetworkError {
    given: String,
    fault: NetworkFault,
}

impl NetworkError {
    /// What is wrong.
    pub fn fault(&self) -> NetworkFault {
        self.fault
    }
}

/// What is wrong with a text that should be a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NetworkFault {
    /// What stands before the slash.
    #[error("it does not begin with an IPv4 or IPv6 address")]
    Address,
    /// What stands behind the slash.
    #[error("the number of bits is not from 0 to {most}")]
    Bits {
        /// How many there are.
        most: u32,
    },
    /// The address is one in the middle of the network.
    #[error("the address has bits behind the first {}", .network.bits)]
    Inside {
        /// The network that was probably meant.
        network: Network,
    },
}

impl NetworkFault {
    /// What would have been right.
    fn allowed(self) -> String {
        match self {
            NetworkFault::Inside { network } => network.to_string(),
            _ => "ADDRESS or ADDRESS/BITS, as in 10.0.0.0/8, 2001:db8::/32, 192.0.2.7".to_owned(),
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let error = |fault| NetworkError { given: text.to_owned(), fault };
        let (address, bits) = text.split_once('/').map_or((text, None), |(one, two)| (one, Some(two)));
        let address: IpAddr = address.parse().map_err(|_| error(NetworkFault::Address))?;
        let most = if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
        let bits = match bits {
            None => most,
            // The standard parser would take a sign.
            Some(bits) if (1..=3).contains(&bits.len()) && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| error(NetworkFault::Bits { most }))?
            }
            Some(_) => return Err(error(NetworkFault::Bits { most })),
        };
        let network = Network::new(address, bits).map_err(|wrong| error(wrong.fault))?;
        // The bits that were written, not those that count: `::ffff:0:0/95` is a network of IPv6.
        if start(address, bits) != address {
            return Err(error(NetworkFault::Inside { network }));
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn what_an_operator_writes_is_understood() {
        for (given, canonical) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("10.0.0.0/08", "10.0.0.0/8"),
        ] {
            assert_eq!(network(given).to_string(), canonical, "{given}");
        }
    }

    #[test]
    fn nonsense_is_told_with_what_is_allowed() {
        for (given, wrong) in [
            ("", "does not begin with"),
            ("/8", "does not begin with"),
            ("10.0.0/8", "does not begin with"),
            ("10.0.0.00/8", "does not begin with"),
            ("example.org", "does not begin with"),
            ("[::1]", "does not begin with"),
            ("fe80::1%lo", "does not begin with"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/8/8", "from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "from 0 to 32"),
            ("::/129", "from 0 to 128"),
            ("::/0008", "from 0 to 128"),
            ("10.1.2.3/8", "bits behind the first 8; allowed: 10.0.0.0/8"),
            ("2001:db8::1/64", "bits behind the first 64; allowed: 2001:db8::/64"),
            ("::ffff:10.1.0.0/104", "allowed: 10.0.0.0/8"),
            ("a\nb", "\"a\\nb\""),
        ] {
            let told = given.parse::<Network>().unwrap_err().to_string();
            assert!(told.contains(wrong) && told.contains("; allowed: ") && !told.contains('\n'), "{told}");
        }
        assert!(Network::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 33).is_err());
    }

    #[test]
    fn families_are_kept_apart_and_mapped_ones_are_not() {
        let within = |text: &str, address: &str| network(text).contains(address.parse().unwrap());
        assert!(within("10.0.0.0/8", "10.255.255.255") && !within("10.0.0.0/8", "11.0.0.0"));
        assert!(within("10.0.0.0/8", "::ffff:10.0.0.1") && within("::ffff:10.0.0.0/104", "10.0.0.1"));
        assert!(within("0.0.0.0/0", "255.255.255.255") && within("::/0", "2001:db8::1"));
        assert!(!within("::/0", "127.0.0.1") && !within("0.0.0.0/0", "::1"));
        assert!(!within("::/0", "::ffff:127.0.0.1"), "it is an IPv4 address, however it is written");
        assert!(within("192.0.2.7", "192.0.2.7") && !within("192.0.2.7", "192.0.2.6"));
    }

    proptest! {
        #[test]
        fn contains_is_what_comparing_bit_by_bit_says(own: u32, other: u32, keep in 0..=32_u32, six: bool) {
            // Near each other, so that both answers come.
            let other = if other.is_multiple_of(3) { other } else { own ^ (other >> keep.min(31)) };
            let mapped = |bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped());
            let network = match six {
                true => Network::new(mapped(own), keep + MAPPED_BITS).unwrap(),
                false => Network::new(Ipv4Addr::from_bits(own).into(), keep).unwrap(),
            };
            let same = (0..keep).all(|bit| (own ^ other) & (1 << (31 - bit)) == 0);
            prop_assert_eq!(network.contains(Ipv4Addr::from_bits(other).into()), same);
            prop_assert_eq!(network.contains(mapped(other)), same);
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
    }
}
