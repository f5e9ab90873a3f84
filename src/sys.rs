//! What no crate of ours wraps. The only module with `unsafe`; it must not decide anything.

#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use rustix::fs::{Mode, OFlags, open};

use crate::model::{Pid, Signal};

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
    // SAFETY: whoever calls it runs alone: the only other thread waits for it, and has no lock of std or of the C library.
    match unsafe { libc::fork() } {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Pid(pid))),
    }
}

/// As vfork(2) for a test, by a child that runs no program and ends with the standard input. The calling thread sleeps
/// uninterruptibly until then.
///
/// # Errors
/// clone(2).
#[cfg(test)]
pub(crate) fn vfork_that_waits_for_input() -> io::Result<()> {
    extern "C" fn wait(_: *mut libc::c_void) -> libc::c_int {
        let mut byte = 0_u8;
        // SAFETY: read(2) writes one byte at most, which is there.
        unsafe { libc::read(0, (&raw mut byte).cast(), 1) };
        0
    }
    let mut stack = vec![0_u128; 4096];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child has this stack, from its end down, for as long as it lives, as the caller does not go on before; it
    // makes one system call.
    match unsafe { libc::clone(wait, stack.as_mut_ptr_range().end.cast(), flags, std::ptr::null_mut()) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
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

/// A real-time signal by its number; `None` for any other number.
pub(crate) fn real_time_signal(number: i32) -> Option<rustix::process::Signal> {
    if !Signal::REAL_TIME.contains(&number) {
        return None;
    }
    // SAFETY: the number is a valid one. It is sent to others, and never handled here, where musl keeps 34 for itself.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

/// Lets a write to a closed pipe or socket fail instead of ending the process, as Rust's own start-up would.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is no handler, so nothing of ours ever runs in a signal's context.
    let before = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGPIPE, nix::sys::signal::SigHandler::SigIgn) };
    debug_assert!(before.is_ok(), "SIGPIPE can be ignored: signal(2)");
}

/// Opens the first file of all. Its number is the lowest there is: where that is one of the three standard streams, which
/// whoever has started us has closed, `/dev/null` takes its place, or a message would be written to whatever gets the
/// number later. Rust's own start-up asks for that with a system call of its own.
///
/// # Errors
/// open(2).
pub(crate) fn open_first(path: &Path) -> io::Result<File> {
    let is_standard = |file: &OwnedFd| file.as_raw_fd() <= libc::STDERR_FILENO;
    // Not by the C library: musl's open(3) makes a second system call, for kernels of 2007.
    let first = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    if first.as_ref().is_ok_and(|file| !is_standard(file)) {
        return Ok(first?.into());
    }
    // Its number is the first to be taken.
    drop(first);
    while let Ok(null) = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        && is_standard(&null)
    {
        // It stays open until the exit.
        let _ = null.into_raw_fd();
    }
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Whether a signal is ignored, as whoever has started us may have seen to: nohup(1), a shell with a job in the background.
pub(crate) fn is_ignored(signal: nix::sys::signal::Signal) -> bool {
    let mut present = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `present` has room for what the call writes, and nothing is set.
    let told = unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), present.as_mut_ptr()) };
    // SAFETY: all zeroes are a valid value of it, also where the call has failed.
    told == 0 && unsafe { present.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Ignores a signal, for a test.
#[cfg(test)]
pub(crate) fn ignore(signal: nix::sys::signal::Signal) {
    // SAFETY: SIG_IGN is no handler, so nothing of ours ever runs in a signal's context.
    unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
}

/// Has signals do again what they do by default, for a test: a shell in the background and nohup(1) ignore some.
#[cfg(test)]
pub(crate) fn ignore_none() {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT};
    for signal in [SIGHUP, SIGINT, SIGQUIT] {
        // SAFETY: SIG_DFL is no handler, so nothing of ours ever runs in a signal's context.
        unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }.unwrap();
    }
}

/// Every signal there is. The C library's set of all leaves out those that it keeps for itself, with musl `SIGRTMIN`, which may
/// be the `KillSignal=` of a unit.
pub(crate) fn every_signal() -> nix::sys::signal::SigSet {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it is an array of integers, one bit a signal: every byte of it is written, and any value is one.
    let all = unsafe {
        all.as_mut_ptr().write_bytes(0xff, 1);
        all.assume_init()
    };
    // SAFETY: as above.
    unsafe { nix::sys::signal::SigSet::from_sigset_t_unchecked(all) }
}

