//! What the proxy reads of a client before it passes anything on, and what it tells its upstreams: PROXY headers, with
//! HAProxy on either side where there is one, and the names that TLS clients ask for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use waterwheel::net::proxy_header::{Extra, HEADER_BYTES_MAX, ProxyHeader, Relayed, Subject, Version, parse};
use waterwheel::reactor::{Address, UnixName};

use super::kit::{
    Bench, Process, Proxy, Watch, client, end_of, eventually, meet, moment, on_each_reactor, total,
};

const RESET: Result<usize, ErrorKind> = Err(ErrorKind::ConnectionReset);
const REQUIRE: [&str; 4] = ["--proxy-protocol", "require", "--proxy-trusted", "127.0.0.0/8"];
const ACCEPT: [&str; 4] = ["--proxy-protocol", "accept", "--proxy-trusted", "127.0.0.0/8"];

on_each_reactor![
    a_required_header_is_taken_off_however_it_is_cut_and_not_a_byte_more,
    whoever_sends_no_header_where_one_is_required_is_reset,
    where_a_header_is_accepted_everything_else_passes_whole,
    who_is_not_trusted_is_refused_or_passed_on_unread,
    an_upstream_is_told_who_the_client_is,
    an_upstream_is_told_what_a_believed_header_said,
    haproxy_is_understood_and_understands,
    clients_go_where_the_name_leads_that_they_ask_for,
    a_hello_in_many_pieces_arrives_as_it_was_sent,
    a_hello_whose_name_does_not_come_is_refused_at_its_limit,
    who_says_too_little_in_time_is_reset,
];

/// Everything up to the end.
fn all(stream: &mut impl Read) -> Vec<u8> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    got
}

