//! A service: one instance on each shard, whose state needs no lock because it never leaves its shard.
//!
//! With `source` steering all connections of one client meet on one shard, so what is kept per client is kept there:
//! here a greeting that knows how often the client came before.
//!
//! `cargo run --example service` greets its own client a few times and ends.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use waterwheel::net::Connection;
use waterwheel::reactor::Address;
use waterwheel::runtime::{Config, Runtime, Service};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::steer::Mode;

/// One shard's part of the guest book.
struct GuestBook {
    house: &'static str,
    shard: ShardId,
    visits: RefCell<BTreeMap<IpAddr, u32>>,
}

impl Service for GuestBook {
    type Settings = &'static str;

    async fn start(shard: &Shard, house: &Self::Settings) -> anyhow::Result<Self> {
        Ok(GuestBook { house, shard: shard.id(), visits: RefCell::default() })
    }

    async fn connection(self: Rc<Self>, mut connection: Connection) -> anyhow::Result<()> {
        let Some(peer) = connection.peer()?.inet() else { return Ok(()) };
        let visit = {
            let mut visits = self.visits.borrow_mut();
            let visit = visits.entry(peer.ip()).or_insert(0);
            *visit += 1;
            *visit
        };
        let line = format!("welcome to {}, {}: visit {visit}\n", self.house, peer.ip());
        connection.write_all(line.as_bytes()).await?;
        connection.close().await?;
        Ok(())
    }

    async fn stop(self: Rc<Self>) {
        let visits: u32 = self.visits.borrow().values().sum();
        println!("{:?} had {visits} visits", self.shard);
    }
}

/// A client on a thread of its own, as any client would be. Ends the runtime when it is done.
fn visit(at: &Address, times: u32) -> anyhow::Result<String> {
    use std::io::Read;
    let mut last = String::new();
    for _ in 0..times {
        last.clear();
        let Some(at) = at.inet() else { anyhow::bail!("not an internet address") };
        std::net::TcpStream::connect(at)?.read_to_string(&mut last)?;
    }
    Ok(last)
}

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::new(Config::from_env()?.steer(Mode::Source))?;
    let listening = runtime.listen("tcp:127.0.0.1:0")?;
    let (at, stopper) = (listening.local().clone(), runtime.stopper());
    let client = std::thread::Builder::new().spawn(move || {
        let last = visit(&at, 5);
        stopper.stop(Duration::from_secs(5));
        last
    })?;
    runtime.serve::<GuestBook>(listening, "the mill")?;
    let last = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    print!("{last}");
    anyhow::ensure!(last.ends_with("visit 5\n"), "the shards did not agree on who owns the client");
    Ok(())
}
