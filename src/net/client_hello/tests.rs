use proptest::prelude::*;

use super::*;

/// An extension.
fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(value)].concat()
}

/// Bytes behind their length in two bytes, and in one.
fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &long(&[&[0], &long(name)[..]].concat()))
}

fn protocols(names: &[&[u8]]) -> Vec<u8> {
    extension(16, &long(&names.iter().flat_map(|name| short(name)).collect::<Vec<_>>()))
}

/// The message with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    message_of(&[short(&[9; 32]), long(&[0x13, 1, 0x13, 2]), short(&[0]), long(extensions)].concat())
}

fn message_of(from_session: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], from_session].concat();
    [&[1], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
}

/// The message in records of at most `most` bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|piece| [&[22, 3, 1], &long(piece)[..]].concat()).collect()
}

/// What the bytes say, and after how many, which no cut changes.
#[track_caller]
fn read(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    let whole = HelloReader::default().feed(bytes);
    let (mut reader, mut piecewise) = (HelloReader::default(), Ok(None));
    for byte in bytes {
        piecewise = reader.feed(&[*byte]);
        if piecewise != Ok(None) {
            break;
        }
    }
    assert_eq!(piecewise, whole, "byte by byte");
    whole
}

fn hello(extensions: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    read(&records(&message(extensions), 1 << 14))
}

fn wants(name: Option<&str>, protocols: &[&[u8]]) -> Result<Option<ClientHello>, HelloError> {
    let protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Some(ClientHello { name: name.map(str::to_owned), protocols }))
}

#[test]
fn the_name_and_the_protocols_are_found_wherever_they_stand() {
    let (name, two) = (server_name(b"Shop.EXAMPLE.org"), protocols(&[b"h2", b"http/1.1"]));
    let other = extension(0x0A0A, &[1; 700]);
    let wanted = wants(Some("shop.example.org"), &[b"h2", b"http/1.1"]);
    for extensions in [
        [&name[..], &two].concat(),
        [&two[..], &name].concat(),
        [&other[..], &two, &other, &name, &other].concat(),
    ] {
        assert_eq!(hello(&extensions), wanted);
        for most in [1, 2, 3, 100, 1_000] {
            assert_eq!(read(&records(&message(&extensions), most)), wanted, "records of {most} bytes");
        }
    }
    assert_eq!(hello(&[&other[..], &name].concat()), wants(Some("shop.example.org"), &[]));
    assert_eq!(hello(&two), wants(None, &[b"h2", b"http/1.1"]));
    assert_eq!(hello(&other), wants(None, &[]));
    assert_eq!(hello(&[]), wants(None, &[]));
    let old = message_of(&[&short(&[])[..], &long(&[0, 1]), &short(&[0])].concat());
    assert_eq!(read(&records(&old, 1 << 14)), wants(None, &[]), "without extensions at all");
}

#[test]
fn it_is_read_no_further_than_needed() {
    let all = [server_name(b"a"), protocols(&[b"h2"])].concat();
    let bytes = records(&message(&[&all[..], &extension(7, &[0; 9_000])].concat()), 1 << 14);
    let needed = bytes.len() - 9_004;
    assert_eq!(read(&bytes[..needed]), wants(Some("a"), &[b"h2"]));
    assert_eq!(read(&bytes[..needed - 1]), Ok(None));
    // Whatever follows, even where no record could begin so.
    let end = [&records(&message(&all), 1 << 14)[..], &[0xFF; 100]].concat();
    assert_eq!(read(&end), wants(Some("a"), &[b"h2"]));
    let one = records(&message(&server_name(b"a")), 1 << 14);
    assert_eq!(read(&[&one[..], &[0xFF; 100]].concat()), wants(Some("a"), &[]));
}

