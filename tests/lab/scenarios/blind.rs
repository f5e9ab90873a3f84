//! What could not be checked is neither free nor held: one rule of the policy decides, `on-blind`.

use std::time::Duration;

use super::faults::{assert_in_time, file_hangs_who_closes_it, hang_no_more, processes_hang};
use super::holders::start_until;
use super::sockets::activated_app;
use super::{
    APP, SOON, app_service, assert_names, assert_nobody_signalled, finding, message, policy, while_systemd_is_silent,
};
use crate::machine::Machine;

fn policy_on_blind(m: &Machine, endpoint: &str, on_blind: &str) {
    policy(m, &format!("[defaults]\n{on_blind}\n[unit.\"{APP}\"]\nports = [\"{endpoint}\"]\n"));
}

/// Its guard can neither bind IPv6, nor ask the kernel, nor read its tables.
fn service_whose_guard_sees_nothing(m: &Machine) {
    app_service(m, "8080/tcp");
    m.unit(
        &format!("{APP}.d/10-portguard.conf"),
        "[Service]\nExecStartPre=/usr/bin/portguard --unit %n\n\
         RestrictAddressFamilies=AF_UNIX AF_INET\nInaccessiblePaths=/proc\n",
    );
}

pub(super) fn port_that_could_not_be_checked_is_left_to_the_service(m: &Machine) {
    m.given("a service without IPv6, netlink and /proc, whose policy names an IPv6 port");
    service_whose_guard_sees_nothing(m);
    policy_on_blind(m, "[::1]:8080/tcp", "");

    m.when("it is started");
    let start = m.start(APP);

    m.then("it is up, and the journal has the warning and why nothing was seen");
    assert!(start.status.success(), "{start:?}");
    let passed = finding(m, APP, &[("RELATION", "unchecked"), ("ACTION", "pass"), ("ENDPOINT", "[::1]:8080/tcp")]);
    assert_names(message(&passed), &["could not be tried", "left to the service"]);
    assert_eq!(super::field(&passed, "PRIORITY"), "4", "{passed:?}");
    assert_names(&m.journal(APP), &["socket tables could not be read"]);
    finding(m, APP, &[("VERDICT", "passed"), ("EXIT_STATUS", "0")]);
}

pub(super) fn port_that_could_not_be_checked_is_refused_if_the_policy_says_so(m: &Machine) {
    m.given("the same, and a policy that lets nothing unchecked pass");
    service_whose_guard_sees_nothing(m);
    policy_on_blind(m, "[::1]:8080/tcp", "on-blind = \"refuse\"");

    m.when("it is started");
    let start = m.start(APP);

    m.then("it is refused with 77, and the journal says by which rule, and what to type");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(m, APP, &[("RELATION", "unchecked"), ("ACTION", "refuse")]);
    assert_names(message(&refused), &["could not be tried", "on-blind = \"allow\""]);
    let verdict = finding(m, APP, &[("VERDICT", "not-permitted"), ("EXIT_STATUS", "77")]);
    assert_names(message(&verdict), &["[::1]:8080/tcp could not be checked, which on-blind refuses"]);
    assert_names(&m.journal(APP), &["status=77/NOPERM"]);
}

/// PID 1 answers nobody while the guard of a service that systemd has a socket for looks at who has its port.
fn started_while_systemd_is_silent(m: &Machine) {
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit(APP, "[Service]\nExecStart=/usr/bin/python3 /opt/lab/activated.py\n");
    m.unit(
        &format!("{APP}.d/10-portguard.conf"),
        "[Service]\nExecStartPre=+/bin/sh -c 'sleep 2; exec /usr/bin/portguard --unit %n'\n",
    );
    m.ok("systemctl start app.socket");
    while_systemd_is_silent(m, "start", Duration::from_secs(6));
    m.wait_until("the start is over", SOON, || {
        let state = m.show(APP, "SubState");
        state == "running" || state == "failed"
    });
}

