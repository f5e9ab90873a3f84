//! What a service binds: `HOST:PORT/PROTOCOL`, and how a person writes it.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use super::{Socket, printable};

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

    /// The host as it stands before a port; nothing for `Any`.
    fn write_before_port(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:"),
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
    /// Source of the rule: `ipv6_rcv_saddr_equal()` and `ipv4_rcv_saddr_equal()`, Linux
    /// `net/ipv4/inet_connection_sock.c`: the same family and an equal or unspecified address on either side; an IPv6
    /// socket that is not v6only also takes its IPv4 part, and a v4-mapped address is that IPv4 address.
    #[must_use]
    pub fn conflicts_with(&self, local: SocketAddr, v6only: bool) -> bool {
        local.port() == self.port.get() && self.reach().overlaps(Reach::of(local.ip(), v6only))
    }

    /// Whether this socket stands in the way of this endpoint: the same protocol, and [`Self::conflicts_with`].
    #[must_use]
    pub fn is_contested_by(&self, socket: &Socket) -> bool {
        socket.protocol == self.protocol && self.conflicts_with(socket.local, socket.v6only)
    }

    /// Where a socket in the way of this endpoint most likely is: at the endpoint's own address, and at all addresses or,
    /// where that is the endpoint's own, at loopback; in each family that the endpoint has.
    pub fn likely_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let Reach { v4, v6 } = self.reach();
        let v4 = v4.map(|ip| [ip, if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED }]);
        let v6 = v6.map(|ip| [ip, if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::UNSPECIFIED }]);
        let (v4, v6) = (v4.into_iter().flatten().map(IpAddr::from), v6.into_iter().flatten().map(IpAddr::from));
        let port = self.port.get();
        v4.chain(v6).map(move |ip| SocketAddr::new(ip, port))
    }

    /// At which addresses all sockets are that stand in its way ([`Self::conflicts_with`]), a v4-mapped one as the IPv4 address that
    /// it is; `None`: they may be at any.
    #[must_use]
    pub fn addresses_in_the_way(&self) -> Option<Vec<IpAddr>> {
        let everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let Host::Ip(ip) = self.host else { return None };
        let ip = ip.to_canonical();
        let of_ipv4 = ip.is_ipv4().then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        (!ip.is_unspecified()).then(|| of_ipv4.into_iter().chain([ip, everywhere]).collect())
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

    fn of_socket(socket: &Socket) -> Self {
        Self::of(socket.local.ip(), socket.v6only)
    }

    fn each(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    fn overlaps(self, other: Self) -> bool {
        let v4 =
            matches!((self.v4, other.v4), (Some(a), Some(b)) if a == b || a.is_unspecified() || b.is_unspecified());
        let v6 =
            matches!((self.v6, other.v6), (Some(a), Some(b)) if a == b || a.is_unspecified() || b.is_unspecified());
        v4 || v6
    }
}

/// Where several sockets are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    all: HashSet<(Protocol, u16, IpAddr)>,
    /// Of these families there are some, `true` for IPv6.
    families: HashSet<(Protocol, u16, bool)>,
}

impl<'a> FromIterator<&'a Socket> for Addresses {
    fn from_iter<I: IntoIterator<Item = &'a Socket>>(sockets: I) -> Self {
        let mut addresses = Self::default();
        for socket in sockets {
            for ip in Reach::of_socket(socket).each() {
                addresses.all.insert((socket.protocol, socket.local.port(), ip));
                addresses.families.insert((socket.protocol, socket.local.port(), ip.is_ipv6()));
            }
        }
        addresses
    }
}

