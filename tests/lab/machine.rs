//! A Debian with a real systemd as PID 1, for one scenario: booted in about a second, thrown away afterwards.
//!
//! All it needs lives in a mount and a PID namespace of its own, its disk in a tmpfs there. So a machine leaves
//! nothing on the host but two empty cgroups, even if the test is killed: the kernel takes down a PID namespace with
//! its first process, and the mounts with their namespace.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Map, Value};

use crate::cgroups::MachineCgroup;
use crate::image::{Image, Release, dies_with_us};

/// How long a command in the machine may take, if nothing else is said.
const PATIENCE: Duration = Duration::from_mins(1);

/// A boot takes about a second; a busy builder's disk may be cold.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// The programs that scenarios run, which are in `/opt/lab` of each machine.
const LISTENERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/listeners");

/// One entry of the journal, as `journalctl -o json` prints it: a field may be a string, an array or null.
pub(crate) type Entry = Map<String, Value>;

fn entry(line: &str) -> Entry {
    serde_json::from_str(line).expect("journalctl -o json prints an object a line")
}

/// How a command in the machine ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Which hierarchies a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// cgroup v2 alone.
    Unified,
    /// v2 without controllers, and beside it v1's, in one of which systemd keeps the same tree. systemd-nspawn makes it
    /// where the host is one, and so does this lab.
    Hybrid,
    /// v1 alone.
    Legacy,
}

impl Hierarchy {
    /// What systemd-nspawn's `SYSTEMD_NSPAWN_UNIFIED_HIERARCHY` has to be.
    pub(crate) fn for_nspawn(self) -> Option<&'static str> {
        match self {
            Self::Unified => Some("1"),
            Self::Hybrid => None,
            Self::Legacy => Some("0"),
        }
    }
}

/// A booted machine. Dropping it pulls the plug.
pub(crate) struct Machine {
    release: &'static Release,
    /// Our child: it waits for systemd-nspawn, which is PID 1 of a PID namespace around the machine's own.
    unshare: Child,
    /// systemd-nspawn, once it runs.
    nspawn: Option<OwnedFd>,
    /// The host's pid of the machine's PID 1.
    pub(crate) leader: u32,
    cgroup: MachineCgroup,
    /// The given, when and then that the scenario has reached.
    steps: RefCell<Vec<String>>,
    /// The cursor of the last entry of the journal that the scenario has forgotten; empty if it has forgotten none.
    forgotten: RefCell<String>,
    /// Whether there are unit files that PID 1 has not read yet.
    has_unread_units: Cell<bool>,
}

/// Life and death.
impl Machine {
    /// Boots a machine that nobody has used before, with the binary under test and the listeners in it.
    pub(crate) fn boot(release: &'static Release, image: Image, hierarchy: Hierarchy) -> Result<Self, String> {
        let tree = release.tree(image)?;
        let guard = binary_under_test()?;
        let cgroup = MachineCgroup::create()?;
        let failed = |why: &str| format!("cannot boot {}: {why}", release.name);

        let mut console = tempfile::tempfile().map_err(|error| failed(&error.to_string()))?;
        let output = || console.try_clone().map(Stdio::from);
        let (stdout, stderr) = output().and_then(|out| Ok((out, output()?))).map_err(|e| failed(&e.to_string()))?;
        let unshare = boot_command(tree, &guard, &cgroup, image, hierarchy)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|error| failed(&error.to_string()))?;

