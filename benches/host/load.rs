//! A full host: processes, open files, connections and listeners, on loopback, in the namespaces that `main` has made.
//!
//! All of it is other copies of this program, which do nothing once they have what they are to hold. They end with the
//! PID namespace, so they need no clearing up.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What one tenant has open: 50 files with its standard ones.
const CONNECTIONS: u16 = 40;
const LISTENERS: u16 = 2;
const FILES: usize = 3;
const PIPES: usize = 1;

/// Below the ephemeral ports, and above that of the measured listener.
const FIRST_PORT: u16 = 10_000;
const SERVER_PORT: u16 = 7000;

/// One server takes no more connections, whatever the limit of open files; one address has 28,000 ephemeral ports.
const MOST_ACCEPTED: u64 = 10_000;

/// The load so far.
#[derive(Default)]
pub(crate) struct Load {
    tenants: u16,
    servers: u8,
}

impl Load {
    /// Adds processes of 50 open files, 40 connections and 2 listeners each, until there are so many; their
    /// connections end in few servers, as those of a real host do.
    pub(crate) fn grow_to(&mut self, tenants: u16) -> Result<(), String> {
        let per_server = per_server()?;
        for tenant in self.tenants..tenants {
            let server = u64::from(tenant) * u64::from(CONNECTIONS) / per_server;
            let server = u8::try_from(server).map_err(|_| "too many servers".to_owned())?;
            if server == self.servers {
                part(&["--server", &server.to_string()])?;
                self.servers += 1;
            }
            part(&["--tenant", &tenant.to_string(), &server.to_string()])?;
        }
        self.tenants = tenants;
        Ok(())
    }

    /// What is really there, as the kernel counts it: processes, open files, TCP sockets.
    pub(crate) fn counted() -> String {
        let (mut processes, mut files) = (0, 0);
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
                processes += 1;
                files += fs::read_dir(entry.path().join("fd")).into_iter().flatten().count();
            }
        }
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let sockets = sockets.lines().find_map(|line| line.strip_prefix("TCP: inuse ")?.split(' ').next());
        format!("{processes} processes, {files} open files, {} TCP sockets", sockets.unwrap_or("?"))
    }
}

/// So many connections a server may accept, with room for what else it has open.
fn per_server() -> Result<u64, String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    let most = hard.saturating_sub(100).min(MOST_ACCEPTED);
    // Whole tenants, so that none is split between two servers.
    let most = most - most % u64::from(CONNECTIONS);
    if most == 0 { Err(format!("only {hard} open files are allowed")) } else { Ok(most) }
}

/// Starts another copy of this program, and waits until it says that it has everything.
fn part(arguments: &[&str]) -> Result<(), String> {
    let ours = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(ours);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{arguments:?}: {error}"))?;
    wait_until_ready(&mut child).map_err(|error| format!("{arguments:?}: {error}"))
}

fn wait_until_ready(child: &mut Child) -> io::Result<()> {
    let pipe = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
    let mut line = String::new();
    BufReader::new(pipe).read_line(&mut line)?;
    if line == "ready\n" { Ok(()) } else { Err(io::Error::other("it ended early")) }
}

/// Says so, and then does nothing until it is killed.
fn rest<T>(_kept: T) -> ! {
    println!("ready");
    loop {
        thread::park();
    }
}

fn address_of(server: u8) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(127, 0, 1, server + 1), SERVER_PORT)
}

/// `--server NUMBER`: accepts everything, and keeps it.
pub(crate) fn serve(server: u8) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let listener = TcpListener::bind(address_of(server))?;
    println!("ready");
    let mut kept = Vec::new();
    for connection in listener.incoming() {
        kept.push(connection?);
    }
    Ok(())
}

/// `--tenant NUMBER SERVER`.
pub(crate) fn tenant(number: u16, server: u8) -> io::Result<()> {
    let first = FIRST_PORT + number * LISTENERS;
    let listeners = (first..first + LISTENERS).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let connections = (0..CONNECTIONS).map(|_| TcpStream::connect(address_of(server)));
    let connections = connections.collect::<io::Result<Vec<_>>>()?;
    let files = (0..FILES).map(|_| File::open("/etc/passwd")).collect::<io::Result<Vec<_>>>()?;
    let pipes = (0..PIPES).map(|_| io::pipe()).collect::<io::Result<Vec<_>>>()?;
    rest((listeners, connections, files, pipes))
}

/// The process that has the port: born in one cgroup, and perhaps moved to another.
pub(crate) struct Holder {
    child: Child,
}

impl Holder {
    /// Listens on the port, from inside of this cgroup.
    pub(crate) fn listen(port: u16, cgroup: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the holder of port {port}: {error}");
        let ours = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(ours);
        command.args(["--holder", &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Self { child: command.spawn().map_err(failed)? };
        holder.move_to(cgroup)?;
        holder.child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(b"go\n")).map_err(failed)?;
        wait_until_ready(&mut holder.child).map_err(failed)?;
        Ok(holder)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn move_to(&self, cgroup: &Path) -> Result<(), String> {
        fs::create_dir_all(cgroup)
            .and_then(|()| fs::write(cgroup.join("cgroup.procs"), self.pid().to_string()))
            .map_err(|error| format!("{}: {error}", cgroup.display()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Our own child, not yet waited for.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// `--holder PORT`: a socket is born where its process is at that time, so it waits until it was moved.
pub(crate) fn hold(port: u16) -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new())?;
    rest(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?)
}

/// The cgroup of this run, below the root of the hierarchy and with the name of a unit, which then is the unit of
/// whoever is in it. It is removed with all below it on drop.
pub(crate) struct Cgroup {
    pub(crate) unit: String,
    pub(crate) dir: PathBuf,
}

const PREFIX: &str = "portguard-bench-";

impl Cgroup {
    /// Makes it, and removes those of benches that were killed.
    pub(crate) fn create() -> Result<Self, String> {
        let root = cgroup2()?;
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(".service"));
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove(&entry.path());
            }
        }
        let unit = format!("{PREFIX}{}.service", std::process::id());
        let dir = root.join(&unit);
        fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self { unit, dir })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment after it was reaped. What stays is swept by the next run.
        for _ in 0..200 {
            remove(&self.dir);
            if !self.dir.exists() {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

fn cgroup2() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields.get(2) == Some(&"cgroup2")).and_then(|fields| fields.get(1).copied());
    mount.map(PathBuf::from).ok_or_else(|| "cgroup2 is not mounted".to_owned())
}

/// Moves this process, and so what it spawns from now on.
pub(crate) fn move_to(cgroup: &Path) -> Result<(), String> {
    fs::write(cgroup.join("cgroup.procs"), "0").map_err(|error| format!("{}: {error}", cgroup.display()))
}
