//! Listening sockets, and how a connection comes about.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_reactor::{Address, ConnectOptions, ListenOptions, Program, Time, UnixName};

use crate::end::Owner;
use crate::errno;
use crate::fault::{Moment, Verdict};
use crate::host::{checked, plain};
use crate::state::{Occurrence, State};
use crate::trace::{Id, What};

/// How often a connect that nobody answers is tried again, each time after twice as long, from a second on
/// (`net.ipv4.tcp_syn_retries` of 6, tcp(7)): it fails after 127 s.
const SYN_RETRIES: u32 = 6;
const SYN_AGAIN: Duration = Duration::from_secs(1);
const SYN_GIVES_UP: Duration = Duration::from_secs((1 << (SYN_RETRIES + 1)) - 1);
/// How long a neighbour that is not there is asked for before a connect fails (`net.ipv4.neigh.default`: 3 probes of 1 s).
const UNREACHABLE_AFTER: Duration = Duration::from_secs(3);

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) host: usize,
    pub(crate) local: Address,
    options: ListenOptions,
    /// Who of its group gets a connection; kept by any of them.
    pub(crate) program: Option<Program>,
    /// Handles and listeners; the last one closes it.
    users: usize,
    pub(crate) queue: VecDeque<Id>,
    /// Of a live world: connects that found it full, in the order in which they came.
    knocking: VecDeque<Id>,
    /// Who waits, by the number of the listener at work.
    waiting: BTreeMap<Id, Waker>,
}

impl Socket {
    pub(crate) fn port(&self) -> u16 {
        self.local.inet().map_or(0, |at| at.port())
    }

    /// Whether others may listen on its port.
    pub(crate) fn shares_port(&self) -> bool {
        self.options.reuse_port && self.local.inet().is_some()
    }

    /// Handles and listeners of it.
    pub(crate) fn users(&self) -> usize {
        self.users
    }

    /// Whether this waker waits for a connection.
    pub(crate) fn has_waiting(&self, waker: &Waker) -> bool {
        self.waiting.values().any(|waiting| waiting.will_wake(waker))
    }

    /// Whether a connection to `to` is this socket's: 2 where it is named, 1 where it takes what comes.
    fn takes(&self, to: SocketAddr) -> u8 {
        let Address::Inet(at) = &self.local else { return 0 };
        match () {
            () if at.port() != to.port() => 0,
            () if plain(*at).ip() == to.ip() => 2,
            () if !at.ip().is_unspecified() => 0,
            () => u8::from(at.is_ipv4() == to.is_ipv4() || (at.is_ipv6() && !self.options.only_v6)),
        }
    }

    /// Whether both may not listen at once.
    fn excludes(&self, at: SocketAddr, options: &ListenOptions) -> bool {
        let Address::Inet(own) = &self.local else { return false };
        let dual = |at: &SocketAddr, only: bool| at.is_ipv6() && at.ip().is_unspecified() && !only;
        let any = own.ip().is_unspecified() || at.ip().is_unspecified();
        let meet =
            own.is_ipv4() == at.is_ipv4() || dual(own, self.options.only_v6) || dual(&at, options.only_v6);
        own.port() == at.port()
            && (own.ip() == at.ip() || (any && meet))
            && !(self.options.reuse_port && options.reuse_port)
    }
}

impl State {
    // ---- binding

    /// Makes `count` sockets, or so many users of one, that listen at once.
    pub(crate) fn bind(
        &mut self,
        host: usize,
        at: &Address,
        options: &ListenOptions,
        count: usize,
    ) -> Result<(Address, Vec<Id>), i32> {
        let local = match at {
            Address::Inet(at) => Address::Inet(self.bind_inet(host, *at, options)?),
            Address::Unix(name) => {
                checked(name)?;
                if self.hosts[host].unix.contains_key(name) {
                    return Err(errno::ADDRINUSE);
                }
                at.clone()
            }
        };
        let alone = !options.reuse_port || matches!(local, Address::Unix(_));
        let mut ids: Vec<Id> = Vec::new();
        for _ in 0..count {
            let made = match ids.first() {
                Some(&first) if alone => self.join_socket(first).map(|()| first),
                _ => self.open(host).map(|()| self.new_socket(host, &local, options)),
            };
            match made {
                Ok(id) => ids.push(id),
                Err(error) => {
                    ids.into_iter().for_each(|id| self.leave_socket(id));
                    return Err(error);
                }
            }
        }
        Ok((local, ids))
    }

