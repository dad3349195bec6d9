//! Our TCP proxy against HAProxy and nginx: CPU per message, side by side.
//!
//! `cargo bench --bench proxies` (or `-- --rounds 20 --connections 512`). Each proxy is one thread on CPU 0; clients
//! and origin are one shard of ours on CPU 1. A round measures every proxy once, in random order; a message is one
//! exchange of `--size` bytes through the proxy and back, closed loop. CPU is the proxy's user and system time by its
//! threads' schedstat. Peers that are not installed are left out, and that is said.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use waterwheel::load::usage::ProcessUsage;
use waterwheel::net::{Connection, pump};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::Shard;

/// What is measured, from the arguments.
#[derive(Clone, Debug)]
struct Asked {
    rounds: usize,
    connections: usize,
    size: usize,
    seconds: f64,
}

impl Asked {
    fn read() -> anyhow::Result<Asked> {
        let mut asked = Asked { rounds: 12, connections: 64, size: 64, seconds: 1.0 };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--rounds" => asked.rounds = value()?.parse()?,
                "--connections" => asked.connections = value()?.parse()?,
                "--size" => asked.size = value()?.parse()?,
                "--seconds" => asked.seconds = value()?.parse()?,
                "--bench" => {}
                other => bail!("{other}: unknown; allowed: --rounds, --connections, --size, --seconds"),
            }
        }
        ensure!(
            asked.rounds > 0 && asked.connections > 0 && asked.size > 0,
            "zero of something measures nothing"
        );
        Ok(asked)
    }
}

/// A proxy under test: its process and where it listens. Killed when dropped.
struct Target {
    name: &'static str,
    process: Child,
    /// Kept open, so that the log has somewhere to go.
    log: Option<BufReader<ChildStderr>>,
    at: SocketAddr,
    /// CPU micros per message, by round.
    micros: Vec<f64>,
    rates: Vec<f64>,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Our proxy on one of its reactors.
fn ours(name: &'static str, reactor: &str, origin: &Address) -> anyhow::Result<Target> {
    let mut process = Command::new(env!("CARGO_BIN_EXE_waterwheel"))
        .args(["proxy", "tcp", "--listen", "tcp:127.0.0.1:0", "--upstream", &origin.to_string()])
        .args(["--cpus", "0", "--reactor", reactor])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = process.stderr.take().map(BufReader::new);
    let mut target =
        Target { name, process, log, at: ([127, 0, 0, 1], 0).into(), micros: vec![], rates: vec![] };
    let mut line = String::new();
    while let Some(log) = &mut target.log
        && log.read_line(&mut line)? > 0
    {
        if let Some(at) = line.trim_end().strip_prefix("waterwheel: listening on tcp:") {
            target.at = at.parse()?;
            return Ok(target);
        }
        line.clear();
    }
    bail!("{name} did not start")
}

/// A peer with a configuration file, on CPU 0.
fn peer(
    name: &'static str,
    folder: &Path,
    flags: &[&str],
    config: &str,
    port: u16,
) -> anyhow::Result<Option<Target>> {
    let file = folder.join(format!("{name}.conf"));
    std::fs::write(&file, config)?;
    let spawned = Command::new("taskset")
        .args(["-c", "0", name])
        .args(flags)
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(process) = spawned else { return Ok(None) };
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let mut target = Target { name, process, log: None, at, micros: vec![], rates: vec![] };
    for _ in 0..200 {
        if TcpStream::connect(at).is_ok() {
            return Ok(Some(target));
        }
        if target.process.try_wait()?.is_some() {
            return Ok(None);
        }
        pause(Duration::from_millis(10));
    }
    Ok(None)
}

#[expect(clippy::disallowed_methods, reason = "before the run there is no shard to wait on")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn targets(folder: &Path, origin: &Address) -> anyhow::Result<Vec<Target>> {
    let to = origin.inet().context("an internet address")?;
    let mut all = vec![ours("waterwheel epoll", "epoll", origin)?];
    if cfg!(feature = "glommio") {
        all.push(ours("waterwheel glommio", "glommio", origin)?);
    }
    let port = free_port()?;
    let config = format!(
        "global\n nbthread 1\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 300s\n \
         timeout server 300s\nlisten all\n bind 127.0.0.1:{port}\n server origin {to}\n"
    );
    all.extend(peer("haproxy", folder, &["-db", "-f"], &config, port)?);
    let port = free_port()?;
    let module =
        ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];
    let module = module.into_iter().find(|path| Path::new(path).exists());
    let load = module.map_or(String::new(), |path| format!("load_module {path};\n"));
    let pid = folder.join("nginx.pid");
    let config = format!(
        "{load}daemon off;\nmaster_process off;\nworker_processes 1;\npid {};\nerror_log /dev/null;\n\
         events {{ worker_connections 20000; }}\n\
         stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {to}; tcp_nodelay on; }} }}\n",
        pid.display()
    );
    all.extend(peer("nginx", folder, &["-c"], &config, port)?);
    for name in ["haproxy", "nginx"] {
        if all.iter().all(|target| target.name != name) {
            eprintln!("{name} is not installed or did not start: left out");
        }
    }
    Ok(all)
}

async fn echo(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    pump(&mut receiving, &mut sending).await?;
    Ok(())
}

