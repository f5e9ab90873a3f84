//! `portguard who`: who holds an endpoint, whose that is, how it would stand to a unit, and what frees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;

use super::remark::print_unseen;
use super::{CommandError, every_port, no_rules, nobody, seen, show, unseen};
use crate::cli;
use crate::interrupt::Interrupt;
use crate::judge::judge;
use crate::manager::Scope;
use crate::model::{
    Action, BlindSpot, Endpoint, EndpointRange, Finding, Inode, Pid, Port, Process, Protocol, Rules, UnitName,
};
use crate::observe::units::{self, Properties};
use crate::observe::{Place, Roots, Wanted};
use crate::policy::{self, Policy};
use crate::report::document::{Document, Page, Tone, age};
use crate::report::shape::{Holder, Judgement, Socket, Unit, since};
use crate::report::{self, About, own_systemctl, shell};
use crate::word::{self, Unanswered, Workers};

/// Who has what.
#[derive(Debug, Serialize)]
struct Who {
    /// The unit to which all are compared.
    unit: Option<String>,
    /// What was asked about: all listeners, if nothing was.
    asked: Vec<String>,
    sockets: Vec<Held>,
    /// What could not be seen, each in a sentence.
    unseen: Vec<String>,
    #[serde(skip)]
    columns: bool,
    /// The same as `asked`, for people.
    #[serde(skip)]
    ranges: Vec<EndpointRange>,
}

/// So many are shown, each of each socket: what is told of one can take some ten kilobytes.
const MOST_HOLDERS: usize = 4096;

/// A socket, and who has it.
#[derive(Debug, Serialize)]
struct Held {
    socket: Socket,
    /// Whose it is, one a unit, container or session.
    owners: Vec<Owned>,
}

/// Those who belong together.
#[derive(Debug, Serialize)]
struct Owned {
    holders: Vec<Holder>,
    /// The unit to which they belong, or for which a service manager has the socket.
    unit: Option<Unit>,
    /// How they stand to the unit of the question.
    judgement: Option<Judgement>,
    /// What to type to free the endpoint, or to see more.
    next: Option<String>,
    /// The same in a sentence.
    #[serde(skip)]
    advice: Option<String>,
}

/// Exit status 0: somebody has one of them.
pub(super) fn run(args: &cli::Who) -> Result<u8, CommandError> {
    let about = About {
        unit: args.unit.clone().map_or_else(nobody, Ok)?,
        user: args.common.user,
        dry_run: true,
        etc: "/etc".into(),
        proc: "/proc".into(),
    };
    let rules = rules(args)?;
    let wanted: Vec<Endpoint> = if args.endpoints.is_empty() && args.unit.is_some() {
        rules.endpoints.clone()
    } else {
        args.endpoints.iter().flat_map(|range| range.endpoints()).collect()
    };
    let asked_about_all = args.endpoints.is_empty() && args.unit.is_none();
    let ports: Vec<(Protocol, Port)> = if asked_about_all {
        every_port()
    } else {
        let ports: BTreeSet<_> = wanted.iter().map(|endpoint| (endpoint.protocol, endpoint.port)).collect();
        ports.into_iter().collect()
    };

    let place = Place::here(Roots::of_host(about.user), &about.unit, about.user);
    let mut scene = place
        .survey(&Wanted { unit: &about.unit, rules: &rules, interrupt: &Interrupt::default(), closings: None }, &ports);
    seen(&scene)?;
    if !asked_about_all {
        let is_wanted = |socket: &_| wanted.iter().any(|endpoint| endpoint.is_contested_by(socket));
        scene.endpoints.retain(|seen| seen.sockets.iter().any(|held| is_wanted(&held.socket)));
    }
    let mut unseen = unseen(&scene.blind_spots, Vec::new(), "who");
    let verdict = judge(&scene, &rules);
    let findings = verdict.findings();
    if let Some(more @ 1..) = findings.len().checked_sub(MOST_HOLDERS) {
        unseen.push(format!("{more} more holders were found than are shown"));
    }
    if let Some(unit) = args.unit.as_ref().filter(|_| wanted.is_empty()) {
        unseen.push(format!("the policy names no port of {unit}: portguard learn {} shows what it has", shell(unit)));
    }
    let who = Who {
        unit: args.unit.as_ref().map(ToString::to_string),
        asked: wanted.iter().map(ToString::to_string).collect(),
        sockets: held(&findings[..findings.len().min(MOST_HOLDERS)], &about, args.unit.is_some(), &place),
        unseen,
        columns: args.long,
        ranges: EndpointRange::folded(&wanted),
    };
    if who.sockets.is_empty()
        && let Some(crowd) = scene.blind_spots.iter().find(|spot| **spot == BlindSpot::Crowd)
    {
        return Err(CommandError::blind(crowd.to_string()));
    }
    let status = u8::from(who.sockets.is_empty());
    show(&who, args.common.json, status)
}

