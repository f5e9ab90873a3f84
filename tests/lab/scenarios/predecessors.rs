//! Units that the policy says the guarded one takes over from: systemd stops them, and only if it stops nobody else.

use std::time::{Duration, Instant};

use super::faults::{self, guard_took};
use super::users::{alices_manager, as_alice, user_unit};
use super::{
    APP, SOON, app_service, assert_names, assert_nobody_signalled, assert_unharmed, assert_up_without, field, finding,
    guard, message, policy, refused, take_the_bus_away,
};
use crate::machine::Machine;

/// What a stop that has to wait for nobody may cost, on a machine that is busy with other machines.
const BOUND: Duration = Duration::from_secs(6);

/// Writes a service that holds a port with its main process alone and is up when it does, and starts it.
fn holding(m: &Machine, unit: &str, port: u16, settings: &str) -> u32 {
    m.unit(unit, &service(port, settings));
    m.ok(&format!("systemctl start {unit}"));
    m.main_pid(unit)
}

fn service(port: u16, settings: &str) -> String {
    format!("[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py {port}/tcp 0\n{settings}")
}

/// app.service, guarded, which takes over from these, as TOML has it.
pub(super) fn app_replaces(m: &Machine, units: &str) {
    app_service(m, "8080/tcp");
    replaces(m, units);
    guard(m, APP);
}

pub(super) fn replaces(m: &Machine, units: &str) {
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\nreplaces = [{units}]\n"));
}

pub(super) fn predecessor_is_stopped_by_systemd_and_stays_down(m: &Machine) {
    m.given("old.service, which is started anew whenever it ends, and which the guarded service replaces");
    let old =
        holding(m, "old.service", 8080, "Restart=always\nRestartSec=100ms\nExecStop=/bin/touch /run/old-was-stopped\n");
    app_replaces(m, "\"old.service\"");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is up, and the port is its own");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &[old]);

    m.then("systemd has stopped old.service, with its ExecStop=, and it was not killed and is not back");
    assert_eq!(
        (m.show("old.service", "ActiveState"), m.show("old.service", "NRestarts")),
        ("inactive".into(), "0".into())
    );
    m.ok("test -e /run/old-was-stopped");
    assert_nobody_signalled(m, APP);

    m.then("the journal has it as fields, and that of old.service says who has stopped it");
    finding(
        m,
        APP,
        &[
            ("RELATION", "predecessor"),
            ("ACTION", "stop-unit"),
            ("ENDPOINT", "8080/tcp"),
            ("HOLDER_PID", &old.to_string()),
            ("HOLDER_UNIT", "old.service"),
        ],
    );
    let freed = finding(m, APP, &[("VERDICT", "freed"), ("EXIT_STATUS", "0")]);
    assert_names(message(&freed), &["old.service was stopped"]);
    assert_names(&m.journal("old.service"), &["asking systemd to stop old.service, which app.service replaces"]);
}

pub(super) fn predecessor_is_matched_by_a_pattern(m: &Machine) {
    m.given("old-1.service with the port, old-2.service with another, and a policy that replaces old-*.service");
    let old = holding(m, "old-1.service", 8080, "");
    let bystander = holding(m, "old-2.service", 8082, "");
    app_replaces(m, "\"old-*.service\"");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is up instead of old-1.service, and old-2.service, which is not in its way, lives");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &[old]);
    finding(m, APP, &[("RELATION", "predecessor"), ("HOLDER_UNIT", "old-1.service"), ("ACTION", "stop-unit")]);
    assert_unharmed(m, "8082/tcp", bystander);

    m.given(
        "an instance of a template with a port that the next instance needs, and a policy that replaces all of them",
    );
    m.unit("web@.service", &service(8083, ""));
    policy(m, "[unit.\"web@.service\"]\nports = [\"8083/tcp\"]\nreplaces = [\"web@*.service\"]\n");
    guard(m, "web@.service");
    m.ok("systemctl start web@1.service");
    let first = m.main_pid("web@1.service");

    m.when("the next instance is started");
    let start = m.start("web@2.service");

    m.then("it is up, and the first is stopped");
    assert!(start.status.success(), "{start:?}");
    assert_eq!(m.holders("8083/tcp"), [m.main_pid("web@2.service")]);
    assert!(!m.alive(first));
    assert_eq!(m.show("web@1.service", "ActiveState"), "inactive");
    finding(m, "web@2.service", &[("RELATION", "predecessor"), ("HOLDER_UNIT", "web@1.service")]);
}

