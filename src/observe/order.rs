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

/// When a process has its turn: first those of the `users` whose sockets are looked for, then those of the system and of services,
/// and people last, as one of them can have millions of files open.
///
/// It is told by the real user, which a program that gets another's rights of its file leaves as it is, and by the slice of a user's
/// sessions and manager, which nobody but root leaves; what of these cannot be read belongs to people. Neither file hangs with a
/// process that hangs in execve(2).
pub(super) fn turn(proc: &Path, pid: Pid, users: &BTreeSet<u32>) -> u8 {
    let folder = proc.join(pid.to_string());
    let is_systems = |uid: &u32| SYSTEM.iter().any(|range| range.contains(uid));
    let is_in_order = |uid: &u32| users.contains(uid) || is_systems(uid);
    let Some(uid) = proc::real_user(&folder) else { return 2 };
    let of_slice = proc::cgroup_of(&folder).map(|path| cgroup::users_of_slices(&path));
    match of_slice {
        Some(above) if above.iter().all(is_in_order) && users.contains(&uid) => 0,
        Some(above) if above.iter().all(is_in_order) && is_systems(&uid) => 1,
        Some(_) | None => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_come_last_whatever_rights_their_programs_get() {
        let proc = tempfile::tempdir().unwrap();
        for (real, effective, cgroup, turns) in [
            (0, 0, "/system.slice/app.service", [0, 1]),
            (33, 33, "/system.slice/app.service", [1, 0]),
            (61_184, 61_184, "/system.slice/app.service", [1, 1]),
            (1000, 1000, "/system.slice/app.service", [2, 2]),
            // su(1), and what has root's rights altogether, in a session.
            (1000, 0, "/system.slice/cron.service", [2, 2]),
            (0, 0, "/user.slice/user-1000.slice/session-2.scope", [2, 2]),
            (0, 0, "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", [2, 2]),
            // What has left its service by su(1).
            (33, 33, "/user.slice/user-33.slice/session-c1.scope", [1, 0]),
            (0, 0, "/user.slice/user-0.slice/session-1.scope", [0, 1]),
        ] {
            let folder = proc.path().join("7");
            std::fs::create_dir_all(&folder).unwrap();
            let ids = format!("{real}\t{effective}\t{effective}\t{effective}");
            std::fs::write(folder.join("status"), format!("Name:\ta\nUid:\t{ids}\n")).unwrap();
            std::fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
            let seen = [0, 33].map(|uid| turn(proc.path(), Pid(7), &BTreeSet::from([uid])));
            assert_eq!(seen, turns, "{real} {effective} {cgroup}");
            assert_eq!(turn(proc.path(), Pid(8), &BTreeSet::from([0])), 2);
        }
        let own = BTreeSet::from([1000]);
        assert_eq!(turn(proc.path(), Pid(7), &own), 1);
        std::fs::write(proc.path().join("7/status"), "Name:\ta\nUid:\t1000\t1000\t1000\t1000\n").unwrap();
        std::fs::write(proc.path().join("7/cgroup"), "0::/user.slice/user-1000.slice/session-2.scope\n").unwrap();
        assert_eq!(turn(proc.path(), Pid(7), &own), 0);
    }
}
