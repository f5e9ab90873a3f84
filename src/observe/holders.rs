//! Which processes have a socket open, by the links of `/proc/PID/fd` (proc(5)).
//!
//! It owns the order of the search and the scan, which has one readlinkat(2) an open file, and no stat and no
//! allocation. It must not read anything else of a process, nor conclude anything from finding nobody.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{RawDir, readlinkat_raw};

use super::proc::{is_gone, list_pids, open_dir, open_dir_at, read_file};
use crate::interrupt::Interrupt;
use crate::model::{Inode, Pid};
use crate::sys;
use crate::word::{self, Unanswered};

/// Bytes of directory entries a getdents64(2).
const LISTING_BYTES: usize = 16 * 1024;
/// More than `socket:[18446744073709551615]`; what fills it is a link of another kind.
const LINK_BYTES: usize = 32;
/// So many processes are looked into at once.
const AT_ONCE: usize = 16;
/// At most so many cgroups are asked for their processes.
const CGROUPS: usize = 4096;

/// When all of `/proc` is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thorough {
    /// Only if some socket has nobody in the likely places. Neither these nor all others are looked at to their end, once
    /// somebody but PID 1 was found for each socket among the first of them.
    UntilFound,
    /// Only if some socket has nobody in the likely places. Other holders of a socket that has somebody can stay unseen.
    IfNobodyFound,
    /// Always: so that every holder of every socket is seen.
    Always,
}

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The mount of procfs.
    pub proc: &'a Path,
    /// The directories of the likely cgroups, each with all below it: the unit's own, then those in which the sockets were
    /// born. One that is not there any more is none.
    pub cgroups: &'a [PathBuf],
    /// Whether to look further.
    pub thorough: Thorough,
    /// What ends the search in its middle: those that were not looked at by then count as hidden.
    pub interrupt: &'a Interrupt,
    /// Those that were late, of all searches so far: they cost their time once.
    pub late: &'a RefCell<Vec<Pid>>,
}

/// Of so many pairs of a socket and a process that has it more is not looked for: each is judged by itself, and takes half a
/// kilobyte.
const MOST_PAIRS: usize = 1 << 18;

/// Who was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The processes that have each socket open, each once and in order; a socket without any is not in here.
    pub by_inode: HashMap<Inode, Vec<Pid>>,
    /// So many processes could not be looked into, or not be seen at all.
    pub hidden: usize,
    /// Those of them that were not in time, each once.
    pub late: Vec<Pid>,
    /// Whether so many were found that others were not looked for, of any of the sockets.
    pub is_full: bool,
    /// Whether all of `/proc` was walked. Only then does an absent inode mean that no visible process has it.
    pub walked: bool,
}

impl Holders {
    /// Whether this process has this socket open.
    #[must_use]
    pub fn has(&self, inode: Inode, pid: Pid) -> bool {
        self.by_inode.get(&inode).is_some_and(|pids| pids.contains(&pid))
    }

    /// Whether anybody but PID 1, which keeps the sockets of many, has this socket open.
    fn has_somebody(&self, inode: Inode) -> bool {
        self.by_inode.get(&inode).is_some_and(|pids| pids.iter().any(|&pid| pid != Pid::INIT))
    }
}

/// How much of a process could be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// All of its open files.
    Whole,
    /// Not all: no permission.
    Hidden,
    /// It has ended.
    Gone,
}

/// What a process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Those of the wanted sockets that were seen, each once.
    pub inodes: Vec<Inode>,
    /// Whether there can be more.
    pub sight: Sight,
}

impl Open {
    pub(super) const HIDDEN: Self = Self { inodes: Vec::new(), sight: Sight::Hidden };
}

