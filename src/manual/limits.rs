//! Every bound there is, and what happens at it.
//!
//! Nothing grows without one. Where a peer or a neighbour is slow, the bound is felt as waiting; where waiting cannot
//! help, as an error that says which bound it was.
//!
//! | what | at most | set with | then |
//! |---|---|---|---|
//! | shards | 1 024 | `WATERWHEEL_CORES` | an error at start |
//! | messages from one shard to one other through one port | 256 | [`PortOptions`](crate::mesh::PortOptions) | `try_send` gives it back, `send` waits |
//! | calls on the way from one shard to one other through one port | 64 | [`CallOptions`](crate::mesh::CallOptions) | the call waits for a credit |
//! | jobs from outside threads per shard | 1 024 | | `Full`, with the job |
//! | messages, timers, polls of tasks in a turn | 64 per source, 256, 512 | [`Budgets`](crate::shard::Budgets) | the rest comes in the next turn |
//! | groups of tasks per shard | 32 | [`group`](crate::shard::Shard::group) | an error |
//! | what a group with something to do is kept waiting beyond its shares | a quarter of a turn's time of each other group, a turn of one in the latency class, and the poll that runs | [`Budgets`](crate::shard::Budgets), [`yield_if_needed`](crate::shard::Shard::yield_if_needed) | it runs |
//! | a turn before it is logged | 100 ms | `WATERWHEEL_STALL_MS` | a line that names the shard and the length |
//! | a turn before [`yield_if_needed`](crate::shard::Shard::yield_if_needed) gives way | 500 µs | [`Budgets`](crate::shard::Budgets) | others run first |
//! | connections served at once | as [`serve`](crate::net::Acceptor::serve) is told | its `limit` | they go to a shard below its limit; without one they wait in the backlog |
//! | connections accepted for a shard and not yet served | 128, 256 if others have room | | accepting rests; those beyond are reset |
//! | connections handed over and on the way, from one shard to one other | 64; in mode `source` 128 more wait | | another shard serves them; in mode `source` they are reset |
//! | datagrams handed over and on the way, from one shard to one other; kept for a shard between two lives | 128; 128 | | they are lost, and counted ([`stats`](crate::net::datagram::DatagramSender::stats)) |
//! | bytes of them that are held for one shard of a group | 2 MiB; an eighth of its quota, or one datagram of the largest | `WATERWHEEL_MAX_BUFFERED_BYTES` | the same |
//! | connections waiting in the kernel, per socket | 4 096 | [`ListenOptions`](crate::reactor::ListenOptions), `net.core.somaxconn` | as the kernel does |
//! | descriptors | the hard limit of the process | `ulimit -n`, `LimitNOFILE` | new connections are reset at once, open ones work on |
//! | bytes moved in one direction of a forwarded connection per turn | 256 KiB | | others get their turn |
//! | bytes received and not consumed | one buffer of the reactor | | the kernel's window closes, the peer waits |
//! | what a closing connection still reads, so that its last bytes survive | 1 MiB, 2 s | | it is closed |
//! | how long a connect waits while the queue of a Unix socket's listener is full | 60 s | [`timeout`](crate::shard::Shard::timeout) | `ResourceBusy` |
//! | how long an upstream that could not be connected comes last | 5 s | | it is tried again |
//! | silence of a proxied peer where no idle limit of at most 10 minutes ends it | 2 minutes, then 9 probes | `net.ipv4.tcp_keepalive_probes` | its connection breaks |
//! | how long a reset waits until what came before it has arrived | 2 s without progress, 60 s | | what is left is lost |
//! | how long a reset behind bytes that the other side does not take goes unnoticed | 2 s | | the other side is reset as above |
//! | names being looked up at once; waiting | 4; 256 | | an error that says so |
//! | the head of an HTTP/1 message | 16 KiB, 100 fields | | an error, the peer's fault |
//! | a frame | what its [codec](crate::net::codec) is told | its limit | an error before any of it is collected, the peer's fault |
//! | bytes a protocol wrote and that are not sent | 64 KiB, then it is full; 1 MiB | [`QueueLimits`](crate::net::protocol::QueueLimits) | nothing more is received; an error |
//! | what a protocol receives per turn | 64 frames, 256 KiB | | others get their turn |
//! | how long a peer takes nothing of what a closed protocol left to send | 30 s | | it is reset |
//! | connections of one client, bytes per second, time of all kinds | as long and as many as they like | [layers](crate::net::layer) | refused; delayed; `TimedOut` |
//! | texts for standard error that the command has not written yet | 1 024 | | more is lost, and how much is told |
//! | reports asked for (SIGUSR1) and not begun | 1 | | further requests are the same one |
//! | how long the command's end waits for who reads its outputs | 2 s for a report under way, the last report, and the log each | | what is not read is lost |
//! | programs waiting to be started, per shard | 64 | | an error that says so |
//! | threads that start them: per shard while starts hang; of the process | 4; 2 048 | | others wait; an error that says so |
//! | children seen out that have outlived their shard | 1 024 | | left as zombies, which the log says |
//! | what a child process wrote and nobody has read | 64 KiB in the pipe, 16 KiB here | | its next write waits |
//! | what is kept of a child's [output](crate::process::Child::output), of each stream | 1 MiB | [`output_most`](crate::process::Command::output_most) | the rest is read and dropped, which is told |
//! | how long an open pipe is read after its child has ended and it was found empty | 1 s | [`patience`](crate::process::Command::patience) | it is closed, which is told |
//! | failures of a kept program; its lines of output, bytes and per second | 10 restarts in 10 minutes; 4 096; 1 000 | [`Keep`](crate::process::Keep) | given up, with the reason; told in pieces; dropped and counted |
//! | failures of a shard that are followed by a restart; the pause before one | 5 within a minute; none, 100 ms, doubled up to 5 s | `WATERWHEEL_RESTARTS`, [`Supervision`](crate::runtime::Supervision) | the program ends with the reason |
//! | connections accepted for a shard, over all its listeners; descriptors of connections, datagram sockets and children | as many as they like | `WATERWHEEL_MAX_CONNECTIONS`, `WATERWHEEL_MAX_DESCRIPTORS` | they wait in the backlog; what the shard itself connects is `QuotaExceeded` |
//! | memory that a shard's connections hold outside the kernel | as much as they like | `WATERWHEEL_MAX_BUFFERED_BYTES` | new clients wait in the backlog; each half of a connection makes do with 16 KiB |
//! | each step of the start; of the stop, besides the drain | 30 s; 10 s | `WATERWHEEL_STEPS_S`, [`StepTimes`](crate::runtime::StepTimes) | it says what it waits for, and the next one begins |
//! | threads for work that blocks; what waits for one | 16; 1 024 | `WATERWHEEL_BLOCKING_THREADS` | it waits; an error that says so |
//! | the limit of a lease | 1 000 000 000 | | an error when it is declared |
//! | clients of the admin endpoint; what they may take for a request, an answer, in silence | 8; 5 s, 10 s, 90 s | | the next one waits; closed |
//! | how long a scrape waits for a shard | 500 ms | | the page goes without it, and says which |
//! | sets of labels of a family of metrics, in the whole run; the bytes of a label's value | 100, or up to 10 000; 128 | [`FamilyOptions`](crate::metrics::FamilyOptions) | counted as `other`; cut |
//! | the drain after a signal | 30 s | `WATERWHEEL_DRAIN_S` | what still runs is ended |
//!
//! The proxy's own:
//!
//! | what | at most | set with | then |
//! |---|---|---|---|
//! | who waits in a group for an upstream below its limit, over all shards; how long | 1 000; 5 s | `--queue-length`, `--queue-timeout` | reset, and counted |
//! | connections of a client at once, over all shards | as many as it likes | `--client-connections` | reset, and counted |
//! | new connections of a client | as many as it likes | `--client-rate`, `--client-burst` | reset, and counted |
//! | how long a connection lasts, whatever moves | as long as it likes | `--total-timeout` | reset, and counted |
//! | bytes of a connection per second, from its client and to it | as many as they like | `--throttle-up`, `--throttle-down`, `--throttle-burst` | the sockets' buffers fill up, and the peer waits |
//! | clients whose rate a shard remembers | 65 536 | | the one is forgotten whose burst is whole again first |
//! | connections to an upstream, over all shards | as many as they like | `connections=` of the upstream | the next one waits |
//! | connects to further upstreams after one that failed | 20 % of a shard's connections a second, and 10 a second in all | `--retry-percent`, `--retry-rate` | the client is reset, and it is counted |
//! | upstreams of a group that are ejected or down when one more is ejected | half, with that one | `--max-ejected` | the others are left in |
//! | what a check sends, and reads of the answer | 4 KiB | | an error; what comes later is not looked at |
//! | a PROXY header; how long it may take | 4 KiB; 5 s | `--first-bytes-timeout` | reset, and counted as refused |
//! | a ClientHello | 16 KiB | | reset, and counted as refused |
//! | lines of the access log that wait, per shard; in all, for the disk | 256 KiB; 64 batches | | dropped and counted, which the log says |
//! | the file that says what runs | 1 MiB | | it is refused |
//! | how long a reload waits for a shard that is at work, and in all | 5 s; 20 s | | nothing has changed, or the shard is late, as the log says |
//! | how long a listener that is given up takes in who waits at it | 1 s, and as many as its queue holds | | who is left is reset |
//! | faults of that file that are told | 50 | | the number of all |
//!
//! # What is not bounded
//!
//! Tasks: a program that spawns without end runs out of memory. [`serve`](crate::net::Acceptor::serve) has a limit for
//! that reason. Memory as such is not counted.
//!
//! ```
//! use std::time::Duration;
//! use waterwheel::runtime::{Config, Runtime};
//! use waterwheel::shard::Budgets;
//!
//! // Shorter turns: what waits is looked at more often, and each look is paid for more often.
//! let budgets = Budgets { tasks: 64, turn: Duration::from_micros(100), ..Budgets::default() };
//! let runtime = Runtime::new(Config::default().cores(1).budgets(budgets))?;
//! runtime.run(|shard| async move {
//!     for _ in 0..1000 {
//!         shard.yield_if_needed().await;
//!     }
//!     Ok(())
//! })?;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # What is missing
//!
//! The names of a proxy's upstreams are looked up when it starts and, where a file says what runs, with each reload
//! (SIGHUP). Where their addresses change in between, send one.
//! What it says of the runtime and of the access log a reload cannot change.
//!
//! A listener that takes the place of one that it overlaps (`0.0.0.0:80` that of `127.0.0.1:80`) listens beside it first, and
//! who waits at the other is served. A client whose handshake is under way when that one is closed is reset, since the
//! kernel moves none from one group of sockets to another.
