//! What the service manager says of any unit, for people: asked of `systemctl show`, which all versions have, and which
//! answers everybody.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::interrupt::Interrupt;
use crate::manager::{Scope, Systemctl};
use crate::model::UnitName;

/// How long a manager may take that has hundreds of units to tell of.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many units are asked about at a time: a command line has its bounds.
const AT_A_TIME: usize = 200;

/// The properties of one unit, by their names in org.freedesktop.systemd1(5). One that is a list of commands or listeners
/// has a value each; an empty one has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(HashMap<String, Vec<String>>);

impl Properties {
    /// The only value, or the first.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }

    /// All values.
    #[must_use]
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether it is exactly this.
    #[must_use]
    pub fn is(&self, key: &str, value: &str) -> bool {
        self.get(key) == Some(value)
    }

    /// The names in a list of units.
    #[must_use]
    pub fn units(&self, key: &str) -> Vec<UnitName> {
        self.get(key).unwrap_or_default().split_whitespace().filter_map(|name| name.parse().ok()).collect()
    }

    /// How long ago something was of which the manager notes the microsecond on `CLOCK_MONOTONIC`; `None` if it never was.
    #[must_use]
    pub fn ago(&self, key: &str) -> Option<Duration> {
        let then = Duration::from_micros(self.get(key)?.parse().ok().filter(|micros| *micros != 0)?);
        let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).ok()?;
        Some(now.saturating_sub(then))
    }

    /// These, of a unit that is not asked about.
    #[must_use]
    pub fn of(all: &[(&str, &str)]) -> Self {
        Self(all.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect())
    }

    /// Of a block of `systemctl show`.
    pub(crate) fn parse(block: &str) -> Self {
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')).filter(|(_, value)| !value.is_empty())
        {
            all.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Self(all)
    }
}

/// These properties of these units, each in its turn, also of one that is not there (`LoadState` is `not-found`). `run` is
/// `/run`, or `$XDG_RUNTIME_DIR` in a user manager.
///
/// # Errors
/// The manager did not answer; the reason.
pub fn show(scope: Scope, run: &Path, units: &[UnitName], wanted: &[&str]) -> Result<Vec<Properties>, String> {
    let deadline = Instant::now() + PATIENCE;
    let wanted = wanted.join(",");
    let ask = |units: &[UnitName]| {
        let names = units.iter().map(UnitName::as_str);
        let arguments: Vec<&str> = ["show", "--all", "--property", &wanted, "--"].into_iter().chain(names).collect();
        Systemctl { scope, run, deadline }.ask(&arguments, &Interrupt::default())
    };
    let mut shown = Vec::new();
    for some in units.chunks(AT_A_TIME) {
        let text = ask(some)?;
        let blocks: Vec<&str> = text.split("\n\n").collect();
        if blocks.len() == some.len() {
            shown.extend(blocks.into_iter().map(Properties::parse));
        } else {
            // A command with an empty line in it: one unit at a time there is nothing to part.
            for unit in some {
                shown.push(Properties::parse(&ask(std::slice::from_ref(unit))?));
            }
        }
    }
    Ok(shown)
}

/// Whether there is a unit file of this name: for a template, which is no unit.
///
/// # Errors
/// The manager did not answer; the reason.
pub fn has_file(scope: Scope, run: &Path, unit: &UnitName) -> Result<bool, String> {
    let deadline = Instant::now() + PATIENCE;
    let listed = Systemctl { scope, run, deadline }
        .ask(&["list-unit-files", "--no-legend", "--full", unit.as_str()], &Interrupt::default());
    match listed {
        Ok(text) => Ok(text.split_whitespace().next() == Some(unit.as_str())),
        // It succeeds where nothing is listed, but for those since 256.
        Err(why) if why.contains("exit status: 1") => Ok(false),
        Err(why) => Err(why),
    }
}

/// The names of all units of these types that are loaded, or that have a file, but for templates.
///
/// # Errors
/// The manager did not answer; the reason.
pub fn list(scope: Scope, run: &Path, types: &str) -> Result<Vec<UnitName>, String> {
    let mut names = names(scope, run, types)?;
    names.retain(|name| !name.is_template());
    Ok(names)
}

/// As [`list`], and the templates too.
///
/// # Errors
/// The manager did not answer; the reason.
pub fn names(scope: Scope, run: &Path, types: &str) -> Result<Vec<UnitName>, String> {
    let deadline = Instant::now() + PATIENCE;
    let of = |command: &[&str]| {
        let types = format!("--type={types}");
        let arguments: Vec<&str> = command.iter().copied().chain(["--no-legend", "--full", &types]).collect();
        Systemctl { scope, run, deadline }.ask(&arguments, &Interrupt::default())
    };
    let text = of(&["list-units", "--all", "--plain"])? + &of(&["list-unit-files"])?;
    let names = text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<UnitName>().ok());
    let mut names: Vec<UnitName> = names.collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_can_have_several_values_and_an_empty_one_has_none() {
        let block = Properties::parse(
            "Id=a.socket\nListen=[::]:80 (Stream)\nListen=[::]:81 (Stream)\nWants=\nTriggers=a.service b.service\n\
             ExecStart={ path=/bin/sh ; argv[]=/bin/sh -c A=b }\nActiveEnterTimestampMonotonic=0",
        );
        assert_eq!(block.get("Id"), Some("a.socket"));
        assert_eq!(block.all("Listen"), ["[::]:80 (Stream)", "[::]:81 (Stream)"]);
        assert_eq!(block.get("Wants"), None);
        assert_eq!(block.units("Triggers").len(), 2);
        assert_eq!(block.get("ExecStart"), Some("{ path=/bin/sh ; argv[]=/bin/sh -c A=b }"));
        assert_eq!(block.ago("ActiveEnterTimestampMonotonic"), None);
    }
}
