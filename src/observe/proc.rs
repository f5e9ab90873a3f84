//! What `/proc/PID` says of a process (proc(5)): parsers of its files, and the opener that pins the process meanwhile.
//!
//! It must not look at open files (see [`super::holders`]), nor say whose process it is (see [`super::cgroup`] and the
//! service manager). A process that goes away is a value, not an error. The `procfs` crate's parsers are not used
//! here: its `stat` indexes past the end of a line that breaks off, its `cgroup` refuses names that are not UTF-8.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags, makedev, open, openat, readlinkat, statx};
use rustix::io::{Errno, read, retry_on_intr};

use crate::interrupt::Interrupt;
use crate::model::{
    CgroupPath, Container, FileId, Invocation, InvocationId, Lineage, Owner, Pid, Process, StartTime, Terminal,
};
use crate::sys::open_first;
use crate::word::{self, Unanswered};

/// At most so many bytes of the arguments are kept.
const ARGV_BYTES: u64 = 4 * 1024;
/// And so many arguments, each of which takes memory of its own.
const ARGUMENTS: usize = 256;
/// An environment that is larger is not read to its end; a sane execve(2) cannot make it so.
const ENVIRON_BYTES: u64 = 2 * 1024 * 1024;
/// `PF_EXITING`.
const PF_EXITING: u32 = 0x4;
/// Its bit in a set of signals.
const SIGKILL: u64 = 1 << 8;
/// Larger than any `stat`, `status` or `cgroup` file.
const FILE_BYTES: u64 = 64 * 1024;
/// Most files of procfs and cgroupfs are no larger.
const ROOM: usize = 4096;
/// A chain of parents that is longer is a loop that pid reuse has made.
const ANCESTORS: usize = 1024;
/// `PF_KTHREAD`, Linux `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Why a process that is there could not be read.
#[derive(Debug)]
pub enum ProcError {
    /// A file of it could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it is not as proc(5) says.
    Parse {
        /// The file.
        path: PathBuf,
    },
    /// It could not be looked at in time: it hangs in execve(2).
    Late,
}

impl fmt::Display for ProcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Parse { path } => write!(f, "{}: not as proc(5) says", path.display()),
            Self::Late => f.write_str("not looked at in time"),
        }
    }
}

impl std::error::Error for ProcError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Parse { .. } | Self::Late => None,
        }
    }
}

/// What `/proc` alone says of a process. Where its first thread has ended, all but the identity is that of a thread
/// that lives: the kernel shows nothing else for the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its id.
    pub pid: Pid,
    /// When it began, in clock ticks since boot (field 22 of `stat`).
    pub start: StartTime,
    /// Its parent; 0 for one from outside this pid namespace, and for PID 1.
    pub ppid: Pid,
    /// Its real user.
    pub uid: u32,
    /// Its name, with U+FFFD for what is not UTF-8.
    pub comm: String,
    /// Its executable, as the link says: with ` (deleted)` behind it where the file was removed or replaced.
    pub exe: Option<PathBuf>,
    /// Its arguments (the first 4 KiB, and then `…` for more), with U+FFFD for what is not UTF-8; empty where they cannot be
    /// read.
    pub argv: Vec<String>,
    /// Its cgroup; with ` (deleted)` behind it where that was removed, which happens to zombies alone.
    pub cgroup: Option<CgroupPath>,
    /// What its environment says.
    pub invocation: Invocation,
    /// Its controlling terminal.
    pub terminal: Option<Terminal>,
    /// The file behind `exe`, whatever name it has by now.
    pub program: Option<FileId>,
    /// Its working directory and its root directory.
    pub folders: Option<(FileId, FileId)>,
    /// Whether it is a kernel thread.
    pub kernel_thread: bool,
    /// Whether it was on its way out when the last of this was read, which then may be half of a process: its memory, with
    /// its arguments and its environment, goes before its files do (`do_exit()`, Linux `kernel/exit.c`).
    pub ending: bool,
}

impl Facts {
    /// The process, with what only the caller knows. A kernel thread is [`Lineage::Kernel`] whatever the caller says.
    #[must_use]
    pub fn into_process(self, owner: Owner, container: Option<Container>, lineage: Lineage) -> Process {
        let Self {
            pid,
            start,
            ppid: _,
            uid,
            comm,
            exe,
            argv,
            cgroup,
            invocation,
            terminal,
            program,
            folders,
            kernel_thread,
            ending: _,
        } = self;
        let lineage = if kernel_thread { Lineage::Kernel } else { lineage };
        Process {
            pid,
            start,
            uid,
            comm,
            exe,
            argv,
            cgroup,
            owner,
            invocation,
            terminal,
            program,
            folders,
            container,
            lineage,
        }
    }
}

/// The facts of one process; `None` if it is not there, or went away meanwhile.
///
/// All is read through one open directory, which stays that process's even where its id is given to another.
///
/// # Errors
/// `stat` or `status` can be opened and not read or parsed (`hidepid=`: proc(5)), or not in time. What else cannot be read is a
/// value.
pub fn process(proc: &Path, pid: Pid) -> Result<Option<Facts>, ProcError> {
    Reader::new(&Interrupt::default()).process(proc, pid)
}

