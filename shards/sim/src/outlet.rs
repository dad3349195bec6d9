//! The seam's datagram sockets of one shard.

use std::io::{self, IoSliceMut};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use waterwheel_reactor::{
    Address, BoundDatagrams, Datagram, DatagramOptions, DatagramSocket, Datagrams, Handle, Outgoing, Virtual,
    VirtualSocket,
};

use crate::datagrams::{SEGMENTS_MAX, Sharing};
use crate::errno;
use crate::reactor::{SimReactor, opened};
use crate::state::Shared;
use crate::trace::Id;

impl SimReactor {
    fn outlet(&self, socket: Id) -> io::Result<Box<dyn DatagramSocket>> {
        let id = self.shared.with(|state| state.id());
        self.outlets.borrow_mut().push((socket, id));
        Ok(Box::new(SimDatagrams { reactor: self.me()?, socket, id, released: false }))
    }
}

impl Datagrams for SimReactor {
    fn serve(&self, bound: BoundDatagrams) -> io::Result<Box<dyn DatagramSocket>> {
        self.me()?;
        let loose = opened::<LooseDatagrams>(bound.handle)?;
        self.outlet(loose.take())
    }

    fn bind(&self, at: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>> {
        self.me()?;
        let bound =
            self.shared.with(|state| state.bind_datagrams(self.host, at, options, (Sharing::Alone, 1)));
        let (_, sockets) = bound.map_err(errno::error)?;
        self.outlet(*sockets.first().ok_or_else(|| errno::error(errno::INVAL))?)
    }

    fn connect(&self, to: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>> {
        self.me()?;
        let socket = self.shared.with(|state| state.connect_datagrams(self.host, to, options));
        self.outlet(socket.map_err(errno::error)?)
    }
}

/// A datagram socket that no shard serves. Dropping it closes it.
pub(crate) struct LooseDatagrams {
    shared: Arc<Shared>,
    socket: Id,
    taken: bool,
}

impl LooseDatagrams {
    pub(crate) fn handle(shared: &Arc<Shared>, socket: Id) -> Handle {
        Handle::Virtual(Virtual::new(LooseDatagrams { shared: shared.clone(), socket, taken: false }))
    }

    /// The socket that a handle stands for.
    pub(crate) fn socket_of(handle: &Handle) -> Option<Id> {
        match handle {
            Handle::Virtual(socket) => socket.look::<LooseDatagrams>().map(|loose| loose.socket),
            Handle::Os(_) => None,
        }
    }

    fn take(mut self) -> Id {
        self.taken = true;
        self.socket
    }
}

impl VirtualSocket for LooseDatagrams {}

impl Drop for LooseDatagrams {
    fn drop(&mut self) {
        if !self.taken {
            self.shared.with(|state| state.leave_outlet(self.socket));
        }
    }
}

/// A datagram socket at work.
#[derive(Debug)]
struct SimDatagrams {
    reactor: Rc<SimReactor>,
    socket: Id,
    id: Id,
    released: bool,
}

impl SimDatagrams {
    /// Whether it was the reactor's until now.
    fn leaves(&self) -> bool {
        let mut outlets = self.reactor.outlets.borrow_mut();
        let place = outlets.iter().position(|outlet| *outlet == (self.socket, self.id));
        place.map(|place| outlets.swap_remove(place)).is_some()
    }
}

impl DatagramSocket for SimDatagrams {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        found: &mut [Datagram],
    ) -> Poll<io::Result<usize>> {
        self.reactor.me()?;
        let most = buffers.len().min(found.len());
        if most == 0 {
            return Poll::Ready(Err(errno::error(errno::INVAL)));
        }
        let take = &mut |at: usize, datagram: Datagram, bytes: &[u8]| {
            let count = bytes.len().min(buffers[at].len());
            buffers[at][..count].copy_from_slice(&bytes[..count]);
            found[at] = datagram;
        };
        let shared = &self.reactor.shared;
        let received = shared.with(|state| state.receive_datagrams(self.socket, self.id, most, cx, take));
        received.map_err(errno::error)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, outgoing: &[Outgoing<'_>]) -> Poll<io::Result<usize>> {
        self.reactor.me()?;
        if outgoing.is_empty() {
            return Poll::Ready(Err(errno::error(errno::INVAL)));
        }
        let shared = &self.reactor.shared;
        let sent = shared.with(|state| state.send_datagrams(self.socket, self.id, outgoing, cx));
        sent.map_err(errno::error)
    }

    fn segments_max(&self) -> usize {
        SEGMENTS_MAX
    }

    fn merge(&mut self, _: bool) -> bool {
        false
    }

    fn discarded(&self) -> Option<u32> {
        self.reactor.shared.with(|state| state.outlets.get(&self.socket).map(|outlet| outlet.discarded))
    }

    fn local(&self) -> io::Result<Address> {
        let known = self.reactor.shared.with(|state| state.outlet(self.socket));
        known.map(|(local, _)| local).ok_or_else(|| errno::error(errno::NOTCONN))
    }

    fn release(mut self: Box<Self>) -> io::Result<BoundDatagrams> {
        self.released = true;
        let shared = &self.reactor.shared;
        if !self.leaves() {
            return Err(errno::error(errno::NOTCONN));
        }
        let known = shared.with(|state| {
            state.outlet_waits_no_more(self.socket, self.id);
            state.outlet(self.socket)
        });
        let (local, options) = known.ok_or_else(|| errno::error(errno::NOTCONN))?;
        Ok(BoundDatagrams { local, handle: LooseDatagrams::handle(shared, self.socket), options })
    }
}

impl Drop for SimDatagrams {
    fn drop(&mut self) {
        if !self.released && self.leaves() {
            self.reactor.shared.with(|state| {
                state.outlet_waits_no_more(self.socket, self.id);
                state.leave_outlet(self.socket);
            });
        }
    }
}
