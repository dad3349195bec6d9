//! Datagram sockets of the world: binding, sending, what may happen on the way, receiving.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::{
    Address, Congestion, Datagram, DatagramOptions, Outgoing, Program, Time, UnixName, Via,
};

use crate::errno;
use crate::fault::{Moment, Verdict};
use crate::host::{checked, plain};
use crate::state::{Occurrence, State};
use crate::trace::{Hash, Id, What};

/// What waits in a socket, in bytes, where it does not say (`net.core.rmem_default`).
const RECEIVE_BUFFER: usize = 208 << 10;
/// The same over Unix names, in datagrams (`net.unix.max_dgram_qlen` of 10: a sender waits above it).
const UNIX_QUEUE: usize = 10;
/// The most that one carries (RFC 768 over RFC 791: 65 535 bytes less both headers).
const BYTES_MAX: usize = 65_507;
/// As many segments as Linux cuts a send into.
pub(crate) const SEGMENTS_MAX: usize = 64;

/// A datagram socket.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) host: usize,
    pub(crate) local: Address,
    peer: Option<Address>,
    options: DatagramOptions,
    /// Who of its group gets a datagram; kept by any of them.
    pub(crate) program: Option<Program>,
    /// Handles and sockets at work; the last one closes it.
    users: usize,
    queue: VecDeque<Packet>,
    queued: usize,
    /// Datagrams that found no room here.
    pub(crate) discarded: u32,
    /// Of a connected one: what came back of what it sent.
    error: Option<i32>,
    /// Before then nothing that it sent arrives, unless it is shuffled.
    arrival: Time,
    /// Who waits for a datagram, by the number of the socket at work.
    readers: BTreeMap<Id, Waker>,
    /// Over Unix names: who waits for room here. Else: who waits for room to send.
    writers: BTreeMap<Id, Waker>,
}

/// A datagram under way, or in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// The socket that sent it.
    sender: Id,
    from: Address,
    /// Where it goes to; `None`: it went over a Unix name, and is there.
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
    congestion: Congestion,
}

impl Outlet {
    fn port(&self) -> u16 {
        self.local.inet().map_or(0, |at| at.port())
    }

    pub(crate) fn users(&self) -> usize {
        self.users
    }

    /// Whether this waker waits for a datagram, or for room.
    pub(crate) fn has_waiting(&self, waker: &Waker) -> bool {
        self.readers.values().chain(self.writers.values()).any(|waiting| waiting.will_wake(waker))
    }

    fn shares_port(&self) -> bool {
        self.options.reuse_port && self.local.inet().is_some()
    }

    /// How well it suits a datagram: 0 where it is not meant, 3 where only this peer is.
    fn takes(&self, from: SocketAddr, to: SocketAddr) -> u8 {
        let Address::Inet(at) = &self.local else { return 0 };
        let named = match () {
            () if at.port() != to.port() => return 0,
            () if plain(*at).ip() == to.ip() => 2,
            () if !at.ip().is_unspecified() => return 0,
            () if at.is_ipv4() == to.is_ipv4() || (at.is_ipv6() && !self.options.only_v6) => 1,
            () => return 0,
        };
        match &self.peer {
            Some(peer) if peer.inet() == Some(from) => 3,
            Some(_) => 0,
            None => named,
        }
    }

    /// Whether both may not be bound, but in one group.
    fn excludes(&self, at: SocketAddr, only_v6: bool) -> bool {
        let Address::Inet(own) = &self.local else { return false };
        let dual = |at: &SocketAddr, only: bool| at.is_ipv6() && at.ip().is_unspecified() && !only;
        let any = own.ip().is_unspecified() || at.ip().is_unspecified();
        let meet = own.is_ipv4() == at.is_ipv4() || dual(own, self.options.only_v6) || dual(&at, only_v6);
        own.port() == at.port() && (own.ip() == at.ip() || (any && meet))
    }
}

/// A program's socket of a group, or one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// With others that are bound in the same call.
    Group,
    /// With nobody.
    Alone,
}

impl State {
    // ---- binding

