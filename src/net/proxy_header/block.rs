//! Version 2: a block of bytes (section 2.2).

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use waterwheel_reactor::{Address, UnixName};

use super::checksum::crc32c;
use super::extra::{self, Extra};
use super::{EncodeError, HeaderError, ProxyHeader, Relayed, Subject, Version, begins, of_one_family};

/// What no other protocol begins with.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes before the addresses: the signature, version and command, family and transport, the length of the rest.
const FIXED_BYTES: usize = 16;
const VERSION: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;
const INET: u8 = 0x1;
const INET6: u8 = 0x2;
const UNIX: u8 = 0x3;
const STREAM: u8 = 0x1;
const DATAGRAM: u8 = 0x2;
/// A Unix socket's name is padded to so many bytes, the size of `sun_path` of unix(7).
const UNIX_NAME_BYTES: usize = 108;

/// What is wrong with a header of version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BlockFault {
    /// Not 2.
    #[error("its version is {0}, and 2 is the only one")]
    Version(u8),
    /// Neither LOCAL (0) nor PROXY (1).
    #[error("there is no command {0:#x}")]
    Command(u8),
    /// Not from 0 to 3.
    #[error("there is no address family {0:#x}")]
    Family(u8),
    /// Not from 0 to 2.
    #[error("there is no transport {0:#x}")]
    Transport(u8),
    /// Longer than somebody here takes.
    #[error("it has {bytes} bytes, and {most} are taken")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// What is taken.
        most: usize,
    },
    /// Too short for the addresses of its family.
    #[error("{bytes} bytes are too short for two addresses of family {family:#x}")]
    ShortAddresses {
        /// The family.
        family: u8,
        /// How many bytes follow the length.
        bytes: usize,
    },
    /// A value that goes on beyond the end of what it is in.
    #[error("its last {bytes} bytes are the beginning of something longer")]
    CutExtra {
        /// How much of it is there.
        bytes: usize,
    },
    /// A text that is none.
    #[error("the value of type {kind:#x} is not the text that it should be")]
    NoText {
        /// The type.
        kind: u8,
    },
    /// Less than what every description of TLS has.
    #[error("{bytes} bytes are too short for a description of TLS")]
    ShortTls {
        /// How many there are.
        bytes: usize,
    },
    /// A unique id of more than 128 bytes.
    #[error("a unique id of {bytes} bytes is too long")]
    LongUniqueId {
        /// How many there are.
        bytes: usize,
    },
    /// A checksum that is not four bytes long, or the second one.
    #[error("it has two checksums, or one that is not four bytes long")]
    OddChecksum,
    /// The header was damaged on its way.
    #[error("its checksum should be {is:#010x} and is {said:#010x}")]
    Checksum {
        /// What the header says.
        said: u32,
        /// What it should say.
        is: u32,
    },
}

