//! What portguard needs of root's power, measured: the table of SECURITY.md is what is expected here, and the way without
//! full root is the one that stands there.

use std::collections::BTreeMap;

use super::addresses::standing;
use super::lookalikes::{by_hand, stopping_lookalikes};
use super::predecessors::replaces;
use super::sockets::storing;
use super::users::{alices_manager, as_alice, user_unit};
use super::{
    APP, SOON, app_service, assert_names, assert_up_without, field, finding, guard, policy, policy_for_app,
    started_guarded_app, web_has_the_port, workers,
};
use crate::machine::Machine;

const SECURITY: &str = include_str!("../../../SECURITY.md");

/// A row of the table: who has the port, and what comes of it with all of root's power.
struct Row {
    name: &'static str,
    /// The guarded unit.
    unit: &'static str,
    /// What runs portguard.
    hook: &'static str,
    endpoint: &'static str,
    /// Makes the holder, anew for each run.
    given: fn(&Machine),
    relation: &'static str,
    verdict: &'static str,
}

const fn row(name: &'static str, given: fn(&Machine), relation: &'static str, verdict: &'static str) -> Row {
    Row { name, unit: APP, hook: "ExecStartPre", endpoint: "8080/tcp", given, relation, verdict }
}

const ID: &str = "0123456789abcdef0123456789abcdef";

const ROWS: &[Row] = &[
    row("nobody", |m| app_service(m, "8080/tcp"), "", "free"),
    Row { endpoint: "80/tcp", ..row("nobody, a port below 1024", |m| app_service(m, "80/tcp"), "", "free") },
    row("a leftover of root's", |m| leftover_of(m, "root"), "leftover", "freed"),
    row("a leftover of another user's", |m| leftover_of(m, "alice"), "leftover", "freed"),
    row("an escaped process of root's", |m| escaped(m, ""), "escaped", "freed"),
    row("an escaped process of another user's", |m| escaped(m, AS_ALICE), "escaped", "freed"),
    row("a predecessor, root's", |m| predecessor(m, other_unit), "predecessor", "freed"),
    row("a predecessor, another user's", |m| predecessor(m, other_unit_of_alices), "predecessor", "freed"),
    row("a lookalike of root's", |m| lookalike(m, "", ""), "lookalike", "freed"),
    row("a lookalike of another user's", |m| lookalike(m, "alice", AS_ALICE), "lookalike", "freed"),
    row("another unit, root's", other_unit, "other-unit", "refused"),
    row("another unit, another user's", other_unit_of_alices, "other-unit", "refused"),
    row("another user's process in no unit", process_of_alices, "other-process", "refused"),
    row("a socket that it made and root's process has", heir, "heir", "refused"),
    row("a process in its cgroup that is not proven to be left over", unproven, "unproven", "refused"),
    row("what an earlier command of this start has left", own_start, "own-start", "refused"),
    Row {
        hook: "ExecStartPost",
        ..row("the unit itself, running", |m| app_service(m, "8080/tcp"), "own-run", "refused")
    },
    Row { unit: "app@1.service", ..row("another instance of its template", sibling, "sibling", "refused") },
    row("its namesake in a user's manager", twin, "twin", "refused"),
    row("a login session", session, "session", "refused"),
    row("a client of root's", |m| client(m, "8080"), "client", "refused"),
    Row { endpoint: "80/tcp", ..row("the same, at a port below 1024", |m| client(m, "80"), "client", "refused") },
    Row { endpoint: "80/udp", ..row("the same, by UDP", udp_client, "client", "refused") },
    row("its own socket unit", own_socket, "own-socket-unit", "passed"),
    row("its own file descriptor store", own_store, "own-fd-store", "passed"),
    row("another socket unit", other_socket, "other-socket-unit", "refused"),
    row("PID 1, for nobody knows whom", other_store, "manager", "refused"),
    row("a container of root's", |m| container(m, ""), "container", "refused"),
    row("a container of another user's", |m| container(m, "--uid=alice"), "container", "refused"),
    row("no process, but an unread message", unread, "kernel-held", "refused"),
    Row {
        endpoint: "8088/tcp",
        ..row("what is left of a connection, which is waited for", time_wait, "time-wait", "still-held")
    },
    Row {
        endpoint: "192.0.2.1:8080/tcp",
        ..row("nobody, an address that is not there", |m| app_service(m, "8080/tcp"), "not-bindable", "passed")
    },
];

