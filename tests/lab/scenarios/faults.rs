//! Faults of the system around portguard: each is said in the journal, and none delays a start for long.
//!
//! README.md has a table of them, each row of which is proven by one of these; `tests/packages.rs` sees to that.

use std::time::{Duration, Instant};

use super::holders::since_the_first_signal;
use super::predecessors::{app_replaces, replaces};
use super::{
    APP, Entry, GUARD, SOON, app_service, assert_names, assert_nobody_signalled, assert_unharmed, assert_up_without,
    finding, policy_for_app, refused, started_guarded_app, take_the_bus_away, web_has_the_port,
    while_systemd_is_silent,
};
use crate::machine::Machine;

/// What a fault may cost a start beyond what the policy and the stop itself take. The leftovers of these scenarios end
/// at once.
pub(super) const BOUND: Duration = Duration::from_secs(2);

/// What a Python takes to be up on a busy machine, where a start can only be measured as a whole.
const PYTHON: Duration = Duration::from_secs(1);

/// What a leftover has where its unit's settings are not known (`BLIND_PATIENCE`, src/act/mod.rs).
const UNKNOWN: Duration = Duration::from_secs(10);

/// What the questions cost that precede a stop and have no answer: a second over the bus, once, and one for each of three looks.
const QUESTIONS: Duration = Duration::from_secs(4);

/// How long portguard took in the last start of app.service, by systemd's own clock. The bus has to be there for it.
pub(super) fn guard_took(m: &Machine) -> Duration {
    let text = m.ok("busctl get-property org.freedesktop.systemd1 /org/freedesktop/systemd1/unit/app_2eservice \
         org.freedesktop.systemd1.Service ExecStartPre");
    // … "--unit" "app.service" IGNORE BEGIN BEGIN-MONOTONIC END END-MONOTONIC PID CODE STATUS: org.freedesktop.systemd1(5).
    let (_, of_guard) = text.rsplit_once("app.service").and_then(|(_, rest)| rest.split_once('"')).expect("a guard");
    let numbers: Vec<u64> = of_guard.split(' ').filter_map(|n| n.parse().ok()).collect();
    let [_, begin, _, end, ..] = numbers[..] else { panic!("no times in {text}") };
    assert!(begin > 0 && end >= begin, "{text}");
    Duration::from_micros(end - begin)
}

/// How long the last start of app.service took, with all that it does itself, also where there is no bus.
fn start_took(m: &Machine) -> Duration {
    let moment = |property: &str| m.show(APP, property).parse().map(Duration::from_micros).expect("microseconds");
    moment("ActiveEnterTimestampMonotonic").saturating_sub(moment("InactiveExitTimestampMonotonic"))
}

/// portguard has not held up the last start of app.service.
pub(super) fn assert_in_time(m: &Machine) {
    let took = guard_took(m);
    assert!(took < BOUND, "portguard took {took:?}");
}

/// Restarts app.service: it is up without its leftover, and portguard has not held it up. `lift` ends the fault.
fn assert_restarts(m: &Machine, old: &[u32], lift: impl FnOnce()) {
    let restart = m.restart(APP);
    lift();
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", old);
    assert_in_time(m);
}

/// web.service, which has 8080, and app.service, whose guard is `guard` and which needs it.
fn foreign_holder(m: &Machine, guard: &str) -> u32 {
    let web = web_has_the_port(m);
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    m.unit(&format!("{APP}.d/10-portguard.conf"), guard);
    web
}

/// Starts app.service, which is refused for web.service, and not late. `lift` ends the fault.
fn assert_refuses_web(m: &Machine, web: u32, lift: impl FnOnce()) -> Entry {
    let start = m.start(APP);
    lift();
    assert!(!start.status.success(), "{start:?}");
    assert_unharmed(m, "8080/tcp", web);
    assert_nobody_signalled(m, APP);
    assert_in_time(m);
    refused(m, APP, &[("ENDPOINT", "8080/tcp"), ("HOLDER_UNIT", "web.service")])
}

