//! Attacks on what portguard reads: SECURITY.md has the list. A look at somebody hostile is bounded, and nothing that
//! others write has root stop, write or believe what it would not otherwise.

use std::time::Duration;

use super::addresses::{assert_replaced, leftover_of_app};
use super::faults::{BOUND, assert_in_time, file_hangs_who_closes_it, guard_took, hang_no_more, processes_hang};
use super::leftovers::{ELSEWHERE, inhabited_elsewhere};
use super::predecessors::app_replaces;
use super::users::{alices_manager, as_alice, user_unit};
use super::{
    APP, SOON, app_service, assert_names, assert_nobody_signalled, assert_unharmed, assert_up_without, finding, guard,
    message, policy, policy_for_app, refused, started_guarded_app, workers,
};
use crate::machine::Machine;

/// A start that is refused for tens of thousands of sockets that are in its way could not have succeeded, and four machines share
/// the cores.
const OF_A_CROWD: Duration = Duration::from_secs(12);

/// Starts evil.service, which does this, and waits until it listens.
fn evil(m: &Machine, what: &str, settings: &str) {
    m.ok("install -m 666 /dev/null /run/evil.ready");
    m.unit("evil.service", &format!("[Service]\n{settings}ExecStart=/usr/bin/python3 /opt/lab/evil.py {what}\n"));
    m.ok("systemctl start evil.service");
    // 15,000 sockets of one port are slow to make, where four machines do so at a time.
    m.wait_until("it is done", SOON * 9, || m.sh("test -s /run/evil.ready").status.success());
}

/// The guard has no more than that. With the plus it has what PID 1 has, whatever `LimitAS=` and its kin say.
pub(super) fn limit_the_guard(m: &Machine, limit: &str) {
    let command = format!("+/usr/bin/prlimit {limit} /usr/bin/portguard --unit %n");
    m.unit(&format!("{APP}.d/10-portguard.conf"), &format!("[Service]\nExecStartPre={command}\n"));
}

/// Refused in time, and named; the guard had 256 MiB of address space, of which its threads' stacks are 10.
fn assert_looked_at_in_bounds(m: &Machine, endpoint: &str, within: Duration) {
    policy_for_app(m, endpoint);
    guard(m, APP);

    m.when("the guarded service is started, with little memory");
    app_service(m, endpoint);
    limit_the_guard(m, "--as=268435456");
    let start = m.start(APP);

    m.then("it is refused in time, and the unit named");
    assert!(!start.status.success(), "{start:?}");
    let took = guard_took(m);
    assert!(took < within, "portguard took {took:?}");
    let entry = refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "evil.service")]);
    let words = message(&entry);
    assert!(!words.chars().any(|c| c.is_control() || c == '\u{202e}') && words.len() < 4096, "{words:?}");
    assert_eq!(m.show("evil.service", "ActiveState"), "active");
    assert_nobody_signalled(m, APP);
}

pub(super) fn large_and_garbled_process_is_refused_in_time(m: &Machine) {
    m.given(
        "a holder with megabytes of arguments and environment, half a million files, and a name of control characters",
    );
    evil(m, "large", "LimitSTACK=64M\nLimitNOFILE=524288\n");
    assert_looked_at_in_bounds(m, "8080/tcp", BOUND);
}

pub(super) fn crowd_of_holders_is_refused_in_time_and_in_few_lines(m: &Machine) {
    m.given("2,000 processes that have the port");
    evil(m, "crowd", "TasksMax=infinity\n");
    assert_looked_at_in_bounds(m, "8080/tcp", BOUND);

    m.then("those who were looked at first have a line, and no others");
    let lines = m.guard_entries(APP).len();
    assert!((10..30).contains(&lines), "{lines} lines");
    assert!(!m.journal(APP).contains("more findings"), "{}", m.journal(APP));
}

/// Each of the 360,000 pairs is in the way, and more than are looked at.
pub(super) fn sockets_that_very_many_share_are_refused_in_time_and_with_little_memory(m: &Machine) {
    m.given("600 sockets of the port at as many addresses, which 600 processes with very many arguments all have");
    evil(m, "shared", "TasksMax=infinity\n");
    m.wait_until("they are all there", SOON * 3, || m.processes_of("evil.service").len() > 600);
    assert_looked_at_in_bounds(m, "8080/tcp", OF_A_CROWD);
    assert_names(&m.journal(APP), &["that not all were looked at"]);
}

