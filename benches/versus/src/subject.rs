//! What is measured: how each is started, how one knows where it listens, and that it ends with the run.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::cpus::Cpus;
use crate::peers;

/// A server that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As in `--only` and in the table.
    pub name: String,
    /// What it is to the others.
    pub rank: Rank,
    /// Loads that it is left out of, since another of its kind is better there or they are the same.
    pub leaves_out: &'static [&'static str],
    how: How,
}

/// What a subject is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Waterwheel on one of its reactors.
    Ours,
    /// The best of these is what ratios are to: of proxies those that others run, of echo servers all
    /// runtimes.
    Reference,
    /// Others that are measured beside.
    Other,
    /// As little as can be done.
    Limit,
}

impl Rank {
    /// Of other people, for whom they are made.
    pub const PEERS: [Rank; 2] = [Rank::Reference, Rank::Other];
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    Waterwheel {
        program: PathBuf,
        reactor: String,
    },
    /// A program of this folder.
    Small {
        program: PathBuf,
        package: &'static str,
    },
    HaProxy {
        splice: bool,
    },
    Nginx,
}

impl Subject {
    /// Waterwheel on a reactor.
    pub fn waterwheel(called: &str, program: &Path, reactor: &str) -> Subject {
        let how = How::Waterwheel { program: program.to_owned(), reactor: reactor.to_owned() };
        Subject { name: format!("{called}-{reactor}"), rank: Rank::Ours, leaves_out: &[], how }
    }

    /// A program of this folder, which takes [`Role`](crate::server::Role)'s arguments.
    pub fn small(name: &str, rank: Rank, program: PathBuf, package: &'static str) -> Subject {
        Subject { name: name.to_owned(), rank, leaves_out: &[], how: How::Small { program, package } }
    }

    /// HAProxy.
    pub fn haproxy(name: &str, splice: bool) -> Subject {
        Subject {
            name: name.to_owned(),
            rank: Rank::Reference,
            leaves_out: &[],
            how: How::HaProxy { splice },
        }
    }

    /// nginx's stream module.
    pub fn nginx() -> Subject {
        Subject { name: "nginx".to_owned(), rank: Rank::Reference, leaves_out: &[], how: How::Nginx }
    }

