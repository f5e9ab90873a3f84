//! Which processes have a socket open, by the links of `/proc/PID/fd` (proc(5)).
//!
//! It owns the order of the search and the scan, which has one readlinkat(2) an open file, and no stat and no
//! allocation. It must not read anything else of a process, nor conclude anything from finding nobody.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{RawDir, readlinkat_raw};

use super::order::Turns;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thorough {
    /// Only if some socket has nobody in the likely places. Neither these nor all others are looked at to their end, once
    /// somebody but PID 1 was found for each socket among the first of them.
    UntilFound,
    /// Only if some socket has nobody in the likely places. Other holders of a socket that has somebody can stay unseen.
    IfNobodyFound,
    /// Always, so that other holders of a socket that has somebody are seen as well.
    Always,
    /// Always, and for as long as a socket has nobody. Whoever does not let a service start is looked for like that.
    UntilAllAreFound,
    /// Always, and so that every holder of every socket is seen, in whichever thread it is. So it is before anything is stopped that
    /// is up, and for whoever wants to know.
    ToTheEnd,
}

/// So much of a processor is spent beyond the likely places, in a run: the open files of some 3,000 processes that have 50 each.
/// Anybody can have very many more.
pub const REST: Duration = Duration::from_millis(500);

/// What the searches of a run share.
#[derive(Clone, Debug)]
pub struct SoFar {
    /// Those that were late: as long as somebody hangs, they are not worth another look.
    pub late: RefCell<Vec<Pid>>,
    /// Those who had a socket. They are among the first who are looked at: nobody who was seen is forgotten for want of time.
    found: RefCell<BTreeSet<Pid>>,
    /// What is left of [`REST`].
    rest: Cell<Duration>,
    /// Whether a part of that can be there once more.
    has_more: Cell<bool>,
}

impl Default for SoFar {
    fn default() -> Self {
        Self { late: RefCell::default(), found: RefCell::default(), rest: Cell::new(REST), has_more: Cell::new(true) }
    }
}

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The mount of procfs.
    pub proc: &'a Path,
    /// The directories of the likely cgroups, each with all below it: the unit's own, then those in which the sockets were
    /// born. One that is not there any more is none.
    pub cgroups: &'a [PathBuf],
    /// The users who have made the sockets.
    pub users: &'a BTreeSet<u32>,
    /// Whether to look further.
    pub thorough: Thorough,
    /// What ends the search in its middle: those that were not looked at by then count as hidden.
    pub interrupt: &'a Interrupt,
    /// Of this search as well.
    pub so_far: &'a SoFar,
}

/// Of so many pairs of a socket and a process that has it more is not looked for: each is judged by itself, and takes half a
/// kilobyte.
const MOST_PAIRS: usize = 1 << 18;

/// Who was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The processes that have each socket open, each once and in order; a socket without any is not in here.
    pub by_inode: HashMap<Inode, Vec<Pid>>,
    /// So many processes could not be looked into, or not be seen at all, or there was no time for them.
    pub hidden: usize,
    /// Those of them that were not in time, each once.
    pub late: Vec<Pid>,
    /// So many of them were not looked at, or not to their end, for want of time.
    pub passed_over: usize,
    /// Whether so many were found that others were not looked for, of any of the sockets.
    pub is_full: bool,
    /// Whether all of `/proc` was walked, and nobody passed over.
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
    /// Not all: for want of time.
    Part,
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
    let mut scan = Aside::new(proc, search.interrupt, search.so_far);
    scan.wanted = inodes.into();
    scan.bounds = match search.thorough {
        Thorough::UntilFound | Thorough::IfNobodyFound | Thorough::Always => Bounds::Always,
        Thorough::UntilAllAreFound => Bounds::OnceAllAreFound,
        Thorough::ToTheEnd => Bounds::Never,
    };
    let is_enough =
        if search.thorough == Thorough::UntilFound { Holders::has_somebody } else { |_: &Holders, _| false };
    let found = look_for(search, &mut scan, is_enough);
    search.so_far.remember(&found);
    Holders { is_full: scan.is_full, ..found }
}