        // From here on Drop cleans up, also where the machine never comes up.
        let mut machine = Self {
            release,
            unshare,
            nspawn: None,
            leader: 0,
            cgroup,
            steps: RefCell::default(),
            forgotten: RefCell::default(),
            has_unread_units: Cell::default(),
        };
        if let Err(why) = machine.wait_for_boot() {
            return Err(failed(&format!("{why}; its console says:\n{}", read_whole(&mut console))));
        }
        machine.check_systemd_version()?;
        Ok(machine)
    }

    fn wait_for_boot(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + BOOT_PATIENCE;
        let mut state = None;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.unshare.try_wait() {
                return Err(format!("systemd-nspawn ended with {status}"));
            }
            self.find_processes();
            // Whoever asks again and again takes as long as the boot itself.
            if self.leader != 0 && Path::new(&format!("/proc/{}/root/run/systemd/private", self.leader)).exists() {
                state = Some(self.run(&["systemctl", "is-system-running", "--wait"], b"", BOOT_PATIENCE)?.stdout);
            }
            // "degraded" only says that some unit of Debian's cannot work in a container.
            if matches!(state.as_deref().map(str::trim), Some("running" | "degraded")) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("not up within {BOOT_PATIENCE:?}: {state:?}"))
    }

    /// Finds systemd-nspawn and, as soon as it is systemd, the machine's PID 1, beside which helpers come and go.
    fn find_processes(&mut self) {
        let is_systemd =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "systemd\n");
        let Some(nspawn) = children(self.unshare.id()).into_iter().next() else { return };
        let pid = i32::try_from(nspawn).ok().and_then(Pid::from_raw);
        self.nspawn = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self.leader = children(nspawn).into_iter().find(is_systemd).unwrap_or(0);
    }

    fn check_systemd_version(&self) -> Result<(), String> {
        let text = self.ok("systemctl --version");
        let found = text.split_whitespace().nth(1).and_then(|version| version.parse().ok()).unwrap_or(0);
        let expected = self.release.systemd;
        if found == expected || (self.release.may_be_newer && found > expected) {
            return Ok(());
        }
        Err(format!("{} was to bring systemd {expected}, but says: {text}", self.release.name))
    }

    /// Boots a machine of the stocked image beside this one, with the same systemd, known to itself by this name.
    pub(crate) fn another(&self, name: &str) -> Self {
        let machine =
            Self::boot(self.release, Image::Stocked, Hierarchy::Unified).unwrap_or_else(|why| panic!("{why}"));
        machine.ok(&format!("hostname {name}"));
        machine
    }

    /// Lays a cable between two machines, 10.0.NET.1 at this end and 10.0.NET.2 at the other. It goes with either.
    pub(crate) fn cable_to(&self, other: &Self, net: u8) {
        let name = format!("cable{net}");
        let ends = [self.leader.to_string(), other.leader.to_string()];
        let made = dies_with_us("ip")
            .args(["link", "add", &name, "netns", &ends[0], "type", "veth"])
            .args(["peer", "name", &name, "netns", &ends[1]])
            .output();
        assert!(made.as_ref().is_ok_and(|output| output.status.success()), "no cable: {made:?}");
        for (machine, end) in [(self, 1), (other, 2)] {
            machine.ok(&format!("ip address add 10.0.{net}.{end}/24 dev {name} && ip link set {name} up"));
        }
    }

    /// The major version of its systemd; a testing release may have a newer one.
    pub(crate) fn systemd(&self) -> u32 {
        self.release.systemd
    }
}

impl Drop for Machine {
    /// Pulls the plug: nothing on the machine's disk is worth a shutdown, and scenarios leave processes behind that
    /// would make it a slow one.
    fn drop(&mut self) {
        // systemd-nspawn first, so that its parent still reaps it. The kernel kills the rest of the namespace.
        let killed = self.nspawn.as_ref().is_some_and(|nspawn| pidfd_send_signal(nspawn, Signal::KILL).is_ok());
        let patience = if killed { Duration::from_secs(10) } else { Duration::ZERO };
        wait_for(&mut self.unshare, patience);
    }
}

/// What the scenario tells, for whoever reads its failure.
impl Machine {
    /// What was true before.
    pub(crate) fn given(&self, what: &str) {
        self.steps.borrow_mut().push(format!("given {what}"));
    }

    /// What happens.
    pub(crate) fn when(&self, what: &str) {
        self.steps.borrow_mut().push(format!("when {what}"));
    }

    /// What must be true then.
    pub(crate) fn then(&self, what: &str) {
        self.steps.borrow_mut().push(format!("then {what}"));
    }

    /// The steps so far; the last one is the one that did not work.
    pub(crate) fn story(&self) -> String {
        let steps = self.steps.borrow();
        let mut story = String::new();
        for (index, step) in steps.iter().enumerate() {
            let mark = if index + 1 == steps.len() { "FAILED" } else { "    ok" };
            writeln!(story, "{mark} {step}").expect("a String takes everything");
        }
        story
    }

