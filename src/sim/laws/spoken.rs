//! Protocols as types: `connected` first, `closed` once and last, whatever happens; queues that stay bounded; frames that
//! stop where they should.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::net::Connection;
use waterwheel::net::codec::{Codec, FrameError, LineEnding, Lines, Pieces};
use waterwheel::net::protocol::{Factory, Flow, Protocol, QueueLimits, Reason, Wire, WriteError};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::Protocols;
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Running, World};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: usize = 40;
const LIMITS: QueueLimits = QueueLimits { high: 2_000, low: 500, most: 10_000 };

/// What happened to the protocols of a world, in order.
type Book = Arc<Mutex<Vec<String>>>;

fn said(book: &Book) -> Vec<String> {
    book.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Speaks in lines, and does what each says.
struct Obedient {
    book: Book,
    shard: Shard,
    /// So many lines are still to be said, whenever there is room.
    to_say: Cell<u64>,
}

impl Obedient {
    fn note(&self, what: impl Into<String>) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
    }

    fn say_on(&self, wire: &Wire) -> anyhow::Result<()> {
        while self.to_say.get() > 0 {
            self.to_say.set(self.to_say.get() - 1);
            if wire.send(b"blah blah blah blah")? == Flow::Full {
                break;
            }
        }
        ensure!(wire.queued() <= LIMITS.high + 100, "{} bytes are queued", wire.queued());
        Ok(())
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        self.note("dropped");
    }
}

impl Protocol for Obedient {
    fn codec(&self) -> Box<dyn Codec> {
        Box::new(Lines::new(LineEnding::Either, LIMIT))
    }

    fn queue(&self) -> QueueLimits {
        LIMITS
    }

    fn connected(&mut self, wire: &Wire) -> anyhow::Result<()> {
        self.note("connected");
        wire.send(b"hello")?;
        Ok(())
    }

    fn received(&mut self, wire: &Wire, frame: &[u8]) -> anyhow::Result<()> {
        let line = String::from_utf8_lossy(frame).into_owned();
        self.note(line.clone());
        match line.as_str() {
            "lose" => {
                wire.send(b"bye")?;
                wire.lose_connection();
                ensure!(wire.send(b"more") == Err(WriteError::Closed), "written after the end");
            }
            "abort" => wire.abort(),
            "fail" => anyhow::bail!("as asked"),
            "abort and fail" => {
                wire.abort();
                anyhow::bail!("as asked")
            }
            "panic" => panic!("as asked"),
            "say" => {
                self.to_say.set(2_000);
                self.say_on(wire)?;
            }
            "raw" => wire.set_codec(Pieces),
            "overflow" => {
                let most = LIMITS.most - wire.queued();
                ensure!(
                    wire.write(&vec![b'x'; most + 1])
                        == Err(WriteError::NoRoom { length: most + 1, room: most })
                );
                wire.write(&vec![b'x'; most])?;
                wire.lose_connection();
            }
            "later" => {
                let (wire, shard) = (wire.clone(), self.shard.clone());
                wire.pause_receiving();
                shard.clone().spawn_detached("later", async move {
                    shard.sleep(SECOND).await;
                    // The connection may be gone by now.
                    let _ = wire.send(b"later");
                    wire.resume_receiving();
                });
            }
            "pause" => wire.pause_receiving(),
            "end" => wire.close_write(),
            _ => {
                wire.write(format!("{line}\n").as_bytes())?;
            }
        }
        Ok(())
    }

    fn resumed(&mut self, wire: &Wire) -> anyhow::Result<()> {
        self.say_on(wire)
    }

    fn malformed(&mut self, wire: &Wire, error: FrameError) -> anyhow::Result<()> {
        self.note("malformed");
        ensure!(error == FrameError::Endless { limit: LIMIT });
        wire.send(b"500")?;
        Ok(())
    }

    fn ended(&mut self, wire: &Wire) -> anyhow::Result<()> {
        self.note("ended");
        wire.lose_connection();
        Ok(())
    }

