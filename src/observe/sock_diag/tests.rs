//! Dumps that are made up (errors, interruptions), and the real kernel with sockets of this process.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{Backlog, SockaddrStorage, bind, getsockname, listen};
use nix::sys::stat::fstat;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};

use super::codec::Reply;
use super::codec::tests::{any_reply, encode_reply, message};
use super::*;
use crate::model::{CgroupId, Inode};
use crate::observe::fixture::{Cgroup, Child, Role};

const REQUEST: Request<'_> = Request {
    family: Family::V4,
    protocol: Protocol::Tcp,
    states: States::TCP_LISTENING,
    port: None,
    at: None,
    bound_to: &[],
};

fn inode_of(socket: impl AsFd) -> Inode {
    Inode(fstat(socket).unwrap().st_ino)
}

fn port_of(address: SocketAddr) -> Port {
    Port::new(address.port()).unwrap()
}

fn find(sockets: Vec<Socket>, inode: Inode) -> Socket {
    let found: Vec<Socket> = sockets.into_iter().filter(|socket| socket.inode == inode).collect();
    let [socket] = &found[..] else { panic!("{} sockets have inode {inode:?}", found.len()) };
    socket.clone()
}

/// The id of the cgroup that this process is in, by the file system, if it is not the root; the machine of a test always
/// mounts cgroup2.
fn own_cgroup() -> Option<CgroupId> {
    let line = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = line.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|dir| Path::new(dir).join("cgroup.procs").exists())
        .unwrap();
    Some(CgroupId(std::fs::metadata(Path::new(mount).join(path)).unwrap().ino())).filter(|&id| id != CgroupId::ROOT)
}

fn reply(local: &str, state: u8) -> Reply {
    let peer = "0.0.0.0:0".parse().unwrap();
    Reply {
        state,
        local: local.parse().unwrap(),
        peer,
        uid: 7,
        inode: 8,
        queue: (2, 5),
        left: None,
        device: 0,
        v6only: None,
        cgroup: Some(9),
        protocol: None,
    }
}

