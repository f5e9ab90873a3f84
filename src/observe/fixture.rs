//! Real processes and real cgroups for the tests of the observers. They need root and a mounted cgroup2.
//!
//! A child is this very test binary, told to run the one test below in a role of its own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::again::Again;
use super::holders::{Open, SoFar};
use crate::interrupt::Interrupt;
use crate::model::{Inode, Pid, Port, Protocol};
use crate::sys;

/// Set where a test runs alone.
const ALONE: &str = "PORTGUARD_TEST_ALONE";

/// Whether the calling test runs alone. Where it does not, this runs it so, in a process of its own, and fails as it does.
///
/// For whoever forks: of the process that comes of it only one thread is there, and a lock that another had at that time
/// (one of std's, in which its threads are listed) stays taken in there for ever. It also has what others had open.
pub(crate) fn is_alone() -> bool {
    let alone = std::env::var_os(ALONE).is_some();
    if !alone {
        run_alone(Command::new(std::env::current_exe().unwrap()));
    }
    alone
}

/// Which of these sockets a process has open.
pub(crate) fn holds(pid: Pid, inodes: &[Inode]) -> Open {
    let (interrupt, so_far) = (Interrupt::default(), SoFar::default());
    Again::new(Path::new("/proc"), &interrupt, &so_far).open(pid, inodes)
}

/// What strace(1) writes of the calling test, and of all its threads and children, where it runs alone; `None` to that run.
pub(crate) fn trace_of_itself() -> Option<String> {
    if std::env::var_os(ALONE).is_some() {
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o"]).arg(file.path()).arg(std::env::current_exe().unwrap());
    // AddressSanitizer looks for leaks as a tracer of its own, and fails where there is one.
    strace.env("ASAN_OPTIONS", "detect_leaks=0");
    run_alone(strace);
    Some(std::fs::read_to_string(file.path()).unwrap())
}

/// Has the calling test run again, by this command, and fails as it does.
fn run_alone(mut command: Command) {
    let this = std::thread::current().name().unwrap().to_owned();
    command.args(["--exact", &this, "--nocapture", "--test-threads=1"]).env(ALONE, "1").stdin(Stdio::null());
    let ran = command.output().unwrap();
    let [out, err] = [&ran.stdout, &ran.stderr].map(|said| String::from_utf8_lossy(said));
    assert!(ran.status.success() && out.contains("1 passed"), "{this}, alone: {}\n{out}{err}", ran.status);
}

/// How this ends in a process of its own: what holds signals back is a thread's, who one is is a process's, and a signal
/// to all the others of the test ends it. 7: nothing in it has failed. Whoever has not ended after a minute is killed.
pub(crate) fn end_of(work: impl FnOnce()) -> WaitStatus {
    assert!(std::env::var_os(ALONE).is_some(), "whoever forks does so where it `is_alone`");
    let Some(child) = sys::fork().unwrap() else {
        sys::ignore_none();
        // What fails in there must not go on as the test's own thread.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        std::process::exit(if done.is_ok() { 7 } else { 1 });
    };
    let pid = rustix::process::Pid::from_raw(child.0).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let minute = crate::timespan::timespec(std::time::Duration::from_mins(1));
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&minute)).unwrap() == 0 {
        pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    }
    waitpid(nix::unistd::Pid::from_raw(child.0), None).unwrap()
}

/// That nothing in this fails, in a process of its own.
pub(crate) fn assert_holds_in_a_process_of_its_own(work: impl FnOnce()) {
    let ended = end_of(work);
    assert!(matches!(ended, WaitStatus::Exited(_, 7)), "{ended:?}");
}

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Listens.
    Listen,
    /// A second thread of a process listens; the first ends.
    DeadLeader,
    /// A second thread listens, with a table of open files of its own.
    OwnTable,
    /// Looks, without any privilege, for `PORTGUARD_TEST_INODE` in `PORTGUARD_TEST_PID`.
    LookAsNobody,
    /// Blocks in a read of a pipe, with an alarm set.
    Alarmed,
    /// Listens, and lets SIGTERM pass; any other signal ends it.
    Deaf,
    /// Listens, closes its socket at SIGTERM, and lives on.
    LetsGo,
    /// The same, but it ends 5 ms later.
    LetsGoAndEnds,
    /// Listens as nobody, whom others like it may look at.
    ListenAsNobody,
    /// A second thread has a child that has not run its program yet, and sleeps uninterruptibly until it ends.
    Suspended,
}

const ROLES: [Role; 10] = [
    Role::Listen,
    Role::DeadLeader,
    Role::OwnTable,
    Role::LookAsNobody,
    Role::Alarmed,
    Role::Deaf,
    Role::LetsGo,
    Role::LetsGoAndEnds,
    Role::ListenAsNobody,
    Role::Suspended,
];
pub(crate) const NOBODY: u32 = 65534;

/// A child that plays its role until it is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    said: String,
}

impl Child {
    /// Comes back when the child is ready. With `PORTGUARD_TEST_CGROUP` it first moves to that cgroup.
    pub(crate) fn spawn(role: Role, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "observe::fixture::a_child_plays_its_role", "--nocapture", "--test-threads=1"]);
        command.env("PORTGUARD_TEST_ROLE", format!("{role:?}")).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said = lines.find_map(|line| line.unwrap().strip_prefix("READY ").map(str::to_owned));
        let child = Self { process, said: said.expect("the child is ready") };
        if role == Role::DeadLeader {
            // The other thread cannot know when the first has ended.
            let stat = format!("/proc/{}/stat", child.pid());
            while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
                std::thread::yield_now();
            }
        }
        child
    }

    /// The process that has the listener.
    pub(crate) fn pid(&self) -> Pid {
        Pid(self.field(2).parse().unwrap())
    }

    /// What it said when it was ready.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    fn field(&self, index: usize) -> &str {
        self.said.split(' ').nth(index).unwrap()
    }

    /// The inode of its listener.
    pub(crate) fn inode(&self) -> Inode {
        Inode(self.field(0).parse().unwrap())
    }

    /// Its listener.
    pub(crate) fn socket(&self) -> (Protocol, SocketAddr) {
        (Protocol::Tcp, (Ipv4Addr::LOCALHOST, self.port().get()).into())
    }

    /// The port of its listener.
    pub(crate) fn port(&self) -> Port {
        Port::new(self.field(1).parse().unwrap()).unwrap()
    }
}

