//! The recipes of portguard-cookbook(7): the very files of `contrib/systemd/cookbook`, each over what its software
//! leaves behind.

use super::containers::{serving, started_web};
use super::users::{alices_manager, as_alice, user_unit};
use super::{SOON, assert_names, finding, policy, refused, type_next};
use crate::machine::Machine;

/// A file of the cookbook.
macro_rules! recipe {
    ($file:literal) => {
        include_str!(concat!("../../../contrib/systemd/cookbook/", $file))
    };
}

const WSGI: &str = "def application(environ, start):\n    start('200 OK', [])\n    return [b'served']\n";

const ASGI: &str = "async def application(scope, receive, send):\n    if scope['type'] == 'lifespan':\n        \
                    raise NotImplementedError\n    await send({'type': 'http.response.start', 'status': 200})\n    \
                    await send({'type': 'http.response.body', 'body': b'served'})\n";

/// A server and two children that it has handed its listener to, which outlive it. Debian's nodejs is 100 MB.
const NODE: &str = "#!/bin/sh\n[ \"$1\" = /srv/node/server.js ] && exec python3 /opt/lab/app.py \"$PORT/tcp\" 2\n";

/// A server that has something to write before it ends, which takes five seconds. Debian's JVM is 200 MB.
const JAVA: &str = "#!/usr/bin/python3
import os, signal, socket, time
def end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(5)
    open('/var/tmp/written', 'w')
    os._exit(143)
listener = socket.create_server(('', 8080))
signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
";

/// The subcommand that Debian's docker does not have on each release, for one service of one container.
const COMPOSE: &str = "#!/bin/sh
case $1-$2 in
docker-cli-plugin-metadata-*) echo '{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"lab\",\"Version\":\"1\"}' ;;
compose-up) docker run --detach --name shop-web-1 --stop-signal KILL --publish 8080:8080 tiny \\
    /bin/busybox nc -ll -p 8080 -e /bin/busybox echo served ;;
compose-down) docker rm --force shop-web-1 || true ;;
esac
";

/// Writes a unit or drop-in and a policy of the cookbook, with which neither systemd nor portguard finds any fault.
fn installed(m: &Machine, file: &str, text: &str, policy_text: &str) {
    policy(m, policy_text);
    m.unit(file, text);
    let unit = file.split('/').next().and_then(|unit| unit.strip_suffix(".d")).unwrap_or(file);
    let verified = m.sh(&format!("systemd-analyze --man=no verify {unit} 2>&1"));
    assert!(verified.status.success() && !verified.stdout.contains(unit), "{verified:?}");
    let checked = m.sh("portguard check 2>&1");
    assert!(checked.status.success(), "{checked:?}");
}

fn executable(m: &Machine, path: &str, text: &str) {
    m.write(path, text);
    m.ok(&format!("chmod 755 {path}"));
}

/// A setting of the lab's beside the recipe, by which something is left behind.
fn with(m: &Machine, unit: &str, setting: &str) {
    m.unit(&format!("{unit}.d/lab.conf"), &format!("[Service]\n{setting}\n"));
}

/// Starts the unit, and returns all that hold the port once so many do.
fn started(m: &Machine, unit: &str, endpoint: &str, holders: usize) -> Vec<u32> {
    m.ok(&format!("systemctl start {unit}"));
    m.wait_until(&format!("{holders} hold {endpoint}"), SOON, || m.holders(endpoint).len() == holders);
    m.holders(endpoint)
}

/// What was left is gone, the port is the unit's new processes' alone, and the journal has each as a leftover.
fn freed(m: &Machine, unit: &str, endpoint: &str, old: &[u32]) {
    m.wait_until(&format!("{unit} has {endpoint} for itself"), SOON, || {
        let holders = m.holders(endpoint);
        holders.contains(&m.main_pid(unit)) && !holders.iter().any(|pid| old.contains(pid))
    });
    for pid in old {
        m.wait_until(&format!("{pid} is gone"), SOON, || !m.alive(*pid));
        let leftover = [("RELATION", "leftover"), ("ACTION", "stop"), ("HOLDER_PID", &pid.to_string())];
        finding(m, unit, &leftover);
    }
    finding(m, unit, &[("VERDICT", "freed")]);
}

fn get(m: &Machine, url: &str) -> String {
    m.ok(&format!("python3 -c 'import urllib.request; print(urllib.request.urlopen(\"{url}\", timeout=10).read())'"))
}

pub(super) fn cookbook_node(m: &Machine) {
    m.given("the recipe for node, with a stand-in for /usr/bin/node: two children that have its listener on $PORT");
    executable(m, "/usr/bin/node", NODE);
    installed(m, "node.service", recipe!("node/node.service"), recipe!("node/policy.toml"));
    let mut old = started(m, "node.service", "3000/tcp", 3);
    let main = m.main_pid("node.service");
    old.retain(|&pid| pid != main);

    m.when("it is restarted, and its children outlive it");
    let restart = m.restart("node.service");

    m.then("it is up, and they are gone");
    assert!(restart.status.success(), "{restart:?}");
    freed(m, "node.service", "3000/tcp", &old);
}

