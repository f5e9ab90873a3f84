//! Which unit a cgroup is, by systemd's own rules, and where a cgroup is in the file system.
//!
//! The rules are pure functions of a path; the openers look at the cgroup2 mount alone. It must not read processes,
//! nor ask the service manager, whose word counts for more.
//!
//! Source of the rules: systemd v257 `src/basic/cgroup-util.c` (`cg_path_get_unit()`, `cg_path_get_user_unit()`,
//! `cg_path_get_session()`, `cg_unescape()`) and `src/basic/user-util.c` (`parse_uid()`).

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::statfs;

use super::proc::{open_dir, read_file};
use crate::model::{CgroupId, CgroupPath, Owner, Session, UnitName};
use crate::sys;

/// `CGROUP2_SUPER_MAGIC`, Linux `include/uapi/linux/magic.h`.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// At most so many cgroups are looked at where an id cannot be looked up.
const WALK_CGROUPS: usize = 20_000;
/// Of so many cgroups it is asked where they are.
pub(super) const MOST_BIRTHS: usize = 4096;

/// Whose processes of this cgroup are, as far as its path tells.
///
/// A path that leaves our cgroup namespace (`/..`) is [`Owner::Unknown`]. Whoever a cgroup was delegated to names what
/// is below it, so only the first unit of the path counts, and the second below a user's manager.
#[must_use]
pub fn owner_of(path: &CgroupPath) -> Owner {
    Reading::of(path).map_or(Owner::Unknown, |reading| reading.owner)
}

/// The part of the path that is the unit's own cgroup (of a user's unit, a session's scope, PID 1's scope).
/// `None` if it is in no unit.
#[must_use]
pub fn unit_cgroup(path: &CgroupPath) -> Option<CgroupPath> {
    let reading = Reading::of(path)?;
    reading.unit_end.map(|end| CgroupPath(path.0[..end].to_owned()))
}

/// What a path says.
struct Reading {
    owner: Owner,
    /// The byte at which the unit's own cgroup ends.
    unit_end: Option<usize>,
}

impl Reading {
    /// `None` for a path that is not one of our cgroup namespace.
    fn of(path: &CgroupPath) -> Option<Self> {
        if !path.0.starts_with('/') || path.0.split('/').any(|part| part == "..") {
            return None;
        }
        let Some(first) = first_unit(&path.0, 0) else { return Some(Self { owner: Owner::Nobody, unit_end: None }) };
        if let Some(uid) = user_manager(first.part)
            && let Some(second) = first_unit(&path.0, first.end)
        {
            return Some(Self { owner: Owner::UserUnit { uid, unit: second.unit }, unit_end: Some(second.end) });
        }
        let owner = if let Some(id) = session(&first.unit.to_string()) {
            Owner::Session(Session { id })
        } else if &path.0[..first.end] == "/init.scope" {
            Owner::Init
        } else {
            Owner::Unit(first.unit)
        };
        Some(Self { owner, unit_end: Some(first.end) })
    }
}

/// A part of a path that is a unit.
struct UnitPart<'a> {
    unit: UnitName,
    part: &'a str,
    /// The byte at which it ends in the path.
    end: usize,
}

/// The first part behind byte `from` that is no slice, if that is a unit (`skip_slices()`, `cg_path_decode_unit()`).
fn first_unit(path: &str, from: usize) -> Option<UnitPart<'_>> {
    let mut begin = from;
    loop {
        begin += path[begin..].len() - path[begin..].trim_start_matches('/').len();
        let end = path[begin..].find('/').map_or(path.len(), |length| begin + length);
        let part = &path[begin..end];
        if !is_slice(part) {
            let unit = running_unit(unescape(part)).filter(|_| part.len() >= 3)?;
            return (!is_slice_name(&unit)).then_some(UnitPart { unit, part, end });
        }
        begin = end;
    }
}

/// systemd puts a `_` before a name that the kernel might use itself, such as `cgroup.service` (`cg_escape()`).
fn unescape(part: &str) -> &str {
    part.strip_prefix('_').unwrap_or(part)
}

/// `valid_slice_name()`: slices are never instances.
fn is_slice(part: &str) -> bool {
    let name = unescape(part);
    part.len() >= "x.slice".len() && !name.contains('@') && running_unit(name).is_some_and(|unit| is_slice_name(&unit))
}

