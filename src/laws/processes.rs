//! PROCESS-1 in a process of its own, since children and descriptors belong to whole processes.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hung;
mod kept;

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Pid, WaitOptions, waitpid};
use waterwheel::process::{Command, SpawnError, Stdio};
use waterwheel::runtime::{Config, RunError, Runtime, Signal, reactors};
use waterwheel::shard::Shard;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

/// Runs `main` on one shard of each reactor.
fn on_each_reactor<F>(main: impl Fn(Shard) -> F + Copy + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    with_each_reactor(|config| {
        let limited = move |shard: Shard| async move {
            shard.timeout(LONG, main(shard.clone())).await?;
            Ok(())
        };
        Runtime::new(config).unwrap().without_signals().run(limited)
    });
}

/// Does `run` with each reactor, one test at a time, and sees that no child and no descriptor is left.
fn with_each_reactor(run: impl Fn(Config) -> Result<Vec<()>, RunError>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    inherited();
    for reactor in reactors().iter().filter(|backend| backend.probe().is_ok()) {
        let name = reactor.name();
        let before = descriptors();
        let ended = run(Config::default().reactor(name).cores(1));
        ended.unwrap_or_else(|error| panic!("{name}: {error}"));
        settles(&format!("{name}: descriptors are left"), || descriptors().is_subset(&before));
        settles(&format!("{name}: children are left"), || children().is_empty());
    }
}

/// What a child has open that was started before any runtime; also what this process inherited from whoever ran it.
fn inherited() -> &'static String {
    static LIST: OnceLock<String> = OnceLock::new();
    LIST.get_or_init(|| {
        let output =
            std::process::Command::new("ls").arg("/proc/self/fd").stdin(std::process::Stdio::null()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    })
}

/// Asks until it is so: a thread that was told to end takes a moment.
fn settles(what: &str, mut so: impl FnMut() -> bool) {
    let pause = || waterwheel_conformance::kit::pause(Duration::from_millis(1));
    let settled = (0..2_000).any(|_| {
        let settled = so();
        if !settled {
            pause();
        }
        settled
    });
    assert!(settled, "{what}: {:?} {:?}", children(), descriptors());
}

/// Pipes, sockets, files and children. glommio leaves an eventfd behind, which is known of it.
fn descriptors() -> BTreeSet<String> {
    let open = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let targets = open.filter_map(|at| Some((at.clone(), fs::read_link(at).ok()?.display().to_string())));
    // Reading the directory opens it.
    let ours = |target: &str| !target.starts_with("/proc") && !target.contains("[event");
    targets
        .filter(|(_, target)| ours(target))
        .map(|(at, target)| format!("{} {target}", at.display()))
        .collect()
}

/// Children of this process, zombies among them.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_task = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let ids = of_task.flat_map(|ids| ids.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    ids.map(|id| fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or(id)).collect()
}

