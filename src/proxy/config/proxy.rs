//! The table of one proxy.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::quoted;
use super::table::Table;
use super::{ProxyTable, TablePlaces};
use crate::net::Endpoint;
use crate::net::layer::ClientPrefix;
use crate::net::proxy_header::{HeaderPolicy, Others, TrustedSource, Version, Wanted};
use crate::net::units::{parse_duration, parse_size};
use crate::proxy::tcp::{
    Balance, CLIENT_CONNECTIONS_MAX, Checks, ClientLimits, ClientRate, Ejection, Group, NamePattern,
    RetryBudget, Route, Selection, Settings, THROTTLE_MAX, Throttle, Upstream, unescape,
};

/// Reads all of a proxy's table; the settings that it says nothing of are as by default.
pub(super) fn read(name: String, table: Table<'_, '_>) -> Option<ProxyTable> {
    let (place, places) = (table.head(), table.places());
    let plain = Settings::default();
    let listen = table.read_all("listen", str::parse::<Endpoint>);
    let upstreams = upstreams(&table);
    let selection = selection(&table, None);
    let (groups, group_places) = groups(&table, &selection);
    let settings = Settings {
        listen,
        upstreams,
        balance: selection.balance,
        connect_timeout: time(&table, "connect-timeout", plain.connect_timeout),
        retries: count(&table, "retries", plain.retries, 0..=1_000),
        retry_budget: Some(retry_budget(&table)),
        checks: selection.checks,
        ejection: selection.ejection,
        panic_percent: selection.panic_percent,
        slow_start: selection.slow_start,
        queue_timeout: selection.queue_timeout,
        queue_length: selection.queue_length,
        idle_timeout: idle_timeout(&table, plain.idle_timeout),
        throttle: throttle(&table),
        total_timeout: table.read("total-timeout", parse_duration),
        connections: count(&table, "connections", plain.connections, 1..=1 << 30),
        clients: clients(&table),
        header: header(&table),
        send_header: table.read("send-proxy", str::parse::<Version>),
        groups,
        routes: routes(&table),
        first_bytes_timeout: time(&table, "first-bytes-timeout", plain.first_bytes_timeout),
    };
    if !table.has("listen") {
        table.missing("listen", "it is missing; allowed: endpoints as in tcp:0.0.0.0:443, at least one");
    }
    if !table.has("upstream") && !table.has("sni") {
        table.missing("upstream", "it is missing; allowed: endpoints as in tcp:10.0.0.1:80, at least one");
    }
    table.finish();
    Some(ProxyTable { name, settings, at: TablePlaces { place, places }, groups: group_places })
}

fn time(table: &Table<'_, '_>, key: &str, plain: Duration) -> Duration {
    table.read(key, parse_duration).unwrap_or(plain)
}

/// A whole number within bounds.
fn count<T>(table: &Table<'_, '_>, key: &str, plain: T, allowed: std::ops::RangeInclusive<u64>) -> T
where
    T: TryFrom<u64>,
{
    table.read(key, |text| whole(text, &allowed)).unwrap_or(plain)
}

fn whole<T: TryFrom<u64>>(text: &str, allowed: &std::ops::RangeInclusive<u64>) -> Result<T, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u64>().ok().filter(|number| digits && allowed.contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    let (least, most) = (allowed.start(), allowed.end());
    number.ok_or_else(|| format!("not a whole number in its bounds; allowed: {least} to {most}"))
}

/// Zero is never, as with the flag.
fn idle_timeout(table: &Table<'_, '_>, plain: Option<Duration>) -> Option<Duration> {
    match table.read("idle-timeout", parse_duration) {
        Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
        None => plain,
    }
}

