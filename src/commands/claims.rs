//! Who claims which port: what the policy gives to units, where socket units listen, and the sockets that are there.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::remark::{Remark, Severity, quoted};
use super::{CommandError, every_port, survey};
use crate::interrupt::Interrupt;
use crate::manager::{Scope, Systemctl};
use crate::model::{
    BlindSpot, Endpoint, EndpointRange, HeldSocket, Host, Owner, Port, Protocol, UnitName, UnitPattern, UnitType,
};
use crate::observe::Roots;
use crate::observe::units::{self, Properties, in_order};
use crate::policy::{self, Policy, Problem};

/// What is asked of each unit: org.freedesktop.systemd1(5).
const WANTED: [&str; 28] = [
    "Id",
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "Triggers",
    "TriggeredBy",
    "Conflicts",
    "ConflictedBy",
    "Listen",
    "BindIPv6Only",
    "Environment",
    "EnvironmentFiles",
    "PassEnvironment",
    "User",
    "DynamicUser",
    "KillMode",
    "Restart",
    "RestartUSec",
    "RestartSteps",
    "RestartMaxDelayUSec",
    "RestartPreventExitStatus",
    "StartLimitIntervalUSec",
    "StartLimitBurst",
    "ExecConditionEx",
    "ExecStartPreEx",
    "ExecStartPre",
    "ControlGroup",
    "ControlGroupId",
];

/// How long the manager has to tell its environment.
const PATIENCE: Duration = Duration::from_secs(10);

/// The services and socket units of a manager.
#[derive(Debug)]
pub(super) struct System {
    pub(super) scope: Scope,
    pub(super) roots: Roots,
    /// By their own names.
    pub(super) units: BTreeMap<UnitName, Properties>,
    /// Every name that there is, an alias, a template or one that somebody only speaks of among them.
    pub(super) names: Vec<UnitName>,
    /// Other names, and whose they are.
    pub(super) aliases: Vec<(UnitName, UnitName)>,
    /// Why the manager does not answer.
    pub(super) silent: Option<String>,
}

impl System {
    /// Asks the manager about all of its services and socket units.
    pub(super) fn look(user: bool, policy: &Policy) -> Self {
        Self::look_at(user, policy, &|_| true)
    }

    /// Asks the manager about those alone that can claim a port by their file or by the policy.
    pub(super) fn look_for_claims(user: bool, policy: &Policy) -> Self {
        Self::look_at(user, policy, &|unit| unit.unit_type() == UnitType::Socket || policy.speaks_of(unit))
    }

    fn look_at(user: bool, policy: &Policy, is_wanted: &dyn Fn(&UnitName) -> bool) -> Self {
        let mut system = Self::of(if user { Scope::User } else { Scope::System });
        if let Err(why) = system.ask(policy, is_wanted) {
            system.silent = Some(why);
        }
        system
    }

    fn ask(&mut self, policy: &Policy, is_wanted: &dyn Fn(&UnitName) -> bool) -> Result<(), String> {
        self.names = units::names(self.scope, &self.roots.run)?;
        let of_policy = policy.units().map(|(unit, _)| unit);
        let wanted = self.names.iter().filter(|unit| is_wanted(unit)).chain(of_policy);
        // A template cannot be shown.
        let wanted = in_order(wanted.filter(|unit| !unit.is_template()).cloned().collect());
        let shown = units::show(self.scope, &self.roots.run, &wanted, &WANTED)?;
        self.know(wanted.into_iter().zip(shown).collect());
        Ok(())
    }

    /// One of which nothing is known yet.
    fn of(scope: Scope) -> Self {
        let roots = Roots::of_host(scope == Scope::User);
        Self { scope, roots, units: BTreeMap::new(), names: Vec::new(), aliases: Vec::new(), silent: None }
    }

    /// Each unit once, by its own name.
    fn know(&mut self, shown: Vec<(UnitName, Properties)>) {
        for (name, properties) in shown {
            let own = properties.get("Id").and_then(|id| id.parse().ok()).unwrap_or_else(|| name.clone());
            self.units.entry(own.clone()).or_insert(properties);
            if own != name {
                self.aliases.push((name, own));
            }
        }
    }

    /// What the manager says of a unit.
    pub(super) fn unit(&self, unit: &UnitName) -> Option<&Properties> {
        self.units.get(unit)
    }