/// As many as are looked at, and some more.
pub(super) fn sockets_that_are_very_many_are_refused_in_time_and_with_little_memory(m: &Machine) {
    m.given("72,000 sockets of the port at as many addresses, which four processes have");
    very_many_sockets(m, "");
    assert_looked_at_in_bounds(m, "8080/udp", OF_A_CROWD);
    assert_names(&m.journal(APP), &["that not all were looked at"]);
}

/// The kernel takes seconds to show them all, and does not have to.
pub(super) fn very_many_sockets_at_other_addresses_hold_up_no_start(m: &Machine) {
    m.given("alice's 72,000 sockets of the port, each at an address of its own, and a leftover at another");
    m.ok("useradd -m alice");
    very_many_sockets(m, "User=alice\n");
    let old = leftover_of_app(m, "127.0.0.1:8080/udp", "127.0.0.1:8080/udp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped in time");
    assert_in_time(m);
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);
    assert!(!m.alive(old) && m.main_pid(APP) != 0);

    m.when("it is started again beside nobody");
    m.ok(&format!("systemctl kill --signal=KILL {APP}"));
    m.wait_until("it is gone", SOON, || m.main_pid(APP) == 0);
    m.forget_journal();
    let start = m.start(APP);

    m.then("it is up at once");
    assert!(start.status.success(), "{start:?}");
    finding(m, APP, &[("VERDICT", "free")]);
    assert_in_time(m);
}

fn very_many_sockets(m: &Machine, settings: &str) {
    evil(m, "many", &format!("LimitNOFILE=20000\n{settings}"));
    let count = "sed -n 's/^UDP: inuse \\([0-9]*\\) .*/\\1/p' /proc/net/sockstat";
    m.wait_until("they are all there", SOON * 3, || {
        m.ok(count).trim().parse::<u32>().is_ok_and(|count| count >= 72_000)
    });
}

/// Only of a guard that a wrapper has started, or a shell: systemd is the parent of any other.
pub(super) fn ancestor_that_hangs_in_execve_holds_up_nothing(m: &Machine) {
    m.given("a leftover, and a process that runs portguard and then hangs in execve(2)");
    let old = started_guarded_app(m, "8080/tcp");
    m.ok("systemctl stop app.service");
    file_hangs_who_closes_it(m, "");
    m.write(
        "/opt/lab/wrapper.py",
        "import os, time\nif os.fork():\n    kept = os.open(\"/run/inexec\", os.O_RDONLY)\n    \
         os.execv(\"/bin/true\", [\"true\"])\ntime.sleep(1)\nos.execv(\"/bin/sh\", [\"sh\", \"-c\", \
         \"portguard --unit app.service --dry-run 2>/run/said; echo $? >/run/status\"])\n",
    );

    m.when("it does so");
    m.ok("setsid python3 /opt/lab/wrapper.py </dev/null >/dev/null 2>&1 &");

    m.then("portguard is done in time, and has found the leftover");
    m.wait_until("it is done", Duration::from_secs(1) + BOUND, || m.sh("test -s /run/status").status.success());
    assert_eq!(m.ok("cat /run/status").trim(), "0");
    assert_names(
        &m.ok("cat /run/said"),
        &[&format!("pid {}", old[0]), "a leftover of an earlier run of app.service; would stop it"],
    );
    m.ok(&format!("kill -KILL {}", m.main_pid("stuck.service")));
}

/// Whoever may run processes can have them listen at another address of loopback.
pub(super) fn crowd_at_another_address_hides_no_leftover(m: &Machine) {
    m.given("2,000 processes of alice's that have 127.0.0.2:8080, and a leftover on 127.0.0.1:8080 after them");
    m.ok("useradd -m alice");
    evil(m, "elsewhere", "User=alice\nTasksMax=infinity\n");
    m.wait_until("they are all there", SOON * 3, || m.processes_of("evil.service").len() > 2000);
    let old = leftover_of_app(m, "127.0.0.1:8080/tcp", "127.0.0.1:8080/tcp");
    limit_the_guard(m, "--nofile=1024:4096");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped in time");
    assert_in_time(m);
    assert_replaced(m, &start, "8080/tcp", old);
    assert_eq!(m.show("evil.service", "ActiveState"), "active");

    m.then("and systemd was asked about none of them");
    assert!(!m.journal(APP).contains("systemctl was asked"), "{}", m.journal(APP));
}

