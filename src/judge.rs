//! Scene + rules → verdict. A pure function of plain data: it opens nothing, asks nobody, has no clock and logs nothing.
//!
//! Two sentences rule here: *unknown is never free*, and *what is not proven stale is never stopped*.

use std::rc::Rc;

use crate::model::{
    Action, ActiveState, Addresses, BlindRule, BlindSpot, EndpointScene, Finding, ForeignRule, Guarded, HeldSocket,
    Invocation, LookalikeRule, Obstacle, Owner, Phase, Pid, Probe, Process, Protocol, Relation, Rules, Scene, Socket,
    SocketState, StaleRule, UnitName, UnitType, Verdict,
};

/// Judges everything that is in the way of the guarded unit.
///
/// The whole scene is judged before anything is done, so one holder that must be refused keeps every other
/// holder from being touched.
pub fn judge(scene: &Scene, rules: &Rules) -> Verdict {
    let found = scene.endpoints.iter().flat_map(|seen| findings_of(seen, scene, rules));
    let mut findings: Vec<Finding> = found.map(|found| found.decide(scene, rules)).collect();
    let any = |action| findings.iter().any(|finding| finding.action == action);
    if findings.is_empty() {
        Verdict::Free
    } else if any(Action::Refuse) {
        spare(&mut findings, &[Action::Stop, Action::StopUnit, Action::Wait]);
        Verdict::Refuse(findings)
    } else if any(Action::Wait) {
        // Waiting comes before stopping: if the wait fails, nothing was touched.
        spare(&mut findings, &[Action::Stop, Action::StopUnit]);
        Verdict::Wait(findings)
    } else if any(Action::StopUnit) || any(Action::Stop) {
        Verdict::Clear(findings)
    } else {
        Verdict::Pass(findings)
    }
}

/// Leaves alone what could be had were it the only one.
fn spare(findings: &mut [Finding], actions: &[Action]) {
    for finding in findings.iter_mut().filter(|finding| actions.contains(&finding.action)) {
        finding.action = Action::Spare;
    }
}

/// A finding whose action is still open.
struct Found<'a> {
    endpoint: &'a EndpointScene,
    held: Option<&'a HeldSocket>,
    holder: Option<&'a Rc<Process>>,
    relation: Relation,
}

