//! Deadlines: systemd's for the start, the policy's for the wait.

use std::time::{Duration, Instant};

use super::faults::{BOUND, guard_took};
use super::{
    APP, SOON, app_service, assert_names, assert_unharmed, assert_up_without, finding, guard, policy,
    started_guarded_app, web_has_the_port,
};
use crate::machine::Machine;

pub(super) fn impatient(m: &Machine, settings: &str) {
    m.unit(&format!("{APP}.d/timeout.conf"), &format!("[Service]\nTimeoutStartSec=4s\n{settings}"));
}

pub(super) fn stop_timeout(m: &Machine, span: &str) {
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\nstop-timeout = \"{span}\"\n"));
}

pub(super) fn start_timeout_is_kept_without_a_word_to_systemd(m: &Machine) {
    m.given("a leftover that ignores SIGTERM, a policy with a minute for it, and a start that may take four seconds");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn");
    stop_timeout(m, "60s");
    impatient(m, "");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the leftover is killed before systemd gives the start up, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert!(guard_took(m) < Duration::from_secs(4), "portguard took {:?}", guard_took(m));
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("VERDICT", "freed")]);
}

pub(super) fn start_timeout_is_extended_where_systemd_listens(m: &Machine) {
    m.given("the same, and a policy with seven seconds, and NotifyAccess=all");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn");
    stop_timeout(m, "7s");
    impatient(m, "NotifyAccess=all\n");

    m.when("the service is restarted");
    let begin = Instant::now();
    let restart = m.restart(APP);

    m.then("the leftover has its seven seconds, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert!(begin.elapsed() >= Duration::from_secs(7), "the leftover had {:?} only", begin.elapsed());
    assert!(guard_took(m) < Duration::from_secs(7) + BOUND, "portguard took {:?}", guard_took(m));
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("VERDICT", "freed")]);
    assert_eq!(m.show(APP, "StatusText"), "", "what it told systemd to be doing is over");
}

pub(super) fn held_by_web(m: &Machine, wait: &str) -> u32 {
    let web = web_has_the_port(m);
    app_service(m, "8080/tcp");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-foreign = \"wait\"\nwait = \"{wait}\"\n"));
    guard(m, APP);
    web
}

pub(super) fn wait_ends_when_the_holder_does(m: &Machine) {
    m.given("a port held by web.service, and a policy that waits for it");
    let web = held_by_web(m, "50s");

    m.when("the guarded service is started, and web.service is stopped meanwhile");
    m.ok(&format!("systemctl start --no-block {APP}"));
    m.wait_until("portguard says that it waits", SOON, || {
        m.guard_entries(APP).iter().any(|entry| super::field(entry, "PORTGUARD_ACTION") == "wait")
    });
    assert_unharmed(m, "8080/tcp", web);
    m.stop("web.service");

    m.then("the guarded service comes up");
    m.wait_until("it is up", SOON, || m.show(APP, "ActiveState") == "active");
    assert_up_without(m, "8080/tcp", &[web]);
}

pub(super) fn wait_that_is_over_is_75(m: &Machine) {
    m.given("a port held by web.service, and a policy that waits for a second");
    let web = held_by_web(m, "1s");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails with 75, and web.service is unharmed");
    assert!(!start.status.success(), "{start:?}");
    assert_names(&m.journal(APP), &["status=75/TEMPFAIL", "web.service"]);
    finding(m, APP, &[("VERDICT", "still-held")]);
    assert_unharmed(m, "8080/tcp", web);
}