fn leftover_of(m: &Machine, user: &str) {
    app_service(m, "8080/tcp");
    m.unit(&format!("{APP}.d/user.conf"), &format!("[Service]\nUser={user}\n"));
    // It is told by its age, in hundredths of a second.
    m.ok(&format!("systemctl start {APP} && sleep 0.1 && systemctl stop {APP}"));
}

const AS_ALICE: &str = "setpriv --reuid=alice --regid=alice --clear-groups";

fn escaped(m: &Machine, user: &str) {
    app_service(m, "8080/tcp");
    m.ok(&format!(
        "umask 077; mkdir -p -m 755 /run/portguard; mkdir -p /run/portguard/ledger; echo {ID} 7 >/run/portguard/ledger/{APP}; \
         INVOCATION_ID={ID} setsid {user} python3 /opt/lab/listener.py 8080 </dev/null >/dev/null 2>&1"
    ));
}

fn predecessor(m: &Machine, unit: fn(&Machine)) {
    unit(m);
    replaces(m, "\"web.service\"");
}

fn other_unit(m: &Machine) {
    app_service(m, "8080/tcp");
    web_has_the_port(m);
}

fn other_unit_of_alices(m: &Machine) {
    app_service(m, "8080/tcp");
    m.unit(
        "web.service",
        "[Service]\nType=forking\nUser=alice\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080\n",
    );
    m.ok("systemctl start web.service");
}

fn lookalike(m: &Machine, user: &str, becomes: &str) {
    by_hand(m, becomes, "8080");
    m.unit(&format!("{APP}.d/user.conf"), &format!("[Service]\nUser={user}\n"));
    stopping_lookalikes(m);
}

fn process_of_alices(m: &Machine) {
    app_service(m, "8080/tcp");
    m.ok(&format!("setsid {AS_ALICE} python3 /opt/lab/listener.py 8080 </dev/null >/dev/null 2>&1"));
}

fn heir(m: &Machine) {
    m.ok("rm -f /tmp/heir; setsid python3 /opt/lab/receiver.py /tmp/heir </dev/null >/dev/null 2>&1 &");
    m.wait_until("the heir waits", SOON, || m.sh("test -S /tmp/heir").status.success());
    m.unit(APP, "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /opt/lab/passer.py 8080 /tmp/heir\n");
    // Whose run made a socket is in the ledger, which this start makes.
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
}

/// Its invocation id is none that the ledger has, and it is younger than the last run.
fn unproven(m: &Machine) {
    m.unit(
        APP,
        &format!(
            "[Service]\nExecStartPre=/usr/bin/env INVOCATION_ID={ID} /usr/bin/python3 /opt/lab/listener.py 8080\n\
             ExecStart=/bin/sleep infinity\n"
        ),
    );
}

fn own_start(m: &Machine) {
    m.unit(APP, "[Service]\nExecStartPre=/usr/bin/python3 /opt/lab/listener.py 8080\nExecStart=/bin/sleep infinity\n");
}

fn sibling(m: &Machine) {
    m.unit("app@.service", "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 0\n");
    m.ok("systemctl start app@2.service");
}

fn twin(m: &Machine) {
    app_service(m, "8080/tcp");
    user_unit(m, APP, "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 0\n");
    m.ok(&as_alice(&format!("systemctl --user start {APP}")));
}

fn session(m: &Machine) {
    app_service(m, "8080/tcp");
    m.ok("setsid su -l alice -c 'python3 /opt/lab/listener.py 8080' </dev/null >/dev/null 2>&1");
}

fn udp_client(m: &Machine) {
    app_service(m, "80/udp");
    m.unit("web.service", &standing("127.0.0.1:80/udp,connected"));
    m.ok("systemctl start web.service");
}

fn client(m: &Machine, port: &str) {
    app_service(m, &format!("{port}/tcp"));
    for (unit, runs) in [("peer.service", "listener.py 9000"), ("web.service", &format!("client.py 9000 {port}"))] {
        m.unit(unit, &format!("[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/{runs}\n"));
        m.ok(&format!("systemctl start {unit}"));
    }
}

