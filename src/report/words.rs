//! The sentences and their fields. Nothing is sent here, and nothing read but the names of users.
//!
//! Whatever another process chose (its name, its arguments, its paths) goes through [`printable`] before it is shown.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use log::Level;

use super::Entry;
use super::advice::{Advice, advice, advice_for_hindered, is_root};
use crate::act::Step;
use crate::model::{
    Action, ActiveState, Asked, Endpoint, Finding, Hindrance, Obstacle, Outcome, Owner, Pid, Probe, Process, Relation,
    UnitName, printable,
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
    pub(super) const INTERRUPTED: &str = "ea6de948274b4639a35521ac467530e1";
    pub(super) const NOT_PERMITTED: &str = "f0c17cf7e41740f8b491bf497f308e67";
    pub(super) const BAD_POLICY: &str = "44dff04284d241179c01e5dd319c2e35";
    pub(super) const INTERNAL: &str = "8f3ad1a5ce3b4bd9a7ee6f0e8a0ad2c7";
}

/// Whom the sentences are about, and where they are said.
#[derive(Clone, Debug)]
pub struct About {
    /// The guarded unit.
    pub unit: UnitName,
    /// The unit is in the calling user's own manager.
    pub user: bool,
    /// Nothing is done.
    pub dry_run: bool,
    /// The folder of passwd.
    pub etc: PathBuf,
    /// procfs, for what the kernel is set to.
    pub proc: PathBuf,
}

/// At most so many units are named that would be stopped with another.
const MAX_NAMED: usize = 8;

/// At most this many characters of somebody else's command line.
const MAX_COMMAND: usize = 100;

/// The command of a process for a human: its arguments, else its name; escaped, and cut at a hundred characters.
fn command_of(process: &Process) -> String {
    let command = if process.argv.is_empty() { process.comm.clone() } else { process.argv.join(" ") };
    let shown = quoted(&command);
    match shown.char_indices().nth(MAX_COMMAND) {
        Some((cut, _)) => format!("{}…", &shown[..cut]),
        None => shown,
    }
}

/// Text for between quotes. Its own quotes must not end ours, also behind a backslash of its own.
fn quoted(text: &str) -> String {
    printable(&text.replace('\\', r"\\").replace('"', "\\\""))
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
        Action::Stop | Action::StopUnit | Action::Wait | Action::Pass | Action::Spare => Level::Warn,
    };
    let subject = match holder {
        Some(process) => format!("{} is held by {}", finding.endpoint, who(process, &about.etc)),
        None => finding.endpoint.to_string(),
    };
    let next = (finding.action == Action::Refuse).then(|| advice(finding, about));
    let last = next.as_ref().map(|next| format!(". Next: {}", next.text)).unwrap_or_default();
    let message = [subject, device(finding), relation(finding, unit), decision(finding, about.dry_run), last].concat();
    Entry::new(level, message)
        .with("MESSAGE_ID", &id::FINDING)
        .with("PORTGUARD_UNIT", &unit)
        .with("PORTGUARD_ENDPOINT", &finding.endpoint)
        .with("PORTGUARD_RELATION", &finding.relation.word())
        .with("PORTGUARD_ACTION", &finding.action)
        .with_some("PORTGUARD_HOLDER_PID", holder.map(|process| process.pid))
        .with_some("PORTGUARD_HOLDER_UID", holder.map(|process| process.uid))
        .with_some("PORTGUARD_HOLDER_UNIT", unit_of(finding))
        .with_some(
            "PORTGUARD_HOLDER_EXE",
            holder.and_then(|p| p.exe.as_ref()).map(|exe| printable(&exe.to_string_lossy())),
        )
        .with_some("PORTGUARD_HOLDER_CONTAINER", container_name(finding))
        .with_some("PORTGUARD_NEXT", next.map(|next| next.command))
}

