//! Has the service manager stop a unit, as `systemctl stop` does: a job, and then its end.
//!
//! The mode is always `fail`: with `replace`, a dependency between the units makes systemd cancel the very start that
//! waits for us. Nothing here says that a port is free afterwards: look again.

use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use zbus::OwnedObjectPath;
use zbus::export::futures_core::Stream;

use crate::interrupt::Interrupt;
use crate::manager::{self, Scope};
use crate::model::UnitName;

/// How long the manager may take to answer that it has queued a job.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked, while the manager is waited for, whether something has come to end us.
const LISTEN_AGAIN: Duration = Duration::from_millis(100);

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
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "systemd does not stop it: {why}"),
            Self::Failed(result) => write!(f, "systemd could not stop it: {result}"),
            Self::Late => f.write_str("systemd has not stopped it in time"),
        }
    }
}

impl std::error::Error for StopError {}

/// Stops one unit, and waits for `patience` until its job is over. `run` is `/run`, or `$XDG_RUNTIME_DIR` in a user
/// manager.
///
/// Over the bus, else with `systemctl`, which waits for the job as well. `has_bus`: whether the bus has answered the look
/// before this. Where it hangs after all, both may ask for the same job, which is one job to systemd. Where it is
/// interrupted, it is as if the time were over.
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
    let deadline = Instant::now() + patience;
    let with_systemctl = || stop_with_systemctl(unit, scope, run, deadline, interrupt);
    if !has_bus {
        return with_systemctl();
    }
    let address = manager::bus_address(scope, run);
    let wanted = unit.clone();
    let told = manager::in_thread(move |send| async move {
        // The receiver is gone if this came too late.
        match queue(&address, &wanted).await {
            Ok(mut queued) => {
                let _ = send.send(Told::Queued);
                let _ = send.send(Told::Over(queued.end().await));
            }
            Err(BusError::NotReached) => {}
            Err(BusError::Stop(error)) => drop(send.send(Told::Over(Err(error)))),
        }
    });
    let Ok(told) = told else { return with_systemctl() };
    match told_by(&told, deadline.min(Instant::now() + PATIENCE), interrupt) {
        Some(Told::Over(result)) => result,
        Some(Told::Queued) => match told_by(&told, deadline, interrupt) {
            Some(Told::Over(result)) => result,
            Some(Told::Queued) | None => Err(StopError::Late),
        },
        None if interrupt.has_come() => Err(StopError::Late),
        None => with_systemctl(),
    }
}

/// What the other thread tells until then, or until something ends us.
fn told_by(told: &Receiver<Told>, deadline: Instant, interrupt: &Interrupt) -> Option<Told> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match told.recv_timeout(left.min(LISTEN_AGAIN)) {
            Err(RecvTimeoutError::Timeout) if !left.is_zero() && !interrupt.has_come() => {}
            told => return told.ok(),
        }
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

async fn queue(address: &str, unit: &UnitName) -> Result<Queued, BusError> {
    let bus = zbus::connection::Builder::address(address).method_timeout(PATIENCE).build().await?;
    let jobs = JobsProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    // Listened for before the job is there, so that its end cannot be missed.
    let removed = jobs.receive_job_removed().await?;
    jobs.subscribe().await?;
    let job = jobs.stop_unit(unit.as_str(), "fail").await.map_err(|error| refused(&error))?;
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
        Err(StopError::Failed("connection lost".to_owned()))
    }
}

/// What systemd answers, in its own words. No answer in time is none: systemd may be busy, and queue the job later.
fn refused(error: &zbus::Error) -> BusError {
    let is_no_reply = |error: &zbus::fdo::Error| {
        matches!(error, zbus::fdo::Error::NoReply(_) | zbus::fdo::Error::Timeout(_) | zbus::fdo::Error::TimedOut(_))
    };
    let why = if let zbus::Error::MethodError(name, text, _) = error {
        text.clone().unwrap_or_else(|| name.to_string())
    } else if let zbus::Error::FDO(error) = error
        && !is_no_reply(error)
    {
        error.to_string()
    } else {
        return BusError::NotReached;
    };
    BusError::Stop(StopError::Refused(why))
}

fn stop_with_systemctl(
    unit: &UnitName,
    scope: Scope,
    run: &Path,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<(), StopError> {
    let (wanted, run) = (unit.clone(), run.to_owned());
    let (send, told) = mpsc::channel();
    manager::spawn(Box::new(move || {
        let arguments = ["stop", "--job-mode=fail", "--", wanted.as_str()];
        let result = match manager::systemctl(scope, &run, &arguments, deadline) {
            Ok(_) => Ok(()),
            Err(_) if Instant::now() >= deadline => Err(StopError::Late),
            // As systemctl says it where there is no job at all.
            Err(why) if why.starts_with("Failed to stop") => Err(StopError::Refused(why)),
            Err(why) => Err(StopError::Failed(why)),
        };
        let _ = send.send(Told::Over(result));
    }))
    .map_err(StopError::Refused)?;
    // It knows the deadline, and what it says then is worth a moment.
    match told_by(&told, deadline + LISTEN_AGAIN, interrupt) {
        Some(Told::Over(result)) => result,
        Some(Told::Queued) | None => Err(StopError::Late),
    }
}
