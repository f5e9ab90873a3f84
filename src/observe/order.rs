//! In which order processes are looked at where that takes long.
//!
//! It owns the ranks, and what they are told by. They are no proof of anything: whoever has a wrong one is looked at sooner or
//! later, as everybody else.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

use super::{cgroup, proc};
use crate::model::Pid;

/// Users of the system and of its services, and those that systemd makes for a service (systemd v257 `docs/UIDS-GIDS.md`).
const SYSTEM: [RangeInclusive<u32>; 2] = [0..=999, 61_184..=65_519];

/// When each process has its turn: first those in the cgroups of whoever was found, then those of the users whose sockets are looked
/// for, then those of the system and of services, and people last, as one of them can have millions of files open.
///
/// It is told by the real user, which a program that gets another's rights of its file leaves as it is, and by the slice of a user's
/// sessions and manager, which nobody but root leaves; what of these cannot be read belongs to people. Neither file hangs with a
/// process that hangs in execve(2).
pub(super) struct Turns<'a> {
    proc: &'a Path,
    users: &'a BTreeSet<u32>,
    cgroups: BTreeSet<String>,
}

impl<'a> Turns<'a> {
    /// `users`: who has made the sockets; `found`: who has had one of them.
    pub(super) fn new(proc: &'a Path, users: &'a BTreeSet<u32>, found: &BTreeSet<Pid>) -> Self {
        let cgroup = |pid: &Pid| proc::cgroup_of(&proc.join(pid.to_string())).map(|path| path.0);
        Self { proc, users, cgroups: found.iter().filter(|pid| **pid != Pid::INIT).filter_map(cgroup).collect() }
    }

    pub(super) fn of(&self, pid: Pid) -> u8 {
        let folder = self.proc.join(pid.to_string());
        let (Some(uid), Some(cgroup)) = (proc::real_user(&folder), proc::cgroup_of(&folder)) else { return 3 };
        let is_systems = |uid: &u32| SYSTEM.iter().any(|range| range.contains(uid));
        let is_peoples = |uid: &u32| !self.users.contains(uid) && !is_systems(uid);
        match uid {
            _ if self.cgroups.contains(&cgroup.0) => 0,
            _ if cgroup::users_of_slices(&cgroup).iter().any(is_peoples) => 3,
            uid if self.users.contains(&uid) => 1,
            uid if is_systems(&uid) => 2,
            _ => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_come_last_whatever_rights_their_programs_get() {
        let proc = tempfile::tempdir().unwrap();
        let write = |pid: u32, real: u32, effective: u32, cgroup: &str| {
            let folder = proc.path().join(pid.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            let ids = format!("{real}\t{effective}\t{effective}\t{effective}");
            std::fs::write(folder.join("status"), format!("Name:\ta\nUid:\t{ids}\n")).unwrap();
            std::fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        };
        let of = |pid, uid, found: &[i32]| {
            let (users, found) = (BTreeSet::from([uid]), found.iter().copied().map(Pid).collect());
            Turns::new(proc.path(), &users, &found).of(Pid(pid))
        };
        for (real, effective, cgroup, turns) in [
            (0, 0, "/system.slice/app.service", [1, 2]),
            (33, 33, "/system.slice/app.service", [2, 1]),
            (61_184, 61_184, "/system.slice/app.service", [2, 2]),
            (1000, 1000, "/system.slice/app.service", [3, 3]),
            // su(1), and what has root's rights altogether, in a session.
            (1000, 0, "/system.slice/cron.service", [3, 3]),
            (0, 0, "/user.slice/user-1000.slice/session-2.scope", [3, 3]),
            (0, 0, "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", [3, 3]),
            // What has left its service by su(1).
            (33, 33, "/user.slice/user-33.slice/session-c1.scope", [2, 1]),
            (0, 0, "/user.slice/user-0.slice/session-1.scope", [1, 2]),
        ] {
            write(7, real, effective, cgroup);
            assert_eq!([0, 33].map(|uid| of(7, uid, &[])), turns, "{real} {effective} {cgroup}");
        }
        // Of whom nothing can be read.
        assert_eq!(of(8, 0, &[]), 3);
        // A person's own socket; and who is beside somebody who was found.
        write(7, 1000, 1000, "/user.slice/user-1000.slice/session-2.scope");
        write(9, 1001, 1001, "/user.slice/user-1000.slice/session-2.scope");
        write(1, 0, 0, "/system.slice/app.service");
        write(10, 0, 0, "/system.slice/app.service");
        assert_eq!((of(7, 1000, &[]), of(7, 0, &[9]), of(7, 0, &[1]), of(10, 33, &[1])), (1, 0, 3, 2));
    }
}
