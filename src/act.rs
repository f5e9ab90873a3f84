//! Carries out what was judged: stops left-over processes as systemd would, under one deadline.
//!
//! The order is pin, read, verify, tell, signal, wait: a pidfd is opened, then everything that made the process a
//! leftover is read again, and only the pidfd is ever signalled. Where there is no pidfd there is no signal.
//! It decides nothing about who may be stopped, but refuses what `judge` would protect.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal as Known;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::judge::protection;
use crate::model::{Inode, Pid, Process, Signal, StopRules, UnitFacts};
use crate::observe::{holders, proc};
use crate::{sys, timespan};

/// What is said while it is done.
#[derive(Debug)]
pub enum Step<'a> {
    /// A signal is about to be sent.
    Signal {
        /// To whom.
        process: &'a Process,
        /// Which.
        signal: Signal,
    },
    /// A process that was signalled is gone.
    Ended {
        /// Which.
        process: &'a Process,
        /// So long after the first signal.
        after: Duration,
    },
    /// A process is no longer what was judged, so it is left alone.
    Changed {
        /// Which.
        process: &'a Process,
        /// In what.
        why: &'static str,
    },
}

impl<'a> Step<'a> {
    /// The process that the step is about.
    #[must_use]
    pub fn process(&self) -> &'a Process {
        match self {
            Self::Signal { process, .. } | Self::Ended { process, .. } | Self::Changed { process, .. } => process,
        }
    }
}

/// Why nothing could be done.
#[derive(Debug)]
pub enum ActError {
    /// The kernel has no pidfds (before Linux 5.3), or a seccomp filter denies them.
    NoPidfd(Errno),
    /// A process may not be signalled by this user.
    NotPermitted(Pid),
    /// poll(2) failed.
    Wait(Errno),
    /// No such signal.
    Signal(Signal),
}

impl fmt::Display for ActError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPidfd(errno) => write!(f, "processes cannot be pinned here, and so none is signalled: {errno}"),
            Self::NotPermitted(pid) => write!(f, "pid {pid} may not be signalled by this user"),
            Self::Wait(errno) => write!(f, "waiting for processes to end: {errno}"),
            Self::Signal(signal) => write!(f, "there is no {signal}"),
        }
    }
}

impl std::error::Error for ActError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoPidfd(errno) | Self::Wait(errno) => Some(errno),
            Self::NotPermitted(_) | Self::Signal(_) => None,
        }
    }
}

/// In which order a leftover is asked, and then made, to end: systemd.kill(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// `KillSignal=`.
    pub first: Signal,
    /// `SendSIGHUP=`.
    pub hangup: bool,
    /// How long the first signal has, `TimeoutStopSec=`.
    pub patience: Duration,
    /// `FinalKillSignal=`; `None` with `SendSIGKILL=no`.
    pub last: Option<Signal>,
}

impl Ladder {
    /// `DefaultTimeoutStopSec=` as systemd is built, where neither the policy nor the unit says another.
    pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(90);

    /// The policy first, then the unit's own settings, then systemd's defaults.
    #[must_use]
    pub fn new(rules: &StopRules, unit: &UnitFacts) -> Self {
        let final_signal = rules.final_kill_signal.or(unit.final_kill_signal).unwrap_or(Signal(Known::SIGKILL as i32));
        Self {
            first: rules.kill_signal.or(unit.kill_signal).unwrap_or(Signal(Known::SIGTERM as i32)),
            hangup: rules.send_sighup.or(unit.send_sighup).unwrap_or(false),
            patience: rules.timeout.or(unit.timeout_stop).unwrap_or(Self::DEFAULT_PATIENCE),
            last: rules.send_sigkill.or(unit.send_sigkill).unwrap_or(true).then_some(final_signal),
        }
    }
}

/// When all of it has to be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The first rung of the ladder has at most so long.
    pub patience: Duration,
    /// After the last rung, a killed process has so long to be gone (the kernel may be writing its core).
    pub grace: Duration,
    /// The manager has to be asked for this much more time before waiting.
    pub extend: Option<Duration>,
}

impl Budget {
    /// A process that was killed is gone at once, unless the kernel still works for it.
    const GRACE: Duration = Duration::from_secs(5);

    /// Fits the ladder into what is left of `TimeoutStartSec=`.
    ///
    /// `left`: how long the manager still waits for this start; `None` where it has no bound, or where this is no
    /// start. Without a word from us it ends the start, and us, at that moment; a leftover that ignores its first
    /// signal has to be killed before that, so a tenth of the time left, and at most five seconds, is kept for it.
    #[must_use]
    pub fn fit(ladder: &Ladder, left: Option<Duration>, may_extend: bool) -> Self {
        let whole = Self { patience: ladder.patience, grace: Self::GRACE, extend: None };
        let needed = ladder.patience + Self::GRACE;
        match left {
            None => whole,
            Some(left) if needed < left => whole,
            Some(_) if may_extend => Self { extend: Some(needed + Self::GRACE), ..whole },
            Some(left) => {
                let grace = (left / 10).min(Self::GRACE);
                // Twice: once for the last rung, and once to report in peace.
                Self { patience: ladder.patience.min(left.saturating_sub(grace * 2)), grace, extend: None }
            }
        }
    }
}

/// A process to stop, with the sockets for which it is to be stopped.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it was judged.
    pub process: Process,
    /// The sockets it held then.
    pub inodes: Vec<Inode>,
}

/// A process that cannot become another one.
struct Pinned<'a> {
    pidfd: OwnedFd,
    process: &'a Process,
}

enum Pin<'a> {
    Pinned(Pinned<'a>),
    Gone,
    Changed(&'static str),
}

/// What became of the processes that were signalled.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// So many have ended.
    pub ended: usize,
    /// So many are still there, after the whole ladder.
    pub alive: usize,
}

