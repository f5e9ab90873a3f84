//! What keeps a process from acting upon a signal, as far as the kernel tells (proc(5), cgroups(7)).
//!
//! It is for people to read: nothing is decided by it, and what cannot be read is not said.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Place;
use crate::interrupt::Interrupt;
use crate::model::{Hindrance, Pid, Process};
use crate::word;

/// So long may it take to read where in the kernel a process sleeps.
const PATIENCE: Duration = Duration::from_millis(100);
/// And so long for all in a run: nothing is decided by it.
const ALL_PATIENCE: Duration = Duration::from_millis(500);

impl Place {
    /// What keeps a process from ending, this very moment; `None` where nothing is seen, or it is gone.
    #[must_use]
    pub fn hindrance(&self, process: &Process) -> Option<Hindrance> {
        let events = process.cgroup.as_ref().and_then(|path| self.directory(path)).map(|dir| dir.join("cgroup.events"));
        let frozen = events.is_some_and(|file| text(&file).lines().any(|line| line == "frozen 1"));
        self.told_of(process.pid, frozen)
    }

    /// The same of one of which no more is known, and so not whether it is frozen.
    #[must_use]
    pub fn hindrance_of(&self, pid: Pid) -> Option<Hindrance> {
        self.told_of(pid, false)
    }

    fn told_of(&self, pid: Pid, frozen: bool) -> Option<Hindrance> {
        let file = |pid: Pid, name: &str| text(&self.roots.proc.join(pid.to_string()).join(name));
        let name_of = |pid: Pid| file(pid, "comm").trim_end().to_owned();
        told(&file(pid, "status"), frozen, &|| self.wchan(pid).unwrap_or_default(), &name_of)
    }

    /// Whoever asks a process that is in the midst of execve(2) may wait for ever: see [`super::holders`].
    fn wchan(&self, pid: Pid) -> Option<String> {
        let patience = ALL_PATIENCE.checked_sub(self.waited_for_words.get())?.min(PATIENCE);
        let file = self.roots.proc.join(pid.to_string()).join("wchan");
        let began = Instant::now();
        let aside = word::spawn(move |teller| teller.tell(text(&file))).ok()?;
        let told = aside.answer(began + patience, &Interrupt::default());
        self.waited_for_words.set(self.waited_for_words.get() + began.elapsed());
        told
    }
}

fn text(file: &Path) -> String {
    // Names of others are in it, and these may be any bytes.
    std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn told(status: &str, frozen: bool, wchan: &dyn Fn() -> String, name_of: &dyn Fn(Pid) -> String) -> Option<Hindrance> {
    let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim());
    let tracer = field("TracerPid:").and_then(|pid| pid.parse().ok()).map(Pid).filter(|pid| pid.0 != 0);
    match (field("State:")?.bytes().next()?, tracer) {
        (b't', Some(by)) => Some(Hindrance::Traced { by, name: name_of(by) }),
        (b't' | b'T', _) => Some(Hindrance::Stopped),
        (b'Z' | b'X', _) => None,
        _ if frozen => Some(Hindrance::Frozen),
        // `0` where the kernel does not say.
        (b'D', _) => Some(Hindrance::InTheKernel { at: Some(wchan()).filter(|at| !matches!(at.as_str(), "" | "0")) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_process_from_ending_is_told_by_its_state() {
        let in_kernel = |at: &str| Some(Hindrance::InTheKernel { at: Some(at.to_owned()).filter(|at| !at.is_empty()) });
        let rows = [
            ("R (running)", 0, false, "0", None),
            ("S (sleeping)", 0, false, "0", None),
            // A debugger that lets it run.
            ("S (sleeping)", 7, false, "0", None),
            ("t (tracing stop)", 7, false, "0", Some(Hindrance::Traced { by: Pid(7), name: "gdb".to_owned() })),
            // A tracer outside of this pid namespace.
            ("t (tracing stop)", 0, false, "0", Some(Hindrance::Stopped)),
            ("T (stopped)", 0, false, "0", Some(Hindrance::Stopped)),
            ("S (sleeping)", 0, true, "do_freezer_trap", Some(Hindrance::Frozen)),
            ("D (disk sleep)", 0, false, "folio_wait_bit", in_kernel("folio_wait_bit")),
            ("D (disk sleep)", 0, false, "0", in_kernel("")),
            ("D (disk sleep)", 0, false, "", in_kernel("")),
            ("Z (zombie)", 0, true, "0", None),
        ];
        for (state, tracer, frozen, wchan, expected) in rows {
            let status = format!("Name:\tState: T\nState:\t{state}\nTgid:\t5\nPid:\t5\nTracerPid:\t{tracer}\n");
            assert_eq!(told(&status, frozen, &|| wchan.to_owned(), &|_| "gdb".to_owned()), expected, "{state}");
        }
        assert_eq!(told("", true, &String::new, &|_| String::new()), None);
    }
}
