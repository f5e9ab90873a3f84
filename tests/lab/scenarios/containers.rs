//! Containers: a proxy, a monitor or a stranger in a scope has the port, and what an operator has to hear of is the
//! container.
//!
//! Their images are made in the machine, of busybox and nothing else: there is no registry.

use super::faults::assert_in_time;
use super::{
    APP, SOON, app_service, assert_names, assert_unharmed, field, finding, guard, message, policy_for_app, type_next,
};
use crate::machine::{Entry, Machine};

/// What runs in each container.
const SERVER: &str = "/bin/busybox nc -ll -p 8080 -e /bin/busybox echo served";

/// Starts a container named `web`, and returns the processes that hold 8080 then.
pub(super) fn started_web(m: &Machine, engine: &str, options: &str) -> Vec<u32> {
    m.ok("mkdir -p /opt/tiny/bin && cp /bin/busybox /opt/tiny/bin/");
    m.ok(&format!("tar -C /opt/tiny -c . | {engine} import - tiny"));
    // The server is PID 1 in there, for which SIGTERM does nothing: a stop would take ten seconds.
    m.ok(&format!("{engine} run --detach --name web --stop-signal KILL {options} tiny {SERVER}"));
    serving(m)
}

/// The processes that hold 8080, once somebody answers there.
pub(super) fn serving(m: &Machine) -> Vec<u32> {
    m.wait_until("the container serves", SOON, || m.connect(8080).stdout.trim() == "served");
    let holders = m.holders("8080/tcp");
    assert!(!holders.is_empty(), "8080 is served by nobody");
    holders
}

fn exe_of(m: &Machine, pid: u32) -> String {
    m.ok(&format!("readlink /proc/{pid}/exe")).trim().to_owned()
}

fn cgroup_of(m: &Machine, pid: u32) -> String {
    m.ok(&format!("grep ^0:: /proc/{pid}/cgroup")).trim().to_owned()
}

/// The guarded service does not start, because of a container that goes on as it was; returns the finding.
fn refused(m: &Machine, holders: &[u32], fields: &[(&str, &str)]) -> Entry {
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guarded service is started");
    let start = m.start(APP);

    m.then("the start fails with 69, and the journal says that a container is in the way, and which");
    assert!(!start.status.success(), "{start:?}");
    let container = [("ENDPOINT", "8080/tcp"), ("RELATION", "container"), ("ACTION", "refuse")];
    let refused = finding(m, APP, &[&container[..], fields].concat());
    assert_names(message(&refused), &["8080/tcp", "container", field(&refused, "PORTGUARD_HOLDER_CONTAINER")]);
    assert_names(&m.journal(APP), &["status=69/UNAVAILABLE"]);
    finding(m, APP, &[("VERDICT", "refused")]);

    m.then("all that hold the port are unharmed");
    for &pid in holders {
        assert_unharmed(m, "8080/tcp", pid);
    }
    refused
}

/// What the finding says to type, as it stands there, frees the port.
fn typed_next_it_comes_up(m: &Machine, refused: &Entry) {
    m.when("somebody types what the line says, and starts the service again");
    type_next(m, refused);
    m.wait_until("the port is free", SOON, || m.holders("8080/tcp").is_empty());
    let start = m.start(APP);

    m.then("it is up");
    assert!(start.status.success(), "{start:?}");
    assert!(m.holders("8080/tcp").contains(&m.main_pid(APP)));
}

/// The container `web` is named, as is the command of its engine that stops it.
fn refused_and_stopped_by_name(m: &Machine, engine: &str, holders: &[u32]) {
    let next = format!("{engine} stop web");
    let refused = refused(m, holders, &[("HOLDER_CONTAINER", "web"), ("NEXT", &next)]);

    m.then("the container still serves");
    assert_eq!(m.connect(8080).stdout.trim(), "served");
    assert_names(&m.ok(&format!("{engine} ps --format '{{{{.Names}}}} {{{{.Status}}}}'")), &["web Up"]);

    typed_next_it_comes_up(m, &refused);
}

