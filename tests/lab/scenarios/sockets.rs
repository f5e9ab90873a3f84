//! Socket activation: the port is held by PID 1, which nobody may signal, because SIGTERM makes it re-execute itself.

use super::faults::file_hangs_who_closes_it;
use super::predecessors::{app_replaces, replaces};
use super::time::stop_timeout;
use super::{
    APP, SOON, app_service, assert_names, assert_next_shows, assert_unharmed, assert_up_without, field, finding, guard,
    message, policy, policy_for_app, refused, type_next,
};
use crate::machine::Machine;

/// app.service, guarded, with a socket unit of its own that listens there.
pub(super) fn activated_app(m: &Machine, listen: &str) {
    m.unit("app.socket", &format!("[Socket]\nListenStream={listen}\n"));
    m.unit(APP, "[Service]\nExecStart=/usr/bin/python3 /opt/lab/activated.py\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok("systemctl start app.socket");
}

pub(super) fn own_socket_activation_passes(m: &Machine) {
    m.given("a guarded service whose port systemd holds for it");
    activated_app(m, "8080");
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

const ACTIVATED: &str = "[Service]\nExecStart=/usr/bin/python3 /opt/lab/activated.py\n";

pub(super) fn own_socket_unit_of_another_name_passes(m: &Machine) {
    m.given("a guarded service whose port systemd holds by a socket unit of another name");
    m.unit("front.socket", "[Socket]\nListenStream=8080\nService=app.service\n");
    m.unit(APP, ACTIVATED);
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok("systemctl start front.socket");

    m.when("a client connects");
    let answer = m.connect(8080);

    m.then("the service is started and answers, and the journal names the socket unit");
    assert_eq!(answer.stdout.trim(), "served by activation", "{answer:?}");
    let passed = finding(
        m,
        APP,
        &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("HOLDER_PID", "1"), ("ENDPOINT", "8080/tcp")],
    );
    assert_names(message(&passed), &["front.socket"]);
    finding(m, APP, &[("VERDICT", "passed"), ("EXIT_STATUS", "0")]);
}

/// app.service, guarded, and its socket unit, both of which may be started as often as the scenario likes.
fn activated_again_and_again(m: &Machine) {
    m.unit("app.socket", "[Unit]\nStartLimitIntervalSec=0\n[Socket]\nListenStream=8080\n");
    m.unit(APP, "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep infinity\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok("systemctl start app.socket");
}

/// tty.service of `Type=idle`, whose process waits for the end of slow.service.
fn idle_unit_that_waits(m: &Machine) -> u32 {
    m.unit("slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 6\n");
    m.unit("tty.service", "[Service]\nType=idle\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start --no-block slow.service && sleep 0.2 && systemctl start --no-block tty.service");
    m.wait_until("its process is there", SOON, || m.show("tty.service", "MainPID") != "0");
    m.main_pid("tty.service")
}

/// Before systemd 255 the process of such a unit (each getty of a boot) has all that PID 1 has open for up to five seconds, while
/// other jobs run.
pub(super) fn own_socket_unit_passes_beside_an_idle_unit(m: &Machine) {
    m.given(
        "the unit's own socket unit, a job that takes its time, and a unit of Type=idle that waits for the end of that",
    );
    activated_again_and_again(m);
    let tty = idle_unit_that_waits(m);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is up, and the socket unit alone is named");
    assert!(start.status.success(), "{}", m.journal(APP));
    finding(m, APP, &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);
    assert!(!m.journal(APP).contains("tty.service"), "{}", m.journal(APP));
    assert!(m.alive(tty));

    m.given("a service that has systemd keep its listening socket, and the same again");
    m.ok("systemctl stop app.service app.socket slow.service tty.service && rm /etc/systemd/system/app.socket");
    m.unit(APP, &storing(""));
    m.ok(&format!("systemctl start {APP}"));
    idle_unit_that_waits(m);
    m.forget_journal();

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is up, with the socket that was kept");
    assert!(restart.status.success(), "{}", m.journal(APP));
    assert_eq!(m.connect(8080).stdout.trim(), "kept");
    finding(m, APP, &[("RELATION", "own-fd-store"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);
}

/// What PID 1 forks for another unit has all that PID 1 has open, until it executes its program.
pub(super) fn own_socket_unit_passes_while_other_units_start(m: &Machine) {
    const STARTS: usize = 40;
    m.given("the unit's own socket unit, and other units that start all the time");
    activated_again_and_again(m);
    let other =
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nUser=nobody\nPrivateTmp=yes\nExecStart=/bin/true\n";
    m.unit("other@.service", other);
    m.write("/opt/lab/others.sh", "while :; do systemctl start other@1 other@2; done\n");
    m.unit("others.service", "[Service]\nExecStart=/bin/sh /opt/lab/others.sh\n");
    m.ok("systemctl start others.service");

    m.when("the guarded service is started again and again");
    let starts = |_: &usize| m.sh(&format!("systemctl stop {APP} 2>/dev/null; systemctl start {APP}")).status.success();
    let up = (0..STARTS).filter(starts).count();
    m.ok("systemctl stop others.service");

    m.then("it is up each time, and PID 1 alone is ever named");
    assert_eq!(up, STARTS, "{}", m.journal(APP));
    let holders: Vec<_> = m
        .guard_entries(APP)
        .iter()
        .map(|entry| field(entry, "PORTGUARD_HOLDER_PID").to_owned())
        .filter(|pid| !pid.is_empty())
        .collect();
    assert_eq!(holders, vec!["1"; STARTS], "{}", m.journal(APP));
}

pub(super) fn several_socket_units_of_one_service_pass(m: &Machine) {
    m.given("a guarded service with two ports, each of which has a socket unit of its own");
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit("admin.socket", "[Socket]\nListenStream=127.0.0.1:8081\nService=app.service\n");
    m.unit(APP, &format!("[Unit]\nRequires=app.socket admin.socket\n{ACTIVATED}Sockets=app.socket admin.socket\n"));
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\", \"127.0.0.1:8081/tcp\"]\n"));
    guard(m, APP);
    m.ok("systemctl start app.socket admin.socket");

    m.when("a client connects to the second");
    let answer = m.connect(8081);

    m.then("the service is started and answers on both, and the journal has both socket units");
    assert_eq!(answer.stdout.trim(), "served by activation", "{answer:?}");
    assert_eq!(m.connect(8080).stdout.trim(), "served by activation");
    let passed = [("RELATION", "own-socket-unit"), ("ACTION", "pass")];
    for (endpoint, unit) in [("8080/tcp", "app.socket"), ("127.0.0.1:8081/tcp", "admin.socket")] {
        let passed = finding(m, APP, &[&passed[..], &[("ENDPOINT", endpoint)]].concat());
        assert_names(message(&passed), &[unit]);
    }
}

/// systemd gives the listener itself to a service with `StandardInput=socket`, and so to the commands in front of its start.
pub(super) fn service_whose_standard_input_is_the_listener_passes(m: &Machine) {
    m.given("a guarded service whose standard input is its socket unit's listener");
    for (listens, endpoint) in [("ListenStream=8080", "8080/tcp"), ("ListenDatagram=8080", "8080/udp")] {
        m.unit("app.socket", &format!("[Socket]\n{listens}\n"));
        m.unit(APP, "[Service]\nStandardInput=socket\nStandardOutput=null\nExecStart=/bin/sleep infinity\n");
        policy_for_app(m, endpoint);
        m.ok("systemctl restart app.socket");
        for command in ["/usr/bin/portguard --unit %n", "/bin/sh -c '/usr/bin/portguard --unit %n; exit $?'"] {
            m.unit(&format!("{APP}.d/10-portguard.conf"), &format!("[Service]\nExecStartPre=+{command}\n"));
            m.forget_journal();

            m.when("it is started, and its guard has the listener as well");
            let start = m.start(APP);

            m.then("it is up, and the socket unit is named");
            assert!(start.status.success(), "{}", m.journal(APP));
            finding(
                m,
                APP,
                &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("HOLDER_PID", "1"), ("ENDPOINT", endpoint)],
            );
            finding(m, APP, &[("VERDICT", "passed"), ("EXIT_STATUS", "0")]);
            m.stop(APP);
        }
        m.ok("systemctl stop app.socket");
    }
}

/// Whoever may read it is a client as well.
pub(super) fn fifo_of_a_socket_unit_gets_nothing_of_the_guard(m: &Machine) {
    m.given("a guarded service whose standard input and output are a FIFO that anybody may read, and somebody who has its port");
    m.unit("app.socket", "[Socket]\nListenFIFO=/run/app.fifo\n");
    m.unit(APP, "[Service]\nStandardInput=socket\nExecStart=/bin/cat\n");
    m.unit("app.service.d/30-json.conf", "[Service]\nExecStartPre=+/usr/bin/portguard --unit %n --json\n");
    policy_for_app(m, "8080/tcp");
    m.unit("web.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080\n");
    m.ok("systemctl start web.service app.socket");

    m.when("it is activated, and refused");
    let wait = "for _ in $(seq 100); do systemctl is-failed -q app.socket && break; sleep 0.1; done";
    let read = m.ok(&format!("exec 3<>/run/app.fifo; echo woken >&3; {wait}; timeout 1 cat <&3; true"));

    m.then("nothing of that is there to be read, but for what was written");
    refused(m, APP, &[("HOLDER_UNIT", "web.service")]);
    assert_eq!(read.trim(), "woken");
}

/// With `Accept=yes` systemd keeps the listener and starts an instance for each connection, which binds nothing.
pub(super) fn instance_for_one_connection_passes(m: &Machine) {
    m.given("a guarded template of which systemd starts an instance for each connection to the port");
    m.unit("app.socket", "[Socket]\nListenStream=8080\nAccept=yes\n");
    m.unit("app@.service", "[Service]\nStandardInput=socket\nExecStart=/bin/echo served\n");
    policy(m, "[unit.\"app@.service\"]\nports = [\"8080/tcp\"]\n");
    guard(m, "app@.service");
    // Without root it has lines for standard error, which is the client.
    m.unit(
        "app@.service.d/20-user.conf",
        "[Service]\nExecStartPre=-/usr/bin/setpriv --reuid=nobody /usr/bin/portguard --unit %n\n",
    );
    m.ok("systemctl start app.socket");

    m.when("two clients connect, one after the other");
    let answers = [m.connect(8080), m.connect(8080)];

    m.then("each is served, by an instance whose guard has said why it could start");
    for answer in &answers {
        assert_eq!(answer.stdout.trim(), "served", "{answer:?}");
    }
    finding(m, "'app@*.service'", &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("ENDPOINT", "8080/tcp")]);
    let passed = |entry: &_| field(entry, "PORTGUARD_VERDICT") == "passed";
    assert_eq!(m.guard_entries("'app@*.service'").into_iter().filter(passed).count(), answers.len());
    assert_eq!(m.show("app.socket", "ActiveState"), "active");

    m.then("the one without root has had its say in the journal");
    let said = || m.ok("journalctl --sync; journalctl -o cat -t portguard _UID=65534");
    m.wait_until("it is in the journal", SOON, || said().contains("could not be looked into (hidden)"));

    m.when("the instance has the connection as its standard output and error alone, asks for another unit, and a client connects");
    m.unit("app@.service", "[Service]\nStandardOutput=socket\nStandardError=socket\nExecStart=/bin/echo served\n");
    m.unit(
        "app@.service.d/30-other.conf",
        "[Service]\nExecStartPre=-+/usr/bin/portguard --json --port 8080/tcp --unit other.service\n",
    );
    let answer = m.connect(8080);

    m.then("it reads what the service has for it, and nothing of the guards");
    assert_eq!(answer.stdout.trim(), "served", "{answer:?}");
    finding(m, "other.service", &[("RELATION", "other-socket-unit"), ("ACTION", "refuse"), ("ENDPOINT", "8080/tcp")]);

    m.when("it is one of the host");
    m.ok("systemctl stop app.socket");
    m.unit("app.socket", "[Socket]\nListenStream=8080\nListenStream=/run/app.sock\nAccept=yes\n");
    m.ok("systemctl start app.socket");
    let read =
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/app.sock'); print(s.makefile().read())";
    let answer = m.ok(&format!("timeout 10 python3 -c \"{read}\""));

    m.then("it reads nothing of them either");
    assert_eq!(answer.trim(), "served");
}

