//! Names that somebody has given: a cgroup in a tree of their own, a copy of a program, the same arguments elsewhere. None
//! of them gets anybody stopped, lets a held port pass for free, or ends in a command against somebody else.

use super::predecessors::app_replaces;
use super::users::as_alice;
use super::{
    APP, SOON, app_service, assert_names, assert_next_frees, assert_nobody_signalled, assert_unharmed, field, guard,
    message, policy, policy_for_app, refused,
};
use crate::machine::Machine;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn alice_and_her_manager(m: &Machine) {
    m.ok("useradd -m alice && systemctl start user@$(id -u alice).service");
}

/// Alice listens on 8080 with a socket born in a cgroup of hers that has the name of this unit; her process.
fn in_the_name_of(m: &Machine, unit: &str) -> u32 {
    let command = format!("systemd-run --user -q /usr/bin/python3 /opt/lab/in_anothers_name.py 127.0.0.1 8080 {unit}");
    m.ok(&as_alice(&command));
    m.wait_until("she listens", SOON, || m.holders("8080/tcp").len() == 1);
    let pid = m.holders("8080/tcp")[0];
    m.wait_until("she is in init.scope", SOON, || m.ok(&format!("cat /proc/{pid}/cgroup")).contains("/init.scope"));
    pid
}

pub(super) fn cgroup_of_a_user_is_no_socket_unit_of_the_system(m: &Machine) {
    m.given(
        "a socket unit of the system's that the guarded service replaces, and alice, who has given a cgroup its name",
    );
    alice_and_her_manager(m);
    m.unit("old.socket", "[Socket]\nListenStream=127.0.0.1:9000\n");
    m.unit("old.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start old.socket");
    let alice = in_the_name_of(m, "old.socket");
    app_replaces(m, "\"old.socket\"");

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused for what alice's process is, and old.socket still listens");
    assert!(!start.status.success(), "{start:?}");
    refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_PID", &alice.to_string())]);
    assert_eq!(m.show("old.socket", "ActiveState"), "active");
    assert_unharmed(m, "8080/tcp", alice);

    m.when("the name is that of a socket unit which starts the guarded service");
    m.ok(&format!("kill -KILL {alice}"));
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    m.unit("app.socket", "[Socket]\nListenStream=/run/app.sock\n");
    m.ok("systemctl start app.socket");
    let alice = in_the_name_of(m, "app.socket");
    let start = m.start(APP);

    m.then("the port does not pass for the unit's own");
    assert!(!start.status.success(), "{start:?}");
    let refused = refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_PID", &alice.to_string())]);
    assert_names(field(&refused, "PORTGUARD_NEXT"), &["runuser -u alice", "systemctl --user list-sockets"]);

    m.when("no process has it any more, so that there is nothing but the name of its birthplace");
    m.ok(&format!("systemctl reset-failed {APP}; kill -USR1 {alice}"));
    m.wait_until("it is in a message", SOON, || m.holders("8080/tcp").is_empty());
    assert_names(&m.ok("ss -Hltn 'sport = :8080'"), &["LISTEN"]);
    let start = m.start(APP);

    m.then("nor does it then");
    assert!(!start.status.success(), "{start:?}");
    super::refused(m, APP, &[("RELATION", "kernel-held")]);
}

/// The socket was born in an earlier run; who has it now is alice, from a cgroup in which her manager is.
pub(super) fn socket_in_a_users_init_scope_is_in_no_fd_store(m: &Machine) {
    m.given("a guarded service that has handed its listener to a process of alice's, which is in her init.scope");
    alice_and_her_manager(m);
    m.write(
        "/opt/lab/recv.py",
        "import os, socket, signal\n\
         base = f'/sys/fs/cgroup/user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service'\n\
         open(base + '/init.scope/cgroup.procs', 'w').write('0')\n\
         exec(open('/opt/lab/receiver.py').read())\n",
    );
    m.ok(&as_alice("systemd-run --user -q /usr/bin/python3 /opt/lab/recv.py /tmp/victim"));
    m.wait_until("the receiver waits", SOON, || m.sh("test -S /tmp/victim").status.success());
    m.unit(
        APP,
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/python3 /opt/lab/passer.py 8080 /tmp/victim\n",
    );
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    let holders = m.holders("8080/tcp");
    assert_eq!(holders.len(), 1, "the socket was not handed over");

    m.when("the service is restarted");
    let restart = m.restart(APP);

    m.then("it is refused, and nobody is touched");
    assert!(!restart.status.success(), "{restart:?}");
    refused(m, APP, &[("HOLDER_PID", &holders[0].to_string())]);
    assert_unharmed(m, "8080/tcp", holders[0]);
    assert_nobody_signalled(m, APP);
}

