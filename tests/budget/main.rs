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
use crate::trace::{PORTS, Trace, policy};

/// So many system calls has each layout where cgroup2 is at /sys/fs/cgroup, which is what README says. On a shell there is no
/// ledger, and no field for the journal.
const ON_A_SHELL: usize = 45;
/// The policy is one file in one folder.
const IN_A_START: usize = 47;
/// The policy is in two.
const INSTALLED: usize = 52;

/// Each drop-in, as far as there are few of them, is opened, checked and read.
const EACH_DROP_IN: usize = 3;
/// No usual probe has more calls than that.
const EACH_PORT: usize = 4;
/// What four TCP ports on `[::]` alone have more than those of the usual policy, of which one is UDP.
const IPV6_ALONE: usize = 4;

/// The first start after a boot finds neither the unit's ledger nor its folder, and makes both.
const FIRST: usize = 3;
/// That of another unit finds the folder.
const FIRST_OF_UNIT: usize = 2;
/// So many have a ledger before some are forgotten.
const UNITS: usize = 1280;
/// One start in some 130 writes the ledger anew, with the last runs alone.
const COMPACTING: usize = 4;

/// No start of the usual four ports has more, where it has a drop-in of its own and cgroup2 is elsewhere.
const MOST: usize = 60;
const _: () = assert!(INSTALLED + EACH_DROP_IN + COMPACTING < MOST);
const _: () = assert!(FIRST <= COMPACTING && FIRST_OF_UNIT <= COMPACTING);

/// glibc's start, where it is linked in (`make LIBC=gnu`), has more calls than musl's.
fn c_library() -> usize {
    if env::var_os("LIBC").is_some_and(|libc| libc != "musl") { 8 } else { 0 }
}

/// Where cgroup v2 is not at its usual place, it is looked for at another.
fn elsewhere() -> usize {
    usize::from(!Path::new("/sys/fs/cgroup/cgroup.controllers").exists())
}

/// As a person types it, with `--policy FILE`.
#[test]
fn free_path_on_a_shell_keeps_its_budget() {
    assert_that_what_must_not_be_is_seen();
    on_a_shell(&policy("budget.service"), ON_A_SHELL);
}

/// `IPV6_V6ONLY` has to be set for each, and is asked for once at the most where none is alone.
#[test]
fn free_path_costs_each_port_on_ipv6_alone_one_call_more() {
    let ports = PORTS.map(|port| format!("\"[::]:{port}/tcp\"")).join(", ");
    on_a_shell(&format!("[unit.\"budget.service\"]\nports = [{ports}]\n"), ON_A_SHELL + IPV6_ALONE);
}

fn on_a_shell(policy: &str, budget: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portguard.toml");
    fs::write(&file, policy).unwrap();
    let arguments = ["--unit".into(), "budget.service".into(), "--policy".into(), file.into()];
    check(network_of_its_own("exec \"$@\"", &[]), &arguments, folder.path(), budget);
}

/// With all that comes with a start: the unit's cgroup, the layers of the policy, the ledger, the journal.
#[test]
fn free_path_of_a_units_start_keeps_its_budget() {
    let start = Start::new("budget", policy).unwrap();
    let arguments = ["--unit".into(), start.unit.clone().into()];
    let etc = Path::new("/etc");
    assert!(in_start(&start, etc, &"1".repeat(32)).arg(guard()).args(&arguments).status().unwrap().success());
    check(in_start(&start, etc, &"2".repeat(32)), &arguments, start.run.path(), IN_A_START + elsewhere());
    let ledger = start.ledger().unwrap();
    assert_eq!(ledger.split_whitespace().count(), 4, "two starts, each with its two ids, are in the ledger: {ledger}");

    fs::write(start.ledger_file(), long(&ledger)).unwrap();
    check(in_start(&start, etc, &"3".repeat(32)), &arguments, start.run.path(), IN_A_START + elsewhere() + COMPACTING);
    let ledger = start.ledger().unwrap();
    assert!(ledger.lines().count() <= 32 && ledger.contains(&"3".repeat(32)), "not written anew: {ledger}");
}

/// So many starts that the ledger is written anew at the next, however short the ids of cgroups are since the host has booted.
fn long(ledger: &str) -> String {
    ledger.repeat(8_000_usize.div_ceil(ledger.len()))
}

/// Where the packages put the policy: `/etc/portguard` beside the `/run/portguard` of the ledger, and an empty `conf.d`.
#[test]
fn free_path_as_installed_keeps_its_budget() {
    as_installed("installed", &[], 0, INSTALLED);
}

#[test]
fn free_path_costs_each_drop_in_and_port_no_more_than_a_few_calls() {
    let (drop_ins, ports) = (5, 12);
    let for_all: Vec<String> = (0..drop_ins).map(|nth| format!("{nth}.toml")).collect();
    as_installed("large", &for_all, ports, INSTALLED + EACH_DROP_IN * drop_ins + EACH_PORT * usize::from(ports));
}

/// The unit's ports are in a drop-in of its own, and the main file is that of the packages.
#[test]
fn free_path_as_portguard_enable_leaves_it_keeps_its_budget() {
    as_installed("enabled", &["only-UNIT.toml".to_owned()], 0, INSTALLED + EACH_DROP_IN);
}

/// As `portguard enable` writes them, beside the unit's own. Their names are listed, 32 KiB with a call.
#[test]
fn free_path_costs_nothing_for_the_drop_ins_of_a_few_hundred_other_units() {
    let name = |nth| format!("only-acme-billing-reconciliation-worker-eu-central-{nth}.service.toml");
    let mut drop_ins: Vec<String> = (0..200).map(name).collect();
    drop_ins.push("only-UNIT.toml".to_owned());
    as_installed("many", &drop_ins, 0, INSTALLED + EACH_DROP_IN);
}

