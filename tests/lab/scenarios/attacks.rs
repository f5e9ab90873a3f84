//! What must not get a process stopped: tried by whoever can write the environment, the names or the ids.

use std::time::Duration;

use super::{
    APP, assert_names, assert_nobody_signalled, assert_unharmed, assert_up_without, field, finding, guard, message,
    policy_for_app, started_guarded_app, take_the_bus_away, web_has_the_port, while_systemd_is_silent,
};
use crate::machine::Machine;

/// A main process that shows no environment looks like one of nobody knows which run, and systemd notes the beginning
/// of a run after its first fork.
pub(super) fn live_main_process_is_never_left_over(m: &Machine) {
    m.given("a live service whose main process has no environment, and that calls portguard at every reload");
    m.unit(
        APP,
        "[Service]\nExecStart=/usr/bin/env -i /usr/bin/python3 /opt/lab/server.py 8080\n\
         ExecReload=+/usr/bin/portguard --unit %n --port 8080\n",
    );
    for _ in 0..5 {
        m.ok(&format!("systemctl restart {APP}"));
        m.wait_until("it listens", super::SOON, || !m.holders("8080/tcp").is_empty());
        let main = m.main_pid(APP);

        m.when("it is reloaded");
        m.sh(&format!("systemctl reload {APP}"));

        m.then("its main process lives, and portguard has said whose it is");
        assert_unharmed(m, "8080/tcp", main);
        finding(m, APP, &[("RELATION", "own-run"), ("ACTION", "refuse"), ("HOLDER_PID", &main.to_string())]);
    }
}

/// It carries the invocation id of an earlier run, which the ledger has, and lives outside the unit's cgroup.
pub(super) fn daemon_that_was_taken_over_is_not_stopped(m: &Machine) {
    m.given("a live service whose main process is the daemon of an earlier run, in no cgroup of the unit");
    m.ok("mkdir /sys/fs/cgroup/nobodys");
    m.unit(
        APP,
        "[Service]\nType=forking\nKillMode=none\nPIDFile=/run/app.pid\nExecStartPre=+/usr/bin/portguard --unit %n --port 9999\n\
         ExecStart=/usr/bin/python3 /opt/lab/taken_over.py 8080 /run/app.pid /sys/fs/cgroup/nobodys\n\
         ExecReload=+/bin/sh -c 'sleep 1; exec /usr/bin/portguard --unit %n --port 8080'\n",
    );
    m.ok(&format!("systemctl start {APP}"));
    let daemon = m.main_pid(APP);
    m.stop(APP);
    m.ok(&format!("systemctl start {APP}"));
    assert_eq!(m.main_pid(APP), daemon, "it was not taken over");

    m.when("portguard is typed for its port on a shell, as root");
    let typed = m.sh(&format!("portguard --unit {APP} --port 8080"));

    m.then("it says whose it is, and touches nothing");
    assert_eq!(typed.status.code(), Some(69), "{typed:?}");
    assert_names(&typed.stderr, &["own-run", &daemon.to_string()]);
    assert_unharmed(m, "8080/tcp", daemon);

    assert_unharmed_by_a_silent_reload(m, daemon, "running");
}

/// `state`: that of the service before the reload and after it.
fn assert_unharmed_by_a_silent_reload(m: &Machine, daemon: u32, state: &str) {
    m.when("it is called by a reload, and PID 1 does not say what this is");
    while_systemd_is_silent(m, "reload", Duration::from_secs(5));

    m.then("it touches nothing");
    m.wait_until("the reload is over", super::SOON, || m.show(APP, "SubState") == state);
    assert_names(&m.journal(APP), &["systemd could not be asked"]);
    finding(m, APP, &[("ACTION", "refuse"), ("HOLDER_PID", &daemon.to_string())]);
    assert_nobody_signalled(m, APP);
    assert_unharmed(m, "8080/tcp", daemon);
}