/// At an address that the service wants, and at one that it does not.
pub(super) fn crowd_of_sockets_that_wait_for_nobody_holds_up_no_start(m: &Machine) {
    m.given("alice's 15,000 sockets on 127.0.0.2:8080, which do not listen and let others bind");
    m.ok("useradd -m alice");
    evil(m, "idle", "User=alice\nLimitNOFILE=20000\n");
    for endpoint in ["127.0.0.1:8080/tcp", "8080/tcp"] {
        m.given(&format!("a leftover on 127.0.0.1:8080, of a service that wants {endpoint}"));
        let old = leftover_of_app(m, "127.0.0.1:8080/tcp", endpoint);

        m.when("the guarded service is started");
        let start = m.start(APP);

        m.then("the leftover is stopped in time");
        assert_in_time(m);
        assert_replaced(m, &start, "8080/tcp", old);
        m.ok(&format!("systemctl stop {APP}; systemctl kill -s KILL {APP}; true"));
        m.wait_until("it is gone", SOON, || m.holders("8080/tcp").is_empty());
    }
}

pub(super) fn socket_born_above_many_threaded_cgroups_is_refused_in_time(m: &Machine) {
    m.given("a listener that was born above a long chain of threaded cgroups, at whose end it is");
    evil(m, "deep", "Delegate=yes\n");
    assert_looked_at_in_bounds(m, "8080/tcp", OF_A_CROWD);
}

/// Whoever looks below each of them looks at the last ones 300 times.
pub(super) fn sockets_born_in_many_nested_cgroups_are_refused_in_time(m: &Machine) {
    m.given("300 sockets of the port, each of which was born in a cgroup below that of the one before, and 2,500 below the last");
    evil(m, "nested", "Delegate=yes\n");
    assert_looked_at_in_bounds(m, "8080/udp", OF_A_CROWD);
}

/// None is below another, and the processes of each are those of the domain above all.
pub(super) fn sockets_born_side_by_side_below_many_threaded_cgroups_are_refused_in_time(m: &Machine) {
    m.given("1,000 sockets of the port, each of which was born in a cgroup of its own at the end of a long chain of threaded ones");
    evil(m, "fan", "Delegate=yes\n");
    assert_looked_at_in_bounds(m, "8080/udp", OF_A_CROWD);
}

/// Where it was born cannot be seen any more; that is no proof that it was in the unit which has it.
pub(super) fn socket_of_a_cgroup_that_is_gone_gets_no_unit_stopped(m: &Machine) {
    m.given("old.service, which the guarded service replaces, and which takes what it is handed; and alice's listener");
    m.ok("useradd -m alice");
    m.unit("old.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/receiver.py /run/old.sock\n");
    m.ok("systemctl start old.service");
    m.wait_until("it waits", SOON, || m.sh("test -S /run/old.sock").status.success());
    let old = m.main_pid("old.service");
    m.then("old.service has the port, by a socket whose cgroup is gone");
    evil(m, "gone /run/old.sock", "User=alice\nDelegate=yes\n");
    assert_eq!(m.holders("8080/tcp"), [old]);
    app_replaces(m, "\"old.service\"");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and old.service is not stopped for what it was handed");
    assert!(!start.status.success(), "{start:?}");
    refused(m, APP, &[("RELATION", "predecessor"), ("HOLDER_PID", &old.to_string())]);
    assert_names(&m.journal(APP), &["in a cgroup that is gone or cannot be seen", "Next: systemctl stop old.service"]);
    assert_unharmed(m, "8080/tcp", old);
    assert_eq!(m.show("old.service", "ActiveState"), "active");
}