/// One proxy on bullseye, and from then on one for each family.
pub(super) fn docker_published_port_is_refused_and_its_container_named(m: &Machine) {
    m.given("a container of Docker's that publishes the port of the guarded service");
    m.ok("systemctl start docker.service");
    let daemon = m.main_pid("docker.service");
    let proxies = started_web(m, "docker", "--publish 8080:8080");
    for &pid in &proxies {
        assert_names(&exe_of(m, pid), &["/docker-proxy"]);
    }

    refused_and_stopped_by_name(m, "docker", &proxies);
    assert_eq!(m.main_pid("docker.service"), daemon);
}

/// Then dockerd has the port, for no other reason than that nobody else may have it.
pub(super) fn docker_port_without_a_proxy_is_refused_and_its_container_named(m: &Machine) {
    m.given("a Docker that uses no proxies, and a container that publishes the port of the guarded service");
    m.write("/etc/docker/daemon.json", "{\"userland-proxy\": false}\n");
    m.ok("systemctl start docker.service");
    let daemon = m.main_pid("docker.service");
    let holders = started_web(m, "docker", "--publish 8080:8080");
    assert_eq!(holders, [daemon]);

    refused_and_stopped_by_name(m, "docker", &holders);
    assert_eq!(m.main_pid("docker.service"), daemon);
}

pub(super) fn docker_container_in_the_hosts_network_is_refused_and_named(m: &Machine) {
    m.given("a container of Docker's that listens in the host's network");
    m.ok("systemctl start docker.service");
    let server = started_web(m, "docker", "--network host");
    assert_names(&cgroup_of(m, server[0]), &["/docker-", ".scope"]);

    refused_and_stopped_by_name(m, "docker", &server);
}

/// The scope has the id, and `docker stop` takes that as well.
pub(super) fn hung_docker_costs_a_moment_and_the_name(m: &Machine) {
    m.given("a container in the host's network, of a Docker that answers nobody");
    m.ok("systemctl start docker.service");
    let daemon = m.main_pid("docker.service");
    let server = started_web(m, "docker", "--network host");
    let id = m.ok("docker ps --quiet").trim().to_owned();
    m.ok(&format!("kill -STOP {daemon}"));

    let next = format!("docker stop {id}");
    let refused = refused(m, &server, &[("HOLDER_CONTAINER", &id), ("NEXT", &next)]);
    assert_in_time(m);

    m.then("when Docker answers again, that id is enough");
    m.ok(&format!("kill -CONT {daemon}"));
    typed_next_it_comes_up(m, &refused);
}

/// No container's name or id is in the arguments of a proxy.
pub(super) fn hung_docker_does_not_get_its_proxy_stopped(m: &Machine) {
    m.given("a published port, of a Docker that answers nobody");
    m.ok("systemctl start docker.service");
    let proxies = started_web(m, "docker", "--publish 8080:8080");
    m.ok(&format!("kill -STOP {}", m.main_pid("docker.service")));

    refused(m, &proxies, &[("HOLDER_UNIT", "docker.service")]);
    assert_in_time(m);
}

pub(super) fn podman_published_port_is_refused_and_its_container_named(m: &Machine) {
    m.given("a container of podman's that publishes the port of the guarded service");
    let monitor = started_web(m, "podman", "--publish 8080:8080");
    assert_eq!(exe_of(m, monitor[0]), "/usr/bin/conmon");
    assert_names(&cgroup_of(m, monitor[0]), &["/libpod-conmon-", ".scope"]);

    refused_and_stopped_by_name(m, "podman", &monitor);
}

pub(super) fn podman_container_in_the_hosts_network_is_refused_and_named(m: &Machine) {
    m.given("a container of podman's that listens in the host's network");
    let server = started_web(m, "podman", "--network host");
    assert_names(&cgroup_of(m, server[0]), &["/libpod-", ".scope"]);

    refused_and_stopped_by_name(m, "podman", &server);
}

