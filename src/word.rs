//! A word from another thread, which wakes whoever waits for it; and so does what comes to end us.

use std::any::Any;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::time::{ClockId, clock_gettime};

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
    // Where it is not said, the environment does (`RUST_MIN_STACK`), and of that the unit's user may have a say.
    const STACK_BYTES: usize = 2 * 1024 * 1024;
    // Boxed, so that what makes a thread is in the binary once.
    let start = |work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name("aside".to_owned()).stack_size(STACK_BYTES).spawn(work)
    };
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

/// What was waited in vain for other threads, in microseconds, by all that have asked them in this run.
static LOST: AtomicU64 = AtomicU64::new(0);

/// So many threads were left to what they hang with, and hang.
static LEFT: AtomicUsize = AtomicUsize::new(0);
/// So many were left in this run, or since the last look of a wait at which none of them hung, whether they hang or have answered
/// since.
static EVER_LEFT: AtomicUsize = AtomicUsize::new(0);
/// After so many nothing more is asked: each costs a moment, keeps some files open, and counts in the unit's `TasksMax=`.
const MOST_LEFT: usize = 32;

/// Whether a thread hangs: then there is a process like that, and nothing may be asked without a thread.
pub(crate) fn has_left_any() -> bool {
    LEFT.load(Ordering::Relaxed) > 0
}

fn has_left_too_many() -> bool {
    EVER_LEFT.load(Ordering::Relaxed) >= MOST_LEFT
}

/// So long is waited in vain, all together.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// And so long for those that matter most, which come first, but may be asked again when the others have cost all of that.
pub(crate) const MORE_PATIENCE: Duration = Duration::from_millis(1250);
/// And so long, in moments, for those that are to be signalled, whatever all the others have cost.
const MOMENTS: Duration = Duration::from_millis(750);
/// Where less of that is left, no more is tried. What is less and is waited comes of locks that are soon free.
const MOMENT: Duration = Duration::from_millis(1);

/// What was waited in vain for all that were late.
pub(crate) fn lost() -> Duration {
    Duration::from_micros(LOST.load(Ordering::Relaxed))
}

/// How long the next may take: half of what is left of `all`, so that one that is late leaves some to the others. `spent`: what
/// else counts. `None` where nothing is left.
pub(crate) fn patience(all: Duration, spent: Duration) -> Option<Duration> {
    Some(all.saturating_sub(lost() + spent) / 2).filter(|half| *half >= MOMENT)
}

/// The same for one that is not left out for what others have cost: as long as one that does not hang takes, and more, until
/// [`MOMENTS`] were waited like that.
pub(crate) fn some_patience(all: Duration) -> Option<Duration> {
    patience(all, Duration::ZERO).or_else(|| patience(all + MOMENTS, Duration::ZERO).map(|_| MOMENT * 25))
}

/// In a wait for something else it was not waited in vain: the next look has all its time again, unless there is somebody who
/// hangs and would be asked again.
pub(crate) fn nothing_was_lost() {
    if !has_left_any() {
        LOST.store(0, Ordering::Relaxed);
        EVER_LEFT.store(0, Ordering::Relaxed);
    }
}

pub(crate) fn wait_was_in_vain(waited: Duration) {
    LOST.fetch_add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Asks one question after the other of a thread, which ends with this; one that is late is left to what it hangs with, and the
/// next question gets another.
pub(crate) struct Workers<Q, A> {
    answer: fn(&Q) -> A,
    worker: Option<Worker<Q, A>>,
}

/// Why a question has no answer.
pub(crate) enum Unanswered<Q> {
    /// It took too long, or something came to end us.
    Late,
    /// There is no thread to be had. It can be answered without one, but nobody could tell then that it takes too long.
    NoThread(Q),
    /// Nor may it be answered without one, as others hang; or too many were late.
    WouldHang,
}

impl<Q: Send + 'static, A: Send + 'static> Workers<Q, A> {
    pub(crate) fn new(answer: fn(&Q) -> A) -> Self {
        Self { answer, worker: None }
    }

    /// See [`Worker::ask`].
    pub(crate) fn ask(&mut self, question: Q, patience: Duration, interrupt: &Interrupt) -> Result<A, Unanswered<Q>> {
        if has_left_too_many() {
            return Err(Unanswered::WouldHang);
        }
        let worker = match self.worker.take().map_or_else(|| Worker::spawn(self.answer), Ok) {
            Ok(worker) => worker,
            Err(_) if has_left_any() => return Err(Unanswered::WouldHang),
            Err(_) => return Err(Unanswered::NoThread(question)),
        };
        let (worker, answer) = worker.ask(question, patience, interrupt).ok_or(Unanswered::Late)?;
        self.worker = Some(worker);
        Ok(answer)
    }
}

impl<Q, A> Drop for Workers<Q, A> {
    /// Who exits while another of its threads is there pays for that: see `Conversation::answer`.
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.end();
        }
    }
}

