//! The sentences and their fields. Nothing is sent here, and nothing read but the names of users.
//!
//! Whatever another process chose (its name, its arguments, its paths) goes through [`printable`] before it is shown.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use log::Level;

use super::{Entry, holder_unit};
use crate::act::Step;
use crate::model::{
    Action, Endpoint, Finding, Host, Outcome, Owner, Pid, Probe, Process, Protocol, Relation, UnitName, printable,
};
use crate::observe::users::user_name;
use crate::timespan;

/// Message ids, stable for ever: `journalctl MESSAGE_ID=…` and the catalog find them.
mod id {
    pub(super) const FINDING: &str = "32c9727883fd4e3e9b8a739b4077c42b";
    pub(super) const SIGNAL: &str = "b66a13058c0b4054839ea3cfe0b4f95c";
    pub(super) const NO_PORTS: &str = "ab2bdecde2d844b39adc2af7462980a7";
    pub(super) const FREE: &str = "fd724499beb04de1aae63904eca1141a";
    pub(super) const PASSED: &str = "e011ec8671144a41ba01873c23f0e2ed";
    pub(super) const FREED: &str = "3a5471e832e343348ddb7be4dbb3e021";
    pub(super) const DRY_RUN: &str = "e1c9249c8a39482bb82e632457126c5b";
    pub(super) const REFUSED: &str = "9e730c75146241839e98b653f60de5c1";
    pub(super) const STILL_HELD: &str = "c0f9a60aba8f4885b58db5e25f49092b";
    pub(super) const NOT_PERMITTED: &str = "f0c17cf7e41740f8b491bf497f308e67";
    pub(super) const BAD_POLICY: &str = "44dff04284d241179c01e5dd319c2e35";
    pub(super) const INTERNAL: &str = "8f3ad1a5ce3b4bd9a7ee6f0e8a0ad2c7";
}

/// Whom the sentences are about, and where they are said.
pub(super) struct About {
    pub(super) unit: UnitName,
    /// The unit is in the calling user's own manager.
    pub(super) user: bool,
    pub(super) dry_run: bool,
    /// The folder of passwd.
    pub(super) etc: PathBuf,
}

/// At most this many characters of somebody else's command line.
const MAX_COMMAND: usize = 100;

/// The command of a process for a human: its arguments, else its name; escaped, and cut at a hundred characters.
fn command_of(process: &Process) -> String {
    let command = if process.argv.is_empty() { process.comm.clone() } else { process.argv.join(" ") };
    // Its own quotes must not end ours.
    let shown = printable(&command).replace('"', "\\\"");
    match shown.char_indices().nth(MAX_COMMAND) {
        Some((cut, _)) => format!("{}…", &shown[..cut]),
        None => shown,
    }
}

/// `pid 12 (nginx, user www-data: "nginx: worker process")`
fn who(process: &Process, etc: &Path) -> String {
    let (name, user, command) = (printable(&process.comm), user_name(etc, process.uid), command_of(process));
    format!("pid {} ({name}, user {}: \"{command}\")", process.pid, printable(&user))
}

/// One holder: who, how it stands to the unit, what is done, and what to type next.
pub(super) fn finding(finding: &Finding, about: &About) -> Entry {
    let unit = &about.unit;
    let holder = finding.holder.as_ref();
    let level = match finding.action {
        Action::Refuse => Level::Error,
        Action::Pass if is_expected(finding) => Level::Info,
        Action::Stop | Action::Wait | Action::Pass => Level::Warn,
    };
    let subject = match holder {
        Some(process) => format!("{} is held by {}", finding.endpoint, who(process, &about.etc)),
        None => finding.endpoint.to_string(),
    };
    let message = [subject, relation(finding, unit), decision(finding, about.dry_run), next(finding, about)].concat();
    Entry::new(level, message)
        .with("MESSAGE_ID", &id::FINDING)
        .with("PORTGUARD_UNIT", &unit)
        .with("PORTGUARD_ENDPOINT", &finding.endpoint)
        .with("PORTGUARD_RELATION", &finding.relation.word())
        .with("PORTGUARD_ACTION", &finding.action)
        .with_some("PORTGUARD_HOLDER_PID", holder.map(|process| process.pid))
        .with_some("PORTGUARD_HOLDER_UID", holder.map(|process| process.uid))
        .with_some("PORTGUARD_HOLDER_UNIT", holder.and_then(holder_unit).or_else(|| unit_of_relation(finding)))
        .with_some(
            "PORTGUARD_HOLDER_EXE",
            holder.and_then(|p| p.exe.as_ref()).map(|exe| printable(&exe.to_string_lossy())),
        )
}

