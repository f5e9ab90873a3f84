//! Servers as Debian ships them, with their own forks, PID files and socket units.

use super::sockets::manager_image;
use super::{
    APP, SOON, app_service, assert_names, assert_unharmed, field, finding, guard, message, policy, policy_for_app,
    type_next,
};
use crate::machine::Machine;

const NGINX: &str = "nginx.service";
const CACHE: &str = "cache.service";
const SSH: &str = "ssh.service";

fn guarded(m: &Machine, unit: &str, ports: &str) {
    policy(m, &format!("[unit.\"{unit}\"]\nports = [{ports}]\n"));
    guard(m, unit);
}

/// A pre-forking server whose master is gone: the workers know nothing of it, and go on to serve.
pub(super) fn nginx_workers_of_a_killed_master_are_stopped(m: &Machine) {
    m.given("nginx, guarded, with KillMode=process, whose three workers outlive their killed master");
    m.ok("sed -i 's/^worker_processes .*/worker_processes 3;/' /etc/nginx/nginx.conf");
    m.unit("nginx.service.d/kill-mode.conf", "[Service]\nKillMode=process\n");
    guarded(m, NGINX, "\"80/tcp\"");
    m.ok("systemctl start nginx.service");
    m.wait_until("nginx has its workers", SOON, || m.holders("80/tcp").len() == 4);
    m.ok(&format!("kill -KILL {}", m.main_pid(NGINX)));
    m.wait_until("nginx.service has failed", SOON, || m.show(NGINX, "ActiveState") == "failed");
    let old = m.holders("80/tcp");
    assert_eq!(old.len(), 3, "{old:?} hold the port");

    m.when("it is started");
    let start = m.start(NGINX);

    m.then("it is up, the old workers are gone, and the port is its new processes' alone");
    assert!(start.status.success(), "{start:?}");
    for &pid in &old {
        m.wait_until(&format!("the worker {pid} is gone"), SOON, || !m.alive(pid));
    }
    m.wait_until("nginx has its workers", SOON, || m.holders("80/tcp").len() == 4);
    assert_eq!(m.holders("80/tcp"), m.processes_of(NGINX));
    m.ok("python3 -c 'import urllib.request; urllib.request.urlopen(\"http://127.0.0.1/\", timeout=10)'");

    m.then("the journal has each of them as a leftover");
    for pid in old {
        let pid = pid.to_string();
        let leftover = finding(
            m,
            NGINX,
            &[("ENDPOINT", "80/tcp"), ("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &pid)],
        );
        assert_eq!(field(&leftover, "PORTGUARD_HOLDER_EXE"), "/usr/sbin/nginx");
    }
    finding(m, NGINX, &[("VERDICT", "freed")]);
}

pub(super) fn foreign_nginx_is_refused_and_what_to_type_frees_its_port(m: &Machine) {
    m.given("nginx, which serves on the port of the guarded service");
    m.ok("systemctl start nginx.service");
    let master = m.main_pid(NGINX);
    app_service(m, "80/tcp");
    policy_for_app(m, "80/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails with 69, and the journal names nginx.service");
    assert!(!start.status.success(), "{start:?}");
    let pid = master.to_string();
    let refused = finding(
        m,
        APP,
        &[
            ("ENDPOINT", "80/tcp"),
            ("RELATION", "other-unit"),
            ("ACTION", "refuse"),
            ("HOLDER_PID", &pid),
            ("HOLDER_UNIT", NGINX),
        ],
    );
    assert_names(message(&refused), &["80/tcp", &pid, NGINX]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);
    finding(m, APP, &[("VERDICT", "refused")]);

    m.then("nginx is unharmed");
    assert_unharmed(m, "80/tcp", master);
    assert_eq!(m.main_pid(NGINX), master);

    m.when("somebody types what the line says, and starts the service again");
    type_next(m, &refused);
    let start = m.start(APP);

    m.then("it is up");
    assert!(start.status.success(), "{start:?}");
    assert!(m.holders("80/tcp").contains(&m.main_pid(APP)));
}

pub(super) fn daemon_that_a_stop_left_behind_is_stopped(m: &Machine) {
    m.given("memcached, guarded, which goes to the background by itself and outlives a stop");
    // Where its port is taken it says so in the background, and systemd waits for a PID file that never comes.
    m.unit(
        CACHE,
        "[Service]\nType=forking\nPIDFile=/run/memcached.pid\nKillMode=none\nTimeoutStartSec=20s\n\
         ExecStart=/usr/bin/memcached -d -u root -P /run/memcached.pid -p 11211\n",
    );
    guarded(m, CACHE, "\"11211/tcp\"");
    m.ok("systemctl start cache.service");
    let old = m.main_pid(CACHE);
    m.stop(CACHE);
    assert_unharmed(m, "11211/tcp", old);

    m.when("the service is started");
    let start = m.start(CACHE);

    m.then("it is up, the old daemon is gone, and the port is the new one's");
    assert!(start.status.success(), "{start:?}");
    m.wait_until("the old daemon is gone", SOON, || !m.alive(old));
    assert_eq!(m.holders("11211/tcp"), [m.main_pid(CACHE)]);
    finding(m, CACHE, &[("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);
    finding(m, CACHE, &[("VERDICT", "freed")]);
}

/// A service as init scripts had it: su opens a session for the daemon, which leaves the unit's cgroup empty.
fn daemon_started_by_su(m: &Machine, user: &str, command: &str, endpoint: &str) -> u32 {
    let su = format!("/bin/su -s /bin/sh {user} -c '{command}'");
    m.unit(CACHE, &format!("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={su}\n"));
    guarded(m, CACHE, &format!("\"{endpoint}\""));
    m.ok("systemctl start cache.service");
    m.wait_until("the daemon listens", SOON, || m.holders(endpoint).len() == 1);
    let daemon = m.holders(endpoint)[0];
    assert_names(&m.ok(&format!("grep ^0:: /proc/{daemon}/cgroup")), &["/session-", ".scope"]);
    daemon
}

pub(super) fn daemon_that_su_took_to_a_session_is_stopped(m: &Machine) {
    m.given("memcached, guarded, which su has taken out of the unit's cgroup to a session");
    let old = daemon_started_by_su(m, "memcache", "memcached -d -p 11211", "11211/tcp");

    m.when("the service is restarted");
    let restart = m.restart(CACHE);

    m.then("it is recognised and stopped, and the port is the new one's");
    assert!(restart.status.success(), "{restart:?}");
    m.wait_until("the old daemon is gone", SOON, || !m.alive(old));
    m.wait_until("the new daemon listens", SOON, || m.holders("11211/tcp").len() == 1);
    finding(m, CACHE, &[("RELATION", "escaped"), ("ACTION", "stop"), ("HOLDER_PID", &old.to_string())]);
    finding(m, CACHE, &[("VERDICT", "freed")]);
}

/// Redis writes its title over the memory in which its environment was: nothing tells it from a user's own server then.
pub(super) fn daemon_without_an_environment_in_a_session_is_refused(m: &Machine) {
    m.given("redis, guarded, which su has taken to a session, and which shows no environment");
    let old = daemon_started_by_su(m, "redis", "redis-server --daemonize yes --dir /tmp", "6379/tcp");

    m.when("the service is restarted");
    let restart = m.restart(CACHE);

    m.then("the start fails with 69, and the journal names the session");
    assert!(!restart.status.success(), "{restart:?}");
    let refused = finding(m, CACHE, &[("RELATION", "session"), ("ACTION", "refuse"), ("HOLDER_PID", &old.to_string())]);
    assert_names(message(&refused), &["6379/tcp", "redis-server", "session"]);
    assert_names(&m.journal(CACHE), &["status=69/UNAVAILABLE"]);
    finding(m, CACHE, &[("VERDICT", "refused")]);

    m.then("redis is unharmed");
    assert_unharmed(m, "6379/tcp", old);
}

/// It may be the only way in that somebody has.
pub(super) fn sshd_that_a_stop_left_behind_is_never_signalled(m: &Machine) {
    m.given("an sshd that a stop of the guarded ssh.service has left behind");
    // Each connection wants the folder in /run, which systemd would remove with the service.
    m.unit("ssh.service.d/kill-mode.conf", "[Service]\nKillMode=none\nRuntimeDirectoryPreserve=yes\n");
    guarded(m, SSH, "\"22/tcp\"");
    m.ok("systemctl start ssh.service");
    let sshd = m.main_pid(SSH);
    m.stop(SSH);
    assert_unharmed(m, "22/tcp", sshd);

    m.when("ssh.service is started");
    let start = m.start(SSH);

    m.then("the start fails with 69, and the journal says whose it is and why it was not touched");
    assert!(!start.status.success(), "{start:?}");
    let pid = sshd.to_string();
    let refused = finding(m, SSH, &[("RELATION", "leftover"), ("ACTION", "refuse"), ("HOLDER_PID", &pid)]);
    assert_names(message(&refused), &["22/tcp", "sshd", "never signals"]);
    assert_names(&m.journal(SSH), &["status=69/UNAVAILABLE"]);
    finding(m, SSH, &[("VERDICT", "refused")]);

    m.then("sshd still answers");
    assert_unharmed(m, "22/tcp", sshd);
    assert_names(&m.connect(22).stdout, &["SSH-2.0-"]);
}

pub(super) fn sshd_by_socket_activation_passes(m: &Machine) {
    m.given("ssh.socket, as the release has it, and the service that it starts guarded");
    // With Accept=yes, as on bullseye, an instance for each connection.
    let (unit, started) = match m.show("ssh.socket", "Accept").as_str() {
        "yes" => ("ssh@.service", "ssh@*.service"),
        _ => (SSH, SSH),
    };
    guarded(m, unit, "\"22/tcp\"");
    m.ok("systemctl start ssh.socket");
    let manager = manager_image(m);

    m.when("a client connects");
    let answer = m.connect(22);

    m.then("sshd is started and answers");
    assert_names(&answer.stdout, &["SSH-2.0-"]);

    m.then("the journal says that the port's holder is the service's own socket unit");
    let passed = finding(m, started, &[("RELATION", "own-socket-unit"), ("ACTION", "pass"), ("ENDPOINT", "22/tcp")]);
    assert_names(message(&passed), &["ssh.socket"]);

    m.then("PID 1 has not been touched");
    assert_eq!(manager_image(m), manager);
}

pub(super) fn ssh_socket_is_refused_and_what_to_type_frees_its_port(m: &Machine) {
    m.given("ssh.socket, which has the port of the guarded service");
    m.ok("systemctl start ssh.socket");
    app_service(m, "22/tcp");
    policy_for_app(m, "22/tcp");
    guard(m, APP);
    let manager = manager_image(m);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails with 69, and the journal names the socket unit");
    assert!(!start.status.success(), "{start:?}");
    let refused = finding(m, APP, &[("ENDPOINT", "22/tcp"), ("RELATION", "other-socket-unit"), ("ACTION", "refuse")]);
    assert_names(message(&refused), &["22/tcp", "ssh.socket"]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);
    finding(m, APP, &[("VERDICT", "refused")]);

    m.then("the socket unit still listens, and PID 1 has not been touched");
    assert_eq!(m.show("ssh.socket", "SubState"), "listening");
    assert_eq!(m.holders("22/tcp"), [1]);
    assert_eq!(manager_image(m), manager);

    m.when("somebody types what the line says, and starts the service again");
    type_next(m, &refused);
    let start = m.start(APP);

    m.then("it is up");
    assert!(start.status.success(), "{start:?}");
    assert!(m.holders("22/tcp").contains(&m.main_pid(APP)));
}

pub(super) fn rpcbind_by_socket_activation_passes(m: &Machine) {
    m.given("rpcbind.socket, which has 111 in both families and protocols, and its service guarded");
    guarded(m, "rpcbind.service", "\"111/tcp\", \"111/udp\"");
    m.ok("systemctl start rpcbind.socket");
    let manager = manager_image(m);

    m.when("a client asks which services there are");
    let answer = m.sh("rpcinfo -p 127.0.0.1");

    m.then("rpcbind is started and answers");
    assert!(answer.status.success(), "{answer:?}");
    assert_names(&answer.stdout, &["portmapper"]);

    m.then("the journal says that the ports' holder is the service's own socket unit");
    for endpoint in ["111/tcp", "111/udp"] {
        let fields = [("ENDPOINT", endpoint), ("RELATION", "own-socket-unit"), ("ACTION", "pass")];
        assert_names(message(&finding(m, "rpcbind.service", &fields)), &["rpcbind.socket"]);
    }
    finding(m, "rpcbind.service", &[("VERDICT", "passed")]);

    m.then("PID 1 has not been touched");
    assert_eq!(manager_image(m), manager);
}