pub(super) fn cookbook_gunicorn(m: &Machine) {
    m.given("the recipe for gunicorn, but with KillMode=process, whose workers outlive their killed master");
    m.write("/srv/gunicorn/app.py", WSGI);
    let unit = "gunicorn.service";
    installed(m, unit, recipe!("gunicorn/gunicorn.service"), recipe!("gunicorn/policy.toml"));
    with(m, unit, "KillMode=process");
    let mut old = started(m, unit, "8000/tcp", 3);
    let main = m.main_pid(unit);
    old.retain(|&pid| pid != main);
    m.ok(&format!("kill -KILL {main}"));
    m.wait_until("it has failed", SOON, || m.show(unit, "ActiveState") == "failed");
    assert_eq!(m.holders("8000/tcp"), old);

    m.when("it is started");
    let start = m.start(unit);

    m.then("it is up and answers, and the old workers are gone");
    assert!(start.status.success(), "{start:?}");
    freed(m, unit, "8000/tcp", &old);
    assert_names(&get(m, "http://127.0.0.1:8000/"), &["served"]);
}

pub(super) fn cookbook_uvicorn(m: &Machine) {
    m.given("the recipe for uvicorn, but with KillMode=process");
    m.write("/srv/uvicorn/app.py", ASGI);
    let unit = "uvicorn.service";
    installed(m, unit, recipe!("uvicorn/uvicorn.service"), recipe!("uvicorn/policy.toml"));
    with(m, unit, "KillMode=process");
    let mut old = started(m, unit, "8001/tcp", 3);
    let main = m.main_pid(unit);
    old.retain(|&pid| pid != main);

    m.when("its parent is killed, and Restart= starts it anew over its workers");
    m.ok(&format!("kill -KILL {main}"));

    m.then("it is up and answers, and the old workers are gone");
    m.wait_until("it has been started anew", SOON, || {
        !["0", "", &main.to_string()].contains(&&*m.show(unit, "MainPID"))
    });
    freed(m, unit, "8001/tcp", &old);
    assert_names(&get(m, "http://127.0.0.1:8001/"), &["served"]);
}

pub(super) fn cookbook_java(m: &Machine) {
    m.given("the recipe for Java, with a stand-in for /usr/bin/java that ends slowly, and a second for a stop");
    executable(m, "/usr/bin/java", JAVA);
    let unit = "java.service";
    installed(m, unit, recipe!("java/java.service"), recipe!("java/policy.toml"));
    with(m, unit, "TimeoutStopSec=1");
    let old = started(m, unit, "8080/tcp", 1);

    m.when("it is restarted, and systemd gives up the stop");
    let restart = m.restart(unit);

    m.then("the start has waited until it had written everything, and nobody was killed");
    assert!(restart.status.success(), "{restart:?}");
    freed(m, unit, "8080/tcp", &old);
    m.ok("test -e /var/tmp/written");
    let entries = m.entries(unit);
    let signals: Vec<_> = entries.iter().filter_map(|entry| entry.get("PORTGUARD_SIGNAL")).collect();
    assert_eq!(signals, ["SIGTERM"]);
}

pub(super) fn cookbook_nginx(m: &Machine) {
    m.given("the recipe for Debian's nginx, but with KillMode=process, whose workers outlive their killed master");
    let unit = "nginx.service";
    m.ok("sed -i 's/^worker_processes .*/worker_processes 2;/' /etc/nginx/nginx.conf");
    installed(m, "nginx.service.d/10-portguard.conf", recipe!("nginx/10-portguard.conf"), recipe!("nginx/policy.toml"));
    with(m, unit, "KillMode=process");
    started(m, unit, "80/tcp", 3);
    m.ok(&format!("kill -KILL {}", m.main_pid(unit)));
    m.wait_until("it has failed", SOON, || m.show(unit, "ActiveState") == "failed");
    let old = m.holders("80/tcp");
    assert_eq!(old.len(), 2);

    m.when("it is started");
    let start = m.start(unit);

    m.then("it is up and answers, and the old workers are gone");
    assert!(start.status.success(), "{start:?}");
    freed(m, unit, "80/tcp", &old);
    assert_names(&get(m, "http://127.0.0.1/"), &["nginx"]);
}

pub(super) fn cookbook_compose(m: &Machine) {
    m.given("the recipe for docker compose, with a stand-in for `compose`, and another's container on the port");
    executable(m, "/usr/local/lib/docker/cli-plugins/docker-compose", COMPOSE);
    m.ok("mkdir -p /srv/shop && systemctl start docker.service");
    started_web(m, "docker", "--publish 8080:8080");
    let unit = "shop.service";
    installed(m, unit, recipe!("compose/shop.service"), recipe!("compose/policy.toml"));

    m.when("it is started");
    let start = m.start(unit);

    m.then("it is refused, the container named, and unharmed");
    assert!(!start.status.success(), "{start:?}");
    let container = [("RELATION", "container"), ("HOLDER_CONTAINER", "web"), ("NEXT", "docker stop web")];
    let refused = refused(m, unit, &container);
    serving(m);

    m.when("somebody types what the line says, and starts it again");
    type_next(m, &refused);
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    let start = m.start(unit);

    m.then("it is up");
    assert!(start.status.success(), "{start:?}");
    serving(m);

    m.when("it is started anew over a container of its own that a stop has left");
    with(m, unit, "ExecStop=");
    let old = m.ok("docker ps --quiet --filter name=shop-web-1");
    m.stop(unit);
    serving(m);
    let start = m.start(unit);

    m.then("compose has taken it down, the port was free, and another serves");
    assert!(start.status.success(), "{start:?}");
    serving(m);
    assert_ne!(m.ok("docker ps --quiet --filter name=shop-web-1"), old);
    finding(m, unit, &[("VERDICT", "free")]);
}

