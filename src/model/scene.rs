//! Everything that was seen, and everything that the policy says: the two inputs of `judge`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::{
    CgroupId, CgroupPath, Endpoint, FileId, Inode, InvocationId, Owner, Pid, Process, Protocol, Socket, StartTime,
    UnitName, UnitPattern,
};

/// What a bind(2) of the endpoint said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// It could be bound: a server that starts now can bind it as well.
    Free,
    /// `EADDRINUSE`.
    Busy,
    /// `EACCES` or `EPERM`: a privileged port without the capability, `SocketBindDeny=`, a security module.
    Denied,
    /// `EADDRNOTAVAIL`: the address is not on this host, or not yet.
    NotLocal,
    /// Any other errno: the probe says nothing.
    Failed(i32),
}

/// A socket in the way, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSocket {
    /// The socket.
    pub socket: Socket,
    /// Whose its birth cgroup is; `None` where that cgroup is gone or could not be looked up.
    pub birthplace: Option<Owner>,
    /// The path of that cgroup.
    pub born_in: Option<CgroupPath>,
    /// Every process that was seen to have it open; shared, as each can have very many.
    pub holders: Vec<Rc<Process>>,
    /// The active socket unit that listens with it, where PID 1 has it.
    pub socket_unit: Option<UnitName>,
}

/// One endpoint of the guarded unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointScene {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What the probe said.
    pub probe: Probe,
    /// The sockets that are in its way, where one looked (only after a probe that was not free).
    pub sockets: Vec<HeldSocket>,
}

/// Something that could not be seen. It turns "nobody" into "nobody that I could see".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlindSpot {
    /// The kernel's socket tables could not be read by either way; the reason.
    Sockets(String),
    /// The open files of so many processes could not be listed.
    Processes {
        /// How many.
        hidden: usize,
    },
    /// There are so many sockets, or so many processes have so many of them, that not all were looked at.
    Crowd,
    /// So many processes were not looked at, or not to their end, for want of time: they may have a socket as well.
    PassedOver {
        /// How many.
        processes: usize,
    },
    /// These processes did not let themselves be looked into in time: others may have a socket as well. At least one.
    Late(Vec<Pid>),
    /// The arguments and the environment of so many processes were not read: in time, or for want of a thread.
    Memory {
        /// How many.
        unread: usize,
    },
    /// The service manager did not answer; the reason.
    Manager(String),
    /// The ledger could not be read; the reason.
    Ledger(String),
    /// Processes came and went faster than they could be looked at.
    Unsteady,
}

impl Guarded {
    /// Whether something that belongs to `owner` belongs to this unit, in this manager.
    #[must_use]
    pub fn is(&self, owner: &Owner) -> bool {
        self.unit_beside(owner) == Some(&self.unit)
    }

    /// The unit of an owner, where the manager that has this unit has that one as well.
    #[must_use]
    pub fn unit_beside<'o>(&self, owner: &'o Owner) -> Option<&'o UnitName> {
        owner.unit_in(self.user)
    }
}

impl Scene {
    /// Whether the service manager did not answer.
    #[must_use]
    pub fn is_manager_silent(&self) -> bool {
        self.blind_spots.iter().any(|spot| matches!(spot, BlindSpot::Manager(_)))
    }
}

impl BlindSpot {
    /// The same, whatever there is of it: what comes again with another number is no news.
    #[must_use]
    pub fn uncounted(&self) -> Self {
        match self {
            Self::Processes { .. } => Self::Processes { hidden: 0 },
            Self::Memory { .. } => Self::Memory { unread: 0 },
            Self::PassedOver { .. } => Self::PassedOver { processes: 0 },
            Self::Sockets(_) | Self::Crowd | Self::Late(_) | Self::Manager(_) | Self::Ledger(_) | Self::Unsteady => {
                self.clone()
            }
        }
    }
}

impl fmt::Display for BlindSpot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sockets(why) => write!(f, "the socket tables could not be read ({why})"),
            Self::Processes { hidden } => write!(f, "the open files of {hidden} processes could not be listed"),
            Self::Late(pids) => {
                let first = pids.first().map_or(0, |pid| pid.0);
                let others = match pids.len() {
                    0 | 1 => String::new(),
                    2 => " and 1 other".to_owned(),
                    many => format!(" and {} others", many - 1),
                };
                write!(
                    f,
                    "the open files of pid {first}{others} could not be listed in time, as in an execve(2) that waits for a file \
                     server which does not answer"
                )
            }
            Self::Memory { unread } => write!(
                f,
                "the arguments and the environment of {unread} processes could not be read in time, as where a file \
                 server does not answer that has their memory locked"
            ),
            Self::Crowd => f.write_str(
                "there are so many of these sockets, or processes that have them, that not all were looked at",
            ),
            Self::PassedOver { processes } => write!(
                f,
                "{processes} processes were not looked at for want of time, and could have the same socket: so many files are \
                 open on this host, or so many of those before them hang"
            ),
            Self::Manager(why) => write!(f, "systemd could not be asked ({why})"),
            Self::Ledger(why) => write!(f, "the ledger of earlier runs could not be read ({why})"),
            Self::Unsteady => f.write_str("processes came and went faster than they could be looked at"),
        }
    }
}

