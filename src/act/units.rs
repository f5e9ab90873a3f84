//! Has the service manager stop a unit, as `systemctl stop` does: a job, and then its end.
//!
//! The mode is always `fail`: with `replace`, a dependency between the units makes systemd cancel the very start that
//! waits for us. Nothing here says that a port is free afterwards: look again.

use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zbus::OwnedObjectPath;
use zbus::export::futures_core::Stream;

use crate::interrupt::Interrupt;
use crate::manager::{self, Leave, Scope, Systemctl};
use crate::model::UnitName;
use crate::timespan;
use crate::word;

/// How long the manager may take to answer that it has queued a job.
const PATIENCE: Duration = Duration::from_secs(1);

/// systemctl is ended at the deadline, and what it says then is worth a moment.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Why a unit was not stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopError {
    /// The manager will not: the job is in conflict with another, the unit is of a kind that cannot be stopped, or nobody
    /// answers. Nothing was stopped.
    Refused(String),
    /// The job ended in something else than success: its result, or what systemctl says.
    Failed(String),
    /// The job was not over in time. The manager goes on with it.
    Late,
    /// The manager was asked, and is gone or silent since: the job may be there, over, or never have been. Look again.
    Unclear(String),
    /// Something came to end us before the manager was asked.
    NotAsked,
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "systemd does not stop it: {why}"),
            Self::Failed(result) => write!(f, "systemd could not stop it: {result}"),
            Self::Late => f.write_str("systemd has not stopped it in time"),
            Self::Unclear(why) => write!(f, "systemd was asked to stop it, and what came of that is not known: {why}"),
            Self::NotAsked => f.write_str("systemd was not asked to stop it"),
        }
    }
}

impl std::error::Error for StopError {}