/// What the unit's own environment says can be written by whoever may write its `EnvironmentFile=`.
pub(super) fn notify_socket_of_the_environment_has_no_say(m: &Machine) {
    m.given("a leftover that has to be killed, and an environment with the NOTIFY_SOCKET of somebody else");
    m.write(
        "/opt/lab/notified.py",
        "import signal, socket, sys\n\
         own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nown.bind(sys.argv[1])\n\
         while sys.argv[2:]: open('/run/heard', 'ab').write(own.recv(4096))\n\
         while True: signal.pause()\n",
    );
    for (socket, more) in [("/run/evil", "hears"), ("/run/deaf", "")] {
        m.ok(&format!("systemd-run -q /usr/bin/python3 /opt/lab/notified.py {socket} {more}"));
        m.wait_until("it is there", SOON, || m.sh(&format!("test -S {socket}")).status.success());
    }
    m.ok("python3 /opt/lab/fill.py /run/deaf");
    let mut old = started_guarded_app(m, "8080/tcp 1 stubborn");
    m.unit(
        &format!("{APP}.d/20-notify.conf"),
        "[Service]\nType=exec\nNotifyAccess=all\nTimeoutStopSec=1\nTimeoutStartSec=20\nEnvironmentFile=/etc/app.env\n\
         ExecStartPre=/bin/sh -c 'echo $NOTIFY_SOCKET >/run/told'\nExecStart=\n\
         ExecStart=/usr/bin/env NOTIFY_SOCKET=/run/systemd/notify /usr/bin/python3 /opt/lab/app.py 8080/tcp 1 stubborn\n",
    );
    for socket in ["/run/evil", "/run/deaf"] {
        m.write("/etc/app.env", format!("NOTIFY_SOCKET={socket}\n"));
        m.forget_journal();

        m.when(&format!("the service is restarted, with {socket}"));
        let restart = m.restart(APP);
        assert_eq!(m.ok("cat /run/told").trim(), socket, "{restart:?}");

        m.then("it is up in time, and nobody was written to who is not systemd");
        assert!(restart.status.success(), "{restart:?}");
        let took = guard_took(m);
        assert!(
            took < Duration::from_secs(1) + BOUND,
            "portguard took {took:?}, one second of which is the leftover's"
        );
        m.wait_until("it listens", SOON, || m.holders("8080/tcp").contains(&m.main_pid(APP)));
        assert_up_without(m, "8080/tcp", &old);
        finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
        assert!(!m.sh("test -s /run/heard").status.success(), "{}", m.ok("cat /run/heard"));
        m.wait_until("its worker is there", SOON, || m.processes_of(APP).len() > 1);
        old = workers(m);
    }
}

/// `su` without a dash, and `sudo -E`, leave the variable as it was.
pub(super) fn runtime_folder_of_another_user_has_no_say(m: &Machine) {
    m.given("a live service in root's own manager, of which the manager of alice says that there is none");
    alices_manager(m);
    let as_root = |command: &str| m.ok(&format!("XDG_RUNTIME_DIR=/run/user/0 {command}"));
    m.ok("systemctl start user@0.service");
    m.write(
        "/root/.config/systemd/user/app.service",
        "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 0\n",
    );
    as_root("systemctl --user daemon-reload");
    as_root("systemctl --user start app.service");
    let main = m.holders("8080/tcp")[0];
    user_unit(m, "app.service", "[Service]\nExecStart=/bin/true\n");

    let alices = m.ok(&as_alice("printenv XDG_RUNTIME_DIR"));
    let alices = alices.trim();
    m.ok(&format!("ln -s {alices}/bus {alices}/systemd /tmp"));
    for (whose, runtime) in [("alice's runtime folder", alices), ("one where all may write, with alice's bus", "/tmp")]
    {
        m.when(&format!("root types portguard --user, with {whose} in the environment"));
        let typed = m.sh(&format!("XDG_RUNTIME_DIR={runtime} portguard --user --unit {APP} --port 8080"));

        m.then("it asks root's own manager, and touches nothing");
        assert_eq!(typed.status.code(), Some(69), "{typed:?}");
        assert_names(&typed.stderr, &["own-run", &main.to_string()]);
        assert_unharmed(m, "8080/tcp", main);
    }
}

