//! Processes of an earlier run that have gone elsewhere: what proves where they came from, and what does not.

use super::{
    APP, SOON, app_service, assert_names, assert_next_frees, assert_unharmed, assert_up_without, finding, guard,
    message, policy_for_app, refused, started_guarded_app, workers,
};
use crate::machine::Machine;

/// app.service as a command that puts a listener elsewhere, and is then up without a process of its own.
fn app_that_runs(m: &Machine, command: &str) -> u32 {
    m.unit(APP, &format!("[Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=process\nExecStart={command}\n"));
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    m.wait_until("it listens", SOON, || !m.holders("8080/tcp").is_empty());
    let held = m.holders("8080/tcp");
    assert_eq!(held.len(), 1, "{held:?}");
    held[0]
}

fn cgroup_of(m: &Machine, pid: u32) -> String {
    m.ok(&format!("grep ^0:: /proc/{pid}/cgroup"))
}

pub(super) fn leftover_in_a_delegated_cgroup_is_stopped(m: &Machine) {
    m.given("a guarded service with a cgroup of its own below, in which its worker survives a stop");
    app_service(m, "8080/tcp 1 plain /sys/fs/cgroup/system.slice/app.service/sub");
    m.unit(&format!("{APP}.d/delegate.conf"), "[Service]\nDelegate=yes\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    let main = m.main_pid(APP);
    let old: Vec<u32> = m.holders("8080/tcp").into_iter().filter(|pid| *pid != main).collect();
    assert_names(&cgroup_of(m, old[0]), &["/app.service/sub"]);

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is up, and the leftover is gone");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
    finding(m, APP, &[("VERDICT", "freed")]);
}

/// With `DelegateSubgroup=` (systemd 254) the commands in front of the start run in `.control`, and the service beside it.
pub(super) fn leftover_is_told_from_a_control_cgroup(m: &Machine) {
    m.given("a guarded service in a cgroup below its unit's, and its commands in another, where systemd does so");
    app_service(m, "8080/tcp");
    m.unit(
        &format!("{APP}.d/delegate.conf"),
        "[Service]\nDelegate=yes\nDelegateSubgroup=payload\nExecStartPre=/bin/sh -c 'grep ^0:: /proc/self/cgroup >/run/control'\n",
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    let main = m.main_pid(APP);
    let old: Vec<u32> = m.holders("8080/tcp").into_iter().filter(|pid| *pid != main).collect();
    let (below, control) = if m.systemd() >= 254 {
        ("app.service/payload", "app.service/.control")
    } else {
        ("app.service", "app.service")
    };
    assert!(cgroup_of(m, old[0]).trim().ends_with(below), "{}", cgroup_of(m, old[0]));
    assert!(m.ok("cat /run/control").trim().ends_with(control), "{}", m.ok("cat /run/control"));

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is up, and the leftover is gone");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
    finding(m, APP, &[("VERDICT", "freed")]);
}

pub(super) fn daemon_that_forked_twice_is_a_leftover(m: &Machine) {
    m.given("a guarded service whose daemon has a session of its own and PID 1 as its parent");
    let old = app_that_runs(m, "/usr/bin/setsid --fork /usr/bin/python3 /opt/lab/listener.py 8080");
    m.stop(APP);
    assert_eq!(m.ok(&format!("ps -o ppid= -p {old}")).trim(), "1");

    m.when("it is started");
    let start = m.start(APP);

    m.then("it is up, with another daemon");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);
    assert!(!m.alive(old));
    m.wait_until("the new daemon listens", SOON, || m.holders("8080/tcp").len() == 1);
}

/// Neither the unit's cgroup nor the manager is the same as when the process was started.
pub(super) fn worker_moved_to_a_scope_is_proven_by_the_ledger(m: &Machine) {
    m.given(
        "a worker of a guarded service that was moved to a scope, and the service stopped, so that its cgroup is gone",
    );
    let old = started_guarded_app(m, "8080/tcp");
    m.ok(&format!(
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager \
         StartTransientUnit 'ssa(sv)a(sa(sv))' away.scope fail 1 PIDs au 1 {} 0",
        old[0]
    ));
    m.wait_until("it has moved", SOON, || cgroup_of(m, old[0]).contains("/away.scope"));
    m.stop(APP);
    m.wait_until("the cgroup is gone", SOON, || {
        !m.sh("test -e /sys/fs/cgroup/system.slice/app.service").status.success()
    });
    assert_eq!(m.holders("8080/tcp"), old);

    m.when("PID 1 executes itself anew, and the service is started");
    m.ok("systemctl daemon-reexec");
    let start = m.start(APP);

    m.then("the worker is recognised and stopped, and the service is up");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(
        m,
        APP,
        &[
            ("RELATION", "escaped"),
            ("ACTION", "stop"),
            ("HOLDER_PID", &old[0].to_string()),
            ("HOLDER_UNIT", "away.scope"),
        ],
    );
    finding(m, APP, &[("VERDICT", "freed")]);
}

/// PAM moves it to a session of its own, but `su` without a dash leaves the environment as it is.
pub(super) fn worker_moved_to_a_session_is_proven_by_the_ledger(m: &Machine) {
    m.given("a guarded service whose daemon went through su to a login session of alice's");
    m.ok("useradd -m alice");
    let old = app_that_runs(m, "/bin/su alice -c 'exec /usr/bin/python3 /opt/lab/listener.py 8080'");
    assert_names(&cgroup_of(m, old), &["/session-", ".scope"]);

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("the daemon is recognised and stopped, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    m.wait_until("the daemon is gone", SOON, || !m.alive(old));
    finding(m, APP, &[("RELATION", "escaped"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);
    finding(m, APP, &[("VERDICT", "freed")]);
    m.wait_until("the new daemon listens", SOON, || m.holders("8080/tcp").len() == 1);
}

pub(super) fn worker_without_its_environment_is_not_proven(m: &Machine) {
    m.given("a guarded service whose daemon went through su -l to a login session of alice's");
    m.ok("useradd -m alice");
    let old = app_that_runs(m, "/bin/su -l alice -c 'exec /usr/bin/python3 /opt/lab/listener.py 8080'");
    assert_names(&cgroup_of(m, old), &["/session-", ".scope"]);

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is refused, for nothing proves where the daemon came from, and the daemon is unharmed");
    assert!(!restart.status.success(), "{restart:?}");
    let refused = refused(m, APP, &[("RELATION", "session"), ("HOLDER_PID", &old.to_string())]);
    assert_names(message(&refused), &["alice", "login session"]);
    assert_unharmed(m, "8080/tcp", old);
    assert_next_frees(m, "8080/tcp", &refused);
}

/// `systemd-run --scope` gives it the invocation id of the scope.
pub(super) fn scope_that_the_service_has_made_is_another_unit(m: &Machine) {
    m.given("a guarded service whose daemon runs in a scope that systemd-run has made for it");
    let old = app_that_runs(m, "/usr/bin/systemd-run --scope --unit=away /usr/bin/python3 /opt/lab/listener.py 8080");
    assert_names(&cgroup_of(m, old), &["/away.scope"]);

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is refused, the scope is named, and the daemon is unharmed");
    assert!(!restart.status.success(), "{restart:?}");
    let pid = old.to_string();
    let refused = refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_PID", &pid), ("HOLDER_UNIT", "away.scope")]);
    assert_unharmed(m, "8080/tcp", old);
    assert_next_frees(m, "8080/tcp", &refused);
}

/// A process of an earlier run that calls portguard itself must not lose its own parent by it.
pub(super) fn whoever_calls_portguard_is_never_signalled(m: &Machine) {
    m.given("a leftover that calls portguard for its own unit, which is stopped");
    started_guarded_app(m, "8080/tcp 1 calling");
    let old = workers(m);
    m.stop(APP);

    m.when("it does so");
    m.ok(&format!("kill -USR1 {}", old[0]));
    m.wait_until("it has an answer", SOON, || m.sh("test -s /run/called").status.success());

    m.then("portguard refuses with 69, and the leftover is unharmed");
    assert_eq!(m.ok("cat /run/called").trim(), "69");
    let refused =
        finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "refuse"), ("HOLDER_PID", &old[0].to_string())]);
    assert_names(message(&refused), &["it started portguard"]);
    assert_unharmed(m, "8080/tcp", old[0]);

    m.then("a start, of which it is no part, stops it all the same");
    let start = m.start(APP);
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &old);
}
