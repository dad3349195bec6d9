//! A hand-off: the shard that accepts a connection reads whose it is, and gives it to the shard that keeps that tenant.
//!
//! A tenant's connections meet on one shard, wherever they come from, so what is kept per tenant needs no lock. The owner
//! sees the connection from its first byte.
//!
//! `WATERWHEEL_CORES=4 cargo run --example hand_off`, or any other count.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use waterwheel::net::Connection;
use waterwheel::runtime::{Config, Runtime, Service};
use waterwheel::shard::Shard;
use waterwheel::steer::Mode;

/// A name is no longer than this.
const NAME_MAX: usize = 64;

/// One shard's tenants, and how often each came.
struct Tenants(RefCell<BTreeMap<String, u32>>);

impl Service for Tenants {
    type Settings = ();

    async fn start(_: &Shard, (): &()) -> anyhow::Result<Tenants> {
        Ok(Tenants(RefCell::default()))
    }

    async fn connection(self: Rc<Self>, mut connection: Connection) -> anyhow::Result<()> {
        // Looks at the first line and leaves it there: the owner reads it again.
        let deadline = connection.shard().now() + Duration::from_secs(5);
        let look = |bytes: &[u8], _| {
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), 0))
        };
        let name = connection.peek_until(deadline, NAME_MAX, look).await?;
        let Some(mut connection) = connection.steer_by(name.as_bytes()).await? else {
            return Ok(()); // another shard serves it now
        };
        let visit = {
            let mut visits = self.0.borrow_mut();
            let visit = visits.entry(name.clone()).or_insert(0);
            *visit += 1;
            *visit
        };
        let shard = connection.shard().id();
        connection.write_all(format!("{name} is with {shard:?}, visit {visit}\n").as_bytes()).await?;
        connection.close().await?;
        Ok(())
    }
}

/// Comes three times for each of some tenants, as clients on other machines would.
fn visit(at: SocketAddr) -> anyhow::Result<()> {
    for tenant in ["ash", "birch", "cedar", "elm"] {
        let mut answers = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(at)?;
            writeln!(stream, "{tenant}")?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            answers.push(answer);
        }
        print!("{}", answers[2]);
        anyhow::ensure!(answers[2].ends_with("visit 3\n"), "{tenant} was with several shards: {answers:?}");
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::new(Config::from_env()?.steer(Mode::Key))?;
    let listening = runtime.listen("tcp:127.0.0.1:0")?;
    let (at, stopper) = (listening.local().inet().context("an internet address")?, runtime.stopper());
    let client = std::thread::Builder::new().spawn(move || {
        let visited = visit(at);
        stopper.stop(Duration::from_secs(5));
        visited
    })?;
    runtime.serve::<Tenants>(listening, ())?;
    client.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
}