/// Root of a container can have any arguments, and read the id that it has: typed as root, `podman stop proddb` would stop another.
pub(super) fn podman_container_that_passes_for_its_monitor_is_named_all_the_same(m: &Machine) {
    m.given("a container of podman's in the host's network, whose program has what conmon has in its arguments");
    m.ok("mkdir -p /opt/tiny/bin && cp /bin/busybox /opt/tiny/bin/");
    m.write(
        "/opt/tiny/serve",
        "#!/bin/busybox sh\nid=$(/bin/busybox grep -o '[0-9a-f]\\{64\\}/userdata' /proc/self/mountinfo | /bin/busybox head -n 1)\n\
             exec /bin/busybox nc -ll -p 8080 -e /served -c ${id%/userdata} -n proddb\n",
    );
    m.write("/opt/tiny/served", "#!/bin/busybox sh\necho served\n");
    m.ok("chmod 755 /opt/tiny/serve* && tar -C /opt/tiny -c . | podman import - tiny");
    m.ok("podman run --detach --name web --stop-signal KILL --network host tiny /serve");
    let server = serving(m);
    let id = m.ok("podman inspect --format '{{.Id}}' web");
    assert_names(
        &m.ok(&format!("tr '\\0' ' ' </proc/{}/cmdline", server[0])),
        &[&format!("-c {} -n proddb", id.trim())],
    );

    refused_and_stopped_by_name(m, "podman", &server);
}

/// The scope that containerd makes for Kubernetes, without either of them.
pub(super) fn container_of_kubernetes_is_refused_and_named(m: &Machine) {
    const ID: &str = "4f5e6d7c8b9a0123456789abcdef00112233445566778899aabbccddeeff0011";
    m.given("a server in a scope such as containerd makes it");
    m.ok(&format!("systemd-run --scope --unit=cri-containerd-{ID}.scope python3 /opt/lab/listener.py 8080"));
    let server = m.holders("8080/tcp");
    assert_names(&cgroup_of(m, server[0]), &["/cri-containerd-", ".scope"]);

    refused(m, &server, &[("HOLDER_CONTAINER", &ID[..13]), ("NEXT", &format!("crictl stop {}", &ID[..13]))]);
}

/// A tree for a machine inside the machine, whose network it shares.
fn make_guest(m: &Machine) {
    m.ok("mkdir -p /var/lib/machines/guest/bin /var/lib/machines/guest/usr");
    m.ok("cp /bin/busybox /var/lib/machines/guest/bin/");
    m.write("/var/lib/machines/guest/etc/os-release", "ID=guest\n");
}

/// Its scope is `machine-web\x2d1.scope`, and in systemd 262 `web-1.scope`.
pub(super) fn nspawn_machine_is_refused_and_named(m: &Machine) {
    nspawn_machine_is_refused(m, "");
}

/// `machinectl` has no name for it: what stops it is its unit, `web-1.scope`.
pub(super) fn nspawn_machine_that_machined_does_not_know_is_refused_and_named(m: &Machine) {
    nspawn_machine_is_refused(m, "--register=no");
}

fn nspawn_machine_is_refused(m: &Machine, registered: &str) {
    m.given(&format!("a machine of systemd-nspawn's that listens in the host's network {registered}"));
    make_guest(m);
    let nspawn = format!("systemd-nspawn --quiet {registered} -D /var/lib/machines/guest --machine=web-1 {SERVER}");
    m.ok(&format!("setsid {nspawn} >/dev/null 2>&1 &"));
    let server = serving(m);
    assert_names(&cgroup_of(m, server[0]), &["/machine.slice/", "1.scope/payload"]);

    let refused = refused(m, &server, &[("HOLDER_CONTAINER", "web-1")]);
    assert_names(message(&refused), &["machine web-1", "machinectl poweroff web-1", "systemctl stop "]);
    typed_next_it_comes_up(m, &refused);
}

pub(super) fn nspawn_service_is_refused_and_its_machine_named(m: &Machine) {
    m.given("a machine that runs as systemd-nspawn@guest.service in the host's network");
    make_guest(m);
    let settings = format!("[Exec]\nBoot=no\nParameters={SERVER}\n\n[Network]\nPrivate=no\nVirtualEthernet=no\n");
    m.write("/etc/systemd/nspawn/guest.nspawn", &settings);
    m.ok("systemctl start systemd-nspawn@guest.service");
    let server = serving(m);
    assert_names(&cgroup_of(m, server[0]), &["/machine.slice/systemd-nspawn@guest.service/payload"]);

    let next = "systemctl stop systemd-nspawn@guest.service";
    let refused = refused(m, &server, &[("HOLDER_CONTAINER", "guest"), ("NEXT", next)]);
    typed_next_it_comes_up(m, &refused);
}
