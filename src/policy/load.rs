//! Which files make up the policy, and whether they may be believed. Opens and reads; what the text says is not looked
//! at.
//!
//! What is read here decides what root kills, so each file must be root's (or the caller's, where that is not root) and
//! writable by nobody else. That is asked of the open descriptor, since a path can change between two looks at it. It
//! is not enough: who can choose *which* file is opened can choose one of root's that says what he likes, such as the
//! `/proc/PID/cmdline` of a set-user-id program. So the folders on the way must be root's as well, and symbolic links
//! are followed by hand, one checked step at a time.
//!
//! Nearly every start finds one file or two: a folder that is not there costs one system call, and nothing is looked at
//! twice.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, Stat, fstat, makedev, open, openat, readlinkat};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::process::geteuid;

use super::error::{Fault, Lines, Place, Problem};
use crate::model::UnitName;

/// The folders of configuration that systemd knows, the first one before the others (systemd-system.conf(5)).
pub const DEFAULT_ROOTS: [&str; 3] = ["/etc", "/run", "/usr/lib"];

/// How the names of drop-ins begin that are of one unit, and how those of all end.
const ONLY: &str = "only-";
const SUFFIX: &str = ".toml";

/// The name of the drop-in of this unit, or template, alone.
#[must_use]
pub fn own_drop_in(unit: &UnitName) -> String {
    format!("{ONLY}{unit}{SUFFIX}")
}

/// So many drop-ins are left open until the exit: closing them is a call each.
const FEW: usize = 16;

/// No file of the policy may be larger.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// As many symbolic links as the kernel follows (`MAXSYMLINKS`, Linux `include/linux/namei.h`).
const MAX_LINKS: usize = 40;

/// The folders in which the policy is looked for.
///
/// In each of them, `portguard/portguard.toml` is a main file and `portguard/conf.d/*.toml` are drop-ins. As with
/// systemd's own files (systemd-system.conf(5), `conf_files_list()` in systemd v257 `src/basic/conf-files.c`): only the
/// first main file counts; the drop-ins of all folders are read after it, in the order of their file names; of several
/// with one name, that of the earlier folder counts, and masks the others even where it is empty or a link to
/// /dev/null. Hidden files are passed over.
///
/// A drop-in that is named `only-UNIT.toml` is of that unit alone, or of all instances of that template: so the start of one
/// unit does not have to read what is there for hundreds of others, and does not fail for it. No other name means a unit: of
/// what nobody reads nobody learns what is wrong in it, so that has to be meant.
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
pub(super) struct Layer {
    pub(super) file: Arc<Path>,
    pub(super) text: String,
    /// The unit, or template, whose drop-in it is by its name.
    pub(super) owner: Option<UnitName>,
}

/// The files of the policy, in the order in which a later one overrides an earlier one; and what hindered. Of the
/// drop-ins that are a unit's own, those alone of which `is_wanted` says so, by the unit's name.
pub(super) fn layered(roots: &Roots, is_wanted: impl Fn(&[u8]) -> bool) -> (Vec<Layer>, Vec<Problem>) {
    let mut problems = Vec::new();
    // The folders are left to the exit: closing them is a twentieth of the system calls of a start.
    let tops: Vec<ManuallyDrop<Folder>> =
        roots.dirs.iter().filter_map(|root| keep(Folder::top(root), &mut problems)).map(ManuallyDrop::new).collect();

    let main =
        tops.iter().map(|top| top.read(OsStr::new("portguard.toml"), true)).find(|read| !matches!(read, Ok(None)));
    let mut texts: Vec<Layer> = main.and_then(|read| keep(read, &mut problems)).into_iter().collect();

    let drop_ins: Vec<ManuallyDrop<Folder>> =
        tops.iter().filter_map(|top| keep(top.drop_ins(), &mut problems)).map(ManuallyDrop::new).collect();
    let mut by_name = BTreeMap::new();
    for folder in &drop_ins {
        for name in keep(folder.names(&is_wanted).map(Some), &mut problems).unwrap_or_default() {
            by_name.entry(name).or_insert(folder);
        }
    }
    let is_left_open = by_name.len() <= FEW;
    texts.extend(by_name.into_iter().filter_map(|(name, folder)| {
        let text = keep(folder.read(&name, is_left_open), &mut problems)?;
        let Some(owner) = owner_in(name.as_bytes()) else { return Some(text) };
        match String::from_utf8_lossy(owner).parse() {
            Ok(owner) => Some(Layer { owner: Some(owner), ..text }),
            Err(source) => {
                problems.push(Problem { place: Place::File(text.file), fault: Fault::OfNoUnit(source) });
                None
            }
        }
    }));
    (texts, problems)
}