    /// Makes `count` sockets, or so many users of one.
    pub(crate) fn bind_datagrams(
        &mut self,
        host: usize,
        at: &Address,
        options: &DatagramOptions,
        (sharing, count): (Sharing, usize),
    ) -> Result<(Address, Vec<Id>), i32> {
        let reuse_port = options.reuse_port && sharing == Sharing::Group && matches!(at, Address::Inet(_));
        let options = DatagramOptions { reuse_port, ..*options };
        let local = match at {
            Address::Inet(at) => Address::Inet(self.datagram_address(host, *at, &options)?),
            Address::Unix(name) => {
                checked(name)?;
                if self.outlet_named(host, at).is_some() {
                    return Err(errno::ADDRINUSE);
                }
                at.clone()
            }
        };
        let mut ids: Vec<Id> = Vec::new();
        for _ in 0..count {
            let made = match ids.first() {
                Some(&first) if !reuse_port => self.join_outlet(first).map(|()| first),
                _ => self.open(host).map(|()| self.new_outlet(host, &local, None, &options)),
            };
            match made {
                Ok(id) => ids.push(id),
                Err(error) => {
                    ids.into_iter().for_each(|id| self.leave_outlet(id));
                    return Err(error);
                }
            }
        }
        Ok((local, ids))
    }

    /// A socket with one peer.
    pub(crate) fn connect_datagrams(
        &mut self,
        host: usize,
        to: &Address,
        options: &DatagramOptions,
    ) -> Result<Id, i32> {
        let options = DatagramOptions { reuse_port: false, ..*options };
        let local = match to {
            Address::Inet(at) => {
                let ip = self.hosts[host].source(plain(*at).ip()).ok_or(errno::NETUNREACH)?;
                Address::Inet(self.datagram_address(host, SocketAddr::new(ip, 0), &options)?)
            }
            Address::Unix(name) => {
                checked(name)?;
                self.outlet_named(host, to).ok_or(errno::CONNREFUSED)?;
                // As the kernel chooses one (unix(7), "Autobind feature").
                Address::Unix(UnixName::Abstract(format!("{:05x}", self.id()).into_bytes()))
            }
        };
        self.open(host)?;
        Ok(self.new_outlet(host, &local, Some(to.clone()), &options))
    }

    fn datagram_address(
        &mut self,
        host: usize,
        mut at: SocketAddr,
        options: &DatagramOptions,
    ) -> Result<SocketAddr, i32> {
        if !at.ip().is_unspecified() && !self.hosts[host].has(at.ip()) {
            return Err(errno::ADDRNOTAVAIL);
        }
        if at.port() == 0 {
            let taken: Vec<u16> =
                self.outlets.values().filter(|outlet| outlet.host == host).map(Outlet::port).collect();
            let free = self.hosts[host].next_port(|port| taken.contains(&port));
            at.set_port(free.ok_or(errno::ADDRINUSE)?);
        }
        // Whoever is there shares with those alone that were bound in the same call.
        let taken =
            self.outlets.values().any(|outlet| outlet.host == host && outlet.excludes(at, options.only_v6));
        if taken { Err(errno::ADDRINUSE) } else { Ok(at) }
    }

    fn new_outlet(
        &mut self,
        host: usize,
        local: &Address,
        peer: Option<Address>,
        options: &DatagramOptions,
    ) -> Id {
        let id = self.id();
        let (queue, readers, writers) = Default::default();
        let outlet = Outlet {
            host,
            local: local.clone(),
            peer,
            options: *options,
            program: None,
            users: 1,
            queue,
            queued: 0,
            discarded: 0,
            error: None,
            arrival: Time::ZERO,
            readers,
            writers,
        };
        let port = outlet.port();
        self.outlets.insert(id, outlet);
        self.note(host, None, What::Binds { socket: id, port });
        id
    }

    fn join_outlet(&mut self, id: Id) -> Result<(), i32> {
        let Some(outlet) = self.outlets.get(&id) else { return Err(errno::NOTCONN) };
        self.open(outlet.host)?;
        if let Some(outlet) = self.outlets.get_mut(&id) {
            outlet.users += 1;
        }
        Ok(())
    }

