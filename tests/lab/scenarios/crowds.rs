//! Several listeners on one port, of which a lookup by address shows some: that may lead to a refusal, and to nothing else.

use super::addresses::{
    assert_refused_for_web, assert_replaced, guarded_app, leftover_of_app, somebody_stands_on, standing, web_stands_on,
};
use super::predecessors::app_replaces;
use super::sockets::activated_app;
use super::{
    APP, SOON, assert_names, assert_nobody_signalled, assert_unharmed, field, finding, message, policy, refused,
};
use crate::machine::Machine;

pub(super) fn leftover_is_not_stopped_beside_a_foreign_listener_at_another_address(m: &Machine) {
    // Loopback is looked up, 127.0.0.2 is not.
    m.given("a leftover on 127.0.0.1:8080, and web.service on 127.0.0.2:8080");
    let old = leftover_of_app(m, "127.0.0.1:8080/tcp", "8080/tcp");
    let web = web_stands_on(m, "127.0.0.2:8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, web.service and the leftover are named, and neither was touched");
    assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
    let leftover = finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "spare"), ("HOLDER_PID", &old.to_string())]);
    assert_names(message(&leftover), &["; not stopped while another is in the way"]);
    assert_unharmed(m, "8080/tcp", old);
    assert_nobody_signalled(m, APP);
}

/// A start of app.service was refused for web.service, which has this endpoint and does not listen. Nobody was touched.
fn assert_refused_for_idle_web(m: &Machine, endpoint: &str, web: u32) {
    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused for web.service, and nobody was touched");
    assert!(!start.status.success(), "{start:?}");
    refused(m, APP, &[("ENDPOINT", endpoint), ("HOLDER_PID", &web.to_string()), ("HOLDER_UNIT", "web.service")]);
    assert_eq!(m.main_pid("web.service"), web);
    assert_nobody_signalled(m, APP);
}

/// Listeners are all that a look needs where it refuses; these are not among them.
pub(super) fn leftover_is_not_stopped_beside_a_foreign_socket_that_waits_for_nobody(m: &Machine) {
    leftover_beside_idle_web(m, "127.0.0.1:8080/tcp", "127.0.0.2:8080/tcp,idle,noreuse", "8080/tcp");
}

pub(super) fn leftover_is_not_stopped_beside_a_foreign_socket_that_has_a_peer_by_udp(m: &Machine) {
    leftover_beside_idle_web(m, "127.0.0.1:8080/udp", "127.0.0.2:8080/udp,connected", "8080/udp");
}

/// One process of the cgroup is a leftover, and none of the others is stopped with it.
pub(super) fn leftover_is_not_stopped_beside_another_socket_of_its_own_unit(m: &Machine) {
    m.given("a leftover on 127.0.0.1:8080, and an ExecStartPre= before the guard's that leaves a socket with a peer at 127.0.0.2:8080");
    let old = leftover_of_app(m, "127.0.0.1:8080/udp", "8080/udp");
    m.unit(
        &format!("{APP}.d/05-helper.conf"),
        "[Service]\nExecStartPre=/usr/bin/env -u NOTIFY_SOCKET python3 /opt/lab/stand.py 127.0.0.2:8080/udp,connected\n",
    );

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused for what this start has left, and the leftover is as it was");
    assert!(!start.status.success(), "{start:?}");
    refused(m, APP, &[("ENDPOINT", "8080/udp"), ("RELATION", "own-start")]);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "spare"), ("HOLDER_PID", &old.to_string())]);
    assert_unharmed(m, "8080/udp", old);
    assert_nobody_signalled(m, APP);
}

fn leftover_beside_idle_web(m: &Machine, own: &str, other: &str, endpoint: &str) {
    m.given(&format!("a leftover on {own}, and web.service on {other}"));
    let old = leftover_of_app(m, own, endpoint);
    let web = web_stands_on(m, other);
    assert_refused_for_idle_web(m, endpoint, web);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "spare"), ("HOLDER_PID", &old.to_string())]);
    assert_unharmed(m, endpoint, old);

    m.when("web.service is gone, and the service started again");
    m.ok("systemctl kill -s KILL web.service && systemctl stop web.service");
    let start = m.start(APP);

    m.then("the leftover is stopped");
    assert_replaced(m, &start, endpoint, old);
}

pub(super) fn leftover_is_stopped_beside_a_foreign_socket_that_is_in_nobodys_way(m: &Machine) {
    m.given(
        "a leftover on 127.0.0.1:8080, and web.service on 127.0.0.2:8080, which does not listen, and lets others bind",
    );
    let old = leftover_of_app(m, "127.0.0.1:8080/tcp", "8080/tcp");
    let web = web_stands_on(m, "127.0.0.2:8080/tcp,idle");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped, and web.service is as it was");
    assert_replaced(m, &start, "8080/tcp", old);
    assert_eq!(m.main_pid("web.service"), web);
}

pub(super) fn predecessor_is_not_stopped_beside_a_foreign_socket_that_waits_for_nobody(m: &Machine) {
    m.given("old.service on 127.0.0.1:8080, which app.service replaces, and web.service on 127.0.0.2:8080, which does not listen");
    m.unit("old.service", &standing("127.0.0.1:8080/tcp"));
    m.ok("systemctl start old.service");
    let old = m.main_pid("old.service");
    let web = web_stands_on(m, "127.0.0.2:8080/tcp,idle,noreuse");
    app_replaces(m, "\"old.service\"");
    assert_refused_for_idle_web(m, "8080/tcp", web);
    assert_eq!((m.main_pid("old.service"), m.show("old.service", "ActiveState")), (old, "active".to_owned()));
}

