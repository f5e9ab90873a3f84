//! `portguard check`, `portguard audit` and `portguard suggest`: what they find on a real system, and that it is so.

use serde_json::Value;

use super::commands;
use super::users::{alices_manager, as_alice, user_unit};
use super::{
    APP, GUARD, SOON, app_service, assert_names, guard, policy, policy_for_app, started_guarded_app, web_has_the_port,
    workers,
};
use crate::machine::{Machine, Output};

/// A service that does nothing.
const IDLE: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

/// A file of the policy beside the first.
const MORE: &str = "/etc/portguard/conf.d/more.toml";

/// The exit status of a command, and the content of the document that it prints.
pub(super) fn json(m: &Machine, command: &str) -> (i32, Value) {
    let output = m.sh(&format!("{command} --json"));
    let kind = command.split("portguard ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    (status(&output), commands::json(kind, &output))
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// The findings of this kind about a unit.
pub(super) fn found<'a>(content: &'a Value, kind: &str, unit: &str) -> Vec<&'a Value> {
    let findings = content["findings"].as_array().unwrap_or_else(|| panic!("no findings: {content:#}"));
    let is_of_unit = |finding: &&Value| {
        unit.is_empty() || finding["units"].as_array().is_some_and(|units| units.iter().any(|one| one == unit))
    };
    findings.iter().filter(|finding| finding["kind"] == kind).filter(is_of_unit).collect()
}

/// The only one.
pub(super) fn the<'a>(content: &'a Value, kind: &str, unit: &str) -> &'a Value {
    let found = found(content, kind, unit);
    assert_eq!(found.len(), 1, "{kind} of {unit}: {content:#}");
    found[0]
}

/// `LINE:COLUMN` of the file, if it is there.
fn place(finding: &Value) -> String {
    let place = &finding["place"];
    format!("{}:{}:{}", place["file"].as_str().unwrap_or_default(), place["line"], place["column"])
}

/// What a terminal of eighty columns without colours shows, line by line.
pub(super) fn on_a_terminal(m: &Machine, command: &str) -> Vec<String> {
    let shown = m.sh(&format!("TERM=dumb script -qec 'stty cols 80; {command}' /dev/null"));
    let lines: Vec<String> = shown.stdout.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect();
    let is_typed = |line: &str| line.contains("next:") || line.starts_with("    ");
    for line in &lines {
        assert!(line.chars().count() <= 80 || is_typed(line), "`{line}` is wider than the terminal");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    lines
}

pub(super) fn check_reports_every_problem_at_once(m: &Machine) {
    m.given("a policy in two files, with more wrong in it than a start says, and a template with a wrong instance");
    m.unit("worker@.service", IDLE);
    m.ok("systemctl start worker@7.service worker@x.service");
    let many = (0..30).map(|number| format!("\"{number}x\"")).collect::<Vec<_>>().join(", ");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [{many}]\non-stale = \"perhaps\"\n"));
    m.write(MORE, "[unit.\"worker@.service\"]\nports = [\"80%i/tcp\"]\nportz = []\n");

    m.when("it is checked");
    let (status, content) = json(m, "portguard check");

    m.then("all of it is reported, each with its place, and the status is that of a policy error");
    assert_eq!(status, 78, "{content:#}");
    let problems = found(&content, "policy", "");
    assert_eq!(problems.len(), 32, "{content:#}");
    let places: Vec<String> = problems.iter().map(|problem| place(problem)).collect();
    for expected in ["/etc/portguard/portguard.toml:2:10", "/etc/portguard/portguard.toml:3:12", &format!("{MORE}:3:1")]
    {
        assert!(places.iter().any(|place| place == expected), "{expected}: {places:?}");
    }
    assert!(problems.iter().any(|problem| problem["message"].to_string().contains("did you mean ports?")));
    let expansion = the(&content, "expansion", "worker@x.service");
    assert_eq!((place(expansion), expansion["severity"].as_str()), (format!("{MORE}:2:10"), Some("error")));
    assert!(found(&content, "expansion", "worker@7.service").is_empty(), "{content:#}");

    m.then("on a terminal of 80 columns it is the same");
    let lines = on_a_terminal(m, "portguard check");
    for line in ["error: /etc/portguard/portguard.toml:3:12", &format!("error: {MORE}:2:10")] {
        assert!(lines.iter().any(|shown| shown == line), "{line}: {lines:#?}");
    }

    m.then("a single file can be checked as well, and a sound policy is clean");
    m.write("/root/sound.toml", "[unit.\"worker@.service\"]\nports = [\"8080/tcp\"]\n");
    m.ok("systemctl stop worker@x.service");
    let (status, content) = json(m, "portguard check --policy /root/sound.toml");
    assert_eq!((status, content["findings"].as_array().map(Vec::len)), (0, Some(0)), "{content:#}");
    assert_eq!(status_of(m, "portguard check --policy /root/none.toml"), 78);
}

