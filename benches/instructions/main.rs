//! User instructions per forwarded message of our TCP proxy, on each reactor, by callgrind.
//!
//! `cargo bench --bench instructions` measures and compares with `benches/instructions/bounds.txt`; `-- --set` writes that
//! file. Unlike time, instructions do not depend on who else uses the machine, so a few per cent more of them are a
//! change of ours. What is not counted: the kernel, and what caches do.
//!
//! The proxy runs on one shard in valgrind. Clients and origin are this one thread, in lockstep: all clients send, then
//! all messages are taken at the origin's ends and sent back, then all answers are taken. A message is one there and
//! back, of 64 bytes. How many of them a turn of the shard finds, and whether it slept before, would depend on who runs
//! when. So nothing is sent before the proxy sleeps, and both processes share one CPU, which they, scheduled as batch
//! jobs, leave only when they wait.
//!
//! callgrind writes what it has counted, and begins at zero, whenever the proxy connects to its origin. So turns of
//! messages are divided by connections; what a connection costs alone is measured and taken off.

#![forbid(unsafe_code)]

mod rig;
mod stored;

use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use rig::{LOADS, Rig};
use stored::{Row, Stored};

/// valgrind 3.19 lets no other thread run while one waits in io_uring_enter(2), so that some starts hang.
const STARTS: usize = 5;

/// What was counted for one load.
struct Counted {
    row: Row,
    turns: Vec<u64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let set = match &arguments[..] {
        [] => false,
        [flag] if flag == "--set" => true,
        others => bail!("{others:?}: unknown; allowed: --set"),
    };
    let valgrind = version("valgrind")?;
    let stored = if set { Stored { rows: Vec::new(), tools: String::new() } } else { Stored::read()? };
    share_one_cpu()?;
    let (all, mut good) = measure_all(&valgrind, &stored)?;
    println!("{:<10} {:>11} {:>20} {:>14}", "reactor", "connections", "instructions/message", "all turns");
    for Counted { row, turns } in &all {
        let (low, high) = (turns.iter().min().unwrap_or(&0), turns.iter().max().unwrap_or(&0));
        let Row { reactor, connections, measured, bound } = row;
        let (words, will_do) = if set { (format!("bound {bound}"), true) } else { row.judge(&stored.rows) };
        good &= will_do;
        println!("{reactor:<10} {connections:>11} {measured:>20} {:>14}  {words}", format!("{low}…{high}"));
    }
    if set {
        let rows: Vec<Row> = all.into_iter().map(|counted| counted.row).collect();
        Stored::write(&rows, &format!("{valgrind}, {}", version("rustc")?))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures what can be; says what cannot, and answers whether that is no failure.
fn measure_all(valgrind: &str, stored: &Stored) -> anyhow::Result<(Vec<Counted>, bool)> {
    let (mut all, mut good) = (Vec::new(), true);
    for (reactor, answer) in reactors()? {
        if answer != "can run here" {
            not_tested(&reactor, &format!("it {answer}"));
            continue;
        }
        match start(&reactor) {
            Ok(mut rig) => all.extend(measure(&reactor, &mut rig, valgrind).context(reactor)?),
            // What valgrind could run when the numbers were stored, the same valgrind can run now.
            Err(error) if stored.tools.contains(valgrind) => {
                println!("FAILED: {reactor} does not come up any more: {error:#}");
                good = false;
            }
            Err(error) => not_tested(&reactor, &format!("{valgrind} cannot run it: {error:#}")),
        }
    }
    ensure!(!all.is_empty(), "nothing could be measured");
    Ok((all, good))
}

/// Starts the proxy, again if it does not come up.
fn start(reactor: &str) -> anyhow::Result<Rig> {
    let mut started = Rig::start(reactor);
    for _ in 1..STARTS {
        if let Err(error) = &started {
            println!("{reactor}: {error:#}");
            started = Rig::start(reactor);
        }
    }
    started
}

/// Measures a proxy that has come up; says what of its reactor valgrind did not run.
fn measure(reactor: &str, rig: &mut Rig, valgrind: &str) -> anyhow::Result<Vec<Counted>> {
    let found = rig.measure()?;
    let log = rig.log();
    // The number of epoll_pwait2, the same on all architectures.
    if reactor == "epoll" && log.contains("syscall: 441\n") {
        let why = format!("{valgrind} does not know it; its way for old kernels was measured");
        not_tested("epoll with epoll_pwait2", &why);
    }
    for line in log.lines().filter(|line| line.contains("a feature of io_uring is not used")) {
        not_tested("all of uring", &format!("it says {line:?}"));
    }
    let rows = LOADS.into_iter().zip(found);
    Ok(rows
        .map(|((connections, _), turns)| Counted { row: Row::new(reactor, connections, &turns), turns })
        .collect())
}

/// The reactors of this build, each with what its probe says.
fn reactors() -> anyhow::Result<Vec<(String, String)>> {
    let output = Command::new(env!("CARGO_BIN_EXE_waterwheel")).arg("reactors").output()?;
    let text = String::from_utf8(output.stdout)?;
    let answers = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    Ok(answers.map(|(name, answer)| (name.to_owned(), answer.trim().to_owned())).collect())
}

fn not_tested(what: &str, why: &str) {
    println!("NOT TESTED under callgrind: {what}, because {why}");
}

/// One CPU for this process and those that it starts, which they leave only when they wait.
fn share_one_cpu() -> anyhow::Result<()> {
    let cpu = core_affinity::get_core_ids().unwrap_or_default().pop().context("which CPUs there are")?;
    ensure!(core_affinity::set_for_current(cpu), "CPU {} cannot be had", cpu.id);
    let own = std::process::id().to_string();
    let status = Command::new("chrt").args(["--batch", "--pid", "0", &own]).status().context("chrt")?;
    ensure!(status.success(), "chrt: {status}");
    Ok(())
}

/// The first line that a program says of itself.
fn version(program: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output().context(program.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().with_context(|| format!("{program} has no version"))?.to_owned())
}
