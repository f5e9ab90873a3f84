//! Holders that do not end as others do, or are many, or others by the time that something is done about them; and
//! starts that have little time. Each is said in the journal, and none costs more than the policy allows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::faults::{BOUND, file_hangs_who_closes_it, guard_took};
use super::hostile::limit_the_guard;
use super::predecessors::app_replaces;
use super::time::{held_by_web, impatient, stop_timeout};
use super::{
    APP, SOON, app_service, assert_names, assert_nobody_signalled, assert_unharmed, assert_up_without, field, finding,
    guard, message, policy, policy_for_app, refused, started_guarded_app, take_the_bus_away, workers,
};
use crate::machine::{Entry, Machine, Output};

/// A killed process that is still there is given up after so long (`Budget::GRACE`, src/act/mod.rs).
const GRACE: Duration = Duration::from_secs(5);

const SUB: &str = "/sys/fs/cgroup/system.slice/app.service/sub";

/// Restarts app.service; portguard must take no longer for it than this and what a fault may cost.
fn restart_within(m: &Machine, allowed: Duration) -> Output {
    let restart = m.restart(APP);
    let took = guard_took(m);
    assert!(took < allowed + BOUND, "portguard took {took:?}");
    restart
}

fn state_of(m: &Machine, pid: u32) -> String {
    m.sh(&format!("sed -n 's/^State:[[:space:]]*//p' /proc/{pid}/status")).stdout.trim().to_owned()
}

/// The signals that were sent, each with the line that says so.
fn signals(m: &Machine) -> Vec<Entry> {
    m.entries(APP).into_iter().filter(|entry| entry.contains_key("PORTGUARD_SIGNAL")).collect()
}

/// How long it took from the first signal to this line.
pub(super) fn since_the_first_signal(m: &Machine, last: &Entry) -> Duration {
    let at = |entry| field(entry, "_SOURCE_REALTIME_TIMESTAMP").parse().map(Duration::from_micros).expect("a time");
    at(last).checked_sub(at(&signals(m)[0])).expect("the line comes after it")
}

/// The line in which this signal was sent to this process.
fn sent(m: &Machine, signal: &str, pid: u32) -> String {
    let pid = pid.to_string();
    let fits =
        |entry: &&Entry| field(entry, "PORTGUARD_SIGNAL") == signal && field(entry, "PORTGUARD_HOLDER_PID") == pid;
    let all = signals(m);
    message(all.iter().find(fits).unwrap_or_else(|| panic!("{signal} was not sent to {pid}: {all:?}"))).to_owned()
}

/// Whoever looks at its arguments waits with it, as ps(1) does.
pub(super) fn holder_whose_memory_is_locked_is_refused_in_time(m: &Machine) {
    m.given("another service's process with the port, whose memory is locked while a file server does not answer");
    m.unit("locked.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/locked.py 8080 /run/locked\n");
    m.ok("systemctl start locked.service");
    m.wait_until(
        "it waits",
        SOON,
        || matches!(m.holders("8080/tcp")[..], [holder] if state_of(m, holder).starts_with('D')),
    );
    let holder = m.holders("8080/tcp")[0];
    let read = m.sh(&format!("timeout --signal=KILL 1 cat /proc/{holder}/cmdline"));
    assert!(!read.status.success(), "its arguments can be read: {read:?}");
    policy_for_app(m, "8080/tcp");
    app_service(m, "8080/tcp");
    let without_threads = "[Service]\nExecStartPre=/usr/bin/portguard --unit %n\n\
                           SystemCallFilter=~clone clone3 fork vfork\nSystemCallErrorNumber=EAGAIN\n";
    for drop_in in [super::GUARD, without_threads] {
        m.unit(&format!("{APP}.d/10-portguard.conf"), drop_in);
        m.forget_journal();

        m.when("the guarded service is started");
        let begin = Instant::now();
        let start = m.start(APP);

        m.then("it is refused in time, and the process and its unit are named");
        assert!(begin.elapsed() < BOUND, "{:?}", begin.elapsed());
        assert!(!start.status.success(), "{start:?}");
        let refusal = refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_PID", &holder.to_string())]);
        assert_names(message(&refusal), &["systemctl stop locked.service"]);
        assert_names(&m.journal(APP), &["the environment of 1 processes could not be read in time"]);
    }
    m.stop("locked.service");
    m.wait_until("it is gone", SOON, || m.holders("8080/tcp").is_empty());
}

