//! The births of the guarded unit: which cgroup and which invocation each of its guarded starts had.
//!
//! One small text file a unit below `/run/portguard/ledger` (`$XDG_RUNTIME_DIR` in a user manager), a line a run,
//! oldest first: `INVOCATION_ID CGROUP_ID`. It lives on a tmpfs, exactly as long as those ids mean anything. What it
//! says may get a process stopped, so a folder or file that somebody else could have written counts as unreadable.

use std::ffi::CString;
use std::fmt;
use std::io::{self, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, chmodat, fstat, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::model::{CgroupId, Run, UnitName};

/// So many runs are remembered; older ones are forgotten first.
pub const MAX_RUNS: usize = 32;

/// So many units have a ledger; those that have not started for longest are forgotten first.
pub const MAX_UNITS: usize = 1024;

/// So many more may be there before any is forgotten: each has to be looked at then, which one first start of a unit in so
/// many pays for.
const ROOM: usize = 256;

/// A line is at most 32 + 1 + 20 + 2 bytes long: a file that has grown to several times [`MAX_RUNS`] is cut back.
const COMPACT_BYTES: u64 = MAX_BYTES as u64 / 2;

/// No ledger is longer, but for what several portguards append at once.
const MAX_BYTES: usize = 2 * 4 * 55 * MAX_RUNS;

/// A folder of fewer bytes has room, and need not be listed: each entry, `.` and `..` as well, makes it larger by 20 bytes on
/// tmpfs (`BOGO_DIRENT_SIZE`, Linux `mm/shmem.c`), and by as many at least on ext4 for a unit's name.
const ROOMY_BYTES: u64 = 25_640;
const _: () = assert!(ROOMY_BYTES == 20 * (MAX_UNITS as u64 + ROOM as u64 + 2));

/// Bytes of directory entries a getdents64(2).
const LISTING_BYTES: usize = 16_384;

/// Why the ledger could not be read or written.
#[derive(Debug)]
pub enum LedgerError {
    /// A system call failed.
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could have written it.
    Untrusted {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The run is in it, and it could not be cut back.
    TooLong {
        /// What was to take its place.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } | Self::TooLong { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Untrusted { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for LedgerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::TooLong { source, .. } => Some(source),
            Self::Untrusted { .. } => None,
        }
    }
}

/// The runs in a ledger's text, oldest first; a line that is none is passed over.
#[must_use]
pub fn parse(text: &str) -> Vec<Run> {
    text.lines()
        .filter_map(|line| {
            let (invocation, cgroup) = line.split_once(' ')?;
            let cgroup = match cgroup {
                "-" => None,
                number => Some(CgroupId(number.parse().ok()?)),
            };
            Some(Run { cgroup, invocation: invocation.parse().ok()? })
        })
        .collect()
}

/// The text of a ledger.
#[must_use]
pub fn format(runs: &[Run]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for Run { cgroup, invocation } in runs {
        // Writing to a String cannot fail.
        let _ = match cgroup {
            Some(id) => writeln!(text, "{invocation} {id}"),
            None => writeln!(text, "{invocation} -"),
        };
    }
    text
}

/// The recorded runs of `unit`, oldest first, at most [`MAX_RUNS`]; none where there is no ledger.
///
/// # Errors
/// A folder or file that cannot be read, or that somebody else could have written.
pub fn read(folder: &Path, unit: &UnitName) -> Result<Vec<Run>, LedgerError> {
    match open_folder(folder) {
        Ok((dir, _)) => read_from(&dir, folder, unit),
        Err(LedgerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Adds `run` to the ledger of `unit`: one line is appended by one write(2), so that a portguard which is killed in
/// the middle, or another one at the same time, can at worst spoil this very line.
///
/// `is_there`: whether the manager has a run of the unit of this name; where room has to be made, such are spared.
///
/// # Errors
/// A folder or file that cannot be made or written, or that somebody else could have written.
pub fn record(folder: &Path, unit: &UnitName, run: Run, is_there: impl Fn(&str) -> bool) -> Result<(), LedgerError> {
    let path = folder.join(unit.as_str());
    let fail = |source: io::Error| LedgerError::Io { path: path.clone(), source };
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let present = || openat(CWD, &path, flags, Mode::empty());
    let opened = match present() {
        Err(Errno::NOENT) => {
            // Left to the exit, as nearly nothing comes after it.
            if let Some((dir, size)) = open_or_make_folder(folder)? {
                let dir = ManuallyDrop::new(dir);
                if size >= ROOMY_BYTES {
                    make_room(&dir, is_there);
                }
            }
            match openat(CWD, &path, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR) {
                // Another portguard was quicker.
                Err(Errno::EXIST) => present().map(|file| (file, false)),
                made => made.map(|file| (file, true)),
            }
        }
        opened => opened.map(|file| (file, false)),
    };
    let (file, is_new) = opened.map_err(|errno| fail(errno.into()))?;
    let size = if is_new { 0 } else { require_ours(&file, &path, FileType::RegularFile)? };
    // The line break in front ends whatever line a killed writer began.
    let line = format!("\n{}", format(&[run]));
    // Left to the exit, as nearly nothing comes after it.
    let mut file = ManuallyDrop::new(std::fs::File::from(file));
    file.write_all(line.as_bytes()).map_err(fail)?;
    if size > COMPACT_BYTES { compact(&file, size, &path, run) } else { Ok(()) }
}

/// Keeps the last runs only, of which `run` was just added to what was `size` bytes long. The new text replaces the old by
/// rename(2); a line that another portguard appends to the old one meanwhile is lost, and with it the proof for one run.
fn compact(file: &std::fs::File, size: u64, path: &Path, run: Run) -> Result<(), LedgerError> {
    let new = path.with_file_name(format!(".{}.new", run.invocation));
    let replace = || -> io::Result<()> {
        let mut end = [0; MAX_BYTES];
        // A line that it begins in the middle of is none.
        let length = file.read_at(&mut end, size.saturating_sub(COMPACT_BYTES))?;
        let runs = last_runs(&end[..length]);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = match openat(CWD, &new, flags, Mode::RUSR | Mode::WUSR) {
            // Another portguard of the same run does it, or was killed over it: the unit's next start will.
            Err(Errno::EXIST) => return Ok(()),
            made => made?,
        };
        // Left to the exit, as nothing comes after it.
        let mut made = ManuallyDrop::new(std::fs::File::from(made));
        let replaced = made.write_all(format(&runs).as_bytes()).and_then(|()| Ok(renameat(CWD, &new, CWD, path)?));
        if replaced.is_err() {
            let _ = unlinkat(CWD, &new, AtFlags::empty());
        }
        replaced
    };
    replace().map_err(|source| LedgerError::TooLong { path: new.clone(), source })
}

/// Forgets units, so that names which come and go cannot fill `/run`: those that are not there first, then those that
/// have not started for longest. What cannot be listed or removed stays.
fn make_room(dir: &rustix::fd::OwnedFd, is_there: impl Fn(&str) -> bool) {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    if names.len() < MAX_UNITS + ROOM {
        return;
    }
    let surplus = names.len() + 1 - MAX_UNITS;
    let rank = |name: &CString| {
        let stat = statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW);
        let written = stat.map_or((0, 0), |stat| (stat.st_mtime, stat.st_mtime_nsec));
        (name.to_str().is_ok_and(&is_there), written)
    };
    let mut ranked: Vec<_> = names.into_iter().map(|name| (rank(&name), name)).collect();
    ranked.sort();
    for (_, name) in &ranked[..surplus] {
        let _ = unlinkat(dir, name.as_c_str(), AtFlags::empty());
    }
}

fn read_from(dir: &rustix::fd::OwnedFd, folder: &Path, unit: &UnitName) -> Result<Vec<Run>, LedgerError> {
    let path = folder.join(unit.as_str());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, unit.as_str(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(source) => return Err(LedgerError::Io { path, source: source.into() }),
    };
    let size = require_ours(&file, &path, FileType::RegularFile)?;
    // Its end, as it is longer where it could not be cut back.
    let mut end = [0; MAX_BYTES];
    match std::fs::File::from(file).read_at(&mut end, size.saturating_sub(MAX_BYTES as u64)) {
        Ok(length) => Ok(last_runs(&end[..length])),
        Err(source) => Err(LedgerError::Io { path, source }),
    }
}

/// The last [`MAX_RUNS`] of a ledger's bytes, oldest first. A line that is spoilt is passed over, and not the whole file.
fn last_runs(bytes: &[u8]) -> Vec<Run> {
    let mut runs = parse(&String::from_utf8_lossy(bytes));
    runs.dedup();
    let surplus = runs.len().saturating_sub(MAX_RUNS);
    runs.split_off(surplus)
}

/// The folder, and its size in bytes; `None` where it was just made, and has room.
fn open_or_make_folder(folder: &Path) -> Result<Option<(rustix::fd::OwnedFd, u64)>, LedgerError> {
    match open_folder(folder) {
        Err(LedgerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            // The folder above is also one of policies, which everybody may read.
            let all_read = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
            if let Some(above) = folder.parent() {
                make_folder(above, all_read)?;
            }
            if make_folder(folder, Mode::RWXU)? { Ok(None) } else { open_folder(folder).map(Some) }
        }
        other => other.map(Some),
    }
}

/// Makes a folder with this mode; one that is there stays as it is. Whether it was made.
fn make_folder(folder: &Path, mode: Mode) -> Result<bool, LedgerError> {
    let fail = |source: Errno| LedgerError::Io { path: folder.to_owned(), source: source.into() };
    match mkdirat(CWD, folder, mode) {
        // Whatever UMask= the unit has.
        Ok(()) => chmodat(CWD, folder, mode, AtFlags::empty()).map(|()| true).map_err(fail),
        Err(Errno::EXIST) => Ok(false),
        Err(source) => Err(fail(source)),
    }
}

/// The folder, and its size in bytes.
fn open_folder(folder: &Path) -> Result<(rustix::fd::OwnedFd, u64), LedgerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(CWD, folder, flags, Mode::empty())
        .map_err(|source| LedgerError::Io { path: folder.to_owned(), source: source.into() })?;
    let size = require_ours(&dir, folder, FileType::Directory)?;
    Ok((dir, size))
}

/// Owned by root or whoever runs portguard, and writable by nobody else; its size in bytes.
fn require_ours(file: &rustix::fd::OwnedFd, path: &Path, kind: FileType) -> Result<u64, LedgerError> {
    let untrusted = |reason| Err(LedgerError::Untrusted { path: path.to_owned(), reason });
    let stat = fstat(file).map_err(|source| LedgerError::Io { path: path.to_owned(), source: source.into() })?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        untrusted("is not what portguard makes there; remove it".to_owned())
    } else if !is_trusted(stat.st_uid, || rustix::process::geteuid().as_raw()) {
        untrusted(format!("belongs to uid {}; remove it", stat.st_uid))
    } else if stat.st_mode & 0o022 != 0 {
        untrusted(format!("mode {:03o} lets others write it; remove it", stat.st_mode & 0o777))
    } else {
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }
}

fn is_trusted(owner: u32, euid: impl FnOnce() -> u32) -> bool {
    owner == 0 || owner == euid()
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use rustix::fs::mknodat;

    use super::*;
    use crate::model::InvocationId;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn run(number: u64) -> Run {
        Run { cgroup: Some(CgroupId(number)), invocation: InvocationId(u128::from(number)) }
    }

    fn unit() -> UnitName {
        "a@b.service".parse().unwrap()
    }

    fn mkfifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    /// What would wait for the other end of a FIFO waits for ever.
    fn in_time<T: Send + 'static>(folder: &Path, work: fn(&Path) -> T) -> T {
        let (folder, (tell, told)) = (folder.to_owned(), std::sync::mpsc::channel());
        std::thread::spawn(move || tell.send(work(&folder)));
        told.recv_timeout(std::time::Duration::from_secs(10)).expect("it waits")
    }

    #[test]
    fn what_was_recorded_is_read_back_in_order() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("portguard/ledger");
        assert_eq!(read(&folder, &unit()).unwrap(), []);
        for number in 1..=3 {
            record(&folder, &unit(), run(number), |_| false).unwrap();
        }
        record(&folder, &unit(), run(3), |_| false).unwrap();
        assert_eq!(read(&folder, &unit()).unwrap(), [run(1), run(2), run(3)]);
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_end_of_one_that_could_not_be_cut_back_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let runs: Vec<Run> = (0..1000).map(run).collect();
        assert!(format(&runs).len() > 2 * MAX_BYTES);
        record(folder.path(), &unit(), run(0), |_| false).unwrap();
        std::fs::write(folder.path().join(unit().as_str()), format(&runs)).unwrap();
        assert_eq!(read(folder.path(), &unit()).unwrap(), runs[runs.len() - MAX_RUNS..]);
    }

    #[test]
    fn what_is_left_open_is_for_no_child_and_waits_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(unit().as_str());
        for number in 1..=2 {
            record(folder.path(), &unit(), run(number), |_| false).unwrap();
        }
        let mut found = 0;
        for fd in std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap()) {
            if std::fs::read_link(fd.path()).is_ok_and(|open| open == path) {
                let told = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(fd.file_name())).unwrap();
                let flags = told.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                assert!(OFlags::from_bits_retain(flags).contains(OFlags::CLOEXEC | OFlags::NONBLOCK), "{told}");
                found += 1;
            }
        }
        assert_eq!(found, 2, "made, and found to be there");
    }

    #[test]
    fn the_oldest_runs_are_forgotten_first() {
        let root = tempfile::tempdir().unwrap();
        for number in 1..=40 {
            record(root.path(), &unit(), run(number), |_| false).unwrap();
        }
        let runs = read(root.path(), &unit()).unwrap();
        assert_eq!(runs.len(), MAX_RUNS);
        assert_eq!((runs[0], runs[MAX_RUNS - 1]), (run(9), run(40)));
    }

    #[test]
    fn names_that_come_and_go_do_not_fill_the_folder() {
        // A tmpfs, as /run is.
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let start = |name: &str, is_there: &dyn Fn(&str) -> bool| {
            record(root.path(), &name.parse().unwrap(), run(1), is_there).unwrap();
            std::fs::read_dir(root.path()).unwrap().count()
        };
        let mut counts = Vec::new();
        for number in 0..MAX_UNITS + ROOM + 40 {
            counts.push(start(&format!("a@{number}.service"), &|_| false));
        }
        assert_eq!(counts[..MAX_UNITS + ROOM], (1..=MAX_UNITS + ROOM).collect::<Vec<_>>(), "room is made in one go");
        assert_eq!(counts[MAX_UNITS + ROOM..], (MAX_UNITS..MAX_UNITS + 40).collect::<Vec<_>>());
        // The last ones are all there.
        let is_known =
            |number: usize| !read(root.path(), &format!("a@{number}.service").parse().unwrap()).unwrap().is_empty();
        assert!((ROOM + 1..MAX_UNITS + ROOM + 40).all(is_known) && !(0..=ROOM).any(is_known));
        // The oldest of all stays as long as it runs.
        let oldest = format!("a@{}.service", ROOM + 1);
        for number in 0..MAX_UNITS + ROOM {
            start(&format!("b@{number}.service"), &|name| name == oldest);
        }
        assert!(is_known(ROOM + 1) && !is_known(ROOM + 2));
    }

    /// The size of a folder says how many there are of a tmpfs alone.
    #[test]
    fn room_is_made_for_no_fewer_names_than_are_too_many_wherever_the_folder_is() {
        let root = tempfile::tempdir().unwrap();
        for number in 1..MAX_UNITS + ROOM {
            std::fs::write(root.path().join(format!("a@{number}.service")), "").unwrap();
        }
        let (dir, _) = open_folder(root.path()).unwrap();
        make_room(&dir, |_| false);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), MAX_UNITS + ROOM - 1);
    }

    #[test]
    fn a_killed_writer_hinders_nobody() {
        let root = tempfile::tempdir().unwrap();
        record(root.path(), &unit(), run(1), |_| false).unwrap();
        let mut torn = std::fs::read(root.path().join("a@b.service")).unwrap();
        torn.extend(b"\n0123456789abcdef01\xff");
        std::fs::write(root.path().join("a@b.service"), torn).unwrap();
        std::fs::write(root.path().join(format!(".{}.new", run(133).invocation)), "torn").unwrap();
        for number in 2..=200 {
            record(root.path(), &unit(), run(number), |_| false).unwrap();
            assert_eq!(read(root.path(), &unit()).unwrap().last(), Some(&run(number)));
        }
        assert!(root.path().join("a@b.service").metadata().unwrap().len() <= COMPACT_BYTES + 55);
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_ledger_and_is_said_with_its_place() {
        use std::error::Error;
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = read(&file, &unit()).unwrap_err();
        assert!(error.to_string().starts_with(file.to_str().unwrap()) && error.source().is_some(), "{error}");
        let error = LedgerError::Untrusted { path: "/a".into(), reason: "bad".to_owned() };
        assert!(error.to_string() == "/a: bad" && error.source().is_none());
    }

    #[test]
    fn what_others_could_have_written_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        record(root.path(), &unit(), run(1), |_| false).unwrap();
        let file = root.path().join("a@b.service");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
        assert!(matches!(read(root.path(), &unit()), Err(LedgerError::Untrusted { .. })));
        std::fs::remove_file(&file).unwrap();
        let elsewhere = root.path().join("elsewhere");
        std::fs::write(&elsewhere, "its own").unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(read(root.path(), &unit()).is_err());
        assert!(record(root.path(), &unit(), run(2), |_| false).is_err());
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"its own");
        let link = root.path().join("link");
        symlink(root.path(), &link).unwrap();
        assert!(matches!(read(&link, &"b.service".parse().unwrap()), Err(LedgerError::Io { .. })));
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(read(root.path(), &unit()), Err(LedgerError::Untrusted { .. })));
    }

    #[test]
    fn a_ledger_is_roots_or_of_whoever_runs_this() {
        for (owner, euid, expected) in [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1000, 0, false)] {
            assert_eq!(is_trusted(owner, || euid), expected, "of {owner}, for {euid}");
        }
    }

    #[test]
    fn what_is_made_has_modes_that_let_nobody_else_write_and_the_folder_above_can_be_read_by_all() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("portguard/ledger");
        record(&folder, &unit(), run(1), |_| false).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        assert_eq!(mode(&root.path().join("portguard")), 0o755);
        assert_eq!(mode(&folder), 0o700);
        let file = folder.join("a@b.service");
        assert_eq!(mode(&file), 0o600);
        let first = file.metadata().unwrap().ino();
        record(&folder, &unit(), run(2), |_| false).unwrap();
        assert_eq!(file.metadata().unwrap().ino(), first, "a line more is no new file");
        let long = "0123456789abcdef0123456789abcdef 7\n".repeat(usize::try_from(COMPACT_BYTES).unwrap() / 35 + 1);
        std::fs::write(&file, long).unwrap();
        record(&folder, &unit(), run(3), |_| false).unwrap();
        assert_ne!(file.metadata().unwrap().ino(), first);
        assert_eq!((mode(&file), read(&folder, &unit()).unwrap().last()), (0o600, Some(&run(3))));
    }

    #[test]
    fn nothing_that_lies_where_a_ledger_is_written_anew_holds_a_start_up_or_becomes_part_of_it() {
        let long = format(&[run(7), run(8)].repeat(200));
        for lies_there in ["a longer file", "a link", "a FIFO"] {
            let root = tempfile::tempdir().unwrap();
            record(root.path(), &unit(), run(1), |_| false).unwrap();
            std::fs::write(root.path().join("a@b.service"), &long).unwrap();
            let (new, elsewhere) = (root.path().join(format!(".{}.new", run(9).invocation)), root.path().join("x"));
            std::fs::write(&elsewhere, "its own").unwrap();
            match lies_there {
                "a longer file" => std::fs::write(&new, &long).unwrap(),
                "a link" => symlink(&elsewhere, &new).unwrap(),
                _ => mkfifo(&new),
            }
            let recorded = in_time(root.path(), |folder| record(folder, &unit(), run(9), |_| false));
            assert!(recorded.is_ok(), "{lies_there}: {recorded:?}");
            assert_eq!(std::fs::read(&elsewhere).unwrap(), b"its own");
            let text = std::fs::read_to_string(root.path().join("a@b.service")).unwrap();
            assert_eq!(parse(&text).last(), Some(&run(9)), "{lies_there}");
            assert!(text.len() > long.len(), "{lies_there} took the ledger's place");
            record(root.path(), &unit(), run(10), |_| false).unwrap();
            let text = std::fs::read_to_string(root.path().join("a@b.service")).unwrap();
            assert!(text.len() < long.len() && parse(&text).ends_with(&[run(9), run(10)]), "{lies_there}: {text}");
        }
    }

    #[test]
    fn a_fifo_in_the_place_of_a_ledger_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        mkfifo(&root.path().join("a@b.service"));
        let found = in_time(root.path(), |folder| read(folder, &unit()));
        assert!(matches!(found, Err(LedgerError::Untrusted { .. })), "{found:?}");
        assert!(in_time(root.path(), |folder| record(folder, &unit(), run(1), |_| false)).is_err());
    }

    #[test]
    fn what_several_have_appended_at_once_is_read_to_its_end() {
        let root = tempfile::tempdir().unwrap();
        let runs: Vec<Run> = (1..=u64::try_from(MAX_RUNS).unwrap() * 11).map(run).collect();
        let text = format(&runs);
        assert!((MAX_BYTES * 3 / 4..MAX_BYTES).contains(&text.len()), "{}", text.len());
        record(root.path(), &unit(), run(1), |_| false).unwrap();
        std::fs::write(root.path().join("a@b.service"), text).unwrap();
        assert_eq!(read(root.path(), &unit()).unwrap().last(), runs.last());
    }

    #[test]
    fn torn_and_foreign_lines_are_passed_over() {
        let good = "0123456789abcdef0123456789abcdef 7\n";
        for (text, count) in [
            (good.to_owned(), 1),
            (format!("{good}garbage\n{good}"), 2),
            ("0123456789abcdef0123456789abcdef -\n".to_owned(), 1),
            ("0123456789abcdef0123456789abcdef\n".to_owned(), 0),
            ("00000000000000000000000000000000 7\n".to_owned(), 0),
            ("0123456789abcdef0123456789abcdef 7".to_owned(), 1),
            ("0123456789abcdef0123456789abcdeg 7\n".to_owned(), 0),
            (String::new(), 0),
        ] {
            assert_eq!(parse(&text).len(), count, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_and_runs_are_the_same_thing(numbers in proptest::collection::vec((1u128.., proptest::option::of(0u64..)), 0..40)) {
            let runs: Vec<Run> = numbers.into_iter()
                .map(|(id, cgroup)| Run { cgroup: cgroup.map(CgroupId), invocation: InvocationId(id) }).collect();
            proptest::prop_assert_eq!(parse(&format(&runs)), runs);
        }
    }
}
