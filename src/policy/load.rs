//! Which files make up the policy, and whether they may be believed. Opens and reads; what the text says is not looked at.
//!
//! What is read here decides what root kills, so each file must be root's (or the caller's, where that is not root) and
//! writable by nobody else. That is asked of the open descriptor, since a path can change between two looks at it. It is
//! not enough: who can choose *which* file is opened can choose one of root's that says what he likes, such as the
//! `/proc/PID/cmdline` of a set-user-id program. So the folders on the way must be root's as well, and symbolic links are
//! followed by hand, one checked step at a time.
//!
//! Nearly every start finds one file or two: a folder that is not there costs one system call, and nothing is looked at twice.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, makedev, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::{Fault, Place, Problem};

/// The folders of configuration that systemd knows, the first one before the others (systemd-system.conf(5)).
pub const DEFAULT_ROOTS: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];

/// No file of the policy may be larger.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// As many symbolic links as the kernel follows (`MAXSYMLINKS`, Linux `include/linux/namei.h`).
const MAX_LINKS: usize = 40;

/// The folders in which the policy is looked for.
///
/// In each of them, `portguard/portguard.toml` is a main file and `portguard/conf.d/*.toml` are drop-ins. As with systemd's
/// own files (systemd-system.conf(5), `conf_files_list()` in systemd v257 `src/basic/conf-files.c`): only the first main file
/// counts; the drop-ins of all folders are read after it, in the order of their file names; of several with one name, that
/// of the earlier folder counts, and masks the others even where it is empty or a link to /dev/null. Hidden files are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The folders, the first one before the others. They themselves are trusted.
    pub dirs: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self { dirs: DEFAULT_ROOTS.iter().map(PathBuf::from).collect() }
    }
}

/// What a file says.
pub(super) struct Text {
    pub(super) file: Arc<Path>,
    pub(super) text: String,
}

/// The files of the policy, in the order in which a later one overrides an earlier one; and what hindered.
pub(super) fn layered(roots: &Roots) -> (Vec<Text>, Vec<Problem>) {
    let mut problems = Vec::new();
    let tops: Vec<Folder> = roots.dirs.iter().filter_map(|root| keep(Folder::top(root), &mut problems)).collect();

    let main = tops.iter().map(|top| top.read(OsStr::new("portguard.toml"))).find(|read| !matches!(read, Ok(None)));
    let mut texts: Vec<Text> = main.and_then(|read| keep(read, &mut problems)).into_iter().collect();

    let drop_ins: Vec<Folder> = tops.iter().filter_map(|top| keep(top.drop_ins(), &mut problems)).collect();
    let mut by_name = BTreeMap::new();
    for folder in &drop_ins {
        for name in keep(folder.names().map(Some), &mut problems).unwrap_or_default() {
            by_name.entry(name).or_insert(folder);
        }
    }
    texts.extend(by_name.into_iter().filter_map(|(name, folder)| keep(folder.read(&name), &mut problems)));
    (texts, problems)
}

/// This file alone; each folder on its way is checked.
pub(super) fn single(path: &Path) -> Result<Text, Problem> {
    let problem = |fault| Problem { place: Place::File(Arc::from(path)), fault };
    let bytes = open_by_steps(path, Kind::File).and_then(|fd| read_trusted(fd, path)).map_err(problem)?;
    decode(bytes, path)
}

fn keep<T>(result: Result<Option<T>, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    result.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    })
}

/// An open folder that nobody else can write.
struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// `portguard` in a root; `None` if it is not there.
    fn top(root: &Path) -> Result<Option<Self>, Problem> {
        let path = root.join("portguard");
        Self::checked(open_unless_link(CWD, &path, &path, Kind::Folder), path)
    }

    /// `conf.d` in it; `None` if it is not there.
    fn drop_ins(&self) -> Result<Option<Self>, Problem> {
        let path = self.path.join("conf.d");
        Self::checked(open_unless_link(&self.fd, Path::new("conf.d"), &path, Kind::Folder), path)
    }

    fn checked(opened: Result<Option<OwnedFd>, Fault>, path: PathBuf) -> Result<Option<Self>, Problem> {
        let checked = opened.and_then(|fd| match fd {
            Some(fd) => check(Role::Wanted, &status(&fd)?, &path).map(|()| Some(fd)),
            None => Ok(None),
        });
        match checked {
            Ok(fd) => Ok(fd.map(|fd| Self { fd, path })),
            Err(fault) => Err(Problem { place: Place::File(Arc::from(path)), fault }),
        }
    }

    /// The names of the drop-ins, in no order.
    fn names(&self) -> Result<Vec<OsString>, Problem> {
        let list = || {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.fd)? {
                let name = entry?.file_name().to_bytes().to_vec();
                if name.ends_with(b".toml") && !name.starts_with(b".") {
                    names.push(OsString::from_vec(name));
                }
            }
            Ok(names)
        };
        list().map_err(|errno: Errno| Problem {
            place: Place::File(Arc::from(self.path.as_path())),
            fault: cannot("list", errno),
        })
    }

    /// What the file of this name says; `None` if it is not there.
    fn read(&self, name: &OsStr) -> Result<Option<Text>, Problem> {
        let path = self.path.join(name);
        let opened = open_unless_link(&self.fd, Path::new(name), &path, Kind::File);
        match opened.and_then(|fd| fd.map(|fd| read_trusted(fd, &path)).transpose()) {
            Ok(bytes) => bytes.map(|bytes| decode(bytes, &path)).transpose(),
            Err(fault) => Err(Problem { place: Place::File(Arc::from(path)), fault }),
        }
    }
}

