//! A port is one of a network namespace, and portguard is in the one of the service.

use super::addresses::{leftover_of_app, web_stands_on};
use super::{APP, SOON, assert_unharmed, finding, guard, policy_for_app};
use crate::machine::Machine;

const EVERYWHERE: &str = "0.0.0.0:8080/tcp";

/// A drop-in for `[Service]`, in its place before the unit itself is.
fn setting(m: &Machine, unit: &str, settings: &str) {
    m.unit(&format!("{unit}.d/20-network.conf"), &format!("[Service]\n{settings}\n"));
}

/// A unit's part of the ordering and of the namespace of another.
fn joins(m: &Machine, unit: &str, other: &str) {
    m.unit(&format!("{unit}.d/30-joins.conf"), &format!("[Unit]\nJoinsNamespaceOf={other}\n"));
    setting(m, unit, "PrivateNetwork=yes");
}

fn namespace(m: &Machine, pid: u32) -> String {
    m.ok(&format!("readlink /proc/{pid}/ns/net")).trim().to_owned()
}

/// The processes that listen on 8080 where this one is.
fn holders_where(m: &Machine, pid: u32) -> Vec<u32> {
    // ss shows the pids of its PID namespace, which is the machine's.
    let text = m.ok(&format!("nsenter -t {pid} -n ss -Hltnp 'sport = :8080'"));
    let pids = text.split("pid=").skip(1);
    let mut pids: Vec<u32> =
        pids.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// What the leftover of this namespace had is the service's, and web.service on the host has not been touched.
fn assert_replaced_there(m: &Machine, old: u32, web: u32) {
    finding(
        m,
        APP,
        &[("RELATION", "leftover"), ("ACTION", "stop"), ("ENDPOINT", "8080/tcp"), ("HOLDER_PID", &old.to_string())],
    );
    finding(m, APP, &[("VERDICT", "freed"), ("EXIT_STATUS", "0")]);
    m.wait_until("the leftover is gone", SOON, || !m.alive(old));
    let main = m.main_pid(APP);
    assert!(holders_where(m, main).contains(&main));
    assert_unharmed(m, "8080/tcp", web);
    assert_eq!(m.main_pid("web.service"), web);
}

pub(super) fn holder_on_the_host_is_not_in_the_way_of_a_private_network(m: &Machine) {
    m.given("web.service on the host, and a guarded service of the same port with PrivateNetwork=yes");
    let web = web_stands_on(m, EVERYWHERE);
    setting(m, APP, "PrivateNetwork=yes");
    let old = leftover_of_app(m, EVERYWHERE, "8080/tcp");
    let of_old = namespace(m, old);
    assert_ne!(of_old, namespace(m, web));

    m.when("it is started again, which gives it a new namespace");
    let start = m.start(APP);

    m.then("it is up, and nothing was found: neither on the host nor in the old namespace");
    assert!(start.status.success(), "{start:?}");
    let main = m.main_pid(APP);
    assert_ne!(namespace(m, main), of_old);
    let verdicts: Vec<_> = m.guard_entries(APP);
    let verdicts: Vec<_> = verdicts.iter().map(|entry| super::field(entry, "PORTGUARD_VERDICT")).collect();
    assert_eq!(verdicts, ["free", "free"]);
    assert!(holders_where(m, main).contains(&main));
    assert_eq!(holders_where(m, old), [old]);
    assert_unharmed(m, "8080/tcp", web);
}

/// While a unit that joins it runs, the namespace of a private network outlives its services.
pub(super) fn leftover_in_a_private_network_that_lives_on_is_stopped(m: &Machine) {
    m.given("web.service on the host, and a leftover in a private network that keeper.service keeps");
    let web = web_stands_on(m, EVERYWHERE);
    m.unit("keeper.service", "[Service]\nPrivateNetwork=yes\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start keeper.service");
    joins(m, APP, "keeper.service");
    let old = leftover_of_app(m, EVERYWHERE, "8080/tcp");
    assert_eq!(namespace(m, old), namespace(m, m.main_pid("keeper.service")));
    assert_ne!(namespace(m, old), namespace(m, web));

    m.when("the service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped, and web.service is not touched");
    assert!(start.status.success(), "{start:?}");
    assert_replaced_there(m, old, web);
}

pub(super) fn leftover_in_a_named_network_is_stopped(m: &Machine) {
    m.given("web.service on the host, and a leftover in the namespace of NetworkNamespacePath=");
    let web = web_stands_on(m, EVERYWHERE);
    m.ok("ip netns add green && ip -n green link set lo up");
    setting(m, APP, "NetworkNamespacePath=/run/netns/green");
    let old = leftover_of_app(m, EVERYWHERE, "8080/tcp");
    assert_ne!(namespace(m, old), namespace(m, web));

    m.when("the service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped, and web.service is not touched");
    assert!(start.status.success(), "{start:?}");
    assert_replaced_there(m, old, web);
}

pub(super) fn unit_in_the_same_private_network_is_refused_and_named(m: &Machine) {
    m.given("web.service in a private network, which the guarded service joins");
    setting(m, "web.service", "PrivateNetwork=yes");
    let web = web_stands_on(m, EVERYWHERE);
    assert!(m.holders("8080/tcp").is_empty(), "somebody has the port on the host");
    m.unit(APP, "[Service]\nExecStart=/bin/sleep infinity\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    joins(m, APP, "web.service");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and web.service named");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(
        m,
        APP,
        &[
            ("RELATION", "other-unit"),
            ("ACTION", "refuse"),
            ("ENDPOINT", "8080/tcp"),
            ("HOLDER_PID", &web.to_string()),
            ("HOLDER_UNIT", "web.service"),
        ],
    );
    finding(m, APP, &[("VERDICT", "refused"), ("EXIT_STATUS", "69")]);
    super::assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);
    assert!(m.alive(web));
    assert!(holders_where(m, web).contains(&web));

    m.when("what is next is typed as it is");
    m.ok(super::addresses::next(&refused));
    let start = m.start(APP);

    m.then("the guarded service comes up");
    assert!(start.status.success(), "{start:?}");
}
