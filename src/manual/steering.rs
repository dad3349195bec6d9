//! Which shard gets a connection.
//!
//! Every shard has a listening socket of its own on the same port (`SO_REUSEPORT`), and the kernel gives a new connection
//! to one of them. Which one is not ours to say yet, so the shard that accepts it computes who *owns* it, and hands it
//! over if that is another one: a message, once per connection, before a byte is read.
//!
//! | mode | the owner follows from | good for |
//! |---|---|---|
//! | `flow` | the client's address and port | an even spread, also of one client's connections |
//! | `source` | the client's address | limits and caches per client: all its connections meet on one shard |
//! | `kernel` | nothing: who accepted it keeps it | no hand-over at all, where it does not matter who owns what |
//!
//! In `flow` the owner has no more right to a connection than an even spread gives it, so room goes first: where the owner
//! is full, or has ended, the shard that accepted the connection keeps it ([`AcceptStats`](crate::net::AcceptStats) counts
//! it as `kept`), and if that one is full too, any shard with room gets it. In `source` a client waits for its owner, up
//! to [a bound](super::limits), and is served elsewhere only once that shard has ended. So what has to hold for each
//! connection of a client wants `source`; in `flow` take what a shard knows for a cache.
//!
//! `WATERWHEEL_STEER` or [`Config::steer`](crate::runtime::Config::steer) chooses. Connections on Unix sockets have no
//! address to hash and stay where they were accepted.
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
//! The hash has 32 bits, no loop over bytes and no table, so that the kernel can be given the same one as a classic BPF
//! program; then hand-over is for the rest. Its seed is random in each run, since a client that knew it could choose its
//! shard by its port. `WATERWHEEL_STEER_SEED` fixes it.
//!
//! A connection can also be handed over later: [`Connection::release`](crate::net::Connection::release) turns it into an
//! [`Incoming`](crate::reactor::Incoming) with every byte that was received and not consumed, which any shard may
//! [adopt](crate::shard::Shard::adopt).
//!
//! What it costs to be hashed: with few and long connections the spread is uneven (see [`why`](super::why)), and no mode
//! here chooses by load before a shard is full.
