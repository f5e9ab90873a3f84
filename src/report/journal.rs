//! Where the lines go: the journal's socket, else standard error. Nothing here may hold up a start: what cannot be
//! written at once is dropped.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use log::kv::{Key, Source, Value, VisitSource};
use log::{Level, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use super::Entry;
use crate::model::UnitName;

/// How long a line may wait for a journal that is busy.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Where the journal listens, `sd_journal_send(3)`.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Where the lines go.
pub(super) enum Sink {
    /// Standard error is the journal's, and so we may send fields.
    Journal {
        /// The library's client.
        log: Box<JournalLog>,
        /// Connected to the same socket, to see whether a send would block: the library's would, for ever.
        gauge: UnixDatagram,
        /// It did not take a line in time: do not wait for it again.
        stuck: std::cell::Cell<bool>,
    },
    /// Standard error is the journal's, and only plain lines can be sent, with their priority in front.
    Stream,
    /// A terminal, a pipe or a file.
    Plain,
}

impl Sink {
    /// Finds out where the lines go.
    ///
    /// journald attributes a message to a unit by the sender's cgroup, which it cannot read any more when
    /// portguard is gone before journald has looked. `OBJECT_SYSTEMD_UNIT=` is what `journalctl -u` takes instead,
    /// and only from uid 0 (systemd v257 `src/shared/logs-show.c`, `add_matches_for_unit()`); anybody else's lines
    /// go through the stream, which knows its unit since it was opened.
    pub(super) fn open(unit: &UnitName, user: bool, within: bool) -> Self {
        let is_stream = connected_to_journal();
        if !is_stream && !within {
            return Self::Plain;
        }
        let otherwise = if is_stream { Self::Stream } else { Self::Plain };
        if !rustix::process::geteuid().is_root() {
            return otherwise;
        }
        match Self::connect() {
            Some((log, gauge)) => {
                let object = if user { "OBJECT_SYSTEMD_USER_UNIT" } else { "OBJECT_SYSTEMD_UNIT" };
                let mut log = log.with_syslog_identifier("portguard".to_owned()).add_extra_field(object, unit.as_str());
                if let Ok(id) = std::env::var("INVOCATION_ID") {
                    log = log.add_extra_field("OBJECT_SYSTEMD_INVOCATION_ID", id);
                }
                Self::Journal { log: Box::new(log), gauge, stuck: false.into() }
            }
            None => otherwise,
        }
    }

    fn connect() -> Option<(JournalLog, UnixDatagram)> {
        let gauge = UnixDatagram::unbound().ok()?;
        gauge.connect(SOCKET).ok()?;
        // The library's constructor sends an empty message, and that blocks as well.
        if !writable(&gauge) {
            return None;
        }
        Some((JournalLog::empty().ok()?, gauge))
    }

    pub(super) fn send(&self, entry: &Entry) {
        match self {
            Self::Journal { log, gauge, stuck } => {
                if !stuck.get() && writable(gauge) && to_journal(log, entry).is_ok() {
                    return;
                }
                stuck.set(true);
                to_stream(entry);
            }
            Self::Stream => to_stream(entry),
            Self::Plain => to_stderr(&format!("portguard: {}\n", entry.message)),
        }
    }
}

/// unix(7): a connected datagram socket is writable while its peer's queue has room.
fn writable(socket: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&PATIENCE)), Ok(1..)) && fds[0].revents().contains(PollFlags::OUT)
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

/// A line with its priority in front, sd-daemon(3); the same numbers as the library gives to levels.
fn to_stream(entry: &Entry) {
    let priority = match entry.level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 5,
        Level::Debug => 6,
        Level::Trace => 7,
    };
    to_stderr(&format!("<{priority}>{}\n", entry.message));
}

fn to_stderr(line: &str) {
    let stderr = std::io::stderr();
    if writable(&stderr) {
        // There is nobody left to tell.
        let _ = stderr.lock().write_all(line.as_bytes());
    }
}
