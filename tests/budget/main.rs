//! What a start costs on which every port is free, in system calls: the cheapest thing to count, and the first to creep.
//!
//! `PORTGUARD_UNDER_TEST=true` must fail here, as in the lab.

mod trace;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, fs, thread};

use tempfile::TempDir;

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
    let start = Start::new().unwrap();
    let arguments = ["--unit".into(), start.unit.clone().into()];
    // The first start after a boot also makes the ledger's folder.
    assert!(start.command(&"1".repeat(32)).arg(guard()).args(&arguments).status().unwrap().success());
    check(start.command(&"2".repeat(32)), &arguments, start.run.path());
    let ledger = fs::read_to_string(start.run.path().join("portguard/ledger").join(&start.unit)).unwrap();
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

/// What systemd gives to a unit's start: a cgroup of the unit's name, an invocation, and a journal that reads.
struct Start {
    unit: String,
    cgroup: PathBuf,
    /// Stands in the place of /run.
    run: TempDir,
}

impl Start {
    fn new() -> io::Result<Self> {
        let unit = format!("portguard-budget-{}.service", process::id());
        let cgroup = cgroup2()?.join(&unit);
        let run = tempfile::tempdir()?;
        fs::create_dir_all(run.path().join("systemd/journal"))?;
        fs::create_dir(run.path().join("systemd/units"))?;
        fs::create_dir(run.path().join("portguard"))?;
        fs::write(run.path().join("portguard/portguard.toml"), policy(&unit))?;
        let journal = UnixDatagram::bind(run.path().join("systemd/journal/socket"))?;
        thread::spawn(move || while journal.recv(&mut [0; 4096]).is_ok() {});
        fs::create_dir(&cgroup)?;
        Ok(Self { unit, cgroup, run })
    }

    /// Runs what is appended to it.
    fn command(&self, invocation: &str) -> Command {
        // systemd notes the invocation of each run there, before it runs any command of it.
        const ENTER: &str = r#"ln -sfn "$INVOCATION_ID" "$3" && mount --bind "$1" /run && echo 0 >"$2/cgroup.procs" &&
            shift 3 && exec "$@""#;
        let noted = self.run.path().join(format!("systemd/units/invocation:{}", self.unit));
        let mut command =
            network_of_its_own(ENTER, &[self.run.path().as_os_str(), self.cgroup.as_os_str(), noted.as_os_str()]);
        command.env("INVOCATION_ID", invocation);
        command
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        // Everything in it has been waited for. What a killed test leaves is one empty cgroup.
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// The root of the hierarchy: a cgroup there has the path that systemd gives to a unit in `-.slice`.
fn cgroup2() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields.get(2) == Some(&"cgroup2")).and_then(|fields| fields.get(1).copied());
    mount.map(PathBuf::from).ok_or_else(|| io::Error::other("cgroup2 is not mounted"))
}
