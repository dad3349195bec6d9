//! The peers lose nothing either: a rival that is wrong is none.
#![forbid(unsafe_code)]

use waterwheel_versus::asked::Of;
use waterwheel_versus::cpus::Cpus;
use waterwheel_versus::subject::{Rank, Subject};
use waterwheel_versus::trial;

const PROXIES: [&str; 2] = [env!("CARGO_BIN_EXE_tokio_peer"), env!("CARGO_BIN_EXE_monoio_peer")];
const GLOMMIO: &str = env!("CARGO_BIN_EXE_glommio_peer");

#[test]
fn peers_lose_nothing_and_pass_ends_on() {
    let cpus = Cpus::choose().unwrap();
    let subject = |program: &str| Subject::small(program, Rank::Other, program.into(), "");
    for program in PROXIES {
        trial::subject(&subject(program), Of::Proxies, cpus).unwrap();
        trial::subject(&subject(program), Of::Echo, cpus).unwrap();
    }
    trial::subject(&subject(GLOMMIO), Of::Echo, cpus).unwrap();
}