pub(super) fn dependent_that_was_started_meanwhile_is_not_stopped(m: &Machine) {
    let held = |port: u16, more: &str| {
        format!("[Service]\nType=forking\n{more}ExecStart=/usr/bin/python3 /opt/lab/listener.py {port}\n")
    };
    m.given("two units that the guarded service replaces, of which the first takes three seconds to stop");
    m.unit("a.service", &held(8080, "ExecStop=/bin/sleep 3\n"));
    m.unit("b.service", &held(8081, ""));
    m.unit("third.service", "[Unit]\nRequires=b.service\nAfter=b.service\n[Service]\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start a.service b.service");
    app_service(m, "8080/tcp");
    let replaces = "replaces = [\"a.service\", \"b.service\"]";
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\", \"8081/tcp\"]\n{replaces}\n"));
    guard(m, APP);

    m.when("the guarded service is started, and meanwhile a third unit that hangs on the second");
    m.ok(&format!("systemctl start --no-block {APP}"));
    m.wait_until("the first is on its way down", SOON, || m.show("a.service", "ActiveState") == "deactivating");
    m.ok("systemctl start third.service");
    let third = m.main_pid("third.service");
    m.wait_until("the start has failed", SOON, || m.show(APP, "ActiveState") == "failed");

    m.then("the third and the second live, and the journal says why");
    assert!(m.alive(third));
    assert_eq!(m.show("b.service", "ActiveState"), "active");
    let refused =
        super::finding(m, APP, &[("RELATION", "predecessor"), ("ACTION", "refuse"), ("HOLDER_UNIT", "b.service")]);
    assert_names(message(&refused), &["third.service"]);
}

pub(super) fn same_command_in_another_folder_is_no_lookalike(m: &Machine) {
    m.given("another program of the same name, run by the same interpreter with the same arguments in another folder");
    m.ok("mkdir -p /srv/a /srv/b && cp /opt/lab/server.py /srv/a/server.py && cp /opt/lab/server.py /srv/b/server.py");
    m.unit(APP, "[Service]\nWorkingDirectory=/srv/a\nExecStart=/usr/bin/python3 server.py 8080\n");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\non-lookalike = \"stop\"\n"));
    guard(m, APP);
    m.ok("cd /srv/b && setsid /usr/bin/python3 server.py 8080 </dev/null >/dev/null 2>&1 &");
    m.wait_until("it listens", SOON, || m.holders("8080/tcp").len() == 1);
    let other = m.holders("8080/tcp")[0];

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("it is refused, and the other unharmed");
    assert!(!start.status.success(), "{start:?}");
    refused(m, APP, &[("RELATION", "other-process"), ("HOLDER_PID", &other.to_string())]);
    assert_unharmed(m, "8080/tcp", other);

    m.when("the one in its own folder has been started by hand");
    m.ok(&format!(
        "kill -KILL {other}; cd /srv/a && setsid /usr/bin/python3 server.py 8080 </dev/null >/dev/null 2>&1 &"
    ));
    m.wait_until("it listens", SOON, || m.holders("8080/tcp").iter().any(|&pid| pid != other));
    let copy = m.holders("8080/tcp")[0];
    let start = m.start(APP);

    m.then("that is stopped, as the policy says");
    assert!(start.status.success(), "{start:?}");
    assert!(!m.alive(copy) || m.ok(&format!("cat /proc/{copy}/stat")).contains(") Z "));
}

/// Typed as root, `podman stop proddb` would stop a container of root's.
pub(super) fn names_of_engines_do_not_aim_a_command_at_others(m: &Machine) {
    m.given("alice, who runs a program under the name of conmon, with the name of somebody else's container");
    m.ok("useradd -m alice && cp $(readlink -f /usr/bin/python3) /home/alice/conmon");
    m.ok("setsid su -l alice -c '/home/alice/conmon /opt/lab/listener.py 8080 -n proddb; exec sleep infinity' >/dev/null 2>&1 &");
    m.wait_until("it listens", SOON, || m.holders("8080/tcp").len() == 1);
    let alice = m.holders("8080/tcp")[0];
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    m.start(APP);

    m.then("she is refused for the session that she is");
    let entry = refused(m, APP, &[("RELATION", "session"), ("HOLDER_PID", &alice.to_string())]);
    assert_next_frees(m, "8080/tcp", &entry);

    m.when("a service gives a cgroup that is delegated to it the name of a container");
    let script = format!(
        "#!/bin/sh\ncgroup=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/docker-{ID}.scope\nmkdir $cgroup\n\
         echo $$ >$cgroup/cgroup.procs\nexec python3 /opt/lab/listener.py 8080\n"
    );
    m.write("/usr/local/bin/evil", &script);
    m.ok("chmod 755 /usr/local/bin/evil");
    m.unit("evil.service", "[Service]\nUser=alice\nDelegate=yes\nType=forking\nExecStart=/usr/local/bin/evil\n");
    m.ok("systemctl start evil.service");
    m.start(APP);

    m.then("it is refused for the unit that it is");
    let entry = refused(m, APP, &[("RELATION", "other-unit"), ("HOLDER_UNIT", "evil.service")]);
    assert_next_frees(m, "8080/tcp", &entry);
}
