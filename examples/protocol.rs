//! A protocol as a type: a chat room, whose members are told what the others say.
//!
//! A protocol is one connection's state, with a method for whatever happens to it; none of them waits, and what they write
//! goes into a bounded queue. A factory per shard makes them and holds what they share, without a lock. (With more than one
//! shard the parts of the room would tell each other by a port.) `cargo run --example protocol` lets two members meet.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use waterwheel::net::codec::{Codec, LineEnding, Lines};
use waterwheel::net::protocol::{Factory, Protocol, Reason, Wire};
use waterwheel::reactor::Address;
use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::Shard;

/// A wire for each member, and how many came.
#[derive(Default)]
struct Room(RefCell<BTreeMap<u64, Wire>>, Cell<u64>);

impl Room {
    fn tell(&self, text: &str) {
        for wire in self.0.borrow().values() {
            if wire.write(text.as_bytes()).is_err() {
                wire.abort(); // does not read what the others say
            }
        }
    }
}

struct Member {
    room: Rc<Room>,
    number: u64,
}

impl Protocol for Member {
    fn codec(&self) -> Box<dyn Codec> {
        Box::new(Lines::new(LineEnding::Either, 200))
    }

    fn connected(&mut self, wire: &Wire) -> anyhow::Result<()> {
        self.room.0.borrow_mut().insert(self.number, wire.clone());
        self.room.tell(&format!("{} came\n", self.number));
        Ok(())
    }

    fn received(&mut self, wire: &Wire, line: &[u8]) -> anyhow::Result<()> {
        match line {
            b"/quit" => wire.lose_connection(),
            said => self.room.tell(&format!("{}: {}\n", self.number, String::from_utf8_lossy(said))),
        }
        Ok(())
    }

    fn closed(self, reason: Reason) {
        self.room.0.borrow_mut().remove(&self.number);
        self.room.tell(&format!("{} went: {reason}\n", self.number));
    }
}

impl Factory for Room {
    type Settings = ();
    type Protocol = Member;

    async fn start(_: &Shard, (): &()) -> anyhow::Result<Self> {
        Ok(Room::default())
    }

    fn build(self: &Rc<Self>, _: Option<&Address>) -> Option<Member> {
        let number = self.1.replace(self.1.get() + 1);
        Some(Member { room: self.clone(), number })
    }
}

/// Two members, as any clients would be. Answers what the first one read.
fn meet(at: SocketAddr) -> std::io::Result<Vec<String>> {
    let mut first = BufReader::new(TcpStream::connect(at)?).lines();
    let came = first.next();
    let mut second = TcpStream::connect(at)?;
    second.write_all(b"hello\r\n/quit\nunheard\n")?;
    second.read_to_string(&mut String::new())?;
    came.into_iter().chain(first.take(3)).collect()
}

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::new(Config::from_env()?.cores(1))?;
    let listening = runtime.listen("tcp:127.0.0.1:0")?;
    let (at, stopper) = (listening.local().clone(), runtime.stopper());
    let clients = move || (at.inet().map(meet), stopper.stop(std::time::Duration::from_secs(5)));
    let clients = std::thread::Builder::new().spawn(clients)?;
    runtime.serve_protocol::<Room>(listening, ())?;
    let Ok((Some(read), ())) = clients.join() else { anyhow::bail!("the clients panicked") };
    let read = read?.join("\n");
    println!("{read}");
    anyhow::ensure!(read == "0 came\n1 came\n1: hello\n1 went: closed here");
    Ok(())
}
