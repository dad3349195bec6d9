//! Codecs as bytes: whole, byte by byte, cut anywhere, and fed with garbage.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 40;

fn codecs() -> Vec<Box<dyn Codec>> {
    let mut all: Vec<Box<dyn Codec>> = vec![Box::new(Netstrings::new(LIMIT))];
    for ending in [LineEnding::Lf, LineEnding::CrLf, LineEnding::Either] {
        all.push(Box::new(Lines::new(ending, LIMIT)));
    }
    for width in [Width::Bits8, Width::Bits16, Width::Bits32] {
        all.push(Box::new(Prefixed::new(width, LIMIT)));
    }
    all
}

/// What a stream of bytes is to a decoder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    frames: Vec<Vec<u8>>,
    /// Why it ended, if that was not between frames.
    error: Option<FrameError>,
    /// The most that was collected of one frame.
    held_most: usize,
}

/// Reads the stream in pieces of these sizes, in turns; without any at once.
fn read(decoder: &mut dyn Decoder, mut bytes: &[u8], sizes: &[usize]) -> Read {
    let (mut read, mut frame, mut sizes) = (Read::default(), Vec::new(), sizes.iter().cycle());
    while !bytes.is_empty() {
        let piece = sizes.next().map_or(bytes.len(), |size| (*size).clamp(1, bytes.len()));
        let used = match decoder.advance(&bytes[..piece]) {
            Err(error) => {
                read.error = Some(error);
                return read;
            }
            Ok(Part::More { content }) => {
                frame.extend_from_slice(&bytes[content]);
                piece
            }
            Ok(Part::End { used, content, excess }) => {
                frame.extend_from_slice(&bytes[content]);
                frame.truncate(frame.len() - excess);
                read.frames.push(std::mem::take(&mut frame));
                used
            }
        };
        read.held_most = read.held_most.max(frame.len());
        bytes = &bytes[used..];
    }
    read.error = decoder.end().err();
    read
}

fn frames(decoder: &mut dyn Decoder, bytes: &[u8]) -> (Vec<String>, Option<FrameError>) {
    let whole = read(decoder, bytes, &[]);
    let text = |frame: &Vec<u8>| String::from_utf8_lossy(frame).into_owned();
    (whole.frames.iter().map(text).collect(), whole.error)
}

fn lines(ending: LineEnding, bytes: &str) -> (Vec<String>, Option<FrameError>) {
    frames(&mut Lines::new(ending, 5), bytes.as_bytes())
}

#[test]
fn a_line_ends_as_asked() {
    let all = |list: &[&str]| list.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(LineEnding::Lf, "a\r\n\nb\n"), (all(&["a\r", "", "b"]), None));
    assert_eq!(lines(LineEnding::CrLf, "a\nb\r\n\r\n\rc\r\r\n"), (all(&["a\nb", "", "\rc\r"]), None));
    assert_eq!(lines(LineEnding::Either, "a\r\nb\n\r\n\n\r\r\n"), (all(&["a", "b", "", "", "\r"]), None));
    assert_eq!(lines(LineEnding::Lf, "a\nb"), (all(&["a"]), Some(FrameError::Truncated)));
}

#[test]
fn the_end_of_a_line_does_not_count() {
    let endless = Some(FrameError::Endless { limit: 5 });
    for ending in [LineEnding::Lf, LineEnding::CrLf, LineEnding::Either] {
        let end = if ending == LineEnding::Lf { "\n" } else { "\r\n" };
        assert_eq!(lines(ending, &format!("12345{end}")).1, None, "{ending:?}");
        assert_eq!(lines(ending, &format!("1{end}123456{end}1{end}")), (vec!["1".to_owned()], endless));
        assert_eq!(lines(ending, "123456").1, endless, "before its end has come");
        assert_eq!(lines(ending, &format!("123456{end}")).1, endless, "{ending:?}");
    }
    assert_eq!(lines(LineEnding::CrLf, "12345\r").1, Some(FrameError::Truncated), "the CR may begin the end");
    assert_eq!(lines(LineEnding::Lf, "12345\r").1, endless, "the CR belongs to the line");
    assert_eq!(lines(LineEnding::CrLf, "12345\rx").1, endless);
}

#[test]
fn netstrings_are_read_strictly() {
    let of = |text: &str| frames(&mut Netstrings::new(12), text.as_bytes());
    let good = vec!["hello world!".to_owned(), String::new(), ",".to_owned()];
    assert_eq!(of("12:hello world!,0:,1:,,"), (good, None));
    let announced = |announced| Some(FrameError::Announced { announced, limit: 12 });
    assert_eq!(of("13:").1, announced(13), "before any of it has come");
    assert_eq!(of("9999999999999999999:").1, announced(9_999_999_999_999_999_999));
    for bad in [
        "01:a,",
        "00:,",
        ":,",
        "a:,",
        "-1:a,",
        "+1:a,",
        " 1:a,",
        "1 :a,",
        "1;a,",
        "1:ab",
        "0:x",
        "99999999999999999999",
    ] {
        assert!(matches!(of(bad).1, Some(FrameError::Malformed(_))), "{bad}: {:?}", of(bad));
    }
    for cut in ["1", "1:", "1:a", "0:"] {
        assert_eq!(of(cut), (Vec::new(), Some(FrameError::Truncated)), "{cut}");
    }
}

