//! Bytes that cannot be typed.

use super::CHECK_BYTES_MAX;
use crate::net::quoted::Quoted;

/// The bytes that a text stands for in which `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH` are escapes: what a check sends or expects,
/// at most [`CHECK_BYTES_MAX`] of them.
///
/// # Errors
/// Another escape, or too many bytes; names what is allowed.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let wrong =
        || format!("{}: an escape makes no sense; allowed: \\r, \\n, \\t, \\0, \\\\ and \\xHH", Quoted(text));
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().ok_or_else(wrong)? {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'\\' => b'\\',
                b'x' => {
                    let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                    let (high, low) = digit().zip(digit()).ok_or_else(wrong)?;
                    // Two digits make a byte.
                    (high << 4 | low) as u8
                }
                _ => return Err(wrong()),
            },
            plain => plain,
        });
    }
    if bytes.len() > CHECK_BYTES_MAX {
        return Err(format!("{} is too long; allowed: {CHECK_BYTES_MAX} bytes", Quoted(text)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_stand_for_bytes() {
        assert_eq!(
            unescape(r"PING\r\n\t\0\\\xfF é"),
            Ok("PING\r\n\t\0\\".bytes().chain([0xFF]).chain(" é".bytes()).collect())
        );
        for text in [r"\", r"\q", r"\x1", r"\xg1"] {
            assert!(unescape(text).unwrap_err().contains("allowed: \\r, "), "{text}");
        }
        assert!(unescape(&"a".repeat(4097)).unwrap_err().contains("allowed: 4096 bytes"));
    }
}
