//! What to type next: for each refusal the command that is right for it, as a shell takes it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::words::About;
use crate::model::{
    Action, ActiveState, Container, Endpoint, Engine, Finding, Hindrance, Host, Obstacle, Owner, Pid, Protocol,
    Relation, UnitName,
};
use crate::observe::users::user_name;

/// The end of a line, and what of it can be typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// As part of a sentence, with the command in it.
    pub(super) text: String,
    /// The command alone: what frees the port, or shows more where nothing is known that does.
    pub(super) command: String,
}

impl Advice {
    /// The command, and nothing else to say.
    fn plain(command: impl Into<String>) -> Self {
        let command = command.into();
        Self { text: command.clone(), command }
    }

    fn before(self, more: &str) -> Self {
        Self { text: format!("{}{more}", self.text), ..self }
    }

    fn after(self, more: &str) -> Self {
        Self { text: format!("{more}{}", self.text), ..self }
    }
}

/// What to type about a holder that is refused.
pub(super) fn advice(finding: &Finding, about: &About) -> Advice {
    let advice = for_relation(finding, about);
    let only_ipv6 = finding.socket.as_ref().is_some_and(|socket| {
        // What is mapped is in the way of IPv4.
        matches!(socket.local.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_none()) && socket.v6only
    });
    if finding.endpoint.host == Host::Any && only_ipv6 {
        let ipv4 = Endpoint { host: Host::Ip(Ipv4Addr::UNSPECIFIED.into()), ..finding.endpoint };
        return advice.before(&format!("; or, if {} binds IPv4 alone, write {ipv4} in the policy", about.unit));
    }
    advice
}

fn for_relation(finding: &Finding, about: &About) -> Advice {
    let (unit, own) = (&about.unit, own_systemctl(about));
    match &finding.relation {
        Relation::OtherUnit(other) | Relation::Sibling(other) => {
            let stop = stop_unit("systemctl", other, finding.unit_state);
            // Only what is up can be taken over from, and in the unit's own manager.
            let replaceable = finding.unit_state == ActiveState::Up && !about.user && other.protection().is_none();
            if replaceable { stop.before(&format!("; or let {unit} do it: {}", replaces(&[other]))) } else { stop }
        }
        // The manager itself has it, for a socket unit that only it can name.
        Relation::OtherUserUnit { uid, unit: other } if other.as_str() == "init.scope" => {
            Advice::plain(format!("{} list-sockets", user_systemctl(*uid, about)))
                .before(" tells which of its socket units to stop")
        }
        Relation::OtherUserUnit { uid, unit: other } => {
            let systemctl = user_systemctl(*uid, about);
            stop_unit(&systemctl, other, finding.unit_state)
        }
        Relation::Predecessor(other) => for_predecessor(finding, other, about),
        Relation::OtherSocketUnit(other) => Advice::plain(format!("{own} stop {}", shell(other))),
        Relation::Twin { uid: None } => stop_unit("systemctl", unit, ActiveState::Up),
        Relation::Twin { uid: Some(uid) } => stop_unit(&user_systemctl(*uid, about), unit, ActiveState::Up),
        Relation::OwnRun => Advice::plain(format!("{own} restart {}", shell(unit))).after("it is running; "),
        Relation::OwnStart => {
            Advice::plain(format!("{own} cat {}", shell(unit))).after("correct the ExecStartPre= lines: ")
        }
        Relation::Container(container) => stop_container(container, finding, about),
        Relation::Session { id } => {
            by_pid(finding).after(&format!("loginctl session-status {id}, and end it there; or "))
        }
        Relation::Lookalike if finding.obstacle.is_none() => by_pid(finding)
            .before(&format!("; or, if such may be stopped, on-lookalike = \"stop\" for {unit} in the policy")),
        Relation::Hidden if about.user || is_root() => look(finding.endpoint).after("as root, "),
        Relation::Hidden => look(finding.endpoint).after(&format!(
            "let portguard see it: ExecStartPre=+/usr/bin/portguard --unit {unit} (mind the plus); or, as root, "
        )),
        Relation::Leftover | Relation::Escaped if finding.action == Action::Refuse && finding.obstacle.is_none() => {
            by_pid(finding).after(&format!("allow it: on-stale = \"stop\" for {unit} in the policy; or "))
        }
        // Of the unit's own it is refused that not all could be looked at who may have it as well.
        Relation::Unchecked(_) | Relation::OwnSocketUnit(_) | Relation::OwnFdStore => look(finding.endpoint)
            .after(&format!("let the service try: on-blind = \"allow\" for {unit} in the policy; or, as root, ")),
        Relation::Client => reserve(finding, about),
        Relation::KernelHeld => for_kernel_held(finding, about),
        Relation::Leftover
        | Relation::Escaped
        | Relation::Lookalike
        | Relation::Heir
        | Relation::Unproven
        | Relation::Manager
        | Relation::OtherProcess
        | Relation::TimeWait
        | Relation::Unexplained
        | Relation::NotBindable(_) => by_pid(finding),
    }
}

