//! A full host: processes, open files, connections and listeners, on loopback, in the namespaces that `main` has made.
//!
//! All of it is other copies of this program, which do nothing once they have what they are to hold. They end with the
//! PID namespace, so they need no clearing up.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::libc::linger;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

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

/// What there may be besides the load: the bench itself, the holders, what was just measured.
const OTHERS: u64 = 100;

/// The load so far.
#[derive(Default)]
pub(crate) struct Load {
    tenants: Vec<Child>,
    servers: Vec<Child>,
}

impl Load {
    /// Processes of 50 open files, 40 connections and 2 listeners each, so many; their connections end in few servers, as
    /// those of a real host do. Those that are there stay, as far as they are wanted.
    ///
    /// # Errors
    /// A part did not come up, or the kernel does not count what was wanted.
    pub(crate) fn set(&mut self, tenants: u16) -> Result<(), String> {
        let per_server = per_server()?;
        let server_of = |tenant: u16| u64::from(tenant) * u64::from(CONNECTIONS) / per_server;
        let servers = tenants.checked_sub(1).map_or(0, |last| server_of(last) + 1);
        let surplus = |parts: &mut Vec<Child>, wanted: usize| parts.split_off(wanted.min(parts.len()));
        let servers_wanted = usize::try_from(servers).map_err(|error| error.to_string())?;
        end(surplus(&mut self.tenants, tenants.into()))?;
        end(surplus(&mut self.servers, servers_wanted))?;
        for server in self.servers.len()..servers_wanted {
            let number = u8::try_from(server).map_err(|_| "too many servers".to_owned())?;
            self.servers.push(part(&["--server", &number.to_string()])?);
        }
        for tenant in u16::try_from(self.tenants.len()).unwrap_or(u16::MAX)..tenants {
            self.tenants.push(part(&["--tenant", &tenant.to_string(), &server_of(tenant).to_string()])?);
        }
        check(tenants)
    }

    /// All tenants into this cgroup.
    pub(crate) fn move_to(&self, cgroup: &Path) -> Result<(), String> {
        self.tenants.iter().try_for_each(|tenant| put(tenant, cgroup))
    }

    /// What is really there, as the kernel counts it.
    pub(crate) fn counted() -> String {
        let Count { processes, files, sockets } = Count::now();
        format!("{processes} processes, {files} open files, {sockets} TCP sockets")
    }

    /// The files alone, without those of the bench itself.
    pub(crate) fn files() -> u64 {
        Count::now().files.saturating_sub(OTHERS)
    }
}

/// `--load TENANTS`: as long as its standard input is open.
///
/// # Errors
/// As [`Load::set`].
pub(crate) fn keep(tenants: u16) -> Result<(), String> {
    let mut load = Load::default();
    load.set(tenants)?;
    println!("{}", Load::counted());
    io::copy(&mut io::stdin(), &mut io::sink()).map_err(|error| error.to_string())?;
    load.set(0)
}

/// A load beside a machine's own processes. It ends on drop.
pub(crate) struct InMachine {
    child: Child,
    /// As the kernel counts it there.
    pub(crate) counted: String,
}

