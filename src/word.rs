//! A word from another thread, which wakes whoever waits for it; and so does what comes to end us.

use std::any::Any;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::interrupt::Interrupt;

/// The two ends: a byte goes through a pipe for each word, and the end of the pipe tells of the last.
///
/// # Errors
/// There is no pipe to be had.
pub(crate) fn channel<T>() -> io::Result<(Teller<T>, Listener<T>)> {
    let (send, told) = mpsc::channel();
    let (woken, wake) = io::pipe()?;
    Ok((Teller { send, wake, word: PhantomData }, Listener { told, woken, word: PhantomData }))
}

/// So that the channel is in the binary once.
type Boxed = Box<dyn Any + Send>;

/// The channel is closed before the pipe, so that whoever the pipe wakes finds it closed: fields are dropped in this order.
pub(crate) struct Teller<T> {
    send: Sender<Boxed>,
    wake: PipeWriter,
    word: PhantomData<T>,
}

impl<T: Send + 'static> Teller<T> {
    /// The listener is gone if this comes too late.
    pub(crate) fn tell(&self, word: T) {
        let _ = self.send.send(Box::new(word));
        let _ = (&self.wake).write(&[0]);
    }
}

pub(crate) struct Listener<T> {
    told: Receiver<Boxed>,
    woken: PipeReader,
    word: PhantomData<T>,
}

impl<T: 'static> Listener<T> {
    /// What the other thread tells until then, or until something comes to end us.
    pub(crate) fn until(&self, deadline: Instant, interrupt: &Interrupt) -> Option<T> {
        self.boxed(deadline, interrupt)?.downcast().ok().map(|word| *word)
    }
}

impl<T> Listener<T> {
    fn boxed(&self, deadline: Instant, interrupt: &Interrupt) -> Option<Boxed> {
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

/// Runs it in a thread of its own.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn spawn<T: Send + 'static>(
    work: impl FnOnce(Teller<T>) + Send + 'static,
) -> Result<Conversation<T>, String> {
    // Boxed, so that what makes a thread is in the binary once.
    let start = |work: Box<dyn FnOnce() + Send>| thread::Builder::new().name("aside".to_owned()).spawn(work);
    let (teller, listener) = channel().map_err(|error| error.to_string())?;
    let thread = start(Box::new(move || work(teller))).map_err(|error| format!("no thread for it: {error}"))?;
    Ok(Conversation { listener, thread })
}

/// With a thread that says what comes of it.
pub(crate) struct Conversation<T> {
    listener: Listener<T>,
    thread: JoinHandle<()>,
}

impl<T: 'static> Conversation<T> {
    /// See [`Listener::until`].
    pub(crate) fn until(&self, deadline: Instant, interrupt: &Interrupt) -> Option<T> {
        self.listener.until(deadline, interrupt)
    }

    /// The only word, and then the end of the thread, which has nothing else to do. Of a process that exits while another
    /// of its threads is there the kernel looks for a new owner of its memory, among all processes of the host: 1.5 ms
    /// for 10,000 of them (`mm_update_next_owner()`, Linux v6.18 `kernel/exit.c`).
    pub(crate) fn answer(self, deadline: Instant, interrupt: &Interrupt) -> Option<T> {
        let word = self.until(deadline, interrupt);
        if word.is_some() {
            let _ = self.thread.join();
        }
        word
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

    #[test]
    fn who_has_the_answer_has_no_other_thread_and_who_has_none_waits_for_no_thread() {
        let (done, is_done) = std::sync::mpsc::channel();
        let conversation = spawn(move |teller| {
            teller.tell(1);
            thread::sleep(Duration::from_millis(300));
            done.send(()).unwrap();
        });
        let soon = || Instant::now() + Duration::from_secs(20);
        assert_eq!(conversation.unwrap().answer(soon(), &Interrupt::default()), Some(1));
        assert!(is_done.try_recv().is_ok());

        let (release, held) = std::sync::mpsc::channel::<()>();
        let hung = spawn(move |_teller: Teller<()>| {
            let _ = held.recv();
        });
        let began = Instant::now();
        assert_eq!(hung.unwrap().answer(began + Duration::from_millis(100), &Interrupt::default()), None);
        assert!(began.elapsed() < Duration::from_secs(10));
        drop(release);
    }
}