pub(super) fn parse(bytes: &[u8], most: usize) -> Result<Option<(ProxyHeader, usize)>, HeaderError> {
    if !begins(bytes, SIGNATURE)? {
        return Ok(None);
    }
    // What can be told early is: each of these bytes on its own.
    let Some(command) = bytes.get(12) else { return Ok(None) };
    if command & 0xF0 != VERSION {
        return Err(BlockFault::Version(command >> 4).into());
    }
    let command = command & 0x0F;
    if command > PROXY {
        return Err(BlockFault::Command(command).into());
    }
    let Some(kind) = bytes.get(13) else { return Ok(None) };
    let (family, transport) = (kind >> 4, kind & 0x0F);
    if command != LOCAL && family > UNIX {
        return Err(BlockFault::Family(family).into());
    }
    if command != LOCAL && transport > DATAGRAM {
        return Err(BlockFault::Transport(transport).into());
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED_BYTES + length > most {
        return Err(BlockFault::TooLong { bytes: FIXED_BYTES + length, most }.into());
    }
    let addresses = match (command, transport) {
        (LOCAL, _) | (_, 0) => 0,
        _ => address_bytes(family),
    };
    if length < addresses {
        return Err(BlockFault::ShortAddresses { family, bytes: length }.into());
    }
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    let header = match (command, family, transport) {
        // All of it has to be passed over, family and length of the addresses included.
        (LOCAL, ..) => ProxyHeader::new(Version::Two, Subject::Own),
        (_, 0, _) | (_, _, 0) => unspecified(fixed, rest)?,
        _ => {
            let (addresses, extras) = rest.split_at(addresses);
            let (source, destination) = ends(family, addresses);
            let relayed = Relayed { source, destination, datagrams: transport == DATAGRAM };
            with_extras(Subject::Relayed(relayed), &bytes[..FIXED_BYTES + addresses.len()], extras)?
        }
    };
    Ok(Some((header, FIXED_BYTES + length)))
}

fn address_bytes(family: u8) -> usize {
    match family {
        INET => 2 * (4 + 2),
        INET6 => 2 * (16 + 2),
        UNIX => 2 * UNIX_NAME_BYTES,
        _ => 0,
    }
}

/// Where the addresses are of no specified kind, nobody can tell whether there are any before the values, and the text
/// asks to ignore them: values are believed if nothing but values follows.
fn unspecified(fixed: &[u8], rest: &[u8]) -> Result<ProxyHeader, BlockFault> {
    match with_extras(Subject::Unknown, fixed, rest) {
        Err(wrong) if !matches!(wrong, BlockFault::Checksum { .. }) => {
            Ok(ProxyHeader::new(Version::Two, Subject::Unknown))
        }
        read => read,
    }
}

/// The two addresses, whose bytes are as many as they have to be.
fn ends(family: u8, bytes: &[u8]) -> (Address, Address) {
    if family == UNIX {
        let (source, destination) = bytes.split_at(UNIX_NAME_BYTES);
        return (unix_name(source), unix_name(destination));
    }
    let (ips, ports) = bytes.split_at(bytes.len() - 4);
    let (source, destination) = ips.split_at(ips.len() / 2);
    let at = |ip: &[u8], port: &[u8]| {
        let port = u16::from_be_bytes([port[0], port[1]]);
        let mut six = [0; 16];
        let ip = match *ip {
            [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
            _ => {
                six.copy_from_slice(ip);
                Ipv6Addr::from(six).into()
            }
        };
        Address::Inet(SocketAddr::new(ip, port))
    };
    (at(source, &ports[..2]), at(destination, &ports[2..]))
}

fn unix_name(padded: &[u8]) -> Address {
    let last = padded.iter().rposition(|byte| *byte != 0);
    Address::Unix(match (padded[0], last) {
        (_, None) => UnixName::Unnamed,
        (0, Some(last)) => UnixName::Abstract(padded[1..=last].to_vec()),
        _ => {
            // What follows the first zero is what lay there before.
            let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
            UnixName::Path(OsStr::from_bytes(&padded[..end]).into())
        }
    })
}

/// Reads the values behind `before`, all that comes before them.
fn with_extras(subject: Subject, before: &[u8], values: &[u8]) -> Result<ProxyHeader, BlockFault> {
    let mut header = ProxyHeader::new(Version::Two, subject);
    let (mut at, mut checksum) = (0, None);
    for read in extra::values(values) {
        let (kind, value) = read?;
        at += extra::HEAD_BYTES + value.len();
        if kind != extra::CHECKSUM {
            header.extras.push(Extra::parse(kind, value)?);
            continue;
        }
        let said = value.try_into().map_err(|_| BlockFault::OddChecksum)?;
        if checksum.replace((at, u32::from_be_bytes(said))).is_some() {
            return Err(BlockFault::OddChecksum);
        }
    }
    if let Some((end, said)) = checksum {
        // Of all the header, with zeroes in place of the checksum.
        let is = crc32c(&[before, &values[..end - 4], &[0; 4], &values[end..]]);
        if is != said {
            return Err(BlockFault::Checksum { said, is });
        }
        header.checksum = true;
    }
    Ok(header)
}

pub(super) fn encode(header: &ProxyHeader) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = SIGNATURE.to_vec();
    let (command, kind, addresses) = match &header.subject {
        // What a receiver passes over is not sent.
        Subject::Own => return Ok([&SIGNATURE[..], &[VERSION | LOCAL, 0, 0, 0]].concat()),
        Subject::Unknown => (PROXY, 0, Vec::new()),
        Subject::Relayed(relayed) => {
            let (family, addresses) = addresses(relayed)?;
            let transport = if relayed.datagrams { DATAGRAM } else { STREAM };
            (PROXY, family << 4 | transport, addresses)
        }
    };
    bytes.extend_from_slice(&[VERSION | command, kind, 0, 0]);
    bytes.extend_from_slice(&addresses);
    if header.checksum {
        extra::put(&mut bytes, extra::CHECKSUM, &[0; 4])?;
    }
    let place = bytes.len() - 4;
    for extra in &header.extras {
        extra.encode(&mut bytes)?;
    }
    let length = u16::try_from(bytes.len() - FIXED_BYTES);
    let length = length.map_err(|_| EncodeError::TooLong { bytes: bytes.len() })?;
    bytes[14..16].copy_from_slice(&length.to_be_bytes());
    if header.checksum {
        let checksum = crc32c(&[&bytes]);
        bytes[place..place + 4].copy_from_slice(&checksum.to_be_bytes());
    }
    Ok(bytes)
}

fn addresses(relayed: &Relayed) -> Result<(u8, Vec<u8>), EncodeError> {
    match (&relayed.source, &relayed.destination) {
        (Address::Inet(source), Address::Inet(destination)) => {
            let both = of_one_family(*source, *destination);
            let mut bytes = Vec::new();
            for at in both {
                match at {
                    SocketAddr::V4(four) => bytes.extend_from_slice(&four.ip().octets()),
                    SocketAddr::V6(six) => bytes.extend_from_slice(&six.ip().octets()),
                }
            }
            both.iter().for_each(|at| bytes.extend_from_slice(&at.port().to_be_bytes()));
            Ok((if both[0].is_ipv4() { INET } else { INET6 }, bytes))
        }
        (Address::Unix(source), Address::Unix(destination)) => {
            Ok((UNIX, [padded(source)?, padded(destination)?].concat()))
        }
        (source, destination) => {
            Err(EncodeError::Families { source_end: source.clone(), destination: destination.clone() })
        }
    }
}

fn padded(name: &UnixName) -> Result<[u8; UNIX_NAME_BYTES], EncodeError> {
    let mut padded = [0; UNIX_NAME_BYTES];
    let (from, bytes) = match name {
        UnixName::Path(path) => (0, path.as_os_str().as_bytes()),
        UnixName::Abstract(name) => (1, &**name),
        UnixName::Unnamed => return Ok(padded),
    };
    if let Some(place) = padded.get_mut(from..from + bytes.len()) {
        place.copy_from_slice(bytes);
    }
    // What does not fit, or contains a zero where it matters, reads back as another name.
    let address = Address::Unix(name.clone());
    if unix_name(&padded) == address { Ok(padded) } else { Err(EncodeError::Name(address)) }
}