impl Found<'_> {
    fn decide(self, scene: &Scene, rules: &Rules) -> Finding {
        let unit_state = self.unit_state(scene);
        let wanted = action_for(&self.relation, unit_state, rules);
        let obstacle = match wanted {
            Action::Stop => self.hinders_a_signal(&scene.guarded).or_else(|| is_crowded(scene)),
            Action::StopUnit => self.hinders_a_stop(scene, rules).or_else(|| is_crowded(scene)),
            Action::Pass | Action::Wait | Action::Refuse | Action::Spare => None,
        };
        Finding {
            endpoint: self.endpoint.endpoint,
            socket: self.held.map(|held| held.socket.clone()),
            holder: self.holder.cloned(),
            birthplace: self.held.and_then(|held| held.birthplace.clone()),
            relation: self.relation,
            action: if obstacle.is_some() { Action::Refuse } else { wanted },
            obstacle,
            unit_state,
        }
    }

    /// How its unit is; unknown where it is in none, or in another manager than the guarded unit.
    fn unit_state(&self, scene: &Scene) -> ActiveState {
        if self.relation.is_of_another_manager(scene.guarded.user) {
            return ActiveState::Unknown;
        }
        self.relation.unit().and_then(|unit| scene.units.get(unit)).map(|state| state.active).unwrap_or_default()
    }

    /// Why the process is not signalled after all.
    fn hinders_a_signal(&self, guarded: &Guarded) -> Option<Obstacle> {
        let Some(holder) = self.holder else { return Some(Obstacle::Protected("no process is known")) };
        // A leftover in its own unit's cgroup was started by systemd; any other may be somebody's at work.
        let attended = self.relation == Relation::Lookalike && holder.terminal.is_some();
        holder
            .protection()
            .or_else(|| self.held.and_then(|held| may_be_handed(held, holder, guarded)))
            .or(attended.then_some("it has a terminal, at which somebody may sit"))
            .map(Obstacle::Protected)
    }

    /// Why its unit is not stopped after all.
    fn hinders_a_stop(&self, scene: &Scene, rules: &Rules) -> Option<Obstacle> {
        let Relation::Predecessor(unit) = &self.relation else {
            return Some(Obstacle::Protected("no unit is known"));
        };
        // PID 1 has it for a socket unit, which is stopped, and not PID 1.
        let protection = self.holder.filter(|holder| !holder.is_manager()).and_then(|holder| holder.protection());
        let handed = || may_be_handed_to_unit(self.held?, self.holder?, &scene.guarded, rules);
        if let Some(why) = unit.protection().or(protection).or_else(handed) {
            return Some(Obstacle::Protected(why));
        }
        let Some(state) = scene.units.get(unit) else { return Some(Obstacle::Untold) };
        match (state.active, &state.stops_too) {
            (ActiveState::Down, _) => Some(Obstacle::NotActive),
            (ActiveState::Unknown, _) | (_, None) => Some(Obstacle::Untold),
            (ActiveState::Up | ActiveState::Stopping, Some(_)) if !state.can_stop => Some(Obstacle::RefusesStop),
            (ActiveState::Up | ActiveState::Stopping, Some(stops_too)) => {
                let may_be = |other: &UnitName| {
                    *other != scene.guarded.unit && is_replaced(other, rules) && other.protection().is_none()
                };
                let others: Vec<UnitName> = stops_too.iter().filter(|other| !may_be(other)).cloned().collect();
                (!others.is_empty()).then_some(Obstacle::StopsToo(others))
            }
        }
    }
}

/// Others may have what is to be stopped for it as well.
fn is_crowded(scene: &Scene) -> Option<Obstacle> {
    let is_full = scene.blind_spots.contains(&BlindSpot::Crowd);
    is_full.then_some(Obstacle::Protected("not all of these sockets, or of those who have them, were looked at"))
}

/// Why somebody who may not signal the process can have handed the socket over to get it stopped (unix(7), `SCM_RIGHTS`).
///
/// What was made in the unit's own cgroup, in this run or an earlier one, is the unit's; but its user may not signal what is
/// root's. Else it must have been made in the unit or session that has the process, or for the unit's socket unit, or where
/// the kernel does not tell, and by root or the process's own user. The user alone proves nothing: root of a container may
/// not signal what root's socket can be handed to. Nor does a cgroup that is gone: its maker may have left it for that.
fn may_be_handed(held: &HeldSocket, holder: &Process, guarded: &Guarded) -> Option<&'static str> {
    let is_by_another = !is_by_root_or_its_own(&held.socket, holder);
    if is_born_here(held, guarded) {
        return (is_by_another && holder.uid == 0).then_some(BY_ANOTHER);
    }
    if held.birthplace.is_none() && held.socket.cgroup.is_some() {
        return Some(BORN_WHERE_NOTHING_IS);
    }
    let is_where_it_is = match &held.birthplace {
        None => true,
        // For which socket unit is known while PID 1 has it, and no longer.
        Some(Owner::Init) => !guarded.triggered_by.is_empty(),
        Some(born) if is_own_managers(born, guarded) => true,
        Some(born) if guarded.unit_beside(born).is_some_and(|unit| guarded.triggered_by.contains(unit)) => true,
        // There are many such cgroups.
        Some(Owner::Nobody | Owner::Unknown) => held.born_in.is_some() && held.born_in == holder.cgroup,
        Some(born) => *born == holder.owner,
    };
    if !is_where_it_is {
        return Some(BORN_ELSEWHERE);
    }
    is_by_another.then_some(BY_ANOTHER)
}

