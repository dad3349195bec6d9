//! The proxy's file, read again by a process at work: a good one while clients come, and bad ones that change nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;

use super::kit::{
    Origin, Process, Proxy, client, command, dead_port, end_of, eventually, on_each_reactor, pause, run,
    spawn, total,
};

on_each_reactor![
    reloads_under_load_lose_nobody_and_bad_files_change_nothing,
    listeners_come_and_go_and_what_is_kept_keeps_its_clients,
    what_was_learnt_of_an_upstream_outlives_a_reload,
];

/// Answers each byte with its own.
pub(crate) fn origin(tag: u8) -> Origin {
    Origin::start(move |mut stream| {
        let mut asked = [0];
        while let Ok(1) = stream.read(&mut asked) {
            if stream.write_all(&[tag]).is_err() {
                return;
            }
        }
    })
}

pub(crate) struct Site {
    pub(crate) proxy: Proxy,
    pub(crate) path: PathBuf,
    _folder: tempfile::TempDir,
}

/// The file of a proxy called `web`.
pub(super) fn file(listen: &[String], upstream: SocketAddr, more: &str) -> String {
    format!("[proxy.web]\nlisten = {listen:?}\nupstream = \"tcp:{upstream}\"\n{more}\n")
}

/// Where nobody listens: at an address that others do not get with a port that the kernel chooses for them.
pub(super) fn free() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let own = Ipv4Addr::new(127, 64 | high & 63, low, NEXT.fetch_add(1, Relaxed) as u8);
    let listener = TcpListener::bind((own, 0)).unwrap();
    format!("tcp:{}", listener.local_addr().unwrap())
}

impl Site {
    pub(crate) fn start(reactor: &str, text: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, text).unwrap();
        let mut command = command();
        command.args(["proxy", "--json", "--config"]).arg(&path);
        command.envs([("WATERWHEEL_REACTOR", reactor), ("WATERWHEEL_CORES", "2")]);
        Site { proxy: Proxy::spawn(&mut command), path, _folder: folder }
    }

    /// Has the file read again.
    pub(crate) fn reload(&self, text: &str, told: &str) {
        std::fs::write(&self.path, text).unwrap();
        self.proxy.process.signal(Signal::HUP);
        self.proxy.process.told_of(told);
    }
}

/// Who answers, the same one each time; and nothing but an orderly end after it.
pub(super) fn visit(to: SocketAddr, times: usize) -> u8 {
    let mut stream = client(to);
    let tags: Vec<u8> = (0..times).map(|_| ask(&mut stream)).collect();
    assert!(tags.iter().all(|tag| *tag == tags[0]), "two versions served one connection: {tags:?}");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut stream), Ok(0));
    tags[0]
}

pub(super) fn ask(stream: &mut TcpStream) -> u8 {
    let mut answer = [0];
    stream.write_all(&[1]).unwrap();
    stream.read_exact(&mut answer).unwrap();
    answer[0]
}