/// Sends `bytes` in pieces of `most`, each of which arrives by itself more often than not; then the end.
fn send(stream: &mut TcpStream, bytes: &[u8], most: usize) {
    for piece in bytes.chunks(most) {
        stream.write_all(piece).unwrap();
        if most < bytes.len() {
            std::thread::yield_now();
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// The header that comes first, and what follows it.
fn header(bytes: &[u8]) -> (ProxyHeader, &[u8]) {
    let (header, length) = parse(bytes, HEADER_BYTES_MAX).unwrap().expect("all of a header");
    (header, &bytes[length..])
}

fn relayed(source: Address, destination: Address) -> Subject {
    Subject::Relayed(Relayed { source, destination, datagrams: false })
}

fn a_required_header_is_taken_off_however_it_is_cut_and_not_a_byte_more(reactor: &str) {
    let bench = Bench::start(reactor, &REQUIRE);
    let at = Address::Inet("192.0.2.7:9".parse().unwrap());
    let mut two = ProxyHeader::new(Version::Two, relayed(at.clone(), at));
    (two.checksum, two.extras) = (true, vec![Extra::Padding(2_000)]);
    let headers = [
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyHeader::new(Version::Two, Subject::Own).encode().unwrap(),
        two.encode().unwrap(),
    ];
    for header in &headers {
        // What looks like another header belongs to the upstream.
        let payload = [&b"PROXY UNKNOWN\r\n"[..], &[7; 3_000]].concat();
        for most in [usize::MAX, 1_000, 100, 7] {
            let mut client = client(bench.proxy.at);
            send(&mut client, &[header, &payload[..]].concat(), most);
            let mut upstream = meet(&bench.listener);
            assert_eq!(all(&mut upstream), payload, "in pieces of {most}");
            upstream.write_all(b"answer").unwrap();
            drop(upstream);
            assert_eq!(all(&mut client), b"answer");
        }
    }
    // Nothing but a header, and the end behind it: the upstream sees the end at once.
    for header in headers.iter().cycle().take(20) {
        let mut client = client(bench.proxy.at);
        send(&mut client, header, usize::MAX);
        let (mut upstream, watch) = (meet(&bench.listener), Watch::start());
        assert_eq!(all(&mut upstream), b"");
        assert!(watch.elapsed() < Duration::from_secs(10), "the end came after {:?}", watch.elapsed());
        drop(upstream);
        assert_eq!(all(&mut client), b"");
    }
    let report = bench.proxy.stop();
    assert_eq!((total(&report, "accepted"), total(&report, "finished")), (36, 36), "{report}");
    assert_eq!(total(&report, "bytes_up"), 16 * 3_015, "{report}");
}

fn whoever_sends_no_header_where_one_is_required_is_reset(reactor: &str) {
    let bench = Bench::start(reactor, &REQUIRE);
    let mut damaged = ProxyHeader::new(Version::Two, Subject::Unknown);
    damaged.checksum = true;
    let mut damaged = damaged.encode().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let wrong = [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n",
        &[b'P'; 200],
        &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &damaged,
    ];
    for bytes in wrong {
        let mut client = client(bench.proxy.at);
        client.write_all(bytes).unwrap();
        assert_eq!(end_of(&mut client), RESET, "{bytes:?}");
    }
    // One that begins and does not end is told so at once.
    let mut cut = client(bench.proxy.at);
    send(&mut cut, b"PROXY TCP4", usize::MAX);
    assert_eq!(end_of(&mut cut), RESET);
    // Who only looks whether somebody listens does no harm.
    let mut looking = client(bench.proxy.at);
    looking.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut looking), Ok(0));
    bench.proxy.counts("active", 0);
    let report = bench.proxy.stop();
    assert_eq!((total(&report, "refused"), total(&report, "finished")), (7, 1), "{report}");
    bench.listener.set_nonblocking(true).unwrap();
    assert!(bench.listener.accept().is_err(), "an upstream was asked");
}

fn where_a_header_is_accepted_everything_else_passes_whole(reactor: &str) {
    let bench = Bench::start(reactor, &ACCEPT);
    for (bytes, passed) in [
        (&b"PROXY UNKNOWN\r\nhello"[..], &b"hello"[..]),
        (b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"),
        // Near to one: it has been looked at for a while before that was clear.
        (b"PROXIMA CENTAURI", b"PROXIMA CENTAURI"),
        (b"\r\n\r\n\0\r\nQUIZ", b"\r\n\r\n\0\r\nQUIZ"),
    ] {
        for most in [usize::MAX, 1] {
            let mut client = client(bench.proxy.at);
            for piece in bytes.chunks(most.min(bytes.len())) {
                client.write_all(piece).unwrap();
                if most == 1 {
                    moment();
                }
            }
            client.shutdown(Shutdown::Write).unwrap();
            let mut upstream = meet(&bench.listener);
            assert_eq!(all(&mut upstream), passed);
            upstream.write_all(b"answer").unwrap();
            drop(upstream);
            assert_eq!(all(&mut client), b"answer");
        }
    }
    let mut wrong = client(bench.proxy.at);
    wrong.write_all(b"PROXY TCP5 \r\n").unwrap();
    assert_eq!(end_of(&mut wrong), RESET);
    let report = bench.proxy.stop();
    assert_eq!((total(&report, "finished"), total(&report, "refused")), (8, 1), "{report}");
}

fn who_is_not_trusted_is_refused_or_passed_on_unread(reactor: &str) {
    const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n";
    let trusted = ["--proxy-protocol", "require", "--proxy-trusted", "10.0.0.0/8,unix"];
    let bench = Bench::start(reactor, &trusted);
    // The reset may be there before the connect has returned.
    if let Ok(mut client) = TcpStream::connect(bench.proxy.at) {
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(end_of(&mut client), RESET);
    }
    bench.proxy.counts("refused", 1);
    let pass = [&trusted[..], &["--proxy-untrusted", "pass", "--send-proxy", "v1"]].concat();
    let bench = Bench::start(reactor, &pass);
    let mut client = client(bench.proxy.at);
    send(&mut client, LINE, usize::MAX);
    let own = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", port(&client), bench.proxy.at.port());
    assert_eq!(all(&mut meet(&bench.listener)), [own.as_bytes(), LINE].concat(), "it is believed");
}

fn port(stream: &TcpStream) -> u16 {
    stream.local_addr().unwrap().port()
}

fn an_upstream_is_told_who_the_client_is(reactor: &str) {
    for version in ["v1", "v2"] {
        let bench = Bench::start(reactor, &["--send-proxy", version]);
        for _ in 0..5 {
            let mut client = client(bench.proxy.at);
            let own = relayed(client.local_addr().unwrap().into(), bench.proxy.at.into());
            // Nobody waits for the client's first byte.
            let mut upstream = meet(&bench.listener);
            send(&mut client, b"payload", usize::MAX);
            let got = all(&mut upstream);
            let (told, payload) = header(&got);
            assert_eq!((told.subject, payload), (own, &b"payload"[..]));
            assert_eq!(told.checksum, version == "v2");
            upstream.write_all(b"answer").unwrap();
            drop(upstream);
            assert_eq!(all(&mut client), b"answer");
        }
        // What was told is no part of what the client sent.
        assert_eq!(total(&bench.proxy.stop(), "bytes_up"), 35);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = Proxy::command(reactor, &[listener.local_addr().unwrap()]);
        command.args(["--send-proxy", version, "--listen", &format!("unix:{}", path.display())]);
        let _proxy = Proxy::spawn(&mut command);
        let client = UnixStream::connect(&path).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let name = relayed(Address::Unix(UnixName::Unnamed), Address::Unix(UnixName::Path(path)));
        let expected = if version == "v1" { Subject::Unknown } else { name };
        assert_eq!(header(&all(&mut meet(&listener))).0.subject, expected);
    }
}

fn an_upstream_is_told_what_a_believed_header_said(reactor: &str) {
    let at = |text: &str| Address::Inet(text.parse().unwrap());
    let said = ProxyHeader {
        version: Version::Two,
        subject: relayed(at("[2001:db8::1]:1"), at("[2001:db8::2]:2")),
        extras: vec![
            Extra::UniqueId(vec![1, 2]),
            Extra::Padding(9),
            Extra::Other { kind: 0xE1, value: vec![3] },
        ],
        checksum: false,
    };
    for version in ["v1", "v2"] {
        let bench = Bench::start(reactor, &[&ACCEPT[..], &["--send-proxy", version]].concat());
        let told = |bytes: &[u8]| {
            let mut client = client(bench.proxy.at);
            let own = relayed(client.local_addr().unwrap().into(), bench.proxy.at.into());
            send(&mut client, &[bytes, b"payload"].concat(), usize::MAX);
            let got = all(&mut meet(&bench.listener));
            let (told, payload) = header(&got);
            assert_eq!(payload, b"payload");
            (told, own)
        };
        let (passed_on, _) = told(&said.encode().unwrap());
        assert_eq!(passed_on.subject, said.subject);
        let kept: Vec<Extra> =
            said.extras.iter().filter(|extra| !matches!(extra, Extra::Padding(_))).cloned().collect();
        assert_eq!(passed_on.extras, if version == "v2" { kept } else { Vec::new() });
        for nobody in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b""] {
            let (told, own) = told(nobody);
            assert_eq!(told.subject, own, "{nobody:?}");
        }
    }
}

/// HAProxy with a listener whose connections go to `server`; `None` where it is not installed.
fn haproxy(listen: &str, server: &str) -> Option<(Process, SocketAddr)> {
    let found = Command::new("haproxy").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("not tried: haproxy is not installed");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    // It does not tell which port the kernel chose: this one is free until it takes it, since nobody else uses the address.
    let at = TcpListener::bind("127.0.7.1:0").unwrap().local_addr().unwrap();
    let configuration = format!(
        "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 20s\n  timeout client 20s\n  timeout server 20s\n  \
         unique-id-format ww-%pid\nlisten one\n  bind {at} {listen}\n  server one {server}\n"
    );
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, configuration).unwrap();
    let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(&file));
    // A connection that is made to see would go on through all of the chain. 0A is the state of who listens.
    let listens = format!(" 0107007F:{:04X} 00000000:0000 0A ", at.port());
    eventually("HAProxy to listen", || {
        std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&listens).then_some(())
    });
    Some((process, at))
}

