//! Processes that are pinned before they are looked at, and stay so until it is known what to do about them: a number
//! can be given to another process at any time, and a moment of start has a hundredth of a second for its smallest part.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Resource, getrlimit, pidfd_open, setrlimit};
use rustix::time::Timespec;

use crate::model::Pid;

/// What else is open meanwhile: sockets, folders, and what each thread has that hangs.
const OTHERS: usize = 256;

/// Lets so many be pinned, as far as it may: the soft limit of open files is 1024 as systemd has it, and the hard one half a
/// million (`DefaultLimitNOFILE=`, systemd-system.conf(5)).
pub(super) fn make_room(pins: usize) {
    let limit = getrlimit(Resource::Nofile);
    let suffices = |soft| u64::try_from(pins + OTHERS).is_ok_and(|needed| needed <= soft);
    if !limit.current.is_none_or(suffices) {
        // Without, those that cannot be pinned are not signalled.
        let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
    }
}

/// A pidfd for each process of a look, or why there is none.
#[derive(Debug, Default)]
pub struct Pins(HashMap<Pid, Result<OwnedFd, Errno>>);

impl Pins {
    /// Pins a process; whether it was there.
    pub fn add(&mut self, pid: Pid) -> bool {
        let Some(raw) = rustix::process::Pid::from_raw(pid.0) else { return false };
        match pidfd_open(raw, PidfdFlags::empty()) {
            Err(Errno::SRCH) => false,
            opened => {
                self.0.insert(pid, opened);
                true
            }
        }
    }

    /// The pidfd of a process of this look.
    ///
    /// # Errors
    /// `ENOSYS`: the kernel has none (before Linux 5.3); `EPERM`: a seccomp filter; `EMFILE`: too many; `ESRCH`: it is not
    /// of this look.
    pub fn of(&self, pid: Pid) -> Result<BorrowedFd<'_>, Errno> {
        match self.0.get(&pid) {
            Some(Ok(pidfd)) => Ok(pidfd.as_fd()),
            Some(Err(errno)) => Err(*errno),
            None => Err(Errno::SRCH),
        }
    }
}

/// Whether a pinned process has ended: then a pidfd can be read (`pidfd_open(2)`). What cannot be told counts as ended.
#[must_use]
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)) != Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixture::{Child, Role};

    #[test]
    fn a_process_is_pinned_until_it_has_ended_and_never_becomes_another() {
        let child = Child::spawn(Role::Listen, &[]);
        let mut pins = Pins::default();
        assert!(pins.add(child.pid()));
        assert!(!has_ended(pins.of(child.pid()).unwrap()));
        let pid = child.pid();
        drop(child);
        assert!(has_ended(pins.of(pid).unwrap()));
        assert_eq!(pins.of(Pid(pid.0 + 1)).unwrap_err(), Errno::SRCH);
        assert!(!Pins::default().add(Pid(0)));
    }
}