fn look_for(search: &Search<'_>, scan: &mut Aside<'_>, is_enough: fn(&Holders, Inode) -> bool) -> Holders {
    let threads = match search.thorough {
        Thorough::ToTheEnd => Threads::All,
        Thorough::UntilFound | Thorough::IfNobodyFound | Thorough::Always | Thorough::UntilAllAreFound => {
            Threads::WhereTheFirstHasNone
        }
    };
    let likely = likely_places(search);
    // Whoever was found can have it in any of its threads.
    let theirs = if search.so_far.found.borrow().is_empty() { threads } else { Threads::All };
    let some = scan.more(Holders::default(), Walk::of(&likely.pids), theirs, is_enough);
    if search.thorough < Thorough::Always && scan.has_all(&some) {
        return Holders { hidden: some.hidden + likely.invisible, ..some };
    }
    let Ok(mut everybody) = list_pids(&*scan.proc) else { return Holders { hidden: 1, ..Holders::default() } };
    // With hidepid= (proc(5)) others' processes are not even listed; PID 1 is somebody's in every pid namespace.
    let unlisted = usize::from(!everybody.contains(&Pid::INIT));
    let is_nobody_else_looked_at = scan.has_all(&some) && search.so_far.rest.get().is_zero();
    if search.thorough == Thorough::UntilAllAreFound && !is_nobody_else_looked_at {
        let turns = Turns::new(search.proc, search.users, &search.so_far.found.borrow());
        everybody.sort_by_cached_key(|&pid| turns.of(pid));
    }
    let all_but = |first: &[Pid]| -> Vec<Pid> {
        let first: HashSet<Pid> = first.iter().copied().collect();
        everybody.iter().copied().filter(|pid| !first.contains(pid)).collect()
    };
    let mut found = scan.more(some, Walk { first: &[], others: &all_but(&likely.pids) }, threads, is_enough);
    if search.thorough == Thorough::UntilFound {
        return found;
    }
    if !scan.is_full && !scan.has_all(&found) && threads != Threads::All {
        let first = search.so_far.remember(&found).after(&likely.pids);
        let walk = Walk { first: &first, others: &all_but(&first) };
        found = scan.more(Holders::default(), walk, Threads::All, is_enough);
    }
    Holders { hidden: found.hidden + unlisted, walked: found.passed_over == 0, ..found }
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

/// PID 1, the processes of the likely cgroups, and those who have had a socket before, each once.
fn likely_places(search: &Search<'_>) -> Members {
    let Members { mut pids, invisible } = members(search.cgroups, search.interrupt);
    if pids.first() != Some(&Pid::INIT) {
        pids.insert(0, Pid::INIT);
    }
    Members { pids: search.so_far.after(&pids), invisible }
}

impl SoFar {
    fn remember(&self, holders: &Holders) -> &Self {
        self.found.borrow_mut().extend(holders.by_inode.values().flatten());
        self
    }

    /// Who was found, after these, each once.
    fn after(&self, pids: &[Pid]) -> Vec<Pid> {
        let these: HashSet<Pid> = pids.iter().copied().collect();
        let found = self.found.borrow();
        pids.iter().chain(found.iter().filter(|pid| !these.contains(pid))).copied().collect()
    }

    /// A part of it once more, for those who share what was found without a bound. Whether it had not been there before.
    pub(super) fn has_more_time(&self) -> bool {
        let has_more = self.has_more.replace(false);
        if has_more {
            self.rest.set(self.rest.get().max(REST / 4));
        }
        has_more
    }

    /// So much of the rest was spent.
    fn spent(&self, took: Duration) {
        self.rest.set(self.rest.get().saturating_sub(took));
    }
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
    so_far: &'a SoFar,
    reader: word::Workers<Question, ()>,
    bounds: Bounds,
    /// Whether as many pairs were found as are kept.
    is_full: bool,
}

/// When no more than [`REST`] is spent beyond the first of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bounds {
    Always,
    OnceAllAreFound,
    Never,
}

/// Which of these processes have what is wanted.
struct Question {
    proc: Arc<OwnedFd>,
    wanted: Arc<[Inode]>,
    pids: Vec<Pid>,
    threads: Threads,
    /// So much may be spent on them from where the last of the `missing` has somebody.
    rest: Option<Duration>,
    missing: Arc<[Inode]>,
    progress: Arc<Progress>,
}

