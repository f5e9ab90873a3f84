//! How a run of portguard ended.

use std::fmt;
use std::time::Duration;

use super::{Hindrance, Pid, Signal, UnitName};

/// What was stopped on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// So many processes.
    pub processes: usize,
    /// These units.
    pub units: Vec<UnitName>,
}

impl Stopped {
    /// Whether nothing was.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.processes == 0 && self.units.is_empty()
    }
}

impl fmt::Display for Stopped {
    /// `old.service and 2 processes were stopped`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = match self.processes {
            0 => None,
            1 => Some("1 process".to_owned()),
            more => Some(format!("{more} processes")),
        };
        let all: Vec<String> = self.units.iter().map(ToString::to_string).chain(processes).collect();
        let verb = if self.processes + self.units.len() == 1 { "was" } else { "were" };
        write!(f, "{} {verb} stopped", all.join(" and "))
    }
}

/// What was asked to end, whatever came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The processes that were signalled.
    pub processes: Vec<Pid>,
    /// The units that the manager was asked to stop.
    pub units: Vec<UnitName>,
}

/// How a run ended. The exit statuses are those of sysexits.h, which systemd shows by name in its log.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The policy and the command line name no port for this unit.
    NoPorts,
    /// Every endpoint was seen free.
    Free,
    /// Something has an endpoint, and the unit can start beside it.
    Passed,
    /// What was in the way was stopped, and every endpoint was seen free afterwards.
    Freed {
        /// What that was.
        stopped: Stopped,
        /// How long it took, from the first look to the last.
        took: Duration,
    },
    /// `--dry-run`: these would have been stopped.
    WouldStop,
    /// `--dry-run`: these would have been waited for.
    WouldWait,
    /// Something has an endpoint that must not be touched.
    Refused {
        /// This had been stopped before it was seen; nearly always nothing.
        stopped: Stopped,
        /// These had been signalled before, whatever came of it.
        signalled: Vec<Pid>,
        /// Why, where no holder tells it: the manager did not do what it was asked for.
        why: Option<String>,
    },
    /// What was done was not enough by the deadline.
    StillHeld {
        /// How long it took.
        took: Duration,
        /// Why it was given up.
        why: String,
        /// What keeps the holder that was to be stopped from ending, where that is seen.
        hindrance: Option<(Pid, Hindrance)>,
    },
    /// It was ended from outside, in the middle, and ends by that signal: systemd takes that for no success
    /// (`service_sigchld_event()`, systemd v257 `src/core/service.c`).
    Interrupted {
        /// By this signal.
        signal: Signal,
        /// From this process; `None` for the kernel, and for what is outside of this pid namespace.
        sender: Option<Pid>,
        /// So long after the beginning.
        took: Duration,
        /// What had been asked to end.
        asked: Asked,
    },
    /// Not enough privilege to see or to signal.
    NotPermitted(String),
    /// The policy is no policy.
    BadPolicy {
        /// How many problems it has.
        count: usize,
        /// Them, or the first of them where there are many, a line each.
        shown: Vec<String>,
    },
    /// portguard itself failed.
    Internal(String),
}

impl Outcome {
    /// The exit status, sysexits.h; of an end by a signal, what a shell makes of it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NoPorts | Self::Free | Self::Passed | Self::Freed { .. } | Self::WouldStop => 0,
            Self::Refused { .. } => 69,                     // EX_UNAVAILABLE
            Self::Internal(_) => 70,                        // EX_SOFTWARE
            Self::StillHeld { .. } | Self::WouldWait => 75, // EX_TEMPFAIL
            Self::Interrupted { signal, .. } => u8::try_from(signal.0).unwrap_or_default() | 128,
            Self::NotPermitted(_) => 77,  // EX_NOPERM
            Self::BadPolicy { .. } => 78, // EX_CONFIG
        }
    }

    /// The stable word of `PORTGUARD_VERDICT=`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoPorts => "no-ports",
            Self::Free => "free",
            Self::Passed => "passed",
            Self::Freed { .. } => "freed",
            Self::WouldStop => "would-stop",
            Self::WouldWait => "would-wait",
            Self::Refused { .. } => "refused",
            Self::StillHeld { .. } => "still-held",
            Self::Interrupted { .. } => "interrupted",
            Self::NotPermitted(_) => "not-permitted",
            Self::BadPolicy { .. } => "bad-policy",
            Self::Internal(_) => "internal-error",
        }
    }
}
