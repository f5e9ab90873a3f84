//! A container or virtual machine, as somebody else's engine runs it.

use std::fmt;

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Docker (Moby).
    Docker,
    /// Podman (libpod).
    Podman,
    /// containerd, by `nerdctl`.
    Nerdctl,
    /// A Kubernetes runtime: containerd's CRI plug-in, CRI-O.
    Cri,
    /// A machine that systemd-machined knows: systemd-nspawn, libvirt.
    Machined,
    /// LXC, and LXD or Incus on top of it.
    Lxc,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Nerdctl => "nerdctl",
            Self::Cri => "cri",
            Self::Machined => "machine",
            Self::Lxc => "lxc",
        })
    }
}

/// One container, by what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// Who runs it.
    pub engine: Engine,
    /// Its name, or its id in the length that the engine's own tools print; `None` where neither was told.
    pub name: Option<String>,
}

impl Container {
    /// How many digits of an id Docker, Podman and nerdctl print.
    pub const ID_DIGITS: usize = 12;

    /// How many digits of an id `crictl` prints.
    pub const CRI_ID_DIGITS: usize = 13;
}

impl fmt::Display for Container {
    /// `docker container web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.engine, &self.name) {
            (Engine::Machined, Some(name)) => write!(f, "machine {name}"),
            (Engine::Machined, None) => f.write_str("a machine"),
            (engine, Some(name)) => write!(f, "{engine} container {name}"),
            (engine, None) => write!(f, "a {engine} container"),
        }
    }
}
