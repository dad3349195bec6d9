//! What goes with a datagram beside its bytes (cmsg(3)): where it came to, how it is cut, what the network says.
//!
//! The kernel's own layout, read and written as bytes: for each note its length as a `size_t`, header included, its level and
//! its kind as numbers of 32 bits, its data, and nothing up to the next multiple of a `size_t`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use waterwheel_reactor::{Congestion, Datagram, Outgoing, Via};

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;

/// Room for all that is asked for on an IPv6 socket that speaks IPv4 too: the destination in both forms (40 and 32 bytes),
/// the class in both (24 each), the size of the segments (24).
pub(super) const CONTROL_BYTES: usize = 160;

/// Notes of one datagram, as aligned as the kernel would have them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    pub(super) bytes: [u8; CONTROL_BYTES],
}

impl Control {
    pub(super) const EMPTY: Control = Control { bytes: [0; CONTROL_BYTES] };

    /// Writes the notes of a datagram that is sent; answers how many bytes they take.
    pub(super) fn write(&mut self, outgoing: &Outgoing<'_>) -> usize {
        let mut end = 0;
        if let Some(segment) = outgoing.segment.and_then(|size| u16::try_from(size).ok()) {
            self.push(&mut end, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if let Some(Via { address, interface }) = outgoing.from {
            match address.to_canonical() {
                IpAddr::V4(four) => {
                    let mut data = [0; 12];
                    data[..4].copy_from_slice(&interface.to_ne_bytes());
                    data[4..8].copy_from_slice(&four.octets());
                    self.push(&mut end, libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
                }
                IpAddr::V6(six) => {
                    let mut data = [0; 20];
                    data[..16].copy_from_slice(&six.octets());
                    data[16..].copy_from_slice(&interface.to_ne_bytes());
                    self.push(&mut end, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
                }
            }
        }
        if outgoing.congestion != Congestion::NotCapable {
            // Both: a note for the family that it does not go over is passed over.
            let class = i32::from(outgoing.congestion.bits()).to_ne_bytes();
            self.push(&mut end, libc::IPPROTO_IP, libc::IP_TOS, &class);
            self.push(&mut end, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
        }
        end
    }

    fn push(&mut self, end: &mut usize, level: i32, kind: i32, data: &[u8]) {
        let note = &mut self.bytes[*end..];
        note[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        note[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        note[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        note[HEADER..HEADER + data.len()].copy_from_slice(data);
        *end += (HEADER + data.len()).next_multiple_of(WORD);
    }

    /// Reads the notes of a datagram that came, which take `length` bytes.
    pub(super) fn read(&self, length: usize, datagram: &mut Datagram) {
        (datagram.segment, datagram.via) = (None, None);
        datagram.congestion = Congestion::NotCapable;
        let mut rest = &self.bytes[..length.min(CONTROL_BYTES)];
        while let Some((level, kind, data, behind)) = split(rest) {
            note(level, kind, data, datagram);
            rest = behind;
        }
    }
}

/// The first note and what is behind it; `None` at the end.
fn split(notes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(first(notes)?);
    let level = i32::from_ne_bytes(first(notes.get(WORD..)?)?);
    let kind = i32::from_ne_bytes(first(notes.get(WORD + 4..)?)?);
    let data = notes.get(HEADER..length)?;
    let behind = length.checked_next_multiple_of(WORD).and_then(|end| notes.get(end..)).unwrap_or(&[]);
    Some((level, kind, data, behind))
}

fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

fn note(level: i32, kind: i32, data: &[u8], datagram: &mut Datagram) {
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // Not the third word, which of a broadcast is no address of ours.
            if let (Some(interface), Some(four)) = (first(data), data.get(4..).and_then(first)) {
                let address = IpAddr::V4(Ipv4Addr::from_octets(four));
                // None if it came before somebody asked for it.
                if !address.is_unspecified() {
                    datagram.via = Some(Via { address, interface: u32::from_ne_bytes(interface) });
                }
            }
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            if let (Some(six), Some(interface)) = (first(data), data.get(16..).and_then(first)) {
                let address = IpAddr::V6(Ipv6Addr::from_octets(six)).to_canonical();
                datagram.via = Some(Via { address, interface: u32::from_ne_bytes(interface) });
            }
        }
        // A byte or a number, whose low byte is first only on some machines.
        (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            let class = match first(data) {
                Some(number) => i32::from_ne_bytes(number) as u8,
                None => data.first().copied().unwrap_or(0),
            };
            datagram.congestion = Congestion::from_class(class);
        }
        (libc::SOL_UDP, libc::UDP_GRO) => {
            let segment = first(data).and_then(|number| usize::try_from(i32::from_ne_bytes(number)).ok());
            datagram.segment = segment.filter(|segment| (1..datagram.size).contains(segment));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for address in ["192.0.2.7", "2001:db8::7"] {
            for congestion in [Congestion::Capable, Congestion::Scalable, Congestion::Experienced] {
                let from = Some(Via { address: address.parse().unwrap(), interface: 3 });
                let outgoing = Outgoing { from, congestion, ..Outgoing::to_peer(b"x") };
                let mut control = Control::EMPTY;
                let length = control.write(&outgoing);
                let mut datagram = Datagram { size: 1, ..Datagram::default() };
                control.read(length, &mut datagram);
                assert_eq!((datagram.via, datagram.congestion), (from, congestion));
                // An address that is not there is forgotten.
                control.read(0, &mut datagram);
                assert_eq!((datagram.via, datagram.congestion), (None, Congestion::NotCapable));
            }
        }
    }

    #[test]
    fn all_notes_at_once_fit() {
        let from = Some(Via { address: "2001:db8::7".parse().unwrap(), interface: 3 });
        let congestion = Congestion::Capable;
        let outgoing = Outgoing { from, congestion, segment: Some(1200), ..Outgoing::to_peer(b"x") };
        let mut control = Control::EMPTY;
        assert!(control.write(&outgoing) <= CONTROL_BYTES);
    }

    #[test]
    fn notes_cut_anywhere_do_not_matter() {
        let from = Some(Via { address: "192.0.2.7".parse().unwrap(), interface: 3 });
        let outgoing = Outgoing { from, congestion: Congestion::Capable, ..Outgoing::to_peer(b"x") };
        let mut control = Control::EMPTY;
        let whole = control.write(&outgoing);
        for length in 0..=whole {
            let mut datagram = Datagram::default();
            control.read(length, &mut datagram);
            assert_eq!(datagram.via.is_some(), length >= HEADER + 12, "of {length} bytes");
        }
        // Lengths that make no sense end the list.
        for length in [0, 1, HEADER - 1, usize::MAX, usize::MAX - 7] {
            control.bytes[..WORD].copy_from_slice(&length.to_ne_bytes());
            let mut datagram = Datagram::default();
            control.read(whole, &mut datagram);
            assert_eq!(datagram.via, None);
        }
    }
}
