//! What an error of accept(2) is about: one connection, this process, or the system.

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
    /// No memory, or something that should not happen: rest, clients wait.
    Other,
}

impl AcceptTrouble {
    /// Of an error. Network errors that are already pending on the new socket come from accept itself (accept(2)).
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
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => AcceptTrouble::NoDescriptor,
            Some(errno) if ONE.contains(&errno) => AcceptTrouble::OneConnection,
            _ => AcceptTrouble::Other,
        }
    }
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
