//! What a socket is asked to do. Every field has a default that suits a proxy.

use std::net::SocketAddr;
use std::time::Duration;

/// Options of one connection, accepted or connected. The TCP ones are ignored on Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// `TCP_NODELAY`: send small messages at once (RFC 896 off). Default true.
    pub nodelay: bool,
    /// `SO_KEEPALIVE` with this idle time and a tenth of it between probes; `None`: off. Default `None`.
    pub keepalive: Option<Duration>,
    /// `SO_RCVBUF` in bytes; `None`: the kernel tunes it.
    pub receive_buffer: Option<usize>,
    /// `SO_SNDBUF` in bytes; `None`: the kernel tunes it.
    pub send_buffer: Option<usize>,
}

impl Default for StreamOptions {
    fn default() -> StreamOptions {
        StreamOptions { nodelay: true, keepalive: None, receive_buffer: None, send_buffer: None }
    }
}

/// Options of [`Backend::bind`](crate::Backend::bind).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted, per socket; the kernel caps it at `net.core.somaxconn`.
    /// Default 4 096.
    pub backlog: u32,
    /// Share the port among `count` sockets (`SO_REUSEPORT`), so that the kernel spreads connections over them.
    /// Default true; without it all `Bound`s are duplicates of one socket.
    pub reuse_port: bool,
    /// For an IPv6 address: refuse IPv4 clients (`IPV6_V6ONLY`). Default false: dual stack.
    pub only_v6: bool,
    /// With `reuse_port`: this program listens already at an address that this one covers or is covered by, and will give
    /// it up, so that it is no reason to refuse. Connections go to the more exact one while there are both. Default false:
    /// the port is in use, whoever has it.
    pub beside_own: bool,
    /// What accepted connections inherit.
    pub stream: StreamOptions,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 4096,
            reuse_port: true,
            only_v6: false,
            beside_own: false,
            stream: StreamOptions::default(),
        }
    }
}

/// Options of [`Reactor::connect`](crate::Reactor::connect).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The address to come from; port 0 lets the kernel choose one (`IP_BIND_ADDRESS_NO_PORT`).
    pub from: Option<SocketAddr>,
    /// What the connection is asked to do.
    pub stream: StreamOptions,
}

/// Options of [`Backend::bind_datagrams`](crate::Backend::bind_datagrams) and of a reactor's
/// [datagram sockets](crate::Datagrams).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramOptions {
    /// Share the port among `count` sockets (`SO_REUSEPORT`), so that the kernel spreads peers over them. Default true;
    /// without it all are duplicates of one socket, whose datagrams go to whichever shard is first.
    pub reuse_port: bool,
    /// For an IPv6 address: refuse IPv4 peers (`IPV6_V6ONLY`). Default false: dual stack.
    pub only_v6: bool,
    /// May send to broadcast addresses (`SO_BROADCAST`). Default false.
    pub broadcast: bool,
    /// `SO_RCVBUF` in bytes, which the kernel caps at `net.core.rmem_max`; `None`: its default. What finds no room is
    /// lost.
    pub receive_buffer: Option<usize>,
    /// `SO_SNDBUF` in bytes, which the kernel caps at `net.core.wmem_max`; `None`: its default.
    pub send_buffer: Option<usize>,
}

impl Default for DatagramOptions {
    fn default() -> DatagramOptions {
        DatagramOptions {
            reuse_port: true,
            only_v6: false,
            broadcast: false,
            receive_buffer: None,
            send_buffer: None,
        }
    }
}
