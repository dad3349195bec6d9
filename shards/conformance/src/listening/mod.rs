//! The laws of listening and accepting.

mod addresses;
mod bind;
mod burst;
mod close;
mod options;

use std::time::Duration;

use crate::Law;

pub(crate) const LAWS: &[Law] = &[
    Law::new(
        "LISTEN-1",
        "an address that cannot be had is no typed error, or a late one",
        bind::typed_errors,
    ),
    Law::new("LISTEN-2", "a closed listener keeps its port or loses its queue", close::gives_back),
    Law::new("LISTEN-3", "a burst above the backlog is lost, or swallowed whole", burst::served_in_the_end)
        .within(Duration::from_secs(60)),
    Law::new(
        "LISTEN-4",
        "at the limit of descriptors a listener spins, dies or stays silent",
        burst::at_the_limit,
    )
    .alone(),
    Law::new("LISTEN-5", "descriptors leak to children, block, or forget their options", options::as_asked),
    Law::new("LISTEN-6", "a shared listening socket is shut down for all", close::never_shut_down),
    Law::new(
        "LISTEN-7",
        "a family is not served, or a live socket's path is stolen",
        addresses::every_family,
    ),
];
