//! Lines out of whatever pieces a child writes them in.

/// Cuts bytes into lines of a bounded length.
#[derive(Debug)]
pub(super) struct Lines {
    /// What came since the last line.
    part: Vec<u8>,
    most: usize,
    /// The part goes on a line whose beginning was told already.
    goes_on: bool,
}

impl Lines {
    /// Lines of at most `most` bytes, at least one character's; longer ones are told in pieces.
    pub(super) fn new(most: usize) -> Lines {
        Lines { part: Vec::new(), most: most.max(char::MAX_LEN_UTF8), goes_on: false }
    }

    /// Takes more bytes and tells each line that they complete, without its end, and whether it goes on the one before.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut tell: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let line = &bytes[..end.unwrap_or(bytes.len())];
            let room = self.most - self.part.len();
            if line.len() <= room {
                self.part.extend_from_slice(line);
                bytes = &bytes[line.len()..];
                if end.is_some() {
                    bytes = &bytes[1..];
                    let without_return = self.part.strip_suffix(b"\r").unwrap_or(&self.part);
                    tell(without_return, self.goes_on);
                    self.part.clear();
                    self.goes_on = false;
                }
            } else {
                // One byte more than fits, and it does not end the line.
                self.part.extend_from_slice(&line[..room]);
                bytes = &bytes[room..];
                let rest = self.part.split_off(whole_characters(&self.part));
                tell(&self.part, self.goes_on);
                (self.part, self.goes_on) = (rest, true);
            }
        }
    }

    /// There is no more: tells what came since the last line, if anything.
    pub(super) fn end(&mut self, tell: impl FnOnce(&[u8], bool)) {
        if !self.part.is_empty() {
            tell(&self.part, self.goes_on);
        }
        (self.part, self.goes_on) = (Vec::new(), false);
    }
}

/// How many bytes there are before a character that is cut in two, if one is.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to().max(1),
        // Something that is no text is cut anywhere.
        _ => bytes.len(),
    }
}

/// What may stand in a log: no control character but a tab reaches a terminal or ends a line.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for letter in String::from_utf8_lossy(bytes).chars() {
        match letter {
            '\t' => text.push(letter),
            _ if letter.is_control() => text.extend(letter.escape_default()),
            _ => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(pieces: &[&[u8]], most: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut lines, mut told) = (Lines::new(most), Vec::new());
        for piece in pieces {
            lines.take(piece, |line, goes_on| told.push((line.to_vec(), goes_on)));
        }
        lines.end(|line, goes_on| told.push((line.to_vec(), goes_on)));
        told
    }

    #[test]
    fn the_last_line_needs_no_end_and_a_long_one_is_told_in_pieces() {
        let line = |text: &str, goes_on| (text.as_bytes().to_vec(), goes_on);
        assert_eq!(
            told(&[b"one\r\n\ntw", b"o"], 10),
            [line("one", false), line("", false), line("two", false)]
        );
        assert_eq!(told(&[b"12345678"], 4), [line("1234", false), line("5678", true)]);
        assert_eq!(told(&[b"1234\n56"], 4), [line("1234", false), line("56", false)]);
        assert_eq!(told(&[b"12345\n6"], 4), [line("1234", false), line("5", true), line("6", false)]);
        assert_eq!(told(&["12ä34\n".as_bytes()], 4), [line("12ä", false), line("34", true)]);
        assert_eq!(told(&["123ä4\n".as_bytes()], 4), [line("123", false), line("ä4", true)]);
        assert_eq!(told(&[], 4), []);
    }

    #[test]
    fn no_control_character_reaches_the_log() {
        assert_eq!(printable(b"a\tb\x1b[2Jc\rd\xff"), "a\tb\\u{1b}[2Jc\\rd\u{fffd}");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_and_nothing_is_lost(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(0xc3), Just(0xa4)], 0..200),
            cuts in proptest::collection::vec(0..200_usize, 0..10),
            most in 0..20_usize,
        ) {
            let whole = told(&[&bytes], most);
            let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            prop_assert_eq!(&told(&pieces, most), &whole);
            let mut joined = Vec::new();
            for (number, (line, goes_on)) in whole.iter().enumerate() {
                prop_assert!(line.len() <= most.max(4));
                if number > 0 && !goes_on {
                    joined.push(b'\n');
                }
                joined.extend_from_slice(line);
            }
            let ended = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            prop_assert_eq!(&joined[..], ended);
        }
    }
}
