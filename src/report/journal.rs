//! Where the lines go: the journal's socket, else standard error. Nothing here may hold up a start: what cannot be
//! written within a moment is dropped, and nothing is tried there again.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use log::kv::{Key, Source, Value, VisitSource};
use log::{Level, Record};
use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};
use rustix::fs::{FileType, Stat, fstat};
use rustix::io::write;
use systemd_journal_logger::{JournalLog, connected_to_journal};

use super::Entry;
use crate::model::{InvocationId, UnitName};
use crate::sys;

/// How long a write may take: the library's blocks for as long as journald does not read, and so does a full pipe.
const PATIENCE: Duration = Duration::from_millis(100);

/// The longest line for a pipe, which takes that much as a whole or not at all (`PIPE_BUF`, pipe(7)).
const MAX_LINE: usize = 4096;

/// A place to write to, until it was found stuck.
pub(super) struct Sink {
    /// Who is spoken to over the journal's own socket, where root can send fields to it, or standard error is a client's.
    addressee: Option<Addressee>,
    /// Whether portguard is part of the unit's start.
    within: bool,
    /// The socket, once there was something to say; `None` where it could not be had.
    journal: OnceCell<Option<JournalLog>>,
    journal_stuck: Cell<bool>,
    stderr: OnceCell<Stderr>,
    stderr_stuck: Cell<bool>,
}

/// Whose entries they are.
struct Addressee {
    field: &'static str,
    unit: UnitName,
    invocation: Option<InvocationId>,
}

/// How a line looks on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stderr {
    /// It is a stream to the journal, which takes a priority in front of each line, sd-daemon(3).
    Stream,
    /// A terminal, a pipe or a file.
    Plain,
    /// It is a client's ([`is_a_clients`]), and nothing is written there.
    Clients,
}

impl Sink {
    /// Finds out where the lines go. `within`: portguard is part of the unit's start, so that the journal is where an
    /// operator looks, wherever the unit's standard error goes. `invocation`: of which run, which the unit's own
    /// environment has no say in.
    ///
    /// journald attributes a message to a unit by the sender's cgroup, which it cannot read any more when
    /// portguard is gone before journald has looked. `OBJECT_SYSTEMD_UNIT=` is what `journalctl -u` takes instead,
    /// and only from uid 0 (systemd v257 `src/shared/logs-show.c`, `add_matches_for_unit()`); anybody else's lines
    /// go through the stream, which knows its unit since it was opened.
    pub(super) fn open(unit: &UnitName, user: bool, within: bool, invocation: Option<InvocationId>) -> Self {
        let stderr = OnceCell::new();
        let look = || *stderr.get_or_init(|| Stderr::look(within));
        // Where standard error is a client's, its own cgroup has to tell whose words they are, as long as journald can read that.
        let wanted =
            if sys::is_root() { within || look() == Stderr::Stream } else { within && look() == Stderr::Clients };
        let field = if user { "OBJECT_SYSTEMD_USER_UNIT" } else { "OBJECT_SYSTEMD_UNIT" };
        let addressee = wanted.then(|| Addressee { field, unit: unit.clone(), invocation });
        let (journal, journal_stuck, stderr_stuck) = (OnceCell::new(), Cell::new(false), Cell::new(false));
        Self { addressee, within, journal, journal_stuck, stderr, stderr_stuck }
    }

    pub(super) fn send(&self, entry: &Entry) {
        self.send_last(entry);
        sys::disarm_alarm();
    }

    /// Sends the last words: the process ends with them, and the alarm with the process.
    pub(super) fn send_last(&self, entry: &Entry) {
        if let Some(addressee) = self.addressee.as_ref().filter(|_| !self.journal_stuck.get()) {
            sys::arm_alarm(PATIENCE);
            // The library says hello with an empty message, and that blocks as well.
            let journal = self.journal.get_or_init(|| addressee.connect().ok());
            if journal.as_ref().is_some_and(|journal| to_journal(journal, entry).is_ok()) {
                return;
            }
            self.journal_stuck.set(true);
        }
        if !self.stderr_stuck.get() && self.stderr() != Stderr::Clients {
            let line = self.line(entry);
            sys::arm_alarm(PATIENCE);
            let written = write(rustix::stdio::stderr(), line.as_bytes());
            self.stderr_stuck.set(written.is_err());
        }
    }

    fn stderr(&self) -> Stderr {
        *self.stderr.get_or_init(|| Stderr::look(self.within))
    }

    /// See [`is_a_clients`].
    pub(super) fn is_a_clients(&self, file: BorrowedFd<'_>) -> bool {
        self.within && is_a_clients(file)
    }

    /// The priorities are the numbers that the library gives to the same levels.
    fn line(&self, entry: &Entry) -> String {
        let priority = match entry.level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 5,
            Level::Debug => 6,
            Level::Trace => 7,
        };
        let mut line = match self.stderr() {
            Stderr::Stream => format!("<{priority}>{}", entry.message),
            Stderr::Plain | Stderr::Clients => format!("portguard: {}", entry.message),
        };
        if line.len() >= MAX_LINE {
            line.truncate(line.floor_char_boundary(MAX_LINE - 4));
            line.push('…');
        }
        line + "\n"
    }
}

impl Stderr {
    /// The library looks at standard error first, and then whether systemd says that it is a stream.
    fn look(within: bool) -> Self {
        let is_stream = std::env::var_os("JOURNAL_STREAM").is_some() && connected_to_journal();
        match is_stream {
            true => Self::Stream,
            false if within && is_a_clients(rustix::stdio::stderr()) => Self::Clients,
            false => Self::Plain,
        }
    }
}

/// Whether this is the socket that the unit has as its standard input (`StandardInput=socket`, systemd.exec(5)), which its
/// standard output and error are as well where nothing else is said, or any of the network's: with `Accept=yes` a client is at its
/// other end.
fn is_a_clients(file: BorrowedFd<'_>) -> bool {
    let of = |file| fstat(file).ok().filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    let which = |stat: Stat| (stat.st_dev, stat.st_ino);
    let name = || getsockname::<SockaddrStorage>(file.as_raw_fd()).ok();
    let is_of_the_network = || name().is_some_and(|name| name.family() != Some(AddressFamily::Unix));
    of(file).is_some_and(|stat| is_of_the_network() || of(rustix::stdio::stdin()).map(which) == Some(which(stat)))
}

impl Addressee {
    fn connect(&self) -> std::io::Result<JournalLog> {
        let log = JournalLog::empty()?.with_syslog_identifier("portguard".to_owned());
        let log = log.add_extra_field(self.field, self.unit.as_str());
        Ok(match self.invocation {
            Some(id) => log.add_extra_field("OBJECT_SYSTEMD_INVOCATION_ID", id.to_string()),
            None => log,
        })
    }
}

struct Fields<'a>(&'a [(&'static str, String)]);

impl Source for Fields<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        self.0.iter().try_for_each(|(name, value)| visitor.visit_pair(Key::from_str(name), Value::from(value.as_str())))
    }
}

fn to_journal(log: &JournalLog, entry: &Entry) -> std::io::Result<()> {
    let fields = Fields(&entry.fields);
    log.journal_send(
        &Record::builder()
            .level(entry.level)
            .target("portguard")
            .args(format_args!("{}", entry.message))
            .key_values(&fields)
            .build(),
    )
}
