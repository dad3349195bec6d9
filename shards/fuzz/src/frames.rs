//! Frames in a stream: lines, netstrings, frames with their length before them.

use waterwheel::net::codec::{Codec, FrameError, LineEnding, Lines, Netstrings, Part, Prefixed, Width};

use super::line;

/// What a stream is to a decoder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    frames: Vec<Vec<u8>>,
    /// Why it ended, if that was not between frames.
    error: Option<FrameError>,
}

/// By the first byte, with the second as its limit.
fn codec(kind: u8, limit: u8) -> Box<dyn Codec> {
    let limit = usize::from(limit);
    match kind % 7 {
        0 => Box::new(Netstrings::new(limit)),
        1 => Box::new(Lines::new(LineEnding::Lf, limit)),
        2 => Box::new(Lines::new(LineEnding::CrLf, limit)),
        3 => Box::new(Lines::new(LineEnding::Either, limit)),
        4 => Box::new(Prefixed::new(Width::Bits8, limit)),
        5 => Box::new(Prefixed::new(Width::Bits16, limit)),
        _ => Box::new(Prefixed::new(Width::Bits32, limit)),
    }
}

/// However the bytes are cut, the frames are the same, and so is what ends them; no frame is longer than the limit, and
/// nothing longer is ever collected; what was read and is written again reads back as the same, and so does whatever the
/// encoder takes; and an error is a line.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let [kind, limit, rest @ ..] = bytes else { return };
    let (kind, limit) = (*kind, *limit);
    let at = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
    let (sizes, stream) = rest.split_at(at);
    // From 1 to 32 bytes, in turn.
    let sizes: Vec<usize> = sizes.iter().map(|byte| usize::from(byte % 32) + 1).collect();
    let whole = read(&mut *codec(kind, limit), stream, &[stream.len().max(1)]);
    assert_eq!(read(&mut *codec(kind, limit), stream, &[1]), whole, "byte by byte");
    if !sizes.is_empty() {
        assert_eq!(read(&mut *codec(kind, limit), stream, &sizes), whole, "in pieces of {sizes:?}");
    }
    if let Some(error) = whole.error {
        line::check(&error.to_string(), &[]);
    }
    written_again(kind, limit, whole.frames);
    // The stream itself, as a frame that somebody wants to send.
    match codec(kind, limit).wrap(stream) {
        Ok(_) => written_again(kind, limit, vec![stream.to_vec()]),
        Err(error) => line::check(&error.to_string(), &[]),
    }
}

fn written_again(kind: u8, limit: u8, frames: Vec<Vec<u8>>) {
    let encoder = codec(kind, limit);
    let mut written = Vec::new();
    for frame in &frames {
        let around = encoder.wrap(frame).unwrap_or_else(|error| panic!("{frame:?} was read: {error}"));
        written.extend_from_slice(around.head());
        written.extend_from_slice(frame);
        written.extend_from_slice(around.tail());
    }
    let again = read(&mut *codec(kind, limit), &written, &[written.len().max(1)]);
    assert_eq!(again, Read { frames, error: None }, "as they were written: {written:?}");
}

/// Reads the stream in pieces of these sizes, over and over.
fn read(decoder: &mut dyn Codec, mut bytes: &[u8], sizes: &[usize]) -> Read {
    let (mut read, mut frame) = (Read::default(), Vec::new());
    // What ends a line is collected with it.
    let held_max = decoder.limit() + 2;
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let size = sizes.next().map_or(bytes.len(), |size| (*size).min(bytes.len()));
        let piece = &bytes[..size];
        let used = match decoder.advance(piece) {
            Err(error) => {
                read.error = Some(error);
                return read;
            }
            Ok(Part::More { content }) => {
                frame.extend_from_slice(&piece[content]);
                size
            }
            Ok(Part::End { used, content, excess }) => {
                assert!((1..=size).contains(&used) && content.end <= used, "{used} of {size} bytes used");
                frame.extend_from_slice(&piece[content]);
                frame.truncate(frame.len().checked_sub(excess).expect("more excess than content"));
                assert!(frame.len() <= decoder.limit(), "a frame of {} bytes", frame.len());
                read.frames.push(std::mem::take(&mut frame));
                used
            }
        };
        assert!(frame.len() <= held_max, "{} bytes collected", frame.len());
        bytes = &bytes[used..];
    }
    read.error = decoder.end().err();
    read
}
