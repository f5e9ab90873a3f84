//! Scene + rules → verdict. A pure function of plain data: it opens nothing, asks nobody, has no clock and logs nothing.
//!
//! Two sentences rule here: *unknown is never free*, and *what is not proven stale is never stopped*.

use crate::model::{
    Action, BlindSpot, EndpointScene, Finding, ForeignRule, Guarded, HeldSocket, Invocation, Owner, Phase, Probe,
    Process, Relation, Rules, Scene, Socket, SocketState, StaleRule, UnitName, UnitType, Verdict,
};

/// Judges everything that is in the way of the guarded unit.
///
/// The whole scene is judged before anything is done, so one holder that must be refused keeps every other
/// holder from being touched.
pub fn judge(scene: &Scene, rules: &Rules) -> Verdict {
    let findings: Vec<Finding> =
        scene.endpoints.iter().flat_map(|seen| findings_of(seen, scene)).map(|found| found.decide(rules)).collect();
    let any = |action| findings.iter().any(|finding| finding.action == action);
    if findings.is_empty() {
        Verdict::Free
    } else if any(Action::Refuse) {
        Verdict::Refuse(findings)
    } else if any(Action::Wait) {
        // Waiting comes before stopping: if the wait fails, nothing was touched.
        Verdict::Wait(findings)
    } else if any(Action::Stop) {
        Verdict::Clear(findings)
    } else {
        Verdict::Pass(findings)
    }
}

/// A finding whose action is still open.
struct Found<'a> {
    endpoint: &'a EndpointScene,
    held: Option<&'a HeldSocket>,
    holder: Option<&'a Process>,
    relation: Relation,
}

impl Found<'_> {
    fn decide(self, rules: &Rules) -> Finding {
        let wanted = action_for(&self.relation, rules);
        let protected = match wanted {
            Action::Stop => self.holder.map_or(Some("no process is known"), Process::protection),
            Action::Pass | Action::Wait | Action::Refuse => None,
        };
        Finding {
            endpoint: self.endpoint.endpoint,
            socket: self.held.map(|held| held.socket.clone()),
            holder: self.holder.cloned(),
            birthplace: self.held.and_then(|held| held.birthplace.clone()),
            relation: self.relation,
            action: if protected.is_some() { Action::Refuse } else { wanted },
            protected,
        }
    }
}

/// The policy, a relation at a time. Only `Leftover` and `Escaped` can ever be stopped.
fn action_for(relation: &Relation, rules: &Rules) -> Action {
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
        Relation::Heir
        | Relation::Unproven
        | Relation::Sibling(_)
        | Relation::Twin { .. }
        | Relation::OtherUnit(_)
        | Relation::OtherUserUnit { .. }
        | Relation::OtherSocketUnit(_)
        | Relation::Manager
        | Relation::Session { .. }
        | Relation::OtherProcess
        | Relation::Client
        | Relation::TimeWait
        | Relation::KernelHeld
        | Relation::Hidden
        | Relation::Unexplained => match rules.on_foreign {
            ForeignRule::Refuse => Action::Refuse,
            ForeignRule::Wait => Action::Wait,
            ForeignRule::Ignore => Action::Pass,
        },
    }
}

fn findings_of<'a>(seen: &'a EndpointScene, scene: &'a Scene) -> Vec<Found<'a>> {
    if seen.probe == Probe::Free {
        return Vec::new();
    }
    let in_the_way = seen.sockets.iter().filter(|held| seen.endpoint.is_contested_by(&held.socket));
    // A connection keeps the port of its listener as well: it explains a busy bind only where no listener does.
    let (bound, connected): (Vec<_>, Vec<_>) = in_the_way.partition(|held| is_bound(&held.socket));
    let explains = if bound.is_empty() && seen.probe == Probe::Busy { connected } else { bound };
    let mut found: Vec<Found<'a>> = explains.into_iter().flat_map(|held| holders_of(seen, held, scene)).collect();
    if found.is_empty() {
        found.extend(unexplained(seen, scene));
    }
    found
}

fn is_bound(socket: &Socket) -> bool {
    match socket.state {
        SocketState::Listen | SocketState::Bound | SocketState::Unconnected => true,
        SocketState::Connected | SocketState::TimeWait => false,
    }
}

/// A probe that was not free, and no socket that tells why.
fn unexplained<'a>(seen: &'a EndpointScene, scene: &Scene) -> Option<Found<'a>> {
    let tables_unread = scene.blind_spots.iter().any(|spot| matches!(spot, BlindSpot::Sockets(_)));
    let relation = match seen.probe {
        Probe::NotLocal => Relation::NotBindable(seen.probe),
        Probe::Busy | Probe::Denied | Probe::Failed(_) if tables_unread => Relation::Hidden,
        Probe::Busy => Relation::Unexplained,
        // The tables were read and show nobody: that is a look of its own, and it says free.
        Probe::Free | Probe::Denied | Probe::Failed(_) => return None,
    };
    Some(Found { endpoint: seen, held: None, holder: None, relation })
}

fn holders_of<'a>(seen: &'a EndpointScene, held: &'a HeldSocket, scene: &'a Scene) -> Vec<Found<'a>> {
    let found = |holder: Option<&'a Process>, relation| Found { endpoint: seen, held: Some(held), holder, relation };
    if held.holders.is_empty() {
        return vec![found(None, holderless(held, scene))];
    }
    held.holders.iter().map(|holder| found(Some(holder), relation_of(holder, held, scene))).collect()
}