/// Why somebody may have handed the socket to a unit that may be replaced, to have that stopped.
///
/// It must have been made in such a unit; or by PID 1, for what that has made stays with the service when its socket unit has
/// been stopped, which comes first. Whoever may make cgroups can remove the one in which he made it.
fn may_be_handed_to_unit(
    held: &HeldSocket,
    holder: &Process,
    guarded: &Guarded,
    rules: &Rules,
) -> Option<&'static str> {
    match &held.birthplace {
        // Not handed to it: it is the one that made it.
        _ if holder.is_manager() => None,
        None if held.socket.cgroup.is_some() => Some(BORN_WHERE_NOTHING_IS),
        None => (!is_by_root_or_its_own(&held.socket, holder)).then_some(BY_ANOTHER),
        Some(Owner::Init) => None,
        Some(born) if is_own_managers(born, guarded) => None,
        Some(born) if guarded.unit_beside(born).is_some_and(|unit| is_replaced(unit, rules)) => None,
        Some(_) => Some(BORN_ELSEWHERE),
    }
}

const BORN_WHERE_NOTHING_IS: &str =
    "the socket was made in a cgroup that is gone or cannot be seen, and may have been handed over";
const BORN_ELSEWHERE: &str = "the socket was made elsewhere, and may have been handed over";
const BY_ANOTHER: &str = "another user made the socket, and may have handed it over";

fn is_by_root_or_its_own(socket: &Socket, holder: &Process) -> bool {
    socket.uid == 0 || socket.uid == holder.uid
}

/// Whether it is the scope of the manager of the guarded unit's user: all that this manager has is the user's own.
fn is_own_managers(born: &Owner, guarded: &Guarded) -> bool {
    guarded.user.is_some() && guarded.unit_beside(born).is_some_and(|unit| unit.as_str() == "init.scope")
}

/// Whether the socket was made in the unit's own cgroup, of this run or an earlier one.
fn is_born_here(held: &HeldSocket, guarded: &Guarded) -> bool {
    held.birthplace.as_ref().is_some_and(|owner| guarded.is(owner)) || is_of_a_run(held, guarded)
}

/// Whether the socket was made in the cgroup of an earlier run.
fn is_of_a_run(held: &HeldSocket, guarded: &Guarded) -> bool {
    held.socket.cgroup.is_some_and(|id| guarded.runs.iter().any(|run| run.cgroup == Some(id)))
}

/// Whether the policy says that the guarded unit takes over from this one.
fn is_replaced(unit: &UnitName, rules: &Rules) -> bool {
    rules.replaces.iter().any(|pattern| pattern.matches(unit))
}

/// The policy, a relation at a time. Only `Leftover`, `Escaped` and `Lookalike` can ever be signalled, and only the unit
/// of a `Predecessor` can ever be stopped.
fn action_for(relation: &Relation, unit_state: ActiveState, rules: &Rules) -> Action {
    let foreign = match rules.on_foreign {
        // What goes by itself is worth a moment.
        ForeignRule::Refuse if unit_state == ActiveState::Stopping => Action::Wait,
        ForeignRule::Refuse => Action::Refuse,
        ForeignRule::Wait => Action::Wait,
        ForeignRule::Ignore => Action::Pass,
    };
    let unless_ignored = if rules.on_foreign == ForeignRule::Ignore { Action::Pass } else { Action::Refuse };
    match relation {
        // A bind that fails for want of an address or a privilege says nothing about a holder: the service's own
        // bind may differ (IP_FREEBIND, its own capabilities), so it decides, and the journal has the warning.
        Relation::OwnSocketUnit(_) | Relation::OwnFdStore | Relation::NotBindable(_) => Action::Pass,
        Relation::Leftover | Relation::Escaped => match rules.on_stale {
            StaleRule::Stop => Action::Stop,
            StaleRule::Refuse => Action::Refuse,
            StaleRule::Ignore => Action::Pass,
        },
        // These do not go away while their start waits for them.
        Relation::OwnStart | Relation::OwnRun => unless_ignored,
        Relation::TimeWait if rules.on_foreign == ForeignRule::Refuse => Action::Wait,
        Relation::Unchecked(_) => match rules.on_blind {
            BlindRule::Allow => Action::Pass,
            BlindRule::Refuse => Action::Refuse,
        },
        Relation::Predecessor(_) => Action::StopUnit,
        Relation::Lookalike if rules.on_lookalike == LookalikeRule::Stop => Action::Stop,
        Relation::Heir
        | Relation::Unproven
        | Relation::Lookalike
        | Relation::Sibling(_)
        | Relation::Twin { .. }
        | Relation::OtherUnit(_)
        | Relation::OtherUserUnit { .. }
        | Relation::OtherSocketUnit(_)
        | Relation::Manager
        | Relation::Container(_)
        | Relation::Session { .. }
        | Relation::OtherProcess
        | Relation::Client
        | Relation::TimeWait
        | Relation::KernelHeld
        | Relation::Hidden
        | Relation::Unexplained => foreign,
    }
}

