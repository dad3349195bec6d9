use std::path::PathBuf;

use proptest::prelude::*;
use waterwheel_reactor::UnixName;

use super::*;

fn inet(text: &str) -> Address {
    Address::Inet(text.parse().unwrap())
}

fn relayed(source: Address, destination: Address) -> Subject {
    Subject::Relayed(Relayed { source, destination, datagrams: false })
}

/// What a whole header says, which nothing that follows it changes and no beginning of it tells.
#[track_caller]
fn read(bytes: &[u8]) -> Result<ProxyHeader, HeaderError> {
    let all = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
    let read = parse(&all, HEADER_BYTES_MAX);
    for end in 0..all.len() {
        let sooner = parse(&all[..end], HEADER_BYTES_MAX);
        assert!(sooner == Ok(None) || sooner == read, "{end} bytes: {sooner:?}, and {read:?}");
    }
    let (header, length) = read?.expect("all of it is there");
    assert_eq!(length, bytes.len());
    Ok(header)
}

#[track_caller]
fn fault(line: &str) -> LineFault {
    match read(line.as_bytes()) {
        Err(HeaderError::Line { fault, .. }) => fault,
        other => panic!("{line:?}: {other:?}"),
    }
}

#[test]
fn lines_are_read() {
    for (line, subject) in [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            relayed(inet("192.168.0.1:56324"), inet("192.168.0.11:443")),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            relayed(inet("255.255.255.255:65535"), inet("255.255.255.255:65535")),
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", relayed(inet("0.0.0.0:0"), inet("0.0.0.0:0"))),
        (
            "PROXY TCP6 2001:DB8::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 1 65535\r\n",
            relayed(inet("[2001:db8::1]:1"), inet("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
        ),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", relayed(inet("[::ffff:192.0.2.7]:1"), inet("[::1]:2"))),
        ("PROXY UNKNOWN\r\n", Subject::Unknown),
        ("PROXY UNKNOWN ffff:: what 0x \0 ever  \r\n", Subject::Unknown),
    ] {
        assert_eq!(read(line.as_bytes()), Ok(ProxyHeader::new(Version::One, subject)), "{line:?}");
    }
}

#[test]
fn lines_that_are_wrong_are_told_apart() {
    use LineFault::*;
    for (line, expected) in [
        ("PROXY \r\n", Family),
        ("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", Family),
        ("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", Family),
        ("PROXY UNKNOWNS\r\n", Family),
        ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Family),
        ("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", Family),
        ("PROXY TCP4\r\n", Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Fields),
        ("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", Fields),
        ("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", Source),
        ("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", Source),
        ("PROXY TCP4 ::1 1.2.3.4 1 2\r\n", Source),
        ("PROXY TCP4 1.2.3.4\t1.2.3.4 1.2.3.4 1 2\r\n", Source),
        ("PROXY TCP6 1.2.3.4 ::1 1 2\r\n", Source),
        ("PROXY TCP6 fe80::1%1 ::1 1 2\r\n", Source),
        ("PROXY TCP6 ::1 ::1::2 1 2\r\n", Destination),
        ("PROXY TCP4 1.2.3.4 1.2.3 1 2\r\n", Destination),
        ("PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n", SourcePort),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", SourcePort),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", SourcePort),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", SourcePort),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n", DestinationPort),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n", DestinationPort),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", HalfAnEnd),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rx\n", HalfAnEnd),
        ("PROXY UNKNOWN a\rb\r\n", HalfAnEnd),
        ("PROXY UNKNOWN a\nb\r\n", HalfAnEnd),
    ] {
        assert_eq!(fault(line), expected, "{line:?}");
    }
}

#[test]
fn a_line_has_at_most_107_bytes() {
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert!(read(line(LINE_BYTES_MAX).as_bytes()).is_ok());
    assert_eq!(fault(&line(LINE_BYTES_MAX + 1)), LineFault::Endless);
    assert_eq!(fault(&line(10_000)), LineFault::Endless);
    assert_eq!(fault(&"PROXY TCP4 ".repeat(30)), LineFault::Endless);
}

#[test]
fn what_is_no_header_is_told_at_the_first_byte_that_tells() {
    for (bytes, shown) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "\"G\""),
        (b"PROXY\tTCP4", "\"PROXY\\t\""),
        (b"\r\n\r\n\0\r\nQUIX", "\"\\r\\n\\r\\n\\x00\\r\\nQUIX\""),
        (b"\r\nGET", "\"\\r\\nG\""),
        (b"\x16\x03\x01", "\"\\x16\""),
        (b"proxy ", "\"p\""),
    ] {
        let error = read(bytes).unwrap_err();
        assert!(matches!(&error, HeaderError::Absent(excerpt) if excerpt.to_string() == shown), "{error}");
    }
    let error = read(b"PROXY TCP4 \x1b[2J\xff\r\n").unwrap_err().to_string();
    assert_eq!(
        error,
        "PROXY header \"PROXY TCP4 \\x1b[2J\\xff\": what follows the family is not two addresses and two ports, \
         each behind one space"
    );
}

