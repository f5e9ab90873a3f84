//! A process that holds a socket, as plain facts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{CgroupPath, Container, UnitName, printable};

/// A process id, in the pid namespace of portguard. It is a name for messages, and no proof of identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(pub i32);

impl Pid {
    /// The service manager, or whatever is PID 1 here.
    pub const INIT: Self = Self(1);
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When a process began, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
/// With the pid it names a process once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StartTime(pub u64);

/// The 128-bit id that systemd gives to each run of a unit (systemd.exec(5), `$INVOCATION_ID`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId(pub u128);

impl FromStr for InvocationId {
    type Err = ();

    /// 32 hexadecimal digits, not all zero.
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(());
        }
        match u128::from_str_radix(text, 16) {
            Ok(0) | Err(_) => Err(()),
            Ok(id) => Ok(Self(id)),
        }
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InvocationId({self})")
    }
}

/// What a process's environment says of its invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invocation {
    /// `INVOCATION_ID=` was there.
    Known(InvocationId),
    /// The environment was read and has none, or the process wrote over it.
    Absent,
    /// The environment could not be read.
    Unreadable,
}

/// A file, by the numbers of its device and its inode (`inode(7)`): the same file under any name, in any mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// A controlling terminal: its device number, as field 7 of `/proc/PID/stat` has it (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terminal(pub u32);

impl fmt::Display for Terminal {
    /// `pts/0`, `tty1`, else `terminal 4:64` (Linux `Documentation/admin-guide/devices.txt`; the minor number is in bits
    /// 31 to 20 and 7 to 0).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = ((self.0 >> 8) & 0xfff, (self.0 & 0xff) | ((self.0 >> 12) & 0xfff00));
        match major {
            136..=143 => write!(f, "pts/{}", minor + (major - 136) * 256),
            4 if minor < 64 => write!(f, "tty{minor}"),
            4 => write!(f, "ttyS{}", minor - 64),
            _ => write!(f, "terminal {major}:{minor}"),
        }
    }
}

/// How a process stands to portguard and the kernel, whatever unit it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lineage {
    /// portguard itself.
    Itself,
    /// Its parent, grandparent and so on.
    Ancestor,
    /// A kernel thread.
    Kernel,
    /// PID 1; or, where the guarded unit is one of a user's, that user's own manager as well.
    Manager,
    /// Any other process.
    Other,
}

/// What keeps a process from acting upon a signal. Against all but the first, SIGKILL helps as a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// It is in uninterruptible sleep.
    InTheKernel {
        /// In this function, where the kernel says so.
        at: Option<String>,
    },
    /// It is stopped for a tracer (`ptrace(2)`), which sees each signal before it does.
    Traced {
        /// By this process.
        by: Pid,
        /// Of this name.
        name: String,
    },
    /// Its cgroup is frozen (cgroups(7)).
    Frozen,
    /// It is stopped (SIGSTOP).
    Stopped,
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InTheKernel { at } => {
                let at = at.as_ref().map(|at| format!(", at {}", printable(at))).unwrap_or_default();
                write!(f, "it is in uninterruptible sleep in the kernel{at}")
            }
            Self::Traced { by, name } => write!(f, "it is stopped by its tracer, pid {by} ({})", printable(name)),
            Self::Frozen => f.write_str("its cgroup is frozen"),
            Self::Stopped => f.write_str("it is stopped"),
        }
    }
}

/// A login session (logind).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session {
    /// The N of `session-N.scope`.
    pub id: String,
}

/// Whose process it is, as far as the manager or its cgroup tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A unit of the system manager.
    Unit(UnitName),
    /// A unit of the manager of this user.
    UserUnit {
        /// The user.
        uid: u32,
        /// The unit in that user's manager.
        unit: UnitName,
    },
    /// A login session.
    Session(Session),
    /// PID 1's own scope.
    Init,
    /// In no unit: the root cgroup, or one that is nobody's.
    Nobody,
    /// Its cgroup could not be read.
    Unknown,
}

