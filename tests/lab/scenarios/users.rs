//! Without root: in the manager of a user, and without the plus.

use super::{APP, SOON, assert_names, assert_unharmed, policy_for_app, web_has_the_port};
use crate::machine::Machine;

/// Runs a command as alice, on whose own manager `systemctl --user` works.
pub(super) fn as_alice(command: &str) -> String {
    format!(
        "setpriv --reuid=alice --regid=alice --init-groups env HOME=/home/alice XDG_RUNTIME_DIR=/run/user/$(id -u alice) {command}"
    )
}

/// Alice, whose own manager runs, and has a bus of its own.
pub(super) fn alices_manager(m: &Machine) {
    // What Debian has in dbus-user-session.
    m.write("/etc/systemd/user/dbus.socket", "[Socket]\nListenStream=%t/bus\n[Install]\nWantedBy=sockets.target\n");
    m.write(
        "/etc/systemd/user/dbus.service",
        "[Unit]\nRequires=dbus.socket\n[Service]\nExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork \
         --nopidfile --systemd-activation --syslog-only\n",
    );
    m.ok("systemctl --global enable dbus.socket 2>/dev/null && useradd -m alice");
    m.ok("systemctl start user@$(id -u alice).service");
    m.ok(&as_alice("systemctl --user start dbus.service"));
}

/// Writes a unit of alice's, and makes her manager read it.
pub(super) fn user_unit(m: &Machine, name: &str, text: &str) {
    m.write(&format!("/home/alice/.config/systemd/user/{name}"), text);
    m.ok(&format!("chown -R alice: /home/alice && {}", as_alice("systemctl --user daemon-reload")));
}

pub(super) fn user_service_over_its_leftover_comes_up(m: &Machine) {
    m.given("alice's own service, guarded without root, whose worker survives a stop and holds 8080");
    m.ok("useradd -m alice && mkdir -p /home/alice/.config/systemd/user");
    m.write(
        "/home/alice/.config/systemd/user/app.service",
        "[Service]\nType=notify\nKillMode=process\nExecStartPre=/usr/bin/portguard --user --unit %n --port 8080\n\
         ExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp\n",
    );
    m.ok("chown -R alice: /home/alice && systemctl start user@$(id -u alice).service");
    m.ok(&as_alice("systemctl --user start app.service"));
    let main = || m.ok(&as_alice("systemctl --user show -P MainPID app.service")).trim().parse::<u32>().expect("a pid");
    let old_main = main();
    let mut old = m.holders("8080/tcp");
    old.retain(|&pid| pid != old_main);
    assert_eq!(old.len(), 1, "no worker holds the port");

    m.when("it is restarted");
    let restart = m.sh(&as_alice("systemctl --user restart app.service"));

    m.then("it is up, and the leftover is gone");
    let journal = m.ok("journalctl --sync; journalctl --no-pager -t portguard");
    assert!(restart.status.success(), "{restart:?}\n{journal}");
    m.wait_until("the leftover is gone", SOON, || !m.alive(old[0]));
    assert!(m.holders("8080/tcp").contains(&main()));
    assert_names(&journal, &["8080/tcp", &old[0].to_string(), "leftover"]);
}

pub(super) fn without_the_plus_the_holder_is_still_named(m: &Machine) {
    m.given("a guard that runs as alice, and a port held by a service of root's");
    m.ok("useradd -m alice");
    let web = web_has_the_port(m);
    m.unit(APP, "[Service]\nUser=alice\nExecStartPre=/usr/bin/portguard --unit %n\nExecStart=/bin/sleep infinity\n");
    policy_for_app(m, "8080/tcp");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails with 77, and the journal names the unit by the socket's birth, and the plus");
    assert!(!start.status.success(), "{start:?}");
    let journal = m.journal(APP);
    assert_names(&journal, &["status=77/NOPERM", "8080/tcp", "web.service", "ExecStartPre=+"]);
    assert_unharmed(m, "8080/tcp", web);
}

pub(super) fn user_socket_activation_passes(m: &Machine) {
    m.given("alice's own guarded service, whose port her manager holds for it");
    m.ok("useradd -m alice && mkdir -p /home/alice/.config/systemd/user");
    m.write("/home/alice/.config/systemd/user/app.socket", "[Socket]\nListenStream=8080\n");
    m.write(
        "/home/alice/.config/systemd/user/app.service",
        "[Service]\nExecStartPre=/usr/bin/portguard --user --unit %n --port 8080\n\
         ExecStart=/usr/bin/python3 /opt/lab/activated.py\n",
    );
    m.ok("chown -R alice: /home/alice && systemctl start user@$(id -u alice).service");
    m.ok(&as_alice("systemctl --user start app.socket"));

    m.when("a client connects");
    let answer = m.connect(8080);

    m.then("the service is started and answers, and the journal says why it could");
    let journal = m.ok("journalctl --sync; journalctl --no-pager -t portguard");
    assert_eq!(answer.stdout.trim(), "served by activation", "{answer:?}\n{journal}");
    assert_names(&journal, &["own-socket-unit", "app.socket"]);
}