fn upstreams(table: &Table<'_, '_>) -> Vec<Upstream> {
    table.read_all_or("upstream", str::parse::<Upstream>, |upstream| {
        let endpoint = upstream.read("endpoint", str::parse::<Endpoint>);
        let plain = |endpoint| Upstream::new(endpoint);
        let weight = upstream.read("weight", |text| whole(text, &(0..=256)));
        let connections = upstream.read("connections", |text| whole(text, &(1..=1 << 30)));
        if !upstream.has("endpoint") {
            upstream.missing("endpoint", "it is missing; allowed: one as in tcp:10.0.0.1:80");
        }
        upstream.finish();
        let plain = plain(endpoint?);
        Some(Upstream { weight: weight.unwrap_or(plain.weight), connections, ..plain })
    })
}

fn throttle(table: &Table<'_, '_>) -> Throttle {
    let [up, down, burst] = ["throttle-up", "throttle-down", "throttle-burst"].map(|key| {
        table.read(key, |text| {
            let bytes = parse_size(text)?;
            let fits = (1..=THROTTLE_MAX).contains(&bytes);
            if fits {
                Ok(bytes)
            } else {
                Err(format!("not in its bounds; allowed: 1 to {THROTTLE_MAX} bytes"))
            }
        })
    });
    if !table.has("throttle-up") && !table.has("throttle-down") {
        needs(table, "throttle-up or throttle-down", &["throttle-burst"]);
    }
    Throttle { up, down, burst }
}

fn clients(table: &Table<'_, '_>) -> ClientLimits {
    let plain = ClientLimits::default();
    let some = |text: &str| whole(text, &(1..=CLIENT_CONNECTIONS_MAX.into()));
    let connections = table.read("client-connections", some);
    let rate = table.read("client-rate", str::parse::<ClientRate>);
    let burst = table.read("client-burst", some);
    if !table.has("client-rate") {
        needs(table, "client-rate", &["client-burst"]);
    }
    if !table.has("client-connections") && !table.has("client-rate") {
        needs(table, "client-connections or client-rate", &["client-ipv4-prefix", "client-ipv6-prefix"]);
    }
    let prefix = ClientPrefix {
        ipv4: count(table, "client-ipv4-prefix", plain.prefix.ipv4, 1..=32),
        ipv6: count(table, "client-ipv6-prefix", plain.prefix.ipv6, 1..=128),
    };
    let rate = rate.map(|rate| ClientRate { burst: burst.unwrap_or(rate.burst), ..rate });
    ClientLimits { connections, rate, prefix }
}

fn retry_budget(table: &Table<'_, '_>) -> RetryBudget {
    let plain = RetryBudget::default();
    RetryBudget {
        percent: count(table, "retry-percent", plain.percent, 0..=100),
        per_second: count(table, "retry-rate", plain.per_second, 0..=1_000_000),
    }
}

/// Keys that mean nothing without another one.
fn needs(table: &Table<'_, '_>, needed: &str, keys: &[&str]) {
    let told = format!("it means nothing without {needed}; allowed: both");
    keys.iter().for_each(|key| table.useless(key, &told));
}

/// What a proxy says of all its groups, or a group, where there is a proxy's, of itself: what it does not say is as there.
fn selection(table: &Table<'_, '_>, proxy: Option<&Selection>) -> Selection {
    let plain = proxy.cloned().unwrap_or_else(|| Settings::default().selection());
    let slow_start = table.read("slow-start", parse_duration).or(plain.slow_start);
    Selection {
        balance: table.read("balance", str::parse::<Balance>).unwrap_or(plain.balance),
        checks: checks(table, proxy.map(|proxy| proxy.checks.as_ref())),
        ejection: ejection(table, proxy.map(|proxy| proxy.ejection.as_ref())),
        panic_percent: count(table, "panic-percent", plain.panic_percent, 0..=100),
        // A group's way to have none.
        slow_start: slow_start.filter(|time| proxy.is_none() || !time.is_zero()),
        queue_timeout: time(table, "queue-timeout", plain.queue_timeout),
        queue_length: count(table, "queue-length", plain.queue_length, 0..=1_000_000),
    }
}

