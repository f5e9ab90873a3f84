//! Kinds of holders that no list of listeners explains: a twin beside which a service could start, the near end of a
//! connection, what is left of a connection, and a socket that no process has.

use std::time::{Duration, Instant};

use super::addresses::{assert_refused_for_web, assert_replaced, guarded_app, leftover_of_app, next, web_stands_on};
use super::{APP, SOON, app_service, assert_names, field, finding, guard, message, policy, policy_for_app};
use crate::machine::{Entry, Machine};

const REUSEPORT: &str = "0.0.0.0:8080/tcp,reuseport";

/// Without a guard, a server can start beside what stands there, and shares its connections.
fn assert_could_start_beside(m: &Machine) {
    let twin = m.sh(&format!("python3 /opt/lab/stand.py {REUSEPORT},brief"));
    assert!(twin.status.success(), "nobody could start beside it, which proves nothing: {twin:?}");
}

pub(super) fn leftover_that_shares_its_port_is_stopped(m: &Machine) {
    m.given("a leftover with SO_REUSEPORT, beside which the service could start and would lose connections to it");
    let old = leftover_of_app(m, REUSEPORT, "8080/tcp");
    assert_could_start_beside(m);

    m.when("the service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped, and the service has the port alone");
    assert_replaced(m, &start, "8080/tcp", old);
}

pub(super) fn foreign_unit_that_shares_its_port_is_refused_and_named(m: &Machine) {
    m.given("web.service with SO_REUSEPORT, beside which the guarded service could start");
    let web = web_stands_on(m, REUSEPORT);
    assert_could_start_beside(m);
    guarded_app(m, REUSEPORT, "8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and web.service named");
    assert_refused_for_web(m, &start, "8080/tcp", "8080/tcp", web);
}

/// The near ends of connections at a port, as `pid` each.
fn client_at(m: &Machine, port: &str) -> u32 {
    let shown = m.ok(&format!("ss -Htnp state established 'sport = :{port}'"));
    let pid =
        shown.split("pid=").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    pid.unwrap_or_else(|| panic!("no client at {port}: {shown:?}"))
}

fn refused_for_client(m: &Machine, client: u32, unit: &[&str]) -> Entry {
    let pid = client.to_string();
    let refused = finding(
        m,
        APP,
        &[("RELATION", "client"), ("ACTION", "refuse"), ("ENDPOINT", "8080/tcp"), ("HOLDER_PID", &pid)],
    );
    assert_names(message(&refused), &["the near end of a connection to 127.0.0.1:9000"]);
    assert_names(message(&refused), unit);
    finding(m, APP, &[("VERDICT", "refused"), ("EXIT_STATUS", "69")]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);
    // Never signalled: it is the same process, with the same connection.
    assert!(m.alive(client));
    assert_eq!(client_at(m, "8080"), client);
    assert!(!m.guard_entries(APP).iter().any(|entry| entry.contains_key("PORTGUARD_SIGNAL")));
    refused
}

pub(super) fn client_of_another_unit_is_refused_and_the_advice_keeps_the_port_from_clients(m: &Machine) {
    m.given("a port that is reserved already, a server on 9000, and sync.service, whose client the kernel gave 8080");
    m.ok("sysctl -w net.ipv4.ip_local_reserved_ports=3000");
    m.unit("peer.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 9000\n");
    m.ok("systemctl start peer.service");
    m.unit("sync.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/client.py 9000\n");
    m.ok("sysctl -w net.ipv4.ip_local_port_range='8080 8080' && systemctl start sync.service");
    m.ok("sysctl -w net.ipv4.ip_local_port_range='8080 8083'");
    let client = client_at(m, "8080");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and the client's unit and peer are named");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused_for_client(m, client, &["it belongs to sync.service"]);
    assert_eq!(field(&refused, "PORTGUARD_HOLDER_UNIT"), "sync.service");

    m.when("what is next is typed as it is");
    assert_eq!(next(&refused), "sysctl -w net.ipv4.ip_local_reserved_ports=3000,8080");
    m.ok(next(&refused));

    m.then("both ports are reserved");
    assert_eq!(m.ok("cat /proc/sys/net/ipv4/ip_local_reserved_ports").trim(), "3000,8080");

    m.when("the connection is over, and more clients come than ports are left");
    m.ok("systemctl stop peer.service sync.service && systemctl start peer.service");
    let clients = m.ok("for i in 1 2 3 4; do python3 /opt/lab/client.py 9000 2>&1 || true; done");
    assert_names(&clients, &["Cannot assign requested address"]);
    let start = m.start(APP);

    m.then("none of them has the port of the guarded service, which is up");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("VERDICT", "free")]);
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