    /// The package of this folder that it is built from; `None` if it is not.
    pub fn package(&self) -> Option<&'static str> {
        match self.how {
            How::Small { package, .. } => Some(package),
            How::Waterwheel { .. } | How::HaProxy { .. } | How::Nginx => None,
        }
    }

    /// The same, left out of some loads.
    pub fn without(self, leaves_out: &'static [&'static str]) -> Subject {
        Subject { leaves_out, ..self }
    }

    /// Starts it on its CPU: a proxy to `origin`, or an echo server.
    ///
    /// # Errors
    /// It does not start, or not within 10 s; with what it said.
    pub fn start(&self, cpus: Cpus, folder: &Path, origin: Option<SocketAddrV4>) -> anyhow::Result<Running> {
        let log = folder.join("log");
        let started = self.start_in(cpus, folder, origin, &log);
        started.with_context(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            format!("{} did not start; it said: {}", self.name, said.trim_end())
        })
    }

    fn start_in(
        &self,
        cpus: Cpus,
        folder: &Path,
        origin: Option<SocketAddrV4>,
        log: &Path,
    ) -> anyhow::Result<Running> {
        let (mut command, at) = self.command(cpus, folder, origin)?;
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = cpus.on_subjects(|| command.spawn())?.context("starting its process")?;
        let mut running = Running { process, at: at.unwrap_or(SocketAddrV4::new([127, 0, 0, 1].into(), 0)) };
        let end = Instant::now() + PATIENCE;
        loop {
            ensure!(running.process.try_wait()?.is_none(), "it ended at once");
            ensure!(Instant::now() < end, "waited {PATIENCE:?} in vain");
            match at {
                Some(at) if TcpStream::connect(at).is_ok() => return Ok(running),
                Some(_) => {}
                None => {
                    if let Some(at) = announced(&std::fs::read_to_string(log)?) {
                        running.at = at;
                        return Ok(running);
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What to run, and where it will listen if it does not say so itself.
    fn command(
        &self,
        cpus: Cpus,
        folder: &Path,
        origin: Option<SocketAddrV4>,
    ) -> anyhow::Result<(Command, Option<SocketAddrV4>)> {
        match &self.how {
            How::Waterwheel { program, reactor } => {
                let mut command = waterwheel(program);
                match origin {
                    Some(origin) => command.args(["proxy", "tcp", "--upstream", &format!("tcp:{origin}")]),
                    None => command.args(["serve", "echo"]),
                };
                command.args(["--listen", "tcp:127.0.0.1:0", "--reactor", reactor]);
                command.args(["--cpus", &cpus.subject.to_string()]);
                Ok((command, None))
            }
            How::Small { program, .. } => {
                let mut command = Command::new(program);
                match origin {
                    Some(origin) => command.args(["proxy", &origin.to_string()]),
                    None => command.arg("echo"),
                };
                Ok((command, None))
            }
            How::HaProxy { splice } => {
                let (at, file) = (free_address()?, folder.join("haproxy.conf"));
                let origin = origin.context("HAProxy is a proxy")?;
                std::fs::write(&file, peers::haproxy(at, origin, *splice))?;
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(file);
                Ok((command, Some(at)))
            }
            How::Nginx => {
                let (at, file) = (free_address()?, folder.join("nginx.conf"));
                let origin = origin.context("nginx is a proxy here")?;
                std::fs::write(&file, peers::nginx(at, origin, folder))?;
                let mut command = Command::new("nginx");
                command.args(["-e", "stderr", "-c"]).arg(file);
                Ok((command, Some(at)))
            }
        }
    }
}

/// Waterwheel as it is by default: no settings that this program happened to be started with.
pub(crate) fn waterwheel(program: &Path) -> Command {
    let mut command = Command::new(program);
    without_settings(&mut command, std::env::vars_os().map(|(name, _)| name));
    command
}

fn without_settings(command: &mut Command, names: impl Iterator<Item = OsString>) {
    for name in names.filter(|name| name.as_encoded_bytes().starts_with(b"WATERWHEEL_")) {
        command.env_remove(name);
    }
}

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A subject's process. Ended when dropped.
#[derive(Debug)]
pub struct Running {
    process: Child,
    at: SocketAddrV4,
}

impl Running {
    /// Where it listens.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Its process's number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the subject has ended: {status}");
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_before = self.process.kill();
        let _status = self.process.wait();
    }
}

/// A port that nobody has at the moment.
fn free_address() -> anyhow::Result<SocketAddrV4> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    Ok(SocketAddrV4::new([127, 0, 0, 1].into(), listener.local_addr()?.port()))
}

/// The address in the first whole line that says one.
fn announced(log: &str) -> Option<SocketAddrV4> {
    let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.filter_map(|line| line.split_once("listening on ")).find_map(|(_, at)| {
        let at = at.trim();
        at.strip_prefix("tcp:").unwrap_or(at).parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_whole_lines_only() {
        let at = Some("127.0.0.1:4000".parse().unwrap());
        assert_eq!(announced("hello\nlistening on 127.0.0.1:4000\n"), at);
        assert_eq!(announced("waterwheel: listening on tcp:127.0.0.1:4000\n"), at);
        assert_eq!(announced("listening on 127.0.0.1:4000"), None);
        assert_eq!(announced("listening on nothing\n"), None);
    }

    #[test]
    fn what_cannot_start_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(cpus) = Cpus::choose() else { return };
        let none = Subject::small("none", Rank::Other, "no/such/program".into(), "");
        assert!(
            none.start(cpus, folder.path(), None).unwrap_err().to_string().contains("none did not start")
        );
        let brief = Subject::small("brief", Rank::Other, "/bin/ls".into(), "");
        let error = format!("{:#}", brief.start(cpus, folder.path(), None).unwrap_err());
        assert!(error.contains("it ended at once") && error.contains("'echo'"), "{error}");
    }

    #[test]
    fn our_own_settings_are_not_passed_on() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $WATERWHEEL_URING_OFF$WATERWHEELS"]);
        command.envs([("WATERWHEEL_URING_OFF", "multishot"), ("WATERWHEELS", "stay")]);
        let names = ["WATERWHEEL_URING_OFF", "WATERWHEELS", "PATH"].map(OsString::from);
        without_settings(&mut command, names.into_iter());
        assert_eq!(command.output().unwrap().stdout, b"stay\n");
    }

    #[test]
    fn a_process_ends_when_it_is_dropped() {
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut running = Running { process, at: SocketAddrV4::new([127, 0, 0, 1].into(), 0) };
        running.check().unwrap();
        let own = PathBuf::from(format!("/proc/{}", running.id()));
        assert!(own.exists());
        drop(running);
        assert!(!own.exists());
    }
}