pub(super) fn own_socket_unit_passes_while_systemd_is_silent(m: &Machine) {
    m.given("a service that systemd listens for");
    policy_on_blind(m, "8080/tcp", "");

    m.when("it is started, and PID 1 answers nobody while portguard looks");
    started_while_systemd_is_silent(m);

    m.then("it is up: nobody could say that the port is another's, and its own bind would tell");
    assert_eq!(m.show(APP, "SubState"), "running");
    let passed = finding(m, APP, &[("RELATION", "unchecked"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);
    assert_names(message(&passed), &["whether that is for app.service systemd did not say", "left to the service"]);
    assert_names(&m.journal(APP), &["systemd could not be asked"]);
}

pub(super) fn socket_of_an_unknown_unit_is_refused_if_the_policy_says_so(m: &Machine) {
    m.given("a service that systemd listens for, and a policy that lets nothing unchecked pass");
    policy_on_blind(m, "8080/tcp", "on-blind = \"refuse\"");

    m.when("it is started, and PID 1 answers nobody while portguard looks");
    started_while_systemd_is_silent(m);

    m.then("it is refused, and nobody was signalled");
    assert_eq!(m.show(APP, "SubState"), "failed");
    finding(m, APP, &[("RELATION", "unchecked"), ("ACTION", "refuse"), ("HOLDER_PID", "1")]);
    finding(m, APP, &[("VERDICT", "not-permitted"), ("EXIT_STATUS", "77")]);
    assert_nobody_signalled(m, APP);
}

/// Whoever hangs may have the listener as well, and be served what is meant for the service.
pub(super) fn own_socket_unit_beside_somebody_who_hangs_is_refused_if_the_policy_says_so(m: &Machine) {
    m.given("a guarded service with a socket unit of its own, and a process that hangs in execve(2)");
    activated_app(m, "127.0.0.1:8080");
    processes_hang(m, "1");

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is up in time, and it is said who hangs");
    assert!(start.status.success(), "{start:?}");
    assert_in_time(m);
    assert_names(&m.journal(APP), &["could not be listed in time"]);
    m.stop(APP);

    m.when("it is started where the policy lets nothing unchecked pass");
    policy_on_blind(m, "8080/tcp", "on-blind = \"refuse\"");
    let start = m.start(APP);

    m.then("it is refused, and in time");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(m, APP, &[("RELATION", "own-socket-unit"), ("ACTION", "refuse"), ("HOLDER_PID", "1")]);
    assert_names(
        message(&refused),
        &["not everybody who may have it as well could be looked at in time", "on-blind = \"allow\""],
    );
    let verdict = finding(m, APP, &[("VERDICT", "not-permitted"), ("EXIT_STATUS", "77")]);
    assert_names(message(&verdict), &["8080/tcp could not be checked"]);
    assert_in_time(m);

    m.when("it is started anew, and stopped while it is waited for who hangs");
    // On a machine that is busy that may be too late.
    m.wait_until("it was not too late", SOON, || {
        m.ok(&format!("systemctl reset-failed {APP}"));
        m.forget_journal();
        start_until(m, "start", "could not be listed in time");
        m.stop(APP);
        m.entries(APP)
            .iter()
            .any(|entry| entry.get("PORTGUARD_VERDICT").is_some_and(|verdict| verdict == "interrupted"))
    });

    m.then("that is what is said, and nobody was refused");
    assert!(m.entries(APP).iter().all(|entry| !entry.contains_key("PORTGUARD_ACTION")), "{:?}", m.journal(APP));

    m.when("it is started once nobody hangs any more");
    hang_no_more(m);
    let start = m.start(APP);

    m.then("it is up");
    assert!(start.status.success(), "{start:?}");
    m.stop(APP);

    m.given("a process that is to hang in execve(2) for 0.9 seconds");
    file_hangs_who_closes_it(m, "0.9");
    m.ok("mkfifo /run/go");
    let hanging = "open my $go, q(</run/go); open F, q(</run/inexec); exec qw(sleep infinity)";
    m.unit("hanging.service", &format!("[Service]\nExecStart=/usr/bin/perl -e '{hanging}'\n"));
    m.ok("systemctl start hanging.service");
    m.forget_journal();

    m.when("the service is started in the midst of that");
    let start = m.sh(&format!("echo >/run/go; sleep 0.05; systemctl start {APP}"));

    m.then("that is waited for and said, and it is up in time");
    assert!(start.status.success(), "{start:?}");
    assert_names(&m.journal(APP), &["could not be listed in time"]);
    assert_in_time(m);
}
