//! `portguard check`, `portguard audit` and `portguard suggest` on a host with nginx, redis, Docker, sshd and a user in a
//! session, as Debian ships them.

use serde_json::Value;

use super::checks::{found, json, on_a_terminal, the};
use super::containers::started_web;
use super::users::{alices_manager, as_alice, user_unit};
use super::{APP, SOON, assert_names, guard, policy};
use crate::machine::Machine;

const NGINX: &str = "nginx.service";
const REDIS: &str = "redis-server.service";

/// nginx has 80, redis 6379 of loopback, a container of Docker's 8080, alice in her session 8081, and ssh.socket 22.
/// Returns the pid of alice's server.
fn servers(m: &Machine) -> u32 {
    m.ok("systemctl start nginx.service redis-server.service docker.service ssh.socket && useradd -m alice");
    started_web(m, "docker", "--publish 8080:8080");
    m.ok("setsid su -l alice -c 'python3 /opt/lab/listener.py 8081; exec sleep infinity' >/dev/null 2>&1 &");
    m.wait_until("all listen", SOON, || {
        ["80/tcp", "6379/tcp", "8081/tcp"].iter().all(|port| !m.holders(port).is_empty())
    });
    m.holders("8081/tcp")[0]
}

/// The severity, endpoint and units of each overlap, in order.
fn overlaps(content: &Value) -> Vec<String> {
    let shown = |one: &&Value| format!("{} {} {}", one["severity"], one["endpoint"], one["units"]).replace('"', "");
    let mut overlaps: Vec<String> = found(content, "overlap", "").iter().map(shown).collect();
    overlaps.sort();
    overlaps
}

pub(super) fn check_and_audit_name_the_servers_that_have_the_ports_of_others(m: &Machine) {
    m.given("servers, a policy that gives ports of theirs to others, and nginx guarded without the plus");
    let session = servers(m);
    m.unit(APP, "[Service]\nExecStart=/bin/sleep infinity\n");
    let drop_in = "nginx.service.d/10.conf";
    m.unit(drop_in, "[Service]\nExecStartPre=/usr/bin/portguard --unit %n\n");
    let redis = "[unit.\"redis-server.service\"]\nports = [\"127.0.0.1:6379/tcp\"]\n";
    policy(
        m,
        &format!(
            "[unit.\"nginx.service\"]\nports = [\"80/tcp\", \"6379/tcp\"]\n{redis}\
             [unit.\"app.service\"]\nports = [\"22/tcp\", \"8080-8081/tcp\"]\n"
        ),
    );

    m.when("the policy is checked, and the system audited");
    let (checked, check) = json(m, "portguard check");
    let (audited, audit) = json(m, "portguard audit");

    m.then("the check has what the policy and the unit files say");
    assert_eq!((checked, check["findings"].as_array().map(Vec::len)), (1, Some(2)), "{check:#}");
    assert_eq!(overlaps(&check), ["warning 6379/tcp [nginx.service,redis-server.service]"]);
    let socket = the(&check, "socket-unit", "ssh.socket");
    assert_eq!((&socket["severity"], &socket["endpoint"]), (&"error".into(), &"22/tcp".into()));
    assert_names(&socket["message"].to_string(), &["app.service (/etc/portguard/portguard.toml:6:10)"]);

    m.then("and the audit who has the ports now, and the missing plus");
    assert_eq!(audited, 1);
    assert_eq!(
        overlaps(&audit),
        [
            "error 22/tcp [app.service,ssh.socket]",
            "error 6379/tcp [nginx.service,redis-server.service]",
            "error 8080/tcp [app.service,docker.service]",
            "error 8081/tcp [app.service]",
            "warning 6379/tcp [nginx.service,redis-server.service]",
        ],
        "{audit:#}"
    );
    let of_session = found(&audit, "overlap", APP).into_iter().find(|one| one["endpoint"] == "8081/tcp");
    assert_names(
        &of_session.unwrap_or_else(|| panic!("{audit:#}"))["message"].to_string(),
        &[&format!("pid {session} python3 in session "), "which has it now"],
    );
    assert_eq!(the(&audit, "no-plus", NGINX)["next"], "systemctl edit nginx.service");
    let bare = the(&audit, "no-guard", REDIS);
    assert_eq!(bare["next"], "portguard enable app.service redis-server.service");
    assert_eq!((audit["findings"].as_array().map(Vec::len), &audit["guarded"]), (Some(7), &1.into()), "{audit:#}");

    m.then("a terminal of 80 columns shows the same");
    let shown = on_a_terminal(m, "portguard check").join("\n");
    assert_names(&shown, &["error: /etc/portguard/portguard.toml:6:10\n", "  next: systemctl cat ssh.socket\n"]);
    assert_names(&shown, &["\n1 error, 1 warning"]);
    let shown = on_a_terminal(m, "portguard audit").join("\n");
    assert_names(&shown, &["docker.service (which has it now)", "  next: portguard who 8080/tcp\n", "warning: nginx"]);
    assert_names(&shown, &["\n4 errors, 3 warnings\n1 guarded unit"]);

    m.when("what is next is typed, and the policy put right");
    let who = m.ok("portguard who 8080/tcp");
    let (_, suggest) = json(m, "portguard suggest --near 6379 --count 1");
    m.ok(bare["next"].as_str().unwrap_or_default());
    m.unit(drop_in, "[Service]\nExecStartPre=+/usr/bin/portguard --unit %n\n");
    policy(
        m,
        &format!(
            "[unit.\"nginx.service\"]\nports = [\"80/tcp\", \"{}/tcp\"]\n{redis}\
             [unit.\"app.service\"]\nports = [\"8082/tcp\"]\n",
            suggest["free"][0]
        ),
    );

    m.then("the container is named, and neither finds anything any more");
    assert_names(&who, &["docker container web", "next: docker stop web"]);
    for command in ["portguard check", "portguard audit"] {
        let (status, content) = json(m, command);
        assert_eq!((status, content["findings"].as_array().map(Vec::len)), (0, Some(0)), "{content:#}");
    }
    assert_eq!(on_a_terminal(m, "portguard audit"), ["nothing found", "3 guarded units"]);
}