pub(super) fn client_of_a_login_session_is_refused_and_named(m: &Machine) {
    m.given("alice, who is logged in, and has a connection from 8080 to a server on 9000");
    m.ok("python3 /opt/lab/listener.py 9000 && useradd -m alice");
    m.ok("setsid su -l alice -c 'python3 /opt/lab/client.py 9000 8080; exec sleep infinity' >/dev/null 2>&1 &");
    let connected = || m.ok("ss -Htn state established 'sport = :8080'").contains(":9000");
    m.wait_until("alice's client is connected", SOON, connected);
    let client = client_at(m, "8080");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and she is named");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused_for_client(m, client, &["user alice", "it belongs to session-"]);
    assert_eq!(next(&refused), "sysctl -w net.ipv4.ip_local_reserved_ports=8080");
}

fn assert_there_is(m: &Machine, state: &str) {
    let shown = m.ok(&format!("ss -Htn state {state} 'sport = :8080'"));
    assert_eq!(shown.lines().count(), 1, "{state}: {shown:?}");
}

fn app_without_reuse_address(m: &Machine, more: &str) {
    app_service(m, "8080/tcp");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\n{more}"));
    guard(m, APP);
}

pub(super) fn time_wait_counts_only_where_the_policy_says_so(m: &Machine) {
    m.given("what is left of a connection: a TIME_WAIT on the port of the guarded service");
    m.ok("python3 /opt/lab/closes_first.py 8080 time-wait");
    assert_there_is(m, "time-wait");
    app_without_reuse_address(m, "reuse-address = false\nwait = \"2s\"\n");

    m.when("a service that does not set SO_REUSEADDR is started, and may wait for two seconds");
    let begin = Instant::now();
    let start = m.start(APP);

    m.then("it is waited for, and the start fails with 75 when they are over");
    assert!(!start.status.success(), "{start:?}");
    assert!(begin.elapsed() >= Duration::from_secs(2), "it took {:?}", begin.elapsed());
    let waited = finding(m, APP, &[("RELATION", "time-wait"), ("ACTION", "wait"), ("ENDPOINT", "8080/tcp")]);
    assert_names(message(&waited), &["TIME_WAIT"]);
    assert!(!waited.contains_key("PORTGUARD_HOLDER_PID"), "{waited:?}");
    finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_names(&m.journal(APP), &["status=75/TEMPFAIL"]);

    m.when("a service that sets it is started, which is the default");
    app_without_reuse_address(m, "");
    let start = m.start(APP);

    m.then("it is up beside the same TIME_WAIT");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("VERDICT", "free")]);
    assert_there_is(m, "time-wait");
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

pub(super) fn time_wait_that_its_peer_ends_is_not_waited_for_any_more(m: &Machine) {
    m.given("a TIME_WAIT on the port of a service that does not set SO_REUSEADDR, and the start that waits for it");
    m.ok("python3 /opt/lab/closes_first.py 8080 time-wait 4242");
    assert_there_is(m, "time-wait");
    app_without_reuse_address(m, "reuse-address = false\n");
    let begin = Instant::now();
    m.ok(&format!("systemctl start --no-block {APP}"));
    m.wait_until("it waits", SOON, || m.journal(APP).contains("TIME_WAIT"));

    m.when("the client connects anew from the port that it had, and the answer has it end what is left with a RST");
    m.sh("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8080), 2, (\"127.0.0.1\", 4242))'");
    assert_eq!(m.ok("ss -Htan state time-wait 'sport = :8080'"), "", "it is still there");

    m.then("the service is up long before the minute of a TIME_WAIT is over");
    m.wait_until("it is up", Duration::from_secs(20), || m.show(APP, "ActiveState") == "active");
    assert!(begin.elapsed() < Duration::from_secs(40), "it took {:?}", begin.elapsed());
    finding(m, APP, &[("RELATION", "time-wait"), ("ACTION", "wait")]);
    finding(m, APP, &[("VERDICT", "free")]);
}

pub(super) fn end_of_a_connection_that_no_process_has_is_waited_for(m: &Machine) {
    m.given("a connection in FIN_WAIT2 whose server is gone, and did not set SO_REUSEADDR");
    m.ok("sysctl -w net.ipv4.tcp_fin_timeout=3");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok("python3 /opt/lab/closes_first.py 8080 fin-wait");
    assert_there_is(m, "fin-wait-2");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it waits for that to be over, and is up");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "time-wait"), ("ACTION", "wait"), ("ENDPOINT", "8080/tcp")]);
    finding(m, APP, &[("VERDICT", "free"), ("EXIT_STATUS", "0")]);
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

/// A guard that may not bind port 80, which is all that tells of some sockets, and the policy for that.
fn guard_without_a_bind(m: &Machine, policy_lines: &str) {
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"80/tcp\"]\n{policy_lines}"));
    let command = "+/usr/bin/setpriv --bounding-set -net_bind_service --inh-caps -net_bind_service \
                   /usr/bin/portguard --unit %n";
    m.unit(&format!("{APP}.d/10-portguard.conf"), &format!("[Service]\nExecStartPre={command}\n"));
}