    fn closed(self, reason: Reason) {
        self.note(format!("closed: {reason}"));
    }
}

struct Obedients {
    book: Book,
    shard: Shard,
    count: RefCell<u64>,
}

impl Factory for Obedients {
    type Settings = Book;
    type Protocol = Obedient;

    async fn start(shard: &Shard, book: &Book) -> anyhow::Result<Self> {
        Ok(Obedients { book: book.clone(), shard: shard.clone(), count: RefCell::default() })
    }

    fn build(self: &Rc<Self>, peer: Option<&Address>) -> Option<Obedient> {
        peer?;
        *self.count.borrow_mut() += 1;
        Some(Obedient { book: self.book.clone(), shard: self.shard.clone(), to_say: Cell::new(0) })
    }

    fn stop(&self) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).push("stopped".to_owned());
    }
}

struct Scene {
    book: Book,
    running: Running<()>,
    client: Connection,
}

async fn scene(world: &World) -> anyhow::Result<Scene> {
    let (host, book) = (world.host("server"), Book::default());
    let runtime = host.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:7")?;
    let settings = book.clone();
    let running = host.start(runtime, move |shard| {
        let (listening, settings) = (listening.clone(), settings.clone());
        async move { waterwheel::runtime::serve::<Protocols<Obedients>>(&shard, &listening, &settings).await }
    });
    let client = world.shard().connect(&Address::Inet(host.at(7)), &ConnectOptions::default()).await?;
    Ok(Scene { book, running, client })
}

impl Scene {
    /// Everything up to the end of the stream, or to its reset.
    async fn rest(&mut self) -> (String, bool) {
        let mut all = Vec::new();
        loop {
            match self.client.fill().await {
                Ok([]) => return (String::from_utf8_lossy(&all).into_owned(), true),
                Ok(lent) => {
                    all.extend_from_slice(lent);
                    let count = lent.len();
                    self.client.consume(count);
                }
                Err(_) => return (String::from_utf8_lossy(&all).into_owned(), false),
            }
        }
    }

    /// Waits until the server knows of the end, and compares what happened there.
    async fn happened(&self, world: &World, expected: &[&str]) -> anyhow::Result<()> {
        let until = world.now() + SECOND * 60;
        while said(&self.book).last().is_none_or(|last| last != "dropped") {
            ensure!(world.now() < until, "it does not end: {:?}", said(&self.book));
            world.sleep(SECOND / 10).await;
        }
        world.sleep(SECOND * 5).await;
        let happened = said(&self.book);
        ensure!(happened == [&["connected"], expected, &["dropped"]].concat(), "{happened:?}");
        Ok(())
    }
}

/// What a client says in one go, what comes back before the end or the reset, and what happened at the server.
fn case(say: &'static str, back: &'static str, in_order: bool, happened: &'static [&'static str]) {
    Check::new().seeds(60).run(move |world| async move {
        let mut scene = scene(&world).await?;
        scene.client.write_all(say.as_bytes()).await?;
        let (got, whole) = world.shard().timeout(SECOND * 300, scene.rest()).await.context("no end comes")?;
        // A reset may destroy what came before it.
        ensure!(whole == in_order, "in order: {whole}, after {got:?}");
        ensure!(if whole { got == back } else { back.starts_with(&got) }, "{got:?}");
        drop(std::mem::replace(&mut scene.client, other(&world).await?));
        scene.happened(&world, happened).await
    });
}

/// Some connection, to have one.
async fn other(world: &World) -> anyhow::Result<Connection> {
    let host = world.host("other");
    let runtime = host.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:1")?;
    drop(host.start(runtime, move |shard| {
        let listening = listening.clone();
        async move {
            shard.accept_on(&listening)?.accept().await;
            Ok(())
        }
    }));
    Ok(world.shard().connect(&Address::Inet(host.at(1)), &ConnectOptions::default()).await?)
}

