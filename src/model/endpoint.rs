//! What a service binds: `HOST:PORT/PROTOCOL`, and how a person writes it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

/// A port number, 1 to 65535. Port 0 means "any free port" to bind(2), so nobody can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(NonZeroU16);

impl Port {
    /// `None` for port 0.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number, in host byte order.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, and MPTCP, whose listeners the kernel shows as TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Which local addresses a service binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// Every address of both families: `8080/tcp` or `*:8080/tcp`, a dual-stack `[::]` socket.
    Any,
    /// One address; `0.0.0.0` is every IPv4 address alone, `[::]` every IPv6 address alone.
    Ip(IpAddr),
}

impl Host {
    /// The address that a probe binds; `Any` is the dual-stack `::`.
    #[must_use]
    pub fn address(self) -> IpAddr {
        match self {
            Self::Any => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            Self::Ip(ip) => ip,
        }
    }
}

/// One address, port and protocol that a service is about to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The local addresses.
    pub host: Host,
    /// The port.
    pub port: Port,
    /// The protocol.
    pub protocol: Protocol,
}

impl Endpoint {
    /// The socket address that a probe binds.
    #[must_use]
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.host.address(), self.port.get())
    }

    /// Whether a socket bound to `local` (IPv6 alone if `v6only`) stands in the way of this endpoint.
    ///
    /// Source of the rule: `ipv6_rcv_saddr_equal()` and `ipv4_rcv_saddr_equal()`, Linux `net/ipv4/inet_connection_sock.c`:
    /// the same family and an equal or unspecified address on either side; an IPv6 socket that is not
    /// v6only also takes its IPv4 part, and a v4-mapped address is that IPv4 address.
    #[must_use]
    pub fn conflicts_with(&self, local: SocketAddr, v6only: bool) -> bool {
        local.port() == self.port.get() && self.reach().overlaps(Reach::of(local.ip(), v6only))
    }

    fn reach(&self) -> Reach {
        match self.host {
            Host::Any => Reach::of(IpAddr::V6(Ipv6Addr::UNSPECIFIED), false),
            Host::Ip(ip) => Reach::of(ip, true),
        }
    }
}

/// The addresses that a bound socket covers, a family at a time.
#[derive(Clone, Copy)]
struct Reach {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Reach {
    fn of(ip: IpAddr, v6only: bool) -> Self {
        match ip {
            IpAddr::V4(v4) => Self { v4: Some(v4), v6: None },
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self { v4: Some(v4), v6: None },
                None if v6.is_unspecified() && !v6only => Self { v4: Some(Ipv4Addr::UNSPECIFIED), v6: Some(v6) },
                None => Self { v4: None, v6: Some(v6) },
            },
        }
    }

    fn overlaps(self, other: Self) -> bool {
        let v4 =
            matches!((self.v4, other.v4), (Some(a), Some(b)) if a == b || a.is_unspecified() || b.is_unspecified());
        let v6 =
            matches!((self.v6, other.v6), (Some(a), Some(b)) if a == b || a.is_unspecified() || b.is_unspecified());
        v4 || v6
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, protocol } = self;
        match host {
            Host::Any => write!(f, "{port}/{protocol}"),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{port}/{protocol}"),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}/{protocol}"),
        }
    }
}

/// What a person writes: one endpoint, or a range of ports as in `8000-8010/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRange {
    host: Host,
    first: Port,
    last: Port,
    protocol: Protocol,
}

impl EndpointRange {
    /// At most this many ports a range: each costs a bind probe, and nobody binds more by hand.
    pub const MAX_PORTS: u16 = 1024;

    /// Each endpoint of the range, in the order of its ports.
    pub fn endpoints(self) -> impl Iterator<Item = Endpoint> {
        (self.first.get()..=self.last.get()).filter_map(Port::new).map(move |port| Endpoint {
            host: self.host,
            port,
            protocol: self.protocol,
        })
    }
}

/// Why a text is no endpoint, with the place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError {
    text: String,
    /// The byte offset in `text` at which the fault begins.
    pub offset: usize,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, offset, reason } = self;
        let shown: String = text.escape_debug().collect();
        write!(f, "endpoint \"{shown}\", column {}: {reason}", text[..*offset].chars().count() + 1)
    }
}

impl std::error::Error for EndpointError {}