/// Where in its life the guarded unit is, as far as that is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// portguard is part of this very start of the unit: inside its cgroup, in front of its `ExecStart=`, and of its
    /// present run. Nothing but helpers of this start is of the present run yet.
    Within,
    /// The manager says `inactive` or `failed`: whatever is in its cgroup is left over.
    Stopped,
    /// The manager says that it is up, or on its way up or down, and portguard is not part of that run.
    Running,
    /// Neither could be proven.
    Unknown,
}

/// One earlier, guarded run of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The unit's cgroup in that run.
    pub cgroup: Option<CgroupId>,
    /// Its invocation id.
    pub invocation: InvocationId,
}

/// The guarded unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// Its name, as systemd calls it.
    pub unit: UnitName,
    /// The user whose manager it is in; `None`: the system's.
    pub user: Option<u32>,
    /// Where it is in its life.
    pub phase: Phase,
    /// The invocation id of its present run.
    pub invocation: Option<InvocationId>,
    /// When its last run was over (`InactiveEnterTimestampMonotonic`), as a process start time: what is older is of an
    /// earlier run. `None` if there was none since boot, or the manager did not tell.
    pub ended: Option<StartTime>,
    /// The processes that the manager knows as the unit's own: `MainPID` and `ControlPID`.
    pub known: Vec<Pid>,
    /// The socket units that start it (`TriggeredBy=`).
    pub triggered_by: Vec<UnitName>,
    /// Whether the manager has told those, in this look or an earlier one.
    pub knows_triggers: bool,
    /// Earlier runs from the ledger, never the present one.
    pub runs: Vec<Run>,
    /// The sockets that the manager keeps in the unit's file descriptor store; `None` where it does not tell (before
    /// systemd 254), or was not asked.
    pub stored: Option<Vec<Inode>>,
    /// The manager keeps some file for the unit.
    pub keeps_files: bool,
    /// What its `ExecStart=` runs; `None` where that is not told, or runs as nobody who is known.
    pub program: Option<Program>,
}

/// What a unit's `ExecStart=` runs, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The executable file.
    pub file: FileId,
    /// Its arguments, with the first.
    pub argv: Vec<String>,
    /// Its working directory and its root directory: the same arguments mean another thing elsewhere.
    pub folders: (FileId, FileId),
    /// `User=`.
    pub uid: u32,
}

/// What the manager says of a unit to which a holder belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitState {
    /// Whether it is up.
    pub active: ActiveState,
    /// Whether systemd stops it when it is asked to.
    pub can_stop: bool,
    /// The units that are up and would be stopped with it; `None` where that was not asked or not told.
    pub stops_too: Option<Vec<UnitName>>,
}

/// All that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The guarded unit.
    pub guarded: Guarded,
    /// Its endpoints.
    pub endpoints: Vec<EndpointScene>,
    /// The units to which the holders belong, of the manager that has the guarded unit.
    pub units: BTreeMap<UnitName, UnitState>,
    /// What could not be seen.
    pub blind_spots: Vec<BlindSpot>,
}

/// What to do about a leftover: `on-stale` in the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StaleRule {
    /// Stop it.
    #[default]
    Stop,
    /// Refuse the start.
    Refuse,
    /// Let the start go on.
    Ignore,
}

/// What to do about a holder that is not stale: `on-foreign` in the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForeignRule {
    /// Refuse the start.
    #[default]
    Refuse,
    /// Wait for it to go, then refuse.
    Wait,
    /// Let the start go on.
    Ignore,
}

/// What to do about a process in no service that is the same program, of the same user, with the same arguments, as the
/// unit's own: `on-lookalike` in the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LookalikeRule {
    /// What `on-foreign` says.
    #[default]
    AsForeign,
    /// Stop it.
    Stop,
}

/// What to do where nobody could tell whether an endpoint is in the way: `on-blind` in the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlindRule {
    /// Let the start go on, with a warning: the service's own bind will tell.
    #[default]
    Allow,
    /// Refuse the start.
    Refuse,
}

/// A signal number, as in signal(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(pub i32);

