//! Records, the message in them, and its extensions: each only as far as it is there.

use std::net::IpAddr;

use super::{ClientHello, HelloError};
use crate::net::is_host_name;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The first byte of each version that a client of SSL 3.0 or later names.
const MAJOR_VERSION: u8 = 3;
/// A record's type, version and length.
const RECORD_HEAD_BYTES: usize = 5;
/// RFC 8446, section 5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
/// A message's type and length.
const MESSAGE_HEAD_BYTES: usize = 4;
/// The version and 32 random bytes before the session's id.
const BEFORE_SESSION_BYTES: usize = 34;
const SESSION_BYTES_MAX: usize = 32;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;
const HOST_NAME: u8 = 0;

/// Reads a hello in pieces. Each byte is looked at once, and nothing is kept of it but the message so far, which has no
/// more bytes than were fed: whoever feeds it limits them.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// The head of a record, as far as it is there.
    head: Vec<u8>,
    /// Bytes that are missing of the record.
    missing: usize,
    /// Some record was begun, so that this is TLS.
    is_tls: bool,
    /// The bytes of the message, out of its records.
    message: Vec<u8>,
    /// Where the part of the message begins that was not looked at yet.
    at: usize,
    /// Where the message ends, once that is known.
    end: usize,
    step: Step,
    name: Option<Option<String>>,
    protocols: Option<Vec<Vec<u8>>>,
}

/// The part of the message that is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Head,
    Version,
    Session,
    Ciphers,
    Compressions,
    Extensions,
    Extension,
    Over,
}

impl HelloReader {
    /// Takes what arrived; the hello once enough of it is there, and `None` before. However the bytes are cut, the answer
    /// is the same, after the same byte.
    ///
    /// # Errors
    /// What was fed can never become a hello. The reader is of no use afterwards.
    pub fn feed(&mut self, mut arrived: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        while !arrived.is_empty() {
            if self.missing == 0 {
                self.take_head(arrived[0])?;
                arrived = &arrived[1..];
                continue;
            }
            let (piece, rest) = arrived.split_at(arrived.len().min(self.missing));
            self.missing -= piece.len();
            self.message.extend_from_slice(piece);
            arrived = rest;
            while self.advance()? {}
            if self.step == Step::Over {
                let name = self.name.take().flatten();
                return Ok(Some(ClientHello { name, protocols: self.protocols.take().unwrap_or_default() }));
            }
        }
        Ok(None)
    }

    /// Takes a byte of a record's head, and says what is wrong with it at the first byte that is.
    fn take_head(&mut self, byte: u8) -> Result<(), HelloError> {
        let wrong = |what| if self.is_tls { HelloError::Malformed(what) } else { HelloError::NotTls };
        match self.head.len() {
            0 if byte != HANDSHAKE_RECORD => return Err(wrong("a record that is no handshake")),
            1 if byte != MAJOR_VERSION => return Err(wrong("a record of another version")),
            _ => {}
        }
        self.head.push(byte);
        if self.head.len() == RECORD_HEAD_BYTES {
            let length = usize::from(u16::from_be_bytes([self.head[3], self.head[4]]));
            if !(1..=RECORD_BYTES_MAX).contains(&length) {
                return Err(HelloError::Malformed("a record that is empty or too long"));
            }
            self.missing = length;
            self.is_tls = true;
            self.head.clear();
        }
        Ok(())
    }

    /// Takes the next part of the message, if it is there.
    fn advance(&mut self) -> Result<bool, HelloError> {
        let rest = Rest { bytes: &self.message[self.at..], left: self.end.saturating_sub(self.at) };
        let (used, next) = match self.step {
            Step::Head => match rest.bytes {
                [] => return Ok(false),
                [kind, ..] if *kind != CLIENT_HELLO => {
                    return Err(HelloError::Malformed("the first message is another one"));
                }
                [_, high, middle, low, ..] => {
                    let length = u32::from_be_bytes([0, *high, *middle, *low]);
                    self.end = MESSAGE_HEAD_BYTES + length as usize;
                    (MESSAGE_HEAD_BYTES, Step::Version)
                }
                _ => return Ok(false),
            },
            Step::Version => {
                if rest.left < BEFORE_SESSION_BYTES {
                    return Err(HelloError::Malformed("it ends too early"));
                }
                match rest.bytes.first() {
                    Some(&MAJOR_VERSION) if rest.bytes.len() >= BEFORE_SESSION_BYTES => {
                        (BEFORE_SESSION_BYTES, Step::Session)
                    }
                    Some(&MAJOR_VERSION) | None => return Ok(false),
                    Some(_) => return Err(HelloError::Malformed("its version")),
                }
            }
            Step::Session => match rest.short()? {
                Some(id) if id.len() <= SESSION_BYTES_MAX => (1 + id.len(), Step::Ciphers),
                Some(_) => return Err(HelloError::Malformed("the session's id is too long")),
                None => return Ok(false),
            },
            Step::Ciphers => match rest.long()? {
                Some(list) if list.len() >= 2 && list.len() % 2 == 0 => (2 + list.len(), Step::Compressions),
                Some(_) => return Err(HelloError::Malformed("the list of ciphers")),
                None => return Ok(false),
            },
            Step::Compressions => match rest.short()? {
                // Before TLS 1.3 there may be no extensions at all.
                Some(list) if !list.is_empty() && 1 + list.len() == rest.left => (rest.left, Step::Over),
                Some(list) if !list.is_empty() => (1 + list.len(), Step::Extensions),
                Some(_) => return Err(HelloError::Malformed("the list of compressions")),
                None => return Ok(false),
            },
            Step::Extensions => match rest.number()? {
                Some(length) if length == rest.left - 2 => {
                    (2, if length == 0 { Step::Over } else { Step::Extension })
                }
                Some(_) => return Err(HelloError::Malformed("the length of the extensions")),
                None => return Ok(false),
            },
            Step::Extension => match rest.extension()? {
                Some((kind, value)) => {
                    let used = MESSAGE_HEAD_BYTES + value.len();
                    let all = Step::Extension.unless(used == rest.left);
                    let (name, protocols) = (server_name(kind, value)?, protocols(kind, value)?);
                    put(&mut self.name, name)?;
                    put(&mut self.protocols, protocols)?;
                    (used, all.unless(self.name.is_some() && self.protocols.is_some()))
                }
                None => return Ok(false),
            },
            Step::Over => return Ok(false),
        };
        self.at += used;
        self.step = next;
        Ok(true)
    }
}