fn reloads_under_load_lose_nobody_and_bad_files_change_nothing(reactor: &str) {
    let origins = [origin(0), origin(1)];
    let (listen, taken) = ([free()], TcpListener::bind("127.0.0.1:0").unwrap());
    let site = Site::start(reactor, &file(&listen, origins[0].at, ""));
    let at = site.proxy.at;
    let mut held = client(at);
    assert_eq!(ask(&mut held), 0);
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (over, served) = (over.clone(), served.clone());
            spawn(move || {
                while !over.load(Relaxed) {
                    visit(at, 3);
                    served.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let taken = format!("tcp:{}", taken.local_addr().unwrap());
    let mut version = 0;
    for turn in 1..=12 {
        let origin = turn % 2;
        version += 1;
        site.reload(&file(&listen, origins[origin].at, ""), &format!("version {version} of the settings"));
        assert_eq!(visit(at, 1), origin as u8, "it is not served by what is there now");
        let other = origins[1 - origin].at;
        for (bad, told) in [
            (file(&listen, other, "retries = \"many\""), ":4:11: proxy.web.retries = \"many\": not a whole"),
            (file(&listen, other, "idle-tiemout = \"1s\""), ":4:1: proxy.web.idle-tiemout"),
            (
                file(&[listen[0].clone(), taken.clone()], other, ""),
                ":2:1: proxy.web.listen: cannot listen on",
            ),
            (file(&listen, other, "[runtime]\ncores = 1"), ":5:1: runtime.cores = 1: it cannot change"),
            ("[proxy.web".to_owned(), ":1:11: "),
        ] {
            site.reload(&bad, told);
        }
        assert_eq!(visit(at, 1), origin as u8, "a file that is not taken has an effect");
        served.fetch_add(2, Relaxed);
    }
    over.store(true, Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(ask(&mut held), 0, "a connection keeps what it began with");
    drop(held);
    site.proxy.counts("active", 0);
    let open = site.proxy.process.descriptors();
    for _ in 0..10 {
        version += 1;
        site.reload(&file(&listen, origins[0].at, ""), &format!("version {version} of the settings"));
    }
    assert_eq!(site.proxy.process.descriptors(), open, "a reload leaves descriptors");
    let report = site.proxy.stop();
    let (accepted, ends) = (total(&report, "accepted"), total(&report, "finished"));
    assert_eq!((accepted, ends), (served.load(Relaxed), accepted), "{report}");
    assert_eq!(report["undelivered"], 0, "{report}");
}

fn listeners_come_and_go_and_what_is_kept_keeps_its_clients(reactor: &str) {
    let origin = origin(7);
    let (kept, sometimes) = (free(), free());
    let site = Site::start(reactor, &file(std::slice::from_ref(&kept), origin.at, ""));
    let second: SocketAddr = sometimes.strip_prefix("tcp:").unwrap().parse().unwrap();
    let (mut version, mut open) = (0, 0);
    for turn in 0..3 {
        assert!(TcpStream::connect(second).is_err(), "somebody listens already");
        version += 1;
        let both = file(&[kept.clone(), sometimes.clone()], origin.at, "");
        site.reload(&both, &format!("version {version} of"));
        let mut held = client(second);
        assert_eq!(ask(&mut held), 7);
        // Those wait in the backlog of the kept listener while it changes.
        site.proxy.process.signal(Signal::STOP);
        let waiting: Vec<TcpStream> = (0..20).map(|_| client(site.proxy.at)).collect();
        std::fs::write(&site.path, file(std::slice::from_ref(&kept), origin.at, "")).unwrap();
        site.proxy.process.signal(Signal::HUP);
        site.proxy.process.signal(Signal::CONT);
        version += 1;
        site.proxy.process.told_of(&format!("version {version} of"));
        for mut stream in waiting {
            assert_eq!(ask(&mut stream), 7, "who waited is served");
        }
        assert_eq!(ask(&mut held), 7, "a listener that goes does not take its connections with it");
        drop(held);
        // It takes a second until the last trace of a listener is gone.
        pause(Duration::from_millis(1_500));
        site.proxy.counts("active", 0);
        let descriptors = || site.proxy.process.descriptors();
        if turn > 0 {
            eventually("no more descriptors than before", || (descriptors() <= open).then_some(()));
        }
        open = descriptors();
    }
    site.proxy.stop();
}

fn what_was_learnt_of_an_upstream_outlives_a_reload(reactor: &str) {
    let origin = origin(1);
    let (_held, dead) = dead_port();
    let text = |more: &str| {
        format!(
            "[proxy.web]\nlisten = \"tcp:127.0.0.1:0\"\nupstream = [\"tcp:{}\", \"tcp:{dead}\"]\n\
             check-interval = \"50ms\"\ncheck-fall = 2\n{more}\n",
            origin.at
        )
    };
    let site = Site::start(reactor, &text(""));
    let connected = |report: &serde_json::Value| {
        let shards = report["shards"].as_array().unwrap().clone();
        let all = shards.iter().flat_map(|shard| shard["upstreams"].as_array().unwrap().clone());
        all.map(|upstream| (upstream["address"].to_string(), upstream.clone())).collect::<Vec<_>>()
    };
    let is_down = |(address, upstream): &(String, serde_json::Value)| {
        address.contains(&dead.to_string()) && upstream["state"] == "down"
    };
    // On both shards.
    let all_know =
        || connected(&site.proxy.report()).iter().filter(|upstream| is_down(upstream)).count() == 2;
    eventually("it to be down", || all_know().then_some(()));
    for _ in 0..10 {
        assert_eq!(visit(site.proxy.at, 1), 1);
    }
    site.reload(&text("retries = 1"), "version 1 of");
    let report = site.proxy.report();
    let mut sum = 0;
    for (address, upstream) in connected(&report) {
        sum += upstream["connected"].as_u64().unwrap();
        if address.contains(&dead.to_string()) {
            assert_eq!(upstream["state"], "down", "{report}");
        }
    }
    assert_eq!(sum, 10, "{report}");
    assert_eq!(report["shards"][0]["version"], 1, "{report}");
    site.proxy.stop();
}

/// Runs `--check`.
fn check(path: &Path) -> super::kit::Ended {
    run(command().args(["proxy", "--check", "--cores", "2", "--config"]).arg(path))
}

#[test]
fn the_example_could_run_and_a_bad_file_could_not() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/waterwheel.toml");
    let ended = check(&example);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.contains("proxy web: listens on tcp:127.0.0.1:8080"), "{}", ended.out);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    for (text, parts) in [
        ("", &[": proxy: there is no proxy"][..]),
        (
            "[proxy.a]\nlisten = 5\nupstrem = \"tcp:h:1\"\n[runtime]\ncores = \"two\"\n",
            &[
                "bad.toml:2:10: proxy.a.listen = 5: ",
                "bad.toml:3:1: proxy.a.upstrem = \"tcp:h:1\": there is no such key, did you mean upstream?",
                "bad.toml:5:9: runtime.cores = \"two\": not a whole number; allowed: auto",
            ],
        ),
        (
            "[proxy.a]\nlisten = \"tcp:127.0.0.1:1\"\nupstream = \"tcp:no-such-host.invalid:1\"\n",
            &["bad.toml:3:1: proxy.a.upstream: ", "no-such-host.invalid"],
        ),
        (
            "[proxy.a]\nlisten = \"tcp:127.0.0.1:1\"\nsni = { \"a.org\" = \"b\" }\n",
            &["bad.toml:3:1: proxy.a.sni: the route of a.org leads to \"b\""],
        ),
        (
            "[proxy.a]\nlisten = \"tcp:127.0.0.1:1\"\nupstream = \"tcp:h:1\"\nconnections = 1\n",
            &["bad.toml:4:1: proxy.a.connections: a limit of 1 for 2 shards"],
        ),
        (
            "[proxy.a]\nlisten = \"tcp:127.0.0.1:1\"\nupstream = \"tcp:127.0.0.1:1\"\n",
            &["bad.toml:3:1: proxy.a.upstream: upstream tcp:127.0.0.1:1 is this proxy's own listener"],
        ),
        (
            "[proxy.a]\nlisten = \"tcp:*:1\"\nupstream = [\"tcp:127.0.0.1:2\", \"tcp:localhost:1\"]\n",
            &[
                "bad.toml:3:1: proxy.a.upstream: upstream tcp:localhost:1 is this proxy's own listener tcp:0.0.0.0:1",
            ],
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let ended = check(&path);
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        parts.iter().for_each(|part| assert!(ended.err.contains(part), "{part:?}: {}", ended.err));
        assert!(ended.err.lines().all(|line| line.starts_with("waterwheel: ")), "{}", ended.err);
    }
    let missing = check(&folder.path().join("none.toml"));
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("none.toml: No such file"), "{}", missing.err);
}

#[test]
fn flags_count_more_than_the_environment_and_that_more_than_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    let text =
        "[runtime]\ncores = 1\n[proxy.a]\nlisten = \"tcp:127.0.0.1:1\"\nupstream = \"tcp:127.0.0.1:2\"\n";
    std::fs::write(&path, text).unwrap();
    let shards = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = command();
        command.args(["proxy", "--check", "--config"]).arg(&path).args(flags);
        let ended = run(command.envs(variables.iter().copied()));
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out.split(": ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    assert_eq!(shards(&[], &[]), "1");
    assert_eq!(shards(&[], &[("WATERWHEEL_CORES", "2")]), "2");
    assert_eq!(shards(&["--cores", "3"], &[("WATERWHEEL_CORES", "2")]), "3");
}

/// As a service manager does before it has a file read again.
#[test]
fn a_file_is_checked_beside_the_proxy_that_runs() {
    let (folder, origin) = (tempfile::tempdir().unwrap(), origin(1));
    let admin = format!("unix:{}", folder.path().join("admin.sock").display());
    let mut running = Proxy::command("auto", &[origin.at]);
    running.args(["--admin", &admin]);
    let proxy = Proxy::spawn(&mut running);
    let path = folder.path().join("proxy.toml");
    let text = format!("[proxy.a]\nlisten = \"tcp:{}\"\nupstream = \"tcp:{}\"\n", proxy.at, origin.at);
    std::fs::write(&path, text).unwrap();
    let mut check = command();
    check.args(["proxy", "--check", "--config"]).arg(&path).env("WATERWHEEL_ADMIN", &admin);
    let ended = run(&mut check);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    proxy.stop();
}

/// Without a file SIGHUP does what it always does.
#[test]
fn a_proxy_of_flags_ends_by_a_hangup() {
    // As under nohup(1): then a hangup does nothing, to us and to those that we start.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    if u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 != 0 {
        return println!("NOT TESTED: hangups are ignored here");
    }
    let origin = origin(1);
    let proxy = Proxy::start("auto", &[origin.at], &[]);
    proxy.process.signal(Signal::HUP);
    let ended = Process::wait(proxy.process);
    assert_eq!(ended.code, None, "{}", ended.err);
}
