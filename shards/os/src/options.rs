//! Socket options of connections.

use std::io;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};
use waterwheel_reactor::StreamOptions;

/// The longest time that TCP keep-alive options take (`MAX_TCP_KEEPIDLE`, include/net/tcp.h).
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// The kernel counts keep-alive times in whole seconds and refuses zero.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// Applies options to a socket that is not connected yet, or to a listener: on Linux an accepted socket inherits all
/// of them, so that accepting costs one system call. Buffer sizes count only if set before the handshake, which
/// settles the window's scale.
pub(crate) fn apply(socket: &Socket, internet: bool, options: &StreamOptions) -> io::Result<()> {
    if let Some(size) = options.receive_buffer {
        socket.set_recv_buffer_size(size.min(i32::MAX as usize))?;
    }
    if let Some(size) = options.send_buffer {
        socket.set_send_buffer_size(size.min(i32::MAX as usize))?;
    }
    if !internet {
        return Ok(());
    }
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(idle) = options.keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(idle.clamp(KEEPALIVE_MIN, KEEPALIVE_MAX))
            .with_interval((idle / 10).clamp(KEEPALIVE_MIN, KEEPALIVE_MAX));
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}
