//! Which sockets have a port, asked of the kernel over `NETLINK_SOCK_DIAG` (`sock_diag(7)`),
//! filtered there by port and state.
//!
//! It owns the netlink socket, and the rules of a dump and of a lookup; `codec` owns the bytes. It must not look at
//! processes, nor decide which socket is in whose way. No privilege is needed. Sockets are those of the calling network namespace.

mod codec;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use self::codec::{Family, Message, Reply, Request, States};
use crate::interrupt::Interrupt;
use crate::model::{Endpoint, Port, Protocol, Socket, SocketState};

/// How long one receive may take (the kernel answers at once; this is for the case that it never does).
const RECEIVE_TIMEOUT_SECONDS: i64 = 1;
/// How long one dump may take, however many messages it has.
const DUMP_DEADLINE: Duration = Duration::from_secs(5);
/// How often a dump that changed under our eyes, or overran our buffer, is begun again.
const ATTEMPTS: u32 = 5;
/// Up to so many ports of a protocol are filtered by the kernel, one dump of listeners each; more are one dump filtered here.
pub const PORTS_ASKED_ONE_BY_ONE: usize = 16;
/// And so many where each dump is a walk of all connections.
const OTHERS_ASKED_ONE_BY_ONE: usize = 4;
/// The kernel never makes a dump's datagram larger (`netlink_dump()`, Linux 4.7 and later, `net/netlink/af_netlink.c`).
const DATAGRAM_BYTES: usize = 32 * 1024;

/// Why the kernel's answer is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockDiagError {
    /// No netlink socket: `RestrictAddressFamilies=`, a security module, a kernel without it.
    Open(Errno),
    /// The request could not be sent.
    Send(Errno),
    /// The answer could not be received.
    Receive(Errno),
    /// The kernel answered with an error; `ENOENT`: it has no `inet_diag`, `tcp_diag` or `udp_diag` module.
    Refused(Errno),
    /// No answer in time.
    Timeout,
    /// Each of several dumps was inconsistent, or lost a part; or the answer to a lookup is another's, or lost.
    Unsteady,
    /// An answer that breaks off, or is not formed as rtnetlink(7) says.
    Malformed,
}

impl fmt::Display for SockDiagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(errno) => write!(f, "no sock_diag netlink socket: {errno}"),
            Self::Send(errno) => write!(f, "sock_diag request not sent: {errno}"),
            Self::Receive(errno) => write!(f, "sock_diag answer not received: {errno}"),
            Self::Refused(errno) => write!(f, "sock_diag refused: {errno}"),
            Self::Timeout => f.write_str("sock_diag did not answer in time"),
            Self::Unsteady => f.write_str("the socket tables changed during each of several sock_diag requests"),
            Self::Malformed => f.write_str("malformed sock_diag answer"),
        }
    }
}

impl std::error::Error for SockDiagError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open(errno) | Self::Send(errno) | Self::Receive(errno) | Self::Refused(errno) => Some(errno),
            Self::Timeout | Self::Unsteady | Self::Malformed => None,
        }
    }
}

/// The sockets that wait for somebody on one of these ports: TCP listeners, and UDP sockets without a peer.
///
/// The kernel walks the table of listeners and nothing else, and shows those of the port (`inet_diag_dump_icsk()`, Linux
/// 6.18 `net/ipv4/inet_diag.c`).
///
/// # Errors
/// [`SockDiagError`]; [`super::net_tables`] has the same answer in a poorer form.
pub fn listeners(wanted: &[(Protocol, Port)], wish: &Wish<'_>) -> Result<Vec<Socket>, SockDiagError> {
    let states = |protocol| match protocol {
        Protocol::Tcp => States::TCP_LISTENING,
        Protocol::Udp => States::UDP_WAITING,
    };
    ask(wanted, PORTS_ASKED_ONE_BY_ONE, states, wish)
}

/// The other sockets that have one of these ports as their own: bound idle ones (Linux 6.8 and later; before, the bit
/// of their state is one that no socket has), and the local ends of connections, or of what is left of them.
///
/// It costs the kernel a walk of all bound sockets and of all connections: for when [`listeners`] explains nothing.
///
/// A [`SocketState::Connected`] socket of inode 0 is one that its listener has not accepted yet.
///
/// # Errors
/// [`SockDiagError`], as for [`listeners`].
pub fn others(wanted: &[(Protocol, Port)], wish: &Wish<'_>) -> Result<Vec<Socket>, SockDiagError> {
    let states = |protocol| match protocol {
        Protocol::Tcp => States::TCP_OTHERS,
        Protocol::Udp => States::UDP_CONNECTED,
    };
    ask(wanted, OTHERS_ASKED_ONE_BY_ONE, states, wish)
}