impl InMachine {
    /// `beside`: what runs this program there.
    ///
    /// # Errors
    /// It did not come up; it says why on standard error.
    pub(crate) fn start(mut beside: Command, tenants: u16) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the load in the machine: {error}");
        beside.args(["--load", &tenants.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut load = Self { child: beside.spawn().map_err(failed)?, counted: String::new() };
        let pipe = load.child.stdout.take().ok_or("no pipe")?;
        BufReader::new(pipe).read_line(&mut load.counted).map_err(failed)?;
        load.counted.truncate(load.counted.trim_end().len());
        if load.counted.is_empty() { Err("the load in the machine ended early".to_owned()) } else { Ok(load) }
    }
}

impl Drop for InMachine {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Our own children, not yet waited for. All are told before the first is waited for.
fn end(mut parts: Vec<Child>) -> Result<(), String> {
    let killed = parts.iter_mut().try_for_each(Child::kill);
    let ended = killed.and_then(|()| parts.iter_mut().try_for_each(|part| part.wait().map(drop)));
    ended.map_err(|error| format!("a part of the load: {error}"))
}

/// Waits until all of it is there, and nothing that was there before: a host that is not full is quick.
fn check(tenants: u16) -> Result<(), String> {
    let wanted = u64::from(tenants);
    let is_there = |count: u64, each: u64| (each * wanted..=(each + 5) * wanted + OTHERS).contains(&count);
    // At both ends of a connection is a socket, and a file.
    let (sockets, files) = (u64::from(2 * CONNECTIONS + LISTENERS), u64::from(50 + CONNECTIONS));
    for _ in 0..200 {
        let now = Count::now();
        let processes = (wanted..=wanted + OTHERS).contains(&now.processes);
        if processes && is_there(now.sockets, sockets) && is_there(now.files, files) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(format!("{tenants} tenants were wanted, and there are {}", Load::counted()))
}

/// In this PID and network namespace.
struct Count {
    processes: u64,
    files: u64,
    /// TCP, without those in `TIME_WAIT`.
    sockets: u64,
}

impl Count {
    fn now() -> Self {
        let (mut processes, mut files) = (0, 0);
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
                processes += 1;
                files += fs::read_dir(entry.path().join("fd")).into_iter().flatten().count() as u64;
            }
        }
        let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let inuse = text.lines().find_map(|line| line.strip_prefix("TCP: inuse ")?.split(' ').next()?.parse().ok());
        Self { processes, files, sockets: inuse.unwrap_or(0) }
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
fn part(arguments: &[&str]) -> Result<Child, String> {
    part_with(Stdio::null(), arguments).map_err(|error| format!("{arguments:?}: {error}"))
}

fn part_with(stdin: Stdio, arguments: &[&str]) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.args(arguments).stdin(stdin).stdout(Stdio::piped()).spawn()?;
    wait_until_ready(&mut child)?;
    Ok(child)
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

/// `--server NUMBER`: accepts everything, and keeps it as long as its other end is there.
pub(crate) fn serve(server: u8) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let listener = TcpListener::bind(address_of(server))?;
    let ready = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&ready, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    println!("ready");
    let mut kept = Vec::new();
    let mut events = Vec::with_capacity(64);
    loop {
        epoll::wait(&ready, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                let (connection, _) = listener.accept()?;
                let number = EventData::new_u64(kept.len() as u64);
                epoll::add(&ready, &connection, number, EventFlags::RDHUP)?;
                kept.push(Some(connection));
            } else if let Some(ended) = usize::try_from(event.data.u64()).ok().and_then(|number| kept.get_mut(number)) {
                *ended = None;
            }
        }
    }
}

/// No connection has this number.
const LISTENER: u64 = u64::MAX;

/// `--tenant NUMBER SERVER`.
pub(crate) fn tenant(number: u16, server: u8) -> io::Result<()> {
    let first = FIRST_PORT + number * LISTENERS;
    let listeners = (first..first + LISTENERS).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let connections = (0..CONNECTIONS).map(|_| TcpStream::connect(address_of(server)));
    let connections = connections.collect::<io::Result<Vec<_>>>()?;
    // A load that shrinks leaves nothing in `TIME_WAIT`.
    for connection in &connections {
        setsockopt(connection, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    }
    let files = (0..FILES).map(|_| File::open("/etc/passwd")).collect::<io::Result<Vec<_>>>()?;
    let pipes = (0..PIPES).map(|_| io::pipe()).collect::<io::Result<Vec<_>>>()?;
    rest((listeners, connections, files, pipes))
}

/// The process that has the port: born in one cgroup, and perhaps moved to another.
pub(crate) struct Holder {
    child: Child,
    /// It goes on as long as this is open.
    stdin: Option<ChildStdin>,
}

impl Holder {
    /// Listens on the port, from inside of this cgroup.
    pub(crate) fn listen(port: u16, cgroup: &Path) -> Result<Self, String> {
        Self::start(&["--holder", &port.to_string()], cgroup)
    }

    /// The same, and so many others in the cgroup have the socket as well, as the workers of a server do.
    pub(crate) fn share(port: u16, others: u16, cgroup: &Path) -> Result<Self, String> {
        Self::start(&["--holder", &port.to_string(), &others.to_string()], cgroup)
    }

    /// Has the port by UDP.
    pub(crate) fn bind_udp(port: u16, cgroup: &Path) -> Result<Self, String> {
        Self::start(&["--udp", &port.to_string()], cgroup)
    }

    /// The port is the local one of a connection.
    pub(crate) fn connect(port: u16, cgroup: &Path) -> Result<Self, String> {
        Self::start(&["--client", &port.to_string()], cgroup)
    }

    fn start(arguments: &[&str], cgroup: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{arguments:?}: {error}");
        let ours = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(ours);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let mut holder = Self { stdin: child.stdin.take(), child };
        holder.move_to(cgroup)?;
        holder.stdin.as_mut().map_or(Ok(()), |pipe| pipe.write_all(b"go\n")).map_err(failed)?;
        wait_until_ready(&mut holder.child).map_err(failed)?;
        Ok(holder)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn move_to(&self, cgroup: &Path) -> Result<(), String> {
        put(&self.child, cgroup)
    }
}

fn put(child: &Child, cgroup: &Path) -> Result<(), String> {
    fs::create_dir_all(cgroup)
        .and_then(|()| fs::write(cgroup.join("cgroup.procs"), child.id().to_string()))
        .map_err(|error| format!("{}: {error}", cgroup.display()))
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// `--holder PORT OTHERS`: a socket is born where its process is at that time, so it waits until it was moved.
pub(crate) fn hold(port: u16, others: u16) -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new())?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let other = |_| part_with(OwnedFd::from(listener.try_clone()?).into(), &["--other"]);
    let others = (0..others).map(other).collect::<io::Result<Vec<_>>>()?;
    rest_until_told()?;
    // All are told before the first is waited for: our own children.
    end(others).map_err(io::Error::other)
}

/// `--udp PORT`: as [`hold`].
pub(crate) fn receive(port: u16) -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new())?;
    let _socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    rest_until_told()
}

/// Says that it is ready, and comes back when its standard input is closed.
fn rest_until_told() -> io::Result<()> {
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}

/// `--other`: ends with the holder.
pub(crate) fn share() -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    rest(())
}

/// `--client PORT`: as [`hold`], with a connection to the first server.
pub(crate) fn connect(port: u16) -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new())?;
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(client.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))?;
    let (address, port) = address_of(0);
    nix::sys::socket::connect(client.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, port)))?;
    rest_until_told()
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
            thread::sleep(Duration::from_millis(10));
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