/// Which processes have these sockets open: in the likely cgroups, then PID 1, then anywhere. Each is looked at once.
///
/// If a walk of all processes leaves a socket without a holder, each thread with open files of its own
/// (`unshare(CLONE_FILES)`) is looked at as well. Inode 0 is nobody's, and not looked for.
#[must_use]
pub fn holders(search: &Search<'_>, inodes: &[Inode]) -> Holders {
    let mut inodes: Vec<Inode> = inodes.iter().copied().filter(|inode| inode.0 != 0).collect();
    inodes.sort_unstable();
    let Ok(proc) = open_dir(search.proc) else { return Holders { hidden: 1, ..Holders::default() } };
    let mut scan = Aside::new(proc, search.interrupt, search.late);
    scan.wanted = inodes.into();
    let is_enough = match search.thorough {
        Thorough::UntilFound => Holders::has_somebody,
        Thorough::IfNobodyFound | Thorough::Always => |_: &Holders, _| false,
    };
    let found = look_for(search, &mut scan, is_enough);
    Holders { is_full: scan.is_full, ..found }
}

fn look_for(search: &Search<'_>, scan: &mut Aside<'_>, is_enough: fn(&Holders, Inode) -> bool) -> Holders {
    let likely = likely_places(search);
    let some = scan.more(Holders::default(), Walk::of(&likely.pids), Threads::WhereTheFirstHasNone, is_enough);
    if search.thorough != Thorough::Always && scan.has_all(&some) {
        return Holders { hidden: some.hidden + likely.invisible, ..some };
    }
    let Ok(everybody) = list_pids(&*scan.proc) else { return Holders { hidden: 1, ..Holders::default() } };
    let seen: HashSet<Pid> = likely.pids.iter().copied().collect();
    let others: Vec<Pid> = everybody.iter().copied().filter(|pid| !seen.contains(pid)).collect();
    let walk = Walk { first: &likely.pids, others: &others };
    let mut found = scan.more(some, Walk { first: &[], ..walk }, Threads::WhereTheFirstHasNone, is_enough);
    if search.thorough == Thorough::UntilFound {
        return found;
    }
    if !scan.is_full && !scan.has_all(&found) {
        found = scan.more(Holders::default(), walk, Threads::All, is_enough);
    }
    // With hidepid= (proc(5)) others' processes are not even listed; PID 1 is somebody's in every pid namespace.
    let unlisted = usize::from(!everybody.contains(&Pid::INIT));
    Holders { hidden: found.hidden + unlisted, walked: true, ..found }
}

/// The processes of a cgroup and of all below it, in order.
#[must_use]
pub fn cgroup_pids(dir: &Path) -> Vec<Pid> {
    members(&[dir.to_owned()], &Interrupt::default()).pids
}

/// The processes of some cgroups.
#[derive(Debug, Default)]
struct Members {
    pids: Vec<Pid>,
    /// Processes of another pid namespace, which `cgroup.procs` shows as 0 (cgroups(7)), and cgroups not read.
    invisible: usize,
}

/// The processes of the likely cgroups, and PID 1, each once.
fn likely_places(search: &Search<'_>) -> Members {
    let mut likely = members(search.cgroups, search.interrupt);
    likely.pids.push(Pid::INIT);
    likely.pids.sort_unstable();
    likely.pids.dedup();
    likely
}

/// The processes of these cgroups, of which the first has the first place, and of all below them, in order. One that is below
/// another of them is walked with that.
fn members(dirs: &[PathBuf], interrupt: &Interrupt) -> Members {
    let mut members = Members::default();
    let mut tops: Vec<&Path> = dirs.iter().take(CGROUPS).map(PathBuf::as_path).collect();
    tops.sort_unstable();
    tops.dedup_by(|dir, above| dir.starts_with(above));
    // The last is walked first.
    let is_first = |top: &Path| dirs.first().is_some_and(|dir| dir.starts_with(top));
    tops.sort_by_key(|top| is_first(top));
    let mut below: Vec<(PathBuf, bool)> = tops.into_iter().map(|dir| (dir.to_owned(), true)).collect();
    let mut asked = HashSet::new();
    while let Some((dir, is_top)) = below.pop() {
        if asked.len() >= CGROUPS || interrupt.has_come() {
            members.invisible += 1;
            break;
        }
        members.add(&dir, is_top, &mut asked);
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let room = CGROUPS.saturating_sub(asked.len() + below.len());
        below.extend(dirs.by_ref().take(room).map(|entry| (entry.path(), false)));
        members.invisible += usize::from(dirs.next().is_some());
    }
    members.pids.sort_unstable();
    members.pids.dedup();
    members
}