/// Lets a child be ended by signals that its parent holds back: it inherits what is blocked, and would keep a unit from
/// stopping. It ends with the thread that starts it: what portguard asks for is nobody's business once it is gone.
pub(crate) fn prepare(command: &mut std::process::Command) {
    let prepare = || {
        every_signal().thread_unblock()?;
        Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?)
    };
    // SAFETY: in the child, between fork(2) and execve(2), it makes two system calls, and touches neither the heap nor a
    // lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, prepare) };
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
        tv_sec: i32::try_from(span.as_secs()).unwrap_or(i32::MAX).into(),
        tv_usec: span.subsec_micros().into(),
    };
    let timer = libc::itimerval { it_interval: interval(again), it_value: interval(first) };
    // SAFETY: `timer` is a valid itimerval that outlives the call; the old value is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

/// Our effective user id, without a system call: execve(2) has left it where getauxval(3) finds it, and nothing in here changes it.
pub(crate) fn euid() -> Option<u32> {
    nix::errno::Errno::clear();
    // SAFETY: getauxval(3) takes any number, and reads what the C library keeps of the start.
    let euid = unsafe { libc::getauxval(libc::AT_EUID) };
    // What is not there reads as 0 as well, with ENOENT.
    u32::try_from(euid).ok().filter(|_| nix::errno::Errno::last_raw() == 0)
}

/// See [`euid`].
pub(crate) fn is_root() -> bool {
    euid() == Some(0)
}

/// In the place of the C library's own: host names are never looked up here (nor are users and groups, which
/// [`crate::observe::users`] reads from `passwd` itself), but zbus could, for a bus over TCP, and so the library's
/// would be in the binary: with glibc 200 KiB, and NSS, which in a static binary loads whatever plugins the host has for a C
/// library of another version; with musl a resolver of its own.
///
/// Each keeps the contract of its manual page, so that no caller has to know: where nothing is found, that is what it says.
mod no_name_service {
    use super::libc;
    use std::ffi::{c_char, c_int};
    use std::ptr;

    // SAFETY: for this and those below: it is named and typed as in netdb.h, pwd.h and grp.h, and nothing else in the
    // program has that name: the linker would refuse a second one.
    // After an error `found` is not looked at: getaddrinfo(3).
    #[unsafe(no_mangle)]
    extern "C" fn getaddrinfo(
        _node: *const c_char,
        _service: *const c_char,
        _hints: *const libc::addrinfo,
        _found: *mut *mut libc::addrinfo,
    ) -> c_int {
        libc::EAI_FAIL
    }

    // SAFETY: as above. It only gets what `getaddrinfo` gave, and that gives nothing.
    #[unsafe(no_mangle)]
    extern "C" fn freeaddrinfo(_found: *mut libc::addrinfo) {}

