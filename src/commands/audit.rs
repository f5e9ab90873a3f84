//! `portguard audit`: what keeps the units of a system from getting their ports one day, whoever they are.

use std::path::Path;
use std::time::Duration;

use super::claims::{self, Policies, Source, System};
use super::remark::{self, Findings, Left, Remark, Severity};
use super::{CommandError, show, systemctl, unseen};
use crate::cli;
use crate::manager::Scope;
use crate::model::{CgroupPath, ForeignRule, Pid, UnitName, UnitType};
use crate::observe::units::{Properties, in_order};
use crate::observe::{cgroup, holders, proc};
use crate::policy::{self, Policy};
use crate::report::shell;
use crate::timespan;

/// Exit status 0: nothing was found; 1: something was.
///
/// # Errors
/// Neither systemd nor the kernel could be asked.
pub(super) fn run(args: &cli::Audit) -> Result<u8, CommandError> {
    let (policy, problems) = Policy::survey(&policy::Roots::default());
    let system = System::look(args.common.user, &policy);
    if let Some(why) = &system.silent {
        return Err(CommandError::blind(format!("systemd could not be asked: {why}")));
    }
    let policies = Policies::of(&policy, &system);
    let (sockets, blind) = claims::sockets(args.common.user)?;
    let mut all = policies.claims.clone();
    // Of a socket unit that listens, this is what is said.
    all.extend(sockets);
    all.extend(system.socket_claims(false));
    let units_of = |of: &dyn Fn(&Source) -> bool| {
        let claims = all.iter().filter(|claim| of(&claim.source));
        in_order(claims.filter_map(|claim| claim.unit.clone()).collect())
    };
    let with_ports = units_of(&|source| matches!(source, Source::Policy(_)));
    let with_sockets = units_of(&|source| *source == Source::Socket);

    let mut findings = Vec::new();
    if !problems.is_empty() || !policies.problems.is_empty() {
        let count = remark::count(problems.len() + policies.problems.len(), "problem");
        let message = format!("the policy has {count}: no guarded unit starts that reads it");
        let next = "portguard check".to_owned();
        findings.push(Remark::new(Severity::Error, "policy", &[], message).with_next(next));
    }
    findings.extend(claims::remarks_of(&claims::clashes(&all, &system, &policies)));
    let audited: Vec<Unit<'_>> = system
        .units
        .iter()
        .filter(|(_, shown)| shown.is("LoadState", "loaded"))
        .map(|(name, shown)| Unit {
            name,
            shown,
            guards: guards(name, shown),
            has_ports: with_ports.binary_search(name).is_ok(),
            holds_ports: with_sockets.binary_search(name).is_ok(),
            waits: waits(&policy, name),
        })
        .collect();
    findings.extend(without_ports(&audited));
    findings.extend(without_guard(&audited));
    for unit in &audited {
        findings.extend(unit.remarks(system.scope));
    }
    let left = left_over(&system);
    findings.extend(left);

    let unseen = unseen(&blind, policies.unseen, if args.common.user { "who" } else { "audit" });
    let guarded = audited.iter().filter(|unit| !unit.guards.is_empty()).count();
    let audit = Findings { kind: "audit", remarks: findings, guarded: Some(guarded), unseen };
    let status = u8::from(!audit.remarks.is_empty());
    show(&audit, args.common.json, status)
}

/// What an audit looks at in a unit.
struct Unit<'a> {
    name: &'a UnitName,
    shown: &'a Properties,
    guards: Vec<Guard>,
    /// The policy names a port of it.
    has_ports: bool,
    /// It has a socket that waits.
    holds_ports: bool,
    /// How long portguard waits for a holder that it may not touch.
    waits: Duration,
}

/// A command in front of a start that is portguard.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    /// `ExecCondition=`: a refusal skips the start.
    is_condition: bool,
    /// `+`.
    is_privileged: bool,
    /// `-`.
    is_ignored: bool,
    /// `--port` or `--policy`: it has ports of which the policy here knows nothing.
    has_own_ports: bool,
}