/// With this guard and its fault, another unit that has the port gets app.service refused, and not late.
fn assert_refuses_another_unit(m: &Machine, guard: &str) {
    m.given("another unit that has the port");
    clean_up(m);
    let web = foreign_holder(m, guard);

    m.when("the service is started");
    m.then("it is refused, and that unit named");
    assert_refuses_web(m, web, || {});
}

/// Takes app.service and whatever is left of it away, and what the journal has so far.
fn clean_up(m: &Machine) {
    m.ok(&format!(
        "systemctl kill -s KILL {APP}; systemctl stop {APP}; systemctl reset-failed {APP} 2>/dev/null; true"
    ));
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    m.forget_journal();
}

pub(super) fn stopped_bus_costs_nothing(m: &Machine) {
    m.given("a leftover, and a system without its bus");
    let old = started_guarded_app(m, "8080/tcp");
    take_the_bus_away(m);

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("it is up in time, the leftover is gone, and the journal says who was asked");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    let took = start_took(m);
    assert!(took < BOUND + PYTHON, "the start took {took:?}");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
    finding(m, APP, &[("VERDICT", "freed")]);
    assert_names(&m.journal(APP), &["systemctl was asked instead of the bus"]);
}

pub(super) fn hung_bus_costs_a_second_not_a_start(m: &Machine) {
    m.given("a leftover, and a bus that takes connections and says nothing");
    let old = started_guarded_app(m, "8080/tcp");
    let bus = m.main_pid("dbus.service");
    let go_on = || drop(m.ok(&format!("kill -CONT {bus}")));
    m.ok(&format!("kill -STOP {bus}"));

    m.when("the service is restarted");
    m.then("it is up in time, the leftover is gone, and the journal says who was asked");
    assert_restarts(m, &old, go_on);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
    assert_names(&m.journal(APP), &["systemctl was asked instead of the bus: no answer within 1s"]);

    m.given("another unit that has the port");
    clean_up(m);
    let web = foreign_holder(m, GUARD);
    m.ok(&format!("kill -STOP {bus}"));

    m.when("the service is started");
    m.then("it is refused as fast, and that unit named");
    assert_refuses_web(m, web, go_on);
}

pub(super) fn hung_journal_holds_up_no_start(m: &Machine) {
    m.given("a leftover, and a journal that hangs with its socket full");
    let old = started_guarded_app(m, "8080/tcp");
    let journal = m.main_pid("systemd-journald.service");
    m.ok(&format!("kill -STOP {journal}"));
    m.ok("python3 /opt/lab/fill.py /run/systemd/journal/socket");

    m.when("the service is restarted");
    m.then("it is up in time, and the leftover is gone");
    assert_restarts(m, &old, || drop(m.ok(&format!("kill -CONT {journal}"))));

    m.then("what was said meanwhile went the other way, and is in the journal now");
    m.wait_until("the journal has caught up", SOON, || m.journal(APP).contains("a leftover of an earlier run"));
}

pub(super) fn stopped_journal_holds_up_no_start(m: &Machine) {
    const SOCKETS: &str = "systemd-journald.socket systemd-journald-dev-log.socket";
    let stop = || {
        // Both at once: a socket would bring it back. It refuses to be stopped by hand.
        m.ok(&format!("systemctl mask --runtime {SOCKETS} systemd-journald.service && systemctl stop {SOCKETS}"));
        m.sh("systemctl stop systemd-journald.service");
        m.sh("systemctl kill -s KILL systemd-journald.service");
        m.ok("rm -f /run/systemd/journal/socket /run/systemd/journal/stdout /run/systemd/journal/dev-log");
        m.wait_until("no journal runs", SOON, || {
            matches!(&*m.show("systemd-journald.service", "ActiveState"), "inactive" | "failed")
        });
    };

    m.given("a leftover, and no journal");
    let old = started_guarded_app(m, "8080/tcp");
    stop();

    m.when("the service is restarted");
    m.then("it is up in time, and the leftover is gone");
    assert_restarts(m, &old, || {});
    let (main, _) = (m.main_pid(APP), m.ok("test -e /run/portguard/ledger/app.service"));

    m.then("how it ended is told by systemd");
    assert_names(&m.ok(&format!("systemctl status {APP}")), &["portguard", "(code=exited, status=0/SUCCESS)"]);

    m.when("it is stopped with all that it has, and started over a free port");
    m.ok(&format!("systemctl kill -s KILL {APP}"));
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    m.sh(&format!("systemctl reset-failed {APP}"));
    let start = m.start(APP);

    m.then("it is up in time");
    assert!(start.status.success(), "{start:?}");
    assert_ne!(m.main_pid(APP), main);
    assert_in_time(m);
}