/// client → HAProxy → Waterwheel → HAProxy → here, which says what the last one believes.
fn haproxy_is_understood_and_understands(reactor: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let last = format!("{} send-proxy", listener.local_addr().unwrap());
    let Some((_last, last)) = haproxy("accept-proxy", &last) else { return };
    for (sends, version) in [
        ("send-proxy", "v1"),
        ("send-proxy", "v2"),
        ("send-proxy-v2", "v1"),
        ("send-proxy-v2 proxy-v2-options crc32c", "v2"),
        ("send-proxy-v2 proxy-v2-options crc32c,unique-id,authority", "v2"),
    ] {
        let proxy = Proxy::start(reactor, &[last], &[&REQUIRE[..], &["--send-proxy", version]].concat());
        let Some((_first, first)) = haproxy("", &format!("{} {sends}", proxy.at)) else { return };
        let mut client = client(first);
        let line = format!("PROXY TCP4 127.0.0.1 127.0.7.1 {} {}\r\n", port(&client), first.port());
        send(&mut client, b"payload", usize::MAX);
        let mut upstream = meet(&listener);
        let got = all(&mut upstream);
        assert_eq!(String::from_utf8_lossy(&got), format!("{line}payload"), "{sends}, then {version}");
        upstream.write_all(b"answer").unwrap();
        drop(upstream);
        assert_eq!(all(&mut client), b"answer");
        assert_eq!(total(&proxy.stop(), "refused"), 0);
    }
}