/// `systemctl stop` of a unit that is not active does nothing, also where processes of it are left over.
fn stop_unit(systemctl: &str, unit: &UnitName, state: ActiveState) -> Advice {
    let unit = shell(unit);
    match state {
        ActiveState::Up | ActiveState::Stopping => Advice::plain(format!("{systemctl} stop {unit}")),
        ActiveState::Down => {
            Advice::plain(format!("{systemctl} kill {unit}")).before(" (it is not active, and left that behind)")
        }
        ActiveState::Unknown => Advice::plain(format!("{systemctl} stop {unit}"))
            .before(&format!(" (if it is not active, what it left behind: {systemctl} kill {unit})")),
    }
}

/// What keeps it is nearly always what made it: a process with the message or the `io_uring`, or one for which the
/// kernel serves.
fn for_kernel_held(finding: &Finding, about: &About) -> Advice {
    match &finding.birthplace {
        Some(Owner::Unit(maker)) if maker.protection().is_none() => stop_unit("systemctl", maker, finding.unit_state),
        Some(Owner::UserUnit { uid, unit: maker }) if maker.protection().is_none() => {
            stop_unit(&user_systemctl(*uid, about), maker, finding.unit_state)
        }
        _ => look(finding.endpoint).before(match finding.endpoint.protocol {
            Protocol::Tcp => "; of the kernel's own, NFS is in /proc/fs/nfsd/portlist",
            Protocol::Udp => "; of the kernel's own, WireGuard's are shown by wg show all listen-port",
        }),
    }
}

fn for_predecessor(finding: &Finding, other: &UnitName, about: &About) -> Advice {
    let stop = stop_unit(own_systemctl(about), other, finding.unit_state);
    match &finding.obstacle {
        Some(Obstacle::StopsToo(units)) if units.contains(&about.unit) => stop
            .before(&format!(" stops {0} as well: take it out of {0}'s Requires=, BindsTo= and PartOf=", about.unit)),
        Some(Obstacle::StopsToo(units)) => {
            let all: Vec<&UnitName> = std::iter::once(other).chain(units).collect();
            stop.before(&format!("; or, if they may go as well, {}", replaces(&all)))
        }
        Some(Obstacle::RefusesStop) => Advice::plain(format!("{} cat {}", own_systemctl(about), shell(other)))
            .before(" says what it is for, and has RefuseManualStop="),
        Some(Obstacle::Protected(_) | Obstacle::NotActive | Obstacle::Untold | Obstacle::Unseen) | None => stop,
    }
}

/// As TOML takes it: in single quotes a backslash is one.
fn replaces(units: &[&UnitName]) -> String {
    let quoted = |unit: &&UnitName| {
        if unit.as_str().contains('\\') { format!("'{unit}'") } else { format!("\"{unit}\"") }
    };
    format!("replaces = [{}]", units.iter().map(quoted).collect::<Vec<_>>().join(", "))
}