pub(super) fn run_that_is_read_only_or_full_holds_up_no_start(m: &Machine) {
    for (fault, mount) in [("read-only", "-o ro"), ("full", "-o size=4k,nr_inodes=1")] {
        m.given(&format!("a leftover, and a folder of the ledger that is {fault}"));
        let old = started_guarded_app(m, "8080/tcp");
        m.ok(&format!("mkdir -p /run/portguard/ledger && mount -t tmpfs {mount},mode=700 tmpfs /run/portguard/ledger"));

        m.when("the service is restarted");
        m.then("it is up in time, the leftover is gone, and the journal says that the start is not in the ledger");
        assert_restarts(m, &old, || {});
        assert_names(&m.journal(APP), &["not in the ledger", "/run/portguard/ledger"]);
        m.ok("umount /run/portguard/ledger");
        clean_up(m);
    }

    m.given("a leftover, and a ledger that has become long, in a folder in which no other file can be made");
    let old = started_guarded_app(m, "8080/tcp");
    m.ok("mount -t tmpfs -o size=64k,nr_inodes=2,mode=700 tmpfs /run/portguard/ledger");
    m.ok(&format!("umask 077; for i in $(seq 200); do printf '%032x %d\\n' $i $i; done >/run/portguard/ledger/{APP}"));

    m.when("the service is restarted");
    m.then("it is up in time, the leftover is gone, and the journal says that its ledger is long");
    assert_restarts(m, &old, || {});
    let journal = m.journal(APP);
    assert_names(&journal, &["the ledger could not be cut back, ignoring: ", ".new: No space left on device"]);
    assert!(!journal.contains("not in the ledger"), "{journal}");
    let ledger = m.ok(&format!("cat /run/portguard/ledger/{APP}"));
    assert_names(&ledger, &[&m.show(APP, "InvocationID")]);
    m.ok("umount /run/portguard/ledger");
    clean_up(m);

    m.given("a leftover of a service that may not write to /run, nor may its guard, which has no plus");
    let old = leftover_guarded_by(m, &without_the_plus("ReadOnlyPaths=/run"));

    m.when("the service is restarted");
    m.then("it is up in time, the leftover is gone, and the journal says that the start is not in the ledger");
    assert_restarts(m, &old, || {});
    assert_names(&m.journal(APP), &["not in the ledger", "Read-only file system"]);
}

/// A guard without the plus, and what it may not do.
fn without_the_plus(settings: &str) -> String {
    format!("[Service]\nExecStartPre=/usr/bin/portguard --unit %n\n{settings}\n")
}

fn leftover_guarded_by(m: &Machine, guard: &str) -> Vec<u32> {
    let old = started_guarded_app(m, "8080/tcp");
    m.unit(&format!("{APP}.d/10-portguard.conf"), guard);
    old
}

pub(super) fn denied_netlink_leaves_the_tables_of_proc(m: &Machine) {
    m.given("a leftover of a service that may not use netlink, nor may its guard, which has no plus");
    let guard = without_the_plus("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6");
    let old = leftover_guarded_by(m, &guard);

    m.when("the service is restarted");
    m.then("the leftover is found all the same, and the service is up in time");
    assert_restarts(m, &old, || {});
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
    assert_names(
        &m.journal(APP),
        &["/proc/net was read instead of asking netlink (no sock_diag netlink socket: EAFNOSUPPORT"],
    );

    assert_refuses_another_unit(m, &guard);
}

