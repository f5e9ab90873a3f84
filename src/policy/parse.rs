//! TOML text → [`Policy`]. Pure: no file is opened here.
//!
//! The tables are walked by hand, not derived with serde: a derived reader stops at the first fault, and an administrator wants
//! to see them all, each at its own line and column.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::{Fault, Place, Problem, shown};
use super::expand::PortText;
use super::value::{signal, signal_of_number, time_span};
use super::{Policy, Section, Settings};
use crate::model::{ForeignRule, Signal, StaleRule, UnitName, UnitType};

/// The keys that every table of settings takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    OnStale,
    OnForeign,
    Wait,
    StopTimeout,
    KillSignal,
    FinalKillSignal,
    SendSighup,
    SendSigkill,
    ReuseAddress,
}

impl Key {
    const ALL: [Self; 9] = [
        Self::OnStale,
        Self::OnForeign,
        Self::Wait,
        Self::StopTimeout,
        Self::KillSignal,
        Self::FinalKillSignal,
        Self::SendSighup,
        Self::SendSigkill,
        Self::ReuseAddress,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::OnStale => "on-stale",
            Self::OnForeign => "on-foreign",
            Self::Wait => "wait",
            Self::StopTimeout => "stop-timeout",
            Self::KillSignal => "kill-signal",
            Self::FinalKillSignal => "final-kill-signal",
            Self::SendSighup => "send-sighup",
            Self::SendSigkill => "send-sigkill",
            Self::ReuseAddress => "reuse-address",
        }
    }
}

const PORTS: &str = "ports";
const STALE_RULES: [(&str, StaleRule); 3] =
    [("stop", StaleRule::Stop), ("refuse", StaleRule::Refuse), ("ignore", StaleRule::Ignore)];
const FOREIGN_RULES: [(&str, ForeignRule); 3] =
    [("refuse", ForeignRule::Refuse), ("wait", ForeignRule::Wait), ("ignore", ForeignRule::Ignore)];

/// What `toml` gives for a key and for a value.
type Name<'t> = Spanned<DeString<'t>>;
type Value<'t> = Spanned<DeValue<'t>>;

/// Reads the text of `file`.
///
/// Problems come in the order of the text. Where it is no TOML, they are what the TOML parser says, and nothing else: what it
/// makes of the rest is guesswork.
pub(super) fn parse(text: &str, file: &Arc<Path>) -> Result<Policy, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, file, problems: Vec::new() };
    for error in &errors {
        reader.fault(error.span().unwrap_or_default(), Fault::Syntax(shown(error.message())));
    }
    let mut policy = Policy::default();
    if errors.is_empty() {
        reader.root(root.get_ref(), &mut policy);
    }
    let mut problems = reader.problems;
    problems.sort_by_key(|(offset, _)| *offset);
    if problems.is_empty() { Ok(policy) } else { Err(problems.into_iter().map(|(_, problem)| problem).collect()) }
}

/// Walks the tables and collects what is wrong, each with its byte offset.
struct Reader<'t> {
    text: &'t str,
    file: &'t Arc<Path>,
    problems: Vec<(usize, Problem)>,
}

