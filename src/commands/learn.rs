//! `portguard learn`: the part of a policy for what a unit listens on as it runs now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::claims::Ephemeral;
use super::{CommandError, every_port, show, survey};
use crate::cli;
use crate::manager::Scope;
use crate::model::{
    BlindSpot, EndpointRange, EndpointScene, Engine, HeldSocket, Owner, Pid, Process, Protocol, SocketState, UnitName,
    printable,
};
use crate::observe::units::Properties;
use crate::observe::{Place, Roots};
use crate::report::document::{Document, Page};

/// What was learnt of some units.
#[derive(Debug, Serialize)]
struct Learnt {
    units: Vec<Stanza>,
    /// What could not be seen, each in a sentence.
    unseen: Vec<String>,
}

/// What was learnt of one unit.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Stanza {
    /// The unit, by its own name.
    pub(super) unit: String,
    /// Its `ActiveState`.
    state: Option<String>,
    ports: Vec<PortLine>,
}

/// One port of it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct PortLine {
    /// As the policy takes it: `8080/tcp`.
    endpoint: String,
    /// Whether it belongs into the policy; the others are shown as comments.
    is_taken: bool,
    /// Why not, or what else is to be known.
    note: Option<String>,
}

/// Exit status 0: at least one port of each unit was learnt.
pub(super) fn run(args: &cli::Learn) -> Result<u8, CommandError> {
    let (units, blind) = learn(&args.units, args.common.user)?;
    let unseen = blind.iter().map(ToString::to_string).collect();
    let status = u8::from(units.iter().any(|stanza| !stanza.has_ports()));
    show(&Learnt { units, unseen }, args.common.json, status)
}

/// Looks at all of these units at once; the second is what could not be seen.
pub(super) fn learn(names: &[UnitName], user: bool) -> Result<(Vec<Stanza>, Vec<BlindSpot>), CommandError> {
    let roots = Roots::of_host(user);
    let scope = if user { Scope::User } else { Scope::System };
    let shown = super::known_units(scope, &roots.run, names)?;
    let (place, scene) = survey(roots, user, &every_port())?;
    let clients = Ephemeral::of_host(&place.roots.proc);
    let stanzas = shown.into_iter().map(|(unit, shown)| {
        let own = Own {
            unit: &unit,
            triggered_by: shown.units("TriggeredBy"),
            lets_live: super::lets_live(&shown).map(str::to_owned),
            main: shown.get("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0).map(Pid),
            place: &place,
        };
        Stanza {
            state: shown.get("ActiveState").map(str::to_owned),
            ports: ports(&own, &scene.endpoints, &shown, clients.as_ref()),
            unit: unit.to_string(),
        }
    });
    Ok((stanzas.collect(), scene.blind_spots))
}

/// The unit, and what is its own.
struct Own<'a> {
    unit: &'a UnitName,
    triggered_by: Vec<UnitName>,
    /// The `KillMode=` by which processes live on when it is stopped: all but the main one, or (`none`) that one as well.
    lets_live: Option<String>,
    main: Option<Pid>,
    place: &'a Place,
}

impl Own<'_> {
    fn is(&self, owner: &Owner) -> bool {
        match (owner, self.place.scope) {
            (Owner::Unit(unit), Scope::System) => unit == self.unit,
            (Owner::UserUnit { uid, unit }, Scope::User) => {
                unit == self.unit && *uid == rustix::process::getuid().as_raw()
            }
            _ => false,
        }
    }
}

fn ports(own: &Own<'_>, sockets: &[EndpointScene], shown: &Properties, clients: Option<&Ephemeral>) -> Vec<PortLine> {
    let mut all: BTreeMap<(Protocol, u16), Vec<(&HeldSocket, Whose)>> = BTreeMap::new();
    let waiting = || sockets.iter().flat_map(|seen| &seen.sockets).filter(|held| waits(held));
    for held in waiting() {
        let mut whose = whose(own, held);
        if whose == Whose::Own {
            // SO_REUSEPORT.
            let same = |other: &&HeldSocket| {
                (other.socket.protocol, other.socket.local) == (held.socket.protocol, held.socket.local)
                    && self::whose(own, other) == Whose::Others
            };
            whose = waiting()
                .filter(same)
                .find_map(|other| Some(name(other.holders.first()?)))
                .map_or(whose, Whose::Shared);
        }
        if whose != Whose::Others {
            let key = (held.socket.protocol, held.socket.local.port());
            all.entry(key).or_default().push((held, whose));
        }
    }
    let mut lines = BTreeSet::new();
    for ((protocol, port), sockets) in all {
        let (mut is_taken, mut note) = match sockets.iter().map(|(_, whose)| whose).max() {
            Some(Whose::Kept(by)) => (false, Some(by.clone())),
            Some(Whose::Shared(with)) => {
                (true, Some(format!("shared with {with}, beside which portguard lets nobody start")))
            }
            Some(Whose::Own | Whose::Others) | None => (true, None),
        };
        let may_be_a_clients = |clients: &&Ephemeral| clients.has(port) && !clients.is_reserved(port);
        if let Some(clients) = clients.filter(may_be_a_clients).filter(|_| is_taken) {
            is_taken = false;
            note = Some(format!(
                "in the range for clients: if it is the same at each start, take it in, and reserve it: sysctl -w net.ipv4.ip_local_reserved_ports={}",
                clients.reserved_with(&[port])
            ));
        }
        let sockets: Vec<(IpAddr, bool)> =
            sockets.iter().map(|(held, _)| (held.socket.local.ip(), held.socket.v6only)).collect();
        for endpoint in endpoints(&sockets, port, protocol) {
            // One of a group, or of a link: with it in the policy no guarded unit would start.
            let refused = endpoint.parse::<EndpointRange>().err().map(|error| error.to_string());
            let is_taken = is_taken && refused.is_none();
            lines.insert(PortLine { endpoint, is_taken, note: refused.or_else(|| note.clone()) });
        }
    }
    for allowed in shown.all("SocketBindAllow").iter().flat_map(|line| line.split_whitespace()) {
        for endpoint in allowed_ports(allowed) {
            let shares = |line: &PortLine| {
                let one: Option<EndpointRange> = line.endpoint.parse().ok();
                let other: Option<EndpointRange> = endpoint.parse().ok();
                one.zip(other).is_some_and(|(one, other)| other.port_count() == 1 && one.shared_with(other).is_some())
            };
            if !lines.iter().any(|line| line.is_taken && shares(line)) {
                let note = Some(format!("SocketBindAllow={allowed}: it may listen there"));
                lines.insert(PortLine { endpoint, is_taken: true, note });
            }
        }
    }
    lines.into_iter().collect()
}