pub(super) fn guard_that_gets_no_thread_and_no_process_stops_its_leftover(m: &Machine) {
    m.given("a leftover, and a guard that may have neither a thread nor a process, as where TasksMax= is full");
    let guard = without_the_plus("SystemCallFilter=~clone clone3 fork vfork\nSystemCallErrorNumber=EAGAIN");
    let old = leftover_guarded_by(m, &guard);
    // The service itself needs no worker this time.
    app_service(m, "8080/tcp 0");

    m.when("the service is restarted");
    m.then(
        "the leftover is told by its cgroup and by the ledger, and the journal says that systemd could not be asked",
    );
    assert_restarts(m, &old, || {});
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
    assert_names(&m.journal(APP), &["no thread for it"]);

    assert_refuses_another_unit(m, &guard);
}

pub(super) fn kernel_without_pidfds_gets_nobody_signalled(m: &Machine) {
    for calls in ["pidfd_open", "pidfd_send_signal"] {
        let guard = without_the_plus(&format!("SystemCallFilter=~{calls}\nSystemCallErrorNumber=ENOSYS"));
        m.given(&format!("a leftover, and a guard for which there is no {calls}"));
        let old = leftover_guarded_by(m, &guard);

        m.when("the service is restarted");
        let restart = m.restart(APP);

        m.then("it is refused in time, in words, and the leftover is as it was");
        assert!(!restart.status.success(), "{restart:?}");
        assert_unharmed(m, "8080/tcp", old[0]);
        assert_in_time(m);
        assert_names(
            &m.journal(APP),
            &[
                "8080/tcp held, and portguard itself failed: processes cannot be pinned here, and so none is signalled",
                "Function not implemented",
                "; app.service must not start. Next: kill -KILL ",
                "status=70",
            ],
        );

        m.when("the leftover is gone, and the service is started");
        clean_up(m);
        let start = m.start(APP);

        m.then("it is up");
        assert!(start.status.success(), "{start:?}");
        finding(m, APP, &[("VERDICT", "free")]);
        clean_up(m);
    }

    m.given("another unit that has the port");
    let web = foreign_holder(m, &without_the_plus("SystemCallFilter=~pidfd_open\nSystemCallErrorNumber=ENOSYS"));

    m.when("the service is started");
    m.then("it is refused, and that unit named");
    assert_refuses_web(m, web, || {});
}

pub(super) fn hidden_processes_are_seen_with_the_plus_and_said_without(m: &Machine) {
    m.given("a leftover, and a /proc that shows each user their own processes alone");
    m.ok("mount -o remount,hidepid=2 /proc");
    let old = started_guarded_app(m, "8080/tcp");

    m.when("the service is restarted");
    m.then("the leftover is found, as root sees all, and the service is up in time");
    assert_restarts(m, &old, || {});
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);

    m.given("another unit that has the port, and a guard that runs as alice");
    clean_up(m);
    m.ok("useradd -m alice");
    let web = foreign_holder(m, &without_the_plus("User=alice"));

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is refused with 77 in time, and the journal names the unit, what could not be seen, and the plus");
    assert!(!start.status.success(), "{start:?}");
    assert_unharmed(m, "8080/tcp", web);
    assert_in_time(m);
    let journal = m.journal(APP);
    assert_names(&journal, &["status=77/NOPERM", "web.service", "could not be listed", "ExecStartPre=+"]);
}

pub(super) fn missing_cgroups_leave_what_processes_say(m: &Machine) {
    m.given("a leftover of a service that is shown no /sys/fs/cgroup, nor is its guard, which has no plus");
    let guard = without_the_plus("InaccessiblePaths=/sys/fs/cgroup");
    let old = leftover_guarded_by(m, &guard);

    m.when("the service is restarted");
    m.then("the leftover is found all the same, and the service is up in time");
    assert_restarts(m, &old, || {});
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
    assert_names(&m.journal(APP), &[NO_CGROUPS]);

    assert_refuses_another_unit(m, &guard);
}

