//! The bytes of `sock_diag`: a request out, messages and attributes in. It opens and sends nothing.
//!
//! Source: `sock_diag(7)`, netlink(7), Linux `include/uapi/linux/inet_diag.h` and `include/uapi/linux/netlink.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;

use crate::model::{Backlog, CgroupId, Inode, Port, Protocol, Socket, SocketState};

pub(super) const TCP_ESTABLISHED: u8 = 1;
pub(super) const TCP_FIN_WAIT1: u8 = 4;
pub(super) const TCP_FIN_WAIT2: u8 = 5;
pub(super) const TCP_TIME_WAIT: u8 = 6;
pub(super) const TCP_CLOSE: u8 = 7;
pub(super) const TCP_LAST_ACK: u8 = 9;
pub(super) const TCP_LISTEN: u8 = 10;
pub(super) const TCP_CLOSING: u8 = 11;
pub(super) const TCP_NEW_SYN_RECV: u8 = 12;
/// Only asked for; such a socket is shown as `TCP_CLOSE` (Linux 6.8).
pub(super) const TCP_BOUND_INACTIVE: u8 = 13;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_NOCOOKIE: u32 = u32::MAX;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
/// `idiag_timer` of what is left of a connection.
const TIMER_TIME_WAIT: u8 = 3;
const INET_DIAG_PROTOCOL: u16 = 10;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are flags, not part of the type.
const NLA_TYPE_MASK: u16 = 0x3fff;

const HEADER_BYTES: usize = 16;
/// With `struct inet_diag_req`, and with `struct inet_diag_req_v2`.
const REQUEST_BYTES: u32 = 76;
const REQUEST_V2_BYTES: u32 = 72;
/// `struct inet_diag_msg`.
const REPLY_BYTES: usize = 72;

/// A set of socket states, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct States(u32);

impl States {
    pub(super) const TCP_LISTENING: Self = Self(1 << TCP_LISTEN);
    pub(super) const TCP_OTHERS: Self =
        Self(((1 << (TCP_BOUND_INACTIVE + 1)) - 2) & !(1 << TCP_LISTEN) & !(1 << TCP_CLOSE));
    pub(super) const UDP_WAITING: Self = Self(1 << TCP_CLOSE);
    pub(super) const UDP_CONNECTED: Self = Self(1 << TCP_ESTABLISHED);

    /// Whether a socket that is shown in this state is one of those asked for.
    pub(super) fn contains(self, state: u8) -> bool {
        let has = |state: u8| self.0.checked_shr(u32::from(state)).is_some_and(|bits| bits & 1 == 1);
        has(state) || (state == TCP_CLOSE && has(TCP_BOUND_INACTIVE))
    }
}

/// The address family of the sockets asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
    /// For TCP alone, by the older of the two requests, which has no family (`inet_diag_dump_compat()`, Linux 6.18
    /// `net/ipv4/inet_diag.c`). The kernel walks all listeners in each dump, so one is half the work of two.
    Both,
}

/// One request: `struct nlmsghdr`, and `struct inet_diag_req_v2` or `struct inet_diag_req`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) states: States,
    /// The local port; `None`: all.
    pub(super) port: Option<Port>,
    /// No dump, but the one TCP socket to which a connection to this address, of that family, would come.
    pub(super) at: Option<IpAddr>,
    /// A dump of those alone that are bound to one of these addresses, of which a v4-mapped one is the IPv4 address; none of them:
    /// to any.
    pub(super) bound_to: &'a [IpAddr],
}

pub(super) const fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => IPPROTO_TCP,
        Protocol::Udp => IPPROTO_UDP,
    }
}