impl Members {
    /// The processes of this very cgroup. Those of a threaded cgroup (`EOPNOTSUPP`) are only shown by the domain above
    /// it (Linux `Documentation/admin-guide/cgroup-v2.rst`, "Threads"), which is looked for from the top alone: that
    /// of any below it is the same, or was asked on the way down. Each is asked once.
    fn add(&mut self, dir: &Path, is_top: bool, asked: &mut HashSet<PathBuf>) {
        for dir in dir.ancestors().take(if is_top { usize::MAX } else { 1 }) {
            if !asked.insert(dir.to_owned()) {
                return;
            }
            match read_file(&dir.join("cgroup.procs")) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    let pids: Vec<Pid> = text.lines().filter_map(|line| line.parse().ok()).map(Pid).collect();
                    self.invisible += pids.iter().filter(|pid| pid.0 == 0).count();
                    self.pids.extend(pids.into_iter().filter(|pid| pid.0 != 0));
                    return;
                }
                Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => (),
                Err(error) => {
                    // ENODEV: the cgroup was removed after it was opened.
                    let gone = is_gone(&error) || error.raw_os_error() == Some(Errno::ENODEV as i32);
                    self.invisible += usize::from(!gone);
                    return;
                }
            }
        }
    }
}

/// Which threads of a process are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threads {
    /// The first; the others only where that one has nothing open, or cannot be looked into.
    WhereTheFirstHasNone,
    /// The first, and each with a table of open files of its own.
    All,
}

/// Looks into processes in a thread of its own, as who is in the midst of execve(2) can hold up whoever looks (`ptrace_may_access()`
/// and `exec_update_lock`, Linux 6.18 `fs/proc/base.c`), for ever if a file that it closes there is of a file server that does
/// not answer. A thread that is late is left to that process, which then counts as hidden, and the next gets another.
pub(super) struct Aside<'a> {
    proc: Arc<OwnedFd>,
    wanted: Arc<[Inode]>,
    interrupt: &'a Interrupt,
    late: &'a RefCell<Vec<Pid>>,
    reader: word::Workers<Question, Vec<Open>>,
    /// Whether as many pairs were found as are kept.
    is_full: bool,
}

/// Which of these processes have what is wanted.
struct Question {
    proc: Arc<OwnedFd>,
    wanted: Arc<[Inode]>,
    pids: Vec<Pid>,
    threads: Threads,
    /// So many of them have been looked into.
    progress: Arc<AtomicUsize>,
}

impl Question {
    fn answer(&self) -> Vec<Open> {
        let mut scan = Scan::new(&self.proc, &self.wanted);
        let look = |&pid| {
            let open = scan.process(pid, self.threads);
            self.progress.fetch_add(1, Ordering::Relaxed);
            open
        };
        self.pids.iter().map(look).collect()
    }
}

/// Who is looked at.
#[derive(Clone, Copy)]
struct Walk<'a> {
    /// They have more time.
    first: &'a [Pid],
    others: &'a [Pid],
}

impl<'a> Walk<'a> {
    /// At these alone.
    fn of(first: &'a [Pid]) -> Self {
        Self { first, others: &[] }
    }
}

enum Answer {
    /// In the order of the question.
    Open(Vec<Open>),
    /// The process of this index was not in time.
    Late(usize),
    /// No time is left, or something has come to end us.
    None,
}

impl<'a> Aside<'a> {
    pub(super) fn new(proc: OwnedFd, interrupt: &'a Interrupt, late: &'a RefCell<Vec<Pid>>) -> Self {
        Self {
            proc: Arc::new(proc),
            wanted: Arc::from([]),
            interrupt,
            late,
            reader: word::Workers::new(Question::answer),
            is_full: false,
        }
    }

