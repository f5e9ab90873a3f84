//! Carries out what was judged: stops processes as systemd would, or has it stop their units, under one deadline.
//!
//! The order is verify, tell, signal, wait: everything that made a process one to stop is read again, of the process that
//! was pinned before it was judged, and only its pidfd is ever signalled. Where there is no pidfd there is no signal.
//! It decides nothing about who may be stopped, but refuses what `judge` would protect.

pub mod units;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal as Known;
use rustix::io::Errno;
use rustix::process::pidfd_send_signal;

use crate::interrupt::Interrupt;
use crate::model::{ActiveState, Inode, Invocation, Pid, Process, Signal, StopRules, UnitFacts, UnitName};
use crate::observe::again::Again;
use crate::observe::holders::Sight;
use crate::observe::pin::has_ended;
use crate::observe::sock_diag::Closings;
use crate::sys;

/// How often it is looked where the kernel does not tell that a socket is gone: netlink is denied.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How often it is looked though the kernel tells: a listener that is shut down, and kept open, is in nobody's way, and
/// nobody says so; nor that a process has let go of a socket which somebody else has got meanwhile.
pub const LOOK_AFTER: Duration = Duration::from_secs(5);

/// So many processes are spoken of each for itself, for each signal and for their ends; all others at once.
pub const NAMED: usize = 20;

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
    /// The same signal is about to be sent to these as well, after so many that are named each.
    SignalMore {
        /// To whom.
        processes: Vec<&'a Process>,
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
    /// A process that was signalled lives on, and has let go of the port: it may end in its own time.
    LetGo {
        /// Which.
        process: &'a Process,
        /// So long after the first signal.
        after: Duration,
    },
    /// So many more have ended, or let go of the port.
    EndedMore {
        /// So many.
        count: usize,
        /// The last so long after the first signal.
        after: Duration,
    },
    /// A process is no longer what was judged, so it is left alone.
    Changed {
        /// Which.
        process: &'a Process,
        /// In what.
        why: &'static str,
    },
    /// So many more are no longer what was judged.
    ChangedMore {
        /// So many.
        count: usize,
    },
    /// The manager is about to be asked to stop a unit.
    StopUnit {
        /// Which.
        unit: &'a UnitName,
    },
    /// It has stopped it.
    UnitStopped {
        /// Which.
        unit: &'a UnitName,
        /// It took so long.
        after: Duration,
    },
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

    /// While the manager says nothing, a leftover has so long after each signal: then the manager is asked again.
    const BLIND_PATIENCE: Duration = Duration::from_secs(10);

    /// The policy first, then the unit's own settings, then systemd's defaults.
    ///
    /// As long as the manager has not told the unit's settings, they may say that it must never be killed
    /// (`SendSIGKILL=no`, `TimeoutStopSec=infinity`): it is only asked to end, unless the policy itself says otherwise.
    #[must_use]
    pub fn new(rules: &StopRules, unit: &UnitFacts) -> Self {
        let told = unit.active != ActiveState::Unknown;
        let patience = rules.timeout.or(unit.timeout_stop).unwrap_or(Self::DEFAULT_PATIENCE);
        let kills = rules.send_sigkill.or(unit.send_sigkill).unwrap_or(told);
        // TimeoutStopSec=infinity: it must never be killed. A start cannot wait for ever, though, and gives up instead.
        let (patience, kills) =
            if patience == Duration::MAX { (Self::DEFAULT_PATIENCE, false) } else { (patience, kills) };
        let last = rules.final_kill_signal.or(unit.final_kill_signal).unwrap_or(Signal(Known::SIGKILL as i32));
        Self {
            first: rules.kill_signal.or(unit.kill_signal).unwrap_or(Signal(Known::SIGTERM as i32)),
            hangup: rules.send_sighup.or(unit.send_sighup).unwrap_or(false),
            // Only what ends in nothing worse than another look is cut short.
            patience: if told || kills || rules.timeout.is_some() { patience } else { Self::BLIND_PATIENCE },
            last: kills.then_some(last),
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
    pub const GRACE: Duration = Duration::from_secs(5);

    /// Fits a stop that may take `patience` into what is left of `TimeoutStartSec=`.
    ///
    /// `left`: how long the manager still waits for this start; `None` where it has no bound, or where this is no
    /// start. Without a word from us it ends the start, and us, at that moment; a leftover that ignores its first
    /// signal has to be killed before that, so a tenth of the time left, and at most five seconds, is kept for it.
    #[must_use]
    pub fn fit(patience: Duration, left: Option<Duration>, may_extend: bool) -> Self {
        let whole = Self { patience, grace: Self::GRACE, extend: None };
        let needed = patience.saturating_add(Self::GRACE);
        match left {
            None => whole,
            Some(left) if needed < left => whole,
            Some(_) if may_extend => Self { extend: Some(needed + Self::GRACE), ..whole },
            Some(left) => {
                let grace = (left / 10).min(Self::GRACE);
                // Twice: once for the last rung, and once to report in peace.
                Self { patience: patience.min(left.saturating_sub(grace * 2)), grace, extend: None }
            }
        }
    }
}

/// A process to stop, with the sockets for which it is to be stopped.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// As it was judged.
    pub process: &'a Process,
    /// Its pidfd, opened before it was judged; or why there is none.
    pub pidfd: Result<BorrowedFd<'a>, Errno>,
    /// The sockets it held then.
    pub inodes: Vec<Inode>,
    /// Whether its arguments and folders are part of what makes it one: those of others may change with what they do (setproctitle(3)).
    pub by_argv: bool,
}

/// A target that is still what was judged.
struct Verified<'a> {
    pidfd: BorrowedFd<'a>,
    target: &'a Target<'a>,
}