/// Stops one unit, and waits for `patience` until its job is over. `run` is `/run`, or `$XDG_RUNTIME_DIR` in a user
/// manager.
///
/// Over the bus, else with `systemctl`, which waits for the job as well, and only where it was not asked for over the bus.
/// `has_bus`: whether the bus has answered the look before this. Where it is interrupted, it is as if the time were over,
/// and nothing is asked for from then on.
///
/// # Errors
/// [`StopError`].
pub fn stop(
    unit: &UnitName,
    scope: Scope,
    run: &Path,
    has_bus: bool,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<(), StopError> {
    if interrupt.has_come() {
        return Err(StopError::NotAsked);
    }
    let deadline = Instant::now() + patience;
    let over_bus = has_bus.then(|| stop_over_bus(unit, scope, run, deadline, interrupt)).flatten();
    over_bus.unwrap_or_else(|| stop_with_systemctl(unit, scope, run, deadline, interrupt))
}

/// `None` where it was not asked for.
fn stop_over_bus(
    unit: &UnitName,
    scope: Scope,
    run: &Path,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Option<Result<(), StopError>> {
    let leave = Arc::new(Leave::default());
    let (address, wanted, theirs) = (manager::bus_address(scope, run), unit.clone(), Arc::clone(&leave));
    let told = manager::in_thread(move |teller| async move {
        match queue(&address, &wanted, &theirs).await {
            Ok(mut queued) => {
                teller.tell(Told::Queued);
                teller.tell(Told::Over(queued.end().await));
            }
            Err(BusError::NotReached) => {}
            Err(BusError::Stop(error)) => teller.tell(Told::Over(Err(error))),
        }
    });
    let told = told.ok()?;
    match told.until(deadline.min(Instant::now() + PATIENCE), interrupt) {
        Some(Told::Over(result)) => Some(result),
        Some(Told::Queued) => match told.until(deadline, interrupt) {
            Some(Told::Over(result)) => Some(result),
            Some(Told::Queued) | None => Some(Err(StopError::Late)),
        },
        None => match (leave.call_off(), interrupt.has_come()) {
            (true, true) => Some(Err(StopError::Late)),
            (true, false) => Some(Err(StopError::Unclear(format!("no answer within {}", timespan::show(PATIENCE))))),
            (false, true) => Some(Err(StopError::NotAsked)),
            (false, false) => None,
        },
    }
}

/// What the conversation comes to.
enum Told {
    /// There is a job.
    Queued,
    /// The job is over, or there is none.
    Over(Result<(), StopError>),
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Jobs {
    /// Without it the manager sends no signals.
    fn subscribe(&self) -> zbus::Result<()>;

    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

enum BusError {
    /// Before anything was asked for.
    NotReached,
    Stop(StopError),
}

impl From<zbus::Error> for BusError {
    fn from(_: zbus::Error) -> Self {
        Self::NotReached
    }
}

/// A job, and the signals that tell its end.
struct Queued {
    job: OwnedObjectPath,
    removed: JobRemovedStream,
}

async fn queue(address: &str, unit: &UnitName, leave: &Leave) -> Result<Queued, BusError> {
    let bus = zbus::connection::Builder::address(address).method_timeout(PATIENCE).build().await?;
    let jobs = JobsProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    // Listened for before the job is there, so that its end cannot be missed.
    let removed = jobs.receive_job_removed().await?;
    jobs.subscribe().await?;
    if !leave.take() {
        return Err(BusError::Stop(StopError::NotAsked));
    }
    let job = jobs.stop_unit(unit.as_str(), "fail").await.map_err(|error| BusError::Stop(not_queued(&error)))?;
    Ok(Queued { job, removed })
}

impl Queued {
    async fn end(&mut self) -> Result<(), StopError> {
        while let Some(signal) = poll_fn(|context| Pin::new(&mut self.removed).poll_next(context)).await {
            let Ok(args) = signal.args() else { continue };
            if args.job == self.job {
                return match args.result.as_str() {
                    "done" => Ok(()),
                    other => Err(StopError::Failed(other.to_owned())),
                };
            }
        }
        Err(StopError::Unclear("connection lost".to_owned()))
    }
}

/// What the bus says in the place of systemd, which may have the message or not: `NoReply` also where it has executed itself
/// anew meanwhile.
const OF_THE_BUS: [&str; 6] = ["NoReply", "Timeout", "TimedOut", "Disconnected", "ServiceUnknown", "NameHasNoOwner"];

/// What systemd answers, in its own words; anything else says nothing of what it does.
fn not_queued(error: &zbus::Error) -> StopError {
    let (name, why) = if let zbus::Error::MethodError(name, text, _) = error {
        (name.to_string(), text.clone().unwrap_or_else(|| name.to_string()))
    } else if let zbus::Error::FDO(error) = error {
        (zbus::DBusError::name(&**error).to_string(), error.to_string())
    } else {
        return StopError::Unclear(error.to_string());
    };
    let of_the_bus = name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|name| OF_THE_BUS.contains(&name));
    if of_the_bus { StopError::Unclear(why) } else { StopError::Refused(why) }
}

/// What `systemctl` says where the connection went after it had asked, or it was itself ended.
const LOST: [&str; 7] = [
    "Connection reset by peer",
    "Connection terminated",
    "Connection timed out",
    "Transport endpoint is not connected",
    "Message recipient disconnected",
    "Did not receive a reply",
    "ended with signal",
];

fn not_stopped(why: String) -> StopError {
    if LOST.iter().any(|words| why.contains(words)) {
        StopError::Unclear(why)
    } else if why.starts_with("Failed to stop") || why.contains(manager::NOT_CONNECTED) {
        // As systemctl says it where there is no job at all.
        StopError::Refused(why)
    } else {
        StopError::Failed(why)
    }
}

fn stop_with_systemctl(
    unit: &UnitName,
    scope: Scope,
    run: &Path,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<(), StopError> {
    let leave = Arc::new(Leave::default());
    let (wanted, run, theirs) = (unit.clone(), run.to_owned(), Arc::clone(&leave));
    let told = word::spawn(move |teller| {
        let arguments = ["stop", "--job-mode=fail", "--", wanted.as_str()];
        let result = Systemctl { scope, run: &run, deadline }.job(&arguments, &theirs);
        let is_late = Instant::now() >= deadline;
        teller.tell(result.map_err(|why| if is_late { StopError::Late } else { not_stopped(why) }));
    })
    .map_err(StopError::Refused)?;
    match told.until(deadline + LAST_WORD, interrupt) {
        Some(result) => result,
        None if leave.call_off() => Err(StopError::Late),
        None => Err(StopError::NotAsked),
    }
}

#[cfg(test)]
mod tests;
