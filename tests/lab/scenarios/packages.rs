//! The Debian package on a system that has nothing but Debian's own, as `make packages` built it.
//!
//! It brings the binary under test with it: where that is another than the one in the package (a debug build, or
//! `/bin/true`, with which every scenario must fail), it takes its place there before the package is installed.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    APP, SOON, app_service, assert_names, assert_unharmed, assert_up_without, field, finding, message, policy_for_app,
    workers,
};
use crate::machine::Machine;

/// Where the package says that its drop-ins are.
const EXAMPLES: &str = "/usr/share/doc/portguard/examples";

const POLICY: &str = "/etc/portguard/portguard.toml";

/// What portguard has for an administrator to look at, and what only dpkg knows.
const LEFT: &str = "find / -xdev -name '*portguard*' -not -path '/proc/*' -not -path '/root/*' -not -path '/run/*' \
                    -not -path '/var/lib/dpkg/*' | sort";

/// A package of `target/packages/`, told by the beginning of its name, as /root/portguard.deb.
fn package(m: &Machine, beginning: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/packages").join(beginning);
    let (folder, beginning) = (folder.parent().expect("a folder"), folder.file_name().expect("a name"));
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&*beginning.to_string_lossy()) && path.extension().is_some_and(|suffix| suffix == "deb")
    };
    let found = files.into_iter().find(is_it);
    let path = found.unwrap_or_else(|| panic!("no such package in {}: make packages", folder.display()));
    m.write("/root/portguard.deb", fs::read(&path).expect("it can be read"));
    m.ok("cd /root && dpkg-deb -R portguard.deb tree && cmp -s under-test tree/usr/bin/portguard || \
          { install -m 755 under-test tree/usr/bin/portguard && dpkg-deb --root-owner-group -b tree portguard.deb; }; \
          rm -r tree");
}

/// The package of this version where it can be installed from, and no portguard on the system.
fn given_the_package(m: &Machine) {
    m.given("a system without portguard, and its package");
    m.ok("mv /usr/bin/portguard /root/under-test");
    package(m, concat!("portguard_", env!("CARGO_PKG_VERSION"), "_"));
}

fn install(m: &Machine) {
    m.ok("DEBIAN_FRONTEND=noninteractive dpkg -i /root/portguard.deb </dev/null");
}

/// Puts one of the shipped drop-ins where its first line says it goes, but for the unit's name.
fn drop_in(m: &Machine, example: &str, place: &str) {
    m.ok(&format!("install -D -m 644 {EXAMPLES}/{example} {place}/10-portguard.conf && systemctl daemon-reload"));
}

/// The commands of the README's section on installing, each as it stands there, where a checkout would be. What `make`
/// does was done on the host.
pub(super) fn installed_as_the_readme_says_it_works(m: &Machine) {
    given_the_package(m);
    m.ok("mkdir -p /root/portguard/target/packages && \
          cp /root/portguard.deb /root/portguard/target/packages/portguard_$(dpkg --print-architecture).deb");
    app_service(m, "8080/tcp");

    m.when("the commands of the README are typed there");
    let readme = include_str!("../../../README.md");
    let block = readme.split("```sh\n").find_map(|block| block.strip_prefix("make deb\n")).expect("README.md installs");
    let commands = block.split("```").next().expect("the block ends");
    assert_eq!(commands.lines().count(), 3, "{commands}");
    m.ok(&format!("cd /root/portguard && set -e\n{commands}"));
    policy_for_app(m, "8080/tcp");

    m.then("the service is guarded");
    m.ok(&format!("systemctl start {APP}"));
    finding(m, APP, &[("VERDICT", "free")]);
}

