//! What the service manager says of any unit, for people: asked of `systemctl show`, which all versions have, and which
//! answers everybody.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::time::{ClockId, clock_gettime};

use crate::interrupt::Interrupt;
use crate::manager::{Scope, Systemctl};
use crate::model::{UnitName, UnitType};

/// How long a manager may take for [`AT_A_TIME`] units.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many units are asked about at a time: a command line has its bounds.
const AT_A_TIME: usize = 200;

/// So many links to links are followed.
const MAX_LINKS: usize = 8;

/// The properties of one unit, by their names in org.freedesktop.systemd1(5). One that is a list of commands or listeners
/// has a value each; an empty one has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(Vec<(String, Vec<String>)>);

impl Properties {
    /// The only value, or the first.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }

    /// All values.
    #[must_use]
    pub fn all(&self, key: &str) -> &[String] {
        self.0.iter().find(|(name, _)| name == key).map_or(&[], |(_, values)| values)
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
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')).filter(|(_, value)| !value.is_empty())
        {
            // The values of one are together.
            match all.last_mut() {
                Some((last, values)) if last == key => values.push(value.to_owned()),
                Some(_) | None => all.push((key.to_owned(), vec![value.to_owned()])),
            }
        }
        Self(all)
    }
}

/// What `systemctl` prints.
fn ask(scope: Scope, run: &Path, arguments: &[&str]) -> Result<String, String> {
    Systemctl { scope, run, deadline: Instant::now() + PATIENCE }.ask(arguments, &Interrupt::default())
}

/// These properties of these units, each in its turn, also of one that is not there (`LoadState` is `not-found`). `run` is
/// `/run`, or `$XDG_RUNTIME_DIR` in a user manager.
///
/// # Errors
/// The manager did not answer; the reason.
pub fn show(scope: Scope, run: &Path, units: &[UnitName], wanted: &[&str]) -> Result<Vec<Properties>, String> {
    let wanted = wanted.join(",");
    let ask = |units: &[UnitName]| {
        let names = units.iter().map(UnitName::as_str);
        let arguments: Vec<&str> = ["show", "--all", "--property", &wanted, "--"].into_iter().chain(names).collect();
        ask(scope, run, &arguments)
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

/// The folders of unit files, of which the first that has one counts: systemd.unit(5), "Unit File Load Path".
///
/// # Errors
/// The manager did not answer; the reason.
fn folders(scope: Scope, run: &Path) -> Result<Vec<PathBuf>, String> {
    let text = ask(scope, run, &["show", "--property", "UnitPath"])?;
    Ok(Properties::parse(&text).get("UnitPath").unwrap_or_default().split_whitespace().map(PathBuf::from).collect())
}

/// The own name of a template, which is no unit: where its file is a link to another's, that is it. `None` if there is no
/// such file.
///
/// # Errors
/// The manager did not answer; the reason.
pub fn template(scope: Scope, run: &Path, unit: &UnitName) -> Result<Option<UnitName>, String> {
    Ok(template_in(&folders(scope, run)?, unit))
}

fn template_in(folders: &[PathBuf], unit: &UnitName) -> Option<UnitName> {
    let file = |unit: &UnitName| {
        folders.iter().map(|folder| folder.join(unit.as_str())).find(|path| path.symlink_metadata().is_ok())
    };
    let (mut own, mut path) = (unit.clone(), file(unit)?);
    for _ in 0..MAX_LINKS {
        let named = |link: PathBuf| link.file_name()?.to_str()?.parse::<UnitName>().ok().filter(UnitName::is_template);
        let Some(next) = fs::read_link(&path).ok().and_then(named) else { break };
        // A file elsewhere that is linked has the name of the link.
        let Some(there) = file(&next) else { break };
        (own, path) = (next, there);
    }
    Some(own)
}

/// The names of all services and socket units that are loaded, or that have a file, templates too; in order. The files are
/// not asked for: `list-unit-files` compares all with all, for which PID 1 takes 15 seconds where there are 3,000.
///
/// # Errors
/// The manager did not answer, or a folder cannot be read; the reason.
pub fn names(scope: Scope, run: &Path) -> Result<Vec<UnitName>, String> {
    let text = ask(scope, run, &["list-units", "--all", "--plain", "--no-legend", "--full", "--type=service,socket"])?;
    let mut names: Vec<UnitName> =
        text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    for folder in folders(scope, run)? {
        match fs::read_dir(&folder) {
            Ok(entries) => names.extend(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", folder.display())),
        }
    }
    names.retain(|name| matches!(name.unit_type(), UnitType::Service | UnitType::Socket));
    Ok(in_order(names))
}

/// Each once.
#[must_use]
pub fn in_order(mut names: Vec<UnitName>) -> Vec<UnitName> {
    names.sort();
    names.dedup();
    names
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

    #[test]
    fn a_template_whose_file_is_a_link_to_another_template_is_that_one() {
        let folder = tempfile::tempdir().unwrap();
        let [first, last, elsewhere] = ["etc", "lib", "opt"].map(|name| folder.path().join(name));
        for path in [&first, &last, &elsewhere] {
            fs::create_dir(path).unwrap();
        }
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, first.join(name)).unwrap();
        fs::write(last.join("real@.service"), "").unwrap();
        fs::write(elsewhere.join("other@.service"), "").unwrap();
        link(&last.join("real@.service"), "alias@.service");
        link(&first.join("alias@.service"), "alias-of-alias@.service");
        link(&elsewhere.join("other@.service"), "linked@.service");
        link(Path::new("/dev/null"), "masked@.service");
        let folders = [first.clone(), last];
        for (name, own) in [
            ("real@.service", Some("real@.service")),
            ("alias@.service", Some("real@.service")),
            ("alias-of-alias@.service", Some("real@.service")),
            ("linked@.service", Some("linked@.service")),
            ("masked@.service", Some("masked@.service")),
            ("other@.service", None),
        ] {
            let found = template_in(&folders, &name.parse().unwrap());
            assert_eq!(found.as_ref().map(UnitName::as_str), own, "{name}");
        }
    }
}