/// A service without a main process, of which systemd tells none in a reload: its daemon is of the run that has started it.
pub(super) fn daemon_of_a_service_without_a_main_process_is_not_stopped(m: &Machine) {
    m.given("a live service whose daemon was begun by an earlier run, and that calls portguard at a reload");
    m.write(
        "/opt/lab/ctl.sh",
        "ss -Hltn 'sport = :8080' | grep -q . && exit\nsetsid python3 /opt/lab/listener.py 8080 </dev/null >/dev/null 2>&1\n",
    );
    m.unit(
        APP,
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=none\nExecStartPre=+/usr/bin/portguard --unit %n --port 9999\n\
         ExecStart=/bin/sh /opt/lab/ctl.sh\nExecReload=+/bin/sh -c 'sleep 1; exec /usr/bin/portguard --unit %n --port 8080'\n",
    );
    m.ok(&format!("systemctl start {APP}; systemctl stop {APP}; systemctl start {APP}"));
    let daemon = m.holders("8080/tcp")[0];

    assert_unharmed_by_a_silent_reload(m, daemon, "exited");
}

/// A process of an earlier run, alive on purpose, that takes whatever it is handed. `settings`: more of the service.
fn receiver_outlives_app(m: &Machine, settings: &str) {
    m.given("a process that outlives its service, has no port, and takes whatever it is handed");
    m.unit(
        APP,
        &format!(
            "[Service]\nKillMode=process\n{settings}\
             ExecStart=/bin/sh -c '/usr/bin/python3 /opt/lab/receiver.py /tmp/victim & exec sleep infinity'\n"
        ),
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    m.wait_until("the receiver waits", super::SOON, || m.sh("test -S /tmp/victim").status.success());
    m.stop(APP);
}

/// Starts the service, which is refused for this process that was handed the port, and for this reason.
fn assert_refused_for_handed(m: &Machine, reason: &str) {
    let victim = m.holders("8080/tcp");
    assert_eq!(victim.len(), 1, "the socket was not handed over");

    m.when("the service is started again");
    let start = m.start(APP);

    m.then("the start is refused, and says why, and the process is unharmed");
    assert!(!start.status.success(), "{start:?}");
    let pid = victim[0].to_string();
    let refusal = finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "refuse"), ("HOLDER_PID", &pid)]);
    assert!(message(&refusal).contains(reason), "{refusal:?}");
    assert_unharmed(m, "8080/tcp", victim[0]);
}

pub(super) fn socket_of_another_user_gets_no_leftover_killed(m: &Machine) {
    m.ok("useradd -m alice");
    receiver_outlives_app(m, "");
    m.given("a user who hands it a listener");
    m.ok("su -l alice -c 'python3 /opt/lab/passer.py 8080 /tmp/victim'");
    assert_refused_for_handed(m, "may have been handed over");
}

pub(super) fn socket_of_root_that_may_not_signal_gets_no_leftover_killed(m: &Machine) {
    handed_by_root_that_may_not_signal(m, "exec sleep infinity", "active", "the socket was made elsewhere");
}

pub(super) fn socket_of_root_whose_cgroup_is_gone_gets_no_leftover_killed(m: &Machine) {
    handed_by_root_that_may_not_signal(m, "exit", "inactive", "the socket was made in a cgroup that is gone");
}

/// `then`: what the service of the maker does when it has handed the socket over, and `comes_to_be`: `active`, `inactive`.
fn handed_by_root_that_may_not_signal(m: &Machine, then: &str, comes_to_be: &str, reason: &str) {
    m.ok("useradd -m alice");
    receiver_outlives_app(m, "User=alice\n");

    m.given("a service of root's that may signal nobody else, and hands it a socket");
    let pass = "/usr/bin/python3 /opt/lab/passer.py 8080 /tmp/victim";
    m.unit(
        "evil.service",
        &format!(
            "[Service]\nCapabilityBoundingSet=~CAP_KILL\nNoNewPrivileges=yes\n\
             ExecStart=/bin/sh -c '{pass}; touch /run/done; {then}'\n"
        ),
    );
    m.ok("systemctl start evil.service");
    m.wait_until(&format!("it is handed over, and its maker {comes_to_be}"), super::SOON, || {
        let state = m.sh("test -e /run/done && systemctl is-active evil.service");
        state.stdout.trim() == comes_to_be
    });
    assert_refused_for_handed(m, reason);
}

