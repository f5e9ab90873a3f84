//! The root file systems the machines boot from: one Debian release for each systemd, built once with mmdebstrap.
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
    /// The tree, or why there is none; asked for by the first trial that needs it.
    tree: OnceLock<Result<PathBuf, String>>,
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
    "procps",
    "python3", // tests/lab/listeners
    "login",
];

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
];

impl Release {
    const fn exactly(name: &'static str, systemd: u32) -> Self {
        Self { name, systemd, may_be_newer: false, tree: OnceLock::new() }
    }

    const fn at_least(name: &'static str, systemd: u32) -> Self {
        Self { name, systemd, may_be_newer: true, tree: OnceLock::new() }
    }

    /// The release's root file system, built now if this machine has never had it.
    pub(crate) fn tree(&self) -> Result<&Path, String> {
        let tree = self.tree.get_or_init(|| {
            host_can_have_a_lab()?;
            self.cached_or_built()
        });
        tree.as_deref().map_err(Clone::clone)
    }

    fn cached_or_built(&self) -> Result<PathBuf, String> {
        let mut hasher = DefaultHasher::new();
        (RECIPE, PACKAGES).hash(&mut hasher);
        let images = images_dir().map_err(|error| format!("no folder for the lab's images: {error}"))?;
        let tree = images.join(format!("{}-{:016x}", self.name, hasher.finish()));

        // Held until this function returns: the other test processes wait, and then find the tree.
        let lock = File::create(images.join(format!("{}.lock", self.name)))
            .and_then(|lock| lock.lock().map(|()| lock))
            .map_err(|error| format!("cannot lock the image of {}: {error}", self.name))?;
        if !tree.is_dir() {
            self.build(&images.join(format!("{}.unfinished", self.name)), &tree)?;
        }
        drop(lock);
        Ok(tree)
    }

    /// Builds aside and renames, so that a tree with its final name is a whole one.
    fn build(&self, unfinished: &Path, tree: &Path) -> Result<(), String> {
        let failed = |why: &str| format!("cannot build the image of {} with mmdebstrap: {why}", self.name);
        if unfinished.exists() {
            fs::remove_dir_all(unfinished).map_err(|error| failed(&error.to_string()))?;
        }
        let output = dies_with_us("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["mmdebstrap", "--quiet", "--variant=minbase"])
            .arg(format!("--include={}", PACKAGES.join(",")))
            // A mirror's or snapshot's Release file may have outlived its date; the signatures still count.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            // mmdebstrap copies the builder's host name, which has no place in the machines' journals.
            .arg("--customize-hook=echo lab >\"$1/etc/hostname\"")
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