    /// Whether it can be started, as far as is known.
    pub(super) fn is_loaded(&self, unit: &UnitName) -> bool {
        self.unit(unit).is_some_and(|unit| unit.is("LoadState", "loaded"))
    }

    /// The same of any, also one that was not asked about.
    pub(super) fn is_there(&self, unit: &UnitName) -> bool {
        let ask = || {
            let shown = units::show(self.scope, &self.roots.run, std::slice::from_ref(unit), &["Id", "LoadState"]);
            let is_it = |shown: &Properties| shown.is("LoadState", "loaded") && shown.is("Id", unit.as_str());
            shown.is_ok_and(|shown| shown.first().is_some_and(is_it))
        };
        self.unit(unit).map_or_else(ask, |shown| shown.is("LoadState", "loaded"))
    }

    fn lists(&self, of: &UnitName, keys: &[&str], unit: &UnitName) -> bool {
        self.unit(of).is_some_and(|of| keys.iter().any(|key| of.units(key).contains(unit)))
    }

    /// Whether two units may name the same port: one triggers the other, or systemd never runs both
    /// (`Conflicts=`).
    fn go_together(&self, one: &UnitName, other: &UnitName) -> bool {
        one == other || self.lists(one, &["Triggers", "TriggeredBy", "Conflicts", "ConflictedBy"], other)
    }

    /// The socket units that listen or are to: neither disabled nor masked.
    pub(super) fn socket_claims(&self, also_disabled: bool) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (unit, shown) in &self.units {
            let is_off = shown.is("UnitFileState", "disabled") && !shown.is("ActiveState", "active");
            if unit.unit_type() != UnitType::Socket || (is_off && !also_disabled) || !shown.is("LoadState", "loaded") {
                continue;
            }
            let v6only = shown.is("BindIPv6Only", "ipv6-only");
            for range in shown.all("Listen").iter().filter_map(|line| listen(line, v6only)) {
                claims.push(Claim {
                    unit: Some(unit.clone()),
                    who: unit.to_string(),
                    source: Source::SocketUnit,
                    range,
                });
            }
        }
        claims
    }
}

/// Ports that somebody has or is to have.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// Of the manager that is asked.
    pub(super) unit: Option<UnitName>,
    /// In words.
    pub(super) who: String,
    pub(super) source: Source,
    pub(super) range: EndpointRange,
}

/// How one comes to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Policy(policy::Place),
    SocketUnit,
    /// It has it now.
    Socket,
}

impl Claim {
    fn shown(&self) -> String {
        match &self.source {
            Source::Policy(place) => format!("{} ({place})", self.who),
            Source::SocketUnit => format!("{} (Listen…=)", self.who),
            Source::Socket => format!("{} (which has it now)", self.who),
        }
    }

    pub(super) fn place(&self) -> Option<&policy::Place> {
        match &self.source {
            Source::Policy(place) => Some(place),
            Source::SocketUnit | Source::Socket => None,
        }
    }
}

/// A line of `Listen=`: `[::]:80 (Stream)`. `None` for what is no TCP or UDP socket.
fn listen(line: &str, v6only: bool) -> Option<EndpointRange> {
    let (address, kind) = line.rsplit_once(" (")?;
    let protocol = match kind {
        "Stream)" => Protocol::Tcp,
        "Datagram)" => Protocol::Udp,
        _ => return None,
    };
    bound(address.parse().ok()?, v6only, protocol)
}

/// `None` for port 0.
fn bound(local: SocketAddr, v6only: bool, protocol: Protocol) -> Option<EndpointRange> {
    let host = match local.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() && !v6only => Host::Any,
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => Host::Ip(ip),
    };
    Some(Endpoint { host, port: Port::new(local.port())?, protocol }.into())
}

/// What a policy claims for the units that are there.
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub(super) claims: Vec<Claim>,
    replaces: Vec<(UnitName, Vec<UnitPattern>)>,
    /// What cannot be expanded, and of which unit.
    pub(super) problems: Vec<(UnitName, Problem)>,
    /// What could not be found out, each in a sentence.
    pub(super) unseen: Vec<String>,
}