fn findings_of<'a>(seen: &'a EndpointScene, scene: &'a Scene, rules: &Rules) -> Vec<Found<'a>> {
    if seen.probe == Probe::Free {
        return Vec::new();
    }
    let in_the_way = seen.sockets.iter().filter(|held| seen.endpoint.is_contested_by(&held.socket));
    let (waiting, others): (Vec<_>, Vec<_>) = in_the_way.partition(|held| held.socket.state.waits());
    let found_at = |held: &'a HeldSocket| holders_of(seen, held, scene, rules);
    // What systemd has bound for the service it need not bind.
    let is_own = |found: &Found<'_>| matches!(found.relation, Relation::OwnSocketUnit(_) | Relation::OwnFdStore);
    let is_passed_on = |held: &&'a HeldSocket| found_at(held).iter().any(is_own);
    let mut found: Vec<Found<'a>> = waiting.iter().flat_map(|held| found_at(held)).collect();
    if waiting.is_empty() || !waiting.iter().all(is_passed_on) {
        let (bound, connected): (Vec<_>, Vec<_>) = others.into_iter().partition(|held| is_bound(&held.socket));
        let addresses: Addresses = waiting.iter().chain(&bound).map(|held| &held.socket).collect();
        // A connection by TCP keeps the port of its listener as well: it explains a busy bind only where no listener does.
        let is_by_itself = |held: &HeldSocket| !addresses.meet(&held.socket) && !goes_with(held, &found, scene);
        let is_told = |held: &HeldSocket| match (seen.probe, held.socket.protocol, held.socket.state) {
            (Probe::Busy, ..) | (_, Protocol::Udp, _) => Some(true),
            (_, Protocol::Tcp, SocketState::TimeWait) => Some(!rules.reuse_address),
            // Only a bind tells whether it is in the way.
            (_, Protocol::Tcp, _) => None,
        };
        let at_an_own_address = seen.probe != Probe::NotLocal;
        let by_itself: Vec<_> = connected.into_iter().filter(|held| at_an_own_address && is_by_itself(held)).collect();
        let in_the_way = by_itself.iter().filter(|held| is_told(held) == Some(true)).copied();
        found.extend(bound.into_iter().chain(in_the_way).flat_map(found_at));
        let relation = Relation::Unchecked(seen.probe);
        // One of them, whatever their order.
        let which = |held: &&&'a HeldSocket| {
            let held: &'a HeldSocket = held;
            let Socket { local, peer, inode, uid, cgroup, .. } = &held.socket;
            (*local, *peer, *inode, *uid, cgroup.map(|id| id.0), &held.birthplace)
        };
        let untold = by_itself.iter().filter(|held| is_told(held).is_none()).min_by_key(which);
        found.extend(untold.map(|held| Found { endpoint: seen, held: Some(held), holder: None, relation }));
    }
    if found.is_empty() {
        found.extend(unexplained(seen, scene));
    }
    found
}

