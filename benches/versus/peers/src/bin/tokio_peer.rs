//! tokio as its documentation says: a current-thread runtime, a task per connection, `copy_bidirectional`.
//!
//! The copying buffers have 16 KiB, as everybody's here; tokio's own default is 8.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use waterwheel_versus::server::{self, BUFFER_BYTES, Role};

fn main() -> anyhow::Result<()> {
    let role = Role::of_this_program()?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(role))
}

async fn serve(role: Role) -> anyhow::Result<()> {
    let listener = server::listen()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    server::announce(listener.local_addr()?)?;
    loop {
        let (client, _) = listener.accept().await?;
        // A connection that fails ends, and its client sees it.
        match role {
            Role::Echo => drop(tokio::spawn(echo(client))),
            Role::Proxy { origin } => drop(tokio::spawn(proxy(client, origin))),
        }
    }
}

async fn echo(mut client: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match client.read(&mut buffer).await? {
            0 => return Ok(()),
            length => client.write_all(&buffer[..length]).await?,
        }
    }
}

async fn proxy(mut client: TcpStream, origin: SocketAddrV4) -> std::io::Result<()> {
    let mut origin = TcpStream::connect(origin).await?;
    origin.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut origin, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}