/// It goes by itself, so it is waited for; and before anything is stopped, as the wait may be in vain.
pub(super) fn predecessor_is_not_stopped_beside_what_is_left_of_a_foreign_connection(m: &Machine) {
    m.given(
        "old.service on 127.0.0.1:8080, which app.service replaces, and a connection that was closed at 127.0.0.2:8080",
    );
    m.unit("old.service", &standing("127.0.0.1:8080/tcp"));
    m.ok("systemctl start old.service");
    let old = m.main_pid("old.service");
    web_stands_on(m, "127.0.0.2:8080/tcp,noreuse,closed");
    app_replaces(m, "\"old.service\"");
    m.unit(&format!("{APP}.d/20-time.conf"), "[Service]\nTimeoutStartSec=6\n");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("that is waited for in vain, and old.service is as it was");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "time-wait"), ("ACTION", "wait")]);
    finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_nobody_signalled(m, APP);
    assert_eq!((m.main_pid("old.service"), m.show("old.service", "ActiveState")), (old, "active".to_owned()));
}

/// The service need not bind; and nothing is stopped, so nothing has to be seen that would be in the way then.
pub(super) fn own_socket_unit_passes_beside_sockets_that_wait_for_nobody(m: &Machine) {
    m.given("a guarded service with a socket unit of its own, and web.service at its port, which does not listen");
    activated_app(m, "127.0.0.1:8080");
    let web = web_stands_on(m, "127.0.0.2:8080/tcp,idle,noreuse");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is up, and web.service is as it was");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "own-socket-unit"), ("ACTION", "pass")]);
    assert_eq!(m.main_pid("web.service"), web);
}

pub(super) fn foreign_listener_is_refused_and_a_leftover_at_another_address_is_left_alone(m: &Machine) {
    m.given("a leftover on 127.0.0.2:8080, and web.service on 127.0.0.1:8080");
    let old = leftover_of_app(m, "127.0.0.2:8080/tcp", "8080/tcp");
    let web = web_stands_on(m, "127.0.0.1:8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused for web.service, and neither was touched");
    assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
    assert_unharmed(m, "8080/tcp", old);
    assert_nobody_signalled(m, APP);

    m.when("web.service is gone, and the service started again");
    m.ok("systemctl kill -s KILL web.service");
    m.wait_until("web.service is gone", SOON, || m.holders("8080/tcp") == [old]);
    let start = m.start(APP);

    m.then("the leftover is stopped");
    assert_replaced(m, &start, "8080/tcp", old);
}

pub(super) fn foreign_listeners_of_both_families_are_both_named(m: &Machine) {
    m.given("web.service on 127.0.0.1:8080, and a process of nobody's on [::1]:8080");
    let web = web_stands_on(m, "127.0.0.1:8080/tcp");
    let other = somebody_stands_on(m, "[::1]:8080/tcp");
    guarded_app(m, "[::]:8080/tcp", "8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and both are named");
    assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
    refused(m, APP, &[("ENDPOINT", "8080/tcp"), ("HOLDER_PID", &other.to_string())]);
    assert_unharmed(m, "8080/tcp", other);
}

pub(super) fn own_socket_unit_does_not_hide_a_foreign_listener_at_another_address(m: &Machine) {
    for (own, other) in [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1"), ("127.0.0.1", "[::1]")] {
        m.given(&format!(
            "a guarded service with a socket unit of its own on {own}:8080, and web.service on {other}:8080"
        ));
        activated_app(m, &format!("{own}:8080"));
        let web = web_stands_on(m, &format!("{other}:8080/tcp"));

        m.when("the guarded service is started");
        let start = m.start(APP);

        m.then("it is refused for web.service");
        assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
        m.ok("systemctl stop app.socket && systemctl kill -s KILL web.service && systemctl stop web.service");
        m.wait_until("both are gone", SOON, || m.holders("8080/tcp").is_empty());
    }
}

/// A lookup shows one of them, by a hash that is another at each boot.
pub(super) fn leftover_that_shares_its_port_with_a_foreign_process_is_left_alone(m: &Machine) {
    m.given("a leftover and web.service that share 8080 by SO_REUSEPORT");
    let shared = "0.0.0.0:8080/tcp,reuseport";
    let old = leftover_of_app(m, shared, "8080/tcp");
    let web = web_stands_on(m, shared);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused for web.service, and neither was touched");
    assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
    assert_unharmed(m, "8080/tcp", old);
    assert_nobody_signalled(m, APP);
}

pub(super) fn leftover_of_one_port_is_left_alone_beside_a_foreign_holder_of_another(m: &Machine) {
    m.given("a leftover on 8080");
    let old = leftover_of_app(m, "0.0.0.0:8080/tcp", "8080/tcp");
    // By lookups, where lookups do not see it, and by UDP, of which there are none.
    for (held, other) in
        [("[::]:9090/tcp", "9090/tcp"), ("127.0.0.2:9090/tcp", "9090/tcp"), ("[::]:9090/udp", "9090/udp")]
    {
        m.given(&format!("web.service on {held}, and a guarded service that needs both"));
        let web = web_stands_on(m, held);
        policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\", \"{other}\"]\n"));

        m.when("it is started");
        let start = m.start(APP);

        m.then("it is refused for web.service, the leftover is named, and neither was touched");
        assert_refused_for_web(m, &start, other, other, web);
        let leftover = finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "spare"), ("ENDPOINT", "8080/tcp")]);
        assert_eq!(field(&leftover, "PORTGUARD_HOLDER_PID"), old.to_string());
        assert_unharmed(m, "8080/tcp", old);
        assert_nobody_signalled(m, APP);
        m.ok("systemctl kill -s KILL web.service && systemctl stop web.service");
        m.wait_until("web.service is gone", SOON, || m.holders(other).is_empty());
    }
}