fn own_socket(m: &Machine) {
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit(APP, "[Service]\nExecStart=/usr/bin/python3 /opt/lab/activated.py\n");
    m.ok("systemctl start app.socket");
}

fn other_socket(m: &Machine) {
    app_service(m, "8080/tcp");
    m.unit("other.socket", "[Socket]\nListenStream=8080\n");
    m.unit("other.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start other.socket");
}

fn own_store(m: &Machine) {
    m.unit(APP, &storing(""));
    // systemd before 254 does not tell what is in it, and where a run made its socket is in the ledger.
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
}

/// Of a unit that has no process, and so no cgroup, systemd says nothing of what it has in store.
fn other_store(m: &Machine) {
    app_service(m, "8080/tcp");
    m.unit("web.service", &storing("Restart=always\nRestartSec=60s\n"));
    m.ok("systemctl start web.service && systemctl kill -s KILL web.service");
    m.wait_until("systemd alone has it", SOON, || m.holders("8080/tcp") == [1]);
}

fn container(m: &Machine, user: &str) {
    app_service(m, "8080/tcp");
    m.ok(&format!(
        "systemd-run --scope {user} --unit=cri-containerd-{}.scope python3 /opt/lab/listener.py 8080",
        ID.repeat(2)
    ));
}

/// That no process has it can be said where all were looked into, also those of others.
fn unread(m: &Machine) {
    app_service(m, "8080/tcp");
    m.unit("bystander.service", "[Service]\nUser=alice\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start bystander.service");
    m.unit("web.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/in_flight.py 8080\n");
    m.ok("systemctl start web.service");
}

fn time_wait(m: &Machine) {
    app_service(m, "8088/tcp");
    m.ok("python3 /opt/lab/closes_first.py 8088 time-wait");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8088/tcp\"]\nreuse-address = false\nwait = \"1s\"\n"));
}

/// What comes of a start whose guard has no more than these capabilities.
fn outcome(m: &Machine, row: &Row, command: &str) -> (String, String) {
    let Row { unit, hook, endpoint, .. } = *row;
    let port = endpoint.rsplit(':').next().expect("a port");
    m.ok(&format!("rm -rf /etc/systemd/system/{unit}.d && systemctl daemon-reload"));
    policy(m, &format!("[unit.\"{unit}\"]\nports = [\"{endpoint}\"]\n"));
    (row.given)(m);
    m.unit(&format!("{unit}.d/10-portguard.conf"), &format!("[Service]\n{hook}=+{command} --unit %n\n"));
    m.restart(unit);
    // Those of this start alone: the one before was less than a second ago.
    let run = m.show(unit, "InvocationID");
    let mut entries = m.guard_entries(unit);
    entries.retain(|entry| field(entry, "OBJECT_SYSTEMD_INVOCATION_ID") == run);
    let first = |name| {
        let value = entries.iter().map(|entry| field(entry, name)).find(|value| !value.is_empty());
        value.unwrap_or_default().to_owned()
    };
    let outcome = (first("PORTGUARD_RELATION"), first("PORTGUARD_VERDICT"));
    // Of a connection the end that closes first waits; it is not to be the client's.
    m.sh(&format!(
        "for unit in peer.service app.socket other.socket web.service app@2.service; do systemctl stop $unit; done; \
         systemctl kill -s KILL --kill-who=all {unit} web.service"
    ));
    for pid in m.holders(port) {
        m.sh(&format!("kill -KILL {pid}"));
    }
    m.sh(&format!(
        "systemctl stop {unit}; systemctl reset-failed; rm -rf /run/portguard /etc/systemd/system/app.socket /etc/systemd/system/other.socket"
    ));
    m.wait_until("all are gone", SOON, || m.holders(port).is_empty() && m.show(unit, "SubState") == "dead");
    outcome
}

fn with(capabilities: &[&str]) -> String {
    let plus: Vec<String> = capabilities.iter().map(|name| name.replacen("cap_", "+", 1)).collect();
    let only = [&["-all".to_owned()], &plus[..]].concat().join(",");
    format!("/usr/bin/setpriv --inh-caps=-all --bounding-set={only} --no-new-privs /usr/bin/portguard")
}

