//! What is waited for, what ends a wait, and two guards at once.

use std::time::{Duration, Instant};

use super::addresses::{leftover_of_app, somebody_stands_on, web_stands_on};
use super::faults::{BOUND, guard_took};
use super::hostile::limit_the_guard;
use super::{APP, SOON, app_service, assert_names, field, finding, guard, message, policy, policy_for_app};
use crate::machine::{Entry, Machine};

/// How often a wait looks by itself (`LOOK_AGAIN`, src/guard.rs), in microseconds.
const LOOKS_EVERY: u64 = 250_000;

/// A busy machine may be slower than the wait looks by itself, and then proves nothing; one that never looks before
/// its time is so in all of these.
const ATTEMPTS: usize = 6;

fn waiting_policy(m: &Machine) {
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-foreign = \"wait\"\nwait = \"50s\"\n"));
}

fn of_guard<'a>(entries: &'a [Entry], name: &str, value: &str) -> Vec<&'a Entry> {
    entries.iter().filter(|entry| field(entry, name) == value).collect()
}

/// Starts app.service, which has to wait, and the pid of its guard once it does.
fn waiting_guard(m: &Machine) -> u32 {
    let waits = || of_guard(&m.guard_entries(APP), "PORTGUARD_ACTION", "wait").len();
    let before = waits();
    m.ok(&format!("systemctl start --no-block {APP}"));
    m.wait_until("portguard says that it waits", SOON, || waits() > before);
    m.show(APP, "ControlPID").parse().expect("ControlPID is a number")
}

/// Ends what is waited for right after the guard has looked, so that by itself it would not look before its time. How
/// long it took from that look to the verdict, in microseconds.
fn woken_after(m: &Machine, ending: &str) -> u64 {
    let guard = waiting_guard(m);
    let looked = m.ok(&format!("python3 /opt/lab/after_a_look.py {guard} {ending}"));
    m.wait_until("app.service is up", SOON, || m.show(APP, "ActiveState") == "active");
    let entries = m.guard_entries(APP);
    let verdict = of_guard(&entries, "PORTGUARD_VERDICT", "free");
    let seen: u64 = field(verdict.last().expect("it is up"), "_SOURCE_REALTIME_TIMESTAMP").parse().expect("a time");
    let looked: u64 = looked.trim().parse().expect("a time");
    seen.checked_sub(looked).expect("the verdict comes after the look")
}

/// The wait of a guard that is told of what it waits for ends before it would have looked again by itself. `hold` makes
/// somebody hold the port, and says what ends that.
fn assert_woken(m: &Machine, mut hold: impl FnMut() -> String) {
    let mut took = Vec::new();
    for _ in 0..ATTEMPTS {
        took.push(woken_after(m, &hold()));
        if took.last().is_some_and(|&took| took < LOOKS_EVERY) {
            return;
        }
        m.stop(APP);
    }
    panic!("it only ever looks by itself, every {LOOKS_EVERY} us: the verdict came {took:?} us after a look");
}

fn app_of_one_process(m: &Machine) {
    m.unit(APP, "[Service]\nExecStart=/usr/bin/python3 /opt/lab/server.py 8080\n");
    waiting_policy(m);
    guard(m, APP);
}