impl Signal {
    /// `SIGRTMIN` to `SIGRTMAX` as systemd sees them: glibc keeps the kernel's 32 and 33 for itself (nptl(7)). The C library
    /// that is linked into portguard may keep others.
    pub const REAL_TIME: RangeInclusive<i32> = 34..=64;
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(known) => f.write_str(known.as_str()),
            Err(_) if Self::REAL_TIME.contains(&self.0) => write!(f, "SIGRTMIN+{}", self.0 - Self::REAL_TIME.start()),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

/// What the policy says of stopping; what it leaves open is the unit's own `KillSignal=` and so on (systemd.kill(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopRules {
    /// How long to wait after the first signal: `stop-timeout`, else `TimeoutStopSec=`.
    pub timeout: Option<Duration>,
    /// `kill-signal`, else `KillSignal=`.
    pub kill_signal: Option<Signal>,
    /// `final-kill-signal`, else `FinalKillSignal=`.
    pub final_kill_signal: Option<Signal>,
    /// `send-sighup`, else `SendSIGHUP=`.
    pub send_sighup: Option<bool>,
    /// `send-sigkill`, else `SendSIGKILL=`.
    pub send_sigkill: Option<bool>,
}

/// The policy of one unit, every specifier expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What it is about to bind, each endpoint once.
    pub endpoints: Vec<Endpoint>,
    /// `reuse-address`: whether the service sets `SO_REUSEADDR`, so that `TIME_WAIT` does not hinder it.
    pub reuse_address: bool,
    /// `on-stale`.
    pub on_stale: StaleRule,
    /// `on-foreign`.
    pub on_foreign: ForeignRule,
    /// `on-lookalike`.
    pub on_lookalike: LookalikeRule,
    /// `on-blind`.
    pub on_blind: BlindRule,
    /// `replaces`: the units that this one takes over from, and that may be stopped for it.
    pub replaces: Vec<UnitPattern>,
    /// `wait`: how long what is waited for may take; `None`: it depends on what that is.
    pub wait: Option<Duration>,
    /// How to stop a leftover.
    pub stop: StopRules,
}

/// What the manager's `ActiveState` means here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActiveState {
    /// It was not told.
    #[default]
    Unknown,
    /// `inactive` or `failed`.
    Down,
    /// Anything else: active, on its way up, reloading, under maintenance.
    Up,
    /// `deactivating`: on its way down.
    Stopping,
}

/// What the manager says of the guarded unit. Times are of `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// Its name without aliases.
    pub id: Option<UnitName>,
    /// Whether it is up.
    pub active: ActiveState,
    /// `InvocationID`.
    pub invocation: Option<InvocationId>,
    /// `SubState` says that `ExecCondition=` or `ExecStartPre=` runs; `None` where it was not told.
    pub starting: Option<bool>,
    /// `InactiveEnterTimestampMonotonic`: when its last run was over.
    pub ended: Option<Duration>,
    /// `MainPID`.
    pub main_pid: Option<Pid>,
    /// `ControlPID`.
    pub control_pid: Option<Pid>,
    /// `TriggeredBy`.
    pub triggered_by: Vec<UnitName>,
    /// `NFileDescriptorStore`: something is in its file descriptor store.
    pub keeps_files: bool,
    /// `KillSignal=`.
    pub kill_signal: Option<Signal>,
    /// `RestartKillSignal=`, where it is another; by these two the manager ends a command in front of the start as well.
    pub restart_kill_signal: Option<Signal>,
    /// `FinalKillSignal=`.
    pub final_kill_signal: Option<Signal>,
    /// `SendSIGHUP=`.
    pub send_sighup: Option<bool>,
    /// `SendSIGKILL=`.
    pub send_sigkill: Option<bool>,
    /// `TimeoutStopSec=`; `None` where it has no bound or was not told.
    pub timeout_stop: Option<Duration>,
    /// `TimeoutStartSec=`; `None` where it has no bound or was not told.
    pub timeout_start: Option<Duration>,
    /// The first command of `ExecStart=`: its file, and its arguments with the first, before variables are filled in.
    pub exec_start: Option<(PathBuf, Vec<String>)>,
    /// `User=`; `None` where it is empty or was not told.
    pub user: Option<String>,
    /// `WorkingDirectory=`, as D-Bus has it: `!` in front where it may be missing, `~` for the user's home.
    pub working_directory: Option<String>,
    /// `RootDirectory=` or `RootImage=` is set: its files are not where they are for us.
    pub has_own_root: bool,
    /// `NotifyAccess=` is `exec` or `all`: an `ExecStartPre=` may ask for more time.
    pub helpers_may_notify: bool,
}

/// A socket unit that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketUnit {
    /// Its name.
    pub unit: UnitName,
    /// Its TCP and UDP addresses.
    pub listens: Vec<(Protocol, SocketAddr)>,
}