    /// Which of these sockets a process has open, in any of its threads.
    pub(super) fn open(&mut self, pid: Pid, inodes: &[Inode]) -> Open {
        let mut wanted = inodes.to_vec();
        wanted.sort_unstable();
        self.wanted = wanted.into();
        let (seen, _) = self.look(&[pid], Threads::All, || word::some_patience(word::MORE_PATIENCE));
        seen.into_iter().next().map_or(Open::HIDDEN, |(_, open)| open)
    }

    /// Whether each of the wanted sockets has a holder.
    fn has_all(&self, holders: &Holders) -> bool {
        self.wanted.iter().all(|inode| holders.by_inode.contains_key(inode))
    }

    /// Those who were found, and more, in the order of the walk, until that is enough for each of the wanted sockets.
    fn more(
        &mut self,
        mut holders: Holders,
        walk: Walk<'_>,
        threads: Threads,
        is_enough: fn(&Holders, Inode) -> bool,
    ) -> Holders {
        if self.is_full {
            return holders;
        }
        let mut pairs: usize = holders.by_inode.values().map(Vec::len).sum();
        let first = walk.first.chunks(AT_ONCE).map(|some| (some, word::MORE_PATIENCE));
        for (some, patience) in first.chain(walk.others.chunks(AT_ONCE).map(|some| (some, word::PATIENCE))) {
            if !self.wanted.is_empty() && self.wanted.iter().all(|&inode| is_enough(&holders, inode)) {
                break;
            }
            let (seen, hidden) = self.look(some, threads, || word::patience(patience, Duration::ZERO));
            holders.hidden += hidden.len();
            holders.late.extend(hidden);
            for (pid, Open { inodes, sight }) in seen {
                if pairs >= MOST_PAIRS {
                    break;
                }
                pairs += inodes.len();
                for inode in inodes {
                    holders.by_inode.entry(inode).or_default().push(pid);
                }
                holders.hidden += usize::from(sight == Sight::Hidden);
            }
            if self.interrupt.has_come() {
                holders.hidden += 1;
                break;
            }
            if pairs >= MOST_PAIRS {
                self.is_full = true;
                break;
            }
        }
        for holders in holders.by_inode.values_mut() {
            holders.sort_unstable();
        }
        holders
    }

    /// What each of them has open, but for those that were late, now or before.
    fn look(
        &mut self,
        pids: &[Pid],
        threads: Threads,
        patience: impl Fn() -> Option<Duration>,
    ) -> (Vec<(Pid, Open)>, Vec<Pid>) {
        let late = self.late;
        let mut late = late.borrow_mut();
        let (mut hidden, mut left): (Vec<Pid>, Vec<Pid>) = pids.iter().partition(|pid| late.contains(pid));
        while !left.is_empty() {
            match self.ask(&left, threads, patience()) {
                Answer::Open(open) => return (left.into_iter().zip(open).collect(), hidden),
                Answer::Late(nth) => {
                    let pid = left.remove(nth);
                    late.push(pid);
                    hidden.push(pid);
                }
                Answer::None => hidden.append(&mut left),
            }
        }
        (Vec::new(), hidden)
    }

    /// As long as it goes on; who is late costs so much, and nobody is asked where that is none.
    fn ask(&mut self, pids: &[Pid], threads: Threads, patience: Option<Duration>) -> Answer {
        let Some(patience) = patience.filter(|_| !self.interrupt.has_come()) else { return Answer::None };
        let (proc, wanted, progress) =
            (Arc::clone(&self.proc), Arc::clone(&self.wanted), Arc::<AtomicUsize>::default());
        let question = Question { proc, wanted, pids: pids.to_vec(), threads, progress: Arc::clone(&progress) };
        match self.reader.ask(question, patience, self.interrupt) {
            Ok(open) => Answer::Open(open),
            Err(Unanswered::NoThread(question)) => Answer::Open(question.answer()),
            Err(Unanswered::WouldHang) => Answer::None,
            Err(Unanswered::Late) if self.interrupt.has_come() => Answer::None,
            // It may have been in time just now.
            Err(Unanswered::Late) => Answer::Late(progress.load(Ordering::Relaxed).min(pids.len().saturating_sub(1))),
        }
    }
}