pub(super) fn socket_unit_that_stops_ends_the_wait_at_once(m: &Machine) {
    m.given("a port that PID 1 holds for other.socket, and a policy that waits for it");
    m.unit("other.socket", "[Socket]\nListenStream=8080\n");
    m.unit("other.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/activated.py\n");
    app_of_one_process(m);

    m.when("other.socket is stopped right after portguard has looked");
    m.then("the guarded service is up before portguard would have looked again");
    assert_woken(m, || {
        m.ok("systemctl start other.socket");
        "systemctl stop other.socket".to_owned()
    });
    let waited = finding(m, APP, &[("RELATION", "other-socket-unit"), ("ACTION", "wait"), ("ENDPOINT", "8080/tcp")]);
    assert_names(message(&waited), &["other.socket", "waiting for it"]);
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

pub(super) fn holder_that_closes_its_socket_ends_the_wait_at_once(m: &Machine) {
    m.given("a process that holds the port, and a policy that waits for it");
    app_of_one_process(m);
    let mut holder = 0;

    m.when("it closes its socket right after portguard has looked, and lives on");
    m.then("the guarded service is up before portguard would have looked again");
    assert_woken(m, || {
        holder = somebody_stands_on(m, "0.0.0.0:8080/tcp");
        format!("kill -USR1 {holder}")
    });
    finding(m, APP, &[("RELATION", "other-process"), ("ACTION", "wait"), ("HOLDER_PID", &holder.to_string())]);
    assert!(m.alive(holder));
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

/// web.service is on its way down: systemd signals its processes only once its `ExecStop=` has ended.
fn web_goes_down_within(m: &Machine, span: &str) -> u32 {
    m.unit("web.service.d/slow.conf", &format!("[Service]\nExecStop=/bin/sleep {span}\nKillMode=control-group\n"));
    let web = web_stands_on(m, "0.0.0.0:8080/tcp");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok("systemctl stop --no-block web.service");
    m.wait_until("it is on its way down", SOON, || m.show("web.service", "ActiveState") == "deactivating");
    web
}

fn found_on_its_way_down(m: &Machine, web: u32) {
    let waited = finding(
        m,
        APP,
        &[
            ("RELATION", "other-unit"),
            ("ACTION", "wait"),
            ("HOLDER_PID", &web.to_string()),
            ("HOLDER_UNIT", "web.service"),
        ],
    );
    assert_names(message(&waited), &["on its way down, waiting for it"]);
    assert!(!m.guard_entries(APP).iter().any(|entry| entry.contains_key("PORTGUARD_SIGNAL")));
}

pub(super) fn unit_on_its_way_down_is_waited_for(m: &Machine) {
    m.given("web.service, which has the port, and needs two more seconds to stop");
    let web = web_goes_down_within(m, "2");

    m.when("the guarded service is started by a policy that does not wait for others");
    let start = m.start(APP);

    m.then("it waits all the same, and comes up once web.service is down");
    assert!(start.status.success(), "{start:?}");
    found_on_its_way_down(m, web);
    finding(m, APP, &[("VERDICT", "free")]);
    assert_eq!(m.show("web.service", "Result"), "success");
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

pub(super) fn unit_that_does_not_get_down_is_given_up_after_ten_seconds(m: &Machine) {
    m.given("web.service, which has the port, and needs half a minute to stop");
    let web = web_goes_down_within(m, "30");

    m.when("the guarded service is started");
    let begin = Instant::now();
    let start = m.start(APP);

    m.then("the start fails with 75 after ten seconds, and web.service is left to its own stop");
    assert!(!start.status.success(), "{start:?}");
    let took = begin.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(15)).contains(&took), "it took {took:?}");
    found_on_its_way_down(m, web);
    finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    assert_names(&m.journal(APP), &["status=75/TEMPFAIL"]);
    assert_eq!(m.show("web.service", "ActiveState"), "deactivating");
    super::assert_unharmed(m, "8080/tcp", web);
}

pub(super) fn two_guards_of_one_port_stop_the_leftover_of_its_own_unit_alone(m: &Machine) {
    const RIVAL: &str = "rival.service";
    m.given("two guarded services of one port, a leftover of each, of which app.service's holds it, and a bystander");
    m.unit(
        RIVAL,
        "[Service]\nType=notify\nKillMode=process\nExecStart=/usr/bin/python3 /opt/lab/stand.py 0.0.0.0:8081/tcp\n",
    );
    m.ok(&format!("systemctl start {RIVAL}"));
    let rivals: Vec<u32> = m.processes_of(RIVAL).into_iter().filter(|&pid| pid != m.main_pid(RIVAL)).collect();
    m.stop(RIVAL);
    m.unit(
        RIVAL,
        "[Service]\nType=notify\nKillMode=process\nExecStart=/usr/bin/python3 /opt/lab/stand.py 0.0.0.0:8080/tcp\n",
    );
    guard(m, RIVAL);
    let bystander = somebody_stands_on(m, "0.0.0.0:8082/tcp");
    let old = leftover_of_app(m, "0.0.0.0:8080/tcp", "8080/tcp");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\n[unit.\"{RIVAL}\"]\nports = [\"8080/tcp\"]\n"));

    m.when("both are started at once");
    m.sh(&format!("systemctl start {APP} {RIVAL}"));

    m.then("the leftover is gone, by the guard of its own unit");
    m.wait_until("the leftover is gone", SOON, || !m.alive(old));
    finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);

    m.then("at most one of them is up, and has the port");
    let is_up = |unit: &&str| m.show(unit, "ActiveState") == "active";
    let up: Vec<&str> = [APP, RIVAL].into_iter().filter(is_up).collect();
    assert!(up.len() <= 1, "both are up");
    for pid in m.holders("8080/tcp") {
        assert!(up.iter().any(|unit| m.processes_of(unit).contains(&pid)), "{pid} has the port, and {up:?} is up");
    }

    m.then("nobody else was signalled");
    assert!(m.alive(rivals[0]) && m.alive(bystander));
    let signalled = |unit| {
        let entries = m.guard_entries(unit);
        entries.iter().filter(|entry| field(entry, "PORTGUARD_ACTION") == "stop").count()
    };
    assert_eq!((signalled(APP), signalled(RIVAL)), (1, 0));

    m.then("both journals have a verdict, and where one was refused, that names the other unit");
    for unit in [APP, RIVAL] {
        let entries = m.guard_entries(unit);
        let last = entries.last().map(|entry| field(entry, "PORTGUARD_VERDICT")).unwrap_or_default();
        assert!(["free", "freed", "refused"].contains(&last), "{unit}: {last:?}");
        if last == "refused" {
            let other = if unit == APP { RIVAL } else { APP };
            let holder = [("ACTION", "refuse"), ("RELATION", "other-unit"), ("HOLDER_UNIT", other)];
            finding(m, unit, &holder);
        }
    }
}