/// What the policy says of the unit; of none, what is so without a policy.
fn rules(args: &cli::Who) -> Result<Rules, CommandError> {
    let Some(unit) = &args.unit else { return no_rules(&nobody()?) };
    let policy = Policy::load_for(unit, &policy::Roots::default()).map_err(|error| CommandError::policy(&error))?;
    policy.rules_for(unit, &|name| std::env::var(name).ok(), &[]).map_err(|error| CommandError::policy(&error))
}

/// Each socket with its holders, those of one owner together, in the order of ports.
fn held(findings: &[Finding], about: &About, compared: bool, place: &Place) -> Vec<Held> {
    let mut sockets: BTreeMap<_, (&Finding, Vec<&Finding>)> = BTreeMap::new();
    for finding in findings {
        let Some(socket) = &finding.socket else { continue };
        let key = (socket.local.port(), socket.protocol, socket.local, socket.peer, socket.inode);
        sockets.entry(key).or_insert_with(|| (finding, Vec::new())).1.push(finding);
    }
    let states = states(findings, place);
    let held = |(first, findings): (&Finding, Vec<&Finding>)| {
        let socket = first.socket.as_ref()?;
        Some(Held {
            socket: Socket::of(socket, first.birthplace.as_ref(), &about.etc),
            owners: owned(&findings, about, compared, &states),
        })
    };
    sockets.into_values().filter_map(held).collect()
}

/// What the manager says of the units of these holders.
fn states(findings: &[Finding], place: &Place) -> Vec<(UnitName, Properties)> {
    let names: BTreeSet<UnitName> = findings.iter().filter_map(|finding| own_unit(finding, place.scope)).collect();
    let names: Vec<UnitName> = names.into_iter().collect();
    // Without an answer there is only less to say.
    let shown = units::show(place.scope, &place.roots.run, &names, &Unit::WANTED).unwrap_or_default();
    names.into_iter().zip(shown).collect()
}

/// The unit of a finding, in the manager that is asked.
fn own_unit(finding: &Finding, scope: Scope) -> Option<UnitName> {
    let named = report::unit_of(finding)?;
    let is_users = finding.holder.as_ref().and_then(|holder| holder.owner.uid());
    let own = rustix::process::getuid().as_raw();
    let is_ours = match scope {
        Scope::System => is_users.is_none(),
        Scope::User => is_users == Some(own),
    };
    named.parse().ok().filter(|_| is_ours)
}

fn owned(findings: &[&Finding], about: &About, compared: bool, states: &[(UnitName, Properties)]) -> Vec<Owned> {
    let mut owners: Vec<(Option<String>, &Finding, Vec<Holder>)> = Vec::new();
    let mut files = Files::new(&about.proc);
    for finding in findings {
        let mut fds = |pid| finding.socket.as_ref().map(|socket| files.of(pid, socket.inode)).unwrap_or_default();
        let of = |holder: &Rc<Process>| Holder { fds: fds(holder.pid), ..Holder::of(holder, &about.etc) };
        let holder = finding.holder.as_ref().map(of);
        let unit = report::unit_of(finding);
        let same = owners.iter_mut().find(|(of, first, _)| {
            *of == unit && first.relation == finding.relation && unit.is_some() && first.holder.is_some()
        });
        match same {
            Some((_, _, holders)) => holders.extend(holder),
            None => owners.push((unit, finding, holder.into_iter().collect())),
        }
    }
    let owned = |(unit, finding, holders): (Option<String>, &Finding, Vec<Holder>)| {
        let (advice, next) = next(finding, about, compared);
        let of = |name: &str| states.iter().find(|(unit, _)| unit.as_str() == name);
        let shown = |name: &str| of(name).map(|(_, shown)| Unit::of(name, shown));
        let unit = unit.map(|name| shown(&name).unwrap_or_else(|| Unit::of(&name, &Properties::default())));
        Owned { holders, unit, judgement: compared.then(|| Judgement::of(finding)), next, advice }
    };
    owners.into_iter().map(owned).collect()
}

