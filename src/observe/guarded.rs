//! The guarded unit itself: where it is in its life, of which run portguard is part, what it runs, and which runs it had
//! before.
//!
//! What the unit's own environment says is never enough by itself: it is compared with what the manager has noted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::systemd::Answer;
use super::{Place, cgroup, own_pid, proc, users};
use crate::ledger;
use crate::manager::Scope;
use crate::model::{
    ActiveState, BlindSpot, Guarded, InvocationId, Owner, Phase, Program, Run, StartTime, UnitFacts, UnitName,
};

impl Place {
    /// The run of which portguard is part, for the ledger; `None` if it is not inside the guarded unit, may not write
    /// the ledger anyway, or is not of the run that the manager has noted: the unit's own `Environment=` can say
    /// anything. The instances that a socket unit makes for each of its connections bind nothing (`REMOTE_ADDR`,
    /// systemd.exec(5)), and would fill the ledger.
    #[must_use]
    pub fn present_run(&self, unit: &UnitName) -> Option<Run> {
        if std::env::var_os("REMOTE_ADDR").is_some() {
            return None;
        }
        let within = self.within.as_ref()?;
        if self.scope == Scope::System && !crate::sys::is_root() {
            return None;
        }
        let noted = self.own_invocation(unit);
        let invocation = noted.filter(|_| self.invocation.is_none() || self.invocation == noted)?;
        let cgroup = cgroup::id_at_usual_place(&self.roots.cgroup, within)
            .or_else(|| self.directory(within).and_then(|dir| cgroup::id_of(&dir).ok()));
        Some(Run { cgroup, invocation })
    }

    /// The invocation id of the run of which portguard is part, as the manager has noted it; `None` if it is not inside the
    /// guarded unit.
    #[must_use]
    pub fn own_invocation(&self, unit: &UnitName) -> Option<InvocationId> {
        self.within.as_ref()?;
        let noted = *self.noted.get_or_init(|| self.exported_invocation(unit));
        match self.scope {
            Scope::System => noted,
            // The managers of users note nothing before systemd 250.
            Scope::User => noted.or(self.invocation),
        }
    }

    /// What the guarded unit's `ExecStart=` runs; `None` where that cannot be told for certain.
    fn program(&self, facts: &UnitFacts) -> Option<Program> {
        let (path, argv) = facts.exec_start.as_ref()?;
        let variable = |name: &str| std::env::var(name).ok().filter(|_| self.is_within());
        if facts.has_own_root {
            return None;
        }
        let uid = match (&facts.user, self.scope) {
            (None, Scope::System) => 0,
            (None, Scope::User) => rustix::process::getuid().as_raw(),
            (Some(user), _) => users::user_id(&self.roots.etc, user)?,
        };
        let home = || users::home_of(&self.roots.etc, uid);
        let folder = match facts.working_directory.as_deref().map(|folder| folder.trim_start_matches('!')) {
            Some("~") => home()?,
            Some(folder) => folder.into(),
            // systemd.exec(5).
            None if self.scope == Scope::User => home()?,
            None => "/".into(),
        };
        Some(Program {
            file: proc::file_of(path)?,
            argv: argv.iter().map(|argument| filled_in(argument, &variable)).collect::<Option<_>>()?,
            folders: (proc::file_of(&folder)?, proc::file_of(Path::new("/"))?),
            uid,
        })
    }