/// What the kernel reads in the memory of the process itself.
struct Memory {
    cmdline: io::Result<Vec<u8>>,
    environ: io::Result<Vec<u8>>,
}

impl Memory {
    fn read(from: &OwnedFd) -> Self {
        let cmdline = read_at(from, "cmdline", ARGV_BYTES + 1);
        Self { cmdline, environ: read_at(from, "environ", ENVIRON_BYTES + 1) }
    }
}

/// For many processes, one after the other, which are read by one thread that ends with this.
///
/// The kernel waits for whoever is in the midst of execve(2) (see [`super::holders`]), and for whoever has the memory of one
/// locked (`mmap_read_lock_killable()` in `access_remote_vm()`, Linux `mm/memory.c`), which can be for ever. A thread that is
/// late is left to that process, and the next gets another.
pub struct Reader<'a> {
    interrupt: &'a Interrupt,
    aside: word::Workers<Question, Answer>,
    /// What the threads have needed of a processor for memory so far; where they stood still, see [`word::Workers::ask`].
    spent: Duration,
    /// Of so many processes the memory was not read: in time, or for want of a thread.
    pub unread: usize,
}

/// Which process, and whether what is in its memory is wanted as well.
struct Question {
    proc: PathBuf,
    pid: Pid,
    reads_memory: bool,
    /// What is known of it before its memory is read.
    without_memory: Arc<OnceLock<Facts>>,
}

struct Answer {
    facts: Result<Option<Facts>, ProcError>,
    /// How long its memory took the processor; `None` where it was not read.
    memory_took: Option<Duration>,
}

impl Question {
    fn answer(&self) -> Answer {
        self.read(|_| self.reads_memory)
    }

    fn read(&self, reads_memory: impl FnOnce(&OwnedFd) -> bool) -> Answer {
        let mut memory_took = None;
        let memory = |from: &OwnedFd| {
            let before = word::on_a_processor();
            let memory = reads_memory(from).then(|| Memory::read(from))?;
            memory_took = Some(word::on_a_processor().saturating_sub(before));
            Some(memory)
        };
        let facts = self.facts(memory);
        Answer { facts, memory_took }
    }

    fn facts(&self, memory: impl FnOnce(&OwnedFd) -> Option<Memory>) -> Result<Option<Facts>, ProcError> {
        let path = self.proc.join(self.pid.to_string());
        let Some(dir) = there(open_dir(&path)).map_err(|source| read_error(&path, "", source))? else {
            return Ok(None);
        };
        let Some(stat) = stat_of(&dir, &path)? else { return Ok(None) };
        let Some(uid) = uid_of(&dir, &path)? else { return Ok(None) };
        let living = if stat.is_over() { living_thread(&dir) } else { None };
        let from = living.as_ref().unwrap_or(&dir);
        let exe_of = |from| readlinkat(from, "exe", Vec::new()).ok();
        let without_memory = self.without_memory.get_or_init(|| Facts {
            pid: self.pid,
            start: stat.start,
            ppid: stat.ppid,
            uid,
            comm: stat.comm,
            exe: exe_of(from).map(|link| OsString::from_vec(link.into_bytes()).into()),
            argv: Vec::new(),
            cgroup: read_at(from, "cgroup", FILE_BYTES).ok().and_then(|bytes| parse_cgroup(&bytes)),
            invocation: Invocation::Unreadable,
            terminal: stat.terminal,
            program: file_at(from, "exe"),
            folders: file_at(from, "cwd").zip(file_at(from, "root")),
            kernel_thread: stat.flags & PF_KTHREAD != 0,
            ending: false,
        });
        let mut facts = without_memory.clone();
        if let Some(Memory { cmdline, environ }) = memory(from) {
            facts.argv = cmdline.map(|bytes| parse_argv(&bytes)).unwrap_or_default();
            // An environment that reads as empty is one only if the process had its arguments before (in the midst of execve(2)
            // it has neither yet: `begin_new_exec()`, `create_elf_tables()`) and its executable after (one that ends has none).
            let had_memory = || facts.kernel_thread || (!facts.argv.is_empty() && exe_of(from).is_some());
            facts.invocation = match environ {
                Ok(bytes) if !bytes.is_empty() || had_memory() => parse_invocation(&bytes),
                Ok(_) | Err(_) => Invocation::Unreadable,
            };
        }
        // Without its first thread it may go on for long.
        Ok(stat_of(&dir, &path)?.map(|now| Facts { ending: living.is_none() && now.is_ending(), ..facts }))
    }
}

impl<'a> Reader<'a> {
    /// `interrupt`: what ends the reading of one; it is late then.
    #[must_use]
    pub fn new(interrupt: &'a Interrupt) -> Self {
        Self { interrupt, aside: word::Workers::new(Question::answer), spent: Duration::ZERO, unread: 0 }
    }

    /// See [`process`]. The memory of all together takes no longer than is waited in vain: see `word::patience`.
    ///
    /// # Errors
    /// As that.
    pub fn process(&mut self, proc: &Path, pid: Pid) -> Result<Option<Facts>, ProcError> {
        let patience = word::patience(word::MORE_PATIENCE, self.spent);
        self.ask(proc, pid, patience.is_some(), patience)
    }