/// Those of `{ path=… ; argv[]=… ; flags=… ; … }`, as `systemctl show` prints `ExecConditionEx` and `ExecStartPreEx`. Of
/// the commands of a socket unit it says whether they have a minus, and not whether they have a plus.
pub(super) fn guards(unit: &UnitName, shown: &Properties) -> Vec<Guard> {
    let of = |key, is_condition| {
        shown.all(key).iter().filter_map(move |line| {
            let (_, arguments) = line.split_once("argv[]=")?;
            let (arguments, flags) = arguments.rsplit_once(" ; start_time=").unwrap_or((arguments, ""));
            let (arguments, flags) = arguments.rsplit_once(" ; ").unwrap_or((arguments, flags));
            let is_guard = |word: &str| word.rsplit('/').next() == Some("portguard");
            let has = |option: &str| arguments.split_whitespace().any(|word| word.split('=').next() == Some(option));
            // Also behind another program, such as setpriv(1).
            (arguments.split_whitespace().any(is_guard) && has("--unit")).then(|| Guard {
                is_condition,
                is_privileged: flags.contains("privileged") || flags.starts_with("ignore_errors"),
                is_ignored: flags.contains("ignore-failure") || flags == "ignore_errors=yes",
                has_own_ports: has("--port") || has("--policy"),
            })
        })
    };
    let plain = if unit.unit_type() == UnitType::Socket { "ExecStartPre" } else { "ExecStartPreEx" };
    of("ExecConditionEx", true).chain(of(plain, false)).collect()
}

/// How long a refusal takes: `on-foreign = "wait"`.
fn waits(policy: &Policy, unit: &UnitName) -> Duration {
    // What cannot be expanded has no rules, and is said elsewhere.
    let rules = policy.rules_for(unit, &|_| None, &[]).ok();
    rules.filter(|rules| rules.on_foreign == ForeignRule::Wait).and_then(|rules| rules.wait).unwrap_or_default()
}

impl Unit<'_> {
    fn warn(&self, kind: &'static str, message: String) -> Remark {
        self.remark(Severity::Warning, kind, message)
    }

    fn remark(&self, severity: Severity, kind: &'static str, message: String) -> Remark {
        Remark::new(severity, kind, &[self.name.as_str()], message)
    }

    fn edit(&self, scope: Scope) -> String {
        format!("{} edit {}", systemctl(scope), shell(self.name))
    }

    /// What is to be said of it alone.
    fn remarks(&self, scope: Scope) -> Vec<Remark> {
        let mut remarks = Vec::new();
        let edit = || self.edit(scope);
        if scope == Scope::System && self.guards.iter().any(|guard| !guard.is_privileged) {
            let user = self.shown.get("User").map(|user| format!(", as {user},")).unwrap_or_default();
            let message = format!(
                "portguard runs without the plus{user} and so with no more privileges than the service: it may see less than \
                 all, and signal nobody: ExecStartPre=+/usr/bin/portguard --unit %n"
            );
            remarks.push(self.warn("no-plus", message).with_next(edit()));
        }
        if self.guards.iter().any(|guard| guard.is_ignored) {
            let message = "a minus in front of portguard has systemd ignore its refusals".to_owned();
            remarks.push(self.warn("ignored", message).with_next(edit()));
        }
        remarks.extend(self.left_behind().map(|remark| remark.with_next(edit())));
        remarks.extend(self.restarts_for_ever().map(|remark| remark.with_next(edit())));
        remarks
    }

    /// `KillMode=` of a unit that has ports. Units that portguard never stops have their reasons: each session of sshd is
    /// a process that is to outlive it.
    fn left_behind(&self) -> Option<Remark> {
        let mode = super::lets_live(self.shown)?;
        let is_concerned = !self.guards.is_empty() || self.has_ports || self.holds_ports;
        let who = if mode == "none" { "all its processes" } else { "all but its main process" };
        let message = format!(
            "KillMode={mode} leaves {who} behind when it stops, and whatever ports they have: KillMode=mixed or \
             control-group ends them"
        );
        (is_concerned && self.name.protection().is_none()).then(|| self.warn("kill-mode", message))
    }

    /// A refusal is the end of a start, after which `Restart=` tries again; until `StartLimitBurst=` starts have been
    /// within `StartLimitIntervalSec=`, if ever. `RestartPreventExitStatus=` does not count: it looks at the main process
    /// (`service_shall_restart()`, systemd v257 `src/core/service.c`).
    fn restarts_for_ever(&self) -> Option<Remark> {
        let restart = self.shown.get("Restart").filter(|restart| ["always", "on-failure"].contains(restart))?;
        // Before 251, which brought ControlGroupId as well, Restart=always counts a start that is skipped
        // (systemd/systemd#22257).
        let never_skips = restart == "always" && self.shown.get("ControlGroupId").is_none();
        let refuses = |guard: &Guard| {
            (never_skips || !guard.is_condition) && !guard.is_ignored && (self.has_ports || guard.has_own_ports)
        };
        let limit = StartLimit::of(self.shown)?;
        if !self.guards.iter().any(refuses) || limit.bites(self.waits) {
            return None;
        }
        let StartLimit { burst, interval, delay, .. } = limit;
        let shown = |span| timespan::show(span);
        let prevent = match self.shown.get("RestartPreventExitStatus") {
            Some(_) => " (RestartPreventExitStatus= looks at the main process alone)",
            None => "",
        };
        let why = if burst == 0 || interval.is_zero() {
            "there is no start limit".to_owned()
        } else {
            format!("{burst} starts, {} apart, are never within {}", shown(delay + self.waits), shown(interval))
        };
        let on_failure = if never_skips { "Restart=on-failure and " } else { "" };
        let message = format!(
            "Restart={restart} tries again for ever where portguard refuses{prevent}: {why}; {on_failure}ExecCondition= \
             instead of ExecStartPre= skips the start, or set StartLimitIntervalSec="
        );
        Some(self.warn("restarts", message))
    }
}

