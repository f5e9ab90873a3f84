//! Which socket is in whose way: what the kernel says of addresses, and nothing else.

use super::{
    APP, assert_names, assert_unharmed, field, finding, guard, message, policy, policy_for_app, started_guarded_app,
};
use crate::machine::{Machine, Output};

/// A unit that stands on ports, and whose child stays behind on a stop.
pub(super) fn standing(sockets: &str) -> String {
    format!("[Service]\nType=notify\nKillMode=process\nExecStart=/usr/bin/python3 /opt/lab/stand.py {sockets}\n")
}

/// Starts web.service, which is none of the guarded unit's business, and returns its main process.
pub(super) fn web_stands_on(m: &Machine, sockets: &str) -> u32 {
    m.unit("web.service", &standing(sockets));
    m.ok("systemctl start web.service");
    m.main_pid("web.service")
}

/// A process of no unit that stands on ports.
pub(super) fn somebody_stands_on(m: &Machine, sockets: &str) -> u32 {
    m.ok(&format!("python3 /opt/lab/stand.py {sockets}")).trim().parse().expect("stand.py writes a pid")
}

/// app.service, which binds these sockets, guarded by this endpoint.
pub(super) fn guarded_app(m: &Machine, sockets: &str, endpoint: &str) {
    m.unit(APP, &standing(sockets));
    policy_for_app(m, endpoint);
    guard(m, APP);
}

/// Starts app.service, stops its main process, and returns the child that is left over.
pub(super) fn leftover_of_app(m: &Machine, sockets: &str, endpoint: &str) -> u32 {
    guarded_app(m, sockets, endpoint);
    m.ok(&format!("systemctl start {APP}"));
    let workers = super::workers(m);
    m.stop(APP);
    assert_eq!(workers.len(), 1);
    assert!(m.alive(workers[0]), "there is no leftover");
    workers[0]
}

/// The start was refused for web.service, which is unharmed; what was said of it.
pub(super) fn assert_refused_for_web(m: &Machine, start: &Output, endpoint: &str, port: &str, web: u32) -> String {
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(
        m,
        APP,
        &[
            ("RELATION", "other-unit"),
            ("ACTION", "refuse"),
            ("ENDPOINT", endpoint),
            ("HOLDER_PID", &web.to_string()),
            ("HOLDER_UNIT", "web.service"),
        ],
    );
    finding(m, APP, &[("VERDICT", "refused"), ("EXIT_STATUS", "69")]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE", "systemctl stop web.service"]);
    assert_unharmed(m, port, web);
    message(&refused).to_owned()
}

/// The leftover is gone, and app.service has what it stood on.
pub(super) fn assert_replaced(m: &Machine, start: &Output, port: &str, old: u32) {
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);
    finding(m, APP, &[("VERDICT", "freed")]);
    super::assert_up_without(m, port, &[old]);
}

const FREE: bool = true;
const BUSY: bool = false;