/// A header of version 2 out of its parts.
fn block(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    [&block::SIGNATURE[..], &[command, kind], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

const FOUR: [u8; 12] = [192, 168, 0, 1, 192, 168, 0, 11, 0xDC, 4, 1, 0xBB];

/// A header of version 2 with these values.
fn with(values: &[u8]) -> Result<ProxyHeader, HeaderError> {
    read(&block(0x21, 0x11, &[&FOUR, values].concat()))
}

#[test]
fn blocks_are_read() {
    let four = relayed(inet("192.168.0.1:56324"), inet("192.168.0.11:443"));
    let two = |subject| Ok(ProxyHeader::new(Version::Two, subject));
    assert_eq!(read(&block(0x21, 0x11, &FOUR)), two(four.clone()));
    let Subject::Relayed(datagrams) = four else { unreachable!() };
    assert_eq!(
        read(&block(0x21, 0x12, &FOUR)),
        two(Subject::Relayed(Relayed { datagrams: true, ..datagrams }))
    );
    let mut six = [0; 36];
    (six[15], six[16], six[33], six[35]) = (1, 0x20, 7, 9);
    assert_eq!(read(&block(0x21, 0x21, &six)), two(relayed(inet("[::1]:7"), inet("[2000::]:9"))));
    let mut unix = [0; 216];
    unix[..9].copy_from_slice(b"/run/x\0yz");
    unix[108..112].copy_from_slice(b"\0a\0b");
    let name = |name| Address::Unix(name);
    let names = relayed(name(UnixName::Path("/run/x".into())), name(UnixName::Abstract(b"a\0b".into())));
    assert_eq!(read(&block(0x21, 0x31, &unix)), two(names));
    let unnamed = name(UnixName::Unnamed);
    assert_eq!(read(&block(0x21, 0x31, &[0; 216])), two(relayed(unnamed.clone(), unnamed)));
}

#[test]
fn a_senders_own_connection_is_taken_whatever_it_says_of_addresses() {
    for bytes in
        [block(0x20, 0, &[]), block(0x20, 0x11, &FOUR), block(0x20, 0x11, &[1]), block(0x20, 0xFF, &[7; 500])]
    {
        assert_eq!(read(&bytes), Ok(ProxyHeader::new(Version::Two, Subject::Own)), "{bytes:?}");
    }
}

#[test]
fn addresses_of_no_specified_kind_are_ignored_and_values_are_not() {
    let unknown = ProxyHeader::new(Version::Two, Subject::Unknown);
    for (kind, rest) in [(0, &[][..]), (0, &[9; 40]), (1, &FOUR), (0x10, &FOUR), (0x30, &[1])] {
        assert_eq!(read(&block(0x21, kind, rest)), Ok(unknown.clone()), "{kind:#x} {rest:?}");
    }
    let named = ProxyHeader { extras: vec![Extra::Authority("a.example".into())], ..unknown.clone() };
    assert_eq!(read(&named.encode().unwrap()), Ok(named));
    let summed = ProxyHeader { checksum: true, ..unknown };
    let mut bytes = summed.encode().unwrap();
    assert_eq!(read(&bytes), Ok(summed));
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(read(&bytes), Err(HeaderError::Block(BlockFault::Checksum { .. }))));
}

#[test]
fn blocks_that_are_wrong_are_told_apart() {
    use BlockFault::*;
    let wrong = |bytes: &[u8]| match read(bytes) {
        Err(HeaderError::Block(fault)) => fault,
        other => panic!("{bytes:?}: {other:?}"),
    };
    for (command, fault) in [(0x11, Version(1)), (0x31, Version(3)), (0x22, Command(2)), (0x2F, Command(15))]
    {
        assert_eq!(wrong(&block(command, 0x11, &FOUR)), fault);
    }
    for (kind, fault) in [(0x41, Family(4)), (0xF1, Family(15)), (0x13, Transport(3)), (0x0F, Transport(15))]
    {
        assert_eq!(wrong(&block(0x21, kind, &FOUR)), fault);
    }
    for (kind, needed) in [(0x11, 12), (0x22, 36), (0x31, 216_usize)] {
        let bytes = needed - 1;
        assert_eq!(wrong(&block(0x21, kind, &vec![0; bytes])), ShortAddresses { family: kind >> 4, bytes });
    }
    let long = vec![0; HEADER_BYTES_MAX - 15];
    let (bytes, most) = (HEADER_BYTES_MAX + 1, HEADER_BYTES_MAX);
    assert_eq!(wrong(&block(0x21, 0x11, &long)), TooLong { bytes, most });
    // It is not waited for.
    assert_eq!(wrong(&block(0x21, 0x11, &long)[..16]), TooLong { bytes, most });
    assert!(parse(&block(0x21, 0x11, &FOUR), 27).is_err() && parse(&block(0x21, 0x11, &FOUR), 28).is_ok());
}

#[test]
fn values_that_are_wrong_are_told_apart() {
    use BlockFault::*;
    for (values, fault) in [
        (&[4][..], CutExtra { bytes: 1 }),
        (&[4, 0], CutExtra { bytes: 2 }),
        (&[4, 0, 0, 4, 0, 1], CutExtra { bytes: 3 }),
        (&[0xEA, 255, 255, 0], CutExtra { bytes: 4 }),
        (&[2, 0, 1, 0xFF], NoText { kind: 2 }),
        (&[0x30, 0, 2, 0xC3, 0xA4], NoText { kind: 0x30 }),
        (&[0x20, 0, 4, 1, 0, 0, 0], ShortTls { bytes: 4 }),
        (&[0x20, 0, 7, 1, 0, 0, 0, 0, 0x21, 0], CutExtra { bytes: 2 }),
        (&[0x20, 0, 9, 1, 0, 0, 0, 0, 0x23, 0, 1, 0x80], NoText { kind: 0x23 }),
        (&[3, 0, 3, 0, 0, 0], OddChecksum),
        (&[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0], OddChecksum),
        (&[&[5, 0, 129][..], &[1; 129]].concat(), LongUniqueId { bytes: 129 }),
    ] {
        assert_eq!(with(values), Err(HeaderError::Block(fault)), "{values:?}");
    }
    let said = with(&[3, 0, 4, 0, 0, 0, 7]);
    assert!(matches!(said, Err(HeaderError::Block(Checksum { said: 7, .. }))), "{said:?}");
}

#[test]
fn values_are_read() {
    let extras = with(
        &[
            &[1, 0, 2][..],
            b"h2",
            &[2, 0, 9],
            b"b\xC3\xBCcher.x",
            &[4, 0, 2, 1, 1],
            &[5, 0, 1, 0xFF],
            &[0xE0, 0, 0],
            &[0x30, 0, 3],
            b"dmz",
            &[0x20, 0, 22, 5, 0, 0, 0, 0, 0x21, 0, 7],
            b"TLSv1.3",
            &[0x22, 0, 1, b'a', 0x29, 0, 0],
        ]
        .concat(),
    );
    let tls = TlsFacts {
        client: TlsFacts::OVER_TLS | TlsFacts::CERTIFICATE_BEFORE,
        verify: 0,
        extras: vec![
            TlsExtra::Version("TLSv1.3".into()),
            TlsExtra::CommonName("a".into()),
            TlsExtra::Other { kind: 0x29, value: vec![] },
        ],
    };
    assert!(tls.is_verified() && !TlsFacts { verify: 1, ..tls.clone() }.is_verified());
    assert!(!TlsFacts { client: TlsFacts::OVER_TLS, ..tls.clone() }.is_verified());
    let header = extras.unwrap();
    assert_eq!(header.authority(), Some("bücher.x"));
    let expected = vec![
        Extra::Alpn(b"h2".into()),
        Extra::Authority("bücher.x".into()),
        Extra::Padding(2),
        Extra::UniqueId(vec![0xFF]),
        Extra::Other { kind: 0xE0, value: vec![] },
        Extra::Namespace("dmz".into()),
        Extra::Tls(tls),
    ];
    assert_eq!(header.extras, expected);
}

/// The checksum covers the values too, wherever it stands.
#[test]
fn a_checksum_is_found_between_other_values() {
    let body = |checksum: u32| {
        let checksum = checksum.to_be_bytes();
        block(0x21, 0x11, &[&FOUR[..], &[1, 0, 2], b"h2", &[3, 0, 4], &checksum, &[4, 0, 1, 9]].concat())
    };
    let checksum = checksum::crc32c(&[&body(0)]);
    assert!(read(&body(checksum)).unwrap().checksum);
    for at in 0..body(0).len() {
        // What says how long something is, and that there is a checksum, decides where it is looked for.
        if (12..16).contains(&at) || (28..31).contains(&at) || (33..36).contains(&at) {
            continue;
        }
        for bit in 0..8 {
            let mut damaged = body(checksum);
            damaged[at] ^= 1 << bit;
            let damaged = parse(&damaged, HEADER_BYTES_MAX);
            assert!(damaged.is_err(), "bit {bit} of byte {at}: {damaged:?}");
        }
    }
}

#[test]
fn what_a_line_cannot_say_is_unknown() {
    let line =
        |subject| String::from_utf8(ProxyHeader::new(Version::One, subject).encode().unwrap()).unwrap();
    let (four, six) = (inet("192.0.2.7:1"), inet("[2001:db8::1]:2"));
    let unix = Address::Unix(UnixName::Unnamed);
    assert_eq!(line(relayed(four.clone(), four.clone())), "PROXY TCP4 192.0.2.7 192.0.2.7 1 1\r\n");
    assert_eq!(line(relayed(six.clone(), six.clone())), "PROXY TCP6 2001:db8::1 2001:db8::1 2 2\r\n");
    // In groups of hexadecimal digits, as the text has it.
    assert_eq!(line(relayed(four.clone(), six)), "PROXY TCP6 ::ffff:c000:207 2001:db8::1 1 2\r\n");
    for subject in [
        Subject::Own,
        Subject::Unknown,
        relayed(unix.clone(), unix.clone()),
        relayed(four.clone(), unix),
        Subject::Relayed(Relayed { source: four.clone(), destination: four, datagrams: true }),
    ] {
        assert_eq!(line(subject), "PROXY UNKNOWN\r\n");
    }
}

#[test]
fn what_has_no_place_in_a_block_is_an_error() {
    let header = |subject| ProxyHeader::new(Version::Two, subject);
    let unnamed = Address::Unix(UnixName::Unnamed);
    for name in [
        UnixName::Path(PathBuf::new()),
        UnixName::Path("a\0b".into()),
        UnixName::Path("x".repeat(109).into()),
        UnixName::Abstract(vec![b'x'; 108]),
        UnixName::Abstract(b"a\0".into()),
    ] {
        let name = Address::Unix(name);
        let encoded = header(relayed(unnamed.clone(), name.clone())).encode();
        assert_eq!(encoded, Err(EncodeError::Name(name)));
    }
    let families = header(relayed(unnamed, inet("192.0.2.7:1"))).encode();
    assert!(matches!(families, Err(EncodeError::Families { .. })), "{families:?}");
    for extras in [
        vec![Extra::UniqueId(vec![0; 129])],
        vec![Extra::Padding(1 << 16)],
        vec![Extra::Alpn(vec![0; 1 << 16])],
        vec![Extra::Padding(40_000), Extra::Padding(40_000)],
    ] {
        let encoded = ProxyHeader { extras, ..header(Subject::Unknown) }.encode();
        assert!(matches!(encoded, Err(EncodeError::TooLong { .. })), "{encoded:?}");
    }
}

#[test]
fn a_source_is_trusted_by_its_network_or_for_being_here() {
    let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap());
    let policy = HeaderPolicy::new(Wanted::Require, trusted.to_vec());
    for (peer, trusts) in [
        ("10.1.2.3:1", true),
        ("[::ffff:10.1.2.3]:1", true),
        ("[2001:db8:1::]:1", true),
        ("11.0.0.1:1", false),
        ("[::1]:1", false),
    ] {
        assert_eq!(policy.trusts(&inet(peer)), trusts, "{peer}");
    }
    let here = Address::Unix(UnixName::Unnamed);
    assert!(!policy.trusts(&here));
    assert!(HeaderPolicy::new(Wanted::Accept, vec!["unix".parse().unwrap()]).trusts(&here));
    let told = "10.0.0/8".parse::<TrustedSource>().unwrap_err().to_string();
    assert!(told.contains("\"10.0.0/8\"") && told.ends_with("192.0.2.7, or unix"), "{told}");
}

