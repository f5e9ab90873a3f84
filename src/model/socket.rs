//! A socket as the kernel shows it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::Protocol;

/// The inode number of a socket, as in the link text `socket:[INODE]` of `/proc/PID/fd`. 0: no file has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub u64);

/// The 64-bit id of a cgroup v2: the inode number of its directory, never used twice in one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId(pub u64);

impl CgroupId {
    /// The id of the root cgroup, whatever the machine: the first node of its kernfs.
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The path of a cgroup below the root of the hierarchy, with its leading slash, as in `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(pub String);

impl CgroupPath {
    /// Whether `self` is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        match self.0.strip_prefix(ancestor.0.trim_end_matches('/')) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The states that matter to somebody who wants to bind (Linux `include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketState {
    /// A TCP listener (`TCP_LISTEN`).
    Listen,
    /// A TCP socket that is bound, and neither listens nor is connected (`TCP_BOUND_INACTIVE`, Linux 6.8).
    Bound,
    /// A UDP socket that has no peer (`TCP_CLOSE` in the UDP tables).
    Unconnected,
    /// A connection: a client, or an accepted socket of a server; UDP with a peer.
    Connected,
    /// A TCP connection that is over but for the waiting; no process has it.
    TimeWait,
}

impl SocketState {
    /// Whether it waits for somebody: a listener, or a UDP socket without a peer.
    #[must_use]
    pub fn waits(self) -> bool {
        matches!(self, Self::Listen | Self::Unconnected)
    }
}

/// The connections that a listener has not accepted yet (listen(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// So many wait.
    pub waiting: u32,
    /// At most so many may.
    pub limit: u32,
}

/// One socket of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The local address and port; a v4-mapped address stays as the kernel shows it.
    pub local: SocketAddr,
    /// The peer, for [`SocketState::Connected`] and [`SocketState::TimeWait`].
    pub peer: Option<SocketAddr>,
    /// IPv6 alone. Always true for an IPv6 socket of which it is not known, where its address is a specific one.
    pub v6only: bool,
    /// What it is doing.
    pub state: SocketState,
    /// Its inode.
    pub inode: Inode,
    /// The user that made it.
    pub uid: u32,
    /// The network device to which it is bound (`SO_BINDTODEVICE`, socket(7)), by its name, or by its number where it has
    /// none any more; `None`: to none, or not told.
    pub device: Option<String>,
    /// The cgroup in which it was born; `None` before Linux 5.8, where netlink is denied or no cgroup2 is mounted, or if it is
    /// the root, which the kernel says as well where it does not know: before 5.15 with the controller `net_cls` or `net_prio`
    /// (`sock_cgroup_ptr()`, Linux 5.10 `include/linux/cgroup.h`).
    pub cgroup: Option<CgroupId>,
    /// For [`SocketState::Listen`], where netlink tells.
    pub backlog: Option<Backlog>,
    /// So long from when it was asked, what is left of a connection stays in [`SocketState::TimeWait`], where netlink tells.
    pub left: Option<Duration>,
}

#[cfg(test)]
impl Socket {
    /// A listener at this address, of which nothing else is known.
    pub(crate) fn listening(protocol: Protocol, local: SocketAddr) -> Self {
        Self {
            protocol,
            local,
            peer: None,
            v6only: false,
            state: SocketState::Listen,
            inode: Inode(1),
            uid: 0,
            device: None,
            cgroup: None,
            backlog: None,
            left: None,
        }
    }
}