/// Who stands there, the endpoint of the guarded unit, and whether it can have it. P is the port.
#[rustfmt::skip]
const PAIRS: &[(&str, &str, bool)] = &[
    ("127.0.0.1:P/tcp",                "127.0.0.1:P/tcp",          BUSY),
    ("127.0.0.2:P/tcp",                "127.0.0.1:P/tcp",          FREE),
    ("127.0.0.2:P/tcp",                "0.0.0.0:P/tcp",            BUSY),
    ("127.0.0.2:P/tcp",                "P/tcp",                    BUSY),
    ("127.0.0.2:P/tcp",                "[::]:P/tcp",               FREE),
    ("0.0.0.0:P/tcp",                  "127.0.0.1:P/tcp",          BUSY),
    ("0.0.0.0:P/tcp",                  "[::1]:P/tcp",              FREE),
    ("0.0.0.0:P/tcp",                  "P/tcp",                    BUSY),
    ("[::]:P/tcp",                     "127.0.0.1:P/tcp",          BUSY),
    ("[::]:P/tcp",                     "0.0.0.0:P/tcp",            BUSY),
    ("[::]:P/tcp",                     "[::1]:P/tcp",              BUSY),
    ("[::]:P/tcp,v6only",              "127.0.0.1:P/tcp",          FREE),
    ("[::]:P/tcp,v6only",              "0.0.0.0:P/tcp",            FREE),
    ("[::]:P/tcp,v6only",              "[::1]:P/tcp",              BUSY),
    ("[::]:P/tcp,v6only",              "P/tcp",                    BUSY),
    ("[::1]:P/tcp",                    "0.0.0.0:P/tcp",            FREE),
    ("[::1]:P/tcp",                    "[::]:P/tcp",               BUSY),
    ("[::1]:P/tcp",                    "P/tcp",                    BUSY),
    ("[::ffff:127.0.0.1]:P/tcp",       "127.0.0.1:P/tcp",          BUSY),
    ("[::ffff:127.0.0.1]:P/tcp",       "127.0.0.2:P/tcp",          FREE),
    ("[::ffff:127.0.0.1]:P/tcp",       "[::]:P/tcp",               FREE),
    ("[::ffff:127.0.0.1]:P/tcp",       "P/tcp",                    BUSY),
    ("[::ffff:0.0.0.0]:P/tcp",         "127.0.0.1:P/tcp",          BUSY),
    ("[::ffff:0.0.0.0]:P/tcp",         "[::1]:P/tcp",              FREE),
    ("127.0.0.1:P/tcp",                "[::ffff:127.0.0.1]:P/tcp", BUSY),
    ("127.0.0.2:P/tcp",                "[::ffff:127.0.0.1]:P/tcp", FREE),
    ("0.0.0.0:P/tcp,device=lo",        "127.0.0.1:P/tcp",          BUSY),
    ("127.0.0.2:P/tcp,device=lo",      "127.0.0.1:P/tcp",          FREE),
    ("127.0.0.1:P/mptcp",              "127.0.0.1:P/tcp",          BUSY),
    ("[::]:P/mptcp",                   "0.0.0.0:P/tcp",            BUSY),
    ("127.0.0.2:P/mptcp",              "127.0.0.1:P/tcp",          FREE),
    ("127.0.0.1:P/tcp,reuseport",      "P/tcp",                    BUSY),
    ("127.0.0.1:P/tcp,idle,noreuse",   "P/tcp",                    BUSY),
    ("127.0.0.1:P/tcp,idle",           "P/tcp",                    FREE),
    ("127.0.0.1:P/udp",                "P/udp",                    BUSY),
    ("127.0.0.1:P/udp",                "127.0.0.2:P/udp",          FREE),
    ("[::]:P/udp",                     "127.0.0.1:P/udp",          BUSY),
    ("[::]:P/udp,v6only",              "0.0.0.0:P/udp",            FREE),
    ("[::]:P/udp,v6only",              "P/udp",                    BUSY),
    ("0.0.0.0:P/udp",                  "P/tcp",                    FREE),
    ("0.0.0.0:P/tcp",                  "P/udp",                    FREE),
];

/// What a server of this endpoint binds.
fn server_of(endpoint: &str) -> String {
    match endpoint {
        wildcard if wildcard.starts_with(|c: char| c.is_ascii_digit()) && !wildcard.contains(':') => {
            format!("[::]:{wildcard}")
        }
        ipv6 if ipv6.starts_with("[::]") => format!("{ipv6},v6only"),
        one => one.to_owned(),
    }
}

