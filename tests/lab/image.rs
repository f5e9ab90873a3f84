//! The root file systems the machines boot from: one Debian release for each systemd, built once with mmdebstrap, bare
//! and, for the scenarios that want it, stocked with the software of a real host.
//!
//! They are unpacked trees in `target/TRIPLE/lab/images/`, read-only by use: a machine sees them through an overlay.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, io};

/// A Debian release, chosen for the systemd it brings.
pub(crate) struct Release {
    /// Debian's name for it, which is also the first half of a trial's name.
    pub(crate) name: &'static str,
    /// The major version its `systemctl --version` reports.
    pub(crate) systemd: u32,
    /// A testing release moves on; the others must have exactly this version.
    pub(crate) may_be_newer: bool,
    /// The trees, or why there is none; asked for by the first trial that needs one.
    bare: OnceLock<Result<PathBuf, String>>,
    stocked: OnceLock<Result<PathBuf, String>>,
}

/// What a release's tree has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// systemd, and what the test listeners need.
    Bare,
    /// Also servers and container engines, none of which runs before a scenario starts it.
    Stocked,
}

/// The systemds portguard is tested on, the oldest first.
pub(crate) static RELEASES: [Release; 4] = [
    Release::exactly("bullseye", 247),
    Release::exactly("bookworm", 252),
    Release::exactly("trixie", 257),
    Release::at_least("forky", 262),
];

/// What a machine needs beyond Debian's essential packages.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd", // logind sessions for su
    "iproute2",       // ss
    "lsof",
    "procps",
    "psmisc",  // fuser
    "python3", // tests/lab/listeners
    "login",
];

/// The software of a real host, beside [`PACKAGES`].
const STOCK: &[&str] = &[
    "busybox-static",                                       // all that is in a container
    "?or(?exact-name(docker.io), ?exact-name(docker-cli))", // before trixie they were one
    "gunicorn",
    "iptables", // docker
    "memcached",
    "nftables", // podman
    "nginx",
    "openssh-server",
    "podman",
    "redis-server",
    "rpcbind",
    "systemd-container",
    "systemd-journal-remote",
    "uvicorn",
];

/// The units of [`STOCK`] that Debian starts at boot, on one release or another.
const STARTED_BY_DEBIAN: &[&str] = &[
    "containerd.service",
    "docker.service",
    "docker.socket",
    "memcached.service",
    "netavark-dhcp-proxy.service",
    "netavark-dhcp-proxy.socket",
    "nginx.service",
    "podman-auto-update.service",
    "podman-auto-update.timer",
    "podman-restart.service",
    "podman.service",
    "podman.socket",
    "redis-server.service",
    "rpcbind.service",
    "rpcbind.socket",
    "ssh.service",
    "systemd-journal-remote.socket",
    "systemd-journal-upload.service",
];

/// What Debian starts at boot and no scenario needs.
const NEVER_NEEDED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "getty-static.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
];

/// A host need not have the pids controller in cgroup2, nor give root `CAP_SYS_RESOURCE`, which crun asks for.
const PODMAN: &str = "[containers]\npids_limit = 0\n\n[engine]\nruntime = \"runc\"\n";

/// Debian's archive of security updates lists bullseye's systemd-journal-remote, and answers with 404 to whoever wants
/// it; it has to be of the same version as systemd. On the other releases this matches nothing.
const ALL_OF_SYSTEMD: &str = "Package: src:systemd\nPin: release n=bullseye\nPin-Priority: 1001\n";

/// To be counted up when the tree is built differently from the same packages.
const RECIPE: u32 = 1;

/// The programs of the host that the lab is made with, and the Debian packages they come from.
const TOOLS: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
];

impl Release {
    const fn exactly(name: &'static str, systemd: u32) -> Self {
        Self { name, systemd, may_be_newer: false, bare: OnceLock::new(), stocked: OnceLock::new() }
    }

    const fn at_least(name: &'static str, systemd: u32) -> Self {
        Self { name, systemd, may_be_newer: true, bare: OnceLock::new(), stocked: OnceLock::new() }
    }

    /// The release's root file system, built now if this host has never had it.
    pub(crate) fn tree(&self, image: Image) -> Result<&Path, String> {
        let tree = match image {
            Image::Bare => &self.bare,
            Image::Stocked => &self.stocked,
        };
        let tree = tree.get_or_init(|| {
            host_can_have_a_lab()?;
            self.cached_or_built(image)
        });
        tree.as_deref().map_err(Clone::clone)
    }

    fn cached_or_built(&self, image: Image) -> Result<PathBuf, String> {
        let images = images_dir().map_err(|error| format!("no folder for the lab's images: {error}"))?;
        let name = image.name_for(self);
        let tree = images.join(format!("{name}-{:016x}", image.recipe()));

        // Held until this function returns: the other test processes wait, and then find the tree.
        let lock = File::create(images.join(format!("{name}.lock")))
            .and_then(|lock| lock.lock().map(|()| lock))
            .map_err(|error| format!("cannot lock the image {name}: {error}"))?;
        if !tree.is_dir() {
            self.build(image, &images.join(format!("{name}.unfinished")), &tree)?;
        }
        drop(lock);
        Ok(tree)
    }

