//! How the service manager is reached: over the bus, else through `systemctl`, which root's manager answers on its
//! private socket. Everything has a deadline. What is asked, and what for, is others' to say.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use crate::interrupt::Interrupt;
use crate::pipe::read_until;
use crate::sys;
use crate::word::{Conversation, Teller, spawn};

/// Which manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The system's.
    System,
    /// The one of the user who runs portguard.
    User,
}

/// Where sd-bus looks by default, and not where the environment says: that is the unit's, and what the bus says may get
/// a process stopped. `run` is `/run`, or `$XDG_RUNTIME_DIR` in a user manager.
pub(crate) fn bus_address(scope: Scope, run: &Path) -> String {
    match scope {
        Scope::System => "unix:path=/run/dbus/system_bus_socket".to_owned(),
        Scope::User => format!("unix:path={}/bus", run.display()),
    }
}

/// Runs a conversation over the bus in a thread of its own, which sends what comes of it: a hung bus takes the connection
/// and then says nothing, which no timeout of the library covers. A thread that never comes back ends with the process.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn in_thread<T: Send + 'static, F: Future<Output = ()>>(
    conversation: impl FnOnce(Teller<T>) -> F + Send + 'static,
) -> Result<Conversation<T>, String> {
    spawn(|teller| zbus::block_on(conversation(teller)))
}

/// What is said where PID 1 executes itself anew: meanwhile it takes no connections, and those that it had are gone.
const BEGINS_ANEW: [&str; 5] = [
    NOT_CONNECTED,
    "Connection reset by peer",
    "Connection terminated",
    "Transport endpoint is not connected",
    "Message recipient disconnected",
];

/// What is said where nothing was sent.
pub(crate) const NOT_CONNECTED: &str = "Connection refused";

/// How long that is waited for.
const ANEW: Duration = Duration::from_secs(1);

/// Whether a job may still be asked for, and whether it was: between the thread that asks and the one that calls it off.
#[derive(Debug, Default)]
pub(crate) struct Leave(AtomicU8);

impl Leave {
    const ASKED: u8 = 1;
    const CALLED_OFF: u8 = 2;

    /// Whether it may be asked for; from then on it counts as asked for.
    pub(crate) fn take(&self) -> bool {
        let asked = |state| (state & Self::CALLED_OFF == 0).then_some(state | Self::ASKED);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, asked).is_ok()
    }

    /// From now on it may not be asked for; whether it was before.
    pub(crate) fn call_off(&self) -> bool {
        self.0.fetch_or(Self::CALLED_OFF, Ordering::AcqRel) & Self::ASKED != 0
    }
}

/// Which manager is asked, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Systemctl<'a> {
    pub(crate) scope: Scope,
    /// `/run`, or `$XDG_RUNTIME_DIR` in a user manager.
    pub(crate) run: &'a Path,
    pub(crate) deadline: Instant,
}