/// A table, and the kernel's own word for each row of it: a real server is tried as well.
pub(super) fn endpoint_is_disturbed_by_what_its_bind_collides_with(m: &Machine) {
    m.unit(APP, "[Service]\nExecStart=/bin/sleep infinity\n");
    for (row, (held, endpoint, free)) in PAIRS.iter().enumerate() {
        let port = (8000 + row).to_string();
        let (held, endpoint) = (held.replace('P', &port), endpoint.replace('P', &port));
        m.given(&format!("a process that stands on {held}"));
        let stander = somebody_stands_on(m, &held);

        m.when(&format!("a server of {endpoint} is tried, and portguard asked"));
        let server = m.sh(&format!("python3 /opt/lab/stand.py {},brief", server_of(&endpoint)));
        let typed = m.sh(&format!("portguard --unit {APP} --port {endpoint} --dry-run"));

        m.then(if *free { "both can have it" } else { "neither can have it, and the process is named" });
        assert_eq!(server.status.success(), *free, "this table is wrong: {server:?}");
        let (status, verdict) = if *free { (0, format!("{endpoint} free")) } else { (69, format!("{endpoint} held")) };
        // A v4-mapped address is the IPv4 address that it stands for.
        assert_eq!(typed.status.code(), Some(status), "{typed:?}");
        assert_names(&typed.stderr, &[&verdict.replace("[::ffff:127.0.0.1]", "127.0.0.1")]);
        if !free {
            assert_names(&typed.stderr, &[&format!("pid {stander} (python3"), "(other-process); not touched"]);
        }
        m.ok(&format!("kill -0 {stander} && kill -KILL {stander}"));
    }
}

pub(super) fn listener_at_another_address_hinders_a_wildcard_alone(m: &Machine) {
    m.given("web.service on 127.0.0.2:8080, and a guarded service that binds 127.0.0.1:8080");
    let web = web_stands_on(m, "127.0.0.2:8080/tcp");
    guarded_app(m, "127.0.0.1:8080/tcp", "127.0.0.1:8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is up, and nothing was found in its way");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("VERDICT", "free"), ("EXIT_STATUS", "0")]);
    assert!(!m.guard_entries(APP).iter().any(|entry| entry.contains_key("PORTGUARD_RELATION")));
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
    assert_unharmed(m, "8080/tcp", web);

    m.when("it is started anew, to bind every address");
    m.ok(&format!("systemctl kill -s KILL {APP}"));
    m.wait_until("it is down", super::SOON, || m.show(APP, "ActiveState") == "failed");
    guarded_app(m, "[::]:8080/tcp", "8080/tcp");
    let start = m.start(APP);

    m.then("it is refused, and web.service named");
    assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
}

/// app.py binds IPv4 alone, as many servers do. Its policy said no more than the port.
pub(super) fn advice_for_a_holder_of_ipv6_alone_works(m: &Machine) {
    m.given("web.service on [::]:8080, IPv6 alone, and a guarded service that binds IPv4 alone");
    let web = web_stands_on(m, "[::]:8080/tcp,v6only");
    super::app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("it is started by a policy that says 8080/tcp");
    let start = m.start(APP);

    m.then("it is refused, and told how to say that it binds IPv4 alone");
    let said = assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
    let advice = "if app.service binds IPv4 alone, write 0.0.0.0:8080/tcp in the policy";
    assert_names(&said, &[advice]);

    m.when("that is done");
    let endpoint = advice.split(' ').find(|word| word.ends_with("/tcp")).unwrap_or_default();
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"{endpoint}\"]\n"));
    let start = m.start(APP);

    m.then("both are up");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("VERDICT", "free")]);
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
    assert_unharmed(m, "8080/tcp", web);
}

pub(super) fn ipv4_holder_gets_no_advice_for_ipv4_alone(m: &Machine) {
    m.given("web.service on [::]:8080, of both families");
    let web = web_stands_on(m, "[::]:8080/tcp");
    guarded_app(m, "[::]:8080/tcp", "8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and not told to leave IPv6 out, which would not help");
    let said = assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
    assert!(!said.contains("0.0.0.0"), "{said}");
}

pub(super) fn v4_mapped_holder_is_one_of_ipv4(m: &Machine) {
    m.given("a leftover on [::ffff:127.0.0.1]:8080, an IPv6 socket, of a service guarded at 127.0.0.1:8080");
    let old = leftover_of_app(m, "[::ffff:127.0.0.1]:8080/tcp", "127.0.0.1:8080/tcp");

    m.when("the service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped, and the service is up");
    assert_replaced(m, &start, "8080/tcp", old);
}

