//! Which listeners of one version of the settings go on in the next, and which are bound for it.
//!
//! A listener goes on where its endpoint stays, or its address, whatever the proxy is called that has it: with the clients
//! that wait at it. One that is new and overlaps another that is given up (`0.0.0.0:80` and `127.0.0.1:80`) is bound beside
//! it. From then on the kernel gives each client to whichever is the more exact of the two, and the one that is given up
//! takes in who waits at it before it is closed. A client whose handshake is under way in that moment is reset: the kernel
//! does not move it.

use std::net::{IpAddr, SocketAddr};

use waterwheel_reactor::{Address, ListenOptions, StreamOptions};

use super::plan::{KEEPALIVE, Named, Version};
use super::settings::ProxyError;
use crate::net::{Endpoint, Listening};
use crate::runtime::{Listeners, StartError};

/// Listeners that are closed again if what they were bound for comes to nothing.
#[derive(Debug)]
pub(super) struct Bound<'a> {
    listeners: &'a Listeners,
    bound: Vec<Listening>,
}

impl Bound<'_> {
    /// They have come to something.
    pub(super) fn keep(mut self) -> Vec<Listening> {
        std::mem::take(&mut self.bound)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        self.bound.iter().for_each(|listening| self.listeners.close(listening));
    }
}

/// A listener of the version before.
struct Old<'v> {
    of: &'v Option<String>,
    endpoint: &'v Endpoint,
    listening: &'v Listening,
}

/// One that is wanted.
struct Wanted<'w> {
    of: &'w Option<String>,
    endpoint: &'w Endpoint,
    listening: Option<Listening>,
}

/// The listeners of each proxy that is wanted, in the order of its settings, and those of them that are new.
pub(super) fn bind<'l>(
    listeners: &'l Listeners,
    before: &Version,
    wanted: &[Named],
) -> Result<(Vec<Vec<Listening>>, Bound<'l>), ProxyError> {
    let plans = before.plans.iter();
    let mut given_up: Vec<Old<'_>> = plans
        .flat_map(|plan| {
            let each = plan.settings.listen.iter().zip(&plan.listeners);
            each.map(|(endpoint, listening)| Old { of: &plan.name, endpoint, listening })
        })
        .collect();
    let mut doors: Vec<Wanted<'_>> = wanted
        .iter()
        .flat_map(|(of, settings)| {
            settings.listen.iter().map(move |endpoint| Wanted { of, endpoint, listening: None })
        })
        .collect();
    let mut take = |door: &mut Wanted<'_>, fits: &dyn Fn(&Old<'_>) -> bool| {
        if door.listening.is_none()
            && let Some(place) = given_up.iter().position(fits)
        {
            door.listening = Some(given_up.remove(place).listening.clone());
        }
    };
    for door in &mut doors {
        let (of, endpoint) = (door.of, door.endpoint);
        take(door, &|old| old.of == of && old.endpoint == endpoint);
    }
    for door in &mut doors {
        let endpoint = door.endpoint;
        take(door, &|old| old.endpoint == endpoint);
    }
    let mut new = Vec::new();
    for (place, door) in doors.iter_mut().enumerate().filter(|(_, door)| door.listening.is_none()) {
        let address = address_of(listeners, door.endpoint).map_err(|error| error.of(door.of.clone()))?;
        take(door, &|old| is_same(&address, old.listening.local()));
        new.push((place, address));
    }
    let overlapped = |address: &Address| given_up.iter().find(|old| overlap(address, old.listening.local()));
    // Last are those that take clients away from a listener at work: nothing else can go wrong any more.
    new.sort_by_key(|(_, address)| overlapped(address).is_some());
    let mut bound = Bound { listeners, bound: Vec::new() };
    for (place, address) in new {
        if doors[place].listening.is_some() {
            continue;
        }
        // Of two that stay and would share their clients the second is refused, as at a start.
        let mut stay = doors.iter().filter_map(|door| door.listening.as_ref());
        let stays = stay.any(|stay| is_same(&address, stay.local()) || overlap(&address, stay.local()));
        let beside = overlapped(&address).filter(|_| !stays).map(|old| old.endpoint);
        let made = listen(listeners, doors[place].endpoint, beside);
        let made = made.map_err(|error| error.of(doors[place].of.clone()))?;
        bound.bound.push(made.clone());
        doors[place].listening = Some(made);
    }
    let mut all = doors.into_iter().filter_map(|door| door.listening);
    let of_each = wanted.iter().map(|(_, settings)| all.by_ref().take(settings.listen.len()).collect());
    Ok((of_each.collect(), bound))
}

/// Where one listens: of a name's addresses the first one counts.
pub(super) fn address_of(listeners: &Listeners, endpoint: &Endpoint) -> Result<Address, ProxyError> {
    let addresses = listeners.resolve(endpoint).map_err(StartError::from)?;
    let none = || {
        let error = std::io::ErrorKind::AddrNotAvailable.into();
        StartError::Listen { endpoint: endpoint.clone(), error }
    };
    Ok(addresses.into_iter().next().ok_or_else(none)?)
}

/// Binds a new listener; if need be beside another one that is given up.
fn listen(
    listeners: &Listeners,
    endpoint: &Endpoint,
    beside: Option<&Endpoint>,
) -> Result<Listening, ProxyError> {
    // Always, since clients inherit it from a listener that stays when the limit of idleness changes; for them it costs no call.
    let stream = StreamOptions { keepalive: Some(KEEPALIVE), ..StreamOptions::default() };
    let options = ListenOptions { stream, beside_own: beside.is_some(), ..ListenOptions::default() };
    listeners.listen(endpoint, &options).map_err(|error| match beside {
        None => error.into(),
        Some(other) => ProxyError::Overlaps { other: other.clone(), error: Box::new(error) },
    })
}

/// The address as the kernel sees it, which maps IPv4 into IPv6. The interface of a link-local address is a part of it.
fn canonical(at: SocketAddr) -> SocketAddr {
    match at.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), at.port()),
        IpAddr::V6(_) => at,
    }
}

fn is_same(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Inet(one), Address::Inet(other)) => one.port() != 0 && canonical(*one) == canonical(*other),
        _ => one == other,
    }
}

/// Whether there are clients that may come to either, and it is not the same address.
pub(super) fn overlap(one: &Address, other: &Address) -> bool {
    let (Some(one), Some(other)) = (one.inet(), other.inet()) else { return false };
    let (one, other) = (canonical(one), canonical(other));
    // All IPv6 addresses are all IPv4 addresses too: listeners of proxies are dual stack.
    let covers = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    one.port() == other.port() && one != other && (covers(one, other) || covers(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    #[test]
    fn what_overlaps_is_told_from_what_does_not() {
        for (one, other, both) in [
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("0.0.0.0:80", "[::]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("127.0.0.1:80", "127.0.0.1:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:81", "0.0.0.0:80", false),
        ] {
            assert_eq!(overlap(&at(one), &at(other)), both, "{one} and {other}");
            assert_eq!(overlap(&at(other), &at(one)), both, "{other} and {one}");
        }
    }

    #[test]
    fn a_port_that_is_not_chosen_yet_is_no_other_one() {
        assert!(is_same(&at("127.0.0.1:80"), &at("[::ffff:127.0.0.1]:80")));
        assert!(!is_same(&at("127.0.0.1:0"), &at("127.0.0.1:0")));
        assert!(!is_same(&at("127.0.0.1:80"), &at("127.0.0.1:81")));
    }
}