impl Policies {
    /// Of its units, and of the instances that the manager knows of its templates. A manager that is silent leaves the
    /// units that are named in full, and nothing of their environment.
    pub(super) fn of(policy: &Policy, system: &System) -> Self {
        let mut all = Self::default();
        let named = policy.units().map(|(unit, _)| unit).filter(|unit| !unit.is_template());
        let units = named.chain(system.units.keys().filter(|unit| policy.speaks_of(unit)));
        for unit in &in_order(units.cloned().collect()) {
            if system.silent.is_some() || system.is_loaded(unit) {
                all.add(policy, unit, system);
            }
        }
        all
    }

    fn add(&mut self, policy: &Policy, unit: &UnitName, system: &System) {
        let none = Properties::default();
        let environment = Environment::of(system.unit(unit).unwrap_or(&none), system);
        let claims = policy.claims_of(unit, &|name| environment.get(name));
        let missing = environment.missing.into_inner();
        for problem in claims.problems {
            let is_unknown = missing.iter().any(|name| problem.fault.to_string().contains(name.as_str()));
            match environment.unknown.first().filter(|_| is_unknown) {
                Some(why) => self.unseen.push(format!("{}: ports of {unit} are not known: {why}", problem.place)),
                None => self.problems.push((unit.clone(), problem)),
            }
        }
        for (place, range) in claims.ports {
            let source = Source::Policy(place);
            self.claims.push(Claim { unit: Some(unit.clone()), who: unit.to_string(), source, range });
        }
        self.replaces.push((unit.clone(), claims.replaces));
    }

    fn replaces(&self, one: &UnitName, other: &UnitName) -> bool {
        let of_one = self.replaces.iter().filter(|(unit, _)| unit == one);
        of_one.flat_map(|(_, patterns)| patterns).any(|pattern| pattern.matches(other))
    }
}

/// The variables that a unit's commands see, as far as can be known before it starts: systemd.exec(5).
struct Environment<'a> {
    /// Of several that are set, the last counts.
    own: Vec<(String, String)>,
    managers: OnceCell<Vec<(String, String)>>,
    system: &'a System,
    /// Those that were asked for and are not set.
    missing: RefCell<Vec<String>>,
    /// Why there may be more.
    unknown: Vec<String>,
}