    /// The same of one that is to be signalled: it is not left out for what others have cost.
    pub(super) fn once_more(&mut self, proc: &Path, pid: Pid, memory: bool) -> Result<Option<Facts>, ProcError> {
        self.ask(proc, pid, memory, None)
    }

    /// `patience`: as long as is left of all that is waited in vain, or where that is nothing, a moment.
    fn ask(
        &mut self,
        proc: &Path,
        pid: Pid,
        reads_memory: bool,
        patience: Option<Duration>,
    ) -> Result<Option<Facts>, ProcError> {
        let without_memory = Arc::<OnceLock<Facts>>::default();
        let question =
            Question { proc: proc.to_owned(), pid, reads_memory, without_memory: Arc::clone(&without_memory) };
        let patience = patience.or_else(|| word::some_patience(word::MORE_PATIENCE)).ok_or(ProcError::Late)?;
        let Answer { facts, memory_took } = match self.aside.ask(question, patience, self.interrupt) {
            Ok(answer) => answer,
            Err(Unanswered::NoThread(question)) => {
                question.read(|from| question.reads_memory && !may_have_it_locked(from))
            }
            Err(Unanswered::Late | Unanswered::WouldHang) => {
                let facts = without_memory.get().cloned().ok_or(ProcError::Late)?;
                self.unread += 1;
                return Ok(Some(facts));
            }
        };
        match memory_took {
            Some(took) => self.spent += took,
            None => self.unread += usize::from(matches!(facts, Ok(Some(_)))),
        }
        facts
    }
}

/// Whether a thread of the process sleeps uninterruptibly, as one does that waits for a file server with the lock of the
/// process's memory. Another process that shares its memory (`CLONE_VM` alone, clone(2)) is not looked for: kcmp(2) can wait
/// for ever as well, for whoever is in the midst of execve(2).
fn may_have_it_locked(dir: &OwnedFd) -> bool {
    threads(dir).map_or(true, |mut threads| threads.any(|(_, stat)| stat.state == b'D'))
}

/// The file or folder of this path, by its numbers; `None` where it cannot be looked at.
#[must_use]
pub fn file_of(path: &Path) -> Option<FileId> {
    file_at(CWD, path)
}