/// The TCP listeners to which connections to these addresses would come. The kernel looks each up in its hash table and
/// walks nothing (`inet_diag_find_one_icsk()`, Linux 6.18 `net/ipv4/inet_diag.c`), however many listeners a host has.
///
/// It has one answer an address: the listener of that very address before one of all addresses, and one of several that
/// share it (`SO_REUSEPORT`). It does not show those of one device (`SO_BINDTODEVICE`). So what is in the answer is there,
/// and what is not may be there all the same.
///
/// # Errors
/// [`SockDiagError`], as for [`listeners`].
pub fn listeners_at(addresses: &[SocketAddr]) -> Result<Vec<Socket>, SockDiagError> {
    let mut asker = Asker { socket: open()?, sequence: 0 };
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut found = Vec::new();
    for address in addresses {
        let Some(port) = Port::new(address.port()) else { continue };
        let listener = asker.look_up(address.ip(), port, &mut buffer)?;
        // `::` is at 0.0.0.0 as well.
        found.extend(listener.filter(|listener| !found.contains(listener)));
    }
    Ok(found)
}

/// What is wanted of a dump.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// Which sockets are kept, one after the other as they come; their device is not known yet.
    pub keep: &'a dyn Fn(&Socket) -> bool,
    /// At which addresses those are, for the kernel to leave out the others; `None`: at any. The kernel walks those of a UDP port
    /// from the first again for each datagram (`udp_dump_diag()`, Linux 6.18 `net/ipv4/udp_diag.c`): what it does not leave out costs by
    /// its square.
    pub bound_to: &'a dyn Fn(Protocol, Port) -> Option<BTreeSet<IpAddr>>,
    /// What ends it in the middle.
    pub interrupt: &'a Interrupt,
}

impl<'a> Wish<'a> {
    /// All of them.
    #[must_use]
    pub fn all(interrupt: &'a Interrupt) -> Self {
        Self { keep: &|_| true, bound_to: &|_, _| None, interrupt }
    }
}

/// The kernel leaves those out that are at none of so many addresses.
const MOST_ADDRESSES: usize = 64;

fn ask(
    wanted: &[(Protocol, Port)],
    one_by_one: usize,
    states: impl Fn(Protocol) -> States,
    wish: &Wish<'_>,
) -> Result<Vec<Socket>, SockDiagError> {
    let mut asker = Asker { socket: open()?, sequence: 0 };
    let mut found = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut ports: Vec<Port> = wanted.iter().filter(|(p, _)| *p == protocol).map(|&(_, port)| port).collect();
        ports.sort_unstable();
        ports.dedup();
        let one_each: Vec<Option<Port>> = ports.iter().copied().map(Some).collect();
        let filters = if ports.len() <= one_by_one { &one_each[..] } else { &[None] };
        for &port in filters {
            let filtered = port.as_ref().map_or(&ports[..], std::slice::from_ref);
            let each = filtered.iter().map(|&port| (wish.bound_to)(protocol, port));
            // One that is wanted at any address is shown with those of all others.
            let all: BTreeSet<IpAddr> = each.collect::<Option<Vec<_>>>().into_iter().flatten().flatten().collect();
            let bound_to: Vec<IpAddr> = if all.len() > MOST_ADDRESSES { Vec::new() } else { all.into_iter().collect() };
            for &family in families(protocol) {
                let request =
                    Request { family, protocol, states: states(protocol), port, at: None, bound_to: &bound_to };
                found.append(&mut asker.dump(request, &ports, wish)?);
            }
        }
    }
    Ok(found)
}

fn families(protocol: Protocol) -> &'static [Family] {
    match protocol {
        Protocol::Tcp => &[Family::Both],
        Protocol::Udp => &[Family::V4, Family::V6],
    }
}