pub(super) fn installed_package_stops_the_leftover_and_journalctl_explains_it(m: &Machine) {
    given_the_package(m);
    m.given("a service whose worker survives a stop and holds 8080");
    app_service(m, "8080/tcp");
    m.ok(&format!("systemctl start {APP}"));
    let unguarded = workers(m);

    m.when("the package is installed, and nothing is configured");
    install(m);

    m.then("nothing is guarded, and the shipped policy is one");
    let dry_run = m.sh(&format!("portguard --unit {APP} --dry-run"));
    assert!(dry_run.status.success() && dry_run.stderr.contains("nothing to guard"), "{dry_run:?}");
    assert_unharmed(m, "8080/tcp", unguarded[0]);

    m.when("the port is named, the drop-in is put before the service, and it is restarted twice");
    policy_for_app(m, "8080/tcp");
    drop_in(m, "10-portguard.conf", &format!("/etc/systemd/system/{APP}.d"));
    m.ok(&format!("systemctl restart {APP}"));
    let old = workers(m);
    let restart = m.restart(APP);

    m.then("it is up, and the leftover gone");
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    let freed = finding(m, APP, &[("VERDICT", "freed")]);

    m.then("`journalctl -x -u` explains the holder, the steps and the verdict");
    let explained = m.ok(&format!("journalctl --sync; journalctl --no-pager -x -u {APP}"));
    assert_names(
        &explained,
        &[
            message(&freed),
            &format!("Subject: 8080/tcp, a port of {APP}, is in use"),
            &format!("Subject: A step of freeing a port for {APP}"),
            &format!("Subject: The ports of {APP} were freed"),
            "PORTGUARD_RELATION=leftover",
            "KillMode=process",
        ],
    );
    let documented = "man:portguard(8)";
    assert!(explained.contains(documented), "{explained}");

    m.then("a refusal is explained as well, with what to type next");
    m.unit("web.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 9090\n");
    m.ok("systemctl start web.service");
    policy_for_app(m, "9090/tcp");
    assert!(!m.restart(APP).status.success());
    let refused = finding(m, APP, &[("VERDICT", "refused")]);
    let explained = m.ok(&format!("journalctl --sync; journalctl --no-pager -x -u {APP}"));
    assert_names(
        &explained,
        &[message(&refused), &format!("Subject: {APP} was not started, as others have its ports")],
    );
    assert_names(&explained, &["Next: systemctl stop web.service", &format!("systemctl start {APP}")]);
}

pub(super) fn package_is_upgraded_removed_and_purged_without_a_trace(m: &Machine) {
    given_the_package(m);
    let before = m.ok(LEFT);
    install(m);

    m.given("a policy that an administrator has changed, and a service guarded by it");
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    m.write("/etc/portguard/conf.d/50-own.toml", "[defaults]\nstop-timeout = \"5s\"\n");
    drop_in(m, "10-portguard.conf", &format!("/etc/systemd/system/{APP}.d"));
    m.ok(&format!("systemctl start {APP}"));
    let (main, changed) = (m.main_pid(APP), m.ok(&format!("cat {POLICY}")));

    m.when("the package is upgraded to a higher version");
    package(m, concat!("next/portguard_", env!("CARGO_PKG_VERSION"), "+next_"));
    install(m);

    m.then("the policy is still the administrator's, the service still the same, and its next start is guarded");
    assert_names(&m.ok("dpkg-query -W portguard"), &["+next"]);
    assert_eq!(m.ok(&format!("cat {POLICY}")), changed);
    assert_eq!(m.main_pid(APP), main, "an upgrade restarts nothing");
    let old = workers(m);
    let restart = m.restart(APP);
    assert!(restart.status.success(), "{restart:?}");
    assert_up_without(m, "8080/tcp", &old);
    finding(m, APP, &[("VERDICT", "freed")]);

    m.when("it is removed");
    m.ok(&format!(
        "systemctl stop {APP}; rm -r /etc/systemd/system/{APP}.d; systemctl daemon-reload; dpkg -r portguard"
    ));

    m.then("the policy is all that is left");
    assert_eq!(m.ok(&format!("cat {POLICY}")), changed);
    assert_eq!(m.ok(LEFT), format!("{before}/etc/portguard\n{POLICY}\n"));
    m.ok(&format!("journalctl --no-pager -x -u {APP} | tee /root/unexplained | grep -q 'sending SIGTERM'"));
    assert!(!m.ok("cat /root/unexplained").contains("Subject: A step of freeing"), "its catalog is still there");

    m.when("it is purged");
    let purge = m.sh("dpkg -P portguard");

    m.then("nothing is left but what dpkg never knew");
    assert!(purge.status.success(), "{purge:?}");
    assert_eq!(m.ok(LEFT), format!("{before}/etc/portguard\n"));
    assert_eq!(m.ok("find /etc/portguard -type f"), "/etc/portguard/conf.d/50-own.toml\n");
}

/// dpkg asks where both sides changed the policy; without anybody to ask it keeps the one that is there.
pub(super) fn changed_policy_outlives_an_upgrade_that_brings_another(m: &Machine) {
    given_the_package(m);
    install(m);
    app_service(m, "8080/tcp");
    policy_for_app(m, "8080/tcp");
    drop_in(m, "10-portguard.conf", &format!("/etc/systemd/system/{APP}.d"));
    let changed = m.ok(&format!("cat {POLICY}"));

    m.when("the package is upgraded to one with another policy, by a script");
    package(m, concat!("next/portguard_", env!("CARGO_PKG_VERSION"), "+next_"));
    m.ok("cd /root && dpkg-deb -R portguard.deb tree && echo '# more to say' >>tree/etc/portguard/portguard.toml && \
          dpkg-deb --root-owner-group -b tree portguard.deb");
    m.ok("DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /root/portguard.deb </dev/null");

    m.then("the administrator's is in force, and the new one beside it disturbs nothing");
    assert_eq!(m.ok(&format!("cat {POLICY}")), changed);
    assert_names(&m.ok(&format!("cat {POLICY}.dpkg-dist")), &["# more to say"]);
    m.ok(&format!("systemctl start {APP}"));
    assert_names(message(&finding(m, APP, &[("VERDICT", "free")])), &["8080/tcp"]);
}