pub(super) fn holder_in_uninterruptible_sleep_is_given_up_and_said_to_be(m: &Machine) {
    m.given("a leftover that waits for a file system that does not answer, and a second for it to end");
    m.ok("systemd-run --unit=hang python3 /opt/lab/hang.py /run/hang");
    m.wait_until("it is mounted", SOON, || m.sh("grep -q ' /run/hang ' /proc/mounts").status.success());
    let old = started_guarded_app(m, "8080/tcp 1 hanging /run/hang/file")[0];
    stop_timeout(m, "1s");

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::from_secs(1) + GRACE);

    m.then("the start fails with 75: the leftover was killed, and is still there");
    assert!(!restart.status.success(), "{restart:?}");
    assert_names(&m.journal(APP), &["status=75/TEMPFAIL"]);
    sent(m, "SIGKILL", old);
    assert_unharmed(m, "8080/tcp", old);
    assert!(state_of(m, old).starts_with('D'), "{}", state_of(m, old));

    m.then("the last line says why, and where in the kernel, and what to look at");
    let verdict = finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    let stack = format!("cat /proc/{old}/stack");
    assert_names(message(&verdict), &[&format!("pid {old}"), "uninterruptible sleep in the kernel, at ", &stack]);
    super::type_next(m, &verdict);

    m.when("the file system is gone, and the service is started");
    m.ok("systemctl stop hang.service");
    m.wait_until("the leftover has ended", SOON, || !m.alive(old));
    let start = m.start(APP);

    m.then("it is up");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &[old]);
}

/// As `systemctl stop` does: `unit_kill_context()`, systemd v257 `src/core/unit.c`.
pub(super) fn stopped_holder_is_let_go_on_to_end(m: &Machine) {
    m.given("a leftover that is stopped (SIGSTOP), and a minute for it to end");
    let old = started_guarded_app(m, "8080/tcp")[0];
    stop_timeout(m, "60s");
    m.ok(&format!("kill -STOP {old}"));

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::ZERO);

    m.then("it is up at once: the leftover was let go on, and has ended by itself");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &[old]);
    assert_names(&sent(m, "SIGTERM", old), &["it is stopped"]);
    assert_eq!(signals(m).len(), 1);
    finding(m, APP, &[("VERDICT", "freed")]);
}

pub(super) fn frozen_holder_is_killed_when_its_time_is_over(m: &Machine) {
    m.given("a leftover in a cgroup that is frozen, and a second for it to end");
    // One that would do something about SIGTERM: any other is ended by it also where it is frozen.
    let old = started_guarded_app(m, "8080/tcp 1 reforking");
    stop_timeout(m, "1s");
    m.ok(&format!("mkdir {SUB} && echo {} >{SUB}/cgroup.procs && echo 1 >{SUB}/cgroup.freeze", old[0]));
    m.wait_until("it is frozen", SOON, || m.sh(&format!("grep -q 'frozen 1' {SUB}/cgroup.events")).status.success());

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::from_secs(1));

    m.then("it is up, the leftover gone, and the journal says why that took a second");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    assert_names(&sent(m, "SIGTERM", old[0]), &["its cgroup is frozen"]);
    assert_names(&sent(m, "SIGKILL", old[0]), &["its cgroup is frozen"]);
    finding(m, APP, &[("VERDICT", "freed")]);
}

/// systemd before v256 thaws what it stops (`unit_stop()`, `src/core/unit.c`), and later does not stop what is frozen.
pub(super) fn frozen_predecessor_is_stopped_by_systemd_or_said_to_be_frozen(m: &Machine) {
    m.given("old.service, which is frozen, and which the guarded service replaces");
    m.unit("old.service", "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp\n");
    m.ok("systemctl start old.service");
    let old = m.processes_of("old.service");
    app_replaces(m, "\"old.service\"");
    m.ok("systemctl freeze old.service");

    m.when("the guarded service is started");
    let mut start = restart_within(m, Duration::ZERO);

    if m.systemd() >= 256 {
        m.then("the start fails with 75, and the last line says why, and what to type");
        assert!(!start.status.success(), "{start:?}");
        let verdict = finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
        assert_names(message(&verdict), &["its cgroup is frozen", "Next: systemctl thaw old.service"]);
        assert_nobody_signalled(m, APP);

        m.when("that is typed, and the service started again");
        super::type_next(m, &verdict);
        start = restart_within(m, Duration::ZERO);
    }

    m.then("it is up, and old.service is down");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &old);
    assert_eq!(m.show("old.service", "ActiveState"), "inactive");
}