/// A thread that answers one question after the other, as long as it is in time.
struct Worker<Q, A> {
    question: Arc<Mutex<Option<Q>>>,
    /// Of the thread, once it runs.
    task: Arc<OnceLock<Task>>,
    /// Whether the thread was left to what it hangs with.
    is_left: Arc<AtomicBool>,
    wake: PipeWriter,
    /// And for how long it has stood still over it.
    conversation: Conversation<(A, Duration)>,
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    /// # Errors
    /// There is no thread to be had.
    fn spawn(answer: fn(&Q) -> A) -> Result<Self, String> {
        let question = Arc::new(Mutex::new(None));
        let asked = Arc::clone(&question);
        let task = Arc::new(OnceLock::new());
        let own = Arc::clone(&task);
        let is_left = Arc::new(AtomicBool::new(false));
        let was_left = Arc::clone(&is_left);
        let (mut woken, wake) = io::pipe().map_err(|error| error.to_string())?;
        let conversation = spawn(move |teller| {
            let own = own.get_or_init(Task::own);
            let next = || {
                woken.read_exact(&mut [0]).ok()?;
                asked.lock().ok()?.take()
            };
            for question in std::iter::from_fn(next) {
                let (began, busy, waits) = (Instant::now(), own.busy_by_its_own_clock(), waits());
                let answer = answer(&question);
                let busy = own.busy_by_its_own_clock().saturating_sub(busy);
                teller.tell((answer, waited_of(began.elapsed().saturating_sub(busy), waits)));
            }
            // It has answered after all.
            if was_left.load(Ordering::Relaxed) {
                LEFT.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { question, task, is_left, wake, conversation })
    }

    /// `None` where it stands still over the question for longer than `patience`: the thread hangs with it, and is left to
    /// itself. That it has much to do, or on a busy machine has to wait for its turn, is another matter: then it is waited
    /// for. For how long it stood still counts as waited in vain, with an answer as well.
    fn ask(self, question: Q, patience: Duration, interrupt: &Interrupt) -> Option<(Self, A)> {
        let busy = || self.task.get().map_or(Duration::ZERO, Task::busy);
        let (began, before) = (Instant::now(), busy());
        self.put(question)?;
        let mut wait = patience;
        let told = loop {
            let told = self.conversation.until(Instant::now() + wait, interrupt);
            if told.is_some() {
                break told;
            }
            let stood_still = began.elapsed().saturating_sub(busy().saturating_sub(before));
            let can_go_on = self.task.get().is_none_or(Task::can_go_on);
            if interrupt.has_come() || (stood_still >= patience && !can_go_on) {
                // It also stands still, until the next question, when it has answered just now.
                let told = self.conversation.until(Instant::now(), interrupt);
                if told.is_none() {
                    // Whoever was frozen itself has not waited.
                    wait_was_in_vain(stood_still.min(patience));
                }
                break told;
            }
            wait = patience.saturating_sub(stood_still).max(MOMENT);
        };
        let Some((answer, stood_still)) = told else {
            // Before the end of the pipe tells the thread to end.
            LEFT.fetch_add(1, Ordering::Relaxed);
            EVER_LEFT.fetch_add(1, Ordering::Relaxed);
            self.is_left.store(true, Ordering::Relaxed);
            return None;
        };
        if !stood_still.is_zero() {
            wait_was_in_vain(stood_still.min(patience));
        }
        Some((self, answer))
    }

    fn put(&self, question: Q) -> Option<()> {
        *self.question.lock().ok()? = Some(question);
        (&self.wake).write_all(&[0]).ok()
    }
}

impl<Q, A> Worker<Q, A> {
    /// Ends the thread, which has nothing to do.
    fn end(self) {
        drop(self.wake);
        let _ = self.conversation.thread.join();
    }
}

/// For how long the calling thread has been on a processor.
pub(crate) fn on_a_processor() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// How often the calling thread has given its processor away to wait for something (getrusage(2)); `None` where the kernel
/// does not tell.
fn waits() -> Option<i64> {
    getrusage(UsageWho::RUSAGE_THREAD).ok().map(|usage| usage.voluntary_context_switches())
}

/// What the calling thread has waited of the time for which it was neither on a processor nor waiting for one: none where it
/// had waited as often before, as then a hypervisor has run another machine, nor where it is traced; else all.
fn waited_of(not_busy: Duration, waits_before: Option<i64>) -> Duration {
    let has_waited = || waits().is_none_or(|waits| waits_before != Some(waits));
    if not_busy >= MOMENT && has_waited() && !is_traced() { not_busy } else { Duration::ZERO }
}

/// Whether somebody looks at what this process does: strace(1) stops it twice a system call.
fn is_traced() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

/// What the kernel says of one of our threads.
struct Task {
    id: i32,
    /// Where that can be read.
    schedstat: Option<File>,
}

impl Task {
    /// Of the calling thread.
    fn own() -> Self {
        Self { id: nix::unistd::gettid().as_raw(), schedstat: File::open("/proc/thread-self/schedstat").ok() }
    }

    /// On a processor, and waiting for one. Of a thread that runs it can be as old as the last tick of the clock. Nothing where
    /// the kernel does not count it (`CONFIG_SCHED_INFO`).
    fn busy(&self) -> Duration {
        let (on_a_processor, waited) = self.schedstat();
        on_a_processor + waited
    }

    /// The same of the calling thread, to the nanosecond.
    fn busy_by_its_own_clock(&self) -> Duration {
        on_a_processor() + self.schedstat().1
    }

    /// The first two numbers of `/proc/PID/task/TID/schedstat` (Linux `Documentation/scheduler/sched-stats.rst`).
    fn schedstat(&self) -> (Duration, Duration) {
        let mut text = [0; 64];
        let length = self.schedstat.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        let mut numbers = text.split(' ').map(|number| Duration::from_nanos(number.parse().unwrap_or(0)));
        (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
    }

    /// Whether it runs, or would if there were a processor for it, or its tracer let it: its state, `proc_pid_stat(5)`.
    fn can_go_on(&self) -> bool {
        let stat = std::fs::read(format!("/proc/self/task/{}/stat", self.id)).unwrap_or_default();
        let state = stat.rsplit(|&byte| byte == b')').next().and_then(|rest| rest.get(1));
        matches!(state, Some(b'R' | b't'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixture::{assert_holds_in_a_process_of_its_own, is_alone, trace_of_itself};

    fn spin(lasts: &Duration) {
        let began = Instant::now();
        while began.elapsed() < *lasts {
            std::hint::spin_loop();
        }
    }

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
        let before = on_a_processor();
        assert!(listener.until(Instant::now() + Duration::from_millis(300), &deaf).is_none());
        assert!(on_a_processor().saturating_sub(before) < Duration::from_millis(50));

        let other = std::thread::spawn(move || drop(teller));
        assert!(listener.until(soon(), &deaf).is_none());
        other.join().unwrap();
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    /// In a process of its own, as the mask is its first thread's.
    #[test]
    fn whoever_is_to_end_waits_for_nothing_more() {
        if !is_alone() {
            return;
        }
        assert_holds_in_a_process_of_its_own(|| {
            let interrupt = Interrupt::listen();
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
            let (_teller, listener) = channel::<()>().unwrap();
            let began = Instant::now();
            let heard = listener.until(began + Duration::from_secs(30), &interrupt);
            assert!(heard.is_none() && began.elapsed() < Duration::from_secs(10));
        });
    }

    /// Alone, as what is lost is lost for the whole process.
    #[test]
    fn workers_that_stand_still_again_and_again_take_a_second_together_and_those_that_work_take_none() {
        if !is_alone() {
            return;
        }
        let spawn = || Worker::spawn(|lasts: &Duration| thread::sleep(*lasts)).unwrap();
        let busy = Worker::spawn(spin);
        let deaf = Interrupt::default();
        let (busy, ()) = busy.unwrap().ask(Duration::from_millis(600), Duration::from_secs(20), &deaf).unwrap();
        busy.end();
        let (mut worker, mut answered, began) = (spawn(), 0, Instant::now());
        while let Some(patience) = patience(PATIENCE, Duration::ZERO) {
            worker = match worker.ask(Duration::from_millis(100), patience, &deaf) {
                Some((worker, ())) => {
                    answered += 1;
                    worker
                }
                None => spawn(),
            };
        }
        let took = began.elapsed();
        assert!((4..=9).contains(&answered) && took > PATIENCE / 2 && took < PATIENCE * 3, "{answered}, {took:?}");
    }

    #[test]
    fn a_worker_answers_each_question_and_is_given_up_when_it_is_late() {
        static GO_ON: AtomicBool = AtomicBool::new(false);
        if !is_alone() {
            return;
        }
        let (long, deaf) = (Duration::from_secs(20), Interrupt::default());
        let worker = Worker::spawn(|number: &u64| {
            thread::sleep(Duration::from_millis(*number));
            (number + 1, thread::current().id())
        });
        let (worker, (one, first)) = worker.unwrap().ask(1, long, &deaf).unwrap();
        let (worker, (two, second)) = worker.ask(2, long, &deaf).unwrap();
        assert_eq!((one, two, first), (2, 3, second), "by the same thread");
        let began = Instant::now();
        assert!(worker.ask(20_000, Duration::from_millis(50), &deaf).is_none());
        assert!(began.elapsed() < Duration::from_secs(10));
        let worker = Worker::spawn(|(): &()| {
            while !GO_ON.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert!(worker.unwrap().ask((), Duration::from_millis(50), &deaf).is_none());
        assert_eq!(LEFT.load(Ordering::Relaxed), 2);
        // That one answers after all.
        GO_ON.store(true, Ordering::Relaxed);
        while LEFT.load(Ordering::Relaxed) > 1 {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        }
    }

    /// Alone, as above.
    #[test]
    fn a_moment_is_left_for_some_when_all_is_lost_and_in_the_end_for_nobody_until_something_else_was_waited_for() {
        if !is_alone() {
            return;
        }
        let left = || (patience(MORE_PATIENCE, Duration::ZERO), some_patience(MORE_PATIENCE));
        assert_eq!(left(), (Some(MORE_PATIENCE / 2), Some(MORE_PATIENCE / 2)));
        wait_was_in_vain(MORE_PATIENCE);
        assert_eq!(left(), (None, Some(MOMENT * 25)));
        wait_was_in_vain(MOMENTS.saturating_sub(MOMENT * 2));
        assert_eq!(left(), (None, Some(MOMENT * 25)));
        wait_was_in_vain(MOMENT);
        assert_eq!(left(), (None, None));
        nothing_was_lost();
        assert_eq!(left(), (Some(MORE_PATIENCE / 2), Some(MORE_PATIENCE / 2)));
    }

    /// Alone, as it counts for the whole process.
    #[test]
    fn after_so_many_that_were_late_nothing_more_is_asked_though_each_has_answered_since() {
        if !is_alone() {
            return;
        }
        let (mut workers, deaf) = (Workers::new(|lasts: &Duration| thread::sleep(*lasts)), Interrupt::default());
        let mut ask = |lasts| workers.ask(lasts, MOMENT, &deaf);
        for _ in 1..MOST_LEFT {
            assert!(matches!(ask(Duration::from_millis(50)), Err(Unanswered::Late)));
        }
        let began = Instant::now();
        while has_left_any() {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        }
        assert!(ask(Duration::ZERO).is_ok());
        assert!(matches!(ask(Duration::from_millis(50)), Err(Unanswered::Late)));
        assert!(matches!(ask(Duration::ZERO), Err(Unanswered::WouldHang)));
    }

    #[test]
    fn a_worker_that_has_no_processor_or_uses_one_is_not_late() {
        let busy = Worker::spawn(spin);
        let (lasts, patience) = (Duration::from_millis(500), Duration::from_millis(20));
        assert!(busy.unwrap().ask(lasts, patience, &Interrupt::default()).is_some());
    }

    /// The time itself is made up: no machine can be made to lose some here.
    #[test]
    fn what_a_thread_loses_without_having_waited_for_anything_is_not_counted() {
        let (lost, before) = (Duration::from_millis(30), waits());
        assert_eq!(waited_of(lost, waits()), Duration::ZERO);
        thread::sleep(Duration::from_millis(1));
        assert_eq!(waited_of(lost, before), lost);
        assert_eq!(waited_of(MOMENT / 2, before), Duration::ZERO);
        assert_eq!(waited_of(lost, None), lost, "it is not known");
    }

    #[test]
    fn a_worker_that_is_traced_is_not_late() {
        const CALLS: usize = 10_000;
        if let Some(trace) = trace_of_itself() {
            assert!(trace.matches("getppid(").count() >= CALLS);
            return;
        }
        let worker = Worker::spawn(|(): &()| {
            for _ in 0..CALLS {
                nix::unistd::getppid();
            }
        });
        let patience = Duration::from_millis(20);
        let (worker, ()) = worker.unwrap().ask((), patience, &Interrupt::default()).expect("late");
        worker.end();
        assert_eq!(LOST.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_worker_that_is_ended_has_no_thread_any_more() {
        static ENDED: AtomicU64 = AtomicU64::new(0);
        struct Last;
        impl Drop for Last {
            fn drop(&mut self) {
                ENDED.fetch_add(1, Ordering::SeqCst);
            }
        }
        std::thread_local! { static LAST: Last = const { Last } }
        let worker = Worker::spawn(|(): &()| LAST.with(|_| ())).unwrap();
        let (worker, ()) = worker.ask((), Duration::from_secs(20), &Interrupt::default()).unwrap();
        assert_eq!(ENDED.load(Ordering::SeqCst), 0);
        worker.end();
        assert_eq!(ENDED.load(Ordering::SeqCst), 1);
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
