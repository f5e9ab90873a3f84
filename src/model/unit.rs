//! Unit names, by systemd's own rules.
//!
//! Source of the rules: systemd.unit(5) and `unit_name_is_valid()`, systemd v257 `src/basic/unit-name.c`.

use std::fmt;
use std::str::FromStr;

/// The kind of a unit, told by its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is what systemd.unit(5) calls it")]
pub enum UnitType {
    Service,
    Socket,
    Target,
    Device,
    Mount,
    Automount,
    Swap,
    Timer,
    Path,
    Slice,
    Scope,
}

/// A valid unit name that can be running: a plain unit or an instance; or a template as a key of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitName(String);

/// Why a text is no unit name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitNameError {
    text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UnitNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.escape_debug().collect();
        write!(f, "\"{shown}\" is no unit name: {}", self.reason)
    }
}

impl std::error::Error for UnitNameError {}
