//! glommio with nothing of ours around it: what Waterwheel's reactor of that name could reach.
#![forbid(unsafe_code)]

use std::io;

use anyhow::{anyhow, bail};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use waterwheel_versus::server::{self, BUFFER_BYTES, Role};

fn main() -> anyhow::Result<()> {
    let Role::Echo = Role::of_this_program()? else { bail!("use as `echo`") };
    // It was started on its CPU and stays there.
    let executor =
        LocalExecutorBuilder::new(Placement::Unbound).make().map_err(|error| anyhow!("{error}"))?;
    executor.run(serve())
}

async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| anyhow!("{error}"))?;
    server::announce(listener.local_addr().map_err(|error| anyhow!("{error}"))?)?;
    loop {
        let client = listener.accept().await.map_err(|error| anyhow!("{error}"))?;
        // A connection that fails ends, and its client sees it.
        glommio::spawn_local(async move {
            let _ended = echo(client).await;
        })
        .detach();
    }
}

async fn echo(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true).map_err(io::Error::from)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match client.read(&mut buffer).await? {
            0 => return Ok(()),
            length => client.write_all(&buffer[..length]).await?,
        }
    }
}
