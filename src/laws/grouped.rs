//! What upstreams have of their own in the proxy's file: a limit that changes with it, and groups that are chosen from and
//! checked each in its own way.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;

use super::headers::hello;
use super::kit::{client, dead_port, eventually, meet, on_each_reactor, waits};
use super::reloaded::{Site, origin};

on_each_reactor![
    connections_of_before_count_against_a_limit_that_changes,
    groups_have_a_balance_and_checks_of_their_own,
];

/// How many limits the shards know of.
fn limits(report: &Value) -> Vec<usize> {
    let known = |shard: &Value| {
        let ports = shard["messages"]["ports"].as_array().unwrap().iter();
        ports.filter(|port| port["name"].as_str().unwrap().starts_with("connections to an upstream")).count()
    };
    report["shards"].as_array().unwrap().iter().map(known).collect()
}

fn connections_of_before_count_against_a_limit_that_changes(reactor: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    let file = |limit: &str| {
        let listen = "listen = \"tcp:127.0.0.1:0\"\nqueue-timeout = \"1h\"";
        format!("[proxy.web]\n{listen}\nupstream = \"tcp:{upstream}{limit}\"\n")
    };
    let site = Site::start(reactor, &file(",connections=2"));
    let at = site.proxy.at;
    let (one, two) = ((client(at), meet(&listener)), (client(at), meet(&listener)));
    site.reload(&file(",connections=1"), "version 1 of");
    let third = client(at);
    let nobody = |why| assert!(!waits(&listener, Duration::from_millis(200)), "{why}");
    nobody("two are connected already");
    drop(one);
    site.proxy.counts("finished", 1);
    nobody("one is connected already, of one");
    drop(two);
    let met = meet(&listener);
    let fourth = client(at);
    nobody("a second one");
    // What waits with an older version's connections gets its place too.
    site.reload(&file(",connections=3"), "version 2 of");
    let all = [(third, met), (fourth, meet(&listener)), (client(at), meet(&listener))];
    let fifth = client(at);
    nobody("a fourth one, of three");
    site.reload(&file(",connections=4"), "version 3 of");
    let fifth = (fifth, meet(&listener));
    for version in 4..9 {
        let limit = if version % 2 == 0 { "" } else { ",connections=7" };
        site.reload(&file(limit), &format!("version {version} of"));
    }
    assert_eq!(limits(&site.proxy.report()), [1, 1], "each reload adds a limit");
    drop((all, fifth));
    // The last connection that began with a limit takes it with it.
    site.proxy.counts("active", 0);
    eventually("no limit to be left", || (limits(&site.proxy.report()) == [0, 0]).then_some(()));
    site.proxy.stop();
}

fn groups_have_a_balance_and_checks_of_their_own(reactor: &str) {
    let (origins, (_guard, dead)) = ([0, 1, 2, 3].map(origin), dead_port());
    let [a, b, c, d] = origins.each_ref().map(|origin| format!("tcp:{}", origin.at));
    let text = format!(
        "[runtime]\nsteer = \"flow\"\n[proxy.web]\nlisten = \"tcp:127.0.0.1:0\"\n\
         balance = \"rendezvous\"\ncheck-interval = \"50ms\"\ncheck-fall = 2\ncheck-timeout = \"10s\"\n\
         [proxy.web.sni]\n\"same.example\" = \"same\"\n\"turns.example\" = \"turns\"\n\
         [proxy.web.group.same]\nupstream = [\"{a}\", \"{b}\", \"tcp:{dead}\"]\n\
         [proxy.web.group.turns]\nupstream = [\"{c}\", \"{d}\", \"tcp:{dead},weight=0\"]\n\
         balance = \"round-robin\"\ncheck-interval = \"0s\"\n"
    );
    let site = Site::start(reactor, &text);
    let is_down = |upstream: &Value| upstream["state"] == "down";
    eventually("the dead one to be found", || {
        let report = site.proxy.report();
        let mut shards = report["shards"].as_array().unwrap().iter();
        shards.all(|shard| shard["upstreams"].as_array().unwrap().iter().any(is_down)).then_some(())
    });
    let visit = |name: &str| -> usize {
        let (mut stream, mut tag) = (client(site.proxy.at), [0]);
        stream.write_all(&hello(Some(name), 1 << 14)).unwrap();
        stream.read_exact(&mut tag).unwrap();
        usize::from(tag[0])
    };
    let (mut same, mut turns) = ([0_u32; 4], [0_u32; 4]);
    for _ in 0..20 {
        same[visit("same.example")] += 1;
        turns[visit("turns.example")] += 1;
    }
    assert!(same == [20, 0, 0, 0] || same == [0, 20, 0, 0], "a client goes to the same one: {same:?}");
    // Each of two shards takes turns for itself.
    assert!(turns[2].abs_diff(turns[3]) <= 2 && turns[2] + turns[3] == 20, "by turns: {turns:?}");
    let report = site.proxy.stop();
    for upstream in
        report["shards"].as_array().unwrap().iter().flat_map(|shard| shard["upstreams"].as_array().unwrap())
    {
        let (group, address) = (upstream["group"].as_str().unwrap(), upstream["address"].to_string());
        let is_dead = address.contains(&dead.to_string());
        if group == "turns" {
            assert_eq!((&upstream["checks_failed"], &upstream["checks_passed"]), (&0.into(), &0.into()));
        }
        assert_eq!(is_down(upstream), group == "same" && is_dead, "{upstream}");
    }
}