pub(super) fn socket_of_the_units_user_gets_no_process_of_roots_killed(m: &Machine) {
    m.ok("useradd -m alice");
    m.given("a service of alice's, of which a process of root's outlives it, without a port");
    m.unit(
        APP,
        "[Service]\nUser=alice\nKillMode=process\n\
         ExecStartPre=+/bin/sh -c '/usr/bin/python3 /opt/lab/receiver.py /tmp/victim & \
         while ! test -S /tmp/victim; do sleep 0.1; done'\n\
         ExecStart=/bin/sh -c '/usr/bin/python3 /opt/lab/passer.py 8080 /tmp/victim; touch /tmp/done; exec sleep infinity'\n",
    );
    policy_for_app(m, "8080/tcp");
    m.ok(&format!("systemctl start {APP}"));
    m.wait_until("alice has handed it a socket", super::SOON, || m.sh("test -e /tmp/done").status.success());
    m.stop(APP);
    m.unit(APP, "[Service]\nUser=alice\nKillMode=process\nExecStart=/bin/sleep infinity\n");
    guard(m, APP);
    assert_refused_for_handed(m, "another user made the socket");
}

/// PID 1 makes the sockets of its socket units; where the kernel says that it was itself, nothing tells for which.
pub(super) fn socket_of_another_socket_unit_gets_no_leftover_killed(m: &Machine) {
    m.ok("useradd -m bob");
    receiver_outlives_app(m, "");
    m.given("a service of bob's that hands it the socket of its socket unit, which is stopped then");
    m.unit("other.socket", "[Socket]\nListenStream=8080\n");
    m.unit(
        "other.service",
        "[Service]\nType=oneshot\nUser=bob\nExecStart=/usr/bin/python3 /opt/lab/passer.py fd /tmp/victim\n",
    );
    m.ok("systemctl start other.socket && systemctl start other.service && systemctl stop other.socket");
    m.wait_until("nobody else has it", super::SOON, || m.holders("8080/tcp").len() == 1);
    assert_refused_for_handed(m, "may have been handed over");
}

/// What a policy lets be stopped as a unit is stopped for its own sockets alone, also where the kernel tells of no birth.
pub(super) fn socket_of_unknown_birth_and_another_user_gets_no_unit_stopped(m: &Machine) {
    m.ok("useradd -m alice");
    m.given("a service of root's that may be replaced, has no port, and takes whatever it is handed");
    m.unit("old.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/receiver.py /tmp/victim\n");
    m.unit(APP, "[Service]\nExecStart=/bin/sleep infinity\n");
    super::policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\nreplaces = [\"old.service\"]\n"));
    m.ok("systemctl start old.service");
    m.wait_until("it waits", super::SOON, || m.sh("test -S /tmp/victim").status.success());
    m.given("a user who hands it a socket, and a guard without netlink, which would tell where that was made");
    m.ok("su -l alice -c 'python3 /opt/lab/passer.py 8080 /tmp/victim'");
    let victim = m.main_pid("old.service");
    assert_eq!(m.holders("8080/tcp"), [victim], "the socket was not handed over");
    m.unit(
        &format!("{APP}.d/10-portguard.conf"),
        "[Service]\nExecStartPre=/usr/bin/portguard --unit %n\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n",
    );

    m.when("the service is started");
    let start = m.start(APP);

    m.then("it is refused, and the other service is unharmed");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "predecessor"), ("ACTION", "refuse"), ("HOLDER_PID", &victim.to_string())]);
    assert_names(
        &m.journal(APP),
        &["not touched, as another user made the socket", "Next: systemctl stop old.service"],
    );
    assert_unharmed(m, "8080/tcp", victim);
}

pub(super) fn foreign_invocation_id_proves_nothing(m: &Machine) {
    m.given("a service whose first ExecStartPre= leaves a helper with the port, and with an invocation id of its own");
    let forged = "INVOCATION_ID=0123456789abcdef0123456789abcdef";
    m.unit(
        APP,
        &format!("[Service]\nExecStartPre=/usr/bin/env {forged} /usr/bin/python3 /opt/lab/listener.py 8080\nExecStart=/bin/sleep infinity\n"),
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("it is started");
    let start = m.start(APP);

    m.then("the start is refused, and the guard has stopped nobody");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &[("RELATION", "unproven"), ("ACTION", "refuse"), ("ENDPOINT", "8080/tcp")]);
    let stops = |entry: &_| field(entry, "PORTGUARD_ACTION") == "stop";
    assert!(!m.guard_entries(APP).iter().any(stops));
}