/// The words of each engine's own tool. The name has nothing in it that a shell would take for more.
fn stop_container(container: &Container, finding: &Finding, about: &About) -> Advice {
    let list = |tool: &str| Advice::plain(format!("{tool} ps")).before(" tells which, and can stop it");
    let advice = match (container.engine, container.name.as_deref()) {
        (Engine::Docker, Some(name)) => Advice::plain(format!("docker stop {name}")),
        (Engine::Docker, None) => {
            let Endpoint { port, protocol, .. } = finding.endpoint;
            Advice::plain(format!("docker ps --filter publish={port}/{protocol}")).before(" tells which to stop")
        }
        (Engine::Podman, Some(name)) => Advice::plain(format!("podman stop {name}")),
        (Engine::Podman, None) => list("podman"),
        (Engine::Nerdctl, Some(name)) => Advice::plain(format!("nerdctl stop {name}")),
        (Engine::Nerdctl, None) => list("nerdctl"),
        (Engine::Cri, Some(name)) => Advice::plain(format!("crictl stop {name}")),
        (Engine::Cri, None) => list("crictl"),
        (Engine::Machined, name) if machine_unit(finding).is_some() => {
            let stop = Advice::plain(format!("systemctl stop {}", machine_unit(finding).unwrap_or_default()));
            let poweroff = name.map(|name| format!("machinectl poweroff {name}; or "));
            stop.after(poweroff.as_deref().unwrap_or_default())
        }
        (Engine::Machined, Some(name)) => Advice::plain(format!("machinectl terminate {name}")),
        (Engine::Machined, None) => Advice::plain("machinectl list").before(" tells which to power off"),
        (Engine::Lxc, Some(name)) => Advice::plain(format!("lxc-stop -n {name}")),
        (Engine::Lxc, None) => Advice::plain("lxc-ls -f").before(" tells which to stop"),
    };
    // A container of a user is there for that user alone.
    match finding.holder.as_ref().map(|holder| &holder.owner) {
        Some(Owner::UserUnit { uid, .. }) if !about.user && *uid != 0 => {
            let command = format!("{} {}", as_user(*uid, about), advice.command);
            Advice { text: advice.text.replacen(&advice.command, &command, 1), command }
        }
        _ => advice,
    }
}

/// The unit of a machine: to stop it does what is right also for one that systemd-machined does not know, or that runs no
/// init which could be told to power off.
fn machine_unit(finding: &Finding) -> Option<String> {
    match finding.holder.as_ref().map(|holder| &holder.owner) {
        Some(Owner::Unit(unit)) => Some(shell(unit)),
        Some(Owner::UserUnit { .. } | Owner::Session(_) | Owner::Init | Owner::Nobody | Owner::Unknown) | None => None,
    }
}

/// The port is one that the kernel gives to clients. The list is set as a whole, so what is in it has to stay in it.
fn reserve(finding: &Finding, about: &About) -> Advice {
    let list = std::fs::read_to_string(about.proc.join("sys/net/ipv4/ip_local_reserved_ports")).unwrap_or_default();
    let reserved = reserved_with(list.trim(), finding.endpoint.port.get());
    Advice::plain(in_network_of(finding, about, &format!("sysctl -w net.ipv4.ip_local_reserved_ports={reserved}")))
        .after("wait until the connection ends; and keep the port from clients: ")
        .before(" (and in /etc/sysctl.d, to last)")
}

/// The command as it has to be typed on the host: with `PrivateNetwork=` and its like, what is seen here is not there.
fn in_network_of(finding: &Finding, about: &About, command: &str) -> String {
    let network = |of: &str| std::fs::read_link(about.proc.join(of).join("ns/net")).ok();
    match (network("self"), network("1"), &finding.holder) {
        (Some(own), Some(hosts), Some(holder)) if own != hosts => format!("nsenter -t {} -n {command}", holder.pid),
        _ => command.to_owned(),
    }
}

