//! Which shard owns a connection from a peer.

use std::hash::{BuildHasher, RandomState};

use waterwheel_reactor::Address;

use super::{Mode, hash, jump};

/// The shard that owns a connection from `peer`, of `shards`. `None`: its address does not say, because the kernel chose
/// (modes `kernel` and `cpu`), because it is not what counts (`least` and `key`), or because there is nothing to hash (Unix
/// sockets).
///
/// # Panics
/// If there is no shard.
pub fn owner(peer: &Address, mode: Mode, seed: u32, shards: usize) -> Option<usize> {
    let at = peer.inet()?;
    let port = match mode {
        Mode::Flow => Some(at.port()),
        Mode::Source => None,
        Mode::Kernel | Mode::Cpu | Mode::Least | Mode::Key => return None,
    };
    Some(jump(hash(at.ip(), port, seed), shards))
}

/// A seed that nobody outside can guess, for a run whose seed was not fixed.
pub fn random_seed() -> u32 {
    // The standard library keys this hasher from the system's random source.
    RandomState::new().hash_one("steer") as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_reactor::UnixName;

    fn inet(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    #[test]
    fn source_keeps_a_client_together_and_flow_does_not() {
        let owners = |mode| -> Vec<_> {
            (1..200).map(|port| owner(&inet(&format!("10.1.2.3:{port}")), mode, 5, 8)).collect()
        };
        let source = owners(Mode::Source);
        assert!(source[0].is_some() && source.iter().all(|shard| *shard == source[0]));
        assert!(owners(Mode::Flow).iter().any(|shard| *shard != source[0]));
    }

    #[test]
    fn mapped_peers_go_where_plain_ones_go() {
        for mode in [Mode::Flow, Mode::Source] {
            let plain = owner(&inet("10.1.2.3:77"), mode, 1, 64);
            assert_eq!(plain, owner(&inet("[::ffff:10.1.2.3]:77"), mode, 1, 64));
        }
    }

    #[test]
    fn nobody_owns_what_the_kernel_placed_or_what_has_no_address() {
        for mode in [Mode::Kernel, Mode::Cpu, Mode::Least, Mode::Key] {
            assert_eq!(owner(&inet("10.1.2.3:77"), mode, 0, 8), None);
        }
        for name in [UnixName::Unnamed, UnixName::Path("/x".into())] {
            assert_eq!(owner(&Address::Unix(name), Mode::Flow, 0, 8), None);
        }
    }

    #[test]
    fn seeds_differ() {
        let seeds: Vec<u32> = (0..8).map(|_| random_seed()).collect();
        assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
    }
}
