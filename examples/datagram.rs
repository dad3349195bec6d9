//! An echo server of datagrams on all cores, and clients that check what comes back.
//!
//! `cargo run --example datagram` checks itself and ends. `cargo run --example datagram -- udp:127.0.0.1:7000` serves until
//! Ctrl-C; talk to it with `nc -u 127.0.0.1 7000`.
#![forbid(unsafe_code)]

use std::time::Duration;

use waterwheel::net::datagram::{DatagramGroup, DatagramProtocol, DatagramSender, Received};
use waterwheel::reactor::DatagramOptions;
use waterwheel::runtime::Runtime;
use waterwheel::shard::{Shard, ShardId};

/// What comes in goes out. One value for all peers of a shard: what it keeps needs no lock.
#[derive(Default)]
struct Echo {
    answered: u64,
}

impl DatagramProtocol for Echo {
    fn received(&mut self, sender: &DatagramSender, datagram: &Received<'_>) -> anyhow::Result<()> {
        // An error concerns this datagram alone.
        anyhow::ensure!(!datagram.is_cut(), "{} sent {} bytes", datagram.from, datagram.size);
        sender.try_answer(datagram, datagram.bytes)?;
        self.answered += 1;
        Ok(())
    }

    fn stopping(&mut self, sender: &DatagramSender) {
        println!("answered {} datagrams at {:?}", self.answered, sender.local());
    }
}

/// Eight peers of the server, which belong to any of its shards. Datagrams may get lost, so each asks until it is answered.
async fn check(shard: &Shard, group: &DatagramGroup) -> anyhow::Result<()> {
    for number in 0..8 {
        let question = format!("{:?} says {number}", shard.id());
        let mut socket = shard.connect_datagrams(group.local(), &DatagramOptions::default())?;
        loop {
            socket.send(question.as_bytes()).await?;
            match shard.timeout(Duration::from_millis(500), socket.receive()).await {
                Ok(answer) => {
                    anyhow::ensure!(
                        answer?.bytes == question.as_bytes(),
                        "{question:?} was changed on the way"
                    );
                    break;
                }
                Err(_) => println!("{question:?} was lost, or its answer"),
            }
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let endpoint = std::env::args().nth(1);
    let runtime = Runtime::from_env()?;
    let group = runtime.datagrams(endpoint.as_deref().unwrap_or("udp:127.0.0.1:0"))?;
    println!("receiving on {group:?}");
    let (stopper, checked) = (runtime.stopper(), runtime.port::<()>("checked")?);
    runtime.run(move |shard| {
        let (group, stopper, checked) = (group.clone(), stopper.clone(), checked.clone());
        let serves_on = endpoint.is_some();
        async move {
            let serving = shard.spawn("serve", shard.datagrams_on(&group)?.serve(Echo::default()));
            if !serves_on {
                check(&shard, &group).await?;
                // Every shard tells shard 0, which stops all of them.
                let mailbox = shard.open(&checked)?;
                mailbox.send(ShardId::new(0), ()).await?;
                if shard.id().index() == 0 {
                    for _ in shard.ids() {
                        mailbox.receive().await;
                    }
                    stopper.stop(Duration::from_secs(5));
                }
            }
            serving.await?;
            Ok(())
        }
    })?;
    Ok(())
}
