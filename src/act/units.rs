//! Has the service manager stop a unit, as `systemctl stop` does: a job, and then its end.
//!
//! The mode is always `fail`: with `replace`, a dependency between the units makes systemd cancel the very start that
//! waits for us. Nothing here says that a port is free afterwards: look again.

use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use zbus::OwnedObjectPath;
use zbus::export::futures_core::Stream;

use crate::manager::{self, Scope};
use crate::model::UnitName;

/// How long the manager may take to answer that it has queued a job.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a unit was not stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopError {
    /// The manager will not: the job is in conflict with another, the unit is of a kind that cannot be stopped, or nobody
    /// answers. Nothing was stopped.
    Refused(String),
    /// The job ended in something else than success.
    Failed(String),
    /// The job was not over in time. The manager goes on with it.
    Late,
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "systemd does not stop it: {why}"),
            Self::Failed(result) => write!(f, "systemd could not stop it: the job ended with \"{result}\""),
            Self::Late => f.write_str("systemd has not stopped it in time"),
        }
    }
}

impl std::error::Error for StopError {}

/// Stops one unit, and waits for `patience` until its job is over. `run` is `/run`, or `$XDG_RUNTIME_DIR` in a user
/// manager.
///
/// Over the bus, else with `systemctl`, which waits for the job as well.
///
/// # Errors
/// [`StopError`].
pub fn stop(unit: &UnitName, scope: Scope, run: &Path, patience: Duration) -> Result<(), StopError> {
    let address = manager::bus_address(scope, run);
    let wanted = unit.clone();
    let deadline = Instant::now() + patience;
    let over_bus = manager::converse(patience, move || async move { Ok(stop_over_bus(&address, &wanted).await) });
    match over_bus {
        Ok(Ok(())) => Ok(()),
        Ok(Err(BusError::Stop(error))) => Err(error),
        // Nothing was queued: there is another way.
        Ok(Err(BusError::NotReached)) => stop_with_systemctl(unit, scope, run, deadline),
        // No end within the time.
        Err(_) => Err(StopError::Late),
    }
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

async fn stop_over_bus(address: &str, unit: &UnitName) -> Result<(), BusError> {
    let bus = zbus::connection::Builder::address(address).method_timeout(PATIENCE).build().await?;
    let jobs = JobsProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    // Listened for before the job is there, so that its end cannot be missed.
    let mut removed = jobs.receive_job_removed().await?;
    jobs.subscribe().await?;
    let job = jobs.stop_unit(unit.as_str(), "fail").await.map_err(|error| refused(&error))?;
    while let Some(signal) = poll_fn(|context| Pin::new(&mut removed).poll_next(context)).await {
        let Ok(args) = signal.args() else { continue };
        if args.job == job {
            return match args.result.as_str() {
                "done" => Ok(()),
                other => Err(BusError::Stop(StopError::Failed(other.to_owned()))),
            };
        }
    }
    Err(BusError::Stop(StopError::Failed("connection lost".to_owned())))
}

/// What systemd answers, in its own words.
fn refused(error: &zbus::Error) -> BusError {
    let why = if let zbus::Error::MethodError(_, Some(text), _) = error { text.clone() } else { error.to_string() };
    BusError::Stop(StopError::Refused(why))
}

fn stop_with_systemctl(unit: &UnitName, scope: Scope, run: &Path, deadline: Instant) -> Result<(), StopError> {
    let arguments = ["stop", "--job-mode=fail", "--", unit.as_str()];
    match manager::systemctl(scope, run, &arguments, deadline) {
        Ok(_) => Ok(()),
        Err(_) if Instant::now() >= deadline => Err(StopError::Late),
        Err(why) => Err(StopError::Refused(why)),
    }
}
