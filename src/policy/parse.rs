//! TOML text → [`Policy`]. Pure: no file is opened here.
//!
//! The tables are walked by hand, not derived with serde: a derived reader stops at the first fault, and an
//! administrator wants to see them all, each at its own line and column.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::{Fault, Lines, Place, Problem};
use super::expand::{PatternText, PortText};
use super::signal::{signal, signal_of_number};
use super::{Policy, Section, Settings};
use crate::model::{BlindRule, ForeignRule, LookalikeRule, Signal, StaleRule, UnitName, UnitType, printable};
use crate::timespan;

/// The keys that every table of settings takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    OnStale,
    OnForeign,
    OnLookalike,
    OnBlind,
    Wait,
    StopTimeout,
    KillSignal,
    FinalKillSignal,
    SendSighup,
    SendSigkill,
    ReuseAddress,
}

impl Key {
    const ALL: [Self; 11] = [
        Self::OnStale,
        Self::OnForeign,
        Self::OnLookalike,
        Self::OnBlind,
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
            Self::OnLookalike => "on-lookalike",
            Self::OnBlind => "on-blind",
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
const REPLACES: &str = "replaces";
const STALE_RULES: [(&str, StaleRule); 3] =
    [("stop", StaleRule::Stop), ("refuse", StaleRule::Refuse), ("ignore", StaleRule::Ignore)];
const FOREIGN_RULES: [(&str, ForeignRule); 3] =
    [("refuse", ForeignRule::Refuse), ("wait", ForeignRule::Wait), ("ignore", ForeignRule::Ignore)];

const LOOKALIKE_RULES: [(&str, LookalikeRule); 2] =
    [("as-foreign", LookalikeRule::AsForeign), ("stop", LookalikeRule::Stop)];
const BLIND_RULES: [(&str, BlindRule); 2] = [("allow", BlindRule::Allow), ("refuse", BlindRule::Refuse)];

/// What `toml` gives for a key and for a value.
type Name<'t> = Spanned<DeString<'t>>;
type Value<'t> = Spanned<DeValue<'t>>;

/// Reads the text of `file`: what is good in it, and what is not.
///
/// Problems come in the order of the text. Where it is no TOML, they are what the TOML parser says, and nothing else:
/// what it makes of the rest is guesswork.
///
/// `owner`: the unit whose drop-in it is, where it is one's. What it says of others is a problem, as nobody reads it for
/// them.
pub(super) fn parse(text: &str, file: &Arc<Path>, owner: Option<&UnitName>) -> (Policy, Vec<Problem>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { owner, text, lines: Lines::of(file, text.as_bytes()), problems: Vec::new() };
    for error in &errors {
        reader.fault(error.span().unwrap_or_default(), Fault::Syntax(printable(error.message())));
    }
    let mut policy = Policy::default();
    if errors.is_empty() {
        reader.root(root.get_ref(), &mut policy);
    }
    let mut problems = reader.problems;
    problems.sort_by_key(|(offset, _)| *offset);
    (policy, problems.into_iter().map(|(_, problem)| problem).collect())
}

/// Walks the tables and collects what is wrong, each with its byte offset.
struct Reader<'t> {
    owner: Option<&'t UnitName>,
    text: &'t str,
    lines: Lines<'t>,
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
        if let Some(owner) = self.owner {
            self.fault(name.span(), Fault::OutOfPlace { owner: owner.clone(), of: None });
        }
        for (key, value) in table {
            if let Some(own) = [PORTS, REPLACES].into_iter().find(|own| key.get_ref() == own) {
                let hint = format!("{own} are those of a unit: give them in [unit.\"NAME\"]");
                self.fault(key.span(), Fault::UnknownKey { key: own.to_owned(), hint });
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
                    self.refuse_hex_escape(key.span(), key.get_ref());
                    let is_of = |owner: &UnitName| unit == *owner || unit.template().as_ref() == Some(owner);
                    if let Some(owner) = self.owner.filter(|owner| !is_of(owner)) {
                        self.fault(key.span(), Fault::OutOfPlace { owner: owner.clone(), of: Some(unit.clone()) });
                    }
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

    /// TOML 1.1 has systemd's own escape for a byte in double quotes: who pastes the name of one unit there means another.
    fn refuse_hex_escape(&mut self, span: Range<usize>, name: &str) {
        let written = self.text.get(span.clone()).unwrap_or_default();
        let mut letters = written.chars();
        let mut has_escape = false;
        while let Some(letter) = letters.next() {
            has_escape |= letter == '\\' && letters.next() == Some('x');
        }
        // Whoever wrote that the backslash is one knows of both.
        if written.starts_with('"') && has_escape && !name.contains('\\') {
            self.fault(span, Fault::HexEscape { written: printable(written), name: printable(name) });
        }
    }

    fn section(&mut self, name: &Name<'_>, value: &Value<'_>) -> Section {
        let mut section = Section { place: Some(self.lines.place(name.span().start)), ..Section::default() };
        let Some(table) = self.table(name, value) else { return section };
        for (key, value) in table {
            if key.get_ref() == PORTS {
                section.ports = self.list(key, value, "8080/tcp", PortText::parse);
            } else if key.get_ref() == REPLACES {
                section.replaces = self.list(key, value, "old-app.service", PatternText::parse);
                for element in value.get_ref().as_array().into_iter().flatten() {
                    self.refuse_hex_escape(element.span(), element.get_ref().as_str().unwrap_or_default());
                }
            } else {
                self.setting(key, value, &mut section.settings, &[PORTS, REPLACES]);
            }
        }
        section
    }

    /// An array of strings, each of which `read` takes or says what is wrong with it.
    fn list<T>(
        &mut self,
        key: &Name<'_>,
        value: &Value<'_>,
        example: &str,
        read: impl Fn(&str, Place) -> Result<T, Fault>,
    ) -> Option<Vec<T>> {
        let Some(elements) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("an array of strings, as in [\"{example}\"],"));
            return None;
        };
        let mut list = Vec::new();
        for element in elements {
            let Some(text) = element.get_ref().as_str() else {
                self.wrong_type(key, element, &format!("a string, as in \"{example}\","));
                continue;
            };
            match read(text, self.lines.place(element.span().start)) {
                Ok(element) => list.push(element),
                Err(fault) => self.fault(element.span(), fault),
            }
        }
        Some(list)
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
            Key::OnLookalike => settings.on_lookalike = self.word(name, value, &LOOKALIKE_RULES),
            Key::OnBlind => settings.on_blind = self.word(name, value, &BLIND_RULES),
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
            self.bad_value(key, value, format!("\"{}\" is none of {known}", printable(text)));
        }
        found
    }

