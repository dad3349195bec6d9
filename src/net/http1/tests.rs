use super::*;
use proptest::prelude::*;

fn request(bytes: &[u8]) -> Result<Parsed<RequestHead<'_>>, HeadError> {
    parse_request(bytes)
}

/// The framing of a request with these fields after the Host field.
fn framing(fields: &str) -> Result<Framing, HeadError> {
    let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    parse_request(text.as_bytes()).map(|parsed| parsed.unwrap().0.framing)
}

fn response(text: &str) -> Result<ResponseHead, HeadError> {
    parse_response(text.as_bytes(), false).map(|parsed| {
        let (head, length) = parsed.unwrap();
        assert_eq!(length, text.len());
        head
    })
}

#[test]
fn a_request_is_read_with_what_follows_it_left_alone() {
    let bytes = b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\nGET /next";
    let (head, length) = request(bytes).unwrap().unwrap();
    assert_eq!((head.method, head.target, head.framing), ("GET", "/1k", Framing::None));
    assert!(head.keep_alive && !head.expects_continue);
    assert_eq!(&bytes[length..], b"GET /next");
}

#[test]
fn ambiguous_request_framing_is_refused() {
    assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
    assert_eq!(framing("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
    assert_eq!(framing(""), Ok(Framing::None));
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert!(matches!(framing(fields), Err(HeadError::Framing(_))), "{fields:?}: {:?}", framing(fields));
    }
    for fields in [
        "Content-Length : 5\r\n",
        "Content-Length: 5\n",
        "X: a\r\n folded\r\n",
        "X: a\0b\r\n",
        "X: a\rb\r\n",
        "X\r\n",
        ": a\r\n",
    ] {
        assert!(matches!(framing(fields), Err(HeadError::Malformed(_))), "{fields:?}: {:?}", framing(fields));
    }
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(matches!(request(old), Err(HeadError::Framing(_))));
}

#[test]
fn a_request_needs_exactly_one_host() {
    assert_eq!(request(b"GET / HTTP/1.1\r\n\r\n"), Err(HeadError::Host));
    assert_eq!(framing("Host: b\r\n"), Err(HeadError::Host));
    assert!(request(b"GET / HTTP/1.0\r\n\r\n").is_ok(), "HTTP/1.0 had none");
}

#[test]
fn connections_stay_or_close_as_the_version_and_the_field_say() {
    let keep = |line: &str| {
        let text = format!("GET / {line}\r\nHost: a\r\n\r\n");
        parse_request(text.as_bytes()).unwrap().unwrap().0.keep_alive
    };
    assert!(keep("HTTP/1.1"));
    assert!(!keep("HTTP/1.1\r\nConnection: close"));
    assert!(!keep("HTTP/1.1\r\nConnection: x , CLOSE"));
    assert!(!keep("HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close"));
    assert!(!keep("HTTP/1.0"));
    assert!(keep("HTTP/1.0\r\nConnection: Keep-Alive"));
}

#[test]
fn responses_without_a_body_have_none_whatever_they_say() {
    for status in ["100 Continue", "204 No Content", "304 Not Modified"] {
        let head = response(&format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n")).unwrap();
        assert_eq!(head.framing, Framing::None, "{status}");
    }
    let to_head = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true).unwrap().unwrap().0;
    assert_eq!((to_head.framing, to_head.keep_alive), (Framing::None, true));
}

#[test]
fn response_framing_follows_the_rfc() {
    let length = response("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").unwrap();
    assert_eq!((length.status, length.framing, length.keep_alive), (200, Framing::Length(9), true));
    let chunked =
        response("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((chunked.framing, chunked.keep_alive), (Framing::Chunked, false));
    let until_close = response("HTTP/1.1 200 OK\r\n\r\n").unwrap();
    assert_eq!((until_close.framing, until_close.keep_alive), (Framing::UntilClose, false));
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        assert!(parse_response(text.as_bytes(), false).is_err(), "{text:?}");
    }
}

#[test]
fn heads_are_bounded_in_bytes_and_fields() {
    let head = |bytes: usize| {
        let fixed = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes - fixed)).into_bytes()
    };
    assert!(request(&head(HEAD_BYTES_MAX)).unwrap().is_some());
    assert_eq!(request(&head(HEAD_BYTES_MAX + 1)), Err(HeadError::TooLong));
    assert_eq!(request(&vec![b'a'; HEAD_BYTES_MAX - 1]), Ok(None));
    assert_eq!(request(&vec![b'a'; HEAD_BYTES_MAX]), Err(HeadError::TooLong));
    assert_eq!(request(&b"\r\n".repeat(HEAD_BYTES_MAX)), Err(HeadError::TooLong), "endless empty lines");
    let fields = |count: usize| {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count - 1)).into_bytes()
    };
    assert!(request(&fields(FIELDS_MAX)).unwrap().is_some());
    assert_eq!(request(&fields(FIELDS_MAX + 1)), Err(HeadError::TooManyFields));
}