fn open() -> Result<OwnedFd, SockDiagError> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
        .map_err(SockDiagError::Open)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(RECEIVE_TIMEOUT_SECONDS, 0))
        .map_err(SockDiagError::Open)?;
    Ok(socket)
}

/// `SKNLGRP_INET_TCP_DESTROY` to `SKNLGRP_INET6_UDP_DESTROY`, Linux `include/uapi/linux/sock_diag.h`, one bit each.
const DESTROY_GROUPS: u32 = 0b1111;

/// No more of them are read at once.
const MAX_CLOSINGS: usize = 10_000;

/// The kernel counts some 1,300 bytes for each.
const CLOSINGS_BYTES: usize = 8 * 1024 * 1024;

/// The kernel's word, as it comes, of each TCP and UDP socket of this network namespace that is gone: closed by the last
/// process that had it. What is left of a connection in `TIME_WAIT` is not among them.
#[derive(Debug)]
pub struct Closings {
    socket: OwnedFd,
    /// Which they are. What has come and was not taken yet is told by those of then.
    pub awaited: Awaited,
}

/// Of which sockets it is to be known when they are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    /// Of those without a peer, by their addresses: whoever binds to the same port at another, as a probe does, is none of them.
    pub sockets: HashSet<(Protocol, SocketAddr)>,
    /// And these connections, by their addresses and those of their peers: a busy server closes others all the time.
    pub connections: HashSet<(SocketAddr, SocketAddr)>,
    /// What is in the way of these, and was not seen.
    pub endpoints: BTreeSet<Endpoint>,
}

impl Awaited {
    fn has(&self, gone: &Reply) -> bool {
        let may_be = |protocol| gone.protocol.is_none_or(|number| number == codec::number_of(protocol));
        if gone.peer.port() != 0 {
            return self.connections.contains(&(gone.local, gone.peer));
        }
        [Protocol::Tcp, Protocol::Udp].into_iter().filter(|protocol| may_be(*protocol)).any(|protocol| {
            let is_in_the_way =
                |endpoint: &Endpoint| endpoint.protocol == protocol && endpoint.conflicts_with(gone.local, false);
            self.sockets.contains(&(protocol, gone.local)) || self.endpoints.iter().any(is_in_the_way)
        })
    }
}

impl Closings {
    /// From now on. `None` where the kernel does not tell (netlink denied, Linux before 4.6).
    #[must_use]
    pub fn of(awaited: Awaited) -> Option<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag).ok()?;
        // Nobody takes them during a look, and a busy host has thousands meanwhile. Without the privilege there is less room.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &CLOSINGS_BYTES)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &CLOSINGS_BYTES));
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, DESTROY_GROUPS)).ok()?;
        Some(Self { socket, awaited })
    }

    /// Takes all that has come, and says whether one of them was among it, or may have been.
    #[must_use]
    pub fn was_wanted(&self) -> bool {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut wanted = false;
        for _ in 0..MAX_CLOSINGS {
            match receive(&self.socket, &mut buffer) {
                Ok(Received::FromKernel(datagram)) => wanted |= self.has_wanted(datagram),
                Ok(Received::Lost) => wanted = true,
                Ok(Received::Nothing) => {}
                // EAGAIN: no more. Any other error is none that a look could mend.
                Err(_) => return wanted,
            }
        }
        // They come faster than they are read.
        true
    }

    fn has_wanted(&self, datagram: &[u8]) -> bool {
        codec::messages(datagram).any(|message| match message.map(|envelope| envelope.content) {
            Ok(Message::Socket(payload)) => codec::decode(payload).is_ok_and(|gone| self.awaited.has(&gone)),
            Ok(Message::Overrun) => true,
            Ok(Message::Done(_) | Message::Error(_) | Message::Other) | Err(codec::Malformed) => false,
        })
    }
}

impl AsFd for Closings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One netlink socket, and the sequence number of its latest request.
struct Asker {
    socket: OwnedFd,
    sequence: u32,
}