impl Request<'_> {
    pub(super) fn encode(self, sequence: u32) -> Vec<u8> {
        let protocol = number_of(self.protocol);
        let (kind, length, head, states_at, id_at) = match self.family {
            Family::V4 => (SOCK_DIAG_BY_FAMILY, REQUEST_V2_BYTES, [AF_INET, protocol], 20, 24),
            Family::V6 => (SOCK_DIAG_BY_FAMILY, REQUEST_V2_BYTES, [AF_INET6, protocol], 20, 24),
            Family::Both => (TCPDIAG_GETSOCK, REQUEST_BYTES, [0, 0], 68, 20),
        };
        let mut bytes = vec![0; length as usize];
        let program = (!self.bound_to.is_empty()).then(|| one_of(self.bound_to));
        let filter = program.and_then(|program| attribute(INET_DIAG_REQ_BYTECODE, &program)).unwrap_or_default();
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &(length + u32::try_from(filter.len()).unwrap_or(0)).to_ne_bytes());
        put(4, &kind.to_ne_bytes());
        put(6, &(NLM_F_REQUEST | if self.at.is_some() { 0 } else { NLM_F_DUMP }).to_ne_bytes());
        put(8, &sequence.to_ne_bytes());
        put(16, &head);
        put(states_at, &self.states.0.to_ne_bytes());
        put(id_at, &self.port.map_or(0, Port::get).to_be_bytes());
        match self.at {
            Some(IpAddr::V4(ip)) => put(id_at + 4, &ip.octets()),
            Some(IpAddr::V6(ip)) => put(id_at + 4, &ip.octets()),
            None => (),
        }
        // The cookie is the end of the id.
        put(id_at + 40, &INET_DIAG_NOCOOKIE.to_ne_bytes());
        put(id_at + 44, &INET_DIAG_NOCOOKIE.to_ne_bytes());
        bytes.extend(filter);
        bytes
    }
}

/// The program that lets those pass which are bound to one of these: for each a condition, which where it holds goes on to a jump
/// to the end, and else to the next (`struct inet_diag_bc_op` and `inet_diag_hostcond`; `inet_diag_bc_run()`, Linux 6.18
/// `net/ipv4/inet_diag.c`). Behind the end by 4 is not to pass.
fn one_of(addresses: &[IpAddr]) -> Vec<u8> {
    let mut program = Vec::new();
    for address in addresses.iter().rev() {
        let (family, bits, octets) = match address {
            IpAddr::V4(ip) => (AF_INET, 32, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AF_INET6, 128, ip.octets().to_vec()),
        };
        let operation = |code: u8, yes: usize, no: usize| {
            let no = u16::try_from(no).unwrap_or(u16::MAX).to_ne_bytes();
            [code, u8::try_from(yes).unwrap_or(u8::MAX), no[0], no[1]]
        };
        let length = 12 + octets.len();
        let condition = operation(INET_DIAG_BC_S_COND, length, length + 4);
        // Of any port.
        let host = [&[family, bits, 0, 0], &(-1_i32).to_ne_bytes()[..], &octets].concat();
        let rest = program.len();
        let jump = operation(INET_DIAG_BC_JMP, 4, 4 + rest);
        let jump = if rest == 0 { &[][..] } else { &jump };
        program = [&condition[..], &host, jump, &program].concat();
    }
    program
}

/// `struct nlattr`; `None` where it is too long for one.
fn attribute(kind: u16, value: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(4 + value.len()).ok()?;
    Some([&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat())
}

/// A message or reply that breaks off, or that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// One netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) sequence: u32,
    /// `NLM_F_DUMP_INTR`: the tables changed during the dump.
    pub(super) interrupted: bool,
    pub(super) content: Message<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// One socket, for [`decode`].
    Socket(&'a [u8]),
    /// The end, and what went wrong before it.
    Done(Option<Errno>),
    /// An error, or (`None`) an acknowledgement.
    Error(Option<Errno>),
    /// Data was lost.
    Overrun,
    /// A type that is none of ours.
    Other,
}

/// Walks the messages of one datagram; it ends after the first that is malformed.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Envelope<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split_message(&mut rest);
        if message.is_none() {
            rest = &[];
        }
        Some(message.ok_or(Malformed))
    })
}

fn split_message<'a>(rest: &mut &'a [u8]) -> Option<Envelope<'a>> {
    let length = usize::try_from(u32_at(rest, 0)?).ok()?;
    let (kind, flags, sequence) = (u16_at(rest, 4)?, u16_at(rest, 6)?, u32_at(rest, 8)?);
    let payload = rest.get(HEADER_BYTES..length)?;
    let content = match kind {
        NLMSG_DONE => Message::Done(errno_of(payload)),
        NLMSG_ERROR => Message::Error(errno_of(payload)),
        NLMSG_OVERRUN => Message::Overrun,
        SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => Message::Socket(payload),
        _ => Message::Other,
    };
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(Envelope { sequence, interrupted: flags & NLM_F_DUMP_INTR != 0, content })
}

