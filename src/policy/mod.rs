//! What the administrator says of each unit: which endpoints it binds, and what may be done about who holds them.
//!
//! `parse` turns text into a [`Policy`] and opens nothing; `load` opens files, as root's, and understands nothing;
//! `expand` fills in a unit's name and variables. Nothing here looks at sockets, or decides about a holder.

mod error;
mod expand;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod load;
mod parse;
mod signal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Fault, Place, PolicyError, Problem};
pub use load::{DEFAULT_ROOTS, MAX_FILE_BYTES, Roots, own_drop_in};

use crate::model::{
    BlindRule, EndpointRange, ForeignRule, LookalikeRule, Rules, StaleRule, StopRules, UnitName, UnitPattern,
};
use expand::{PatternText, PortText};

/// The most endpoints of one unit. Each costs a bind probe at every start.
pub const MAX_ENDPOINTS: usize = 4096;

/// All that was read, merged: later files over earlier ones, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    defaults: Settings,
    units: BTreeMap<UnitName, Section>,
}

/// A `[unit."NAME"]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Section {
    /// Where it begins, in the last file that has it.
    place: Option<Place>,
    ports: Option<Vec<PortText>>,
    replaces: Option<Vec<PatternText>>,
    settings: Settings,
}

/// The keys that `[defaults]` and `[unit."NAME"]` share; `None` is a key that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings {
    on_stale: Option<StaleRule>,
    on_foreign: Option<ForeignRule>,
    on_lookalike: Option<LookalikeRule>,
    on_blind: Option<BlindRule>,
    wait: Option<Duration>,
    reuse_address: Option<bool>,
    stop: StopRules,
}

impl Settings {
    /// `self`, and `below` for what it leaves open.
    fn over(self, below: &Self) -> Self {
        Self {
            on_stale: self.on_stale.or(below.on_stale),
            on_foreign: self.on_foreign.or(below.on_foreign),
            on_lookalike: self.on_lookalike.or(below.on_lookalike),
            on_blind: self.on_blind.or(below.on_blind),
            wait: self.wait.or(below.wait),
            reuse_address: self.reuse_address.or(below.reuse_address),
            stop: StopRules {
                timeout: self.stop.timeout.or(below.stop.timeout),
                kill_signal: self.stop.kill_signal.or(below.stop.kill_signal),
                final_kill_signal: self.stop.final_kill_signal.or(below.stop.final_kill_signal),
                send_sighup: self.stop.send_sighup.or(below.stop.send_sighup),
                send_sigkill: self.stop.send_sigkill.or(below.stop.send_sigkill),
            },
        }
    }
}

impl Section {
    fn over(self, below: &Self) -> Self {
        Self {
            place: self.place.or_else(|| below.place.clone()),
            ports: self.ports.or_else(|| below.ports.clone()),
            replaces: self.replaces.or_else(|| below.replaces.clone()),
            settings: self.settings.over(&below.settings),
        }
    }
}

/// What a policy says of the ports of one unit, for those who want to see all of it.
#[derive(Debug, Default)]
pub struct Claims {
    /// Its ports, each with the place where it is written.
    pub ports: Vec<(Place, EndpointRange)>,
    /// `replaces`.
    pub replaces: Vec<UnitPattern>,
    /// What cannot be had of either: a start of the unit fails with the first of them.
    pub problems: Vec<Problem>,
}

impl Policy {
    /// Reads and merges the files below `roots`, as far as they have to be read for this unit: without the drop-ins that are
    /// another unit's by their names. Of other units it may say less than there is. No file at all is an empty policy. See
    /// [`Roots`] for the order.
    ///
    /// # Errors
    /// Every problem of each of these files: one that may not be trusted or read, and all that is wrong in the text.
    pub fn load_for(unit: &UnitName, roots: &Roots) -> Result<Self, PolicyError> {
        let template = unit.template();
        let template = template.as_ref().map(|template| template.as_str().as_bytes());
        let is_wanted = |owner: &[u8]| owner == unit.as_str().as_bytes() || template == Some(owner);
        let (texts, problems) = load::layered(roots, is_wanted);
        sound(Self::merged(&texts, problems))
    }

    /// All files, and also what is good beside the problems. That is nothing to act upon: what is wrong may
    /// have been meant to override it.
    #[must_use]
    pub fn survey(roots: &Roots) -> (Self, Vec<Problem>) {
        let (texts, problems) = load::layered(roots, |_| true);
        Self::merged(&texts, problems)
    }

    /// Reads this file alone, as `--policy FILE` wants. The null device is an empty policy.
    ///
    /// # Errors
    /// As [`Policy::load_for`]; a file that is not there is an error here.
    pub fn load_file(file: &Path) -> Result<Self, PolicyError> {
        sound(Self::survey_file(file))
    }

    /// As [`Policy::load_file`], and also what is good beside the problems.
    #[must_use]
    pub fn survey_file(file: &Path) -> (Self, Vec<Problem>) {
        match load::single(file) {
            Ok(text) => Self::merged(&[text], Vec::new()),
            Err(problem) => (Self::default(), vec![problem]),
        }
    }

    /// Reads the text of a policy; `file` is for messages alone.
    ///
    /// # Errors
    /// Every problem of the text, in its order; where it is no TOML at all, only why it is none.
    pub fn parse(text: &str, file: &Path) -> Result<Self, PolicyError> {
        sound(parse::parse(text, &Arc::from(file), None))
    }

