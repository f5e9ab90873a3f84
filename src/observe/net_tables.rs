//! Which sockets have a port, read from `/proc/net/{tcp,tcp6,udp,udp6}`: for where `sock_diag` is denied.
//!
//! It owns the choice of files and columns; the `procfs` crate parses them. It must not look at processes.
//! Poorer than [`super::sock_diag`]: no cgroup ids, no bound idle TCP sockets, nothing on IPv6 alone, and slow (a
//! second for some 300,000 sockets). A `::` therefore counts as dual-stack, which is the cautious answer.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use procfs::net::{TcpNetEntries, TcpState, UdpNetEntries, UdpState};
use procfs::{FromBufReadSI, ProcError};

use crate::interrupt::Interrupt;
use crate::model::{Inode, Port, Protocol, Socket, SocketState};

/// So many lines are read before it is looked again whether something has come to end us: some milliseconds.
const LINES_BETWEEN: usize = 4096;

/// Why a table could not be read.
#[derive(Debug)]
pub enum NetTablesError {
    /// It could not be opened or read.
    Read {
        /// The table.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it is not as proc(5) says.
    Parse {
        /// The table.
        path: PathBuf,
        /// Why.
        source: ProcError,
    },
}

impl fmt::Display for NetTablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Parse { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for NetTablesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Parse { source, .. } => Some(source),
        }
    }
}

/// Every socket with one of these local ports, in whatever state: what [`super::sock_diag::listeners`] and
/// [`super::sock_diag::others`] say together, but for what these tables do not show.
///
/// `proc` is the mount of procfs. The sockets are those of the calling network namespace.
///
/// # Errors
/// A table that cannot be read or parsed, or not before something came to end us; the tables of IPv6 are not there where IPv6 is off, which is no error.
pub fn sockets(proc: &Path, wanted: &[(Protocol, Port)], interrupt: &Interrupt) -> Result<Vec<Socket>, NetTablesError> {
    let mut found = Vec::new();
    for (protocol, tables) in [(Protocol::Tcp, ["net/tcp", "net/tcp6"]), (Protocol::Udp, ["net/udp", "net/udp6"])] {
        let ports: Vec<Port> = wanted.iter().filter(|(p, _)| *p == protocol).map(|&(_, port)| port).collect();
        if ports.is_empty() {
            continue;
        }
        for table in tables {
            let path = proc.join(table);
            let lines = match File::open(&path).and_then(|file| lines_of(BufReader::new(file), &ports, interrupt)) {
                Ok(lines) => lines,
                Err(source) if source.kind() == io::ErrorKind::NotFound && table.ends_with('6') => continue,
                Err(source) => return Err(NetTablesError::Read { path, source }),
            };
            let sockets = parse(protocol, &lines, &ports).map_err(|source| NetTablesError::Parse { path, source })?;
            found.extend(sockets);
        }
    }
    Ok(found)
}

