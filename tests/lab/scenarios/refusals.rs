//! Holders that are none of portguard's business: the start is refused, the holder named, and left alone.

use super::{
    APP, app_service, assert_names, assert_unharmed, finding, guard, message, policy, policy_for_app,
    started_guarded_app, web_has_the_port,
};
use crate::machine::Machine;

pub(super) fn foreign_live_unit_is_refused_named_and_unharmed(m: &Machine) {
    m.given("web.service, which lives and holds the port of the guarded service");
    let web = web_has_the_port(m);
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails with 69, and the journal names the unit and what to type");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(
        m,
        APP,
        &[
            ("RELATION", "other-unit"),
            ("ACTION", "refuse"),
            ("ENDPOINT", "8080/tcp"),
            ("HOLDER_PID", &web.to_string()),
            ("HOLDER_UNIT", "web.service"),
        ],
    );
    assert_names(message(&refused), &["8080/tcp", "web.service"]);
    assert_names(&m.journal(APP), &["systemctl stop web.service", "status=69/UNAVAILABLE"]);
    finding(m, APP, &[("VERDICT", "refused")]);

    m.then("web.service is unharmed");
    assert_unharmed(m, "8080/tcp", web);
    assert_eq!(m.main_pid("web.service"), web);
}

/// systemd kills the helper itself once the start has failed, so what portguard did shows in the journal alone.
pub(super) fn own_start_helper_is_refused_and_named(m: &Machine) {
    m.given("a service with an ExecStartPre= before the guard's that leaves a listener behind");
    m.unit(APP, "[Service]\nExecStartPre=/usr/bin/python3 /opt/lab/listener.py 8080\nExecStart=/bin/sleep infinity\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("it is started");
    let start = m.start(APP);

    m.then("the start fails with 69, and the journal names the helper");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(m, APP, &[("RELATION", "own-start"), ("ACTION", "refuse"), ("ENDPOINT", "8080/tcp")]);
    assert_names(message(&refused), &["python3", "ExecStartPre="]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);

    m.then("the guard has stopped nobody");
    let stops = |entry: &_| super::field(entry, "PORTGUARD_ACTION") == "stop";
    assert!(!m.guard_entries(APP).iter().any(stops));
}

pub(super) fn login_session_is_refused_and_named(m: &Machine) {
    m.given("alice, who is logged in and runs a server on the port of the guarded service");
    m.ok("useradd -m alice");
    m.ok("setsid su -l alice -c 'python3 /opt/lab/listener.py 8080; exec sleep infinity' >/dev/null 2>&1 &");
    m.wait_until("alice's server listens", super::SOON, || m.holders("8080/tcp").len() == 1);
    let alice = m.holders("8080/tcp")[0];
    let cgroup = m.ok(&format!("grep ^0:: /proc/{alice}/cgroup"));
    assert_names(&cgroup, &["/session-", ".scope"]);
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails with 69, and the journal names her and her session");
    assert!(!start.status.success(), "{start:?}");
    let pid = alice.to_string();
    let refused = finding(m, APP, &[("RELATION", "session"), ("ACTION", "refuse"), ("HOLDER_PID", &pid)]);
    assert_names(message(&refused), &["8080/tcp", "alice", "session"]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);

    m.then("her server is unharmed");
    assert_unharmed(m, "8080/tcp", alice);
}

pub(super) fn broken_policy_is_78_and_touches_nothing(m: &Machine) {
    m.given("a leftover, and a policy with a misspelt key in its line 3");
    let old = started_guarded_app(m, "8080/tcp");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-stail = \"stop\"\n"));

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the start fails with 78, and the journal names file, line and key");
    assert!(!restart.status.success(), "{restart:?}");
    let journal = m.journal(APP);
    assert_names(&journal, &["status=78/CONFIG", "/etc/portguard/portguard.toml", "on-stail"]);
    assert!(journal.contains("portguard.toml:3") || journal.contains("line 3"), "no line is named in: {journal}");

    m.then("the leftover lives and holds the port");
    assert_unharmed(m, "8080/tcp", old[0]);
}

/// Whoever can reach a socket of the victim's can pass it a listener of the service's: that must not make it a target.
pub(super) fn passed_socket_does_not_get_its_receiver_killed(m: &Machine) {
    m.given("a login session that was handed the listening socket of a guarded service that is gone");
    m.ok("useradd -m alice");
    m.ok("setsid su -l alice -c 'python3 /opt/lab/receiver.py /tmp/victim; exec sleep infinity' >/dev/null 2>&1 &");
    m.wait_until("the receiver waits", super::SOON, || m.sh("test -S /tmp/victim").status.success());
    m.unit(APP, "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/python3 /opt/lab/passer.py 8080 /tmp/victim\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    let victim = m.holders("8080/tcp");
    assert_eq!(victim.len(), 1, "the socket was not handed over");
    let pid = victim[0].to_string();

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the start is refused, for the receiver is not itself of an earlier run");
    assert!(!restart.status.success(), "{restart:?}");
    finding(m, APP, &[("RELATION", "heir"), ("ACTION", "refuse"), ("HOLDER_PID", &pid)]);

    m.then("the receiver is unharmed");
    assert_unharmed(m, "8080/tcp", victim[0]);
}

pub(super) fn live_service_is_not_stopped_by_hand(m: &Machine) {
    m.given("a guarded service that is up");
    started_guarded_app(m, "8080/tcp");
    let holders = m.holders("8080/tcp");

    m.when("portguard is typed for it on a shell, as root");
    let typed = m.sh(&format!("portguard --unit {APP}"));

    m.then("it says that the service has the port, as it runs now, and touches nothing");
    assert_eq!(typed.status.code(), Some(69), "{typed:?}");
    assert_names(&typed.stderr, &["own-run", "systemctl restart app.service"]);
    assert_eq!(m.holders("8080/tcp"), holders);

    m.when("it is typed as if from within the service, with the invocation id of another run");
    let forged = m.sh(&format!(
        "echo $$ >/sys/fs/cgroup/system.slice/{APP}/cgroup.procs; INVOCATION_ID=0123456789abcdef0123456789abcdef portguard --unit {APP}"
    ));

    m.then("it touches nothing either");
    assert_eq!(forged.status.code(), Some(69), "{forged:?}");
    assert_eq!(m.holders("8080/tcp"), holders);
}

pub(super) fn untrusted_policy_is_78_and_touches_nothing(m: &Machine) {
    m.given("a leftover, and a policy that anybody may write");
    let old = started_guarded_app(m, "8080/tcp");
    m.ok("chmod 666 /etc/portguard/portguard.toml");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the start fails with 78, and the journal names file, mode and remedy");
    assert!(!restart.status.success(), "{restart:?}");
    assert_names(&m.journal(APP), &["status=78/CONFIG", "/etc/portguard/portguard.toml", "666", "chmod go-w"]);

    m.then("the leftover lives and holds the port");
    assert_unharmed(m, "8080/tcp", old[0]);
}