fn traced(m: &Machine, pid: u32, how: &str) -> u32 {
    m.ok(&format!("systemd-run --unit=tracer python3 /opt/lab/trace.py {pid} {how}"));
    let tracer = m.main_pid("tracer.service");
    m.wait_until("it is traced", SOON, || {
        m.sh(&format!("grep -q 'TracerPid:.*{tracer}' /proc/{pid}/status")).status.success()
    });
    tracer
}

pub(super) fn traced_holder_is_killed_when_its_time_is_over(m: &Machine) {
    m.given("a leftover whose tracer sees its signals first and does not let it go on, and a second for it to end");
    let old = started_guarded_app(m, "8080/tcp")[0];
    stop_timeout(m, "1s");
    let tracer = traced(m, old, "");

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::from_secs(1));

    m.then("it is up, the leftover dead, and the journal says who kept it from ending");
    assert!(restart.status.success(), "{restart:?}");
    assert!(!m.holders("8080/tcp").contains(&old));
    assert_names(&sent(m, "SIGKILL", old), &[&format!("stopped by its tracer, pid {tracer} (python3)")]);
    finding(m, APP, &[("VERDICT", "freed")]);
    assert!(m.alive(tracer), "the tracer was harmed");
}

pub(super) fn killed_holder_that_its_tracer_keeps_is_given_up_and_the_tracer_named(m: &Machine) {
    m.given("a leftover whose tracer stops it at its very end, and a second for it to end");
    let old = started_guarded_app(m, "8080/tcp")[0];
    stop_timeout(m, "1s");
    let tracer = traced(m, old, "exit");

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::from_secs(1) + GRACE);

    m.then("the start fails with 75, and the last line names the tracer");
    assert!(!restart.status.success(), "{restart:?}");
    assert_unharmed(m, "8080/tcp", old);
    let verdict = finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_names(message(&verdict), &[&format!("pid {old}"), "tracer", &format!("pid {tracer} (python3)")]);

    m.when("what it says to type next is typed, and the service started");
    super::type_next(m, &verdict);
    m.wait_until("the leftover has ended", SOON, || !m.alive(old));
    let start = m.start(APP);

    m.then("it is up");
    assert!(start.status.success(), "{start:?}");
}

/// How many processes the lines about a signal name, or count, in all.
fn named_in(text: &str) -> usize {
    let (_, pids) = text.split_once("pids ").unwrap_or_default();
    let number = |text: &str| text.parse::<usize>().expect("a pid");
    let length = |range: &str| match range.split_once('-') {
        Some((from, to)) => number(to) - number(from) + 1,
        None => usize::from(number(range) > 0),
    };
    pids.split(", ").map(length).sum()
}

pub(super) fn five_hundred_holders_of_one_socket_go(m: &Machine) {
    const MANY: usize = 500;
    m.given("five hundred leftovers that share one listening socket");
    let old = started_guarded_app(m, &format!("8080/tcp {MANY}"));
    assert_eq!(old.len(), MANY);

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("it is up, and all of them are gone");
    assert!(restart.status.success(), "{restart:?}");
    let gone = |pid: &u32| !m.alive(*pid);
    m.wait_until("the leftovers are gone", SOON, || old.iter().rev().take(3).all(gone));
    let new = m.holders("8080/tcp");
    assert!(!new.iter().any(|pid| old.contains(pid)), "a leftover has the port");
    let freed = finding(m, APP, &[("VERDICT", "freed")]);
    assert_names(message(&freed), &["500 processes were stopped"]);

    m.then("that was quick: the new ones take most of the time");
    let took = since_the_first_signal(m, &freed);
    assert!(took < BOUND, "it took {took:?}");

    m.then("the journal names twenty a line each, and all the others in one");
    let holders = m.guard_entries(APP).iter().filter(|entry| field(entry, "PORTGUARD_RELATION") == "leftover").count();
    assert_eq!(holders, 20);
    assert_names(&m.journal(APP), &["and 480 more findings like these: pids "]);
    let signals = signals(m);
    assert_eq!(signals.len(), 21);
    let last = message(&signals[20]);
    assert_names(last, &["sending SIGTERM to 480 more processes"]);
    assert_eq!(named_in(last), MANY - 20, "{last}");
}

