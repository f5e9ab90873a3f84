//! What the service manager knows: the guarded unit, the units of the holders, the socket units.
//!
//! It asks over the bus first; where the bus is not there or hangs, `systemctl show`, which root's manager answers
//! on its private socket. Both have a deadline. It only asks: nothing here starts, stops or signals.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use zbus::{ObjectPath, OwnedObjectPath, OwnedVariant};

use crate::interrupt::Interrupt;
use crate::manager::{self, Scope, Systemctl};
use crate::model::{
    ActiveState, Inode, InvocationId, Pid, Protocol, Signal, SocketUnit, UnitFacts, UnitName, UnitState, UnitType,
};
use crate::timespan;

/// At most so many units are asked about, and followed from one to the next.
const MAX_UNITS: usize = 64;

/// What to ask, all at once.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which manager.
    pub scope: Scope,
    /// `/run`, or `$XDG_RUNTIME_DIR` in a user manager.
    pub run: PathBuf,
    /// The guarded unit.
    pub unit: UnitName,
    /// Whose are these?
    pub pids: Vec<Pid>,
    /// How are these? And those to which the processes belong.
    pub units: Vec<UnitName>,
    /// Whether it is wanted which units would be stopped with each.
    pub dependents: bool,
    /// The sockets of which it is wanted which socket unit listens with each; and how that is.
    pub listening: Vec<(Protocol, SocketAddr)>,
    /// Whether the guarded unit's file descriptor store is wanted.
    pub store: bool,
}

impl Question {
    /// The socket units that listen with the sockets of the question.
    fn listeners<'a>(&self, answer: &'a Answer) -> impl Iterator<Item = &'a UnitName> {
        let listens = |unit: &&SocketUnit| unit.listens.iter().any(|socket| self.listening.contains(socket));
        answer.socket_units.iter().filter(listens).map(|listening| &listening.unit)
    }
}

/// What the manager said.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The guarded unit.
    pub unit: UnitFacts,
    /// The unit of each process of which it knows one; slices are no answer.
    pub units: HashMap<Pid, UnitName>,
    /// The units of the question, and those of the processes, but for the guarded one.
    pub states: BTreeMap<UnitName, UnitState>,
    /// The socket units that listen.
    pub socket_units: Vec<SocketUnit>,
    /// The sockets in the guarded unit's file descriptor store, where the manager tells.
    pub stored: Option<Vec<Inode>>,
    /// It was not the bus that answered; why the bus did not.
    pub fallback: Option<String>,
}

/// Why the manager gave no answer.
#[derive(Debug)]
pub struct ManagerError {
    /// Why the bus did not.
    pub bus: String,
    systemctl: String,
}

impl fmt::Display for ManagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "D-Bus: {}; systemctl: {}", self.bus, self.systemctl)
    }
}

impl std::error::Error for ManagerError {}