    pub(super) fn guarded(&self, unit: &UnitName, answer: &Answer, blind_spots: &mut Vec<BlindSpot>) -> Guarded {
        let facts = &answer.unit;
        let present = facts.invocation.or_else(|| self.exported_invocation(unit));
        let runs = ledger::read(&self.ledger, unit).unwrap_or_else(|error| {
            // Without privilege there is none to read, and none was written.
            if rustix::process::geteuid().is_root() {
                blind_spots.push(BlindSpot::Ledger(error.to_string()));
            }
            Vec::new()
        });
        let is_entered = runs.iter().any(|run| Some(run.invocation) == present);
        let phase = self.phase(present, facts, is_entered);
        // Once it is over, the manager still tells the id of the last run, which is one of the earlier ones then.
        let invocation = present.filter(|_| phase != Phase::Stopped);
        // Which of them is the present one must be known, or a live process could pass for one of an earlier run. And if
        // the unit's own environment sets the variable (an EnvironmentFile= that was once dumped), ids prove nothing.
        let overridden = phase == Phase::Within && self.invocation.is_some() && self.invocation != invocation;
        let present_known = (invocation.is_some() || phase == Phase::Stopped) && !overridden;
        let runs = runs.into_iter().filter(|run| present_known && Some(run.invocation) != invocation).collect();
        Guarded {
            unit: facts.id.clone().unwrap_or_else(|| unit.clone()),
            user: (self.scope == Scope::User).then(|| rustix::process::getuid().as_raw()),
            phase,
            invocation,
            ended: facts.ended.and_then(start_time),
            known: facts.main_pid.into_iter().chain(facts.control_pid).collect(),
            triggered_by: facts.triggered_by.clone(),
            knows_triggers: self.last_said.borrow().active != ActiveState::Unknown,
            runs,
            stored: answer.stored.clone(),
            keeps_files: facts.keeps_files,
            program: self.program(facts),
        }
    }

    /// `is_entered`: the present run is in the ledger, where a start is entered once its guard has let it through.
    fn phase(&self, present: Option<InvocationId>, facts: &UnitFacts, is_entered: bool) -> Phase {
        let own = own_pid();
        let is_control = facts
            .control_pid
            .is_some_and(|control| control == own || proc::ancestors(&self.roots.proc, own).contains(&control));
        let carries_present_id = self.invocation.is_some() && self.invocation == present;
        // The manager tells its commands the main process where there is one, which is in front of no start
        // (service_spawn_internal(), systemd v257 src/core/service.c); not every service has one (Type=oneshot).
        let starting = facts.starting.unwrap_or_else(|| !is_entered && std::env::var_os("MAINPID").is_none());
        phase(self.within.is_some(), is_control || carries_present_id, starting, facts.active)
    }

    /// The invocation id of the unit's present run, which the manager writes before it runs any command of it, and
    /// removes with the unit: `unit_export_invocation_id()`, systemd v257 `src/core/unit.c`.
    fn exported_invocation(&self, unit: &UnitName) -> Option<InvocationId> {
        std::fs::read_link(self.note_of(unit.as_str())).ok()?.to_str()?.parse().ok()
    }

    /// Whether the manager has a run of this unit.
    #[must_use]
    pub fn is_noted(&self, unit: &str) -> bool {
        self.note_of(unit).is_symlink()
    }

    fn note_of(&self, unit: &str) -> PathBuf {
        self.roots.run.join("systemd/units").join(format!("invocation:{unit}"))
    }
}

pub(super) fn is_guarded(owner: &Owner, unit: &UnitName, scope: Scope) -> bool {
    match (owner, scope) {
        (Owner::Unit(own), Scope::System) => own == unit,
        (Owner::UserUnit { uid, unit: own }, Scope::User) => own == unit && *uid == rustix::process::getuid().as_raw(),
        (
            Owner::Unit(_) | Owner::UserUnit { .. } | Owner::Session(_) | Owner::Init | Owner::Nobody | Owner::Unknown,
            Scope::System | Scope::User,
        ) => false,
    }
}

/// Where the unit is in its life.
///
/// Inside its cgroup is not enough to be part of its start: a process of an earlier run that is still there can call
/// portguard as well, and so can `ExecReload=`. Either portguard (or what called it) is the very command that the
/// manager waits for, or it carries the invocation id of the present run; and the manager must not say that anything
/// but the commands in front of `ExecStart=` runs.
fn phase(within: bool, is_of_this_run: bool, starting: bool, active: ActiveState) -> Phase {
    if within && is_of_this_run && starting {
        return Phase::Within;
    }
    match active {
        ActiveState::Down => Phase::Stopped,
        ActiveState::Up | ActiveState::Stopping => Phase::Running,
        ActiveState::Unknown => Phase::Unknown,
    }
}