/// When systemd gives up: systemd.unit(5), and `RestartSec=` and its kin of systemd.service(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StartLimit {
    burst: u32,
    interval: Duration,
    delay: Duration,
    /// To which the delay grows, and in how many steps; since systemd 254.
    growth: Option<(Duration, u32)>,
}

impl StartLimit {
    fn of(shown: &Properties) -> Option<Self> {
        let span = |key| match shown.get(key)? {
            "infinity" => Some(Duration::MAX),
            text => timespan::parse(text).ok(),
        };
        let steps = shown.get("RestartSteps").and_then(|steps| steps.parse().ok()).filter(|steps| *steps > 0);
        let last = span("RestartMaxDelayUSec").filter(|last| *last != Duration::MAX);
        Some(Self {
            burst: shown.get("StartLimitBurst")?.parse().ok()?,
            interval: span("StartLimitIntervalUSec")?,
            delay: span("RestartUSec")?,
            growth: last.zip(steps),
        })
    }

    /// Whether one start more than the burst is within the interval, where each takes so long: `ratelimit_below()`, systemd
    /// v257 `src/basic/ratelimit.c`. A delay that grows is taken to be the first until it is the last: where this says
    /// that it does not bite, it does not.
    fn bites(self, each: Duration) -> bool {
        let Self { burst, interval, delay, growth } = self;
        let mut span = Duration::ZERO;
        for restart in 0..burst {
            let last = growth.filter(|(last, steps)| restart >= *steps && *last > delay).map(|(last, _)| last);
            span = span.saturating_add(last.unwrap_or(delay)).saturating_add(each);
            if span >= interval {
                return false;
            }
        }
        burst > 0
    }
}

/// Guards that have nothing to look at.
fn without_ports(units: &[Unit<'_>]) -> Option<Remark> {
    let is_idle = |unit: &&Unit<'_>| {
        !unit.guards.is_empty() && !unit.has_ports && !unit.guards.iter().any(|guard| guard.has_own_ports)
    };
    let names: Vec<&UnitName> = units.iter().filter(is_idle).map(|unit| unit.name).collect();
    let message = "has portguard in front of its start, and no ports in the policy: nothing is looked at";
    of_all("no-ports", &names, message, "learn")
}

