//! What `judge` says.

use std::fmt;
use std::rc::Rc;

use super::{ActiveState, Container, Endpoint, Owner, Probe, Process, Socket, UnitName};

/// How a holder stands to the guarded unit. The words are those of the journal field `PORTGUARD_RELATION=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// PID 1 listens for one of the unit's own socket units.
    OwnSocketUnit(UnitName),
    /// PID 1 keeps it in the unit's own file descriptor store.
    OwnFdStore,
    /// A process of this very start, such as a helper of an earlier `ExecStartPre=`.
    OwnStart,
    /// A process of the unit, which is running, while portguard is not part of that run.
    OwnRun,
    /// In the unit's own cgroup, and of an earlier run.
    Leftover,
    /// Elsewhere, and proven by the ledger to be of an earlier run.
    Escaped,
    /// It has a socket that an earlier run of the unit made, and is not itself proven to be of that run.
    Heir,
    /// In the unit's own cgroup, and of which run could not be proven.
    Unproven,
    /// A process of a unit that the policy says this one takes over from.
    Predecessor(UnitName),
    /// In no service, and the same program, of the same user, with the same arguments, as the unit's own.
    Lookalike,
    /// Another instance of the same template.
    Sibling(UnitName),
    /// The unit of the same name in another manager (system, or the one of a user).
    Twin {
        /// The user whose manager it is in; `None`: the system's.
        uid: Option<u32>,
    },
    /// A process of another unit.
    OtherUnit(UnitName),
    /// A process of a unit in the manager of this user.
    OtherUserUnit {
        /// The user.
        uid: u32,
        /// The unit.
        unit: UnitName,
    },
    /// PID 1 listens for a socket unit that is not the guarded unit's own.
    OtherSocketUnit(UnitName),
    /// PID 1 has it, and for whom could not be told.
    Manager,
    /// A process of a container or virtual machine, or one that holds the port for it.
    Container(Container),
    /// A process of a login session.
    Session {
        /// The N of `session-N.scope`.
        id: String,
    },
    /// A process that belongs to no unit.
    OtherProcess,
    /// The near end of a connection has taken the port.
    Client,
    /// A connection that is over but for the waiting.
    TimeWait,
    /// No process has it, though every process could be looked into: the kernel itself does.
    KernelHeld,
    /// Some process may have it that could not be looked into.
    Hidden,
    /// The bind says busy, and no table shows why.
    Unexplained,
    /// Whether it is in the way could not be found out: what the bind said, which was no answer (`Denied`, `Failed`), or
    /// `Busy` where a manager has the port, and did not say for whom.
    Unchecked(Probe),
    /// The bind was not possible, for a reason that has nothing to do with a holder.
    NotBindable(Probe),
}