enum Now<'a> {
    Same(Verified<'a>),
    Gone,
    Changed(&'static str),
}

/// What is looked at while something is stopped.
#[derive(Clone, Copy, Debug)]
pub struct Eyes<'a> {
    /// The kernel's word of sockets that are gone.
    pub closings: Option<&'a Closings>,
    /// What may end us in the middle.
    pub interrupt: &'a Interrupt,
}

/// What became of the processes that were signalled.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// So many have ended, or let go of their sockets.
    pub ended: usize,
    /// So many still have them, after the whole ladder.
    pub alive: usize,
}

/// Makes every target let go of its sockets.
///
/// Nothing says that a port is free afterwards: look again. Where it is interrupted, nothing more is signalled. Each that
/// was signalled is in `signalled` from then on, once.
///
/// # Errors
/// No pidfds, no permission, no such signal, or poll(2) failed. Nothing was signalled then, but for the last two.
pub fn stop<'a>(
    targets: &'a [Target<'a>],
    eyes: &'a Eyes<'a>,
    again: &mut Again<'_>,
    ladder: &Ladder,
    budget: &Budget,
    signalled: &mut Vec<Pid>,
    tell: &mut dyn FnMut(&Step<'_>),
) -> Result<Count, ActError> {
    let (mut verified, mut changed) = (Vec::new(), Changed::default());
    for target in targets {
        match verify(target, again)? {
            Now::Same(target) => verified.push(target),
            Now::Gone => {}
            // Then nothing can be looked at.
            Now::Changed(_) if eyes.interrupt.has_come() => break,
            Now::Changed(why) => changed.tell(target.process, why, tell),
        }
    }
    changed.tell_of_more(tell);
    if eyes.interrupt.has_come() {
        return Ok(Count { ended: 0, alive: targets.len() });
    }
    let all = verified.len();
    let [first, hangup, go_on] = [ladder.first, SIGHUP, SIGCONT].map(kernel_signal);
    let last = ladder.last.map(kernel_signal).transpose()?;
    let (first, hangup, go_on) = (first?, hangup?, go_on?);
    for target in &verified {
        target.may_be_signalled()?;
    }

    let mut watch =
        Watch { verified, eyes, again, began: Instant::now(), ended: 0, last_ended: Duration::ZERO, signalled, tell };
    watch.send(ladder.first, first)?;
    if ladder.hangup {
        watch.send(SIGHUP, hangup)?;
    }
    // A stopped process does not see its signal before it goes on: unit_kill_context(), systemd v257.
    if !eyes.interrupt.has_come() {
        watch.verified.iter().try_for_each(|target| target.send(go_on))?;
    }
    watch.wait(budget.patience)?;
    let mut changed = 0;
    if let (Some(signal), Some(number)) = (ladder.last, last)
        && !eyes.interrupt.has_come()
    {
        changed = watch.drop_those_that_changed()?;
        watch.send(signal, number)?;
        watch.wait(watch.began.elapsed() + budget.grace)?;
    }
    if let Some(count @ 1..) = watch.ended.checked_sub(NAMED) {
        (watch.tell)(&Step::EndedMore { count, after: watch.last_ended });
    }
    let alive = watch.verified.len();
    Ok(Count { ended: all - alive - changed, alive })
}