fn runs(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

fn shell(script: &str) -> Command {
    Command::new("/bin/sh").arguments(["-c", script])
}

fn piped(script: &str) -> Command {
    shell(script).stdin(Stdio::Piped).stdout(Stdio::Piped)
}

#[test]
fn process_1_output_is_complete_before_the_end_is_told() {
    on_each_reactor(async |shard| {
        let output = shard.output_of(&shell("printf out; printf err >&2; exit 3")).await.unwrap();
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out"[..], &b"err"[..]));
        assert_eq!(output.status.code(), Some(3));
        assert!(output.ended && !output.cut);
        // The end is there before anybody has looked at the output.
        let child = shard.spawn_process(&piped("printf out")).await.unwrap();
        while child.try_wait().unwrap().is_none() {
            shard.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(child.output().await.unwrap().stdout, b"out");
        // Much more than a pipe holds.
        let output = shard.output_of(&shell("head -c 900000 /dev/zero; printf x")).await.unwrap();
        assert_eq!((output.stdout.len(), output.stdout.last()), (900_001, Some(&b'x')));
        let output = shard.output_of(&shell("head -c 900000 /dev/zero").output_most(10)).await.unwrap();
        assert!(output.cut && output.ended && output.stdout == [0; 10]);
    });
}

#[test]
fn process_1_the_end_is_seen_once_and_nobody_elses_child_is_taken() {
    on_each_reactor(async |shard| {
        let mut other = std::process::Command::new("true").spawn().unwrap();
        let mut children = Vec::new();
        for code in 0..20 {
            children.push((code, shard.spawn_process(&shell(&format!("exit {code}"))).await.unwrap()));
        }
        for (code, child) in &mut children {
            assert_eq!(child.wait().await.unwrap().code(), Some(*code));
            assert_eq!(child.wait().await.unwrap().code(), Some(*code), "asked again");
            assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(*code));
            assert_eq!(child.signal(Signal::Kill).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert!(other.wait().unwrap().success());
    });
}

#[test]
fn process_1_an_end_that_other_code_has_taken_is_an_error_and_no_hang() {
    on_each_reactor(async |shard| {
        let mut child = shard.spawn_process(&piped("read x")).await.unwrap();
        let id = Pid::from_raw(child.id() as i32).unwrap();
        // Blocks the shard, so that nobody else can be first.
        drop(child.stdin.take());
        shard.reactor().now();
        child.signal(Signal::Kill).unwrap();
        waitpid(Some(id), WaitOptions::empty()).unwrap().unwrap();
        let unknown = child.wait().await.unwrap_err().to_string();
        assert!(unknown.contains(&child.id().to_string()), "{unknown}");
    });
}

#[test]
fn a_hundred_children_at_once_are_all_seen() {
    on_each_reactor(async |shard| {
        for _ in 0..2 {
            let ends = (0..50).map(|code| {
                let shard = shard.clone();
                async move { shard.output_of(&shell(&format!("echo {code}; exit {code}"))).await.unwrap() }
            });
            for (code, output) in join_all(ends).await.into_iter().enumerate() {
                assert_eq!(output.status.code(), Some(code as i32));
                assert_eq!(output.stdout, format!("{code}\n").into_bytes());
            }
        }
    });
}

#[test]
fn streams_go_both_ways_and_end_in_order() {
    on_each_reactor(async |shard| {
        let mut child = shard.spawn_process(&piped("exec cat")).await.unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let sent: Vec<u8> = (0..1_000_003_u32).map(|number| (number % 251) as u8).collect();
        let bytes = sent.clone();
        let writing = shard.spawn("writing", async move {
            stdin.write_all(&bytes).await.unwrap();
            stdin.flush().await.unwrap();
            stdin.close().await.unwrap();
            stdin.write(b"x").await.unwrap_err().kind()
        });
        let mut got = Vec::new();
        loop {
            let lent = stdout.fill().await.unwrap();
            if lent.is_empty() {
                break;
            }
            // Not all of it: the rest is lent again.
            let count = lent.len().div_ceil(2);
            got.extend_from_slice(&lent[..count]);
            stdout.consume(count);
        }
        assert!(got == sent);
        assert_eq!(writing.await.unwrap(), ErrorKind::BrokenPipe);
        assert!(stdout.fill().await.unwrap().is_empty(), "the end stays");
        assert!(child.wait().await.unwrap().success());
    });
}

#[test]
fn a_child_that_dies_while_it_is_written_to_is_a_broken_pipe_and_no_signal() {
    on_each_reactor(async |shard| {
        let mut child = shard.spawn_process(&piped("read x; exit 7")).await.unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let error = loop {
            match stdin.write(&[b'\n'; 10_000]).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert_eq!(stdin.flush().await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(child.wait().await.unwrap().code(), Some(7));
    });
}

#[test]
fn a_child_has_no_descriptor_but_its_streams_and_every_cpu() {
    on_each_reactor(async |shard| {
        let held = shard.spawn_process(&piped("exec cat")).await.unwrap();
        let listed = shard.output_of(&Command::new("ls").argument("/proc/self/fd")).await.unwrap();
        assert_eq!(String::from_utf8(listed.stdout).unwrap(), *inherited(), "the last one is the list's");
        let line =
            |text: &str, key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        let own = fs::read_to_string(format!("/proc/{}/status", std::process::id())).unwrap();
        let child = shard.output_of(&Command::new("cat").argument("/proc/self/status")).await.unwrap();
        let child = String::from_utf8(child.stdout).unwrap();
        assert_eq!(line(&child, "Cpus_allowed:"), line(&own, "Cpus_allowed:"));
        assert!(line(&child, "SigBlk:").ends_with("\t0000000000000000"), "{child}");
        // This process ignores SIGPIPE, as all do that are written in Rust.
        let ignored = line(&child, "SigIgn:").replace("SigIgn:\t", "");
        let pipe = 1 << (rustix::process::Signal::PIPE.as_raw() - 1);
        assert_eq!(u64::from_str_radix(&ignored, 16).unwrap() & pipe, 0, "{child}");
        drop(held);
    });
}

#[test]
fn environment_directory_and_given_descriptors() {
    on_each_reactor(async |shard| {
        let of = async |command: Command| {
            String::from_utf8(shard.output_of(&command).await.unwrap().stdout).unwrap()
        };
        let env = || Command::new("/usr/bin/env").no_variables();
        assert_eq!(
            of(env().variable("A", "b c").variable("X", "").without_variable("Y")).await,
            "A=b c\nX=\n"
        );
        let inherited = of(Command::new("env").without_variable("PATH")).await;
        assert!(!inherited.contains("\nPATH=") && !inherited.starts_with("PATH="), "{inherited}");
        assert_eq!(of(Command::new("pwd").directory("/usr")).await, "/usr\n");
        assert_eq!(of(Command::new("echo").arguments(["a b", "$HOME", ""])).await, "a b $HOME \n");
        let mut file = tempfile::tempfile().unwrap();
        let command = shell("echo given; echo more >&2").stdout(Stdio::given(file.try_clone().unwrap()));
        let command = command.stderr(Stdio::given(file.try_clone().unwrap()));
        for _ in 0..2 {
            assert!(shard.spawn_process(&command).await.unwrap().wait().await.unwrap().success());
        }
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "given\nmore\ngiven\nmore\n");
    });
}

#[test]
fn what_cannot_be_run_is_told_with_its_name_and_the_reason() {
    on_each_reactor(async |shard| {
        let folder = tempfile::tempdir().unwrap();
        let (plain, text) = (folder.path().join("plain"), folder.path().join("text"));
        fs::write(&plain, "#!/bin/sh\n").unwrap();
        fs::write(&text, "no program\n").unwrap();
        let mode: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&text, mode).unwrap();
        let good = || Command::new("true");
        for (command, reason) in [
            (Command::new("no-such-program"), "cannot run \"no-such-program\": No such file"),
            (Command::new("/no/such/program"), "No such file"),
            (Command::new(&plain), "Permission denied"),
            (Command::new(&text), "Exec format error"),
            (Command::new("/usr"), "cannot run \"/usr\": Permission denied"),
            (Command::new(""), "the program's name is empty"),
            (good().argument("a\0b"), "zero byte"),
            (good().directory("/no/such/place"), "in the directory \"/no/such/place\": No such file"),
            (good().directory("/etc/passwd"), "in the directory \"/etc/passwd\": Not a directory"),
        ] {
            // execvp(3), which is used then, gives a text to the shell.
            let scripts = command.program() == text;
            for dies in [false, true].into_iter().take(if scripts { 1 } else { 2 }) {
                let refused = shard.spawn_process(&command.clone().dies_with_shard(dies)).await.unwrap_err();
                assert!(refused.is_lasting() && refused.to_string().contains(reason), "{refused}");
            }
        }
        let many = (0..200).map(|_| async { shard.output_of(&good()).await });
        let refused = join_all(many).await.into_iter().filter_map(Result::err).collect::<Vec<_>>();
        assert!(
            !refused.is_empty()
                && refused.iter().all(|error| matches!(error, SpawnError::Busy { most: 64, .. }))
        );
    });
}

#[test]
fn a_child_that_closes_its_output_and_lives_on_is_waited_for() {
    on_each_reactor(async |shard| {
        let mut child = shard.spawn_process(&piped("echo last; exec >&-; read x; exit 5")).await.unwrap();
        let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut line = [0; 5];
        stdout.read_exact(&mut line).await.unwrap();
        assert_eq!(stdout.read(&mut line).await.unwrap(), 0);
        assert!(shard.timeout(SHORT, child.wait()).await.is_err(), "it has not ended");
        drop(stdin);
        assert_eq!(child.wait().await.unwrap().code(), Some(5));
    });
}

#[test]
fn a_process_that_a_child_left_behind_does_not_hold_up_its_end() {
    on_each_reactor(async |shard| {
        let script = "sleep 60 & echo $!";
        let output = shard.output_of(&shell(script).patience(SHORT)).await.unwrap();
        assert!(!output.ended && output.status.success());
        let left: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert!(runs(left), "it was left behind on purpose");
        rustix::process::kill_process(Pid::from_raw(left as i32).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        // Killed with its group, it holds nothing up.
        let output = shard.output_of(&shell(script).patience(LONG).group_ends_with_it(true)).await.unwrap();
        assert!(output.ended && output.status.success());
    });
}

#[test]
fn stopping_asks_first_and_kills_then_all_of_the_group() {
    on_each_reactor(async |shard| {
        let ready = async |script: &str| {
            let mut child = shard.spawn_process(&piped(script)).await.unwrap();
            let mut stdout = child.stdout.take().unwrap();
            let mut line = [0; 6];
            stdout.read_exact(&mut line).await.unwrap();
            (child, stdout)
        };
        let (mut child, _) = ready("echo ready; exec sleep 60").await;
        assert_eq!(child.stop(LONG).await.unwrap().signal(), Some(Signal::Terminate.number()));
        let (mut child, _) = ready("trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done").await;
        assert_eq!(child.stop(LONG).await.unwrap().code(), Some(4));
        // One that is stopped hears of it too.
        let (mut child, _) = ready("echo ready; kill -STOP $$; exec sleep 60").await;
        assert_eq!(child.stop(LONG).await.unwrap().signal(), Some(Signal::Terminate.number()));
        let deaf = "trap '' TERM; sleep 60 & echo ready; while :; do sleep 60; done";
        let (mut child, mut stdout) = ready(deaf).await;
        assert_eq!(child.stop(SHORT).await.unwrap().signal(), Some(Signal::Kill.number()));
        assert!(stdout.fill().await.unwrap().is_empty(), "one of its group still holds the pipe");
    });
}

#[test]
fn a_flood_keeps_nobody_else_from_running_and_dropping_it_kills() {
    on_each_reactor(async |shard| {
        let (tell, told) = std::sync::mpsc::channel();
        let flooding = shard.clone();
        let flood = shard.spawn("flood", async move {
            let child = flooding.spawn_process(&shell("exec yes").stdout(Stdio::Piped)).await.unwrap();
            tell.send(child.id()).unwrap();
            child.output().await
        });
        let (mut slept, mut id) = (0, None);
        while slept < 20 || id.is_none() {
            shard.sleep(Duration::from_millis(1)).await;
            (slept, id) = (slept + 1, id.or_else(|| told.try_recv().ok()));
        }
        flood.cancel();
        let id = id.unwrap();
        while runs(id) {
            shard.sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_dropped_child_runs_on_unless_it_was_said_otherwise() {
    on_each_reactor(async |shard| {
        let folder = tempfile::tempdir().unwrap();
        let script = "while ! [ -e go ]; do sleep 0.01; done; echo done > here";
        let child = shard.spawn_process(&shell(script).directory(folder.path())).await.unwrap();
        let (id, killed) =
            (child.id(), shard.spawn_process(&shell("sleep 60 & wait").kill_on_drop(true)).await.unwrap());
        let killed_id = killed.id();
        drop((child, killed));
        while runs(killed_id) {
            shard.sleep(Duration::from_millis(1)).await;
        }
        assert!(runs(id));
        fs::write(folder.path().join("go"), "").unwrap();
        while runs(id) {
            shard.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(fs::read_to_string(folder.path().join("here")).unwrap(), "done\n");
    });
}

#[test]
fn what_is_to_end_with_its_shard_does() {
    static IDS: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    on_each_reactor(async |shard| {
        for command in
            [shell("exec sleep 60").kill_on_drop(true), shell("exec sleep 60").dies_with_shard(true)]
        {
            let child = shard.spawn_process(&command).await.unwrap();
            IDS.lock().unwrap().push(child.id());
            // Held until the shard has ended.
            shard.spawn_detached("holds", async move {
                std::future::pending::<()>().await;
                drop(child);
            });
        }
        // Spawns that nobody waits for any more leave nothing either.
        for _ in 0..5 {
            let spawning = shard.clone();
            let spawn = shard.spawn("spawns", async move {
                let command = shell("sleep 60").kill_on_drop(true);
                spawning.spawn_process(&command).await.unwrap()
            });
            shard.yield_now().await;
            spawn.cancel();
        }
    });
    settles("a child outlived its shard", || {
        !IDS.lock().unwrap().iter().any(|id| state(*id).is_some_and(|state| state != 'Z'))
    });
}

/// As proc(5): `Z` is a zombie.
fn state(id: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}