fn addresses() -> impl Strategy<Value = (Address, Address)> {
    let four = (any::<(u32, u32)>(), any::<(u16, u16)>()).prop_map(|((a, b), (c, d))| {
        let at = |ip: u32, port| Address::Inet(SocketAddr::from((std::net::Ipv4Addr::from_bits(ip), port)));
        (at(a, c), at(b, d))
    });
    let six = (any::<(u128, u128)>(), any::<(u16, u16)>()).prop_map(|((a, b), (c, d))| {
        let at = |ip: u128, port| Address::Inet(SocketAddr::from((Ipv6Addr::from_bits(ip), port)));
        (at(a, c), at(b, d))
    });
    prop_oneof![four, six]
}

fn names() -> impl Strategy<Value = Address> {
    prop_oneof![
        Just(UnixName::Unnamed),
        "[a-z/]{1,108}".prop_map(|path| UnixName::Path(path.into())),
        "[a-z\0]{0,106}z".prop_map(|name| UnixName::Abstract(name.into_bytes())),
    ]
    .prop_map(Address::Unix)
}

fn subjects() -> impl Strategy<Value = Subject> {
    let ends = prop_oneof![3 => addresses(), 1 => (names(), names())];
    prop_oneof![
        1 => Just(Subject::Unknown),
        6 => (ends, any::<bool>()).prop_map(|((source, destination), datagrams)| {
            Subject::Relayed(Relayed { source, destination, datagrams })
        }),
    ]
}

