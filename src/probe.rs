//! Whether an endpoint can be bound: one bind(2) that is undone at once.
//!
//! It owns the choice of socket options that makes the answer that of the service's own bind. It never listens, never
//! sets `SO_REUSEPORT` (as root that hides a stale twin), and says nothing about who is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockopt, setsockopt, socket, sockopt,
};

use crate::model::{Endpoint, Host, Probe, Protocol, Socket};

/// Binds the endpoint and lets go of it.
///
/// `reuse_address`: whether the service sets `SO_REUSEADDR` on its TCP sockets, as nearly all do; without it, a
/// `TIME_WAIT` counts as busy. UDP is always tried without it: two UDP sockets that set it coexist unseen (socket(7)).
///
/// [`Host::Any`] is tried as a dual-stack `::`, and as `0.0.0.0` where this host has no IPv6.
#[must_use]
pub fn probe(endpoint: &Endpoint, reuse_address: bool) -> Probe {
    let try_bind = |address| bind_once(address, endpoint, reuse_address);
    let result = match endpoint.host {
        Host::Any => bind_wildcard(endpoint.port.get(), try_bind),
        Host::Ip(_) => try_bind(endpoint.socket_addr()),
    };
    answer(result)
}

fn answer(result: Result<(), Errno>) -> Probe {
    match result {
        Ok(()) => Probe::Free,
        Err(Errno::EADDRINUSE) => Probe::Busy,
        Err(Errno::EACCES | Errno::EPERM) => Probe::Denied,
        Err(Errno::EADDRNOTAVAIL) => Probe::NotLocal,
        Err(other) => Probe::Failed(other as i32),
    }
}

/// `::`, or `0.0.0.0` where there is no IPv6: `EAFNOSUPPORT` from socket(2) with `ipv6.disable=1` on the kernel's
/// command line or a kernel without it, `EADDRNOTAVAIL` from bind(2) where it is off in another way.
fn bind_wildcard(port: u16, try_bind: impl Fn(SocketAddr) -> Result<(), Errno>) -> Result<(), Errno> {
    match try_bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => try_bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        result => result,
    }
}

/// Whether a TCP socket that is bound and does not listen lets another be bound to its very address. That may be of a device, or
/// none of this host any more.
#[must_use]
pub fn probe_beside(socket: &Socket, reuse_address: bool) -> Probe {
    answer(bind_beside(socket, reuse_address))
}

fn bind_beside(other: &Socket, reuse_address: bool) -> Result<(), Errno> {
    let mut address = other.local;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &reuse_address)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if let SocketAddr::V6(v6) = &mut address {
        // As for `is_ipv6_alone`; of a connection it is not known.
        if v6.ip().is_unspecified() || v6.ip().to_ipv4_mapped().is_some() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &(other.v6only && v6.ip().is_unspecified()))?;
        }
        if v6.ip().is_unicast_link_local() {
            v6.set_scope_id(other.device.as_deref().and_then(|name| if_nametoindex(name).ok()).unwrap_or(0));
        }
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