/// By which file descriptors a process has a socket: proc(5). One that hangs in execve(2) by now does not tell.
struct Files<'a> {
    proc: &'a Path,
    reader: Workers<(PathBuf, Inode), Vec<i32>>,
}

impl<'a> Files<'a> {
    fn new(proc: &'a Path) -> Self {
        Self { proc, reader: Workers::new(|(folder, inode)| fds(folder, *inode)) }
    }

    fn of(&mut self, pid: Pid, inode: Inode) -> Vec<i32> {
        let question = (self.proc.join(format!("{pid}/fd")), inode);
        let Some(patience) = word::some_patience(word::PATIENCE) else { return Vec::new() };
        match self.reader.ask(question, patience, &Interrupt::default()) {
            Ok(fds) => fds,
            Err(Unanswered::NoThread((folder, inode))) => fds(&folder, inode),
            Err(Unanswered::Late | Unanswered::WouldHang) => Vec::new(),
        }
    }
}

fn fds(folder: &Path, inode: Inode) -> Vec<i32> {
    let name = format!("socket:[{}]", inode.0);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of_socket =
        entries.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == name.as_str()));
    // The kernel lists them in order.
    of_socket.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What to type: nothing where portguard lets the unit start.
fn next(finding: &Finding, about: &About, compared: bool) -> (Option<String>, Option<String>) {
    if !compared {
        // The sentence speaks of a unit that is not there.
        let (_, command) = report::next(finding, about);
        return (None, Some(command));
    }
    match finding.action {
        Action::Refuse => {
            let (text, command) = report::next(finding, about);
            (Some(text), Some(command))
        }
        Action::Stop | Action::StopUnit => {
            let restart = format!("{} restart {}", own_systemctl(about), shell(&about.unit));
            (Some(format!("{restart}, before which portguard stops it")), Some(restart))
        }
        Action::Pass | Action::Wait | Action::Spare => (None, None),
    }
}

impl Document for Who {
    const KIND: &'static str = "who";

    fn print(&self, page: &mut Page) {
        if self.columns {
            self.print_columns(page);
        } else {
            for (index, held) in self.sockets.iter().enumerate() {
                if index > 0 {
                    page.gap();
                }
                held.print(page, self.unit.as_deref());
            }
        }
        if self.sockets.is_empty() && !(self.ranges.is_empty() && self.unit.is_some()) {
            let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
            let what = if ranges.is_empty() { "any port".to_owned() } else { ranges.join(", ") };
            page.words("", &format!("nobody has {what}"), None);
        }
        print_unseen(page, &self.unseen);
    }
}

impl Who {
    /// lsof(8) has the first of these columns.
    fn print_columns(&self, page: &mut Page) {
        let mut rows = Vec::new();
        for Held { socket, owners } in &self.sockets {
            let kind = if socket.address.contains(':') { "IPv6" } else { "IPv4" };
            let node = socket.protocol.to_uppercase();
            let name = format!("{} ({})", socket.name(), socket.state.to_uppercase());
            for owned in owners {
                let unit = owned.unit.as_ref().map_or("-", |unit| &unit.name);
                let row = |command: &str, pid: String, user: &str, fds: String| {
                    vec![
                        command.to_owned(),
                        pid,
                        user.to_owned(),
                        fds,
                        kind.to_owned(),
                        node.clone(),
                        unit.to_owned(),
                        name.clone(),
                    ]
                };
                if owned.holders.is_empty() {
                    rows.push(row("-", "-".to_owned(), &socket.user, "-".to_owned()));
                }
                rows.extend(owned.holders.iter().map(|h| row(&h.name, h.pid.to_string(), &h.user, listed(&h.fds))));
            }
        }
        page.table(&["COMMAND", "PID", "USER", "FD", "TYPE", "NODE", "UNIT", "NAME"], &rows);
    }
}

/// `3,5`, and a dash for none.
fn listed(fds: &[i32]) -> String {
    let fds: Vec<String> = fds.iter().map(ToString::to_string).collect();
    if fds.is_empty() { "-".to_owned() } else { fds.join(",") }
}