/// Asks the manager, with `patience` for the bus and as much again for `systemctl`. `no_bus`: why the bus is not worth
/// another try.
///
/// # Errors
/// Neither of the two answered in time, or before something came to end us.
pub fn ask(
    question: &Question,
    patience: Duration,
    no_bus: Option<String>,
    interrupt: &Interrupt,
) -> Result<Answer, ManagerError> {
    let bus = match no_bus.map_or_else(|| ask_bus(question, patience, interrupt), Err) {
        Ok(answer) => return Ok(answer),
        Err(why) => why,
    };
    match ask_systemctl(question, patience, interrupt) {
        Ok(answer) => Ok(Answer { fallback: Some(bus), ..answer }),
        Err(systemctl) => Err(ManagerError { bus, systemctl }),
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;

    /// Since systemd 253.
    #[zbus(name = "GetUnitByPIDFD")]
    fn get_unit_by_pidfd(&self, pidfd: zbus::Fd<'_>) -> zbus::Result<(OwnedObjectPath, String, Vec<u8>)>;

    /// A row a unit, in the shape that org.freedesktop.systemd1(5) gives.
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<
        Vec<(String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath)>,
    >;

    /// Since systemd 254. A row a descriptor: its name, mode, device, inode number (the fifth) and so on.
    fn dump_unit_file_descriptor_store(
        &self,
        unit: &str,
    ) -> zbus::Result<Vec<(String, u32, u32, u32, u64, u32, u32, String, u32)>>;
}

#[zbus::proxy(interface = "org.freedesktop.DBus.Properties", default_service = "org.freedesktop.systemd1")]
trait AllProperties {
    /// Of one interface; those of all that the object has for an empty name, which zbus's own proxy does not take
    /// (`process_get_all()`, systemd v257 `src/libsystemd/sd-bus/bus-objects.c`).
    fn get_all(&self, interface: &str) -> zbus::Result<HashMap<String, OwnedVariant>>;
}

fn ask_bus(question: &Question, patience: Duration, interrupt: &Interrupt) -> Result<Answer, String> {
    let question = question.clone();
    let conversation = manager::in_thread(move |teller| async move {
        teller.tell(ask_everything(&question, patience).await.map_err(|error| error.to_string()));
    })?;
    let answer = conversation.answer(Instant::now() + patience, interrupt);
    answer.unwrap_or_else(|| Err(format!("no answer within {}", timespan::show(patience))))
}

async fn ask_everything(question: &Question, patience: Duration) -> zbus::Result<Answer> {
    let address = manager::bus_address(question.scope, &question.run);
    let bus = zbus::connection::Builder::address(address.as_str()).method_timeout(patience).build().await?;
    let manager = ManagerProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    // The largest answer by far: the others come while the manager writes it, and while it is read.
    let (all, units) = both(properties(&bus, &question.unit, ""), units_of(&manager, &question.pids)).await?;
    let mut answer = Answer { unit: facts(&all), units, ..Answer::default() };
    if !question.listening.is_empty() {
        answer.socket_units = socket_units(&bus, &manager).await?;
    }
    let about: BTreeSet<UnitName> =
        question.units.iter().chain(answer.units.values()).chain(question.listeners(&answer)).cloned().collect();
    let mut known = HashMap::new();
    for unit in about.into_iter().filter(|unit| *unit != question.unit).take(MAX_UNITS) {
        let state = unit_state(&bus, &unit, question.dependents, &mut known).await?;
        answer.states.insert(unit, state);
    }
    if question.store {
        answer.stored = stored(&manager, &question.unit).await?;
    }
    Ok(answer)
}

/// A unit's own row, and what is known of others in `known`, by name.
async fn unit_state(
    bus: &zbus::Connection,
    unit: &UnitName,
    dependents: bool,
    known: &mut HashMap<UnitName, Linked>,
) -> zbus::Result<UnitState> {
    let mut queue = vec![unit.clone()];
    let mut closure = Closure::of(unit);
    while let Some(next) = queue.pop() {
        let linked = match known.get(&next) {
            Some(linked) => linked.clone(),
            None => match properties(bus, &next, "org.freedesktop.systemd1.Unit").await {
                Ok(all) => known.entry(next.clone()).or_insert(Linked::of(&all)).clone(),
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            },
        };
        queue.extend(closure.add(next, linked));
        if !dependents {
            break;
        }
    }
    Ok(closure.state(dependents))
}

/// The sockets in a unit's file descriptor store, none where it has no store; `None` from a manager that does not tell
/// (before systemd 254), or from a bus that does not let us ask (whoever is not root).
async fn stored(manager: &ManagerProxy<'_>, unit: &UnitName) -> zbus::Result<Option<Vec<Inode>>> {
    match manager.dump_unit_file_descriptor_store(unit.as_str()).await {
        Ok(entries) => Ok(Some(entries.into_iter().map(|entry| Inode(entry.4)).collect())),
        Err(error) if is_not_to_be_had(&error) => Ok(None),
        Err(error) if is_gone(&error) => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    }
}

/// What a unit's stop has to do with others.
#[derive(Clone, Debug, Default)]
struct Linked {
    active: ActiveState,
    /// `CanStop`, which `RefuseManualStop=` takes away.
    can_stop: bool,
    /// The units to which its stop goes on.
    dependents: Vec<UnitName>,
}

/// To which units the stop of another goes on: systemd.unit(5), and the `UNIT_ATOM_PROPAGATE_STOP` of systemd v257
/// `src/core/unit-dependency-atom.c`. `PropagatesStopTo` is there since 249.
const DEPENDENTS: [&str; 5] = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"];

impl Linked {
    fn of(all: &impl Properties) -> Self {
        let can_stop = all.flag("CanStop").unwrap_or(false);
        Self { active: active(all), can_stop, dependents: DEPENDENTS.iter().flat_map(|key| all.units(key)).collect() }
    }
}

/// The units that a stop reaches, as it is followed from one to the next.
struct Closure {
    unit: UnitName,
    seen: BTreeSet<UnitName>,
    active: ActiveState,
    can_stop: bool,
    stops_too: Vec<UnitName>,
}

impl Closure {
    fn of(unit: &UnitName) -> Self {
        Self {
            unit: unit.clone(),
            seen: BTreeSet::from([unit.clone()]),
            active: ActiveState::Unknown,
            can_stop: false,
            stops_too: Vec::new(),
        }
    }

    /// Notes a unit; the ones to be looked at after it.
    fn add(&mut self, unit: UnitName, linked: Linked) -> Vec<UnitName> {
        if unit == self.unit {
            (self.active, self.can_stop) = (linked.active, linked.can_stop);
        } else if linked.active != ActiveState::Down {
            self.stops_too.push(unit);
        }
        let room = MAX_UNITS.saturating_sub(self.seen.len());
        linked.dependents.into_iter().filter(|next| self.seen.insert(next.clone())).take(room).collect()
    }

    fn state(mut self, dependents: bool) -> UnitState {
        self.stops_too.sort();
        let whole = dependents && self.seen.len() < MAX_UNITS;
        UnitState { active: self.active, can_stop: self.can_stop, stops_too: whole.then_some(self.stops_too) }
    }
}

async fn properties(
    bus: &zbus::Connection,
    unit: &UnitName,
    interface: &str,
) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let path = ObjectPath::try_from(object_path(unit))?;
    let no_cache = zbus::proxy::CacheProperties::No;
    let proxy = AllPropertiesProxy::builder(bus).path(path).cache_properties(no_cache).build().await?;
    proxy.get_all(interface).await
}

/// Waits for two at once, or for the first that fails.
async fn both<A, B, E>(
    one: impl Future<Output = Result<A, E>>,
    other: impl Future<Output = Result<B, E>>,
) -> Result<(A, B), E> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none()
            && let Poll::Ready(answer) = one.as_mut().poll(context)
        {
            first = Some(answer?);
        }
        if second.is_none()
            && let Poll::Ready(answer) = other.as_mut().poll(context)
        {
            second = Some(answer?);
        }
        match (first.take(), second.take()) {
            (Some(one), Some(other)) => Poll::Ready(Ok((one, other))),
            so_far => {
                (first, second) = so_far;
                Poll::Pending
            }
        }
    })
    .await
}