impl Drop for Child {
    /// A fork of it ends when it reads the end of the input that it shares.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Without a role, a test of the fixture itself; with one, the body of the children that tests spawn.
#[test]
fn a_child_plays_its_role() {
    let Ok(role) = std::env::var("PORTGUARD_TEST_ROLE") else {
        let child = Child::spawn(Role::Listen, &[]);
        std::net::TcpStream::connect(("127.0.0.1", child.port().get())).unwrap();
        return;
    };
    sys::ignore_none();
    let role = ROLES.into_iter().find(|known| format!("{known:?}") == role).unwrap();
    if let Ok(cgroup) = std::env::var("PORTGUARD_TEST_CGROUP") {
        std::fs::write(Path::new(&cgroup).join("cgroup.procs"), "0").unwrap();
    }
    match role {
        Role::Listen => listen(),
        // A test never runs in the first thread of its process; that of a fork is the one that forked.
        Role::DeadLeader => {
            if sys::fork().unwrap().is_none() {
                std::thread::spawn(listen);
                sys::end_this_thread();
            }
            drop(std::io::stdin().lines().next());
        }
        Role::OwnTable => std::thread::spawn(|| {
            sys::unshare_files().unwrap();
            listen();
        })
        .join()
        .unwrap(),
        Role::ListenAsNobody => {
            nix::unistd::setgid(NOBODY.into()).unwrap();
            nix::unistd::setuid(NOBODY.into()).unwrap();
            nix::sys::prctl::set_dumpable(true).unwrap();
            listen();
        }
        Role::Suspended => {
            eprintln!("READY 0 0 {}", own_pid());
            sys::vfork_that_waits_for_input().unwrap();
        }
        Role::LookAsNobody => {
            let number = |name| std::env::var(name).unwrap().parse::<u32>().unwrap();
            let pid = Pid(number("PORTGUARD_TEST_PID").try_into().unwrap());
            nix::unistd::setgid(NOBODY.into()).unwrap();
            nix::unistd::setuid(NOBODY.into()).unwrap();
            let inode = Inode(number("PORTGUARD_TEST_INODE").into());
            let Open { inodes, sight } = holds(pid, &[inode]);
            ready(&format!("{inodes:?} {sight:?}"));
        }
        Role::Alarmed => {
            let (read, write) = std::io::pipe().unwrap();
            if sys::fork().unwrap().is_none() {
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_secs(20));
                    drop(write);
                });
                sys::arm_alarm(std::time::Duration::from_millis(20));
                let error = rustix::io::read(&read, &mut [0_u8]).unwrap_err();
                sys::disarm_alarm();
                ready(&format!("{error:?}"));
            }
            drop(std::io::stdin().lines().next());
        }
        // A mask is a thread's, and that of a fork's first is the whole process's.
        Role::Deaf | Role::LetsGo | Role::LetsGoAndEnds => {
            if sys::fork().unwrap().is_none() {
                let sigterm = SigSet::from(Signal::SIGTERM);
                sigterm.thread_block().unwrap();
                std::thread::spawn(|| {
                    drop(std::io::stdin().lines().next());
                    std::process::exit(0);
                });
                let listener = listener();
                sigterm.wait().unwrap();
                if role != Role::Deaf {
                    drop(listener);
                }
                if role == Role::LetsGoAndEnds {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    std::process::exit(0);
                }
                std::thread::park();
            }
            drop(std::io::stdin().lines().next());
        }
    }
}

fn listen() {
    let _listener = listener();
    let _ = std::io::stdin().lines().next();
}

/// At `PORTGUARD_TEST_ADDRESS`, else at some port of 127.0.0.1; says that it is there.
fn listener() -> TcpListener {
    let address = std::env::var("PORTGUARD_TEST_ADDRESS").unwrap_or_else(|_| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(&address[..]).unwrap();
    let (inode, port) = (fstat(&listener).unwrap().st_ino, listener.local_addr().unwrap().port());
    eprintln!("READY {inode} {port} {}", own_pid());
    listener
}

/// Says so, and waits to be ended.
fn ready(said: &str) {
    eprintln!("READY {said}");
    let _ = std::io::stdin().lines().next();
}

pub(crate) fn own_pid() -> Pid {
    Pid(nix::unistd::getpid().as_raw())
}

/// A new cgroup below the one of this process, removed when it is dropped (after the children in it).
pub(crate) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    pub(crate) fn create(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = cgroup2().join(format!("portguard-test-{}-{count}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A cgroup below it.
    pub(super) fn sub(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// A process that was just killed can keep its cgroup busy for a moment.
fn remove(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    for _ in 0..1000 {
        if std::fs::remove_dir(dir).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Where cgroup2 is mounted on this machine.
pub(super) fn cgroup2() -> PathBuf {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    places.into_iter().map(PathBuf::from).find(|dir| dir.join("cgroup.procs").exists()).expect("cgroup2 is mounted")
}