/// A hello of TLS 1.2 or later, in records of at most `most` bytes.
pub(crate) fn hello(name: Option<&str>, most: usize) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let mut extensions = [&[0, 21][..], &long(&[0; 1_500])].concat();
    if let Some(name) = name {
        let list = long(&[&[0][..], &long(name.as_bytes())].concat());
        extensions.extend_from_slice(&[&[0, 0][..], &long(&list)].concat());
    }
    let body = [&[3, 3][..], &[5; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    message.chunks(most).flat_map(|piece| [&[22, 3, 1][..], &long(piece)].concat()).collect()
}

/// A proxy with a group `a` for `*.a.example`, and its upstream; and, if `rest`, an upstream for the others.
fn routed(reactor: &str, rest: bool, flags: &[&str]) -> (Proxy, TcpListener, TcpListener) {
    let [group, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let others = rest.then(|| other.local_addr().unwrap());
    let mut command = Proxy::command(reactor, others.as_slice());
    command.args(["--sni", "*.a.example=a", "--sni", "a.example=a"]).args(flags);
    command.args(["--group", &format!("a={}", group.local_addr().unwrap())]);
    (Proxy::spawn(&mut command), group, other)
}

fn clients_go_where_the_name_leads_that_they_ask_for(reactor: &str) {
    let (proxy, group, other) = routed(reactor, true, &[]);
    for (first, to) in [
        (hello(Some("x.A.example"), 1 << 14), &group),
        (hello(Some("a.example"), 100), &group),
        (hello(Some("b.example"), 1 << 14), &other),
        (hello(None, 1 << 14), &other),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), &other),
    ] {
        let mut client = client(proxy.at);
        client.write_all(&first).unwrap();
        let mut upstream = meet(to);
        let mut got = vec![0; first.len()];
        upstream.read_exact(&mut got).unwrap();
        assert_eq!(got, first);
        upstream.write_all(b"server hello").unwrap();
        drop(upstream);
        assert_eq!(all(&mut client), b"server hello");
    }
    let mut wrong = client(proxy.at);
    wrong.write_all(b"\x16\x03\x01\0\x04\x02\0\0\0").unwrap();
    assert_eq!(end_of(&mut wrong), RESET);
    // The message goes on and on without a name.
    let mut endless = client(proxy.at);
    let _ = endless.write_all(&[&b"\x16\x03\x01\x40\0\x01\0\xff\xff\x03\x03"[..], &[0; 40_000]].concat());
    assert_eq!(end_of(&mut endless), RESET);
    proxy.counts("active", 0);
    let report = proxy.stop();
    assert_eq!((total(&report, "finished"), total(&report, "refused")), (5, 2), "{report}");
    let upstreams = &report["shards"][0]["upstreams"];
    assert_eq!((&upstreams[0]["group"], &upstreams[1]["group"]), (&().into(), &"a".into()), "{report}");

    let (proxy, group, _) = routed(reactor, false, &["--send-proxy", "v2"]);
    for lost in [hello(Some("b.example"), 1 << 14), hello(None, 1 << 14), b"SSH-2.0-x\r\n".to_vec()] {
        let mut client = client(proxy.at);
        client.write_all(&lost).unwrap();
        assert_eq!(end_of(&mut client), RESET);
    }
    // Behind a header it is found too, and the upstream is told.
    let mut client = client(proxy.at);
    send(&mut client, &hello(Some("x.a.example"), 1 << 14), usize::MAX);
    let got = all(&mut meet(&group));
    assert_eq!(header(&got).0.authority(), Some("x.a.example"));
    drop(client);
    proxy.counts("no_route", 3);
}