/// What is wanted, and what the scan of many processes reuses.
struct Scan<'a> {
    proc: &'a OwnedFd,
    /// In their order.
    wanted: &'a [Inode],
    /// Which of them this process has.
    seen: Vec<bool>,
    listing: Vec<MaybeUninit<u8>>,
}

/// How one table of open files could be read, and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Read { files: usize },
    Hidden,
    Gone,
}

impl<'a> Scan<'a> {
    fn new(proc: &'a OwnedFd, wanted: &'a [Inode]) -> Self {
        Self { proc, wanted, seen: vec![false; wanted.len()], listing: vec![MaybeUninit::uninit(); LISTING_BYTES] }
    }

    fn process(&mut self, pid: Pid, threads: Threads) -> Open {
        let mut inodes = Vec::new();
        let first = self.table(&format!("{pid}/fd"), &mut inodes);
        let sight = match (first, threads) {
            (Table::Gone, _) => Sight::Gone,
            (Table::Read { files: 1.. }, Threads::WhereTheFirstHasNone) => Sight::Whole,
            (Table::Read { files: 0 } | Table::Hidden, Threads::WhereTheFirstHasNone) | (_, Threads::All) => {
                self.other_threads(pid, first, &mut inodes)
            }
        };
        if !inodes.is_empty() {
            self.seen.fill(false);
        }
        Open { inodes, sight }
    }

    /// The threads but the first, which shows nothing where it has ended (Linux `exit_files()`, `kernel/exit.c`).
    fn other_threads(&mut self, pid: Pid, first: Table, inodes: &mut Vec<Inode>) -> Sight {
        let all = open_dir_at(self.proc, &format!("{pid}/task")).and_then(list_pids).unwrap_or_default();
        let mut hidden = first == Table::Hidden && all.len() <= 1;
        for thread in all.into_iter().filter(|&thread| thread != pid) {
            let shares = matches!(first, Table::Read { files: 1.. }) && sys::share_files(pid, thread) == Some(true);
            if !shares {
                hidden |= self.table(&format!("{pid}/task/{thread}/fd"), inodes) == Table::Hidden;
            }
        }
        if hidden { Sight::Hidden } else { Sight::Whole }
    }

    /// One table of open files.
    fn table(&mut self, path: &str, inodes: &mut Vec<Inode>) -> Table {
        let result = open_dir_at(self.proc, path).and_then(|dir| self.scan(&dir, inodes));
        match result {
            Ok(files) => Table::Read { files },
            Err(error) if is_gone(&error) => Table::Gone,
            // EACCES and EPERM, and what else may keep us from looking: it is not known to have nothing.
            Err(_) => Table::Hidden,
        }
    }

    /// Adds the wanted sockets among the links in this directory; returns how many links it has.
    fn scan(&mut self, dir: impl AsFd, inodes: &mut Vec<Inode>) -> io::Result<usize> {
        let dir = dir.as_fd();
        let mut entries = RawDir::new(dir, &mut self.listing);
        let mut files = 0_usize;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if entry.file_name().to_bytes().starts_with(b".") {
                continue;
            }
            files += 1;
            let mut link = [MaybeUninit::uninit(); LINK_BYTES];
            let link = match readlinkat_raw(dir, entry.file_name(), &mut link[..]) {
                Ok((link, _)) => &*link,
                // Closed since it was listed; or no socket: its path is longer than the kernel tells, which anybody can make.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NAMETOOLONG) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if let Some(inode) = socket_inode(link)
                && let Ok(nth) = self.wanted.binary_search(&inode)
                && !std::mem::replace(&mut self.seen[nth], true)
            {
                inodes.push(inode);
            }
        }
        Ok(files)
    }
}