impl Reader<'_> {
    fn root(&mut self, root: &DeTable<'_>, policy: &mut Policy) {
        for (key, value) in root {
            match key.get_ref().as_ref() {
                "defaults" => self.defaults(key, value, &mut policy.defaults),
                "unit" => self.units(key, value, policy),
                _ => self.unknown_key(key, &["defaults", "unit"]),
            }
        }
    }

    fn defaults(&mut self, name: &Name<'_>, value: &Value<'_>, settings: &mut Settings) {
        let Some(table) = self.table(name, value) else { return };
        for (key, value) in table {
            if key.get_ref() == PORTS {
                let hint = "ports are those of a unit: give them in [unit.\"NAME\"]".to_owned();
                self.fault(key.span(), Fault::UnknownKey { key: PORTS.to_owned(), hint });
            } else {
                self.setting(key, value, settings, &[]);
            }
        }
    }

    fn units(&mut self, name: &Name<'_>, value: &Value<'_>, policy: &mut Policy) {
        let Some(table) = self.table(name, value) else { return };
        for (key, value) in table {
            match key.get_ref().parse::<UnitName>() {
                Ok(unit) => {
                    let section = self.section(key, value);
                    policy.units.insert(unit, section);
                }
                Err(source) => {
                    let unquoted = unquoted_header(key.get_ref(), value.get_ref());
                    self.fault(key.span(), Fault::BadUnit { source, unquoted });
                }
            }
        }
    }

    fn section(&mut self, name: &Name<'_>, value: &Value<'_>) -> Section {
        let mut section = Section::default();
        let Some(table) = self.table(name, value) else { return section };
        for (key, value) in table {
            if key.get_ref() == PORTS {
                section.ports = self.ports(key, value);
            } else {
                self.setting(key, value, &mut section.settings, &[PORTS]);
            }
        }
        section
    }

    fn ports(&mut self, key: &Name<'_>, value: &Value<'_>) -> Option<Vec<PortText>> {
        let Some(elements) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "an array of strings, as in [\"8080/tcp\"],");
            return None;
        };
        let mut ports = Vec::new();
        for element in elements {
            let Some(text) = element.get_ref().as_str() else {
                self.wrong_type(key, element, "a string, as in \"8080/tcp\",");
                continue;
            };
            match PortText::parse(text, self.place(element.span())) {
                Ok(port) => ports.push(port),
                Err(fault) => self.fault(element.span(), fault),
            }
        }
        Some(ports)
    }

    /// Any key that is not of the table alone; `more` are those that are, for the hint.
    fn setting(&mut self, name: &Name<'_>, value: &Value<'_>, settings: &mut Settings, more: &[&str]) {
        let Some(key) = Key::ALL.into_iter().find(|key| key.word() == name.get_ref()) else {
            let known: Vec<_> = more.iter().copied().chain(Key::ALL.map(Key::word)).collect();
            return self.unknown_key(name, &known);
        };
        match key {
            Key::OnStale => settings.on_stale = self.word(name, value, &STALE_RULES),
            Key::OnForeign => settings.on_foreign = self.word(name, value, &FOREIGN_RULES),
            Key::Wait => settings.wait = self.time_span(name, value),
            Key::StopTimeout => settings.stop.timeout = self.stop_timeout(name, value),
            Key::KillSignal => settings.stop.kill_signal = self.signal(name, value),
            Key::FinalKillSignal => settings.stop.final_kill_signal = self.signal(name, value),
            Key::SendSighup => settings.stop.send_sighup = self.boolean(name, value),
            Key::SendSigkill => settings.stop.send_sigkill = self.boolean(name, value),
            Key::ReuseAddress => settings.reuse_address = self.boolean(name, value),
        }
    }

    fn word<T: Copy>(&mut self, key: &Name<'_>, value: &Value<'_>, words: &[(&str, T)]) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a string");
            return None;
        };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, rule)| *rule);
        if found.is_none() {
            let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            self.bad_value(key, value, format!("\"{}\" is none of {known}", shown(text)));
        }
        found
    }

    /// A string in the words of systemd.time(7), or a whole number of seconds.
    fn time_span(&mut self, key: &Name<'_>, value: &Value<'_>) -> Option<Duration> {
        let read = if let Some(text) = value.get_ref().as_str() {
            time_span(text)
        } else if let Some(seconds) = integer(value) {
            u64::try_from(seconds)
                .map_err(|_| ())
                .and_then(|seconds| seconds.checked_mul(1_000_000).ok_or(()))
                .map(Duration::from_micros)
                .map_err(|()| format!("{seconds} is no number of seconds"))
        } else {
            self.wrong_type(key, value, "a time span, as in \"10s\",");
            return None;
        };
        read.map_err(|reason| self.bad_value(key, value, reason)).ok()
    }

    /// 0 is refused: `TimeoutStopSec=0` means "no limit", and somebody could copy it from there.
    fn stop_timeout(&mut self, key: &Name<'_>, value: &Value<'_>) -> Option<Duration> {
        let timeout = self.time_span(key, value)?;
        if timeout.is_zero() {
            self.bad_value(key, value, "must be longer than 0".to_owned());
            return None;
        }
        Some(timeout)
    }

    fn signal(&mut self, key: &Name<'_>, value: &Value<'_>) -> Option<Signal> {
        let read = if let Some(text) = value.get_ref().as_str() {
            signal(text)
        } else if let Some(number) = integer(value) {
            signal_of_number(number)
        } else {
            self.wrong_type(key, value, "a signal, as in \"SIGTERM\",");
            return None;
        };
        read.map_err(|reason| self.bad_value(key, value, reason)).ok()
    }

    fn boolean(&mut self, key: &Name<'_>, value: &Value<'_>) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        found
    }

    fn table<'v, 't>(&mut self, key: &Name<'_>, value: &'v Value<'t>) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(key, value, "a table");
        }
        table
    }

    fn unknown_key(&mut self, key: &Name<'_>, known: &[&str]) {
        let name = key.get_ref();
        let distance = |word: &str| strsim::damerau_levenshtein(word, name);
        let nearest = known.iter().min_by_key(|word| distance(word)).filter(|word| distance(word) <= 2);
        let hint = match nearest {
            Some(word) => format!("did you mean {word}?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.fault(key.span(), Fault::UnknownKey { key: name.to_string(), hint });
    }

    fn wrong_type(&mut self, key: &Name<'_>, value: &Value<'_>, wanted: &'static str) {
        let (key, found) = (key.get_ref().to_string(), type_name(value.get_ref()));
        self.fault(value.span(), Fault::WrongType { key, found, wanted });
    }

    fn bad_value(&mut self, key: &Name<'_>, value: &Value<'_>, reason: String) {
        self.fault(value.span(), Fault::BadValue { key: key.get_ref().to_string(), reason });
    }

    fn fault(&mut self, span: Range<usize>, fault: Fault) {
        self.problems.push((span.start, Problem { place: self.place(span), fault }));
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place::of_offset(self.file, self.text.as_bytes(), span.start)
    }
}

/// `[unit.a.service]` is a table `service` in a table `a`: TOML's dots. The header as it should be, if this is that.
fn unquoted_header(key: &str, value: &DeValue<'_>) -> Option<String> {
    let mut name = key.to_owned();
    let mut table = value.as_table()?;
    loop {
        let (part, inner) = table.iter().next()?;
        let part = part.get_ref();
        name = format!("{name}.{part}");
        table = inner.get_ref().as_table()?;
        if UnitType::of_suffix(part).is_some() {
            return name.parse::<UnitName>().ok().map(|unit| format!("[unit.\"{unit}\"]"));
        }
    }
}

/// The value of an integer that an `i64` can hold.
fn integer(value: &Value<'_>) -> Option<i64> {
    let integer = value.get_ref().as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
