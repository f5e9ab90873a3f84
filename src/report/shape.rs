//! The nouns of the JSON: sockets, processes and units as `packaging/portguard.schema.json` has them. Times are in
//! microseconds since 1970, as the journal's.

use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::document::{Document, Page};
use crate::model::{Finding, Owner, Process, Protocol, Socket as Seen, SocketState, StartTime};
use crate::observe::units::Properties;
use crate::observe::users::user_name;

/// A socket.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The local address, as text.
    pub address: String,
    /// The local port.
    pub port: u16,
    /// The other end: `192.0.2.1:5000`, `[2001:db8::1]:5000`.
    pub peer: Option<String>,
    /// `listening`, `bound`, `unconnected`, `connected`, `time-wait`.
    pub state: &'static str,
    /// The connections that nobody has accepted yet.
    pub waiting: Option<u32>,
    /// How many of those there may be.
    pub backlog: Option<u32>,
    /// It takes IPv6 alone.
    pub v6only: bool,
    /// The network device to which it is bound.
    pub device: Option<String>,
    /// Its inode number; 0 where no process can have it.
    pub inode: u64,
    /// Who made it.
    pub uid: u32,
    /// The same by name.
    pub user: String,
    /// The unit in whose cgroup it was made.
    pub made_by: Option<String>,
}

impl Socket {
    /// `etc` is the folder of passwd.
    #[must_use]
    pub fn of(socket: &Seen, birthplace: Option<&Owner>, etc: &Path) -> Self {
        Self {
            protocol: match socket.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            },
            address: socket.local.ip().to_string(),
            port: socket.local.port(),
            peer: socket.peer.map(|peer| peer.to_string()),
            state: match socket.state {
                SocketState::Listen => "listening",
                SocketState::Bound => "bound",
                SocketState::Unconnected => "unconnected",
                SocketState::Connected => "connected",
                SocketState::TimeWait => "time-wait",
            },
            waiting: socket.backlog.map(|backlog| backlog.waiting),
            backlog: socket.backlog.map(|backlog| backlog.limit),
            v6only: socket.v6only,
            device: socket.device.clone(),
            inode: socket.inode.0,
            uid: socket.uid,
            user: user_name(etc, socket.uid),
            made_by: birthplace.and_then(Owner::unit_name),
        }
    }

    /// `127.0.0.1:80`, `[::]:80`.
    #[must_use]
    pub fn name(&self) -> String {
        let Self { address, port, .. } = self;
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    }
}

/// A process.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: i32,
    /// Its name, which it can choose.
    pub name: String,
    /// Its executable file.
    pub exe: Option<String>,
    /// Its arguments, with the first.
    pub argv: Vec<String>,
    /// Its user.
    pub uid: u32,
    /// The same by name.
    pub user: String,
    /// When it began.
    pub started: u64,
    /// Its controlling terminal.
    pub terminal: Option<String>,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// The unit, system or user, to which it belongs.
    pub unit: Option<String>,
    /// The user in whose manager that unit is; none: the system's.
    pub unit_uid: Option<u32>,
    /// Its login session.
    pub session: Option<String>,
    /// The container of which it is part, or for which it has the socket.
    pub container: Option<Container>,
    /// Its file descriptors of the socket, in order; none where nobody looked, or could.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<i32>,
}

/// A container or virtual machine.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Container {
    /// `docker`, `podman`, `nerdctl`, `cri`, `machine`, `lxc`.
    pub engine: String,
    /// Its name or id, where that could be had.
    pub name: Option<String>,
}

impl Holder {
    /// `etc` is the folder of passwd.
    #[must_use]
    pub fn of(process: &Process, etc: &Path) -> Self {
        Self {
            pid: process.pid.0,
            name: process.comm.clone(),
            exe: process.exe.as_ref().map(|exe| exe.to_string_lossy().into_owned()),
            argv: process.argv.clone(),
            uid: process.uid,
            user: user_name(etc, process.uid),
            started: micros(began(process.start)),
            terminal: process.terminal.map(|terminal| terminal.to_string()),
            cgroup: process.cgroup.as_ref().map(|cgroup| cgroup.0.clone()),
            unit: process.owner.unit_name(),
            unit_uid: process.owner.uid(),
            session: match &process.owner {
                Owner::Session(session) => Some(session.id.clone()),
                Owner::Unit(_) | Owner::UserUnit { .. } | Owner::Init | Owner::Nobody | Owner::Unknown => None,
            },
            container: process
                .container
                .as_ref()
                .map(|container| Container { engine: container.engine.to_string(), name: container.name.clone() }),
            fds: Vec::new(),
        }
    }