fn is_slice_name(unit: &UnitName) -> bool {
    unit.to_string().rsplit_once('.').is_some_and(|(_, suffix)| suffix == "slice")
}

/// A unit name that can have a cgroup: a template (`a@.service`) cannot.
fn running_unit(name: &str) -> Option<UnitName> {
    let (stem, _) = name.rsplit_once('.')?;
    let is_template = stem.find('@').is_some_and(|at| at + 1 == stem.len());
    if is_template { None } else { name.parse().ok() }
}

/// The user of `user@UID.service` (`skip_user_manager()`, which does not unescape).
fn user_manager(part: &str) -> Option<u32> {
    parse_uid(part.strip_prefix("user@")?.strip_suffix(".service")?)
}

/// The users in whose slices a cgroup is: `user-UID.slice`.
pub(super) fn users_of_slices(path: &CgroupPath) -> Vec<u32> {
    path.0.split('/').filter_map(|part| parse_uid(part.strip_prefix("user-")?.strip_suffix(".slice")?)).collect()
}

/// Decimal, without sign or leading zeros, and neither of the two that mean "no user" (`uid_is_valid()`).
fn parse_uid(text: &str) -> Option<u32> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let uid: u32 = text.parse().ok()?;
    (canonical && uid != u32::MAX && uid != 0xffff).then_some(uid)
}

/// The N of `session-N.scope` (`session_id_valid()`: letters and digits).
fn session(unit: &str) -> Option<String> {
    let id = unit.strip_prefix("session-")?.strip_suffix(".scope")?;
    let valid = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    valid.then(|| id.to_owned())
}

/// Why the cgroup file system could not be looked at.
#[derive(Debug)]
pub enum CgroupError {
    /// No cgroup2 is mounted here.
    NoMount,
    /// Something could not be read.
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for CgroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMount => f.write_str("no cgroup2 file system is mounted"),
            Self::Read { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for CgroupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoMount => None,
            Self::Read { source, .. } => Some(source),
        }
    }
}

/// A mount of cgroup2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its mount point.
    dir: PathBuf,
    /// The cgroup that is mounted there: `/`, but for a part of the tree in a container.
    root: CgroupPath,
}

impl Mount {
    /// Its mount point: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of a cgroup; `None` if it lies outside of what is mounted.
    #[must_use]
    pub fn dir_of(&self, path: &CgroupPath) -> Option<PathBuf> {
        if !path.is_within(&self.root) {
            return None;
        }
        let below = Path::new(path.0[self.root.0.trim_end_matches('/').len()..].trim_start_matches('/'));
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        plain.then(|| self.dir.join(below))
    }

    /// The cgroup whose directory it is; `None` if it is not below this mount, or its name is not UTF-8.
    fn path_at(&self, dir: &Path) -> Option<CgroupPath> {
        let below = dir.strip_prefix(&self.dir).ok()?.to_str()?;
        let root = self.root.0.trim_end_matches('/');
        Some(CgroupPath(if below.is_empty() && !root.is_empty() { root.to_owned() } else { format!("{root}/{below}") }))
    }
}

/// Where cgroup2 is mounted: at `usual` (`/sys/fs/cgroup`) if the root of the tree is there, else where
/// `/proc/self/mountinfo` says.
///
/// # Errors
/// It is not mounted, or `mountinfo` cannot be read.
pub fn mount(proc: &Path, usual: &Path) -> Result<Mount, CgroupError> {
    let is_cgroup2 = statfs(usual).is_ok_and(|stat| stat.f_type == CGROUP2_SUPER_MAGIC);
    if is_cgroup2 && id_of(usual).is_ok_and(|id| id == CgroupId::ROOT) {
        return Ok(Mount { dir: usual.to_owned(), root: CgroupPath("/".to_owned()) });
    }
    let path = proc.join("self/mountinfo");
    let bytes = read_file(&path).map_err(|source| CgroupError::Read { path, source })?;
    parse_mountinfo(&bytes).ok_or(CgroupError::NoMount)
}