pub(super) fn end_of_a_connection_is_seen_where_the_bind_is_denied(m: &Machine) {
    m.given("a connection in FIN_WAIT2 at port 80, and a guard without cap_net_bind_service that may wait for it a second longer");
    m.ok("sysctl -w net.ipv4.tcp_fin_timeout=3");
    app_service(m, "80/tcp");
    guard_without_a_bind(m, "reuse-address = false\nwait = \"4s\"\n");
    m.ok("python3 /opt/lab/closes_first.py 80 fin-wait");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it waits for that to be over, and is up");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "time-wait"), ("ACTION", "wait"), ("ENDPOINT", "80/tcp")]);
    finding(m, APP, &[("VERDICT", "free"), ("EXIT_STATUS", "0")]);
    assert!(m.holders("80/tcp").contains(&m.main_pid(APP)));
}

pub(super) fn wait_is_over_before_the_start_where_the_bind_is_denied(m: &Machine) {
    m.given("web.service on port 80, for which a guard without cap_net_bind_service may wait for long, and a start that may take five seconds");
    m.unit("web.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 80\n");
    m.ok("systemctl start web.service");
    app_service(m, "80/tcp");
    m.unit(&format!("{APP}.d/20-impatient.conf"), "[Service]\nTimeoutStartSec=5\nNotifyAccess=none\n");
    guard_without_a_bind(m, "on-foreign = \"wait\"\nwait = \"50s\"\n");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("portguard gives up with its own words, and not systemd");
    assert!(!start.status.success(), "{start:?}");
    let last = finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_names(message(&last), &["80/tcp still held", "systemctl stop web.service"]);
    assert_eq!(m.show(APP, "Result"), "exit-code");
    assert_eq!(m.show("web.service", "ActiveState"), "active");
}

pub(super) fn socket_in_a_message_that_nobody_reads_is_refused(m: &Machine) {
    m.given("web.service, whose listener lies in a message that nobody has read, so that no process has it");
    socket_of_no_process_is_refused(m, "in_flight.py");
}

pub(super) fn socket_in_an_io_uring_is_refused(m: &Machine) {
    m.given("web.service, whose listener is a registered file of an io_uring, so that no process has it");
    socket_of_no_process_is_refused(m, "in_a_ring.py");
}

fn socket_of_no_process_is_refused(m: &Machine, listener: &str) {
    m.unit("web.service", &format!("[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/{listener} 8080\n"));
    m.ok("systemctl start web.service");
    let web = m.main_pid("web.service");
    let listening = || m.ok("ss -Hltn 'sport = :8080'");
    assert_names(&listening(), &["LISTEN"]);
    assert!(m.holders("8080/tcp").is_empty(), "some process has it");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and the unit that made the socket is named");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(
        m,
        APP,
        &[("RELATION", "kernel-held"), ("ACTION", "refuse"), ("ENDPOINT", "8080/tcp"), ("HOLDER_UNIT", "web.service")],
    );
    assert!(!refused.contains_key("PORTGUARD_HOLDER_PID"), "{refused:?}");
    assert_names(
        message(&refused),
        &["an io_uring, or a message that nobody has read", "a socket that web.service made"],
    );
    finding(m, APP, &[("VERDICT", "refused"), ("EXIT_STATUS", "69")]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);

    m.then("web.service is unharmed, and so is the socket");
    assert!(m.alive(web));
    assert_names(&listening(), &["LISTEN"]);

    m.when("what is next is typed as it is");
    assert_eq!(next(&refused), "systemctl stop web.service");
    m.ok(next(&refused));
    // A worker of the kernel closes what a ring had, after its process has ended (io_ring_exit_work()).
    m.wait_until("the socket is closed", SOON, || listening().is_empty());
    let start = m.start(APP);

    m.then("the guarded service comes up");
    assert!(start.status.success(), "{start:?}");
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

/// The tables of `/proc/net` do not have a TCP socket that is bound and idle, and netlink alone tells of it.
pub(super) fn holder_that_no_table_shows_is_refused(m: &Machine) {
    m.given("web.service with a bound and idle socket, and a guard that may not use netlink");
    let web = web_stands_on(m, "0.0.0.0:8080/tcp,idle,noreuse");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    let settings =
        "[Service]\nExecStartPre=/usr/bin/portguard --unit %n\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n";
    m.unit(&format!("{APP}.d/10-portguard.conf"), settings);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, as busy for a reason that could not be made out, and web.service is unharmed");
    assert!(!start.status.success(), "{start:?}");
    super::refused(m, APP, &[("RELATION", "unexplained"), ("ENDPOINT", "8080/tcp")]);
    assert!(m.alive(web));

    m.when("the guard may see all, as it is shipped");
    guard(m, APP);
    assert!(!m.start(APP).status.success());

    m.then("it names the holder");
    super::refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "web.service")]);
    assert!(m.alive(web));
}