    /// The units and templates of which it speaks, and where it does.
    pub fn units(&self) -> impl Iterator<Item = (&UnitName, Option<&Place>)> {
        self.units.iter().map(|(unit, section)| (unit, section.place.as_ref()))
    }

    /// What the policy says of the ports of `unit`, as [`Policy::rules_for`] does, with all that is wrong beside all that
    /// is not.
    #[must_use]
    pub fn claims_of(&self, unit: &UnitName, env: &dyn Fn(&str) -> Option<String>) -> Claims {
        let mut claims = claims_of(self.section_of(unit), unit, env);
        let mut written = 0;
        let is_too_many = |(_, range): &&(Place, EndpointRange)| {
            written += range.port_count();
            written > MAX_ENDPOINTS
        };
        if let Some((place, _)) = claims.ports.iter().find(is_too_many) {
            claims.problems.push(Problem { place: place.clone(), fault: Fault::TooManyEndpoints(unit.clone()) });
        }
        claims
    }

    /// What the policy says of `unit`: `[defaults]`, under the section of its template, under its own section, key by
    /// key.
    ///
    /// `env` gives a variable of the unit's environment. `extra_ports` come after those of the policy. Each endpoint is
    /// there once, in the order in which it was first written.
    ///
    /// # Errors
    /// A port that is no endpoint once expanded, each of them; or more than [`MAX_ENDPOINTS`], each counted as often as
    /// it is written.
    pub fn rules_for(
        &self,
        unit: &UnitName,
        env: &dyn Fn(&str) -> Option<String>,
        extra_ports: &[EndpointRange],
    ) -> Result<Rules, PolicyError> {
        let section = self.section_of(unit);
        let settings = section.settings.clone().over(&self.defaults);
        let claims = claims_of(section, unit, env);
        if !claims.problems.is_empty() {
            return Err(PolicyError::new(claims.problems));
        }
        let extra = extra_ports.iter().map(|range| (Place::CommandLine, *range));
        let mut rules = Rules {
            endpoints: Vec::new(),
            on_stale: settings.on_stale.unwrap_or_default(),
            on_foreign: settings.on_foreign.unwrap_or_default(),
            on_lookalike: settings.on_lookalike.unwrap_or_default(),
            on_blind: settings.on_blind.unwrap_or_default(),
            replaces: claims.replaces,
            wait: settings.wait,
            reuse_address: settings.reuse_address.unwrap_or(true),
            stop: settings.stop,
        };
        let mut seen = BTreeSet::new();
        let mut written = 0;
        for (place, range) in claims.ports.into_iter().chain(extra) {
            written += range.port_count();
            if written > MAX_ENDPOINTS {
                return Err(PolicyError::new(vec![Problem { place, fault: Fault::TooManyEndpoints(unit.clone()) }]));
            }
            rules.endpoints.extend(range.endpoints().filter(|endpoint| seen.insert(*endpoint)));
        }
        Ok(rules)
    }

    /// Whether there is a table of this unit, or of its template.
    #[must_use]
    pub fn speaks_of(&self, unit: &UnitName) -> bool {
        self.units.contains_key(unit) || unit.template().is_some_and(|template| self.units.contains_key(&template))
    }

    /// Whether the policy names a port of this unit, or of its template.
    #[must_use]
    pub fn has_ports(&self, unit: &UnitName) -> bool {
        self.section_of(unit).ports.is_some_and(|ports| !ports.is_empty())
    }

    fn section_of(&self, unit: &UnitName) -> Section {
        let own = self.units.get(unit).cloned().unwrap_or_default();
        match unit.template().and_then(|template| self.units.get(&template)) {
            Some(template) => own.over(template),
            None => own,
        }
    }

    fn merged(texts: &[load::Layer], mut problems: Vec<Problem>) -> (Self, Vec<Problem>) {
        let mut policy = Self::default();
        for load::Layer { file, text, owner } in texts {
            let (layer, more) = parse::parse(text, file, owner.as_ref());
            policy = layer.over(policy);
            problems.extend(more);
        }
        (policy, problems)
    }

    fn over(self, mut below: Self) -> Self {
        for (name, section) in self.units {
            let merged = section.over(&below.units.remove(&name).unwrap_or_default());
            below.units.insert(name, merged);
        }
        Self { defaults: self.defaults.over(&below.defaults), units: below.units }
    }
}

/// A policy in which nothing is wrong.
fn sound((policy, problems): (Policy, Vec<Problem>)) -> Result<Policy, PolicyError> {
    if problems.is_empty() { Ok(policy) } else { Err(PolicyError::new(problems)) }
}

/// What can be expanded; all else becomes problems.
fn claims_of(section: Section, unit: &UnitName, env: &dyn Fn(&str) -> Option<String>) -> Claims {
    let mut claims = Claims::default();
    for port in section.ports.unwrap_or_default() {
        match port.expand(unit, env) {
            Ok(range) => claims.ports.push((port.place, range)),
            Err(fault) => claims.problems.push(Problem { place: port.place, fault }),
        }
    }
    for pattern in section.replaces.unwrap_or_default() {
        match pattern.expand(unit) {
            Ok(filled) => claims.replaces.push(filled),
            Err(fault) => claims.problems.push(Problem { place: pattern.place, fault }),
        }
    }
    claims.problems.sort_by(|a, b| a.place.cmp(&b.place));
    claims
}

#[cfg(test)]
mod tests;
