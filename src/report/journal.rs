//! Where the lines go: the journal's socket, else standard error. Nothing here may hold up a start: what cannot be
//! written within a moment is dropped, and nothing is tried there again.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use log::kv::{Key, Source, Value, VisitSource};
use log::{Level, Record};
use nix::sys::socket::{SockaddrStorage, UnixAddr, getsockname};
use rustix::fs::{FileType, FsWord, Mode, fstat, fstatfs};
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
    /// Whether a socket that portguard got as a standard stream can be a client's.
    has_clients: bool,
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
        // Whatever unit it is asked about (systemd.exec(5)).
        let is_of_a_unit = std::env::var_os("INVOCATION_ID").or_else(|| std::env::var_os("REMOTE_ADDR")).is_some();
        let has_clients = within || is_of_a_unit;
        let stderr = OnceCell::new();
        let look = || *stderr.get_or_init(|| Stderr::look(has_clients));
        // Where standard error is a client's, its own cgroup has to tell whose words they are, as long as journald can read that.
        let wanted =
            if sys::is_root() { within || look() != Stderr::Plain } else { has_clients && look() == Stderr::Clients };
        let field = if user { "OBJECT_SYSTEMD_USER_UNIT" } else { "OBJECT_SYSTEMD_UNIT" };
        let addressee = wanted.then(|| Addressee { field, unit: unit.clone(), invocation });
        let (journal, journal_stuck, stderr_stuck) = (OnceCell::new(), Cell::new(false), Cell::new(false));
        Self { addressee, has_clients, journal, journal_stuck, stderr, stderr_stuck }
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
        *self.stderr.get_or_init(|| Stderr::look(self.has_clients))
    }

    /// See [`is_a_clients`].
    pub(super) fn is_a_clients(&self, file: BorrowedFd<'_>) -> bool {
        self.has_clients && is_a_clients(file)
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
    /// What the environment says is asked last, and of the library only where it says something.
    fn look(has_clients: bool) -> Self {
        if has_clients && is_a_clients(rustix::stdio::stderr()) {
            Self::Clients
        } else if std::env::var_os("JOURNAL_STREAM").is_some() && connected_to_journal() {
            Self::Stream
        } else {
            Self::Plain
        }
    }
}

/// Whether this is a socket of the network, or one that has a name: a connection that somebody has made to a unit, or what its
/// clients connect to (`StandardOutput=socket`, systemd.exec(5)). A stream to the journal has none, nor have the two ends of a
/// socketpair(2). Or a FIFO with a name (`ListenFIFO=`, systemd.socket(5)) from which somebody else may read.
fn is_a_clients(file: BorrowedFd<'_>) -> bool {
    let has_a_name = |unix: &UnixAddr| unix.path().is_some() || unix.as_abstract().is_some();
    match getsockname::<SockaddrStorage>(file.as_raw_fd()) {
        Ok(name) => name.as_unix_addr().is_none_or(has_a_name),
        Err(_) => is_fifo_of_others(file),
    }
}

/// Pipes are of a file system of their own, and have no name. What cannot be told is a FIFO of others.
fn is_fifo_of_others(file: BorrowedFd<'_>) -> bool {
    let Ok(status) = fstat(file) else { return true };
    let of_others = || {
        let may_read = Mode::from_raw_mode(status.st_mode).intersects(Mode::RGRP | Mode::ROTH);
        may_read || Some(status.st_uid) != sys::euid()
    };
    FileType::from_raw_mode(status.st_mode).is_fifo()
        && of_others()
        && !fstatfs(file).is_ok_and(|system| system.f_type == PIPEFS)
}

/// `PIPEFS_MAGIC`, Linux `include/uapi/linux/magic.h`.
const PIPEFS: FsWord = 0x5049_5045;

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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn who_has_connected_to_a_socket_is_a_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (file, pair) = (std::fs::File::open("/dev/null").unwrap(), UnixStream::pair().unwrap().0);
        let listener = UnixListener::bind(&path).unwrap();
        let connecting = UnixStream::connect(&path).unwrap();
        let connected = listener.accept().unwrap().0;
        let name = SocketAddr::from_abstract_name(format!("portguard-test-{}", std::process::id())).unwrap();
        let hidden = UnixListener::bind_addr(&name).unwrap();
        let network = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(network.local_addr().unwrap()).unwrap();
        let of = |file: BorrowedFd<'_>| is_a_clients(file);
        // The journal's stream is one of those that connect.
        assert_eq!([file.as_fd(), pair.as_fd(), connecting.as_fd()].map(of), [false; 3]);
        let theirs = [listener.as_fd(), connected.as_fd(), hidden.as_fd(), network.as_fd(), client.as_fd()];
        assert_eq!(theirs.map(of), [true; 5]);
    }

    #[test]
    fn who_may_read_a_fifo_is_a_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let fifo = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        for (mode, is_theirs) in [(0o600, false), (0o622, false), (0o640, true), (0o604, true), (0o666, true)] {
            rustix::fs::fchmod(&fifo, Mode::from_raw_mode(mode)).unwrap();
            assert_eq!(is_a_clients(fifo.as_fd()), is_theirs, "{mode:o}");
        }
        rustix::fs::fchmod(&fifo, Mode::RUSR).unwrap();
        rustix::fs::fchown(&fifo, Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
        assert!(is_a_clients(fifo.as_fd()));
        let file = std::fs::File::create(folder.path().join("file")).unwrap();
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o666)).unwrap();
        assert!(!is_a_clients(file.as_fd()));
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fchmod(&writer, Mode::from_raw_mode(0o666)).unwrap();
        assert!(!is_a_clients(reader.as_fd()) && !is_a_clients(writer.as_fd()));
    }
}
