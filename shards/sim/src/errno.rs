//! The system's numbers of the errors that a simulated network gives (errno(3); they are the same on all of Linux's
//! architectures that Rust has a standard library for, but MIPS and SPARC).

use std::io;

pub(crate) const NOENT: i32 = 2;
pub(crate) const BUSY: i32 = 16;
pub(crate) const INVAL: i32 = 22;
pub(crate) const MFILE: i32 = 24;
pub(crate) const PIPE: i32 = 32;
pub(crate) const DESTADDRREQ: i32 = 89;
pub(crate) const MSGSIZE: i32 = 90;
pub(crate) const ADDRINUSE: i32 = 98;
pub(crate) const ADDRNOTAVAIL: i32 = 99;
pub(crate) const NETUNREACH: i32 = 101;
pub(crate) const CONNABORTED: i32 = 103;
pub(crate) const CONNRESET: i32 = 104;
pub(crate) const NOTCONN: i32 = 107;
pub(crate) const TIMEDOUT: i32 = 110;
pub(crate) const CONNREFUSED: i32 = 111;
pub(crate) const HOSTUNREACH: i32 = 113;

pub(crate) fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