/// Without asking a file server that may not answer: the numbers do not change.
fn file_at(dir: impl AsFd, path: impl rustix::path::Arg) -> Option<FileId> {
    let stat = statx(dir, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some(FileId { device: makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
}

/// The cgroup of the calling process; `None` where it cannot be read. No file was opened before.
#[must_use]
pub fn own_cgroup(proc: &Path) -> Option<CgroupPath> {
    // Left to the exit: this is asked once.
    let file = ManuallyDrop::new(open_first(&proc.join("self/cgroup")).ok()?);
    let mut bytes = Vec::with_capacity(ROOM);
    // The kernel has it in one piece (`proc_single_show()`, Linux `fs/proc/base.c`): what leaves room is the whole.
    retry_on_intr(|| read(&*file, spare_capacity(&mut bytes))).ok()?;
    if bytes.len() == bytes.capacity() {
        (&*file).take(FILE_BYTES).read_to_end(&mut bytes).ok()?;
    }
    parse_cgroup(&bytes)
}

/// The parent of a process, its parent, and so on up to PID 1, or as far as they can be read.
#[must_use]
pub fn ancestors(proc: &Path, pid: Pid) -> Vec<Pid> {
    let mut chain = Vec::new();
    let mut current = pid;
    while chain.len() < ANCESTORS {
        let Some(parent) = parent_of(&proc.join(current.to_string())) else { break };
        if parent.0 <= 0 || parent == pid || chain.contains(&parent) {
            break;
        }
        chain.push(parent);
        current = parent;
    }
    chain
}

/// Of its `status`, which unlike `stat` does not hang with one that is in the midst of execve(2).
fn parent_of(folder: &Path) -> Option<Pid> {
    let status = read_file(&folder.join("status")).ok()?;
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"PPid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok().map(Pid)
}

/// The real user of a process, by its folder.
pub(super) fn real_user(folder: &Path) -> Option<u32> {
    parse_uid(&read_file(&folder.join("status")).ok()?)
}

/// The cgroup of a process, by its folder.
pub(super) fn cgroup_of(folder: &Path) -> Option<CgroupPath> {
    parse_cgroup(&read_file(&folder.join("cgroup")).ok()?)
}

/// The entries of a directory that are numbers: processes in `/proc`, threads in `/proc/PID/task`.
pub(super) fn list_pids(dir: impl AsFd) -> io::Result<Vec<Pid>> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut pids = Vec::new();
    while let Some(entry) = entries.next() {
        let number = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok());
        pids.extend(number.map(Pid));
    }
    Ok(pids)
}

/// Opens a directory for listing, and for what is below it.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// As [`open_dir`], below another.
pub(super) fn open_dir_at(dir: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    Ok(openat(dir, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether the error means that the process has ended: `ENOENT` before its file is opened, `ESRCH` after.
pub(super) fn is_gone(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::SRCH].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_at(dir: &OwnedFd, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::from(openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    read_room(file, limit)
}

/// The whole of a file whose size the kernel does not tell.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_room(File::open(path)?, u64::MAX)
}

/// With room from the beginning: without, the standard library asks for 32 bytes, then for twice as many, and so on.
fn read_room(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(ROOM);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_error(path: &Path, name: &str, source: io::Error) -> ProcError {
    ProcError::Read { path: path.join(name), source }
}

fn stat_of(dir: &OwnedFd, path: &Path) -> Result<Option<Stat>, ProcError> {
    let bytes = there(read_at(dir, "stat", FILE_BYTES)).map_err(|source| read_error(path, "stat", source))?;
    bytes.map(|bytes| parse_stat(&bytes).ok_or_else(|| ProcError::Parse { path: path.join("stat") })).transpose()
}

fn uid_of(dir: &OwnedFd, path: &Path) -> Result<Option<u32>, ProcError> {
    let bytes = there(read_at(dir, "status", FILE_BYTES)).map_err(|source| read_error(path, "status", source))?;
    bytes.map(|bytes| parse_uid(&bytes).ok_or_else(|| ProcError::Parse { path: path.join("status") })).transpose()
}

/// A thread of the process that has not ended.
fn living_thread(dir: &OwnedFd) -> Option<OwnedFd> {
    threads(dir).ok()?.find(|(_, stat)| !stat.is_over()).map(|(thread, _)| thread)
}

/// The threads of the process, opened one by one, those that are gone left out.
fn threads(dir: &OwnedFd) -> io::Result<impl Iterator<Item = (OwnedFd, Stat)>> {
    let threads = open_dir_at(dir, "task").and_then(list_pids)?;
    Ok(threads.into_iter().filter_map(move |thread| {
        let thread = open_dir_at(dir, &format!("task/{thread}")).ok()?;
        let stat = parse_stat(&read_at(&thread, "stat", FILE_BYTES).ok()?)?;
        Some((thread, stat))
    }))
}

/// The fields of `/proc/PID/stat` that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    state: u8,
    ppid: Pid,
    flags: u32,
    terminal: Option<Terminal>,
    start: StartTime,
    /// Whether a SIGKILL has been sent to it, which a busy machine gives it no time to obey yet.
    killed: bool,
}

impl Stat {
    /// Whether it does nothing more. One that sleeps uninterruptibly, or whose tracer does, may not even end.
    fn is_ending(&self) -> bool {
        self.is_over() || self.flags & PF_EXITING != 0 || (self.killed && !matches!(self.state, b'D' | b't' | b'T'))
    }

    /// A zombie, or dead: what it had open, and its memory, are gone.
    fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The name may hold anything, also parentheses and newlines: it ends at the last `)` of the file.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let begin = bytes.iter().position(|&byte| byte == b'(')? + 1;
    let end = bytes.iter().rposition(|&byte| byte == b')')?;
    let comm = String::from_utf8_lossy(bytes.get(begin..end)?).into_owned();
    let fields: Vec<&str> = std::str::from_utf8(bytes.get(end + 1..)?).ok()?.split_ascii_whitespace().collect();
    // proc(5) counts from 1, and the name is field 2.
    let field = |number: usize| fields.get(number - 3);
    Some(Stat {
        comm,
        state: *field(3)?.as_bytes().first()?,
        ppid: Pid(field(4)?.parse().ok()?),
        // The device number of the controlling terminal, 0 for none.
        terminal: Some(Terminal(field(7)?.parse::<i32>().ok()?.cast_unsigned())).filter(|terminal| terminal.0 != 0),
        flags: field(9)?.parse().ok()?,
        start: StartTime(field(22)?.parse().ok()?),
        // Those that are pending for the thread: SIGKILL is, for all threads (`complete_signal()`, Linux `kernel/signal.c`).
        killed: field(31).and_then(|set| set.parse::<u64>().ok()).is_some_and(|set| set & SIGKILL != 0),
    })
}

/// The real user, the first of the four; the name in the line above is escaped by the kernel (proc(5)).
fn parse_uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// What is cut off must not pass for the same as what ends there: an argument of its own says that there is more.
fn parse_argv(cmdline: &[u8]) -> Vec<String> {
    if cmdline.is_empty() {
        return Vec::new();
    }
    let most = usize::try_from(ARGV_BYTES).unwrap_or(usize::MAX);
    if cmdline.len() > most {
        let mut argv = parse_argv(&cmdline[..most]);
        argv.push("…".to_owned());
        return argv;
    }
    let cmdline = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    let mut arguments = cmdline.split(|&byte| byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned());
    let mut argv: Vec<String> = arguments.by_ref().take(ARGUMENTS).collect();
    argv.extend(arguments.next().map(|_| "…".to_owned()));
    argv
}

/// The path in the hierarchy in which systemd keeps its units: the line `0::` of cgroup v2, or the one of
/// `name=systemd` where there is no v2 or where v2 says nothing (`/`; some hybrid hosts mount v2 and do not use it).
///
/// systemd before v256 keeps the same tree in both on hybrid hosts (systemd v247 `src/basic/cgroup-util.c`).
fn parse_cgroup(bytes: &[u8]) -> Option<CgroupPath> {
    let path_of = |hierarchy: &str| {
        bytes.split(|&byte| byte == b'\n').find_map(|line| {
            let line = String::from_utf8_lossy(line);
            let (_, rest) = line.split_once(':')?;
            rest.strip_prefix(hierarchy)?.strip_prefix(':').map(str::to_owned)
        })
    };
    let (unified, named) = (path_of(""), path_of("name=systemd"));
    match (unified, named) {
        (Some(unified), Some(named)) if unified == "/" => Some(CgroupPath(named)),
        (Some(path), _) | (None, Some(path)) => Some(CgroupPath(path)),
        (None, None) => None,
    }
}

/// The first `INVOCATION_ID=`, as getenv(3) would find it.
fn parse_invocation(environ: &[u8]) -> Invocation {
    let value = environ.split(|&byte| byte == 0).find_map(|variable| variable.strip_prefix(b"INVOCATION_ID="));
    let id = value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<InvocationId>().ok());
    match id {
        Some(id) => Invocation::Known(id),
        None if environ.len() as u64 > ENVIRON_BYTES => Invocation::Unreadable,
        None => Invocation::Absent,
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::process::{Command, Stdio};

    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    use proptest::prelude::*;
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;
    use crate::observe::fixture::{Child, Role, is_alone, own_pid};

    const ID: &str = "0123456789abcdef0123456789abcdef";
    const STAT_TAIL: &str = "1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 0 0 0 0 0 0 16384 0";

    fn stat_line(comm: &[u8], tail: &str) -> Vec<u8> {
        [b"7 (", comm, b") S ", tail.as_bytes(), b"\n"].concat()
    }

    #[test]
    fn stat_is_read_past_any_name() {
        let names: [&[u8]; 9] =
            [b"nginx", b"a b", b"))) (", b") Z 1 (", b"new\nline", b"\x1b[2J\x07", b"", b"\xff\xfe", b"(sd-pam)"];
        for name in names {
            let found = parse_stat(&stat_line(name, STAT_TAIL)).unwrap();
            let comm = String::from_utf8_lossy(name).into_owned();
            let (ppid, flags, start) = (Pid(1), 0x0040_0100, StartTime(4711));
            let expected = Stat { comm, state: b'S', ppid, flags, terminal: None, start, killed: false };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn who_has_a_sigkill_pending_is_ending_unless_that_may_take_for_ever() {
        let is_ending = |state: &str, pending: u64| {
            let tail = STAT_TAIL.replacen("16384", &pending.to_string(), 1);
            let line = String::from_utf8(stat_line(b"x", &tail)).unwrap().replacen(" S ", &format!(" {state} "), 1);
            parse_stat(line.as_bytes()).unwrap().is_ending()
        };
        assert!(is_ending("S", 256) && is_ending("R", 256 + 16384) && is_ending("Z", 0));
        assert!(!is_ending("S", 0) && !is_ending("R", 16384) && !is_ending("D", 256) && !is_ending("t", 256));
    }

    /// Alone, as what is lost is lost for the whole process.
    #[test]
    fn each_process_whose_memory_is_not_read_is_counted() {
        if !is_alone() {
            return;
        }
        let interrupt = Interrupt::default();
        let (mut reader, proc) = (Reader::new(&interrupt), Path::new("/proc"));
        let mut own = || reader.process(proc, own_pid()).unwrap().unwrap().invocation;
        assert_ne!(own(), Invocation::Unreadable);
        // All that may be.
        word::wait_was_in_vain(word::MORE_PATIENCE);
        assert_eq!([own(), own()], [Invocation::Unreadable; 2]);
        assert_eq!(reader.unread, 2);
    }

    /// Files that nobody writes stand for those of a process that hangs: whoever opens one waits. Alone, as above.
    #[test]
    fn a_process_that_hangs_is_late_and_one_whose_memory_alone_does_is_read_without() {
        if !is_alone() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let process = |pid: i32, hangs: &str| {
            let dir = folder.path().join(pid.to_string());
            fs::create_dir(&dir).unwrap();
            let status = "Name:\tx\nUid:\t7\t7\t7\t7\n";
            let files: [(&str, Vec<u8>); 5] = [
                ("stat", stat_line(b"x", STAT_TAIL)),
                ("status", status.into()),
                ("cgroup", b"0::/a.service\n".into()),
                ("cmdline", b"x\0".into()),
                ("environ", b"INVOCATION_ID=".into()),
            ];
            for (name, text) in files {
                if name == hangs {
                    nix::unistd::mkfifo(&dir.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
                } else {
                    fs::write(dir.join(name), text).unwrap();
                }
            }
            Pid(pid)
        };
        let (began, interrupt) = (std::time::Instant::now(), Interrupt::default());
        let mut reader = Reader::new(&interrupt);
        let mut read = |pid| {
            let facts = reader.process(folder.path(), pid);
            (facts, reader.unread)
        };
        let (facts, unread) = read(process(6, "none"));
        assert_eq!((facts.unwrap().unwrap().argv, unread), (vec!["x".to_owned()], 0));
        for (pid, hangs) in [(7, "stat"), (8, "status"), (9, "cgroup")] {
            let (facts, unread) = read(process(pid, hangs));
            assert!(matches!(facts, Err(ProcError::Late)) && unread == 0, "{hangs}: {facts:?}");
        }
        let (facts, unread) = read(process(10, "environ"));
        let facts = facts.unwrap().unwrap();
        assert_eq!((facts.uid, facts.invocation, facts.argv, unread), (7, Invocation::Unreadable, Vec::new(), 1));
        assert_eq!(facts.cgroup, Some(CgroupPath("/a.service".to_owned())));
        assert!(word::has_left_any());
        // There is no end of those that hang, and there is one of the time and of the threads.
        for pid in 100..150 {
            let late = read(process(pid, "stat")).0;
            assert!(matches!(late, Err(ProcError::Late)), "{late:?}");
        }
        let threads = fs::read_dir("/proc/self/task").unwrap().count();
        assert!(threads < 40 && began.elapsed() < Duration::from_secs(10), "{threads}, {:?}", began.elapsed());
    }

    #[test]
    fn whoever_has_a_thread_that_sleeps_uninterruptibly_may_have_its_memory_locked() {
        let dir_of = |child: &Child| open_dir(&Path::new("/proc").join(child.pid().to_string())).unwrap();
        let (usual, suspended) = (Child::spawn(Role::Listen, &[]), Child::spawn(Role::Suspended, &[]));
        assert!(!may_have_it_locked(&dir_of(&usual)));
        let (dir, deadline) = (dir_of(&suspended), std::time::Instant::now() + Duration::from_secs(20));
        while !may_have_it_locked(&dir) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        drop(suspended);
        assert!(may_have_it_locked(&dir), "what cannot be seen may be");
    }

    #[test]
    fn arguments_that_are_cut_off_are_like_no_others() {
        let whole = [b"server\0".as_slice(), &[b'x'; 4096 - 8], b"\0"].concat();
        assert_eq!(whole.len(), 4096);
        let longer = [&whole, b"--other\0".as_slice()].concat();
        let (short, long) = (parse_argv(&whole), parse_argv(&longer[..4097]));
        assert_eq!((short.len(), long.len()), (2, 3));
        assert_eq!(long[2], "…");
        let many = parse_argv(&b"a\0".repeat(ARGUMENTS));
        let more = parse_argv(&b"a\0".repeat(ARGUMENTS + 1));
        assert_eq!(
            (many.len(), more.len(), many.last(), more.last()),
            (256, 257, Some(&"a".to_owned()), Some(&"…".to_owned()))
        );
    }

    #[test]
    fn the_cgroup_is_that_of_the_hierarchy_in_which_systemd_keeps_its_units() {
        let rows: [(&[u8], Option<&str>); 9] = [
            (b"0::/system.slice/a.service\n", Some("/system.slice/a.service")),
            (b"0::/\n", Some("/")),
            (
                b"12:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n",
                Some("/system.slice/a.service"),
            ),
            (b"1:name=systemd:/system.slice/a.service\n0::/\n", Some("/system.slice/a.service")),
            (b"1:name=systemd:/\n0::/a.service\n", Some("/a.service")),
            (b"1:name=systemd:/a.service\n", Some("/a.service")),
            (b"0::/a.service/b:c::d\n", Some("/a.service/b:c::d")),
            (b"0::/\xff.service\n", Some("/\u{fffd}.service")),
            (b"4:memory:/x\n", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_cgroup(text), expected.map(|path| CgroupPath(path.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn the_invocation_is_the_first_of_its_name_and_a_variable_of_its_own() {
        let known = Invocation::Known(ID.parse().unwrap());
        let rows = [
            (format!("A=1\0INVOCATION_ID={ID}\0B=2\0"), known),
            (format!("INVOCATION_ID={ID}"), known),
            (format!("A=INVOCATION_ID={ID}\0"), Invocation::Absent),
            (format!("INVOCATION_ID=\0INVOCATION_ID={ID}\0"), Invocation::Absent),
            ("INVOCATION_ID=xyz\0".to_owned(), Invocation::Absent),
            (format!("INVOCATION_ID={ID}0\0"), Invocation::Absent),
            (String::new(), Invocation::Absent),
            ("\0".repeat(2 * 1024 * 1024), Invocation::Absent),
            ("\0".repeat(2 * 1024 * 1024 + 1), Invocation::Unreadable),
        ];
        for (environ, expected) in rows {
            assert_eq!(parse_invocation(environ.as_bytes()), expected);
        }
    }

    #[test]
    fn arguments_are_split_at_nul_and_may_be_empty() {
        let rows: [(&[u8], &[&str]); 5] = [
            (b"", &[]),
            (b"a\0", &["a"]),
            (b"a\0\0b c\0", &["a", "", "b c"]),
            (b"set by the process", &["set by the process"]),
            (b"\xff\0\x1b\0", &["\u{fffd}", "\x1b"]),
        ];
        for (cmdline, expected) in rows {
            assert_eq!(parse_argv(cmdline), expected, "{cmdline:?}");
        }
    }

    #[test]
    fn the_real_user_is_the_first_of_four() {
        assert_eq!(parse_uid(b"Name:\tUid:\\n5\nUid:\t1\t2\t3\t4\nGid:\t5\n"), Some(1));
        assert_eq!(parse_uid(b"Name:\tx\n"), None);
    }

    proptest! {
        #[test]
        fn parsers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), name: Vec<u8>) {
            let _ = (parse_stat(&bytes), parse_uid(&bytes), parse_argv(&bytes));
            let _ = (parse_cgroup(&bytes), parse_invocation(&bytes));
            let line = stat_line(&name, STAT_TAIL);
            prop_assert_eq!(parse_stat(&line).unwrap().start, StartTime(4711));
            for cut in 0..line.len() {
                let _ = parse_stat(&line[..cut]);
            }
        }
    }

    /// A tree of files with a process 7 that has what every one has, and its folder.
    fn tree(stat: &[u8], uid: u32) -> (tempfile::TempDir, PathBuf) {
        let proc = tempfile::tempdir().unwrap();
        let dir = proc.path().join("7");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("stat"), stat).unwrap();
        fs::write(dir.join("status"), format!("Name:\tevil\nUid:\t{uid}\t0\t0\t0\n")).unwrap();
        (proc, dir)
    }

    #[test]
    fn a_process_in_a_tree_of_files_is_read_whole() {
        let (proc, dir) = tree(&stat_line(b"evil) S 1 \n\x1b[31m(", STAT_TAIL), 1000);
        fs::write(dir.join("cmdline"), format!("evil\0{}", "x".repeat(10_000))).unwrap();
        fs::write(dir.join("environ"), format!("INVOCATION_ID={ID}\0")).unwrap();
        fs::write(dir.join("cgroup"), "0::/system.slice/evil.service\n").unwrap();
        symlink("/opt/evil (deleted)", dir.join("exe")).unwrap();

        let facts = process(proc.path(), Pid(7)).unwrap().unwrap();
        assert_eq!(facts.argv.iter().map(String::len).sum::<usize>(), 4096 - 1 + "…".len());
        let expected = Facts {
            pid: Pid(7),
            start: StartTime(4711),
            ppid: Pid(1),
            uid: 1000,
            comm: "evil) S 1 \n\x1b[31m(".to_owned(),
            exe: Some("/opt/evil (deleted)".into()),
            argv: facts.argv.clone(),
            cgroup: Some(CgroupPath("/system.slice/evil.service".to_owned())),
            invocation: Invocation::Known(ID.parse().unwrap()),
            terminal: None,
            program: None,
            folders: None,
            kernel_thread: false,
            ending: false,
        };
        assert_eq!(facts, expected);
        assert_eq!(process(proc.path(), Pid(8)).unwrap(), None);
        // 4194564: the same flags, and PF_EXITING.
        for ending in ["7 (evil) Z 1 7 7 0 -1 4194560", "7 (evil) R 1 7 7 0 -1 4194564"] {
            let line = format!("{ending} 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n");
            fs::write(dir.join("stat"), line).unwrap();
            assert!(process(proc.path(), Pid(7)).unwrap().unwrap().ending, "{ending}");
        }
        fs::write(dir.join("stat"), "7 (evil").unwrap();
        assert!(matches!(process(proc.path(), Pid(7)), Err(ProcError::Parse { .. })));
    }

    /// A process with this executable, arguments and environment, and what is made of that.
    fn invocation(flags: u32, exe: Option<&str>, cmdline: &str, environ: Option<&str>) -> Invocation {
        let tail = STAT_TAIL.replacen("4194560", &flags.to_string(), 1);
        let (proc, dir) = tree(&stat_line(b"x", &tail), 0);
        fs::write(dir.join("cmdline"), cmdline).unwrap();
        if let Some(exe) = exe {
            symlink(exe, dir.join("exe")).unwrap();
        }
        if let Some(environ) = environ {
            fs::write(dir.join("environ"), environ).unwrap();
        }
        process(proc.path(), Pid(7)).unwrap().unwrap().invocation
    }

    #[test]
    fn an_empty_environment_counts_only_where_the_process_had_its_memory() {
        let variable = format!("INVOCATION_ID={ID}\0");
        let (known, exe) = (Invocation::Known(ID.parse().unwrap()), Some("/a"));
        for (flags, exe, cmdline, environ, expected) in [
            (0, exe, "a\0", Some(""), Invocation::Absent),
            (0, exe, "", Some(""), Invocation::Unreadable),
            (0, None, "a\0", Some(""), Invocation::Unreadable),
            (0, None, "", Some(""), Invocation::Unreadable),
            (0, exe, "", Some(&variable[..]), known),
            (0, None, "a\0", Some(&variable[..]), known),
            (0, exe, "a\0", None, Invocation::Unreadable),
            (PF_KTHREAD, None, "", Some(""), Invocation::Absent),
            (PF_KTHREAD, None, "", None, Invocation::Unreadable),
        ] {
            let found = invocation(flags, exe, cmdline, environ);
            assert_eq!(found, expected, "{flags:#x} {exe:?} {cmdline:?} {environ:?}");
        }
        for (bytes, expected) in [(2 * 1024 * 1024, Invocation::Absent), (3 * 1024 * 1024, Invocation::Unreadable)] {
            assert_eq!(invocation(0, exe, "a\0", Some(&"x".repeat(bytes))), expected, "{bytes} bytes");
        }
    }

    #[test]
    fn a_long_path_of_a_cgroup_is_read_to_its_end() {
        let (proc, dir) = tree(&stat_line(b"x", STAT_TAIL), 0);
        symlink("7", proc.path().join("self")).unwrap();
        for length in [0, 4096 - "0::/\n".len(), 10_000] {
            let path = CgroupPath(format!("/{}", "x".repeat(length)));
            fs::write(dir.join("cgroup"), format!("0::{path}\n")).unwrap();
            assert_eq!(process(proc.path(), Pid(7)).unwrap().unwrap().cgroup.as_ref(), Some(&path));
            assert_eq!(own_cgroup(proc.path()), Some(path));
        }
        assert_eq!(own_cgroup(&dir), None);
    }

    #[test]
    fn a_folder_that_is_opened_is_one_and_no_child_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        let open = open_dir(dir.path()).unwrap();
        let below = open_dir_at(&open, "below").unwrap();
        assert!(open_dir(&dir.path().join("file")).is_err() && open_dir_at(&open, "file").is_err());
        for fd in [open, below] {
            assert!(fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_real_process_is_read_whole() {
        let mut child = Command::new("sleep").arg("60").env("INVOCATION_ID", ID).stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid(child.id().try_into().unwrap());
        // Spawning comes back in the midst of execve(2), before there are arguments.
        let facts = loop {
            let facts = process(Path::new("/proc"), pid).unwrap().unwrap();
            if !facts.argv.is_empty() {
                break facts;
            }
            assert_ne!(facts.invocation, Invocation::Absent);
        };
        assert_eq!((facts.pid, facts.ppid, &facts.comm[..]), (pid, own_pid(), "sleep"));
        assert_eq!(facts.argv, ["sleep", "60"]);
        assert_eq!(facts.uid, nix::unistd::getuid().as_raw());
        assert_eq!(facts.program, file_of(facts.exe.as_ref().unwrap()));
        let program = fs::metadata(facts.exe.as_ref().unwrap()).unwrap();
        assert_eq!(facts.program, Some(FileId { device: program.dev(), inode: program.ino() }));
        assert_eq!(facts.folders, file_of(&std::env::current_dir().unwrap()).zip(file_of(Path::new("/"))));
        assert!(facts.exe.unwrap().is_absolute());
        assert_eq!(facts.invocation, Invocation::Known(ID.parse().unwrap()));
        assert!(facts.cgroup.unwrap().0.starts_with('/'));
        assert!(facts.start > StartTime(0) && !facts.kernel_thread);

        child.kill().unwrap();
        // It has ended, and is not reaped yet: a zombie, which is still there.
        waitid(Id::Pid(nix::unistd::Pid::from_raw(pid.0)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let facts = process(Path::new("/proc"), pid).unwrap().unwrap();
        assert_eq!(facts.exe, None);
        assert_eq!((facts.argv, facts.invocation), (Vec::new(), Invocation::Unreadable));
        child.wait().unwrap();
        assert_eq!(process(Path::new("/proc"), pid).unwrap(), None);
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_read_through_another() {
        let child = Child::spawn(Role::DeadLeader, &[("INVOCATION_ID", ID)]);
        let facts = process(Path::new("/proc"), child.pid()).unwrap().unwrap();
        assert_eq!(facts.invocation, Invocation::Known(ID.parse().unwrap()));
        assert!(facts.exe.is_some() && !facts.argv.is_empty() && facts.cgroup.is_some());
    }

    #[test]
    fn kernel_threads_are_known_whatever_the_caller_says() {
        // kthreadd is PID 2 wherever tests see the first pid namespace; else no kernel thread is to be seen at all.
        let facts = list_pids(open_dir(Path::new("/proc")).unwrap())
            .unwrap()
            .into_iter()
            .filter_map(|pid| process(Path::new("/proc"), pid).ok()?);
        let kernel_threads: Vec<Facts> = facts.filter(|facts| facts.kernel_thread).collect();
        for facts in kernel_threads {
            assert_eq!((&facts.exe, &facts.argv), (&None, &Vec::new()));
            assert_eq!(facts.into_process(Owner::Nobody, None, Lineage::Other).lineage, Lineage::Kernel);
        }
    }

    #[test]
    fn ancestors_go_up_to_pid_1_and_never_round_in_circles() {
        let own = ancestors(Path::new("/proc"), own_pid());
        assert_eq!(own.first().copied(), Some(Pid(nix::unistd::getppid().as_raw())));
        assert_eq!(own.last().copied(), Some(Pid::INIT));

        let proc = tempfile::tempdir().unwrap();
        for (pid, ppid) in [(1, 0), (5, 1), (6, 5), (7, 8), (8, 9), (9, 8), (10, 11)] {
            let dir = proc.path().join(pid.to_string());
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("status"), format!("Name:\tPPid:\nPid:\t{pid}\nPPid:\t{ppid}\n")).unwrap();
        }
        let rows: [(i32, &[i32]); 5] = [(6, &[5, 1]), (1, &[]), (7, &[8, 9]), (10, &[11]), (99, &[])];
        for (pid, expected) in rows {
            let expected: Vec<Pid> = expected.iter().copied().map(Pid).collect();
            assert_eq!(ancestors(proc.path(), Pid(pid)), expected, "of {pid}");
        }
    }
}