    // SAFETY: as above.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getpwuid_r(
        _uid: libc::uid_t,
        _entry: *mut libc::passwd,
        _buffer: *mut c_char,
        _length: libc::size_t,
        found: *mut *mut libc::passwd,
    ) -> c_int {
        // zbus looks at this alone.
        // SAFETY: the caller gives the place of a pointer: getpwuid_r(3). It is null after an error as well.
        unsafe { found.write(ptr::null_mut()) };
        libc::ENOENT
    }

    // SAFETY: as above. It has to be here because musl has it in one file with the last one.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getpwnam_r(
        _name: *const c_char,
        entry: *mut libc::passwd,
        buffer: *mut c_char,
        length: libc::size_t,
        found: *mut *mut libc::passwd,
    ) -> c_int {
        // SAFETY: as there.
        unsafe { getpwuid_r(0, entry, buffer, length, found) }
    }

    /// What it says of a user of whom the group file says nothing: the one group that the caller knew.
    // SAFETY: as above.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getgrouplist(
        _user: *const c_char,
        group: libc::gid_t,
        groups: *mut libc::gid_t,
        count: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller gives the place of a number, and of so many groups: getgrouplist(3).
        unsafe {
            let room = count.replace(1);
            if room < 1 {
                return -1;
            }
            groups.write(group);
        }
        1
    }

    // SAFETY: as above. Nobody calls it; it has to be here because glibc has it in one file with the last one.
    #[unsafe(no_mangle)]
    extern "C" fn initgroups(_user: *const c_char, _group: libc::gid_t) -> c_int {
        nix::errno::Errno::ENOSYS.set();
        -1
    }

    #[cfg(test)]
    mod tests {
        use std::net::ToSocketAddrs;

        use nix::errno::Errno;
        use nix::unistd::{Gid, initgroups};

        use super::*;

        #[test]
        fn no_name_is_looked_up() {
            assert!(("localhost", 80).to_socket_addrs().is_err());
            assert_eq!(initgroups(c"root", Gid::from_raw(0)), Err(Errno::ENOSYS));
        }

        #[test]
        fn a_user_that_is_not_found_is_null_whatever_was_there_before() {
            let mut found = ptr::dangling_mut();
            let mut buffer = [0; 64];
            let mut entry = std::mem::MaybeUninit::uninit();
            // SAFETY: all four are valid for the call.
            let error =
                unsafe { libc::getpwuid_r(0, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
            assert_eq!((error, found), (libc::ENOENT, ptr::null_mut()));
        }

        #[test]
        fn a_user_has_the_group_that_the_caller_knew_where_there_is_room_for_it() {
            let mut groups = [0; 2];
            for (room, found, first) in [(2, 1, 7), (1, 1, 7), (0, -1, 0)] {
                let mut count = room;
                groups[0] = 0;
                // SAFETY: there is room for two, and the count says no more than that.
                let said = unsafe { libc::getgrouplist(c"root".as_ptr(), 7, groups.as_mut_ptr(), &raw mut count) };
                assert_eq!((said, count, groups), (found, 1, [first, 0]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;
    use crate::observe::fixture::{Cgroup, Child, Role, assert_holds_in_a_process_of_its_own, is_alone, own_pid};

    #[test]
    fn a_cgroup_is_opened_by_its_number_until_it_is_gone() {
        let cgroup = Cgroup::create("by-number");
        let id = cgroup.dir().metadata().unwrap().ino();
        let mount = std::fs::File::open(cgroup.dir()).unwrap();
        let node = open_kernfs_node(&mount, id).unwrap();
        assert!(node.as_raw_fd() > 2 && fcntl_getfd(&node).unwrap().contains(FdFlags::CLOEXEC));
        assert_eq!(std::fs::File::from(node).metadata().unwrap().ino(), id);
        let error = open_kernfs_node(&mount, u64::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    }

    #[test]
    fn threads_share_their_files_until_one_has_its_own() {
        let thread = || Pid(nix::unistd::gettid().as_raw());
        let shared = std::thread::spawn(move || share_files(own_pid(), thread())).join().unwrap();
        let own = std::thread::spawn(move || {
            unshare_files().unwrap();
            share_files(own_pid(), thread())
        });
        assert_eq!((shared, own.join().unwrap()), (Some(true), Some(false)));
        assert_eq!(share_files(own_pid(), Pid(i32::MAX)), None);
    }

    #[test]
    fn only_what_nptl_leaves_is_a_real_time_signal() {
        for number in [i32::MIN, -1, 0, 15, 32, 33, 65, i32::MAX] {
            assert!(real_time_signal(number).is_none(), "{number}");
        }
        for number in [34, 50, 64] {
            assert_eq!(real_time_signal(number).map(rustix::process::Signal::as_raw), Some(number));
        }
    }

    #[test]
    fn we_are_root_where_the_kernel_says_so() {
        assert_eq!(is_root(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn an_alarm_ends_a_call_that_blocks() {
        let child = Child::spawn(Role::Alarmed, &[]);
        assert_eq!(child.said(), format!("{:?}", rustix::io::Errno::INTR));
    }

    #[test]
    fn a_standard_stream_that_was_closed_is_nobodys_when_the_first_file_is_open() {
        if !is_alone() {
            return;
        }
        for closed in [&[2][..], &[0, 2], &[0, 1, 2], &[1], &[]] {
            assert_holds_in_a_process_of_its_own(|| {
                for stream in closed {
                    nix::unistd::close(*stream).unwrap();
                }
                let first = open_first(Path::new("/proc/self/cgroup"));
                let is_null = |stream: &i32| {
                    let open = std::fs::read_link(format!("/proc/self/fd/{stream}"));
                    open.is_ok_and(|path| path == Path::new("/dev/null"))
                };
                assert!(first.is_ok_and(|first| first.as_raw_fd() > 2) && closed.iter().all(is_null), "{closed:?}");
            });
        }
    }

    #[test]
    fn whoever_writes_to_a_closed_pipe_lives_on() {
        if !is_alone() {
            return;
        }
        ignore_sigpipe();
        let (read, mut write) = std::io::pipe().unwrap();
        drop(read);
        let error = std::io::Write::write_all(&mut write, b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
