//! Which shard gets a connection.
//!
//! Every shard has a listening socket of its own on the same port (`SO_REUSEPORT`), and the kernel gives a new connection
//! to one of them. In the modes that follow from the client's address the kernel is told which: it runs the hash as a
//! classic BPF program (`SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5, no privilege needed) before anybody is woken. The shard that
//! accepts computes who *owns* the connection all the same, and hands it over if that is another one: a message, once per
//! connection, before a byte is read. That is for what came while the listener was being set up, for IPv6 with more than
//! three extension headers, for sandboxes without BPF and for more than some 440 shards
//! ([`AcceptStats`](crate::net::AcceptStats) counts it as `misplaced`).
//!
//! | mode | the owner follows from | take it for |
//! |---|---|---|
//! | `flow` | the client's address and port | many connections, wherever they come from; the default |
//! | `source` | the client's address | limits and caches per client: all its connections meet on one shard |
//! | `kernel` | nothing: who accepted it keeps it | where it does not matter who owns what, and for comparison |
//! | `cpu` | the CPU that the network card's interrupt comes to | cards with a queue per CPU: a packet is handled where its connection is served |
//! | `least` | who has the fewest connections | few and long connections, which a hash spreads unevenly |
//! | `key` | what the program reads first: a name, a header | state per tenant or account; it costs a hand-over each |
//!
//! How uneven they are: what the busiest shard has of what an even share would give it, in percent; the median of many
//! placements (`cargo test -p waterwheel --lib spread -- --nocapture`). There are ten connections from each client, from ports
//! that follow each other, and ten with each key. `cpu` is a card with a queue for each shard's CPU, whose hash spreads such
//! ports better than chance would. In `least` three times as many connections have come and gone meanwhile.
//!
//! | connections | shards | `flow` | `kernel` | `cpu` | `source` | `key` | `least` |
//! |---:|---:|---:|---:|---:|---:|---:|---:|
//! | 64 | 2 | 109 | 109 | 100 | 138 | 125 | 100 |
//! | 64 | 8 | 150 | 150 | 125 | 250 | 250 | 100 |
//! | 64 | 64 | 400 | 400 | 300 | 1000 | 1000 | 100 |
//! | 1 000 | 2 | 102 | 102 | 100 | 118 | 106 | 100 |
//! | 1 000 | 8 | 112 | 112 | 103 | 136 | 136 | 100 |
//! | 1 000 | 64 | 160 | 160 | 134 | 320 | 320 | 102 |
//! | 10 000 | 2 | 101 | 101 | 100 | 103 | 102 | 100 |
//! | 10 000 | 8 | 104 | 104 | 101 | 112 | 112 | 100 |
//! | 10 000 | 64 | 118 | 119 | 110 | 173 | 166 | 100 |
//!
//! In `flow` and `least` the owner has no more right to a connection than an even spread gives it, so room goes first: where
//! the owner is full, or has ended, the shard that accepted the connection keeps it (counted as `kept`), and if that one is
//! full too, any shard with room gets it. In `source` a client waits for its owner, up to [a bound](super::limits), and is
//! served elsewhere only once that shard has ended. So what has to hold for each connection of a client wants `source`; in
//! `flow` take what a shard knows for a cache.
//!
//! `least` counts connections of the listener with one atomic addition when they come and one when they go; nothing moves
//! once it was placed.
//!
//! `WATERWHEEL_STEER` or [`Config::steer`](crate::runtime::Config::steer) chooses; `WATERWHEEL_STEER_PROGRAM=off` gives the
//! kernel no program. Connections on Unix sockets have no address to hash: in all modes but `least` and `key` they stay where
//! they were accepted.
//!
//! ```
//! use waterwheel::reactor::Address;
//! use waterwheel::steer::{Mode, hash, jump, owner};
//!
//! let client = |port: u16| Address::Inet(([10, 1, 2, 3], port).into());
//! let shards = |mode| (1..1000).map(|port| owner(&client(port), mode, 7, 8)).collect::<Vec<_>>();
//! assert!(shards(Mode::Source).iter().all(|shard| *shard == shards(Mode::Source)[0]));
//! assert!((0..8).all(|shard| shards(Mode::Flow).contains(&Some(shard))));
//! assert_eq!(owner(&client(1), Mode::Kernel, 7, 8), None);
//!
//! // The same key goes to the same shard in every process with the same seed.
//! let key = hash([127, 0, 0, 1].into(), Some(40_000), 0);
//! assert_eq!((key, jump(key, 8)), (0xeca6_8364, 7));
//!
//! // From 7 shards to 8, only what the new shard gets has moved: about an eighth.
//! let keys: Vec<u32> = (0..10_000_u32).map(|client| hash(client.to_be_bytes().into(), None, 0)).collect();
//! let moved: Vec<u32> = keys.into_iter().filter(|key| jump(*key, 7) != jump(*key, 8)).collect();
//! assert!(moved.iter().all(|key| jump(*key, 8) == 7));
//! assert!((1_000..1_500).contains(&moved.len()));
//! ```
//!
//! The hash has 32 bits, no loop over bytes and no table, so that the kernel can compute it too. Its seed is random in each
//! run, since a client that knew it could choose its shard by its port. `WATERWHEEL_STEER_SEED` fixes it.
//!
//! # By what was read
//!
//! [`Connection::steer_by`](crate::net::Connection::steer_by) gives a connection to the shard that owns a key, and
//! [`Connection::hand_to`](crate::net::Connection::hand_to) to one of your choice: that shard serves it as one that it
//! accepted, with every byte that was received and not consumed. What is read with
//! [`fill`](crate::net::Connection::fill) and not consumed goes along, so the owner sees the connection from its first byte.
//! [`Connection::release`](crate::net::Connection::release) is what both are made of: it turns a connection into an
//! [`Incoming`](crate::reactor::Incoming), which any shard may [adopt](crate::shard::Shard::adopt).