const NO_CGROUPS: &str = "no cgroup v2 hierarchy is to be seen here, and so not where a socket was made";

pub(super) fn hybrid_cgroups_tell_whose_a_process_is(m: &Machine) {
    m.given("a host with systemd's hierarchy of cgroup v1 beside v2");
    m.ok("test -d /sys/fs/cgroup/systemd/system.slice && test -d /sys/fs/cgroup/unified/system.slice");
    assert_tells_whose_a_process_is(m);
}

pub(super) fn legacy_cgroups_tell_whose_a_process_is(m: &Machine) {
    m.given("a host with cgroup v1 alone");
    m.ok("test -d /sys/fs/cgroup/systemd/system.slice && ! grep -w cgroup2 /proc/self/mountinfo");
    assert_tells_whose_a_process_is(m);
    assert_names(&m.journal(APP), &[NO_CGROUPS]);
}

fn assert_tells_whose_a_process_is(m: &Machine) {
    m.given("a leftover");
    let old = started_guarded_app(m, "8080/tcp");

    m.when("the service is restarted");
    m.then("the leftover is stopped, and the service is up in time");
    assert_restarts(m, &old, || {});
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);

    assert_refuses_another_unit(m, GUARD);

    m.given("a socket unit of another service with the port");
    m.ok("systemctl stop web.service");
    m.unit("other.socket", "[Socket]\nListenStream=8080\n");
    m.unit("other.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start other.socket");

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is refused, and the socket unit named");
    assert!(!start.status.success(), "{start:?}");
    refused(m, APP, &[("ENDPOINT", "8080/tcp"), ("RELATION", "other-socket-unit")]);
    assert_names(&m.journal(APP), &["other.socket"]);
    assert_nobody_signalled(m, APP);
}

/// A machine that sleeps: the clock by which processes are dated goes on, and the one by which systemd dates its units
/// does not. The wall clock is the host's, and none of portguard's business (see clippy.toml).
pub(super) fn clock_that_jumps_holds_up_no_start(m: &Machine) {
    let guard = "[Service]\nExecStartPre=+/usr/bin/unshare --time --boottime 1000000 --fork \
                 /usr/bin/portguard --unit %n\n";
    m.given("a leftover, and a guard whose clock since boot has jumped ahead by 11 days");
    let old = leftover_guarded_by(m, guard);

    m.when("the service is restarted");
    m.then("the leftover is known by its run, and the service is up in time");
    assert_restarts(m, &old, || {});
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);

    assert_refuses_another_unit(m, guard);
}

/// How long portguard sleeps before it begins, so that PID 1 can be stopped in time.
const AFTER_A_WHILE: &str =
    "[Service]\nExecStartPre=+/bin/sh -c 'sleep 1; exec /usr/bin/portguard --unit %n; : app.service'\n";

pub(super) fn busy_manager_holds_up_no_start(m: &Machine) {
    m.given("a leftover");
    let old = leftover_guarded_by(m, AFTER_A_WHILE);

    m.when("the service is restarted, and PID 1 answers nobody while portguard looks and stops");
    while_systemd_is_silent(m, "restart", Duration::from_secs(5));
    let begin = Instant::now();

    m.then("it is up as soon as PID 1 goes on, the leftover is gone, and the journal says that nobody answered");
    m.wait_until("the service is up", BOUND, || m.show(APP, "ActiveState") == "active");
    assert!(begin.elapsed() < BOUND);
    assert_up_without(m, "8080/tcp", &old);
    assert_names(&m.journal(APP), &["systemd could not be asked", "sending SIGTERM"]);
}