impl Asker {
    /// The sockets of one dump, begun again where it was inconsistent, or the kernel does not know how to leave any out.
    fn dump(
        &mut self,
        mut request: Request<'_>,
        ports: &[Port],
        wish: &Wish<'_>,
    ) -> Result<Vec<Socket>, SockDiagError> {
        for attempt in 1..=ATTEMPTS {
            if attempt > 1 {
                // A dump that was left half-way blocks the next one on its socket with EBUSY.
                self.socket = open()?;
            }
            match self.try_dump(request, ports, wish) {
                Ok(Outcome::Complete(sockets)) => return Ok(sockets),
                Ok(Outcome::Inconsistent) => (),
                Err(SockDiagError::Refused(_)) if !request.bound_to.is_empty() => request.bound_to = &[],
                Err(error) => return Err(error),
            }
        }
        Err(SockDiagError::Unsteady)
    }

    fn send(&mut self, request: Request<'_>) -> Result<(), SockDiagError> {
        self.sequence += 1;
        let bytes = request.encode(self.sequence);
        sendto(self.socket.as_raw_fd(), &bytes, &NetlinkAddr::new(KERNEL, 0), MsgFlags::empty())
            .map(drop)
            .map_err(SockDiagError::Send)
    }

    /// The listener of this port and address, of which the kernel says at once whether there is one. What is found may be
    /// something else than was asked for (a connection, what a BPF program picks): that is none.
    fn look_up(&mut self, address: IpAddr, port: Port, buffer: &mut [u8]) -> Result<Option<Socket>, SockDiagError> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let (protocol, states) = (Protocol::Tcp, States::TCP_LISTENING);
        let request = Request { family, protocol, states, port: Some(port), at: Some(address), bound_to: &[] };
        self.send(request)?;
        let ports = [port];
        looked_up(&receive(&self.socket, buffer)?, Dump::new(self.sequence, request, &ports), family)
    }

    fn try_dump(&mut self, request: Request<'_>, ports: &[Port], wish: &Wish<'_>) -> Result<Outcome, SockDiagError> {
        self.send(request)?;
        let mut dump = Dump { keep: wish.keep, ..Dump::new(self.sequence, request, ports) };
        let deadline = Instant::now() + DUMP_DEADLINE;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while Instant::now() < deadline && !wish.interrupt.has_come() {
            match receive(&self.socket, &mut buffer)? {
                Received::FromKernel(datagram) => {
                    if let Step::Last(outcome) = dump.take(datagram)? {
                        return Ok(outcome);
                    }
                }
                Received::Nothing => (),
                Received::Lost => return Ok(Outcome::Inconsistent),
            }
        }
        Err(SockDiagError::Timeout)
    }
}

/// What the answer to a lookup says. That nobody listens there is for the kernel to say, and for nothing else: an answer that
/// is missing, or any other error, is none.
fn looked_up(received: &Received<'_>, mut answer: Dump<'_>, family: Family) -> Result<Option<Socket>, SockDiagError> {
    let Received::FromKernel(datagram) = received else { return Err(SockDiagError::Unsteady) };
    match answer.take(datagram) {
        Ok(_) if codec::messages(datagram).flatten().all(|message| message.sequence != answer.sequence) => {
            Err(SockDiagError::Unsteady)
        }
        Ok(_) => Ok(answer.sockets.pop()),
        Err(SockDiagError::Refused(Errno::ENOENT)) => Ok(None),
        // A kernel without IPv6 (`inet_diag_find_one_icsk()`).
        Err(SockDiagError::Refused(Errno::EINVAL)) if family == Family::V6 => Ok(None),
        Err(error) => Err(error),
    }
}

fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> Result<Received<'b>, SockDiagError> {
    let (length, truncated, sender) = {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg::<NetlinkAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty()) {
            Ok(message) => (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC), message.address),
            Err(Errno::EINTR) => return Ok(Received::Nothing),
            Err(Errno::ENOBUFS) => return Ok(Received::Lost),
            Err(Errno::EAGAIN) => return Err(SockDiagError::Timeout),
            Err(errno) => return Err(SockDiagError::Receive(errno)),
        }
    };
    if sender.is_none_or(|address| address.pid() != KERNEL) {
        // Any process may send to us; only the kernel has port id 0 (netlink(7)).
        return Ok(Received::Nothing);
    }
    if truncated {
        return Err(SockDiagError::Malformed);
    }
    Ok(Received::FromKernel(&buffer[..length]))
}

/// The netlink port id of the kernel.
const KERNEL: u32 = 0;

enum Received<'b> {
    FromKernel(&'b [u8]),
    /// A signal came first, or somebody else sent it.
    Nothing,
    /// `ENOBUFS`: messages were dropped.
    Lost,
}

