//! What containers do to system calls.

use std::ffi::{c_long, c_ulong};
use std::io;

/// What a filter does to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Fails(i32),
    Kills,
}

/// Filters this call of this thread, and of those that it starts from now on (seccomp(2)).
pub(crate) fn filter(call: c_long, verdict: Verdict) {
    let action = match verdict {
        Verdict::Fails(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
        Verdict::Kills => libc::SECCOMP_RET_KILL_PROCESS,
    };
    let does = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    // The number is the first word. The calls of io_uring have the same ones on all architectures.
    let mut program = [
        does(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        does(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        does(libc::BPF_RET | libc::BPF_K, 0, action),
        does(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (one, none): (c_ulong, c_ulong) = (1, 0);
    // SAFETY: the kernel copies the program, whose length is given, before the call returns.
    let answers = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, none, none, none),
            libc::prctl(libc::PR_SET_SECCOMP, c_ulong::from(libc::SECCOMP_MODE_FILTER), &raw const program),
        ]
    };
    assert_eq!(answers, [0, 0], "{}", io::Error::last_os_error());
}
