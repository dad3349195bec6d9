//! `waterwheel reactors`: what this build has, and what can run here.

use std::process::ExitCode;

use super::{Failure, output};
use crate::runtime::{Config, reactors};

pub(super) fn run(_: &Config) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for backend in reactors() {
        let answer = match backend.probe() {
            Ok(()) => "can run here".to_owned(),
            Err(unavailable) => format!("cannot run here: {unavailable}"),
        };
        text.push_str(&format!("{:<10} {answer}\n", backend.name()));
    }
    output::out(&text)?;
    Ok(ExitCode::SUCCESS)
}
