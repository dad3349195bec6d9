//! The file that says what runs: proxies by name, and the runtime under them.
//!
//! ```toml
//! [runtime]
//! cores = 2
//!
//! [access-log]
//! path = "/var/log/waterwheel/access.log"
//!
//! [proxy.web]
//! listen = "tcp:0.0.0.0:443"
//! upstream = ["tcp:10.0.0.5:8443,weight=3", { endpoint = "tcp:10.0.0.6:8443", connections = 100 }]
//! check-interval = "2s"
//! ```
//!
//! What clients ask for by TLS leads them to groups of upstreams, which may be chosen and checked in another way than the rest:
//!
//! ```toml
//! [proxy.web.group.shop]
//! upstream = ["tcp:10.0.1.5:443", "tcp:10.0.1.6:443"]
//! balance = "rendezvous"
//! check-interval = "5s"
//!
//! [proxy.web.sni]
//! "shop.example" = "shop"
//! "*.shop.example" = "shop"
//! ```
//!
//! A group may have `balance`, `check-*`, `eject-*`, `max-ejected`, `panic-percent`, `slow-start`, `queue-timeout` and
//! `queue-length` of its own ([`Selection`](crate::proxy::tcp::Selection)); what it does not say is the proxy's, and `0s` or `0`
//! of `check-interval`, `slow-start` and `eject-after` means none. The access log has a `path` (a file, `-` for standard output, `stderr`) and a `format`: `text` or
//! `json`, one line each.
//!
//! Every key of a proxy is the flag of that name, with the same values, and so is every key of the runtime. A flag that may
//! be given several times is a list. What a flag of the command or an environment variable says counts more than the file,
//! in this order: flags, environment, file.
//!
//! Nothing is passed over: an unknown key is an error, and all errors of a file are told at once, each with its line,
//! column, key, value and what is allowed.

mod fault;
mod proxy;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

pub use fault::{Fault, Faults, Place};

use super::tcp::access::{LogFormat, LogSettings, LogTarget};
use super::tcp::{Named, ProxyError, Settings, UpstreamsError};
use crate::runtime::{Config, ConfigError, Knob};
use table::{Reader, Table};

/// The most bytes of a file: some ten thousand upstreams.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The most slips in the syntax that are told: one makes others.
const SLIPS_MAX: usize = 5;

/// What a file says.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path, as it was given.
    pub path: String,
    /// The runtime's settings.
    pub runtime: Vec<RuntimeSetting>,
    /// Where the access log goes, if there is one.
    pub access_log: Option<LogSettings>,
    /// In the file's order, at least one.
    pub proxies: Vec<ProxyTable>,
    access_log_at: Place,
}

/// One setting of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeSetting {
    /// Which.
    pub knob: Knob,
    /// Its value, as the variable would have it.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// One proxy.
#[derive(Clone, Debug)]
pub struct ProxyTable {
    /// Its name.
    pub name: String,
    /// What it is to do.
    pub settings: Settings,
    at: TablePlaces,
    /// Of its groups.
    groups: BTreeMap<String, TablePlaces>,
}

/// Where a table stands, and each of its keys.
#[derive(Clone, Debug)]
struct TablePlaces {
    place: Place,
    places: BTreeMap<String, Place>,
}

