//! The end of a run from outside, in its middle: `systemctl stop` in the midst of a start, a start's own timeout, ^C.
//!
//! It is listened for on the slow path alone: before that nothing was done of which anybody had to be told. Nothing here
//! says what then; whoever waits for something else waits for this as well.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal as Known};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal as Raised, getpid, kill_process};
use rustix::time::Timespec;

use crate::model::{Pid, Signal};

/// What ends a process that has not asked for anything else, and is the `KillSignal=` of one unit or another.
const ENDING: [Known; 4] = [Known::SIGTERM, Known::SIGINT, Known::SIGHUP, Known::SIGQUIT];

/// A signal that was to end this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Which.
    pub signal: Signal,
    /// Who sent it; 0 for the kernel, and for whoever is outside of this pid namespace.
    pub sender: Pid,
}

/// Hears of it.
#[derive(Debug, Default)]
pub struct Interrupt(Option<SignalFd>);

impl Interrupt {
    /// Holds such signals back from this thread, and from those that it starts from now on, until they are asked for.
    /// Children inherit that as well: see `sys::unblock_signals_of`. Where it cannot be, they end us as ever.
    #[must_use]
    pub fn listen() -> Self {
        let ending = SigSet::from_iter(ENDING);
        let heard = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        Self(heard.ok().filter(|_| ending.thread_block().is_ok()))
    }

    /// To be polled beside what is waited for.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Whether one has come.
    #[must_use]
    pub fn has_come(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.fd().is_some_and(|fd| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1))
    }

    /// The one that has come.
    #[must_use]
    pub fn take(&self) -> Option<Interruption> {
        let info = self.0.as_ref()?.read_signal().ok()??;
        let (signal, sender) = (info.ssi_signo.try_into().ok()?, info.ssi_pid.try_into().ok()?);
        Some(Interruption { signal: Signal(signal), sender: Pid(sender) })
    }
}

/// Ends this process by the signal that was held back, so that whoever sent it sees it end by that; by SIGTERM where it
/// was SIGQUIT, which would leave a core. It comes back where that is ignored: that is inherited.
pub fn end_by(signal: Signal) {
    let raised = Raised::from_named_raw(signal.0).filter(|raised| *raised != Raised::QUIT).unwrap_or(Raised::TERM);
    let _ = kill_process(getpid(), raised);
    let _ = SigSet::from_iter(ENDING).thread_unblock();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own, as the mask is its first thread's, and a signal to all the others of the test ends it.
    #[test]
    fn a_signal_is_held_back_told_with_its_sender_and_ends_the_process_when_it_may() {
        let child = crate::sys::fork().unwrap();
        let Some(child) = child else {
            let interrupt = Interrupt::listen();
            let before = interrupt.has_come();
            let _ = kill_process(getpid(), Raised::INT);
            let own = Pid(getpid().as_raw_nonzero().get());
            let expected = Interruption { signal: Signal(Known::SIGINT as i32), sender: own };
            if !before && interrupt.has_come() && interrupt.take() == Some(expected) && interrupt.take().is_none() {
                end_by(expected.signal);
            }
            std::process::abort();
        };
        let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.0), None).unwrap();
        assert!(matches!(ended, nix::sys::wait::WaitStatus::Signaled(_, Known::SIGINT, _)), "{ended:?}");
    }

    #[test]
    fn nobody_who_does_not_listen_hears() {
        assert_eq!(Interrupt::default().take(), None);
        assert!(!Interrupt::default().has_come());
    }
}
