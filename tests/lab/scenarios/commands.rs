//! What people type. Each asserts the JSON, which is checked against the schema that is shipped.

use std::sync::OnceLock;

use serde_json::Value;

use super::checks::on_a_terminal;
use super::containers::started_web;
use super::users::{alices_manager, as_alice, user_unit};
use super::{APP, SOON, app_service, assert_names, finding, guard, policy_for_app};
use crate::machine::{Machine, Output};

const NGINX: &str = "nginx.service";
const LEARNT: &str = "/etc/portguard/conf.d/only-nginx.service.toml";
const DROP_IN: &str = "/etc/systemd/system/nginx.service.d/10-portguard.conf";

/// What portguard is told, as it would be typed, and has to print one document of this kind.
pub(super) fn json(kind: &str, output: &Output) -> Value {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        let text = include_str!("../../../packaging/portguard.schema.json");
        jsonschema::validator_for(&serde_json::from_str(text).expect("the schema is JSON")).expect("it is a schema")
    });
    let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    if let Err(error) = schema.validate(&document) {
        panic!("{error}\nat {} in {document:#}", error.instance_path());
    }
    assert_eq!(document["kind"], kind);
    document["content"].clone()
}

/// The only socket in the answer of `who`, and whose it is.
fn only(who: &Value) -> (&Value, &Value) {
    let [held] = &who["sockets"].as_array().expect("sockets")[..] else { panic!("one socket in {who:#}") };
    let [owner] = &held["owners"].as_array().expect("owners")[..] else { panic!("one owner in {who:#}") };
    (&held["socket"], owner)
}

fn pids(owner: &Value) -> Vec<u64> {
    owner["holders"].as_array().expect("holders").iter().filter_map(|holder| holder["pid"].as_u64()).collect()
}

pub(super) fn who_names_nginx_its_unit_and_what_frees_the_port(m: &Machine) {
    m.given("nginx, and a guarded service that wants its port");
    m.ok("systemctl start nginx.service");
    m.wait_until("nginx serves", SOON, || m.holders("80/tcp").len() > 1);
    m.write("/etc/portguard/portguard.toml", "[unit.\"app.service\"]\nports = [\"0.0.0.0:80/tcp\"]\n");

    m.when("somebody asks who has the port");
    let who = json("who", &m.sh("portguard who 0.0.0.0:80 --json"));

    m.then("it is nginx with all its processes, the unit with its run, and the command that stops it");
    let held = who["sockets"].as_array().expect("sockets");
    assert!(!held.is_empty(), "{who:#}");
    for held in held {
        assert_eq!((&held["socket"]["state"], &held["socket"]["port"]), (&"listening".into(), &80.into()));
        assert_eq!(held["socket"]["made_by"], NGINX);
        let [owner] = &held["owners"].as_array().expect("owners")[..] else { panic!("{held:#}") };
        let mut found = pids(owner);
        found.sort_unstable();
        assert_eq!(found, m.holders("80/tcp").into_iter().map(u64::from).collect::<Vec<_>>());
        assert_eq!((&owner["unit"]["state"], &owner["unit"]["substate"]), (&"active".into(), &"running".into()));
        assert_eq!(owner["unit"]["invocation"], m.show(NGINX, "InvocationID"));
        assert_eq!((&owner["judgement"], &owner["next"]), (&Value::Null, &"systemctl stop nginx.service".into()));
        for holder in owner["holders"].as_array().expect("holders") {
            let [fd] = &holder["fds"].as_array().expect("descriptors")[..] else { panic!("{holder:#}") };
            let link = m.ok(&format!("readlink /proc/{}/fd/{fd}", holder["pid"]));
            assert_eq!(link.trim(), format!("socket:[{}]", held["socket"]["inode"]));
        }
        assert!(owner["holders"][0]["started"].as_u64() > Some(1_700_000_000_000_000), "{owner:#}");
    }

    m.when("it is asked for the ports of the guarded service");
    let who = json("who", &m.sh("portguard who --unit app.service --json"));

    m.then("it says how nginx stands to it");
    for held in who["sockets"].as_array().expect("sockets") {
        let judgement = &held["owners"][0]["judgement"];
        assert_eq!((&judgement["relation"], &judgement["action"]), (&"other-unit".into(), &"refuse".into()));
    }

    m.when("what is next is typed");
    let next = who["sockets"][0]["owners"][0]["next"].as_str().expect("a command").to_owned();
    m.ok(&next);

    m.then("nobody has the port, which is exit status 1");
    let after = m.sh("portguard who 80 --json");
    assert_eq!((after.status.code(), &json("who", &after)["sockets"]), (Some(1), &Value::Array(Vec::new())));
}

