//! What people type: `portguard who` and its kin. Each command looks, puts together one document, and has
//! [`crate::report::document`] print it, as text or as JSON. None of them signals anybody.

mod audit;
mod check;
mod claims;
mod enable;
mod learn;
mod remark;
mod suggest;
mod who;

use std::io::Write as _;
use std::path::Path;

use crate::cli::Command;
use crate::interrupt::Interrupt;
use crate::manager::Scope;
use crate::model::{BlindSpot, Port, Protocol, Rules, Scene, UnitName, printable};
use crate::observe::units::{self, Properties};
use crate::observe::{Place, Roots, Wanted};
use crate::policy::{Policy, PolicyError};
use crate::report::document::{self, Document};
use crate::report::{self, shell};

/// To a unit that is not there everybody is foreign.
const NOBODY: &str = "portguard-nobody.service";

/// Why a command could not do its work; the message is one line for standard error, or several of a policy.
#[derive(Debug)]
pub struct CommandError {
    message: String,
    status: u8,
}

impl CommandError {
    /// The policy makes no sense (`EX_CONFIG`).
    fn policy(error: &PolicyError) -> Self {
        Self { message: error.to_string(), status: 78 }
    }

    /// What is needed cannot be looked at (`EX_NOPERM`).
    fn blind(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 77 }
    }

    /// There is nothing to work with.
    fn nothing(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 1 }
    }

    /// No such unit (`EX_NOINPUT`).
    fn no_unit(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 66 }
    }

    fn is_of_unit(&self) -> bool {
        self.status == 66
    }

    /// A file cannot be written (`EX_CANTCREAT`).
    fn cannot_create(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 73 }
    }
}

/// Runs one, and returns the exit status.
#[must_use]
pub fn run(command: &Command) -> u8 {
    let done = match command {
        Command::Who(args) => who::run(args),
        Command::Learn(args) => learn::run(args),
        Command::Enable(target) => enable::enable(target),
        Command::Disable(target) => enable::disable(target),
        Command::Check(args) => check::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Suggest(args) => suggest::run(args),
    };
    done.unwrap_or_else(|error| {
        for line in error.message.lines() {
            // Nobody to tell if it cannot be written.
            let _ = writeln!(std::io::stderr(), "portguard: {}", printable(line));
        }
        error.status
    })
}

/// Prints a document, and returns this exit status.
fn show(document: &impl Document, json: bool, status: u8) -> Result<u8, CommandError> {
    let failed = |error: std::io::Error| CommandError { message: format!("cannot write: {error}"), status: 74 };
    document::show(document, json).map_err(failed)?;
    Ok(status)
}

fn systemctl(scope: Scope) -> &'static str {
    match scope {
        Scope::System => "systemctl",
        Scope::User => "systemctl --user",
    }
}

/// Every port of both protocols.
fn every_port() -> Vec<(Protocol, Port)> {
    let ports = (1..=u16::MAX).filter_map(Port::new);
    ports.flat_map(|port| [(Protocol::Tcp, port), (Protocol::Udp, port)]).collect()
}

/// What is so of a unit of which no policy speaks.
fn no_rules(unit: &UnitName) -> Result<Rules, CommandError> {
    Policy::default().rules_for(unit, &|_| None, &[]).map_err(|error| CommandError::policy(&error))
}

fn nobody() -> Result<UnitName, CommandError> {
    NOBODY.parse().map_err(|_| CommandError::no_unit(NOBODY))
}

/// Who has the sockets of these ports, to whom nobody is compared.
///
/// # Errors
/// The socket tables cannot be read.
fn survey(roots: Roots, user: bool, ports: &[(Protocol, Port)]) -> Result<(Place, Scene), CommandError> {
    let unit = nobody()?;
    let place = Place::here(roots, &unit, user);
    let rules = no_rules(&unit)?;
    let scene =
        place.survey(&Wanted { unit: &unit, rules: &rules, interrupt: &Interrupt::default(), closings: None }, ports);
    seen(&scene)?;
    Ok((place, scene))
}

/// Without the socket tables nothing can be said.
fn seen(scene: &Scene) -> Result<(), CommandError> {
    let unread = scene.blind_spots.iter().find(|spot| matches!(spot, BlindSpot::Sockets(_)));
    unread.map_or(Ok(()), |spot| Err(CommandError::blind(spot.to_string())))
}

/// What could not be seen, and `more` that could not be found out, each in a sentence; and by which command root sees it.
fn unseen(spots: &[BlindSpot], more: Vec<String>, command: &str) -> Vec<String> {
    let mut sentences: Vec<String> = spots.iter().map(ToString::to_string).collect();
    let is_hidden = spots.iter().any(|spot| matches!(spot, BlindSpot::Processes { .. })) || !more.is_empty();
    sentences.extend(more);
    if is_hidden && !report::is_root() {
        sentences.push(format!("root sees all: sudo portguard {command}"));
    }
    sentences
}

/// The `KillMode=` of a unit, where by that some of its processes live on when it is stopped.
fn lets_live(shown: &Properties) -> Option<&str> {
    shown.get("KillMode").filter(|mode| ["process", "none"].contains(mode))
}

/// These units by their own names, whatever alias was given, with what the manager says of them.
///
/// # Errors
/// One of them is not there, or is no service or socket; or the manager does not answer.
fn known_units(scope: Scope, run: &Path, names: &[UnitName]) -> Result<Vec<(UnitName, Properties)>, CommandError> {
    const WANTED: [&str; 8] =
        ["Id", "LoadState", "LoadError", "ActiveState", "TriggeredBy", "SocketBindAllow", "KillMode", "MainPID"];
    let mut known: Vec<(UnitName, Properties)> = Vec::new();
    // A template cannot be shown; its file can.
    let runnable: Vec<UnitName> = names.iter().filter(|name| !name.is_template()).cloned().collect();
    let shown = units::show(scope, run, &runnable, &WANTED);
    let shown = shown.map_err(|why| CommandError::blind(format!("systemd could not be asked: {why}")))?;
    let mut shown = runnable.iter().zip(shown);
    for name in names {
        let (unit, properties) = if name.is_template() {
            let own = units::template(scope, run, name).map_err(CommandError::blind)?;
            let load_state = if own.is_some() { "loaded" } else { "not-found" };
            (own.unwrap_or_else(|| name.clone()), Properties::of(&[("LoadState", load_state)]))
        } else {
            let Some((_, properties)) = shown.next() else { continue };
            (properties.get("Id").and_then(|id| id.parse().ok()).unwrap_or_else(|| name.clone()), properties)
        };
        match properties.get("LoadState") {
            Some("not-found") => return Err(CommandError::no_unit(format!("there is no unit {name}"))),
            Some("masked") => {
                let unmask = format!("{} unmask {}", systemctl(scope), shell(name));
                return Err(CommandError::no_unit(format!("{name} is masked: {unmask}")));
            }
            Some(state @ ("bad-setting" | "error")) if !properties.is("ActiveState", "active") => {
                let status = format!("{} status {}", systemctl(scope), shell(name));
                return Err(CommandError::no_unit(format!("the settings of {name} are bad ({state}): {status}")));
            }
            _ => {}
        }
        if known.iter().all(|(other, _)| *other != unit) {
            known.push((unit, properties));
        }
    }
    Ok(known)
}
