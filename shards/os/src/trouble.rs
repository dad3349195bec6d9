//! What an error is about, of accept(2) and of what leads to it: one connection, this process, the system, or the socket.

use std::io;

use rustix::io::Errno;

/// What to do after an error of [`accept`](crate::accept).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptTrouble {
    /// One connection that is gone, or that a firewall refused: the next one may be fine.
    OneConnection,
    /// This process or the system has no descriptor left: clients can still be told, with one held in
    /// reserve.
    NoDescriptor,
    /// No memory (`ENOBUFS`, `ENOMEM`), or something that should not happen: rest, clients wait.
    Other,
    /// Nobody will ever be accepted from this socket again, however long one waits: it is closed (`EBADF`; a reactor's
    /// `NotConnected`), none (`ENOTSOCK`), or does not listen any more, since somebody who shares it has shut it down
    /// (`EINVAL`: `inet_csk_accept` in net/ipv4/inet_connection_sock.c and `unix_accept` in net/unix/af_unix.c find it in
    /// another state). Or whoever asks is wrong (`EFAULT`).
    Broken,
}

impl AcceptTrouble {
    /// Of an error. Network errors that are already pending on the new socket come from accept itself, `EOPNOTSUPP` among
    /// them (accept(2)); a socket that cannot accept at all answers that too, without end.
    pub fn of(error: &io::Error) -> AcceptTrouble {
        const ONE: [Errno; 12] = [
            Errno::CONNABORTED,
            Errno::CONNRESET,
            Errno::INTR,
            Errno::PERM,
            Errno::PROTO,
            Errno::NETDOWN,
            Errno::NETUNREACH,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::NOPROTOOPT,
            Errno::NONET,
            Errno::OPNOTSUPP,
        ];
        const BROKEN: [Errno; 5] = [Errno::BADF, Errno::NOTSOCK, Errno::INVAL, Errno::FAULT, Errno::NOTCONN];
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => AcceptTrouble::NoDescriptor,
            Some(errno) if ONE.contains(&errno) => AcceptTrouble::OneConnection,
            Some(errno) if BROKEN.contains(&errno) => AcceptTrouble::Broken,
            None if error.kind() == io::ErrorKind::NotConnected => AcceptTrouble::Broken,
            _ => AcceptTrouble::Other,
        }
    }
}

/// Whether a reactor that refuses a listener may take it later: it is short of descriptors or memory, also of what
/// epoll may watch (`ENOSPC`: epoll_ctl(2), `max_user_watches`), or busy (`EAGAIN`, `EBUSY`: io_uring_enter(2)). All else
/// is about the socket or the reactor, and stays so.
pub fn may_be_taken_later(error: &io::Error) -> bool {
    const BUSY: [Errno; 4] = [Errno::NOSPC, Errno::AGAIN, Errno::BUSY, Errno::INTR];
    is_shortage(error) || Errno::from_io_error(error).is_some_and(|errno| BUSY.contains(&errno))
}

/// Whether an error says that this process or the system is short of descriptors or memory: whoever was called is not
/// to blame, and nobody else would do better. Or that a quota of the program's own is used up.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
        || (error.raw_os_error().is_none() && error.kind() == io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_descriptors_closes_clients() {
        let of = |errno: Errno| AcceptTrouble::of(&errno.into());
        assert_eq!(of(Errno::MFILE), AcceptTrouble::NoDescriptor);
        assert_eq!(of(Errno::NFILE), AcceptTrouble::NoDescriptor);
        assert_eq!(of(Errno::CONNABORTED), AcceptTrouble::OneConnection);
        assert_eq!(of(Errno::HOSTUNREACH), AcceptTrouble::OneConnection);
        assert_eq!(of(Errno::NOBUFS), AcceptTrouble::Other);
        assert_eq!(AcceptTrouble::of(&io::Error::other("not the kernel's")), AcceptTrouble::Other);
    }

    #[test]
    fn a_socket_that_does_not_listen_never_will() {
        let of = |errno: Errno| AcceptTrouble::of(&errno.into());
        for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::NOTCONN] {
            assert_eq!(of(errno), AcceptTrouble::Broken);
        }
        assert_eq!(AcceptTrouble::of(&io::ErrorKind::NotConnected.into()), AcceptTrouble::Broken);
    }

    #[test]
    fn what_a_reactor_lacks_now_it_may_have_later() {
        let later = |errno: Errno| may_be_taken_later(&errno.into());
        assert!([Errno::MFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC].into_iter().all(later));
        assert!(![Errno::PERM, Errno::INVAL, Errno::BADF].into_iter().any(later));
        assert!(!may_be_taken_later(&io::ErrorKind::InvalidInput.into()));
    }

    #[test]
    fn a_refusal_is_no_shortage() {
        assert!(
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
                .into_iter()
                .all(|e| is_shortage(&e.into()))
        );
        assert!(
            !is_shortage(&Errno::CONNREFUSED.into()) && !is_shortage(&io::Error::other("not the kernel's"))
        );
    }
}