pub(super) fn drop_in_of_another_unit_is_not_read(m: &Machine) {
    m.given("a drop-in for each of two units alone, a broken one, and one that speaks of another unit");
    let file = |name: &str| format!("/etc/portguard/conf.d/only-{name}.toml");
    m.write(&file(APP), format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\n"));
    m.write(&file("web@.service"), "[unit.\"web@.service\"]\nports = [\"80%i/tcp\"]\n");
    m.write(&file("broken.service"), "[unit.\n");
    m.write(&file("wrong.service"), format!("[unit.\"{APP}\"]\non-stale = \"ignore\"\n"));
    for unit in ["web@.service", "broken.service", "wrong.service"] {
        m.unit(unit, IDLE);
    }
    app_service(m, "8080/tcp");
    for unit in [APP, "web@.service", "broken.service", "wrong.service"] {
        guard(m, unit);
    }

    m.when("each of them is started");
    for (unit, ports) in [(APP, "8080/tcp free"), ("web@81.service", "8081/tcp free")] {
        m.ok(&format!("systemctl start {unit}"));

        m.then("what is its own counts, and what is another's is no mistake of its own");
        assert_names(&m.journal(unit), &[ports]);
    }
    for (unit, said) in [
        ("broken.service", "broken.service.toml:1:"),
        ("wrong.service", "wrong.service.toml:1:7: only-wrong.service.toml is read for wrong.service alone"),
    ] {
        m.then("the other two are refused for what is wrong in their own");
        assert!(!m.sh(&format!("systemctl start {unit}")).status.success(), "{unit}");
        assert_names(&m.journal(unit), &[said, "status=78/CONFIG"]);
    }

    m.then("who and enable read what the unit's own start does");
    m.ok(&format!("portguard who --unit {APP}"));
    m.write(&file("fresh.service"), "[unit.\"fresh.service\"]\nports = [\"8090/tcp\"]\n");
    m.unit("fresh.service", IDLE);
    m.ok("portguard enable fresh.service");
    for refused in ["portguard who --unit broken.service 80", "portguard enable wrong.service"] {
        assert_eq!(m.sh(refused).status.code(), Some(78), "{refused}");
    }

    m.then("portguard check reads all of them");
    let (status, content) = json(m, "portguard check");
    let places: Vec<String> = found(&content, "policy", "").into_iter().map(place).collect();
    assert_eq!((status, places.len()), (78, 2), "{content:#}");
    assert!(
        places[0].starts_with(&file("broken.service")) && places[1] == format!("{}:1:7", file("wrong.service")),
        "{places:?}"
    );
}

pub(super) fn check_says_what_units_and_ports_make_of_the_policy(m: &Machine) {
    m.given("a sound policy for units that are there, are not, share ports, and share them with socket units");
    for unit in ["app.service", "web.service", "worker@.service", "blue.service", "green.service", "listened.service"] {
        m.unit(unit, IDLE);
    }
    m.unit("green.service", &format!("{IDLE}Environment=GREEN=7501\n"));
    m.unit("one.service", &format!("[Unit]\nConflicts=other.service\n{IDLE}"));
    m.unit("other.service", &format!("{IDLE}[Install]\nAlias=another.service\n"));
    m.ok("systemctl enable other.service");
    m.write("/etc/default/worker", "# of all\nSIDE=\"7100\"\n");
    m.unit("worker@.service", &format!("{IDLE}Environment=A=b MAIN=7000\nEnvironmentFile=/etc/default/worker\n"));
    m.unit("listened.socket", "[Socket]\nListenStream=7200\n");
    m.unit("foreign.socket", "[Socket]\nListenStream=127.0.0.1:7300\nService=web.service\n");
    m.ok("systemctl start worker@1.service worker@2.service listened.socket foreign.socket");
    m.ok("sysctl -w net.ipv4.ip_local_port_range='32768 60999' net.ipv4.ip_local_reserved_ports=33000");
    policy(
        m,
        "[unit.\"app.service\"]\nports = [\"7000/tcp\", \"7300/tcp\", \"40000-40001/tcp\", \"33000/udp\"]\n\
         [unit.\"ap.service\"]\nports = [\"1/tcp\"]\n\
         [unit.\"worker@.service\"]\nports = [\"71%i/udp\", \"${MAIN}/tcp\", \"${SIDE}/tcp\"]\n\
         [unit.\"blue.service\"]\nports = [\"7500/tcp\"]\nreplaces = [\"gr*.service\"]\n\
         [unit.\"green.service\"]\nports = [\"7500/tcp\", \"${GREEN}/tcp\"]\n\
         [unit.\"one.service\"]\nports = [\"7600/tcp\"]\n\
         [unit.\"other.service\"]\nports = [\"7600/tcp\"]\n\
         [unit.\"another.service\"]\nports = [\"7700/tcp\"]\n\
         [unit.\"listened.service\"]\nports = [\"7200/tcp\"]\n",
    );

    m.when("it is checked");
    let (status, content) = json(m, "portguard check");

    m.then("what cannot be so is found, with its place, and what is meant to be so is not");
    assert_eq!(status, 1, "{content:#}");
    let missing = the(&content, "no-unit", "ap.service");
    assert_names(&missing["message"].to_string(), &["did you mean app.service?"]);
    assert_eq!(place(missing), "/etc/portguard/portguard.toml:3:7");
    the(&content, "alias", "another.service");
    let overlaps = found(&content, "overlap", "");
    let of: Vec<String> =
        overlaps.iter().map(|overlap| format!("{} {}", overlap["endpoint"], overlap["units"])).collect();
    assert_eq!(
        of,
        [
            r#""7000/tcp" ["app.service","worker@1.service","worker@2.service"]"#,
            r#""7000/tcp" ["worker@1.service","worker@2.service"]"#,
            r#""7100/tcp" ["worker@1.service","worker@2.service"]"#,
        ],
        "{content:#}"
    );
    let socket = the(&content, "socket-unit", "app.service");
    assert_names(&socket.to_string(), &["foreign.socket", "7300/tcp", "\"error\""]);
    assert_eq!(socket["next"], "systemctl cat foreign.socket");
    let clients = the(&content, "ephemeral", "app.service");
    assert_eq!(clients["endpoint"], "40000-40001/tcp");
    assert_eq!(content["findings"].as_array().map(Vec::len), Some(7), "{content:#}");

    m.then("what it says to type keeps the ports from clients");
    let next = clients["next"].as_str().unwrap_or_default();
    assert_eq!(next, "sysctl -w net.ipv4.ip_local_reserved_ports=33000,40000-40001");
    m.ok(next);
    assert!(found(&json(m, "portguard check").1, "ephemeral", "").is_empty());
    on_a_terminal(m, "portguard check");

    m.then("whoever may read the policy sees the same");
    let (status, of_nobody) = json(m, "setpriv --reuid=nobody --clear-groups portguard check");
    assert_eq!((status, found(&of_nobody, "overlap", "").len()), (1, 3), "{of_nobody:#}");
    m.ok("chmod 600 /etc/portguard/portguard.toml");
    assert_eq!(json(m, "setpriv --reuid=nobody --clear-groups portguard check").0, 77);

    m.then("without systemd the policy alone is checked, and that is said");
    let hidden = "unshare -m sh -c 'mount -t tmpfs none /run/systemd && exec \"$@\"' sh portguard check";
    let (status, alone) = json(m, hidden);
    assert_eq!((status, found(&alone, "no-unit", "").len()), (1, 0), "{alone:#}");
    assert_names(&alone["unseen"].to_string(), &["not booted with systemd", "ports of green.service are not known"]);
    // Whether both are up, nobody can tell.
    assert_eq!(the(&alone, "overlap", "one.service")["endpoint"], "7600/tcp");
}

pub(super) fn audit_finds_what_hinders_a_start_one_day(m: &Machine) {
    m.given("a guarded service and nothing wrong");
    m.unit(APP, IDLE);
    policy_for_app(m, "8080/tcp");
    guard(m, APP);
    m.ok(&format!("systemctl start {APP}"));
    let (status, content) = json(m, "portguard audit");
    assert_eq!((status, content["findings"].as_array().map(Vec::len)), (0, Some(0)), "{content:#}");
    assert_eq!(content["guarded"], 1);

    m.when("others are there that are guarded badly, not guarded, or have the port");
    let web = web_has_the_port(m);
    let guarded = |prefix: &str| format!("[Service]\nExecStartPre={prefix}/usr/bin/portguard --unit %n\n");
    m.unit("bare.service", &format!("{IDLE}User=nobody\nKillMode=process\n"));
    m.unit("bare.service.d/10.conf", &guarded(""));
    m.unit("ignored.service", IDLE);
    m.unit("ignored.service.d/10.conf", &guarded("-+"));
    m.unit("lonely.service", IDLE);
    m.unit("loop.service", &format!("{IDLE}Restart=always\nRestartSec=3s\nRestartPreventExitStatus=69\n"));
    m.unit("loop.service.d/10.conf", GUARD);
    m.unit("skipped.service", &format!("{IDLE}Restart=on-failure\nRestartSec=3s\n"));
    m.unit("skipped.service.d/10.conf", &GUARD.replace("ExecStartPre=", "ExecCondition="));
    m.unit(
        "sound.socket",
        &format!("[Socket]\nListenStream=7001\nService={APP}\n{}", guarded("+").replace("[Service]\n", "")),
    );
    m.unit("one.socket", "[Socket]\nListenDatagram=7000\nService=lonely.service\n");
    m.unit("other.socket", "[Socket]\nListenDatagram=127.0.0.1:7000\nService=bare.service\n");
    m.unit("none.service", IDLE);
    m.unit("none.service.d/10.conf", GUARD);
    let more: String = [("bare", 1), ("ignored", 2), ("lonely", 3), ("loop", 4), ("skipped", 5)]
        .map(|(unit, port)| format!("[unit.\"{unit}.service\"]\nports = [\"{port}/tcp\"]\n"))
        .concat();
    m.write(MORE, more + "[unit.\"sound.socket\"]\nports = [\"7001/tcp\"]\n");
    let ours = "app.service web.service bare.service ignored.service lonely.service none.service loop.service \
        skipped.service sound.socket one.socket other.socket";
    let before = m.ok(&format!("systemctl show -p Id,ActiveState,MainPID,InvocationID {ours}"));
    let (status, content) = json(m, "portguard audit");

    m.then("each is found, and none besides");
    assert_eq!(status, 1, "{content:#}");
    let overlap = the(&content, "overlap", APP);
    assert_names(&overlap.to_string(), &["web.service (which has it now)", "portguard.toml:2:10", "\"error\""]);
    assert_eq!(overlap["next"], "portguard who 8080/tcp");
    assert_names(&m.ok("portguard who 8080/tcp"), &["web.service", &web.to_string()]);
    let sockets = the(&content, "overlap", "one.socket");
    assert_names(&sockets.to_string(), &["other.socket", "7000/udp"]);
    assert_names(&the(&content, "no-plus", "bare.service")["message"].to_string(), &["as nobody"]);
    the(&content, "kill-mode", "bare.service");
    the(&content, "ignored", "ignored.service");
    assert_eq!(the(&content, "no-guard", "lonely.service")["next"], "portguard enable lonely.service");
    assert_eq!(the(&content, "no-ports", "none.service")["next"], "portguard learn none.service");
    let restarts = the(&content, "restarts", "loop.service");
    assert_names(&restarts["message"].to_string(), &["main process alone", "5 starts, 3s apart"]);
    assert_eq!(content["findings"].as_array().map(Vec::len), Some(8), "{content:#}");
    assert_eq!(content["guarded"], 7, "{content:#}");

    m.then("nobody is signalled or started, and a terminal of 80 columns shows the same");
    let lines = on_a_terminal(m, "portguard audit");
    for line in ["warning: loop.service", "1 error, 7 warnings", "7 guarded units"] {
        assert!(lines.iter().any(|shown| shown == line), "{line}: {lines:#?}");
    }
    assert_eq!(m.main_pid("web.service"), web);
    assert_eq!(m.ok(&format!("systemctl show -p Id,ActiveState,MainPID,InvocationID {ours}")), before);

    m.then("without root what can be seen is, and what cannot is said");
    let (status, content) = json(m, "setpriv --reuid=nobody --clear-groups portguard audit");
    assert_eq!(status, 1);
    assert_names(&content["unseen"].to_string(), &["root sees all"]);
    the(&content, "overlap", APP);
}

/// What `restarts` says of `RestartPreventExitStatus=`, of the start limit and of `ExecCondition=` is what systemd does.
pub(super) fn audit_is_right_about_restarts_that_never_end(m: &Machine) {
    m.given("services whose port somebody else has, and that restart");
    web_has_the_port(m);
    let limit = "[Unit]\nStartLimitIntervalSec=2\nStartLimitBurst=5\n";
    let restart =
        |pause: &str| format!("{limit}{IDLE}Restart=always\nRestartSec={pause}\nRestartPreventExitStatus=69\n");
    let mut tables = Vec::new();
    for (unit, pause) in [("loop.service", "500ms"), ("limited.service", "100ms"), ("skipped.service", "500ms")] {
        m.unit(unit, &restart(pause));
        let drop_in =
            if unit == "skipped.service" { GUARD.replace("ExecStartPre=", "ExecCondition=") } else { GUARD.to_owned() };
        m.unit(&format!("{unit}.d/10.conf"), &drop_in);
        tables.push(format!("[unit.\"{unit}\"]\nports = [\"8080/tcp\"]\n"));
    }
    policy(m, &tables.concat());
    let (_, content) = json(m, "portguard audit");

    m.when("they are started");
    m.sh("systemctl start --no-block loop.service limited.service skipped.service");

    m.then("the one that is said to do so restarts more often than its limit allows, and the others do not");
    the(&content, "restarts", "loop.service");
    // systemd/systemd#22257.
    let skips = m.systemd() >= 251;
    assert_eq!(found(&content, "restarts", "skipped.service").is_empty(), skips, "{content:#}");
    assert!(found(&content, "restarts", "limited.service").is_empty(), "{content:#}");
    let restarts = |unit: &str| m.show(unit, "NRestarts").parse::<u32>().expect("a number");
    m.wait_until("loop.service has restarted eight times", 2 * SOON, || restarts("loop.service") >= 8);
    assert_eq!(m.show("limited.service", "ActiveState"), "failed");
    assert!(restarts("limited.service") <= 5);
    if skips {
        assert_eq!((m.show("skipped.service", "ActiveState").as_str(), restarts("skipped.service")), ("inactive", 0));
    } else {
        assert!(restarts("skipped.service") > 5);
    }
}

pub(super) fn audit_names_what_a_stop_has_left(m: &Machine) {
    m.given("a guarded service that a stop has left two workers of, and one that is up with as many");
    started_guarded_app(m, "8080/tcp 2");
    let left = workers(m);
    m.stop(APP);
    m.unit("up.service", "[Service]\nExecStart=/bin/sh -c 'sleep 1000 & sleep 1000'\n");
    m.ok("systemctl start up.service");

    m.when("the system is audited");
    let (status, content) = json(m, "portguard audit");

    m.then("they are named by pid and command, and live");
    assert_eq!(status, 1, "{content:#}");
    let finding = the(&content, "left-over", APP);
    let processes = finding["processes"].as_array().unwrap_or_else(|| panic!("{content:#}"));
    let pids: Vec<u32> = processes.iter().filter_map(|left| left["pid"].as_u64()?.try_into().ok()).collect();
    assert_eq!(pids, left);
    assert_names(&processes[0]["command"].to_string(), &["/usr/bin/python3 /opt/lab/app.py 8080/tcp 2"]);
    assert_eq!(found(&content, "left-over", "").len(), 1, "{content:#}");
    the(&content, "kill-mode", APP);
    assert!(left.iter().all(|&pid| m.alive(pid)));
    let lines = on_a_terminal(m, "portguard audit");
    assert!(lines.iter().any(|line| line.starts_with(&format!("  pid {} /usr/bin/python3", left[0]))), "{lines:#?}");

    m.then("what it says to type ends them");
    m.ok(finding["next"].as_str().unwrap_or_default());
    for pid in left {
        m.wait_until("it is gone", SOON, || !m.alive(pid));
    }
    assert!(found(&json(m, "portguard audit").1, "left-over", "").is_empty());
}

pub(super) fn suggest_names_ports_that_nobody_claims(m: &Machine) {
    m.given("ports that a policy, a socket unit that is not even enabled, a listener and /etc/services claim");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8078-8079/tcp");
    m.unit("x.socket", "[Socket]\nListenStream=8082\nService=app.service\n[Install]\nWantedBy=sockets.target\n");
    m.write("/etc/services", "# of this test\ntproxy\t8081/tcp\nother 8083/udp\n");
    let web = web_has_the_port(m);
    m.ok("sysctl -w net.ipv4.ip_local_port_range='32768 60999' net.ipv4.ip_local_reserved_ports=8077");

    m.when("a port near 8080 is asked for");
    let (status, content) = json(m, "portguard suggest --count 3");

    m.then("the nearest are those of nobody, and whose the others are is said");
    assert_eq!(status, 0, "{content:#}");
    assert_eq!(content["free"].to_string(), "[8083,8084,8076]", "{content:#}");
    let whose = |port: u16| {
        let taken = content["taken"].as_array().and_then(|taken| taken.iter().find(|one| one["port"] == port));
        taken.unwrap_or_else(|| panic!("{port}: {content:#}"))["by"].to_string()
    };
    for (port, who) in [
        (8080, "web.service has it now"),
        (8079, "app.service by the policy"),
        (8082, "x.socket by its unit file"),
        (8081, "tproxy by /etc/services"),
        (8077, "reserved in ip_local_reserved_ports"),
    ] {
        assert_names(&whose(port), &[who]);
    }
    assert_eq!(json(m, "portguard suggest --near 8083 --udp --count 1").1["free"].to_string(), "[8084]");
    assert_eq!(json(m, "portguard suggest --near 40000 --count 1").1["free"].to_string(), "[32767]");
    assert_eq!(status_of(m, "portguard suggest --near 0"), 64);

    m.then("they can be bound, and nobody was disturbed");
    m.ok("python3 /opt/lab/listener.py 8083 && python3 /opt/lab/listener.py 8084 && python3 /opt/lab/listener.py 8076");
    assert_eq!(m.main_pid("web.service"), web);
    let lines = on_a_terminal(m, "portguard suggest --count 1");
    assert!(lines.iter().any(|line| line == "8085/tcp"), "{lines:#?}");
    let (status, content) = json(m, "setpriv --reuid=nobody --clear-groups portguard suggest --count 1");
    assert_eq!((status, content["free"].to_string()), (0, "[8085]".to_owned()), "{content:#}");
    assert_names(&content["unseen"].to_string(), &["could not be listed", "sudo portguard suggest"]);
}

pub(super) fn checks_of_a_user_ask_the_users_manager(m: &Machine) {
    m.given("a policy for alice's service, which is guarded, and for one that she does not have");
    alices_manager(m);
    user_unit(m, APP, &format!("{IDLE}KillMode=none\n"));
    user_unit(m, &format!("{APP}.d/10.conf"), "[Service]\nExecStartPre=/usr/bin/portguard --user --unit %n\n");
    policy(m, &format!("[unit.\"{APP}\"]\nports = [\"8080/tcp\"]\n[unit.\"web.service\"]\nports = [\"8081/tcp\"]\n"));

    m.when("she checks it");
    let check = json(m, &as_alice("portguard check --user"));
    let audit = json(m, &as_alice("portguard audit --user"));

    m.then("it is compared with her units, for which no plus is asked");
    assert_eq!(check.0, 1);
    the(&check.1, "no-unit", "web.service");
    assert!(found(&check.1, "no-unit", APP).is_empty(), "{check:#?}");
    assert_eq!(audit.0, 1);
    assert_eq!(audit.1["guarded"], 1, "{audit:#?}");
    let kill_mode = the(&audit.1, "kill-mode", APP);
    assert_eq!(kill_mode["next"], "systemctl --user edit app.service");
    assert!(found(&audit.1, "no-plus", "").is_empty(), "{audit:#?}");

    m.then("the system has neither");
    assert_eq!(found(&json(m, "portguard check").1, "no-unit", "").len(), 2);
}

/// What is spent by a command and by PID 1 for it, in hundredths of a second of a core: the machine's load has no say in it.
fn spent(m: &Machine, command: &str) -> u32 {
    let of_pid_1 = || -> u32 {
        let times = m.ok("cut -d ' ' -f 14,15 /proc/1/stat");
        times.split_whitespace().map(|ticks| ticks.parse::<u32>().expect("ticks")).sum()
    };
    let before = of_pid_1();
    let times = m.sh(&format!("bash -c 'TIMEFORMAT=\"%2U %2S\"; time {command} --json >/opt/out' 2>&1"));
    let all = times.stdout.split_whitespace().map(|time| time.replace('.', "").parse::<u32>());
    let own: u32 = all.sum::<Result<u32, _>>().unwrap_or_else(|_| panic!("{command} said {times:?}"));
    own + of_pid_1() - before
}

pub(super) fn check_and_suggest_ask_about_few_of_thousands_of_units(m: &Machine) {
    m.given("3,000 units, and a policy for one more, whose name is misspelt");
    m.unit("many@.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=/bin/true\n");
    let many: Vec<String> = (0..3000).map(|number| format!("many@{number}.service")).collect();
    m.unit("all.target", &format!("[Unit]\nWants={}\n", many.join(" ")));
    m.unit("many@7.service.d/10.conf", &GUARD.replace("=+", "="));
    m.unit(APP, IDLE);
    m.ok("systemctl start all.target");
    policy(m, "[unit.\"ap.service\"]\nports = [\"8080/tcp\"]\n");

    m.when("the system is audited, and the policy checked");
    let of_audit = spent(m, "portguard audit");
    let audit: Value = serde_json::from_str(&m.ok("cat /opt/out")).expect("JSON");
    let of_check = spent(m, "portguard check");
    let of_suggest = spent(m, "portguard suggest");

    m.then("the audit, which has to look at all, finds the one; the others take a small part of that");
    assert_names(&the(&audit["content"], "no-plus", "many@7.service").to_string(), &["ExecStartPre=+"]);
    assert_names(
        &the(&json(m, "portguard check").1, "no-unit", "ap.service").to_string(),
        &["did you mean app.service?"],
    );
    assert!(4 * of_check < of_audit && 4 * of_suggest < of_audit, "{of_check}, {of_suggest}, {of_audit}");
}

fn status_of(m: &Machine, command: &str) -> i32 {
    status(&m.sh(command))
}