impl Addresses {
    /// Whether one of them has a local address, port and protocol in common with this one, of whatever network device they are.
    /// However many they are, it takes the same time.
    #[must_use]
    pub fn meet(&self, socket: &Socket) -> bool {
        let (protocol, port) = (socket.protocol, socket.local.port());
        Reach::of_socket(socket).each().any(|ip| {
            let all_addresses = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            if ip.is_unspecified() {
                self.families.contains(&(protocol, port, ip.is_ipv6()))
            } else {
                [ip, all_addresses].iter().any(|ip| self.all.contains(&(protocol, port, *ip)))
            }
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, protocol } = self;
        host.write_before_port(f)?;
        write!(f, "{port}/{protocol}")
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

    /// How many ports it has, 1 to [`Self::MAX_PORTS`].
    #[must_use]
    pub fn port_count(self) -> usize {
        usize::from(self.last.get() - self.first.get()) + 1
    }

    /// What it shares with another range: of these ports only one of two who want them can have any.
    #[must_use]
    pub fn shared_with(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        let own = Endpoint { host: self.host, port: first, protocol: self.protocol };
        let others = SocketAddr::new(other.host.address(), first.get());
        let is_shared = self.protocol == other.protocol
            && first <= last
            && own.conflicts_with(others, other.host == Host::Ip(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        is_shared.then_some(Self { first, last, ..self })
    }

    /// These endpoints, those of neighbouring ports as one range where they follow each other.
    #[must_use]
    pub fn folded(endpoints: &[Endpoint]) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for endpoint in endpoints {
            let next = Self::from(*endpoint);
            match ranges.last_mut() {
                Some(last) if last.is_followed_by(next) => last.last = next.last,
                Some(_) | None => ranges.push(next),
            }
        }
        ranges
    }

    fn is_followed_by(self, next: Self) -> bool {
        self.last.get().checked_add(1) == Some(next.first.get())
            && (self.host, self.protocol) == (next.host, next.protocol)
    }

    /// Its first and last port.
    #[must_use]
    pub fn ports(self) -> (Port, Port) {
        (self.first, self.last)
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        self.protocol
    }

    /// Each endpoint of the range, in the order of its ports.
    pub fn endpoints(self) -> impl Iterator<Item = Endpoint> {
        (self.first.get()..=self.last.get()).filter_map(Port::new).map(move |port| Endpoint {
            host: self.host,
            port,
            protocol: self.protocol,
        })
    }
}

impl fmt::Display for EndpointRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, first, last, protocol } = self;
        host.write_before_port(f)?;
        if first == last { write!(f, "{first}/{protocol}") } else { write!(f, "{first}-{last}/{protocol}") }
    }
}

impl From<Endpoint> for EndpointRange {
    fn from(Endpoint { host, port, protocol }: Endpoint) -> Self {
        Self { host, first: port, last: port, protocol }
    }
}

impl FromStr for EndpointRange {
    type Err = EndpointError;

    /// `[HOST:]PORT[-PORT][/PROTOCOL]`. HOST is `*`, an IPv4 address, or an IPv6 address in brackets; without it,
    /// every address is meant. PROTOCOL is `tcp` or `udp`; without it, `tcp`.
    ///
    /// Numbers are plain decimals: no sign, no blank, no leading zero (which some tools read as octal). A v4-mapped
    /// address is taken as the IPv4 address that it stands for.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        read_range(text).map_err(|Fault { offset, reason }| EndpointError { text: text.to_owned(), offset, reason })
    }
}

/// What is wrong at a byte offset of the whole text.
struct Fault {
    offset: usize,
    reason: String,
}

impl Fault {
    fn at<T>(offset: usize, reason: impl Into<String>) -> Result<T, Self> {
        Err(Self { offset, reason: reason.into() })
    }
}

fn read_range(text: &str) -> Result<EndpointRange, Fault> {
    check_characters(text)?;
    let (place, protocol) = match text.split_once('/') {
        Some((place, protocol)) => (place, Some(protocol)),
        None => (text, None),
    };
    if matches!(place, "tcp" | "udp") {
        return Fault::at(0, format!("the port comes first, as in 8080/{place}"));
    }
    let (host, ports_at) = read_host(place)?;
    let (first, last) = read_ports(&place[ports_at..], ports_at)?;
    let protocol = protocol.map_or(Ok(Protocol::Tcp), |protocol| read_protocol(protocol, place.len() + 1))?;
    Ok(EndpointRange { host, first, last, protocol })
}

fn check_characters(text: &str) -> Result<(), Fault> {
    match text.char_indices().find(|(_, c)| !c.is_ascii_graphic()) {
        Some((offset, ' ' | '\t')) => Fault::at(offset, "a blank: an endpoint has none"),
        Some((offset, c)) => Fault::at(offset, format!("'{}' is not plain ASCII", c.escape_debug())),
        None if text.is_empty() => Fault::at(0, "empty: give a port, as in 8080/tcp"),
        None => Ok(()),
    }
}

