//! Processes of an earlier run of the guarded service: they are stopped, all of them, and nobody else.

use super::faults::assert_in_time;
use super::{
    APP, SOON, app_service, assert_names, assert_unharmed, assert_up_without, finding, guard, message, policy,
    policy_for_app, started_guarded_app, workers,
};
use crate::machine::Machine;

pub(super) fn leftover_is_stopped_and_the_service_comes_up(m: &Machine) {
    m.given("a guarded service with KillMode=process whose worker survives a stop and holds 8080");
    let old = started_guarded_app(m, "8080/tcp");
    let pid = old[0].to_string();

    m.when("it is restarted");
    let restart = m.restart(APP);

    m.then("it is up, the leftover gone, and the new main process holds the port");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);

    m.then("the journal has the finding and the verdict as fields");
    let leftover = finding(
        m,
        APP,
        &[("RELATION", "leftover"), ("ACTION", "stop"), ("ENDPOINT", "8080/tcp"), ("HOLDER_PID", &pid)],
    );
    finding(m, APP, &[("VERDICT", "freed")]);

    m.then("one line of plain `journalctl -u` names endpoint, process, relation and action");
    let words = message(&leftover);
    assert_names(words, &["8080/tcp", &pid, "python3", "stop"]);
    assert!(words.contains("leftover") || words.contains("left-over"), "the relation is not named in: {words}");
    assert_names(&m.journal(APP), &[words]);
}

pub(super) fn leftover_whose_port_another_user_of_the_unit_has_bound_is_stopped(m: &Machine) {
    m.given("a service of alice's that binds, and whose worker, which survives a stop, is bob's");
    m.ok("useradd -m alice && useradd -m bob");
    m.unit(
        APP,
        "[Service]\nUser=alice\nAmbientCapabilities=CAP_SETUID CAP_SETGID\nKillMode=process\n\
         ExecStart=/usr/bin/python3 /opt/lab/two_users.py 8080 bob\n",
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    m.wait_until("the worker has it as well", SOON, || m.holders("8080/tcp").len() == 2);
    m.stop(APP);
    let old = m.holders("8080/tcp");
    assert_eq!(m.ok(&format!("stat -c %U /proc/{}", old[0])).trim(), "bob");

    m.when("it is started again");
    let start = m.start(APP);

    m.then("it is up, and bob's process is gone: nobody but the unit made that socket");
    assert!(start.status.success(), "{start:?}");
    m.wait_until("it listens", SOON, || m.holders("8080/tcp").contains(&m.main_pid(APP)));
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
}

pub(super) fn leftover_that_ignores_sigterm_is_killed(m: &Machine) {
    m.given("a leftover that ignores SIGTERM, and a policy that waits for it for a second");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn");
    policy(m, &format!("[defaults]\nstop-timeout = \"1s\"\n\n[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\n"));

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the leftover is killed and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("VERDICT", "freed")]);
}

pub(super) fn leftover_that_reforks_on_sigterm_is_stopped(m: &Machine) {
    m.given("a leftover that answers SIGTERM with a successor that has the socket");
    let old = started_guarded_app(m, "8080/tcp 1 reforking");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the successor is stopped as well, and the service is up with its own two processes only");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    assert_eq!(m.holders("8080/tcp"), m.processes_of(APP));
    assert_eq!(m.processes_of(APP).len(), 2);
    super::faults::assert_in_time(m);
}

pub(super) fn leftover_that_reforks_without_end_is_given_up_and_the_last_one_named(m: &Machine) {
    m.given("a leftover that answers each SIGTERM with a successor that has the socket");
    started_guarded_app(m, "8080/tcp 1 endless");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("portguard gives up after eight of them");
    assert!(!restart.status.success(), "{restart:?}");
    let last = finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_names(message(&last), &["8 attempts to stop what holds it"]);
    super::faults::assert_in_time(m);

    m.then("what it says to type next is for the one that has the port now, and frees it");
    let [holder] = m.holders("8080/tcp")[..] else { panic!("{:?}", m.holders("8080/tcp")) };
    let next = super::field(&last, "PORTGUARD_NEXT");
    assert_eq!(next, format!("kill -KILL {holder}"));
    m.ok(next);
    m.wait_until("it is gone", SOON, || m.holders("8080/tcp").is_empty());
}

/// As between the end of a process's open files and that of its sockets, or where an `io_uring` has them as well.
pub(super) fn leftover_whose_socket_outlives_it_for_a_moment_is_waited_for(m: &Machine) {
    m.given("a leftover whose socket is there a moment longer than any process that has it");
    let old = started_guarded_app(m, "8080/tcp 1 lingering");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("that moment is waited for, and the service is up");
    assert!(restart.status.success(), "{restart:?}\n{}", m.journal(APP));
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop")]);
    finding(m, APP, &[("VERDICT", "freed")]);
    super::faults::assert_in_time(m);

    m.then("nobody is said to be in the way who was not");
    assert!(!m.journal(APP).contains("held by no process"), "{}", m.journal(APP));

    m.when("it is restarted where the policy ignores who else has the port");
    super::policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-foreign = \"ignore\"\n"));
    let restart = m.restart(APP);

    m.then("that moment is waited for all the same");
    assert!(restart.status.success(), "{restart:?}\n{}", m.journal(APP));
}