pub(super) fn cookbook_user(m: &Machine) {
    m.given("the recipe for a user's own service, but with KillMode=none, which a stop leaves on its port");
    alices_manager(m);
    user_unit(m, "notes.service", recipe!("user/notes.service"));
    user_unit(m, "notes.service.d/lab.conf", "[Service]\nKillMode=none\n");
    m.ok(&as_alice("systemctl --user start notes.service"));
    m.wait_until("it listens", SOON, || m.holders("8888/tcp").len() == 1);
    let old = m.holders("8888/tcp")[0];

    m.when("it is restarted");
    let restart = m.sh(&as_alice("systemctl --user restart notes.service"));

    m.then("it is up, and what was left is gone");
    assert!(restart.status.success(), "{restart:?}");
    m.wait_until("the leftover is gone", SOON, || !m.alive(old));
    let main = m.ok(&as_alice("systemctl --user show -P MainPID notes.service")).trim().parse::<u32>().expect("a pid");
    m.wait_until("the new one listens", SOON, || m.holders("8888/tcp") == [main]);
    let journal = m.ok("journalctl --sync; journalctl --no-pager -t portguard");
    assert_names(&journal, &["8888/tcp", &old.to_string(), "a leftover of an earlier run of notes.service"]);

    m.then("systemd finds no fault with it");
    // Last, as systemd 247 takes the socket of the manager that runs away.
    let verified =
        m.sh(&as_alice("systemd-analyze --user --man=no verify /home/alice/.config/systemd/user/notes.service 2>&1"));
    assert!(verified.status.success(), "{verified:?}");
}

pub(super) fn cookbook_template(m: &Machine) {
    m.given("the recipe for a template, but with KillMode=none, two of whose instances run, and one is left by a stop");
    installed(m, "worker@.service", recipe!("template/worker@.service"), recipe!("template/policy.toml"));
    with(m, "worker@.service", "KillMode=none");
    let sibling = started(m, "worker@82.service", "8082/tcp", 1);
    let old = started(m, "worker@81.service", "8081/tcp", 1);

    m.when("that one is restarted");
    let restart = m.restart("worker@81.service");

    m.then("what it left is gone, and its sibling unharmed");
    assert!(restart.status.success(), "{restart:?}");
    freed(m, "worker@81.service", "8081/tcp", &old);
    assert_eq!(m.holders("8082/tcp"), sibling);
}

pub(super) fn cookbook_blue_green(m: &Machine) {
    m.given("the recipe for blue and green, and site.service, as it was called before, with the port");
    installed(m, "site@.service", recipe!("blue-green/site@.service"), recipe!("blue-green/policy.toml"));
    m.unit("site.service", "[Service]\nExecStart=/usr/bin/python3 /opt/lab/server.py 8080\n");
    started(m, "site.service", "8080/tcp", 1);
    m.write("/srv/site/blue/index.html", "blue");
    let serves = |colour: &str| {
        let unit = format!("site@{colour}.service");
        m.wait_until(&format!("{unit} serves"), SOON, || m.holders("8080/tcp") == [m.main_pid(&unit)]);
        assert_names(&get(m, "http://127.0.0.1:8080/"), &[colour]);
    };

    m.when("blue is started");
    let start = m.start("site@blue.service");

    m.then("systemd has stopped the old name, and blue serves");
    assert!(start.status.success(), "{start:?}");
    assert_eq!(m.show("site.service", "ActiveState"), "inactive");
    serves("blue");
    finding(m, "site@blue.service", &[("RELATION", "predecessor"), ("HOLDER_UNIT", "site.service")]);

    m.when("green is started, and does not pass what is looked at before portguard");
    m.ok("mkdir /srv/site/green");
    let start = m.start("site@green.service");

    m.then("blue serves as before");
    assert!(!start.status.success(), "{start:?}");
    serves("blue");

    m.when("green is whole, and started");
    m.write("/srv/site/green/index.html", "green");
    let start = m.start("site@green.service");

    m.then("green serves, and blue is stopped");
    assert!(start.status.success(), "{start:?}");
    assert_eq!(m.show("site@blue.service", "ActiveState"), "inactive");
    serves("green");
    finding(m, "site@green.service", &[("RELATION", "predecessor"), ("HOLDER_UNIT", "site@blue.service")]);
}