/// What an `EnvironmentFile=` says. Whoever may write it may also have made it what does not end or never comes: a device, a
/// FIFO, a terabyte of holes.
fn environment_file(path: &Path) -> io::Result<String> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let status = file.metadata()?;
    if !status.is_file() || status.len() > policy::MAX_FILE_BYTES {
        return Err(io::Error::other("it is no file of a sane size"));
    }
    let mut text = String::new();
    file.take(policy::MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

impl<'a> Environment<'a> {
    fn of(shown: &Properties, system: &'a System) -> Self {
        let mut own: Vec<(String, String)> = Vec::new();
        let mut unknown = Vec::new();
        if let Some(why) = &system.silent {
            unknown.push(format!("systemd could not be asked: {why}"));
        }
        own.extend(shown.get("Environment").unwrap_or_default().split_whitespace().filter_map(variable));
        for line in shown.all("EnvironmentFiles") {
            // /etc/default/app (ignore_errors=yes)
            let (file, may_be_absent) = line
                .rsplit_once(" (")
                .map_or((line.as_str(), false), |(file, flag)| (file, flag == "ignore_errors=yes)"));
            match environment_file(Path::new(file)) {
                Ok(text) => own.extend(text.lines().filter_map(variable)),
                Err(error) if may_be_absent && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => unknown.push(format!("{file}: {error}")),
            }
        }
        if let Some(passed) = shown.get("PassEnvironment") {
            unknown.push(format!("PassEnvironment={passed}"));
        }
        Self { own, managers: OnceCell::new(), system, missing: RefCell::default(), unknown }
    }

    fn get(&self, name: &str) -> Option<String> {
        let value = |all: &[(String, String)]| {
            all.iter().rev().find(|(variable, _)| variable == name).map(|(_, value)| value.clone())
        };
        let managers = || self.managers.get_or_init(|| managers_environment(self.system));
        let found = value(&self.own).or_else(|| value(managers()));
        if found.is_none() {
            self.missing.borrow_mut().push(format!("${{{name}}}"));
        }
        found
    }
}

/// What the manager gives to all of its units.
fn managers_environment(system: &System) -> Vec<(String, String)> {
    if system.silent.is_some() {
        return Vec::new();
    }
    let shown = Systemctl { scope: system.scope, run: &system.roots.run, deadline: Instant::now() + PATIENCE }
        .ask(&["show-environment"], &Interrupt::default());
    shown.unwrap_or_default().lines().filter_map(variable).collect()
}

/// `NAME=VALUE`, where the value may be quoted. No endpoint has a blank or an escape in it, so a value with one is good for
/// none, however it is read.
fn variable(text: &str) -> Option<(String, String)> {
    let (name, value) = text.trim().split_once('=')?;
    let value = value.trim();
    let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    (!name.starts_with(['#', ';'])).then(|| (name.trim().to_owned(), bare.unwrap_or(value).to_owned()))
}

/// The sockets that wait for somebody, whose they are, and what could not be seen.
///
/// # Errors
/// The socket tables cannot be read.
pub(super) fn sockets(user: bool) -> Result<(Vec<Claim>, Vec<BlindSpot>), CommandError> {
    let (_, scene) = survey(Roots::of_host(user), user, &every_port())?;
    let mut claims = Vec::new();
    for held in scene.endpoints.iter().flat_map(|endpoint| &endpoint.sockets) {
        let Some(range) = bound(held.socket.local, held.socket.v6only, held.socket.protocol) else { continue };
        for (unit, who) in owners(held, user) {
            let is_said = |claim: &Claim| claim.who == who && claim.range == range;
            if !claims.iter().any(is_said) {
                claims.push(Claim { unit, who, source: Source::Socket, range });
            }
        }
    }
    Ok((claims, scene.blind_spots))
}

/// Whose a socket is, each in words, and by its unit where the manager that is asked has it.
fn owners(held: &HeldSocket, user: bool) -> Vec<(Option<UnitName>, String)> {
    if let Some(unit) = &held.socket_unit {
        return vec![(Some(unit.clone()), unit.to_string())];
    }
    let own = rustix::process::getuid().as_raw();
    let of = |owner: &Owner, otherwise: String| match owner {
        Owner::Unit(unit) if !user => (Some(unit.clone()), unit.to_string()),
        Owner::Unit(unit) => (None, format!("{unit} of the system")),
        Owner::UserUnit { uid, unit } if user && *uid == own => (Some(unit.clone()), unit.to_string()),
        Owner::UserUnit { uid, unit } => (None, format!("{unit} of the manager of uid {uid}")),
        Owner::Session(session) => (None, format!("{otherwise} in session {}", session.id)),
        Owner::Init | Owner::Nobody | Owner::Unknown => (None, otherwise),
    };
    if held.holders.is_empty() {
        let nobody = format!("nobody that can be seen, for uid {}", held.socket.uid);
        return vec![of(held.birthplace.as_ref().unwrap_or(&Owner::Unknown), nobody)];
    }
    held.holders.iter().map(|holder| of(&holder.owner, format!("pid {} {}", holder.pid.0, holder.comm))).collect()
}

/// Two who want the same port.
pub(super) struct Clash<'a> {
    pub(super) one: &'a Claim,
    pub(super) other: &'a Claim,
    pub(super) shared: EndpointRange,
}

/// All that clash, but for those who may: one unit; two of which one triggers the other, takes over from it (`replaces`),
/// or is never up beside it (`Conflicts=`); and two who have it already, which is for the kernel to say.
pub(super) fn clashes<'a>(claims: &'a [Claim], system: &System, policies: &Policies) -> Vec<Clash<'a>> {
    let may_both = |one: &Claim, other: &Claim| match (&one.unit, &other.unit) {
        (Some(a), Some(b)) => {
            system.go_together(a, b) || system.go_together(b, a) || policies.replaces(a, b) || policies.replaces(b, a)
        }
        (None, Some(_)) | (Some(_), None) => false,
        (None, None) => true,
    };
    let mut clashes = Vec::new();
    for (index, one) in claims.iter().enumerate() {
        for other in &claims[index + 1..] {
            let both_have_it = one.source == Source::Socket && other.source == Source::Socket;
            let Some(shared) = one.range.shared_with(other.range) else { continue };
            if !both_have_it && !may_both(one, other) {
                clashes.push(Clash { one, other, shared });
            }
        }
    }
    clashes
}

