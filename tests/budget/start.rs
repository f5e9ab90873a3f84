//! What systemd gives to a unit's start, without a systemd: shared by the tests that look at single system calls.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::{fs, process, thread};

use tempfile::TempDir;

/// A cgroup of the unit's name, a folder in the place of /run, and a journal that reads.
pub(crate) struct Start {
    pub(crate) unit: String,
    pub(crate) cgroup: PathBuf,
    /// Stands in the place of /run, and is a tmpfs as that is.
    pub(crate) run: TempDir,
}

impl Start {
    /// With this policy for the unit, whose name is made of this word.
    pub(crate) fn new(word: &str, policy: impl Fn(&str) -> String) -> io::Result<Self> {
        let unit = format!("portguard-{word}-{}.service", process::id());
        let cgroup = cgroup2()?.join(&unit);
        let run = tempfile::tempdir_in("/dev/shm")?;
        fs::create_dir_all(run.path().join("systemd/journal"))?;
        fs::create_dir(run.path().join("systemd/units"))?;
        fs::create_dir(run.path().join("portguard"))?;
        fs::write(run.path().join("portguard/portguard.toml"), policy(&unit))?;
        let journal = UnixDatagram::bind(run.path().join("systemd/journal/socket"))?;
        thread::spawn(move || while journal.recv(&mut [0; 4096]).is_ok() {});
        fs::create_dir(&cgroup)?;
        Ok(Self { unit, cgroup, run })
    }

    /// Where systemd notes the invocation of each run, before it runs any command of it.
    pub(crate) fn noted(&self) -> PathBuf {
        self.run.path().join(format!("systemd/units/invocation:{}", self.unit))
    }

    pub(crate) fn ledger(&self) -> io::Result<String> {
        fs::read_to_string(self.ledger_file())
    }

    pub(crate) fn ledger_file(&self) -> PathBuf {
        self.run.path().join("portguard/ledger").join(&self.unit)
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        // Everything in it has been waited for. What a killed test leaves is one empty cgroup.
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// The root of the hierarchy: a cgroup there has the path that systemd gives to a unit in `-.slice`.
fn cgroup2() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields.get(2) == Some(&"cgroup2")).and_then(|fields| fields.get(1).copied());
    mount.map(PathBuf::from).ok_or_else(|| io::Error::other("cgroup2 is not mounted"))
}