    /// One user less. Without any, what waits in it is gone, and who waits for room learns that nobody is there.
    pub(crate) fn leave_outlet(&mut self, id: Id) {
        let Some(outlet) = self.outlets.get_mut(&id) else { return };
        let host = outlet.host;
        outlet.users -= 1;
        let over = outlet.users == 0;
        self.shut_descriptor(host);
        if !over {
            return;
        }
        let Some(outlet) = self.outlets.remove(&id) else { return };
        self.old.extend(outlet.readers.into_values());
        self.wakes.extend(outlet.writers.into_values());
        self.note(host, None, What::Unbinds { socket: id });
    }

    fn outlet_named(&self, host: usize, name: &Address) -> Option<Id> {
        let named = |outlet: &Outlet| outlet.host == host && outlet.local == *name;
        self.outlets.iter().find(|(_, outlet)| named(outlet)).map(|(id, _)| *id)
    }

    /// A socket at work waits no more.
    pub(crate) fn outlet_waits_no_more(&mut self, id: Id, user: Id) {
        for outlet in self.outlets.values_mut() {
            self.old.extend(outlet.writers.remove(&user));
        }
        if let Some(outlet) = self.outlets.get_mut(&id) {
            self.old.extend(outlet.readers.remove(&user));
        }
    }

    pub(crate) fn outlet(&self, id: Id) -> Option<(Address, DatagramOptions)> {
        self.outlets.get(&id).map(|outlet| (outlet.local.clone(), outlet.options))
    }

    /// Lets a program choose among the sockets that share the first one's port.
    pub(crate) fn steer_datagrams(&mut self, first: Id, program: &Program) -> Result<(), i32> {
        let Some(outlet) = self.outlets.get_mut(&first) else { return Err(errno::NOTCONN) };
        if !outlet.shares_port() {
            return Err(errno::INVAL);
        }
        outlet.program = Some(program.clone());
        Ok(())
    }

    // ---- sending