fn unit_of_relation(finding: &Finding) -> Option<String> {
    match (&finding.relation, &finding.birthplace) {
        (Relation::OwnSocketUnit(unit) | Relation::OtherSocketUnit(unit), _)
        | (_, Some(Owner::Unit(unit) | Owner::UserUnit { unit, .. })) => Some(unit.to_string()),
        _ => None,
    }
}

/// How it stands to the unit, as the rest of a sentence that began with the endpoint and the holder, and the word for
/// it that the fields and the documentation have.
fn relation(finding: &Finding, unit: &UnitName) -> String {
    let word = finding.relation.word();
    let phrase = match &finding.relation {
        Relation::Leftover => return format!(", a leftover of an earlier run of {unit}"),
        Relation::Escaped => return format!(", escaped from an earlier run of {unit}, as the ledger proves"),
        Relation::OwnSocketUnit(own) => format!("{}, listening for {own}, which hands it to {unit}", by_init(finding)),
        Relation::OtherSocketUnit(other) => format!("{}, listening for {other}", by_init(finding)),
        Relation::OwnFdStore => format!(", in the file descriptor store of {unit}"),
        Relation::OwnStart => format!(", which an earlier ExecStartPre= of this very start of {unit} left running"),
        Relation::OwnRun => format!(", which is part of {unit} as it runs now"),
        Relation::Heir => {
            format!(", with a socket that an earlier run of {unit} made; it is not proven to be of that run")
        }
        Relation::Unproven => format!(", in the cgroup of {unit}; of which run could not be proven"),
        Relation::Sibling(other) | Relation::OtherUnit(other) => format!(", which belongs to {other}"),
        Relation::Twin { uid: None } => format!(", which belongs to {unit} of the system manager"),
        Relation::Twin { uid: Some(uid) } => format!(", which belongs to {unit} in the manager of uid {uid}"),
        Relation::OtherUserUnit { uid, unit } => format!(", which belongs to {unit} in the manager of uid {uid}"),
        Relation::Manager => ", and for which unit could not be told".to_owned(),
        Relation::Session { id } => format!(", which belongs to login session {id}"),
        Relation::OtherProcess => ", which belongs to no unit".to_owned(),
        Relation::Client => client(finding),
        Relation::TimeWait => " is still in TIME_WAIT after a connection that ended".to_owned(),
        Relation::KernelHeld => format!(" is held by no process, but by the kernel itself{}", born(finding)),
        Relation::Hidden => format!(" is held by a process that could not be looked into{}", born(finding)),
        Relation::Unexplained => " is held, and by whom could not be made out".to_owned(),
        Relation::NotBindable(probe) => not_bindable(*probe),
    };
    format!("{phrase} ({word})")
}

/// Without privilege PID 1 cannot be looked into, and only the socket's birth tells that it is the one.
fn by_init(finding: &Finding) -> &'static str {
    if finding.holder.is_some() { "" } else { " is held by PID 1" }
}

fn not_bindable(probe: Probe) -> String {
    match probe {
        Probe::NotLocal => " is at an address that this host does not have, or not yet".to_owned(),
        Probe::Denied => " may not be bound by portguard, so whether it is free was not seen".to_owned(),
        Probe::Failed(errno) => format!(" could not be tried: {}", std::io::Error::from_raw_os_error(errno)),
        Probe::Free | Probe::Busy => " could not be tried".to_owned(),
    }
}

fn client(finding: &Finding) -> String {
    let peer = finding.socket.as_ref().and_then(|socket| socket.peer);
    let peer = peer.map(|peer| format!(" to {peer}")).unwrap_or_default();
    match (&finding.holder, &finding.birthplace) {
        (Some(process), _) => match holder_unit(process) {
            Some(unit) => format!(", as the near end of a connection{peer}; it belongs to {unit}"),
            None => format!(", as the near end of a connection{peer}"),
        },
        (None, _) => format!(" is the near end of a connection{peer}"),
    }
}

