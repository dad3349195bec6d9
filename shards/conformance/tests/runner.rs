//! The runner itself, tried on laws and reactors that are broken on purpose: what must fail is reported as failed, and
//! with the reason.
//!
//! This program has two roles. As cargo starts it, it is the test; with [`ROLE`] in its environment it is one of the
//! suites that the test starts and reads.

mod world;

use std::env;
use std::fs::File;
use std::io;
use std::mem;
use std::process::{Command, ExitCode, Output, exit};
use std::sync::Arc;
use std::time::Duration;

use waterwheel_conformance::kit::{DescriptorLimit, PeerListener, pause, surroundings, thread};
use waterwheel_conformance::{Deviation, Held, Law, Outcome, laws, main as suite_of, main_among, main_with};
use waterwheel_reactor::{Address, Backend, Bound, Ended, Launch, ListenOptions, Unavailable, UnixName};

use world::World;

const ROLE: &str = "WATERWHEEL_RUNNER_TEST";

fn main() -> ExitCode {
    match env::var(ROLE).as_deref() {
        Ok("laws") => main_with(&[(&Plain(SOUND), &BROKEN)], &[]),
        Ok("list") => main_with(&[(&Plain(SOUND), &BROKEN)], LISTED),
        Ok("wrong list") => main_with(&[(&Plain(SOUND), &BROKEN)], WRONG),
        Ok("probes") => {
            let laws = [Law::new("HOLDS", "", holds), Law::new("ANYWAY", "", holds).unprobed()];
            let held = PROBES.iter().map(|plain| -> (&dyn Backend, &[Law]) { (plain, &laws) });
            main_with(&held.collect::<Vec<_>>(), &[])
        }
        Ok("world") => {
            let (laws, surroundings) =
                ([IN_A_WORLD.as_slice(), &BROKEN[..1]].concat(), Arc::<World>::default());
            main_among(&[Held { backend: &Plain(SOUND), laws: &laws, surroundings }], &[])
        }
        Ok("several") => suite_of(&[&Plain(SOUND), &PROBES[1]], &[]),
        Ok("one") => suite_of(&[&Plain(SOUND)], &[]),
        Ok("none") => suite_of(&[], &[]),
        _ => test(),
    }
}

