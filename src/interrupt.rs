//! The end of a run from outside, in its middle: `systemctl stop` in the midst of a start, a start's own timeout, ^C.
//!
//! It is listened for on the slow path alone: before that nothing was done of which anybody had to be told. Nothing here
//! says what then; whoever waits for something else waits for this as well.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal as Known};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal as Raised, getpid, kill_process};

use crate::model::{Pid, Signal};
use crate::{sys, timespan};

/// Those that are left alone: what cannot be held back, what the processor raises, what a shell does with its jobs, and
/// what is portguard's own (its alarm, its children, pipes without a reader).
const LEFT_ALONE: [Known; 15] = [
    Known::SIGKILL,
    Known::SIGSTOP,
    Known::SIGBUS,
    Known::SIGFPE,
    Known::SIGILL,
    Known::SIGSEGV,
    Known::SIGSYS,
    Known::SIGTRAP,
    Known::SIGCONT,
    Known::SIGTSTP,
    Known::SIGTTIN,
    Known::SIGTTOU,
    Known::SIGALRM,
    Known::SIGCHLD,
    Known::SIGPIPE,
];

/// What ends nobody, unless it is the `KillSignal=` of the unit: a terminal sends it whenever its window changes.
const HARMLESS: [Known; 2] = [Known::SIGWINCH, Known::SIGURG];

/// What would leave a core.
const WITH_A_CORE: [Known; 3] = [Known::SIGQUIT, Known::SIGABRT, Known::SIGXCPU];

/// A signal that was to end this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Which.
    pub signal: Signal,
    /// Who sent it; `None` for the kernel, and for whoever is outside of this pid namespace.
    pub sender: Option<Pid>,
}

/// What ended a wait. Nothing did where its time was over, or where a signal came that ends nobody.
#[derive(Debug, Default)]
pub struct Woken {
    /// Which of those that were waited for can be read, in their order.
    pub ready: Vec<bool>,
    /// Whether something has come to end us.
    pub interrupted: bool,
}

impl Woken {
    /// Whether any of them can be read, or something has come to end us.
    #[must_use]
    pub fn by_any(&self) -> bool {
        self.interrupted || self.ready.contains(&true)
    }
}

/// Hears of it.
#[derive(Debug, Default)]
pub struct Interrupt(Option<Heard>);

#[derive(Debug)]
struct Heard {
    signals: SigSet,
    fd: SignalFd,
}

impl Interrupt {
    /// Holds such signals back from this thread, and from those that it starts from now on, until they are asked for: any
    /// may be the `KillSignal=` of the unit. Those that are ignored (nohup(1)) stay so.
    /// Children inherit that as well: see `sys::prepare`. Where it cannot be, they end us as ever.
    #[must_use]
    pub fn listen() -> Self {
        let mut signals = sys::every_signal();
        let ignored = Known::iterator().filter(|signal| sys::is_ignored(*signal));
        for signal in LEFT_ALONE.into_iter().chain(ignored) {
            signals.remove(signal);
        }
        // One that is held back is kept, also where it would do nothing: `sig_ignored()`, Linux `kernel/signal.c`.
        let held_back = signals;
        for signal in HARMLESS {
            signals.remove(signal);
        }
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let fd = fd.ok().filter(|_| held_back.thread_block().is_ok());
        Self(fd.map(|fd| Heard { signals, fd }))
    }

    /// Hears of this one too, if it is one that usually ends nobody: the manager ends us by it. Also of one that has come
    /// since [`Self::listen`].
    pub fn listen_for(&mut self, signal: Signal) {
        let wanted = HARMLESS.into_iter().find(|known| *known as i32 == signal.0 && !sys::is_ignored(*known));
        if let (Some(heard), Some(wanted)) = (&mut self.0, wanted)
            && !heard.signals.contains(wanted)
        {
            heard.signals.add(wanted);
            // Where it fails, it is as if nobody had said it.
            let _ = heard.fd.set_mask(&heard.signals);
        }
    }

    /// Waits until one of these can be read, one has come, or for `patience`.
    ///
    /// # Errors
    /// poll(2) failed.
    pub fn wait_for(&self, others: &[BorrowedFd<'_>], patience: Duration) -> Result<Woken, Errno> {
        let ours = self.0.as_ref().map(|heard| heard.fd.as_fd());
        let all = others.iter().copied().chain(ours);
        let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timespan::timespec(patience))) {
            Ok(0) | Err(Errno::INTR) => return Ok(Woken::default()),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let interrupted = ours.is_some() && ready.pop() == Some(true);
        Ok(Woken { ready, interrupted })
    }