impl Owner {
    /// The user in whose manager it is.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        match self {
            Self::UserUnit { uid, .. } => Some(*uid),
            Self::Unit(_) | Self::Session(_) | Self::Init | Self::Nobody | Self::Unknown => None,
        }
    }

    /// Its unit, where the system's manager has it (`None`), or this user's.
    #[must_use]
    pub fn unit_in(&self, user: Option<u32>) -> Option<&UnitName> {
        match self {
            Self::Unit(unit) => user.is_none().then_some(unit),
            Self::UserUnit { uid, unit } => (user == Some(*uid)).then_some(unit),
            Self::Session(_) | Self::Init | Self::Nobody | Self::Unknown => None,
        }
    }

    /// The name of the unit, whosever manager has it.
    #[must_use]
    pub fn unit_name(&self) -> Option<String> {
        match self {
            Self::Unit(unit) | Self::UserUnit { unit, .. } => Some(unit.to_string()),
            Self::Session(session) => Some(format!("session-{}.scope", session.id)),
            Self::Init => Some("init.scope".to_owned()),
            Self::Nobody | Self::Unknown => None,
        }
    }
}

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// When it began.
    pub start: StartTime,
    /// Its real user.
    pub uid: u32,
    /// Its name (at most 15 bytes, and whatever bytes the process chose).
    pub comm: String,
    /// Its executable, where it may be read.
    pub exe: Option<PathBuf>,
    /// Its arguments; empty where they may not be read.
    pub argv: Vec<String>,
    /// Its cgroup.
    pub cgroup: Option<CgroupPath>,
    /// Whose it is.
    pub owner: Owner,
    /// What its environment says.
    pub invocation: Invocation,
    /// Its controlling terminal, where it has one: somebody may sit at it.
    pub terminal: Option<Terminal>,
    /// The file that it runs, where it may be looked at.
    pub program: Option<FileId>,
    /// Its working directory and its root directory, where they may be looked at.
    pub folders: Option<(FileId, FileId)>,
    /// The container that it is part of, or for which it holds the port.
    pub container: Option<Container>,
    /// How it stands to portguard.
    pub lineage: Lineage,
}

/// Programs that are never signalled, even inside the unit's own cgroup: the ones that keep a host reachable, and
/// the ones that carry somebody else's containers and machines.
const PROTECTED_PROGRAMS: &[&str] = &[
    "agetty",
    "aardvark-dns",
    "conmon",
    "conmonrs",
    "containerd",
    "crio",
    "crun",
    "dbus-broker",
    "dbus-broker-launch",
    "dbus-daemon",
    "docker-proxy",
    "dockerd",
    "dropbear",
    "gvproxy",
    "incusd",
    "init",
    "login",
    "lxc-start",
    "lxcfs",
    "lxd",
    "netavark",
    "nerdctl",
    "pasta",
    "podman",
    "polkitd",
    "rootlesskit",
    "rootlesskit-docker-proxy",
    "rootlessport",
    "runc",
    "slirp4netns",
    "sshd",
    "sshd-auth",
    "sshd-session",
    "systemd",
    "udevd",
    "youki",
];

/// The same, by how their names begin.
const PROTECTED_FAMILIES: &[&str] = &["containerd-shim", "qemu-", "systemd-"];

impl Process {
    /// Whether it is a service manager whose word counts here. That of another user is not: anybody may be in a cgroup
    /// that is delegated to them.
    #[must_use]
    pub fn is_manager(&self) -> bool {
        self.lineage == Lineage::Manager
    }

    /// Why this process is never signalled, whatever the policy says; `None` if it may be.
    ///
    /// The name is that of the executable, which a process cannot choose; its `comm`, which it can, counts only
    /// where the executable is not readable, and then only to protect it.
    #[must_use]
    pub fn protection(&self) -> Option<&'static str> {
        match self.lineage {
            Lineage::Itself => return Some("it is portguard itself"),
            Lineage::Ancestor => return Some("it started portguard"),
            Lineage::Kernel => return Some("it is a kernel thread"),
            Lineage::Manager => return Some("it is the service manager"),
            Lineage::Other => {}
        }
        if self.pid <= Pid::INIT {
            return Some("it is the service manager");
        }
        let name = match self.exe.as_deref().and_then(Path::file_name) {
            Some(name) => name.to_string_lossy(),
            None => self.comm.as_str().into(),
        };
        let name = name.trim_end_matches(" (deleted)");
        if PROTECTED_PROGRAMS.contains(&name) || PROTECTED_FAMILIES.iter().any(|family| name.starts_with(family)) {
            return Some("it is a program that portguard never signals");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_the_name_that_people_know() {
        for (device, name) in [
            (0x8800, "pts/0"),
            (0x8805, "pts/5"),
            (0x8902, "pts/258"),
            (0x0401, "tty1"),
            (0x0440, "ttyS0"),
            (0x0010_882c, "pts/300"),
            (0x0010_0501, "terminal 5:257"),
        ] {
            assert_eq!(Terminal(device).to_string(), name, "{device:#x}");
        }
    }
}
