//! Starts as such: the plain one, many quick ones, and one whose guard was killed.

use std::time::Duration;

use super::faults::{BOUND, guard_took};
use super::{
    APP, SOON, app_service, assert_names, assert_unharmed, assert_up_without, field, finding, guard, message, policy,
    policy_for_app, started_guarded_app,
};
use crate::machine::Machine;

pub(super) fn free_port_starts(m: &Machine) {
    m.given("a guarded service whose port is free");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    assert_eq!(m.holders("8080/tcp"), [0; 0]);

    m.when("it is started");
    let start = m.start(APP);

    m.then("it is up, and the journal says that its port was free");
    assert!(start.status.success(), "{start:?}");
    assert_eq!(m.show(APP, "ActiveState"), "active");
    finding(m, APP, &[("VERDICT", "free")]);
}

/// journald reads a message after its sender has gone, and then no longer knows the sender's unit.
pub(super) fn exits_at_once_and_is_still_found_by_journalctl_u(m: &Machine) {
    const STARTS: usize = 20;

    m.given("a guarded oneshot service that is over in a moment");
    m.unit(APP, "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/true\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("it is started 20 times in a row");
    m.ok(&format!("for i in $(seq {STARTS}); do systemctl start {APP} || exit 1; done"));

    m.then("journalctl -u shows 20 verdicts");
    let verdicts = m.guard_entries(APP).iter().filter(|entry| entry.contains_key("PORTGUARD_VERDICT")).count();
    assert_eq!(verdicts, STARTS);
}

pub(super) fn killed_guard_hinders_nothing(m: &Machine) {
    m.given("a leftover that ignores SIGTERM, and a guard that waits for it for a minute");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn");
    let with_patience = |patience: &str| {
        format!("[defaults]\nstop-timeout = \"{patience}\"\n\n[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\n")
    };
    policy(m, &with_patience("60s"));

    m.when("the service is restarted");
    m.ok(&format!("systemctl restart --no-block {APP}"));
    m.wait_until("portguard says that it stops the leftover", Duration::from_secs(20), || {
        m.guard_entries(APP).iter().any(|entry| field(entry, "PORTGUARD_ACTION") == "stop")
    });

    m.when("the guard is killed while it waits");
    let guard_pid = m.show(APP, "ControlPID");
    assert_eq!(m.ok(&format!("cat /proc/{guard_pid}/comm")).trim(), "portguard");
    m.ok(&format!("kill -KILL {guard_pid}"));
    m.wait_until("the start has failed", SOON, || m.show(APP, "ActiveState") == "failed");
    assert_unharmed(m, "8080/tcp", old[0]);

    m.then("the next start frees the port as if nothing had been");
    policy(m, &with_patience("500ms"));
    let start = m.start(APP);
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &old);
    assert!(guard_took(m) < Duration::from_millis(500) + BOUND, "portguard took {:?}", guard_took(m));
    finding(m, APP, &[("VERDICT", "freed")]);
}

pub(super) fn template_instance_takes_its_port_from_its_name(m: &Machine) {
    m.given("a guarded template whose instances take their port from their name and their environment");
    m.unit(
        "worker@.service",
        "[Service]\nType=notify\nKillMode=process\nEnvironment=BASE=80\nExecStart=/usr/bin/python3 /opt/lab/app.py 80%i/tcp\n",
    );
    policy(m, "[unit.\"worker@.service\"]\nports = [\"${BASE}%i/tcp\"]\n");
    guard(m, "worker@.service");
    m.ok("systemctl start worker@81.service worker@82.service");
    let other = m.holders("8082/tcp");

    m.when("one instance is restarted over its leftover");
    let restart = m.restart("worker@81.service");

    m.then("it is up, and the other instance is unharmed");
    assert!(restart.status.success(), "{restart:?}");
    finding(m, "worker@81.service", &[("RELATION", "leftover"), ("ENDPOINT", "8081/tcp")]);
    finding(m, "worker@81.service", &[("VERDICT", "freed")]);
    assert_eq!(m.holders("8082/tcp"), other);
}

pub(super) fn unit_without_ports_starts_with_a_warning(m: &Machine) {
    m.given("a guarded service of which the policy does not speak");
    app_service(m, "8080/tcp");
    guard(m, APP);

    m.when("it is started");
    let start = m.start(APP);

    m.then("it is up, and one warning says what to write");
    assert!(start.status.success(), "{start:?}");
    let warning = finding(m, APP, &[("VERDICT", "no-ports")]);
    assert_names(message(&warning), &["[unit.\"app.service\"]", "ports = "]);
}
