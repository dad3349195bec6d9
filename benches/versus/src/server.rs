//! What every server in this folder does before it serves: read its arguments, listen, say where.

use std::io::{self, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener};

use anyhow::{Context as _, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// What a server is asked to be: `echo`, or `proxy ORIGIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends back what comes in.
    Echo,
    /// Moves bytes between a client and this origin.
    Proxy {
        /// Where connections go.
        origin: SocketAddrV4,
    },
}

impl Role {
    /// # Errors
    /// The program's arguments are none of this.
    pub fn of_this_program() -> anyhow::Result<Role> {
        Role::read(&std::env::args().skip(1).collect::<Vec<_>>())
    }

    fn read(arguments: &[String]) -> anyhow::Result<Role> {
        match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["echo"] => Ok(Role::Echo),
            ["proxy", origin] => {
                let origin =
                    origin.parse().with_context(|| format!("{origin} is no IPv4 address with a port"))?;
                Ok(Role::Proxy { origin })
            }
            _ => bail!("use as `echo` or `proxy HOST:PORT`"),
        }
    }
}

/// How large everybody's buffers are, one per direction and where the server shares them one per receive.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// How many connections may wait to be accepted; the kernel caps it (`net.core.somaxconn`).
pub const BACKLOG: i32 = 4096;

/// Listens on a free port of the loopback, with Nagle's algorithm off, which accepted sockets inherit.
///
/// # Errors
/// The system is out of something.
pub fn listen() -> io::Result<TcpListener> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new([127, 0, 0, 1].into(), 0))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A socket that may be connected, with Nagle's algorithm off.
///
/// # Errors
/// The system is out of something.
pub fn socket() -> io::Result<std::os::fd::OwnedFd> {
    let tcp = Some(ipproto::TCP);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, tcp)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// Says where the program listens, in the words that `versus` waits for.
///
/// # Errors
/// Standard output is closed.
pub fn announce(address: SocketAddr) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "listening on {address}")?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_arguments_are_refused() {
        let read = |text: &str| Role::read(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read("echo").unwrap(), Role::Echo);
        let origin = "127.0.0.1:9".parse().unwrap();
        assert_eq!(read("proxy 127.0.0.1:9").unwrap(), Role::Proxy { origin });
        for wrong in ["", "echo 1", "proxy", "proxy nowhere", "proxy 127.0.0.1:9 --fast"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn accepted_sockets_send_at_once() {
        let listener = listen().unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }
}