/// Errors are negative; a payload without one (the `NLMSG_DONE` of very old kernels) is none.
fn errno_of(payload: &[u8]) -> Option<Errno> {
    let number = u32_at(payload, 0)?.cast_signed();
    (number < 0).then(|| Errno::from_raw(number.saturating_neg()))
}

/// `struct inet_diag_msg` and those of its attributes that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) state: u8,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) uid: u32,
    pub(super) inode: u32,
    /// For a listener, the connections that wait, and how many may (`tcp_diag_get_info()`, Linux 6.18
    /// `net/ipv4/tcp_diag.c`).
    pub(super) queue: (u32, u32),
    /// In ms, how long the kernel still keeps what is left of a connection that no process has (`inet_twsk_diag_fill()`,
    /// Linux 6.18 `net/ipv4/inet_diag.c`).
    pub(super) left: Option<u32>,
    /// The number of the device to which it is bound; 0: to none.
    pub(super) device: u32,
    /// Only for sockets without a peer, and of IPv6.
    pub(super) v6only: Option<bool>,
    /// Linux 5.8 and later.
    pub(super) cgroup: Option<u64>,
    /// `IPPROTO_TCP` or another, where it was not asked for by that: of a socket that is gone (`inet_diag_handler_get_info()`,
    /// Linux 6.18 `net/ipv4/inet_diag.c`).
    pub(super) protocol: Option<u8>,
}

impl Reply {
    pub(super) fn into_socket(self, protocol: Protocol, state: SocketState) -> Socket {
        let peer = match state {
            SocketState::Connected | SocketState::TimeWait => Some(self.peer),
            SocketState::Listen | SocketState::Bound | SocketState::Unconnected => None,
        };
        let v6only = match self.local.ip() {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => self.v6only.unwrap_or(!ip.is_unspecified()),
        };
        Socket {
            protocol,
            local: self.local,
            peer,
            v6only,
            state,
            inode: Inode(u64::from(self.inode)),
            uid: self.uid,
            device: None,
            cgroup: self.cgroup.map(CgroupId).filter(|&id| id != CgroupId::ROOT),
            left: self.left.map(|left| Duration::from_millis(left.into())).filter(|_| state == SocketState::TimeWait),
            backlog: (state == SocketState::Listen).then_some(Backlog { waiting: self.queue.0, limit: self.queue.1 }),
        }
    }
}

/// One [`Message::Socket`].
pub(super) fn decode(payload: &[u8]) -> Result<Reply, Malformed> {
    let fixed = payload.get(..REPLY_BYTES).ok_or(Malformed)?;
    let reply = decode_fixed(fixed).ok_or(Malformed)?;
    let attributes = payload.get(REPLY_BYTES..).unwrap_or_default();
    Ok(walk(attributes).fold(reply, |reply, (kind, value)| match kind {
        INET_DIAG_SKV6ONLY => Reply { v6only: value.first().map(|&on| on != 0).or(reply.v6only), ..reply },
        INET_DIAG_CGROUP_ID => Reply { cgroup: u64_at(value, 0).or(reply.cgroup), ..reply },
        INET_DIAG_PROTOCOL => Reply { protocol: value.first().copied().or(reply.protocol), ..reply },
        _ => reply,
    }))
}