impl Relation {
    /// The unit to which the holder belongs, where that is another than the guarded one.
    #[must_use]
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::Predecessor(unit)
            | Self::Sibling(unit)
            | Self::OtherUnit(unit)
            | Self::OtherUserUnit { unit, .. }
            | Self::OtherSocketUnit(unit) => Some(unit),
            Self::OwnSocketUnit(_)
            | Self::OwnFdStore
            | Self::OwnStart
            | Self::OwnRun
            | Self::Leftover
            | Self::Escaped
            | Self::Heir
            | Self::Unproven
            | Self::Lookalike
            | Self::Twin { .. }
            | Self::Manager
            | Self::Container(_)
            | Self::Session { .. }
            | Self::OtherProcess
            | Self::Client
            | Self::TimeWait
            | Self::KernelHeld
            | Self::Hidden
            | Self::Unexplained
            | Self::Unchecked(_)
            | Self::NotBindable(_) => None,
        }
    }

    /// Whether the unit is of another manager than the guarded one, which may have one of the same name. `user`: whose manager
    /// that is, `None` for the system's.
    #[must_use]
    pub fn is_of_another_manager(&self, user: Option<u32>) -> bool {
        match user {
            None => matches!(self, Self::OtherUserUnit { .. }),
            Some(own) => {
                matches!(self, Self::OtherUserUnit { uid, .. } if *uid != own)
                    || matches!(self, Self::OtherUnit(_) | Self::Sibling(_))
            }
        }
    }

    /// The stable word of `PORTGUARD_RELATION=`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::OwnSocketUnit(_) => "own-socket-unit",
            Self::OwnFdStore => "own-fd-store",
            Self::OwnStart => "own-start",
            Self::OwnRun => "own-run",
            Self::Leftover => "leftover",
            Self::Escaped => "escaped",
            Self::Heir => "heir",
            Self::Unproven => "unproven",
            Self::Predecessor(_) => "predecessor",
            Self::Lookalike => "lookalike",
            Self::Sibling(_) => "sibling",
            Self::Twin { .. } => "twin",
            Self::OtherUnit(_) | Self::OtherUserUnit { .. } => "other-unit",
            Self::OtherSocketUnit(_) => "other-socket-unit",
            Self::Manager => "manager",
            Self::Container(_) => "container",
            Self::Session { .. } => "session",
            Self::OtherProcess => "other-process",
            Self::Client => "client",
            Self::TimeWait => "time-wait",
            Self::KernelHeld => "kernel-held",
            Self::Hidden => "hidden",
            Self::Unexplained => "unexplained",
            Self::Unchecked(_) => "unchecked",
            Self::NotBindable(_) => "not-bindable",
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is to be done about one holder. The words are those of the journal field `PORTGUARD_ACTION=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Nothing: the service can start beside it.
    Pass,
    /// Stop the process the way systemd would.
    Stop,
    /// Have the manager stop its unit.
    StopUnit,
    /// Wait for it to go.
    Wait,
    /// Refuse the start and leave it alone.
    Refuse,
    /// It could be stopped or waited for; but another is in the way for which the start is refused, or that is waited for
    /// first, so it is left alone as well.
    Spare,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Stop => "stop",
            Self::StopUnit => "stop-unit",
            Self::Wait => "wait",
            Self::Refuse => "refuse",
            Self::Spare => "spare",
        })
    }
}

/// One holder of one endpoint, and what is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The endpoint in whose way it is.
    pub endpoint: Endpoint,
    /// The socket, where one was seen.
    pub socket: Option<Socket>,
    /// The process, where one was seen.
    pub holder: Option<Rc<Process>>,
    /// Whose cgroup the socket was born in, where that is known.
    pub birthplace: Option<Owner>,
    /// How it stands to the unit.
    pub relation: Relation,
    /// What is to be done.
    pub action: Action,
    /// It would have been stopped; why it is not.
    pub obstacle: Option<Obstacle>,
    /// How its unit is, where the manager that has the guarded unit told.
    pub unit_state: ActiveState,
}

/// Why something that might be stopped is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is one of those that are never signalled or stopped; why.
    Protected(&'static str),
    /// These would be stopped with its unit, and nobody said that they may.
    StopsToo(Vec<UnitName>),
    /// Its unit is not active: there is nothing that the manager could stop.
    NotActive,
    /// The unit does not let itself be stopped by hand.
    RefusesStop,
    /// The manager did not say what stopping its unit would bring about.
    Untold,
    /// It is up, or the own socket of the unit; and others may have it as well who could not be looked at.
    Unseen,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected(why) => f.write_str(why),
            Self::StopsToo(units) => {
                let names: Vec<&str> = units.iter().map(UnitName::as_str).collect();
                write!(f, "systemd would stop {} as well", names.join(", "))
            }
            Self::NotActive => f.write_str("its unit is not active, so that systemd has nothing to stop"),
            Self::RefusesStop => f.write_str("its unit has RefuseManualStop="),
            Self::Untold => f.write_str("systemd did not say what else it would stop"),
            Self::Unseen => f.write_str("not everybody who may have it as well could be looked at in time"),
        }
    }
}

/// The judgement of a whole scene. Only [`Verdict::Clear`] leads to a signal.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every endpoint was seen free.
    Free,
    /// What holds the endpoints does not hinder this unit.
    Pass(Vec<Finding>),
    /// All that is in the way may be stopped.
    Clear(Vec<Finding>),
    /// Something is in the way that the policy says to wait for; nothing that it says to refuse.
    Wait(Vec<Finding>),
    /// Something is in the way that must not be touched. Nothing at all is touched.
    Refuse(Vec<Finding>),
}

impl Verdict {
    /// What was found, in the order of the endpoints.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Free => &[],
            Self::Pass(findings) | Self::Clear(findings) | Self::Wait(findings) | Self::Refuse(findings) => findings,
        }
    }
}
