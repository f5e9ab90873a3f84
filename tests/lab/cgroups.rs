//! One cgroup a machine on the host, in each hierarchy that systemd-nspawn writes to.
//!
//! systemd-nspawn makes `supervisor` and `payload` below the cgroup it is started in and leaves them behind. With a
//! cgroup of its own, machines do not meet there, and what is left can be found and removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, process, thread};

const PREFIX: &str = "portguard-lab-";

/// The cgroup of one machine; removed with all below it on drop.
pub(crate) struct MachineCgroup {
    /// Unique on this host as long as this process lives.
    pub(crate) name: String,
    /// The same cgroup in the cgroup2 hierarchy and, where there is one, in systemd's own v1 hierarchy.
    pub(crate) dirs: Vec<PathBuf>,
}

impl MachineCgroup {
    /// Makes the cgroup, and removes those of test processes that were killed.
    pub(crate) fn create() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));

        let parents = own_cgroups().map_err(|error| format!("no cgroup for a machine: {error}"))?;
        let mut cgroup = Self { name, dirs: Vec::new() };
        for parent in parents {
            sweep(&parent);
            let dir = parent.join(&cgroup.name);
            fs::create_dir(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
            cgroup.dirs.push(dir);
        }
        Ok(cgroup)
    }
}

impl Drop for MachineCgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment after it was reaped. What stays is swept by the next run.
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.dirs.iter().all(|dir| remove(dir)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes what test processes left that are no more. A cgroup that still has a process cannot be removed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// Removes a cgroup, the deepest first; whether it is gone.
fn remove(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

/// Where this process's own cgroups are mounted: always cgroup2's, and systemd's v1 hierarchy where there is one.
fn own_cgroups() -> io::Result<Vec<PathBuf>> {
    let memberships = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;

    let unified = mounted_cgroup(&memberships, "", &mounts, |kind, _| kind == "cgroup2");
    let is_systemds = |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|o| o == "name=systemd");
    let systemds = mounted_cgroup(&memberships, "name=systemd", &mounts, is_systemds);

    let missing = || io::Error::other("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup");
    Ok([unified.ok_or_else(missing)?].into_iter().chain(systemds).collect())
}

/// Joins a line of /proc/self/cgroup (`0::/a`, `9:name=systemd:/b`) with the mount of its hierarchy.
fn mounted_cgroup(
    memberships: &str,
    hierarchy: &str,
    mounts: &str,
    is_it: impl Fn(&str, &str) -> bool,
) -> Option<PathBuf> {
    let path = memberships.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.strip_prefix(hierarchy)?.strip_prefix(':')
    })?;
    mounts.lines().find_map(|line| {
        // id parent dev ROOT MOUNTPOINT options … - FSTYPE source SUPEROPTIONS (proc(5))
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, mountpoint) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
        // A mount may show only a part of its hierarchy: ROOT is what it shows.
        let below = path.strip_prefix(root.trim_end_matches('/')).filter(|_| is_it(kind, options))?;
        Some(Path::new(mountpoint).join(below.trim_start_matches('/')))
    })
}