#[test]
fn a_collected_head_keeps_no_memory() {
    let mut buffer = HeadBuffer::default();
    let parse = |bytes: &[u8]| parse_response(bytes, false);
    assert_eq!(buffer.feed(b"HTTP/1.1 200 OK\r\nContent-Le", parse), Ok(Fed::Partial));
    assert!(buffer.has_begun());
    let Ok(Fed::Complete(head, used)) = buffer.feed(b"ngth: 3\r\n\r\nabc", parse) else {
        panic!("not complete")
    };
    assert_eq!((head.framing, used), (Framing::Length(3), 11));
    assert!(!buffer.has_begun());
}

/// Reads a body fed in pieces of these sizes, over and over; the content and how many bytes were used.
fn body(framing: Framing, bytes: &[u8], sizes: &[usize]) -> Result<(Vec<u8>, usize), BodyError> {
    let mut body = Body::new(framing);
    let mut content = Vec::new();
    let (mut used, mut given) = (0, 0);
    for size in sizes.iter().cycle() {
        let mut piece = &bytes[given..bytes.len().min(given + size)];
        given += piece.len();
        if piece.is_empty() || body.is_done() {
            break;
        }
        while !piece.is_empty() && !body.is_done() {
            let part = body.advance(piece)?;
            assert!(part.used > 0, "no progress");
            content.extend_from_slice(part.content);
            piece = &piece[part.used..];
            used += part.used;
        }
    }
    body.end().map(|()| (content, used))
}

/// The same for a chunked body in pieces of one size.
fn chunked(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize), BodyError> {
    body(Framing::Chunked, bytes, &[piece])
}