/// A million, and whoever looks at them asks the kernel of each what it is; `ss` takes a minute.
pub(super) fn files_that_are_very_many_hold_up_no_start(m: &Machine) {
    m.given("60 processes of alice's with 19,000 open files each, and a service with a socket unit of its own");
    alice_has_many_files(m, 60);
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit(APP, "[Service]\nExecStart=/bin/sleep infinity\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok("systemctl start app.socket");

    m.when("it is started");
    let start = m.start(APP);

    m.then("it is up in time");
    assert!(start.status.success(), "{start:?}");
    assert_in_time(m);
    finding(m, APP, &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("HOLDER_PID", "1")]);

    m.given("a leftover, and no socket unit");
    m.ok("systemctl stop app.service app.socket; rm /etc/systemd/system/app.socket");
    let old = started_guarded_app(m, "8080/tcp");
    m.forget_journal();

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the leftover is stopped in time, and it is said that not all were looked at");
    assert!(restart.status.success(), "{restart:?}");
    assert_in_time(m);
    assert_names(&m.journal(APP), &["processes were not looked at for want of time"]);

    m.given("a socket unit of its own at another port; and workers that have gone to another unit's cgroup, are younger than all of them, and whose sockets are there for a moment longer");
    let inhabitant = inhabited_elsewhere(m);
    app_service(m, &format!("8080/tcp 10 lingering {ELSEWHERE}"));
    m.unit("app.socket", "[Socket]\nListenStream=8081\n");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\", \"8081/tcp\"]\n"));
    m.ok(&format!("systemctl stop {APP}; systemctl start app.socket {APP}; systemctl reset-failed {APP}"));
    let mut escaped = m.processes_of("elsewhere.scope");
    escaped.retain(|pid| !inhabitant.contains(pid));
    assert_eq!(escaped.len(), 10, "{escaped:?}");
    m.forget_journal();

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("they are found in time all the same, and stopped");
    assert!(restart.status.success(), "{restart:?}");
    for pid in &escaped {
        finding(m, APP, &[("RELATION", "escaped"), ("ACTION", "stop"), ("HOLDER_PID", &pid.to_string())]);
    }
    assert_in_time(m);
    assert_names(&m.journal(APP), &["looking at all processes until it is"]);

    m.given("a leftover whose socket is there for a moment longer than it");
    app_service(m, "8080/tcp 1 lingering");
    m.ok(&format!("systemctl restart {APP}; systemctl reset-failed {APP}"));
    let lingering = workers(m);
    m.forget_journal();

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("it is not looked for who has that, and it is up in time");
    assert!(restart.status.success(), "{restart:?}");
    assert_in_time(m);
    assert!(!m.journal(APP).contains("looking at all processes"), "{}", m.journal(APP));
    no_more_files(m);
    assert_up_without(m, "8080/tcp", &[old, escaped, lingering].concat());
}

/// So many processes of hers, with 19,000 files each.
fn alice_has_many_files(m: &Machine, processes: usize) {
    m.ok("useradd -m alice");
    evil(m, &format!("files {processes}"), "User=alice\nLimitNOFILE=20000\nTasksMax=infinity\n");
    m.wait_until("they are all there", SOON * 3, || m.processes_of("evil.service").len() > processes);
}

fn no_more_files(m: &Machine) {
    m.ok("systemctl kill -s KILL evil.service");
    m.wait_until("they are gone", SOON * 3, || !m.sh("systemctl is-active evil.service").status.success());
}

/// A process of alice's that has whatever it is handed. `kind`: of receiver.py.
fn receiver(m: &Machine, kind: &str) -> u32 {
    m.sh("useradd -m alice");
    let command = format!("/usr/bin/python3 /opt/lab/receiver.py /tmp/victim {kind}");
    m.unit("theirs.service", &format!("[Service]\nUser=alice\nExecStart={command}\n"));
    m.ok("rm -f /tmp/victim; systemctl restart theirs.service");
    m.wait_until("the receiver waits", SOON, || m.sh("test -S /tmp/victim").status.success());
    m.main_pid("theirs.service")
}

/// Behind more files than there is time for.
fn receiver_behind_many_files(m: &Machine) -> u32 {
    alice_has_many_files(m, 20);
    receiver(m, "")
}