/// Ports of the policy that nobody looks at.
fn without_guard(units: &[Unit<'_>]) -> Option<Remark> {
    let names: Vec<&UnitName> =
        units.iter().filter(|unit| unit.has_ports && unit.guards.is_empty()).map(|unit| unit.name).collect();
    of_all("no-guard", &names, "has ports in the policy, and no portguard in front of its start", "enable")
}

/// One remark about all of them: a drop-in can be in front of every service there is.
fn of_all(kind: &'static str, units: &[&UnitName], what: &str, command: &str) -> Option<Remark> {
    let names: Vec<&str> = units.iter().map(|unit| unit.as_str()).collect();
    let typed: Vec<String> = units.iter().map(|unit| shell(unit)).collect();
    let message = match names[..] {
        [] => return None,
        [one] => format!("{one} {what}"),
        _ => format!("each of {} units {what}", names.len()),
    };
    let next = format!("portguard {command} {}", typed.join(" "));
    Some(Remark::new(Severity::Warning, kind, &names, message).with_next(next))
}

/// Units that are down, and of which processes are left.
fn left_over(system: &System) -> Vec<Remark> {
    let roots = &system.roots;
    let Ok(mount) = cgroup::mount(&roots.proc, &roots.cgroup) else { return Vec::new() };
    let mut remarks = Vec::new();
    for (unit, shown) in &system.units {
        let Some(state) = shown.get("ActiveState").filter(|state| ["inactive", "failed"].contains(state)) else {
            continue;
        };
        let path = shown.get("ControlGroup").filter(|path| path.len() > 1).map(|path| CgroupPath(path.to_owned()));
        let Some(dir) = path.and_then(|path| mount.dir_of(&path)) else { continue };
        let pids = holders::cgroup_pids(&dir);
        let processes: Vec<Left> = pids.iter().map(|pid| left(&roots.proc, *pid)).collect();
        if processes.is_empty() {
            continue;
        }
        let count =
            if processes.len() == 1 { "a process".to_owned() } else { format!("{} processes", processes.len()) };
        let message =
            format!("is {state}, and has left {count} behind; a guarded start stops those that are in its way");
        let next = format!("{} kill {}", systemctl(system.scope), shell(unit));
        let remark = Remark::new(Severity::Warning, "left-over", &[unit.as_str()], message).with_next(next);
        remarks.push(Remark { processes, ..remark });
    }
    remarks
}

fn left(proc_root: &Path, pid: Pid) -> Left {
    // What it says of itself can be as long as it likes: of that the beginning is read.
    let facts = proc::process(proc_root, pid).ok().flatten();
    let command = facts.map(|facts| if facts.argv.is_empty() { facts.comm } else { facts.argv.join(" ") });
    // setproctitle(3) leaves blanks behind it.
    Left { pid: pid.0, command: command.unwrap_or_default().trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: &str = "{ path=/usr/bin/portguard ; argv[]=/usr/bin/portguard --unit a.service ; flags=privileged ; \
                         start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }";

    /// `PR_SET_MM_MAP` (prctl(2)) lets a process say that any of its memory are its arguments.
    #[test]
    fn no_more_is_read_of_a_process_than_its_first_arguments() {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("7");
        std::fs::create_dir(&process).unwrap();
        std::fs::write(process.join("stat"), "7 (app) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0").unwrap();
        std::fs::write(process.join("status"), "Uid:\t0\t0\t0\t0\n").unwrap();
        std::fs::write(process.join("cmdline"), "app\0--now  \0").unwrap();
        assert_eq!(left(root.path(), Pid(7)).command, "app --now");
        std::fs::File::options().write(true).open(process.join("cmdline")).unwrap().set_len(1 << 26).unwrap();
        assert!(left(root.path(), Pid(7)).command.len() < 8192);
    }

    fn remarks(shown: &str, has_ports: bool) -> Vec<(&'static str, String)> {
        let (name, shown): (UnitName, _) = ("a.service".parse().unwrap(), Properties::parse(shown));
        let guards = guards(&name, &shown);
        let unit = Unit { name: &name, shown: &shown, guards, has_ports, holds_ports: false, waits: Duration::ZERO };
        unit.remarks(Scope::System).into_iter().map(|remark| (remark.kind, remark.message)).collect()
    }

    fn kinds(shown: &str, has_ports: bool) -> Vec<&'static str> {
        remarks(shown, has_ports).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn a_guard_is_told_by_its_program_and_its_flags() {
        let plain = Guard { is_condition: false, is_privileged: true, is_ignored: false, has_own_ports: false };
        let service: UnitName = "a.service".parse().unwrap();
        let rows = [
            (GUARD.to_owned(), Some(plain)),
            (GUARD.replace("privileged", ""), Some(Guard { is_privileged: false, ..plain })),
            (GUARD.replace("privileged", "ignore-failure privileged"), Some(Guard { is_ignored: true, ..plain })),
            (GUARD.replace("--unit", "--port=80 --unit"), Some(Guard { has_own_ports: true, ..plain })),
            (GUARD.replace("--unit", "--policy /x --unit"), Some(Guard { has_own_ports: true, ..plain })),
            (GUARD.replace("portguard", "portguardian"), None),
            (GUARD.replace("/usr/bin/portguard --unit a.service", "/bin/mkdir -p /run/portguard"), None),
            (GUARD.replace("/usr/bin/portguard", "/bin/sh -c flags=portguard"), None),
        ];
        for (line, guard) in rows {
            let found = guards(&service, &Properties::parse(&format!("ExecStartPreEx={line}")));
            assert_eq!(found, Vec::from_iter(guard), "{line}");
        }
        let found = guards(&service, &Properties::parse(&format!("ExecConditionEx={GUARD}\nExecStartPreEx={GUARD}")));
        assert_eq!(found, [Guard { is_condition: true, ..plain }, plain]);
        for (flag, is_ignored) in [("ignore_errors=no", false), ("ignore_errors=yes", true)] {
            let shown = format!("ExecStartPre={}", GUARD.replace("flags=privileged", flag));
            let found = guards(&"a.socket".parse().unwrap(), &Properties::parse(&shown));
            assert_eq!(found, [Guard { is_ignored, ..plain }], "{flag}");
        }
    }

    #[test]
    fn what_hinders_a_unit_one_day_is_said() {
        let guarded = format!("ExecStartPreEx={GUARD}");
        let bare = guarded.replace("privileged", "");
        let condition = guarded.replace("ExecStartPreEx", "ExecConditionEx");
        let forever = "Restart=always\nRestartUSec=5s\nStartLimitIntervalUSec=10s\nStartLimitBurst=5";
        let rows: [(&[&str], bool, &[&str]); 14] = [
            (&[&guarded], true, &[]),
            (&[&bare, "User=app"], true, &["no-plus"]),
            (&[&guarded, "KillMode=control-group"], true, &[]),
            (&[&guarded, "KillMode=process"], true, &["kill-mode"]),
            (&["KillMode=none"], true, &["kill-mode"]),
            (&["KillMode=none"], false, &[]),
            (&[&guarded, forever], true, &["restarts"]),
            (&[&guarded, forever], false, &[]),
            (&[&condition, forever, "ControlGroupId=0"], true, &[]),
            (&[&condition, forever], true, &["restarts"]),
            (&[&condition, &forever.replace("always", "on-failure")], true, &[]),
            (&[forever], true, &[]),
            (&[&guarded, &forever.replace("always", "on-abnormal")], true, &[]),
            (&[&guarded, &forever.replace("RestartUSec=5s", "RestartUSec=100ms")], true, &[]),
        ];
        for (lines, has_ports, expected) in rows {
            assert_eq!(kinds(&lines.join("\n"), has_ports), expected, "{lines:?}");
        }
        let shown = format!("{guarded}\n{forever}\nRestartPreventExitStatus=69 78");
        let message = &remarks(&shown, true)[0].1;
        assert!(message.contains("main process alone") && message.contains("5 starts, 5s apart"), "{message}");
    }

    #[test]
    fn a_start_limit_bites_where_one_start_more_is_within_its_interval() {
        let seconds = Duration::from_secs;
        let limit = |burst, interval, delay, growth: Option<(u64, u32)>| StartLimit {
            burst,
            interval: seconds(interval),
            delay,
            growth: growth.map(|(last, steps)| (seconds(last), steps)),
        };
        for (limit, each, bites) in [
            (limit(5, 10, Duration::from_millis(100), None), 0, true),
            (limit(5, 10, seconds(2), None), 0, false),
            (limit(5, 11, seconds(2), None), 0, true),
            (limit(5, 11, seconds(2), None), 1, false),
            (limit(0, 10, seconds(0), None), 0, false),
            (limit(5, 0, seconds(0), None), 0, false),
            (limit(5, u64::MAX, seconds(3600), None), 0, true),
            // 1, 1, 1, 8, 8 at the least.
            (limit(5, 20, seconds(1), Some((8, 3))), 0, true),
            (limit(5, 19, seconds(1), Some((8, 3))), 0, false),
        ] {
            assert_eq!(limit.bites(seconds(each)), bites, "{limit:?} {each}");
        }
    }

    #[test]
    fn those_without_ports_and_those_without_a_guard_are_one_remark_each() {
        let shown = Properties::parse(&format!("ExecStartPreEx={GUARD}"));
        let none = Properties::default();
        let names: Vec<UnitName> = ["a.service", "b.service", "c.service"].map(|name| name.parse().unwrap()).into();
        let unit = |index: usize, shown, has_ports| Unit {
            name: &names[index],
            shown,
            guards: guards(&names[index], shown),
            has_ports,
            holds_ports: false,
            waits: Duration::ZERO,
        };
        let units = [unit(0, &shown, false), unit(1, &shown, false), unit(2, &none, true)];
        let remark = without_ports(&units).unwrap();
        assert_eq!((remark.kind, remark.next.as_deref()), ("no-ports", Some("portguard learn a.service b.service")));
        let remark = without_guard(&units).unwrap();
        assert_eq!(remark.message, "c.service has ports in the policy, and no portguard in front of its start");
        let sound = [unit(0, &shown, true), unit(1, &none, false)];
        assert_eq!((without_ports(&sound), without_guard(&sound)), (None, None));
    }
}