/// The host, and where the ports begin.
fn read_host(place: &str) -> Result<(Host, usize), Fault> {
    if place.starts_with('[') {
        return read_bracketed(place);
    }
    let Some((host, ports)) = place.split_once(':') else {
        return if place == "*" || place.parse::<Ipv4Addr>().is_ok() {
            Fault::at(place.len(), format!("missing port, as in {place}:8080"))
        } else {
            Ok((Host::Any, 0))
        };
    };
    if ports.contains(':') {
        return Fault::at(0, "an IPv6 address goes in brackets, as in [::1]:53");
    }
    Ok((read_unbracketed_host(host)?, host.len() + 1))
}

fn read_unbracketed_host(host: &str) -> Result<Host, Fault> {
    if host == "*" {
        return Ok(Host::Any);
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return check_ipv4(ip, 0);
    }
    if host.is_empty() {
        return Fault::at(0, "missing address before ':': every address is *:8080, or 8080 alone");
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        Fault::at(0, format!("\"{host}\" is no IPv4 address"))
    } else {
        Fault::at(0, format!("\"{host}\" is a name: only addresses can be looked at, as in 127.0.0.1:8080"))
    }
}

fn read_bracketed(place: &str) -> Result<(Host, usize), Fault> {
    let Some(end) = place.find(']') else {
        return Fault::at(place.len(), "missing ']' after the IPv6 address");
    };
    let (inside, after) = (&place[1..end], &place[end + 1..]);
    if after.is_empty() {
        return Fault::at(place.len(), format!("missing port, as in [{inside}]:8080"));
    }
    if !after.starts_with(':') {
        return Fault::at(end + 1, "expected ':' and a port after ']'");
    }
    Ok((read_ipv6(inside, 1)?, end + 2))
}

fn read_ipv6(text: &str, at: usize) -> Result<Host, Fault> {
    if let Some(zone) = text.find('%') {
        return Fault::at(at + zone, "zones are not supported: use *:PORT, which covers link-local addresses");
    }
    let Ok(ip) = text.parse::<Ipv6Addr>() else {
        return if text == "*" || text.parse::<Ipv4Addr>().is_ok() {
            Fault::at(at, format!("only an IPv6 address goes in brackets: {text}:PORT"))
        } else {
            Fault::at(at, format!("\"{text}\" is no IPv6 address"))
        };
    };
    if let Some(v4) = ip.to_ipv4_mapped() {
        return check_ipv4(v4, at);
    }
    if ip.is_multicast() {
        return Fault::at(at, "a multicast address is meant to be shared: it cannot be guarded");
    }
    if ip.is_unicast_link_local() {
        return Fault::at(at, "a link-local address needs a zone, which is not supported: use *:PORT");
    }
    Ok(Host::Ip(IpAddr::V6(ip)))
}

fn check_ipv4(ip: Ipv4Addr, at: usize) -> Result<Host, Fault> {
    if ip.is_multicast() {
        return Fault::at(at, "a multicast address is meant to be shared: it cannot be guarded");
    }
    Ok(Host::Ip(IpAddr::V4(ip)))
}

fn read_ports(text: &str, at: usize) -> Result<(Port, Port), Fault> {
    let Some((first, last)) = text.split_once('-') else {
        let port = read_port(text, at)?;
        return Ok((port, port));
    };
    let last_at = at + first.len() + 1;
    let (first, last) = (read_port(first, at)?, read_port(last, last_at)?);
    if last < first {
        return Fault::at(at, format!("the range is reversed: {last}-{first}"));
    }
    if last.get() - first.get() >= EndpointRange::MAX_PORTS {
        let count = u32::from(last.get() - first.get()) + 1;
        return Fault::at(at, format!("{count} ports: a range has at most {}", EndpointRange::MAX_PORTS));
    }
    Ok((first, last))
}

fn read_port(text: &str, at: usize) -> Result<Port, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if text.is_empty() {
        return Fault::at(at, "missing port");
    }
    if text.starts_with('+') {
        return Fault::at(at, "a port has no sign");
    }
    if digits == 0 {
        return Fault::at(at, format!("\"{text}\" is no port number"));
    }
    if digits < text.len() {
        return Fault::at(at + digits, format!("unexpected \"{}\" after the port", &text[digits..]));
    }
    if text.starts_with('0') && digits > 1 {
        return Fault::at(at, "a port has no leading zero");
    }
    match text.parse().map(Port::new) {
        Ok(Some(port)) => Ok(port),
        Ok(None) => Fault::at(at, "port 0 means \"any free port\", which nobody can hold"),
        Err(_) => Fault::at(at, "ports end at 65535"),
    }
}