/// A moment of `CLOCK_MONOTONIC` as a process start time. Those count the time asleep as well, so after a suspend
/// this is too early, and nothing younger than the moment counts as older. `None` where the clocks are shifted the other
/// way (`time_namespaces(7)`).
fn start_time(moment: Duration) -> Option<StartTime> {
    let now = |clock| Duration::try_from(rustix::time::clock_gettime(clock)).ok();
    start_time_at(moment, now(rustix::time::ClockId::Monotonic)?, now(rustix::time::ClockId::Boottime)?)
}

fn start_time_at(moment: Duration, monotonic: Duration, since_boot: Duration) -> Option<StartTime> {
    if since_boot < monotonic {
        return None;
    }
    let ticks = u128::from(rustix::param::clock_ticks_per_second()) * moment.as_micros() / 1_000_000;
    u64::try_from(ticks).ok().map(StartTime)
}

/// An argument of `ExecStart=` as the process gets it: `${NAME}` filled in, `$$` a dollar (systemd.service(5)). `None`
/// for a variable that is not set, or one without braces, which can become several arguments.
fn filled_in(argument: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut filled = String::new();
    let mut rest = argument;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.push('$');
            rest = after;
        } else {
            let (name, after) = rest.strip_prefix('{')?.split_once('}')?;
            filled.push_str(&variable(name)?);
            rest = after;
        }
    }
    Some(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_in_front_of_the_start_is_part_of_it() {
        const UP: ActiveState = ActiveState::Up;
        const SILENT: ActiveState = ActiveState::Unknown;
        for (within, is_of_this_run, starting, active, expected) in [
            (true, true, true, UP, Phase::Within),
            (true, true, true, SILENT, Phase::Within),
            // A process of an earlier run, still in the cgroup, calls portguard in the midst of a start.
            (true, false, true, UP, Phase::Running),
            // ExecReload=.
            (true, true, false, UP, Phase::Running),
            (true, true, false, SILENT, Phase::Unknown),
            (false, true, true, UP, Phase::Running),
            (true, false, true, SILENT, Phase::Unknown),
            (false, false, false, ActiveState::Down, Phase::Stopped),
        ] {
            let seen = phase(within, is_of_this_run, starting, active);
            assert_eq!(seen, expected, "{within} {is_of_this_run} {starting} {active:?}");
        }
    }

    #[test]
    fn nobody_is_older_than_the_end_of_a_run_by_a_clock_that_has_jumped() {
        let (ended, second) = (Duration::from_secs(100), Duration::from_secs(1));
        let ticks = |at: Duration| at.as_secs() * rustix::param::clock_ticks_per_second();
        for asleep in [Duration::ZERO, second, Duration::from_hours(100)] {
            let end = start_time_at(ended, ended, ended + asleep).expect("a moment");
            // What begins once the run is over, by the clock that processes have.
            assert!(end <= StartTime(ticks(ended + asleep)) && end == StartTime(ticks(ended)), "{asleep:?}");
        }
        assert_eq!(start_time_at(ended, ended + second, ended), None);
    }

    #[test]
    fn an_argument_is_what_the_process_gets() {
        let variable = |name: &str| (name == "PORT").then(|| "8080".to_owned());
        for (argument, filled) in [
            ("--port=80", Some("--port=80")),
            ("--port=${PORT}", Some("--port=8080")),
            ("${PORT}${PORT}/x", Some("80808080/x")),
            ("$${PORT}", Some("${PORT}")),
            ("a$$", Some("a$")),
            ("$PORT", None),
            ("${OTHER}", None),
            ("${PORT", None),
            ("$", None),
        ] {
            assert_eq!(filled_in(argument, &variable).as_deref(), filled, "{argument}");
        }
    }
}