#[test]
fn what_was_written_is_sent_before_the_end_and_nothing_is_received_after_it() {
    case("a\nlose\nb\nc\n", "hello\r\na\nbye\r\n", true, &["a", "lose", "closed: closed here"]);
}

#[test]
fn an_abort_resets_and_nothing_is_received_after_it() {
    case("a\nabort\nb\n", "hello\r\na\n", false, &["a", "abort", "closed: reset here"]);
}

#[test]
fn an_error_resets_and_is_the_reason_also_after_an_abort() {
    const WHY: &str = "closed: the protocol failed: as asked";
    case("fail\nb\n", "hello\r\n", false, &["fail", WHY]);
    case("abort and fail\nb\n", "hello\r\n", false, &["abort and fail", WHY]);
}

#[test]
fn a_line_that_is_too_long_is_answered_and_ends_it() {
    let long = "a\n01234567890123456789012345678901234567890\nlost\n";
    case(
        long,
        "hello\r\na\n500\r\n",
        true,
        &["a", "malformed", "closed: the peer sent a line of more than 40 bytes"],
    );
}

#[test]
fn the_queue_takes_so_much_and_no_more() {
    Check::new().seeds(60).run(|world| async move {
        let mut scene = scene(&world).await?;
        scene.client.write_all(b"overflow\n").await?;
        let (got, whole) = scene.rest().await;
        ensure!(whole && got.starts_with("hello\r\nxxx") && got.len() <= LIMITS.most + 7, "{}", got.len());
        scene.happened(&world, &["overflow", "closed: closed here"]).await
    });
}

#[test]
fn pausing_holds_frames_back_that_have_come_already() {
    case(
        "later\na\nlose\n",
        "hello\r\nlater\r\na\nbye\r\n",
        true,
        &["later", "a", "lose", "closed: closed here"],
    );
}

#[test]
fn a_panic_ends_it_with_a_reset_and_without_a_call() {
    Check::new().seeds(60).run(|world| async move {
        world.allow_panics();
        let mut scene = scene(&world).await?;
        scene.client.write_all(b"a\npanic\nb\n").await?;
        ensure!(!scene.rest().await.1, "it looks as if it had ended in order");
        scene.happened(&world, &["a", "panic"]).await
    });
}

#[test]
fn the_peers_end_comes_behind_its_last_line() {
    Check::new().seeds(60).run(|world| async move {
        let mut scene = scene(&world).await?;
        scene.client.write_all(b"a\n").await?;
        scene.client.close_write().await?;
        ensure!(scene.rest().await == ("hello\r\na\n".to_owned(), true));
        scene.happened(&world, &["a", "ended", "closed: the peer ended its stream"]).await
    });
}

#[test]
fn after_our_own_end_lines_are_still_received() {
    Check::new().seeds(60).run(|world| async move {
        let mut scene = scene(&world).await?;
        scene.client.write_all(b"end\n").await?;
        ensure!(scene.rest().await == ("hello\r\n".to_owned(), true));
        scene.client.write_all(b"pause\n").await?;
        world.sleep(SECOND).await;
        scene.client.write_all(b"unseen\n").await?;
        // Nobody waits at the connection, and all the same it is noticed.
        let client = std::mem::replace(&mut scene.client, other(&world).await?);
        client.abort();
        scene.happened(&world, &["end", "pause"]).await.err().context("something else happens")?;
        let happened = said(&scene.book);
        ensure!(
            happened.iter().filter(|what| what.starts_with("closed: the connection broke")).count() == 1,
            "{happened:?}"
        );
        Ok(())
    });
}

#[test]
fn raw_mode_begins_with_what_came_behind_the_line() {
    Check::new().seeds(60).run(|world| async move {
        let mut scene = scene(&world).await?;
        scene.client.write_all(b"raw\n12345").await?;
        let mut said = [0; 7];
        scene.client.read_exact(&mut said).await?;
        // Whatever its pieces were, each comes back with an LF.
        let mut back = Vec::new();
        while back.len() < 5 {
            let mut byte = [0];
            scene.client.read_exact(&mut byte).await?;
            back.extend((byte != *b"\n").then_some(byte[0]));
        }
        ensure!(back == *b"12345", "{back:?}");
        Ok(())
    });
}