/// A pidfd each; a process of a user's manager or a shell may have 1024 files open.
pub(super) fn more_holders_than_files_may_be_open_go(m: &Machine) {
    m.given("1,200 leftovers that share one listening socket, and a limit of 1024 open files");
    let old = started_guarded_app(m, "8080/tcp 1200");
    limit_the_guard(m, "--nofile=1024:4096");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("it is up, and all of them are gone");
    assert!(restart.status.success(), "{restart:?}");
    assert!(!m.holders("8080/tcp").iter().any(|pid| old.contains(pid)), "a leftover has the port");
    assert_names(message(&finding(m, APP, &[("VERDICT", "freed")])), &["1200 processes were stopped"]);

    m.then("all of them were judged before the first was signalled");
    assert_eq!(signals(m).len(), 21);
}

pub(super) fn five_hundred_foreign_holders_are_refused_in_a_few_lines(m: &Machine) {
    m.given("web.service, five hundred processes of which share one listening socket, and a guarded service");
    m.unit("web.service", "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 500\n");
    m.ok("systemctl start web.service");
    let web = m.main_pid("web.service");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let restart = restart_within(m, Duration::ZERO);

    m.then("the start is refused, web.service unharmed, and the journal has a few lines about it");
    assert!(!restart.status.success(), "{restart:?}");
    refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "web.service")]);
    assert_unharmed(m, "8080/tcp", web);
    assert_nobody_signalled(m, APP);
    let journal = m.journal(APP);
    // A plain refusal looks at 16 processes at once, and PID 1 is one of them.
    assert_eq!(journal.matches("8080/tcp is held by pid ").count(), 15, "{journal}");
    assert!(journal.lines().count() < 40, "{journal}");
}

/// All that is known of it could have changed together with the program.
pub(super) fn holder_that_executes_another_program_is_looked_at_again_before_it_is_killed(m: &Machine) {
    m.given("a leftover that answers SIGTERM by executing another program, and a second for it to end");
    let old = started_guarded_app(m, "8080/tcp 1 executing")[0];
    stop_timeout(m, "1s");

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::from_secs(1) + GRACE);

    m.then("it was not killed as what it had been, but as what it was found to be then, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &[old]);
    assert_names(&m.journal(APP), &["it runs another program now; looking again"]);
    assert_names(&sent(m, "SIGKILL", old), &["(sleep)"]);
}

/// Whoever looks at it then hangs with it: it is looked at in time, and not signalled as what it may be no more.
pub(super) fn holder_that_hangs_in_execve_when_it_is_stopped_is_given_up(m: &Machine) {
    for workers in [1, 60] {
        m.given(&format!(
            "{workers} leftovers that answer SIGTERM by executing another program and hang in that, and a second for them to end"
        ));
        file_hangs_who_closes_it(m, "");
        let stuck = m.main_pid("stuck.service");
        let old = started_guarded_app(m, &format!("8080/tcp {workers} clinging /run/inexec"));
        stop_timeout(m, "1s");
        m.forget_journal();

        m.when("the service is restarted");
        m.ok(&format!("systemctl restart --no-block {APP}"));

        m.then("they are given up in time, not killed, and one said to be what cannot be looked at");
        // journald, ps and PID 1 may look at them as well, and hang with them: nothing is asked of those until they go on.
        let hangs = format!("! timeout --signal=KILL 1 readlink /proc/{}/exe", old[0]);
        let is_gone = "! grep -qsa /[p]ortguard /proc/[0-9]*/cmdline";
        m.wait_until("portguard gives it up", SOON, || m.sh(&format!("{hangs} && {is_gone}")).status.success());
        m.ok(&format!("kill -KILL {stuck}"));
        m.wait_until("they go on, as the file system is gone", SOON, || !m.sh(&hangs).status.success());
        let last = finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
        assert_names(message(&last), &["8080/tcp", " was signalled, and cannot be looked at any more in time"]);
        let took = since_the_first_signal(m, &last);
        let allowed = if workers == 1 { BOUND } else { BOUND * 3 / 2 };
        assert!(took < Duration::from_secs(1) + allowed, "{workers}: it took {took:?}");
        let journal = m.journal(APP);
        assert_names(&journal, &["sending SIGTERM", "could not be listed in time"]);
        assert!(!journal.contains("SIGKILL"), "{journal}");
        assert!(m.guard_entries(APP).len() < 70, "{journal}");

        m.when("the service is started again");
        m.wait_until("the start is over", SOON, || m.show(APP, "ActiveState") == "failed");
        app_service(m, "8080/tcp");
        let start = m.start(APP);

        m.then("they are stopped, and the service is up");
        assert!(start.status.success(), "{start:?}");
        assert_up_without(m, "8080/tcp", &old);
        finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old[0].to_string())]);
        m.ok(&format!("systemctl stop {APP}; umount /run/inexec; rm -f /run/inexec*; systemctl reset-failed"));
        for pid in m.holders("8080/tcp") {
            m.ok(&format!("kill -KILL {pid}"));
        }
    }
}