    /// Whether one has come.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.0.is_some() && self.wait_for(&[], Duration::ZERO).is_ok_and(|woken| woken.interrupted)
    }

    /// The one that has come.
    #[must_use]
    pub fn take(&self) -> Option<Interruption> {
        let info = self.0.as_ref()?.fd.read_signal().ok()??;
        let (signal, sender) = (info.ssi_signo.try_into().ok()?, info.ssi_pid.try_into().ok()?);
        Some(Interruption { signal: Signal(signal), sender: Some(Pid(sender)).filter(|sender| sender.0 != 0) })
    }

    /// Holds nothing back any more: what has come since the last one was taken ends this process now, as it would any
    /// other.
    pub fn let_go(self) {
        if let Some(late) = self.take() {
            end_by(late.signal);
        }
        if self.0.is_some() {
            let _ = sys::every_signal().thread_unblock();
        }
    }
}

/// Ends this process by the signal that was held back, so that whoever sent it sees it end by that; by SIGTERM where it
/// would leave a core. It comes back where that ends nobody.
pub fn end_by(signal: Signal) {
    let leaves_core = WITH_A_CORE.iter().any(|known| *known as i32 == signal.0);
    let raised = Raised::from_named_raw(signal.0).or_else(|| sys::real_time_signal(signal.0));
    let _ = kill_process(getpid(), raised.filter(|_| !leaves_core).unwrap_or(Raised::TERM));
    let _ = sys::every_signal().thread_unblock();
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::WaitStatus;

    use super::*;
    use crate::observe::fixture::{assert_holds_in_a_process_of_its_own, end_of, is_alone};

    fn raise(signal: Raised) {
        kill_process(getpid(), signal).unwrap();
    }

    /// Ends by what was heard, if it is this, and else in another way.
    fn end_by_what_was_heard(interrupt: &Interrupt, expected: i32) {
        let own = Pid(getpid().as_raw_nonzero().get());
        let expected = Interruption { signal: Signal(expected), sender: Some(own) };
        if interrupt.has_come() && interrupt.take() == Some(expected) && interrupt.take().is_none() {
            end_by(expected.signal);
        }
    }

    #[test]
    fn a_signal_is_held_back_told_with_its_sender_and_ends_the_process_when_it_may() {
        if !is_alone() {
            return;
        }
        for (sent, ends_by) in [
            (Raised::INT, Raised::INT),
            (Raised::USR1, Raised::USR1),
            (Raised::POWER, Raised::POWER),
            (Raised::QUIT, Raised::TERM),
            (Raised::ABORT, Raised::TERM),
        ] {
            let ended = end_of(|| {
                let interrupt = Interrupt::listen();
                assert!(!interrupt.has_come());
                raise(sent);
                end_by_what_was_heard(&interrupt, sent.as_raw());
            });
            let signal = if let WaitStatus::Signaled(_, signal, false) = ended { Some(signal as i32) } else { None };
            assert_eq!(signal, Some(ends_by.as_raw()), "{sent:?}: {ended:?}");
        }
        // nix has no name for how such a one ends a process.
        for real_time in Signal::REAL_TIME {
            let heard = end_of(|| {
                let interrupt = Interrupt::listen();
                raise(sys::real_time_signal(real_time).unwrap());
                std::process::exit(if interrupt.take().is_some_and(|by| by.signal.0 == real_time) { 8 } else { 1 });
            });
            assert!(matches!(heard, WaitStatus::Exited(_, 8)), "{real_time}: {heard:?}");
        }
    }

    #[test]
    fn a_signal_that_usually_ends_nobody_is_heard_where_the_manager_ends_us_by_it_also_if_it_came_before() {
        if !is_alone() {
            return;
        }
        for (unit, code) in [(Known::SIGWINCH, 156), (Known::SIGTERM, 7)] {
            let ended = end_of(|| {
                let mut interrupt = Interrupt::listen();
                raise(Raised::WINCH);
                assert!(!interrupt.has_come());
                interrupt.listen_for(Signal(unit as i32));
                if let Some(by) = interrupt.take() {
                    end_by(by.signal);
                    std::process::exit(128 + by.signal.0);
                }
            });
            assert!(matches!(ended, WaitStatus::Exited(_, ended) if ended == code), "{unit}: {ended:?}");
        }
    }

    #[test]
    fn what_whoever_has_started_us_ignores_stays_ignored() {
        if !is_alone() {
            return;
        }
        assert_holds_in_a_process_of_its_own(|| {
            sys::ignore(Known::SIGHUP);
            let interrupt = Interrupt::listen();
            raise(Raised::HUP);
            assert!(!interrupt.has_come());
            interrupt.let_go();
        });
    }

    #[test]
    fn a_signal_that_comes_after_the_last_was_asked_for_is_not_lost() {
        if !is_alone() {
            return;
        }
        let ended = end_of(|| {
            let interrupt = Interrupt::listen();
            raise(Raised::TERM);
            interrupt.let_go();
        });
        assert!(matches!(ended, WaitStatus::Signaled(_, Known::SIGTERM, _)), "{ended:?}");
    }

    #[test]
    fn nobody_who_does_not_listen_hears() {
        assert_eq!(Interrupt::default().take(), None);
        assert!(!Interrupt::default().has_come());
    }
}
