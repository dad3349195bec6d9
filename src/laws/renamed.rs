//! A proxy that has another name after a reload, or another's listener, or a wider one: nobody is lost, and nothing is
//! forgotten.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::headers::hello;
use super::kit::{LONG, client, dead_port, eventually, meet, on_each_reactor, spawn, waits};
use super::reloaded::{Site, ask, file, free, origin, visit};

on_each_reactor![
    a_renamed_proxy_keeps_its_clients_its_counters_and_its_listener,
    two_proxies_swap_their_listeners,
    a_listener_is_widened_and_narrowed_and_who_waits_is_served,
    a_renamed_group_keeps_its_clients_and_what_was_learnt,
    who_is_down_or_full_is_so_under_another_name_too,
];

/// The address of an endpoint that [`free`] made.
fn at(endpoint: &str) -> SocketAddr {
    endpoint.strip_prefix("tcp:").unwrap().parse().unwrap()
}

impl Site {
    /// The same as a reload, of which the process only hears when these clients wait already.
    fn reload_with_clients(&self, text: &str, told: &str, to: SocketAddr) -> Vec<TcpStream> {
        self.proxy.process.signal(Signal::STOP);
        let waiting = (0..20).map(|_| client(to)).collect();
        std::fs::write(&self.path, text).unwrap();
        self.proxy.process.signal(Signal::HUP);
        self.proxy.process.signal(Signal::CONT);
        self.proxy.process.told_of(told);
        waiting
    }
}

fn a_renamed_proxy_keeps_its_clients_its_counters_and_its_listener(reactor: &str) {
    let origin = origin(5);
    let listen = [free()];
    let web = file(&listen, origin.at, "");
    let site = Site::start(reactor, &web);
    let mut held = client(site.proxy.at);
    assert_eq!(ask(&mut held), 5);
    let open = site.proxy.process.descriptors();
    let shop = web.replace("proxy.web", "proxy.shop");
    for (version, text, name) in [(1, &shop, "shop"), (2, &web, "web")] {
        let told = format!("version {version} of");
        for mut stream in site.reload_with_clients(text, &told, site.proxy.at) {
            assert_eq!(ask(&mut stream), 5, "who waited is served");
        }
        assert_eq!(ask(&mut held), 5, "a connection ends with its proxy's name");
        let report = site.proxy.report();
        let mut accepted = 0;
        for shard in report["shards"].as_array().unwrap() {
            assert_eq!(shard["proxies"].as_array().unwrap().len(), 1, "{report}");
            assert_eq!(shard["proxies"][0]["name"], name, "{report}");
            let own = shard["proxies"][0]["counters"]["accepted"].as_u64().unwrap();
            accepted += own;
            // What was learnt of the upstream goes with it.
            assert_eq!(shard["upstreams"][0]["connected"], own, "{report}");
        }
        assert_eq!(accepted, 1 + 20 * version, "{report}");
    }
    drop(held);
    site.proxy.counts("active", 0);
    assert!(site.proxy.process.descriptors() <= open, "a new name takes descriptors");
    let report = site.proxy.stop();
    assert_eq!(report["undelivered"], 0, "{report}");
}

fn two_proxies_swap_their_listeners(reactor: &str) {
    let (one, other) = (origin(1), origin(2));
    let listen = [free(), free()];
    let both = |first: &str, second: &str| {
        format!(
            "[proxy.one]\nlisten = {first:?}\nupstream = \"tcp:{}\"\n[proxy.two]\nlisten = {second:?}\nupstream = \"tcp:{}\"\n",
            one.at, other.at
        )
    };
    let site = Site::start(reactor, &both(&listen[0], &listen[1]));
    let (first, second) = (at(&listen[0]), at(&listen[1]));
    let mut held = client(first);
    assert_eq!((ask(&mut held), visit(second, 1)), (1, 2));
    for version in 1..=4 {
        let swapped = version % 2 == 1;
        let (now, text) = match swapped {
            true => ([2, 1], both(&listen[1], &listen[0])),
            false => ([1, 2], both(&listen[0], &listen[1])),
        };
        let waiting = site.reload_with_clients(&text, &format!("version {version} of"), first);
        for mut stream in waiting {
            // It came while the settings changed: either version may have it.
            assert!([1, 2].contains(&ask(&mut stream)), "who waited is served");
        }
        for _ in 0..4 {
            assert_eq!([visit(first, 2), visit(second, 2)], now, "version {version}");
        }
        assert_eq!(ask(&mut held), 1, "a connection keeps what it began with");
    }
    drop(held);
    let report = site.proxy.stop();
    assert_eq!(report["undelivered"], 0, "{report}");
}