/// What is forbidden has to be seen whichever call does it. Part of a test, as each here has to fail without a guard.
fn assert_that_what_must_not_be_is_seen() {
    let harmless = "openat(AT_FDCWD, \"/proc/self/cgroup\", O_RDONLY) = 3";
    let objections = |call: &str| Trace::parse(&format!("7 {harmless}\n7 {call}\n")).objections(2);
    let is_seen = |why: &str, call: &str| objections(call).contains(&format!("{why}: {call}"));
    for (why, call) in [
        ("a thread or a child", "clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 8"),
        ("netlink", "socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG) = 3"),
        (
            "a word to something that is not the journal",
            "connect(3, {sa_family=AF_UNIX, sun_path=\"/run/dbus/system_bus_socket\"}, 30) = 0",
        ),
        (
            "a word to something that is not the journal",
            "sendto(3, \"READY=1\", 7, MSG_NOSIGNAL, {sa_family=AF_UNIX, sun_path=\"/run/systemd/notify\"}, 22) = 7",
        ),
        ("a walk of /proc", "openat(3, \"proc\", O_RDONLY|O_DIRECTORY) = 4"),
        ("a call that nothing explains", "execve(\"/bin/sh\", [\"sh\"], 0x7ffc /* 1 var */) = 0"),
        ("a walk of /proc", "openat(AT_FDCWD, \"/proc\", O_RDONLY|O_DIRECTORY) = 3"),
        ("a walk of /proc", "statx(AT_FDCWD, \"/proc/8\", 0, STATX_ALL, {stx_mask=STATX_ALL}) = 0"),
        ("a walk of /proc", "access(\"/proc/8/fd\", R_OK) = 0"),
        ("a call that nothing explains", "getrandom(\"\\x4e\", 1, GRND_NONBLOCK) = 1"),
        ("a call that nothing explains", "read(4, \"\", 4096) = 0"),
        ("a call that nothing explains", "uname({sysname=\"Linux\"}) = 0"),
    ] {
        assert!(is_seen(why, call), "{call}: {:?}", objections(call));
    }
    let known = "read(3, \"0::/\\n\", 4096) = 5";
    assert!(!is_seen("a call that nothing explains", known), "{:?}", objections(known));
}

/// With these drop-ins, in which other units have their ports, or UNIT has its own, and so many ports more.
fn as_installed(word: &str, drop_ins: &[String], ports: u16, budget: usize) {
    let more = (0..ports).map(|nth| format!(", \"{}/tcp\"", 9100 + nth)).collect::<Vec<_>>().concat();
    let start = Start::new(word, |unit| format!("{}{more}]\n", policy(unit).trim_end_matches("]\n"))).unwrap();
    // Beside it, as files are moved from there.
    let etc = tempfile::tempdir_in(start.run.path().parent().unwrap()).unwrap();
    let folder = etc.path().join("portguard");
    fs::create_dir_all(folder.join("conf.d")).unwrap();
    fs::rename(start.run.path().join("portguard/portguard.toml"), folder.join("portguard.toml")).unwrap();
    for (nth, name) in drop_ins.iter().enumerate() {
        let path = folder.join("conf.d").join(name.replace("UNIT", &start.unit));
        if name.contains("UNIT") {
            fs::rename(folder.join("portguard.toml"), path).unwrap();
            fs::write(folder.join("portguard.toml"), include_str!("../../packaging/portguard.toml")).unwrap();
        } else {
            fs::write(path, policy(&format!("other{nth}.service"))).unwrap();
        }
    }
    fs::remove_dir(start.run.path().join("portguard")).unwrap();
    let arguments = ["--unit".into(), start.unit.clone().into()];
    let check = |invocation: &str, more: usize| {
        let start_of_unit = in_start(&start, etc.path(), &invocation.repeat(32));
        check(start_of_unit, &arguments, start.run.path(), budget + elsewhere() + more);
    };
    check("1", FIRST);
    check("2", 0);
    fs::write(start.ledger_file(), long(&start.ledger().unwrap())).unwrap();
    check("4", COMPACTING);
    assert!(start.ledger().unwrap().lines().count() <= 32, "not written anew");
    // As after a boot at which other units have started already: one, and as many as there is room for.
    for (invocation, others) in [("3", 1), ("5", UNITS - 1)] {
        fs::remove_file(start.ledger_file()).unwrap();
        for nth in 0..others {
            fs::write(start.ledger_file().with_file_name(format!("other{nth}.service")), "").unwrap();
        }
        check(invocation, FIRST_OF_UNIT);
    }
}

fn check(mut strace: Command, arguments: &[OsString], folder: &Path, budget: usize) {
    let file = folder.join("trace");
    strace.args(["strace", "-f", "-o"]).arg(&file).arg(guard()).args(arguments);
    let trace = Trace::of(strace, &file).unwrap();
    let objections = trace.objections(budget + c_library());
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

/// A shell in the unit's start, with this folder in the place of /etc, that runs what is appended to it.
fn in_start(start: &Start, etc: &Path, invocation: &str) -> Command {
    const ENTER: &str = r#"ln -sfn "$INVOCATION_ID" "$3" && mount --bind "$1" /run && mount --bind "$4" /etc &&
        echo 0 >"$2/cgroup.procs" && shift 4 && exec "$@""#;
    let noted = start.noted();
    let arguments = [start.run.path(), &start.cgroup, &noted, etc].map(Path::as_os_str);
    let mut command = network_of_its_own(ENTER, &arguments);
    command.env("INVOCATION_ID", invocation);
    command
}