/// The mount of the root of cgroup2, else the first of a part of it (`proc_pid_mountinfo(5)`). One whose root is outside
/// our cgroup namespace (`/..`) is of no use: paths of `/proc/PID/cgroup` do not lead anywhere in it.
fn parse_mountinfo(bytes: &[u8]) -> Option<Mount> {
    let lines = bytes.split(|&byte| byte == b'\n');
    let mounts: Vec<Mount> = lines.filter_map(parse_mount).filter(|mount| !mount.root.0.contains("/..")).collect();
    mounts.iter().find(|mount| mount.root.0 == "/").or(mounts.first()).cloned()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    if *fields.get(separator + 1)? != b"cgroup2" {
        return None;
    }
    let root = String::from_utf8(unescape_octal(fields.get(3)?)).ok()?;
    let dir = OsString::from_vec(unescape_octal(fields.get(4)?)).into();
    Some(Mount { dir, root: CgroupPath(root) })
}

/// The kernel writes space, tab, newline and backslash as `\ooo` (`show_mountinfo()`, `fs/proc_namespace.c`).
fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\');
        plain.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    plain
}

/// The id of the cgroup of this directory: its inode number (Linux 5.5 and later on 64-bit machines).
///
/// # Errors
/// The directory is not there, or cannot be looked at.
pub fn id_of(dir: &Path) -> Result<CgroupId, CgroupError> {
    let metadata = std::fs::metadata(dir).map_err(|source| CgroupError::Read { path: dir.to_owned(), source })?;
    Ok(CgroupId(metadata.ino()))
}

/// The id of the cgroup of this path, found where the hierarchy usually is: at `usual` (`/sys/fs/cgroup`), or on hybrid
/// hosts in `unified` below it. `None` if it is at neither.
#[must_use]
pub fn id_at_usual_place(usual: &Path, path: &CgroupPath) -> Option<CgroupId> {
    let below = path.0.trim_start_matches('/');
    [usual.join(below), usual.join("unified").join(below)]
        .iter()
        .find(|dir| statfs(dir.as_path()).is_ok_and(|stat| stat.f_type == CGROUP2_SUPER_MAGIC))
        .and_then(|dir| id_of(dir).ok())
}

/// Where these cgroups are, as far as they are there and can be found: by `open_by_handle_at(2)`, which needs
/// `CAP_DAC_READ_SEARCH`; where that may not be, by one walk of the tree for all of them. Of 4096, and no more.
///
/// `proc` is the mount of procfs.
#[must_use]
pub fn paths_of(proc: &Path, mount: &Mount, ids: &BTreeSet<CgroupId>) -> HashMap<CgroupId, CgroupPath> {
    let mut paths = HashMap::new();
    let mut left = BTreeSet::new();
    for &id in ids.iter().take(MOST_BIRTHS) {
        match open_dir(&mount.dir).and_then(|dir| sys::open_kernfs_node(&dir, id.0)) {
            Ok(node) => paths.extend(path_of_node(proc, mount, &node, id).map(|path| (id, path))),
            Err(error) if error.raw_os_error() == Some(Errno::ESTALE as i32) => {}
            Err(_) => {
                left.insert(id);
            }
        }
    }
    paths.extend(walk(mount, left, WALK_CGROUPS));
    paths
}

/// The answer is tried: a node outside of what is mounted has a path that leads elsewhere.
fn path_of_node(proc: &Path, mount: &Mount, node: &OwnedFd, id: CgroupId) -> Option<CgroupPath> {
    let dir = std::fs::read_link(proc.join(format!("self/fd/{}", node.as_raw_fd()))).ok()?;
    mount.path_at(&dir).filter(|_| id_of(&dir).is_ok_and(|found| found == id))
}