/// Those that have no line each: how many findings, and each process by its number.
pub(super) fn more_findings(more: &[&Finding], unit: &UnitName) -> Entry {
    let pids = pids(more.iter().filter_map(|finding| Some(finding.holder.as_ref()?.pid)));
    Entry::new(Level::Warn, format!("… and {} more findings like these: {pids}", more.len()))
        .with("PORTGUARD_UNIT", unit)
}

/// `pids 12, 14-19`, in their order.
fn pids(pids: impl Iterator<Item = Pid>) -> String {
    let mut all: Vec<i32> = pids.map(|pid| pid.0).collect();
    all.dedup();
    let mut text = String::new();
    for range in all.chunk_by(|before, after| before + 1 == *after) {
        text += if text.is_empty() { "pids " } else { ", " };
        text += &range[0].to_string();
        if let [_, .., last] = range {
            text.push('-');
            text += &last.to_string();
        }
    }
    text
}

fn container_name(finding: &Finding) -> Option<String> {
    if let Relation::Container(container) = &finding.relation { container.name.clone() } else { None }
}

/// A socket of one device is in the way of every endpoint: none has a device.
fn device(finding: &Finding) -> String {
    let device = finding.socket.as_ref().and_then(|socket| socket.device.as_ref());
    device.map(|device| format!(", on device {} alone", printable(device))).unwrap_or_default()
}

/// The socket unit for which a manager has the socket; else the unit of the process, or the one that made the socket.
#[must_use]
pub fn unit_of(finding: &Finding) -> Option<String> {
    let held_for = if let Relation::OwnSocketUnit(unit) = &finding.relation {
        Some(unit)
    } else {
        finding.relation.unit().filter(|_| finding.holder.as_ref().is_none_or(|holder| holder.is_manager()))
    };
    let born_of = match &finding.birthplace {
        Some(Owner::Unit(unit) | Owner::UserUnit { unit, .. }) => Some(unit),
        Some(Owner::Session(_) | Owner::Init | Owner::Nobody | Owner::Unknown) | None => None,
    };
    let of_process = || finding.holder.as_ref().and_then(|process| process.owner.unit_name());
    held_for.map(ToString::to_string).or_else(of_process).or_else(|| born_of.map(ToString::to_string))
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
        Relation::Predecessor(other) => match &finding.holder {
            Some(holder) if !holder.is_manager() => format!(", which belongs to {other}, which {unit} replaces"),
            Some(_) | None => format!("{}, listening for {other}, which {unit} replaces", by_init(finding)),
        },
        Relation::Lookalike => format!(
            ", which runs in no service, and is the same program as {unit}, as the same user, with the same arguments"
        ),
        Relation::Sibling(other) | Relation::OtherUnit(other) => format!(", which belongs to {other}"),
        Relation::Twin { uid: None } => format!(", which belongs to {unit} of the system manager"),
        Relation::Twin { uid: Some(uid) } => format!(", which belongs to {unit} in the manager of uid {uid}"),
        Relation::OtherUserUnit { uid, unit } => format!(", which belongs to {unit} in the manager of uid {uid}"),
        Relation::Manager => ", and for which unit could not be told".to_owned(),
        Relation::Container(container) => format!(", for {container}"),
        Relation::Session { id } => session(finding, id),
        Relation::OtherProcess => ", which belongs to no unit".to_owned(),
        Relation::Client => client(finding),
        Relation::TimeWait => " is still in TIME_WAIT after a connection that ended".to_owned(),
        Relation::KernelHeld => format!(
            " is held by no process: by the kernel itself, an io_uring, or a message that nobody has read{}",
            born(finding)
        ),
        Relation::Hidden => format!(" is held by a process that could not be looked into{}", born(finding)),
        Relation::Unexplained => " is held, and by whom could not be made out".to_owned(),
        Relation::Unchecked(Probe::Busy) => {
            format!("{}; whether that is for {unit} systemd did not say", by_init(finding))
        }
        Relation::Unchecked(probe) => format!("{}{}", not_bindable(*probe), connection_there(finding)),
        Relation::NotBindable(probe) => not_bindable(*probe),
    };
    format!("{phrase} ({word})")
}