fn a_hello_in_many_pieces_arrives_as_it_was_sent(reactor: &str) {
    let flags = [&REQUIRE[..], &["--send-proxy", "v1"]].concat();
    let (proxy, group, _) = routed(reactor, true, &flags);
    let line = b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n";
    for (records, pieces) in [(1 << 14, 700), (300, 90), (1, 1_000)] {
        let hello = hello(Some("www.a.example"), records);
        let mut client = client(proxy.at);
        for piece in [&line[..], &hello].concat().chunks(pieces) {
            client.write_all(piece).unwrap();
            moment();
        }
        let mut upstream = meet(&group);
        client.write_all(b"and more").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(all(&mut upstream), [&line[..], &hello, b"and more"].concat());
        upstream.write_all(b"server hello").unwrap();
        drop(upstream);
        assert_eq!(all(&mut client), b"server hello");
    }
    let report = proxy.stop();
    assert_eq!((total(&report, "finished"), total(&report, "accepted")), (3, 3), "{report}");
}

/// All of its first 16 KiB are padding (RFC 7685), so that nobody knows where it is to go.
fn a_hello_whose_name_does_not_come_is_refused_at_its_limit(reactor: &str) {
    let (proxy, ..) = routed(reactor, true, &[]);
    let mut hello = vec![1, 0, 0x9C, 0x40, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0, 0x9C, 0x15, 0, 21, 0x9C, 0x11]);
    hello.resize(32_000, 0);
    let records = hello.chunks(16_000).flat_map(|part| {
        let head = [22, 3, 1, (part.len() >> 8) as u8, part.len() as u8];
        head.into_iter().chain(part.iter().copied())
    });
    let (mut client, all) = (client(proxy.at), records.collect::<Vec<u8>>());
    client.write_all(&all[..16_384]).unwrap();
    assert_eq!(end_of(&mut client), RESET);
    proxy.counts("refused", 1);
    assert_eq!(total(&proxy.stop(), "connect_failed"), 0);
}

fn who_says_too_little_in_time_is_reset(reactor: &str) {
    let limit = ["--first-bytes-timeout", "400ms"];
    let header = Bench::start(reactor, &[&REQUIRE[..], &limit].concat());
    let (named, ..) = routed(reactor, true, &limit);
    for (at, bytes) in [
        (header.proxy.at, &b""[..]),
        (header.proxy.at, b"PROXY TCP4 192.0.2.7"),
        (named.at, b""),
        (named.at, &hello(Some("a.example"), 1 << 14)[..1_000]),
    ] {
        let (mut client, watch) = (client(at), Watch::start());
        client.write_all(bytes).unwrap();
        assert_eq!(end_of(&mut client), RESET);
        assert!(watch.elapsed() >= Duration::from_millis(300), "after {:?}", watch.elapsed());
    }
    for proxy in [header.proxy, named] {
        proxy.counts("refused", 2);
        assert_eq!(total(&proxy.stop(), "connect_failed"), 0);
    }
}