/// How long whoever has let go of the port gets to end, before it is said to live on.
const LAST_MOMENT: Duration = Duration::from_millis(20);

const SIGHUP: Signal = Signal(Known::SIGHUP as i32);
const SIGCONT: Signal = Signal(Known::SIGCONT as i32);

/// Waits until one of the processes has ended, one of the sockets of `closings` is gone, something is to end
/// us, or for `patience`; says whether there is something to be seen.
///
/// # Errors
/// poll(2) failed.
pub fn wait_for_one(
    processes: &[BorrowedFd<'_>],
    closings: Option<&Closings>,
    interrupt: &Interrupt,
    patience: Duration,
) -> Result<bool, ActError> {
    let deadline = Instant::now() + patience;
    let awaited: Vec<BorrowedFd<'_>> = processes.iter().copied().chain(closings.map(AsFd::as_fd)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let woken = interrupt.wait_for(&awaited, left).map_err(ActError::Wait)?;
        let ended = woken.ready.iter().take(processes.len()).any(|&ready| ready);
        // The word may be of any other socket on the host.
        if ended || woken.interrupted || (woken.by_any() && closings.is_some_and(Closings::was_wanted)) {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// How long it can be waited without a look; `is_told`: whether the kernel tells that a socket is gone.
#[must_use]
pub const fn unlooked(is_told: bool) -> Duration {
    if is_told { LOOK_AFTER } else { LOOK_AGAIN }
}

/// Whether a process, pinned before it was judged, is where it was and has one of these sockets.
#[must_use]
pub fn still_holds(
    process: &Process,
    pidfd: Result<BorrowedFd<'_>, Errno>,
    inodes: &[Inode],
    again: &mut Again<'_>,
) -> bool {
    let Ok(Some(now)) = again.facts(process.pid, false) else { return false };
    let holds = !again.open(process.pid, inodes).inodes.is_empty();
    holds && now.cgroup == process.cgroup && pidfd.is_ok_and(|pidfd| !has_ended(pidfd))
}

/// Reads again everything that made a process a target.
fn verify<'a>(target: &'a Target<'a>, again: &mut Again<'_>) -> Result<Now<'a>, ActError> {
    let process = target.process;
    let pidfd = target.pidfd.map_err(ActError::NoPidfd)?;
    // It may be locked, and was not part of what makes it one.
    let is_known = target.by_argv || process.invocation != Invocation::Unreadable;
    let facts = again.facts(process.pid, is_known);
    // What was read is of another process, which has its number now.
    if has_ended(pidfd) {
        return Ok(Now::Gone);
    }
    let Ok(Some(now)) = facts else { return Ok(Now::Changed(UNSEEN)) };
    let why = if now.start != process.start {
        "its number belongs to another process now"
    } else if now.uid != process.uid {
        "its user has changed"
    } else if is_known && now.invocation == Invocation::Unreadable && process.invocation != now.invocation {
        UNSEEN
    } else if now.cgroup != process.cgroup {
        "it has moved to another cgroup"
    } else if now.program != process.program
        || (target.by_argv && (now.argv != process.argv || now.folders != process.folders))
    {
        "it runs another program now"
    } else if now.terminal != process.terminal {
        "its terminal has changed"
    } else if now.invocation != process.invocation {
        "its invocation id has changed"
    } else {
        let open = again.open(process.pid, &target.inodes);
        match (open.inodes.is_empty(), open.sight, process.protection()) {
            (true, Sight::Hidden | Sight::Part, _) => UNSEEN,
            (true, Sight::Whole | Sight::Gone, _) => "it has let go of the socket",
            (false, _, Some(why)) => why,
            (false, ..) => return Ok(Now::Same(Verified { pidfd, target })),
        }
    };
    Ok(Now::Changed(why))
}

const UNSEEN: &str = "it cannot be looked at any more";

/// `KillSignal=` may be any signal, a real-time one too.
fn kernel_signal(signal: Signal) -> Result<rustix::process::Signal, ActError> {
    rustix::process::Signal::from_named_raw(signal.0)
        .or_else(|| sys::real_time_signal(signal.0))
        .ok_or(ActError::Signal(signal))
}

impl Verified<'_> {
    /// Asks for all before the first is signalled, so that nothing is left half done. It is the number that is
    /// asked for, which whoever has ended may have left to another by then: that is refused, or not, and nobody is signalled by it.
    fn may_be_signalled(&self) -> Result<(), ActError> {
        let pid = rustix::process::Pid::from_raw(self.target.process.pid.0);
        match pid.map(rustix::process::test_kill_process) {
            Some(Err(Errno::PERM)) => Err(ActError::NotPermitted(self.target.process.pid)),
            Some(Ok(()) | Err(_)) | None => Ok(()),
        }
    }

    fn send(&self, number: rustix::process::Signal) -> Result<(), ActError> {
        match pidfd_send_signal(self.pidfd, number) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM) => Err(ActError::NotPermitted(self.target.process.pid)),
            Err(errno) => Err(ActError::NoPidfd(errno)),
        }
    }
}