    fn bind_inet(&mut self, host: usize, at: SocketAddr, options: &ListenOptions) -> Result<SocketAddr, i32> {
        if !at.ip().is_unspecified() && !self.hosts[host].has(at.ip()) {
            return Err(errno::ADDRNOTAVAIL);
        }
        let mut at = at;
        if at.port() == 0 {
            at.set_port(self.free_port(host).ok_or(errno::ADDRINUSE)?);
        }
        let taken = self.sockets.values().any(|socket| socket.host == host && socket.excludes(at, options));
        if taken || self.hosts[host].held.contains_key(&at) {
            return Err(errno::ADDRINUSE);
        }
        Ok(at)
    }

    fn new_socket(&mut self, host: usize, local: &Address, options: &ListenOptions) -> Id {
        let id = self.id();
        let (queue, knocking, waiting) = Default::default();
        let socket = Socket {
            host,
            local: local.clone(),
            options: *options,
            program: None,
            users: 1,
            queue,
            knocking,
            waiting,
        };
        let port = socket.port();
        if let Address::Unix(name) = local {
            self.hosts[host].unix.insert(name.clone(), id);
        }
        self.sockets.insert(id, socket);
        self.note(host, None, What::Listens { socket: id, port });
        id
    }

    /// One user more.
    pub(crate) fn join_socket(&mut self, id: Id) -> Result<(), i32> {
        let Some(socket) = self.sockets.get(&id) else { return Err(errno::NOTCONN) };
        self.open(socket.host)?;
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.users += 1;
        }
        Ok(())
    }

    /// One user less. Without any, who waits in the queue is reset.
    pub(crate) fn leave_socket(&mut self, id: Id) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let host = socket.host;
        socket.users -= 1;
        let over = socket.users == 0;
        self.shut_descriptor(host);
        if !over {
            return;
        }
        let Some(socket) = self.sockets.remove(&id) else { return };
        self.old.extend(socket.waiting.into_values());
        self.hosts[host].unix.retain(|_, socket| *socket != id);
        self.note(host, None, What::Unlistens { socket: id });
        for end in socket.queue {
            self.abort(end);
            self.close(end);
        }
        let again = socket.knocking.into_iter().map(|end| Occurrence::Syn { end, attempt: 1 });
        self.at_once.extend(again);
    }

    // ---- connecting

    /// Begins to connect. `at_once`: a foreign thread does, that cannot wait for a driver.
    pub(crate) fn connect(
        &mut self,
        host: usize,
        to: &Address,
        options: &ConnectOptions,
        at_once: bool,
    ) -> Result<Id, i32> {
        let local = match to {
            Address::Inet(to) => self.source_of(host, *to, options.from)?,
            Address::Unix(name) => {
                checked(name)?;
                Address::Unix(UnixName::Unnamed)
            }
        };
        self.open(host)?;
        let (to, port) = match to.inet() {
            Some(at) => (Address::Inet(at), at.port()),
            None => (to.clone(), 0),
        };
        let end = self.new_end(host, (local.clone(), to), 0, options.stream);
        if let (Some(_), Address::Inet(at)) = (options.from, &local) {
            self.hosts[host].held.insert(*at, end);
        }
        if let Some(known) = self.ends.get_mut(&end) {
            (known.connecting, known.owner) = (true, Owner::Handle);
        }
        self.note_end(end, What::Connects { end, port });
        self.set_out(end, at_once, 0);
        Ok(end)
    }

    /// The address that a connection comes from.
    fn source_of(&mut self, host: usize, to: SocketAddr, from: Option<SocketAddr>) -> Result<Address, i32> {
        let to = plain(to);
        if let Some(from) = from {
            if !self.hosts[host].has(from.ip()) {
                return Err(errno::ADDRNOTAVAIL);
            }
            let free = |state: &mut State| state.free_port(host).ok_or(errno::ADDRNOTAVAIL);
            let port = if from.port() == 0 { free(self)? } else { from.port() };
            let at = SocketAddr::new(from.ip(), port);
            let listens = self.sockets.values().any(|socket| socket.host == host && socket.takes(at) == 2);
            let taken = listens || self.hosts[host].held.contains_key(&at);
            return if taken { Err(errno::ADDRINUSE) } else { Ok(Address::Inet(at)) };
        }
        // Where it goes nowhere it comes from anywhere.
        let ip = self.hosts[host].source(to.ip());
        let port = self.free_port(host).ok_or(errno::ADDRNOTAVAIL)?;
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        Ok(Address::Inet(SocketAddr::new(ip.unwrap_or(any), port)))
    }

    /// The first packet is on its way, for the so many'th time from 0, or what stands in its way is known.
    pub(crate) fn set_out(&mut self, id: Id, at_once: bool, attempt: u32) {
        let Some(end) = self.ends.get(&id).filter(|end| end.connecting) else { return };
        let [from, to] = self.sides(end);
        let routed = match &end.peer {
            Address::Inet(at) if at.ip() == IpAddr::from([255; 4]) || at.ip().is_multicast() => {
                Err((errno::NETUNREACH, Duration::ZERO))
            }
            Address::Inet(at) => {
                self.route(end.host, at.ip()).map(drop).ok_or((errno::HOSTUNREACH, UNREACHABLE_AFTER))
            }
            Address::Unix(_) => Ok(()),
        };
        let mut wait = self.latency(from.0, to.0);
        let occurrence = match (routed, self.ask(Moment::Connect, from, to, None)) {
            (Err((error, after)), _) => {
                wait += after;
                Occurrence::Answer { end: id, error }
            }
            (Ok(()), Some((Verdict::Refuse, _))) => Occurrence::Answer { end: id, error: errno::CONNREFUSED },
            (Ok(()), Some((Verdict::Lose, _))) => Occurrence::Syn { end: id, attempt: u32::MAX },
            (Ok(()), Some((Verdict::Hold, _))) => {
                // Lost, and sent again after 1, 2, 4, … seconds; by then the partition may be over.
                wait = SYN_AGAIN * (1 << attempt);
                if attempt < SYN_RETRIES {
                    Occurrence::TryAgain { end: id, attempt: attempt + 1 }
                } else {
                    Occurrence::Answer { end: id, error: errno::TIMEDOUT }
                }
            }
            (Ok(()), Some((Verdict::Delay(by), _))) => {
                wait += by;
                Occurrence::Syn { end: id, attempt: 0 }
            }
            (Ok(()), _) => Occurrence::Syn { end: id, attempt: 0 },
        };
        if at_once { self.after(wait, occurrence) } else { self.later(self.now + wait, occurrence) }
    }

    /// A connect arrives where it goes. `attempt` is `u32::MAX` if nothing of it ever does.
    pub(crate) fn syn(&mut self, id: Id, attempt: u32) {
        // Given up meanwhile, it is none any more.
        let Some(end) = self.ends.get(&id).filter(|end| end.connecting) else { return };
        if attempt == u32::MAX {
            return self.after(SYN_GIVES_UP, Occurrence::Answer { end: id, error: errno::TIMEDOUT });
        }
        let is_unix = matches!(end.peer, Address::Unix(_));
        let [(from, _), (to, _)] = self.sides(end);
        let socket = match &end.peer {
            Address::Unix(name) => self.hosts[from].unix.get(name).copied(),
            Address::Inet(at) => {
                let (at, from) = (*at, end.local.inet());
                self.listener(to, at, from)
            }
        };
        let latency = self.latency(to, from);
        let Some(socket) = socket else {
            let error = if is_unix { errno::NOENT } else { errno::CONNREFUSED };
            return self.after(latency, Occurrence::Answer { end: id, error });
        };
        if self.is_full(socket) {
            return self.find_full(id, socket, attempt);
        }
        self.enqueue(id, socket, self.now + latency);
        self.after(latency, Occurrence::Answer { end: id, error: 0 });
    }

    /// A connect finds no room in a queue.
    fn find_full(&mut self, id: Id, socket: Id, attempt: u32) {
        let Some(end) = self.ends.get(&id) else { return };
        // Of a Unix socket only a thread that may block waits for room (unix(7), connect(2)).
        if end.inet().is_none() && end.owner != Owner::Handle {
            let latency = self.latency(end.host, end.host);
            return self.after(latency, Occurrence::Answer { end: id, error: errno::BUSY });
        }
        let now = self.now;
        if self.live {
            // Comes in as soon as there is room, which happens at once and with or without a driver.
            if let Some(socket) = self.sockets.get_mut(&socket) {
                socket.knocking.push_back(id);
            }
            if attempt == 0 {
                self.later(now + SYN_GIVES_UP, Occurrence::Answer { end: id, error: errno::TIMEDOUT });
            }
        } else if attempt == SYN_RETRIES {
            let last = SYN_AGAIN * (1 << SYN_RETRIES);
            self.later(now + last, Occurrence::Answer { end: id, error: errno::TIMEDOUT });
        } else {
            let again = Occurrence::Syn { end: id, attempt: attempt + 1 };
            self.later(now + SYN_AGAIN * (1 << attempt), again);
        }
    }

    /// There is room in a queue: the first that knocked and is still there comes in.
    fn let_in(&mut self, socket: Id) {
        while let Some(end) = self.sockets.get_mut(&socket).and_then(|socket| socket.knocking.pop_front()) {
            if self.ends.get(&end).is_some_and(|end| end.connecting) {
                return self.at_once.push_back(Occurrence::Syn { end, attempt: 1 });
            }
        }
    }

    /// The socket that gets a connection to `at`.
    fn listener(&mut self, host: usize, at: SocketAddr, from: Option<SocketAddr>) -> Option<Id> {
        let of = |state: &State, rank: u8| -> Vec<Id> {
            let own = state.sockets.iter().filter(|(_, socket)| socket.host == host);
            own.filter(|(_, socket)| socket.takes(at) == rank).map(|(id, _)| *id).collect()
        };
        let named = of(self, 2);
        let group = if named.is_empty() { of(self, 1) } else { named };
        self.of_group(&group, from?)
    }

    /// The kernel lets one more wait than was asked for (tcp(7), listen(2)).
    fn is_full(&self, socket: Id) -> bool {
        self.sockets.get(&socket).is_none_or(|socket| socket.queue.len() > socket.options.backlog as usize)
    }

    /// Makes the accepting end, whose answer arrives at `answer`, and nothing before it.
    fn enqueue(&mut self, client: Id, socket: Id, answer: Time) {
        let (Some(listening), Some(end)) = (self.sockets.get(&socket), self.ends.get(&client)) else {
            return;
        };
        let (host, stream) = (listening.host, listening.options.stream);
        let sides = (end.peer.clone(), end.local.clone());
        let id = self.new_end(host, sides, client, stream);
        self.delay(id, answer);
        if let Some(end) = self.ends.get_mut(&client) {
            end.other = id;
        }
        self.note(host, None, What::Queued { end: id, from: client, socket });
        if let Some(listening) = self.sockets.get_mut(&socket) {
            listening.queue.push_back(id);
            let waiting = std::mem::take(&mut listening.waiting);
            self.wakes.extend(waiting.into_values());
        }
    }

    pub(crate) fn answered(&mut self, id: Id, error: i32) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if !std::mem::replace(&mut end.connecting, false) || end.is_over() {
            return;
        }
        if error != 0 {
            end.error = Some(error);
            end.out.clear();
        }
        self.note_end(id, What::Answered { end: id, error });
        self.wake_reader(id);
        self.wake_writer(id);
        self.transmit(id);
    }

    // ---- accepting

    /// Takes a connection out of a queue; `listener` waits if there is none.
    pub(crate) fn accept(
        &mut self,
        socket: Id,
        listener: Id,
        cx: Option<&Context<'_>>,
    ) -> Poll<Result<(Id, Address), i32>> {
        let Some(listening) = self.sockets.get_mut(&socket) else {
            return Poll::Ready(Err(errno::NOTCONN));
        };
        let (host, length) = (listening.host, listening.queue.len());
        if length == 0 {
            if let Some(cx) = cx {
                let before = listening.waiting.insert(listener, cx.waker().clone());
                self.old.extend(before);
            }
            return Poll::Pending;
        }
        if let Err(error) = self.may_accept(socket) {
            self.note(host, None, What::AcceptFailed { error });
            return Poll::Ready(Err(error));
        }
        let shuffled = self.chance(|options| options.accept_shuffled);
        let place = if shuffled { self.random.place(length) } else { 0 };
        let queued = self.sockets.get_mut(&socket).and_then(|listening| listening.queue.remove(place));
        let Some(end) = queued.and_then(|id| Some((id, self.ends.get_mut(&id)?))) else {
            // It was reset and buried while it waited.
            self.shut_descriptor(host);
            return Poll::Ready(Err(errno::CONNABORTED));
        };
        let (id, end) = end;
        end.owner = Owner::Handle;
        let peer = end.peer.clone();
        self.let_in(socket);
        self.note_end(id, What::Accepted { end: id });
        Poll::Ready(Ok((id, peer)))
    }

    /// Takes a descriptor for the next connection, unless a rule is against it.
    fn may_accept(&mut self, socket: Id) -> Result<(), i32> {
        let Some(listening) = self.sockets.get(&socket) else { return Err(errno::NOTCONN) };
        let (host, local) = (listening.host, listening.local.inet());
        let from = listening.queue.front().and_then(|end| self.ends.get(end)).map(|end| end.peer.inet());
        let peer = from.flatten();
        let at = peer.and_then(|peer| self.route(host, peer.ip())).unwrap_or(host);
        if let Some((Verdict::AcceptFails(error), _)) =
            self.ask(Moment::Accept, (at, peer), (host, local), None)
        {
            return Err(error);
        }
        self.open(host)
    }

    /// A listener at work waits no more.
    pub(crate) fn wait_no_more(&mut self, socket: Id, listener: Id) {
        let before = self.sockets.get_mut(&socket).and_then(|socket| socket.waiting.remove(&listener));
        self.old.extend(before);
    }

    /// What a socket was bound with.
    pub(crate) fn socket_options(&self, socket: Id) -> (Address, ListenOptions) {
        let unnamed = || (Address::Unix(UnixName::Unnamed), ListenOptions::default());
        self.sockets.get(&socket).map_or_else(unnamed, |socket| (socket.local.clone(), socket.options))
    }
}