pub(super) fn listener_of_one_device_is_named_with_it(m: &Machine) {
    m.given("web.service on 8080 of the device lo alone");
    let web = web_stands_on(m, "0.0.0.0:8080/tcp,device=lo");
    guarded_app(m, "[::]:8080/tcp", "8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and the device named");
    let said = assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
    assert_names(&said, &["on device lo alone"]);

    m.when("web.service is gone, and the guarded service leaves such a listener behind itself");
    m.ok("systemctl kill -s KILL web.service");
    m.wait_until("web.service is gone", super::SOON, || m.holders("8080/tcp").is_empty());
    let old = leftover_of_app(m, "0.0.0.0:8080/tcp,device=lo", "8080/tcp");
    let start = m.start(APP);

    m.then("that one is stopped");
    assert_replaced(m, &start, "8080/tcp", old);
}

/// Its processes have an MPTCP socket; the listener in the tables is the TCP socket inside.
pub(super) fn mptcp_leftover_is_stopped(m: &Machine) {
    m.given("a leftover with an MPTCP listener");
    let old = leftover_of_app(m, "0.0.0.0:8080/mptcp", "8080/tcp");
    assert_is_mptcp(m, "8080");

    m.when("the service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped, and the service is up");
    assert_replaced(m, &start, "8080/tcp", old);
}

pub(super) fn foreign_mptcp_listener_is_refused_and_named(m: &Machine) {
    m.given("web.service with an MPTCP listener");
    let web = web_stands_on(m, "[::]:8080/mptcp");
    assert_is_mptcp(m, "8080");
    guarded_app(m, "0.0.0.0:8080/tcp", "8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and web.service named");
    assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
}

/// A kernel without MPTCP could not make the socket; one that fell back to TCP would prove nothing.
fn assert_is_mptcp(m: &Machine, port: &str) {
    let shown = m.ok(&format!("ss -HlnM 'sport = :{port}'"));
    assert!(shown.contains("LISTEN"), "no MPTCP listener on {port}: {shown:?}");
}

pub(super) fn udp_listener_at_another_address_hinders_a_wildcard_alone(m: &Machine) {
    m.given("web.service on 127.0.0.2:8080, UDP, and a guarded service that binds 127.0.0.1:8080");
    let web = web_stands_on(m, "127.0.0.2:8080/udp");
    guarded_app(m, "127.0.0.1:8080/udp", "127.0.0.1:8080/udp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is up, and web.service as well");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("VERDICT", "free")]);
    assert_unharmed(m, "8080/udp", web);

    m.when("it is started anew, to bind every IPv4 address");
    m.ok(&format!("systemctl kill -s KILL {APP}"));
    m.wait_until("it is down", super::SOON, || m.show(APP, "ActiveState") == "failed");
    guarded_app(m, "0.0.0.0:8080/udp", "0.0.0.0:8080/udp");
    let start = m.start(APP);

    m.then("it is refused, and web.service named");
    assert_refused_for_web(m, &start, "0.0.0.0:8080/udp", "8080/udp", web);
}

pub(super) fn host_without_ipv6_has_its_leftovers_stopped(m: &Machine) {
    m.given("a machine on which IPv6 is off, and a leftover");
    m.ok("sysctl -w net.ipv6.conf.all.disable_ipv6=1");
    let old = started_guarded_app(m, "8080/tcp");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the leftover is stopped, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
    super::assert_up_without(m, "8080/tcp", &old);
    super::faults::assert_in_time(m);

    m.when("portguard is asked for an address of IPv6");
    let typed = m.sh("portguard --unit other.service --port '[::1]:9090/tcp' --dry-run");

    m.then("it says that there is none, and leaves that to the service");
    assert_eq!(typed.status.code(), Some(0), "{typed:?}");
    assert_names(&typed.stderr, &["[::1]:9090/tcp is at an address that this host does not have", "(not-bindable)"]);
}

/// What is next is a command that a shell takes as it is.
pub(super) fn next(entry: &crate::machine::Entry) -> &str {
    field(entry, "PORTGUARD_NEXT")
}