impl Step {
    fn unless(self, over: bool) -> Step {
        if over { Step::Over } else { self }
    }
}

/// Keeps what an extension said, which may be said once (RFC 8446, section 4.2).
fn put<T>(place: &mut Option<T>, said: Option<T>) -> Result<(), HelloError> {
    match (&place, said) {
        (_, None) => Ok(()),
        (Some(_), Some(_)) => Err(HelloError::Malformed("an extension twice")),
        (None, said) => {
            *place = said;
            Ok(())
        }
    }
}

/// What is there of the rest of a message, or of a list in it.
#[derive(Clone, Copy)]
struct Rest<'b> {
    /// What is there, and perhaps what follows the message.
    bytes: &'b [u8],
    /// How long it is if all of it is there.
    left: usize,
}

impl<'b> Rest<'b> {
    fn whole(bytes: &'b [u8]) -> Rest<'b> {
        Rest { bytes, left: bytes.len() }
    }

    /// The bytes from `from` on, `count` of them; `None` while they are not there.
    ///
    /// # Errors
    /// They never will be.
    fn take(self, from: usize, count: usize) -> Result<Option<&'b [u8]>, HelloError> {
        if from + count > self.left {
            return Err(HelloError::Malformed("something ends behind the end of what it is in"));
        }
        Ok(self.bytes.get(from..from + count))
    }

    /// Bytes behind a length of one byte.
    fn short(self) -> Result<Option<&'b [u8]>, HelloError> {
        match self.take(0, 1)? {
            Some(length) => self.take(1, usize::from(length[0])),
            None => Ok(None),
        }
    }

    /// Bytes behind a length of two bytes.
    fn long(self) -> Result<Option<&'b [u8]>, HelloError> {
        match self.number()? {
            Some(length) => self.take(2, length),
            None => Ok(None),
        }
    }

    fn number(self) -> Result<Option<usize>, HelloError> {
        let number = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        Ok(self.take(0, 2)?.map(number))
    }

    /// An extension's type and value.
    fn extension(self) -> Result<Option<(u16, &'b [u8])>, HelloError> {
        let Some(head) = self.take(0, MESSAGE_HEAD_BYTES)? else { return Ok(None) };
        let (kind, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
        Ok(self.take(MESSAGE_HEAD_BYTES, usize::from(length))?.map(|value| (kind, value)))
    }
}

/// All bytes of an extension, which are one list behind its length.
fn list<'b>(value: &'b [u8], what: &'static str) -> Result<&'b [u8], HelloError> {
    match Rest::whole(value).long()? {
        Some(list) if 2 + list.len() == value.len() && !list.is_empty() => Ok(list),
        _ => Err(HelloError::Malformed(what)),
    }
}

/// The name, if this is the extension that has it: `Some(None)` if it is no name.
fn server_name(kind: u16, value: &[u8]) -> Result<Option<Option<String>>, HelloError> {
    const WRONG: &str = "the server's name";
    if kind != SERVER_NAME {
        return Ok(None);
    }
    // Only names of hosts were ever defined, one at most, and nobody could tell how long another kind is.
    let name = match list(value, WRONG)?.split_first() {
        Some((&HOST_NAME, rest)) => list(rest, WRONG)?,
        _ => return Err(HelloError::Malformed(WRONG)),
    };
    let name = str::from_utf8(name).map_err(|_| HelloError::Malformed(WRONG))?;
    if name.parse::<IpAddr>().is_ok() {
        return Ok(Some(None));
    }
    if name.ends_with('.') || !is_host_name(name) {
        return Err(HelloError::Malformed(WRONG));
    }
    Ok(Some(Some(name.to_ascii_lowercase())))
}

/// The protocols, if this is the extension that has them.
fn protocols(kind: u16, value: &[u8]) -> Result<Option<Vec<Vec<u8>>>, HelloError> {
    const WRONG: &str = "the list of protocols";
    if kind != PROTOCOLS {
        return Ok(None);
    }
    let (mut rest, mut all) = (list(value, WRONG)?, Vec::new());
    while !rest.is_empty() {
        match Rest::whole(rest).short()? {
            Some(protocol) if !protocol.is_empty() => {
                all.push(protocol.to_vec());
                rest = &rest[1 + protocol.len()..];
            }
            _ => return Err(HelloError::Malformed(WRONG)),
        }
    }
    Ok(Some(all))
}