/// Those that are no longer what was judged, of which the first [`NAMED`] are spoken of each.
#[derive(Default)]
struct Changed(usize);

impl Changed {
    fn tell(&mut self, process: &Process, why: &'static str, tell: &mut dyn FnMut(&Step<'_>)) {
        self.0 += 1;
        if self.0 <= NAMED {
            tell(&Step::Changed { process, why });
        }
    }

    fn tell_of_more(&self, tell: &mut dyn FnMut(&Step<'_>)) {
        if let Some(count @ 1..) = self.0.checked_sub(NAMED) {
            tell(&Step::ChangedMore { count });
        }
    }
}

/// The processes that were signalled, as long as they are there and have the sockets.
struct Watch<'a, 'tell, 'look> {
    verified: Vec<Verified<'a>>,
    eyes: &'a Eyes<'a>,
    again: &'tell mut Again<'look>,
    began: Instant,
    /// So many have ended or let go by now.
    ended: usize,
    /// The last of them so long after the beginning.
    last_ended: Duration,
    signalled: &'tell mut Vec<Pid>,
    tell: &'tell mut dyn FnMut(&Step<'_>),
}

impl<'a> Watch<'a, '_, '_> {
    fn send(&mut self, signal: Signal, number: rustix::process::Signal) -> Result<(), ActError> {
        let process = |pin: &Verified<'a>| pin.target.process;
        for (nth, pin) in self.verified.iter().enumerate() {
            if self.eyes.interrupt.has_come() {
                break;
            }
            match nth {
                0..NAMED => (self.tell)(&Step::Signal { process: process(pin), signal }),
                NAMED => {
                    let processes = self.verified.iter().skip(NAMED).map(process).collect();
                    (self.tell)(&Step::SignalMore { processes, signal });
                }
                _ => {}
            }
            // Telling can have taken its time.
            if self.eyes.interrupt.has_come() {
                break;
            }
            pin.send(number)?;
            if !self.signalled.contains(&process(pin).pid) {
                self.signalled.push(process(pin).pid);
            }
        }
        Ok(())
    }

    /// Waits until each has ended or let go of its sockets, until `patience` after the beginning, or until we are to end.
    ///
    /// The end of a process or of a socket wakes it at once. A server that closes its listener and then finishes what it has
    /// begun is not killed for it: the port is all that is wanted. Where several have that listener, it is gone with the last
    /// of them; who has let go of it and who has not is looked at once more when the time is over.
    fn wait(&mut self, patience: Duration) -> Result<(), ActError> {
        let mut looked = Instant::now();
        while !self.verified.is_empty() && !self.eyes.interrupt.has_come() {
            let left = patience.saturating_sub(self.began.elapsed());
            let Eyes { closings, interrupt, .. } = self.eyes;
            let turn = left.min(unlooked(closings.is_some()).saturating_sub(looked.elapsed()));
            let pins = self.verified.iter().map(|pin| pin.pidfd);
            let awaited: Vec<BorrowedFd<'_>> = pins.chain(closings.map(AsFd::as_fd)).collect();
            let woken = interrupt.wait_for(&awaited, turn).map_err(ActError::Wait)?;
            self.drop_those_that_ended(&woken.ready);
            // Any other socket of the host that ends wakes it as well.
            let is_due = left.is_zero() || looked.elapsed() >= unlooked(closings.is_some());
            if is_due || closings.is_some_and(Closings::was_wanted) {
                self.drop_those_that_let_go()?;
                looked = Instant::now();
            }
            if left.is_zero() {
                break;
            }
        }
        Ok(())
    }