pub(super) fn every_shipped_drop_in_is_right_and_guards(m: &Machine) {
    given_the_package(m);
    install(m);
    let shipped = m.ok(&format!("cd {EXAMPLES} && ls *.conf"));
    let verified = |analyze: &str, unit: &str| {
        let verified = m.sh(&format!("{analyze} verify {unit} 2>&1"));
        assert!(verified.status.success() && !verified.stdout.contains("10-portguard"), "{verified:?}");
    };
    let sleeper = |name: &str| m.unit(name, "[Service]\nExecStart=/bin/sleep infinity\n");
    m.write(
        POLICY,
        "[unit.\"app.service\"]\nports = [\"8080/tcp\"]\n[unit.\"worker@.service\"]\nports = [\"80%i/tcp\"]\n\
         [unit.\"other.service\"]\nports = [\"8090/tcp\"]\n",
    );

    m.when("the one for a single unit is in place");
    sleeper(APP);
    drop_in(m, "10-portguard.conf", &format!("/etc/systemd/system/{APP}.d"));
    m.then("systemd has nothing to say against it, and the unit is guarded");
    verified("systemd-analyze", &format!("/etc/systemd/system/{APP}"));
    m.ok(&format!("systemctl start {APP}"));
    finding(m, APP, &[("VERDICT", "free")]);

    m.when("the one for a template is in place");
    sleeper("worker@.service");
    drop_in(m, "10-portguard-template.conf", "/etc/systemd/system/worker@.service.d");
    m.then("an instance is guarded");
    verified("systemd-analyze", "/etc/systemd/system/worker@.service");
    m.ok("systemctl start worker@81.service");
    assert_names(message(&finding(m, "worker@81.service", &[("VERDICT", "free")])), &["8081/tcp"]);

    m.when("the one with ExecCondition= is in place, and somebody else has the port");
    m.unit("web.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8090\n");
    m.ok("systemctl start web.service");
    m.unit("other.service", "[Service]\nRestart=always\nExecStart=/bin/sleep infinity\n");
    drop_in(m, "10-portguard-condition.conf", "/etc/systemd/system/other.service.d");
    m.then("the start is skipped: the unit is inactive, has not failed, and is not tried again");
    verified("systemd-analyze", "/etc/systemd/system/other.service");
    m.start("other.service");
    m.wait_until("the start is skipped", SOON, || m.show("other.service", "ActiveState") == "inactive");
    let refused = finding(m, "other.service", &[("VERDICT", "refused")]);
    assert_eq!(field(&refused, "PORTGUARD_EXIT_STATUS"), "69");
    assert_eq!(m.show("other.service", "NRestarts"), "0");

    m.when("the one of a user is in place");
    m.ok("useradd -m alice && mkdir -p /etc/systemd/user");
    m.write("/etc/systemd/user/own.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    drop_in(m, "10-portguard-user.conf", "/etc/systemd/user/own.service.d");
    m.then("a user's unit is guarded");
    m.ok(&format!("systemctl stop {APP} && systemctl start user@$(id -u alice).service"));
    m.ok(&super::users::as_alice("systemctl --user start own.service"));
    assert_names(
        &m.ok("journalctl --sync; journalctl --no-pager -t portguard"),
        &["8080/tcp free; own.service may start"],
    );
    // Last, as systemd 247 takes the socket of the manager that runs away.
    verified(&super::users::as_alice("systemd-analyze --user"), "/etc/systemd/user/own.service");

    m.when("the one for every service is in place");
    drop_in(m, "10-portguard-every-service.conf", "/etc/systemd/system/service.d");
    m.then("a unit of Debian's own starts with one warning, and one that the file is hidden from without");
    m.unit("plain.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    verified("systemd-analyze", "/etc/systemd/system/plain.service");
    m.ok("systemctl restart systemd-logind.service plain.service");
    finding(m, "systemd-logind.service", &[("VERDICT", "no-ports")]);
    m.unit("hidden.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    m.ok("mkdir /etc/systemd/system/hidden.service.d && \
          ln -s /dev/null /etc/systemd/system/hidden.service.d/10-portguard.conf && \
          systemctl daemon-reload && systemctl start hidden.service");
    assert!(m.guard_entries("hidden.service").is_empty());

    m.then("these are all that are shipped");
    let tried = ["-condition", "-every-service", "-template", "-user", ""].map(|of| format!("10-portguard{of}.conf"));
    assert_eq!(shipped.lines().collect::<Vec<_>>(), tried.each_ref().map(String::as_str));
}
