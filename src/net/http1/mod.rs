//! HTTP/1.1 messages as bytes: where a head ends, what it says about the body, and where the body ends.
//!
//! For both sides of a connection, and strict on purpose: whoever forwards a message must read its framing exactly as
//! the next hop does (RFC 9112, section 11.2), so what could be read in two ways is an error here. Heads are parsed
//! with the `httparse` crate in the buffer that the reactor lent; nothing is allocated unless a head arrives in pieces.
//!
//! | limit | why |
//! |---|---|
//! | [`HEAD_BYTES_MAX`] | a head is collected in memory while it is incomplete |
//! | [`FIELDS_MAX`] | each complete line of an incomplete head is parsed again with the lines before it |
//! | [`CHUNK_EXTRAS_MAX`] | chunk extensions and trailers carry nothing that we use |

mod body;
mod head;

pub use body::{Body, BodyError, CHUNK_EXTRAS_MAX, Part};
pub use head::{
    FIELDS_MAX, Fed, Framing, HEAD_BYTES_MAX, HeadBuffer, HeadError, Parsed, RequestHead, ResponseHead,
    parse_request, parse_response,
};

#[cfg(test)]
mod tests;