/// The list of `ip_local_reserved_ports` with one port more, or as it is where that is in it.
fn reserved_with(reserved: &str, port: u16) -> String {
    let covers = |part: &str| match part.split_once('-') {
        Some((from, to)) => {
            from.parse().is_ok_and(|from: u16| from <= port) && to.parse().is_ok_and(|to: u16| port <= to)
        }
        None => part.parse() == Ok(port),
    };
    match reserved {
        "" => port.to_string(),
        some if some.split(',').any(covers) => some.to_owned(),
        some => format!("{some},{port}"),
    }
}

/// What to type about one that was to be stopped, and has not ended.
pub(super) fn advice_for_hindered(pid: Pid, hindrance: &Hindrance, unit: Option<&UnitName>, about: &About) -> Advice {
    match (hindrance, unit) {
        // `job_perform_on_unit()`: since v256 systemd does not stop what was frozen by hand.
        (Hindrance::Frozen, Some(unit)) => Advice::plain(format!("{} thaw {}", own_systemctl(about), shell(unit))),
        (hindrance, _) => for_hindrance(pid, hindrance),
    }
}

fn for_hindrance(pid: Pid, hindrance: &Hindrance) -> Advice {
    match hindrance {
        Hindrance::InTheKernel { .. } => Advice::plain(format!("cat /proc/{pid}/stack")).before(
            " shows for what it waits: it ends when that disk or network answers, and no signal ends it before",
        ),
        Hindrance::Traced { by, .. } => Advice::plain(format!("kill {by}")).after("end its tracer: "),
        Hindrance::Frozen | Hindrance::Stopped => {
            Advice::plain(format!("kill -KILL {pid}")).after(&format!("let it go on (systemctl status {pid}), or "))
        }
    }
}

fn by_pid(finding: &Finding) -> Advice {
    match &finding.holder {
        // It was asked in vain.
        Some(process) if finding.action == Action::Stop => Advice::plain(format!("kill -KILL {}", process.pid)),
        Some(process) if process.pid > Pid::INIT => Advice::plain(format!("kill {}", process.pid))
            .after(&format!("see `systemctl status {}`, and end it yourself: ", process.pid)),
        Some(_) | None => look(finding.endpoint),
    }
}

fn look(endpoint: Endpoint) -> Advice {
    let table = match endpoint.protocol {
        Protocol::Tcp => "-Htanp",
        Protocol::Udp => "-Huanp",
    };
    Advice::plain(format!("ss {table} 'sport = :{}'", endpoint.port))
}

/// How the manager of the unit is reached.
#[must_use]
pub fn own_systemctl(about: &About) -> &'static str {
    if about.user { "systemctl --user" } else { "systemctl" }
}

/// The manager of a user, as that user reaches it, or as root does on every systemd (`--machine=USER@` is there since 248).
fn user_systemctl(uid: u32, about: &About) -> String {
    if about.user && own_uid() == uid {
        return "systemctl --user".to_owned();
    }
    format!("{} systemctl --user", as_user(uid, about))
}

fn as_user(uid: u32, about: &About) -> String {
    let name = user_name(Path::new(&about.etc), uid);
    let become_them = if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    {
        format!("runuser -u {name} --")
    } else {
        format!("setpriv --reuid={uid} --clear-groups --")
    };
    format!("{become_them} env XDG_RUNTIME_DIR=/run/user/{uid}")
}