fn a_listener_is_widened_and_narrowed_and_who_waits_is_served(reactor: &str) {
    let origin = origin(3);
    let narrow = [free()];
    let port = at(&narrow[0]).port();
    let wide = [format!("tcp:0.0.0.0:{port}")];
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], port));
    // One for each shard, so that others wait in the backlog, also when the listener is left.
    let text = |listen: &[String]| file(listen, origin.at, "connections = 2");
    let site = Site::start(reactor, &text(&narrow));
    for (version, listen) in [(1, &wide), (2, &narrow), (3, &wide), (4, &narrow)] {
        let mut held = [(); 2].map(|()| client(at(&narrow[0])));
        held.iter_mut().for_each(|held| assert_eq!(ask(held), 3));
        let waiting: Vec<TcpStream> = (0..20).map(|_| client(at(&narrow[0]))).collect();
        site.reload(&text(listen), &format!("version {version} of the settings"));
        held.iter_mut().for_each(|held| assert_eq!(ask(held), 3));
        drop(held);
        let waiting: Vec<_> =
            waiting.into_iter().map(|mut stream| spawn(move || assert_eq!(ask(&mut stream), 3))).collect();
        waiting.into_iter().for_each(|client| client.join().expect("who waited is served"));
        assert_eq!(visit(at(&narrow[0]), 1), 3);
        // A listener that is left may take in who waits for a while.
        eventually("the other addresses to answer or not", || {
            (TcpStream::connect(elsewhere).is_ok() == (listen == &wide)).then_some(())
        });
        if listen == &wide {
            assert_eq!(visit(elsewhere, 1), 3);
        }
        site.proxy.counts("active", 0);
    }
    // Two that stay and overlap are refused, as at a start.
    let both = [wide[0].clone(), format!("tcp:127.0.0.1:{port}")];
    site.reload(&file(&both, origin.at, ""), "proxy.web.listen: cannot listen on");
    assert_eq!(visit(at(&narrow[0]), 1), 3);
    site.proxy.stop();
}

fn a_renamed_group_keeps_its_clients_and_what_was_learnt(reactor: &str) {
    let (shop, other) = (origin(4), origin(6));
    let text = |group: &str, name: &str| {
        format!(
            "[proxy.web]\nlisten = \"tcp:127.0.0.1:0\"\nupstream = \"tcp:{}\"\nsni = {{ {name:?} = {group:?} }}\n\
             [proxy.web.group.{group}]\nupstream = \"tcp:{}\"\n",
            other.at, shop.at
        )
    };
    let site = Site::start(reactor, &text("shop", "shop.example"));
    let greet = |name: &str| {
        let (mut stream, hello) = (client(site.proxy.at), hello(Some(name), 1 << 14));
        stream.write_all(&hello).unwrap();
        let mut answer = vec![0; hello.len()];
        stream.read_exact(&mut answer).unwrap();
        (answer[0], stream)
    };
    let (tag, mut held) = greet("shop.example");
    assert_eq!((tag, greet("store.example").0), (4, 6));
    let connected = |report: &Value, group: &str| -> u64 {
        let shards = report["shards"].as_array().unwrap().iter();
        let all = shards.flat_map(|shard| shard["upstreams"].as_array().unwrap());
        all.filter(|one| one["group"] == group).map(|one| one["connected"].as_u64().unwrap()).sum()
    };
    for (version, group, name) in
        [(1, "store", "shop.example"), (2, "store", "store.example"), (3, "shop", "shop.example")]
    {
        site.reload(&text(group, name), &format!("version {version} of"));
        assert_eq!(ask(&mut held), 4, "a connection ends with its group's name");
        assert_eq!(greet(name).0, 4);
        let another = if name == "shop.example" { "store.example" } else { "shop.example" };
        assert_eq!(greet(another).0, 6, "a route is left behind");
        let report = site.proxy.report();
        assert_eq!(connected(&report, group), 1 + version, "{report}");
    }
    drop(held);
    site.proxy.stop();
}

fn who_is_down_or_full_is_so_under_another_name_too(reactor: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (full, (_guard, dead)) = (listener.local_addr().unwrap(), dead_port());
    // So slow that a name's own checks find nothing in time: what is known is what was known.
    let text = |name: &str, interval: &str| {
        format!(
            "[proxy.{name}]\nlisten = \"tcp:127.0.0.1:0\"\nupstream = [\"tcp:{full},connections=1\", \"tcp:{dead}\"]\n\
             check-interval = {interval:?}\ncheck-fall = 2\ncheck-rise = 1\npanic-percent = 0\nqueue-timeout = \"1h\"\n"
        )
    };
    let site = Site::start(reactor, &text("web", "50ms"));
    let down = || {
        let report = site.proxy.report();
        let mut shards = report["shards"].as_array().unwrap().iter();
        let is_dead = |one: &Value| one["address"] == format!("tcp:{dead}") && one["state"] == "down";
        shards.all(|shard| shard["upstreams"].as_array().unwrap().iter().any(is_dead))
    };
    eventually("the dead one to be found", || down().then_some(()));
    // Checks connect as well.
    let served = || loop {
        let mut stream = meet(&listener);
        stream.set_read_timeout(Some(LONG)).unwrap();
        if stream.read(&mut [0]).is_ok_and(|count| count == 1) {
            return stream;
        }
    };
    let mut held = client(site.proxy.at);
    held.write_all(b"x").unwrap();
    let first = served();
    site.reload(&text("shop", "1h"), "version 1 of");
    assert!(down(), "what was learnt is forgotten");
    let mut next = client(site.proxy.at);
    next.write_all(b"x").unwrap();
    // Those that checks left behind may still be there.
    while waits(&listener, Duration::from_millis(300)) {
        let mut stream = meet(&listener);
        assert!(!stream.read(&mut [0]).is_ok_and(|count| count == 1), "a second one, of one");
    }
    drop((held, first));
    drop(served());
    drop(next);
    site.proxy.stop();
}
