//! What SIGKILL leaves behind, at each single system call of a run that stops a leftover: nothing that hinders the next
//! start, and no spoilt ledger.
//!
//! `PORTGUARD_UNDER_TEST=true` must fail here, as in the lab.

#[path = "budget/start.rs"]
mod start;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::start::Start;

const PORT: u16 = 8080;

/// A start is not held up for 2 s by what was before it; and what it takes by itself.
const BOUND: Duration = Duration::from_secs(3);

/// Longer than any run takes here, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A run that stops a leftover makes more system calls than this: fewer, and it has not done so.
const AT_LEAST: usize = 150;

#[test]
fn sigkill_at_any_system_call_hinders_no_later_start() {
    let start = Start::new("killed", |unit| format!("[unit.\"{unit}\"]\nports = [\"{PORT}/tcp\"]\n")).unwrap();
    let host = Host::new(&start);
    assert!(host.guarded().success(), "the first start, whose port is free");

    let calls = host.calls();
    let steps: usize = calls.values().sum();
    assert!(steps > AT_LEAST, "{steps} system calls: {calls:?}");
    let mut killed = 0;
    for (call, nth) in calls.iter().flat_map(|(call, count)| (1..=*count).map(move |nth| (call, nth))) {
        let leftover = host.leftover();
        let status = host.killed_at(call, nth);
        killed += usize::from(status.signal() == Some(9));
        assert!(status.success() || status.signal() == Some(9), "{call} {nth}: {status}");

        let begin = Instant::now();
        let next = host.guarded();
        assert!(next.success(), "the start after {call} {nth}: {next}");
        assert!(begin.elapsed() < PATIENCE, "the start after {call} {nth} took {:?}", begin.elapsed());
        leftover.ended();
        let ledger = start.ledger().unwrap();
        let is_run = |line: &str| {
            line.split_once(' ').is_some_and(|(id, cgroup)| id.len() == 32 && cgroup.parse::<u64>().is_ok())
        };
        assert!(ledger.lines().all(|line| line.is_empty() || is_run(line)), "after {call} {nth}: {ledger}");
    }
    println!("killed at {killed} of {steps} system calls");
    // The clock may bring about one call more or less.
    assert!(killed * 10 > steps * 9, "killed at {killed} of {steps} system calls only");
}

/// What the leftover is that the test above starts.
#[test]
#[ignore = "never ends by itself"]
fn a_leftover_listens() {
    let _listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
    println!("listening");
    thread::sleep(Duration::MAX);
}

/// Namespaces in which there is nobody but the unit, and the run of which each next one is another.
struct Host<'a> {
    start: &'a Start,
    /// PID 1 in there, by whose end the kernel ends all others.
    init: Child,
    inner: u32,
    run: std::cell::Cell<u128>,
}

struct Leftover(Child);

impl<'a> Host<'a> {
    fn new(start: &'a Start) -> Self {
        const INIT: &str = r#"ip link set lo up && mount --bind "$1" /run && echo up && read -r _"#;
        let mut init = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--mount", "--propagation", "private", "sh", "-c", INIT, "sh"])
            .arg(start.run.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        said(init.stdout.take(), "up");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", init.id())).unwrap();
        Self { start, inner: children.trim().parse().unwrap(), init, run: 1.into() }
    }

    /// A shell in there, in the unit's cgroup, that runs what is appended to it.
    fn command(&self) -> Command {
        const ENTER: &str = r#"echo 0 >"$1/cgroup.procs" && shift && exec "$@""#;
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.inner.to_string(), "-n", "-m", "-p", "sh", "-c", ENTER, "sh"])
            .arg(&self.start.cgroup);
        command.env("INVOCATION_ID", format!("{:032x}", self.run.get()));
        command
    }

    /// A new run begins, which systemd notes.
    fn next_run(&self) {
        self.run.set(self.run.get() + 1);
        let _ = fs::remove_file(self.start.noted());
        std::os::unix::fs::symlink(format!("{:032x}", self.run.get()), self.start.noted()).unwrap();
    }

    /// A process of the last run, in the unit's cgroup.
    fn leftover(&self) -> Leftover {
        let mut command = self.command();
        command.arg(env::current_exe().unwrap()).args(["--exact", "a_leftover_listens", "--ignored", "--nocapture"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        said(child.stdout.take(), "listening");
        Leftover(child)
    }

    /// How a start ends.
    fn guarded(&self) -> ExitStatus {
        self.next_run();
        let (mut command, began) = (self.command(), Instant::now());
        let status = command.args(self.guard()).status().unwrap();
        assert!(began.elapsed() < BOUND, "it took {:?}", began.elapsed());
        status
    }

    fn guard(&self) -> [OsString; 3] {
        let guard = env::var_os("PORTGUARD_UNDER_TEST").unwrap_or_else(|| env!("CARGO_BIN_EXE_portguard").into());
        [guard, "--unit".into(), self.start.unit.clone().into()]
    }

    fn strace(&self, options: &[&str], written: &Path) -> ExitStatus {
        self.next_run();
        let mut command = self.command();
        // Its threads only ask the manager, and look at processes.
        command.arg("strace").args(options).arg("-o").arg(written).args(self.guard()).status().unwrap()
    }

    /// How often each system call is made when a leftover is stopped.
    fn calls(&self) -> BTreeMap<String, usize> {
        let written = self.start.run.path().join("trace");
        let leftover = self.leftover();
        assert!(self.strace(&[], &written).success());
        leftover.ended();
        let mut calls = BTreeMap::new();
        for line in fs::read_to_string(written).unwrap().lines() {
            if let Some((call, _)) =
                line.split_once('(').filter(|(call, _)| call.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()))
            {
                *calls.entry(call.to_owned()).or_default() += 1;
            }
        }
        // Nothing of ours has begun before the first, and strace does not count it.
        calls.remove("execve");
        calls
    }

    fn killed_at(&self, call: &str, nth: usize) -> ExitStatus {
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        self.strace(&["-e", &inject], Path::new("/dev/null"))
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
        // The kernel may still be taking them down.
        while fs::read_to_string(self.start.cgroup.join("cgroup.procs")).is_ok_and(|procs| !procs.is_empty()) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Leftover {
    /// It was ended by the signal with which it was to be.
    fn ended(mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the leftover lives");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Waits for this line.
fn said(output: Option<ChildStdout>, line: &str) {
    let mut lines = BufReader::new(output.unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|said| said == line), "it never said `{line}`");
}