pub(super) fn predecessor_that_takes_its_time_is_waited_for(m: &Machine) {
    m.given("old.service, whose ExecStop= takes two seconds, and which the guarded service replaces");
    let old = holding(m, "old.service", 8080, "ExecStop=/bin/sleep 2\n");
    app_replaces(m, "\"old.service\"");

    m.when("the guarded service is started");
    let begin = Instant::now();
    let start = m.start(APP);

    m.then("it is up once old.service is down, and not before");
    assert!(start.status.success(), "{start:?}");
    assert!(begin.elapsed() >= Duration::from_secs(2), "after {:?}", begin.elapsed());
    assert_up_without(m, "8080/tcp", &[old]);
    assert_eq!(m.show("old.service", "ActiveState"), "inactive");

    m.given("old.service again, with a worker that ignores SIGTERM, and a second for it");
    m.ok(&format!("systemctl stop {APP} && systemctl kill -s KILL {APP} 2>/dev/null; true"));
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    m.unit(
        "old.service",
        "[Service]\nType=notify\nTimeoutStopSec=1\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 1 stubborn\n",
    );
    m.ok("systemctl start old.service");
    let old = m.processes_of("old.service");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("systemd has killed the worker, and the service is up");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &old);
    assert_nobody_signalled(m, APP);
}

/// With the job mode `replace`, systemd would cancel the start that waits for the stop, and portguard with it.
pub(super) fn predecessor_that_the_unit_hangs_on_is_refused_in_its_own_words(m: &Machine) {
    for dependency in ["Requires", "BindsTo", "PartOf"] {
        m.given(&format!("a guarded service with {dependency}=old.service, which it replaces"));
        let old = holding(m, "old.service", 8080, "");
        app_replaces(m, "\"old.service\"");
        m.unit(&format!("{APP}.d/hangs.conf"), &format!("[Unit]\n{dependency}=old.service\nAfter=old.service\n"));

        m.when("it is started");
        let start = m.start(APP);

        m.then("portguard itself refuses, and says what would be stopped with old.service");
        assert!(!start.status.success(), "{start:?}");
        let refused = refused(m, APP, &[("RELATION", "predecessor"), ("HOLDER_PID", &old.to_string())]);
        assert_names(message(&refused), &["systemd would stop app.service as well", "Requires=, BindsTo= and PartOf="]);
        let journal = m.journal(APP);
        assert!(!journal.to_lowercase().contains("cancel"), "{journal}");

        m.then("old.service is unharmed, until what portguard says is typed");
        assert_unharmed(m, "8080/tcp", old);
        super::assert_next_frees(m, "8080/tcp", &refused);
        forget(m);
    }
}

pub(super) fn predecessor_on_which_another_hangs_is_refused_and_both_named(m: &Machine) {
    let third = |dependency| {
        m.unit(
            "third.service",
            &format!("[Unit]\n{dependency}=old.service\nAfter=old.service\n[Service]\nExecStart=/bin/sleep infinity\n"),
        );
        m.ok("systemctl start third.service");
        m.main_pid("third.service")
    };
    for dependency in ["Requires", "BindsTo", "PartOf"] {
        m.given(&format!("third.service, which lives and has {dependency}=old.service, which alone is replaced"));
        let old = holding(m, "old.service", 8080, "");
        let other = third(dependency);
        app_replaces(m, "\"old.service\"");

        m.when("the guarded service is started");
        let start = m.start(APP);

        m.then("it is refused, third.service is named, and both are unharmed");
        assert!(!start.status.success(), "{start:?}");
        let refused = refused(m, APP, &[("RELATION", "predecessor"), ("HOLDER_UNIT", "old.service")]);
        assert_names(
            message(&refused),
            &["systemd would stop third.service as well", "replaces = [\"old.service\", \"third.service\"]"],
        );
        assert_unharmed(m, "8080/tcp", old);
        assert!(m.alive(other));

        m.when("the policy says what portguard has said");
        replaces(m, "\"old.service\", \"third.service\"");
        let start = m.start(APP);

        m.then("the guarded service is up, and the others are stopped");
        assert!(start.status.success(), "{start:?}");
        assert_up_without(m, "8080/tcp", &[old, other]);
        assert_eq!(m.show("third.service", "ActiveState"), "inactive");
        finding(m, APP, &[("VERDICT", "freed")]);
        m.ok(&format!("systemctl stop {APP}; systemctl kill -s KILL {APP} 2>/dev/null; true"));
        m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
        forget(m);
    }
}