/// How far a question has come: also one that is never answered.
#[derive(Default)]
struct Progress {
    /// What the first of the processes have. Where time was short, there are fewer than were asked for.
    open: Mutex<Vec<Open>>,
    /// What was spent of the rest, in microseconds.
    spent: AtomicU64,
    /// Nobody waits for it any more.
    is_given_up: AtomicBool,
}

impl Progress {
    fn open(&self) -> Vec<Open> {
        std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spent(&self) -> Duration {
        Duration::from_micros(self.spent.load(Ordering::Relaxed))
    }
}

impl Question {
    fn answer(&self) {
        let bound = Some(Bound::new(None, &self.progress));
        let mut scan = Scan { bound, ..Scan::new(&self.proc, &self.wanted) };
        let mut missing = self.missing.to_vec();
        let mut rest = self.rest;
        for &pid in &self.pids {
            if missing.is_empty() && rest.is_some() {
                scan.bound = Some(Bound::new(rest.take(), &self.progress));
            }
            if scan.is_over() {
                return;
            }
            let open = scan.process(pid, self.threads);
            if !missing.is_empty() && !open.inodes.is_empty() {
                let found: HashSet<&Inode> = open.inodes.iter().collect();
                missing.retain(|inode| !found.contains(inode));
            }
            self.progress.open.lock().unwrap_or_else(PoisonError::into_inner).push(open);
        }
        // What the last of them took counts as well.
        let _ = scan.is_over();
    }
}

/// What ends a scan in its midst.
struct Bound<'a> {
    /// When it began, and what may be spent from then on: of the processor's time of this thread.
    time: Option<(Duration, Duration)>,
    progress: &'a Progress,
}

impl<'a> Bound<'a> {
    fn new(rest: Option<Duration>, progress: &'a Progress) -> Self {
        Self { time: rest.map(|rest| (word::on_a_processor(), rest)), progress }
    }