/// A remark for each two places at which the same ports are claimed, however many instances of a template or addresses
/// there are.
pub(super) fn remarks_of(clashes: &[Clash<'_>]) -> Vec<Remark> {
    /// A place, or where there is none a unit.
    fn key(claim: &Claim) -> (Option<&policy::Place>, &str) {
        (claim.place(), if claim.place().is_some() { "" } else { &claim.who })
    }
    let ports = |clash: &Clash<'_>| (clash.shared.protocol(), clash.shared.ports());
    let mut groups: Vec<(&Clash<'_>, Vec<String>)> = Vec::new();
    for clash in clashes {
        let (one, other) = (key(clash.one), key(clash.other));
        let is_same = |first: &Clash<'_>| {
            let (a, b) = (key(first.one), key(first.other));
            ports(first) == ports(clash) && ((a == one && b == other) || (a == other && b == one))
        };
        let index = groups.iter().position(|(first, _)| is_same(first)).unwrap_or_else(|| {
            groups.push((clash, Vec::new()));
            groups.len() - 1
        });
        let names = &mut groups[index].1;
        for unit in [clash.one, clash.other].into_iter().filter_map(|claim| claim.unit.as_ref()) {
            if !names.iter().any(|name| name == unit.as_str()) {
                names.push(unit.to_string());
            }
        }
    }
    groups.into_iter().map(|(clash, units)| remark_of(clash, units)).collect()
}

fn remark_of(clash: &Clash<'_>, units: Vec<String>) -> Remark {
    let Clash { one, other, shared } = clash;
    let has_it = [one, other].iter().any(|claim| claim.source == Source::Socket);
    // The policy's place, as that can be changed.
    let place = [one, other].into_iter().find_map(|claim| claim.place());
    let more = match units.len().saturating_sub(2) {
        0 => String::new(),
        more => format!(", and of {more} more of its instances"),
    };
    let message = format!("{shared} is that of {} and of {}{more}: only one can have it", one.shown(), other.shown());
    let severity = if has_it { Severity::Error } else { Severity::Warning };
    let next = if has_it {
        format!("portguard who {}", quoted(&shared.to_string()))
    } else {
        let udp = if shared.protocol() == Protocol::Udp { " --udp" } else { "" };
        format!("portguard suggest --near {}{udp}", shared.ports().0)
    };
    Remark { units, ..Remark::new(severity, "overlap", &[], message).at(place).with_endpoint(*shared).with_next(next) }
}

/// The ports that the kernel gives to clients, and those of them that it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ephemeral {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) reserved: Vec<(u16, u16)>,
}

impl Ephemeral {
    /// Of this network namespace: `ip_local_port_range` and `ip_local_reserved_ports`, Linux
    /// `Documentation/networking/ip-sysctl.rst`.
    pub(super) fn of_host(proc: &Path) -> Option<Self> {
        let read = |name: &str| std::fs::read_to_string(proc.join("sys/net/ipv4").join(name)).ok();
        Self::parse(&read("ip_local_port_range")?, &read("ip_local_reserved_ports")?)
    }

    /// `32768\t60999`, and `8080,9000-9010`.
    pub(super) fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut ends = range.split_whitespace().map(str::parse);
        let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
        let part = |text: &str| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        Some(Self { first, last, reserved: reserved.trim().split(',').filter_map(part).collect() })
    }

    pub(super) fn is_reserved(&self, port: u16) -> bool {
        self.reserved.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }

    pub(super) fn has(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Those of a range that a client could be given.
    pub(super) fn of_clients(&self, range: EndpointRange) -> Vec<u16> {
        let (first, last) = range.ports();
        (first.get()..=last.get()).filter(|port| self.has(*port) && !self.is_reserved(*port)).collect()
    }

    /// The list with these ports as well: it is set as a whole.
    pub(super) fn reserved_with(&self, ports: &[u16]) -> String {
        let mut list = String::new();
        let mut run: Option<(u16, u16)> = None;
        for port in 1..=u16::MAX {
            let is_in = self.is_reserved(port) || ports.contains(&port);
            run = match run {
                Some((from, _)) if is_in => Some((from, port)),
                None if is_in => Some((port, port)),
                Some(ended) => {
                    append(&mut list, ended);
                    None
                }
                None => None,
            };
        }
        if let Some(last) = run {
            append(&mut list, last);
        }
        list
    }
}