pub(super) fn manager_that_begins_anew_loses_no_answer(m: &Machine) {
    m.given("a leftover");
    let old = leftover_guarded_by(
        m,
        "[Service]\nExecStartPre=+/bin/sh -c '\
         (while ! test -e /run/end; do systemctl daemon-reexec; echo again >>/run/began-anew; done) & \
         date +%%s%%N >/run/begin; /usr/bin/portguard --unit %n; status=$?; date +%%s%%N >/run/end; exit $status'\n",
    );

    m.when("the service is restarted, and PID 1 executes itself anew all the time while portguard looks and stops");
    m.ok(&format!("systemctl restart --no-block {APP}"));

    m.then("it is up, portguard took no longer than that, and the leftover is gone");
    m.wait_until("the service is up", SOON * 2, || m.sh(&format!("systemctl is-active {APP}")).status.success());
    let nanoseconds =
        |file: &str| m.ok(&format!("cat {file}")).trim().parse().map(Duration::from_nanos).expect("a time");
    let took = nanoseconds("/run/end").saturating_sub(nanoseconds("/run/begin"));
    assert!(took < BOUND, "portguard took {took:?}");
    assert_names(&m.ok("cat /run/began-anew"), &["again"]);
    assert_up_without(m, "8080/tcp", &old);
}

/// Where it begins anew, PID 1 is away for a moment: here its socket is, for less than half a second, and the bus is not
/// there at all.
pub(super) fn manager_that_is_back_in_a_moment_is_asked_again(m: &Machine) {
    m.given("old.service, which the guarded service replaces, and a system without its bus");
    m.unit("old.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080\n");
    m.ok("systemctl start old.service");
    let old = m.main_pid("old.service");
    app_service(m, "8080/tcp");
    replaces(m, "\"old.service\"");
    m.write(
        "/opt/lab/away.sh",
        "cd /run/systemd && mv private away || exit\n\
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"private\")'\n\
         (sleep 0.4; mv -f away private) &\nexec /usr/bin/portguard --unit app.service\n",
    );
    m.unit(&format!("{APP}.d/10-portguard.conf"), "[Service]\nExecStartPre=+/bin/sh /opt/lab/away.sh\n");
    take_the_bus_away(m);

    m.when("the guarded service is started, and PID 1 takes no connections when it is asked");
    let start = m.start(APP);

    m.then("it is asked again, old.service is stopped, and the service is up in time");
    assert!(start.status.success(), "{start:?}\n{}", m.journal(APP));
    assert_up_without(m, "8080/tcp", &[old]);
    let took = start_took(m);
    assert!(took < BOUND + 2 * PYTHON, "the start took {took:?}");
    finding(m, APP, &[("RELATION", "predecessor"), ("ACTION", "stop-unit")]);
}

pub(super) fn manager_that_begins_anew_loses_no_job(m: &Machine) {
    m.given("old.service, which takes 4 seconds to stop, and which the guarded service replaces");
    m.unit(
        "old.service",
        "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 0\nExecStop=/bin/sleep 4\n",
    );
    m.ok("systemctl start old.service");
    app_replaces(m, "\"old.service\"");

    m.when("the guarded service is started, and PID 1 executes itself anew while portguard waits for that stop");
    m.ok(&format!("systemctl start --no-block {APP}"));
    m.wait_until("old.service is being stopped", SOON, || m.show("old.service", "ActiveState") == "deactivating");
    m.sh("systemctl daemon-reexec");
    m.wait_until("old.service is stopped", SOON, || m.sh("systemctl is-active old.service").stdout == "inactive\n");
    let begin = Instant::now();

    m.then("it is up as soon as old.service is down");
    m.wait_until("the service is up", SOON, || m.sh(&format!("systemctl is-active {APP}")).status.success());
    let took = begin.elapsed();
    assert!(took < BOUND, "it took {took:?}");
    assert_up_without(m, "8080/tcp", &[]);
    finding(m, APP, &[("RELATION", "predecessor"), ("ACTION", "stop-unit")]);
}