fn read_protocol(text: &str, at: usize) -> Result<Protocol, Fault> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "" => Fault::at(at, "missing protocol after '/': tcp or udp"),
        "tcp4" | "udp4" => Fault::at(at, format!("IPv4 alone is 0.0.0.0:PORT/{}", &text[..3])),
        "tcp6" | "udp6" => Fault::at(at, format!("IPv6 alone is [::]:PORT/{}", &text[..3])),
        "sctp" | "dccp" | "udplite" => Fault::at(at, format!("{text} is not supported: only tcp and udp are")),
        other => match other.find(|c: char| !c.is_ascii_alphanumeric()) {
            Some(end) if read_protocol(&other[..end], at).is_ok() => {
                Fault::at(at + end, format!("unexpected \"{}\" after the protocol", &other[end..]))
            }
            Some(_) | None => Fault::at(at, format!("unknown protocol \"{other}\": tcp or udp")),
        },
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
        let shown = printable(text);
        write!(f, "endpoint \"{shown}\", column {}: {reason}", text[..*offset].chars().count() + 1)
    }
}

impl std::error::Error for EndpointError {}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd as _, OwnedFd};

    use nix::errno::Errno;
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt::Ipv6V6Only,
    };
    use proptest::prelude::*;

    use super::*;

    #[rustfmt::skip]
    const VALID: &[(&str, &str, usize)] = &[
        ("8080",                       "8080/tcp",               1),
        ("8080/tcp",                   "8080/tcp",               1),
        ("53/udp",                     "53/udp",                 1),
        ("*:8080",                     "8080/tcp",               1),
        ("1/tcp",                      "1/tcp",                  1),
        ("65535/tcp",                  "65535/tcp",              1),
        ("127.0.0.1:9090/tcp",         "127.0.0.1:9090/tcp",     1),
        ("0.0.0.0:80",                 "0.0.0.0:80/tcp",         1),
        ("169.254.1.1:80",             "169.254.1.1:80/tcp",     1),
        ("[::1]:53/udp",               "[::1]:53/udp",           1),
        ("[::]:80-90",                 "[::]:80-90/tcp",        11),
        ("[2001:DB8:0:0::1]:443",      "[2001:db8::1]:443/tcp",  1),
        ("[::ffff:127.0.0.1]:80",      "127.0.0.1:80/tcp",       1),
        ("[::ffff:0:0]:80",            "0.0.0.0:80/tcp",         1),
        ("8000-8010/tcp",              "8000-8010/tcp",         11),
        ("8000-8000/tcp",              "8000/tcp",               1),
        ("*:64512-65535/udp",          "64512-65535/udp",     1024),
    ];

    #[test]
    fn neighbouring_ports_are_one_range() {
        let folded = |texts: &[&str]| {
            let ranges = texts.iter().map(|text| text.parse::<EndpointRange>().unwrap());
            let endpoints: Vec<Endpoint> = ranges.flat_map(EndpointRange::endpoints).collect();
            EndpointRange::folded(&endpoints).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(folded(&["20000-20010"]), "20000-20010/tcp");
        assert_eq!(folded(&["80", "81-82", "84", "83"]), "80-82/tcp 84/tcp 83/tcp");
        assert_eq!(
            folded(&["80", "81/udp", "127.0.0.1:82/udp", "65535", "1"]),
            "80/tcp 81/udp 127.0.0.1:82/udp 65535/tcp 1/tcp"
        );
        assert_eq!(folded(&[]), "");
    }

    #[test]
    fn what_a_person_writes_is_read() {
        for (text, shown, ports) in VALID {
            let range: EndpointRange = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(range.to_string(), *shown, "{text}");
            assert_eq!(range.endpoints().count(), *ports, "{text}");
            assert_eq!(range.port_count(), *ports, "{text}");
        }
    }

    #[rustfmt::skip]
    const INVALID: &[(&str, usize, &str)] = &[
        ("",                       1, "empty: give a port, as in 8080/tcp"),
        ("0",                      1, "port 0 means \"any free port\", which nobody can hold"),
        ("*:0/udp",                3, "port 0 means \"any free port\", which nobody can hold"),
        ("65536",                  1, "ports end at 65535"),
        ("127.0.0.1:99999999999",  11, "ports end at 65535"),
        ("+80",                    1, "a port has no sign"),
        ("-80",                    1, "missing port"),
        ("0080",                   1, "a port has no leading zero"),
        ("00",                     1, "a port has no leading zero"),
        (" 80",                    1, "a blank: an endpoint has none"),
        ("80 ",                    3, "a blank: an endpoint has none"),
        ("80/tcp\n",               7, "'\\n' is not plain ASCII"),
        ("80\u{202e}",             3, "'\\u{202e}' is not plain ASCII"),
        ("８０",                    1, "'８' is not plain ASCII"),
        ("8010-8000/tcp",          1, "the range is reversed: 8000-8010"),
        ("1-1025",                 1, "1025 ports: a range has at most 1024"),
        ("2000-3024",              1, "1025 ports: a range has at most 1024"),
        ("1-65535",                1, "65535 ports: a range has at most 1024"),
        ("8000-",                  6, "missing port"),
        ("80-90-100",              6, "unexpected \"-100\" after the port"),
        ("80-0",                   4, "port 0 means \"any free port\", which nobody can hold"),
        ("8000/tpc",               6, "unknown protocol \"tpc\": tcp or udp"),
        ("8000/tpc,udp",           6, "unknown protocol \"tpc,udp\": tcp or udp"),
        ("8000/TCP",               6, "unknown protocol \"TCP\": tcp or udp"),
        ("8000/",                  6, "missing protocol after '/': tcp or udp"),
        ("8000/sctp",              6, "sctp is not supported: only tcp and udp are"),
        ("8000/tcp6",              6, "IPv6 alone is [::]:PORT/tcp"),
        ("8000/udp4",              6, "IPv4 alone is 0.0.0.0:PORT/udp"),
        ("8000/tcp/udp",           9, "unexpected \"/udp\" after the protocol"),
        ("8000/tcp,udp",           9, "unexpected \",udp\" after the protocol"),
        ("8000x/tcp",              5, "unexpected \"x\" after the port"),
        ("80,443",                 3, "unexpected \",443\" after the port"),
        ("tcp/8080",               1, "the port comes first, as in 8080/tcp"),
        ("http/tcp",               1, "\"http\" is no port number"),
        ("/run/x.sock",            1, "missing port"),
        ("*",                      2, "missing port, as in *:8080"),
        ("*:",                     3, "missing port"),
        ("127.0.0.1",              10, "missing port, as in 127.0.0.1:8080"),
        ("127.0.0.1/tcp",          10, "missing port, as in 127.0.0.1:8080"),
        (":8080",                  1, "missing address before ':': every address is *:8080, or 8080 alone"),
        ("127.0.0.01:80",          1, "\"127.0.0.01\" is no IPv4 address"),
        ("8080:80",                1, "\"8080\" is no IPv4 address"),
        ("localhost:80",           1, "\"localhost\" is a name: only addresses can be looked at, as in 127.0.0.1:8080"),
        ("::1:53/udp",             1, "an IPv6 address goes in brackets, as in [::1]:53"),
        ("::",                     1, "an IPv6 address goes in brackets, as in [::1]:53"),
        ("[::1]",                  6, "missing port, as in [::1]:8080"),
        ("[::1]53",                6, "expected ':' and a port after ']'"),
        ("[::1",                   5, "missing ']' after the IPv6 address"),
        ("[::g]:53",               2, "\"::g\" is no IPv6 address"),
        ("[]:53",                  2, "\"\" is no IPv6 address"),
        ("[127.0.0.1]:53",         2, "only an IPv6 address goes in brackets: 127.0.0.1:PORT"),
        ("[*]:53",                 2, "only an IPv6 address goes in brackets: *:PORT"),
        ("[fe80::1]:53",           2, "a link-local address needs a zone, which is not supported: use *:PORT"),
        ("[febf::1]:53",           2, "a link-local address needs a zone, which is not supported: use *:PORT"),
        ("[fe80::1%eth0]:53",      9, "zones are not supported: use *:PORT, which covers link-local addresses"),
        ("[ff02::fb]:5353/udp",    2, "a multicast address is meant to be shared: it cannot be guarded"),
        ("224.0.0.251:5353/udp",   1, "a multicast address is meant to be shared: it cannot be guarded"),
        ("[::ffff:224.0.0.1]:80",  2, "a multicast address is meant to be shared: it cannot be guarded"),
    ];

    #[test]
    fn what_is_no_endpoint_is_refused_with_place_and_reason() {
        for (text, column, reason) in INVALID {
            let error = text.parse::<EndpointRange>().unwrap_err();
            let shown = text.escape_debug();
            assert_eq!(error.to_string(), format!("endpoint \"{shown}\", column {column}: {reason}"));
        }
    }

    fn any_range() -> impl Strategy<Value = EndpointRange> {
        let host = prop_oneof![
            Just(Host::Any),
            any::<[u8; 4]>().prop_map(|ip| Host::Ip(Ipv4Addr::from(ip).into())),
            any::<[u16; 8]>().prop_map(|ip| Host::Ip(Ipv6Addr::from(ip).into())),
            Just(Host::Ip(Ipv6Addr::LOCALHOST.into())),
        ];
        let taken = host.prop_filter("an address that is refused", |host| match host {
            Host::Any => true,
            Host::Ip(IpAddr::V4(ip)) => !ip.is_multicast(),
            Host::Ip(IpAddr::V6(ip)) => {
                !ip.is_multicast() && !ip.is_unicast_link_local() && ip.to_ipv4_mapped().is_none()
            }
        });
        (taken, 1..=u16::MAX, 0..EndpointRange::MAX_PORTS, prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)])
            .prop_filter_map("a port", |(host, first, more, protocol)| {
                let (first, last) = (Port::new(first)?, Port::new(first.saturating_add(more))?);
                Some(EndpointRange { host, first, last, protocol })
            })
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            if let Err(error) = text.parse::<EndpointRange>() {
                let _ = error.to_string();
            }
        }

        #[test]
        fn nothing_that_looks_like_an_endpoint_makes_the_parser_panic(text in r"[]\[0-9a-f:.*%+/é -]{0,24}(/(tcp|udp|é)?)?") {
            if let Err(error) = text.parse::<EndpointRange>() {
                let _ = error.to_string();
            }
        }

        #[test]
        fn what_is_shown_is_read_back(range in any_range()) {
            prop_assert_eq!(range.to_string().parse::<EndpointRange>(), Ok(range));
        }
    }

    fn a_socket(protocol: Protocol, local: &str, v6only: bool, device: Option<&str>) -> Socket {
        Socket { v6only, device: device.map(str::to_owned), ..Socket::listening(protocol, local.parse().unwrap()) }
    }

    #[test]
    fn a_socket_of_the_other_protocol_is_in_nobodys_way() {
        let endpoint = "127.0.0.1:80/tcp".parse::<EndpointRange>().unwrap().endpoints().next().unwrap();
        for (protocol, local, contested) in [
            (Protocol::Tcp, "127.0.0.1:80", true),
            (Protocol::Udp, "127.0.0.1:80", false),
            (Protocol::Tcp, "127.0.0.2:80", false),
        ] {
            assert_eq!(
                endpoint.is_contested_by(&a_socket(protocol, local, false, None)),
                contested,
                "{protocol} {local}"
            );
        }
    }

    #[test]
    fn two_sockets_meet_where_they_share_an_address_and_a_port() {
        let tcp = |local, v6only, device| a_socket(Protocol::Tcp, local, v6only, device);
        for (one, other, meet) in [
            (tcp("127.0.0.1:80", false, None), tcp("127.0.0.1:80", false, None), true),
            (tcp("127.0.0.1:80", false, None), tcp("127.0.0.2:80", false, None), false),
            (tcp("127.0.0.1:80", false, None), tcp("127.0.0.1:81", false, None), false),
            (tcp("127.0.0.1:80", false, None), a_socket(Protocol::Udp, "127.0.0.1:80", false, None), false),
            (tcp("127.0.0.1:80", false, None), tcp("[::]:80", false, None), true),
            (tcp("127.0.0.1:80", false, None), tcp("[::]:80", true, None), false),
            (tcp("0.0.0.0:80", false, Some("a")), tcp("10.0.0.1:80", false, Some("a")), true),
            (tcp("0.0.0.0:80", false, Some("a")), tcp("10.0.0.1:80", false, None), true),
            (tcp("0.0.0.0:80", false, Some("a")), tcp("10.0.0.1:80", false, Some("b")), true),
        ] {
            for (one, other) in [(&one, &other), (&other, &one)] {
                assert_eq!([other].into_iter().collect::<Addresses>().meet(one), meet, "{one:?} {other:?}");
            }
        }
    }

    /// An endpoint, a bound socket (`only` = v6only), and whether they are in each other's way.
    #[rustfmt::skip]
    const CONFLICTS: &[(&str, &str, bool, bool)] = &[
        // endpoint            bound socket                only   conflict
        ("*:80",               "0.0.0.0:80",               false, true),
        ("*:80",               "127.0.0.1:80",             false, true),
        ("*:80",               "[::]:80",                  false, true),
        ("*:80",               "[::]:80",                  true,  true),
        ("*:80",               "[::1]:80",                 false, true),
        ("*:80",               "[::1]:80",                 true,  true),
        ("*:80",               "[::ffff:127.0.0.1]:80",    false, true),
        ("*:80",               "[::ffff:0.0.0.0]:80",      false, true),
        ("*:80",               "0.0.0.0:81",               false, false),
        ("0.0.0.0:80",         "0.0.0.0:80",               false, true),
        ("0.0.0.0:80",         "127.0.0.1:80",             false, true),
        ("0.0.0.0:80",         "[::]:80",                  false, true),
        ("0.0.0.0:80",         "[::]:80",                  true,  false),
        ("0.0.0.0:80",         "[::1]:80",                 false, false),
        ("0.0.0.0:80",         "[::1]:80",                 true,  false),
        ("0.0.0.0:80",         "[::ffff:127.0.0.1]:80",    false, true),
        ("127.0.0.1:80",       "127.0.0.1:80",             false, true),
        ("127.0.0.1:80",       "127.0.0.2:80",             false, false),
        ("127.0.0.1:80",       "0.0.0.0:80",               false, true),
        ("127.0.0.1:80",       "[::]:80",                  false, true),
        ("127.0.0.1:80",       "[::]:80",                  true,  false),
        ("127.0.0.1:80",       "[::1]:80",                 false, false),
        ("127.0.0.1:80",       "[::ffff:127.0.0.1]:80",    false, true),
        ("127.0.0.1:80",       "[::ffff:127.0.0.2]:80",    false, false),
        ("127.0.0.1:80",       "[::ffff:0.0.0.0]:80",      false, true),
        ("[::]:80",            "0.0.0.0:80",               false, false),
        ("[::]:80",            "127.0.0.1:80",             false, false),
        ("[::]:80",            "[::]:80",                  false, true),
        ("[::]:80",            "[::]:80",                  true,  true),
        ("[::]:80",            "[::1]:80",                 false, true),
        ("[::]:80",            "[::1]:80",                 true,  true),
        ("[::]:80",            "[::ffff:127.0.0.1]:80",    false, false),
        ("[::]:80",            "[::ffff:0.0.0.0]:80",      false, false),
        ("[::1]:80",           "[::1]:80",                 false, true),
        ("[::1]:80",           "[::1]:80",                 true,  true),
        ("[::1]:80",           "[::]:80",                  false, true),
        ("[::1]:80",           "[::]:80",                  true,  true),
        ("[::1]:80",           "0.0.0.0:80",               false, false),
        ("[::1]:80",           "127.0.0.1:80",             false, false),
        ("[::1]:80",           "[::ffff:127.0.0.1]:80",    false, false),
    ];

    fn only_endpoint(text: &str) -> Endpoint {
        text.parse::<EndpointRange>().unwrap().endpoints().next().unwrap()
    }

    #[test]
    fn what_is_in_the_way_is_told_by_family_wildcard_and_v6only() {
        for (endpoint, bound, v6only, conflict) in CONFLICTS {
            let said = only_endpoint(endpoint).conflicts_with(bound.parse().unwrap(), *v6only);
            assert_eq!(said, *conflict, "{endpoint} beside {bound} (v6only {v6only})");
        }
    }

    #[test]
    fn all_that_is_in_the_way_is_at_one_of_few_addresses_or_may_be_at_any() {
        for (endpoint, bound, _, _) in CONFLICTS.iter().filter(|(_, _, _, conflict)| *conflict) {
            let (addresses, bound) =
                (only_endpoint(endpoint).addresses_in_the_way(), bound.parse::<SocketAddr>().unwrap());
            assert!(
                addresses.is_none_or(|addresses| addresses.contains(&bound.ip().to_canonical())),
                "{endpoint} {bound}"
            );
        }
        for (host, expected) in [
            ("*", None),
            ("0.0.0.0", None),
            ("[::]", None),
            ("10.0.0.1", Some("0.0.0.0 10.0.0.1 ::")),
            ("[::ffff:10.0.0.1]", Some("0.0.0.0 10.0.0.1 ::")),
            ("[2001:db8::1]", Some("2001:db8::1 ::")),
        ] {
            let addresses = only_endpoint(&format!("{host}:80")).addresses_in_the_way();
            let shown = addresses.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(shown.as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn two_ranges_share_the_ports_that_only_one_can_have() {
        for (one, other, shared) in [
            ("8000-8010", "8005-8020", Some("8005-8010/tcp")),
            ("8000-8010", "7990-8005", Some("8000-8005/tcp")),
            ("8000-8010", "127.0.0.1:8010", Some("8010/tcp")),
            ("127.0.0.1:8010", "8000-8010", Some("127.0.0.1:8010/tcp")),
            ("8000-8010", "8011", None),
            ("8000", "8000/udp", None),
            ("127.0.0.1:80", "[::]:80", None),
            ("127.0.0.1:80", "*:80", Some("127.0.0.1:80/tcp")),
            ("[::1]:80", "0.0.0.0:80", None),
            ("[::1]:80", "[::]:80", Some("[::1]:80/tcp")),
        ] {
            let [one, other] = [one, other].map(|text| text.parse::<EndpointRange>().unwrap());
            let found = one.shared_with(other).map(|range| range.to_string());
            assert_eq!(found.as_deref(), shared, "{one} {other}");
            assert_eq!(other.shared_with(one).is_some(), shared.is_some(), "{other} {one}");
        }
    }

    #[test]
    fn where_a_holder_is_likely_it_would_be_in_the_way() {
        for (host, likely) in [
            ("*", &["0.0.0.0:80", "127.0.0.1:80", "[::]:80", "[::1]:80"][..]),
            ("0.0.0.0", &["0.0.0.0:80", "127.0.0.1:80"]),
            ("[::]", &["[::]:80", "[::1]:80"]),
            ("10.0.0.1", &["10.0.0.1:80", "0.0.0.0:80"]),
            ("[::ffff:10.0.0.1]", &["10.0.0.1:80", "0.0.0.0:80"]),
            ("[2001:db8::1]", &["[2001:db8::1]:80", "[::]:80"]),
        ] {
            let endpoint = only_endpoint(&format!("{host}:80"));
            let addresses: Vec<SocketAddr> = endpoint.likely_addresses().collect();
            assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), likely, "{host}");
            assert!(addresses.iter().all(|&address| endpoint.conflicts_with(address, true)), "{host}");
        }
    }

    /// A UDP socket: it conflicts by its address alone, with no listening and no waiting. The rules are the same.
    fn bound(address: SocketAddr, v6only: bool) -> Result<OwnedFd, Errno> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        if address.is_ipv6() {
            setsockopt(&fd, Ipv6V6Only, &v6only)?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        Ok(fd)
    }

    /// The same table, asked of the kernel that this runs on, at a port that it gives.
    #[test]
    fn the_kernel_says_the_same_of_what_is_in_the_way() {
        for (text, beside, v6only, conflict) in CONFLICTS.iter().filter(|(_, beside, ..)| beside.ends_with(":80")) {
            let mut beside: SocketAddr = beside.parse().unwrap();
            let port = free_port();
            beside.set_port(port);
            let mut endpoint = only_endpoint(text);
            endpoint.port = Port::new(port).unwrap();
            let _holder = bound(beside, *v6only).unwrap_or_else(|errno| panic!("{beside}: {errno}"));
            let mine = bound(endpoint.socket_addr(), endpoint.host != Host::Any);
            assert_eq!(mine.err(), conflict.then_some(Errno::EADDRINUSE), "{text} beside {beside} (v6only {v6only})");
        }
    }

    /// A port that no UDP socket of any address has, nor is soon given to another.
    fn free_port() -> u16 {
        let wildcard = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        wildcard.local_addr().unwrap().port()
    }
}