#[test]
fn what_is_not_tls_is_told_from_what_is_wrong() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PROXY TCP4 ",
        b"SSH-2.0-",
        &[0],
        &[22, 2],
        &[22, 4, 1],
        // SSL 2.0's hello.
        &[0x80, 0x2E, 1, 3, 1],
        // An alert first.
        &[21, 3, 1, 0, 2, 1, 0],
    ] {
        assert_eq!(read(bytes), Err(HelloError::NotTls), "{bytes:?}");
    }
    let malformed = |bytes: &[u8]| match read(bytes) {
        Err(HelloError::Malformed(what)) => what,
        other => panic!("{bytes:?}: {other:?}"),
    };
    let good = message(&server_name(b"a"));
    for (bytes, what) in [
        (vec![22, 3, 1, 0, 0], "a record that is empty or too long"),
        (vec![22, 3, 1, 0x40, 1], "a record that is empty or too long"),
        (vec![22, 3, 1, 0, 9, 2], "the first message is another one"),
        (vec![22, 3, 1, 0, 9, 1, 0, 0, 33], "it ends too early"),
        (vec![22, 3, 1, 0, 9, 1, 0, 1, 0, 2], "its version"),
        ([&records(&good[..20], 20)[..], &[23]].concat(), "a record that is no handshake"),
        ([&records(&good[..20], 20)[..], &[22, 2]].concat(), "a record of another version"),
    ] {
        assert_eq!(malformed(&bytes), what, "{bytes:?}");
    }
    let rest = |parts: &[Vec<u8>]| malformed(&records(&message_of(&parts.concat()), 1 << 14));
    let ends = "something ends behind the end of what it is in";
    let (session, ciphers, none) = (|| short(&[]), || long(&[0, 1]), || short(&[0]));
    for (parts, what) in [
        (vec![], ends),
        (vec![short(&[0; 33])], "the session's id is too long"),
        (vec![vec![200]], ends),
        (vec![session(), long(&[])], "the list of ciphers"),
        (vec![session(), long(&[0, 1, 0])], "the list of ciphers"),
        (vec![session(), vec![0xFF, 0xFF]], ends),
        (vec![session(), ciphers(), short(&[])], "the list of compressions"),
        (vec![session(), ciphers(), none(), vec![0]], ends),
        (vec![session(), ciphers(), none(), vec![0, 1]], "the length of the extensions"),
        (vec![session(), ciphers(), none(), vec![0, 1, 0, 0]], "the length of the extensions"),
        (vec![session(), ciphers(), none(), long(&[0, 0, 0])], ends),
        (vec![session(), ciphers(), none(), long(&[0, 0, 0, 9])], ends),
    ] {
        assert_eq!(rest(&parts), what, "{parts:?}");
    }
}

#[test]
fn a_name_is_the_name_of_a_host_or_none() {
    let name = |name: &str| hello(&server_name(name.as_bytes()));
    let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    for good in ["a", "xn--bcher-kva.example", "_dmarc.example", "1.2.3.4.example", "4", &longest] {
        assert_eq!(name(good), wants(Some(good), &[]), "{good}");
    }
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(name(address), wants(None, &[]), "{address}");
    }
    let wrong = Err(HelloError::Malformed("the server's name"));
    for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\0b", "*.a", "a/b", "bücher.example", "[::1]", "a:80"]
    {
        assert_eq!(name(bad), wrong, "{bad:?}");
    }
    assert_eq!(name(&"a".repeat(64)), wrong);
    assert_eq!(name(&format!("{longest}d")), wrong);
    assert_eq!(hello(&server_name(b"\xFF")), wrong);
    for value in [&[][..], &[0, 0], &[0, 4, 0, 0, 1], &[0, 4, 0, 0, 1, b'a', 0], &[0, 4, 1, 0, 1, b'a']] {
        let told = hello(&extension(0, value));
        assert!(matches!(told, Err(HelloError::Malformed(_))), "{value:?}: {told:?}");
    }
    let two = long(&[&[0], &long(b"a")[..], &[0], &long(b"b")].concat());
    assert_eq!(hello(&extension(0, &two)), wrong, "two names");
}

#[test]
fn what_is_said_twice_or_is_no_list_is_wrong() {
    let (name, two) = (server_name(b"a"), protocols(&[b"h2"]));
    let twice = Err(HelloError::Malformed("an extension twice"));
    assert_eq!(hello(&[&name[..], &name].concat()), twice);
    assert_eq!(hello(&[&two[..], &two].concat()), twice);
    for value in [&[][..], &[0, 0], &[0, 1, 0], &[0, 2, 2, b'h'], &[0, 2, 1, b'h', 0]] {
        let told = hello(&extension(16, value));
        assert!(matches!(told, Err(HelloError::Malformed(_))), "{value:?}: {told:?}");
    }
}

/// A hello with some of its bytes changed, in records of some size.
fn near_hellos() -> impl Strategy<Value = Vec<u8>> {
    let other = (any::<u16>(), prop::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(kind, value)| extension(kind, &value));
    let extension = prop_oneof![
        3 => "[a-zA-Z0-9.-]{1,20}".prop_map(|name| server_name(name.as_bytes())),
        2 => prop::collection::vec("[a-z0-9/.]{1,9}", 1..4).prop_map(|names| {
            protocols(&names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>())
        }),
        4 => other,
    ];
    let extensions = prop::collection::vec(extension, 0..5);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (extensions, 1..400_usize, changes).prop_map(|(extensions, most, changes)| {
        let mut bytes = records(&message(&extensions.concat()), most);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn cuts_change_nothing(bytes in near_hellos(), cuts in prop::collection::vec(1..50_usize, 1..20)) {
        let whole = read(&bytes);
        let (mut reader, mut rest, mut piecewise) = (HelloReader::default(), &bytes[..], Ok(None));
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            piecewise = reader.feed(piece);
            rest = after;
            if piecewise != Ok(None) || rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(piecewise, whole);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read(&records(&bytes, 50));
        let _ = read(&records(&message_of(&bytes), 1_000));
        let _ = hello(&bytes);
    }
}
