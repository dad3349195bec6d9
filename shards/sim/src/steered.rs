//! Groups of listening sockets, and the programs that say who of them gets a connection.

use std::net::{IpAddr, SocketAddr};

use waterwheel_reactor::program::Packet;
use waterwheel_reactor::{Handle, Program};

use crate::errno;
use crate::reactor::Ear;
use crate::state::State;
use crate::trace::{Hash, Id};

/// What an IP packet carries (RFC 791 and RFC 8200: "Protocol", "Next Header").
const TCP: u8 = 6;
const UDP: u8 = 17;

impl State {
    /// Lets a program choose among the sockets that share the first one's port.
    pub(crate) fn steer(&mut self, first: Id, program: &Program) -> Result<(), i32> {
        let Some(socket) = self.sockets.get_mut(&first) else { return Err(errno::NOTCONN) };
        if !socket.shares_port() {
            return Err(errno::INVAL);
        }
        socket.program = Some(program.clone());
        Ok(())
    }

    /// Which of a group gets a connection from `from`: as the program says, but now and then (as while the group begins to
    /// listen, or where a header is longer than the program looks) or without one any of them.
    pub(crate) fn of_group(&mut self, group: &[Id], from: SocketAddr) -> Option<Id> {
        let first = *group.first()?;
        if group.len() == 1 || self.chance(|options| options.lopsided) {
            return Some(first);
        }
        let program = group.iter().find_map(|id| self.sockets.get(id)?.program.as_ref());
        let answer = program.and_then(|program| program.run(Packet { bytes: &opening(from, TCP), cpu: 0 }));
        let chosen = answer.and_then(|answer| group.get(answer as usize)).copied();
        match chosen {
            Some(chosen) if !self.chance(|options| options.missteered) => Some(chosen),
            _ => Some(group[self.random.place(group.len())]),
        }
    }

    /// Which of a group gets a datagram: as the program says, else by a hash that keeps a peer's together.
    pub(crate) fn outlet_of_group(&self, group: &[Id], from: SocketAddr) -> Option<Id> {
        let opening = opening(from, UDP);
        let program = group.iter().find_map(|id| self.outlets.get(id)?.program.as_ref());
        let answer = program.and_then(|program| program.run(Packet { bytes: &opening, cpu: 0 }));
        let place = answer.map(|answer| answer as usize).filter(|place| *place < group.len());
        let by_hash = || {
            let mut hash = Hash::START;
            hash.bytes(opening.iter().copied());
            // The high bits, which all bytes have a part in.
            ((u128::from(hash.value()) * group.len() as u128) >> 64) as usize
        };
        group.get(place.unwrap_or_else(by_hash)).copied()
    }
}

/// The socket that a handle of this world's stands for.
pub(crate) fn socket_of(handle: &Handle) -> Option<Id> {
    match handle {
        Handle::Virtual(socket) => socket.look::<Ear>().map(Ear::socket),
        Handle::Os(_) => None,
    }
}

/// The first packet of a connection from there, as far as a program looks at it: its network header (RFC 791 section 3.1,
/// RFC 8200 section 3) and its ports.
fn opening(from: SocketAddr, carries: u8) -> Vec<u8> {
    let mut packet = match from.ip().to_canonical() {
        IpAddr::V4(address) => {
            let mut header = vec![0; 20];
            header[0] = 4 << 4 | 5;
            header[9] = carries;
            header[12..16].copy_from_slice(&address.octets());
            header
        }
        IpAddr::V6(address) => {
            let mut header = vec![0; 40];
            header[0] = 6 << 4;
            header[6] = carries;
            header[8..24].copy_from_slice(&address.octets());
            header
        }
    };
    packet.extend(from.port().to_be_bytes());
    packet.extend([0; 18]);
    packet
}