/// Whether all who have this are those who have what waits there, or are of the units that are stopped with it: it is gone then.
fn goes_with(held: &HeldSocket, waiting: &[Found<'_>], scene: &Scene) -> bool {
    let is_one = |holder: &Rc<Process>| {
        waiting.iter().any(|found| match (&found.relation, found.holder) {
            (_, Some(other)) if other.pid == holder.pid => true,
            (Relation::Predecessor(unit), _) => scene.guarded.unit_beside(&holder.owner).is_some_and(|own| {
                let stops_too = scene.units.get(unit).and_then(|state| state.stops_too.as_ref());
                own == unit || stops_too.is_some_and(|others| others.contains(own))
            }),
            _ => false,
        })
    };
    !held.holders.is_empty() && held.holders.iter().all(is_one)
}

fn is_bound(socket: &Socket) -> bool {
    match socket.state {
        SocketState::Listen | SocketState::Bound | SocketState::Unconnected => true,
        SocketState::Connected | SocketState::TimeWait => false,
    }
}

/// A probe that was not free, and no socket that tells why.
fn unexplained<'a>(seen: &'a EndpointScene, scene: &Scene) -> Option<Found<'a>> {
    let tables_unread = scene.blind_spots.iter().any(|spot| matches!(spot, BlindSpot::Sockets(_) | BlindSpot::Crowd));
    let relation = match seen.probe {
        Probe::NotLocal | Probe::Denied | Probe::Failed(_) if tables_unread => Relation::Unchecked(seen.probe),
        Probe::NotLocal => Relation::NotBindable(seen.probe),
        Probe::Busy if tables_unread => Relation::Hidden,
        Probe::Busy => Relation::Unexplained,
        // The tables were read and show nobody: that is a look of its own, and it says free.
        Probe::Free | Probe::Denied | Probe::Failed(_) => return None,
    };
    Some(Found { endpoint: seen, held: None, holder: None, relation })
}

fn holders_of<'a>(seen: &'a EndpointScene, held: &'a HeldSocket, scene: &'a Scene, rules: &Rules) -> Vec<Found<'a>> {
    let found =
        |holder: Option<&'a Rc<Process>>, relation| Found { endpoint: seen, held: Some(held), holder, relation };
    if held.holders.is_empty() {
        return vec![found(None, holderless(held, scene, rules))];
    }
    held.holders.iter().map(|holder| found(Some(holder), relation_of(holder, held, scene, rules))).collect()
}

/// A socket that no process was seen to have.
fn holderless(held: &HeldSocket, scene: &Scene, rules: &Rules) -> Relation {
    let hidden = scene.blind_spots.iter().any(|spot| matches!(spot, BlindSpot::Processes { .. } | BlindSpot::Crowd));
    let unsteady = scene.blind_spots.contains(&BlindSpot::Unsteady);
    match (&held.socket_unit, held.socket.state) {
        (Some(unit), _) => for_socket_unit(unit, scene, rules),
        (None, SocketState::TimeWait) => Relation::TimeWait,
        (None, _) if unsteady => Relation::Unexplained,
        (None, _) if hidden => Relation::Hidden,
        (None, SocketState::Connected) => Relation::Client,
        (None, SocketState::Listen | SocketState::Bound | SocketState::Unconnected) => Relation::KernelHeld,
    }
}