    /// A string in the words of systemd.time(7), or a whole number of seconds.
    fn time_span(&mut self, key: &Name<'_>, value: &Value<'_>) -> Option<Duration> {
        let read = if let Some(text) = value.get_ref().as_str() {
            timespan::parse(text)
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
        let distance = |word: &str| strsim::osa_distance(word, name);
        // Of a short word two letters are the half.
        let is_near = |word: &&&str| distance(word) <= if word.len() > 4 { 2 } else { 1 };
        let near = known.iter().min_by_key(|word| distance(word)).filter(is_near);
        let hint = match near {
            Some(word) => format!("did you mean {word}?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.fault(key.span(), Fault::UnknownKey { key: name.to_string(), hint });
    }

    fn wrong_type(&mut self, key: &Name<'_>, value: &Value<'_>, wanted: &str) {
        let (key, found, wanted) = (key.get_ref().to_string(), type_name(value.get_ref()), wanted.to_owned());
        self.fault(value.span(), Fault::WrongType { key, found, wanted });
    }

    fn bad_value(&mut self, key: &Name<'_>, value: &Value<'_>, reason: String) {
        self.fault(value.span(), Fault::BadValue { key: key.get_ref().to_string(), reason });
    }

    fn fault(&mut self, span: Range<usize>, fault: Fault) {
        let place = self.lines.place(span.start);
        self.problems.push((span.start, Problem { place, fault }));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::StopRules;

    fn read(text: &str) -> Result<Policy, Vec<String>> {
        let (policy, problems) = parse(text, &Arc::from(Path::new("p")), None);
        let shown = |Problem { place, fault }: &Problem| format!("{place}: {fault}");
        if problems.is_empty() { Ok(policy) } else { Err(problems.iter().map(shown).collect()) }
    }

    #[test]
    fn every_key_is_read() {
        let policy = read(
            r#"
            [defaults]
            on-stale = "refuse"
            on-foreign = "wait"
            wait = 5
            stop-timeout = "1min 30s"
            kill-signal = "INT"
            final-kill-signal = 6
            send-sighup = true
            send-sigkill = false
            reuse-address = false

            [unit."a.service"]
            ports = ["8080/tcp", "80%i/tcp"]
            on-stale = "ignore"

            [unit."a@.service"]
            "#,
        )
        .unwrap();
        let stop = StopRules {
            timeout: Some(Duration::from_secs(90)),
            kill_signal: Some(Signal(2)),
            final_kill_signal: Some(Signal(6)),
            send_sighup: Some(true),
            send_sigkill: Some(false),
        };
        let defaults = Settings {
            on_stale: Some(StaleRule::Refuse),
            on_foreign: Some(ForeignRule::Wait),
            on_lookalike: None,
            on_blind: None,
            wait: Some(Duration::from_secs(5)),
            reuse_address: Some(false),
            stop,
        };
        assert_eq!(policy.defaults, defaults);
        assert_eq!(policy.units.len(), 2);
        let section = &policy.units[&"a.service".parse::<UnitName>().unwrap()];
        assert_eq!(section.ports.as_ref().map(Vec::len), Some(2));
        assert_eq!(section.settings, Settings { on_stale: Some(StaleRule::Ignore), ..Settings::default() });
    }

    /// A text, and all that is wrong with it.
    #[rustfmt::skip]
    const WRONG: &[(&str, &[&str])] = &[
        // No TOML.
        ("[defaults",                              &["p:1:10: no TOML: unclosed table, expected `]`"]),
        ("a = \nb = 1\nc = 'x",                    &["p:1:5: no TOML: string values must be quoted, expected literal string",
                                                     "p:3:7: no TOML: invalid literal string, expected `'`"]),
        ("[defaults]\nwait = 1\nwait = 2",         &["p:3:1: no TOML: duplicate key"]),
        ("[defaults]\n[defaults]",                 &["p:2:2: no TOML: duplicate key"]),
        // Unknown keys.
        ("default = 1",                            &["p:1:1: unknown key \"default\": did you mean defaults?"]),
        ("[units.\"a.service\"]",                  &["p:1:2: unknown key \"units\": did you mean unit?"]),
        ("\n  zzzzz = 1",                          &["p:2:3: unknown key \"zzzzz\": known here: defaults, unit"]),
        ("[defaults]\nstop_timeout = 1",           &["p:2:1: unknown key \"stop_timeout\": did you mean stop-timeout?"]),
        ("[defaults]\nports = []",                 &["p:2:1: unknown key \"ports\": ports are those of a unit: give them in [unit.\"NAME\"]"]),
        ("[defaults]\nreplaces = []",              &["p:2:1: unknown key \"replaces\": replaces are those of a unit: give them in [unit.\"NAME\"]"]),
        ("[unit.\"a.service\"]\nreplaces = 1",     &["p:2:12: replaces: an integer where an array of strings, as in [\"old-app.service\"], should be"]),
        ("[unit.\"a.service\"]\nreplaces = ['x']", &["p:2:13: replaces: unit name \"x\" has no suffix: add .service"]),
        ("[defaults]\non-lookalike = \"kill\"",    &["p:2:16: on-lookalike: \"kill\" is none of as-foreign, stop"]),
        ("[defaults]\non-blind = \"stop\"",        &["p:2:12: on-blind: \"stop\" is none of allow, refuse"]),
        ("[defaults]\nonstal = 1",                 &["p:2:1: unknown key \"onstal\": did you mean on-stale?"]),
        ("[defaults]\nunit = 1",                   &["p:2:1: unknown key \"unit\": known here: on-stale, on-foreign, on-lookalike, on-blind, wait, \
                                                     stop-timeout, kill-signal, final-kill-signal, send-sighup, send-sigkill, reuse-address"]),
        ("[unit.\"a.service\"]\nport = []",        &["p:2:1: unknown key \"port\": did you mean ports?"]),
        ("[unit.\"a.service\"]\nzzzzzzzz = []",    &["p:2:1: unknown key \"zzzzzzzz\": known here: ports, replaces, on-stale, on-foreign, \
                                                     on-lookalike, on-blind, wait, stop-timeout, kill-signal, final-kill-signal, send-sighup, send-sigkill, reuse-address"]),
        ("[defaults]\n\"\\u001b[0m\" = 1",         &["p:2:1: unknown key \"\\u{1b}[0m\": known here: on-stale, on-foreign, on-lookalike, on-blind, wait, \
                                                     stop-timeout, kill-signal, final-kill-signal, send-sighup, send-sigkill, reuse-address"]),
        // Names of units.
        ("[unit.a]",                               &["p:1:7: unit name \"a\" has no suffix: add .service"]),
        ("[unit.a.service]\nports = []",           &["p:1:7: the unit's name needs quotes: [unit.\"a.service\"]"]),
        ("[unit.a.b.socket]",                      &["p:1:7: the unit's name needs quotes: [unit.\"a.b.socket\"]"]),
        ("[unit.\"/a.service\"]",                  &["p:1:7: unit name \"/a.service\" looks like a path: give the unit's name, as in systemctl"]),
        ("[unit.\"a\\x2db.service\"]",           &["p:1:7: to TOML \"a\\x2db.service\" is a-b.service: write 'a\\x2db.service', in single quotes, for the \
                                                     unit that systemd shows so"]),
        ("[unit.\"a.service\"]\nreplaces = [\"c.service\", \"a\\x2db.service\"]",
                                                   &["p:2:26: to TOML \"a\\x2db.service\" is a-b.service: write 'a\\x2db.service', in single quotes, for the \
                                                     unit that systemd shows so"]),
        // Types.
        ("defaults = 1",                           &["p:1:12: defaults: an integer where a table should be"]),
        ("unit = []",                              &["p:1:8: unit: an array where a table should be"]),
        ("[unit]\n\"a.service\" = \"8080\"",       &["p:2:15: a.service: a string where a table should be"]),
        ("[[unit.\"a.service\"]]",                 &["p:1:1: a.service: an array where a table should be"]),
        ("[unit.\"a.service\"]\nports = \"80\"",   &["p:2:9: ports: a string where an array of strings, as in [\"8080/tcp\"], should be"]),
        ("[unit.\"a.service\"]\nports = [80]",     &["p:2:10: ports: an integer where a string, as in \"8080/tcp\", should be"]),
        ("[defaults]\non-stale = true",            &["p:2:12: on-stale: a boolean where a string should be"]),
        ("[defaults]\nwait = 1.5",                 &["p:2:8: wait: a float where a time span, as in \"10s\", should be"]),
        ("[defaults]\nkill-signal = []",           &["p:2:15: kill-signal: an array where a signal, as in \"SIGTERM\", should be"]),
        ("[defaults]\nsend-sighup = \"yes\"",      &["p:2:15: send-sighup: a string where true or false should be"]),
        ("[defaults]\nreuse-address = 1979-05-27", &["p:2:17: reuse-address: a date or time where true or false should be"]),
        // Values.
        ("[defaults]\non-stale = \"kill\"",        &["p:2:12: on-stale: \"kill\" is none of stop, refuse, ignore"]),
        ("[defaults]\non-foreign = \"stop\"",      &["p:2:14: on-foreign: \"stop\" is none of refuse, wait, ignore"]),
        ("[defaults]\nwait = \"10 parsecs\"",      &["p:2:8: wait: \"10 parsecs\" is no time span: a number should be at \"parsecs\""]),
        ("[defaults]\nwait = -1",                  &["p:2:8: wait: -1 is no number of seconds"]),
        ("[defaults]\nwait = 9223372036854775807", &["p:2:8: wait: 9223372036854775807 is no number of seconds"]),
        ("[defaults]\nstop-timeout = \"infinity\"", &["p:2:16: stop-timeout: must end: give a time span, as in \"10s\" or \"1min 30s\""]),
        ("[defaults]\nstop-timeout = 0",           &["p:2:16: stop-timeout: must be longer than 0"]),
        ("[defaults]\nkill-signal = \"SIGFOO\"",   &["p:2:15: kill-signal: \"SIGFOO\" is no signal: give its name as in signal(7), such as SIGTERM or SIGRTMIN+3"]),
        ("[defaults]\nfinal-kill-signal = 0",      &["p:2:21: final-kill-signal: 0 is no number of a signal"]),
        // Ports: the place is that of the element, the column in it is the endpoint's own.
        ("[unit.\"a.service\"]\nports = [\n  \"80\",\n  \"x:80\", \"1-0\",\n]",
                                                   &["p:4:3: ports: endpoint \"x:80\", column 1: \"x\" is a name: only addresses can be looked at, as in 127.0.0.1:8080",
                                                     "p:4:11: ports: endpoint \"1-0\", column 3: port 0 means \"any free port\", which nobody can hold"]),
        ("[unit.\"a.service\"]\nports = [\"80%d\"]", &["p:2:10: ports: \"80%d\": unknown specifier %d: %i, %p, %n and %% are known"]),
        ("# ä\n[unit.\"a.service\"] # ä\nports = ['ä', \"é\"]",
                                                   &["p:3:10: ports: endpoint \"ä\", column 1: 'ä' is not plain ASCII",
                                                     "p:3:15: ports: endpoint \"é\", column 1: 'é' is not plain ASCII"]),
        // All of them, in the order of the text.
        ("zzzzz = 1\n[unit.b]\n[unit.\"a.service\"]\nwait = []\nports = [\"x\", \"${\"]\n[defaults]\nwait = \"\"",
                                                   &["p:1:1: unknown key \"zzzzz\": known here: defaults, unit",
                                                     "p:2:7: unit name \"b\" has no suffix: add .service",
                                                     "p:4:8: wait: an array where a time span, as in \"10s\", should be",
                                                     "p:5:10: ports: endpoint \"x\", column 1: \"x\" is no port number",
                                                     "p:5:15: ports: \"${\": missing } after ${",
                                                     "p:7:8: wait: is empty: give a time span, as in \"10s\" or \"1min 30s\""]),
    ];

    #[test]
    fn a_backslash_in_a_units_name_is_one_where_toml_has_it_so() {
        let text =
            r#"[unit.'a\x2db.service'] [unit."a\\x2dc.service"] [unit."a\x5cx2dd.service"] [unit."a\u002de.service"]"#
                .replace(' ', "\n");
        let (policy, problems) = parse(&text, &Arc::from(Path::new("p")), None);
        assert!(problems.is_empty(), "{problems:?}");
        let names: Vec<&str> = policy.units.keys().map(UnitName::as_str).collect();
        assert_eq!(names, ["a-e.service", r"a\x2db.service", r"a\x2dc.service", r"a\x2dd.service"]);
    }

    #[test]
    fn each_fault_is_reported_at_its_place() {
        for (text, problems) in WRONG {
            let expected: Vec<String> = problems.iter().map(|problem| (*problem).to_owned()).collect();
            assert_eq!(read(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn nothing_is_a_policy() {
        for text in ["", "# only words\n", "\u{feff}", "[defaults]", "[unit]", "[unit.\"a.service\"]\nports = []"] {
            assert!(read(text).is_ok(), "{text:?}");
        }
    }

    /// What is installed as /etc/portguard/portguard.toml.
    const SHIPPED: &str = include_str!("../../packaging/portguard.toml");

    #[test]
    fn shipped_policy_does_nothing_and_is_right_with_its_comments_taken_off() {
        assert_eq!(read(SHIPPED), Ok(Policy::default()));

        // Prose has a space behind its #.
        let line = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned();
        let filled: Vec<_> = SHIPPED.lines().map(line).collect();
        let policy = read(&filled.join("\n")).unwrap();
        assert_eq!(policy.units.len(), 2);
        for key in Key::ALL.map(Key::word).into_iter().chain([PORTS, REPLACES]) {
            assert!(filled.iter().any(|line| line.starts_with(&format!("{key} = "))), "{key} is not shown");
        }
    }

    #[test]
    fn every_key_and_word_is_in_the_man_page() {
        let page = include_str!("../../packaging/man/portguard.toml.5.scd");
        for key in Key::ALL.map(Key::word).into_iter().chain([PORTS, REPLACES]) {
            assert!(page.contains(&format!("\n*{key}*\n\t")), "{key}");
        }
        let words = STALE_RULES.map(|(word, _)| word).into_iter().chain(FOREIGN_RULES.map(|(word, _)| word));
        for word in words.chain(LOOKALIKE_RULES.map(|(word, _)| word)) {
            assert!(page.contains(&format!("*{word}*")), "{word}");
        }
    }

    /// Something that an administrator could have typed, mostly wrong.
    fn like_a_policy() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            r#"\[(defaults|unit|unit\."a@?\.service"|unit\.a\.service)\]"#,
            r#"(ports|wait|on-stale|kill-signal|send-sighup|zz) = (\[?"[0-9a-z%${}:./ -]{0,12}"\]?|[0-9.-]{0,20}|true|\{\})"#,
            r#"[]\["'=.{}a-z0-9\\ é]{0,20}"#,
        ];
        prop::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = read(&text);
        }

        #[test]
        fn nothing_like_a_policy_makes_the_parser_panic(text in like_a_policy()) {
            if let Err(problems) = read(&text) {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|problem| problem.starts_with("p:") && !problem.contains('\n')), "{problems:?}");
            }
        }
    }
}