/// The N of `socket:[N]`.
fn socket_inode(link: &[u8]) -> Option<Inode> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(Inode)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::process::{Command, Stdio};
    use std::sync::LazyLock;

    use nix::sys::stat::fstat;
    use rustix::fs::readlinkat;

    use super::*;
    use crate::observe::fixture::{
        Cgroup, Child, Role, assert_holds_in_a_process_of_its_own, holds, is_alone, own_pid, trace_of_itself,
    };

    const PROC: &str = "/proc";

    /// Never comes.
    static NOBODY: LazyLock<Interrupt> = LazyLock::new(Interrupt::default);

    fn nobody_is_late() -> &'static RefCell<Vec<Pid>> {
        Box::leak(Box::default())
    }

    fn inode_of(socket: impl AsFd) -> Inode {
        Inode(fstat(socket).unwrap().st_ino)
    }

    fn search(cgroups: &[PathBuf], thorough: Thorough) -> Search<'_> {
        Search { proc: Path::new(PROC), cgroups, thorough, interrupt: &NOBODY, late: nobody_is_late() }
    }

    #[test]
    fn a_link_is_a_socket_only_in_its_whole_form() {
        let rows: [(&[u8], Option<u64>); 7] = [
            (b"socket:[4711]", Some(4711)),
            (b"socket:[18446744073709551615]", Some(u64::MAX)),
            (b"socket:[]", None),
            (b"socket:[1", None),
            (b"pipe:[4711]", None),
            (b"/tmp/socket:[4711]", None),
            (b"socket:[-1]", None),
        ];
        for (link, expected) in rows {
            assert_eq!(socket_inode(link), expected.map(Inode), "{link:?}");
        }
    }

    #[test]
    fn a_process_holds_what_it_has_open_and_nothing_else() {
        let (mine, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let wanted = [inode_of(&mine), Inode(u64::MAX)];
        let _second = mine.try_clone().unwrap();
        let open = holds(own_pid(), &wanted);
        assert_eq!(open, Open { inodes: vec![inode_of(&mine)], sight: Sight::Whole });

        let mut child = Command::new("sleep").arg("60").stdin(OwnedFd::from(other)).spawn().unwrap();
        let pid = Pid(child.id().try_into().unwrap());
        assert_eq!(holds(pid, &wanted), Open { inodes: Vec::new(), sight: Sight::Whole });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(holds(pid, &wanted), Open { inodes: Vec::new(), sight: Sight::Gone });
    }

    /// Longer than the kernel tells of a link (`d_path()`, Linux `fs/d_path.c`); anybody can make one.
    #[test]
    fn a_file_with_a_path_that_is_too_long_hides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (name, mut below) = ("x".repeat(250), open_dir(folder.path()).unwrap());
        for _ in 0..20 {
            rustix::fs::mkdirat(&below, &name, rustix::fs::Mode::RWXU).unwrap();
            below = open_dir_at(&below, &name).unwrap();
        }
        // One file before it and one behind, in the order of their numbers.
        let sockets = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let before = rustix::io::fcntl_dupfd_cloexec(&sockets[0], 1000).unwrap();
        let long = rustix::io::fcntl_dupfd_cloexec(&below, before.as_raw_fd() + 1).unwrap();
        let after = rustix::io::fcntl_dupfd_cloexec(&sockets[1], long.as_raw_fd() + 1).unwrap();
        let link = readlinkat(open_dir(Path::new("/proc/self/fd")).unwrap(), long.as_raw_fd().to_string(), Vec::new());
        assert_eq!(link, Err(rustix::io::Errno::NAMETOOLONG));
        let inodes = sockets.map(inode_of);
        let open = holds(own_pid(), &inodes);
        assert_eq!((open.inodes.len(), open.sight), (2, Sight::Whole), "{open:?}");
        drop((before, long, after));
    }

    /// Alone, as each child that another test spawns has all that this process has open, until it runs its program.
    #[test]
    fn all_who_share_a_socket_are_found_by_a_walk() {
        if !is_alone() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&listener);
        let shared = OwnedFd::from(listener.try_clone().unwrap());
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(shared)).spawn().unwrap();
        let pid = Pid(child.id().try_into().unwrap());
        let mut expected = vec![pid, own_pid()];
        expected.sort_unstable();
        for thorough in [Thorough::IfNobodyFound, Thorough::Always] {
            let found = holders(&search(&[], thorough), &[inode, inode, Inode(0)]);
            assert_eq!(found.by_inode, HashMap::from([(inode, expected.clone())]), "{thorough:?}");
            assert!(found.walked);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_dead_first_thread_does_not_hide_the_holder() {
        let child = Child::spawn(Role::DeadLeader, &[]);
        let open = holds(child.pid(), &[child.inode()]);
        assert_eq!(open, Open { inodes: vec![child.inode()], sight: Sight::Whole });
    }

    #[test]
    fn a_thread_with_files_of_its_own_does_not_hide_the_holder() {
        let child = Child::spawn(Role::OwnTable, &[]);
        let open = holds(child.pid(), &[child.inode()]);
        assert_eq!(open, Open { inodes: vec![child.inode()], sight: Sight::Whole });
        let found = holders(&search(&[], Thorough::IfNobodyFound), &[child.inode()]);
        assert_eq!(found.by_inode, HashMap::from([(child.inode(), vec![child.pid()])]));
    }

    #[test]
    fn no_permission_is_told_from_nothing_open() {
        let child = Child::spawn(Role::Listen, &[]);
        let (inode, pid) = (child.inode().0.to_string(), child.pid().to_string());
        let blind = Child::spawn(Role::LookAsNobody, &[("PORTGUARD_TEST_INODE", &inode), ("PORTGUARD_TEST_PID", &pid)]);
        assert_eq!(blind.said(), "[] Hidden");
    }

    #[test]
    fn a_socket_that_nobody_has_is_found_with_nobody_after_a_walk() {
        let found = holders(&search(&[], Thorough::IfNobodyFound), &[Inode(u64::MAX)]);
        assert_eq!((found.by_inode.len(), found.walked), (0, true));
    }

    #[test]
    fn the_likely_cgroups_are_enough_where_everybody_is_found_there() {
        let cgroup = Cgroup::create("likely");
        let sub = cgroup.sub("deeper");
        let child = Child::spawn(Role::Listen, &[("PORTGUARD_TEST_CGROUP", sub.to_str().unwrap())]);
        assert_eq!(cgroup_pids(cgroup.dir()), [child.pid()]);

        let cgroups = [cgroup.dir().to_owned(), PathBuf::from("/nonexistent")];
        let found = holders(&search(&cgroups, Thorough::IfNobodyFound), &[child.inode()]);
        let expected = HashMap::from([(child.inode(), vec![child.pid()])]);
        // On some machines not even root may look into PID 1.
        let hidden = usize::from(holds(Pid::INIT, &[]).sight == Sight::Hidden);
        assert_eq!(found, Holders { by_inode: expected.clone(), hidden, ..Holders::default() });
        let found = holders(&search(&cgroups, Thorough::Always), &[child.inode()]);
        assert_eq!((found.by_inode, found.walked), (expected.clone(), true));
        // With somebody else's that is elsewhere, all are looked at.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let both = [child.inode(), inode_of(&listener)];
        for (thorough, walked) in [(Thorough::UntilFound, false), (Thorough::IfNobodyFound, true)] {
            let found = holders(&search(&cgroups, thorough), &both);
            assert_eq!((found.by_inode.len(), found.walked), (2, walked), "{thorough:?}");
        }
    }

    /// The holder is none of those in the likely cgroup.
    #[test]
    fn each_process_is_looked_at_once() {
        const SEARCHES: usize = 3;
        if let Some(trace) = trace_of_itself() {
            let mut opened = HashMap::new();
            for table in trace.lines().filter_map(|line| line.split_once("openat(")?.1.split('"').nth(1)) {
                if table.ends_with("/fd") {
                    *opened.entry(table).or_insert(0) += 1;
                }
            }
            assert!(opened.len() > 2 && opened.values().all(|&times| times <= SEARCHES), "{opened:?}");
            assert!(opened.values().filter(|&&times| times == SEARCHES).count() > 1, "{opened:?}");
            return;
        }
        let (cgroup, listener) = (Cgroup::create("left"), TcpListener::bind("127.0.0.1:0").unwrap());
        let _other = Child::spawn(Role::Listen, &[("PORTGUARD_TEST_CGROUP", cgroup.dir().to_str().unwrap())]);
        let cgroups = [cgroup.dir().to_owned()];
        for thorough in [Thorough::UntilFound, Thorough::IfNobodyFound, Thorough::Always] {
            assert!(holders(&search(&cgroups, thorough), &[inode_of(&listener)]).has(inode_of(&listener), own_pid()));
        }
    }

    #[test]
    fn of_those_who_share_a_socket_in_a_likely_cgroup_the_first_are_enough_for_who_asks_no_further() {
        let cgroup = Cgroup::create("shared");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&listener);
        let mut sleepers: Vec<_> = (0..AT_ONCE + 10)
            .map(|_| {
                let shared = OwnedFd::from(listener.try_clone().unwrap());
                let child = Command::new("sleep").arg("60").stdin(Stdio::from(shared)).spawn().unwrap();
                std::fs::write(cgroup.dir().join("cgroup.procs"), child.id().to_string()).unwrap();
                child
            })
            .collect();
        let mut pids: Vec<Pid> = sleepers.iter().map(|child| Pid(child.id().try_into().unwrap())).collect();
        pids.sort_unstable();
        let cgroups = [cgroup.dir().to_owned()];
        let seen = |thorough, wanted: &[Inode]| holders(&search(&cgroups, thorough), wanted).by_inode[&inode].clone();
        // And PID 1.
        assert_eq!(seen(Thorough::UntilFound, &[inode]), pids[..AT_ONCE - 1]);
        assert_eq!(seen(Thorough::IfNobodyFound, &[inode]), pids);
        // As long as somebody is looked for, all who are met count.
        pids.push(own_pid());
        pids.sort_unstable();
        assert_eq!(seen(Thorough::UntilFound, &[inode, Inode(u64::MAX)]), pids);
        for child in &mut sleepers {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn processes_of_threaded_cgroups_are_those_of_the_domain_above() {
        let cgroup = Cgroup::create("threaded");
        let sub = cgroup.sub("threads");
        std::fs::write(sub.join("cgroup.type"), "threaded").unwrap();
        let child = Child::spawn(Role::Listen, &[("PORTGUARD_TEST_CGROUP", cgroup.dir().to_str().unwrap())]);
        assert_eq!(cgroup_pids(&sub), [child.pid()]);
        assert_eq!(cgroup_pids(cgroup.dir()), [child.pid()]);
        assert_eq!(cgroup_pids(Path::new("/nonexistent")), []);
    }

    #[test]
    fn nobody_is_free_of_suspicion_where_the_listing_has_no_pid_1() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("7/fd")).unwrap();
        let search = Search { proc: proc.path(), ..search(&[], Thorough::Always) };
        assert_eq!(holders(&search, &[Inode(1)]).hidden, 1);
        std::fs::create_dir_all(proc.path().join("1/fd")).unwrap();
        assert_eq!(holders(&search, &[Inode(1)]), Holders { walked: true, ..Holders::default() });
        let nothing = Search { proc: Path::new("/nonexistent"), ..search };
        assert_eq!(holders(&nothing, &[Inode(1)]).hidden, 1);
    }

    /// In a process of its own, as what holds signals back is its first thread's.
    #[test]
    fn a_walk_ends_when_something_comes_to_end_us_and_says_that_not_all_was_seen() {
        if !is_alone() {
            return;
        }
        let child = Child::spawn(Role::Listen, &[]);
        let inode = child.inode();
        assert_holds_in_a_process_of_its_own(|| {
            let interrupt = Interrupt::listen();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
            let found = holders(&Search { interrupt: &interrupt, ..search(&[], Thorough::Always) }, &[inode]);
            assert!(found.by_inode.is_empty() && found.hidden > 0, "{found:?}");
        });
        assert!(holders(&search(&[], Thorough::Always), &[inode]).has(inode, child.pid()));
    }
}