/// How a socket stands to the unit; of several on one port the last of these counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// It is not the unit's.
    Others,
    /// Its own.
    Own,
    /// Its own, and somebody else has it as well.
    Shared(String),
    /// It is there for the unit, and somebody else keeps it: in which way.
    Kept(String),
}

fn waits(held: &HeldSocket) -> bool {
    matches!(held.socket.state, SocketState::Listen | SocketState::Unconnected | SocketState::Bound)
}

fn name(process: &Process) -> String {
    process.owner.unit_name().unwrap_or_else(|| format!("pid {}", process.pid))
}

fn whose(own: &Own<'_>, held: &HeldSocket) -> Whose {
    if let Some(socket_unit) = &held.socket_unit {
        return if socket_unit == own.unit {
            Whose::Own
        } else if own.triggered_by.contains(socket_unit) {
            Whose::Kept(format!("{socket_unit} listens with it, and systemd keeps it; guard that unit for it"))
        } else {
            Whose::Others
        };
    }
    let (ours, others): (Vec<_>, Vec<_>) = held.holders.iter().partition(|holder| own.is(&holder.owner));
    let is_own_birth = held.birthplace.as_ref().is_some_and(|owner| own.is(owner));
    // dockerd has a proxy for each port that a container publishes.
    let published = ours.iter().filter_map(|holder| holder.container.as_ref());
    if let Some(container) = published.into_iter().find(|container| container.engine == Engine::Docker) {
        return Whose::Kept(format!("published for {container}"));
    }
    match (ours.is_empty(), others.first()) {
        (false, None) => match (&own.lets_live, own.main) {
            (Some(mode), Some(main)) if !ours.iter().any(|holder| holder.pid == main) => Whose::Kept(format!(
                "not of the main process, and KillMode={mode} lets it live on: with it in the policy the next start stops it"
            )),
            _ => Whose::Own,
        },
        (false, Some(other)) => Whose::Shared(name(other)),
        // A kernel's own, or one that may not be looked into.
        (true, None) if is_own_birth => Whose::Own,
        (true, Some(other)) if is_own_birth => Whose::Kept(format!("made by the unit, and {} has it now", name(other))),
        (true, _) => Whose::Others,
    }
}

/// As the policy writes the addresses of one port: `8080/tcp` is all of both families.
fn endpoints(sockets: &[(IpAddr, bool)], port: u16, protocol: Protocol) -> Vec<String> {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let has = |ip: IpAddr| sockets.iter().any(|(own, _)| *own == ip);
    if sockets.contains(&(v6, false)) || (has(v4) && has(v6)) {
        return vec![format!("{port}/{protocol}")];
    }
    let addresses: BTreeSet<String> = sockets
        .iter()
        .map(|(ip, _)| match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        })
        .collect();
    addresses.into_iter().map(|address| format!("{address}:{port}/{protocol}")).collect()
}

/// An element of `SocketBindAllow=` (systemd.resource-control(5)): `[family:][protocol:]ports`, of which `systemctl show`
/// leaves out the second colon; `any` names no port.
fn allowed_ports(element: &str) -> Vec<String> {
    let (host, rest) = match element.split_once(':') {
        Some(("ipv4", rest)) => ("0.0.0.0:", rest),
        Some(("ipv6", rest)) => ("[::]:", rest),
        Some(_) | None => ("", element),
    };
    let protocols =
        ["tcp", "udp"].into_iter().filter(|one| rest.starts_with(one) || rest.starts_with(char::is_numeric));
    let ports = rest.trim_start_matches(char::is_alphabetic).trim_start_matches(':');
    let lines = protocols.map(|protocol| format!("{host}{ports}/{protocol}"));
    lines.filter(|text| text.parse::<EndpointRange>().is_ok()).collect()
}