/// `login session 3, at pts/0`
fn session(finding: &Finding, id: &str) -> String {
    let terminal = finding.holder.as_ref().and_then(|holder| holder.terminal);
    let place = terminal.map(|terminal| format!(", at {terminal}")).unwrap_or_default();
    format!(", which belongs to login session {id}{place}")
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

/// Where a connection has the port, of which only a bind tells whether it is in the way.
fn connection_there(finding: &Finding) -> String {
    let peer = finding.socket.as_ref().and_then(|socket| socket.peer);
    peer.map(|peer| format!("; a connection to {peer} has it")).unwrap_or_default()
}

fn client(finding: &Finding) -> String {
    let peer = finding.socket.as_ref().and_then(|socket| socket.peer);
    let peer = peer.map(|peer| format!(" to {peer}")).unwrap_or_default();
    match (&finding.holder, &finding.birthplace) {
        (Some(process), _) => match process.owner.unit_name() {
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
    let is_going = finding.unit_state == ActiveState::Stopping;
    match (finding.action, &finding.obstacle) {
        (Action::Stop, _) if dry_run => "; would stop it".to_owned(),
        (Action::Stop, _) => "; stopping it".to_owned(),
        (Action::StopUnit, _) if dry_run => "; would stop that unit".to_owned(),
        (Action::StopUnit, _) => "; stopping that unit".to_owned(),
        (Action::Wait, _) if dry_run => "; would wait for it".to_owned(),
        (Action::Wait, _) if is_going => "; it is on its way down, waiting for it".to_owned(),
        (Action::Wait, _) => "; waiting for it".to_owned(),
        (Action::Pass, _) if is_expected(finding) => "; not in the way".to_owned(),
        (Action::Pass, _) if matches!(finding.relation, Relation::NotBindable(_) | Relation::Unchecked(_)) => {
            "; left to the service".to_owned()
        }
        (Action::Pass, _) => "; ignored, as the policy says".to_owned(),
        (Action::Refuse, Some(Obstacle::StopsToo(units))) if units.len() > MAX_NAMED => {
            format!("; not touched, as systemd would stop {} other units as well", units.len())
        }
        (Action::Refuse, Some(why)) => format!("; not touched, as {why}"),
        (Action::Refuse, None) => "; not touched".to_owned(),
        (Action::Spare, _) => "; not stopped while another is in the way".to_owned(),
    }
}

/// A step of stopping.
pub(super) fn step(step: &Step<'_>, unit: &UnitName, hindrance: &dyn Fn(&Process) -> Option<Hindrance>) -> Entry {
    let of_process = |level, process: &Process, text: String| {
        let who = format!("pid {} ({})", process.pid, printable(&process.comm));
        Entry::new(level, text.replacen("{who}", &who, 1))
            .with("PORTGUARD_HOLDER_PID", &process.pid)
            .with_some("PORTGUARD_HOLDER_UNIT", process.owner.unit_name())
    };
    let of_unit = |level, stopped: &UnitName, text: String| {
        Entry::new(level, text).with("PORTGUARD_HOLDER_UNIT", stopped).with("OBJECT_SYSTEMD_UNIT", stopped)
    };
    let entry = match step {
        Step::Signal { process, signal } => {
            let but = hindrance(process).map(|why| format!("; {why}")).unwrap_or_default();
            of_process(Level::Warn, process, format!("sending {signal} to {{who}}{but}"))
                .with("OBJECT_PID", &process.pid)
                .with("PORTGUARD_SIGNAL", &signal)
        }
        Step::SignalMore { processes, signal } => {
            let more = pids(processes.iter().map(|process| process.pid));
            Entry::new(Level::Warn, format!("sending {signal} to {} more processes: {more}", processes.len()))
                .with("PORTGUARD_SIGNAL", &signal)
        }
        Step::EndedMore { count, after } => Entry::new(
            Level::Info,
            format!("{count} more ended or let go of the port within {}", timespan::show(*after)),
        ),
        Step::Ended { process, after } => {
            of_process(Level::Info, process, format!("{{who}} ended after {}", timespan::show(*after)))
        }
        Step::LetGo { process, after } => of_process(
            Level::Info,
            process,
            format!("{{who}} let go of the port after {}, and may end in its own time", timespan::show(*after)),
        ),
        Step::Changed { process, why } => {
            of_process(Level::Warn, process, format!("{{who}} is not signalled: {why}; looking again"))
        }
        Step::ChangedMore { count } => {
            Entry::new(Level::Warn, format!("{count} more are not signalled for reasons like these; looking again"))
        }
        Step::StopUnit { unit: other } => {
            of_unit(Level::Warn, other, format!("asking systemd to stop {other}, which {unit} replaces"))
        }
        Step::UnitStopped { unit: other, after } => {
            of_unit(Level::Info, other, format!("{other} stopped after {}", timespan::show(*after)))
        }
    };
    entry.with("MESSAGE_ID", &id::SIGNAL).with("PORTGUARD_UNIT", &unit)
}

/// How it ended.
pub(super) fn outcome(outcome: &Outcome, about: &About, endpoints: &[Endpoint], findings: &[Finding]) -> Vec<Entry> {
    let unit = &about.unit;
    let ports = list(endpoints.iter().map(ToString::to_string));
    let held = || {
        let mut held: Vec<Endpoint> =
            findings.iter().filter(|finding| finding.action != Action::Pass).map(|finding| finding.endpoint).collect();
        held.dedup();
        list(held.iter().map(ToString::to_string))
    };
    let next = next_of(outcome, about, findings);
    let shown_next = next.as_ref().map(|next| format!(". Next: {}", next.text)).unwrap_or_default();
    let (level, message_id, messages) = match outcome {
        Outcome::NoPorts => (
            Level::Warn,
            id::NO_PORTS,
            vec![format!(
                "nothing to guard: no port of {unit} is named; add [unit.{:?}] with ports = [\"8080/tcp\"] to /etc/portguard/portguard.toml",
                unit.as_str()
            )],
        ),
        Outcome::Free => (Level::Info, id::FREE, vec![format!("{ports} free; {unit} may start")]),
        Outcome::Passed => (Level::Info, id::PASSED, vec![format!("{ports}: {unit} may start beside what was found")]),
        Outcome::Freed { stopped, took } => (
            Level::Info,
            id::FREED,
            vec![format!("{}, after {stopped} within {}", may_start(unit, endpoints, findings), timespan::show(*took))],
        ),
        Outcome::WouldStop => {
            (Level::Info, id::DRY_RUN, vec![format!("dry run: would stop what holds {} for {unit}", held())])
        }
        Outcome::WouldWait => (Level::Info, id::DRY_RUN, vec![format!("dry run: would wait for {}", held())]),
        Outcome::Refused { stopped, signalled, why } => {
            let before = if stopped.is_nothing() { String::new() } else { format!(", after {stopped}") };
            let untouched = match (stopped.is_nothing(), &signalled[..]) {
                (true, []) => ", and nothing was touched".to_owned(),
                (true, some) => format!("; {} had been signalled", pids(some.iter().copied())),
                (false, _) => String::new(),
            };
            let why = why.as_ref().map(|why| format!(": {}", printable(why))).unwrap_or_default();
            let held = held();
            (
                Level::Error,
                id::REFUSED,
                vec![format!("{held} held{before}{why}; {unit} must not start{untouched}{shown_next}")],
            )
        }
        Outcome::StillHeld { took, why, hindrance } => (
            Level::Error,
            id::STILL_HELD,
            vec![format!(
                "{} still held after {}: {}{}; {unit} must not start{}",
                held(),
                timespan::show(*took),
                printable(why),
                hindrance.as_ref().map(|(pid, why)| format!(", for pid {pid}: {why}")).unwrap_or_default(),
                shown_next,
            )],
        ),
        Outcome::Interrupted { signal, sender, took, asked, .. } => (
            Level::Warn,
            id::INTERRUPTED,
            vec![format!(
                "ended by {signal} from {} after {}, before {ports} was seen free for {unit}; {}",
                sender.map_or_else(|| "the kernel or another pid namespace".to_owned(), |pid| format!("pid {pid}")),
                timespan::show(*took),
                words_for(asked),
            )],
        ),
        Outcome::NotPermitted(why) => (
            Level::Error,
            id::NOT_PERMITTED,
            vec![format!(
                "{} {}; {unit} must not start{}",
                held(),
                printable(why),
                more_privilege(about).unwrap_or(shown_next)
            )],
        ),
        Outcome::BadPolicy { count, shown } => (Level::Error, id::BAD_POLICY, bad_policy(*count, shown, unit)),
        Outcome::Internal(why) => {
            let held = if findings.is_empty() { ports } else { held() };
            let why = printable(why);
            let message = format!("{held} held, and portguard itself failed: {why}; {unit} must not start{shown_next}");
            (Level::Error, id::INTERNAL, vec![message])
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
                .with_some("PORTGUARD_NEXT", next.as_ref().map(|next| &next.command))
        })
        .collect()
}

/// The problems of a policy, of which `shown` are the first, and how many there are.
fn bad_policy(count: usize, shown: &[String], unit: &UnitName) -> Vec<String> {
    let first =
        if count == shown.len() { String::new() } else { format!(", of which the first {} are above", shown.len()) };
    let problems = if count == 1 { "problem" } else { "problems" };
    let last = format!("the policy has {count} {problems}{first}; {unit} must not start, and nothing was touched");
    shown.iter().map(|problem| printable(problem)).chain([last]).collect()
}

/// Only what nothing was found at was seen free.
fn may_start(unit: &UnitName, endpoints: &[Endpoint], findings: &[Finding]) -> String {
    let found: BTreeSet<Endpoint> = findings.iter().map(|finding| finding.endpoint).collect();
    let (passed, free): (Vec<&Endpoint>, Vec<&Endpoint>) =
        endpoints.iter().partition(|endpoint| found.contains(endpoint));
    let shown = |some: &[&Endpoint]| list(some.iter().map(ToString::to_string));
    match (&free[..], &passed[..]) {
        ([], passed) => format!("{}: {unit} may start beside what was found", shown(passed)),
        (free, []) => format!("{} free; {unit} may start", shown(free)),
        (free, passed) => format!("{} free; {unit} may start, beside what was found at {}", shown(free), shown(passed)),
    }
}

/// What to type where something was waited for or stopped in vain, and no finding has said it.
fn next_of(outcome: &Outcome, about: &About, findings: &[Finding]) -> Option<Advice> {
    let in_vain = match outcome {
        Outcome::StillHeld { .. } | Outcome::Refused { why: Some(_), .. } | Outcome::Internal(_) => true,
        // Where something was refused, its line has said it.
        Outcome::NotPermitted(_) => {
            more_privilege(about).is_none() && findings.iter().all(|finding| finding.action != Action::Refuse)
        }
        Outcome::NoPorts
        | Outcome::Free
        | Outcome::Passed
        | Outcome::Freed { .. }
        | Outcome::WouldStop
        | Outcome::WouldWait
        | Outcome::Interrupted { .. }
        | Outcome::Refused { why: None, .. }
        | Outcome::BadPolicy { .. } => false,
    };
    if let Outcome::StillHeld { hindrance: Some((pid, hindrance)), .. } = outcome {
        let holder_is = |finding: &&Finding| finding.holder.as_ref().is_some_and(|holder| holder.pid == *pid);
        let unit = findings.iter().find(holder_is).and_then(|finding| finding.relation.unit());
        return Some(advice_for_hindered(*pid, hindrance, unit, about));
    }
    // What could be had is none that helps.
    let held = findings.iter().filter(|finding| finding.action != Action::Pass);
    let held = held.min_by_key(|finding| finding.action == Action::Spare);
    held.filter(|_| in_vain).map(|finding| advice(finding, about))
}

/// In the manager of a user no plus gives any, and root has it.
fn more_privilege(about: &About) -> Option<String> {
    let helps = !about.user && !is_root();
    helps.then(|| format!(". Next: ExecStartPre=+/usr/bin/portguard --unit {} (mind the plus)", about.unit))
}

/// What goes on though we are gone.
fn words_for(asked: &Asked) -> String {
    let mut text = match &asked.processes[..] {
        [] => "nobody was signalled".to_owned(),
        some => pids(some.iter().copied()) + " had been signalled",
    };
    for unit in &asked.units {
        text = text + ", and systemd had been asked to stop " + unit.as_str();
    }
    text
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

    use super::super::fuzz::every_relation;
    use super::*;
    use crate::model::{Container, EndpointRange, Engine, Signal, Stopped};

    const README: &str = include_str!("../../README.md");
    const MAN_PAGE: &str = include_str!("../../packaging/man/portguard.8.scd");
    const CATALOG: &str = include_str!("../../packaging/portguard.catalog");

    fn unit() -> UnitName {
        "app.service".parse().unwrap()
    }

    fn about() -> About {
        About { unit: unit(), user: false, dry_run: false, etc: "/nonexistent".into(), proc: "/nonexistent".into() }
    }

    fn outcomes() -> Vec<Outcome> {
        let took = Duration::from_millis(12);
        vec![
            Outcome::NoPorts,
            Outcome::Free,
            Outcome::Passed,
            Outcome::Freed { stopped: Stopped { processes: 1, units: Vec::new() }, took },
            Outcome::WouldStop,
            Outcome::WouldWait,
            Outcome::Refused { stopped: Stopped::default(), signalled: vec![Pid(7)], why: None },
            Outcome::StillHeld { took, why: "it does not end".to_owned(), hindrance: None },
            Outcome::Interrupted { signal: Signal(15), sender: Some(Pid(7)), took, asked: Asked::default() },
            Outcome::NotPermitted("why".to_owned()),
            Outcome::BadPolicy { count: 1, shown: vec!["policy.toml:3:1: unknown key".to_owned()] },
            Outcome::Internal("why".to_owned()),
        ]
    }

    #[test]
    fn who_has_ended_it_is_named_only_where_it_is_known() {
        for (sender, words) in [(Some(Pid(7)), "from pid 7"), (None, "from the kernel or another pid namespace")] {
            let (took, asked) = (Duration::from_millis(12), Asked::default());
            let entries =
                outcome(&Outcome::Interrupted { signal: Signal(15), sender, took, asked }, &about(), &[], &[]);
            let said = format!("ended by SIGTERM {words} after 12ms");
            assert!(entries[0].message.starts_with(&said), "{}", entries[0].message);
        }
    }

    #[test]
    fn every_verdict_message_id_and_exit_status_is_in_the_readme_and_the_man_page() {
        for end in outcomes() {
            let entries = outcome(&end, &about(), &[], &[]);
            let last = entries.last().unwrap();
            let field = |wanted| last.fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value).unwrap();
            assert!(README.contains(&format!("`{}`", field("PORTGUARD_VERDICT"))), "{end:?}");
            assert!(README.contains(&format!("| `{}` |", field("MESSAGE_ID"))), "{end:?}");
            assert!(README.contains(&format!("\n| {} | ", end.exit_status())), "{end:?}");
            assert!(MAN_PAGE.contains(&format!("*{}*", field("PORTGUARD_VERDICT"))), "{end:?}");
            assert!(MAN_PAGE.contains(&format!("\n*{}*\n", end.exit_status())), "{end:?}");
        }
        assert!(README.contains(id::FINDING) && README.contains(id::SIGNAL));
    }

    /// The message ids of this file, as they stand in `mod id`.
    fn message_ids() -> Vec<&'static str> {
        let module = include_str!("words.rs").split("mod id {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
        let ids: Vec<_> = module.lines().filter_map(|line| line.split('"').nth(1)).collect();
        assert!(ids.len() > 10 && ids.contains(&id::FINDING) && ids.contains(&id::INTERNAL), "{ids:?}");
        ids
    }

    /// The entries of the catalog: the id, and its text from `Subject:` on.
    fn catalog() -> Vec<(&'static str, &'static str)> {
        CATALOG.split("\n-- ").skip(1).map(|entry| entry.split_once('\n').unwrap()).collect()
    }

    #[test]
    fn every_message_id_is_explained_in_the_catalog_and_the_man_page_and_no_other() {
        let mut explained: Vec<_> = catalog().iter().map(|(id, _)| *id).collect();
        let mut known = message_ids();
        explained.sort_unstable();
        known.sort_unstable();
        assert_eq!(explained, known);
        for id in known {
            assert!(MAN_PAGE.contains(id), "{id} is not in the man page");
        }
        for (id, entry) in catalog() {
            assert!(entry.starts_with("Subject: "), "{id}");
            assert!(entry.contains("\nDefined-By: portguard\nDocumentation: man:portguard"), "{id}");
        }
    }

    /// `journalctl -x` shows the bare name of a field that the entry does not have.
    #[test]
    fn what_the_catalog_quotes_is_in_every_entry_of_that_id() {
        let quoted = |wanted: &str| {
            let entry = catalog().into_iter().find_map(|(id, text)| (id == wanted).then_some(text)).unwrap();
            entry.split('@').skip(1).step_by(2).collect::<Vec<_>>()
        };
        for end in outcomes() {
            for entry in &outcome(&end, &about(), &[], &[]) {
                let value =
                    |wanted: &str| entry.fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
                for field in quoted(value("MESSAGE_ID").unwrap()) {
                    assert!(value(field).is_some(), "{field} of {end:?}");
                }
            }
        }
        let always = ["PORTGUARD_UNIT", "PORTGUARD_ENDPOINT", "PORTGUARD_RELATION", "PORTGUARD_ACTION"];
        assert!(quoted(id::FINDING).iter().all(|field| always.contains(field)));
        assert!(quoted(id::SIGNAL).iter().all(|field| *field == "PORTGUARD_UNIT"));
    }

    #[test]
    fn a_command_line_cannot_end_the_quotes_around_it() {
        for (argument, shown) in [("plain", "plain"), (r#"a "b""#, r#"a \"b\""#), (r#"\", forged"#, r#"\\\", forged"#)]
        {
            assert_eq!(quoted(argument), shown);
        }
    }

    #[test]
    fn many_processes_are_named_by_ranges_of_their_numbers() {
        for (all, shown) in [
            (&[7][..], "pids 7"),
            (&[7, 8, 9, 11], "pids 7-9, 11"),
            (&[7, 7, 9], "pids 7, 9"),
            (&[9, 7, 8], "pids 9, 7-8"),
        ] {
            assert_eq!(pids(all.iter().map(|pid| Pid(*pid))), shown);
        }
    }

    #[test]
    fn who_was_asked_to_end_is_told_when_nobody_waits_for_it_any_more() {
        let (processes, units) = (vec![Pid(7), Pid(8)], vec!["old.service".parse().unwrap()]);
        let none = || (Vec::new(), Vec::new());
        for ((processes, units), words) in [
            (none(), "nobody was signalled"),
            ((processes.clone(), none().1), "pids 7-8 had been signalled"),
            ((none().0, units.clone()), "nobody was signalled, and systemd had been asked to stop old.service"),
            ((processes, units), "pids 7-8 had been signalled, and systemd had been asked to stop old.service"),
        ] {
            assert_eq!(words_for(&Asked { processes, units }), words);
        }
    }

    #[test]
    fn every_relation_and_action_is_in_the_readme_and_the_man_page() {
        let container = Container { engine: Engine::Docker, name: None };
        for relation in every_relation(&unit(), container) {
            assert!(README.contains(&format!("| `{relation}` |")), "{relation}");
            assert!(MAN_PAGE.contains(&format!("*{relation}*")), "{relation}");
        }
        for action in [Action::Pass, Action::Stop, Action::StopUnit, Action::Wait, Action::Refuse] {
            assert!(README.contains(&format!("`{action}`")), "{action}");
            assert!(
                MAN_PAGE.contains(&format!("*{action}*")) && CATALOG.contains(&format!("\n  {action} ")),
                "{action}"
            );
        }
    }

    #[test]
    fn a_policy_with_more_problems_than_are_shown_says_how_many() {
        let shown = vec!["p:1:1: x".to_owned(), "p:2:1: x".to_owned()];
        for (count, said) in [(2, "2 problems; "), (90_000, "90000 problems, of which the first 2 are above; ")] {
            let entries = outcome(&Outcome::BadPolicy { count, shown: shown.clone() }, &about(), &[], &[]);
            let last = &entries.last().unwrap().message;
            assert!(entries.len() == 3 && last.starts_with(&format!("the policy has {said}")), "{last}");
        }
    }

    fn found(endpoint: Endpoint, relation: Relation, action: Action) -> Finding {
        let unit_state = ActiveState::Unknown;
        Finding { endpoint, socket: None, holder: None, birthplace: None, relation, action, obstacle: None, unit_state }
    }

    fn endpoints() -> Vec<Endpoint> {
        let all = ["8080/tcp", "9090/tcp"].map(|text| text.parse::<EndpointRange>().unwrap());
        all.into_iter().flat_map(EndpointRange::endpoints).collect()
    }

    #[test]
    fn only_what_was_seen_free_is_said_to_be() {
        let (end, all) = (&outcomes()[3], endpoints());
        let passed = |endpoint: &Endpoint| found(*endpoint, Relation::OwnFdStore, Action::Pass);
        let both: Vec<Finding> = all.iter().map(passed).collect();
        for (findings, said) in [
            (&[][..], "8080/tcp, 9090/tcp free; app.service may start, after 1 process"),
            (&both[1..], "8080/tcp free; app.service may start, beside what was found at 9090/tcp, after 1 process"),
            (&both[..], "8080/tcp, 9090/tcp: app.service may start beside what was found, after 1 process"),
        ] {
            let message = &outcome(end, &about(), &all, findings)[0].message;
            assert!(message.starts_with(said), "{message}");
        }
    }

    #[test]
    fn what_is_waited_for_in_vain_is_what_to_do_something_about_and_not_what_is_left_alone_for_it() {
        let (own, other) = ("app.service".parse().unwrap(), "web.service".parse().unwrap());
        let all = endpoints();
        let findings = [
            found(all[0], Relation::Predecessor(own), Action::Spare),
            found(all[1], Relation::OtherUnit(other), Action::Wait),
        ];
        let end = Outcome::StillHeld { took: Duration::ZERO, why: String::new(), hindrance: None };
        assert_eq!(next_of(&end, &about(), &findings).unwrap().command, "systemctl stop web.service");
        assert!(next_of(&end, &about(), &findings[..1]).is_some());
    }

    #[test]
    fn every_verdict_but_that_of_the_policy_is_one_line_about_the_unit() {
        for end in outcomes() {
            let entries = outcome(&end, &about(), &[], &[]);
            assert_eq!(entries.len(), if matches!(end, Outcome::BadPolicy { .. }) { 2 } else { 1 }, "{end:?}");
            assert!(!entries.iter().any(|entry| entry.message.chars().any(char::is_control)), "{end:?}");
        }
    }
}
