//! The service's own program, started by hand: it is stopped only if the policy says so, and nobody sits at it.

use super::{
    APP, SOON, assert_names, assert_next_frees, assert_unharmed, assert_up_without, finding, guard, message, policy,
    policy_for_app, refused,
};
use crate::machine::Machine;

/// Guards a service that runs listeners/server.py, and starts the same by hand.
pub(super) fn by_hand(m: &Machine, before: &str, arguments: &str) -> u32 {
    m.unit(APP, "[Service]\nExecStart=/usr/bin/python3 /opt/lab/server.py 8080\n");
    guard(m, APP);
    m.ok(&format!("setsid {before} /usr/bin/python3 /opt/lab/server.py {arguments} </dev/null >/dev/null 2>&1 &"));
    m.wait_until("it listens", SOON, || m.holders("8080/tcp").len() == 1);
    m.holders("8080/tcp")[0]
}

pub(super) fn stopping_lookalikes(m: &Machine) {
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-lookalike = \"stop\"\n"));
}

pub(super) fn lookalike_is_refused_with_a_hint(m: &Machine) {
    m.given("the guarded service's own program, which root has started by hand with the same arguments");
    let pid = by_hand(m, "", "8080");
    policy_for_app(m, "8080/tcp");

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is refused, and says what would let it be stopped");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused(m, APP, &[("RELATION", "lookalike"), ("HOLDER_PID", &pid.to_string())]);
    assert_names(message(&refused), &["the same program as app.service", "on-lookalike = \"stop\""]);
    assert_unharmed(m, "8080/tcp", pid);
    assert_next_frees(m, "8080/tcp", &refused);
}

pub(super) fn lookalike_is_stopped_if_the_policy_says_so(m: &Machine) {
    m.given("the guarded service's own program, started by hand, and a policy that stops such");
    let pid = by_hand(m, "", "8080");
    stopping_lookalikes(m);

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is up instead");
    assert!(start.status.success(), "{start:?}");
    m.wait_until("it listens", SOON, || m.holders("8080/tcp") == [m.main_pid(APP)]);
    assert_up_without(m, "8080/tcp", &[pid]);
    finding(m, APP, &[("RELATION", "lookalike"), ("ACTION", "stop"), ("HOLDER_PID", &pid.to_string())]);
    finding(m, APP, &[("VERDICT", "freed")]);
}

pub(super) fn other_argument_user_or_terminal_keeps_from_being_stopped(m: &Machine) {
    m.ok("useradd -m alice");
    for (what, before, arguments, relation) in [
        ("another argument", "", "8080 --more", "other-process"),
        ("another user", "setpriv --reuid=alice --regid=alice --clear-groups --", "8080", "other-process"),
    ] {
        m.given(&format!("the service's own program by hand, with {what}, and a policy that stops lookalikes"));
        let pid = by_hand(m, before, arguments);
        stopping_lookalikes(m);

        m.when("the service is started");
        let start = m.start(APP);

        m.then("it is refused, and the other is unharmed");
        assert!(!start.status.success(), "{start:?}");
        let refused = refused(m, APP, &[("RELATION", relation), ("HOLDER_PID", &pid.to_string())]);
        assert_unharmed(m, "8080/tcp", pid);
        assert_next_frees(m, "8080/tcp", &refused);
    }

    m.given("the service's own program by hand, at a terminal, and a policy that stops lookalikes");
    m.ok("setsid script -qec '/usr/bin/python3 /opt/lab/server.py 8080' /dev/null </dev/null >/dev/null 2>&1 &");
    m.wait_until("it listens", SOON, || m.holders("8080/tcp").len() == 1);
    let pid = m.holders("8080/tcp")[0];
    let terminal = m.ok(&format!("ps -o tty= -p {pid}")).trim().to_owned();
    assert!(terminal.starts_with("pts/"), "{terminal}");

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is refused, for somebody may sit there");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused(m, APP, &[("RELATION", "lookalike"), ("HOLDER_PID", &pid.to_string())]);
    assert_names(message(&refused), &["it has a terminal"]);
    assert_unharmed(m, "8080/tcp", pid);
    assert_next_frees(m, "8080/tcp", &refused);
}