pub(super) fn environment_of_the_unit_has_no_say(m: &Machine) {
    let forged = "0123456789abcdef0123456789abcdef";
    m.given("web.service with the port, which has an id that the guarded service's environment says is its own");
    m.unit(
        "web.service",
        &format!("[Service]\nType=forking\nEnvironment=INVOCATION_ID={forged}\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080\n"),
    );
    m.unit(
        APP,
        &format!(
            "[Service]\nType=oneshot\nEnvironment=INVOCATION_ID={forged} DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/evil PATH=/evil RUST_MIN_STACK=1\n\
             ExecStart=/bin/true\n"
        ),
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service starts with its port free");
    m.ok(&format!("systemctl start {APP}"));

    m.then("the forged id is not in the ledger");
    assert!(!m.sh("cat /run/portguard/ledger/app.service").stdout.contains(forged));

    m.then("the line of the journal is of the run that it is of");
    let of_run = field(&finding(m, APP, &[("VERDICT", "free")]), "OBJECT_SYSTEMD_INVOCATION_ID").to_owned();
    assert_eq!(
        of_run,
        m.ok(&format!("journalctl -o cat --output-fields=INVOCATION_ID UNIT={APP} _PID=1 | tail -n 1")).trim()
    );

    m.when("it starts with its port held");
    m.ok("systemctl start web.service");
    let web = m.main_pid("web.service");
    let start = m.start(APP);

    m.then("the bus was asked all the same, and web.service is refused and unharmed");
    assert!(!start.status.success(), "{start:?}");
    let refused = [("RELATION", "other-unit"), ("HOLDER_UNIT", "web.service"), ("ACTION", "refuse")];
    finding(m, APP, &refused);
    assert_unharmed(m, "8080/tcp", web);
    assert!(!m.journal(APP).contains("instead of the bus"), "{}", m.journal(APP));

    m.when("it starts without a bus, and there is another systemctl where its environment says");
    m.write("/evil/systemctl", "#!/bin/sh\n/bin/touch /run/evil.ran\nexec /usr/bin/systemctl \"$@\"\n");
    m.ok("chmod 755 /evil/systemctl");
    m.forget_journal();
    take_the_bus_away(m);
    let start = m.start(APP);

    m.then("it is refused by systemd's own, and root has run nothing else");
    assert!(!start.status.success(), "{start:?}");
    finding(m, APP, &refused);
    assert_names(&m.journal(APP), &["systemctl was asked instead of the bus"]);
    assert!(!m.sh("test -e /run/evil.ran").status.success());
    assert_unharmed(m, "8080/tcp", web);
}

/// An `EnvironmentFile=` that the service's user owns, and `${NAME}` in the policy.
pub(super) fn environment_that_chooses_the_port_gets_nobody_stopped(m: &Machine) {
    m.given("web.service with a port, and a service whose port its own user may choose");
    let web = web_has_the_port(m);
    m.ok("useradd alice && install -o alice -m 644 /dev/null /run/app.env");
    m.unit(APP, "[Service]\nUser=alice\nEnvironmentFile=/run/app.env\nExecStart=/bin/sleep infinity\n");
    policy_for_app(m, "${PORT}/tcp");
    guard(m, APP);
    for (port, status) in
        [("8080", "69/UNAVAILABLE"), ("0", "78/CONFIG"), ("8080/tcp 22", "78/CONFIG"), ("", "78/CONFIG")]
    {
        m.when(&format!("it is PORT={port:?}"));
        m.ok(&format!("su alice -s /bin/sh -c 'echo PORT=\\\"{port}\\\" >/run/app.env'"));
        m.forget_journal();
        let start = m.start(APP);

        m.then("the start is refused, and nobody was touched");
        assert!(!start.status.success(), "{start:?}");
        assert_names(&m.journal(APP), &[&format!("status={status}")]);
        assert_nobody_signalled(m, APP);
        assert_unharmed(m, "8080/tcp", web);
    }
}

pub(super) fn names_of_others_forge_no_line(m: &Machine) {
    m.given("a holder whose arguments have line breaks, escape sequences and quotes");
    m.unit(
        "web.service",
        "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080 \\\n    \
         \"a\\nPORTGUARD_VERDICT=free\" \"\\x1b[2J\" \"x\\\"), a leftover of an earlier run\"\n",
    );
    m.ok("systemctl start web.service");
    super::app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    m.start(APP);

    m.then("the line shows them escaped, and is one line");
    let refused = finding(m, APP, &[("RELATION", "other-unit"), ("ACTION", "refuse")]);
    let words = message(&refused);
    assert_names(words, &["a\\nPORTGUARD_VERDICT=free", "\\u{1b}[2J", "x\\\"), a leftover"]);
    assert!(!words.chars().any(char::is_control), "{words:?}");
    assert!(!m.guard_entries(APP).iter().any(|entry| field(entry, "PORTGUARD_VERDICT") == "free"));
}

pub(super) fn umask_of_one_service_does_not_hinder_another(m: &Machine) {
    m.given("a first guarded start under UMask=0077, and a second service whose guard runs as alice");
    let old = started_guarded_app(m, "8080/tcp");
    m.ok("rm -rf /run/portguard && useradd -m alice");
    m.unit(&format!("{APP}.d/umask.conf"), "[Service]\nUMask=0077\n");
    m.ok(&format!("systemctl restart {APP}"));
    assert_up_without(m, "8080/tcp", &old);
    m.unit("other.service", "[Service]\nType=oneshot\nUser=alice\nExecStartPre=/usr/bin/portguard --unit %n --port 8081\nExecStart=/bin/true\n");

    m.when("the second is started");
    let start = m.start("other.service");

    m.then("it comes up, and its guard has said so");
    assert!(start.status.success(), "{start:?}");
    assert_names(&m.journal("other.service"), &["8081/tcp free"]);
    assert_eq!(
        m.ok("stat -c %a /run/portguard /run/portguard/ledger").split_whitespace().collect::<Vec<_>>(),
        ["755", "700"]
    );
}

/// What keeps a host reachable, or carries others' containers, is known by its executable, whatever unit it is in.
pub(super) fn programs_that_carry_others_are_not_signalled_in_the_own_cgroup(m: &Machine) {
    for program in ["containerd-shim-runc-v2", "dockerd", "docker-proxy", "dbus-daemon", "sshd"] {
        m.given(&format!("a leftover in the unit's own cgroup whose executable is called {program}"));
        m.ok(&format!("mkdir -p /opt/bin && cp $(readlink -f /usr/bin/python3) /opt/bin/{program}"));
        m.unit(
            APP,
            &format!(
                "[Service]\nType=notify\nKillMode=process\nExecStart=/opt/bin/{program} /opt/lab/app.py 8080/tcp\n"
            ),
        );
        policy_for_app(m, "8080/tcp");
        guard(m, APP);
        m.ok(&format!("systemctl start {APP}"));
        let old = super::workers(m);

        m.when("the service is restarted");
        let restart = m.restart(APP);

        m.then("the start is refused, with the reason, and the process is unharmed");
        assert!(!restart.status.success(), "{program}: {restart:?}");
        let pid = old[0].to_string();
        let refused = finding(m, APP, &[("RELATION", "leftover"), ("ACTION", "refuse"), ("HOLDER_PID", &pid)]);
        assert_names(message(&refused), &["never signals", &pid]);
        super::assert_nobody_signalled(m, APP);
        assert_unharmed(m, "8080/tcp", old[0]);
        m.ok(&format!("kill -KILL {pid}; systemctl reset-failed {APP}"));
        m.forget_journal();
    }
}

/// A name of its own (`prctl(2)`), an executable and a unit, each with what a terminal, a shell or a journal would obey.
pub(super) fn hostile_names_reach_neither_terminal_nor_shell(m: &Machine) {
    m.given("a holder whose unit has a backslash in its name, and whose own name and executable have escape sequences");
    let program = "/opt/bin/py\u{1b}[31m;reboot";
    m.ok(&format!("mkdir -p /opt/bin && cp $(readlink -f /usr/bin/python3) '{program}'"));
    m.write(
        "/opt/lab/renamed.py",
        "open('/proc/self/comm', 'w').write('a\\n\\x1b[2J`b')\nexec(open('/opt/lab/server.py').read())\n",
    );
    m.ok(&format!("systemd-run -q --unit='we\\x2db.service' '{program}' /opt/lab/renamed.py 8080"));
    m.wait_until("it listens", super::SOON, || !m.holders("8080/tcp").is_empty());
    super::app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started, and portguard is typed on a shell");
    m.start(APP);
    let typed = m.sh(&format!("portguard --unit {APP} --dry-run"));

    m.then("nothing of that reaches the journal's text, its fields, or the terminal");
    let refused = super::refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "we\\x2db.service")]);
    for (name, value) in refused.iter().filter(|(name, _)| name.starts_with("PORTGUARD_") || *name == "MESSAGE") {
        let text = value.as_str().unwrap_or_else(|| panic!("{name} is no text: {value:?}"));
        assert!(!text.chars().any(char::is_control), "{name}: {text:?}");
    }
    assert!(!typed.stderr.trim_end_matches('\n').chars().any(|c| c.is_control() && c != '\n'), "{:?}", typed.stderr);
    assert_eq!(typed.stderr.lines().count(), 2, "{:?}", typed.stderr);

    m.then("what is to be typed next is a command for that very unit");
    super::assert_next_frees(m, "8080/tcp", &refused);
}

