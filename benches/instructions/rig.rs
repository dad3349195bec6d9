//! The proxy in valgrind, and the messages through it.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

/// How many connections are busy, and how often each exchanges a message in one turn. The last has the most.
pub(crate) const LOADS: [(usize, usize); 2] = [(1, 500), (64, 50)];
/// Turns of each load.
const TURNS: usize = 5;
const BYTES: usize = 64;
/// Nothing takes longer than this, under valgrind on a busy machine, but what hangs.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);
/// Between two looks at whether the proxy sleeps.
const NAP: Duration = Duration::from_micros(50);

/// One connection through the proxy: both its ends.
struct Through {
    client: TcpStream,
    origin: TcpStream,
}

impl Through {
    fn new(client: TcpStream, origin: TcpStream) -> io::Result<Through> {
        for end in [&client, &origin] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Through { client, origin })
    }
}

/// Our proxy in valgrind, and what goes through it. Killed when dropped.
pub(crate) struct Rig {
    process: Child,
    folder: TempDir,
    origin: TcpListener,
    at: SocketAddr,
    all: Vec<Through>,
    /// What the system says of each thread of the proxy (proc(5), `stat`).
    threads: Vec<File>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Rig {
    /// Starts the proxy and the first connection through it.
    pub(crate) fn start(reactor: &str) -> anyhow::Result<Rig> {
        let folder = tempfile::tempdir()?;
        let origin = TcpListener::bind("127.0.0.1:0")?;
        origin.set_nonblocking(true)?;
        // Known in advance: the proxy's own word for it may be one of those that wait.
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut valgrind = Command::new("valgrind");
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WATERWHEEL_"))
        {
            valgrind.env_remove(name);
        }
        // A connect in the ring is no call that callgrind could count up to.
        valgrind.env("WATERWHEEL_URING_OFF", "connect");
        let process = valgrind
            .args(["--tool=callgrind", "--vgdb=no", "--fair-sched=try", "--dump-before=connect"])
            .arg(format!("--callgrind-out-file={}", folder.path().join("counted").display()))
            .arg(env!("CARGO_BIN_EXE_waterwheel"))
            .args(["proxy", "tcp", "--cores", "1", "--reactor", reactor])
            .args(["--listen", &format!("tcp:{at}"), "--upstream", &format!("tcp:{}", origin.local_addr()?)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log"))?)
            .spawn()
            .context("valgrind")?;
        let mut rig = Rig { process, folder, origin, at, all: Vec::new(), threads: Vec::new() };
        rig.open()?;
        Ok(rig)
    }

    /// One more connection, over which one message has gone. Answers how many instructions came before it.
    fn open(&mut self) -> anyhow::Result<u64> {
        let client = self.until(|rig| match TcpStream::connect(rig.at) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            other => other.map(Some),
        })?;
        let origin = self.until(|rig| match rig.origin.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(|(connection, _)| Some(connection)),
        })?;
        origin.set_nonblocking(false)?;
        self.all.push(Through::new(client, origin)?);
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id()))?;
        self.threads = tasks.map(|task| File::open(task?.path().join("stat"))).collect::<io::Result<_>>()?;
        let number = self.all.len();
        self.exchange(number - 1..number)?;
        // Written before the proxy connected, so it is whole.
        let file = self.folder.path().join(format!("counted.{number}"));
        let text = fs::read_to_string(&file).context("callgrind's counts")?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        total.context("callgrind's counts lack their sum")?.trim().parse().context("callgrind's sum")
    }

    /// Tries until there is something, as long as the proxy lives.
    fn until<T>(&mut self, mut attempt: impl FnMut(&Rig) -> io::Result<Option<T>>) -> anyhow::Result<T> {
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            if let Some(found) = attempt(self)? {
                return Ok(found);
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("it ended with {status}: {}", self.last_words());
            }
            pause(PAUSE);
        }
        bail!("it hangs: {}", self.last_words())
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// What explains an end best: valgrind's own complaint, or the last line of the log.
    fn last_words(&self) -> String {
        let log = self.log();
        let complaint =
            log.lines().find(|line| line.starts_with("Callgrind: ") || line.starts_with("valgrind: "));
        complaint.or(log.lines().last()).unwrap_or("no word").to_owned()
    }

    /// Instructions per message of each load, in each turn.
    pub(crate) fn measure(&mut self) -> anyhow::Result<Vec<Vec<u64>>> {
        let (most, _) = LOADS[LOADS.len() - 1];
        while self.all.len() < most {
            self.open()?;
        }
        let mut found = Vec::new();
        for (connections, rounds) in LOADS {
            // The first finds memory that was never touched; the second has nothing between its connections.
            self.turn(connections, rounds / 4)?;
            let alone = self.turn(connections, 0)?;
            let mut turns = Vec::new();
            for _ in 0..TURNS {
                let total = self.turn(connections, rounds)?;
                turns.push(total.saturating_sub(alone) / (connections * rounds) as u64);
            }
            found.push(turns);
        }
        Ok(found)
    }

    /// Instructions since the last connection and up to the next one, with so many messages on each connection between.
    fn turn(&mut self, connections: usize, rounds: usize) -> anyhow::Result<u64> {
        for _ in 0..rounds {
            self.exchange(0..connections)?;
        }
        self.open()
    }

    /// One message over each of these connections, there and back.
    fn exchange(&mut self, which: Range<usize>) -> anyhow::Result<()> {
        let mut message = [b'w'; BYTES];
        self.settle()?;
        for through in &mut self.all[which.clone()] {
            through.client.write_all(&message)?;
        }
        for through in &mut self.all[which.clone()] {
            through.origin.read_exact(&mut message)?;
        }
        self.settle()?;
        for through in &mut self.all[which.clone()] {
            through.origin.write_all(&message)?;
        }
        for through in &mut self.all[which] {
            through.client.read_exact(&mut message)?;
        }
        Ok(())
    }

    /// Waits until all threads of the proxy sleep: it has done all that there is to do.
    fn settle(&self) -> anyhow::Result<()> {
        for _ in 0..PATIENCE.as_micros() / NAP.as_micros() {
            let mut asleep = true;
            for thread in &self.threads {
                let mut text = [0; 512];
                let length = thread.read_at(&mut text, 0)?;
                // The name before it may contain anything, closing brackets too.
                let name_end = text[..length].iter().rposition(|byte| *byte == b')').unwrap_or(0);
                asleep &= text.get(name_end + 2) == Some(&b'S');
            }
            if asleep {
                return Ok(());
            }
            pause(NAP);
        }
        bail!("it never sleeps: {}", self.last_words())
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no shard to wait on")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
