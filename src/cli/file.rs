//! `waterwheel proxy --config FILE`, and the flags of the access log.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::proxy::serve;
use super::{Failure, output};
use crate::mesh::Remote;
use crate::proxy::config::{Faults, File};
use crate::proxy::tcp::access::{LogFormat, LogSettings, LogTarget};
use crate::proxy::tcp::{self, ProxyError, Selection};
use crate::runtime::{Config, Runtime};

/// The flags of the access log.
#[derive(Debug, Args)]
pub(super) struct LogArguments {
    /// Write a line for each connection that has ended to this file; `-`: to standard output, `stderr`: to standard error.
    /// SIGUSR1 opens it anew.
    #[arg(long, value_name = "PATH|-")]
    access_log: Option<LogTarget>,
    /// How these lines look: `text` or `json`.
    #[arg(long, value_name = "FORMAT")]
    access_log_format: Option<LogFormat>,
}

impl LogArguments {
    /// What the flags say, over what a file says.
    pub(super) fn settings(&self, file: Option<LogSettings>) -> Result<Option<LogSettings>, Failure> {
        let target = self.access_log.clone().or(file.as_ref().map(|file| file.target.clone()));
        let format = self.access_log_format.or(file.map(|file| file.format));
        match (target, format) {
            (Some(target), format) => Ok(Some(LogSettings { target, format: format.unwrap_or_default() })),
            (None, Some(format)) => Err(Failure::Usage(format!(
                "--access-log-format {format}: there is no access log; allowed: with --access-log"
            ))),
            (None, None) => Ok(None),
        }
    }
}

/// What runs by a file.
#[derive(Debug, Args)]
pub(super) struct FileArguments {
    /// What runs: a file in TOML, whose keys are the flags of `proxy tcp` for each [proxy.NAME], and those of the runtime in
    /// [runtime]. Flags count more than the environment, and that more than the file. SIGHUP reads it again: all of it, or
    /// nothing if something is wrong.
    #[arg(long, required = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the file, check it, look its names up, and say what would run; run nothing. Exit codes: 0 it could run, 2 it
    /// could not.
    #[arg(long, requires = "config")]
    check: bool,
    #[command(flatten)]
    log: LogArguments,
    /// Print counters as JSON.
    #[arg(long = "json")]
    json: bool,
    #[arg(skip)]
    file: Option<File>,
}

impl FileArguments {
    pub(super) fn is_given(&self) -> bool {
        self.config.is_some() || self.check
    }

    /// Reads the file; answers what it says of the runtime.
    pub(super) fn read(&mut self) -> Result<Config, Failure> {
        let Some(path) = &self.config else { return Ok(Config::default()) };
        let file = File::read(path).map_err(|faults| lines(&faults))?;
        let mut config = Config::default();
        file.configure(&mut config).map_err(|error| Failure::Usage(error.to_string()))?;
        self.file = Some(file);
        Ok(config)
    }