/// Stops every target.
///
/// Nothing says that a port is free afterwards: look again.
///
/// # Errors
/// No pidfds, no permission, or poll(2) failed.
pub fn stop(
    targets: &[Target],
    proc_root: &Path,
    ladder: &Ladder,
    budget: &Budget,
    tell: &mut dyn FnMut(&Step<'_>),
) -> Result<Count, ActError> {
    let mut pinned = Vec::new();
    for target in targets {
        match pin(target, proc_root)? {
            Pin::Pinned(pin) => pinned.push(pin),
            Pin::Gone => {}
            Pin::Changed(why) => tell(&Step::Changed { process: &target.process, why }),
        }
    }
    let all = pinned.len();
    let begin = Instant::now();
    for pin in &pinned {
        pin.send(ladder.first, tell)?;
        if ladder.hangup {
            pin.send(Signal(Known::SIGHUP as i32), tell)?;
        }
        // A stopped process does not see its signal before it goes on: unit_kill_context(), systemd v257.
        if ladder.first.0 != Known::SIGKILL as i32 {
            pin.send_quietly(Signal(Known::SIGCONT as i32))?;
        }
    }
    wait(&mut pinned, begin, budget.patience, tell)?;
    if let Some(last) = ladder.last {
        for pin in &pinned {
            pin.send(last, tell)?;
        }
        let patience = begin.elapsed() + budget.grace;
        wait(&mut pinned, begin, patience, tell)?;
    }
    Ok(Count { ended: all - pinned.len(), alive: pinned.len() })
}

/// Waits until one of the processes has ended, or for `patience`; says whether one has. A process that cannot be pinned
/// is not waited for.
///
/// # Errors
/// poll(2) failed.
pub fn wait_for_one(processes: &[&Process], proc_root: &Path, patience: Duration) -> Result<bool, ActError> {
    let pins: Vec<OwnedFd> = processes.iter().filter_map(|process| pin_same(process, proc_root)).collect();
    let mut fds: Vec<PollFd<'_>> = pins.iter().map(|pin| PollFd::new(pin, PollFlags::IN)).collect();
    let timeout = timespan::timespec(patience);
    match poll(&mut fds, Some(&timeout)) {
        Ok(ended) => Ok(ended > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(ActError::Wait(errno)),
    }
}

fn open(process: &Process) -> Result<Option<OwnedFd>, ActError> {
    let Some(pid) = rustix::process::Pid::from_raw(process.pid.0) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(ActError::NoPidfd(errno)),
    }
}

fn pin_same(process: &Process, proc_root: &Path) -> Option<OwnedFd> {
    let pidfd = open(process).ok()??;
    let now = proc::process(proc_root, process.pid).ok()??;
    (now.start == process.start).then_some(pidfd)
}

/// Pins a process, and reads again everything that made it a target.
fn pin<'a>(target: &'a Target, proc_root: &Path) -> Result<Pin<'a>, ActError> {
    let process = &target.process;
    let Some(pidfd) = open(process)? else { return Ok(Pin::Gone) };
    let Ok(Some(now)) = proc::process(proc_root, process.pid) else { return Ok(Pin::Gone) };
    let why = if now.start != process.start {
        "its number belongs to another process now"
    } else if now.uid != process.uid {
        "its user has changed"
    } else if now.cgroup != process.cgroup {
        "it has moved to another cgroup"
    } else if now.exe != process.exe {
        "it runs another program now"
    } else if now.invocation != process.invocation {
        "its invocation id has changed"
    } else if holders::holds(proc_root, process.pid, &target.inodes).inodes.is_empty() {
        "it has let go of the socket"
    } else if let Some(why) = protection(process) {
        why
    } else {
        return Ok(Pin::Pinned(Pinned { pidfd, process }));
    };
    Ok(Pin::Changed(why))
}

/// `KillSignal=` may be any signal, a real-time one too.
fn kernel_signal(signal: Signal) -> Option<rustix::process::Signal> {
    rustix::process::Signal::from_named_raw(signal.0).or_else(|| sys::real_time_signal(signal.0))
}

impl Pinned<'_> {
    fn send(&self, signal: Signal, tell: &mut dyn FnMut(&Step<'_>)) -> Result<(), ActError> {
        tell(&Step::Signal { process: self.process, signal });
        self.send_quietly(signal)
    }

    fn send_quietly(&self, signal: Signal) -> Result<(), ActError> {
        let Some(number) = kernel_signal(signal) else { return Err(ActError::Signal(signal)) };
        match pidfd_send_signal(&self.pidfd, number) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM) => Err(ActError::NotPermitted(self.process.pid)),
            Err(errno) => Err(ActError::NoPidfd(errno)),
        }
    }
}

/// Waits until all have ended, or until `patience` after `begin`; keeps those that have not.
fn wait(
    pinned: &mut Vec<Pinned<'_>>,
    begin: Instant,
    patience: Duration,
    tell: &mut dyn FnMut(&Step<'_>),
) -> Result<(), ActError> {
    loop {
        let timeout = timespan::timespec(patience.saturating_sub(begin.elapsed()));
        let mut fds: Vec<PollFd<'_>> = pinned.iter().map(|pin| PollFd::new(&pin.pidfd, PollFlags::IN)).collect();
        if fds.is_empty() {
            return Ok(());
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(ActError::Wait(errno)),
        }
        let mut ended = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
        pinned.retain(|pin| {
            let gone = ended.next().unwrap_or(false);
            if gone {
                tell(&Step::Ended { process: pin.process, after: begin.elapsed() });
            }
            !gone
        });
    }
}
