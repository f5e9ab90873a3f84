//! What strace says of a free path: its system calls, each in a group that explains it, and what must not be there.
//!
//! Shared by the budget test and the bench. It reads text, and runs nothing but strace itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// The ports of the [`policy`]: one of each kind of bind probe.
pub(crate) const PORTS: [u16; 4] = [8080, 9090, 5353, 8443];

/// The policy that is read on the free path.
pub(crate) fn policy(unit: &str) -> String {
    let [any, one, udp, other] = PORTS;
    format!(
        "[unit.\"{unit}\"]\nports = [\"{any}/tcp\", \"127.0.0.1:{one}/tcp\", \"[::1]:{udp}/udp\", \"{other}/tcp\"]\n"
    )
}

/// Why a system call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// execve(2), the C library, Rust's runtime.
    Start,
    /// The heap, after the start.
    Memory,
    /// Whether it runs inside the unit.
    Cgroup,
    /// The policy's files: opened, checked, read.
    Policy,
    /// Four bind probes.
    Probes,
    /// This start is entered into the ledger.
    Ledger,
    /// The journal or standard error.
    Report,
    /// The way out.
    Exit,
    /// Nothing here knows why.
    Unexplained,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "process start",
            Self::Memory => "memory",
            Self::Cgroup => "cgroup",
            Self::Policy => "policy",
            Self::Probes => "probes",
            Self::Ledger => "ledger",
            Self::Report => "report",
            Self::Exit => "exit",
            Self::Unexplained => "unexplained",
        })
    }
}

/// The system calls of one run, in order.
pub(crate) struct Trace {
    calls: Vec<(Purpose, String)>,
    status: Option<i32>,
}