fn extras() -> impl Strategy<Value = Vec<Extra>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let tls_extra = prop_oneof![
        "[ -~]{0,20}".prop_map(TlsExtra::Version),
        "\\PC{0,9}".prop_map(TlsExtra::CommonName),
        "[ -~]{0,20}".prop_map(TlsExtra::Cipher),
        "[ -~]{0,20}".prop_map(TlsExtra::Signature),
        "[ -~]{0,20}".prop_map(TlsExtra::Key),
        (0x26..=255_u8, bytes()).prop_map(|(kind, value)| TlsExtra::Other { kind, value }),
    ];
    let tls = (any::<u8>(), any::<u32>(), prop::collection::vec(tls_extra, 0..4))
        .prop_map(|(client, verify, extras)| Extra::Tls(TlsFacts { client, verify, extras }));
    let extra = prop_oneof![
        bytes().prop_map(Extra::Alpn),
        "\\PC{0,20}".prop_map(Extra::Authority),
        (0..50_usize).prop_map(Extra::Padding),
        prop::collection::vec(any::<u8>(), 0..=UNIQUE_ID_BYTES_MAX).prop_map(Extra::UniqueId),
        tls,
        "[a-z]{0,9}".prop_map(Extra::Namespace),
        (0x31..=255_u8, bytes()).prop_map(|(kind, value)| Extra::Other { kind, value }),
    ];
    prop::collection::vec(extra, 0..6)
}