/// Its memory is taken first, and what proves whose it is goes with that; its sockets are closed when that is done.
pub(super) fn holder_that_is_on_its_way_out_is_waited_for(m: &Machine) {
    m.given("a process with a gigabyte of memory that has the port, and is killed just before the guard looks");
    let big = "import os, signal, socket; s = socket.create_server((\"\", 8080)); memory = b\"x\" * (1 << 30); \
               open(\"/run/big\", \"w\").write(str(os.getpid())); signal.pause()";
    m.ok(&format!("setsid python3 -c '{big}' </dev/null >/dev/null 2>&1 &"));
    // On a machine that builds its images meanwhile.
    m.wait_until("it has its memory", SOON * 6, || m.sh("test -s /run/big").status.success());
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.unit(&format!("{APP}.d/00-kill.conf"), "[Service]\nExecStartPre=+/bin/sh -c 'kill -9 $(cat /run/big)'\n");

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is not refused for one that is all but gone, nor held up for longer than that takes");
    assert!(start.status.success(), "{start:?}\n{}", m.journal(APP));
    assert_in_time(m);
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
    finding(m, APP, &[("VERDICT", "free"), ("EXIT_STATUS", "0")]);
}

pub(super) fn every_process_that_holds_the_port_goes(m: &Machine) {
    m.given("three leftovers that share one listening socket");
    let old = started_guarded_app(m, "8080/tcp 3");
    assert_eq!(old.len(), 3);

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("all three are gone, each with a finding of its own");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    for pid in old {
        finding(m, APP, &[("RELATION", "leftover"), ("HOLDER_PID", &pid.to_string())]);
    }
}

/// The kernel shows no file descriptors of a process whose first thread has ended, though the others have them.
pub(super) fn leader_thread_dead_still_found(m: &Machine) {
    m.given("a leftover whose main thread has ended while another one serves");
    let old = started_guarded_app(m, "8080/tcp 1 leaderless");
    m.wait_until("the main thread is a zombie", super::SOON, || {
        m.ok(&format!("cat /proc/{}/stat", old[0])).contains(") Z ")
    });
    m.stop(APP);
    assert_eq!(m.connect(8080).stdout.trim(), format!("served by {}", old[0]));

    m.when("the service is started");
    let start = m.start(APP);

    m.then("the leftover is found and stopped, and the service is up");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("HOLDER_PID", &old[0].to_string())]);
}

pub(super) fn udp_leftover_is_stopped(m: &Machine) {
    m.given("a leftover that holds 8080/udp");
    let old = started_guarded_app(m, "8080/udp");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the leftover is gone and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/udp", &old);
    finding(m, APP, &[("RELATION", "leftover"), ("ENDPOINT", "8080/udp")]);
}

/// The folder of [`inhabited_elsewhere`].
pub(super) const ELSEWHERE: &str = "/sys/fs/cgroup/system.slice/elsewhere.scope";

/// Somebody else's scope, and who lives there.
pub(super) fn inhabited_elsewhere(m: &Machine) -> Vec<u32> {
    m.ok("setsid systemd-run --scope --unit=elsewhere sleep infinity >/dev/null 2>&1 &");
    let other = || m.show("elsewhere.scope", "ActiveState") == "active";
    m.wait_until("elsewhere.scope is there", super::SOON, other);
    m.processes_of("elsewhere.scope")
}

pub(super) fn escaped_process_is_stopped_by_its_ledger_entry(m: &Machine) {
    m.given("a guarded service whose worker has moved to the scope of somebody else, who lives there too");
    let inhabitant = inhabited_elsewhere(m);
    super::app_service(m, &format!("8080/tcp 1 plain {ELSEWHERE}"));
    super::policy_for_app(m, "8080/tcp");
    super::guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    let mut old = m.processes_of("elsewhere.scope");
    old.retain(|pid| !inhabitant.contains(pid));
    assert_eq!(old.len(), 1, "the worker has not moved");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the worker is recognised and stopped, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("RELATION", "escaped"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);

    m.then("the scope's own process is unharmed");
    assert!(m.alive(inhabitant[0]));
}

pub(super) fn dry_run_touches_nothing(m: &Machine) {
    m.given("a stopped service and its leftover");
    started_guarded_app(m, "8080/tcp");
    let old = workers(m);
    m.stop(APP);

    m.when("portguard runs with --dry-run");
    let dry_run = m.sh(&format!("portguard --unit {APP} --dry-run --verbose"));

    m.then("it says what it would do");
    let said = format!("{}{}", dry_run.stdout, dry_run.stderr);
    assert_names(&said, &["8080/tcp", &old[0].to_string(), "stop"]);
    assert!(!said.contains("systemctl was asked"), "the bus is there, and was not enough: {said}");

    m.then("the leftover lives and holds the port");
    assert_unharmed(m, "8080/tcp", old[0]);
}

pub(super) fn leftover_that_drains_is_not_killed(m: &Machine) {
    m.given("a leftover that closes its socket at SIGTERM, and then finishes what it has begun");
    let old = started_guarded_app(m, "8080/tcp 1 draining");

    m.when("the service is restarted");
    let begin = std::time::Instant::now();
    let restart = m.restart(APP);

    m.then("it is up as soon as the port is free, and the leftover is left to finish");
    assert!(restart.status.success(), "{restart:?}");
    assert!(begin.elapsed() < super::SOON, "it took {:?}", begin.elapsed());
    assert_eq!(m.show(APP, "ActiveState"), "active");
    assert!(m.alive(old[0]), "the leftover was killed");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
    finding(m, APP, &[("VERDICT", "freed")]);
}

/// nginx, postgres and others write over the memory in which their environment was.
pub(super) fn leftover_without_an_environment_is_told_by_its_age(m: &Machine) {
    m.given("a leftover that shows no environment, of a run that was not guarded");
    m.unit(
        APP,
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=process\nExecStart=/usr/bin/env -i /usr/bin/python3 /opt/lab/listener.py 8080\n",
    );
    m.ok(&format!("systemctl start {APP}"));
    let old = m.holders("8080/tcp");
    super::policy_for_app(m, "8080/tcp");
    super::guard(m, APP);

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("the leftover is stopped, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
    assert_ne!(m.holders("8080/tcp"), old);
}
