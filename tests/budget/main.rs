//! What a start costs on which every port is free, in system calls: the cheapest thing to count, and the first to creep.
//!
//! `PORTGUARD_UNDER_TEST=true` must fail here, as in the lab.

mod start;
mod trace;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::start::Start;
use crate::trace::{BUDGET, Trace, policy};

/// As a person types it, with `--policy FILE`.
#[test]
fn free_path_on_a_shell_keeps_its_budget() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portguard.toml");
    fs::write(&file, policy("budget.service")).unwrap();
    let arguments = ["--unit".into(), "budget.service".into(), "--policy".into(), file.into()];
    check(network_of_its_own("exec \"$@\"", &[]), &arguments, folder.path());
}

/// With all that comes with a start: the unit's cgroup, the layers of the policy, the ledger, the journal.
#[test]
fn free_path_of_a_units_start_keeps_its_budget() {
    let start = Start::new("budget", policy).unwrap();
    let arguments = ["--unit".into(), start.unit.clone().into()];
    // The first start after a boot also makes the ledger's folder.
    assert!(in_start(&start, &"1".repeat(32)).arg(guard()).args(&arguments).status().unwrap().success());
    check(in_start(&start, &"2".repeat(32)), &arguments, start.run.path());
    let ledger = start.ledger().unwrap();
    assert_eq!(ledger.split_whitespace().count(), 4, "two starts, each with its two ids, are in the ledger: {ledger}");
}

fn check(mut strace: Command, arguments: &[OsString], folder: &Path) {
    let file = folder.join("trace");
    strace.args(["strace", "-f", "-o"]).arg(&file).arg(guard()).args(arguments);
    let trace = Trace::of(strace, &file).unwrap();
    let objections = trace.objections(BUDGET);
    println!("{} system calls: {}", trace.count(), trace.explained());
    assert!(objections.is_empty(), "{}\n{}\n{}", objections.join("\n"), trace.explained(), trace.listed());
}

fn guard() -> OsString {
    env::var_os("PORTGUARD_UNDER_TEST").unwrap_or_else(|| env!("CARGO_BIN_EXE_portguard").into())
}

/// A shell that runs this script, then what is appended to the command, in a network where nobody else's listener is in
/// the way. It, its mounts and all in it go with the test, however that ends.
fn network_of_its_own(script: &str, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private", "sh", "-c"]);
    // Without it, ::1 is an address of another host.
    command.arg(format!("ip link set lo up && {script}")).arg("sh").args(arguments);
    command
}

/// A shell in the unit's start that runs what is appended to it.
fn in_start(start: &Start, invocation: &str) -> Command {
    const ENTER: &str = r#"ln -sfn "$INVOCATION_ID" "$3" && mount --bind "$1" /run && echo 0 >"$2/cgroup.procs" &&
        shift 3 && exec "$@""#;
    let noted = start.noted();
    let mut command =
        network_of_its_own(ENTER, &[start.run.path().as_os_str(), start.cgroup.as_os_str(), noted.as_os_str()]);
    command.env("INVOCATION_ID", invocation);
    command
}
