//! What must not get a process stopped: tried by whoever can write the environment, the names or the ids.

use super::{
    APP, assert_names, assert_unharmed, assert_up_without, field, finding, guard, message, policy_for_app,
    started_guarded_app,
};
use crate::machine::Machine;

/// A main process that shows no environment looks like one of nobody knows which run, and systemd notes the beginning
/// of a run after its first fork.
pub(super) fn live_main_process_is_never_left_over(m: &Machine) {
    m.given("a live service whose main process has no environment, and that calls portguard at every reload");
    m.unit(
        APP,
        "[Service]\nExecStart=/usr/bin/env -i /usr/bin/python3 /opt/lab/server.py 8080\n\
         ExecReload=+/usr/bin/portguard --unit %n --port 8080\n",
    );
    for _ in 0..5 {
        m.ok(&format!("systemctl restart {APP}"));
        m.wait_until("it listens", super::SOON, || !m.holders("8080/tcp").is_empty());
        let main = m.main_pid(APP);

        m.when("it is reloaded");
        m.sh(&format!("systemctl reload {APP}"));

        m.then("its main process lives, and portguard has said whose it is");
        assert_unharmed(m, "8080/tcp", main);
        finding(m, APP, &[("RELATION", "own-run"), ("ACTION", "refuse"), ("HOLDER_PID", &main.to_string())]);
    }
}

/// It carries the invocation id of an earlier run, which the ledger has, and lives outside the unit's cgroup.
pub(super) fn daemon_that_was_taken_over_is_not_stopped(m: &Machine) {
    m.given("a live service whose main process is the daemon of an earlier run, in no cgroup of the unit");
    m.ok("mkdir /sys/fs/cgroup/nobodys");
    m.unit(
        APP,
        "[Service]\nType=forking\nKillMode=none\nPIDFile=/run/app.pid\nExecStartPre=+/usr/bin/portguard --unit %n --port 9999\n\
         ExecStart=/usr/bin/python3 /opt/lab/taken_over.py 8080 /run/app.pid /sys/fs/cgroup/nobodys\n",
    );
    m.ok(&format!("systemctl start {APP}"));
    let daemon = m.main_pid(APP);
    m.stop(APP);
    m.ok(&format!("systemctl start {APP}"));
    assert_eq!(m.main_pid(APP), daemon, "it was not taken over");

    m.when("portguard is typed for its port on a shell, as root");
    let typed = m.sh(&format!("portguard --unit {APP} --port 8080"));

    m.then("it says whose it is, and touches nothing");
    assert_eq!(typed.status.code(), Some(69), "{typed:?}");
    assert_names(&typed.stderr, &["own-run", &daemon.to_string()]);
    assert_unharmed(m, "8080/tcp", daemon);
}

pub(super) fn foreign_invocation_id_proves_nothing(m: &Machine) {
    m.given("a service whose first ExecStartPre= leaves a helper with the port, and with an invocation id of its own");
    let forged = "INVOCATION_ID=0123456789abcdef0123456789abcdef";
    m.unit(
        APP,
        &format!("[Service]\nExecStartPre=/usr/bin/env {forged} /usr/bin/python3 /opt/lab/listener.py 8080\nExecStart=/bin/sleep infinity\n"),
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("it is started");
    let start = m.start(APP);

    m.then("the start is refused, and the guard has stopped nobody");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "unproven"), ("ACTION", "refuse"), ("ENDPOINT", "8080/tcp")]);
    let stops = |entry: &_| field(entry, "PORTGUARD_ACTION") == "stop";
    assert!(!m.guard_entries(APP).iter().any(stops));
}

pub(super) fn environment_of_the_unit_has_no_say(m: &Machine) {
    let forged = "0123456789abcdef0123456789abcdef";
    m.given("web.service with the port, which has an id that the guarded service's environment says is its own");
    m.unit(
        "web.service",
        &format!("[Service]\nType=forking\nEnvironment=INVOCATION_ID={forged}\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080\n"),
    );
    m.unit(
        APP,
        &format!(
            "[Service]\nType=oneshot\nEnvironment=INVOCATION_ID={forged} DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/evil PATH=/evil\n\
             ExecStart=/bin/true\n"
        ),
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service starts with its port free");
    m.ok(&format!("systemctl start {APP}"));

    m.then("the forged id is not in the ledger");
    assert!(!m.sh("cat /run/portguard/ledger/app.service").stdout.contains(forged));

    m.when("it starts with its port held");
    m.ok("systemctl start web.service");
    let web = m.main_pid("web.service");
    let start = m.start(APP);

    m.then("the bus was asked all the same, and web.service is refused and unharmed");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "web.service"), ("ACTION", "refuse")]);
    assert_unharmed(m, "8080/tcp", web);
}

pub(super) fn names_of_others_forge_no_line(m: &Machine) {
    m.given("a holder whose arguments have line breaks, escape sequences and quotes");
    m.unit(
        "web.service",
        "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080 \\\n    \
         \"a\\nPORTGUARD_VERDICT=free\" \"\\x1b[2J\" \"x\\\"), a leftover of an earlier run\"\n",
    );
    m.ok("systemctl start web.service");
    super::app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    m.start(APP);

    m.then("the line shows them escaped, and is one line");
    let refused = finding(m, APP, &[("RELATION", "other-unit"), ("ACTION", "refuse")]);
    let words = message(&refused);
    assert_names(words, &["a\\nPORTGUARD_VERDICT=free", "\\u{1b}[2J", "x\\\"), a leftover"]);
    assert!(!words.chars().any(char::is_control), "{words:?}");
    assert!(!m.guard_entries(APP).iter().any(|entry| field(entry, "PORTGUARD_VERDICT") == "free"));
}

pub(super) fn umask_of_one_service_does_not_hinder_another(m: &Machine) {
    m.given("a first guarded start under UMask=0077, and a second service whose guard runs as alice");
    let old = started_guarded_app(m, "8080/tcp");
    m.ok("rm -rf /run/portguard && useradd -m alice");
    m.unit(&format!("{APP}.d/umask.conf"), "[Service]\nUMask=0077\n");
    m.ok(&format!("systemctl restart {APP}"));
    assert_up_without(m, "8080/tcp", &old);
    m.unit("other.service", "[Service]\nType=oneshot\nUser=alice\nExecStartPre=/usr/bin/portguard --unit %n --port 8081\nExecStart=/bin/true\n");

    m.when("the second is started");
    let start = m.start("other.service");

    m.then("it comes up, and its guard has said so");
    assert!(start.status.success(), "{start:?}");
    assert_names(&m.journal("other.service"), &["8081/tcp free"]);
    assert_eq!(
        m.ok("stat -c %a /run/portguard /run/portguard/ledger").split_whitespace().collect::<Vec<_>>(),
        ["755", "700"]
    );
}