/// A socket that no process was seen to have.
fn holderless(held: &HeldSocket, scene: &Scene) -> Relation {
    let hidden = scene.blind_spots.iter().any(|spot| matches!(spot, BlindSpot::Processes { .. }));
    let unsteady = scene.blind_spots.contains(&BlindSpot::Unsteady);
    match (&held.socket_unit, held.socket.state) {
        (Some(unit), _) => for_socket_unit(unit, scene),
        (None, SocketState::TimeWait) => Relation::TimeWait,
        (None, _) if unsteady => Relation::Unexplained,
        (None, _) if hidden => Relation::Hidden,
        (None, SocketState::Connected) => Relation::Client,
        (None, SocketState::Listen | SocketState::Bound | SocketState::Unconnected) => Relation::KernelHeld,
    }
}

fn relation_of(holder: &Process, held: &HeldSocket, scene: &Scene) -> Relation {
    let guarded = &scene.guarded;
    if holder.is_manager() {
        return kept_by_manager(held, scene);
    }
    // Whatever else it may look like, and wherever it is.
    if guarded.known.contains(&holder.pid) {
        return Relation::OwnRun;
    }
    if guarded.is(&holder.owner) {
        return of_own_unit(holder, guarded);
    }
    if is_escaped(holder, guarded) {
        return Relation::Escaped;
    }
    let born_stale = held.socket.cgroup.is_some_and(|id| guarded.runs.iter().any(|run| run.cgroup == Some(id)));
    match &holder.owner {
        // A socket can be handed to a victim to get it killed (unix(7), SCM_RIGHTS): where it was born proves
        // nothing about who has it now.
        Owner::Session(_) | Owner::Nobody | Owner::Init | Owner::Unknown if born_stale => Relation::Heir,
        _ if held.socket.state == SocketState::Connected => Relation::Client,
        Owner::Session(session) => Relation::Session { id: session.id.clone() },
        Owner::Unit(unit) if guarded.user.is_some() && *unit == guarded.unit => Relation::Twin { uid: None },
        Owner::Unit(unit) if is_sibling(unit, &guarded.unit) => Relation::Sibling(unit.clone()),
        Owner::Unit(unit) => Relation::OtherUnit(unit.clone()),
        Owner::UserUnit { uid, unit } if *unit == guarded.unit => Relation::Twin { uid: Some(*uid) },
        Owner::UserUnit { uid, unit } => Relation::OtherUserUnit { uid: *uid, unit: unit.clone() },
        Owner::Init | Owner::Nobody | Owner::Unknown => Relation::OtherProcess,
    }
}

/// A service manager has the socket: for a socket unit, or in the file descriptor store of a service.
fn kept_by_manager(held: &HeldSocket, scene: &Scene) -> Relation {
    let guarded = &scene.guarded;
    let born_here = held.birthplace.as_ref().is_some_and(|owner| guarded.is(owner))
        || held.socket.cgroup.is_some_and(|id| guarded.runs.iter().any(|run| run.cgroup == Some(id)));
    match (&held.socket_unit, &held.birthplace) {
        (Some(unit), _) => for_socket_unit(unit, scene),
        (None, _) if born_here => Relation::OwnFdStore,
        (None, Some(Owner::Unit(unit))) => Relation::OtherUnit(unit.clone()),
        (None, Some(Owner::UserUnit { uid, unit })) => Relation::OtherUserUnit { uid: *uid, unit: unit.clone() },
        (None, Some(Owner::Session(_) | Owner::Init | Owner::Nobody | Owner::Unknown) | None) => Relation::Manager,
    }
}

fn for_socket_unit(unit: &UnitName, scene: &Scene) -> Relation {
    if scene.guarded.triggered_by.contains(unit) {
        Relation::OwnSocketUnit(unit.clone())
    } else if *unit == scene.guarded.unit {
        Relation::OwnRun
    } else if scene.blind_spots.iter().any(|spot| matches!(spot, BlindSpot::Manager(_))) {
        // Which units it starts was not told: it may be the guarded unit's own.
        Relation::Manager
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
/// Not where a service has taken it over, nor a container engine: the scopes that a manager makes for
/// containers are theirs, whatever environment was inherited. Nor where somebody may sit at it: a shell that was
/// begun from within the service (a web terminal) hands its environment on to all that is typed there.
fn is_escaped(holder: &Process, guarded: &Guarded) -> bool {
    // While it runs, somebody may have taken a process of an earlier run over (`MAINPID=`, `PIDFile=`).
    let may_be_over = match guarded.phase {
        Phase::Within | Phase::Stopped => true,
        Phase::Running | Phase::Unknown => false,
    };
    if holder.terminal || !may_be_over {
        return false;
    }
    let Invocation::Known(id) = holder.invocation else { return false };
    let may_be = match &holder.owner {
        Owner::Session(_) | Owner::Nobody => true,
        Owner::Unit(unit) | Owner::UserUnit { unit, .. } => {
            unit.unit_type() == UnitType::Scope && !is_container_scope(unit)
        }
        Owner::Init | Owner::Unknown => false,
    };
    may_be && Some(id) != guarded.invocation && guarded.runs.iter().any(|run| run.invocation == id)
}

fn is_container_scope(unit: &UnitName) -> bool {
    ["docker-", "libpod-", "cri-containerd-", "crio-", "nerdctl-", "machine-"]
        .iter()
        .any(|prefix| unit.as_str().starts_with(prefix))
}

fn is_sibling(unit: &UnitName, guarded: &UnitName) -> bool {
    unit != guarded && guarded.template().is_some() && unit.template() == guarded.template()
}

#[cfg(test)]
mod tests;
