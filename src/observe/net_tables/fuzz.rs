//! The rules that the tables of sockets keep: see [`crate::fuzzing`].

use super::*;

/// A table of each protocol, of which some ports are wanted.
pub(crate) fn of_sockets(table: &[u8]) {
    let ports: Vec<Port> = [22, 53, 80, 0x1f90].into_iter().filter_map(Port::new).collect();
    let lines = lines_of(table, &ports, &Interrupt::default()).unwrap();
    assert!(
        lines.len() <= table.len() && table.starts_with(lines.split_inclusive(|b| *b == b'\n').next().unwrap_or(b""))
    );
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for socket in parse(protocol, &lines, &ports).into_iter().flatten() {
            assert_eq!(socket.protocol, protocol);
            assert!(ports.iter().any(|port| port.get() == socket.local.port()), "{socket:?} was not asked for");
        }
    }
}
