//! Single processes once more, before they are signalled: what is read of them, and what they have open, each in time.

use std::path::Path;

use super::holders::{Aside, Open, SoFar};
use super::proc::{self, Facts, ProcError};
use crate::interrupt::Interrupt;
use crate::model::{Inode, Pid};

/// Looks at one after the other. Who is late is not looked at any more, here or in a later look, as long as somebody hangs.
pub struct Again<'a> {
    proc: &'a Path,
    interrupt: &'a Interrupt,
    so_far: &'a SoFar,
    reader: proc::Reader<'a>,
    files: Option<Aside<'a>>,
}

impl<'a> Again<'a> {
    /// `proc`: the mount of procfs; `so_far`: who was late, and who is from now on.
    #[must_use]
    pub fn new(proc: &'a Path, interrupt: &'a Interrupt, so_far: &'a SoFar) -> Self {
        Self { proc, interrupt, so_far, reader: proc::Reader::new(interrupt), files: None }
    }

    /// See [`proc::process`]. `memory`: whether what is in its memory is wanted as well; without, it is unreadable.
    ///
    /// # Errors
    /// As that.
    pub fn facts(&mut self, pid: Pid, memory: bool) -> Result<Option<Facts>, ProcError> {
        if self.so_far.late.borrow().contains(&pid) {
            return Err(ProcError::Late);
        }
        let facts = self.reader.once_more(self.proc, pid, memory);
        if matches!(facts, Err(ProcError::Late)) {
            self.so_far.late.borrow_mut().push(pid);
        }
        facts
    }

    /// Which of these sockets it has open, in any of its threads.
    pub fn open(&mut self, pid: Pid, inodes: &[Inode]) -> Open {
        if self.files.is_none() {
            self.files = proc::open_dir(self.proc).ok().map(|proc| Aside::new(proc, self.interrupt, self.so_far));
        }
        self.files.as_mut().map_or(Open::HIDDEN, |files| files.open(pid, inodes))
    }
}
