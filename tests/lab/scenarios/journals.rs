//! What portguard(8) says to type to see the refusals of a host, and of a fleet.

use std::time::Duration;

use serde_json::Value;

use super::{APP, app_service, assert_names, guard, policy, web_has_the_port};
use crate::machine::Machine;

const OTHER: &str = "other.service";
const NEXT: &str = "systemctl stop web.service";

/// An upload that was refused is tried again by systemd after some seconds.
const A_WHILE: Duration = Duration::from_secs(40);

/// The commands of the section JOURNAL VIEWS, block by block, a command a line.
fn blocks() -> Vec<Vec<&'static str>> {
    let page = include_str!("../../../packaging/man/portguard.8.scd");
    let section = page.split("# JOURNAL VIEWS\n").nth(1).and_then(|rest| rest.split("\n# ").next()).expect("a section");
    section.split("```\n").skip(1).step_by(2).map(|block| block.lines().collect()).collect()
}

/// Two guarded units whose port web.service has, and whose starts are refused.
fn with_refusals(m: &Machine) {
    web_has_the_port(m);
    app_service(m, "8080/tcp");
    m.unit(OTHER, "[Service]\nExecStart=/bin/sleep infinity\n");
    policy(m, &[APP, OTHER].map(|unit| format!("[unit.\"{unit}\"]\nports = [\"8080/tcp\"]\n")).concat());
    for unit in [APP, OTHER] {
        guard(m, unit);
        assert!(!m.start(unit).status.success(), "{unit} has started");
    }
    m.ok("journalctl --sync");
}

/// What a view in JSON has: for each entry the host, the unit and the command.
fn refusals(json: &str) -> Vec<[String; 3]> {
    let mut found: Vec<_> = json
        .lines()
        .map(|line| {
            let entry: Value = serde_json::from_str(line).expect("an object a line");
            assert_eq!(entry["PORTGUARD_ENDPOINT"], "8080/tcp");
            ["_HOSTNAME", "PORTGUARD_UNIT", "PORTGUARD_NEXT"]
                .map(|field| entry[field].as_str().unwrap_or("").to_owned())
        })
        .collect();
    found.sort();
    found
}

pub(super) fn journal_views_show_the_refusals_of_a_host_and_of_a_fleet(logs: &Machine) {
    let blocks = blocks();
    let [views, for_programs, collector, host, fleet] = &blocks[..] else { panic!("five blocks in {blocks:#?}") };

    logs.given(
        "two hosts, on each of which two units were refused for web.service, and somebody writes what is not so",
    );
    let hosts = [logs.another("web1"), logs.another("web2")];
    for (host, net) in hosts.iter().zip([1, 2]) {
        with_refusals(host);
        host.ok("printf 'MESSAGE=forged\\nMESSAGE_ID=9e730c75146241839e98b653f60de5c1\\nPORTGUARD_ACTION=refuse\\n\
             PORTGUARD_VERDICT=refused\\nPORTGUARD_UNIT=app.service\\n' | \
             setpriv --reuid=nobody --clear-groups logger --journald && journalctl --sync");
        logs.cable_to(host, net);
        host.write("/etc/hosts", format!("127.0.0.1 localhost\n10.0.{net}.1 logs\n"));
    }

    logs.when("the commands for one host are typed on one of them");
    let [all, verdicts, of_app] = &views[..] else { panic!("three views: {views:?}") };
    let [as_json, to_type] = &for_programs[..] else { panic!("two views: {for_programs:?}") };

    logs.then("each shows what it says, and nothing of what was forged");
    for (command, shown, not) in
        [(all, [APP, OTHER], "forged"), (verdicts, [APP, OTHER], "forged"), (of_app, [APP, NEXT], OTHER)]
    {
        let text = hosts[0].ok(command);
        assert_names(&text, &shown);
        assert!(!text.contains(not) && !text.contains("forged"), "`{command}`: {text}");
    }
    let named = |host: &str, unit: &str| [host, unit, NEXT].map(str::to_owned);
    assert_eq!(refusals(&hosts[0].ok(as_json)), [named("", APP), named("", OTHER)]);
    assert_eq!(hosts[0].ok(to_type).trim(), format!("2 {NEXT}"));

    logs.when("the commands for a fleet are typed on the one that collects, and on both hosts");
    for command in collector {
        logs.ok(command);
    }
    for machine in &hosts {
        for command in host {
            machine.ok(command);
        }
    }

    logs.then("the one that collects has the refusals of both");
    let [all, as_json] = &fleet[..] else { panic!("two views: {fleet:?}") };
    let expected = ["web1", "web2"].map(|host| [named(host, APP), named(host, OTHER)]).concat();
    logs.wait_until("the journals of both are there", A_WHILE, || {
        let shown = logs.sh(as_json);
        shown.status.success() && refusals(&shown.stdout) == expected
    });
    let text = logs.ok(all);
    assert_names(&text, &["web1", "web2", APP, OTHER]);
    assert!(!text.contains("forged"), "{text}");
}