pub(super) fn holder_that_systemd_restarts_is_not_fought(m: &Machine) {
    m.given("web.service with the port, which systemd starts again whenever it ends");
    m.unit(
        "web.service",
        "[Service]\nRestart=always\nRestartSec=0\nExecStart=/usr/bin/python3 /opt/lab/server.py 8080\n",
    );
    m.ok("systemctl start web.service");
    m.wait_until("it listens", super::SOON, || !m.holders("8080/tcp").is_empty());
    let web = m.main_pid("web.service");
    super::app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and web.service is the very process that it was");
    assert!(!start.status.success(), "{start:?}");
    let refused = super::refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_PID", &web.to_string())]);
    super::assert_nobody_signalled(m, APP);
    assert_unharmed(m, "8080/tcp", web);
    assert_eq!(m.show("web.service", "NRestarts"), "0");

    m.then("what is to be typed next stops it for good");
    super::assert_next_frees(m, "8080/tcp", &refused);
    assert_eq!(m.show("web.service", "ActiveState"), "inactive");
}

/// Over a leftover, which both would stop, and over a foreign holder, which both refuse.
pub(super) fn dry_run_judges_as_the_real_run_does(m: &Machine) {
    m.given("a unit that runs portguard twice at each start, first with --dry-run");
    let leftover = started_guarded_app(m, "8080/tcp 2");
    m.unit(
        &format!("{APP}.d/10-portguard.conf"),
        "[Service]\nExecStartPre=+-/usr/bin/portguard --unit %n --dry-run\nExecStartPre=+/usr/bin/portguard --unit %n\n",
    );
    let judged = |run: &str| {
        let entries = m.guard_entries(APP);
        let of = |entry: &&crate::machine::Entry| {
            field(entry, "_PID") == run && !field(entry, "PORTGUARD_ACTION").is_empty()
        };
        let words = ["ENDPOINT", "RELATION", "ACTION", "HOLDER_PID"];
        let row =
            |entry: &crate::machine::Entry| words.map(|word| field(entry, &format!("PORTGUARD_{word}")).to_owned());
        let mut rows: Vec<_> = entries.iter().filter(of).map(row).collect();
        rows.sort();
        rows
    };
    let runs = || {
        let mut runs: Vec<String> = Vec::new();
        for entry in m.guard_entries(APP) {
            let pid = field(&entry, "_PID").to_owned();
            if !runs.contains(&pid) {
                runs.push(pid);
            }
        }
        runs
    };

    m.when("it is restarted over its leftovers");
    let restart = m.restart(APP);
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &leftover);

    m.then("both have found and judged the same, and the first has done nothing");
    let all = runs();
    let [.., dry, real] = &all[..] else { panic!("two runs expected: {all:?}") };
    assert_eq!(judged(dry).len(), 2);
    assert_eq!(judged(dry), judged(real));

    m.when("it is started while web.service has the port");
    m.ok(&format!("systemctl kill -s KILL --kill-who=all {APP} 2>/dev/null; systemctl stop {APP}; true"));
    m.wait_until("the port is free", super::SOON, || m.holders("8080/tcp").is_empty());
    web_has_the_port(m);
    assert!(!m.start(APP).status.success());

    m.then("both have found and judged the same again");
    let all = runs();
    let [.., dry, real] = &all[..] else { panic!("two runs expected: {all:?}") };
    assert_eq!(judged(dry).len(), 1);
    assert_eq!(judged(dry), judged(real));
}