impl Held {
    fn print(&self, page: &mut Page, unit: Option<&str>) {
        let state = describe(&self.socket);
        let name = format!("{}/{}", self.socket.name(), self.socket.protocol);
        page.line(&[(&name, Some(Tone::Title)), ("  ", None), (&state, None)]);
        for (index, owned) in self.owners.iter().enumerate() {
            owned.print(page, index + 1 == self.owners.len(), unit, &self.socket);
        }
    }
}

/// `listening, 0 of 128 waiting`.
fn describe(socket: &Socket) -> String {
    let backlog = match (socket.waiting, socket.backlog) {
        (Some(waiting), Some(backlog)) => format!(", {waiting} of {backlog} waiting"),
        (Some(_) | None, _) => String::new(),
    };
    let peer = socket.peer.as_ref().map(|peer| format!(" with {peer}")).unwrap_or_default();
    let device = socket.device.as_ref().map(|device| format!(", on device {device} alone")).unwrap_or_default();
    [socket.state, &backlog, &peer, &device].concat()
}

impl Owned {
    fn print(&self, page: &mut Page, is_last: bool, unit: Option<&str>, socket: &Socket) {
        let rail = if is_last { "   " } else { "│  " };
        for (index, holder) in self.holders.iter().enumerate() {
            let last = is_last && index + 1 == self.holders.len();
            let begin = format!("{} pid {} ", if last { "└─" } else { "├─" }, holder.pid);
            let who = format!(", {}, for {}: ", holder.user, age(since(holder.started)));
            page.line(&[(&begin, None), (&holder.name, Some(Tone::Title)), (&who, None), (&holder.command(), None)]);
        }
        if self.holders.is_empty() {
            let made_by = socket.made_by.as_ref().map(|unit| format!(", made by {unit}")).unwrap_or_default();
            let whose = format!("no process that can be seen; made by {}{made_by}", socket.user);
            page.words(if is_last { "└─ " } else { "├─ " }, &whose, None);
        }
        self.print_owner(page, rail);
        if let (Some(judgement), Some(unit)) = (&self.judgement, unit) {
            let tone = if ["refuse", "spare"].contains(&judgement.action.as_str()) { Tone::Bad } else { Tone::Good };
            let obstacle = judgement.obstacle.as_ref().map(|why| format!(", as {why}")).unwrap_or_default();
            let does = match judgement.action.as_str() {
                "pass" => "portguard lets it be",
                "stop" => "portguard stops it",
                "stop-unit" => "portguard has systemd stop its unit",
                "wait" => "portguard waits for it",
                "spare" => "portguard lets it be, as it refuses another",
                _ => "portguard refuses",
            };
            page.words(
                &format!("{rail}   "),
                &format!("{} to {unit}: {does}{obstacle}", judgement.relation),
                Some(tone),
            );
        }
        if let Some(command) = &self.next {
            page.command(&format!("{rail}   "), "next:", command);
        }
        if let Some(advice) = self.advice.as_ref().filter(|advice| Some(*advice) != self.next.as_ref()) {
            page.words(&format!("{rail}   "), advice, Some(Tone::Faint));
        }
    }

    fn print_owner(&self, page: &mut Page, rail: &str) {
        let containers = self.holders.iter().find_map(|holder| holder.container.as_ref());
        if let Some(container) = containers {
            let name = container.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            page.words(&format!("{rail}└─ "), &format!("{} container{name}", container.engine), None);
        }
        let Some(unit) = &self.unit else { return };
        let state = match (&unit.state, &unit.substate) {
            (Some(state), Some(substate)) => format!(", {state} ({substate})"),
            (Some(state), None) => format!(", {state}"),
            (None, _) => String::new(),
        };
        let since = unit.since.map(|at| format!(" for {}", age(since(at)))).unwrap_or_default();
        let user = self.holders.iter().find_map(|holder| holder.unit_uid);
        let user = user.map(|uid| format!(" of the manager of uid {uid}")).unwrap_or_default();
        page.words(&format!("{rail}└─ "), &format!("{}{user}{state}{since}", unit.name), None);
        if let Some(invocation) = &unit.invocation {
            page.words(&format!("{rail}   "), &format!("invocation {invocation}"), Some(Tone::Faint));
        }
    }
}