/// What was written to the journal up to now, and how often the service was started.
fn forget(m: &Machine) {
    m.forget_journal();
    m.ok(&format!("systemctl reset-failed {APP} 2>/dev/null; true"));
}

pub(super) fn leftover_of_a_predecessor_is_refused(m: &Machine) {
    m.given("old.service, which is stopped and has left a worker behind, and which the guarded service replaces");
    m.unit(
        "old.service",
        "[Service]\nType=notify\nKillMode=process\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp\n",
    );
    m.ok("systemctl start old.service && systemctl stop old.service");
    let old = m.holders("8080/tcp");
    app_replaces(m, "\"old.service\"");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, for systemd has nothing to stop, and the worker is unharmed");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused(m, APP, &[("RELATION", "predecessor"), ("HOLDER_PID", &old[0].to_string())]);
    assert_names(message(&refused), &["its unit is not active"]);
    assert_eq!(field(&refused, "PORTGUARD_NEXT"), "systemctl kill old.service");
    assert_unharmed(m, "8080/tcp", old[0]);

    m.then("what it says to type frees the port");
    super::assert_next_frees(m, "8080/tcp", &refused);
}

pub(super) fn protected_unit_is_never_replaced(m: &Machine) {
    for unit in ["ssh.service", "dbus-broker.service", "systemd-fake.service", "docker.service", "getty@x.service"] {
        m.given(&format!("{unit} with the port, and a policy that replaces every service there is"));
        // The real template would want a terminal.
        let old = holding(m, unit, 8080, "");
        app_replaces(m, "\"*.service\"");

        m.when("the guarded service is started");
        let start = m.start(APP);

        m.then("it is refused, and says why");
        assert!(!start.status.success(), "{start:?}");
        let refused = refused(m, APP, &[("RELATION", "predecessor"), ("HOLDER_UNIT", unit)]);
        assert_names(message(&refused), &["its unit is one that portguard never stops"]);
        assert_unharmed(m, "8080/tcp", old);
        assert_eq!(m.show(unit, "ActiveState"), "active");

        m.then("what it says to type frees the port");
        super::assert_next_frees(m, "8080/tcp", &refused);
        forget(m);
    }
}

pub(super) fn predecessor_is_stopped_without_a_bus(m: &Machine) {
    m.given("old.service, which the guarded service replaces, and a bus that takes connections and says nothing");
    let old = holding(m, "old.service", 8080, "");
    app_replaces(m, "\"old.service\"");
    let bus = m.main_pid("dbus.service");
    m.ok(&format!("kill -STOP {bus}"));

    m.when("the guarded service is started");
    let begin = Instant::now();
    let start = m.start(APP);
    let took = begin.elapsed();
    m.ok(&format!("kill -CONT {bus}"));

    m.then("it is up in time, instead of old.service");
    assert!(start.status.success(), "{start:?}");
    assert!(took < BOUND, "it took {took:?}");
    // A second is the bus's.
    let took = guard_took(m);
    assert!(took < Duration::from_secs(1) + faults::BOUND, "portguard took {took:?}");
    assert_up_without(m, "8080/tcp", &[old]);
    assert_eq!(m.show("old.service", "ActiveState"), "inactive");
    finding(m, APP, &[("RELATION", "predecessor"), ("ACTION", "stop-unit")]);

    m.given("the same, and no bus at all");
    m.ok(&format!("systemctl stop {APP}; systemctl kill -s KILL {APP} 2>/dev/null; true"));
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    m.ok("systemctl start old.service");
    let old = m.main_pid("old.service");
    take_the_bus_away(m);

    m.when("the guarded service is started");
    let begin = Instant::now();
    let start = m.start(APP);

    m.then("it is up in time, instead of old.service");
    assert!(start.status.success(), "{start:?}");
    assert!(begin.elapsed() < BOUND, "it took {:?}", begin.elapsed());
    assert_up_without(m, "8080/tcp", &[old]);
    assert_eq!(m.show("old.service", "ActiveState"), "inactive");
}