    pub(super) fn run(self, mut config: Config) -> Result<ExitCode, Failure> {
        let Some(file) = self.file else {
            return Err(Failure::Usage("--config is missing; allowed: the path of a file".to_owned()));
        };
        let log = self.log.settings(file.access_log.clone())?;
        if self.check {
            // Whoever runs already may be at that endpoint, and nothing is bound here.
            config.admin = None;
        }
        let runtime = Runtime::new(config)?;
        file.check(runtime.shards()).map_err(|faults| lines(&faults))?;
        if self.check {
            output::out(&summary(&file, &runtime, log.as_ref())?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let proxy = tcp::Proxy::bind_all(&runtime, file.named()).map_err(|error| failure(&file, &error))?;
        let first = file.clone();
        let reload = reloading(file);
        serve(runtime, proxy, log, self.json, Some(reload), |error| failure(&first, &error))
    }
}

/// All that is wrong in a file, each in a line.
fn lines(faults: &Faults) -> Failure {
    Failure::Usage(faults.all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// An error of what a file asks for, with its place there.
fn failure(file: &File, error: &ProxyError) -> Failure {
    let Some(fault) = file.locate(error) else { return Failure::Run(error.to_string()) };
    let wrong = match error {
        ProxyError::Of { error, .. } => &**error,
        error => error,
    };
    match wrong {
        // What is there tomorrow may be missing today.
        ProxyError::Start(_) | ProxyError::Resolve(_) => Failure::Run(fault.to_string()),
        _ => Failure::Usage(fault.to_string()),
    }
}

/// What is done on SIGHUP.
fn reloading(mut running: File) -> tcp::Reload {
    Box::new(move |proxy, remote| match reload(&running, proxy, remote) {
        Ok((number, file)) => {
            tracing::info!("{} was read again: version {number} of the settings", file.path);
            running = file;
        }
        Err(wrong) => {
            tracing::error!("{} was read again and is not taken, nothing has changed: {wrong}", running.path);
        }
    })
}

fn reload(running: &File, proxy: &tcp::Proxy, remote: &Remote) -> Result<(u64, File), String> {
    let wrong = |faults: Faults| faults.to_string();
    let file = File::read(running.path.as_ref()).map_err(wrong)?;
    file.check_change(running).map_err(wrong)?;
    file.check(remote.shards()).map_err(wrong)?;
    let changed = proxy.change_from_outside(remote, file.named()).map_err(|error| match &error {
        tcp::ChangeError::Proxy(error) => {
            file.locate(error).map_or(error.to_string(), |fault| fault.to_string())
        }
        error => error.to_string(),
    });
    changed.map(|number| (number, file))
}

/// What would run.
fn summary(file: &File, runtime: &Runtime, log: Option<&LogSettings>) -> Result<String, Failure> {
    let mut text = String::new();
    let (path, shards, reactor) = (&file.path, runtime.shards(), runtime.choice().reactor);
    // Writing to a text does not fail.
    let _ = writeln!(text, "{path} could run: {shards} shards on {reactor}");
    if let Some(log) = log {
        let _ = writeln!(text, "access log: {} as {}", log.target, log.format);
    }
    for proxy in &file.proxies {
        let (name, settings) = (&proxy.name, &proxy.settings);
        let listen: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "proxy {name}: listens on {}, {}", listen.join(", "), settings.balance);
        if settings.throttle.is_set() {
            let _ = writeln!(text, "  each connection: {}", settings.throttle);
        }
        if settings.clients.are_set() {
            let _ = writeln!(text, "  of each client: {}", settings.clients);
        }
        for group in &settings.groups {
            if let Some(Selection { balance, checks, .. }) = &group.selection {
                let checked = if checks.is_some() { "checked" } else { "not checked" };
                let _ = writeln!(text, "  group {} has its own: {balance}, {checked}", group.name);
            }
        }
        for endpoint in &settings.listen {
            let resolved = runtime.listeners().resolve(endpoint).map_err(ProxyError::from);
            resolved.map_err(|error| unfit(file, name, error))?;
        }
        let unnamed = std::iter::once((None, &settings.upstreams));
        let groups = unnamed.chain(settings.groups.iter().map(|group| (Some(&group.name), &group.upstreams)));
        for (group, upstream) in groups.flat_map(|(group, all)| all.iter().map(move |one| (group, one))) {
            let resolved = runtime.listeners().resolve(&upstream.endpoint).map_err(ProxyError::from);
            let addresses = resolved.map_err(|error| unfit(file, name, error))?;
            let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let group = group.map_or_else(String::new, |group| format!(" of {group}"));
            let _ = writeln!(text, "  upstream {upstream}{group}: {}", all.join(", "));
        }
        let itself = settings.check_itself(&runtime.listeners());
        itself.map_err(|error| unfit(file, name, error))?;
        for route in &settings.routes {
            let _ = writeln!(text, "  {} goes to {}", route.pattern, route.group);
        }
    }
    Ok(text)
}

/// What is wrong with a proxy now that its names are known, where it stands. Nothing could run so.
fn unfit(file: &File, name: &str, error: ProxyError) -> Failure {
    let error = ProxyError::Of { name: name.to_owned(), error: Box::new(error) };
    Failure::Usage(file.locate(&error).map_or_else(|| error.to_string(), |fault| fault.to_string()))
}