/// It is late at the first look, and answers while it is waited for what may be gone in a moment.
pub(super) fn holder_that_hangs_in_execve_for_a_moment_is_stopped(m: &Machine) {
    m.given("a leftover that executes another program and hangs in that for 0.9 seconds, and then ignores SIGTERM");
    file_hangs_who_closes_it(m, "0.9");
    let old = started_guarded_app(m, "8080/tcp 1 clinging /run/inexec")[0];
    stop_timeout(m, "1s");
    m.ok(&format!("systemctl stop {APP}"));

    m.when("the service is started in the midst of that");
    let start = m.sh(&format!("kill -TERM {old}; systemctl start {APP}"));

    m.then("it is found to be a leftover all the same, and the service is up");
    assert!(start.status.success(), "{start:?}");
    assert_up_without(m, "8080/tcp", &[old]);
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);
    assert_names(&sent(m, "SIGKILL", old), &["(sleep)"]);
}

pub(super) fn holder_that_moves_to_another_cgroup_is_looked_at_again_before_it_is_killed(m: &Machine) {
    const ELSEWHERE: &str = "/sys/fs/cgroup/system.slice/elsewhere.scope";
    m.given("a leftover that answers SIGTERM by moving to the scope of somebody else, and a second for it to end");
    m.ok("setsid systemd-run --scope --unit=elsewhere sleep infinity >/dev/null 2>&1 &");
    m.wait_until("it is there", SOON, || m.show("elsewhere.scope", "ActiveState") == "active");
    let inhabitant = m.processes_of("elsewhere.scope")[0];
    let old = started_guarded_app(m, &format!("8080/tcp 1 moving {ELSEWHERE}"))[0];
    stop_timeout(m, "1s");

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::from_secs(1) + GRACE);

    m.then("it is found there, proven by the ledger and stopped, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &[old]);
    assert_names(&m.journal(APP), &["it has moved to another cgroup; looking again"]);
    finding(m, APP, &[("RELATION", "escaped"), ("HOLDER_PID", &old.to_string())]);

    m.then("who lives there is unharmed");
    assert!(m.alive(inhabitant));
}

pub(super) fn holder_that_appears_while_another_is_stopped_is_refused(m: &Machine) {
    m.given("a leftover that answers SIGTERM by handing its socket to a process of web.service");
    m.unit("web.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/receiver.py /run/receiver\n");
    m.ok("systemctl start web.service");
    m.wait_until("the receiver waits", SOON, || m.sh("test -S /run/receiver").status.success());
    let web = m.main_pid("web.service");
    let old = started_guarded_app(m, "8080/tcp 1 passing /run/receiver")[0];

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::ZERO);

    m.then("the leftover is gone, and the start refused: who has the port now is another's, and unharmed");
    assert!(!restart.status.success(), "{restart:?}");
    m.wait_until("the leftover is gone", SOON, || !m.alive(old));
    refused(m, APP, &[("HOLDER_PID", &web.to_string())]);
    assert_unharmed(m, "8080/tcp", web);
    let verdict = finding(m, APP, &[("VERDICT", "refused")]);
    assert_names(message(&verdict), &["1 process was stopped"]);
    assert!(signals(m).iter().all(|entry| field(entry, "PORTGUARD_HOLDER_PID") == old.to_string()));
}