pub(super) fn audit_names_the_workers_that_nginx_has_left(m: &Machine) {
    m.given("nginx, guarded, with KillMode=process, and redis; the master of nginx is killed");
    m.unit("nginx.service.d/kill-mode.conf", "[Service]\nKillMode=process\n");
    policy(m, "[unit.\"nginx.service\"]\nports = [\"80/tcp\"]\n");
    guard(m, NGINX);
    m.ok("systemctl start nginx.service redis-server.service");
    m.wait_until("nginx serves", SOON, || m.holders("80/tcp").len() > 1);
    m.ok(&format!("kill -KILL {}", m.main_pid(NGINX)));
    m.wait_until("nginx.service has failed", SOON, || m.show(NGINX, "ActiveState") == "failed");
    let workers = m.holders("80/tcp");
    assert!(!workers.is_empty(), "no worker is left");

    m.when("the system is audited");
    let (status, audit) = json(m, "portguard audit");

    m.then("the workers are named, and why they could be left; redis, which runs, is not");
    assert_eq!((status, audit["findings"].as_array().map(Vec::len)), (1, Some(2)), "{audit:#}");
    let left = the(&audit, "left-over", NGINX);
    let mut pids: Vec<u64> =
        left["processes"].as_array().into_iter().flatten().filter_map(|one| one["pid"].as_u64()).collect();
    pids.sort_unstable();
    assert_eq!(pids, workers.iter().map(|pid| u64::from(*pid)).collect::<Vec<_>>(), "{left:#}");
    assert_names(&left["processes"][0]["command"].to_string(), &["nginx: worker process"]);
    assert_eq!(the(&audit, "kill-mode", NGINX)["next"], "systemctl edit nginx.service");
    let lines = on_a_terminal(m, "portguard audit");
    let line = format!("  pid {} nginx: worker process", workers[0]);
    assert!(lines.contains(&line), "{line}: {lines:#?}");
    assert_eq!(m.holders("80/tcp"), workers, "an audit signals nobody");

    m.when("what is next is typed");
    m.ok(left["next"].as_str().unwrap_or_default());

    m.then("the port is free, and nothing is left");
    m.wait_until("the workers are gone", SOON, || m.holders("80/tcp").is_empty());
    assert!(found(&json(m, "portguard audit").1, "left-over", "").is_empty());
}