async fn units_of(manager: &ManagerProxy<'_>, pids: &[Pid]) -> zbus::Result<HashMap<Pid, UnitName>> {
    let (mut units, mut by_pidfd) = (HashMap::new(), true);
    for &pid in pids {
        if let Some(unit) = unit_of(manager, pid, &mut by_pidfd).await? {
            units.insert(pid, unit);
        }
    }
    Ok(units)
}

/// `by_pidfd`: whether the manager is asked that way, which it is until that turns out to be not to be had.
async fn unit_of(manager: &ManagerProxy<'_>, pid: Pid, by_pidfd: &mut bool) -> zbus::Result<Option<UnitName>> {
    let Some(raw) = rustix::process::Pid::from_raw(pid.0) else { return Ok(None) };
    // Pinned, so that the number cannot go to another process while the manager looks.
    let Ok(pin) = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) else { return Ok(None) };
    let mut reply = Ok(None);
    if *by_pidfd {
        reply = manager.get_unit_by_pidfd(pin.as_fd().into()).await.map(|(_, id, _)| id.parse().ok());
        *by_pidfd = !reply.as_ref().is_err_and(is_not_to_be_had);
    }
    if !*by_pidfd {
        reply = manager.get_unit_by_pid(pid.0.unsigned_abs()).await.map(|path| unit_from_path(path.as_str()));
    }
    match reply {
        Ok(unit) => Ok(unit.filter(|unit: &UnitName| unit.unit_type() != UnitType::Slice)),
        // "In no unit" is an answer, in systemd's own words; those of D-Bus itself mean that there was none.
        Err(zbus::Error::MethodError(..)) => Ok(None),
        // It has ended since.
        Err(zbus::Error::FDO(error)) if matches!(*error, zbus::fdo::Error::UnixProcessIdUnknown(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A method that the manager does not know, or that the bus does not pass on to it: for whoever is not root it has a list of
/// those that it does, which has a new one only where the manager has it (`org.freedesktop.systemd1.conf` of systemd).
///
/// zbus gives the errors that D-Bus itself defines as [`zbus::Error::FDO`], all others as `MethodError`.
fn is_not_to_be_had(error: &zbus::Error) -> bool {
    use zbus::fdo::Error;
    matches!(error, zbus::Error::FDO(error) if matches!(**error, Error::UnknownMethod(_) | Error::AccessDenied(_)))
}

/// The unit was there when it was listed, and is not now.
fn is_gone(error: &zbus::Error) -> bool {
    let is_unknown_object =
        matches!(error, zbus::Error::FDO(error) if matches!(**error, zbus::fdo::Error::UnknownObject(_)));
    is_unknown_object || matches!(error, zbus::Error::MethodError(..))
}

async fn socket_units(bus: &zbus::Connection, manager: &ManagerProxy<'_>) -> zbus::Result<Vec<SocketUnit>> {
    let mut units = Vec::new();
    for listed in manager.list_units_by_patterns(&["active"], &["*.socket"]).await? {
        let Ok(unit) = listed.0.parse::<UnitName>() else { continue };
        let all = match properties(bus, &unit, "org.freedesktop.systemd1.Socket").await {
            Ok(all) => all,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let listens: Vec<(String, String)> =
            all.get("Listen").and_then(|value| value.try_clone().ok()?.try_into().ok()).unwrap_or_default();
        let listens = listens.iter().filter_map(|(kind, address)| listen(kind, address)).collect();
        units.push(SocketUnit { unit, listens });
    }
    Ok(units)
}

/// A line of `Listen=`; `None` for what is no TCP or UDP socket.
fn listen(kind: &str, address: &str) -> Option<(Protocol, SocketAddr)> {
    let protocol = match kind {
        "Stream" => Protocol::Tcp,
        "Datagram" => Protocol::Udp,
        _ => return None,
    };
    Some((protocol, address.parse().ok()?))
}

/// The object path of a unit: what is no letter or digit becomes `_` and two hexadecimal digits, and so does a
/// digit in front. Source: `bus_label_escape()`, systemd v257 `src/basic/bus-label.c`.
fn object_path(unit: &UnitName) -> String {
    use fmt::Write as _;
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (index, byte) in unit.as_str().bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

/// The unit of an object path.
fn unit_from_path(path: &str) -> Option<UnitName> {
    let label = path.strip_prefix("/org/freedesktop/systemd1/unit/")?;
    let mut name = Vec::new();
    let mut bytes = label.bytes();
    while let Some(byte) = bytes.next() {
        name.push(if byte == b'_' {
            let digits = [bytes.next()?, bytes.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(name).ok()?.parse().ok()
}

/// A unit's properties, in the shape of the bus or in that of `systemctl show`.
trait Properties {
    fn text(&self, key: &str) -> Option<String>;
    fn number(&self, key: &str) -> Option<i32>;
    fn flag(&self, key: &str) -> Option<bool>;
    /// [`Duration::MAX`] for `infinity`.
    fn span(&self, key: &str) -> Option<Duration>;
    /// Microseconds of `CLOCK_MONOTONIC`; `None` for a moment that has not come.
    fn moment(&self, key: &str) -> Option<Duration>;
    fn count(&self, key: &str) -> Option<u32>;
    fn pid(&self, key: &str) -> Option<Pid> {
        self.count(key).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0).map(Pid)
    }
    fn invocation(&self) -> Option<InvocationId>;
    fn units(&self, key: &str) -> Vec<UnitName>;
    /// The file and the arguments of the first command of a list. `systemctl show` does not tell where one argument
    /// ends and the next begins.
    fn command(&self, key: &str) -> Option<(PathBuf, Vec<String>)>;
}

/// A command of a unit: its file, its arguments, and then when and how it last ran (org.freedesktop.systemd1(5)).
type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

fn active(all: &impl Properties) -> ActiveState {
    match all.text("ActiveState").as_deref() {
        Some("inactive" | "failed") => ActiveState::Down,
        Some("deactivating") => ActiveState::Stopping,
        Some(_) => ActiveState::Up,
        None => ActiveState::Unknown,
    }
}

fn facts(all: &impl Properties) -> UnitFacts {
    UnitFacts {
        id: all.text("Id").and_then(|id| id.parse().ok()),
        active: active(all),
        invocation: all.invocation(),
        starting: all.text("SubState").map(|state| STARTING.contains(&state.as_str())),
        ended: all.moment("InactiveEnterTimestampMonotonic"),
        main_pid: all.pid("MainPID"),
        control_pid: all.pid("ControlPID"),
        triggered_by: all.units("TriggeredBy"),
        keeps_files: all.count("NFileDescriptorStore").is_some_and(|files| files > 0),
        kill_signal: all.number("KillSignal").map(Signal),
        restart_kill_signal: all.number("RestartKillSignal").map(Signal),
        final_kill_signal: all.number("FinalKillSignal").map(Signal),
        send_sighup: all.flag("SendSIGHUP"),
        send_sigkill: all.flag("SendSIGKILL"),
        // A socket unit has one for both: systemd.socket(5).
        timeout_stop: all.span("TimeoutStopUSec").or_else(|| all.span("TimeoutUSec")),
        timeout_start: all.span("TimeoutStartUSec").or_else(|| all.span("TimeoutUSec")),
        exec_start: all.command("ExecStart"),
        user: all.text("User").filter(|user| !user.is_empty()),
        working_directory: all.text("WorkingDirectory").filter(|folder| !folder.is_empty()),
        has_own_root: ["RootDirectory", "RootImage"]
            .iter()
            .any(|key| all.text(key).is_some_and(|root| !root.is_empty())),
        helpers_may_notify: matches!(all.text("NotifyAccess").as_deref(), Some("exec" | "all")),
    }
}

impl Properties for HashMap<String, OwnedVariant> {
    fn text(&self, key: &str) -> Option<String> {
        self.get(key).and_then(|value| <&str>::try_from(value).ok()).map(str::to_owned)
    }

    fn number(&self, key: &str) -> Option<i32> {
        self.get(key).and_then(|value| i32::try_from(value).ok())
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(|value| bool::try_from(value).ok())
    }

    fn span(&self, key: &str) -> Option<Duration> {
        // USEC_INFINITY, systemd v257 src/basic/time-util.h.
        let infinity = Duration::from_micros(u64::MAX);
        self.moment(key).map(|span| if span == infinity { Duration::MAX } else { span })
    }

    fn count(&self, key: &str) -> Option<u32> {
        self.get(key).and_then(|value| u32::try_from(value).ok())
    }

    fn moment(&self, key: &str) -> Option<Duration> {
        self.get(key).and_then(|value| u64::try_from(value).ok()).filter(|usec| *usec != 0).map(Duration::from_micros)
    }

    fn invocation(&self) -> Option<InvocationId> {
        let bytes: Vec<u8> = self.get("InvocationID")?.try_clone().ok()?.try_into().ok()?;
        let id = u128::from_be_bytes(bytes.try_into().ok()?);
        (id != 0).then_some(InvocationId(id))
    }

    fn units(&self, key: &str) -> Vec<UnitName> {
        let names: Option<Vec<String>> = self.get(key).and_then(|value| value.try_clone().ok()?.try_into().ok());
        names.unwrap_or_default().iter().filter_map(|name| name.parse().ok()).collect()
    }

    fn command(&self, key: &str) -> Option<(PathBuf, Vec<String>)> {
        let commands: Vec<Command> = self.get(key)?.try_clone().ok()?.try_into().ok()?;
        commands.into_iter().next().map(|(file, arguments, ..)| (file.into(), arguments))
    }
}

/// A unit in what `systemctl show` prints: a property a line.
struct Block<'text>(&'text str);

impl<'text> Block<'text> {
    fn get(&self, key: &str) -> Option<&'text str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

impl Properties for Block<'_> {
    fn text(&self, key: &str) -> Option<String> {
        self.get(key).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn number(&self, key: &str) -> Option<i32> {
        self.get(key)?.parse().ok()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|text| text == "yes")
    }

    fn span(&self, key: &str) -> Option<Duration> {
        match self.get(key)? {
            "infinity" => Some(Duration::MAX),
            text => timespan::parse(text).ok().filter(|span| !span.is_zero()),
        }
    }

    fn count(&self, key: &str) -> Option<u32> {
        self.get(key)?.parse().ok()
    }

    fn moment(&self, key: &str) -> Option<Duration> {
        self.get(key)?.parse().ok().filter(|usec| *usec != 0).map(Duration::from_micros)
    }

    fn invocation(&self) -> Option<InvocationId> {
        self.get("InvocationID")?.parse().ok()
    }

    fn units(&self, key: &str) -> Vec<UnitName> {
        self.get(key).unwrap_or_default().split_whitespace().filter_map(|name| name.parse().ok()).collect()
    }

    fn command(&self, _key: &str) -> Option<(PathBuf, Vec<String>)> {
        None
    }
}

/// In which `SubState`s nothing but `ExecCondition=` and `ExecStartPre=` runs: services and sockets.
const STARTING: &[&str] = &["condition", "start-pre"];

const WANTED: &str = "Id,ActiveState,SubState,InvocationID,InactiveEnterTimestampMonotonic,MainPID,ControlPID,\
    TriggeredBy,KillSignal,RestartKillSignal,FinalKillSignal,SendSIGHUP,SendSIGKILL,TimeoutStopUSec,TimeoutStartUSec,TimeoutUSec,\
    User,NotifyAccess,NFileDescriptorStore";

/// [`DEPENDENTS`], and what else there is in a [`Linked`].
const LINKS: &str = "ActiveState,CanStop,RequiredBy,RequisiteOf,BoundBy,ConsistsOf,PropagatesStopTo";

/// `systemctl` has no question for "whose is this process" that all versions know; the cgroup answers that.
fn ask_systemctl(question: &Question, patience: Duration, interrupt: &Interrupt) -> Result<Answer, String> {
    let systemctl = Systemctl { scope: question.scope, run: &question.run, deadline: Instant::now() + patience };
    let show = |units: &[&str], wanted: &str| {
        let arguments = [&["show", "--property", wanted, "--"], units].concat();
        systemctl.ask(&arguments, interrupt)
    };
    let unit = show(&[question.unit.as_str()], WANTED)?;
    let unit = blocks(&unit).next().map(|all| facts(&all)).unwrap_or_default();
    if unit.active == ActiveState::Unknown {
        return Err("its answer has no ActiveState".to_owned());
    }
    let mut answer = Answer { unit, ..Answer::default() };
    if !question.listening.is_empty() {
        answer.socket_units = socket_blocks(&show(&["*.socket"], "Id,ActiveState,Listen")?);
    }
    let about: BTreeSet<UnitName> = question.units.iter().chain(question.listeners(&answer)).cloned().collect();
    for about in about.into_iter().filter(|about| *about != question.unit).take(MAX_UNITS) {
        let mut closure = Closure::of(&about);
        let mut level = vec![about.clone()];
        while !level.is_empty() {
            let names: Vec<&str> = level.iter().map(UnitName::as_str).collect();
            let text = show(&names, LINKS)?;
            // As many blocks as names, in their order, also for units that are not there.
            let linked: Vec<Linked> = blocks(&text).map(|all| Linked::of(&all)).collect();
            let next = level.into_iter().zip(linked).flat_map(|(unit, linked)| closure.add(unit, linked)).collect();
            level = if question.dependents { next } else { Vec::new() };
        }
        answer.states.insert(about, closure.state(question.dependents));
    }
    Ok(answer)
}

/// One unit a block; blocks are parted by an empty line.
fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    text.split("\n\n").map(Block)
}

fn socket_blocks(text: &str) -> Vec<SocketUnit> {
    text.split("\n\n")
        .filter_map(|block| {
            let values = |key| block.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
            let unit = values("Id").next()?.parse().ok()?;
            values("ActiveState").find(|state| *state == "active")?;
            // Listen=[::]:8080 (Stream)
            let one = |line: &str| {
                let (address, kind) = line.split_once(' ')?;
                listen(kind.trim_matches(['(', ')']), address)
            };
            Some(SocketUnit { unit, listens: values("Listen").filter_map(one).collect() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_and_unit_names_are_the_same_thing() {
        for (unit, path) in [
            ("nginx.service", "nginx_2eservice"),
            ("0a@b.service", "_30a_40b_2eservice"),
            (r"dev-disk-by\x2dlabel.swap", "dev_2ddisk_2dby_5cx2dlabel_2eswap"),
        ] {
            let unit: UnitName = unit.parse().unwrap();
            let path = format!("/org/freedesktop/systemd1/unit/{path}");
            assert_eq!(object_path(&unit), path);
            assert_eq!(unit_from_path(&path), Some(unit));
        }
        for bad in
            ["", "/", "/org/freedesktop/systemd1/unit/a_2", "/org/freedesktop/systemd1/unit/a_zz", "/x/a_2eservice"]
        {
            assert_eq!(unit_from_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_systemctl_shows_is_understood() {
        let text = "Id=app.service\nActiveState=activating\nSubState=start-pre\nMainPID=0\nControlPID=77\nInvocationID=0123456789abcdef0123456789abcdef\n\
            InactiveEnterTimestampMonotonic=1500000\nTriggeredBy=a.socket b.socket\nKillSignal=15\nRestartKillSignal=28\nSendSIGHUP=no\n\
            SendSIGKILL=yes\nTimeoutStopUSec=1min 30s\nTimeoutStartUSec=infinity\nNotifyAccess=exec\nNFileDescriptorStore=2\n";
        let facts = blocks(text).next().map(|all| facts(&all)).unwrap();
        assert_eq!(
            facts,
            UnitFacts {
                id: "app.service".parse().ok(),
                active: ActiveState::Up,
                invocation: "0123456789abcdef0123456789abcdef".parse().ok(),
                starting: Some(true),
                ended: Some(Duration::from_millis(1500)),
                main_pid: None,
                control_pid: Some(Pid(77)),
                triggered_by: vec!["a.socket".parse().unwrap(), "b.socket".parse().unwrap()],
                keeps_files: true,
                kill_signal: Some(Signal(15)),
                restart_kill_signal: Some(Signal(28)),
                final_kill_signal: None,
                send_sighup: Some(false),
                send_sigkill: Some(true),
                timeout_stop: Some(Duration::from_secs(90)),
                timeout_start: Some(Duration::MAX),
                exec_start: None,
                user: None,
                working_directory: None,
                has_own_root: false,
                helpers_may_notify: true,
            }
        );
    }

    #[test]
    fn a_socket_unit_that_listens_with_what_is_held_is_asked_about() {
        let socket = |port: u16| (Protocol::Tcp, SocketAddr::from(([0; 16], port)));
        let unit = |name: &str, port| SocketUnit { unit: name.parse().unwrap(), listens: vec![socket(port)] };
        let question = Question {
            scope: Scope::System,
            run: "/run".into(),
            unit: "app.service".parse().unwrap(),
            pids: Vec::new(),
            units: Vec::new(),
            dependents: true,
            listening: vec![socket(8080)],
            store: false,
        };
        let socket_units = vec![unit("a.socket", 8080), unit("b.socket", 8081)];
        let answer = Answer { socket_units, ..Answer::default() };
        assert_eq!(question.listeners(&answer).map(UnitName::as_str).collect::<Vec<_>>(), ["a.socket"]);
    }

    #[test]
    fn what_systemctl_shows_of_sockets_is_understood() {
        let text = "Id=a.socket\nActiveState=active\nListen=[::]:8080 (Stream)\nListen=/run/a (Stream)\n\n\
            Id=b.socket\nActiveState=inactive\nListen=[::]:9 (Stream)\n\nId=c.socket\nActiveState=active\nListen=0.0.0.0:53 (Datagram)\n";
        let unit = |name: &str| name.parse::<UnitName>().unwrap();
        assert_eq!(
            socket_blocks(text),
            [
                SocketUnit { unit: unit("a.socket"), listens: vec![(Protocol::Tcp, "[::]:8080".parse().unwrap())] },
                SocketUnit { unit: unit("c.socket"), listens: vec![(Protocol::Udp, "0.0.0.0:53".parse().unwrap())] },
            ]
        );
    }
}