/// Looks at so many cgroups at `most`, and at no more than it takes to find all of them.
fn walk(mount: &Mount, mut wanted: BTreeSet<CgroupId>, most: usize) -> HashMap<CgroupId, CgroupPath> {
    let mut paths = HashMap::new();
    if !wanted.is_empty()
        && let Ok(root) = id_of(&mount.dir)
        && wanted.remove(&root)
    {
        paths.insert(root, mount.root.clone());
    }
    let mut below = vec![mount.dir.clone()];
    let mut seen = 0;
    while !wanted.is_empty()
        && seen < most
        && let Some(dir) = below.pop()
    {
        seen += 1;
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let id = CgroupId(entry.ino());
            if wanted.remove(&id) {
                paths.extend(mount.path_at(&entry.path()).map(|path| (id, path)));
            }
            if seen + below.len() < most {
                below.push(entry.path());
            }
        }
    }
    paths
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::fixture::{Cgroup, NOBODY, assert_holds_in_a_process_of_its_own, cgroup2, is_alone};

    fn unit(name: &str) -> Owner {
        Owner::Unit(name.parse().unwrap())
    }

    fn user_unit(uid: u32, name: &str) -> Owner {
        Owner::UserUnit { uid, unit: name.parse().unwrap() }
    }

    fn login(id: &str) -> Owner {
        Owner::Session(Session { id: id.to_owned() })
    }

    /// Rows of a path behind `prefix`, its owner, and its unit's cgroup behind `prefix`.
    fn check(prefix: &str, rows: &[(&str, Owner, Option<&str>)]) {
        for (path, owner, unit) in rows {
            let path = CgroupPath(format!("{prefix}{path}"));
            assert_eq!(&owner_of(&path), owner, "{path:?}");
            assert_eq!(unit_cgroup(&path), unit.map(|unit| CgroupPath(format!("{prefix}{unit}"))), "{path:?}");
        }
    }

    #[test]
    fn the_owner_is_the_first_unit_of_the_path() {
        check(
            "",
            &[
                // Plain units, slices and nesting.
                ("/system.slice/a.service", unit("a.service"), Some("/system.slice/a.service")),
                ("/system.slice/a.service/", unit("a.service"), Some("/system.slice/a.service")),
                ("//system.slice//a.service//b", unit("a.service"), Some("//system.slice//a.service")),
                ("/a.service", unit("a.service"), Some("/a.service")),
                (
                    "/a.slice/a-b.slice/a-b-c.slice/x.service",
                    unit("x.service"),
                    Some("/a.slice/a-b.slice/a-b-c.slice/x.service"),
                ),
                (
                    "/system.slice/system-a.slice/a@1.service",
                    unit("a@1.service"),
                    Some("/system.slice/system-a.slice/a@1.service"),
                ),
                ("/system.slice/a.socket", unit("a.socket"), Some("/system.slice/a.socket")),
                (
                    "/system.slice/home-x\\x2dy.mount",
                    unit("home-x\\x2dy.mount"),
                    Some("/system.slice/home-x\\x2dy.mount"),
                ),
                (
                    "/machine.slice/machine-x.scope/payload/system.slice/b.service",
                    unit("machine-x.scope"),
                    Some("/machine.slice/machine-x.scope"),
                ),
                ("/system.slice/docker-0123.scope", unit("docker-0123.scope"), Some("/system.slice/docker-0123.scope")),
                // Sub-cgroups of a unit are its own affair.
                ("/system.slice/a.service/.control", unit("a.service"), Some("/system.slice/a.service")),
                ("/system.slice/a.service/b.service", unit("a.service"), Some("/system.slice/a.service")),
                (
                    "/system.slice/a.service/user@0.service/b.service",
                    unit("a.service"),
                    Some("/system.slice/a.service"),
                ),
                ("/system.slice/a.service/session-1.scope", unit("a.service"), Some("/system.slice/a.service")),
                ("/system.slice/a.service/init.scope", unit("a.service"), Some("/system.slice/a.service")),
                // Escapes.
                ("/system.slice/_cgroup.service", unit("cgroup.service"), Some("/system.slice/_cgroup.service")),
                ("/_cpu.slice/_memory.service/x", unit("memory.service"), Some("/_cpu.slice/_memory.service")),
                ("/system.slice/__a.service", unit("_a.service"), Some("/system.slice/__a.service")),
                ("/user.slice/_user@1.service/b.service", unit("user@1.service"), Some("/user.slice/_user@1.service")),
            ],
        );
    }

    #[test]
    fn sessions_and_pid_1_are_told_from_units_and_some_paths_are_nobodys() {
        check(
            "",
            &[
                // PID 1.
                ("/init.scope", Owner::Init, Some("/init.scope")),
                ("/init.scope/x", Owner::Init, Some("/init.scope")),
                ("/system.slice/init.scope", unit("init.scope"), Some("/system.slice/init.scope")),
                // Sessions.
                (
                    "/user.slice/user-1000.slice/session-2.scope",
                    login("2"),
                    Some("/user.slice/user-1000.slice/session-2.scope"),
                ),
                (
                    "/user.slice/user-0.slice/session-c3.scope/x.service",
                    login("c3"),
                    Some("/user.slice/user-0.slice/session-c3.scope"),
                ),
                ("/session-1.scope", login("1"), Some("/session-1.scope")),
                ("/user.slice/session-.scope", unit("session-.scope"), Some("/user.slice/session-.scope")),
                ("/user.slice/session-a_b.scope", unit("session-a_b.scope"), Some("/user.slice/session-a_b.scope")),
                // Nobody.
                ("/", Owner::Nobody, None),
                ("/system.slice", Owner::Nobody, None),
                ("/a.slice/a-b.slice/", Owner::Nobody, None),
                ("/docker/0123", Owner::Nobody, None),
                ("/system.slice/docker/a.service", Owner::Nobody, None),
                ("/x/a.service", Owner::Nobody, None),
                ("/a@.service", Owner::Nobody, None),
                ("/@1.service", Owner::Nobody, None),
                ("/a@b.slice/c.service", Owner::Nobody, None),
                ("/.slice/a.service", Owner::Nobody, None),
                ("/a.service (deleted)", Owner::Nobody, None),
                ("/system.slice/a\u{1b}[2J.service", Owner::Nobody, None),
                ("/system.slice/a b.service", Owner::Nobody, None),
                ("/_", Owner::Nobody, None),
                ("/system.slice/.control/a.service", Owner::Nobody, None),
                // Outside of our cgroup namespace, or no path at all.
                ("/..", Owner::Unknown, None),
                ("/../system.slice/a.service", Owner::Unknown, None),
                ("/../../init.scope", Owner::Unknown, None),
                ("/system.slice/a.service/../b.service", Owner::Unknown, None),
                ("", Owner::Unknown, None),
                ("system.slice/a.service", Owner::Unknown, None),
                // Managers of users.
                (
                    "/user.slice/user-1.slice/user@x.service/b.service",
                    unit("user@x.service"),
                    Some("/user.slice/user-1.slice/user@x.service"),
                ),
                ("/user@01.service/b.service", unit("user@01.service"), Some("/user@01.service")),
                (
                    "/user@4294967295.service/b.service",
                    unit("user@4294967295.service"),
                    Some("/user@4294967295.service"),
                ),
                ("/user@65535.service/b.service", unit("user@65535.service"), Some("/user@65535.service")),
                ("/user@0.service/b.service", user_unit(0, "b.service"), Some("/user@0.service/b.service")),
                (
                    "/capsule.slice/capsule@x.service/app.slice/b.service",
                    unit("capsule@x.service"),
                    Some("/capsule.slice/capsule@x.service"),
                ),
            ],
        );
    }

    #[test]
    fn below_a_users_manager_the_owner_is_the_second_unit_of_the_path() {
        check(
            "/user.slice/user-1000.slice/user@1000.service",
            &[
                ("", unit("user@1000.service"), Some("")),
                ("/app.slice", unit("user@1000.service"), Some("")),
                ("/x/b.service", unit("user@1000.service"), Some("")),
                ("/init.scope", user_unit(1000, "init.scope"), Some("/init.scope")),
                ("/app.slice/b.service", user_unit(1000, "b.service"), Some("/app.slice/b.service")),
                ("/app.slice/_cpu.service/x", user_unit(1000, "cpu.service"), Some("/app.slice/_cpu.service")),
                (
                    "/session.slice/session-3.scope",
                    user_unit(1000, "session-3.scope"),
                    Some("/session.slice/session-3.scope"),
                ),
                (
                    "/app.slice/user@0.service/c.service",
                    user_unit(1000, "user@0.service"),
                    Some("/app.slice/user@0.service"),
                ),
            ],
        );
    }

    proptest! {
        #[test]
        fn a_units_cgroup_contains_the_path_and_has_the_same_owner(
            parts in prop::collection::vec("(a\\.slice|user@[0-9]{1,3}\\.service|b\\.service|init\\.scope|session-1\\.scope|_?[a-z.@]{0,6}|\\PC{0,4})", 0..6)
        ) {
            let path = CgroupPath(format!("/{}", parts.join("/")));
            if let Some(unit) = unit_cgroup(&path) {
                prop_assert!(path.is_within(&unit));
                prop_assert_eq!(owner_of(&unit), owner_of(&path));
                prop_assert_eq!(unit_cgroup(&unit), Some(unit));
            }
        }

        #[test]
        fn mountinfo_parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_mountinfo(&bytes);
            prop_assert!(unescape_octal(&bytes).len() <= bytes.len());
        }
    }

    #[test]
    fn the_mount_is_that_of_the_root_where_there_are_several() {
        let pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let hybrid = "29 25 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 29 0:27 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,name=systemd\n\
                      30 29 0:26 / /sys/fs/cgroup/unified rw shared:9 master:1 - cgroup2 cgroup2 rw";
        let part = "30 23 0:26 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup ro";
        let spaced = "30 23 0:26 / /mnt/a\\040b\\134 rw - cgroup2 none rw";
        let outside = "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 none rw";
        let both = format!("{part}\n{}", pure.replace("/sys/fs/cgroup", "/mnt"));
        let rows = [
            (pure, Some(("/sys/fs/cgroup", "/"))),
            (hybrid, Some(("/sys/fs/cgroup/unified", "/"))),
            (part, Some(("/sys/fs/cgroup", "/docker/x"))),
            (&both, Some(("/mnt", "/"))),
            (spaced, Some(("/mnt/a b\\", "/"))),
            (outside, None),
            ("", None),
            ("30 23 0:26 / /sys rw - ", None),
        ];
        for (text, expected) in rows {
            let expected = expected.map(|(dir, root)| Mount { dir: dir.into(), root: CgroupPath(root.to_owned()) });
            assert_eq!(parse_mountinfo(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn paths_and_directories_are_two_names_of_the_same() {
        let at = |root: &str| Mount { dir: "/mnt".into(), root: CgroupPath(root.to_owned()) };
        let rows = [
            ("/", "/", Some("/mnt/")),
            ("/", "/a.slice/b", Some("/mnt/a.slice/b")),
            ("/", "/../a", None),
            ("/x", "/x", Some("/mnt/")),
            ("/x", "/x/a", Some("/mnt/a")),
            ("/x", "/xa", None),
            ("/x", "/", None),
        ];
        for (root, path, expected) in rows {
            let path = CgroupPath(path.to_owned());
            let dir = at(root).dir_of(&path);
            assert_eq!(dir, expected.map(PathBuf::from), "{path:?} in {root}");
            if let Some(dir) = dir {
                assert_eq!(at(root).path_at(&dir), Some(path));
            }
        }
        assert_eq!(at("/").path_at(Path::new("/elsewhere/a")), None);
    }

    #[test]
    fn a_user_is_a_number_as_the_kernel_writes_it() {
        for (text, uid) in [("0", Some(0)), ("1000", Some(1000)), ("+5", None), ("05", None), ("", None), ("-1", None)]
        {
            assert_eq!(parse_uid(text), uid, "{text}");
        }
    }

    #[test]
    fn a_usual_place_is_believed_only_where_the_root_of_the_tree_is() {
        let (cgroup, empty, proc) = (Cgroup::create("usual"), tempfile::tempdir().unwrap(), Path::new("/proc"));
        let root = Mount { dir: cgroup2(), root: CgroupPath("/".to_owned()) };
        // In a container the whole of what is mounted may be a part of the tree.
        let has_root = id_of(&cgroup2()).unwrap() == CgroupId::ROOT;
        assert_eq!(mount(empty.path(), &cgroup2()).ok(), has_root.then_some(root));
        for elsewhere in [cgroup.dir(), empty.path(), Path::new("/nowhere")] {
            assert_eq!(mount(proc, elsewhere).unwrap().dir(), cgroup2());
            assert!(matches!(mount(empty.path(), elsewhere), Err(CgroupError::Read { .. })));
        }
    }

    #[test]
    fn an_id_is_found_at_either_of_the_usual_places() {
        let (cgroup, usual) = (Cgroup::create("usual"), tempfile::tempdir().unwrap());
        let path = CgroupPath(format!("/{}", cgroup.dir().file_name().unwrap().to_str().unwrap()));
        let id = id_of(cgroup.dir()).unwrap();
        assert_eq!(id_at_usual_place(&cgroup2(), &path), Some(id));
        assert_eq!(id_at_usual_place(usual.path(), &path), None);
        std::os::unix::fs::symlink(cgroup2(), usual.path().join("unified")).unwrap();
        // A folder of another hierarchy has the same name.
        std::fs::create_dir(usual.path().join(&path.0[1..])).unwrap();
        assert_eq!(id_at_usual_place(usual.path(), &path), Some(id));
        assert_eq!(id_at_usual_place(usual.path(), &CgroupPath("/gone".to_owned())), None);
    }

    fn own_mount() -> Mount {
        let found = mount(Path::new("/proc"), Path::new("/sys/fs/cgroup")).unwrap();
        assert_eq!(found.dir(), cgroup2());
        found
    }

    fn both_ways(mount: &Mount, ids: &[CgroupId]) -> [HashMap<CgroupId, CgroupPath>; 2] {
        let ids: BTreeSet<CgroupId> = ids.iter().copied().collect();
        [paths_of(Path::new("/proc"), mount, &ids), walk(mount, ids, WALK_CGROUPS)]
    }

    #[test]
    fn cgroups_are_found_by_their_ids_by_handle_and_by_walk_until_they_are_removed() {
        let mount = own_mount();
        let cgroup = Cgroup::create("id");
        let sub = cgroup.sub("below");
        let [(outer, path), (inner, below)] = [cgroup.dir(), &sub].map(|dir| {
            let path = mount.path_at(dir).unwrap();
            assert_eq!(mount.dir_of(&path).unwrap(), dir);
            (id_of(dir).unwrap(), path)
        });
        let nobody = CgroupId(u64::MAX);
        let all = HashMap::from([(outer, path.clone()), (inner, below)]);
        assert_eq!(both_ways(&mount, &[outer, inner, nobody]), [all.clone(), all]);
        let one = HashMap::from([(outer, path)]);
        assert_eq!(both_ways(&mount, &[outer]), [one.clone(), one]);
        drop(cgroup);
        assert_eq!(both_ways(&mount, &[outer, inner]), [HashMap::new(), HashMap::new()]);
        assert!(id_of(&sub).is_err());
    }

    /// In a process of its own, which has no capability.
    #[test]
    fn cgroups_are_found_where_none_may_be_opened_by_its_id() {
        if !is_alone() {
            return;
        }
        let (mount, cgroup) = (own_mount(), Cgroup::create("nobody"));
        let id = id_of(cgroup.dir()).unwrap();
        assert_holds_in_a_process_of_its_own(|| {
            nix::unistd::setuid(NOBODY.into()).unwrap();
            let opened = open_dir(mount.dir()).and_then(|dir| sys::open_kernfs_node(&dir, id.0));
            assert_eq!(opened.unwrap_err().raw_os_error(), Some(Errno::EPERM as i32));
            let found = paths_of(Path::new("/proc"), &mount, &BTreeSet::from([id]));
            assert_eq!(found, HashMap::from([(id, mount.path_at(cgroup.dir()).unwrap())]));
        });
    }

    #[test]
    fn a_node_that_is_another_than_was_asked_for_is_unknown() {
        let (mount, cgroup) = (own_mount(), Cgroup::create("other"));
        let [a, b] = ["a", "b"].map(|name| cgroup.sub(name));
        let (node, mine, other) = (open_dir(&a).unwrap(), id_of(&a).unwrap(), id_of(&b).unwrap());
        assert!(path_of_node(Path::new("/proc"), &mount, &node, mine).is_some());
        assert!(path_of_node(Path::new("/proc"), &mount, &node, other).is_none());
    }

    #[test]
    fn a_walk_has_a_bound_for_all_ids_together_and_passes_over_what_it_cannot_list() {
        let tree = tempfile::tempdir().unwrap();
        let [a, b] = ["a/x", "b/x"].map(|dir| {
            let dir = tree.path().join(dir);
            std::fs::create_dir_all(&dir).unwrap();
            id_of(&dir).unwrap()
        });
        let walked = |dir: &str, most| {
            let at = Mount { dir: tree.path().join(dir), root: CgroupPath("/".to_owned()) };
            walk(&at, BTreeSet::from([a, b]), most).len()
        };
        assert_eq!([0, 1, 2, 4].map(|most| walked("", most)), [0, 0, 1, 2]);
        std::fs::write(tree.path().join("file"), "").unwrap();
        assert_eq!((walked("removed", 3), walked("file", 3)), (0, 0));
    }

    #[test]
    fn the_root_of_the_mount_is_found_as_well() {
        let mount = own_mount();
        let root = id_of(mount.dir()).unwrap();
        let expected = HashMap::from([(root, mount.root.clone())]);
        assert_eq!(both_ways(&mount, &[root]), [expected.clone(), expected]);
    }
}