/// How a dump ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Complete(Vec<Socket>),
    /// `NLM_F_DUMP_INTR` or an overrun: something may be missing.
    Inconsistent,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    Last(Outcome),
}

/// The state of one dump or lookup, fed with what was received; apart from the socket.
struct Dump<'a> {
    sequence: u32,
    protocol: Protocol,
    states: States,
    /// In their order.
    ports: &'a [Port],
    keep: &'a dyn Fn(&Socket) -> bool,
    interrupted: bool,
    sockets: Vec<Socket>,
}

impl<'a> Dump<'a> {
    fn new(sequence: u32, request: Request<'_>, ports: &'a [Port]) -> Self {
        let Request { protocol, states, .. } = request;
        Self { sequence, protocol, states, ports, keep: &|_| true, interrupted: false, sockets: Vec::new() }
    }

    fn take(&mut self, datagram: &[u8]) -> Result<Step, SockDiagError> {
        for message in codec::messages(datagram) {
            let message = message.map_err(|codec::Malformed| SockDiagError::Malformed)?;
            if message.sequence != self.sequence {
                continue;
            }
            self.interrupted |= message.interrupted;
            match message.content {
                Message::Socket(payload) => self.keep(payload)?,
                Message::Overrun => self.interrupted = true,
                Message::Error(Some(errno)) | Message::Done(Some(errno)) => return Err(SockDiagError::Refused(errno)),
                // An error of 0 is an acknowledgement, which we never ask for.
                Message::Error(None) | Message::Other => (),
                Message::Done(None) => return Ok(Step::Last(self.end())),
            }
        }
        Ok(Step::More)
    }

    /// Only what was asked for: a kernel that filters less than we think must not put a stranger in our way.
    fn keep(&mut self, payload: &[u8]) -> Result<(), SockDiagError> {
        let reply = codec::decode(payload).map_err(|codec::Malformed| SockDiagError::Malformed)?;
        let Some(state) = socket_state(self.protocol, reply.state, reply.inode) else { return Ok(()) };
        let wanted = Port::new(reply.local.port()).is_some_and(|port| self.ports.binary_search(&port).is_ok());
        if wanted && self.states.contains(reply.state) {
            let socket = reply.into_socket(self.protocol, state);
            if (self.keep)(&socket) {
                let device = (reply.device != 0).then(|| device_name(reply.device));
                self.sockets.push(Socket { device, ..socket });
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Outcome {
        if self.interrupted { Outcome::Inconsistent } else { Outcome::Complete(std::mem::take(&mut self.sockets)) }
    }
}

/// The name of a network device of this namespace.
fn device_name(number: u32) -> String {
    let name = nix::net::if_::if_indextoname(number).ok();
    name.map_or_else(|| format!("number {number}"), |name| name.to_string_lossy().into_owned())
}

/// What the number of a TCP state means to somebody who wants the port (Linux `include/net/tcp_states.h`; UDP uses two
/// of them). `None`: a state that is none of ours.
///
/// `FIN_WAIT1`, `FIN_WAIT2`, `LAST_ACK` and `CLOSING` without an inode are a connection that its process has closed.
fn socket_state(protocol: Protocol, number: u8, inode: u32) -> Option<SocketState> {
    match (protocol, number) {
        (Protocol::Tcp, codec::TCP_LISTEN) => Some(SocketState::Listen),
        (Protocol::Tcp, codec::TCP_CLOSE | codec::TCP_BOUND_INACTIVE) => Some(SocketState::Bound),
        (Protocol::Tcp, codec::TCP_TIME_WAIT) => Some(SocketState::TimeWait),
        (Protocol::Tcp, codec::TCP_FIN_WAIT1 | codec::TCP_FIN_WAIT2 | codec::TCP_LAST_ACK | codec::TCP_CLOSING)
            if inode == 0 =>
        {
            Some(SocketState::TimeWait)
        }
        (Protocol::Udp, codec::TCP_CLOSE) => Some(SocketState::Unconnected),
        (Protocol::Tcp, codec::TCP_ESTABLISHED..=codec::TCP_NEW_SYN_RECV) | (Protocol::Udp, codec::TCP_ESTABLISHED) => {
            Some(SocketState::Connected)
        }
        (Protocol::Tcp | Protocol::Udp, _) => None,
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests;