#[test]
fn chunked_bodies_end_where_they_say() {
    let bytes = b"4\r\nWiki\r\n6 \t;a=\"b;c\"\r\npedia \r\n0000E\r\nin \r\n\r\nchunks.\r\n0\r\nExpires: never\r\n\r\nGET /";
    for piece in [1, 2, 3, 7, bytes.len()] {
        let (content, used) = chunked(bytes, piece).unwrap();
        assert_eq!(content, b"Wikipedia in \r\n\r\nchunks.");
        assert_eq!(&bytes[used..], b"GET /");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    for (bytes, error) in [
        (&b"\r\n"[..], BodyError::ChunkSize),
        (b"x\r\n", BodyError::ChunkSize),
        (b"-1\r\n", BodyError::ChunkSize),
        (b"0x1\r\na\r\n", BodyError::ChunkSize),
        (b"1\na", BodyError::ChunkSize),
        (b"1\rxa", BodyError::ChunkSize),
        (b"00000000000000001\r\na", BodyError::ChunkSize),
        (b"1;\n\r\na", BodyError::ChunkExtension),
        (b"5 6\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        (b"5 garbage\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        (b"5 \r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        (b"0\r\nGET / HTTP/1.1\r\n\r\n", BodyError::Trailer),
        (b"0\r\nno colon\r\n\r\n", BodyError::Trailer),
        (b"0\r\nA : b\r\n\r\n", BodyError::Trailer),
        (b"0\r\nA\r\n\r\n", BodyError::Trailer),
        (b"0\r\n: b\r\n\r\n", BodyError::Trailer),
        (b"1\r\nab\r\n", BodyError::ChunkEnd),
        (b"1\r\na\n", BodyError::ChunkEnd),
        (b"0\r\nA: b\n\r\n", BodyError::Trailer),
        (b"0\r\n folded\r\n\r\n", BodyError::Trailer),
        (b"0\r\n\n", BodyError::Trailer),
        (b"0\r\n", BodyError::Truncated),
        (b"5\r\nabc", BodyError::Truncated),
        (b"ffffffffffffffff\r\nabc", BodyError::Truncated),
    ] {
        assert_eq!(chunked(bytes, 1), Err(error), "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(chunked(bytes, bytes.len()), Err(error), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn endless_extensions_and_trailers_are_refused() {
    let extension = [b"1;".as_slice(), &vec![b'x'; CHUNK_EXTRAS_MAX]].concat();
    assert_eq!(chunked(&extension, 1000), Err(BodyError::TooManyExtras));
    let trailers = [b"0\r\n".as_slice(), &b"A: b\r\n".repeat(CHUNK_EXTRAS_MAX)].concat();
    assert_eq!(chunked(&trailers, 1000), Err(BodyError::TooManyExtras));
    let many = b"1;x\r\na\r\n".repeat(CHUNK_EXTRAS_MAX);
    assert_eq!(chunked(&many, 1000), Err(BodyError::TooManyExtras), "spread over many chunks");
}

#[test]
fn a_short_body_is_no_body() {
    let mut body = Body::new(Framing::Length(5));
    assert_eq!(body.advance(b"abc").unwrap(), Part { used: 3, content: b"abc" });
    assert_eq!(body.end(), Err(BodyError::Truncated));
    assert_eq!(body.advance(b"defg").unwrap(), Part { used: 2, content: b"de" });
    assert!(body.is_done() && body.end().is_ok());
    let mut until_close = Body::new(Framing::UntilClose);
    assert_eq!(until_close.advance(b"abc").unwrap().used, 3);
    assert!(!until_close.is_done());
    assert!(until_close.end().is_ok() && until_close.is_done());
}

/// What a head comes out as if its bytes arrive in pieces of these sizes, over and over: the head and its length.
fn in_pieces<H>(
    bytes: &[u8],
    sizes: &[usize],
    parse: impl Fn(&[u8]) -> Result<Parsed<H>, HeadError>,
) -> Result<Parsed<H>, ()> {
    let mut buffer = HeadBuffer::default();
    let mut before = 0;
    for size in sizes.iter().cycle() {
        let piece = &bytes[before..bytes.len().min(before + size)];
        if piece.is_empty() {
            break;
        }
        match buffer.feed(piece, &parse).map_err(drop)? {
            Fed::Complete(head, used) => return Ok(Some((head, before + used))),
            Fed::Partial => before += piece.len(),
        }
    }
    Ok(None)
}

/// Bytes that are nearly a message: lines of a head in any order, chunks, garbage.
fn nearly_a_message() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"HTTP/1.0 404\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: 3\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Connection: close\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"5;a=b\r\nhello\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    (
        prop::collection::vec(line, 0..8),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
    )
        .prop_map(|(lines, mutations)| mutated(lines.concat(), mutations))
}

/// With some bytes replaced by others.
fn mutated(mut bytes: Vec<u8>, mutations: Vec<(prop::sample::Index, u8)>) -> Vec<u8> {
    for (at, byte) in mutations {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
    }
    bytes
}

/// Bytes that are nearly a chunked body, for the most part.
fn nearly_chunks() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            &b"5\r\nhello\r\n"[..], b"1\r\n\n\r\n", b"5;a=b\r\nhello\r\n", b"3 \t;x\r\nabc\r\n", b"0000003\r\nabc\r\n",
        ]),
        3 => prop::sample::select(vec![
            &b"0\r\n\r\n"[..], b"0\r\n", b"00;x\r\n", b"A: b\r\n", b"B:\r\n", b"\r\n", b"3 \r\nabc\r\n", b"3x\r\nabc\r\n",
        ]),
    ];
    // Mostly bytes that mean something to somebody.
    let byte = prop_oneof![3 => prop::sample::select(b"\r\n \t;:0ax\0\x7f".to_vec()), 1 => any::<u8>()];
    let mutations = prop::collection::vec((any::<prop::sample::Index>(), byte), 0..2);
    (prop::collection::vec(piece, 0..6), any::<bool>(), mutations).prop_map(|(pieces, ends, mutations)| {
        let mut bytes = pieces.concat();
        if ends {
            bytes.extend_from_slice(b"0\r\nA: b\r\n\r\nnext");
        }
        mutated(bytes, mutations)
    })
}