/// What is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

impl Kind {
    /// `O_NONBLOCK` lets a FIFO be opened without a writer, so that it can be refused. It means nothing to a regular file.
    fn flags(self) -> OFlags {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match self {
            Self::File => flags | OFlags::NONBLOCK | OFlags::NOCTTY,
            Self::Folder => flags | OFlags::DIRECTORY,
        }
    }
}

/// Opens `name` in `folder`, whose path is `path`, with one system call; a symbolic link is followed by [`open_by_steps`].
/// `None` if it is not there.
fn open_unless_link(folder: impl AsFd, name: &Path, path: &Path, kind: Kind) -> Result<Option<OwnedFd>, Fault> {
    match openat(folder, name, kind.flags(), Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        // The kernel looks at O_DIRECTORY before O_NOFOLLOW: of a link it says ENOTDIR then.
        Err(Errno::LOOP | Errno::NOTDIR) => open_by_steps(path, kind).map(Some),
        Err(errno) => Err(cannot("open", errno)),
    }
}

/// Opens `path` one name after the other from the root of the file system, so that nobody but who is trusted has a say in where it leads.
fn open_by_steps(path: &Path, kind: Kind) -> Result<OwnedFd, Fault> {
    let absolute = std::path::absolute(path).map_err(|error| cannot("open", error))?;
    let (folder, name) = walk(&absolute)?;
    openat(folder, name, kind.flags(), Mode::empty()).map_err(|errno| cannot("open", errno))
}

/// The folder in which `path` ends once all links are followed, and the name in it, which is no link.
fn walk(path: &Path) -> Result<(OwnedFd, OsString), Fault> {
    let mut folder = Folder::root()?;
    let mut ahead = names_of(path);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        let here = folder.path.join(&name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&folder.fd, &name, flags, Mode::empty()).map_err(|errno| cannot("open", errno))?;
        let status = status(&fd)?;
        let file_type = FileType::from_raw_mode(status.st_mode);
        if file_type == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(cannot("open", Errno::LOOP));
            }
            check(Role::Link, &status, &here)?;
            let target = readlinkat(&fd, "", Vec::new()).map_err(|errno| cannot("read", errno))?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes()));
            if target.is_absolute() {
                folder = Folder::root()?;
            }
            ahead = names_of(target).into_iter().chain(ahead).collect();
        } else if ahead.is_empty() {
            return Ok((folder.fd, name));
        } else if file_type == FileType::Directory {
            check(Role::OnTheWay, &status, &here)?;
            folder = Folder { fd, path: here };
        } else {
            return Err(cannot("open", Errno::NOTDIR));
        }
    }
    Ok((folder.fd, OsString::from(".")))
}

fn names_of(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

impl Folder {
    fn root() -> Result<Self, Fault> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open("/", flags, Mode::empty()).map_err(|errno| cannot("open", errno))?;
        Ok(Self { fd, path: PathBuf::from("/") })
    }
}

/// What a file is to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A file of the policy, or a folder of such files.
    Wanted,
    /// A folder that is passed. A sticky one may be writable by all: none but the owner can put another file in the place of
    /// his own there, and what comes next on the way must be the right one's.
    OnTheWay,
    /// A symbolic link; its mode means nothing.
    Link,
}

impl Role {
    /// Whether only root and `euid`, who runs this, can change it.
    fn is_safe(self, owner: u32, mode: u32, euid: u32) -> bool {
        let others_can_write = match self {
            Self::Wanted => mode & 0o022 != 0,
            Self::OnTheWay => mode & 0o022 != 0 && mode & 0o1000 == 0,
            Self::Link => false,
        };
        (owner == 0 || owner == euid) && !others_can_write
    }
}

fn check(role: Role, status: &Stat, path: &Path) -> Result<(), Fault> {
    let (owner, mode, wanted) = (status.st_uid, status.st_mode & 0o7777, geteuid().as_raw());
    if role.is_safe(owner, mode, wanted) {
        return Ok(());
    }
    Err(Fault::Untrusted { path: path.to_owned(), owner, mode, wanted })
}

/// The bytes of a regular file that passes the [`check`]; none of the null device, which is how a file is masked.
fn read_trusted(fd: OwnedFd, path: &Path) -> Result<Vec<u8>, Fault> {
    let status = status(&fd)?;
    let file_type = FileType::from_raw_mode(status.st_mode);
    if file_type == FileType::CharacterDevice && status.st_rdev == makedev(1, 3) {
        return Ok(Vec::new());
    }
    if file_type != FileType::RegularFile {
        return Err(Fault::NotRegular);
    }
    check(Role::Wanted, &status, path)?;
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| cannot("read", error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_FILE_BYTES) {
        Ok(bytes)
    } else {
        Err(Fault::TooLarge)
    }
}

fn decode(bytes: Vec<u8>, path: &Path) -> Result<Text, Problem> {
    let file: Arc<Path> = Arc::from(path);
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Text { file, text }),
        Err(error) => {
            let place = Place::of_offset(&file, error.as_bytes(), error.utf8_error().valid_up_to());
            Err(Problem { place, fault: Fault::NotUtf8 })
        }
    }
}

fn status(fd: &OwnedFd) -> Result<Stat, Fault> {
    fstat(fd).map_err(|errno| cannot("read", errno))
}

fn cannot(doing: &'static str, error: impl Into<io::Error>) -> Fault {
    Fault::Io { doing, source: error.into() }
}
