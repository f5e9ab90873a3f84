//! How the service manager is reached: over the bus, else through `systemctl`, which root's manager answers on its
//! private socket. Everything has a deadline. What is asked, and what for, is others' to say.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::pipe::read_until;
use crate::sys;

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
    conversation: impl FnOnce(Sender<T>) -> F + Send + 'static,
) -> Result<Receiver<T>, String> {
    let (send, receive) = mpsc::channel();
    spawn(Box::new(move || zbus::block_on(conversation(send))))?;
    Ok(receive)
}

/// Runs it in a thread of its own. It is boxed so that what makes a thread is in the binary once.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn spawn(work: Box<dyn FnOnce() + Send>) -> Result<(), String> {
    let thread = std::thread::Builder::new().name("manager".to_owned()).spawn(work);
    thread.map(drop).map_err(|error| format!("no thread for it: {error}"))
}

/// What is said where PID 1 executes itself anew: meanwhile it takes no connections, and those that it had are gone.
const BEGINS_ANEW: [&str; 5] = [
    "Connection refused",
    "Connection reset by peer",
    "Connection terminated",
    "Transport endpoint is not connected",
    "Message recipient disconnected",
];

/// How long that is waited for, and how often it is asked again.
const ANEW: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What `systemctl` writes to its standard output. It is run again where PID 1 is about to be back: it is asked for what is
/// so, or for a job that may be there already, which are the same the second time.
///
/// # Errors
/// It cannot be run, is not done at `deadline`, or does not succeed; the reason, and what it wrote to standard error.
pub(crate) fn systemctl(scope: Scope, run: &Path, args: &[&str], deadline: Instant) -> Result<String, String> {
    let mut absent_since = None;
    loop {
        let why = match systemctl_once(scope, run, args, deadline) {
            Err(why) if BEGINS_ANEW.iter().any(|words| why.contains(words)) => why,
            other => return other,
        };
        let back_by = *absent_since.get_or_insert_with(Instant::now) + ANEW;
        if Instant::now() + ASK_AGAIN > back_by.min(deadline) {
            return Err(why);
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn systemctl_once(scope: Scope, run: &Path, args: &[&str], deadline: Instant) -> Result<String, String> {
    // All that systemctl could say, and for four milliseconds less.
    if !matches!(sd_notify::booted(), Ok(true)) {
        return Err("this system was not booted with systemd".to_owned());
    }
    let mut command = Command::new("systemctl");
    // A clean environment: neither the unit's PATH nor its locale or bus address has a say in what root runs.
    command.env_clear().env("PATH", "/usr/bin:/bin:/run/current-system/sw/bin").env("LC_ALL", "C.UTF-8");
    if scope == Scope::User {
        command.arg("--user").env("XDG_RUNTIME_DIR", run);
    }
    sys::unblock_signals_of(&mut command);
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
    let written = child.stdout.take().map_or(Ok(Vec::new()), |pipe| read_until(pipe, deadline));
    if written.is_err() {
        // Our own child, not yet waited for: its number is still its own.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = String::from_utf8(written?).map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(text);
    }
    let why = read_until(output, deadline).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    match why {
        Ok(why) if !why.is_empty() => Err(why),
        Ok(_) | Err(_) => Err(format!("systemctl ended with {status}")),
    }
}