impl Stanza {
    /// Whether there is a port to be guarded.
    pub(super) fn has_ports(&self) -> bool {
        self.taken().next().is_some()
    }

    /// Whether nothing was found at all.
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Whether it is of this unit.
    pub(super) fn is_of(&self, unit: &UnitName) -> bool {
        self.unit == unit.as_str()
    }

    /// The ports to be guarded, as the policy and `--port` take them.
    pub(super) fn taken(&self) -> impl Iterator<Item = &str> {
        self.ports.iter().filter(|port| port.is_taken).map(|port| port.endpoint.as_str())
    }

    /// As a policy takes it. A note is a comment, and so is a port that is not taken.
    pub(super) fn toml(&self) -> String {
        let quote = if self.unit.contains('\\') { '\'' } else { '"' };
        let mut text = format!("[unit.{quote}{}{quote}]\n", self.unit);
        if self.ports.is_empty() {
            let state = self.state.as_deref().unwrap_or("unknown");
            let unit = printable(&self.unit);
            let _ = writeln!(text, "# {unit} has no port now (it is {state}): start it, and learn again.\nports = []");
            return text;
        }
        text += "ports = [\n";
        for port in &self.ports {
            let hash = if port.is_taken { "" } else { "# " };
            let note = port.note.as_ref().map(|note| format!(" # {}", printable(note))).unwrap_or_default();
            let _ = writeln!(text, "    {hash}\"{}\",{note}", port.endpoint);
        }
        text + "]\n"
    }
}

impl Document for Learnt {
    const KIND: &'static str = "learn";

    fn print(&self, page: &mut Page) {
        for (index, stanza) in self.units.iter().enumerate() {
            if index > 0 {
                page.gap();
            }
            page.verbatim(&stanza.toml());
        }
        for sentence in &self.unseen {
            page.verbatim(&format!("# not seen: {}\n", printable(sentence)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::Policy;

    #[test]
    fn addresses_are_written_as_the_policy_takes_them() {
        let (v4, v6): (IpAddr, IpAddr) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let v6_local: IpAddr = "::1".parse().unwrap();
        let of = |sockets: &[(IpAddr, bool)]| endpoints(sockets, 80, Protocol::Tcp);
        assert_eq!(of(&[(v6, false)]), ["80/tcp"]);
        assert_eq!(of(&[(v4, false), (v6, true)]), ["80/tcp"]);
        assert_eq!(of(&[(v4, false)]), ["0.0.0.0:80/tcp"]);
        assert_eq!(of(&[(v6, true)]), ["[::]:80/tcp"]);
        assert_eq!(of(&[(local, false), (v6_local, true), (local, false)]), ["127.0.0.1:80/tcp", "[::1]:80/tcp"]);
    }

    #[test]
    fn what_a_unit_may_bind_names_ports() {
        assert_eq!(allowed_ports("8080"), ["8080/tcp", "8080/udp"]);
        assert_eq!(allowed_ports("tcp:8080"), ["8080/tcp"]);
        assert_eq!(allowed_ports("ipv4:8080"), ["0.0.0.0:8080/tcp", "0.0.0.0:8080/udp"]);
        assert_eq!(allowed_ports("ipv6:udp:53-54"), ["[::]:53-54/udp"]);
        // As all versions of systemctl print it.
        assert_eq!(allowed_ports("tcp7000"), ["7000/tcp"]);
        assert_eq!(allowed_ports("ipv4:tcp8080-8090"), ["0.0.0.0:8080-8090/tcp"]);
        assert!(allowed_ports("udpany").is_empty() && allowed_ports("ipv6:any").is_empty());
        assert!(allowed_ports("any").is_empty() && allowed_ports("ipv4:tcp").is_empty());
        assert!(allowed_ports("a:b:c:d").is_empty());
    }

    #[test]
    fn what_is_learnt_is_a_policy_in_which_notes_are_comments() {
        let line = |endpoint: &str, is_taken, note: Option<&str>| PortLine {
            endpoint: endpoint.to_owned(),
            is_taken,
            note: note.map(str::to_owned),
        };
        for unit in ["app.service", r"a\x2db.service"] {
            let stanza = Stanza {
                unit: unit.to_owned(),
                state: Some("active".to_owned()),
                ports: vec![
                    line("80/tcp", true, Some("shared with x\ny.service")),
                    line("40000/udp", false, Some("in the range")),
                ],
            };
            let policy = Policy::parse(&stanza.toml(), Path::new("learnt")).unwrap();
            let rules = policy.rules_for(&unit.parse().unwrap(), &|_| None, &[]).unwrap();
            assert_eq!(rules.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80/tcp"]);
            assert!(stanza.has_ports());
        }
        let none = Stanza { unit: "a.service".to_owned(), state: None, ports: Vec::new() };
        assert!(!none.has_ports() && Policy::parse(&none.toml(), Path::new("learnt")).is_ok());
    }
}
