//! What a server has to get right before its speed counts; every subject is tried before it is measured.
//!
//! More bytes than any queue on the way holds, both ways at once, to a side that begins late and reads
//! slowly, so that sends come out short; and the end of one direction, after which the other goes on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::asked::Of;
use crate::cpus::Cpus;
use crate::server;
use crate::subject::Subject;

/// More than the kernel's queues of two connections take.
const BYTES: usize = 24 << 20;

/// What the origin still sends when it has seen the client's end.
const FAREWELL: usize = 1 << 20;

/// How long the reader does nothing at first.
const LATE: Duration = Duration::from_millis(50);

/// Connections without a byte that the origin accepts before it gives up.
const STRANGERS_MAX: usize = 100;

/// How long any call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a subject and tries it.
///
/// # Errors
/// It does not start, or is wrong.
pub fn subject(subject: &Subject, of: Of, cpus: Cpus) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let origin = server::listen()?;
    let SocketAddr::V4(address) = origin.local_addr()? else { bail!("the origin has no IPv4 address") };
    let tried = match of {
        Of::Echo => echo(subject.start(cpus, folder.path(), None)?.at()),
        Of::Proxies => proxy(subject.start(cpus, folder.path(), Some(address))?.at(), &origin),
    };
    tried.with_context(|| format!("{} fails its trial", subject.name))
}

/// # Errors
/// The echo server at this address lost, changed or added something, or did not end.
pub fn echo(at: SocketAddrV4) -> anyhow::Result<()> {
    let client = patient(TcpStream::connect(at)?)?;
    let sent = bytes(1, BYTES);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&client, &sent));
        let received = receive(&client);
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?.context("sending")?;
        same(&received.context("receiving")?, &sent)
    })
}

/// # Errors
/// The proxy at this address, whose origin is this listener, lost, changed or added something, or did not
/// end.
pub fn proxy(at: SocketAddrV4, origin: &TcpListener) -> anyhow::Result<()> {
    let (there, back) = (bytes(1, BYTES), bytes(2, BYTES));
    let farewell = bytes(3, FAREWELL);
    let client = patient(TcpStream::connect(at)?)?;
    // It connects to its origin at once or when the first byte comes.
    (&client).write_all(&there[..1])?;
    let server = accept_whole(origin, there[0])?;
    let answer = [&*back, &*farewell].concat();
    std::thread::scope(|scope| {
        let ask = scope.spawn(|| send(&client, &there[1..]));
        let reply = scope.spawn(|| (&server).write_all(&back));
        let answered = scope.spawn(|| receive(&client));
        let asked = receive(&server).context("the origin receives")?;
        let panicked = |_| anyhow::anyhow!("a side panicked");
        reply.join().map_err(panicked)?.context("the origin answers")?;
        ask.join().map_err(panicked)?.context("the client sends")?;
        same(&asked, &there[1..])?;
        // The client's direction has ended; the other still works.
        send(&server, &farewell).context("the origin sends after the client's end")?;
        same(&answered.join().map_err(panicked)?.context("the client receives")?, &answer)
    })
}

/// The connection on which this byte comes first: others tried whether the proxy is there.
fn accept_whole(origin: &TcpListener, first: u8) -> anyhow::Result<TcpStream> {
    for _ in 0..STRANGERS_MAX {
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(origin, PollFlags::IN)], Some(&patience))?;
        ensure!(ready == 1, "the proxy did not connect to its origin");
        let server = patient(origin.accept()?.0)?;
        let mut byte = [0];
        if (&server).read(&mut byte).context("the origin's first byte")? == 1 {
            ensure!(byte == [first], "WRONG BYTES: the first one");
            return Ok(server);
        }
    }
    bail!("the proxy connects to its origin and says nothing, over and over")
}

fn patient(socket: TcpStream) -> std::io::Result<TcpStream> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn send(mut to: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.shutdown(Shutdown::Write)
}

/// Begins late, and takes little at a time at first.
fn receive(mut from: &TcpStream) -> std::io::Result<Vec<u8>> {
    std::thread::sleep(LATE);
    let mut received = Vec::new();
    let mut little = [0; 1000];
    for _ in 0..20 {
        let length = from.read(&mut little)?;
        received.extend_from_slice(&little[..length]);
        std::thread::sleep(Duration::from_millis(1));
    }
    // What is received is as long as what is sent, or the sender waits for ever, which `PATIENCE` ends.
    from.read_to_end(&mut received)?;
    Ok(received)
}

fn same(received: &[u8], sent: &[u8]) -> anyhow::Result<()> {
    let first = received.iter().zip(sent).position(|(one, other)| one != other);
    ensure!(first.is_none(), "WRONG BYTES: the first at {first:?} of {}", sent.len());
    ensure!(received.len() == sent.len(), "LOST: {} of {} bytes came", received.len(), sent.len());
    Ok(())
}