#[test]
fn a_dump_keeps_what_was_asked_for_and_nothing_else() {
    let ports = [Port::new(80).unwrap()];
    let rows = [
        (reply("127.0.0.1:80", 10), 5, 1),
        (reply("127.0.0.1:80", 7), 5, 0),
        (reply("127.0.0.1:80", 1), 5, 0),
        (reply("127.0.0.1:80", 99), 5, 0),
        (reply("127.0.0.1:81", 10), 5, 0),
        (reply("127.0.0.1:80", 10), 4, 0),
    ];
    for (reply, sequence, expected) in rows {
        let mut dump = Dump::new(5, REQUEST, &ports);
        assert_eq!(dump.take(&message(20, 2, sequence, &encode_reply(&reply))), Ok(Step::More));
        match dump.take(&message(3, 2, 5, &[0; 4])) {
            Ok(Step::Last(Outcome::Complete(sockets))) => assert_eq!(sockets.len(), expected, "{reply:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_dump_never_ends_in_silence_when_something_is_missing() {
    let refused = |errno: Errno| Err(SockDiagError::Refused(errno));
    let negative = |errno: Errno| (-(errno as i32)).to_ne_bytes();
    let rows = [
        (message(3, 2, 5, &[0; 4]), Ok(Step::Last(Outcome::Complete(Vec::new())))),
        (message(3, 2, 5, &[]), Ok(Step::Last(Outcome::Complete(Vec::new())))),
        (message(3, 2, 5, &negative(Errno::ENOMEM)), refused(Errno::ENOMEM)),
        (message(2, 0, 5, &negative(Errno::ENOENT)), refused(Errno::ENOENT)),
        (message(2, 0, 5, &i32::MIN.to_ne_bytes()), refused(Errno::UnknownErrno)),
        (message(2, 0, 5, &[0; 4]), Ok(Step::More)),
        (message(1, 0, 5, &[]), Ok(Step::More)),
        (message(3, 2 | 0x10, 5, &[0; 4]), Ok(Step::Last(Outcome::Inconsistent))),
        ([message(4, 0, 5, &[]), message(3, 2, 5, &[0; 4])].concat(), Ok(Step::Last(Outcome::Inconsistent))),
        (message(3, 2, 4, &[0; 4]), Ok(Step::More)),
        (message(20, 2, 5, &[0; 71]), Err(SockDiagError::Malformed)),
        (message(20, 2, 5, &[0; 72]), Err(SockDiagError::Malformed)),
        (vec![1, 2, 3], Err(SockDiagError::Malformed)),
    ];
    for (datagram, expected) in rows {
        assert_eq!(Dump::new(5, REQUEST, &[]).take(&datagram), expected, "{datagram:?}");
    }
}

#[test]
fn a_lookup_has_no_listener_only_where_the_kernel_says_that_there_is_none() {
    let error = |errno: Errno| message(2, 0, 5, &(-(errno as i32)).to_ne_bytes());
    let listener = message(20, 0, 5, &encode_reply(&reply("127.0.0.1:80", 10)));
    let connection = message(20, 0, 5, &encode_reply(&reply("127.0.0.1:80", 1)));
    let refused = |errno| Err(SockDiagError::Refused(errno));
    let rows = [
        (Received::FromKernel(&listener), Ok(true), Ok(true)),
        (Received::FromKernel(&connection), Ok(false), Ok(false)),
        (Received::FromKernel(&error(Errno::ENOENT)), Ok(false), Ok(false)),
        (Received::FromKernel(&error(Errno::EINVAL)), refused(Errno::EINVAL), Ok(false)),
        (Received::FromKernel(&error(Errno::EPERM)), refused(Errno::EPERM), refused(Errno::EPERM)),
        (Received::FromKernel(&error(Errno::ENOMEM)), refused(Errno::ENOMEM), refused(Errno::ENOMEM)),
        (Received::FromKernel(&[1, 2, 3]), Err(SockDiagError::Malformed), Err(SockDiagError::Malformed)),
        (Received::FromKernel(&message(20, 0, 4, &[])), Err(SockDiagError::Unsteady), Err(SockDiagError::Unsteady)),
        (Received::Nothing, Err(SockDiagError::Unsteady), Err(SockDiagError::Unsteady)),
        (Received::Lost, Err(SockDiagError::Unsteady), Err(SockDiagError::Unsteady)),
    ];
    let ports = [Port::new(80).unwrap()];
    for (row, (received, of_v4, of_v6)) in rows.iter().enumerate() {
        for (family, expected) in [(Family::V4, of_v4), (Family::V6, of_v6)] {
            let found = looked_up(received, Dump::new(5, REQUEST, &ports), family);
            assert_eq!(&found.map(|listener| listener.is_some()), expected, "row {row}, {family:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_dump_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Dump::new(5, REQUEST, &[]).take(&bytes);
    }

    #[test]
    fn every_socket_of_a_dump_has_a_wanted_port(replies in prop::collection::vec(any_reply(), 0..20)) {
        let ports: Vec<Port> = replies.iter().step_by(2).filter_map(|reply| Port::new(reply.local.port())).collect();
        let mut dump = Dump::new(5, REQUEST, &ports);
        for reply in &replies {
            dump.take(&message(20, 2, 5, &encode_reply(reply))).unwrap();
        }
        for socket in dump.sockets {
            prop_assert!(ports.contains(&port_of(socket.local)));
        }
    }
}

#[test]
fn a_listener_is_found_with_its_address_user_inode_and_cgroup() {
    for (bound, v6only) in [("127.0.0.1:0", false), ("0.0.0.0:0", false), ("[::1]:0", true), ("[::]:0", false)] {
        let listener = TcpListener::bind(bound).unwrap();
        let local = listener.local_addr().unwrap();
        let found = find(
            listeners(&[(Protocol::Tcp, port_of(local))], &Wish::all(&Interrupt::default())).unwrap(),
            inode_of(&listener),
        );
        let expected = Socket {
            protocol: Protocol::Tcp,
            local,
            peer: None,
            v6only,
            state: SocketState::Listen,
            inode: inode_of(&listener),
            uid: nix::unistd::getuid().as_raw(),
            device: None,
            cgroup: own_cgroup(),
            // What the standard library asks for (listen(2)).
            backlog: Some(crate::model::Backlog { waiting: 0, limit: 128 }),
            left: None,
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn a_lookup_shows_the_same_listener_as_a_dump() {
    let rows = [
        ("127.0.0.1:0", "127.0.0.1"),
        ("127.0.0.2:0", "127.0.0.2"),
        ("0.0.0.0:0", "0.0.0.0"),
        ("0.0.0.0:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::"),
        ("[::]:0", "::1"),
        ("[::]:0", "0.0.0.0"),
        ("[::]:0", "127.0.0.1"),
    ];
    for (bound, asked) in rows {
        let listener = TcpListener::bind(bound).unwrap();
        let port = port_of(listener.local_addr().unwrap());
        let dumped =
            find(listeners(&[(Protocol::Tcp, port)], &Wish::all(&Interrupt::default())).unwrap(), inode_of(&listener));
        let at = SocketAddr::new(asked.parse().unwrap(), port.get());
        assert_eq!(listeners_at(&[at, at]), Ok(vec![dumped]), "{bound} at {asked}");
    }
    let (alone, port) = special(None, true);
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port.get());
    let found = listeners_at(&[at("0.0.0.0"), at("127.0.0.1"), at("::"), at("::1")]).unwrap();
    assert!(find(found, inode_of(&alone)).v6only);
}

#[test]
fn a_lookup_shows_no_listener_of_another_address_or_device_and_nothing_that_does_not_listen() {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), listener.local_addr().unwrap().port());
    assert_eq!(listeners_at(&[at("127.0.0.1"), at("0.0.0.0"), at("::"), at("::1")]), Ok(Vec::new()));
    let own = [listener.local_addr().unwrap()];
    assert_eq!(listeners_at(&own).unwrap().len(), 1);
    setsockopt(&listener, sockopt::BindToDevice, &"lo".into()).unwrap();
    assert_eq!(listeners_at(&own), Ok(Vec::new()));

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let (_accepted, _) = server.accept().unwrap();
    assert_eq!(listeners_at(&[client.local_addr().unwrap()]), Ok(Vec::new()));
    let (_idle, port) = special(None, false);
    assert_eq!(listeners_at(&[SocketAddr::new("::".parse().unwrap(), port.get())]), Ok(Vec::new()));
    assert_eq!(listeners_at(&[]), Ok(Vec::new()));
}

#[test]
fn a_lookup_shows_both_of_a_port_and_one_of_those_that_share_it() {
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = v4.local_addr().unwrap().port();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
    // Another test may have it, though the kernel gives each port out but once until it has none left.
    let v6 = TcpListener::bind(at("::1")).unwrap();
    let found = listeners_at(&[at("0.0.0.0"), at("127.0.0.1"), at("::"), at("::1")]).unwrap();
    assert_eq!(found.iter().map(|found| found.inode).collect::<Vec<_>>(), [inode_of(&v4), inode_of(&v6)]);

    let shared = |port| {
        let held = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&held, sockopt::ReusePort, &true).unwrap();
        bind(held.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new("127.0.0.1".parse().unwrap(), port))).unwrap();
        listen(&held, Backlog::new(1).unwrap()).unwrap();
        let name: SockaddrStorage = getsockname(held.as_raw_fd()).unwrap();
        (held, name.as_sockaddr_in().unwrap().port())
    };
    let (one, port) = shared(0);
    let (other, _) = shared(port);
    let found = listeners_at(&[SocketAddr::new("127.0.0.1".parse().unwrap(), port)]).unwrap();
    let [found] = &found[..] else { panic!("{found:?}") };
    assert!([inode_of(one), inode_of(other)].contains(&found.inode));
}

#[test]
fn a_socket_of_one_device_is_found_with_its_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Who may not bind to a device is refused that before anything is found.
    setsockopt(&listener, sockopt::BindToDevice, &"lo".into()).unwrap();
    let wanted = [(Protocol::Tcp, port_of(listener.local_addr().unwrap()))];
    let found = find(listeners(&wanted, &Wish::all(&Interrupt::default())).unwrap(), inode_of(&listener));
    assert_eq!(found.device.as_deref(), Some("lo"));
}

#[test]
fn the_kernel_tells_when_a_socket_of_a_wanted_port_is_gone_and_of_no_other() {
    let bind = || (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
    let (wanted, other) = (bind(), bind());
    let [tcp, udp] = [wanted.0.local_addr().unwrap(), wanted.1.local_addr().unwrap()];
    let sockets = [(Protocol::Tcp, tcp), (Protocol::Udp, udp)].into();
    // One of many connections.
    let client = TcpStream::connect(wanted.0.local_addr().unwrap()).unwrap();
    let served = wanted.0.accept().unwrap().0;
    let connections = [(served.local_addr().unwrap(), served.peer_addr().unwrap())].into();
    let closings = Closings::of(Awaited { sockets, connections, ..Awaited::default() }).unwrap();
    let told_soon = || {
        let mut fds = [PollFd::new(&closings, PollFlags::IN)];
        poll(&mut fds, Some(&crate::timespan::timespec(Duration::from_secs(5)))).unwrap() == 1
    };
    drop(other);
    assert!(told_soon());
    assert!(!closings.was_wanted());
    // What a busy server does all the time.
    let another_client = TcpStream::connect(wanted.0.local_addr().unwrap()).unwrap();
    let also_served = wanted.0.accept().unwrap();
    drop((another_client, also_served));
    assert!(told_soon());
    assert!(!closings.was_wanted());
    // What a probe does, or anybody, at another address of the port or by the other protocol.
    drop(TcpListener::bind(("127.0.0.2", tcp.port())).unwrap());
    drop(UdpSocket::bind(tcp).unwrap());
    assert!(told_soon());
    assert!(!closings.was_wanted());
    // Other tests close sockets as well.
    let told_of_a_wanted_one = || {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !closings.was_wanted() {
            assert!(Instant::now() < deadline);
            told_soon();
        }
    };
    // The peer first, so that nothing is left of it.
    drop(client);
    drop(served);
    told_of_a_wanted_one();
    drop(wanted.0);
    told_of_a_wanted_one();
    drop(wanted.1);
    told_of_a_wanted_one();
}

#[test]
fn what_was_not_seen_is_whatever_is_in_the_way_of_an_endpoint() {
    let listen = |address: &str| TcpListener::bind((address, 0)).unwrap();
    let (wanted, other) = (listen("127.0.0.1"), listen("127.0.0.2"));
    let text = format!("127.0.0.1:{}/tcp", wanted.local_addr().unwrap().port());
    let endpoint = text.parse::<crate::model::EndpointRange>().unwrap().endpoints().next().unwrap();
    let closings = Closings::of(Awaited { endpoints: [endpoint].into(), ..Awaited::default() }).unwrap();
    let elsewhere = TcpListener::bind(("127.0.0.2", endpoint.port.get())).unwrap();
    let by_udp = UdpSocket::bind(wanted.local_addr().unwrap()).unwrap();
    let was_wanted_soon = || {
        let mut fds = [PollFd::new(&closings, PollFlags::IN)];
        poll(&mut fds, Some(&crate::timespan::timespec(Duration::from_secs(5)))).unwrap();
        closings.was_wanted()
    };
    drop((other, elsewhere, by_udp));
    assert!(!was_wanted_soon());
    drop(wanted);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !was_wanted_soon() {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_udp_socket_is_found_among_the_waiting_and_with_a_peer_among_the_others() {
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let socket = UdpSocket::bind(address).unwrap();
        let wanted = [(Protocol::Udp, port_of(socket.local_addr().unwrap()))];
        let found = find(listeners(&wanted, &Wish::all(&Interrupt::default())).unwrap(), inode_of(&socket));
        assert_eq!((found.state, found.local), (SocketState::Unconnected, socket.local_addr().unwrap()));
        assert_eq!(found.cgroup, own_cgroup());

        let peer = if address.starts_with("127") { "127.0.0.1:9" } else { "[::1]:9" };
        socket.connect(peer).unwrap();
        let found = find(others(&wanted, &Wish::all(&Interrupt::default())).unwrap(), inode_of(&socket));
        assert_eq!((found.state, found.peer), (SocketState::Connected, Some(peer.parse().unwrap())));
    }
}

type Dumped = fn(&[(Protocol, Port)], &Wish<'_>) -> Result<Vec<Socket>, SockDiagError>;

/// At which addresses a port is wanted: at any, where there are none.
type Addresses<'a> = &'a [&'a str];

/// Which of these sockets the kernel shows where they are wanted at these addresses, and so many other ports are asked for at
/// those of their own.
fn shown(
    dump: Dumped,
    (protocol, port, more): (Protocol, u16, u16),
    [addresses, of_others]: [Addresses<'_>; 2],
    own: &[Inode],
) -> BTreeSet<IpAddr> {
    let others = (1..=more).map(|number| port.checked_sub(number).unwrap());
    let wanted: Vec<_> = others.chain([port]).map(|port| (protocol, Port::new(port).unwrap())).collect();
    let seen = std::cell::RefCell::default();
    let keep = |socket: &Socket| {
        let seen: &mut BTreeSet<IpAddr> = &mut seen.borrow_mut();
        own.contains(&socket.inode) && seen.insert(socket.local.ip())
    };
    let bound_to = |_, asked: Port| {
        let addresses = if asked.get() == port { addresses } else { of_others };
        (!addresses.is_empty()).then(|| addresses.iter().map(|address| address.parse().unwrap()).collect())
    };
    dump(&wanted, &Wish { keep: &keep, bound_to: &bound_to, interrupt: &Interrupt::default() }).unwrap();
    seen.into_inner()
}

#[test]
fn the_kernel_leaves_out_what_is_bound_elsewhere() {
    let port = port_of(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).get();
    let everything = ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.3"];
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), port);
    let tcp = everything.map(|address| TcpListener::bind(at(address)).unwrap());
    let udp = everything.map(|address| UdpSocket::bind(at(address)).unwrap());
    let clients = everything.map(|address| TcpStream::connect(at(address)).unwrap());
    let accepted = tcp.each_ref().map(|listener| listener.accept().unwrap().0);
    let tcp_and_udp = [(Protocol::Tcp, tcp.each_ref().map(inode_of)), (Protocol::Udp, udp.each_ref().map(inode_of))];
    let accepted = accepted.each_ref().map(inode_of);
    let many: Vec<String> = (0..=MOST_ADDRESSES).map(|number| format!("127.1.0.{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let rows: [(Vec<&str>, &[&str]); 8] = [
        (vec![], &everything),
        (vec!["127.0.0.1"], &everything[..1]),
        (vec!["127.0.0.9", "0.0.0.0", "127.0.0.2", "::"], &everything[1..2]),
        (vec!["::1", "127.0.0.2"], &everything[1..3]),
        (vec!["127.0.0.3"], &everything[3..]),
        (vec!["::2", "127.0.0.9"], &[]),
        (many[1..].to_vec(), &[]),
        // Too many for the kernel to be told.
        (many.clone(), &everything),
    ];
    for (addresses, expected) in rows {
        let expected: BTreeSet<IpAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
        // One port, and more than are asked for one by one.
        for ((protocol, own), more) in tcp_and_udp.iter().flat_map(|each| [(each, 0), (each, 20)]) {
            let seen = shown(listeners, (*protocol, port, more), [&addresses; 2], own);
            assert_eq!(seen, expected, "{addresses:?}");
        }
        for more in [0, 20] {
            let seen = shown(others, (Protocol::Tcp, port, more), [&addresses; 2], &accepted);
            assert_eq!(seen, expected, "{addresses:?}");
        }
    }
    // All ports of one dump are told as one: what is wanted of any of them is shown.
    for (addresses, expected) in [
        ([&["127.0.0.1"][..], &[]], &everything[..]),
        ([&[], &["127.0.0.1"]], &everything),
        ([&["127.0.0.1"], &["127.0.0.2"]], &everything[..2]),
    ] {
        let expected: BTreeSet<IpAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
        for (protocol, own) in &tcp_and_udp {
            assert_eq!(shown(listeners, (*protocol, port, 20), addresses, own), expected, "{addresses:?}");
        }
        assert_eq!(shown(others, (Protocol::Tcp, port, 20), addresses, &accepted), expected, "{addresses:?}");
    }
    drop(clients);
    let everywhere = TcpListener::bind("[::]:0").unwrap();
    let port = everywhere.local_addr().unwrap().port();
    for (addresses, is_shown) in [(&["127.0.0.1", "0.0.0.0", "::"][..], true), (&["127.0.0.1", "0.0.0.0"], false)] {
        let seen = shown(listeners, (Protocol::Tcp, port, 0), [addresses, &[]], &[inode_of(&everywhere)]);
        assert_eq!(!seen.is_empty(), is_shown, "{addresses:?}");
    }
}

/// A socket with IPv6 alone, or bound and idle, or of MPTCP: what the standard library cannot make.
fn special(protocol: Option<SockProtocol>, listens: bool) -> (OwnedFd, Port) {
    let held = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    setsockopt(&held, sockopt::Ipv6V6Only, &true).unwrap();
    let address: SocketAddr = "[::]:0".parse().unwrap();
    bind(held.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    if listens {
        listen(&held, Backlog::new(1).unwrap()).unwrap();
    }
    let name: SockaddrStorage = getsockname(held.as_raw_fd()).unwrap();
    let port = Port::new(name.as_sockaddr_in6().unwrap().port()).unwrap();
    (held, port)
}

#[test]
fn ipv6_alone_is_told_from_dual_stack() {
    let (held, port) = special(None, true);
    let found = find(listeners(&[(Protocol::Tcp, port)], &Wish::all(&Interrupt::default())).unwrap(), inode_of(&held));
    assert!(found.v6only);
}

#[test]
fn a_bound_idle_socket_is_found() {
    // Linux 6.8 and later, which the machines that run the tests have.
    let (held, port) = special(None, false);
    let found = find(others(&[(Protocol::Tcp, port)], &Wish::all(&Interrupt::default())).unwrap(), inode_of(&held));
    assert_eq!((found.state, found.v6only, found.cgroup), (SocketState::Bound, true, own_cgroup()));
}

#[test]
fn an_mptcp_listener_is_found_as_tcp_with_the_inode_that_its_process_shows() {
    let held = crate::sys::mptcp_socket().unwrap();
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    bind(held.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&held, Backlog::new(1).unwrap()).unwrap();
    let name: SockaddrStorage = getsockname(held.as_raw_fd()).unwrap();
    let port = Port::new(name.as_sockaddr_in().unwrap().port()).unwrap();
    let dumped = find(listeners(&[(Protocol::Tcp, port)], &Wish::all(&Interrupt::default())).unwrap(), inode_of(&held));
    assert_eq!((dumped.state, dumped.cgroup), (SocketState::Listen, own_cgroup()));
    assert_eq!(listeners_at(&[SocketAddr::new("127.0.0.1".parse().unwrap(), port.get())]), Ok(vec![dumped]));
}

#[test]
fn a_socket_keeps_the_cgroup_in_which_it_was_born() {
    let (born, later) = (Cgroup::create("born"), Cgroup::create("later"));
    let child = Child::spawn(Role::Listen, &[("PORTGUARD_TEST_CGROUP", born.dir().to_str().unwrap())]);
    std::fs::write(later.dir().join("cgroup.procs"), child.pid().to_string()).unwrap();
    let found =
        find(listeners(&[(Protocol::Tcp, child.port())], &Wish::all(&Interrupt::default())).unwrap(), child.inode());
    assert_eq!(found.cgroup, Some(CgroupId(std::fs::metadata(born.dir()).unwrap().ino())));
}

#[test]
fn connections_and_what_is_left_of_them_are_found_by_their_local_port() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let client_address = client.local_addr().unwrap();
    let (accepted, _) = server.accept().unwrap();

    let found = find(
        others(&[(Protocol::Tcp, port_of(client_address))], &Wish::all(&Interrupt::default())).unwrap(),
        inode_of(&client),
    );
    assert_eq!((found.state, found.peer, found.left), (SocketState::Connected, Some(address), None));
    let found = find(
        others(&[(Protocol::Tcp, port_of(address))], &Wish::all(&Interrupt::default())).unwrap(),
        inode_of(&accepted),
    );
    assert_eq!((found.local, found.peer), (address, Some(client_address)));

    // The side that closes first waits: as FIN_WAIT2 while the other is open, then as TIME_WAIT.
    drop(accepted);
    for client in [Some(client), None] {
        // In the moment in which TIME_WAIT takes the place of the socket, a dump has neither: it is in the table before
        // anybody may refer to it (`inet_twsk_hashdance_schedule()`, Linux 6.18 `net/ipv4/inet_timewait_sock.c`).
        let of_client = || {
            let found = others(&[(Protocol::Tcp, port_of(address))], &Wish::all(&Interrupt::default())).unwrap();
            found.into_iter().find(|socket| socket.peer == Some(client_address))
        };
        let found = (0..1000).find_map(|_| of_client()).unwrap();
        assert_eq!((found.state, found.inode), (SocketState::TimeWait, Inode(0)), "client open: {}", client.is_some());
        // `TCP_TIMEWAIT_LEN`, Linux `include/net/tcp.h`. FIN_WAIT2 may be that of a socket as ever, whose end is told.
        let is_told = found.left.is_some_and(|left| left <= Duration::from_mins(1) && !left.is_zero());
        assert!(is_told || client.is_some(), "{found:?}");
    }
}

#[test]
fn more_ports_than_the_kernel_is_asked_for_one_by_one_give_the_same_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port_of(listener.local_addr().unwrap());
    let mut wanted: Vec<_> = (1..200).map(|n| (Protocol::Tcp, Port::new(n).unwrap())).collect();
    wanted.push((Protocol::Tcp, port));
    let sockets = listeners(&wanted, &Wish::all(&Interrupt::default())).unwrap();
    assert!(sockets.iter().all(|socket| wanted.contains(&(socket.protocol, port_of(socket.local)))));
    find(sockets, inode_of(&listener));
}

#[test]
fn no_ports_are_no_sockets() {
    assert_eq!(listeners(&[], &Wish::all(&Interrupt::default())), Ok(Vec::new()));
}