impl TablePlaces {
    /// Of a key; if it is not there, of the table.
    fn of(&self, key: &str) -> Place {
        self.places.get(key).copied().unwrap_or(self.place)
    }
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or all that is wrong in it.
    pub fn read(path: &Path) -> Result<File, Faults> {
        let name = path.display().to_string();
        let unread = |wrong: String| Faults::of_file(&name, wrong);
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| unread(error.to_string()))?;
        // One byte more, which tells a file that is too long.
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| unread(error.to_string()))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(unread(format!("it is too long; allowed: {FILE_BYTES_MAX} bytes")));
        }
        File::parse(&name, &text)
    }

    /// Reads a text; `path` is what errors call it.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(path: &str, text: &str) -> Result<File, Faults> {
        let reader = Reader::new(path, text);
        let (root, wrong) = toml::de::DeTable::parse_recoverable(text);
        for error in wrong.iter().take(SLIPS_MAX) {
            reader.malformed(error);
        }
        // What follows a slip in the syntax is guesswork.
        if !wrong.is_empty() {
            return Err(reader.into_faults());
        }
        let root = Table::new(&reader, String::new(), 0..0, root.get_ref());
        let runtime = root.table("runtime").map_or_else(Vec::new, runtime);
        let access_log_at = root.place("access-log");
        let access_log = root.table("access-log").and_then(access_log);
        let named = root.table("proxy").map_or_else(Vec::new, |table| table.tables(None));
        let proxies: Vec<ProxyTable> =
            named.into_iter().filter_map(|(name, table)| proxy::read(name, table)).collect();
        root.finish();
        if proxies.is_empty() && reader.is_clean() {
            let told = "there is no proxy; allowed: at least one, as in [proxy.web]".to_owned();
            reader.fault(Place { line: 1, column: 1 }, "proxy".to_owned(), None, told);
        }
        twice(&reader, &proxies);
        let path = path.to_owned();
        reader.into_result(File { path, runtime, access_log, proxies, access_log_at })
    }

    /// The proxies, to be bound.
    pub fn named(&self) -> Vec<Named> {
        self.proxies.iter().map(|proxy| (Some(proxy.name.clone()), proxy.settings.clone())).collect()
    }

    /// Puts the file's settings of the runtime into a configuration.
    ///
    /// # Errors
    /// None that [`parse`](File::parse) has not told.
    pub fn configure(&self, config: &mut Config) -> Result<(), ConfigError> {
        for RuntimeSetting { knob, text, place } in &self.runtime {
            config.set(*knob, &format!("{}:{place}: runtime.{}", self.path, key_of(*knob)), text)?;
        }
        Ok(())
    }

    /// Whether each proxy could work on so many shards, as far as one can say before it begins.
    ///
    /// # Errors
    /// All that makes no sense.
    pub fn check(&self, shards: usize) -> Result<(), Faults> {
        let wrong = self.proxies.iter().filter_map(|proxy| {
            let error = proxy.settings.check(shards).err()?;
            Some(self.fault(proxy, &error))
        });
        Faults::of(wrong.collect())
    }

    /// Whether a running program can go over to this file from another: the runtime and the access log stay as they are.
    ///
    /// # Errors
    /// All that would need a restart.
    pub fn check_change(&self, from: &File) -> Result<(), Faults> {
        const RESTART: &str = "it cannot change while the program runs; allowed: as it was, or a restart";
        let fault = |place, key: String, value: &str| Fault {
            file: self.path.clone(),
            place: Some(place),
            key,
            value: Some(value.to_owned()),
            told: RESTART.to_owned(),
        };
        let text =
            |file: &File, knob| file.runtime.iter().find(|one| one.knob == knob).map(|one| one.text.clone());
        let changed = self.runtime.iter().filter(|one| text(from, one.knob).as_ref() != Some(&one.text));
        let mut wrong: Vec<Fault> =
            changed.map(|one| fault(one.place, format!("runtime.{}", key_of(one.knob)), &one.text)).collect();
        let gone = from.runtime.iter().filter(|one| text(self, one.knob).is_none());
        let start = Place { line: 1, column: 1 };
        wrong.extend(gone.map(|one| fault(start, format!("runtime.{}", key_of(one.knob)), "(gone)")));
        if self.access_log != from.access_log {
            wrong.push(fault(self.access_log_at, "access-log".to_owned(), "(changed)"));
        }
        Faults::of(wrong)
    }

    /// An error of the proxies, with the place in the file that it comes from.
    pub fn locate(&self, error: &ProxyError) -> Option<Fault> {
        let ProxyError::Of { name, error } = error else { return None };
        let proxy = self.proxies.iter().find(|proxy| proxy.name == *name)?;
        Some(self.fault(proxy, error))
    }

    fn fault(&self, proxy: &ProxyTable, error: &ProxyError) -> Fault {
        let (table, at, key, told) = match error {
            ProxyError::Upstreams(UpstreamsError::OfGroup { group, error }) => {
                let at = proxy.groups.get(group).unwrap_or(&proxy.at);
                (
                    format!("proxy.{}.group.{group}", proxy.name),
                    at,
                    key_of_upstreams(error),
                    error.to_string(),
                )
            }
            error => (format!("proxy.{}", proxy.name), &proxy.at, key_of_error(error), error.to_string()),
        };
        // Theirs begins with the key.
        let told = told.strip_prefix(&format!("{key}: ")).map(str::to_owned).unwrap_or(told);
        let (place, key) = (Some(at.of(key)), format!("{table}.{key}"));
        Fault { file: self.path.clone(), place, key, value: None, told }
    }
}