fn born(finding: &Finding) -> String {
    match &finding.birthplace {
        Some(Owner::Unit(unit)) => format!(", with a socket that {unit} made"),
        Some(Owner::UserUnit { uid, unit }) => format!(", with a socket that {unit} of uid {uid} made"),
        Some(Owner::Session(session)) => format!(", with a socket that login session {} made", session.id),
        Some(Owner::Init | Owner::Nobody | Owner::Unknown) | None => String::new(),
    }
}

/// Held for the unit itself, as it should be.
fn is_expected(finding: &Finding) -> bool {
    matches!(finding.relation, Relation::OwnSocketUnit(_) | Relation::OwnFdStore)
}

fn decision(finding: &Finding, dry_run: bool) -> String {
    match (finding.action, finding.protected) {
        (Action::Stop, _) if dry_run => "; would stop it".to_owned(),
        (Action::Stop, _) => "; stopping it".to_owned(),
        (Action::Wait, _) if dry_run => "; would wait for it".to_owned(),
        (Action::Wait, _) => "; waiting for it".to_owned(),
        (Action::Pass, _) if is_expected(finding) => "; not in the way".to_owned(),
        (Action::Pass, _) if matches!(finding.relation, Relation::NotBindable(_)) => "; left to the service".to_owned(),
        (Action::Pass, _) => "; ignored, as the policy says".to_owned(),
        (Action::Refuse, Some(why)) => format!("; not touched, as {why}"),
        (Action::Refuse, None) => "; not touched".to_owned(),
    }
}

/// What to type next; empty where nothing needs to be typed.
fn next(finding: &Finding, about: &About) -> String {
    if finding.action != Action::Refuse {
        return String::new();
    }
    let advice = advice(finding, about);
    let only_ipv6 = finding.socket.as_ref().is_some_and(|socket| socket.local.is_ipv6() && socket.v6only);
    let ipv4 = Endpoint { host: Host::Ip(Ipv4Addr::UNSPECIFIED.into()), ..finding.endpoint };
    if finding.endpoint.host == Host::Any && only_ipv6 {
        format!(". Next: {advice}; or, if {} binds IPv4 alone, write {ipv4} in the policy", about.unit)
    } else {
        format!(". Next: {advice}")
    }
}

fn advice(finding: &Finding, about: &About) -> String {
    let (unit, own) = (&about.unit, if about.user { "systemctl --user" } else { "systemctl" });
    match &finding.relation {
        Relation::OtherUnit(other) | Relation::Sibling(other) => stop_unit("systemctl", other),
        Relation::OtherSocketUnit(other) => format!("{own} stop {}", shell(other)),
        Relation::OtherUserUnit { uid, unit } if about.user && own_uid() == *uid => stop_unit("systemctl --user", unit),
        Relation::OtherUserUnit { uid, unit } => stop_unit(&format!("systemctl --user -M {uid}@"), unit),
        Relation::Twin { uid: None } => stop_unit("systemctl", unit),
        Relation::Twin { uid: Some(uid) } => stop_unit(&format!("systemctl --user -M {uid}@"), unit),
        Relation::OwnRun => format!("it is running; {own} restart {}", shell(unit)),
        Relation::OwnStart => format!("correct the ExecStartPre= lines: {own} cat {}", shell(unit)),
        Relation::Session { id } => format!("loginctl session-status {id}, and end it there; or {}", by_pid(finding)),
        Relation::Hidden if about.user || is_root() => format!("as root, {}", look(finding.endpoint)),
        Relation::Hidden => format!(
            "let portguard see it: ExecStartPre=+/usr/bin/portguard --unit {unit} (mind the plus); or, as root, {}",
            look(finding.endpoint)
        ),
        Relation::Leftover | Relation::Escaped if finding.protected.is_none() => {
            format!("allow it: on-stale = \"stop\" for {unit} in the policy; or {}", by_pid(finding))
        }
        Relation::Client => format!(
            "wait until the connection ends; and keep the port out of the ephemeral range: \
             sysctl net.ipv4.ip_local_reserved_ports={}",
            finding.endpoint.port
        ),
        Relation::OwnSocketUnit(_)
        | Relation::OwnFdStore
        | Relation::Leftover
        | Relation::Escaped
        | Relation::Heir
        | Relation::Unproven
        | Relation::Manager
        | Relation::OtherProcess
        | Relation::TimeWait
        | Relation::KernelHeld
        | Relation::Unexplained
        | Relation::NotBindable(_) => by_pid(finding),
    }
}