pub(super) fn who_has_a_leftovers_socket_behind_very_many_files_is_found_once_it_is_stopped(m: &Machine) {
    m.given(
        "a leftover that has handed its socket to a process of alice's, and more open files than there is time for",
    );
    let receiver = receiver_behind_many_files(m);
    m.unit(
        APP,
        "[Service]\nKillMode=process\n\
         ExecStart=/bin/sh -c '/usr/bin/python3 /opt/lab/passer.py 8080 /tmp/victim keep & exec sleep infinity'\n",
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    m.wait_until("it is handed over", SOON * 3, || m.holders("8080/tcp").contains(&receiver));
    m.stop(APP);
    let leftover = m.processes_of(APP)[0];
    m.forget_journal();

    m.when("the service is started");
    let start = m.start(APP);

    m.then("the leftover is stopped, and the start is refused for the other, who is unharmed");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &leftover.to_string())]);
    assert_names(&m.journal(APP), &["processes were not looked at for want of time"]);
    finding(m, APP, &[("ACTION", "refuse"), ("HOLDER_PID", &receiver.to_string())]);
    assert!(!m.alive(leftover));
    assert_unharmed(m, "8080/tcp", receiver);
}

/// Of an own socket unit's it is said; where a start that could not be checked is to be refused, all are looked at.
pub(super) fn who_has_a_socket_units_socket_behind_very_many_files_is_found_where_the_policy_says_so(m: &Machine) {
    m.given(
        "a socket unit's listener that a process of alice's has as well, and more open files than there is time for",
    );
    let receiver = receiver_behind_many_files(m);
    m.unit("app.socket", "[Socket]\nListenStream=8080\n");
    m.unit(APP, "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /opt/lab/passer.py fd /tmp/victim\n");
    m.ok(&format!("systemctl start app.socket; systemctl start {APP}"));
    m.wait_until("it is handed over", SOON * 3, || m.holders("8080/tcp").contains(&receiver));
    m.unit(APP, "[Service]\nExecStart=/bin/sleep infinity\n");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is up in time, and it is said that not all were looked at");
    assert!(start.status.success(), "{start:?}");
    assert_in_time(m);
    assert_names(&m.journal(APP), &["processes were not looked at for want of time"]);

    m.when("it is started where the policy refuses what could not be checked");
    m.ok(&format!("systemctl stop {APP}"));
    m.forget_journal();
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-blind = \"refuse\"\n"));
    let start = m.start(APP);

    m.then("it is refused for that process, which is unharmed");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("ACTION", "refuse"), ("HOLDER_PID", &receiver.to_string())]);
    assert_unharmed(m, "8080/tcp", receiver);

    m.given("no more files than usual, and a process of alice's that has it in one of its threads");
    no_more_files(m);
    let receiver = self::receiver(m, "thread");
    m.unit(APP, "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /opt/lab/passer.py fd /tmp/victim\n");
    m.ok(&format!("systemctl restart app.socket; systemctl start {APP}"));
    m.unit(APP, "[Service]\nExecStart=/bin/sleep infinity\n");
    m.forget_journal();

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is refused for that one as well");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("ACTION", "refuse"), ("HOLDER_PID", &receiver.to_string())]);
}

/// old.service, which is up, has handed its socket to this process. Whoever replaces it is refused, and it is as it was: it would be
/// stopped for nothing.
fn assert_predecessor_is_spared(m: &Machine, receiver: u32, words: &[&str]) {
    m.given("old.service, which has handed its socket to a process of alice's");
    m.unit("old.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/passer.py 8080 /tmp/victim keep\n");
    m.ok("rm -f /run/handed; systemctl start old.service");
    m.wait_until("it is handed over", SOON * 3, || m.sh("test -e /run/handed").status.success());
    let old = m.main_pid("old.service");
    app_replaces(m, "\"old.service\"");
    m.forget_journal();

    m.when("the service that replaces it is started");
    let start = m.start(APP);

    m.then("it is refused, and old.service is as it was");
    assert!(!start.status.success(), "{start:?}");
    assert_names(&m.journal(APP), words);
    assert_nobody_signalled(m, APP);
    assert!(m.alive(old) && m.alive(receiver));
    assert_eq!((m.main_pid("old.service"), m.show("old.service", "ActiveState")), (old, "active".to_owned()));
    m.ok("systemctl stop old.service theirs.service; systemctl reset-failed");
}

pub(super) fn predecessor_is_not_stopped_for_who_has_its_socket_behind_very_many_files(m: &Machine) {
    m.given("more open files than there is time for");
    let receiver = receiver_behind_many_files(m);
    assert_predecessor_is_spared(m, receiver, &[&format!("held by pid {receiver}")]);
}