/// The key that an error of a proxy is about.
fn key_of_error(error: &ProxyError) -> &'static str {
    match error {
        ProxyError::NoListener | ProxyError::Start(_) | ProxyError::Overlaps { .. } => "listen",
        ProxyError::TooFewConnections { .. } => "connections",
        ProxyError::NoTimeToConnect => "connect-timeout",
        ProxyError::NoTimeForFirstBytes => "first-bytes-timeout",
        ProxyError::NoTrustedSource => "proxy-trusted",
        ProxyError::NoGroup { .. } | ProxyError::RouteTwice { .. } => "sni",
        ProxyError::EmptyGroup { .. } | ProxyError::UnroutedGroup { .. } | ProxyError::GroupTwice { .. } => {
            "group"
        }
        ProxyError::Value { key, .. } => key,
        ProxyError::Upstreams(error) => key_of_upstreams(error),
        _ => "upstream",
    }
}

fn key_of_upstreams(error: &UpstreamsError) -> &'static str {
    match error {
        UpstreamsError::Value { key, .. } => key,
        UpstreamsError::OfGroup { error, .. } => key_of_upstreams(error),
    }
}

/// A variable's name as a key: `WATERWHEEL_SPIN_US` is `spin-us`.
fn key_of(knob: Knob) -> String {
    let name = knob.variable();
    name.strip_prefix("WATERWHEEL_").unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// What only tests heed has no place in a file.
fn is_for_files(knob: &Knob) -> bool {
    !matches!(knob, Knob::Seeds | Knob::Seed | Knob::Trace)
}

fn runtime(table: Table<'_, '_>) -> Vec<RuntimeSetting> {
    let mut settings = Vec::new();
    for knob in Knob::ALL.into_iter().filter(is_for_files) {
        let key = key_of(knob);
        let place = table.place(&key);
        let read = |text: &str| match Config::default().set(knob, &key, text) {
            Ok(()) => Ok(text.to_owned()),
            Err(ConfigError::Malformed { wrong, allowed, .. }) => Err(format!("{wrong}; allowed: {allowed}")),
            Err(error) => Err(error.to_string()),
        };
        settings.extend(table.read(&key, read).map(|text| RuntimeSetting { knob, text, place }));
    }
    table.finish();
    settings
}

fn access_log(table: Table<'_, '_>) -> Option<LogSettings> {
    let target = table.read("path", str::parse::<LogTarget>);
    let format = table.read("format", str::parse::<LogFormat>).unwrap_or_default();
    if !table.has("path") {
        table.missing("path", "it is missing; allowed: the path of a file, - or stderr");
    }
    table.finish();
    target.map(|target| LogSettings { target, format })
}

/// Two proxies cannot listen at one place.
fn twice(reader: &Reader<'_>, proxies: &[ProxyTable]) {
    let mut seen = BTreeMap::new();
    for proxy in proxies {
        for endpoint in &proxy.settings.listen {
            if endpoint.to_string().ends_with(":0") {
                continue;
            }
            if let Some(other) = seen.insert(endpoint.to_string(), &proxy.name) {
                let place = proxy.at.of("listen");
                let told = format!("{endpoint} is listened on twice, also by proxy {other}; allowed: once");
                reader.fault(place, format!("proxy.{}.listen", proxy.name), None, told);
            }
        }
    }
}