fn bind_once(address: SocketAddr, endpoint: &Endpoint, reuse_address: bool) -> Result<(), Errno> {
    let (family, kind) = match (address, endpoint.protocol) {
        (SocketAddr::V4(_), Protocol::Tcp) => (AddressFamily::Inet, SockType::Stream),
        (SocketAddr::V4(_), Protocol::Udp) => (AddressFamily::Inet, SockType::Datagram),
        (SocketAddr::V6(_), Protocol::Tcp) => (AddressFamily::Inet6, SockType::Stream),
        (SocketAddr::V6(_), Protocol::Udp) => (AddressFamily::Inet6, SockType::Datagram),
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    match endpoint.protocol {
        Protocol::Tcp => setsockopt(&socket, sockopt::ReuseAddr, &reuse_address)?,
        Protocol::Udp => (),
    }
    if let Some(alone) = is_ipv6_alone(endpoint.host, address) {
        set_ipv6_alone(&socket, alone)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

/// What `IPV6_V6ONLY` has to be; `None` where the kernel does not look at it: it tells `::` from `::` with IPv4, and keeps
/// v4-mapped addresses from being bound (`ipv6_rcv_saddr_equal()`, `net/ipv4/inet_connection_sock.c`; `__inet6_bind()`).
fn is_ipv6_alone(host: Host, address: SocketAddr) -> Option<bool> {
    let IpAddr::V6(ip) = address.ip() else { return None };
    let matters = ip.is_unspecified() || ip.to_ipv4_mapped().is_some();
    matters.then_some(host == Host::Ip(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
}

/// Sets it; with IPv4 only where the default, `net.ipv6.bindv6only` of this network namespace, is another: that is asked for
/// once, and nearly never so.
fn set_ipv6_alone(socket: &OwnedFd, alone: bool) -> Result<(), Errno> {
    static DEFAULT: OnceLock<bool> = OnceLock::new();
    if !alone {
        let asked = DEFAULT.get().map_or_else(|| getsockopt(socket, sockopt::Ipv6V6Only), |default| Ok(*default))?;
        if !*DEFAULT.get_or_init(|| asked) {
            return Ok(());
        }
    }
    setsockopt(socket, sockopt::Ipv6V6Only, &alone)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::sys::socket::{Backlog, SockaddrIn, getsockname, listen};

    use super::*;
    use crate::model::Port;

    /// How a socket that stands on the port is unlike the usual: a dual-stack listener that sets `SO_REUSEADDR`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Unusual {
        V6Only,
        NoReuseAddress,
        ReusePort,
        Idle,
    }

    /// On a port that the kernel picks, which no other test gets while it is held.
    fn stand(address: &str, unusual: &[Unusual], protocol: Protocol) -> (OwnedFd, Port) {
        let address: IpAddr = address.parse().unwrap();
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let kind = match protocol {
            Protocol::Tcp => SockType::Stream,
            Protocol::Udp => SockType::Datagram,
        };
        let held = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&held, sockopt::ReuseAddr, &!unusual.contains(&Unusual::NoReuseAddress)).unwrap();
        setsockopt(&held, sockopt::ReusePort, &unusual.contains(&Unusual::ReusePort)).unwrap();
        if address.is_ipv6() {
            setsockopt(&held, sockopt::Ipv6V6Only, &unusual.contains(&Unusual::V6Only)).unwrap();
        }
        bind(held.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0))).unwrap();
        if protocol == Protocol::Tcp && !unusual.contains(&Unusual::Idle) {
            listen(&held, Backlog::new(1).unwrap()).unwrap();
        }
        let name: SockaddrStorage = getsockname(held.as_raw_fd()).unwrap();
        let v4 = name.as_sockaddr_in().map(SockaddrIn::port);
        let port = v4.unwrap_or_else(|| name.as_sockaddr_in6().unwrap().port());
        (held, Port::new(port).unwrap())
    }

    fn endpoint(host: &str, port: Port, protocol: Protocol) -> Endpoint {
        let host = if host == "*" { Host::Any } else { Host::Ip(host.parse().unwrap()) };
        Endpoint { host, port, protocol }
    }

    #[test]
    fn tcp_probe_says_what_a_servers_bind_would() {
        use Unusual::{Idle, NoReuseAddress, ReusePort, V6Only};
        let rows: &[(&str, &[Unusual], &str, Probe)] = &[
            ("127.0.0.1", &[], "*", Probe::Busy),
            ("0.0.0.0", &[], "*", Probe::Busy),
            ("::1", &[], "*", Probe::Busy),
            ("::", &[], "*", Probe::Busy),
            ("::", &[V6Only], "*", Probe::Busy),
            ("127.0.0.1", &[ReusePort], "*", Probe::Busy),
            ("0.0.0.0", &[ReusePort], "*", Probe::Busy),
            ("::", &[ReusePort], "*", Probe::Busy),
            ("127.0.0.1", &[ReusePort], "127.0.0.1", Probe::Busy),
            ("127.0.0.1", &[Idle], "*", Probe::Free),
            ("127.0.0.1", &[Idle], "127.0.0.1", Probe::Free),
            ("127.0.0.1", &[Idle, NoReuseAddress], "*", Probe::Busy),
            ("127.0.0.1", &[Idle, NoReuseAddress], "127.0.0.1", Probe::Busy),
            ("127.0.0.1", &[Idle, NoReuseAddress], "127.0.0.2", Probe::Free),
            ("127.0.0.1", &[], "0.0.0.0", Probe::Busy),
            ("127.0.0.1", &[], "127.0.0.1", Probe::Busy),
            ("127.0.0.1", &[], "127.0.0.2", Probe::Free),
            ("127.0.0.1", &[], "::", Probe::Free),
            ("127.0.0.1", &[], "::ffff:127.0.0.1", Probe::Busy),
            ("::1", &[], "0.0.0.0", Probe::Free),
            ("::1", &[], "::", Probe::Busy),
            ("::1", &[], "::1", Probe::Busy),
            ("::", &[], "0.0.0.0", Probe::Busy),
            ("::", &[], "127.0.0.1", Probe::Busy),
            ("::", &[], "::", Probe::Busy),
            ("::", &[V6Only], "0.0.0.0", Probe::Free),
            ("::", &[V6Only], "::1", Probe::Busy),
        ];
        for &(there, unusual, host, expected) in rows {
            let (_held, port) = stand(there, unusual, Protocol::Tcp);
            let seen = probe(&endpoint(host, port, Protocol::Tcp), true);
            assert_eq!(seen, expected, "{there} {unusual:?}, probed as {host}");
        }
    }

    #[test]
    fn udp_probe_sees_sockets_that_set_reuse_address() {
        use Unusual::{NoReuseAddress, ReusePort, V6Only};
        let rows: &[(&str, &[Unusual], &str, Probe)] = &[
            ("127.0.0.1", &[], "*", Probe::Busy),
            ("0.0.0.0", &[], "*", Probe::Busy),
            ("::1", &[], "*", Probe::Busy),
            ("::", &[V6Only], "*", Probe::Busy),
            ("::", &[V6Only], "0.0.0.0", Probe::Free),
            ("127.0.0.1", &[ReusePort], "*", Probe::Busy),
            ("127.0.0.1", &[NoReuseAddress], "127.0.0.1", Probe::Busy),
            ("127.0.0.1", &[], "127.0.0.2", Probe::Free),
        ];
        for &(there, unusual, host, expected) in rows {
            for reuse in [true, false] {
                let (_held, port) = stand(there, unusual, Protocol::Udp);
                let seen = probe(&endpoint(host, port, Protocol::Udp), reuse);
                assert_eq!(seen, expected, "{there} {unusual:?}, probed as {host}");
            }
        }
    }

    #[test]
    fn time_wait_counts_only_without_reuse_address() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = Port::new(server.local_addr().unwrap().port()).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        // The side that closes first is the one that waits.
        drop(server.accept().unwrap());
        drop(server);
        drop(client);
        for (reuse, expected) in [(true, Probe::Free), (false, Probe::Busy)] {
            assert_eq!(probe(&endpoint("*", port, Protocol::Tcp), reuse), expected, "reuse {reuse}");
        }
    }

    #[test]
    fn a_client_that_was_given_the_port_is_in_the_way() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let port = Port::new(client.local_addr().unwrap().port()).unwrap();
        assert_eq!(probe(&endpoint("*", port, Protocol::Tcp), true), Probe::Busy);

        let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        client.connect(("127.0.0.1", 9)).unwrap();
        let port = Port::new(client.local_addr().unwrap().port()).unwrap();
        assert_eq!(probe(&endpoint("*", port, Protocol::Udp), true), Probe::Busy);
    }

    #[test]
    fn accepted_connections_of_a_server_that_is_gone_are_not_in_the_way() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let (_accepted, _) = server.accept().unwrap();
        let port = Port::new(server.local_addr().unwrap().port()).unwrap();
        drop(server);
        assert_eq!(probe(&endpoint("*", port, Protocol::Tcp), true), Probe::Free);
    }

    #[test]
    fn a_probe_leaves_the_port_as_it_was() {
        let (held, port) = stand("127.0.0.1", &[], Protocol::Tcp);
        drop(held);
        for _ in 0..2 {
            assert_eq!(probe(&endpoint("*", port, Protocol::Tcp), true), Probe::Free);
        }
    }

    #[test]
    fn an_address_of_another_host_is_not_local() {
        let port = Port::new(8080).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            // TEST-NET-1 and the IPv6 documentation prefix (RFC 5737, RFC 3849) are nobody's.
            assert_eq!(probe(&endpoint("192.0.2.1", port, protocol), true), Probe::NotLocal);
            assert_eq!(probe(&endpoint("2001:db8::1", port, protocol), true), Probe::NotLocal);
        }
    }

    #[test]
    fn the_wildcard_is_ipv4_where_there_is_no_ipv6() {
        let cases = [
            (Ok(()), 1, Ok(())),
            (Err(Errno::EADDRINUSE), 1, Err(Errno::EADDRINUSE)),
            (Err(Errno::EACCES), 1, Err(Errno::EACCES)),
            (Err(Errno::EAFNOSUPPORT), 2, Ok(())),
            (Err(Errno::EADDRNOTAVAIL), 2, Ok(())),
        ];
        for (answer, tries, expected) in cases {
            let tried = RefCell::new(Vec::new());
            let result = bind_wildcard(1, |address| {
                tried.borrow_mut().push(address);
                if address.is_ipv6() { answer } else { Ok(()) }
            });
            assert_eq!((result, tried.borrow().len()), (expected, tries), "{answer:?}");
        }
    }
}
