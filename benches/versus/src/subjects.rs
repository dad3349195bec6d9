//! Builds what is ours to build, and finds what can be measured on this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::asked::{Asked, Of};
use crate::subject::{Rank, Subject, waterwheel};

/// What there is to measure.
#[derive(Clone, Debug)]
pub struct Found {
    /// In the order of the tables.
    pub subjects: Vec<Subject>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// Loads in which splice(2) moves too little at a time to be worth it.
const ALL_BUT_STREAMS: &[&str] = &["64b-1", "64b-64", "64b-512", "16k-64", "connect-16"];

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// # Errors
/// Something does not build, or `--only` names what is not there.
pub fn find(asked: &Asked, of: Of) -> anyhow::Result<Found> {
    let wanted = |name: &str| asked.only.is_empty() || asked.only.iter().any(|only| only == name);
    let mut found = Found { subjects: Vec::new(), notes: Vec::new() };
    if asked.only.is_empty() || asked.only.iter().any(|name| name.starts_with("waterwheel")) {
        let program = asked.waterwheel.clone().map_or_else(build_waterwheel, Ok)?;
        ours("waterwheel", &program, &mut found)?;
    }
    if let Some(program) = &asked.before {
        ours("before", program, &mut found)?;
    }
    if of == Of::Proxies {
        found.subjects.extend([
            Subject::haproxy("haproxy", false),
            // It splices where there is much to move; in exchanges it is no other than the one above.
            Subject::haproxy("haproxy-splice", true).without(ALL_BUT_STREAMS),
            Subject::nginx(),
        ]);
    }
    found.subjects.extend(small(of)?);
    let names: Vec<String> = found.subjects.iter().map(|subject| subject.name.clone()).collect();
    for name in &asked.only {
        ensure!(names.contains(name), "--only {name}: there is none; there are {}", names.join(", "));
    }
    found.subjects.retain(|subject| wanted(&subject.name));
    let peers = [
        ("haproxy", runs("haproxy", &["-v"]), "it is not installed"),
        ("nginx", nginx_has_streams(), "it is not installed, or its stream module is not"),
    ];
    for (program, ready, why) in peers {
        let of_it = |subject: &Subject| subject.name.starts_with(program);
        if !ready && found.subjects.iter().any(of_it) {
            found.notes.push(format!("{program} is left out: {why}"));
            found.subjects.retain(|subject| !of_it(subject));
        }
    }
    build_small(&found.subjects)?;
    ensure!(!found.subjects.is_empty(), "nothing is left to be measured");
    Ok(found)
}

/// Waterwheel on each reactor that can run here.
fn ours(called: &str, program: &Path, found: &mut Found) -> anyhow::Result<()> {
    let output = waterwheel(program).arg("reactors").output();
    let output = output.with_context(|| format!("running {}", program.display()))?;
    ensure!(output.status.success(), "{} reactors: {}", program.display(), output.status);
    for line in String::from_utf8(output.stdout)?.lines() {
        let (name, state) = line.trim().split_once(char::is_whitespace).unwrap_or((line, ""));
        if state.trim().starts_with("can run here") {
            found.subjects.push(Subject::waterwheel(called, program, name));
        } else {
            found.notes.push(format!("{called}-{name} is left out: {}", state.trim()));
        }
    }
    Ok(())
}

/// The programs of this folder: other runtimes, then the limits.
fn small(of: Of) -> anyhow::Result<Vec<Subject>> {
    let programs = std::env::current_exe()?;
    let folder = programs.parent().context("a program lies in a folder")?;
    let peer = |name, rank, file| Subject::small(name, rank, folder.join(file), "waterwheel-versus-peers");
    let limit = |name, file| Subject::small(name, Rank::Limit, folder.join(file), "waterwheel-versus");
    Ok(match of {
        Of::Proxies => vec![
            peer("tokio", Rank::Other, "tokio_peer"),
            peer("monoio", Rank::Other, "monoio_peer"),
            limit("bare-uring", "bare_proxy"),
        ],
        Of::Echo => vec![
            peer("tokio", Rank::Reference, "tokio_peer"),
            peer("monoio", Rank::Reference, "monoio_peer"),
            peer("glommio", Rank::Reference, "glommio_peer"),
            limit("bare-epoll", "epoll_echo"),
            limit("bare-uring", "bare_echo"),
        ],
    })
}

fn build_waterwheel() -> anyhow::Result<PathBuf> {
    let target = root().join("target");
    cargo(&root().join("Cargo.toml"), &target, &["--bin", "waterwheel"])?;
    Ok(target.join("release/waterwheel"))
}

/// Builds the programs of this folder that are asked for, beside this one.
fn build_small(subjects: &[Subject]) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("a program lies in target/release")?;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let packages: BTreeSet<&str> = subjects.iter().filter_map(Subject::package).collect();
    for package in packages {
        cargo(&manifest, target, &["-p", package, "--bins"])?;
    }
    Ok(())
}

fn cargo(manifest: &Path, target: &Path, what: &[&str]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest);
    let status = command.arg("--target-dir").arg(target).args(what).status().context("running cargo")?;
    ensure!(status.success(), "{} does not build", manifest.display());
    Ok(())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// By letting it read a configuration that needs them.
fn nginx_has_streams() -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let file = folder.path().join("nginx.conf");
    let somewhere = std::net::SocketAddrV4::new([127, 0, 0, 1].into(), 1);
    let config = crate::peers::nginx(somewhere, somewhere, folder.path());
    std::fs::write(&file, config).is_ok()
        && runs("nginx", &["-t", "-q", "-e", "stderr", "-c", &file.to_string_lossy()])
}