pub(super) fn holder_that_changes_all_the_time_costs_nobody_else_anything(m: &Machine) {
    m.given("a leftover that is another process every few thousandths of a second");
    started_guarded_app(m, "8080/tcp 1 relaying");
    m.given("others that come and go as quickly, and note each of theirs that was ended by a signal");
    m.unit(
        "others.service",
        "[Service]\nExecStart=/bin/sh -c 'while :; do sleep 0.002 || echo \"$?\" >>/run/harmed; done'\n",
    );
    m.ok("systemctl start others.service");

    m.when("the service is restarted");
    // Each of them takes a processor from it, and all its attempts are of such.
    let restart = restart_within(m, Duration::from_secs(1));

    m.then("portguard has come to an end, and says to which");
    let freed = restart.status.success();
    let verdicts: Vec<String> =
        m.guard_entries(APP).iter().map(|entry| field(entry, "PORTGUARD_VERDICT").to_owned()).collect();
    let last = verdicts.last().expect("a verdict");
    let expected: &[&str] = if freed { &["freed"] } else { &["refused", "still-held", "not-permitted"] };
    assert!(expected.contains(&last.as_str()), "{restart:?}: {verdicts:?}");

    m.then("nobody else was ended");
    assert_eq!(m.show("others.service", "ActiveState"), "active");
    assert_eq!(m.sh("cat /run/harmed 2>/dev/null").stdout, "");
}

/// With `Type=simple` and no `NotifyAccess=` systemd gives nobody a `NOTIFY_SOCKET`.
pub(super) fn start_timeout_is_kept_without_a_notify_socket(m: &Machine) {
    m.given("a leftover that ignores SIGTERM, a minute for it, and a start that may take four seconds");
    m.unit(APP, "[Service]\nKillMode=process\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 1 stubborn\n");
    stop_timeout(m, "60s");
    impatient(m, "ExecStartPre=/bin/sh -c 'echo \"socket:$NOTIFY_SOCKET\" >/run/notify'\n");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    m.wait_until("it is up", SOON, || m.holders("8080/tcp").len() == 2);
    assert_eq!(m.ok("cat /run/notify").trim(), "socket:");
    let old = workers(m);

    m.when("the service is restarted");
    let restart = restart_within(m, Duration::from_secs(4));

    m.then("the leftover is killed before systemd gives the start up, and the service is up");
    assert!(restart.status.success(), "{restart:?}");
    sent(m, "SIGKILL", old[0]);
    finding(m, APP, &[("VERDICT", "freed")]);
    m.wait_until("the service is up", SOON, || m.holders("8080/tcp").len() == 2);
    assert_up_without(m, "8080/tcp", &old);
}

pub(super) fn wait_is_over_before_systemd_gives_the_start_up(m: &Machine) {
    m.given("a port held by web.service, a policy that waits for it for long, and a start that may take four seconds");
    let web = held_by_web(m, "50s");
    impatient(m, "");

    m.when("the guarded service is started");
    let restart = restart_within(m, Duration::from_secs(4));

    m.then("portguard gives up with its own words, and not systemd");
    assert!(!restart.status.success(), "{restart:?}");
    finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_eq!(m.show(APP, "Result"), "exit-code");
    assert_unharmed(m, "8080/tcp", web);
}

pub(super) fn wait_goes_on_where_systemd_gives_more_time(m: &Machine) {
    m.given("the same, and NotifyAccess=exec");
    let web = held_by_web(m, "50s");
    impatient(m, "NotifyAccess=exec\n");

    m.when("the guarded service is started, and web.service ends after six seconds");
    m.ok("systemd-run --on-active=6 systemctl stop web.service");
    let begin = Instant::now();
    let restart = restart_within(m, Duration::from_secs(6));

    m.then("the service is up");
    assert!(restart.status.success(), "{restart:?}");
    assert!(begin.elapsed() > Duration::from_secs(5), "after {:?}", begin.elapsed());
    assert_up_without(m, "8080/tcp", &[web]);
}

/// Starts app.service, and waits until portguard has said this.
pub(super) fn start_until(m: &Machine, verb: &str, said: &str) {
    m.ok(&format!("systemctl {verb} --no-block {APP}"));
    m.wait_until(&format!("portguard says: {said}"), SOON, || m.journal(APP).contains(said));
}