/// Bytes near the grammar: a header with some of its bytes changed, and something behind it.
fn near_headers() -> impl Strategy<Value = Vec<u8>> {
    let header = (subjects(), extras(), any::<bool>(), any::<bool>());
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (header, changes).prop_map(|((subject, extras, checksum, one), changes)| {
        let version = if one { Version::One } else { Version::Two };
        let header = ProxyHeader { version, subject, extras, checksum };
        let mut bytes = header.encode().unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.extend_from_slice(b"\r\nwhat follows");
        bytes
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same(
        subject in subjects(), extras in extras(), checksum: bool, most in 0..5_000_usize,
    ) {
        let header = ProxyHeader { version: Version::Two, subject: subject.clone(), extras, checksum };
        let bytes = header.encode().unwrap();
        let fits = bytes.len() <= most;
        let length = bytes.len();
        prop_assert_eq!(parse(&bytes, usize::MAX), Ok(Some((header, length))));
        prop_assert_eq!(parse(&bytes, most).is_ok(), fits);
        let line = ProxyHeader::new(Version::One, subject.clone()).encode().unwrap();
        prop_assert!(line.len() <= LINE_BYTES_MAX);
        let said = match &subject {
            Subject::Relayed(Relayed { source: Address::Inet(_), datagrams: false, .. }) => subject,
            _ => Subject::Unknown,
        };
        let length = line.len();
        prop_assert_eq!(parse(&line, 0), Ok(Some((ProxyHeader::new(Version::One, said), length))));
    }

    #[test]
    fn beginnings_tell_nothing_else_and_no_byte_behind_it_counts(bytes in near_headers()) {
        let read = parse(&bytes, HEADER_BYTES_MAX);
        for end in 0..=bytes.len() {
            let sooner = parse(&bytes[..end], HEADER_BYTES_MAX);
            prop_assert!(sooner == Ok(None) || sooner == read, "{} bytes: {:?}, and {:?}", end, sooner, read);
            if let Ok(Some((_, length))) = sooner {
                prop_assert!(length <= end);
            }
        }
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, HEADER_BYTES_MAX);
        let _ = parse(&block(0x21, 0x11, &bytes), HEADER_BYTES_MAX);
        let _ = parse(&block(0x21, 0, &bytes), HEADER_BYTES_MAX);
        let _ = parse(&[b"PROXY TCP4 ", &bytes[..]].concat(), HEADER_BYTES_MAX);
    }
}