impl Trace {
    /// `strace` of this command, with `--trace=all` and its children, if it had any.
    pub(crate) fn of(mut strace: Command, written: &Path) -> Result<Self, String> {
        let output = strace.output().map_err(|error| format!("strace: {error}"))?;
        let text = std::fs::read_to_string(written).map_err(|error| {
            format!("no trace in {}: {error}: {}", written.display(), String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(Self::parse(&text))
    }

    /// Lines of `strace -f -o FILE`: a pid, then the call.
    pub(crate) fn parse(text: &str) -> Self {
        let mut trace = Self { calls: Vec::new(), status: None };
        let mut explanations = Explanations::default();
        for line in text.lines().filter_map(|line| line.split_once(' ').map(|(_, call)| call.trim_start())) {
            if let Some(rest) = line.strip_prefix("+++ exited with ") {
                trace.status = rest.split(' ').next().and_then(|status| status.parse().ok());
            } else if !line.starts_with("+++") && !line.starts_with("---") && !line.contains(" resumed>") {
                trace.calls.push((explanations.of(line), line.to_owned()));
            }
        }
        trace
    }

    pub(crate) fn count(&self) -> usize {
        self.calls.len()
    }

    /// `process start 30, cgroup 6, …`.
    pub(crate) fn explained(&self) -> String {
        let mut purposes: Vec<Purpose> = self.calls.iter().map(|(purpose, _)| *purpose).collect();
        purposes.sort_unstable();
        let groups = purposes.chunk_by(Purpose::eq).map(|group| format!("{} {}", group[0], group.len()));
        groups.collect::<Vec<_>>().join(", ")
    }

    /// One call a line.
    pub(crate) fn listed(&self) -> String {
        let lines = self.calls.iter().map(|(purpose, call)| format!("{:>14}  {call}", purpose.to_string()));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What is against the rules of the free path; empty if it keeps them.
    pub(crate) fn objections(&self, budget: usize) -> Vec<String> {
        let mut objections: Vec<String> =
            self.calls.iter().filter_map(|(_, call)| objection(call).map(|why| format!("{why}: {call}"))).collect();
        let unexplained = self.calls.iter().filter(|(purpose, _)| *purpose == Purpose::Unexplained);
        objections.extend(unexplained.map(|(_, call)| format!("a call that nothing explains: {call}")));
        let count = self.count();
        if count > budget {
            objections.push(format!("{count} system calls, more than {budget}"));
        }
        if self.status != Some(0) {
            objections.push(format!("exit status {:?}", self.status));
        }
        // Without these, a program that does nothing at all would pass.
        let says = |(purpose, call): &(Purpose, String)| {
            *purpose == Purpose::Report && call.contains(&format!("{}/", PORTS[0]))
        };
        if !self.calls.iter().any(says) {
            objections.push("nothing is said of the ports".to_owned());
        }
        for port in PORTS {
            let mark = format!("_port=htons({port})");
            let bound = |call: &str| call.starts_with("bind(") && call.contains(&mark) && call.ends_with(" = 0");
            if !self.calls.iter().any(|(_, call)| bound(call)) {
                objections.push(format!("port {port} was never bound"));
            }
        }
        objections
    }
}

/// Calls that any part may make when its heap grows.
const MEMORY: [&str; 5] = ["brk", "mmap", "munmap", "mremap", "mprotect"];

/// Why each call is made, told one after the other: what it names, or else what the file that it has to do with was opened
/// for. Until the first that names anything it is the process that starts.
#[derive(Default)]
struct Explanations {
    is_executed: bool,
    has_started: bool,
    files: BTreeMap<String, Purpose>,
}

impl Explanations {
    fn of(&mut self, call: &str) -> Purpose {
        let (name, arguments) = call.split_once('(').unwrap_or((call, ""));
        let first = arguments.split([',', ')']).next().unwrap_or_default();
        let named = purpose_of(call);
        self.has_started |= named.is_some();
        let is_second = name == "execve" && std::mem::replace(&mut self.is_executed, true);
        let is_of_start = !self.has_started && !is_second && STARTING.contains(&name);
        let of_start = || is_of_start.then_some(Purpose::Start);
        let of_file = || self.files.get(first).copied();
        let of_memory = || MEMORY.contains(&name).then_some(Purpose::Memory);
        let purpose = named.or_else(of_start).or_else(of_file).or_else(of_memory).unwrap_or(Purpose::Unexplained);
        let result = call.rsplit_once(" = ").map_or("", |(_, result)| result.trim());
        let is_new = OPENING.contains(&name) || (name == "fcntl" && arguments.contains("F_DUPFD"));
        if is_new && result.parse::<u32>().is_ok() {
            self.files.insert(result.to_owned(), purpose);
        } else if name == "close" {
            self.files.remove(first);
        }
        purpose
    }
}

/// What the kernel, the C library and Rust's runtime do before `main`, on one processor or with one libc or another.
const STARTING: [&str; 17] = [
    "execve",
    "brk",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "readlink",
    "readlinkat",
    "getrandom",
    "mmap",
    "munmap",
    "mprotect",
    "poll",
    "ppoll",
    "rt_sigaction",
    "sigaltstack",
];

/// What has a new file for its result.
const OPENING: [&str; 5] = ["open", "openat", "openat2", "socket", "dup"];

/// The calls that say themselves what they are for.
fn purpose_of(call: &str) -> Option<Purpose> {
    const MARKS: [(&str, Purpose); 23] = [
        ("\"/proc/self/cgroup\"", Purpose::Cgroup),
        ("ledger", Purpose::Ledger),
        ("/invocation:", Purpose::Ledger),
        ("\"/sys/fs/cgroup", Purpose::Ledger),
        ("/mountinfo\"", Purpose::Ledger),
        ("getcwd(", Purpose::Policy),
        ("\"/\", O_RDONLY", Purpose::Policy),
        ("mkdirat(", Purpose::Ledger),
        ("chmodat(", Purpose::Ledger),
        ("/portguard\", O_RDONLY", Purpose::Policy),
        (".toml\"", Purpose::Policy),
        ("\"conf.d\"", Purpose::Policy),
        ("AF_INET", Purpose::Probes),
        ("AF_UNIX", Purpose::Report),
        ("fstat(2,", Purpose::Report),
        ("getsockname(2,", Purpose::Report),
        ("SIGALRM", Purpose::Report),
        ("[ALRM]", Purpose::Report),
        // With the first handler of all, musl sees to it that its own signals come.
        ("[RT_1 RT_2]", Purpose::Report),
        ("getpid(", Purpose::Report),
        ("setitimer(", Purpose::Report),
        ("write(2,", Purpose::Report),
        ("exit_group(", Purpose::Exit),
    ];
    // Its arguments name what others are for.
    if call.starts_with("execve(") {
        return None;
    }
    MARKS.iter().find(|(mark, _)| call.contains(mark)).map(|&(_, purpose)| purpose)
}

/// What the free path must not do: no thread, no child, no netlink, no bus, and no process but itself is looked at.
fn objection(call: &str) -> Option<&'static str> {
    let is = |names: &[&str]| names.iter().any(|name| call.starts_with(name));
    if is(&["clone(", "clone3(", "fork(", "vfork("]) {
        Some("a thread or a child")
    } else if call.contains("AF_NETLINK") {
        Some("netlink")
    } else if (is(&["connect("]) || call.contains("sun_path=")) && !call.contains("\"/run/systemd/journal/") {
        Some("a word to something that is not the journal")
    } else if call.contains(", \"proc\"") || (call.contains("\"/proc") && !call.contains("\"/proc/self/")) {
        Some("a walk of /proc")
    } else {
        None
    }
}