/// The guarded service, for which a policy waits three seconds, is started; this is found, and the wait is over in its time.
fn assert_waited_for_in_vain(m: &Machine, found: &[(&str, &str)]) {
    app_service(m, "8080/tcp");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-foreign = \"wait\"\nwait = \"3s\"\n"));
    guard(m, APP);

    m.when("the guarded service is started");
    m.start(APP);

    m.then("it is waited for as long as the policy says, in vain");
    finding(m, APP, found);
    finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    let took = guard_took(m);
    let allowed = Duration::from_secs(3);
    // systemd notes when it began once it has forked, which can be a moment later.
    let noted_late = Duration::from_millis(100);
    assert!(took + noted_late >= allowed && took < allowed + BOUND, "portguard took {took:?}");
}

/// Each look finds another connection than the last.
pub(super) fn wait_for_one_connection_after_another_ends_in_its_time(m: &Machine) {
    m.given(
        "web.service, which has one connection after the other from 127.0.0.1:8080, and a policy that waits for it",
    );
    m.unit("web.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/changing.py 127.0.0.1 8080\n");
    m.ok("systemctl start web.service");
    m.wait_until("it is connected", SOON, || m.sh("ss -Htan 'src 127.0.0.1:8080' | grep -q ESTAB").status.success());
    assert_waited_for_in_vain(m, &[("RELATION", "client"), ("ACTION", "wait"), ("HOLDER_UNIT", "web.service")]);
}

/// Each look finds that something has gone since the last one.
pub(super) fn wait_beside_sockets_that_are_in_the_way_now_and_then_ends_in_its_time(m: &Machine) {
    m.given("alice's sockets at sixteen addresses, which are in the way of a bind there now and then, and a policy that waits for them");
    m.ok("useradd -m alice");
    m.unit("flapping.service", "[Service]\nUser=alice\nExecStart=/usr/bin/python3 /opt/lab/flapping.py 8080\n");
    m.ok("systemctl start flapping.service");
    m.wait_until("they are there", SOON, || m.sh("test -e /tmp/flapping.ready").status.success());
    assert_waited_for_in_vain(m, &[("ACTION", "wait"), ("HOLDER_UNIT", "flapping.service")]);
}