/// The rows of the table in SECURITY.md: who has the port, and the capabilities.
fn documented() -> BTreeMap<&'static str, Vec<&'static str>> {
    let (_, section) = SECURITY.split_once("## Least privilege").expect("SECURITY.md has the section");
    let table = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0], cells[1].split('`').filter(|word| word.starts_with("cap_")).collect())
    };
    table.take_while(|line| line.starts_with('|')).map(row).collect()
}

pub(super) fn capabilities_are_those_of_the_table_and_no_fewer(m: &Machine) {
    alices_manager(m);
    let mut table = documented();
    let mut wrong = Vec::new();
    for row in ROWS {
        let name = row.name;
        let needed = table.remove(name).unwrap_or_else(|| panic!("{name} is not in SECURITY.md"));
        let whole = (row.relation.to_owned(), row.verdict.to_owned());
        let mut check = |held: &[&str], is_enough: bool| {
            let seen = outcome(m, row, &with(held));
            if (seen == whole) != is_enough {
                wrong.push(format!("{name}, with {held:?}: {seen:?}"));
            }
        };

        m.when(&format!("the port is held by {name}, and the guard has what the table says"));
        check(&needed, true);
        for lost in &needed {
            m.when(&format!("the port is held by {name}, and the guard has no {lost}"));
            let rest: Vec<&str> = needed.iter().filter(|capability| *capability != lost).copied().collect();
            check(&rest, false);
        }
        m.then("it comes to the same as with all with the first, and with none of the others");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(table.into_keys().collect::<Vec<_>>(), [""; 0], "rows that nothing measures");
}

/// The drop-in of the same section, as it stands there.
pub(super) fn guard_with_less_than_root_stops_the_leftover(m: &Machine) {
    let (_, section) = SECURITY.split_once("## Least privilege").expect("SECURITY.md has the section");
    let drop_in = section.split("```ini\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has a drop-in");
    m.given("a leftover of alice's, and the drop-in for less than root");
    m.ok("useradd -m alice");
    let mut old = started_guarded_app(m, "8080/tcp");
    m.unit(&format!("{APP}.d/20-user.conf"), "[Service]\nUser=alice\n");
    m.unit(&format!("{APP}.d/10-portguard.conf"), drop_in);
    for _ in 0..2 {
        m.when("the service is restarted");
        m.forget_journal();
        let restart = m.restart(APP);

        m.then("it is up without the leftover, and entered in the ledger");
        assert!(restart.status.success(), "{restart:?}");
        assert_up_without(m, "8080/tcp", &old);
        finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
        let id = m.show(APP, "InvocationID");
        assert_names(&m.ok(&format!("cat /run/portguard/ledger/{APP}")), &[&id]);
        old = workers(m);
    }
}

pub(super) fn without_the_plus_the_own_users_leftover_is_stopped(m: &Machine) {
    m.given("a leftover of alice's, of a service of hers whose guard runs as alice as well");
    m.ok("useradd -m alice");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    let plain = "[Service]\nUser=alice\nExecStartPre=/usr/bin/portguard --unit %n\n";
    m.unit(&format!("{APP}.d/10-portguard.conf"), plain);
    m.ok(&format!("systemctl start {APP}"));
    let old = workers(m);

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is up, without the leftover, and the journal says so; and what the bus does not let alice ask is not missed");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    let journal = m.journal(APP);
    assert_names(&journal, &["a leftover of an earlier run of app.service; stopping it"]);
    assert!(!journal.contains("instead of the bus"), "{journal}");
}

pub(super) fn without_the_plus_a_socket_that_outlives_the_leftover_is_waited_for(m: &Machine) {
    m.given("a leftover of alice's whose socket is there a moment longer than it, and a guard that does not see all processes");
    m.ok("useradd -m alice");
    app_service(m, "8080/tcp 1 lingering");
    policy_for_app(m, "8080/tcp");
    m.unit(&format!("{APP}.d/10-portguard.conf"), "[Service]\nUser=alice\nExecStartPre=/usr/bin/portguard --unit %n\n");
    m.ok(&format!("systemctl start {APP}"));
    let old = workers(m);

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("that moment is waited for, and the service is up");
    assert!(restart.status.success(), "{restart:?}\n{}", m.journal(APP));
    assert_up_without(m, "8080/tcp", &old);
    assert_names(&m.journal(APP), &["a leftover of an earlier run of app.service; stopping it"]);
}
