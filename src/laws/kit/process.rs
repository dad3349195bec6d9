//! The command as a process: started, asked, ended by its id.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

use super::{LONG, Watch, spawn};

/// The built command with nothing of our variables in its environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waterwheel"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WATERWHEEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// A process that ended by itself: its exit code, if it was not a signal that ended it, and all it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    Process::start(command).wait()
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Readable once it has ended.
    ending: OwnedFd,
    out: Lines,
    err: Lines,
}

/// One of a process's outputs, as far as somebody waited for it.
#[derive(Debug)]
struct Lines {
    arriving: Receiver<String>,
    seen: RefCell<String>,
}

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Lines {
        let (send, arriving) = channel();
        let mut output = BufReader::new(output);
        // Ends with the process. Nobody joins it: a process that is killed may leave its output to a child.
        drop(spawn(move || {
            loop {
                let mut line = Vec::new();
                match output.read_until(b'\n', &mut line) {
                    Ok(1..) if send.send(String::from_utf8_lossy(&line).into_owned()).is_ok() => {}
                    _ => return,
                }
            }
        }));
        Lines { arriving, seen: RefCell::default() }
    }

    /// The next line; `None` at the end.
    fn next(&self, within: Duration) -> Option<String> {
        let line = self.arriving.recv_timeout(within).ok()?;
        self.seen.borrow_mut().push_str(&line);
        Some(line)
    }

    fn none() -> Lines {
        Lines { arriving: channel().1, seen: RefCell::default() }
    }

    fn rest(&self) -> String {
        while self.next(LONG).is_some() {}
        self.seen.take()
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::of(command.spawn().expect("the command can be started"))
    }

    /// A child, with those of its outputs that it has.
    pub(crate) fn of(mut child: Child) -> Process {
        let ending = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a descriptor of it");
        let out = child.stdout.take().map_or_else(Lines::none, Lines::of);
        let err = child.stderr.take().map_or_else(Lines::none, Lines::of);
        Process { child, ending, out, err }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The rest of the next line on standard error that begins with `start`.
    pub(crate) fn told(&self, start: &str) -> String {
        let watch = Watch::start();
        loop {
            let Some(line) = self.err.next(watch.left(start)) else {
                panic!("{start:?} was not said:\n{}", self.err.seen.borrow());
            };
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim_end().to_owned();
            }
        }
    }

    /// Waits for a line on standard error that contains `part`.
    pub(crate) fn told_of(&self, part: &str) {
        let watch = Watch::start();
        while let Some(line) = self.err.next(watch.left(part)) {
            if line.contains(part) {
                return;
            }
        }
        panic!("{part:?} was not said:\n{}", self.err.seen.borrow());
    }

    /// The next JSON value on standard output.
    pub(crate) fn json(&self) -> Value {
        let (watch, mut text) = (Watch::start(), String::new());
        loop {
            let Some(line) = self.out.next(watch.left("a JSON value")) else {
                panic!("no JSON: {text:?}\n{}", self.err.seen.borrow());
            };
            text.push_str(&line);
            match serde_json::from_str(&text) {
                Ok(value) => return value,
                Err(error) => assert!(error.is_eof(), "{error}: {text}"),
            }
        }
    }

    /// The lines on standard output up to one that `last` takes.
    pub(crate) fn text_to(&self, last: impl Fn(&str) -> bool) -> String {
        let (watch, mut text) = (Watch::start(), String::new());
        loop {
            let Some(line) = self.out.next(watch.left("a line of output")) else {
                panic!("the output ended: {text}\n{}", self.err.seen.borrow());
            };
            text.push_str(&line);
            if last(line.trim_end()) {
                return text;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is running");
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let mut asked = [PollFd::new(&self.ending, PollFlags::IN)];
        poll(&mut asked, Some(&limit)).expect("the process can be watched") > 0
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> Ended {
        if !self.ends_within(LONG) {
            let err = self.err.seen.take();
            panic!("did not end within {LONG:?}; it said:\n{err}");
        }
        let code = self.child.wait().expect("it has ended").code();
        Ended { code, out: self.out.rest(), err: self.err.rest() }
    }

    /// What the kernel keeps in a file of this process.
    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Waits until an interrupt would not kill it.
    pub(crate) fn hears_interrupts(&self) {
        super::eventually("a handler of SIGINT", || {
            let caught = u64::from_str_radix(field(&self.proc("status"), "SigCgt:"), 16).expect("a mask");
            (caught & 1 << (Signal::INT.as_raw() - 1) != 0).then_some(())
        });
    }

    /// Memory that it has taken for itself, in bytes.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        let status = self.proc("status");
        let kib = field(&status, "RssAnon:").trim_end_matches(" kB").parse::<u64>();
        kib.expect("a number of KiB") * 1024
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it is running");
        open.count()
    }

    fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it is running");
        tasks.map(|task| task.expect("a thread").file_name().to_string_lossy().into_owned()).collect()
    }

    /// The CPUs that each thread may run on, by its name, as the kernel lists them.
    pub(crate) fn masks(&self) -> BTreeMap<String, String> {
        let of = |id: String| {
            // One may end meanwhile.
            let status = fs::read_to_string(format!("/proc/{}/task/{id}/status", self.id())).ok()?;
            Some((field(&status, "Name:").to_owned(), field(&status, "Cpus_allowed_list:").to_owned()))
        };
        self.threads().into_iter().filter_map(of).collect()
    }

    /// How often each thread has gone to sleep or was made to wait, by its number and name; `None` if one is not
    /// asleep now. A thread that sleeps now and slept before has run in between if and only if its number changed.
    pub(crate) fn sleeps(&self) -> Option<BTreeMap<String, u64>> {
        let mut sleeps = BTreeMap::new();
        for id in self.threads() {
            let status = self.proc(&format!("task/{id}/status"));
            if !field(&status, "State:").starts_with('S') {
                return None;
            }
            let count = |name| field(&status, name).parse::<u64>().expect("a number");
            let switches = count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:");
            sleeps.insert(format!("{id} {}", field(&status, "Name:")), switches);
        }
        Some(sleeps)
    }

    /// Processor time that its threads have used.
    pub(crate) fn processor_time(&self) -> Duration {
        let spent = |id: &String| {
            let stat = self.proc(&format!("task/{id}/schedstat"));
            stat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).expect("nanoseconds")
        };
        Duration::from_nanos(self.threads().iter().map(spent).sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a line that begins with `name`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("the kernel does not tell {name}")).trim()
}
