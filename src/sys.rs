//! What no crate of ours wraps. The only module with `unsafe`; it must not decide anything.

#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;

use crate::model::Pid;

/// The type of a kernfs file handle: the 64-bit node id (`FILEID_KERNFS`, Linux 5.5 `include/linux/exportfs.h`).
const FILEID_KERNFS: libc::c_int = 0xfe;

/// `struct file_handle` (`open_by_handle_at(2)`) with room for the 8 bytes of a kernfs node id.
#[repr(C)]
struct KernfsHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    node_id: [u8; 8],
}

/// Opens (`O_PATH`) the kernfs node of this id on the file system on which `mount` is open.
///
/// # Errors
/// `ESTALE`: there is no such node any more. `EPERM`: no `CAP_DAC_READ_SEARCH`.
pub(crate) fn open_kernfs_node(mount: impl AsFd, node_id: u64) -> io::Result<OwnedFd> {
    let mut handle = KernfsHandle { handle_bytes: 8, handle_type: FILEID_KERNFS, node_id: node_id.to_ne_bytes() };
    let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY;
    // SAFETY: `handle` has the layout of `struct file_handle` with `handle_bytes` bytes behind its header, it
    // outlives the call, and the kernel only reads it; the descriptor of `mount` is open for as long as it is borrowed.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_fd().as_raw_fd(),
            std::ptr::from_mut(&mut handle).cast::<libc::file_handle>(),
            flags,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether two threads share one table of open files (kcmp(2), `KCMP_FILES`).
/// `None` where the kernel does not tell (no `CONFIG_KCMP`, no permission, one of them gone).
pub(crate) fn share_files(one: Pid, other: Pid) -> Option<bool> {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: kcmp(2) with KCMP_FILES takes five integers, touches no memory of ours, and ignores the last two.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one.0, other.0, KCMP_FILES, 0_u64, 0_u64) };
    match order {
        ..0 => None,
        0 => Some(true),
        1.. => Some(false),
    }
}

/// Ends the calling thread alone, as no safe Rust can, so that a test has a process without its first thread.
#[cfg(test)]
pub(crate) fn end_this_thread() -> ! {
    // SAFETY: exit(2), not exit_group(2), touches no memory; nothing on this thread's stack is used by another thread,
    // and nobody waits for it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("exit(2) does not return")
}

/// Forks for a test, so that the calling thread is the first of a new process; `None` in that one.
///
/// # Errors
/// fork(2).
#[cfg(test)]
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: of the new process's libc only what glibc makes usable after a fork of a process with threads is used:
    // the allocator, threads, files and sockets. No lock of ours is held here.
    match unsafe { libc::fork() } {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Pid(pid))),
    }
}

/// Gives the calling thread a table of open files of its own, for a test.
///
/// # Errors
/// unshare(2).
#[cfg(test)]
pub(crate) fn unshare_files() -> io::Result<()> {
    // SAFETY: unshare(2) takes a number and touches no memory of ours; the descriptors of this thread stay open.
    match unsafe { libc::unshare(libc::CLONE_FILES) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An MPTCP socket of IPv4, for a test; neither nix nor std has the protocol.
///
/// # Errors
/// socket(2).
#[cfg(test)]
pub(crate) fn mptcp_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes three numbers and touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A real-time signal by its number, those above nptl(7)'s; `None` for any other number.
pub(crate) fn real_time_signal(number: i32) -> Option<rustix::process::Signal> {
    if !(libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number) {
        return None;
    }
    // SAFETY: the number is a valid one, and none of those that the C library keeps for itself.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

/// Lets a write to a closed pipe or socket fail instead of ending the process, as Rust's own start-up would.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is no handler, so nothing of ours ever runs in a signal's context.
    let before = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGPIPE, nix::sys::signal::SigHandler::SigIgn) };
    debug_assert!(before.is_ok(), "SIGPIPE can be ignored: signal(2)");
}