    /// What makes a process one to stop must be so as well when it is killed, a minute and a half later; how many are not.
    fn drop_those_that_changed(&mut self) -> Result<usize, ActError> {
        self.drop_those_that_let_go()?;
        let before = self.verified.len();
        let (mut kept, mut changed) = (Vec::with_capacity(before), Changed::default());
        for target in self.verified.drain(..) {
            match verify(target.target, self.again)? {
                Now::Same(same) => kept.push(same),
                // It is waited for below, and found to have ended.
                Now::Gone => kept.push(target),
                Now::Changed(_) if self.eyes.interrupt.has_come() => kept.push(target),
                Now::Changed(why) => changed.tell(target.target.process, why, self.tell),
            }
        }
        changed.tell_of_more(self.tell);
        self.verified = kept;
        Ok(before - self.verified.len())
    }

    fn drop_those_that_ended(&mut self, gone: &[bool]) {
        let mut gone = gone.iter();
        self.drop_those(|_| gone.next() == Some(&true));
    }

    /// Whoever ends has closed its files a moment before (`do_exit()`, Linux `kernel/exit.c`): it gets [`LAST_MOMENT`].
    fn drop_those_that_let_go(&mut self) -> Result<(), ActError> {
        let interrupt = self.eyes.interrupt;
        let has_let_go = |pin: &Verified<'_>| {
            let open = self.again.open(pin.target.process.pid, &pin.target.inodes);
            open.inodes.is_empty() && open.sight == Sight::Whole
        };
        let done: Vec<bool> = self.verified.iter().map(has_let_go).collect();
        let deadline = Instant::now() + LAST_MOMENT;
        loop {
            let let_go = self.verified.iter().zip(&done).filter(|(_, done)| **done).map(|(pin, _)| pin.pidfd);
            let alive: Vec<BorrowedFd<'_>> = let_go.filter(|pidfd| !has_ended(*pidfd)).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if alive.is_empty() || left.is_zero() || interrupt.has_come() {
                break;
            }
            interrupt.wait_for(&alive, left).map_err(ActError::Wait)?;
        }
        let mut done = done.into_iter();
        self.drop_those(|_| done.next() == Some(true));
        Ok(())
    }

    /// Drops those that are done with, and says so of the first [`NAMED`] of all.
    fn drop_those(&mut self, mut is_done: impl FnMut(&Verified<'a>) -> bool) {
        let after = self.began.elapsed();
        self.verified.retain(|pin| {
            let done = is_done(pin);
            if done {
                self.ended += 1;
                self.last_ended = after;
                if self.ended <= NAMED {
                    let process = pin.target.process;
                    let has_ended = has_ended(pin.pidfd);
                    (self.tell)(&if has_ended {
                        Step::Ended { process, after }
                    } else {
                        Step::LetGo { process, after }
                    });
                }
            }
            !done
        });
    }
}

