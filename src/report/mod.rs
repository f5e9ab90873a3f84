//! The only part that speaks: what was found, what is done about it, and how it ended.
//!
//! Under systemd it writes to the journal, with fields; on a terminal the same sentences go to standard error.
//! It decides nothing.

mod advice;
pub mod document;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod journal;
pub mod shape;
mod words;

use std::collections::BTreeSet;
use std::time::Duration;

use log::Level;

use crate::act::Step;
use crate::cli::Cli;
pub use advice::{is_root, own_systemctl, shell};
pub use words::{About, unit_of};

use crate::model::{Action, BlindSpot, Endpoint, Finding, Hindrance, Outcome, Pid, Process, printable};
use crate::observe::Place;

/// How long whoever reads the JSON may take: a full pipe must not hold up a start.
const JSON_PATIENCE: Duration = Duration::from_millis(500);

/// So many holders are named a line each; more are counted.
const MAX_FINDINGS: usize = 20;

/// And so many are in the JSON: what is told of one can take some ten kilobytes.
const MOST_IN_JSON: usize = 4096;

/// One line, with its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    level: Level,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Entry {
    fn new(level: Level, message: impl Into<String>) -> Self {
        Self { level, message: message.into(), fields: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: &impl ToString) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    fn with_some(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, &value),
            None => self,
        }
    }
}

/// Speaks about one unit.
pub struct Report {
    about: words::About,
    verbose: bool,
    json: bool,
    sink: journal::Sink,
    said: BTreeSet<(Endpoint, Option<Pid>, Action, &'static str)>,
}

impl Report {
    /// A report about the unit of these arguments. Where portguard is part of its start, the journal is where an operator looks
    /// for it, wherever the unit's standard error goes.
    #[must_use]
    pub fn new(args: &Cli, place: &Place) -> Self {
        let sink = journal::Sink::open(&args.unit, args.user, place.is_within(), place.own_invocation(&args.unit));
        let (etc, proc) = (place.roots.etc.clone(), place.roots.proc.clone());
        let about = words::About { unit: args.unit.clone(), user: args.user, dry_run: args.dry_run, etc, proc };
        Self { about, verbose: args.verbose, json: args.json, sink, said: BTreeSet::new() }
    }

    /// What was found, each holder of each endpoint once, unless it has become another: the first of them a line each,
    /// those that are refused before all others, and the rest in one.
    pub fn findings(&mut self, findings: &[Finding]) {
        let key = |finding: &Finding| {
            let pid = finding.holder.as_ref().map(|holder| holder.pid);
            (finding.endpoint, pid, finding.action, finding.relation.word())
        };
        let new: Vec<&Finding> = findings.iter().filter(|finding| self.said.insert(key(finding))).collect();
        let (refused, others): (Vec<&Finding>, Vec<&Finding>) =
            new.into_iter().partition(|finding| finding.action == Action::Refuse);
        let new = [refused, others].concat();
        let (named, more) = new.split_at(new.len().min(MAX_FINDINGS));
        for finding in named {
            self.sink.send(&words::finding(finding, &self.about));
        }
        if !more.is_empty() {
            self.sink.send(&words::more_findings(more, &self.about.unit));
        }
    }

    /// What could not be seen.
    pub fn blind_spot(&self, spot: &BlindSpot) {
        self.warn(&spot.to_string());
    }

    /// A step of stopping, as it is taken.
    /// `hindrance` tells what keeps a process from acting upon a signal.
    pub fn step(&self, step: &Step<'_>, hindrance: &dyn Fn(&Process) -> Option<Hindrance>) {
        self.sink.send(&words::step(step, &self.about.unit, hindrance));
    }

    /// Something that only `--verbose` asks for.
    pub fn detail(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            self.sink.send(&Entry::new(Level::Info, printable(&text())));
        }
    }

    /// Something that went wrong and does not keep the service from starting.
    pub fn warn(&self, text: &str) {
        self.sink.send(&Entry::new(Level::Warn, printable(text)).with("PORTGUARD_UNIT", &self.about.unit));
    }

    /// How it ended: the last line, or lines where a policy has several problems. Nothing comes after it but the exit.
    pub fn outcome(&self, outcome: &Outcome, endpoints: &[Endpoint], findings: &[Finding]) {
        let entries = words::outcome(outcome, &self.about, endpoints, findings);
        if self.json && !self.sink.is_a_clients(rustix::stdio::stdout()) {
            self.print(outcome, &entries, endpoints, findings);
        }
        if let Some((last, before)) = entries.split_last() {
            for entry in before {
                self.sink.send(entry);
            }
            self.sink.send_last(last);
        }
    }
}

/// JSON.
impl Report {
    fn print(&self, outcome: &Outcome, entries: &[Entry], endpoints: &[Endpoint], findings: &[Finding]) {
        let found = |finding: &Finding| shape::Found {
            endpoint: finding.endpoint.to_string(),
            socket: finding.socket.as_ref().map(|s| shape::Socket::of(s, finding.birthplace.as_ref(), &self.about.etc)),
            holder: finding.holder.as_ref().map(|holder| shape::Holder::of(holder, &self.about.etc)),
            unit: unit_of(finding),
            judgement: shape::Judgement::of(finding),
            next: (finding.action == Action::Refuse).then(|| next(finding, &self.about).1),
        };
        let last = entries.last();
        let run = shape::Run {
            unit: self.about.unit.to_string(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            verdict: outcome.word(),
            exit_status: outcome.exit_status(),
            message: last.map(|entry| entry.message.clone()).unwrap_or_default(),
            findings: findings.iter().take(MOST_IN_JSON).map(found).collect(),
        };
        // Nobody to tell if it cannot be written, and nothing that holds up a start.
        let _ = document::write_within(&run, JSON_PATIENCE);
    }
}

/// What to type about a holder that is not to be touched: a sentence, and the command in it.
#[must_use]
pub fn next(finding: &Finding, about: &About) -> (String, String) {
    let advice = advice::advice(finding, about);
    (advice.text, advice.command)
}