/// Runs the checks, one line each; the first that fails ends the program with its panic.
fn test() -> ExitCode {
    let checks: [(&str, fn()); 8] = [
        ("every_way_to_break_a_law_is_reported", broken_laws),
        ("the_list_of_deviations_is_strict", strict_list),
        ("an_entry_that_can_never_apply_fails", wrong_list),
        ("a_reactor_that_cannot_run_is_not_passed", probes),
        ("a_law_meets_the_surroundings_of_its_reactor", surrounded),
        ("filters_choose_cases", filters),
        ("a_suite_that_tries_nothing_is_no_success", nothing_tried),
        ("a_bad_command_line_is_refused", bad_command_line),
    ];
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let listed = env::args().any(|argument| argument == "--list");
    let chosen = |name: &str| arguments.is_empty() || arguments.iter().any(|part| name.contains(&**part));
    let (chosen, others): (Vec<_>, Vec<_>) = checks.into_iter().partition(|(name, _)| chosen(name));
    if listed {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    for (name, check) in &chosen {
        check();
        println!("test {name} ... ok");
    }
    let (passed, out) = (chosen.len(), others.len());
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {out} filtered out\n");
    ExitCode::SUCCESS
}

const BROKEN: [Law; 10] = [
    Law::new("HOLDS", "", holds),
    Law::new("LACKS", "", |_| Outcome::NotOffered("no such thing here")),
    Law::new("PANICS", "the reason", |_| panic!("this is how it breaks")),
    Law::new("HANGS", "", |_| {
        loop {
            pause(Duration::from_secs(1));
        }
    })
    .within(Duration::from_millis(500)),
    Law::new("LEAKS", "", |_| {
        mem::forget(File::open("/dev/zero"));
        Outcome::Holds
    }),
    Law::new("STAYS", "", |_| {
        let _never_joined = thread(|| pause(Duration::from_secs(60)));
        Outcome::Holds
    })
    .alone(),
    Law::new("EXITS", "", |_| exit(0)),
    Law::new("ABORTS", "", |_| std::process::abort()),
    Law::new("FLOODS", "", |_| {
        let line = "x".repeat(1 << 16);
        (0..64).for_each(|_| println!("{line}"));
        panic!("after four mebibytes");
    }),
    // Holds, and leaves a process behind that has the runner's pipe open.
    Law::new("ORPHANS", "", |_| {
        let child = Command::new("sleep").arg("60").spawn();
        child.map_or(Outcome::NotOffered("no sleep(1)"), |_| Outcome::Holds)
    }),
];

/// Laws that hold only where the kit goes through the surroundings that the suite names.
const IN_A_WORLD: [Law; 3] = [
    Law::new("PEERS", "", |_| {
        let refused =
            surroundings().connect(&listener().local().expect("a place"), Default::default(), Duration::ZERO);
        assert_eq!(refused.expect_err("nobody connects").kind(), io::ErrorKind::ConnectionRefused);
        Outcome::Holds
    }),
    Law::new("LIMIT", "", |_| {
        let limit = DescriptorLimit::leave(0);
        File::open("/dev/zero").expect("the kernel knows no limit");
        let refused = surroundings().listen(&ANYWHERE, 1).expect_err("the world knows one");
        assert_eq!(refused.raw_os_error(), Some(24), "{refused}");
        drop(limit);
        drop(listener());
        Outcome::Holds
    }),
    Law::new("LOSES", "", |_| {
        mem::forget(listener());
        Outcome::Holds
    }),
];

const ANYWHERE: Address = Address::Unix(UnixName::Unnamed);

fn listener() -> Box<dyn PeerListener> {
    surroundings().listen(&ANYWHERE, 1).expect("a place in the world")
}

fn holds(_: &dyn Backend) -> Outcome {
    Outcome::Holds
}

const fn deviation(law: &'static str, reactor: &'static str) -> Deviation {
    Deviation { law, reactor, reason: "not our defect", measured: "a number" }
}

const LISTED: &[Deviation] = &[
    deviation("PANICS", "sound"),
    deviation("HANGS", "sound"),
    deviation("HOLDS", "sound"),
    deviation("LACKS", "sound"),
];

const WRONG: &[Deviation] = &[
    deviation("PANICS", "sound"),
    deviation("PANICS", "sound"),
    deviation("NO-SUCH-LAW", "sound"),
    deviation("PANICS", "no-such-reactor"),
];

/// A backend that does nothing, under a name and with a probe to choose.
#[derive(Clone, Copy, Debug)]
struct Plain((&'static str, fn() -> Result<(), Unavailable>));

const SOUND: (&str, fn() -> Result<(), Unavailable>) = ("sound", || Ok(()));

const PROBES: [Plain; 4] = [
    Plain(SOUND),
    Plain(("missing", || Err(Unavailable::new("no ring here")))),
    Plain(("panicking", || panic!("the probe breaks"))),
    Plain(("exiting", || exit(0))),
];

impl Backend for Plain {
    fn name(&self) -> &'static str {
        self.0.0
    }

    fn probe(&self) -> Result<(), Unavailable> {
        self.0.1()
    }

    fn bind(&self, _: &Address, _: &ListenOptions, _: usize) -> io::Result<Vec<Bound>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn run(&self, _: Vec<Launch>) -> Result<(), Vec<Ended>> {
        Ok(())
    }
}

/// What a suite said, and how it ended.
struct Said {
    text: String,
    code: Option<i32>,
}

impl Said {
    fn by(role: &str, arguments: &[&str], reactor: &str) -> Said {
        let program = env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.args(arguments).env(ROLE, role).env("WATERWHEEL_REACTOR", reactor).env("RUST_BACKTRACE", "0");
        let Output { status, stdout, stderr } = command.output().expect("a suite that ends");
        let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Said { text, code: status.code() }
    }

    #[track_caller]
    fn has(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.text.contains(part), "{part:?} is missing in:\n{}", self.text);
        }
    }

    #[track_caller]
    fn ended_with(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{}", self.text);
    }
}

fn broken_laws() {
    let said = Said::by("laws", &[], "auto");
    said.ended_with(1);
    said.has(&[
        "running 10 tests",
        "test sound::HOLDS ... ok\n",
        "test sound::ORPHANS ... ok\n",
        "test sound::LACKS ... not offered: no such thing here\n",
        "this is how it breaks",
        "---- sound::PANICS (the reason) ----",
        "did not end within 500ms and was killed",
        "left over: descriptor",
        "(/dev/zero)",
        "left over: thread",
        "ended the process with code 0 before the law came to its end",
        "was killed by signal 6",
        "test result: FAILED. 2 passed; 7 failed; 1 ignored; 0 measured; 0 filtered out",
    ]);
    for law in ["PANICS", "HANGS", "LEAKS", "STAYS", "EXITS", "ABORTS", "FLOODS"] {
        said.has(&[&format!("test sound::{law} ... FAILED\n")]);
    }
    let width = said.text.len();
    assert!(width < 2 << 20, "a law that floods its output floods ours: {width} bytes");
}