/// What `systemctl` is here, which goes by `systemctl.real`: of a stop it loses the answer, and by then the unit is up anew.
const LOSES_THE_ANSWER: &str = "\
#!/bin/sh
case \"$*\" in *stop*--job-mode=fail*) ;; *) exec /usr/bin/systemctl.real \"$@\";; esac
echo asked >>/run/asked
systemctl.real \"$@\" || exit
echo PORT=8081 >/run/old-port
systemctl.real start old.service
echo 'Failed to wait for response: Connection reset by peer' >&2
exit 1
";

pub(super) fn unit_that_came_up_anew_while_the_answer_was_lost_is_not_stopped(m: &Machine) {
    m.given("old.service, which the guarded service replaces, and a system without its bus");
    m.write("/run/old-port", "PORT=8080\n");
    m.unit(
        "old.service",
        "[Service]\nType=notify\nEnvironmentFile=/run/old-port\nExecStart=/usr/bin/python3 /opt/lab/app.py ${PORT}/tcp 0\n",
    );
    m.ok("systemctl start old.service");
    let old = m.main_pid("old.service");
    app_replaces(m, "\"old.service\"");
    take_the_bus_away(m);

    m.when("the guarded service is started, and the answer to the stop is lost, after which old.service is up at another port");
    m.write("/opt/lab/systemctl", LOSES_THE_ANSWER);
    m.ok("cp $(command -v systemctl) /usr/bin/systemctl.real && install -m 755 /opt/lab/systemctl /usr/bin/systemctl");
    let start = m.start(APP);
    m.ok("mv -f /usr/bin/systemctl.real /usr/bin/systemctl");

    m.then("it is up in time, old.service was stopped once, and what it is now lives");
    assert!(start.status.success(), "{start:?}\n{}", m.journal(APP));
    let took = start_took(m);
    assert!(took < BOUND + 2 * PYTHON, "the start took {took:?}");
    assert_up_without(m, "8080/tcp", &[old]);
    assert_eq!(m.ok("cat /run/asked"), "asked\n");
    assert_eq!(m.holders("8081/tcp"), [m.main_pid("old.service")]);
    assert_names(&m.journal(APP), &["what came of that is not known", "looking again"]);
}

pub(super) fn manager_that_stays_silent_has_a_leftover_asked_twice_and_no_more(m: &Machine) {
    m.given("a leftover that ignores SIGTERM");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn");
    let late = "[Service]\nExecStartPre=+/bin/sh -c 'sleep 2; exec /usr/bin/portguard --unit %n'\n";
    m.unit(&format!("{APP}.d/10-portguard.conf"), late);

    m.when("it is restarted, and PID 1 answers nobody for half a minute");
    while_systemd_is_silent(m, "restart", Duration::from_secs(32));

    m.then("portguard has given up after its second signal, in time, and has killed nobody");
    m.wait_until("the start has failed", SOON, || m.show(APP, "ActiveState") == "failed");
    let journal = m.journal(APP);
    assert_eq!(journal.matches("sending SIGTERM").count(), 2, "{journal}");
    assert_names(&journal, &["still held", "status=75/TEMPFAIL"]);
    let took = since_the_first_signal(m, &finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]));
    assert!(took < 2 * UNKNOWN + QUESTIONS + BOUND, "it took {took:?}");
    assert!(!journal.contains("sending SIGKILL"), "{journal}");
    assert_unharmed(m, "8080/tcp", old[0]);
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
    while_systemd_is_silent(m, "restart", Duration::from_secs(7));

    m.then("portguard has asked the leftover to end, has not killed it, and has given up once it knew more, in time");
    m.wait_until("the start has failed", SOON, || m.show(APP, "ActiveState") == "failed");
    // It sleeps for two seconds first. What was not known is asked for anew once that time is over.
    let took = guard_took(m);
    assert!(took < Duration::from_secs(2) + QUESTIONS + UNKNOWN + BOUND, "portguard took {took:?}");
    let journal = m.journal(APP);
    assert_names(&journal, &["sending SIGTERM", "still held", "status=75/TEMPFAIL"]);
    assert!(!journal.contains("sending SIGKILL"), "{journal}");
    assert_unharmed(m, "8080/tcp", old[0]);
}

