//! Units that only their names tell apart: other instances, the same name in another manager; and those who are logged in.

use super::users::{alices_manager, as_alice, user_unit};
use super::{
    APP, SOON, app_service, assert_names, assert_next_frees, assert_unharmed, guard, message, policy, policy_for_app,
    refused,
};
use crate::machine::Machine;

const HOLDS: &str = "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp 0\n";

pub(super) fn sibling_instance_is_refused_and_named(m: &Machine) {
    m.given("app@2.service with the port that app@1.service needs");
    m.unit("app@.service", HOLDS);
    policy(m, "[unit.\"app@.service\"]\nports = [\"8080/tcp\"]\n");
    guard(m, "app@.service");
    m.ok("systemctl start app@2.service");
    let sibling = m.main_pid("app@2.service");

    m.when("app@1.service is started");
    let start = m.start("app@1.service");

    m.then("it is refused, and its sibling is named and unharmed");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused(
        m,
        "app@1.service",
        &[("RELATION", "sibling"), ("HOLDER_PID", &sibling.to_string()), ("HOLDER_UNIT", "app@2.service")],
    );
    assert_unharmed(m, "8080/tcp", sibling);
    assert_next_frees(m, "8080/tcp", &refused);
}

pub(super) fn twin_in_a_users_manager_is_refused_and_named(m: &Machine) {
    m.given("an app.service in alice's own manager with the port of the system's");
    alices_manager(m);
    user_unit(m, APP, HOLDS);
    m.ok(&as_alice("systemctl --user start app.service"));
    let twin = m.holders("8080/tcp")[0];
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the system's is started");
    let start = m.start(APP);

    m.then("it is refused, and hers is named and unharmed");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused(m, APP, &[("RELATION", "twin"), ("HOLDER_PID", &twin.to_string()), ("HOLDER_UNIT", APP)]);
    assert_names(message(&refused), &["runuser -u alice --", "systemctl --user stop app.service"]);
    assert_unharmed(m, "8080/tcp", twin);
    assert_next_frees(m, "8080/tcp", &refused);
}

/// Without root, root's processes cannot be looked into, and lines have no fields: only the socket's birth tells whose it is.
pub(super) fn twin_of_the_system_is_refused_and_named_to_a_user(m: &Machine) {
    m.given("an app.service of the system's with the port of the one in alice's own manager");
    m.unit(APP, HOLDS);
    m.ok(&format!("systemctl start {APP}"));
    let twin = m.main_pid(APP);
    alices_manager(m);
    user_unit(m, APP, &format!("{HOLDS}ExecStartPre=/usr/bin/portguard --user --unit %n --port 8080\n"));

    m.when("hers is started");
    let start = m.sh(&as_alice("systemctl --user start app.service"));

    m.then("it is refused, and the unit that made the socket is named and unharmed");
    assert!(!start.status.success(), "{start:?}");
    let journal = m.ok("journalctl --sync; journalctl --no-pager -t portguard -o cat");
    assert_names(&journal, &["8080/tcp", "with a socket that app.service made (hidden)", "app.service must not start"]);
    assert_unharmed(m, "8080/tcp", twin);

    m.then("what it says to type as root shows the holder");
    let (_, next) = journal.split_once("Next: as root, ").expect("something to type next");
    let typed = m.ok(next.lines().next().unwrap_or_default());
    assert_names(&typed, &[&format!("pid={twin},")]);
}

pub(super) fn session_is_named_with_user_terminal_and_command(m: &Machine) {
    m.given("alice, who is logged in at a terminal and runs a server on the port of the guarded service");
    m.ok("useradd -m alice");
    // Without --session-command su gives the command a session without a terminal (setsid(2)).
    m.ok(
        "setsid script -qec 'su -l alice --session-command \"python3 /opt/lab/listener.py 8080; exec sleep infinity\"' \
          /dev/null </dev/null >/dev/null 2>&1 &",
    );
    m.wait_until("her server listens", SOON, || m.holders("8080/tcp").len() == 1);
    let pid = m.holders("8080/tcp")[0];
    let terminal = m.ok(&format!("ps -o tty= -p {pid}")).trim().to_owned();
    assert!(terminal.starts_with("pts/"), "{terminal}");
    let cgroup = m.ok(&format!("grep ^0:: /proc/{pid}/cgroup"));
    let session = cgroup.rsplit('/').next().and_then(|name| name.trim().strip_prefix("session-")).expect("a session");
    let session = session.trim_end_matches(".scope");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and says who, where and what, and she is unharmed");
    assert!(!start.status.success(), "{start:?}");
    let uid = m.ok("id -u alice");
    let refused =
        refused(m, APP, &[("RELATION", "session"), ("HOLDER_PID", &pid.to_string()), ("HOLDER_UID", uid.trim())]);
    assert_names(
        message(&refused),
        &["user alice", "python3 /opt/lab/listener.py 8080", &format!("login session {session}, at {terminal}")],
    );
    assert_unharmed(m, "8080/tcp", pid);
    assert_next_frees(m, "8080/tcp", &refused);
}