pub(super) fn who_fits_a_terminal_and_columns_a_pipe(m: &Machine) {
    m.given("nginx, redis, and a listener with a name for terminals");
    m.ok("systemctl start nginx.service redis-server.service");
    m.write("/opt/evil.py", "import signal, socket\ns = socket.create_server((\"\", 8081))\nsignal.pause()\n");
    m.ok("systemd-run --quiet --unit=evil.service python3 /opt/evil.py \"$(printf '\\033[31mred\\007')\"");
    m.wait_until("all listen", SOON, || {
        ["80/tcp", "6379/tcp", "8081/tcp"].iter().all(|port| !m.holders(port).is_empty())
    });
    let typed = |command: &str| m.sh(&format!("TERM=xterm script -qec 'stty cols 80; {command}' /dev/null")).stdout;

    m.when("it is asked on a terminal of 80 columns");
    let shown = typed("portguard who");

    m.then("no line is longer, nothing of others is obeyed, and only colours are ours");
    assert_names(
        &shown,
        &[":80/tcp", ":6379/tcp", "nginx.service, active (running)", "redis-server.service", "└─ ", "next:"],
    );
    assert!(shown.contains("\x1b[1m"), "{shown}");
    let plain = shown
        .replace("\x1b[0m", "")
        .replace("\x1b[1m", "")
        .replace("\x1b[2m", "")
        .replace("\x1b[31m", "")
        .replace("\x1b[32m", "");
    for line in plain.lines() {
        let line = line.trim_end_matches('\r');
        assert!(line.chars().count() <= 80, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }

    m.then("without colours if NO_COLOR says so");
    let shown = typed("NO_COLOR=1 portguard who 80");
    assert_names(&shown, &[":80/tcp", NGINX]);
    assert!(!shown.contains('\x1b'), "{shown:?}");

    m.then("with -l it is a row a process");
    let rows = m.ok("portguard who -l 80");
    assert_names(&rows, &["COMMAND", "PID", "nginx", NGINX, "(LISTENING)"]);
    assert_eq!(rows.split_whitespace().nth(3), Some("FD"));
    for pid in m.holders("80/tcp") {
        assert!(rows.lines().any(|row| row.split_whitespace().nth(1) == Some(&pid.to_string())), "{pid} in {rows}");
    }
}

pub(super) fn who_names_containers_sessions_and_socket_units(m: &Machine) {
    m.given("a container with a published port, alice's server in her session, and a socket unit");
    m.ok("systemctl start docker.service && useradd -m alice");
    started_web(m, "docker", "--publish 127.0.0.1:8080:8080");
    m.ok("setsid su -l alice -c 'python3 /opt/lab/listener.py 8081; exec sleep infinity' >/dev/null 2>&1 &");
    m.unit("lazy.socket", "[Socket]\nListenStream=127.0.0.1:8082\n");
    m.unit("lazy.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    m.ok("systemctl start lazy.socket");
    m.wait_until("alice's server listens", SOON, || !m.holders("8081/tcp").is_empty());

    m.when("it is asked of each");
    m.then("it names the container, the session and the socket unit, and what ends each");
    let who = json("who", &m.sh("portguard who 8080 --json"));
    let (_, owner) = only(&who);
    assert_eq!(owner["holders"][0]["container"]["name"], "web");
    assert_eq!(owner["next"], "docker stop web");
    let learnt = m.sh("portguard learn docker.service --json");
    let port = &json("learn", &learnt)["units"][0]["ports"][0];
    assert_eq!((learnt.status.code(), &port["is_taken"]), (Some(1), &false.into()), "{port:#}");
    assert_eq!(port["note"], "published for docker container web");

    let who = json("who", &m.sh("portguard who 8081 --json"));
    let owner = &who["sockets"][0]["owners"][0];
    assert_eq!((&owner["holders"][0]["user"], owner["holders"][0]["session"].is_string()), (&"alice".into(), true));

    let who = json("who", &m.sh("portguard who 8082 --json"));
    let (socket, owner) = only(&who);
    assert_eq!((&owner["unit"]["name"], &owner["unit"]["substate"]), (&"lazy.socket".into(), &"listening".into()));
    assert_eq!((&owner["next"], &socket["backlog"].is_u64()), (&"systemctl stop lazy.socket".into(), &true));

    m.when("alice asks, who may not look into the processes of others");
    let who = json("who", &m.sh(&as_alice("portguard who 8080 8081 --json")));

    m.then("she sees her own, and that there is more");
    assert_eq!(who["sockets"].as_array().map(Vec::len), Some(2), "{who:#}");
    assert_eq!(who["sockets"][1]["owners"][0]["holders"][0]["user"], "alice", "{who:#}");
    assert_eq!(who["sockets"][0]["owners"][0]["holders"], Value::Array(Vec::new()), "{who:#}");
    assert_names(&who["unseen"].to_string(), &["could not be listed", "root"]);
}

/// learn, enable, restart.
pub(super) fn three_commands_guard_nginx(m: &Machine) {
    m.given("nginx without any guard, whose workers outlive it");
    m.unit("nginx.service.d/kill-mode.conf", "[Service]\nKillMode=process\n");
    m.ok("systemctl start nginx.service");
    m.wait_until("nginx serves", SOON, || m.holders("80/tcp").len() > 1);
    m.ok("mkdir -p /etc/portguard/conf.d");

    m.when("its ports are learnt, and it is enabled");
    m.ok(&format!("portguard learn nginx.service >{LEARNT}"));
    let enabled = m.sh("portguard enable nginx.service --json");

    m.then("the policy has its port, and the drop-in is there and read");
    assert!(enabled.status.success(), "{enabled:?}");
    assert_names(&m.ok(&format!("cat {LEARNT}")), &["[unit.\"nginx.service\"]", "\"80/tcp\""]);
    let steps = json("enable", &enabled);
    assert_eq!(steps["steps"][0]["path"], DROP_IN);
    assert_names(&m.show(NGINX, "ExecStartPre"), &["/usr/bin/portguard --unit nginx.service"]);

    m.when("nginx is killed, leaves its workers, and is started again");
    m.ok(&format!("kill -KILL {}", m.main_pid(NGINX)));
    m.wait_until("nginx.service has failed", SOON, || m.show(NGINX, "ActiveState") == "failed");
    let old = m.holders("80/tcp");
    assert!(!old.is_empty(), "no worker is left");
    let start = m.restart(NGINX);

    m.then("it is up, and its leftovers are gone");
    assert!(start.status.success(), "{start:?}");
    finding(m, NGINX, &[("VERDICT", "freed")]);
    assert!(old.iter().all(|pid| !m.holders("80/tcp").contains(pid)));
}

pub(super) fn enable_learns_says_what_it_does_and_disable_takes_it_away(m: &Machine) {
    m.given("nginx and redis, which nobody guards");
    m.ok("systemctl start nginx.service redis-server.service");
    m.wait_until("both listen", SOON, || ["80/tcp", "6379/tcp"].iter().all(|port| !m.holders(port).is_empty()));

    m.when("both are enabled, redis until the next boot");
    let enabled = m.sh("portguard enable nginx.service");
    m.ok("portguard enable --runtime redis-server.service");

    m.then("it says which files it wrote, and both are guarded");
    assert!(enabled.status.success(), "{enabled:?}");
    assert_names(&enabled.stdout, &["wrote", LEARNT, DROP_IN, "reloaded"]);
    assert_names(
        &m.ok("cat /run/systemd/system/redis-server.service.d/10-portguard.conf"),
        &["ExecStartPre=+/usr/bin/portguard"],
    );
    m.ok("systemctl restart nginx.service redis-server.service");
    finding(m, NGINX, &[("VERDICT", "free")]);
    finding(m, "redis-server.service", &[("VERDICT", "free")]);

    m.then("again it is the same, and nothing is written");
    let again = m.ok("portguard enable nginx.service");
    assert!(!again.contains("wrote") && !again.contains("reloaded"), "{again}");

    m.then("a terminal of 80 columns shows the whole of it, and what would be learnt");
    let shown = words_on_a_terminal(m, "portguard enable nginx.service");
    assert_names(&shown, &[DROP_IN, "is there already: portguard runs before each start"]);
    let learnt = words_on_a_terminal(m, "portguard learn nginx.service redis-server.service");
    assert_names(&learnt, &["[unit.\"nginx.service\"] ports = [ \"80/tcp\", ] [unit.\"redis-server.service\"]"]);

    m.when("somebody changes the policy file, and both are disabled");
    m.ok(&format!("sed -i 1d {LEARNT}"));
    let disabled = json("enable", &m.sh("portguard disable nginx redis-server.service --json"));

    m.then("all but the changed file is gone, and neither is guarded");
    assert_names(&disabled.to_string(), &["removed", "kept", LEARNT]);
    m.ok(&format!("test -e {LEARNT} && ! test -e {DROP_IN} && ! test -e /etc/systemd/system/nginx.service.d"));
    m.ok("! test -e /run/systemd/system/redis-server.service.d && ! test -e /run/portguard/conf.d/only-redis-server.service.toml");
    assert_eq!(
        (
            m.show(NGINX, "ExecStartPre").contains("portguard"),
            m.show("redis-server.service", "ExecStartPre").contains("portguard")
        ),
        (false, false)
    );
    let shown = words_on_a_terminal(m, "portguard disable nginx.service");
    assert_names(&shown, &["kept", LEARNT, "or its folder is a link: it is left as it is"]);
}

/// What a terminal of 80 columns shows, none of it cut, with a space for whatever is between two words.
fn words_on_a_terminal(m: &Machine, command: &str) -> String {
    let shown = on_a_terminal(m, command).join(" ");
    assert!(!shown.contains('…'), "{shown}");
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn enable_touches_nothing_that_it_has_not_written(m: &Machine) {
    m.given("a service with a drop-in of somebody else's of the same name that systemd has not read, and one that nobody knows");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    let path = "/etc/systemd/system/app.service.d/10-portguard.conf";
    m.ok("systemctl daemon-reload");
    m.write(path, "[Service]\nEnvironment=MINE=1\n");

    m.when("it is enabled");
    let enabled = m.sh("portguard enable app.service");

    m.then("that fails with 73, names the file, and the file is as it was");
    assert_eq!(enabled.status.code(), Some(73), "{enabled:?}");
    assert_names(&enabled.stderr, &[path, "left as it is"]);
    assert_eq!(m.ok(&format!("cat {path}")), "[Service]\nEnvironment=MINE=1\n");
    m.ok("portguard disable app.service");
    assert_eq!(m.ok(&format!("cat {path}")), "[Service]\nEnvironment=MINE=1\n");

    m.then("what cannot be done says why, and changes nothing");
    for (command, status, words) in [
        ("portguard enable nosuch.service", 66, "there is no unit nosuch.service"),
        ("portguard learn nosuch.service", 66, "there is no unit nosuch.service"),
        ("portguard enable nosuch", 66, "there is no unit nosuch.service"),
        ("portguard enable app.timer", 64, "name a .service or a .socket"),
        ("portguard enable systemd-logind.service", 1, "no ports are known of systemd-logind.service"),
        ("portguard who nonsense", 64, "nonsense"),
        ("portguard who \"$(printf '\\033[31m80')\"", 64, r"value '\u{1b}[31m80'"),
        ("portguard whom", 64, "whom"),
    ] {
        let output = m.sh(command);
        assert_eq!(output.status.code(), Some(status), "{command}: {output:?}");
        assert_names(&output.stderr, &[words]);
    }
    m.ok("! find /etc /run -path '*systemd-logind.service*' -name '*portguard*' | grep .");
}

pub(super) fn units_of_a_user_are_learnt_and_enabled_without_root(m: &Machine) {
    m.given("alice's own service, which listens");
    alices_manager(m);
    user_unit(m, APP, "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp\n");
    m.ok(&as_alice("systemctl --user start app.service"));

    m.when("she learns its ports and enables it");
    let learnt = json("learn", &m.sh(&as_alice("portguard learn --user app.service --json")));
    let enabled = m.sh(&as_alice("portguard enable --user app.service"));

    m.then("its port is in the command, as the policy is root's, and the next start is guarded");
    assert_eq!(learnt["units"][0]["ports"][0]["endpoint"], "0.0.0.0:8080/tcp", "{learnt:#}");
    assert!(enabled.status.success(), "{enabled:?}");
    let drop_in = "/home/alice/.config/systemd/user/app.service.d/10-portguard.conf";
    assert_names(
        &m.ok(&format!("cat {drop_in}")),
        &["ExecStartPre=/usr/bin/portguard --user --unit %n --port 0.0.0.0:8080/tcp"],
    );
    m.ok(&as_alice("systemctl --user restart app.service"));
    assert_names(
        &m.ok("journalctl --sync; journalctl --no-pager -t portguard"),
        &["0.0.0.0:8080/tcp free; app.service may start"],
    );

    m.when("it is stopped, and enabled once more");
    m.ok(&as_alice("systemctl --user stop app.service"));
    let before = m.ok(&format!("cat {drop_in}"));
    let again = m.ok(&as_alice("portguard enable --user app.service"));

    m.then("it is as it was");
    assert_names(&again, &["kept", drop_in]);
    assert_eq!(m.ok(&format!("cat {drop_in}")), before);
    m.ok(&as_alice("portguard disable --user app.service"));
    m.ok(&format!("! test -e {drop_in}"));
}

pub(super) fn enable_is_done_whole_for_all_to_read_and_to_last(m: &Machine) {
    m.given("two services that listen");
    let other = r"o\x2dther.service";
    app_service(m, "8080/tcp");
    m.unit(other, "[Service]\nType=notify\nExecStart=/usr/bin/python3 /opt/lab/app.py 8081/tcp\n");
    let both = format!("app.service '{other}'");
    m.ok(&format!("systemctl start {both}"));
    let drop_in = format!("/etc/systemd/system/{APP}.d/10-portguard.conf");
    let learnt = format!("/etc/portguard/conf.d/only-{APP}.toml");

    m.when("one is enabled with a umask that opens, and one that closes, all folders");
    for umask in ["000", "077"] {
        m.ok(&format!("umask {umask}; portguard enable {APP}"));

        m.then("nobody else may write there, and everybody read");
        let modes =
            m.ok(&format!("stat -c %a /etc/portguard /etc/portguard/conf.d $(dirname {drop_in}) {drop_in} {learnt}"));
        assert_eq!(modes.split_whitespace().collect::<Vec<_>>(), ["755", "755", "755", "644", "644"]);
        m.ok(&format!("cp {drop_in} {learnt} /opt; portguard disable {APP}; rm -r /etc/portguard"));
    }

    m.when("the files are there, but systemd has not read them");
    m.ok(&format!("mkdir -p /etc/portguard/conf.d $(dirname {drop_in})"));
    m.ok(&format!("cp /opt/only-{APP}.toml {learnt}; cp /opt/10-portguard.conf {drop_in}"));
    assert!(!m.show(APP, "ExecStartPre").contains("portguard"));
    let enabled = m.ok(&format!("portguard enable {APP}"));

    m.then("it reads them");
    assert_names(&enabled, &["kept", "reloaded"]);
    assert!(m.show(APP, "ExecStartPre").contains("portguard"));
    m.ok(&format!("portguard disable {APP}"));

    m.when("a package has a file of the policy of the same name, which the new one would hide");
    let packaged = format!("/usr/lib/portguard/conf.d/only-{APP}.toml");
    m.write(&packaged, format!("[unit.\"{APP}\"]\non-stale = \"refuse\"\n"));
    let enabled = m.sh(&format!("portguard enable {APP}"));

    m.then("nothing is written, and it is said into which the ports belong");
    assert_eq!(enabled.status.code(), Some(73), "{enabled:?}");
    assert_names(&enabled.stderr, &[&packaged, "write the ports into it; nothing was changed"]);
    assert!(!m.sh(&format!("test -e {learnt} || test -e {drop_in}")).status.success());
    m.ok("rm -r /usr/lib/portguard");

    m.when("one of two has a drop-in of somebody else's");
    let foreign = format!("/etc/systemd/system/{other}.d/10-portguard.conf");
    m.ok(&format!("mkdir -p '/etc/systemd/system/{other}.d'; echo '[Service]' >'{foreign}'"));
    let enabled = m.sh(&format!("portguard enable {both}"));

    m.then("nothing is written for the other either");
    assert_eq!(enabled.status.code(), Some(73), "{enabled:?}");
    m.ok(&format!("! test -e {drop_in} && ! test -e {learnt} && rm '{foreign}'"));

    m.when("one is enabled until the next boot, and then for good");
    m.ok(&format!("portguard enable --runtime {APP} && portguard enable {APP}"));

    m.then("its ports are there for good as well, and what is left of the other is told from it");
    m.ok(&format!("test -e {drop_in} && test -e {learnt}"));
    let disabled = m.sh(&format!("portguard disable --runtime {APP}"));
    assert_names(&disabled.stdout, &["still runs portguard, by another file"]);

    m.when("what a unit of a difficult name needs is told");
    m.ok(&format!("systemctl stop '{other}'"));
    let none = m.sh(&format!("portguard enable '{other}'"));

    m.then("it is good TOML");
    assert_names(&none.stderr, &[r#"[unit."o\\x2dther.service"] with ports"#]);
    m.ok("chmod 777 /usr/bin/portguard");
    let enabled = m.sh(&format!("portguard enable {APP}"));
    assert_eq!(enabled.status.code(), Some(73), "{enabled:?}");
}

pub(super) fn enable_takes_back_what_it_wrote_and_says_what_is_bad(m: &Machine) {
    m.given("a service that listens, where no drop-in can be written");
    app_service(m, "8080/tcp");
    m.ok(&format!("systemctl start {APP} && touch /etc/systemd/system/{APP}.d"));

    m.when("it is enabled");
    let enabled = m.sh(&format!("portguard enable {APP}"));

    m.then("that fails with 73, and there is no policy of it either");
    assert_eq!(enabled.status.code(), Some(73), "{enabled:?}");
    assert_names(&enabled.stderr, &["app.service.d", "; nothing was changed"]);
    m.ok(&format!("! test -e /etc/portguard/conf.d/only-{APP}.toml && rm /etc/systemd/system/{APP}.d"));
    m.ok(&format!("portguard enable {APP} && test -e /etc/portguard/conf.d/only-{APP}.toml"));

    m.when("it is disabled where the policy cannot be written");
    m.ok("mount --bind -o ro /etc/portguard /etc/portguard && mount -o remount,bind,ro /etc/portguard");
    let disabled = m.sh(&format!("portguard disable {APP}"));

    m.then("that fails with 73, but the drop-in is gone, and systemd knows");
    assert_eq!(disabled.status.code(), Some(73), "{disabled:?}");
    assert_names(&disabled.stderr, &["/etc/portguard/conf.d/only-app.service.toml: Read-only"]);
    assert_names(&disabled.stdout, &["removed /etc/systemd/system/app.service.d/10-portguard.conf", "reloaded"]);
    assert!(!m.show(APP, "ExecStartPre").contains("portguard"));
    m.ok(&format!(
        "umount /etc/portguard && portguard disable {APP} && ! test -e /etc/portguard/conf.d/only-{APP}.toml"
    ));

    m.when("a template is enabled by the name of a link to it");
    m.unit("real@.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    m.ok("ln -s real@.service /etc/systemd/system/alias@.service");
    m.write("/etc/portguard/portguard.toml", "[unit.\"real@.service\"]\nports = [\"900%i/tcp\"]\n");
    let enabled = m.ok("portguard enable alias@.service");

    m.then("the drop-in is that of the template, and its instances are guarded by either name");
    assert_names(&enabled, &["/etc/systemd/system/real@.service.d/10-portguard.conf"]);
    m.ok("systemctl start alias@1.service real@2.service");
    let said = m.ok("journalctl --sync; journalctl --no-pager -t portguard");
    assert_names(&said, &["9001/tcp free; real@1.service may start", "9002/tcp free; real@2.service may start"]);

    m.when("a unit has settings that systemd does not take");
    m.unit("bad.service", "[Service]\nRestart=no\n");

    m.then("that is said, and not that it is to be started");
    for command in ["learn", "enable"] {
        let output = m.sh(&format!("portguard {command} bad.service"));
        assert_eq!(output.status.code(), Some(66), "{output:?}");
        assert_names(
            &output.stderr,
            &["the settings of bad.service are bad (bad-setting): systemctl status bad.service"],
        );
    }

    m.then("of a unit without ports it is said how to learn them, and free ports are one range");
    let who = m.sh("portguard who --unit systemd-logind.service --json");
    assert_eq!(who.status.code(), Some(1), "{who:?}");
    let unseen = json("who", &who)["unseen"].to_string();
    assert_names(&unseen, &["names no port of systemd-logind.service: portguard learn systemd-logind.service"]);
    assert!(!m.sh("portguard who --unit systemd-logind.service").stdout.contains("nobody"));
    let free = m.sh("portguard who 20000-20010 127.0.0.1:20011/udp");
    assert_eq!(free.stdout, "nobody has 20000-20010/tcp, 127.0.0.1:20011/udp\n");
}

pub(super) fn learn_knows_what_is_shared_and_what_may_be_bound(m: &Machine) {
    m.given("two services that listen on one port, of which one may bind others");
    m.write(
        "/opt/shared.py",
        "import signal, socket, sys\ns = socket.create_server((\"\", 8080), reuse_port=True)\n\
         u = socket.socket(type=socket.SOCK_DGRAM)\nif sys.argv[1:]: u.bind((\"224.0.0.251\", 5353))\nsignal.pause()\n",
    );
    let shared = "ExecStart=/usr/bin/python3 /opt/shared.py\n";
    m.unit("web.service", &format!("[Service]\n{shared}"));
    let allow = "SocketBindAllow=ipv4:tcp:8090-8091\nSocketBindAllow=udp:53\nSocketBindAllow=8080\n";
    m.unit(APP, &format!("[Service]\n{allow}{} group\n", shared.trim_end()));
    m.ok(&format!("systemctl start {APP} web.service"));
    m.wait_until("both listen", SOON, || m.holders("8080/tcp").len() == 2);

    m.when("the ports of one are learnt");
    let learnt = json("learn", &m.sh(&format!("portguard learn {APP} --json")));

    m.then("it names the other, and what may be bound, where this systemd knows of that");
    let ports = learnt["units"][0]["ports"].as_array().expect("ports");
    let found: Vec<_> = ports.iter().filter_map(|port| port["endpoint"].as_str()).collect();
    let may_bind = !m.show(APP, "SocketBindAllow").is_empty();
    let group = "224.0.0.251:5353/udp";
    let expected: &[&str] = if may_bind {
        &["0.0.0.0:8080/tcp", "0.0.0.0:8090-8091/tcp", group, "53/udp", "8080/udp"]
    } else {
        &["0.0.0.0:8080/tcp", group]
    };
    assert_eq!(found, expected, "{learnt:#}");
    let refused = ports.iter().find(|port| port["endpoint"] == group).expect("the group's");
    assert_eq!(refused["is_taken"], false, "{refused}");
    assert_names(refused["note"].as_str().expect("a note"), &["multicast"]);
    assert_names(ports[0]["note"].as_str().expect("a note"), &["shared with web.service"]);

    m.then("and what it says is a policy");
    m.ok(&format!("portguard learn {APP} >/opt/learnt.toml; portguard check --policy /opt/learnt.toml"));
}

/// As libvirtd and its dnsmasq.
pub(super) fn learn_leaves_out_what_is_to_outlive_a_stop(m: &Machine) {
    m.given("a service with KillMode=process, whose helper has a port of its own");
    m.write(
        "/opt/helped.py",
        "import os, signal, socket\nif os.fork() == 0:\n    os.setsid()\n    u = socket.socket(type=socket.SOCK_DGRAM)\n    \
         u.bind((\"127.0.0.1\", 5300))\nelse:\n    s = socket.create_server((\"\", 8080))\nsignal.pause()\n",
    );
    m.unit(APP, "[Service]\nKillMode=process\nExecStart=/usr/bin/python3 /opt/helped.py\n");
    m.ok(&format!("systemctl start {APP}"));
    m.wait_until("both listen", SOON, || {
        m.holders("8080/tcp").len() == 1 && !m.ok("ss -Hlun 'sport = :5300'").is_empty()
    });

    m.when("its ports are learnt");
    let learnt = json("learn", &m.sh(&format!("portguard learn {APP} --json")));

    m.then("the main process's is one of them, and that of the helper is shown with a remark");
    let ports = learnt["units"][0]["ports"].as_array().expect("ports");
    let [main, helpers] = &ports[..] else { panic!("{learnt:#}") };
    assert_eq!((&main["endpoint"], &main["is_taken"]), (&"0.0.0.0:8080/tcp".into(), &true.into()));
    assert_eq!((&helpers["endpoint"], &helpers["is_taken"]), (&"127.0.0.1:5300/udp".into(), &false.into()));
    assert_names(helpers["note"].as_str().expect("a note"), &["KillMode=process lets it live on"]);
}

pub(super) fn guard_prints_how_it_ended_as_json(m: &Machine) {
    m.given("a foreign service on the port of the guarded one");
    let web = super::web_has_the_port(m);
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    guard(m, APP);

    m.when("the guard is run on a shell");
    let run = m.sh("portguard --unit app.service --dry-run --json");

    m.then("its JSON has the verdict and the holder, and its sentences are where they were");
    let content = json("guard", &run);
    assert_eq!(
        (run.status.code(), &content["verdict"], &content["exit_status"]),
        (Some(69), &"refused".into(), &69.into())
    );
    let [found] = &content["findings"].as_array().expect("findings")[..] else { panic!("{content:#}") };
    assert_eq!((&found["holder"]["pid"], &found["judgement"]["relation"]), (&web.into(), &"other-unit".into()));
    assert_eq!((&found["unit"], &found["next"]), (&"web.service".into(), &"systemctl stop web.service".into()));
    assert_names(&run.stderr, &["8080/tcp is held by pid", "must not start"]);
    let free = m.sh("portguard --unit app.service --policy /dev/null --port 9 --json");
    assert_eq!(json("guard", &free)["verdict"], "free");
}