/// The header and those lines whose local port is wanted: the table can be large, and the parser keeps all it gets.
fn lines_of(mut table: impl BufRead, ports: &[Port], interrupt: &Interrupt) -> io::Result<Vec<u8>> {
    let endings: Vec<String> = ports.iter().map(|port| format!(":{:04X}", port.get())).collect();
    let mut kept = Vec::new();
    table.read_until(b'\n', &mut kept)?;
    let mut line = Vec::new();
    let mut lines = 0_usize;
    while table.read_until(b'\n', &mut line)? > 0 {
        let local = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(1).unwrap_or_default();
        if endings.iter().any(|ending| local.ends_with(ending.as_bytes())) {
            kept.append(&mut line);
        }
        line.clear();
        lines += 1;
        if lines.is_multiple_of(LINES_BETWEEN) && interrupt.has_come() {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(kept)
}

/// Only what was asked for, whatever else the parser makes of a line.
fn parse(protocol: Protocol, lines: &[u8], ports: &[Port]) -> Result<Vec<Socket>, ProcError> {
    let mut sockets: Vec<Socket> = rows(protocol, lines)?.into_iter().map(|row| row.into_socket(protocol)).collect();
    sockets.retain(|socket| Port::new(socket.local.port()).is_some_and(|port| ports.contains(&port)));
    Ok(sockets)
}

fn rows(protocol: Protocol, lines: &[u8]) -> Result<Vec<Row>, ProcError> {
    let system = procfs::current_system_info();
    match protocol {
        Protocol::Tcp => Ok(TcpNetEntries::from_buf_read(lines, system)?
            .0
            .into_iter()
            .map(|entry| Row {
                local: entry.local_address,
                peer: entry.remote_address,
                uid: entry.uid,
                inode: entry.inode,
                state: tcp_state(&entry.state, entry.inode),
            })
            .collect()),
        Protocol::Udp => Ok(UdpNetEntries::from_buf_read(lines, system)?
            .0
            .into_iter()
            .map(|entry| Row {
                local: entry.local_address,
                peer: entry.remote_address,
                uid: entry.uid,
                inode: entry.inode,
                state: match entry.state {
                    UdpState::Close => SocketState::Unconnected,
                    UdpState::Established => SocketState::Connected,
                },
            })
            .collect()),
    }
}

/// The same sense as that of `sock_diag`: what its process has closed is over but for the waiting.
fn tcp_state(state: &TcpState, inode: u64) -> SocketState {
    match state {
        TcpState::Listen => SocketState::Listen,
        TcpState::Close => SocketState::Bound,
        TcpState::TimeWait => SocketState::TimeWait,
        TcpState::FinWait1 | TcpState::FinWait2 | TcpState::LastAck | TcpState::Closing if inode == 0 => {
            SocketState::TimeWait
        }
        TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::CloseWait
        | TcpState::NewSynRecv => SocketState::Connected,
    }
}

struct Row {
    local: SocketAddr,
    peer: SocketAddr,
    uid: u32,
    inode: u64,
    state: SocketState,
}

impl Row {
    fn into_socket(self, protocol: Protocol) -> Socket {
        let Self { local, peer, uid, inode, state } = self;
        let peer = match state {
            SocketState::Connected | SocketState::TimeWait => Some(peer),
            SocketState::Listen | SocketState::Bound | SocketState::Unconnected => None,
        };
        let v6only = match local.ip() {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => !ip.is_unspecified(),
        };
        Socket {
            protocol,
            local,
            peer,
            v6only,
            state,
            inode: Inode(inode),
            uid,
            device: None,
            cgroup: None,
            backlog: None,
            left: None,
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use nix::sys::stat::fstat;

    use super::*;
    use crate::observe::fixture::{assert_holds_in_a_process_of_its_own, is_alone};

    fn port_of(address: SocketAddr) -> Port {
        Port::new(address.port()).unwrap()
    }

    fn find(wanted: &[(Protocol, Port)], socket: impl AsFd) -> Socket {
        let inode = Inode(fstat(socket).unwrap().st_ino);
        sockets(Path::new("/proc"), wanted, &Interrupt::default())
            .unwrap()
            .into_iter()
            .find(|socket| socket.inode == inode)
            .unwrap()
    }

    #[test]
    fn listeners_are_found_as_sock_diag_finds_them_but_for_cgroup_and_v6only() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let local = listener.local_addr().unwrap();
            let found = find(&[(Protocol::Tcp, port_of(local))], &listener);
            assert_eq!((found.local, found.state), (local, SocketState::Listen));
            assert_eq!((found.uid, found.cgroup), (nix::unistd::getuid().as_raw(), None));
            assert_eq!(found.v6only, address == "[::1]:0");

            let socket = UdpSocket::bind(address).unwrap();
            let local = socket.local_addr().unwrap();
            let found = find(&[(Protocol::Udp, port_of(local))], &socket);
            assert_eq!((found.local, found.state), (local, SocketState::Unconnected));
        }
    }

    #[test]
    fn connections_have_their_peer() {
        let server = TcpListener::bind("[::1]:0").unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let found = find(&[(Protocol::Tcp, port_of(client.local_addr().unwrap()))], &client);
        assert_eq!((found.state, found.peer), (SocketState::Connected, Some(server.local_addr().unwrap())));
    }

    #[test]
    fn only_lines_with_a_wanted_local_port_are_kept() {
        let table = "  sl  local_address rem_address\n   0: 0100007F:1F90 00000000:0000 0A\n   \
                     1: 0100007F:1F91 0100007F:1F90 01\n\n";
        let kept = lines_of(table.as_bytes(), &[Port::new(8080).unwrap()], &Interrupt::default()).unwrap();
        assert_eq!(String::from_utf8(kept).unwrap().lines().count(), 2);
    }

    /// In a process of its own, as what holds signals back is its first thread's.
    #[test]
    fn it_is_looked_every_4096_lines_whether_something_has_come_to_end_us() {
        if !is_alone() {
            return;
        }
        let table = |lines| format!("  sl\n{}", "   0: 0100007F:1F90 00000000:0000 0A\n".repeat(lines));
        let lines_of = |lines, interrupt: &Interrupt| lines_of(table(lines).as_bytes(), &[], interrupt).is_ok();
        assert!(lines_of(LINES_BETWEEN, &Interrupt::default()));
        assert_holds_in_a_process_of_its_own(|| {
            let interrupt = Interrupt::listen();
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
            let read = [LINES_BETWEEN - 1, LINES_BETWEEN].map(|lines| lines_of(lines, &interrupt));
            assert_eq!(read, [true, false]);
        });
    }

    #[test]
    fn what_its_process_has_closed_only_waits_and_else_it_is_connected() {
        for state in [TcpState::FinWait1, TcpState::FinWait2, TcpState::LastAck, TcpState::Closing] {
            assert_eq!(tcp_state(&state, 0), SocketState::TimeWait, "{state:?}");
            assert_eq!(tcp_state(&state, 7), SocketState::Connected, "{state:?}");
        }
        for (state, expected) in [
            (TcpState::Listen, SocketState::Listen),
            (TcpState::Close, SocketState::Bound),
            (TcpState::TimeWait, SocketState::TimeWait),
            (TcpState::Established, SocketState::Connected),
            (TcpState::CloseWait, SocketState::Connected),
        ] {
            assert_eq!([0, 7].map(|inode| tcp_state(&state, inode)), [expected; 2], "{state:?}");
        }
    }

    #[test]
    fn a_line_that_reads_as_another_port_is_none_that_was_asked_for() {
        let table = "  sl\n   0: 0100007F:00007F:1F90 00000000:0000 07 0:0 00:0 0 0 0 1 2 0 0\n";
        let ports = [Port::new(8080).unwrap()];
        let lines = lines_of(table.as_bytes(), &ports, &Interrupt::default()).unwrap();
        assert_eq!(rows(Protocol::Udp, &lines).unwrap().len(), 1);
        assert_eq!(parse(Protocol::Udp, &lines, &ports).unwrap(), []);
    }

    #[test]
    fn without_ipv6_its_tables_are_not_there_and_without_any_table_it_is_an_error() {
        let proc = tempfile::tempdir().unwrap();
        let wanted = [(Protocol::Tcp, Port::new(8080).unwrap())];
        assert!(matches!(sockets(proc.path(), &wanted, &Interrupt::default()), Err(NetTablesError::Read { .. })));
        std::fs::create_dir(proc.path().join("net")).unwrap();
        std::fs::write(proc.path().join("net/tcp"), "header\n").unwrap();
        assert_eq!(sockets(proc.path(), &wanted, &Interrupt::default()).unwrap(), []);
        std::fs::write(proc.path().join("net/tcp"), "header\n 0: 0100007F:1F90 0100007F:0000 rubbish\n").unwrap();
        assert!(matches!(sockets(proc.path(), &wanted, &Interrupt::default()), Err(NetTablesError::Parse { .. })));
    }
}