    /// Its arguments, or its name where it has none.
    #[must_use]
    pub fn command(&self) -> String {
        // A program that writes its state over them leaves blanks.
        if self.argv.is_empty() { self.name.clone() } else { self.argv.join(" ").trim_end().to_owned() }
    }
}

/// A unit, as its manager tells.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// `ActiveState`.
    pub state: Option<String>,
    /// `SubState`.
    pub substate: Option<String>,
    /// Since when it is in that state.
    pub since: Option<u64>,
    /// `InvocationID`.
    pub invocation: Option<String>,
}

impl Unit {
    /// The properties that [`Unit::of`] reads.
    pub const WANTED: [&str; 4] = ["ActiveState", "SubState", "StateChangeTimestampMonotonic", "InvocationID"];

    /// `shown` has [`Unit::WANTED`].
    #[must_use]
    pub fn of(name: &str, shown: &Properties) -> Self {
        let text = |key| shown.get(key).map(str::to_owned);
        let since = shown.ago("StateChangeTimestampMonotonic");
        Self {
            name: name.to_owned(),
            state: text("ActiveState"),
            substate: text("SubState"),
            since: since.map(|ago| micros(now(ClockId::Realtime).saturating_sub(ago))),
            invocation: text("InvocationID"),
        }
    }
}

/// What the guard makes of a holder.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Judgement {
    /// How the holder stands to the unit: a word of portguard(8), "WHO HAS THE PORT".
    pub relation: &'static str,
    /// `pass`, `stop`, `stop-unit`, `wait`, `refuse`, `spare`.
    pub action: String,
    /// Why it is not stopped, where the policy would have it so.
    pub obstacle: Option<String>,
}

impl Judgement {
    /// Of a finding.
    #[must_use]
    pub fn of(finding: &Finding) -> Self {
        Self {
            relation: finding.relation.word(),
            action: finding.action.to_string(),
            obstacle: finding.obstacle.as_ref().map(ToString::to_string),
        }
    }
}

/// How a run of the guard ended.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Run {
    /// The guarded unit.
    pub unit: String,
    /// What it binds.
    pub endpoints: Vec<String>,
    /// A word of portguard(8), "JOURNAL FIELDS": `free`, `refused`.
    pub verdict: &'static str,
    /// The exit status.
    pub exit_status: u8,
    /// The last line of its journal.
    pub message: String,
    /// The holders that were found in the last look, the first of them.
    pub findings: Vec<Found>,
}

/// One holder of one endpoint.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Found {
    /// The endpoint.
    pub endpoint: String,
    /// The socket, where one was seen.
    pub socket: Option<Socket>,
    /// The process, where one was seen.
    pub holder: Option<Holder>,
    /// The unit to which it belongs, or for which a service manager has the socket.
    pub unit: Option<String>,
    /// What the guard makes of it.
    pub judgement: Judgement,
    /// What to type next.
    pub next: Option<String>,
}

impl Document for Run {
    const KIND: &'static str = "guard";

    /// The guard's sentences are in the journal.
    fn print(&self, page: &mut Page) {
        page.words("", &self.message, None);
    }
}

/// How long ago that was.
#[must_use]
pub fn since(micros: u64) -> Duration {
    now(ClockId::Realtime).saturating_sub(Duration::from_micros(micros))
}

/// Since 1970.
fn began(start: StartTime) -> Duration {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let began = Duration::from_secs(start.0 / ticks) + Duration::from_millis(start.0 % ticks * 1000 / ticks);
    now(ClockId::Realtime).saturating_sub(now(ClockId::Boottime).saturating_sub(began))
}

fn now(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