/// What all clients of one turn share.
#[derive(Default)]
struct Turn {
    messages: Cell<u64>,
    over: Cell<bool>,
}

/// One client: exchanges until the turn is over.
async fn client(shard: Shard, at: SocketAddr, size: usize, turn: Rc<Turn>) -> anyhow::Result<()> {
    let mut connection = shard.connect(&at.into(), &ConnectOptions::default()).await?;
    let message = vec![b'w'; size];
    let mut answer = vec![0; size];
    while !turn.over.get() {
        connection.write_all(&message).await?;
        connection.read_exact(&mut answer).await?;
        turn.messages.set(turn.messages.get() + 1);
    }
    connection.close().await?;
    Ok(())
}

/// One target's turn: connect, warm up, measure.
async fn measure(shard: &Shard, asked: &Asked, target: &mut Target) -> anyhow::Result<()> {
    let turn = Rc::new(Turn::default());
    let clients: Vec<_> = (0..asked.connections)
        .map(|_| shard.spawn("client", client(shard.clone(), target.at, asked.size, turn.clone())))
        .collect();
    shard.sleep(Duration::from_millis(200)).await;
    let (messages, start, before) =
        (turn.messages.get(), shard.now(), ProcessUsage::of(target.process.id())?);
    shard.sleep(Duration::from_secs_f64(asked.seconds)).await;
    let (time, after) = (shard.now().since(start), ProcessUsage::of(target.process.id())?);
    let messages = turn.messages.get() - messages;
    turn.over.set(true);
    for client in clients {
        client.await??;
    }
    ensure!(messages > 0, "nothing went through {}", target.name);
    target.micros.push(after.since(&before).total.as_secs_f64() * 1e6 / messages as f64);
    target.rates.push(messages as f64 / time.as_secs_f64());
    Ok(())
}

async fn rounds(shard: Shard, asked: Asked, mut all: Vec<Target>) -> anyhow::Result<String> {
    let mut random = Pcg64::seed_from_u64(shard.reactor().seed());
    for round in 0..asked.rounds {
        let mut order: Vec<usize> = (0..all.len()).collect();
        for place in (1..order.len()).rev() {
            order.swap(place, (random.next_u64() % (place as u64 + 1)) as usize);
        }
        for place in order {
            measure(&shard, &asked, &mut all[place]).await?;
        }
        let line = all.iter().map(|target| format!("{} {:.1}", target.name, target.micros[round]));
        eprintln!("round {:>2}: {} µs", round + 1, line.collect::<Vec<_>>().join("  "));
    }
    Ok(table(&asked, &all, &mut random))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The ratio of medians to the reference, and the middle 95 % of what resampled rounds give (bootstrap, Efron 1979).
fn ratio(of: &[f64], to: &[f64], random: &mut Pcg64) -> (f64, f64, f64) {
    let mut draws: Vec<f64> = (0..2000)
        .map(|_| {
            let rounds: Vec<usize> =
                of.iter().map(|_| (random.next_u64() % of.len() as u64) as usize).collect();
            let pick = |from: &[f64]| median(&rounds.iter().map(|&round| from[round]).collect::<Vec<_>>());
            pick(of) / pick(to)
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    (median(of) / median(to), draws[50], draws[1949])
}

fn table(asked: &Asked, all: &[Target], random: &mut Pcg64) -> String {
    let Asked { rounds, connections, size, seconds } = asked;
    let mut text = format!("{connections} connections × {size} bytes, {rounds} rounds of {seconds} s\n");
    let _ = writeln!(
        text,
        "{:<20} {:>10} {:>15} {:>10}  ratio to haproxy (95 %)",
        "proxy", "µs/message", "spread", "messages/s"
    );
    let reference = all.iter().find(|target| target.name == "haproxy").map(|target| target.micros.clone());
    for target in all {
        let spread =
            target.micros.iter().fold((f64::MAX, 0f64), |(low, high), at| (low.min(*at), high.max(*at)));
        let (micros, rate) = (median(&target.micros), median(&target.rates));
        let spread = format!("{:.2}…{:.2}", spread.0, spread.1);
        let _ = write!(text, "{:<20} {micros:>10.2} {spread:>15} {rate:>10.0}", target.name);
        if let Some(reference) = &reference {
            let (ratio, low, high) = ratio(&target.micros, reference, random);
            let _ = write!(text, "  {ratio:.3} ({low:.3}…{high:.3})");
        }
        text.push('\n');
    }
    text
}

fn main() -> anyhow::Result<()> {
    let asked = Asked::read()?;
    let folder = tempfile::tempdir()?;
    let config = Config::default().cpus("1".parse()?).reactor("epoll");
    let runtime =
        Runtime::new(config).context("this needs two CPUs: proxies on 0, clients and origin on 1")?;
    let origin = runtime.listen("tcp:127.0.0.1:0")?;
    let all = std::sync::Mutex::new(Some(targets(folder.path(), origin.local())?));
    let tables = runtime.run(move |shard| {
        let (asked, origin) = (asked.clone(), origin.clone());
        let all = all.lock().ok().and_then(|mut all| all.take());
        async move {
            shard.spawn_detached("origin", shard.accept_on(&origin)?.serve(usize::MAX, echo));
            rounds(shard, asked, all.context("one shard only")?).await
        }
    })?;
    tables.iter().for_each(|table| println!("\n{table}"));
    Ok(())
}