    /// Builds aside and renames, so that a tree with its final name is a whole one.
    fn build(&self, image: Image, unfinished: &Path, tree: &Path) -> Result<(), String> {
        let failed = |why: &str| format!("cannot build the image {} with mmdebstrap: {why}", image.name_for(self));
        if unfinished.exists() {
            fs::remove_dir_all(unfinished).map_err(|error| failed(&error.to_string()))?;
        }
        let output = dies_with_us("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["mmdebstrap", "--quiet", "--variant=minbase"])
            // One option a package: mmdebstrap takes a list apart at its commas, a pattern among it as well.
            .args(image.packages().map(|package| format!("--include={package}")))
            // A mirror's or snapshot's Release file may have outlived its date; the signatures still count.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .args(image.hooks_before().iter().map(|hook| format!("--setup-hook={hook}")))
            .args(image.hooks().iter().map(|hook| format!("--customize-hook={hook}")))
            .args([OsString::from(self.name), unfinished.into()])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(&error.to_string()))?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr)));
        }
        fs::rename(unfinished, tree).map_err(|error| failed(&error.to_string()))
    }
}

impl Image {
    fn name_for(self, release: &Release) -> String {
        match self {
            Self::Bare => release.name.to_owned(),
            Self::Stocked => format!("{}-stocked", release.name),
        }
    }

    fn packages(self) -> impl Iterator<Item = &'static str> {
        let stock = match self {
            Self::Bare => &[],
            Self::Stocked => STOCK,
        };
        PACKAGES.iter().chain(stock).copied()
    }

    /// Shell commands that prepare the tree, which is their `$1`.
    fn hooks_before(self) -> Vec<String> {
        match self {
            Self::Bare => Vec::new(),
            Self::Stocked => {
                let folder = "\"$1/etc/apt/preferences.d\"";
                vec![format!("mkdir -p {folder} && printf %s '{ALL_OF_SYSTEMD}' >{folder}/systemd")]
            }
        }
    }

    /// Shell commands that finish the tree, which is their `$1`.
    fn hooks(self) -> Vec<String> {
        let masked = |units: &[&str]| {
            format!(
                "cd \"$1/etc/systemd/system\" && for unit in {}; do ln -sf /dev/null \"$unit\"; done",
                units.join(" ")
            )
        };
        let mut hooks = vec![
            // mmdebstrap copies the builder's host name, which has no place in the machines' journals.
            "echo lab >\"$1/etc/hostname\"".to_owned(),
            // As on a host that has booted before: what systemd does after an upgrade of /usr was done.
            "touch \"$1/etc/.updated\" \"$1/var/.updated\"".to_owned(),
            // Half of what a reload costs, and none finds anything in a container: disks, consoles, scripts of SysV.
            "mkdir -p \"$1/etc/systemd/system-generators\" && cd \"$1/lib/systemd/system-generators\" && \
             for name in *; do ln -s /dev/null \"$1/etc/systemd/system-generators/$name\"; done"
                .to_owned(),
            masked(NEVER_NEEDED),
        ];
        if self == Self::Stocked {
            // `systemctl disable` does nothing at all where a release lacks one of them.
            let links: Vec<_> = STARTED_BY_DEBIAN.iter().map(|unit| format!("*.wants/{unit}")).collect();
            hooks.push(format!("cd \"$1/etc/systemd/system\" && rm -f {}", links.join(" ")));
            let file = "\"$1/etc/containers/containers.conf\"";
            hooks.push(format!("mkdir -p \"$1/etc/containers\" && printf %s '{PODMAN}' >{file}"));
        }
        hooks
    }

    /// What tells trees apart that were built differently.
    fn recipe(self) -> u64 {
        let mut hasher = DefaultHasher::new();
        RECIPE.hash(&mut hasher);
        self.packages().for_each(|package| package.hash(&mut hasher));
        self.hooks_before().iter().for_each(|hook| hook.hash(&mut hasher));
        self.hooks().hash(&mut hasher);
        hasher.finish()
    }
}

/// `lab/images` beside cargo's `tmp` in `target/TRIPLE/`, for root only: the trees hold setuid programs that will
/// never see an update.
fn images_dir() -> io::Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/TRIPLE/tmp has a parent");
    let images = target.join("lab/images");
    fs::create_dir_all(target.join("lab"))?;
    match DirBuilder::new().mode(0o700).create(&images) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(images),
    }
}

fn host_can_have_a_lab() -> Result<(), String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err("the lab boots machines and so needs root: run `sudo -E cargo test`".to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let missing: BTreeSet<_> = TOOLS
        .iter()
        .filter(|(tool, _)| !env::split_paths(&path).any(|folder| folder.join(tool).is_file()))
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("the lab lacks programs on this host: apt-get install {}", Vec::from_iter(missing).join(" ")))
}

/// A command that the kernel kills when the calling thread dies, however it dies: nothing of the lab outlives a test.
pub(crate) fn dies_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    // A session of its own, so that ^C reaches the test alone, which then takes everything with it.
    command.args(["--pdeathsig", "KILL", "setsid", program]);
    command
}