pub(super) fn predecessor_is_not_stopped_for_who_has_its_socket_in_a_thread(m: &Machine) {
    let receiver = receiver(m, "thread");
    assert_predecessor_is_spared(m, receiver, &[&format!("held by pid {receiver}")]);
}

pub(super) fn predecessor_is_not_stopped_for_who_has_its_socket_behind_processes_that_hang(m: &Machine) {
    for count in [14, 60] {
        m.given(&format!("{count} processes that hang in execve(2)"));
        processes_hang(m, &count.to_string());
        let receiver = receiver(m, "");
        let named = format!("held by pid {receiver}");
        // Of so many nobody is looked at any more, nor is old.service.
        let words = if count < 32 { &named } else { "looked at in time" };
        assert_predecessor_is_spared(m, receiver, &[words]);
        hang_no_more(m);
    }
}

/// What a policy file may not be, each with the shell that makes one at `$1`.
const NO_POLICIES: &[(&str, &str)] = &[
    ("a FIFO", "mkfifo $1"),
    ("a socket", "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"'$1'\")'"),
    ("a folder", "mkdir $1"),
    ("a device", "mknod $1 c 1 5"),
    ("a terabyte", "truncate -s 1T $1"),
    ("alice's", "touch $1; chown alice $1"),
    ("a link of alice's", "printf '' >/root/empty; ln -s /root/empty $1; chown -h alice $1"),
    ("a link to a folder of alice's", "touch /home/alice/p.toml; ln -s /home/alice/p.toml $1"),
    ("a link to itself", "ln -s $1 $1"),
    ("writable by a group", "touch $1; chmod 664 $1"),
    // POSIX ACL: u::rw-, u:65534:rw-, g::r--, m::rw-, o::r-- (acl(5), `include/uapi/linux/posix_acl_xattr.h`).
    (
        "writable by an access control list",
        "touch $1; chmod 644 $1; python3 -c 'import os, struct; entry = lambda *e: struct.pack(\"<HHI\", *e); none = 2**32 - 1; \
         os.setxattr(\"'$1'\", \"system.posix_acl_access\", struct.pack(\"<I\", 2) + entry(1, 6, none) + \
         entry(2, 6, 65534) + entry(4, 4, none) + entry(16, 6, none) + entry(32, 4, none))'",
    ),
];

pub(super) fn what_is_no_file_of_roots_alone_is_no_policy(m: &Machine) {
    m.given("a leftover");
    m.ok("useradd -m alice");
    let old = started_guarded_app(m, "8080/tcp");
    for (what, make) in NO_POLICIES {
        m.when(&format!("a file of the policy is {what}, and the service is restarted"));
        m.ok(&format!("mkdir -p /etc/portguard/conf.d; set -- /etc/portguard/conf.d/x.toml; rm -rf $1; {make}"));
        m.forget_journal();
        let restart = m.restart(APP);

        m.then("the start fails with 78 in time, and the leftover is unharmed");
        assert!(!restart.status.success(), "{what}: {restart:?}");
        assert_in_time(m);
        assert_names(&m.journal(APP), &["status=78/CONFIG"]);
        assert_unharmed(m, "8080/tcp", old[0]);
        m.ok(&format!("systemctl reset-failed {APP}"));
    }

    m.when("the one file is what somebody has handed over");
    m.ok(&format!(
        "rm -rf /etc/portguard/conf.d; printf '[unit.\"{APP}\"]\\non-stale = \"stop\"\\n' >/home/alice/p.toml"
    ));
    m.ok("chown alice /home/alice/p.toml");
    for (name, stdin) in [("/dev/stdin", "/home/alice/p.toml"), ("/proc/self/fd/0", "/home/alice/p.toml")] {
        let typed = m.sh(&format!("portguard --unit {APP} --port 8080 --policy {name} <{stdin}"));
        m.then("it is not believed");
        assert_eq!(typed.status.code(), Some(78), "{name}: {typed:?}");
    }
    let typed = m.sh(&format!("cat /home/alice/p.toml | portguard --unit {APP} --port 8080 --policy /dev/stdin"));
    assert_eq!(typed.status.code(), Some(78), "a pipe: {typed:?}");
    assert_unharmed(m, "8080/tcp", old[0]);
}