fn relation_of(holder: &Process, held: &HeldSocket, scene: &Scene, rules: &Rules) -> Relation {
    let guarded = &scene.guarded;
    if holder.is_manager() {
        return kept_by_manager(held, scene, rules);
    }
    // Whatever else it may look like, and wherever it is.
    if guarded.known.contains(&holder.pid) {
        return Relation::OwnRun;
    }
    if guarded.is(&holder.owner) {
        return of_own_unit(holder, guarded);
    }
    let is_connection = held.socket.state == SocketState::Connected;
    if let Some(container) = holder.container.as_ref().filter(|_| !is_connection) {
        return Relation::Container(container.clone());
    }
    if is_escaped(holder, guarded) {
        return Relation::Escaped;
    }
    if is_lookalike(holder, guarded) && !is_connection {
        return Relation::Lookalike;
    }
    let born_stale = is_of_a_run(held, guarded);
    match &holder.owner {
        // A socket can be handed to a victim to get it killed (unix(7), SCM_RIGHTS): where it was born proves
        // nothing about who has it now.
        Owner::Session(_) | Owner::Nobody | Owner::Init | Owner::Unknown if born_stale => Relation::Heir,
        _ if is_connection => Relation::Client,
        Owner::Session(session) => Relation::Session { id: session.id.clone() },
        Owner::Unit(unit) | Owner::UserUnit { unit, .. }
            if guarded.unit_beside(&holder.owner).is_some() && is_replaced(unit, rules) =>
        {
            Relation::Predecessor(unit.clone())
        }
        Owner::Unit(unit) if guarded.user.is_some() && *unit == guarded.unit => Relation::Twin { uid: None },
        Owner::Unit(unit) if is_sibling(unit, &guarded.unit) => Relation::Sibling(unit.clone()),
        Owner::Unit(unit) => Relation::OtherUnit(unit.clone()),
        Owner::UserUnit { uid, unit } if *unit == guarded.unit => Relation::Twin { uid: Some(*uid) },
        Owner::UserUnit { uid, unit } => Relation::OtherUserUnit { uid: *uid, unit: unit.clone() },
        Owner::Init | Owner::Nobody | Owner::Unknown => Relation::OtherProcess,
    }
}

/// A service manager has the socket: for a socket unit, or in the file descriptor store of a service.
///
/// A manager that tells what is in the store of the guarded unit is believed; for one that does not, the socket's birth
/// counts. Where that is not known, and the very manager that has the guarded unit has something in its store, it may be this
/// socket.
fn kept_by_manager(held: &HeldSocket, scene: &Scene, rules: &Rules) -> Relation {
    let guarded = &scene.guarded;
    let stored = guarded
        .stored
        .as_ref()
        .map_or_else(|| is_born_here(held, guarded), |stored| stored.contains(&held.socket.inode));
    match (&held.socket_unit, &held.birthplace) {
        (Some(unit), _) => for_socket_unit(unit, scene, rules),
        (None, _) if stored => Relation::OwnFdStore,
        (None, Some(owner)) if guarded.is(owner) => Relation::Manager,
        (None, Some(Owner::Unit(unit))) => Relation::OtherUnit(unit.clone()),
        (None, Some(Owner::UserUnit { uid, unit })) => Relation::OtherUserUnit { uid: *uid, unit: unit.clone() },
        (None, Some(Owner::Session(_) | Owner::Init | Owner::Nobody | Owner::Unknown) | None) => {
            let is_ours =
                |holder: &Rc<Process>| holder.is_manager() && (holder.pid == Pid::INIT) == guarded.user.is_none();
            let untold = guarded.stored.is_none()
                && guarded.keeps_files
                && held.birthplace.is_none()
                && held.holders.iter().any(is_ours);
            if scene.is_manager_silent() || untold { Relation::Unchecked(Probe::Busy) } else { Relation::Manager }
        }
    }
}

fn for_socket_unit(unit: &UnitName, scene: &Scene, rules: &Rules) -> Relation {
    if scene.guarded.triggered_by.contains(unit) {
        Relation::OwnSocketUnit(unit.clone())
    } else if *unit == scene.guarded.unit {
        Relation::OwnRun
    } else if scene.is_manager_silent() && !scene.guarded.knows_triggers {
        // Which units it starts was never told: it may be the guarded unit's own.
        Relation::Unchecked(Probe::Busy)
    } else if is_replaced(unit, rules) {
        Relation::Predecessor(unit.clone())
    } else {
        Relation::OtherSocketUnit(unit.clone())
    }
}