impl Systemctl<'_> {
    /// What it writes to its standard output. It is run again where PID 1 is about to be back: what is so can be asked twice.
    ///
    /// # Errors
    /// It cannot be run, is not done at the deadline or when something comes to end us, or does not succeed; the reason,
    /// and what it wrote to standard error.
    pub(crate) fn ask(self, args: &[&str], interrupt: &Interrupt) -> Result<String, String> {
        let is_away = |why: &str| BEGINS_ANEW.iter().any(|words| why.contains(words));
        self.again(is_away, interrupt, || {
            if interrupt.has_come() { Err("called off".to_owned()) } else { self.once(args, interrupt) }
        })
    }

    /// Has it ask for a job, and waits for that. It is run again only where nothing of it has come to PID 1: else the job may
    /// be over, and the next one be for something that has come since.
    ///
    /// # Errors
    /// As [`Self::ask`]; or it was called off before it was run.
    pub(crate) fn job(self, args: &[&str], leave: &Leave) -> Result<(), String> {
        let nothing = Interrupt::default();
        let once = || if leave.take() { self.once(args, &nothing) } else { Err("called off".to_owned()) };
        self.again(|why| why.contains(NOT_CONNECTED), &nothing, once).map(drop)
    }

    /// Once, and once more as soon as it is listened for that PID 1 is back; then each time that it may be, and when the time
    /// for that is over: it may be slow to listen.
    fn again(
        self,
        is_away: impl Fn(&str) -> bool,
        interrupt: &Interrupt,
        mut once: impl FnMut() -> Result<String, String>,
    ) -> Result<String, String> {
        let mut absence: Option<Absence> = None;
        loop {
            let why = match once() {
                Err(why) if is_away(&why) => why,
                other => return other,
            };
            match &absence {
                None => {
                    let until = self.deadline.min(Instant::now() + ANEW);
                    absence = Some(Absence::new(self.run, until).map_err(|_| why)?);
                }
                Some(absence) if Instant::now() >= absence.until || interrupt.has_come() => return Err(why),
                Some(absence) => absence.wait(interrupt),
            }
        }
    }

    fn once(self, args: &[&str], interrupt: &Interrupt) -> Result<String, String> {
        // All that systemctl could say, and for four milliseconds less.
        if !matches!(sd_notify::booted(), Ok(true)) {
            return Err("this system was not booted with systemd, or its /run is hidden here".to_owned());
        }
        let mut command = Command::new("systemctl");
        // A clean environment: neither the unit's PATH nor its locale or bus address has a say in what root runs.
        command.env_clear().env("PATH", "/usr/bin:/bin:/run/current-system/sw/bin").env("LC_ALL", "C.UTF-8");
        if self.scope == Scope::User {
            command.arg("--user").env("XDG_RUNTIME_DIR", self.run);
        }
        sys::prepare(&mut command);
        let (output, stderr) = std::io::pipe().map_err(|error| error.to_string())?;
        let mut child = command
            .args(["--no-pager", "--no-ask-password"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| error.to_string())?;
        // Ours is the only end that is left, so that the pipe has an end.
        drop(command);
        let written = child.stdout.take().map_or(Ok(Vec::new()), |pipe| read_until(pipe, self.deadline, interrupt));
        if written.is_err() {
            // Our own child, not yet waited for: its number is still its own.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        let text = String::from_utf8(written?).map_err(|error| error.to_string())?;
        if status.success() {
            return Ok(text);
        }
        let why =
            read_until(output, self.deadline, interrupt).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        match why {
            Ok(why) if !why.is_empty() => Err(why),
            Ok(_) | Err(_) => Err(format!("systemctl ended with {status}")),
        }
    }
}

/// Waits for the manager's private socket, which it makes anew once it is back (`bus_init_private()`, systemd v257
/// `src/core/dbus.c`).
struct Absence {
    folder: OwnedFd,
    until: Instant,
}

impl Absence {
    fn new(run: &Path, until: Instant) -> rustix::io::Result<Self> {
        use inotify::{CreateFlags, WatchFlags};
        let folder = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&folder, run.join("systemd"), WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Self { folder, until })
    }

    /// Waits until something was made in its folder, or its time is over.
    fn wait(&self, interrupt: &Interrupt) {
        let left = self.until.saturating_duration_since(Instant::now());
        // Where it fails, the manager is only asked too early.
        let _ = interrupt.wait_for(&[self.folder.as_fd()], left);
        // What was made is not looked at: any of it is a reason to ask again.
        let mut events = [0; 4096];
        while rustix::io::read(&self.folder, &mut events).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_was_called_off_is_not_asked_for_and_what_was_asked_for_is_known_to_be() {
        let called_off = Leave::default();
        assert!(!called_off.call_off());
        assert!(!called_off.take() && !called_off.call_off());
        let asked = Leave::default();
        assert!(asked.take() && asked.take());
        assert!(asked.call_off());
        assert!(!asked.take() && asked.call_off());
    }

    #[test]
    fn systemctl_is_run_again_for_what_was_never_sent_and_only_for_that() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("systemd")).unwrap();
        let run = |is_away: &dyn Fn(&str) -> bool, why: &str| {
            let mut runs = 0;
            let deadline = Instant::now() + Duration::from_secs(20);
            let systemctl = Systemctl { scope: Scope::System, run: folder.path(), deadline };
            let told = systemctl.again(is_away, &Interrupt::default(), || {
                runs += 1;
                if runs == 1 { Err(why.to_owned()) } else { Ok(String::new()) }
            });
            (runs, told.is_ok())
        };
        assert_eq!(run(&|why| why.contains(NOT_CONNECTED), "Failed to connect to bus: Connection refused"), (2, true));
        for sent in &BEGINS_ANEW[1..] {
            assert_eq!(run(&|why| why.contains(NOT_CONNECTED), sent), (1, false), "{sent}");
        }
    }

    /// How often it is run where its private socket is made anew so long after that was listened for, and how long all took.
    fn runs_until_back(back_after: Option<Duration>) -> (usize, bool, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let systemd = folder.path().join("systemd");
        std::fs::create_dir(&systemd).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let systemctl = Systemctl { scope: Scope::System, run: folder.path(), deadline };
        let (mut runs, mut listener) = (0, None);
        let began = Instant::now();
        let told = systemctl.again(
            |_| true,
            &Interrupt::default(),
            || {
                runs += 1;
                let private = systemd.join("private");
                if runs == 2
                    && let Some(after) = back_after
                {
                    listener = Some(std::thread::spawn(move || {
                        std::thread::sleep(after);
                        UnixListener::bind(private).unwrap()
                    }));
                }
                if runs == 3 { Ok(String::new()) } else { Err(NOT_CONNECTED.to_owned()) }
            },
        );
        drop(listener.map(|thread| thread.join().unwrap()));
        (runs, told.is_ok(), began.elapsed())
    }

    #[test]
    fn systemctl_is_run_again_when_the_manager_is_back_and_not_before() {
        let (runs, told, took) = runs_until_back(Some(Duration::from_millis(300)));
        assert_eq!((runs, told), (3, true));
        assert!(took >= Duration::from_millis(300) && took < ANEW, "{took:?}");
        let (runs, told, took) = runs_until_back(None);
        assert_eq!((runs, told), (3, true), "the last time when its time is over");
        assert!(took >= ANEW && took < Duration::from_secs(10), "{took:?}");
    }
}
