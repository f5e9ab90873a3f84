//! Faults of the system around portguard: each is said in the journal, and none delays a start for long.

use std::time::{Duration, Instant};

use super::{APP, assert_names, assert_up_without, finding, policy_for_app, started_guarded_app};
use crate::machine::Machine;

/// What a fault may cost at the most, on a machine that is busy with other machines.
const BOUND: Duration = Duration::from_secs(4);

pub(super) fn hung_bus_costs_a_second_not_a_start(m: &Machine) {
    m.given("a leftover, and a bus that takes connections and says nothing");
    let old = started_guarded_app(m, "8080/tcp");
    let bus = m.main_pid("dbus.service");
    m.ok(&format!("kill -STOP {bus}"));

    m.when("the service is restarted");
    let begin = Instant::now();
    let restart = m.restart(APP);
    let took = begin.elapsed();
    m.ok(&format!("kill -CONT {bus}"));

    m.then("it is up in time, and the leftover is gone");
    assert!(restart.status.success(), "{restart:?}");
    assert!(took < BOUND, "it took {took:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
}

pub(super) fn hung_journal_holds_up_no_start(m: &Machine) {
    m.given("a leftover, and a journal that hangs with its socket full");
    let old = started_guarded_app(m, "8080/tcp");
    let journal = m.main_pid("systemd-journald.service");
    m.ok(&format!("kill -STOP {journal}"));
    m.ok("python3 /opt/lab/fill.py /run/systemd/journal/socket");

    m.when("the service is restarted");
    let begin = Instant::now();
    let restart = m.restart(APP);
    let took = begin.elapsed();
    m.ok(&format!("kill -CONT {journal}"));

    m.then("it is up in time, and the leftover is gone");
    assert!(restart.status.success(), "{restart:?}");
    assert!(took < BOUND, "it took {took:?}");
    assert_up_without(m, "8080/tcp", &old);

    m.then("what was said meanwhile went the other way, and is in the journal now");
    m.wait_until("the journal has caught up", BOUND, || m.journal(APP).contains("a leftover of an earlier run"));
}

pub(super) fn run_that_is_read_only_or_full_holds_up_no_start(m: &Machine) {
    for (fault, mount) in [("read-only", "-o ro"), ("full", "-o size=4k,nr_inodes=1")] {
        m.given(&format!("a leftover, and a folder of the ledger that is {fault}"));
        let old = started_guarded_app(m, "8080/tcp");
        m.ok(&format!("mkdir -p /run/portguard/ledger && mount -t tmpfs {mount},mode=700 tmpfs /run/portguard/ledger"));

        m.when("the service is restarted");
        let restart = m.restart(APP);

        m.then("it is up, the leftover is gone, and the journal says that the start is not in the ledger");
        assert!(restart.status.success(), "{restart:?}");
        assert_up_without(m, "8080/tcp", &old);
        assert_names(&m.journal(APP), &["not in the ledger", "/run/portguard/ledger"]);
        m.ok("umount /run/portguard/ledger && journalctl --rotate --vacuum-time=1s >/dev/null 2>&1");
        m.ok(&format!(
            "systemctl kill -s KILL {APP}; systemctl stop {APP}; systemctl reset-failed {APP} 2>/dev/null; true"
        ));
    }
}

pub(super) fn denied_netlink_leaves_the_tables_of_proc(m: &Machine) {
    m.given("a leftover of a service that may not use netlink, nor may its guard, which has no plus");
    let old = started_guarded_app(m, "8080/tcp");
    m.unit(
        &format!("{APP}.d/10-portguard.conf"),
        "[Service]\nExecStartPre=/usr/bin/portguard --unit %n\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n",
    );
    policy_for_app(m, "8080/tcp");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the leftover is found all the same, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
}

/// What is not told of the unit may be that it must never be killed.
pub(super) fn silent_manager_gets_nobody_killed(m: &Machine) {
    m.given("a leftover that ignores SIGTERM, of a unit that must not be killed");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn");
    m.unit(
        &format!("{APP}.d/10-portguard.conf"),
        "[Service]\nSendSIGKILL=no\nTimeoutStopSec=1s\n\
         ExecStartPre=+/bin/sh -c 'sleep 2; exec /usr/bin/portguard --unit %n'\n",
    );

    m.when("it is restarted, and PID 1 answers nobody while portguard looks and stops");
    m.ok(&format!("systemctl restart --no-block {APP}"));
    m.wait_until("the command in front of the start runs", BOUND, || m.show(APP, "SubState") == "start-pre");
    m.freeze_manager();
    std::thread::sleep(Duration::from_secs(7));
    m.thaw_manager();

    m.then("portguard has asked the leftover to end, has not killed it, and has given up once it knew more");
    m.wait_until("the start has failed", super::SOON, || m.show(APP, "ActiveState") == "failed");
    let journal = m.journal(APP);
    assert_names(&journal, &["sending SIGTERM", "still held", "status=75/TEMPFAIL"]);
    assert!(!journal.contains("sending SIGKILL"), "{journal}");
    super::assert_unharmed(m, "8080/tcp", old[0]);
}
