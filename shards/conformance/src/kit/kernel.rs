//! The kernel as the surroundings of a reactor.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use waterwheel_reactor::{
    Address, Bound, Clock, Handle, ListenOptions, Source, StreamOptions, Time, UnixName,
};

use super::census::listed;
use super::{PeerListener, PeerSocket, Surroundings};

/// The kernel's sockets, files and limits: the surroundings of every reactor that is not simulated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Surroundings for Kernel {
    fn connect(
        &self,
        to: &Address,
        options: StreamOptions,
        patience: Duration,
    ) -> io::Result<Box<dyn PeerSocket>> {
        let address = to_kernel(to)?;
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        if let Some(size) = options.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = options.send_buffer {
            socket.set_send_buffer_size(size)?;
        }
        // A blocking connect waits as long as a write does (socket(7), SO_SNDTIMEO).
        socket.set_write_timeout(Some(patience))?;
        in_time(patience, || socket.connect(&address))?;
        Ok(Box::new(Blocking(socket)))
    }

    fn listen(&self, at: &Address, backlog: u32) -> io::Result<Box<dyn PeerListener>> {
        let address = to_kernel(at)?;
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        if address.domain() != Domain::UNIX {
            // Or connections that ended a moment ago would still hold the port.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(Box::new(Blocking(socket)))
    }

    /// The lines of the kernel's table of sockets that are in state SYN_SENT (proc(5), /proc/net/tcp).
    fn still_trying(&self, to: &Address) -> Vec<String> {
        const SYN_SENT: &str = "02";
        let port = to.inet().expect("an internet address").port();
        let remote = format!(":{port:04X}");
        let table = fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
        let tries = |line: &&str| {
            let mut words = line.split_whitespace().skip(2);
            words.next().is_some_and(|to| to.ends_with(&remote)) && words.next() == Some(SYN_SENT)
        };
        table.lines().filter(tries).map(str::to_owned).collect()
    }

    /// By tcp(7), TCP_USER_TIMEOUT, where the reactor tells which socket it is.
    fn give_up_after(&self, limit: Duration, connecting: &dyn Source) -> bool {
        let Some(descriptor) = connecting.descriptor() else { return false };
        SockRef::from(&descriptor).set_tcp_user_timeout(Some(limit)).expect("TCP_USER_TIMEOUT");
        true
    }

    fn descriptors(&self) -> BTreeMap<i32, String> {
        listed("/proc/self/fd", |number| {
            let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
            Some(target.display().to_string())
        })
    }

    /// By `RLIMIT_NOFILE`. The process belongs to one law, so nobody else is disturbed.
    fn leave_descriptors(&self, spare: usize) -> Box<dyn Any + Send> {
        let open = self.descriptors();
        // The limit is on the numbers, not on how many there are, so holes below it count as room.
        let limit = (0..).filter(|number| !open.contains_key(number)).nth(spare).expect("a free number");
        Box::new(Limit::set(limit as u64))
    }

    fn raise_descriptors(&self, wanted: u64) -> Option<Box<dyn Any + Send>> {
        let now = getrlimit(Resource::Nofile);
        match (now.current, now.maximum) {
            (Some(current), _) if current >= wanted => Some(Box::new(Limit { before: now })),
            (Some(_), Some(maximum)) if maximum < wanted => None,
            _ => Some(Box::new(Limit::set(wanted))),
        }
    }

    fn files(&self) -> bool {
        true
    }

    fn threads(&self) -> bool {
        true
    }
}

/// A limit that is lifted again when dropped.
#[derive(Debug)]
struct Limit {
    before: Rlimit,
}

impl Limit {
    fn set(limit: u64) -> Limit {
        let before = getrlimit(Resource::Nofile);
        let other = Rlimit { current: Some(limit), maximum: before.maximum };
        setrlimit(Resource::Nofile, other).expect("a soft limit below the hard one");
        Limit { before }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).expect("the limit there was before");
    }
}

/// A plain socket whose calls wait.
#[derive(Debug)]
struct Blocking(Socket);

impl PeerSocket for Blocking {
    fn read(&self, bytes: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.0.set_read_timeout(Some(patience))?;
        in_time(patience, || (&self.0).read(bytes))
    }

    fn wait_for_input(&self, patience: Duration) -> io::Result<()> {
        readable(&self.0, patience)
    }

    fn write(&self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        self.0.set_write_timeout(Some(patience))?;
        in_time(patience, || (&self.0).write(bytes))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    fn reset(&self) -> io::Result<()> {
        self.0.set_linger(Some(Duration::ZERO))
    }

    fn local(&self) -> io::Result<Address> {
        from_kernel(&self.0.local_addr()?)
    }
}

impl PeerListener for Blocking {
    fn accept(&self, patience: Duration) -> io::Result<Box<dyn PeerSocket>> {
        // Asked first, since one that is shared with a reactor does not block (fcntl(2): the flag is shared too).
        readable(&self.0, patience)?;
        let (socket, _) = in_time(patience, || self.0.accept())?;
        Ok(Box::new(Blocking(socket)))
    }

    fn share(&self) -> io::Result<Bound> {
        let socket = self.0.try_clone()?;
        socket.set_nonblocking(true)?;
        let local = from_kernel(&socket.local_addr()?)?;
        Ok(Bound { local, handle: Handle::Os(socket.into()), options: ListenOptions::default() })
    }

    fn local(&self) -> io::Result<Address> {
        from_kernel(&self.0.local_addr()?)
    }
}

/// What `call` gives, called again where a signal interrupted it (a ring's timer may do that to the thread that made
/// the ring); `TimedOut` where the socket's timeout of `patience` ended it.
fn in_time<T>(patience: Duration, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let clock = Clock::start();
    loop {
        match call() {
            Err(error) if Errno::from_io_error(&error).is_some_and(|why| TIMEOUTS.contains(&why)) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                if clock.now().since(Time::ZERO) > patience {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            result => return result,
        }
    }
}

/// How the kernel reports that a socket's timeout has passed (socket(7), SO_RCVTIMEO): in a read or write, in a connect,
/// and in a connect that goes on after an interruption.
const TIMEOUTS: [Errno; 3] = [Errno::AGAIN, Errno::INPROGRESS, Errno::ALREADY];

/// Waits until a read or an accept would have something to tell.
fn readable(socket: &Socket, patience: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    match in_time(patience, || Ok(poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout))?))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn to_kernel(at: &Address) -> io::Result<SockAddr> {
    match at {
        Address::Inet(at) => Ok(SockAddr::from(*at)),
        Address::Unix(UnixName::Path(path)) => SockAddr::unix(path),
        // A leading zero byte marks a name outside the file system (unix(7)).
        Address::Unix(UnixName::Abstract(name)) => {
            SockAddr::unix(OsStr::from_bytes(&[b"\0", name.as_slice()].concat()))
        }
        Address::Unix(UnixName::Unnamed) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn from_kernel(at: &SockAddr) -> io::Result<Address> {
    if let Some(at) = at.as_socket() {
        return Ok(Address::Inet(at));
    }
    if !at.is_unix() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Address::Unix(match (at.as_pathname(), at.as_abstract_namespace()) {
        (Some(path), _) => UnixName::Path(path.to_owned()),
        (_, Some(name)) => UnixName::Abstract(name.to_owned()),
        _ => UnixName::Unnamed,
    }))
}
