use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::net::layer::ClientPrefix;
use crate::net::proxy_header::{Others, Version, Wanted};
use crate::proxy::tcp::{
    Balance, Checks, ClientLimits, ClientRate, Ejection, RetryBudget, Selection, Throttle, Upstream,
};

const LEAST: &str = "[proxy.web]\nlisten = \"tcp:127.0.0.1:1\"\nupstream = \"tcp:127.0.0.1:2\"\n";

fn faults(text: &str) -> Vec<String> {
    let faults = File::parse("p.toml", text).expect_err(text);
    faults.all.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_not_said_is_as_by_default() {
    let file = File::parse("p.toml", LEAST).unwrap();
    let [(name, settings)] = &file.named()[..] else { panic!("{file:?}") };
    assert_eq!(name.as_deref(), Some("web"));
    let endpoint = |text: &str| text.parse().unwrap();
    assert_eq!(
        *settings,
        Settings::new(vec![endpoint("tcp:127.0.0.1:1")], vec![endpoint("tcp:127.0.0.1:2")])
    );
    assert!(file.runtime.is_empty() && file.access_log.is_none());
}

const EVERY_KEY: &str = r#"
[access-log]
path = "-"
format = "json"
[runtime]
cores = 3
cpus = "0-2"
stall-ms = "0"
steer-program = "off"
[proxy.b]
listen = ["tcp:127.0.0.1:1", "unix:/run/x.sock"]
upstream = ["tcp:h:1,weight=3", { endpoint = "unix:/a,b", weight = 0, connections = 9 }]
balance = "rendezvous"
connect-timeout = "1.5s"
retries = 0
retry-percent = 7
retry-rate = 8
idle-timeout = "0s"
total-timeout = "1h"
throttle-up = "1m"
throttle-down = 17
throttle-burst = "18k"
connections = 1_000
client-connections = 15
client-rate = "30/m"
client-burst = 16
client-ipv4-prefix = 24
client-ipv6-prefix = 56
proxy-protocol = "require"
proxy-trusted = ["10.0.0.0/8", "unix"]
proxy-untrusted = "pass"
send-proxy = "v2"
first-bytes-timeout = "9s"
check-interval = "2s"
check-fast-interval = "1s"
check-jitter = 0
check-timeout = "3s"
check-rise = 4
check-fall = 5
check-send = "PING\r\n"
check-expect = "PONG"
eject-after = 6
eject-time = "1s"
eject-time-max = "2s"
max-ejected = 10
panic-percent = 11
slow-start = "12s"
queue-timeout = "13s"
queue-length = 14
[proxy.b.group.shop]
upstream = "tcp:s:1"
[proxy.b.sni]
"*.example.org" = "shop"
[proxy.a]
listen = "tcp:127.0.0.1:3"
upstream = ["tcp:127.0.0.1:4"]
"#;

#[test]
fn every_key_is_read() {
    let file = File::parse("p.toml", EVERY_KEY).unwrap();
    let names: Vec<&str> = file.proxies.iter().map(|proxy| &*proxy.name).collect();
    assert_eq!(names, ["b", "a"], "in the file's order");
    let endpoint = |text: &str| text.parse().unwrap();
    let plain = Upstream::new(endpoint("unix:/a,b"));
    let settings = &file.proxies[0].settings;
    assert_eq!(
        settings.upstreams,
        ["tcp:h:1,weight=3".parse().unwrap(), Upstream { weight: 0, connections: Some(9), ..plain }]
    );
    let header = settings.header.clone().unwrap();
    assert_eq!((header.wanted, header.others, header.trusted.len()), (Wanted::Require, Others::Pass, 2));
    let seconds = Duration::from_secs;
    let rest = Settings {
        balance: Balance::Rendezvous,
        connect_timeout: Duration::from_millis(1_500),
        retries: 0,
        retry_budget: Some(RetryBudget { percent: 7, per_second: 8 }),
        idle_timeout: None,
        total_timeout: Some(seconds(3_600)),
        throttle: Throttle { up: Some(1 << 20), down: Some(17), burst: Some(18 << 10) },
        connections: 1_000,
        clients: ClientLimits {
            connections: Some(15),
            rate: Some(ClientRate { connections: 30, per: seconds(60), burst: 16 }),
            prefix: ClientPrefix { ipv4: 24, ipv6: 56 },
        },
        send_header: Some(Version::Two),
        first_bytes_timeout: seconds(9),
        checks: Some(Checks {
            interval: seconds(2),
            fast_interval: seconds(1),
            jitter_percent: 0,
            timeout: seconds(3),
            rise: 4,
            fall: 5,
            send: b"PING\r\n".to_vec(),
            expect: b"PONG".to_vec(),
        }),
        ejection: Some(Ejection {
            failures: 6,
            time: seconds(1),
            time_max: seconds(2),
            max_ejected_percent: 10,
        }),
        panic_percent: 11,
        slow_start: Some(seconds(12)),
        queue_timeout: seconds(13),
        queue_length: 14,
        groups: settings.groups.clone(),
        routes: settings.routes.clone(),
        header: settings.header.clone(),
        listen: vec![endpoint("tcp:127.0.0.1:1"), endpoint("unix:/run/x.sock")],
        upstreams: settings.upstreams.clone(),
    };
    assert_eq!(*settings, rest);
    assert_eq!(
        (&*settings.groups[0].name, settings.routes[0].pattern.to_string()),
        ("shop", "*.example.org".to_owned())
    );
    assert!(file.check(3).is_ok());
    let mut config = Config::default();
    file.configure(&mut config).unwrap();
    assert!(config.check().is_ok());
    assert_eq!(file.access_log.unwrap().format, LogFormat::Json);
}

#[test]
fn each_fault_is_told_with_its_line_and_what_is_allowed() {
    for (text, told) in [
        (
            "retries = -1",
            "p.toml:4:11: proxy.web.retries = -1: not a whole number in its bounds; allowed: 0 to 1000",
        ),
        (
            "  retries = [1]",
            "p.toml:4:13: proxy.web.retries = [1]: it is of type array; allowed: a string or a number",
        ),
        (
            "idle-timeout = 5",
            "p.toml:4:16: proxy.web.idle-timeout = 5: duration \"5\": not one; allowed: a number and ns",
        ),
        (
            "balance = 'best'",
            "p.toml:4:11: proxy.web.balance = 'best': \"best\" is no way to balance; allowed: round-robin",
        ),
        (
            "conections = 1",
            "p.toml:4:1: proxy.web.conections = 1: there is no such key, did you mean connections?; allowed: listen",
        ),
        ("zzz = 1", "p.toml:4:1: proxy.web.zzz = 1: there is no such key; allowed: listen"),
        ("check-rise = 1", "p.toml:4:14: proxy.web.check-rise = 1: it means nothing without check-interval"),
        ("max-ejected = 1", "p.toml:4:15: proxy.web.max-ejected = 1: it means nothing without eject-after"),
        (
            "proxy-untrusted = 'pass'",
            "p.toml:4:19: proxy.web.proxy-untrusted = 'pass': it means nothing without",
        ),
        ("sni = 3", "p.toml:4:7: proxy.web.sni = 3: it is of type integer; allowed: a table, as in [sni]"),
        ("sni = { 'a..b' = 'x' }", "p.toml:4:18: proxy.web.sni.a..b = 'x': \"a..b\" is no name of a server"),
        ("group = { x = {} }", "p.toml:4:11: proxy.web.group.x.upstream: it is missing"),
        (
            "group = { 'ü' = {} }",
            "p.toml:4:11: proxy.web.group.ü: \"ü\" is no name of a group; allowed: at most 64",
        ),
        ("listen = 'x'", "p.toml:4:1: \"listen\": duplicate key"),
        ("ü = 1", "p.toml:4:1: "),
        ("[runtime]\nseed = 1", "p.toml:5:1: runtime.seed = 1: there is no such key"),
        (
            "[runtime]\ncores = 0",
            "p.toml:5:9: runtime.cores = 0: no shard could run; allowed: auto, or a number",
        ),
        ("[access-log]\nformat = 'text'", "p.toml:4:2: access-log.path: it is missing"),
        (
            "[access-log]\npath = '-'\nformat = 'xml'",
            "p.toml:6:10: access-log.format = 'xml': \"xml\" is no format",
        ),
        (
            "[proxy.two]\nlisten = 'tcp:127.0.0.1:1'\nupstream = 'tcp:h:1'",
            "p.toml:5:1: proxy.two.listen: tcp:127.0.0.1:1 is listened on twice",
        ),
        (
            "[proxy.two]\nupstream = [{ weight = 2 }]\nlisten = 'tcp:h:1'",
            "p.toml:5:13: proxy.two.upstream.endpoint: it is missing",
        ),
        ("[[proxies]]", "p.toml:4:3: proxies = [[proxies]]: there is no such key, did you mean proxy?"),
    ] {
        let told_all = faults(&format!("{LEAST}{text}\n"));
        assert!(told_all.iter().any(|line| line.starts_with(told)), "{told}\n{told_all:#?}");
        assert!(told_all.iter().all(|line| !line.contains('\n')), "{told_all:?}");
    }
}

#[test]
fn limits_of_clients_and_connections_that_make_no_sense_are_told_with_their_line() {
    for (text, told) in [
        (
            "client-connections = 0",
            "p.toml:4:22: proxy.web.client-connections = 0: not a whole number in its bounds; allowed: 1 to 1000000000",
        ),
        ("client-connections = -3", "p.toml:4:22: proxy.web.client-connections = -3: not a whole number"),
        (
            "client-connections = 99999999999",
            "p.toml:4:22: proxy.web.client-connections = 99999999999: not a whole number in its bounds; allowed: 1 to",
        ),
        (
            "client-rate = '0/s'",
            "p.toml:4:15: proxy.web.client-rate = '0/s': rate \"0/s\": not one; allowed: connections from 1 to",
        ),
        ("client-rate = -1", "p.toml:4:15: proxy.web.client-rate = -1: rate \"-1\": not one; allowed: "),
        ("client-burst = 5", "p.toml:4:16: proxy.web.client-burst = 5: it means nothing without client-rate"),
        (
            "client-ipv6-prefix = 48",
            "p.toml:4:22: proxy.web.client-ipv6-prefix = 48: it means nothing without client-connections or client-rate",
        ),
        (
            "client-rate = 1\nclient-ipv6-prefix = 129",
            "p.toml:5:22: proxy.web.client-ipv6-prefix = 129: not a whole number in its bounds; allowed: 1 to 128",
        ),
        (
            "client-conections = 1",
            "p.toml:4:1: proxy.web.client-conections = 1: there is no such key, did you mean client-connections?",
        ),
        (
            "total-timeout = -1",
            "p.toml:4:17: proxy.web.total-timeout = -1: duration \"-1\": not one; allowed: a number and ns",
        ),
        ("total-timeout = '9999999h'", "p.toml:4:17: proxy.web.total-timeout = '9999999h': duration"),
        (
            "throttle-up = 0",
            "p.toml:4:15: proxy.web.throttle-up = 0: not in its bounds; allowed: 1 to 1099511627776 bytes",
        ),
        (
            "throttle-down = -1",
            "p.toml:4:17: proxy.web.throttle-down = -1: size \"-1\": not one; allowed: bytes",
        ),
        (
            "throttle-down = '9999t'",
            "p.toml:4:17: proxy.web.throttle-down = '9999t': size \"9999t\": not one",
        ),
        ("throttle-up = '2000g'", "p.toml:4:15: proxy.web.throttle-up = '2000g': not in its bounds"),
        (
            "throttle-burst = '1m'",
            "p.toml:4:18: proxy.web.throttle-burst = '1m': it means nothing without throttle-up or throttle-down",
        ),
    ] {
        let told_all = faults(&format!("{LEAST}{text}\n"));
        assert!(told_all.iter().any(|line| line.starts_with(told)), "{told}\n{told_all:#?}");
    }
}

#[test]
fn all_faults_are_told_at_once_and_in_order() {
    let told =
        faults("[proxy.b]\nretries = 'x'\nlisten = 'y'\n[proxy.a]\nretries = 'x'\n[runtime]\ncores = 'x'\n");
    let lines: Vec<&str> = told.iter().map(|line| line.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["1", "2", "3", "4", "4", "5", "7"], "{told:#?}");
    let many = (0..200).map(|number| format!("x{number} = 1\n")).collect::<String>();
    assert_eq!(faults(&many).len(), 50, "no more than anybody reads");
    let one_line = File::parse("p.toml", "x = 1\ny = 2").unwrap_err().to_string();
    assert!(one_line.starts_with("p.toml:1:1: x = 1: ") && one_line.ends_with("(and 1 more)"), "{one_line}");
}

#[test]
fn a_name_cannot_forge_a_line() {
    let told = faults("[proxy.\"a\\nwaterwheel: fine\"]\nlisten = 1\n[proxy.b]\nlisten = \"\u{1b}[2J\"\n");
    assert!(told.iter().all(|line| line.chars().all(|letter| !letter.is_control())), "{told:?}");
}

#[test]
fn only_a_restart_changes_the_runtime_and_the_access_log() {
    let file = |more: &str| File::parse("p.toml", &format!("{LEAST}{more}")).unwrap();
    let with = "[runtime]\ncores = 2\n[access-log]\npath = 'a'\n";
    assert!(file(with).check_change(&file(with)).is_ok());
    for (to, told) in [
        (
            "[runtime]\ncores = 3\n[access-log]\npath = 'a'\n",
            "p.toml:5:1: runtime.cores = 3: it cannot change",
        ),
        ("[access-log]\npath = 'a'\n", "p.toml:1:1: runtime.cores = (gone): it cannot change"),
        (
            "[runtime]\ncores = 2\n[access-log]\npath = 'b'\n",
            "p.toml:6:2: access-log = (changed): it cannot change",
        ),
        ("[runtime]\ncores = 2\n", "access-log = (changed): it cannot change"),
    ] {
        let wrong = file(to).check_change(&file(with)).unwrap_err().to_string();
        assert!(wrong.contains(told), "{told}: {wrong}");
    }
}

#[test]
fn errors_found_later_are_told_with_their_place() {
    let file = File::parse("p.toml", &format!("{LEAST}connections = 1\n")).unwrap();
    let wrong = file.check(2).unwrap_err().to_string();
    assert!(wrong.starts_with("p.toml:4:1: proxy.web.connections: a limit of 1 for 2 shards"), "{wrong}");
    let file = File::parse("p.toml", &format!("{LEAST}total-timeout = '0s'\n")).unwrap();
    let wrong = file.check(1).unwrap_err().to_string();
    let told = "p.toml:4:1: proxy.web.total-timeout: 0ns makes no sense; allowed: more than 0s";
    assert!(wrong.starts_with(told), "{wrong}");
    let bound = ProxyError::Of { name: "web".to_owned(), error: Box::new(ProxyError::NoUpstream) };
    let place = file.locate(&bound).unwrap().place.unwrap();
    assert_eq!(place, Place { line: 3, column: 1 });
    assert!(file.locate(&ProxyError::NoUpstream).is_none());
}

#[test]
fn a_group_has_what_it_says_and_the_rest_of_the_proxy() {
    let text = format!(
        "{LEAST}balance = 'rendezvous'\ncheck-interval = '2s'\ncheck-rise = 7\neject-after = 5\nslow-start = '3s'\n\
         sni = {{ 'a.org' = 'a', 'b.org' = 'b', 'c.org' = 'c' }}\n\
         [proxy.web.group.a]\nupstream = 'tcp:a:1'\ncheck-fall = 9\neject-time = '31s'\nqueue-length = 3\n\
         [proxy.web.group.b]\nupstream = 'tcp:b:1'\nbalance = 'two-choices'\ncheck-interval = '0s'\neject-after = 0\nslow-start = '0s'\n\
         [proxy.web.group.c]\nupstream = 'tcp:c:1'\n"
    );
    let file = File::parse("p.toml", &text).unwrap();
    let settings = &file.proxies[0].settings;
    let (plain, own) = (settings.selection(), |place: usize| settings.groups[place].selection.clone());
    let (checks, ejection) = (plain.checks.clone().unwrap(), plain.ejection.clone().unwrap());
    let a = Selection {
        checks: Some(Checks { fall: 9, ..checks }),
        ejection: Some(Ejection { time: Duration::from_secs(31), ..ejection }),
        queue_length: 3,
        ..plain.clone()
    };
    assert_eq!(own(0), Some(a));
    let b =
        Selection { balance: Balance::TwoChoices, checks: None, ejection: None, slow_start: None, ..plain };
    assert_eq!((own(1), own(2)), (Some(b), None));
    assert!(file.check(1).is_ok());
    // Without anything at the proxy a group has the defaults.
    let alone = "sni = { 'a.org' = 'a' }\n[proxy.web.group.a]\nupstream = 'tcp:a:1'\n";
    let file = File::parse("p.toml", &format!("{LEAST}{alone}check-interval = '1s'\n")).unwrap();
    let own = file.proxies[0].settings.groups[0].selection.clone().unwrap();
    assert_eq!(own.checks.unwrap().rise, Checks::default().rise);
    assert_eq!((own.ejection, own.balance), (None, Balance::default()));
}

#[test]
fn what_is_wrong_with_a_group_is_told_with_its_place() {
    let with = |more: &str| {
        format!("{LEAST}sni = {{ 'a.org' = 'a' }}\n[proxy.web.group.a]\nupstream = 'tcp:a:1'\n{more}\n")
    };
    for (text, told) in [
        (
            "balance = 'best'",
            "p.toml:7:11: proxy.web.group.a.balance = 'best': \"best\" is no way to balance",
        ),
        (
            "check-rise = 3",
            "p.toml:7:14: proxy.web.group.a.check-rise = 3: it means nothing without check-interval",
        ),
        (
            "eject-after = 0\neject-time = '1s'",
            "p.toml:8:14: proxy.web.group.a.eject-time = '1s': it means nothing",
        ),
        ("retries = 1", "p.toml:7:1: proxy.web.group.a.retries = 1: there is no such key"),
        (
            "blance = 'x'",
            "p.toml:7:1: proxy.web.group.a.blance = 'x': there is no such key, did you mean balance?",
        ),
    ] {
        assert!(
            faults(&with(text)).iter().any(|line| line.starts_with(told)),
            "{told}: {:#?}",
            faults(&with(text))
        );
    }
    for (text, told) in [
        (
            "check-interval = '1s'\ncheck-timeout = '0s'",
            "p.toml:8:1: proxy.web.group.a.check-timeout: 0ns makes no sense",
        ),
        (
            "eject-after = 1\neject-time-max = '1s'",
            "p.toml:8:1: proxy.web.group.a.eject-time-max: 1s makes no sense",
        ),
    ] {
        let wrong = File::parse("p.toml", &with(text)).unwrap().check(1).unwrap_err().to_string();
        assert!(wrong.starts_with(told), "{told}: {wrong}");
    }
}

proptest! {
    /// No text panics, and every fault is one line that names the file.
    #[test]
    fn whatever_is_written_is_read_or_told(text in "([a-z\\[\\]\\.\"'={} ,0-9\n-]|proxy|listen|upstream|runtime|sni|é){0,60}") {
        if let Err(faults) = File::parse("p.toml", &text) {
            prop_assert!(!faults.all.is_empty());
            for fault in &faults.all {
                let line = fault.to_string();
                prop_assert!(line.starts_with("p.toml:") && line.chars().all(|letter| !letter.is_control()), "{}", line);
            }
        }
    }
}