/// Calls the start off. It is over at once, and the last line says that it was, and this.
fn assert_called_off(m: &Machine, words: &[&str]) {
    let begin = Instant::now();
    m.stop(APP);
    assert!(begin.elapsed() < BOUND, "it took {:?}", begin.elapsed());
    let entries = m.guard_entries(APP);
    let last = entries.last().expect("it has said something");
    assert_eq!(field(last, "PORTGUARD_VERDICT"), "interrupted", "{}", message(last));
    assert_eq!(field(last, "PORTGUARD_EXIT_STATUS"), "143");
    assert_names(message(last), &[&["ended by SIGTERM from pid 1", "8080/tcp"], words].concat());
    // As with any command in front of a start that systemd has to end.
    assert_eq!(m.show(APP, "Result"), "signal");
}

pub(super) fn start_that_is_called_off_while_a_leftover_is_stopped_ends_at_once(m: &Machine) {
    m.given("a leftover that ignores SIGTERM, and three seconds for it to end");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn")[0];
    stop_timeout(m, "3s");

    m.when("the service is restarted, and stopped while portguard waits for the leftover");
    start_until(m, "restart", "sending SIGTERM");

    m.then("the start is over at once, and the last line says who was signalled");
    assert_called_off(m, &[&format!("pids {old} had been signalled")]);

    m.then("nobody is signalled from then on");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(signals(m).len(), 1);
    assert_unharmed(m, "8080/tcp", old);
}

pub(super) fn start_that_is_called_off_while_it_waits_ends_at_once(m: &Machine) {
    m.given("a port held by web.service, and a policy that waits for it");
    let web = held_by_web(m, "50s");

    m.when("the guarded service is started, and stopped while portguard waits");
    start_until(m, "start", "waiting for it");

    m.then("the start is over at once, and the last line says that nobody was signalled");
    assert_called_off(m, &["nobody was signalled"]);
    assert_unharmed(m, "8080/tcp", web);
}

pub(super) fn start_that_is_called_off_while_systemd_stops_a_predecessor_ends_at_once(m: &Machine) {
    for bus in [true, false] {
        m.given("old.service, which takes its time to stop, and which the guarded service replaces");
        m.unit(
            "old.service",
            "[Service]\nType=notify\nTimeoutStopSec=60\nExecStop=/bin/sleep 8\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp\n",
        );
        m.ok("systemctl start old.service");
        app_replaces(m, "\"old.service\"");
        if !bus {
            m.given(
                "that there is no bus, so that systemctl is asked, which systemd has to end with the start as well",
            );
            m.unit(&format!("{APP}.d/kill.conf"), "[Service]\nKillMode=control-group\n");
            take_the_bus_away(m);
            m.forget_journal();
        }

        m.when("it is started, and stopped while portguard waits for old.service to be down");
        start_until(m, "start", "asking systemd to stop old.service");
        // It is said before it is asked for.
        m.wait_until("old.service is being stopped", SOON, || m.show("old.service", "ActiveState") == "deactivating");

        m.then("the start is over at once, and the last line says what goes on");
        assert_called_off(m, &["nobody was signalled, and systemd had been asked to stop old.service"]);
        m.wait_until("old.service is down", SOON, || m.show("old.service", "ActiveState") == "inactive");
        assert_nobody_signalled(m, APP);
    }
}

pub(super) fn start_that_is_called_off_in_the_midst_of_a_look_signals_nobody(m: &Machine) {
    m.given("a leftover, and a bus that takes connections and says nothing, so that a look takes a second");
    let old = started_guarded_app(m, "8080/tcp")[0];
    let bus = m.main_pid("dbus.service");
    m.ok(&format!("kill -STOP {bus}"));

    m.when("the service is restarted, and stopped while portguard looks");
    m.ok(&format!("systemctl restart --no-block {APP}"));
    m.wait_until("portguard runs", SOON, || m.show(APP, "SubState") == "start-pre");
    let begin = Instant::now();
    m.ok(&format!("systemctl stop {APP}"));
    let took = begin.elapsed();
    m.ok(&format!("kill -CONT {bus}"));

    m.then("the look is over at once, the leftover was not touched, and the last line says that nobody was signalled");
    assert!(took < Duration::from_millis(600), "it took {took:?}, and the bus alone would have had a second");
    assert_unharmed(m, "8080/tcp", old);
    assert_nobody_signalled(m, APP);
    let verdict = finding(m, APP, &[("VERDICT", "interrupted")]);
    assert_names(message(&verdict), &["ended by SIGTERM from pid 1", "nobody was signalled"]);
}