    /// The end of what the machine itself logged.
    pub(crate) fn last_of_the_journal(&self) -> String {
        if matches!(binary_under_test(), Ok(UnderTest::MachinesTrue)) {
            return "(not read: nothing was under test)".to_owned();
        }
        let script = "journalctl --sync; journalctl -b --no-pager -o short-monotonic | tail -n 150";
        match self.run_as_it_is(&["sh", "-c", script], b"", PATIENCE) {
            Ok(output) => output.stdout,
            Err(why) => format!("(not readable: {why})"),
        }
    }
}

/// Commands and files inside.
impl Machine {
    /// Runs a shell script as root in the machine, in no unit.
    pub(crate) fn sh(&self, script: &str) -> Output {
        self.run(&["sh", "-c", script], b"", PATIENCE)
            .unwrap_or_else(|why| panic!("`{script}` in {}: {why}", self.release.name))
    }

    /// Like [`Machine::sh`], for a script that has to succeed; what it wrote to stdout.
    pub(crate) fn ok(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "`{script}` in {} failed: {output:#?}", self.release.name);
        output.stdout
    }

    /// Writes a file of the machine, mode 644, and makes the folders above it.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let script = r#"umask 022; [ -d "${0%/*}" ] || mkdir -p "${0%/*}" && cat >"$0""#;
        let written = self.run_as_it_is(&["sh", "-c", script, path], content.as_ref(), PATIENCE);
        assert!(written.as_ref().is_ok_and(|output| output.status.success()), "cannot write {path}: {written:?}");
    }

    /// Runs a command in the machine, whose PID 1 has read all of its unit files by then.
    fn run(&self, command: &[&str], stdin: &[u8], patience: Duration) -> Result<Output, String> {
        self.read_units();
        self.run_as_it_is(command, stdin, patience)
    }

    /// A reload costs PID 1 a tenth of a second, so there is one for all that was written since the last command.
    fn read_units(&self) {
        if self.has_unread_units.take() {
            let reload = self.run_as_it_is(&["systemctl", "daemon-reload"], b"", PATIENCE);
            assert!(reload.as_ref().is_ok_and(|output| output.status.success()), "no reload: {reload:?}");
        }
    }

    /// Runs a command in the machine's namespaces and in a cgroup that belongs to none of its units.
    fn run_as_it_is(&self, command: &[&str], stdin: &[u8], patience: Duration) -> Result<Output, String> {
        // Without a cgroup of the machine, processes would show as `/..` in there. systemd lets a cgroup alone that
        // it does not know, below the root that it was given.
        const ENTER: &str = r#"
            cd /; leader=$1; while shift; [ "$1" != -- ]; do
                [ -d "$1/payload/lab-shell" ] || mkdir -p "$1/payload/lab-shell"
                echo 0 >"$1/payload/lab-shell/cgroup.procs" || exit 125
            done; shift
            exec nsenter -t "$leader" -m -u -i -n -p -C "$@""#;
        let plain = |error: io::Error| error.to_string();

        // Files and not pipes: a background process that keeps a pipe open must not keep the test waiting.
        let [mut input, mut stdout, mut stderr] = temporary_files().map_err(plain)?;
        input.write_all(stdin).and_then(|()| input.rewind()).map_err(plain)?;
        // What it becomes is of the machine's PID namespace, and ends with it. It has no terminal there. With its whole path, and
        // no folder, as then this process is not copied for each.
        let mut child = Command::new("/usr/bin/setsid")
            .args(["sh", "-c", ENTER, "sh", &self.leader.to_string()])
            .args(&self.cgroup.dirs)
            .arg("--")
            .args(command)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs([("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("SYSTEMD_PAGER", "")])
            .stdin(input)
            .stdout(stdout.try_clone().map_err(plain)?)
            .stderr(stderr.try_clone().map_err(plain)?)
            .spawn()
            .map_err(plain)?;
        let ended = wait_for(&mut child, patience);
        let (stdout, stderr) = (read_whole(&mut stdout), read_whole(&mut stderr));
        match ended {
            Some(status) => Ok(Output { status, stdout, stderr }),
            None => Err(format!("not done within {patience:?}: {stdout}{stderr}")),
        }
    }
}

/// Units.
impl Machine {
    /// Writes a unit file, which systemd has read before the next command runs.
    pub(crate) fn unit(&self, name: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{name}"), text);
        self.has_unread_units.set(true);
    }

    pub(crate) fn start(&self, unit: &str) -> Output {
        self.sh(&format!("systemctl start {unit}"))
    }

    pub(crate) fn restart(&self, unit: &str) -> Output {
        self.sh(&format!("systemctl restart {unit}"))
    }

    pub(crate) fn stop(&self, unit: &str) {
        self.ok(&format!("systemctl stop {unit}"));
    }

    /// A property of a unit, as `systemctl show` prints it.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.ok(&format!("systemctl show -P {property} {unit}")).trim().to_owned()
    }

    /// What an operator reads.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.of_journal(&format!("-u {unit} -o short"))
    }

    /// The entries that `journalctl -u` finds for a unit.
    pub(crate) fn entries(&self, unit: &str) -> Vec<Entry> {
        self.of_journal(&format!("-u {unit} -o json")).lines().map(entry).collect()
    }

    /// What the journal has so far is shown no more, by [`Self::journal`] and [`Self::entries`]. It stays where it is:
    /// `journalctl --vacuum-time` would spare what is younger than a second.
    pub(crate) fn forget_journal(&self) {
        let last = entry(&self.ok("journalctl --sync; journalctl --no-pager -n 1 -o json"));
        let cursor = last["__CURSOR"].as_str().expect("an entry has a cursor");
        self.forgotten.replace(cursor.to_owned());
    }

    fn of_journal(&self, options: &str) -> String {
        let forgotten = self.forgotten.borrow();
        let since = if forgotten.is_empty() { String::new() } else { format!("--after-cursor='{forgotten}'") };
        self.sh(&format!("journalctl --sync; journalctl --no-pager {since} {options}")).stdout
    }

    /// Those of them that portguard wrote as findings and verdicts.
    pub(crate) fn guard_entries(&self, unit: &str) -> Vec<Entry> {
        let by_guard =
            |entry: &Entry| entry.contains_key("PORTGUARD_VERDICT") || entry.contains_key("PORTGUARD_ENDPOINT");
        self.entries(unit).into_iter().filter(by_guard).collect()
    }
}