    /// Sends some of them; answers how many.
    pub(crate) fn send_datagrams(
        &mut self,
        id: Id,
        user: Id,
        outgoing: &[Outgoing<'_>],
        cx: &Context<'_>,
    ) -> Poll<Result<usize, i32>> {
        for (count, one) in outgoing.iter().enumerate() {
            match self.send_datagram(id, user, one, cx) {
                Poll::Ready(Ok(())) => {}
                _ if count > 0 => return Poll::Ready(Ok(count)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(outgoing.len()))
    }

    fn send_datagram(
        &mut self,
        id: Id,
        user: Id,
        one: &Outgoing<'_>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), i32>> {
        let Some(outlet) = self.outlets.get_mut(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        // Told once, and instead of sending.
        if let Some(error) = outlet.error.take() {
            return Poll::Ready(Err(error));
        }
        let (host, local) = (outlet.host, outlet.local.clone());
        let Some(to) = one.to.cloned().or_else(|| outlet.peer.clone()) else {
            return Poll::Ready(Err(errno::DESTADDRREQ));
        };
        let segment = one.segment.unwrap_or(one.bytes.len().max(1));
        if one.bytes.len() > BYTES_MAX {
            return Poll::Ready(Err(errno::MSGSIZE));
        }
        if segment == 0 || one.bytes.len().div_ceil(segment) > SEGMENTS_MAX {
            return Poll::Ready(Err(errno::INVAL));
        }
        let (from, to) = match (&local, &to) {
            (Address::Unix(_), Address::Unix(_)) => return self.send_to_name(id, user, one.bytes, &to, cx),
            (Address::Inet(local), Address::Inet(to)) => match self.ends_of(host, *local, *to, one.from) {
                Ok(ends) => ends,
                Err(error) => return Poll::Ready(Err(error)),
            },
            _ => return Poll::Ready(Err(errno::INVAL)),
        };
        if self.chance(|options| options.datagram_waits) {
            return self.wait_to_send(id, user, cx);
        }
        let from = Address::Inet(from);
        let packet = |bytes: &[u8]| Packet {
            sender: id,
            from: from.clone(),
            to: Some(to),
            bytes: bytes.to_vec(),
            congestion: one.congestion,
        };
        if one.bytes.is_empty() {
            self.set_off(host, packet(&[]));
        }
        one.bytes.chunks(segment).for_each(|bytes| self.set_off(host, packet(bytes)));
        Poll::Ready(Ok(()))
    }

    /// The queue towards the network is full for a moment.
    fn wait_to_send(&mut self, id: Id, user: Id, cx: &Context<'_>) -> Poll<Result<(), i32>> {
        let Some(outlet) = self.outlets.get_mut(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        let (host, before) = (outlet.host, outlet.writers.insert(user, cx.waker().clone()));
        self.old.extend(before);
        let moment = self.latency(host, host);
        self.after(moment, Occurrence::OutletRoom { socket: id });
        Poll::Pending
    }

    /// There is room again.
    pub(crate) fn outlet_room(&mut self, id: Id) {
        let Some(outlet) = self.outlets.get_mut(&id) else { return };
        self.wakes.extend(std::mem::take(&mut outlet.writers).into_values());
    }

    /// Where a datagram comes from and goes to.
    fn ends_of(
        &self,
        host: usize,
        local: SocketAddr,
        to: SocketAddr,
        via: Option<Via>,
    ) -> Result<(SocketAddr, SocketAddr), i32> {
        let to = plain(to);
        let usual = self.hosts[host].source(to.ip()).ok_or(errno::NETUNREACH)?;
        let ip = match via {
            Some(via) if !self.hosts[host].has(via.address) => return Err(errno::INVAL),
            Some(via) => via.address.to_canonical(),
            None if local.ip().is_unspecified() => usual,
            None => plain(local).ip(),
        };
        let to_ip = if to.ip().is_unspecified() { loopback(to.ip()) } else { to.ip() };
        Ok((SocketAddr::new(ip, local.port()), SocketAddr::new(to_ip, to.port())))
    }

    /// Unix sockets are on one machine: a datagram is there at once, or has no room.
    fn send_to_name(
        &mut self,
        id: Id,
        user: Id,
        bytes: &[u8],
        to: &Address,
        cx: &Context<'_>,
    ) -> Poll<Result<(), i32>> {
        let Some(sender) = self.outlets.get(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        let (host, from, connected) = (sender.host, sender.local.clone(), sender.peer.is_some());
        let Some(there) = self.outlet_named(host, to) else { return Poll::Ready(Err(errno::CONNREFUSED)) };
        if let Some(receiver) = self.outlets.get_mut(&there)
            && receiver.queue.len() > UNIX_QUEUE
        {
            if !connected {
                return Poll::Ready(Err(errno::BUSY));
            }
            let before = receiver.writers.insert(user, cx.waker().clone());
            self.old.extend(before);
            return Poll::Pending;
        }
        let (bytes, congestion) = (bytes.to_vec(), Congestion::NotCapable);
        self.come(there, Packet { sender: id, from, to: None, bytes, congestion });
        Poll::Ready(Ok(()))
    }

    /// A datagram leaves its host: rules and chance say what becomes of it.
    fn set_off(&mut self, host: usize, packet: Packet) {
        let (from, Some(to)) = (packet.from.inet(), packet.to) else { return };
        let mut hash = Hash::START;
        hash.bytes(packet.bytes.iter().copied());
        let (socket, bytes) = (packet.sender, packet.bytes.len());
        self.note(host, None, What::Sent { socket, bytes, hash: hash.value() });
        let there = self.route(host, to.ip());
        let verdict = self.ask(Moment::Datagram, (host, from), (there.unwrap_or(usize::MAX), Some(to)), None);
        let late = match verdict {
            Some((Verdict::Delay(late), _)) => late,
            Some((Verdict::Refuse, _)) => {
                let back = self.latency(host, host);
                return self.after(back, Occurrence::Unreachable { socket });
            }
            // Lost, or a partition holds it back: nobody sends a datagram again.
            Some(_) => return self.lose(host, socket, bytes),
            None => std::time::Duration::ZERO,
        };
        let Some(there) = there else { return self.lose(host, socket, bytes) };
        if self.chance(|options| options.datagram_lost) {
            return self.lose(host, socket, bytes);
        }
        if self.chance(|options| options.datagram_doubled) {
            let again = self.latency(host, there) + late;
            self.after(again, Occurrence::Datagram { there, packet: packet.clone() });
        }
        let shuffled = self.chance(|options| options.datagram_shuffled);
        let mut at = self.now + self.latency(host, there) + late;
        if let Some(sender) = self.outlets.get_mut(&socket).filter(|_| !shuffled) {
            at = at.max(sender.arrival);
            sender.arrival = at;
        }
        self.at(at, Occurrence::Datagram { there, packet });
    }

    fn lose(&mut self, host: usize, socket: Id, bytes: usize) {
        self.note(host, None, What::Lost { socket, bytes });
    }

    // ---- arriving

    /// A datagram comes to a host.
    pub(crate) fn datagram(&mut self, there: usize, packet: Packet) {
        let (Some(from), Some(to)) = (packet.from.inet(), packet.to) else { return };
        let suits = |outlet: &Outlet| if outlet.host == there { outlet.takes(from, to) } else { 0 };
        let best = self.outlets.values().map(suits).max().unwrap_or(0);
        let group: Vec<Id> = self
            .outlets
            .iter()
            .filter(|(_, outlet)| best > 0 && suits(outlet) == best)
            .map(|(id, _)| *id)
            .collect();
        match self.outlet_of_group(&group, from) {
            Some(id) => self.come(id, packet),
            // ICMP, port unreachable (RFC 1122, 3.2.2.1).
            None => {
                let Some(sender) = self.outlets.get(&packet.sender) else { return };
                let back = self.latency(there, sender.host);
                self.after(back, Occurrence::Unreachable { socket: packet.sender });
            }
        }
    }

    /// Nobody is where a socket sent to; connected ones alone are told (RFC 1122, 4.1.3.3).
    pub(crate) fn unreachable(&mut self, socket: Id) {
        let Some(outlet) = self.outlets.get_mut(&socket).filter(|outlet| outlet.peer.is_some()) else {
            return;
        };
        outlet.error = Some(errno::CONNREFUSED);
        self.wakes.extend(std::mem::take(&mut outlet.readers).into_values());
    }

    /// A datagram comes to its socket, and is lost if that is full.
    fn come(&mut self, id: Id, packet: Packet) {
        let Some(outlet) = self.outlets.get_mut(&id) else { return };
        let (host, bytes) = (outlet.host, packet.bytes.len());
        let most = outlet.options.receive_buffer.unwrap_or(RECEIVE_BUFFER);
        if outlet.queued > most {
            outlet.discarded = outlet.discarded.wrapping_add(1);
            return self.lose(host, id, bytes);
        }
        // What keeping it takes beside its bytes.
        outlet.queued += bytes + 256;
        outlet.queue.push_back(packet);
        self.wakes.extend(std::mem::take(&mut outlet.readers).into_values());
        self.note(host, None, What::Came { socket: id, bytes });
    }

    /// Hands over what waits, as much as `take` wants.
    pub(crate) fn receive_datagrams(
        &mut self,
        id: Id,
        user: Id,
        most: usize,
        cx: &Context<'_>,
        take: &mut dyn FnMut(usize, Datagram, &[u8]),
    ) -> Poll<Result<usize, i32>> {
        let Some(outlet) = self.outlets.get_mut(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
        if let Some(error) = outlet.error.take() {
            return Poll::Ready(Err(error));
        }
        let mut count = 0;
        while count < most
            && let Some(packet) = outlet.queue.pop_front()
        {
            outlet.queued -= packet.bytes.len() + 256;
            let via = packet.to.map(|to| Via { address: to.ip(), interface: 0 });
            let from = seen_by(&outlet.local, packet.from);
            let (size, congestion) = (packet.bytes.len(), packet.congestion);
            take(count, Datagram { from, size, segment: None, via, congestion }, &packet.bytes);
            count += 1;
        }
        if count == 0 {
            let before = outlet.readers.insert(user, cx.waker().clone());
            self.old.extend(before);
            return Poll::Pending;
        }
        self.wakes.extend(std::mem::take(&mut outlet.writers).into_values());
        Poll::Ready(Ok(count))
    }
}

/// A peer's address as a socket of both families shows it.
fn seen_by(local: &Address, from: Address) -> Address {
    match (local, &from) {
        (Address::Inet(SocketAddr::V6(_)), Address::Inet(SocketAddr::V4(four))) => {
            Address::Inet(SocketAddr::new(four.ip().to_ipv6_mapped().into(), four.port()))
        }
        _ => from,
    }
}

/// "Every address", as one to send to, is this machine's own.
fn loopback(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}
