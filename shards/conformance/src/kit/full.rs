//! A place where connecting takes for ever.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use waterwheel_reactor::Address;

/// A listening TCP socket whose backlog is full, so that the kernel drops each further SYN: a connect to it stays in
/// progress for as long as this lives and the kernel goes on trying.
#[derive(Debug)]
pub(crate) struct Full {
    at: SocketAddr,
    _listening: Socket,
    _queued: Vec<Socket>,
}

impl Full {
    /// Listens on the loopback and fills the backlog.
    pub(crate) fn new() -> Full {
        let listening = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listening.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        listening.listen(0).expect("listening");
        let address = listening.local_addr().expect("a bound socket");
        let mut queued = Vec::new();
        // A backlog of 0 takes one connection; a kernel that takes more than a few does not limit it at all.
        while queued.len() < 16 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            if socket.connect_timeout(&address, Duration::from_millis(200)).is_err() {
                let at = address.as_socket().expect("an internet address");
                return Full { at, _listening: listening, _queued: queued };
            }
            queued.push(socket);
        }
        panic!("the kernel does not limit a backlog");
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        Address::Inet(self.at)
    }
}