/// A line at the start of `bytes` without control characters, and what follows its CR LF.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte != b'\t' && (*byte < b' ' || *byte == 127))?;
    Some((&bytes[..end], bytes[end..].strip_prefix(b"\r\n")?))
}

/// A chunked body read at one go (RFC 9112, section 7.1), line by line: its content and length.
fn whole_chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut content, mut rest) = (Vec::new(), bytes);
    loop {
        let (head, after) = line(rest)?;
        let digits = head.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&head[..digits]).ok().filter(|digits| digits.len() <= 16)?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let extension = head[digits..].trim_ascii_start();
        if digits != head.len() && extension.first() != Some(&b';') {
            return None;
        }
        rest = after;
        if size == 0 {
            break;
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
    loop {
        let (field, after) = line(rest)?;
        rest = after;
        if field.is_empty() {
            return Some((content, bytes.len() - rest.len()));
        }
        let name = &field[..field.iter().position(|byte| *byte == b':')?];
        let token = |byte: &u8| byte.is_ascii_graphic() && !br#"(),/:;<=>?@[\]{}""#.contains(byte);
        if name.is_empty() || !name.iter().all(token) {
            return None;
        }
    }
}

/// Fields that say something about framing, the connection, or nothing.
const FIELDS: [&str; 8] = [
    "Content-Length: 7\r\n",
    "content-Length:7 \r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "connection: x, keep-alive\r\n",
    "Connection: x\r\n",
    "Expect: 100-continue\r\n",
    "X: y\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn heads_do_not_depend_on_how_the_bytes_are_cut(
        mut bytes in nearly_a_message(), sizes in prop::collection::vec(1usize..20, 1..5),
    ) {
        // What is wrong with a line that arrives in pieces is said when the line ends, at the latest.
        bytes.push(b'\n');
        let keep = |bytes: &[u8]| {
            Ok(parse_request(bytes)?.map(|(head, length)| ((head.target.to_owned(), head.framing), length)))
        };
        let whole = keep(&bytes).map_err(drop);
        prop_assert_eq!(in_pieces(&bytes, &sizes, keep), whole.clone());
        prop_assert_eq!(in_pieces(&bytes, &[1], keep), whole);
        let response = |bytes: &[u8]| parse_response(bytes, false);
        let whole = response(&bytes).map_err(drop);
        prop_assert_eq!(in_pieces(&bytes, &sizes, response), whole);
        prop_assert_eq!(in_pieces(&bytes, &[1], response), whole);
    }

    #[test]
    fn bodies_do_not_depend_on_how_the_bytes_are_cut(
        bytes in prop_oneof![nearly_a_message(), nearly_chunks()], sizes in prop::collection::vec(1usize..20, 1..5),
        length in 0..60u64,
    ) {
        for framing in [Framing::None, Framing::Length(length), Framing::Chunked, Framing::UntilClose] {
            let whole = body(framing, &bytes, &[bytes.len().max(1)]);
            prop_assert_eq!(body(framing, &bytes, &[1]), whole.clone());
            prop_assert_eq!(body(framing, &bytes, &sizes), whole);
        }
    }

    #[test]
    fn bodies_end_where_their_framing_says(bytes in nearly_chunks(), length in 0..60usize) {
        let first = bytes.get(..length).map(|first| (first.to_vec(), length));
        let sizes = [bytes.len().max(1)];
        prop_assert_eq!(body(Framing::Length(length as u64), &bytes, &sizes), first.ok_or(BodyError::Truncated));
        prop_assert_eq!(body(Framing::None, &bytes, &sizes), Ok((Vec::new(), 0)));
        prop_assert_eq!(body(Framing::UntilClose, &bytes, &sizes), Ok((bytes.clone(), bytes.len())));
        prop_assert_eq!(chunked(&bytes, 1).ok(), whole_chunked(&bytes));
    }

    #[test]
    fn heads_near_the_limit_do_not_depend_on_how_the_bytes_are_cut(
        off in 0..8usize, ends: bool, sizes in prop::collection::vec(1usize..6_000, 1..5),
    ) {
        let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        bytes.resize(HEAD_BYTES_MAX - 8 + off, b'x');
        bytes.extend_from_slice(if ends { b"\r\n\r\n" } else { b"\r\nY: \r\n" });
        let keep = |bytes: &[u8]| Ok(parse_request(bytes)?.map(|(head, length)| (head.framing, length)));
        let whole = keep(&bytes).map_err(drop);
        prop_assert_eq!(whole.is_ok(), ends && bytes.len() <= HEAD_BYTES_MAX || bytes.len() < HEAD_BYTES_MAX);
        prop_assert_eq!(in_pieces(&bytes, &sizes, keep), whole);
    }

    #[test]
    fn a_head_says_what_its_fields_say(
        said in prop::collection::vec(0..FIELDS.len(), 0..4), minor in 0..2u8, status in 200..600u16, to_head: bool,
    ) {
        let fields: String = said.iter().map(|at| FIELDS[*at]).collect();
        let count = |needle: &str| said.iter().filter(|at| FIELDS[**at].contains(needle)).count();
        let (lengths, codings) = (count("Length"), count("Transfer"));
        let ambiguous = lengths > 1 || codings > 1 || lengths + codings > 1 || codings > 0 && minor == 0;
        let stays = count("close") == 0 && (minor == 1 || count("keep-alive") > 0);

        let text = format!("PUT /x HTTP/1.{minor}\r\nHost: a\r\n{fields}\r\n");
        let framing = match (lengths, codings) {
            (0, 0) => Framing::None,
            (_, 0) => Framing::Length(7),
            _ => Framing::Chunked,
        };
        let head = RequestHead {
            method: "PUT",
            target: "/x",
            minor_version: minor,
            framing,
            keep_alive: stays,
            expects_continue: minor == 1 && count("Expect") > 0,
        };
        prop_assert_eq!(parse_request(text.as_bytes()).ok().flatten(), (!ambiguous).then_some((head, text.len())));

        let text = format!("HTTP/1.{minor} {status} x\r\n{fields}\r\n");
        let framing = match (lengths, codings) {
            _ if to_head || status == 204 || status == 304 => Framing::None,
            (0, 0) => Framing::UntilClose,
            (_, 0) => Framing::Length(7),
            _ => Framing::Chunked,
        };
        // Without a body it does not matter how one would be sent.
        let refused = if framing == Framing::None { lengths > 1 || codings > 1 || lengths + codings > 1 } else { ambiguous };
        let keep_alive = stays && framing != Framing::UntilClose;
        let expected = (!refused).then_some((ResponseHead { status, framing, keep_alive }, text.len()));
        prop_assert_eq!(parse_response(text.as_bytes(), to_head).ok().flatten(), expected);
    }

    #[test]
    fn what_is_sent_in_chunks_comes_back(
        content in prop::collection::vec(any::<u8>(), 0..2_000), sizes in prop::collection::vec(1usize..300, 1..9),
        piece in 1usize..400,
    ) {
        let mut sent = Vec::new();
        let mut left = &content[..];
        for size in sizes.iter().cycle() {
            let (chunk, rest) = left.split_at(left.len().min(*size));
            sent.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            sent.extend_from_slice(chunk);
            sent.extend_from_slice(b"\r\n");
            left = rest;
            if chunk.is_empty() {
                break;
            }
        }
        let length = sent.len();
        sent.extend_from_slice(b"next");
        prop_assert_eq!(chunked(&sent, piece), Ok((content, length)));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (parse_request(&bytes), parse_response(&bytes, true), chunked(&bytes, 1));
    }
}