/// `8080`, or `9000-9010`.
fn append(list: &mut String, (from, to): (u16, u16)) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(&from.to_string());
    if from != to {
        list.push('-');
        list.push_str(&to.to_string());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A manager with these blocks of `systemctl show`.
    pub(in crate::commands) fn system(blocks: &str) -> System {
        let mut system = System::of(Scope::System);
        let blocks = blocks.split("\n\n").map(Properties::parse);
        let named = blocks.filter_map(|block| Some((block.get("Id")?.parse::<UnitName>().ok()?, block)));
        system.know(named.collect());
        system.names = system.units.keys().cloned().collect();
        system
    }

    #[test]
    fn a_line_of_listen_is_a_range_where_it_is_of_tcp_or_udp() {
        for (line, v6only, range) in [
            ("[::]:80 (Stream)", false, Some("80/tcp")),
            ("[::]:80 (Stream)", true, Some("[::]:80/tcp")),
            ("0.0.0.0:53 (Datagram)", false, Some("0.0.0.0:53/udp")),
            ("127.0.0.1:80 (Stream)", false, Some("127.0.0.1:80/tcp")),
            ("/run/a b (Stream)", false, None),
            ("[::]:80 (SequentialPacket)", false, None),
            ("kobject-uevent 1 (Netlink)", false, None),
            ("", false, None),
        ] {
            assert_eq!(listen(line, v6only).map(|range| range.to_string()).as_deref(), range, "{line}");
        }
    }

    #[test]
    fn many_units_cost_no_more_each() {
        let units: Vec<String> = (0..30_000).map(|number| format!("Id=u{number}.service\nLoadState=loaded")).collect();
        let begin = Instant::now();
        let system = system(&units.join("\n\n"));
        assert!(system.names.iter().all(|unit| system.is_loaded(unit)));
        assert_eq!(system.names.len(), 30_000);
        // A second of a debug build, and 85 where each is looked for among all.
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    }

    #[test]
    fn what_is_no_small_file_says_nothing_of_the_environment_and_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "PORT=80\n").unwrap();
        assert_eq!(environment_file(&path("file")).unwrap(), "PORT=80\n");
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        File::create(path("terabyte")).unwrap().set_len(1 << 40).unwrap();
        for name in ["fifo", "device", "terabyte", ""] {
            assert_eq!(environment_file(&path(name)).unwrap_err().kind(), io::ErrorKind::Other, "{name}");
        }
    }

    #[test]
    fn a_variable_may_be_quoted_and_a_comment_is_none() {
        for (line, read) in [
            ("PORT=80", Some(("PORT", "80"))),
            (" PORT = \"80\" ", Some(("PORT", "80"))),
            ("PORT='80'", Some(("PORT", "80"))),
            ("PORT='80", Some(("PORT", "'80"))),
            ("# PORT=80", None),
            (";PORT=80", None),
            ("PORT", None),
        ] {
            let expected = read.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(variable(line), expected, "{line}");
        }
    }

    #[test]
    fn who_has_a_port_clashes_with_whoever_is_to_have_it() {
        let system = system("Id=a.service\nLoadState=loaded\n\nId=b.service\nLoadState=loaded");
        let claim = |unit: &str, source: Source, range: &str| Claim {
            unit: unit.parse().ok(),
            who: unit.to_owned(),
            source,
            range: range.parse().unwrap(),
        };
        let place = policy::Place::File(std::sync::Arc::from(Path::new("p")));
        let claims = [
            claim("a.service", Source::Policy(place), "8000-8010"),
            claim("a.service", Source::Socket, "8000"),
            claim("b.service", Source::Socket, "0.0.0.0:8001"),
            claim("b.service", Source::Socket, "[::]:8001"),
            claim("pid 7 nc", Source::Socket, "8001"),
            claim("b.service", Source::Socket, "8001/udp"),
        ];
        let clashes = clashes(&claims, &system, &Policies::default());
        let remarks = remarks_of(&clashes);
        let found: Vec<_> = remarks.iter().map(|remark| (remark.severity, remark.message.as_str())).collect();
        assert_eq!(
            found,
            [
                (
                    Severity::Error,
                    "8001/tcp is that of a.service (p) and of b.service (which has it now): only one can have it"
                ),
                (
                    Severity::Error,
                    "8001/tcp is that of a.service (p) and of pid 7 nc (which has it now): only one can have it"
                ),
            ]
        );
        assert_eq!(remarks[0].next.as_deref(), Some("portguard who 8001/tcp"));
    }
}
