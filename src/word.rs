//! A word from another thread, which wakes whoever waits for it; and so does what comes to end us.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Instant;

use crate::interrupt::Interrupt;

/// The two ends: a byte goes through a pipe for each word, and the end of the pipe tells of the last.
///
/// # Errors
/// There is no pipe to be had.
pub(crate) fn channel<T>() -> io::Result<(Teller<T>, Listener<T>)> {
    let (send, told) = mpsc::channel();
    let (woken, wake) = io::pipe()?;
    Ok((Teller { send, wake }, Listener { told, woken }))
}

/// The channel is closed before the pipe, so that whoever the pipe wakes finds it closed: fields are dropped in this order.
pub(crate) struct Teller<T> {
    send: Sender<T>,
    wake: PipeWriter,
}

impl<T> Teller<T> {
    /// The listener is gone if this comes too late.
    pub(crate) fn tell(&self, word: T) {
        let _ = self.send.send(word);
        let _ = (&self.wake).write(&[0]);
    }
}

pub(crate) struct Listener<T> {
    told: Receiver<T>,
    woken: PipeReader,
}

impl<T> Listener<T> {
    /// What the other thread tells until then, or until something comes to end us.
    pub(crate) fn until(&self, deadline: Instant, interrupt: &Interrupt) -> Option<T> {
        loop {
            match self.told.try_recv() {
                Ok(word) => {
                    let _ = (&self.woken).read(&mut [0]);
                    return Some(word);
                }
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || interrupt.has_come() {
                return None;
            }
            interrupt.wait_for(&[self.woken.as_fd()], left).ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::observe::fixture::assert_holds_in_a_process_of_its_own;

    #[test]
    fn a_listener_hears_each_word_once_and_the_end_at_once_and_waits_no_longer_than_it_may() {
        let soon = || Instant::now() + Duration::from_secs(20);
        let deaf = Interrupt::default();
        let (teller, listener) = channel().unwrap();
        let began = Instant::now();
        let other = std::thread::spawn(move || {
            teller.tell(1);
            teller.tell(2);
            teller
        });
        assert_eq!((listener.until(soon(), &deaf), listener.until(soon(), &deaf)), (Some(1), Some(2)));
        assert!(began.elapsed() < Duration::from_secs(10));

        // Both bytes were read: it sleeps until its time is over, and does not spin.
        let teller = other.join().unwrap();
        let on_cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let before = on_cpu();
        assert!(listener.until(Instant::now() + Duration::from_millis(300), &deaf).is_none());
        assert!(on_cpu().saturating_sub(before) < Duration::from_millis(50));

        let other = std::thread::spawn(move || drop(teller));
        assert!(listener.until(soon(), &deaf).is_none());
        other.join().unwrap();
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    /// In a process of its own, as the mask is its first thread's.
    #[test]
    fn whoever_is_to_end_waits_for_nothing_more() {
        assert_holds_in_a_process_of_its_own(|| {
            let interrupt = Interrupt::listen();
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
            let (_teller, listener) = channel::<()>().unwrap();
            let began = Instant::now();
            let heard = listener.until(began + Duration::from_secs(30), &interrupt);
            assert!(heard.is_none() && began.elapsed() < Duration::from_secs(10));
        });
    }
}