    fn is_over(&self) -> bool {
        let is_spent = self.time.is_some_and(|(began, rest)| {
            let spent = word::on_a_processor().saturating_sub(began);
            self.progress.spent.store(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            spent >= rest
        });
        is_spent || self.progress.is_given_up.load(Ordering::Relaxed)
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

/// What came of looking at some.
#[derive(Default)]
struct Looked {
    seen: Vec<(Pid, Open)>,
    /// Those that were late, now or before.
    late: Vec<Pid>,
    /// Those that were not looked at: for want of time, of what may be waited for who is late, or as something has come to end us.
    passed_over: usize,
}

impl<'a> Aside<'a> {
    pub(super) fn new(proc: OwnedFd, interrupt: &'a Interrupt, so_far: &'a SoFar) -> Self {
        Self {
            proc: Arc::new(proc),
            wanted: Arc::from([]),
            interrupt,
            so_far,
            reader: word::Workers::new(Question::answer),
            bounds: Bounds::Never,
            is_full: false,
        }
    }

    /// Which of these sockets a process has open, in any of its threads.
    pub(super) fn open(&mut self, pid: Pid, inodes: &[Inode]) -> Open {
        let mut wanted = inodes.to_vec();
        wanted.sort_unstable();
        self.wanted = wanted.into();
        let looked = self.look(&[pid], Threads::All, None, || word::some_patience(word::MORE_PATIENCE));
        looked.seen.into_iter().next().map_or(Open::HIDDEN, |(_, open)| open)
    }

    /// Those of the wanted sockets that have nobody.
    fn missing(&self, holders: &Holders) -> Arc<[Inode]> {
        self.wanted.iter().copied().filter(|inode| !holders.by_inode.contains_key(inode)).collect()
    }

    /// Whether each of the wanted sockets has a holder.
    fn has_all(&self, holders: &Holders) -> bool {
        self.wanted.iter().all(|inode| holders.by_inode.contains_key(inode))
    }

    /// Those who were found, and more, in the order of the walk, until that is enough for each of the wanted sockets, or what may
    /// be spent on the others is.
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
        let mut missing = self.missing(&holders);
        let first = walk.first.chunks(AT_ONCE).map(|some| (some, word::MORE_PATIENCE, false));
        let others = walk.others.chunks(AT_ONCE).map(|some| (some, word::PATIENCE, true));
        let (bounds, nobody) = (self.bounds, Arc::from([]));
        for (some, patience, is_other) in first.chain(others) {
            if !self.wanted.is_empty() && self.wanted.iter().all(|&inode| is_enough(&holders, inode)) {
                break;
            }
            let bounded_without = match bounds {
                Bounds::Always => Some(&nobody),
                Bounds::OnceAllAreFound => Some(&missing),
                Bounds::Never => None,
            };
            let looked = self.look(some, threads, bounded_without.filter(|_| is_other), || match bounds {
                Bounds::Always => word::patience(patience, Duration::ZERO),
                Bounds::OnceAllAreFound | Bounds::Never => word::some_patience(patience),
            });
            holders.hidden += looked.late.len() + looked.passed_over;
            holders.late.extend(looked.late);
            holders.passed_over += looked.passed_over;
            let mut is_news = false;
            for (pid, Open { inodes, sight }) in looked.seen {
                if pairs >= MOST_PAIRS {
                    break;
                }
                if sight == Sight::Gone {
                    self.so_far.found.borrow_mut().remove(&pid);
                }
                pairs += inodes.len();
                is_news |= !inodes.is_empty();
                for inode in inodes {
                    holders.by_inode.entry(inode).or_default().push(pid);
                }
                holders.hidden += usize::from(matches!(sight, Sight::Hidden | Sight::Part));
                holders.passed_over += usize::from(sight == Sight::Part);
            }
            if self.interrupt.has_come() {
                holders.hidden += 1;
                break;
            }
            if pairs >= MOST_PAIRS {
                self.is_full = true;
                break;
            }
            if is_news {
                missing = self.missing(&holders);
            }
        }
        for holders in holders.by_inode.values_mut() {
            holders.sort_unstable();
        }
        holders
    }

    /// What each of them has open, but for those that were late, now or before, and for whom there is no time. There is a bound
    /// `without` any of these that have nobody.
    fn look(
        &mut self,
        pids: &[Pid],
        threads: Threads,
        without: Option<&Arc<[Inode]>>,
        patience: impl Fn() -> Option<Duration>,
    ) -> Looked {
        let so_far = self.so_far;
        if without.is_some_and(|missing| missing.is_empty()) && so_far.rest.get().is_zero() {
            return Looked { passed_over: pids.len(), ..Looked::default() };
        }
        let mut late = so_far.late.borrow_mut();
        let (was_late, mut left): (Vec<Pid>, Vec<Pid>) = pids.iter().partition(|pid| late.contains(pid));
        let mut looked = Looked { late: was_late, ..Looked::default() };
        while !left.is_empty() {
            let (open, is_late) = self.ask(&left, threads, without, patience());
            looked.seen.extend(left.drain(..open.len()).zip(open));
            // It may have been in time just now.
            if !is_late || left.is_empty() {
                break;
            }
            let pid = left.remove(0);
            late.push(pid);
            looked.late.push(pid);
        }
        looked.passed_over = left.len();
        looked
    }

    /// What the first of them have, as long as it goes on, and whether the next was late: who is costs so much, and nobody is asked
    /// where that is none.
    fn ask(
        &mut self,
        pids: &[Pid],
        threads: Threads,
        without: Option<&Arc<[Inode]>>,
        patience: Option<Duration>,
    ) -> (Vec<Open>, bool) {
        let Some(patience) = patience.filter(|_| !self.interrupt.has_come()) else { return (Vec::new(), false) };
        let (proc, wanted, progress) = (Arc::clone(&self.proc), Arc::clone(&self.wanted), Arc::<Progress>::default());
        let question = Question {
            proc,
            wanted,
            pids: pids.to_vec(),
            threads,
            rest: without.map(|_| self.so_far.rest.get()),
            missing: without.cloned().unwrap_or_default(),
            progress: Arc::clone(&progress),
        };
        let is_late = match self.reader.ask(question, patience, self.interrupt) {
            Ok(()) | Err(Unanswered::WouldHang) => false,
            Err(Unanswered::NoThread(question)) => {
                question.answer();
                false
            }
            Err(Unanswered::Late) => !self.interrupt.has_come(),
        };
        self.so_far.spent(progress.spent());
        let open = progress.open();
        // After that, as what is broken off is none of it.
        progress.is_given_up.store(true, Ordering::Relaxed);
        (open, is_late)
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
    bound: Option<Bound<'a>>,
}

/// After so many open files it is asked how much was spent.
const FILES_AT_ONCE: usize = 1024;

/// How one table of open files could be read, and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Read { files: usize },
    Hidden,
    Part,
    Gone,
}

impl<'a> Scan<'a> {
    fn new(proc: &'a OwnedFd, wanted: &'a [Inode]) -> Self {
        let (seen, listing) = (vec![false; wanted.len()], vec![MaybeUninit::uninit(); LISTING_BYTES]);
        Self { proc, wanted, seen, listing, bound: None }
    }

    fn is_over(&self) -> bool {
        self.bound.as_ref().is_some_and(Bound::is_over)
    }

    fn process(&mut self, pid: Pid, threads: Threads) -> Open {
        let mut inodes = Vec::new();
        let first = self.table(&format!("{pid}/fd"), &mut inodes);
        let sight = match (first, threads) {
            (Table::Gone, _) => Sight::Gone,
            (Table::Part, _) => Sight::Part,
            _ if self.has_all(&inodes) => Sight::Whole,
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
        let all = match open_dir_at(self.proc, &format!("{pid}/task")).and_then(list_pids) {
            Ok(all) => all,
            Err(error) if is_gone(&error) => Vec::new(),
            Err(_) => return Sight::Hidden,
        };
        let mut hidden = first == Table::Hidden && all.len() <= 1;
        for thread in all.into_iter().filter(|&thread| thread != pid) {
            let shares = matches!(first, Table::Read { files: 1.. }) && sys::share_files(pid, thread) == Some(true);
            if shares {
                continue;
            }
            if self.is_over() {
                return Sight::Part;
            }
            match self.table(&format!("{pid}/task/{thread}/fd"), inodes) {
                Table::Part => return Sight::Part,
                _ if self.has_all(inodes) => return Sight::Whole,
                Table::Hidden => hidden = true,
                Table::Read { .. } | Table::Gone => {}
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
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Table::Part,
            // EACCES and EPERM, and what else may keep us from looking: it is not known to have nothing.
            Err(_) => Table::Hidden,
        }
    }

    /// Whether there is nothing more to be found.
    fn has_all(&self, inodes: &[Inode]) -> bool {
        !inodes.is_empty() && inodes.len() == self.seen.len()
    }

    /// Adds the wanted sockets among the links in this directory, until it has all; returns how many links it has read.
    ///
    /// # Errors
    /// `TimedOut`: for want of time, not to its end.
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
            if files.is_multiple_of(FILES_AT_ONCE) && self.bound.as_ref().is_some_and(Bound::is_over) {
                return Err(io::ErrorKind::TimedOut.into());
            }
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
                if inodes.len() == self.seen.len() {
                    break;
                }
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

    fn inode_of(socket: impl AsFd) -> Inode {
        Inode(fstat(socket).unwrap().st_ino)
    }

    fn search(cgroups: &[PathBuf], thorough: Thorough) -> Search<'_> {
        const USERS: &BTreeSet<u32> = &BTreeSet::new();
        Search {
            proc: Path::new(PROC),
            cgroups,
            users: USERS,
            thorough,
            interrupt: &NOBODY,
            so_far: Box::leak(Box::default()),
        }
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
    fn no_more_than_a_moment_is_spent_on_who_else_has_what_somebody_has() {
        let cgroup = Cgroup::create("rest");
        let child = Child::spawn(Role::Listen, &[("PORTGUARD_TEST_CGROUP", cgroup.dir().to_str().unwrap())]);
        let (cgroups, known) = ([cgroup.dir().to_owned()], child.inode());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = inode_of(&listener);
        let so_far = |rest| SoFar { rest: Cell::new(rest), ..SoFar::default() };
        let look = |thorough, so_far: &SoFar, wanted: &[Inode]| {
            holders(&Search { so_far, ..search(&cgroups, thorough) }, wanted)
        };
        // This process is beyond the cgroup, and so not looked at, nor is any other.
        let spent = so_far(Duration::ZERO);
        let cut = look(Thorough::Always, &spent, &[known]);
        assert!(cut.has(known, child.pid()) && cut.passed_over > 1 && !cut.walked, "{cut:?}");
        // What is spent on one is not there for the next.
        let little = so_far(Duration::from_nanos(1));
        let cut = look(Thorough::Always, &little, &[known]);
        assert!(cut.has(known, child.pid()) && cut.passed_over > 0 && little.rest.get().is_zero(), "{cut:?}");
        // Nor is somebody looked for whom nobody knows, but by who has to know.
        for thorough in [Thorough::UntilFound, Thorough::IfNobodyFound, Thorough::Always] {
            let cut = look(thorough, &spent, &[known, other]);
            assert!(cut.has(known, child.pid()) && !cut.by_inode.contains_key(&other), "{cut:?}");
            assert!(cut.passed_over > 0 && cut.hidden >= cut.passed_over, "{cut:?}");
        }
        let whole = look(Thorough::UntilAllAreFound, &spent, &[known, other]);
        assert!(whole.has(other, own_pid()) && whole.has(known, child.pid()), "{whole:?}");
        // Who was found once is looked at in any case, as long as there is such a process.
        let nobody = Pid(i32::MAX);
        spent.found.borrow_mut().insert(nobody);
        let again = look(Thorough::Always, &spent, &[other]);
        assert!(spent.found.borrow().contains(&own_pid()) && !spent.found.borrow().contains(&nobody));
        assert!(again.has(other, own_pid()) && again.passed_over > 0, "{again:?}");
        let enough = so_far(Duration::from_mins(1));
        let whole = look(Thorough::Always, &enough, &[known]);
        assert!(whole.passed_over == 0 && enough.rest.get() < Duration::from_mins(1), "{whole:?}");
        assert!(spent.has_more_time() && spent.rest.get() == REST / 4 && !spent.has_more_time());
        let whole = look(Thorough::ToTheEnd, &so_far(Duration::ZERO), &[known]);
        assert_eq!((whole.passed_over, whole.walked), (0, true));
    }

    /// Of a process with so many files that it is asked in their midst how much was spent. Alone, as other tests open as many.
    #[test]
    fn a_process_is_looked_at_no_further_than_there_is_time_or_something_to_be_found() {
        if !is_alone() {
            return;
        }
        let sockets = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let first = rustix::io::fcntl_dupfd_cloexec(&sockets[0], 1000).unwrap();
        let many: Vec<OwnedFd> = (0..2 * FILES_AT_ONCE).map(|_| first.try_clone().unwrap()).collect();
        let last = rustix::io::fcntl_dupfd_cloexec(&sockets[1], 10_000).unwrap();
        let mut wanted = sockets.each_ref().map(inode_of);
        let first_alone = [wanted[0]];
        wanted.sort_unstable();
        drop(sockets);
        let proc = open_dir(Path::new(PROC)).unwrap();
        let (progress, given_up) = (Progress::default(), Progress::default());
        given_up.is_given_up.store(true, Ordering::Relaxed);
        let open = |wanted: &[Inode], bound| {
            Scan { bound, ..Scan::new(&proc, wanted) }.process(own_pid(), Threads::WhereTheFirstHasNone)
        };
        let over = || Some(Bound::new(Some(Duration::ZERO), &progress));
        assert_eq!(open(&wanted, None), Open { inodes: open(&wanted, None).inodes, sight: Sight::Whole });
        assert_eq!(open(&wanted, None).inodes.len(), 2);
        let part = Open { inodes: first_alone.to_vec(), sight: Sight::Part };
        assert_eq!(open(&wanted, over()), part);
        assert_eq!(open(&wanted, Some(Bound::new(None, &given_up))), part);
        assert_eq!(open(&first_alone, over()), Open { sight: Sight::Whole, ..part });
        drop((many, last));
        // Nor into another thread, however few files each has.
        let child = Child::spawn(Role::OwnTable, &[]);
        let wanted = [child.inode()];
        for (bound, inodes, sight) in [(None, wanted.to_vec(), Sight::Whole), (over(), Vec::new(), Sight::Part)] {
            let mut scan = Scan { bound, ..Scan::new(&proc, &wanted) };
            assert_eq!(scan.process(child.pid(), Threads::All), Open { inodes, sight });
        }
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