/// From now on, a system call in which the main thread blocks fails with `EINTR` after `patience`, until
/// [`disarm_alarm`].
///
/// The signal comes again and again, in case it came just before the call. It interrupts whatever the main thread does
/// meanwhile, so nothing but that call belongs in between.
pub(crate) fn arm_alarm(patience: Duration) {
    static HANDLED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    extern "C" fn nothing(_signal: libc::c_int) {}
    let handled = *HANDLED.get_or_init(|| {
        let action = nix::sys::signal::SigAction::new(
            nix::sys::signal::SigHandler::Handler(nothing),
            // Without SA_RESTART: the call is to fail.
            nix::sys::signal::SaFlags::empty(),
            nix::sys::signal::SigSet::empty(),
        );
        let alarm = nix::sys::signal::SIGALRM;
        // SAFETY: the handler does nothing, which is safe in a signal's context.
        let handled = unsafe { nix::sys::signal::sigaction(alarm, &action) }.is_ok();
        // Whoever called us may have it blocked, and that is inherited.
        handled && nix::sys::signal::SigSet::from_iter([alarm]).thread_unblock().is_ok()
    });
    // Without a handler it would end us.
    if handled {
        set_alarm(patience, Duration::from_millis(10));
    }
}

/// Takes the alarm back.
pub(crate) fn disarm_alarm() {
    set_alarm(Duration::ZERO, Duration::ZERO);
}

fn set_alarm(first: Duration, again: Duration) {
    let interval = |span: Duration| libc::timeval {
        tv_sec: span.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_usec: span.subsec_micros().into(),
    };
    let timer = libc::itimerval { it_interval: interval(again), it_value: interval(first) };
    // SAFETY: `timer` is a valid itimerval that outlives the call; the old value is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

/// Whether we are root, without a system call: execve(2) has left it where getauxval(3) finds it, and nothing in here
/// changes it.
pub(crate) fn is_root() -> bool {
    nix::errno::Errno::clear();
    // SAFETY: getauxval(3) takes any number, and reads what the C library keeps of the start.
    let euid = unsafe { libc::getauxval(libc::AT_EUID) };
    // What is not there reads as 0 as well, with ENOENT.
    euid == 0 && nix::errno::Errno::last_raw() == 0
}

/// In the place of the C library's own: host names are never looked up here (nor are users and groups, which
/// [`crate::observe::users`] reads from `passwd` itself), but zbus could, for a bus over TCP, and so the library's
/// would be in the binary: 200 KiB, and NSS, which in a static binary loads whatever plugins the host has for a C
/// library of another version.
mod no_name_service {
    use super::libc;
    use std::ffi::{c_char, c_int};

    // SAFETY: for this and those below: it is named and typed as in netdb.h, pwd.h and grp.h, and nobody relies on
    // more than that it can fail.
    #[unsafe(no_mangle)]
    extern "C" fn getaddrinfo(
        _node: *const c_char,
        _service: *const c_char,
        _hints: *const libc::addrinfo,
        _found: *mut *mut libc::addrinfo,
    ) -> c_int {
        libc::EAI_FAIL
    }

    // SAFETY: as above; there is nothing to free.
    #[unsafe(no_mangle)]
    extern "C" fn freeaddrinfo(_found: *mut libc::addrinfo) {}

    // SAFETY: as above. An error leaves the result as it was: `null` with every caller that checks it alone.
    #[unsafe(no_mangle)]
    extern "C" fn getpwuid_r(
        _uid: libc::uid_t,
        _entry: *mut libc::passwd,
        _buffer: *mut c_char,
        _length: libc::size_t,
        _found: *mut *mut libc::passwd,
    ) -> c_int {
        libc::ENOENT
    }

    // SAFETY: as above.
    #[unsafe(no_mangle)]
    extern "C" fn getgrouplist(
        _user: *const c_char,
        _group: libc::gid_t,
        _groups: *mut libc::gid_t,
        _count: *mut c_int,
    ) -> c_int {
        -1
    }

    // SAFETY: as above. Nobody calls it; it has to be here because the library has it in one file with the last one.
    #[unsafe(no_mangle)]
    extern "C" fn initgroups(_user: *const c_char, _group: libc::gid_t) -> c_int {
        -1
    }

    #[cfg(test)]
    mod tests {
        use std::net::ToSocketAddrs;

        #[test]
        fn no_name_is_looked_up() {
            assert!(("localhost", 80).to_socket_addrs().is_err());
        }
    }
}