pub(super) fn start_that_is_called_off_by_another_signal_ends_at_once(m: &Machine) {
    // One that ends a process, one that ends nobody (as that of httpd), and one without a name of its own.
    for (signal, status) in [("SIGUSR1", "138"), ("SIGWINCH", "156"), ("SIGRTMIN+3", "165")] {
        m.given(&format!("a port held by web.service, a policy that waits for it, and KillSignal={signal}"));
        let web = held_by_web(m, "50s");
        m.unit(&format!("{APP}.d/kill.conf"), &format!("[Service]\nKillSignal={signal}\nTimeoutStopSec=20s\n"));
        m.forget_journal();

        m.when("the guarded service is started, and stopped while portguard waits");
        start_until(m, "start", "waiting for it");
        let begin = Instant::now();
        m.stop(APP);

        m.then("the start is over at once, and the last line says by what");
        assert!(begin.elapsed() < BOUND, "{signal}: it took {:?}", begin.elapsed());
        let verdict = finding(m, APP, &[("VERDICT", "interrupted"), ("EXIT_STATUS", status)]);
        assert_names(message(&verdict), &[&format!("ended by {signal} from pid 1"), "nobody was signalled"]);
        assert_unharmed(m, "8080/tcp", web);
        m.sh(&format!("systemctl stop web.service; systemctl reset-failed {APP}"));
    }
}

pub(super) fn sigterm_of_somebody_else_does_not_let_the_service_start(m: &Machine) {
    m.given("a leftover that ignores SIGTERM, half a minute for it to end, and a service for which 143 is a success");
    let old = started_guarded_app(m, "8080/tcp 1 stubborn")[0];
    stop_timeout(m, "30s");
    m.unit(&format!("{APP}.d/success.conf"), "[Service]\nSuccessExitStatus=143\n");

    m.when("the service is restarted, and somebody kills portguard while it waits for the leftover");
    start_until(m, "restart", "sending SIGTERM");
    m.ok(&format!("kill -TERM {}", m.show(APP, "ControlPID")));

    m.then("the start fails at once, and the last line says who was signalled");
    m.wait_until("the start has failed", BOUND, || m.show(APP, "ActiveState") == "failed");
    let verdict = finding(m, APP, &[("VERDICT", "interrupted"), ("EXIT_STATUS", "143")]);
    assert_names(message(&verdict), &["ended by SIGTERM from pid", &format!("pids {old} had been signalled")]);
    assert_unharmed(m, "8080/tcp", old);
}

pub(super) fn two_hundred_starts_at_once_are_all_up(m: &Machine) {
    const MANY: usize = 200;
    m.given("two hundred guarded services, each of which leaves something on its port when it is stopped");
    m.unit(
        "many@.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=process\nExecStart=/usr/bin/perl /opt/lab/light.pl %i\n",
    );
    policy(m, "[unit.\"many@.service\"]\nports = [\"%i/tcp\"]\n");
    guard(m, "many@.service");
    let mut all = String::new();
    for port in 10_000..10_000 + MANY {
        write!(all, "many@{port}.service ").expect("a String takes everything");
    }
    let with_free_ports = || {
        let begin = Instant::now();
        m.ok(&format!("systemctl start {all}"));
        begin.elapsed()
    };
    let before = with_free_ports();
    m.ok(&format!("systemctl stop {all}"));
    let listening = || m.ok("ss -Hltn 'sport >= :10000 and sport < :10200'").lines().count();
    assert_eq!(listening(), MANY, "not all have left something");

    m.when("all of them are started at once");
    let begin = Instant::now();
    m.ok(&format!("systemctl start --no-block {all}"));

    m.then("all are up, each in place of its leftover, and not much later than where their ports are free");
    let up = || m.ok("systemctl list-units --state=active 'many@*' --no-legend").lines().count() == MANY;
    m.wait_until("all are up", Duration::from_mins(2), up);
    let took = begin.elapsed();
    assert_eq!(listening(), MANY);
    let freed = m.ok("journalctl --sync; journalctl -o cat PORTGUARD_VERDICT=freed").lines().count();
    assert_eq!(freed, MANY);
    // Such machines share the cores with whatever else is tested, which may be more now than it was at first.
    m.ok(&format!("systemctl stop {all}; kill $(pgrep -x perl)"));
    m.wait_until("all ports are free", SOON, || listening() == 0);
    let after = with_free_ports();
    assert!(took < 3 * before.max(after) + BOUND, "{took:?}; {before:?} and {after:?} with free ports");
}