/// PID 1.
impl Machine {
    /// Stops the machine's PID 1 from outside, where alone that can be done: it answers nobody.
    pub(crate) fn freeze_manager(&self) {
        self.read_units();
        self.signal_manager(Signal::STOP);
    }

    pub(crate) fn thaw_manager(&self) {
        self.signal_manager(Signal::CONT);
    }

    fn signal_manager(&self, signal: Signal) {
        let pid = i32::try_from(self.leader).ok().and_then(Pid::from_raw).expect("the machine has a PID 1");
        rustix::process::kill_process(pid, signal).expect("it is our grandchild");
    }
}

/// Processes and ports, as the kernel sees them.
impl Machine {
    /// The machine's pids of the processes that listen on an endpoint such as `8080/tcp`, ascending.
    pub(crate) fn holders(&self, endpoint: &str) -> Vec<u32> {
        let (port, protocol) = endpoint.split_once('/').expect("port/protocol");
        let family = if protocol == "udp" { "-u" } else { "-t" };
        let text = self.ok(&format!("ss -Hlnp {family} 'sport = :{port}'"));
        let mut pids: Vec<u32> = text
            .split("pid=")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// The processes in a unit's cgroup, ascending.
    pub(crate) fn processes_of(&self, unit: &str) -> Vec<u32> {
        let cgroup = self.show(unit, "ControlGroup");
        // Where there is v1, systemd's own hierarchy of it has them all.
        let text = self.ok(&format!(
            "cat /sys/fs/cgroup/systemd{cgroup}/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup{cgroup}/cgroup.procs"
        ));
        let mut pids: Vec<u32> = text.lines().filter_map(|pid| pid.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    /// A unit's main process.
    pub(crate) fn main_pid(&self, unit: &str) -> u32 {
        self.show(unit, "MainPID").parse().expect("MainPID is a number")
    }

    /// Whether there is such a process; a zombie that nobody has reaped counts.
    pub(crate) fn alive(&self, pid: u32) -> bool {
        self.sh(&format!("test -d /proc/{pid}")).status.success()
    }

    /// Connects to a TCP port of the machine and reads what the server says.
    pub(crate) fn connect(&self, port: u16) -> Output {
        self.sh(&format!(
            "python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", {port}), 20); \
             s.settimeout(20); print(s.recv(100).decode())'"
        ))
    }

    /// Asks until the answer is yes, and less often the longer it takes. `what` is said if it never is.
    pub(crate) fn wait_until(&self, what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            let waited = began.elapsed();
            assert!(waited < patience, "not within {patience:?} in {}: {what}", self.release.name);
            thread::sleep((waited / 32).clamp(Duration::from_millis(50), Duration::from_millis(250)));
        }
    }
}

