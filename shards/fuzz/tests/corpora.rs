//! Feeds each property the files of its corpus: what a fuzzer found once is tried for ever, without a fuzzer.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

#[expect(unreachable_pub, reason = "the library of the fuzz targets, which is no part of this workspace")]
#[path = "../src/lib.rs"]
mod properties;

use properties::{endpoint, environment, file, flags, frames, header, hello, response, target};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("shards/fuzz/corpus")
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(corpus().join(directory)).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

/// Each file, and each beginning of it: inputs that end too early cost nothing to keep.
fn feed(target: &str, property: fn(&[u8])) {
    let files = names(target);
    assert!(!files.is_empty(), "no corpus");
    for file in files {
        let bytes = fs::read(corpus().join(target).join(&file)).expect("a file");
        for end in 0..=bytes.len() {
            // Shown if the test fails; the last one is to blame.
            println!("the first {end} bytes of {target}/{file}");
            property(&bytes[..end]);
        }
    }
}

#[test]
fn endpoints() {
    feed("endpoint", endpoint::property);
}

#[test]
fn environments() {
    feed("environment", environment::property);
}

#[test]
fn files() {
    feed("file", file::property);
}

#[test]
fn flag_values() {
    feed("flags", flags::property);
}

#[test]
fn streams_of_frames() {
    feed("frames", frames::property);
}

#[test]
fn proxy_headers() {
    feed("header", header::property);
}

#[test]
fn client_hellos() {
    feed("hello", hello::property);
}

#[test]
fn responses() {
    feed("response", response::property);
}

#[test]
fn load_targets() {
    feed("target", target::property);
}

#[test]
fn no_corpus_is_left_out() {
    assert_eq!(
        names("."),
        ["endpoint", "environment", "file", "flags", "frames", "header", "hello", "response", "target"]
            .map(String::from)
            .into()
    );
}