fn strict_list() {
    let said = Said::by("list", &["HOLDS", "LACKS", "PANICS", "HANGS"], "");
    said.ended_with(1);
    said.has(&[
        "test sound::PANICS ... deviation\n",
        "test sound::HANGS ... deviation\n",
        "sound::PANICS deviates: not our defect. Measured: a number",
        "test sound::HOLDS ... FAILED\n",
        "listed as a deviation (not our defect), but it holds",
        "test sound::LACKS ... FAILED\n",
        "but it is not offered: no such thing here",
        "0 passed; 2 failed; 2 ignored; 0 measured; 6 filtered out",
    ]);
    let said = Said::by("list", &["PANICS", "HANGS"], "auto");
    said.ended_with(0);
    said.has(&["test result: ok. 0 passed; 0 failed; 2 ignored"]);
}

fn wrong_list() {
    let said = Said::by("wrong list", &["PANICS"], "auto");
    said.ended_with(1);
    said.has(&[
        "is listed twice",
        "names no law that the reactor is held to",
        "names no reactor of this suite",
        "test result: FAILED. 0 passed; 3 failed; 1 ignored",
    ]);
}

fn probes() {
    let said = Said::by("probes", &[], "auto");
    said.ended_with(1);
    said.has(&[
        "test sound::HOLDS ... ok\n",
        "reactor missing cannot run here: no ring here\n",
        "test missing::HOLDS ... not offered: no ring here\n",
        "test missing::ANYWAY ... ok\n",
        "NOT TESTED: reactor missing cannot run here: no ring here\n",
        "test panicking::probe ... FAILED\n",
        "the probe breaks",
        "test panicking::HOLDS ... not offered: its probe gave no answer\n",
        "test exiting::probe ... FAILED\n",
        "test result: FAILED. 5 passed; 2 failed; 3 ignored",
    ]);
    let said = Said::by("probes", &["missing::HOLDS"], "auto");
    said.ended_with(0);
    said.has(&["NOT TESTED", "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out"]);
}

fn surrounded() {
    let said = Said::by("world", &[], "auto");
    said.ended_with(1);
    said.has(&[
        "test sound::LOSES ... FAILED\n",
        "left over: descriptor -1 (a note that unix:(unnamed) is listened at)",
        "test result: FAILED. 3 passed; 1 failed; 0 ignored",
    ]);
}

fn filters() {
    let said = Said::by("probes", &["--list"], "auto");
    said.ended_with(0);
    assert_eq!(said.text.lines().filter(|line| line.ends_with(": test")).count(), 8, "{}", said.text);
    let said = Said::by("probes", &["--exact", "sound::HOLDS", "--nocapture", "--test-threads=1"], "auto");
    said.has(&["running 1 test\n", "1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out"]);
    // What a filter leaves out was left out on purpose, as with the standard harness.
    let said = Said::by("probes", &["no-such-law"], "auto");
    said.ended_with(0);
    said.has(&["running 0 tests", "8 filtered out"]);
}

fn nothing_tried() {
    let listed = |said: &Said| said.text.lines().filter(|line| line.ends_with(": test")).count();
    // The environment limits a suite to one reactor, as it limits the programs.
    let said = Said::by("several", &["--list"], "sound");
    said.ended_with(0);
    assert_eq!(listed(&said), laws().len(), "{}", said.text);
    assert!(!said.text.contains("missing::"), "{}", said.text);
    let said = Said::by("several", &["LIFE-1"], "missing");
    said.ended_with(0);
    said.has(&["running 1 test\n", "test missing::LIFE-1 ... not offered: no ring here\n"]);
    for arguments in [&[][..], &["--list"], &["LIFE-1"]] {
        let said = Said::by("several", arguments, "soun");
        said.ended_with(2);
        said.has(&[
            "WATERWHEEL_REACTOR=soun: no such reactor in this suite; allowed are auto, sound, missing",
        ]);
    }
    // Where there is nothing to choose from, the name of another suite's reactor must not leave nothing.
    let said = Said::by("one", &["--list"], "epoll");
    said.ended_with(0);
    assert_eq!(listed(&said), laws().len(), "{}", said.text);
    let said = Said::by("probes", &["sound"], "epoll");
    said.ended_with(0);
    said.has(&["running 2 tests\n", "2 passed"]);
    let said = Said::by("none", &[], "auto");
    said.ended_with(1);
    said.has(&["no reactor is held to any law"]);
}

fn bad_command_line() {
    for arguments in [&["--test-threads", "many"][..], &["--skip"]] {
        Said::by("probes", arguments, "auto").ended_with(2);
    }
    Said::by("probes", &["--one-law", "sound::NO-SUCH-LAW"], "auto").ended_with(2);
}