/// What is put into the machine as /usr/bin/portguard.
enum UnderTest {
    Binary(PathBuf),
    MachinesTrue,
}

fn binary_under_test() -> Result<UnderTest, String> {
    let path = match env::var("PORTGUARD_UNDER_TEST") {
        Ok(word) if word == "true" => return Ok(UnderTest::MachinesTrue),
        Ok(path) => PathBuf::from(path),
        Err(env::VarError::NotPresent) => PathBuf::from(env!("CARGO_BIN_EXE_portguard")),
        Err(error) => return Err(format!("PORTGUARD_UNDER_TEST: {error}")),
    };
    if path.is_file() {
        return Ok(UnderTest::Binary(path));
    }
    Err(format!("the binary under test is no file: {}", path.display()))
}

/// The command that becomes systemd-nspawn. Its order counts: first the namespaces, then the mounts in them, and last
/// the cgroup, which only systemd-nspawn itself may be in, because a cgroup with processes of its own cannot hand
/// controllers down to `payload`.
fn boot_command(tree: &Path, guard: &UnderTest, cgroup: &MachineCgroup, image: Image, hierarchy: Hierarchy) -> Command {
    // The tmpfs on /run also keeps systemd-nspawn's locks and propagation folders off the host.
    const BOOT: &str = r#"set -e
        tree=$1 guard=$2 listeners=$3 name=$4
        mount -t tmpfs -o mode=755 tmpfs /run
        mkdir -p /run/lab/upper /run/lab/work /run/lab/root
        mount -t overlay -o "lowerdir=$tree,upperdir=/run/lab/upper,workdir=/run/lab/work" overlay /run/lab/root
        install -m 755 "$guard" /run/lab/root/usr/bin/portguard
        install -D -m 644 -t /run/lab/root/opt/lab "$listeners"/*.p[ly]
        shift 3; while shift; [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; done; shift
        exec systemd-nspawn -q -M "$name" -D /run/lab/root --boot \
            --register=no --keep-unit --private-network --link-journal=no --resolv-conf=off --timezone=off "$@""#;
    let guard = match guard {
        UnderTest::Binary(path) => path.clone(),
        UnderTest::MachinesTrue => tree.join("bin/true"),
    };
    let mut command = dies_with_us("unshare");
    command
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", BOOT, "sh"])
        .args([tree, &guard, Path::new(LISTENERS), Path::new(&cgroup.name)])
        .args(&cgroup.dirs)
        .arg("--")
        .env_remove("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY")
        .envs(hierarchy.for_nspawn().map(|wanted| ("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", wanted)));
    // What make coverage has built writes there, whoever runs it.
    if let Some(folder) = env::var_os("PORTGUARD_COVERAGE") {
        let own = Path::new(&folder).join(&cgroup.name);
        let made = fs::create_dir(&own).and_then(|()| fs::set_permissions(&own, Permissions::from_mode(0o1777)));
        made.unwrap_or_else(|error| panic!("{}: {error}", own.display()));
        command.arg(format!("--bind={}:/coverage", own.display()));
    }
    match image {
        Image::Bare => command.arg("--capability=CAP_DAC_READ_SEARCH,CAP_NET_ADMIN"),
        // Container engines want all there is, and disks to lay overlays on: the machine's own is one already.
        // Not all of /proc/sys, though: logind then sees another boot id than the sessions that it is asked for.
        Image::Stocked => command
            .args(["--capability=all", "--system-call-filter=add_key keyctl bpf"])
            .args(["--tmpfs=/var/lib/docker:mode=711", "--tmpfs=/var/lib/containers:mode=755"])
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network"),
    };
    command
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Waits for a child and kills it when its time is over, in which case there is no status.
fn wait_for(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn temporary_files() -> io::Result<[File; 3]> {
    Ok([tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?])
}

/// All that was written to a file so far. Programs under test may write anything, so it need not be UTF-8.
fn read_whole(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.map_or_else(|error| error.to_string(), |_| String::from_utf8_lossy(&bytes).into_owned())
}