pub(super) fn suggest_passes_over_the_ports_of_servers(m: &Machine) {
    m.given("servers, rpcbind.socket, which is off, a policy, and no names of ports");
    let session = servers(m);
    m.write("/etc/services", "");
    policy(m, "[unit.\"redis-server.service\"]\nports = [\"6378/tcp\"]\n");
    m.ok("sysctl -w net.ipv4.ip_local_port_range='32768 60999'");

    m.when("ports near theirs are asked for");
    m.then("none of theirs is offered, and whose each is is said");
    for (near, free, taken) in [
        (80, "[81,79]", "nginx.service has it now"),
        (6379, "[6380,6381]", "redis-server.service has it now"),
        (6378, "[6377,6380]", "redis-server.service by the policy"),
        (8080, "[8079,8082]", "docker.service has it now"),
        (8081, "[8082,8083]", "python3 in session "),
        (22, "[23,21]", "ssh.socket by its unit file"),
        (111, "[112,110]", "rpcbind.socket by its unit file"),
        (32768, "[32767,32766]", "clients by ip_local_port_range"),
    ] {
        let (status, content) = json(m, &format!("portguard suggest --near {near} --count 2"));
        assert_eq!((status, content["free"].to_string().as_str()), (0, free), "{content:#}");
        let of_near = content["taken"].as_array().and_then(|taken| taken.iter().find(|one| one["port"] == near));
        assert_names(&of_near.unwrap_or_else(|| panic!("{near}: {content:#}"))["by"].to_string(), &[taken]);
    }

    m.then("a terminal of 80 columns shows the same");
    let lines = on_a_terminal(m, "portguard suggest --near 8080 --count 1");
    assert_eq!(lines[..2], ["8079/tcp", "  not 8080: docker.service has it now"]);
    assert_names(&lines[2], &[&format!("  not 8081: pid {session} python3 in session ")]);

    m.then("redis takes one that is offered");
    m.ok("sed -i 's/^port .*/port 6380/' /etc/redis/redis.conf && systemctl restart redis-server.service");
    m.wait_until("redis listens there", SOON, || m.holders("6380/tcp").contains(&m.main_pid(REDIS)));
    assert_eq!(json(m, "portguard suggest --near 6379 --count 2").1["free"].to_string(), "[6379,6381]");
}

pub(super) fn audit_and_suggest_of_a_user_know_the_servers_of_the_system(m: &Machine) {
    m.given("redis of the system, and alice's own, guarded, whose policy has the port of the other as well");
    m.ok("systemctl start redis-server.service");
    alices_manager(m);
    user_unit(m, "cache.service", "[Service]\nExecStart=/usr/bin/redis-server --port 6380 --dir /tmp\n");
    user_unit(m, "cache.service.d/10.conf", "[Service]\nExecStartPre=/usr/bin/portguard --user --unit %n\n");
    policy(m, "[unit.\"cache.service\"]\nports = [\"6379-6380/tcp\"]\n");
    m.ok(&as_alice("systemctl --user start cache.service 2>&1 || true"));

    m.when("she audits her units");
    let (status, audit) = json(m, &as_alice("portguard audit --user"));

    m.then("it names the system's redis");
    assert_eq!(status, 1, "{audit:#}");
    let overlap = the(&audit, "overlap", "cache.service");
    assert_eq!((&overlap["endpoint"], &overlap["severity"]), (&"6379/tcp".into(), &"error".into()));
    assert_names(&overlap["message"].to_string(), &["redis-server.service of the system (which has it now)"]);
    assert_eq!((audit["findings"].as_array().map(Vec::len), &audit["guarded"]), (Some(1), &1.into()), "{audit:#}");
    // As root it would be an audit of root's own units.
    assert_names(&audit["unseen"].to_string(), &["could not be listed", "root sees all: sudo portguard who"]);

    m.when("the policy is put right, and it is started");
    policy(m, "[unit.\"cache.service\"]\nports = [\"6380/tcp\"]\n");
    m.ok(&as_alice("systemctl --user start cache.service"));
    m.wait_until("it listens", SOON, || !m.holders("6380/tcp").is_empty());

    m.then("nothing is found, and neither port is offered to her");
    for command in ["portguard check --user", "portguard audit --user"] {
        let (status, content) = json(m, &as_alice(command));
        assert_eq!((status, content["findings"].as_array().map(Vec::len)), (0, Some(0)), "{content:#}");
    }
    let (_, suggest) = json(m, &as_alice("portguard suggest --user --near 6380 --count 2"));
    assert_eq!(suggest["free"].to_string(), "[6381,6382]", "{suggest:#}");
    assert_names(&suggest["taken"][0]["by"].to_string(), &["cache.service by the policy", "cache.service has it now"]);
    assert_names(&suggest["taken"][1]["by"].to_string(), &["redis-server.service of the system has it now"]);
}