#[test]
fn a_talker_is_held_back_by_who_does_not_read_and_goes_on_then() {
    Check::new().seeds(30).run(|world| async move {
        let mut scene = scene(&world).await?;
        scene.client.write_all(b"say\nlose\n").await?;
        world.sleep(SECOND * 20).await;
        let (got, whole) = world.shard().timeout(SECOND * 600, scene.rest()).await.context("it hangs")?;
        ensure!(whole, "it was reset");
        // What was to be said when it was told to close is not said any more; nothing of the rest is lost.
        ensure!(got.starts_with("hello\r\nblah") && got.ends_with("bye\r\n"), "{} bytes", got.len());
        scene.happened(&world, &["say", "lose", "closed: closed here"]).await
    });
}

#[test]
fn who_does_not_take_the_rest_is_given_up() {
    Check::new().seeds(60).run(|world| async move {
        let mut scene = scene(&world).await?;
        // More than all buffers hold, so that it cannot be sent.
        scene.client.write_all(b"say\n").await?;
        world.sleep(SECOND * 5).await;
        scene.running.stop(SECOND * 200);
        let since = world.now();
        let client = std::mem::replace(&mut scene.client, other(&world).await?);
        let until = world.now() + SECOND * 100;
        while !said(&scene.book).iter().any(|what| what.starts_with("closed")) && world.now() < until {
            world.sleep(SECOND).await;
        }
        let (happened, took) = (said(&scene.book), world.now().since(since));
        // Where buffers are large all of it was sent.
        let broke = happened.iter().any(|what| what.contains("does not take what is left"));
        let clean = happened.iter().any(|what| what == "closed: closed here");
        ensure!(broke != clean && (clean || took >= SECOND * 28), "{happened:?} after {took:?}");
        drop(client);
        Ok(())
    });
}

#[test]
fn a_stop_tells_each_one_once() {
    Check::new().seeds(60).run(|world| async move {
        let mut scene = scene(&world).await?;
        scene.client.write_all(b"a\n").await?;
        scene.client.read_exact(&mut [0; 9]).await?;
        let at_once = world.chance(0.5);
        scene.running.stop(if at_once { Duration::ZERO } else { SECOND * 10 });
        let whole = scene.rest().await;
        ensure!(at_once || whole == (String::new(), true), "{whole:?}");
        let ended = scene.running.await;
        ensure!(ended.is_ok() || at_once, "{ended:?}");
        // The service's own last word comes when the shard has the time for it.
        let happened: Vec<_> = said(&scene.book).into_iter().filter(|what| what != "stopped").collect();
        ensure!(happened.len() == 4 && happened[..2] == ["connected", "a"], "{happened:?}");
        let why = happened[2].as_str();
        ensure!(
            why == "closed: closed here" || at_once && why == "closed: ended in the midst of it",
            "{happened:?}"
        );
        ensure!(happened[3] == "dropped", "{happened:?}");
        Ok(())
    });
}

/// Counts how often it was closed, and closes at chance.
struct Counting(Rc<Cell<i64>>);

impl Protocol for Counting {
    fn connected(&mut self, _: &Wire) -> anyhow::Result<()> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    fn received(&mut self, wire: &Wire, frame: &[u8]) -> anyhow::Result<()> {
        wire.write(frame)?;
        Ok(())
    }

    fn closed(self, _: Reason) {
        self.0.set(self.0.get() - 1);
    }
}

#[test]
fn a_speaker_that_is_dropped_tells_its_protocol() {
    Check::new().seeds(60).run(|world| async move {
        let scene = scene(&world).await?;
        let open = Rc::new(Cell::new(0));
        let speaking = scene.client.speak(Counting(open.clone()));
        let _ = world.shard().timeout(SECOND, speaking).await;
        ensure!(open.get() == 0, "{} are open", open.get());
        Ok(())
    });
}