/// One process has all of them, and is waited for once.
pub(super) fn wait_for_more_sockets_than_files_may_be_open_is_woken(m: &Machine) {
    m.given("web.service, which listens on 1,200 ports, a service that wants them, and a policy that waits");
    m.write(
        "/opt/lab/ports.py",
        "import signal, socket\nkept = [socket.create_server((\"\", port)) for port in range(10000, 11200)]\n\
         open(\"/run/listens\", \"w\").write(\"all\")\nsignal.pause()\n",
    );
    m.unit("web.service", "[Service]\nLimitNOFILE=4096\nExecStart=/usr/bin/python3 /opt/lab/ports.py\n");
    m.ok("systemctl start web.service");
    m.wait_until("it listens", SOON, || m.sh("test -s /run/listens").status.success());
    app_service(m, "10000/tcp");
    let ports = "ports = [\"10000-10599/tcp\", \"10600-11199/tcp\"]";
    policy(m, &format!("[unit.\"{APP}\"]\n{ports}\non-foreign = \"wait\"\nwait = \"50s\"\n"));
    // What systemd gives a service.
    limit_the_guard(m, "--nofile=1024:4096");

    m.when("it is started, and web.service is stopped");
    waiting_guard(m);
    m.ok("systemctl stop web.service");

    m.then("it is up at once");
    m.wait_until("it is up", BOUND, || m.show(APP, "ActiveState") == "active");
    finding(m, APP, &[("VERDICT", "free")]);
}

pub(super) fn holder_on_its_way_down_is_waited_for_while_systemd_says_nothing(m: &Machine) {
    m.given("web.service, which takes 12 seconds to stop, a service that wants its port, and a policy with 40 seconds");
    m.unit(
        "web.service",
        "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 0\nExecStop=/bin/sleep 12\n",
    );
    m.ok("systemctl start web.service");
    app_service(m, "8080/tcp");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\nwait = \"40s\"\n"));
    guard(m, APP);

    m.when("web.service is stopped, the service started, and PID 1 answers nobody for as long as two looks");
    m.ok("systemctl stop --no-block web.service");
    waiting_guard(m);
    m.freeze_manager();
    std::thread::sleep(Duration::from_secs(9));
    m.thaw_manager();

    m.then("it is waited for all the same, and the service is up");
    m.wait_until("it is up", SOON * 2, || m.show(APP, "ActiveState") == "active");
    finding(m, APP, &[("VERDICT", "free")]);
}

/// Of each probe of what is free the kernel says that a socket of that port is gone, and so of whatever others do.
pub(super) fn wait_beside_what_is_free_and_comes_and_goes_takes_no_processor(m: &Machine) {
    m.given("web.service on 127.0.0.1:8080 by TCP, alice's sockets that come and go there by UDP, and a policy that waits for both and for 127.0.0.2");
    m.ok("useradd -m alice");
    m.write(
        "/opt/lab/local.py",
        "import signal, socket\nlistener = socket.create_server((\"127.0.0.1\", 8080))\nsignal.pause()\n",
    );
    m.unit("web.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/local.py\n");
    m.write(
        "/opt/lab/comes_and_goes.py",
        "import socket, time\nwhile True:\n    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flapping:\n\
         \x20       flapping.bind((\"127.0.0.1\", 8080))\n    time.sleep(0.005)\n",
    );
    m.unit("flapping.service", "[Service]\nUser=alice\nExecStart=/usr/bin/python3 /opt/lab/comes_and_goes.py\n");
    m.ok("systemctl start web.service flapping.service");
    m.wait_until("it listens", SOON, || !m.holders("8080/tcp").is_empty());
    app_service(m, "8080/tcp");
    policy(
        m,
        &format!(
            "[unit.\"{APP}\"]\nports = [\"127.0.0.1:8080/tcp\", \"127.0.0.2:8080/tcp\", \"127.0.0.1:8081/udp\"]\n\
             on-foreign = \"wait\"\nwait = \"5s\"\n"
        ),
    );
    let command = "+/bin/bash -c '/usr/bin/portguard --unit %n; status=$?; times >/run/times; exit $status'";
    m.unit(&format!("{APP}.d/10-portguard.conf"), &format!("[Service]\nExecStartPre={command}\n"));

    m.when("the guarded service is started");
    m.start(APP);

    m.then("it is waited for in vain, nearly without a processor");
    finding(m, APP, &[("VERDICT", "still-held"), ("EXIT_STATUS", "75")]);
    // Of the children, in the form 0m0.012s.
    let times = m.ok("cat /run/times");
    let seconds = |word: &str| word.trim_end_matches('s').split_once('m').and_then(|(_, s)| s.parse::<f64>().ok());
    let took: f64 = times.lines().last().unwrap_or_default().split(' ').filter_map(seconds).sum();
    assert!(took > 0.0 && took < 0.2, "{times}");
}