#[test]
fn a_length_before_a_frame_is_big_endian_and_looked_at_first() {
    let of = |width, limit, bytes: &[u8]| frames(&mut Prefixed::new(width, limit), bytes);
    assert_eq!(
        of(Width::Bits8, 3, b"\x03abc\x00\x01d"),
        (vec!["abc".into(), String::new(), "d".into()], None)
    );
    assert_eq!(of(Width::Bits16, 300, &[&[1, 0][..], &[b'x'; 256]].concat()).0[0].len(), 256);
    assert_eq!(of(Width::Bits32, 300, b"\x00\x00\x00\x01y"), (vec!["y".into()], None));
    for (width, bytes, announced) in [
        (Width::Bits8, &[4][..], 4),
        (Width::Bits16, &[1, 0], 256),
        (Width::Bits32, &[255; 4], u64::from(u32::MAX)),
    ] {
        assert_eq!(of(width, 3, bytes).1, Some(FrameError::Announced { announced, limit: 3 }));
    }
    assert_eq!(of(Width::Bits32, 3, b"\x00\x00").1, Some(FrameError::Truncated));
    assert_eq!(Prefixed::new(Width::Bits8, 1_000).limit(), 255, "what the width allows");
}

#[test]
fn what_cannot_be_read_back_is_not_sent() {
    for codec in codecs() {
        let too_long = codec.wrap(&[b'x'; LIMIT + 1]).err();
        assert_eq!(too_long, Some(EncodeError::TooLong { length: LIMIT + 1, limit: LIMIT }), "{codec:?}");
        assert!(codec.wrap(&[b'x'; LIMIT]).is_ok(), "{codec:?}");
    }
    let holds = Some(EncodeError::HoldsEnding);
    assert_eq!(Lines::new(LineEnding::Lf, 9).wrap(b"QUIT\nx").err(), holds);
    assert_eq!(Lines::new(LineEnding::Either, 9).wrap(b"QUIT\nx").err(), holds);
    assert_eq!(Lines::new(LineEnding::CrLf, 9).wrap(b"QUIT\r\nx").err(), holds);
    assert!(Lines::new(LineEnding::CrLf, 9).wrap(b"QUIT\nx\r").is_ok());
}

#[test]
fn limits_may_be_as_large_as_numbers_are() {
    for (mut codec, bytes) in [
        (Box::new(Lines::new(LineEnding::CrLf, usize::MAX)) as Box<dyn Codec>, &b"a\r\n"[..]),
        (Box::new(Netstrings::new(usize::MAX)), b"1:a,"),
        (Box::new(Prefixed::new(Width::Bits32, usize::MAX)), b"\x00\x00\x00\x01a"),
    ] {
        assert_eq!(frames(&mut codec, bytes), (vec!["a".to_owned()], None));
    }
}

/// Bytes that look like frames more often than chance would have it.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop::sample::select(b"\r\n\n\r,:0123456789".to_vec()),
        2 => Just(0),
        2 => 0..LIMIT as u8 + 4,
        1 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..400)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..60_usize, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_bytes_are_the_same_frames_however_they_are_cut(bytes in garbage(), sizes in sizes()) {
        for ((mut whole, mut cut), mut single) in codecs().into_iter().zip(codecs()).zip(codecs()) {
            let expected = read(&mut whole, &bytes, &[]);
            for (decoder, sizes) in [(&mut cut, &sizes[..]), (&mut single, &[1])] {
                let found = read(decoder, &bytes, sizes);
                prop_assert_eq!((&found.frames, found.error), (&expected.frames, expected.error), "{:?}", decoder);
                prop_assert!(found.held_most <= LIMIT + 2, "{:?} collected {}", decoder, found.held_most);
            }
        }
    }

    #[test]
    fn what_is_sent_is_what_is_received(
        sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..LIMIT + 1), 0..8),
        sizes in sizes(),
    ) {
        for mut codec in codecs() {
            let (mut wire, mut expected) = (Vec::new(), Vec::new());
            for frame in &sent {
                if let Ok(wrapping) = codec.wrap(frame) {
                    wire.extend([wrapping.head(), frame, wrapping.tail()].concat());
                    expected.push(frame.clone());
                }
            }
            let found = read(&mut codec, &wire, &sizes);
            prop_assert_eq!((found.frames, found.error), (expected, None), "{:?}", codec);
        }
    }

    #[test]
    fn a_line_end_is_found_where_it_is(mut bytes in prop::collection::vec(0..12_u8, 0..200), shift in 0..40_usize) {
        bytes.drain(..shift.min(bytes.len()));
        let expected = bytes.iter().position(|byte| *byte == b'\n');
        prop_assert_eq!(lines::find_lf(&bytes), expected);
    }
}