/// The unit, or template, for which alone a drop-in is by its name. There can be hundreds of them, so whether that is a
/// unit's name is not looked at here.
fn owner_in(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(ONLY.as_bytes())?.strip_suffix(SUFFIX.as_bytes())
}

/// This file alone; each folder on its way is checked.
pub(super) fn single(path: &Path) -> Result<Layer, Problem> {
    let problem = |fault| Problem { place: Place::File(Arc::from(path)), fault };
    let bytes = open_by_steps(path, Kind::File).and_then(|fd| read_trusted(&fd, path)).map_err(problem)?;
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

    /// The names of the drop-ins, in no order, without those of units that are not wanted. Once: the open folder keeps how
    /// far it was listed.
    fn names(&self, is_wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<OsString>, Problem> {
        let list = || {
            let mut names = Vec::new();
            // For several hundred names; what is not written costs nothing, as it would on the stack.
            let mut buffer = Vec::with_capacity(32768);
            let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name.ends_with(SUFFIX.as_bytes()) && !name.starts_with(b".") && owner_in(name).is_none_or(&is_wanted)
                {
                    names.push(OsString::from_vec(name.to_vec()));
                }
            }
            Ok(names)
        };
        list().map_err(|errno: Errno| Problem {
            place: Place::File(Arc::from(self.path.as_path())),
            fault: cannot("list", errno),
        })
    }

    /// What the file of this name says; `None` if it is not there. `is_left_open`: until the exit.
    fn read(&self, name: &OsStr, is_left_open: bool) -> Result<Option<Layer>, Problem> {
        let path = self.path.join(name);
        let read = |fd: OwnedFd| {
            let fd = ManuallyDrop::new(fd);
            let bytes = read_trusted(&fd, &path);
            if !is_left_open {
                drop(ManuallyDrop::into_inner(fd));
            }
            bytes
        };
        let opened = open_unless_link(&self.fd, Path::new(name), &path, Kind::File);
        match opened.and_then(|fd| fd.map(read).transpose()) {
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
    /// `O_NONBLOCK` lets a FIFO be opened without a writer, so that it can be refused. It means nothing to a regular
    /// file.
    fn flags(self) -> OFlags {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match self {
            Self::File => flags | OFlags::NONBLOCK | OFlags::NOCTTY,
            Self::Folder => flags | OFlags::DIRECTORY,
        }
    }
}

/// Opens `name` in `folder`, whose path is `path`, with one system call; a symbolic link is followed by
/// [`open_by_steps`]. `None` if it is not there.
fn open_unless_link(folder: impl AsFd, name: &Path, path: &Path, kind: Kind) -> Result<Option<OwnedFd>, Fault> {
    match openat(folder, name, kind.flags(), Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        // The kernel looks at O_DIRECTORY before O_NOFOLLOW: of a link it says ENOTDIR then.
        Err(Errno::LOOP | Errno::NOTDIR) => open_by_steps(path, kind).map(Some),
        Err(errno) => Err(cannot("open", errno)),
    }
}

/// Opens `path` one name after the other from the root of the file system, so that nobody but who is trusted has a say
/// in where it leads.
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
    /// A folder that is passed. A sticky one may be writable by all: none but the owner can put another file in the
    /// place of his own there, and what comes next on the way must be the right one's.
    OnTheWay,
    /// A symbolic link; its mode means nothing.
    Link,
}

impl Role {
    /// Whether only root and whoever runs this can change it.
    fn is_safe(self, owner: u32, mode: u32, euid: impl FnOnce() -> u32) -> bool {
        let others_can_write = match self {
            Self::Wanted => mode & 0o022 != 0,
            Self::OnTheWay => mode & 0o022 != 0 && mode & 0o1000 == 0,
            Self::Link => false,
        };
        !others_can_write && (owner == 0 || owner == euid())
    }
}

fn check(role: Role, status: &Stat, path: &Path) -> Result<(), Fault> {
    let (owner, mode) = (status.st_uid, status.st_mode & 0o7777);
    let euid = || geteuid().as_raw();
    if role.is_safe(owner, mode, euid) {
        return Ok(());
    }
    let (path, wanted) = (path.to_owned(), euid());
    Err(match role {
        Role::Wanted | Role::OnTheWay => Fault::Untrusted { path, owner, mode, wanted },
        Role::Link => Fault::UntrustedLink { path, owner, wanted },
    })
}

/// The bytes of a regular file that passes the [`check`]; none of the null device, which is how a file is masked.
fn read_trusted(fd: &OwnedFd, path: &Path) -> Result<Vec<u8>, Fault> {
    let status = status(fd)?;
    let file_type = FileType::from_raw_mode(status.st_mode);
    if file_type == FileType::CharacterDevice && status.st_rdev == makedev(1, 3) {
        return Ok(Vec::new());
    }
    if file_type != FileType::RegularFile {
        return Err(Fault::NotRegular);
    }
    check(Role::Wanted, &status, path)?;
    let size = u64::try_from(status.st_size).unwrap_or(0).min(MAX_FILE_BYTES) as usize;
    // With room for one byte more, one read(2) gets all that there is and sees that there is no more. If not, it has
    // grown since, or is on a file system that gives less than it is asked for.
    let mut bytes = Vec::with_capacity(size + 1);
    retry_on_intr(|| read(fd, spare_capacity(&mut bytes))).map_err(|errno| cannot("read", errno))?;
    if bytes.len() != size {
        while bytes.len() as u64 <= MAX_FILE_BYTES {
            bytes.reserve(4096);
            if retry_on_intr(|| read(fd, spare_capacity(&mut bytes))).map_err(|errno| cannot("read", errno))? == 0 {
                break;
            }
        }
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_FILE_BYTES) {
        Ok(bytes)
    } else {
        Err(Fault::TooLarge)
    }
}

pub(super) fn decode(bytes: Vec<u8>, path: &Path) -> Result<Layer, Problem> {
    let file: Arc<Path> = Arc::from(path);
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Layer { file, text, owner: None }),
        Err(error) => {
            let place = Lines::of(&file, error.as_bytes()).place(error.utf8_error().valid_up_to());
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use rustix::fs::{fcntl_getfl, mknodat};
    use rustix::io::{FdFlags, fcntl_getfd};
    use tempfile::TempDir;

    use super::*;

    /// `etc`, `run` and `lib` in a folder of their own, and what is written into them.
    struct Tree(TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn with(files: &[(&str, &str)]) -> Self {
            let tree = Self::new();
            for (path, text) in files {
                tree.write(path, text);
            }
            tree
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn roots(&self) -> Roots {
            Roots { dirs: ["etc", "run", "lib"].iter().map(|root| self.path(root)).collect() }
        }

        /// Writes the file, or for `-> TARGET` a symbolic link, with the modes that an installation would give.
        fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            let folder = path.parent().unwrap();
            fs::create_dir_all(folder).unwrap();
            for folder in folder.ancestors().take_while(|folder| *folder != self.0.path()) {
                fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
            }
            if let Some(target) = text.strip_prefix("-> ") {
                return symlink(target, path).unwrap();
            }
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }

        fn mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
        }

        /// What is read, in its order, and the problems, with the tree's own path left out.
        fn layered(&self) -> (String, Vec<String>) {
            let (texts, problems) = layered(&self.roots(), |_| true);
            let problems = problems.iter().map(|problem| self.shown(problem)).collect();
            (texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>().join(" "), problems)
        }

        fn single(&self, path: &str) -> Result<String, String> {
            single(&self.path(path)).map(|text| text.text).map_err(|problem| self.shown(&problem))
        }

        fn shown(&self, problem: &Problem) -> String {
            let shown = format!("{}: {}", problem.place, problem.fault);
            shown.replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    #[test]
    fn a_units_own_drop_in_is_known_by_its_name() {
        for unit in ["web.service", "web@.service", r"a\x2db@1.socket"] {
            let name = own_drop_in(&unit.parse().unwrap());
            assert_eq!(owner_in(name.as_bytes()), Some(unit.as_bytes()));
        }
        assert_eq!(["only-web.service", "web.service.toml"].map(|name| owner_in(name.as_bytes())), [None; 2]);
    }

    #[test]
    fn drop_ins_are_left_open_where_they_are_few() {
        for (drop_ins, left_open) in [(1, 1), (FEW, FEW), (FEW + 1, 0)] {
            let tree = Tree::new();
            for number in 0..drop_ins {
                tree.write(&format!("etc/portguard/conf.d/{number}.toml"), "x");
            }
            assert_eq!(tree.layered(), (vec!["x"; drop_ins].join(" "), Vec::new()));
            let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            let of_tree = open.filter(|path| path.starts_with(tree.path("")) && path.is_file());
            assert_eq!(of_tree.count(), left_open, "of {drop_ins}");
        }
    }

    const MAIN: &str = "etc/portguard/portguard.toml";

    /// What it shows, files with their text, and which texts are read in which order.
    type LayersRow = (&'static str, &'static [(&'static str, &'static str)], &'static str);

    #[rustfmt::skip]
    const LAYERS: &[LayersRow] = &[
        ("nothing there",
            &[], ""),
        ("the first main file alone",
            &[("etc/portguard/portguard.toml", "e"), ("run/portguard/portguard.toml", "r"), ("lib/portguard/portguard.toml", "l")], "e"),
        ("a main file further down",
            &[("etc/portguard/conf.d/a.toml", "a"), ("lib/portguard/portguard.toml", "l")], "l a"),
        ("drop-ins after the main file, by name and not by folder",
            &[("lib/portguard/conf.d/10.toml", "1"), ("etc/portguard/conf.d/20.toml", "2"), ("run/portguard/conf.d/30.toml", "3"),
              ("etc/portguard/portguard.toml", "m")], "m 1 2 3"),
        ("by bytes, as strcmp(3) does",
            &[("etc/portguard/conf.d/9.toml", "9"), ("etc/portguard/conf.d/10.toml", "10"), ("etc/portguard/conf.d/a.toml", "a"),
              ("etc/portguard/conf.d/B.toml", "B")], "10 9 B a"),
        ("etc masks run and lib, run masks lib",
            &[("lib/portguard/conf.d/a.toml", "la"), ("run/portguard/conf.d/a.toml", "ra"), ("etc/portguard/conf.d/a.toml", "ea"),
              ("lib/portguard/conf.d/b.toml", "lb"), ("run/portguard/conf.d/b.toml", "rb")], "ea rb"),
        ("a link to /dev/null masks and says nothing",
            &[("lib/portguard/conf.d/a.toml", "la"), ("etc/portguard/conf.d/a.toml", "-> /dev/null"), ("lib/portguard/conf.d/b.toml", "lb")], " lb"),
        ("so it does for the main file",
            &[("lib/portguard/portguard.toml", "l"), ("etc/portguard/portguard.toml", "-> /dev/null")], ""),
        ("neither other suffixes nor hidden files",
            &[("etc/portguard/conf.d/a.toml.dpkg-new", "x"), ("etc/portguard/conf.d/a.conf", "x"), ("etc/portguard/conf.d/.a.toml", "x"),
              ("etc/portguard/conf.d/a.toml~", "x"), ("etc/portguard/other.toml", "x"), ("etc/portguard/conf.d/b.toml", "b")], "b"),
        ("links are followed, through folders too",
            &[("store/x/a.toml", "a"), ("etc/portguard/conf.d/a.toml", "-> ../../../store/y/a.toml"), ("store/y", "-> x")], "a"),
        ("a folder may be a link",
            &[("store/conf.d/a.toml", "a"), ("store/portguard.toml", "m"), ("etc/portguard", "-> ../store")], "m a"),
        ("conf.d may be a link",
            &[("store/a.toml", "a"), ("etc/portguard/portguard.toml", "m"), ("etc/portguard/conf.d", "-> ../../store/.")], "m a"),
    ];

    #[test]
    fn files_are_layered_as_systemd_does() {
        for (name, files, read) in LAYERS {
            assert_eq!(Tree::with(files).layered(), ((*read).to_owned(), Vec::new()), "{name}");
        }
    }

    #[test]
    fn who_may_own_and_write_what_is_read() {
        for (role, owner, mode, euid, safe) in [
            (Role::Wanted, 0, 0o644, 0, true),
            (Role::Wanted, 0, 0o4444, 0, true),
            (Role::Wanted, 0, 0o664, 0, false),
            (Role::Wanted, 0, 0o646, 0, false),
            (Role::Wanted, 1000, 0o644, 0, false),
            (Role::Wanted, 1000, 0o400, 0, false),
            (Role::Wanted, 1000, 0o644, 1000, true),
            (Role::Wanted, 0, 0o644, 1000, true),
            (Role::Wanted, 1001, 0o644, 1000, false),
            (Role::Wanted, 1000, 0o664, 1000, false),
            (Role::Wanted, 0, 0o1777, 0, false),
            (Role::OnTheWay, 0, 0o755, 0, true),
            (Role::OnTheWay, 0, 0o1777, 0, true),
            (Role::OnTheWay, 0, 0o777, 0, false),
            (Role::OnTheWay, 0, 0o775, 0, false),
            (Role::OnTheWay, 1000, 0o755, 0, false),
            (Role::OnTheWay, 1000, 0o1777, 0, false),
            (Role::OnTheWay, 1000, 0o755, 1000, true),
            (Role::Link, 0, 0o777, 0, true),
            (Role::Link, 1000, 0o777, 0, false),
            (Role::Link, 1000, 0o777, 1000, true),
            (Role::Link, 0, 0o777, 1000, true),
        ] {
            assert_eq!(role.is_safe(owner, mode, || euid), safe, "{role:?} {owner} {mode:o} {euid}");
        }
    }

    /// What the message says of the owner, for whom these tests run as.
    fn owner() -> (u32, String) {
        let uid = geteuid().as_raw();
        (uid, if uid == 0 { "root".to_owned() } else { uid.to_string() })
    }

    fn untrusted(place: &str, path: &str, owner_is: u32, mode: &str) -> String {
        let (_, name) = owner();
        format!(
            "{place}: {path} belongs to uid {owner_is} with mode {mode}, so others than {name} could decide what is stopped: \
             chown {name}: TREE/{path} && chmod go-w TREE/{path}"
        )
        .replace("TREE/", "")
    }

    #[test]
    fn what_others_can_write_is_refused() {
        let (uid, _) = owner();
        for (path, mode, shown) in [
            (MAIN, 0o664, "0664"),
            (MAIN, 0o646, "0646"),
            ("etc/portguard/conf.d/a.toml", 0o666, "0666"),
            ("etc/portguard/conf.d", 0o775, "0775"),
            ("etc/portguard/conf.d", 0o1777, "1777"),
            ("etc/portguard", 0o757, "0757"),
        ] {
            let tree = Tree::with(&[(MAIN, "m"), ("etc/portguard/conf.d/a.toml", "a")]);
            tree.mode(path, mode);
            let (read, problems) = tree.layered();
            assert_eq!(problems, [untrusted(path, path, uid, shown)]);
            assert!(!read.contains(if path == MAIN { 'm' } else { 'a' }), "{path}: {read}");
        }
        let tree = Tree::with(&[(MAIN, "m")]);
        tree.mode(MAIN, 0o664);
        assert_eq!(tree.single(MAIN), Err(untrusted(MAIN, MAIN, uid, "0664")));
    }

    /// As root a stranger's files can be made. Otherwise root's can be had: they are as good as one's own.
    #[test]
    fn what_a_stranger_owns_is_refused() {
        const STRANGER: u32 = 65534;
        let (uid, _) = owner();
        if uid != 0 {
            assert!(single(Path::new("/etc/passwd")).is_ok());
            return;
        }
        for path in [MAIN, "etc/portguard/conf.d/a.toml", "etc/portguard/conf.d", "etc/portguard"] {
            let tree = Tree::with(&[(MAIN, "m"), ("etc/portguard/conf.d/a.toml", "a")]);
            chown(tree.path(path), Some(STRANGER), None).unwrap();
            let mode = if tree.path(path).is_dir() { "0755" } else { "0644" };
            assert_eq!(tree.layered().1, [untrusted(path, path, STRANGER, mode)]);
        }
        let tree = Tree::with(&[("p", "p"), (MAIN, "-> ../../p")]);
        lchown(tree.path(MAIN), Some(STRANGER), None).unwrap();
        let expected = format!(
            "{MAIN}: {MAIN} is a symbolic link of uid {STRANGER}, so others than root could decide what is stopped: \
             chown -h root: {MAIN}"
        );
        assert_eq!(tree.layered().1, [expected]);
    }

    #[test]
    fn a_link_leads_nowhere_that_others_can_change() {
        let (uid, _) = owner();
        let link = "etc/portguard/conf.d/a.toml";
        let tree = Tree::with(&[("home/x/a.toml", "a"), (link, "-> ../../../home/x/a.toml")]);
        assert_eq!(tree.layered().0, "a");
        tree.mode("home", 0o1777);
        assert_eq!(tree.layered().0, "a", "nobody else can replace what is in a sticky folder");
        tree.mode("home", 0o777);
        // The path is as the walk went: by the link's own `..`.
        let home = "etc/portguard/conf.d/../../../home";
        assert_eq!(tree.layered(), (String::new(), vec![untrusted(link, home, uid, "0777")]));
        assert_eq!(tree.single("home/x/a.toml"), Err(untrusted("home/x/a.toml", "home", uid, "0777")));
    }

    #[test]
    fn what_is_no_readable_file_is_refused_at_once() {
        let no_file = "is no regular file: a policy is one, or a link to /dev/null that masks it";
        let main = |rest: &str| (String::new(), vec![format!("{MAIN}: {rest}")]);

        let tree = Tree::with(&[("etc/portguard/portguard.toml/x", "")]);
        assert_eq!(tree.layered(), main(no_file));

        let tree = Tree::with(&[("etc/portguard/x", "")]);
        mknodat(CWD, tree.path(MAIN), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert_eq!(tree.layered(), main(no_file), "a FIFO");

        let too_many_links = format!("cannot open: {}", io::Error::from(Errno::LOOP));
        for (target, reason) in [
            ("nowhere", "cannot open: No such file or directory (os error 2)"),
            ("portguard.toml", &too_many_links[..]),
            ("/dev/zero", no_file),
            ("/etc/passwd/x", "cannot open: Not a directory (os error 20)"),
            ("/", no_file),
        ] {
            assert_eq!(Tree::with(&[(MAIN, &format!("-> {target}"))]).layered(), main(reason), "{target}");
        }
        let tree = Tree::with(&[("etc/portguard", "")]);
        let expected = vec!["etc/portguard: cannot open: Not a directory (os error 20)".to_owned()];
        assert_eq!(tree.layered(), (String::new(), expected));
    }

    #[test]
    fn a_file_has_a_bounded_size_and_is_utf_8() {
        let most = usize::try_from(MAX_FILE_BYTES).unwrap();
        let tree = Tree::with(&[(MAIN, &"#".repeat(most))]);
        assert_eq!(tree.layered().1, Vec::<String>::new());
        tree.write(MAIN, &"#".repeat(most + 1));
        assert_eq!(tree.layered().1, [format!("{MAIN}: is larger than 1024 KiB")]);
        fs::write(tree.path(MAIN), b"#\n# \xc3\xa4\xff").unwrap();
        assert_eq!(tree.layered().1, [format!("{MAIN}:2:4: is not UTF-8 here: TOML is")]);
    }

    #[test]
    fn a_single_file_must_be_there_and_may_be_the_null_device() {
        let tree = Tree::with(&[("p", "p"), ("q", "-> p")]);
        assert_eq!(tree.single("p").as_deref(), Ok("p"));
        assert_eq!(tree.single("q").as_deref(), Ok("p"));
        assert_eq!(tree.single("none"), Err("none: cannot open: No such file or directory (os error 2)".to_owned()));
        assert_eq!(single(Path::new("/dev/null")).map(|text| text.text).ok().as_deref(), Some(""));
    }

    /// As those of procfs do: here its real one, of this very process.
    #[test]
    fn a_file_that_shows_no_size_is_read_to_its_end() {
        let text = single(Path::new("/proc/self/smaps")).map(|text| text.text).ok().unwrap();
        assert!(text.len() > 3 * 4096 && text.lines().last().unwrap().starts_with("VmFlags:"), "{}", text.len());
    }

    #[test]
    fn as_many_links_are_followed_as_the_kernel_follows() {
        let read = |links: usize| {
            let tree = Tree::with(&[("0", "found")]);
            for link in 1..=links {
                tree.write(&link.to_string(), &format!("-> {}", link - 1));
            }
            let path = links.to_string();
            assert_eq!(tree.single(&path).is_ok(), fs::read(tree.path(&path)).is_ok(), "{links}");
            tree.single(&path)
        };
        assert_eq!(read(40).as_deref(), Ok("found"));
        assert_eq!(read(41), Err(format!("41: cannot open: {}", io::Error::from(Errno::LOOP))));
    }

    #[test]
    fn no_child_gets_what_is_open_here() {
        let tree = Tree::with(&[(MAIN, "m"), ("etc/portguard/conf.d/a.toml", "a")]);
        let top = Folder::top(&tree.path("etc")).ok().flatten().unwrap();
        let drop_ins = top.drop_ins().ok().flatten().unwrap();
        let file = open_by_steps(&tree.path(MAIN), Kind::File).unwrap();
        let (on_the_way, _) = walk(&tree.path(MAIN)).unwrap();
        let root = Folder::root().unwrap();
        for fd in [top.fd, drop_ins.fd, file, on_the_way, root.fd] {
            assert!(fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC), "{fd:?}");
        }
    }

    /// What may be passed need not be one that may be listed.
    #[test]
    fn a_folder_on_the_way_is_not_opened_for_reading() {
        let tree = Tree::with(&[(MAIN, "m")]);
        let (on_the_way, _) = walk(&tree.path(MAIN)).unwrap();
        for fd in [on_the_way, Folder::root().unwrap().fd] {
            assert!(fcntl_getfl(&fd).unwrap().contains(OFlags::PATH), "{fd:?}");
        }
    }

    #[test]
    fn every_problem_is_reported_not_only_the_first() {
        let (uid, _) = owner();
        let (a, b) = ("etc/portguard/conf.d/a.toml", "lib/portguard/conf.d/b.toml");
        let tree = Tree::with(&[(MAIN, "m"), (a, "a"), (b, "b")]);
        for path in [MAIN, a, b] {
            tree.mode(path, 0o666);
        }
        assert_eq!(tree.layered().1, [MAIN, a, b].map(|path| untrusted(path, path, uid, "0666")));
    }
}
