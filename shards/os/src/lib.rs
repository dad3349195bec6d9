//! System calls that Waterwheel's real reactors share, so that each of them means the same by bind, accept, connect
//! and abort.
//!
//! | for | use |
//! |---|---|
//! | listening | [`bind_group`], [`steer`], [`SocketFile`], [`accept`] |
//! | connecting | [`begin_connect`], [`prepare_connect`], [`take_error`], [`is_near`], [`near_port`], [`met_itself`], [`met_itself_at`] |
//! | a connection | [`receive`], [`send`], [`send_last`], [`send_vectored`], [`shutdown_write`], [`unacknowledged`], [`abort`], [`Fault`] |
//! | from one connection to another | [`StreamPipe`], [`Pipe`], [`Gulp`], [`never_waits`], [`is_refusal`] |
//! | datagrams | [`bind_datagrams`], [`steer_datagrams`], [`serve_datagrams`], [`bind_datagram_socket`], [`connect_datagrams`] |
//! | all of that, said of a reactor | [`bind_by_the_kernel`], [`datagrams_by_watching`] |
//! | names | [`local`], [`peer`], [`is_internet`] |
//! | waking a sleeping thread | [`Interrupt`] |
//! | descriptors | [`open`], [`duplicate`], [`reset`], [`can_be_polled`], [`raise_descriptor_limit`] |
//! | signals put back as they were, and one that is not raised | [`Disposition`], [`without_sigpipe`] |
//! | child processes | [`child`], [`reap`], [`signal_child`], [`signal_group`], [`kill_with_this_thread`], [`unpin`] |
//! | their pipes | [`read_pipe`], [`write_pipe`], [`is_broken_pipe`], [`never_wait`] |
//! | seeding random choices | [`random_seed`] |
//! | sleeping to the microsecond | [`sleep_exactly`] |
//! | what another thread of the process does | [`thread_number`], [`ThreadState`] |
//! | kernels without `epoll_pwait2` | [`wait_plainly`] |
//! | containers that kill for io_uring | [`survives_io_uring`] |
//!
//! Nothing here blocks, but [`bind_group`] on a Unix path and the removal of a [`SocketFile`]: they wait while another
//! process does the same in that folder, a second at most; [`survives_io_uring`], which waits for a child of its own; and
//! [`wait_for_one`], which waits for others.

#[cfg(not(target_os = "linux"))]
compile_error!("Waterwheel runs on Linux only");

mod accept;
mod address;
mod affinity;
mod attach;
mod bind;
mod connect;
mod datagram;
mod descriptors;
mod disposition;
mod fault;
mod filtered;
mod interrupt;
mod options;
mod pipe;
mod place;
mod plain;
mod process;
mod said;
mod seed;
mod sigpipe;
mod stream;
#[cfg(test)]
mod tests;
mod threads;
mod timer;
mod trouble;

pub use accept::accept;
pub use address::{is_internet, local, peer};
pub use affinity::Affinity;
pub use attach::steer;
pub use bind::bind_group;
pub use connect::{
    Progress, SocketName, begin_connect, is_near, met_itself, met_itself_at, near_port, prepare_connect,
    take_error,
};
pub use datagram::{
    bind_datagram_socket, bind_datagrams, connect_datagrams, serve_datagrams, steer_datagrams,
};
pub use descriptors::{can_be_polled, duplicate, open, raise_descriptor_limit, reset};
pub use disposition::Disposition;
pub use fault::Fault;
pub use filtered::survives_io_uring;
pub use interrupt::Interrupt;
pub use pipe::{Gulp, Pipe, StreamPipe, is_refusal, never_waits};
pub use place::SocketFile;
pub use plain::{PlainEvent, wait_plainly};
pub use process::{
    child, is_broken_pipe, kill_unborn, kill_with_this_thread, leads_group, never_wait, read_pipe, reap,
    signal_child, signal_group, unpin, unread, wait_for_one, write_pipe,
};
pub use seed::random_seed;
pub use sigpipe::without_sigpipe;
pub use stream::{
    SLICES_MAX, abort, receive, send, send_last, send_vectored, shutdown_write, unacknowledged,
};
pub use threads::{ThreadState, thread_number};
pub use timer::sleep_exactly;
pub use trouble::{AcceptTrouble, is_shortage, may_be_taken_later};