/// Whether it is root that asks.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A unit name as a shell takes it: `\x2d` needs its quotes.
#[must_use]
pub fn shell(unit: &UnitName) -> String {
    let quoted = if unit.as_str().contains('\\') { format!("'{unit}'") } else { unit.to_string() };
    if quoted.starts_with(['-', '\'']) && unit.as_str().starts_with('-') { format!("-- {quoted}") } else { quoted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointRange, Protocol, Socket};

    fn about() -> About {
        let [etc, proc] = ["/nonexistent/etc", "/nonexistent/proc"].map(Into::into);
        About { unit: "app.service".parse().unwrap(), user: false, dry_run: false, etc, proc }
    }

    fn found(endpoint: &str, birthplace: Option<Owner>, relation: Relation) -> Finding {
        Finding {
            endpoint: endpoint.parse::<EndpointRange>().unwrap().endpoints().next().unwrap(),
            socket: None,
            holder: None,
            birthplace,
            relation,
            action: Action::Refuse,
            obstacle: None,
            unit_state: ActiveState::Unknown,
        }
    }

    #[test]
    fn what_no_process_has_is_freed_by_the_unit_that_made_it_where_that_may_be_stopped() {
        let unit = |name: &str| name.parse::<UnitName>().unwrap();
        let user = "setpriv --reuid=1000 --clear-groups -- env XDG_RUNTIME_DIR=/run/user/1000";
        for (maker, command) in [
            (Some(Owner::Unit(unit("web.service"))), "systemctl stop web.service".to_owned()),
            (
                Some(Owner::UserUnit { uid: 1000, unit: unit("web.service") }),
                format!("{user} systemctl --user stop web.service"),
            ),
            // A WireGuard device stays where it is without the daemon that made it, and the network goes.
            (Some(Owner::Unit(unit("systemd-networkd.service"))), "ss -Huanp 'sport = :51820'".to_owned()),
            (Some(Owner::Nobody), "ss -Huanp 'sport = :51820'".to_owned()),
            (None, "ss -Huanp 'sport = :51820'".to_owned()),
        ] {
            let finding = found("51820/udp", maker.clone(), Relation::KernelHeld);
            assert_eq!(advice(&finding, &about()).command, command, "{maker:?}");
        }
    }

    #[test]
    fn only_what_is_in_the_way_of_ipv6_alone_is_answered_with_ipv4() {
        for (local, v6only, answered) in [
            ("[::]:8080", true, true),
            ("[2001:db8::1]:8080", true, true),
            ("[::]:8080", false, false),
            ("[::ffff:192.0.2.1]:8080", true, false),
            ("0.0.0.0:8080", false, false),
        ] {
            let socket = Socket { v6only, ..Socket::listening(Protocol::Tcp, local.parse().unwrap()) };
            let finding = Finding { socket: Some(socket), ..found("8080/tcp", None, Relation::KernelHeld) };
            let text = advice(&finding, &about()).text;
            assert_eq!(text.contains("write 0.0.0.0:8080/tcp"), answered, "{local}: {text}");
        }
    }

    #[test]
    fn a_line_for_the_policy_means_the_units_that_it_was_written_for() {
        let units = ["app.service", r"a\x2db.service"].map(|name| name.parse::<UnitName>().unwrap());
        let line = replaces(&units.iter().collect::<Vec<_>>());
        let policy = format!("[unit.\"x.service\"]\n{line}\n");
        let rules = crate::policy::Policy::parse(&policy, Path::new("p")).unwrap();
        let rules = rules.rules_for(&"x.service".parse().unwrap(), &|_| None, &[]).unwrap();
        for unit in &units {
            assert!(rules.replaces.iter().any(|pattern| pattern.is_plain() && pattern.matches(unit)), "{unit}");
        }
    }

    #[test]
    fn a_unit_is_a_word_of_a_shell_and_no_option() {
        for (unit, word) in
            [("a.service", "a.service"), (r"a\x2db.service", r"'a\x2db.service'"), ("-H.service", "-- -H.service")]
        {
            assert_eq!(shell(&unit.parse().unwrap()), word);
        }
    }

    #[test]
    fn what_is_reserved_stays_reserved() {
        for (list, with) in [
            ("", "8080"),
            ("3000", "3000,8080"),
            ("3000,5000-5010", "3000,5000-5010,8080"),
            ("8000-8100", "8000-8100"),
            ("22,8080", "22,8080"),
        ] {
            assert_eq!(reserved_with(list, 8080), with);
        }
    }
}