/// A process in the unit's own cgroup: of which run?
///
/// In a start, two things prove an earlier one: an invocation id that the ledger has, or an age that goes back to
/// before the last run was over. Any other id proves nothing: whatever runs in the unit can have set it (env(1), a
/// service manager of its own). Nor does the beginning of this start, which systemd notes after its first fork
/// (measured: the main process can be some ticks older than `InactiveExitTimestamp`).
fn of_own_unit(holder: &Process, guarded: &Guarded) -> Relation {
    let in_ledger = |id| guarded.runs.iter().any(|run| run.invocation == id);
    match guarded.phase {
        Phase::Stopped => Relation::Leftover,
        Phase::Running => Relation::OwnRun,
        Phase::Unknown => Relation::Unproven,
        Phase::Within => match holder.invocation {
            Invocation::Known(id) if Some(id) == guarded.invocation => Relation::OwnStart,
            Invocation::Known(id) if in_ledger(id) => Relation::Leftover,
            Invocation::Known(_) | Invocation::Absent | Invocation::Unreadable => match guarded.ended {
                Some(ended) if holder.start < ended => Relation::Leftover,
                Some(_) | None => Relation::Unproven,
            },
        },
    }
}

/// Outside the unit's cgroup, and the process itself carries the invocation id of an earlier run.
///
/// Not where a service has taken it over. Nor where somebody may sit at it: a shell that was
/// begun from within the service (a web terminal) hands its environment on to all that is typed there.
fn is_escaped(holder: &Process, guarded: &Guarded) -> bool {
    // While it runs, somebody may have taken a process of an earlier run over (`MAINPID=`, `PIDFile=`).
    let may_be_over = match guarded.phase {
        Phase::Within | Phase::Stopped => true,
        Phase::Running | Phase::Unknown => false,
    };
    if holder.terminal.is_some() || !may_be_over {
        return false;
    }
    let Invocation::Known(id) = holder.invocation else { return false };
    let may_be = match &holder.owner {
        Owner::Session(_) | Owner::Nobody => true,
        Owner::Unit(unit) | Owner::UserUnit { unit, .. } => unit.unit_type() == UnitType::Scope,
        Owner::Init | Owner::Unknown => false,
    };
    may_be && Some(id) != guarded.invocation && guarded.runs.iter().any(|run| run.invocation == id)
}

/// In no service, and what the unit's `ExecStart=` runs, as the same user: somebody has started it by hand.
fn is_lookalike(holder: &Process, guarded: &Guarded) -> bool {
    // While the unit runs, it may be one of its own, which it has sent elsewhere.
    let may_be = match guarded.phase {
        Phase::Within | Phase::Stopped => true,
        Phase::Running | Phase::Unknown => false,
    };
    let is_present = matches!(holder.invocation, Invocation::Known(id) if Some(id) == guarded.invocation);
    let in_no_service = may_be
        && !is_present
        && match &holder.owner {
            Owner::Session(_) | Owner::Nobody => true,
            Owner::Unit(unit) | Owner::UserUnit { unit, .. } => unit.unit_type() == UnitType::Scope,
            Owner::Init | Owner::Unknown => false,
        };
    let Some(own) = guarded.program.as_ref().filter(|_| in_no_service) else { return false };
    let is_same_place = holder.folders == Some(own.folders);
    holder.program == Some(own.file)
        && holder.uid == own.uid
        && is_same_place
        && is_same_command(&holder.argv, &own.argv)
}

/// The same arguments, and the same name in front of them, with or without its folder: one file can be several programs
/// (busybox).
fn is_same_command(one: &[String], other: &[String]) -> bool {
    let name = |argument: &String| argument.rsplit('/').next().map(str::to_owned);
    match (one.split_first(), other.split_first()) {
        (Some((one, rest)), Some((other, others))) => name(one) == name(other) && rest == others,
        (Some(_) | None, None) | (None, Some(_)) => false,
    }
}

fn is_sibling(unit: &UnitName, guarded: &UnitName) -> bool {
    unit != guarded && guarded.template().is_some() && unit.template() == guarded.template()
}

#[cfg(test)]
mod tests;