/// The second unit takes two seconds to stop, in which the first is back.
pub(super) fn predecessor_that_comes_back_is_given_up(m: &Machine) {
    m.given("two services to replace, of which one is started anew by a path unit whenever it is down");
    m.unit("back.path", "[Path]\nPathExists=/etc/passwd\nUnit=back.service\n");
    m.unit("back.service", &service(8080, ""));
    m.ok("systemctl start back.path");
    m.wait_until("back.service is up", SOON, || m.show("back.service", "ActiveState") == "active");
    let slow = holding(m, "slow.service", 8081, "ExecStop=/bin/sleep 2\n");
    let first = m.main_pid("back.service");
    app_service(m, "8080/tcp");
    policy(
        m,
        &format!(
            "[unit.\"{APP}\"]\nports = [\"8080/tcp\", \"8081/tcp\"]\nreplaces = [\"back.service\", \"slow.service\"]\n"
        ),
    );
    guard(m, APP);

    m.when("the guarded service is started");
    let begin = Instant::now();
    let start = m.start(APP);

    m.then("portguard gives up with 75 the second time that it sees it, and says that it has come back");
    assert!(!start.status.success(), "{start:?}");
    assert!(begin.elapsed() < Duration::from_secs(2) + BOUND, "it took {:?}", begin.elapsed());
    let last = finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_names(message(&last), &["back.service was stopped, and has come back"]);
    assert_names(&m.journal(APP), &["status=75/TEMPFAIL"]);
    let asked = m.journal(APP).matches("asking systemd to stop back.service").count();
    assert_eq!(asked, 1, "it was stopped more than once");

    m.then("it lives, anew, and nobody was signalled");
    assert!(!m.alive(first) && !m.alive(slow));
    assert_unharmed(m, "8080/tcp", m.main_pid("back.service"));
    assert_nobody_signalled(m, APP);
}

pub(super) fn dry_run_stops_no_predecessor(m: &Machine) {
    m.given("old.service, which the guarded service replaces");
    let old = holding(m, "old.service", 8080, "");
    app_replaces(m, "\"old.service\"");

    m.when("portguard is typed with --dry-run");
    let typed = m.sh(&format!("portguard --unit {APP} --dry-run"));

    m.then("it says what it would do, and does nothing");
    assert_eq!(typed.status.code(), Some(0), "{typed:?}");
    assert_names(
        &typed.stderr,
        &["which belongs to old.service, which app.service replaces (predecessor); would stop that unit"],
    );
    assert_unharmed(m, "8080/tcp", old);
    assert_eq!(m.main_pid("old.service"), old);
}

pub(super) fn predecessor_in_a_user_manager_is_stopped(m: &Machine) {
    m.given("alice's own old.service, which her own guarded app.service replaces");
    alices_manager(m);
    user_unit(m, "old.service", &service(8080, "Restart=always\n"));
    user_unit(m, APP, &service(8080, "ExecStartPre=/usr/bin/portguard --user --unit %n\n"));
    replaces(m, "\"old.service\"");
    let of_alice = |command: &str| m.ok(&as_alice(&format!("systemctl --user {command}"))).trim().to_owned();
    of_alice("start old.service");
    let old: u32 = of_alice("show -P MainPID old.service").parse().expect("a pid");

    m.when("it is started");
    let start = m.sh(&as_alice("systemctl --user start app.service"));

    m.then("it is up, and her manager has stopped old.service");
    let journal = m.ok("journalctl --sync; journalctl --no-pager -t portguard");
    assert!(start.status.success(), "{start:?}\n{journal}");
    assert_eq!(
        m.holders("8080/tcp").iter().map(u32::to_string).collect::<Vec<_>>(),
        [of_alice("show -P MainPID app.service")]
    );
    assert!(!m.alive(old));
    assert_eq!(of_alice("show -P ActiveState old.service"), "inactive");
    assert_names(&journal, &["(predecessor); stopping that unit", "old.service was stopped"]);
}