pub(super) fn process_that_hangs_in_execve_holds_up_no_start(m: &Machine) {
    m.given("a leftover, and somebody else's process that whoever lists its open files waits for");
    let old = started_guarded_app(m, "8080/tcp");
    m.unit("stuck.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/inexec.py /run/inexec /run/inexec.pid\n");
    m.ok("systemctl start stuck.service");
    m.wait_until("it hangs", SOON, || {
        let read = "test -s /run/inexec.pid && ! timeout --signal=KILL 1 readlink /proc/$(cat /run/inexec.pid)/fd/0";
        m.sh(read).status.success()
    });
    let stuck = m.ok("cat /run/inexec.pid");

    m.when("the service is restarted");
    assert_restarts(m, &old, || {
        m.ok("systemctl stop stuck.service");
    });

    m.then("the leftover was stopped, and who was not looked into is named");
    assert_names(
        &m.journal(APP),
        &[
            &format!("the open files of pid {} could not be listed in time", stuck.trim()),
            "a leftover of an earlier run",
        ],
    );
}

/// That they hang together takes no longer, and that each does so for less than is waited for one.
pub(super) fn more_processes_hang_in_execve_than_there_is_time_for(m: &Machine) {
    let unlisted = "could not be listed in time";
    // Of those that hang for a moment all may be there again when they are looked at.
    for (count, seconds, told) in [(14, "", &[unlisted][..]), (60, " 0.4", &[])] {
        m.given(&format!(
            "a leftover, and before it {count} processes of somebody else's that hang in execve(2){seconds}"
        ));
        processes_hang(m, &format!("{count}{seconds}"));
        let old = started_guarded_app(m, "8080/tcp");
        m.forget_journal();

        m.when("the service is restarted");
        assert_restarts(m, &old, || hang_no_more(m));

        m.then("the leftover was stopped, and of those that hang for long it is said that they were not looked into");
        let journal = m.journal(APP);
        assert_names(&journal, &[&["a leftover of an earlier run"], told].concat());
        m.ok(&format!("systemctl stop {APP}"));
        for pid in m.holders("8080/tcp") {
            m.ok(&format!("kill -KILL {pid}"));
        }
    }
}

/// So many of stuck.service hang in execve(2), for ever or for so many seconds each.
pub(super) fn processes_hang(m: &Machine, arguments: &str) {
    let command = format!("/usr/bin/python3 /opt/lab/inexec.py /run/inexec /run/inexec.pids {arguments}");
    m.unit("stuck.service", &format!("[Service]\nTasksMax=infinity\nExecStart={command}\n"));
    m.ok("systemctl start stuck.service");
    let stuck = "for pid in $(cat /run/inexec.pids); do grep -qx perl /proc/$pid/comm || exit 1; done";
    m.wait_until("they hang", SOON, || m.sh(&format!("test -s /run/inexec.pids && {stuck}")).status.success());
}

/// Whoever has the file /run/inexec open hangs as it is closed, in execve(2) as well: for ever, or for so many seconds. By stuck.service.
pub(super) fn file_hangs_who_closes_it(m: &Machine, seconds: &str) {
    let command = format!("/usr/bin/python3 /opt/lab/inexec.py /run/inexec /run/inexec.pid 0 {seconds}");
    m.unit("stuck.service", &format!("[Service]\nExecStart={command}\n"));
    m.ok("systemctl start stuck.service");
    m.wait_until("the file system is there", SOON, || m.sh("test -e /run/inexec.pid").status.success());
}

pub(super) fn hang_no_more(m: &Machine) {
    m.ok("systemctl kill --signal=KILL stuck.service");
    m.wait_until("they are gone", SOON, || !m.sh("systemctl is-active stuck.service").status.success());
    m.ok("umount /run/inexec; rm -f /run/inexec*");
}