/// `systemctl stop` of a unit that is not active does nothing, also where processes of it are left over.
fn stop_unit(systemctl: &str, unit: &UnitName) -> String {
    let unit = shell(unit);
    format!("{systemctl} stop {unit} (if it is not active, what it left behind: {systemctl} kill {unit})")
}

fn by_pid(finding: &Finding) -> String {
    match &finding.holder {
        Some(process) if process.pid > Pid::INIT => {
            format!("see `systemctl status {0}`, and end it yourself: kill {0}", process.pid)
        }
        Some(_) | None => look(finding.endpoint),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn look(endpoint: Endpoint) -> String {
    let table = match endpoint.protocol {
        Protocol::Tcp => "-Htanp",
        Protocol::Udp => "-Huanp",
    };
    format!("ss {table} 'sport = :{}'", endpoint.port)
}

/// A unit name as a shell takes it: `\x2d` needs its quotes.
fn shell(unit: &UnitName) -> String {
    if unit.as_str().contains('\\') { format!("'{unit}'") } else { unit.to_string() }
}

/// A step of stopping.
pub(super) fn step(step: &Step<'_>, unit: &UnitName) -> Entry {
    let entry = match step {
        Step::Signal { process, signal } => {
            Entry::new(Level::Warn, format!("sending {signal} to pid {} ({})", process.pid, printable(&process.comm)))
                .with("OBJECT_PID", &process.pid)
                .with("PORTGUARD_SIGNAL", &signal)
        }
        Step::Ended { process, after } => Entry::new(
            Level::Info,
            format!("pid {} ({}) ended after {}", process.pid, printable(&process.comm), timespan::show(*after)),
        ),
        Step::LetGo { process, after } => Entry::new(
            Level::Info,
            format!(
                "pid {} ({}) let go of the port after {}, and may end in its own time",
                process.pid,
                printable(&process.comm),
                timespan::show(*after),
            ),
        ),
        Step::Changed { process, why } => Entry::new(
            Level::Warn,
            format!("pid {} ({}) is not signalled: {why}; looking again", process.pid, printable(&process.comm)),
        ),
    };
    let process = step.process();
    entry
        .with("MESSAGE_ID", &id::SIGNAL)
        .with("PORTGUARD_UNIT", &unit)
        .with("PORTGUARD_HOLDER_PID", &process.pid)
        .with_some("PORTGUARD_HOLDER_UNIT", holder_unit(process))
}

/// How it ended.
pub(super) fn outcome(outcome: &Outcome, unit: &UnitName, endpoints: &[Endpoint], findings: &[Finding]) -> Vec<Entry> {
    let ports = list(endpoints.iter().map(ToString::to_string));
    let held = || {
        let mut held: Vec<Endpoint> =
            findings.iter().filter(|finding| finding.action != Action::Pass).map(|finding| finding.endpoint).collect();
        held.dedup();
        list(held.iter().map(ToString::to_string))
    };
    let (level, message_id, messages) = match outcome {
        Outcome::NoPorts => (
            Level::Warn,
            id::NO_PORTS,
            vec![format!(
                "nothing to guard: no port of {unit} is named; add [unit.\"{unit}\"] with ports = [\"8080/tcp\"] to /etc/portguard/portguard.toml"
            )],
        ),
        Outcome::Free => (Level::Info, id::FREE, vec![format!("{ports} free; {unit} may start")]),
        Outcome::Passed => (Level::Info, id::PASSED, vec![format!("{ports}: {unit} may start beside what was found")]),
        Outcome::Freed { stopped, took } => (
            Level::Info,
            id::FREED,
            vec![format!(
                "{ports} free; {unit} may start, after {stopped} left-over {} stopped within {}",
                if *stopped == 1 { "process was" } else { "processes were" },
                timespan::show(*took),
            )],
        ),
        Outcome::WouldStop => (
            Level::Info,
            id::DRY_RUN,
            vec![format!("dry run: would stop what is left over and free {} for {unit}", held())],
        ),
        Outcome::WouldWait => (Level::Info, id::DRY_RUN, vec![format!("dry run: would wait for {}", held())]),
        Outcome::Refused { stopped: 0 } => (
            Level::Error,
            id::REFUSED,
            vec![format!("{} held; {unit} must not start, and nothing was touched", held())],
        ),
        Outcome::Refused { stopped } => (
            Level::Error,
            id::REFUSED,
            vec![format!("{} held, after {stopped} left-over processes were stopped; {unit} must not start", held())],
        ),
        Outcome::StillHeld { took, why } => (
            Level::Error,
            id::STILL_HELD,
            vec![format!(
                "{} still held after {}: {}; {unit} must not start",
                held(),
                timespan::show(*took),
                printable(why)
            )],
        ),
        Outcome::NotPermitted(why) => (
            Level::Error,
            id::NOT_PERMITTED,
            vec![format!(
                "{} held, and {}; {unit} must not start. Next: ExecStartPre=+/usr/bin/portguard --unit {unit} (mind the plus)",
                held(),
                printable(why)
            )],
        ),
        Outcome::BadPolicy(problems) => {
            let count = problems.len();
            let mut lines: Vec<String> = problems.iter().map(|problem| printable(problem)).collect();
            lines.push(format!(
                "the policy has {count} {}; {unit} must not start, and nothing was touched",
                if count == 1 { "problem" } else { "problems" }
            ));
            (Level::Error, id::BAD_POLICY, lines)
        }
        Outcome::Internal(why) => {
            (Level::Error, id::INTERNAL, vec![format!("portguard itself failed: {}", printable(why))])
        }
    };
    messages
        .into_iter()
        .map(|message| {
            Entry::new(level, message)
                .with("MESSAGE_ID", &message_id)
                .with("PORTGUARD_VERDICT", &outcome.word())
                .with("PORTGUARD_UNIT", &unit)
                .with("PORTGUARD_EXIT_STATUS", &outcome.exit_status())
        })
        .collect()
}

/// `a, b, c`, and a count instead of a long tail.
fn list(items: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let all: Vec<String> = items.collect();
    match all.len() {
        0 => "no port".to_owned(),
        1..=SHOWN => all.join(", "),
        more => format!("{} and {} more", all[..SHOWN].join(", "), more - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const README: &str = include_str!("../../README.md");

    fn outcomes() -> Vec<Outcome> {
        let took = Duration::from_millis(12);
        vec![
            Outcome::NoPorts,
            Outcome::Free,
            Outcome::Passed,
            Outcome::Freed { stopped: 1, took },
            Outcome::WouldStop,
            Outcome::WouldWait,
            Outcome::Refused { stopped: 0 },
            Outcome::StillHeld { took, why: "it does not end".to_owned() },
            Outcome::NotPermitted("why".to_owned()),
            Outcome::BadPolicy(vec!["policy.toml:3:1: unknown key".to_owned()]),
            Outcome::Internal("why".to_owned()),
        ]
    }

    #[test]
    fn every_verdict_message_id_and_exit_status_is_in_the_readme() {
        let unit: UnitName = "app.service".parse().unwrap();
        for end in outcomes() {
            let entries = outcome(&end, &unit, &[], &[]);
            let last = entries.last().unwrap();
            let field = |wanted| last.fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value).unwrap();
            assert!(README.contains(&format!("`{}`", field("PORTGUARD_VERDICT"))), "{end:?}");
            assert!(README.contains(&format!("| `{}` |", field("MESSAGE_ID"))), "{end:?}");
            assert!(README.contains(&format!("\n| {} | ", end.exit_status())), "{end:?}");
        }
        assert!(README.contains(id::FINDING) && README.contains(id::SIGNAL));
    }

    #[test]
    fn every_verdict_but_that_of_the_policy_is_one_line_about_the_unit() {
        let unit: UnitName = "app.service".parse().unwrap();
        for end in outcomes() {
            let entries = outcome(&end, &unit, &[], &[]);
            assert_eq!(entries.len(), if matches!(end, Outcome::BadPolicy(_)) { 2 } else { 1 }, "{end:?}");
            assert!(!entries.iter().any(|entry| entry.message.chars().any(char::is_control)), "{end:?}");
        }
    }
}