#[cfg(test)]
mod processes;
#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{CgroupPath, FileId, Invocation, InvocationId, Lineage, Owner, StartTime, Terminal};
    use crate::observe::fixture::{Child, Role, assert_holds_in_a_process_of_its_own, is_alone};
    use crate::observe::holders::SoFar;
    use crate::observe::pin::Pins;
    use crate::observe::proc;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_policy_comes_before_the_unit_and_the_unit_before_the_defaults() {
        let told = UnitFacts { active: ActiveState::Up, ..UnitFacts::default() };
        let unit = UnitFacts {
            kill_signal: Some(Signal(2)),
            timeout_stop: Some(SECOND * 7),
            send_sigkill: Some(false),
            ..told.clone()
        };
        let rules = StopRules { timeout: Some(SECOND), send_sigkill: Some(true), ..StopRules::default() };
        let none = StopRules::default();
        let ladder = |first, patience, last| Ladder { first: Signal(first), hangup: false, patience, last };
        assert_eq!(Ladder::new(&none, &told), ladder(15, SECOND * 90, Some(Signal(9))));
        assert_eq!(Ladder::new(&none, &unit), ladder(2, SECOND * 7, None));
        assert_eq!(Ladder::new(&rules, &unit), ladder(2, SECOND, Some(Signal(9))));
    }

    #[test]
    fn while_the_manager_says_nothing_only_the_policy_can_have_a_process_killed() {
        let silent = UnitFacts::default();
        let ladder = |send_sigkill, timeout| {
            let ladder = Ladder::new(&StopRules { timeout, send_sigkill, ..StopRules::default() }, &silent);
            (ladder.patience, ladder.last)
        };
        assert_eq!(ladder(None, None), (SECOND * 10, None));
        assert_eq!(ladder(None, Some(SECOND * 60)), (SECOND * 60, None));
        assert_eq!(ladder(Some(true), None), (SECOND * 90, Some(Signal(9))));
        assert_eq!(ladder(Some(true), Some(SECOND * 60)), (SECOND * 60, Some(Signal(9))));
    }

    #[test]
    fn what_must_never_be_killed_is_waited_for_and_not_killed() {
        let active = ActiveState::Up;
        let unit =
            UnitFacts { active, timeout_stop: Some(Duration::MAX), send_sigkill: Some(true), ..UnitFacts::default() };
        assert_eq!(Ladder::new(&StopRules::default(), &unit).last, None);
    }

    #[test]
    fn the_ladder_fits_into_the_time_that_the_start_has() {
        let ladder = |seconds| Ladder { first: Signal(15), hangup: false, patience: SECOND * seconds, last: None };
        let fit = |seconds, left: Option<u32>, extend| {
            Budget::fit(ladder(seconds).patience, left.map(|left| SECOND * left), extend)
        };
        // No bound, or far from it.
        assert_eq!(fit(90, None, false), Budget { patience: SECOND * 90, grace: SECOND * 5, extend: None });
        assert_eq!(fit(10, Some(90), false).patience, SECOND * 10);
        // Too near: a tenth each is kept for the last rung and for the report.
        assert_eq!(fit(90, Some(90), false), Budget { patience: SECOND * 80, grace: SECOND * 5, extend: None });
        assert_eq!(fit(90, Some(10), false), Budget { patience: SECOND * 8, grace: SECOND, extend: None });
        assert_eq!(fit(90, Some(0), false).patience, Duration::ZERO);
        // The manager is asked for more.
        assert_eq!(
            fit(90, Some(10), true),
            Budget { patience: SECOND * 90, grace: SECOND * 5, extend: Some(SECOND * 100) }
        );
    }

    /// A child that listens, as a target; it is judged by the caller, not here.
    struct Judged {
        pins: Pins,
        process: Process,
        inodes: Vec<Inode>,
        by_argv: bool,
    }

    fn judged(child: &Child) -> Judged {
        let mut pins = Pins::default();
        assert!(pins.add(child.pid()));
        let facts = proc::process(Path::new("/proc"), child.pid()).unwrap().unwrap();
        let process = facts.into_process(Owner::Nobody, None, Lineage::Other);
        Judged { pins, process, inodes: vec![child.inode()], by_argv: false }
    }

    /// What `stop` came to, with the words it said.
    fn stop_it(judged: &Judged) -> (Count, Vec<String>) {
        let Judged { pins, process, inodes, by_argv } = judged;
        let target = Target { process, pidfd: pins.of(process.pid), inodes: inodes.clone(), by_argv: *by_argv };
        let ladder = Ladder { first: Signal(15), hangup: false, patience: SECOND * 5, last: None };
        let budget = Budget { patience: SECOND * 5, grace: SECOND, extend: None };
        let mut said = Vec::new();
        let mut tell = |step: &Step<'_>| {
            said.push(if let Step::Changed { why, .. } = step {
                (*why).to_owned()
            } else {
                format!("{step:?}").split([' ', '{']).next().unwrap().to_owned()
            });
        };
        let interrupt = Interrupt::default();
        let eyes = Eyes { closings: None, interrupt: &interrupt };
        let so_far = SoFar::default();
        let mut again = Again::new(Path::new("/proc"), &interrupt, &so_far);
        (stop(&[target], &eyes, &mut again, &ladder, &budget, &mut Vec::new(), &mut tell).unwrap(), said)
    }

    #[test]
    fn a_process_that_is_still_what_was_judged_is_stopped_and_waited_for() {
        let child = Child::spawn(Role::Listen, &[]);
        let (count, said) = stop_it(&judged(&child));
        assert_eq!((count, said.join(" ").as_str()), (Count { ended: 1, alive: 0 }, "Signal Ended"));
    }

    /// In a process of its own, as the mask is its first thread's.
    #[test]
    fn nobody_is_signalled_once_we_are_to_end_also_if_that_comes_while_it_is_told() {
        if !is_alone() {
            return;
        }
        for while_told in [false, true] {
            let child = Child::spawn(Role::Listen, &[]);
            let judged = judged(&child);
            assert_holds_in_a_process_of_its_own(|| {
                let interrupt = Interrupt::listen();
                let come = || {
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
                };
                if !while_told {
                    come();
                }
                let target = Target {
                    process: &judged.process,
                    pidfd: judged.pins.of(judged.process.pid),
                    inodes: judged.inodes.clone(),
                    by_argv: false,
                };
                let ladder = Ladder { first: Signal(15), hangup: true, patience: SECOND, last: Some(Signal(9)) };
                let budget = Budget { patience: SECOND, grace: SECOND, extend: None };
                let (mut said, mut signalled) = (0, Vec::new());
                let eyes = Eyes { closings: None, interrupt: &interrupt };
                let so_far = SoFar::default();
                let mut again = Again::new(Path::new("/proc"), &interrupt, &so_far);
                let stopped = stop(&[target], &eyes, &mut again, &ladder, &budget, &mut signalled, &mut |_| {
                    said += 1;
                    come();
                });
                assert!(said == usize::from(while_told) && signalled.is_empty(), "{while_told}: {said}, {signalled:?}");
                assert_eq!(stopped.unwrap(), Count { ended: 0, alive: 1 }, "{while_told}");
            });
            std::net::TcpStream::connect(("127.0.0.1", child.port().get())).unwrap();
        }
    }

    /// The number is given out again for real: the kernel is told what the last one was (`ns_last_pid`,
    /// `proc_sys_kernel(5)`), so that a child gets the one that has just ended.
    #[test]
    fn a_process_that_has_the_number_of_one_that_was_judged_is_never_signalled() {
        const ATTEMPTS: usize = 500;
        // Where another process came first, which may stay, it is tried with another number.
        let reused = (0..ATTEMPTS).find_map(|_| {
            let gone = Child::spawn(Role::Listen, &[]);
            let judged = judged(&gone);
            drop(gone);
            let last = judged.process.pid.0 - 1;
            std::fs::write("/proc/sys/kernel/ns_last_pid", last.to_string()).unwrap();
            let heir = Child::spawn(Role::Listen, &[]);
            (heir.pid() == judged.process.pid).then_some((judged, heir))
        });
        let (mut judged, heir) = reused.expect("other processes always came first");
        // It even has the socket, and may have begun in the same hundredth of a second: the pidfd alone tells.
        judged.inodes = vec![heir.inode()];
        judged.process.start = proc::process(Path::new("/proc"), heir.pid()).unwrap().unwrap().start;
        let (count, said) = stop_it(&judged);
        assert_eq!((count, said.join(" ").as_str()), (Count { ended: 0, alive: 0 }, ""));
        std::net::TcpStream::connect(("127.0.0.1", heir.port().get())).unwrap();
    }

    #[test]
    fn a_process_that_is_not_what_was_judged_is_never_signalled() {
        let child = Child::spawn(Role::Listen, &[]);
        let changes: [(fn(&mut Judged), _); 9] = [
            (
                |target| target.process.start = StartTime(target.process.start.0 + 1),
                "its number belongs to another process now",
            ),
            (|target| target.process.uid += 1, "its user has changed"),
            (
                |target| target.process.cgroup = Some(CgroupPath("/elsewhere".to_owned())),
                "it has moved to another cgroup",
            ),
            (|target| target.process.program = Some(FileId { device: 0, inode: 0 }), "it runs another program now"),
            (|target| target.process.terminal = Some(Terminal(1)), "its terminal has changed"),
            (|target| (target.process.argv, target.by_argv) = (Vec::new(), true), "it runs another program now"),
            (|target| target.process.invocation = Invocation::Known(InvocationId(7)), "its invocation id has changed"),
            (|target| target.inodes = vec![Inode(u64::MAX)], "it has let go of the socket"),
            (|target| target.process.lineage = Lineage::Ancestor, "it started portguard"),
        ];
        for (change, why) in changes {
            let mut judged = judged(&child);
            change(&mut judged);
            let (count, said) = stop_it(&judged);
            assert_eq!((count, said.join(" ").as_str()), (Count { ended: 0, alive: 0 }, why));
        }
        assert!(proc::process(Path::new("/proc"), child.pid()).unwrap().is_some(), "it lives");
    }
}