/// What a ledger may be that portguard has not written, each with the shell that makes one at `$1` of the text `$2`.
const NO_LEDGERS: &[(&str, &str)] = &[
    ("alice's", "printf \"$2\" >$1; chown alice $1"),
    ("writable by all", "printf \"$2\" >$1; chmod 666 $1"),
    ("a link to a file of alice's", "printf \"$2\" >/home/alice/l; chown alice /home/alice/l; ln -s /home/alice/l $1"),
    ("a FIFO", "mkfifo $1"),
    ("a folder", "mkdir $1"),
    ("a terabyte", "truncate -s 1T $1"),
];

pub(super) fn ledger_of_others_proves_nothing_and_holds_up_nothing(m: &Machine) {
    m.given("a process in no unit, with an invocation id that only a forged ledger has");
    m.ok("useradd -m alice");
    let old = started_guarded_app(m, "8081/tcp");
    m.ok(&format!(
        "systemctl kill -s KILL --kill-who=all {APP}; systemctl stop {APP}; systemctl reset-failed {APP}; true"
    ));
    m.wait_until("the service is gone", SOON, || !m.alive(old[0]));
    policy_for_app(m, "8080/tcp");
    app_service(m, "8080/tcp");
    let id = "0123456789abcdef0123456789abcdef";
    m.ok(&format!("INVOCATION_ID={id} setsid python3 /opt/lab/listener.py 8080 </dev/null >/dev/null 2>&1"));
    let victim = m.holders("8080/tcp")[0];
    for (what, make) in NO_LEDGERS {
        m.when(&format!("the ledger is {what}, and the service is started"));
        m.ok(&format!("set -- /run/portguard/ledger/{APP} '{id} 7\\n'; rm -rf $1; {make}"));
        m.forget_journal();
        let start = m.start(APP);

        m.then("it is refused in time, and the process unharmed");
        assert!(!start.status.success(), "{what}: {start:?}");
        assert_in_time(m);
        refused(m, APP, &[("RELATION", "other-process"), ("HOLDER_PID", &victim.to_string())]);
        // A large one of root's is read up to the size that a ledger has.
        let is_said = m.journal(APP).contains("the ledger of earlier runs could not be read");
        assert_eq!(is_said, *what != "a terabyte", "{what}: {}", m.journal(APP));
        assert_unharmed(m, "8080/tcp", victim);
        m.ok(&format!("systemctl reset-failed {APP}"));
    }

    m.when("the ledger is root's");
    m.ok(&format!("set -- /run/portguard/ledger/{APP} '{id} 7\\n'; rm -rf $1; printf \"$2\" >$1; chmod 600 $1"));
    let start = m.start(APP);

    m.then("it is believed: the forged ones were not refused for anything else");
    assert!(start.status.success(), "{start:?}");
    assert!(!workers(m).contains(&victim) && !m.holders("8080/tcp").contains(&victim));
}

/// The kernel does not tell where its path is so long.
pub(super) fn file_with_a_path_that_is_too_long_hides_no_holder(m: &Machine) {
    m.given("alice's process, which has a file with a path of 5000 bytes open, and then the port");
    m.ok("useradd -m alice");
    m.write(
        "/opt/lab/deep.py",
        "import os, runpy, sys\nfor _ in range(20):\n    os.mkdir('x' * 250)\n    os.chdir('x' * 250)\n\
         os.set_inheritable(os.open('.', os.O_RDONLY), True)\nrunpy.run_path('/opt/lab/listener.py')\n",
    );
    m.unit(
        "web.service",
        "[Service]\nType=forking\nUser=alice\nWorkingDirectory=~\nExecStart=/usr/bin/python3 /opt/lab/deep.py 8080\n",
    );
    m.ok("systemctl start web.service");
    let web = m.main_pid("web.service");
    assert!(!m.sh(&format!("cd /proc/{web}/fd && for fd in *; do readlink $fd || exit 1; done")).status.success());
    policy_for_app(m, "8080/tcp");
    app_service(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and that process and its unit are named");
    assert!(!start.status.success(), "{start:?}");
    refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "web.service"), ("HOLDER_PID", &web.to_string())]);
}