fn decode_fixed(bytes: &[u8]) -> Option<Reply> {
    let family = bytes[0];
    let end = |port_at: usize, address_at: usize| {
        let port = u16::from_be_bytes(array_at(bytes, port_at)?);
        let ip = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::from(array_at::<4>(bytes, address_at)?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(array_at::<16>(bytes, address_at)?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    Some(Reply {
        state: bytes[1],
        local: end(4, 8)?,
        peer: end(6, 24)?,
        left: u32_at(bytes, 52).filter(|_| bytes[2] == TIMER_TIME_WAIT),
        queue: (u32_at(bytes, 56)?, u32_at(bytes, 60)?),
        uid: u32_at(bytes, 64)?,
        inode: u32_at(bytes, 68)?,
        device: u32_at(bytes, 40)?,
        v6only: None,
        cgroup: None,
        protocol: None,
    })
}

/// The type and value of each attribute (`struct nlattr`); it ends at the first whose length cannot be.
fn walk(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = attributes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A netlink message with this payload, padded.
    pub(in super::super) fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = super::attribute(kind, value).unwrap();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// What the kernel would send for this reply.
    pub(in super::super) fn encode_reply(reply: &Reply) -> Vec<u8> {
        let mut bytes = vec![0; REPLY_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &[if reply.local.is_ipv4() { AF_INET } else { AF_INET6 }, reply.state]);
        // A timer of another kind has an end as well, after which the socket is still there.
        put(2, &[if reply.left.is_some() { TIMER_TIME_WAIT } else { 2 }]);
        put(52, &reply.left.unwrap_or(9).to_ne_bytes());
        for (end, port_at, address_at) in [(reply.local, 4, 8), (reply.peer, 6, 24)] {
            put(port_at, &end.port().to_be_bytes());
            match end.ip() {
                IpAddr::V4(ip) => put(address_at, &ip.octets()),
                IpAddr::V6(ip) => put(address_at, &ip.octets()),
            }
        }
        put(56, &reply.queue.0.to_ne_bytes());
        put(60, &reply.queue.1.to_ne_bytes());
        put(64, &reply.uid.to_ne_bytes());
        put(68, &reply.inode.to_ne_bytes());
        put(40, &reply.device.to_ne_bytes());
        // INET_DIAG_SHUTDOWN comes first on every kernel.
        bytes.extend(attribute(8, &[0]));
        if let Some(protocol) = reply.protocol {
            bytes.extend(attribute(INET_DIAG_PROTOCOL, &[protocol]));
        }
        if let Some(on) = reply.v6only {
            bytes.extend(attribute(INET_DIAG_SKV6ONLY, &[u8::from(on)]));
        }
        if let Some(id) = reply.cgroup {
            bytes.extend(attribute(INET_DIAG_CGROUP_ID, &id.to_ne_bytes()));
        }
        bytes
    }

    pub(in super::super) fn any_reply() -> impl Strategy<Value = Reply> {
        let ends = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        ];
        let rest =
            any::<(u8, u16, u16, u32, u32, u32, (u32, u32, Option<u32>), Option<bool>, (Option<u64>, Option<u8>))>();
        (ends, rest).prop_map(
            |((local, peer), (state, local_port, peer_port, uid, inode, device, queue, v6only, (cgroup, protocol)))| {
                Reply {
                    state,
                    local: SocketAddr::new(local, local_port),
                    peer: SocketAddr::new(peer, peer_port),
                    uid,
                    inode,
                    queue: (queue.0, queue.1),
                    left: queue.2,
                    device,
                    v6only,
                    cgroup,
                    protocol,
                }
            },
        )
    }

    fn listener(local: &str) -> Reply {
        let local = local.parse().unwrap();
        Reply {
            state: 10,
            local,
            peer: local,
            uid: 0,
            inode: 1,
            queue: (0, 0),
            left: None,
            device: 0,
            v6only: None,
            cgroup: None,
            protocol: None,
        }
    }

    #[test]
    fn the_request_is_what_sock_diag_7_says() {
        let port = Port::new(0x1f90);
        let states = States::TCP_LISTENING;
        let bytes =
            Request { family: Family::V6, protocol: Protocol::Tcp, states, port, at: None, bound_to: &[] }.encode(7);
        assert_eq!(u32_at(&bytes, 0), Some(72));
        assert_eq!((u16_at(&bytes, 4), u16_at(&bytes, 6), u32_at(&bytes, 8)), (Some(20), Some(0x301), Some(7)));
        assert_eq!(bytes[16..18], [10, 6]);
        assert_eq!(u32_at(&bytes, 20), Some(0x400));
        assert_eq!(bytes[24..28], [0x1f, 0x90, 0, 0]);
        assert_eq!(bytes[28..64], [0; 36]);
        for (family, at, flags) in [(Family::V6, "::1", 1), (Family::V4, "127.0.0.1", 1)] {
            let at: IpAddr = at.parse().unwrap();
            let bytes =
                Request { family, protocol: Protocol::Tcp, states, port, at: Some(at), bound_to: &[] }.encode(7);
            assert_eq!((u16_at(&bytes, 6), &bytes[24..28]), (Some(flags), &[0x1f, 0x90, 0, 0][..]));
            match at {
                IpAddr::V4(ip) => assert_eq!(bytes[28..44], [&ip.octets()[..], &[0; 12]].concat()),
                IpAddr::V6(ip) => assert_eq!(bytes[28..44], ip.octets()),
            }
            assert_eq!(bytes[44..60], [0; 16]);
        }
        let bytes =
            Request { family: Family::Both, protocol: Protocol::Tcp, states, port, at: None, bound_to: &[] }.encode(7);
        assert_eq!(u32_at(&bytes, 0), Some(76));
        assert_eq!((u16_at(&bytes, 4), u16_at(&bytes, 6), u32_at(&bytes, 8)), (Some(18), Some(0x301), Some(7)));
        assert_eq!(bytes[20..24], [0x1f, 0x90, 0, 0]);
        assert_eq!((u32_at(&bytes, 60), u32_at(&bytes, 64)), (Some(u32::MAX), Some(u32::MAX)));
        assert_eq!((bytes.len(), u32_at(&bytes, 68)), (76, Some(0x400)));
        assert_eq!(States::TCP_OTHERS, States(0x3b7e));
    }

    #[test]
    fn an_attribute_walk_ends_where_a_length_cannot_be() {
        let good = attribute(8, &[0]);
        let rows: [(&[u8], usize); 6] = [
            (&[], 1),
            (&[0, 0, 0, 0], 1),
            (&3_u16.to_ne_bytes(), 1),
            (&[3, 0, 11, 0, 1, 0, 0, 0], 1),
            (&[255, 255, 11, 0, 1], 1),
            (&attribute(11, &[]), 2),
        ];
        for (tail, expected) in rows {
            let bytes = [&good[..], tail].concat();
            assert_eq!(walk(&bytes).count(), expected, "{tail:?}");
        }
    }

    #[test]
    fn attributes_that_are_too_short_are_as_good_as_absent() {
        let reply = listener("[::]:1");
        let mut bytes = encode_reply(&reply);
        bytes.extend(attribute(INET_DIAG_SKV6ONLY, &[]));
        bytes.extend(attribute(INET_DIAG_CGROUP_ID, &[1, 2, 3]));
        assert_eq!(decode(&bytes), Ok(reply));
    }

    #[test]
    fn an_address_of_ipv6_is_alone_where_the_kernel_says_so_or_says_nothing_and_it_is_not_all_of_them() {
        for (local, said, v6only) in [
            ("[::]:1", None, false),
            ("[::]:1", Some(true), true),
            ("[::1]:1", None, true),
            ("[::1]:1", Some(false), false),
            ("0.0.0.0:1", Some(true), false),
        ] {
            let socket = Reply { v6only: said, ..listener(local) }.into_socket(Protocol::Tcp, SocketState::Listen);
            assert_eq!(socket.v6only, v6only, "{local}, {said:?}");
        }
    }

    #[test]
    fn a_datagram_that_breaks_off_is_malformed_and_ends_the_walk() {
        let whole = message(NLMSG_DONE, 0, 1, &0_u32.to_ne_bytes());
        let rows = [whole[..whole.len() - 1].to_vec(), whole[..3].to_vec(), vec![0; 16], vec![255; 64]];
        for bytes in rows {
            assert_eq!(messages(&bytes).collect::<Vec<_>>(), [Err(Malformed)], "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_reply_survives_encoding_and_decoding(reply in any_reply()) {
            prop_assert_eq!(decode(&encode_reply(&reply)), Ok(reply));
        }

        #[test]
        fn decoding_never_panics_and_always_ends(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(walk(&bytes).count() <= bytes.len());
        }

        #[test]
        fn a_truncated_reply_is_malformed_or_lacks_attributes(reply in any_reply(), cut in 0_usize..200) {
            let bytes = encode_reply(&reply);
            let cut = cut.min(bytes.len());
            match decode(&bytes[..cut]) {
                Err(Malformed) => prop_assert!(cut < REPLY_BYTES),
                Ok(short) => {
                    prop_assert_eq!((short.local, short.inode), (reply.local, reply.inode));
                    prop_assert!(short.cgroup.is_none() || short.cgroup == reply.cgroup);
                }
            }
        }
    }
}