pub(super) fn storing(settings: &str) -> String {
    format!(
        "[Service]\nType=notify\nFileDescriptorStoreMax=1\nExecStart=/usr/bin/python3 /opt/lab/storing.py 8080\n{settings}"
    )
}

pub(super) fn own_fd_store_passes_and_is_taken_back(m: &Machine) {
    m.given("a guarded service that has systemd keep its listening socket");
    m.unit(APP, &storing(""));
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    assert_eq!(m.connect(8080).stdout.trim(), "bound");
    let old = m.main_pid(APP);
    assert_eq!(m.holders("8080/tcp"), [1, old]);

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is up with the very socket of its last run, and the journal says where that was");
    assert!(restart.status.success(), "{restart:?}");
    assert!(!m.alive(old));
    assert_eq!(m.connect(8080).stdout.trim(), "kept");
    finding(m, APP, &[("RELATION", "own-fd-store"), ("ACTION", "pass"), ("HOLDER_PID", "1"), ("ENDPOINT", "8080/tcp")]);
    finding(m, APP, &[("VERDICT", "passed"), ("EXIT_STATUS", "0")]);
}

/// systemd tells what is in a store since 254. Before that the cgroup of a run that no ledger has tells nothing, once it is
/// gone.
pub(super) fn fd_store_of_a_run_without_a_guard_is_no_hindrance(m: &Machine) {
    m.given("a service that has systemd keep its listening socket, and that was not guarded when it was started");
    m.unit(APP, &storing(""));
    policy_for_app(m, "8080/tcp");
    m.ok(&format!("systemctl start {APP}"));
    assert_eq!(m.connect(8080).stdout.trim(), "bound");
    guard(m, APP);

    m.when("it is restarted with its guard");
    let restart = m.restart(APP);

    m.then("it is up with the very socket of its last run, and the journal says where that was, or that systemd does not tell");
    assert!(restart.status.success(), "{restart:?}\n{}", m.journal(APP));
    assert_eq!(m.connect(8080).stdout.trim(), "kept");
    if m.systemd() >= 254 {
        finding(m, APP, &[("RELATION", "own-fd-store"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);
    } else {
        let passed = finding(m, APP, &[("RELATION", "unchecked"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);
        assert_names(message(&passed), &["whether that is for app.service systemd did not say", "left to the service"]);
    }
}

/// `FileDescriptorStorePreserve=yes` is there since systemd 254; before that a store goes with the last run. In 257 it
/// goes as well (measured).
fn keeps_stores(m: &Machine) -> bool {
    m.systemd() > 257
}

pub(super) fn own_fd_store_outlives_a_stop_where_it_may(m: &Machine) {
    m.given("a guarded service that has systemd keep its listening socket over a stop");
    m.unit(APP, &storing("FileDescriptorStorePreserve=yes\n"));
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP} && systemctl stop {APP}"));
    let preserved = keeps_stores(m);
    assert_eq!(m.holders("8080/tcp"), if preserved { vec![1] } else { vec![] });

    m.when("it is started");
    let start = m.start(APP);

    m.then("it is up, with the socket of its last run where systemd has kept it");
    assert!(start.status.success(), "{start:?}");
    if preserved {
        assert_eq!(m.connect(8080).stdout.trim(), "kept");
        finding(m, APP, &[("RELATION", "own-fd-store"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);
        finding(m, APP, &[("VERDICT", "passed")]);
    } else {
        assert_eq!(m.connect(8080).stdout.trim(), "bound");
        let free = |entry: &_| field(entry, "PORTGUARD_VERDICT") == "free";
        assert_eq!(m.guard_entries(APP).into_iter().filter(free).count(), 2);
    }
}

pub(super) fn fd_store_of_another_unit_is_refused(m: &Machine) {
    m.given("other.service, which is up, and for which systemd keeps the listening socket as well");
    m.unit("other.service", &storing("FileDescriptorStorePreserve=yes\n"));
    m.ok("systemctl start other.service");
    let other = m.main_pid("other.service");
    assert_eq!(m.holders("8080/tcp"), [1, other]);
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    let manager = manager_image(m);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and other.service named, which is unharmed, as is PID 1");
    assert!(!start.status.success(), "{start:?}");
    refused(
        m,
        APP,
        &[("RELATION", "other-unit"), ("HOLDER_PID", &other.to_string()), ("HOLDER_UNIT", "other.service")],
    );
    assert_unharmed(m, "8080/tcp", other);
    assert_eq!(manager_image(m), manager);

    m.when("other.service is stopped, and the guarded service started again");
    m.stop("other.service");
    let start = m.start(APP);

    if !keeps_stores(m) {
        m.then("its store has gone with it, and the service is up");
        assert!(start.status.success(), "{start:?}");
        assert_up_without(m, "8080/tcp", &[other]);
        return;
    }
    m.then("it is refused, for systemd still has the socket, and PID 1 is unharmed");
    assert!(!start.status.success(), "{start:?}");
    assert_eq!(m.holders("8080/tcp"), [1]);
    let refused = refused(m, APP, &[("RELATION", "manager"), ("HOLDER_PID", "1")]);
    assert_next_shows(m, &refused, &[":8080", "systemd"]);
    assert_eq!(manager_image(m), manager);
}

pub(super) fn running_socket_unit_of_another_is_refused(m: &Machine) {
    m.given("another service's socket unit, and that service, which was started by it and is up");
    m.unit("other.socket", "[Socket]\nListenStream=8080\n");
    m.unit("other.service", ACTIVATED);
    m.ok("systemctl start other.socket");
    assert_eq!(m.connect(8080).stdout.trim(), "served by activation");
    assert_eq!(m.show("other.socket", "SubState"), "running");
    let other = m.main_pid("other.service");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    let manager = manager_image(m);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and both units are named and unharmed");
    assert!(!start.status.success(), "{start:?}");
    let of_socket = refused(m, APP, &[("RELATION", "other-socket-unit"), ("HOLDER_PID", "1")]);
    assert_names(message(&of_socket), &["other.socket"]);
    assert_unharmed(m, "8080/tcp", other);
    assert_eq!(manager_image(m), manager);

    m.then("what it says to type, line by line, frees the port");
    for entry in m.guard_entries(APP) {
        if field(&entry, "PORTGUARD_ACTION") == "refuse" {
            type_next(m, &entry);
        }
    }
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
}

pub(super) fn replaced_socket_unit_is_stopped_by_systemd(m: &Machine) {
    m.given("a socket unit of another service that listens, and a policy that replaces it");
    m.unit("other.socket", "[Socket]\nListenStream=8080\n");
    m.unit("other.service", ACTIVATED);
    m.ok("systemctl start other.socket");
    app_replaces(m, "\"other.socket\"");
    let manager = manager_image(m);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is up instead of the socket unit, and PID 1 has not been touched");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &[]);
    assert_eq!(m.holders("8080/tcp"), m.processes_of(APP));
    assert_eq!(m.show("other.socket", "ActiveState"), "inactive");
    finding(m, APP, &[("RELATION", "predecessor"), ("ACTION", "stop-unit"), ("HOLDER_PID", "1")]);
    finding(m, APP, &[("VERDICT", "freed")]);
    assert_eq!(manager_image(m), manager);

    m.given("the same, with its service up");
    m.ok(&format!("systemctl stop {APP}; systemctl kill -s KILL {APP} 2>/dev/null; true"));
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    m.ok("systemctl start other.socket");
    assert_eq!(m.connect(8080).stdout.trim(), "served by activation");
    let other = m.main_pid("other.service");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then(
        "it is refused for the service, of which the policy does not speak, and the socket unit is not stopped either",
    );
    assert!(!start.status.success(), "{start:?}");
    let refused = refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "other.service")]);
    assert_names(message(&refused), &["replaces = [\"other.service\"]"]);
    assert_unharmed(m, "8080/tcp", other);
    assert_eq!(m.show("other.socket", "ActiveState"), "active");

    m.when("the policy speaks of both");
    replaces(m, "\"other.socket\", \"other.service\"");
    let start = m.start(APP);

    m.then("both are stopped, and the service is up");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &[other]);
    assert_eq!(m.holders("8080/tcp"), m.processes_of(APP));
}

/// Differs after every exec of PID 1: its auxiliary vector holds addresses that the kernel then draws anew.
pub(super) fn manager_image(m: &Machine) -> String {
    m.ok("cksum /proc/1/auxv")
}

/// Whoever hangs for a moment at the first look is looked at again once somebody else was stopped, though the start could pass.
pub(super) fn worker_that_hangs_in_execve_for_a_moment_and_shares_the_own_listener_is_stopped(m: &Machine) {
    m.given("a guarded service with a socket unit, and two workers outside that have the listener: one ignores SIGTERM, one executes another program and hangs in that for 0.9 seconds");
    file_hangs_who_closes_it(m, "0.9");
    let moves = "mkdir -p /sys/fs/cgroup/nobodys; echo 0 >/sys/fs/cgroup/nobodys/cgroup.procs; ";
    m.write("/run/deaf", format!("{moves} trap '' TERM; exec sleep infinity\n"));
    m.write(
        "/run/clinging",
        format!(
            "{moves} exec perl -e '$SIG{{TERM}} = sub {{ exec qw(sleep infinity) }}; open F, q(/run/inexec); sleep'\n"
        ),
    );
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit(
        APP,
        "[Service]\nKillMode=process\nExecStart=/bin/sh -c 'sh /run/deaf & sh /run/clinging & exec python3 /opt/lab/activated.py'\n",
    );
    stop_timeout(m, "1s");
    guard(m, APP);
    m.ok(&format!("systemctl start app.socket {APP}"));
    let who = |program: &str| {
        let script = format!(
            "for pid in $(cat /sys/fs/cgroup/nobodys/cgroup.procs); do grep -qx {program} /proc/$pid/comm && echo $pid; done"
        );
        m.sh(&script).stdout.trim().parse::<u32>().ok()
    };
    m.wait_until("the workers are there", SOON, || who("sleep").is_some() && who("perl").is_some());
    let (deaf, clinging) = (who("sleep").expect("a worker"), who("perl").expect("a worker"));
    m.ok(&format!("systemctl stop {APP}"));

    m.when("the service is started in the midst of that");
    let start = m.sh(&format!("kill -TERM {clinging}; sleep 0.05; systemctl start {APP}"));

    m.then("both are stopped, and the service is up");
    assert!(start.status.success(), "{start:?}");
    for pid in [deaf, clinging] {
        finding(m, APP, &[("RELATION", "escaped"), ("ACTION", "stop"), ("HOLDER_PID", &pid.to_string())]);
        m.wait_until("it is gone", SOON, || !m.alive(pid));
    }
    assert_names(&m.journal(APP), &["could not be listed in time"]);
    assert_eq!(m.connect(8080).stdout.trim(), "served by activation");
}

/// PID 1 has the listener for the unit, as it should, and so has somebody who must not: he would take connections.
pub(super) fn worker_that_shares_the_own_listener_is_stopped(m: &Machine) {
    m.given(
        "a guarded service with a socket unit, and a worker in no cgroup of the unit that has the listener as well",
    );
    m.ok("mkdir /sys/fs/cgroup/nobodys");
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit(
        APP,
        "[Service]\nKillMode=process\nExecStart=/bin/sh -c '(echo 0 >/sys/fs/cgroup/nobodys/cgroup.procs; exec sleep infinity) & \
         exec python3 /opt/lab/activated.py'\n",
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start app.socket {APP}"));
    let procs = || m.ok("cat /sys/fs/cgroup/nobodys/cgroup.procs").trim().to_owned();
    m.wait_until("the worker is there", super::SOON, || !procs().is_empty());
    let worker = procs();
    let manager = manager_image(m);

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the worker is stopped, the service up, and PID 1 untouched");
    assert!(restart.status.success(), "{restart:?}");
    finding(m, APP, &[("RELATION", "escaped"), ("ACTION", "stop"), ("HOLDER_PID", &worker)]);
    finding(m, APP, &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);
    let worker = worker.parse().expect("a pid");
    m.wait_until("the worker is gone", super::SOON, || !m.alive(worker));
    assert_eq!(m.connect(8080).stdout.trim(), "served by activation");
    assert_eq!(manager_image(m), manager);
}