/// `proxy` is what the proxy has, for a group: that has none if its interval is zero.
fn checks(table: &Table<'_, '_>, proxy: Option<Option<&Checks>>) -> Option<Checks> {
    const OTHERS: [&str; 7] = [
        "check-fast-interval",
        "check-jitter",
        "check-timeout",
        "check-rise",
        "check-fall",
        "check-send",
        "check-expect",
    ];
    let interval = table.read("check-interval", parse_duration);
    let is_off = proxy.is_some() && interval.is_some_and(|interval| interval.is_zero());
    let before = proxy.flatten();
    if is_off || before.is_none() && !table.has("check-interval") {
        needs(table, "check-interval", &OTHERS);
        return None;
    }
    let plain = before.cloned().unwrap_or_default();
    let interval = interval.unwrap_or(plain.interval);
    let bytes = |key, plain| table.read(key, unescape).unwrap_or(plain);
    Some(Checks {
        interval,
        fast_interval: time(table, "check-fast-interval", plain.fast_interval.min(interval)),
        jitter_percent: count(table, "check-jitter", plain.jitter_percent, 0..=50),
        timeout: time(table, "check-timeout", plain.timeout),
        rise: count(table, "check-rise", plain.rise, 1..=1_000),
        fall: count(table, "check-fall", plain.fall, 1..=1_000),
        send: bytes("check-send", plain.send),
        expect: bytes("check-expect", plain.expect),
    })
}

/// The same: a group has none if it is never left alone.
fn ejection(table: &Table<'_, '_>, proxy: Option<Option<&Ejection>>) -> Option<Ejection> {
    let least = if proxy.is_some() { 0 } else { 1 };
    let failures = table.read("eject-after", |text| whole(text, &(least..=1_000)));
    let before = proxy.flatten();
    if failures == Some(0) || before.is_none() && !table.has("eject-after") {
        needs(table, "eject-after", &["eject-time", "eject-time-max", "max-ejected"]);
        return None;
    }
    let plain = before.cloned().unwrap_or_default();
    Some(Ejection {
        failures: failures.unwrap_or(plain.failures),
        time: time(table, "eject-time", plain.time),
        time_max: time(table, "eject-time-max", plain.time_max),
        max_ejected_percent: count(table, "max-ejected", plain.max_ejected_percent, 0..=100),
    })
}

fn header(table: &Table<'_, '_>) -> Option<HeaderPolicy> {
    const OTHERS: [&str; 2] = ["proxy-trusted", "proxy-untrusted"];
    if !table.has("proxy-protocol") {
        needs(table, "proxy-protocol", &OTHERS);
        return None;
    }
    let wanted = table.read("proxy-protocol", str::parse::<Wanted>);
    let trusted = table.read_all("proxy-trusted", str::parse::<TrustedSource>);
    let others = table.read("proxy-untrusted", str::parse::<Others>).unwrap_or_default();
    Some(HeaderPolicy { others, ..HeaderPolicy::new(wanted?, trusted) })
}

/// The groups, and where each and its keys stand.
fn groups(table: &Table<'_, '_>, plain: &Selection) -> (Vec<Group>, BTreeMap<String, TablePlaces>) {
    let Some(groups) = table.table("group") else { return Default::default() };
    let read = |(name, group): (String, Table<'_, '_>)| {
        let at = TablePlaces { place: group.head(), places: group.places() };
        let (upstreams, selection) = (upstreams(&group), selection(&group, Some(plain)));
        if !group.has("upstream") {
            group
                .missing("upstream", "it is missing; allowed: endpoints as in tcp:10.0.0.1:80, at least one");
        }
        group.finish();
        let selection = Some(selection).filter(|selection| selection != plain);
        (Group { name: name.clone(), upstreams, selection }, (name, at))
    };
    groups.tables(Some("group")).into_iter().map(read).unzip()
}

fn routes(table: &Table<'_, '_>) -> Vec<Route> {
    let Some(routes) = table.table("sni") else { return Vec::new() };
    routes.pairs(|pattern, group| {
        let pattern = pattern.parse::<NamePattern>()?;
        if group.is_empty() {
            return Err(format!("{} is no name of a group; allowed: one of [group.NAME]", quoted(group)));
        }
        Ok(Route { pattern, group: group.to_owned() })
    })
}
