//! Socket activation: the port is held by PID 1, which nobody may signal, because SIGTERM makes it re-execute itself.

use super::{APP, assert_names, finding, guard, message, policy_for_app};
use crate::machine::Machine;

pub(super) fn own_socket_activation_passes(m: &Machine) {
    m.given("a guarded service whose port systemd holds for it");
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit(APP, "[Service]\nExecStart=/usr/bin/python3 /opt/lab/activated.py\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok("systemctl start app.socket");
    let manager = manager_image(m);

    m.when("a client connects");
    let answer = m.connect(8080);

    m.then("the service is started and answers");
    assert_eq!(answer.stdout.trim(), "served by activation", "{answer:?}");

    m.then("the journal says that the port's holder is the service's own socket unit");
    finding(m, APP, &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("ENDPOINT", "8080/tcp")]);

    m.then("PID 1 has not been touched");
    assert_eq!(manager_image(m), manager);
}

pub(super) fn foreign_socket_unit_is_refused_and_named(m: &Machine) {
    m.given("another service's socket unit that has the port of the guarded service");
    m.unit("other.socket", "[Socket]\nListenStream=8080\n");
    m.unit("other.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/activated.py\n");
    m.ok("systemctl start other.socket");
    super::app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    let manager = manager_image(m);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails, and the journal names the socket unit");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(m, APP, &[("RELATION", "other-socket-unit"), ("ACTION", "refuse")]);
    assert_names(message(&refused), &["8080/tcp", "other.socket"]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE", "systemctl stop other.socket"]);
    finding(m, APP, &[("VERDICT", "refused")]);

    m.then("the socket unit still listens, and PID 1 has not been touched");
    assert_eq!(m.show("other.socket", "ActiveState"), "active");
    assert_eq!(m.connect(8080).stdout.trim(), "served by activation");
    assert_eq!(manager_image(m), manager);
}

/// Differs after every exec of PID 1: its auxiliary vector holds addresses that the kernel then draws anew.
pub(super) fn manager_image(m: &Machine) -> String {
    m.ok("cksum /proc/1/auxv")
}
