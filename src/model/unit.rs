//! Unit names, by systemd's own rules.
//!
//! Source of the rules: systemd.unit(5) and `unit_name_is_valid()`, systemd v257 `src/basic/unit-name.c`.

use std::fmt::{self, Write as _};
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

impl UnitType {
    /// All of them (`unit_type_table`, systemd v257 `src/basic/unit-def.c`).
    pub const ALL: [Self; 11] = [
        Self::Service,
        Self::Socket,
        Self::Target,
        Self::Device,
        Self::Mount,
        Self::Automount,
        Self::Swap,
        Self::Timer,
        Self::Path,
        Self::Slice,
        Self::Scope,
    ];

    /// Whether a unit of this type can run processes or hold sockets of its own, and so be in the way and be stopped:
    /// systemd.service(5), systemd.socket(5), systemd.scope(5).
    #[must_use]
    pub fn may_hold_ports(self) -> bool {
        match self {
            Self::Service | Self::Socket | Self::Scope => true,
            Self::Target
            | Self::Device
            | Self::Mount
            | Self::Automount
            | Self::Swap
            | Self::Timer
            | Self::Path
            | Self::Slice => false,
        }
    }

    /// The suffix, without its dot.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Socket => "socket",
            Self::Target => "target",
            Self::Device => "device",
            Self::Mount => "mount",
            Self::Automount => "automount",
            Self::Swap => "swap",
            Self::Timer => "timer",
            Self::Path => "path",
            Self::Slice => "slice",
            Self::Scope => "scope",
        }
    }

    /// The type with this suffix, given without its dot.
    #[must_use]
    pub fn of_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit_type| unit_type.suffix() == suffix)
    }
}

/// Units that are never stopped, by what stands before their `@` or their suffix: those that keep a host reachable, and
/// those on which somebody else's sessions, containers and machines hang.
const PROTECTED_UNITS: &[&str] = &[
    "NetworkManager",
    "autovt",
    "console-getty",
    "container-getty",
    "containerd",
    "crio",
    "dbus",
    "dbus-broker",
    "docker",
    "dropbear",
    "emergency",
    "getty",
    "incus",
    "k3s",
    "k3s-agent",
    "kubelet",
    "libvirtd",
    "lxc",
    "lxd",
    "networking",
    "podman",
    "polkit",
    "rescue",
    "rke2-agent",
    "rke2-server",
    "serial-getty",
    "ssh",
    "sshd",
    "user",
    "user-runtime-dir",
    "wpa_supplicant",
];

/// A valid unit name that can be running: a plain unit or an instance; or a template as a key of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitName {
    text: String,
    unit_type: UnitType,
}

impl UnitName {
    /// The longest name in bytes (`UNIT_NAME_MAX` counts the final NUL: systemd v257 `src/basic/unit-name.h`).
    pub const MAX_BYTES: usize = 255;

    /// The whole name, as `%n`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The type, by the suffix.
    #[must_use]
    pub fn unit_type(&self) -> UnitType {
        self.unit_type
    }

    /// The name without its suffix, as `%N`.
    #[must_use]
    pub fn stem(&self) -> &str {
        &self.text[..self.text.len() - self.unit_type.suffix().len() - 1]
    }

    /// What stands before the first `@`, or the whole stem of a plain unit, as `%p`. Escapes stay as they are.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.stem().split_once('@').map_or(self.stem(), |(prefix, _)| prefix)
    }

    /// What stands between the first `@` and the suffix, as `%i`: escapes stay as they are.
    /// `None` for a plain unit and for a template.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.stem().split_once('@').map(|(_, instance)| instance).filter(|instance| !instance.is_empty())
    }

    /// Whether it is a template: `x@.service`. A template is never running.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.stem().strip_suffix('@').is_some_and(|prefix| !prefix.contains('@'))
    }

    /// The template of an instance: `x@.service` for `x@1.service`.
    #[must_use]
    pub fn template(&self) -> Option<Self> {
        let text = self.instance().map(|_| format!("{}@.{}", self.prefix(), self.unit_type.suffix()))?;
        Some(Self { text, unit_type: self.unit_type })
    }

    /// Why this unit is never stopped, whatever the policy says; `None` if it may be.
    #[must_use]
    pub fn protection(&self) -> Option<&'static str> {
        let (prefix, name) = (self.prefix(), self.as_str());
        let is_session = self.unit_type == UnitType::Scope && (name == "init.scope" || name.starts_with("session-"));
        if !self.unit_type.may_hold_ports()
            || is_session
            || prefix.starts_with("systemd-")
            || PROTECTED_UNITS.contains(&prefix)
        {
            return Some("its unit is one that portguard never stops");
        }
        None
    }

    /// `VALID_CHARS_WITH_AT`.
    pub(super) fn is_valid_char(c: char) -> bool {
        c.is_ascii_alphanumeric() || ":-_.\\@".contains(c)
    }

    /// The name itself, if such a unit can be running: what `--unit` needs.
    ///
    /// # Errors
    /// It is a template.
    pub fn require_runnable(self) -> Result<Self, UnitNameError> {
        if self.is_template() {
            let reason = format!("is a template: name an instance, as in {}1.{}", self.stem(), self.unit_type.suffix());
            return Err(UnitNameError { text: self.text, reason });
        }
        Ok(self)
    }
}

impl FromStr for UnitName {
    type Err = UnitNameError;

    /// A plain unit, an instance or a template; exactly what `unit_name_is_valid(UNIT_NAME_ANY)` takes.
    fn from_str(text: &str) -> Result<Self, UnitNameError> {
        match check(text) {
            Ok(unit_type) => Ok(Self { text: text.to_owned(), unit_type }),
            Err(reason) => Err(UnitNameError { text: text.to_owned(), reason }),
        }
    }
}

/// The rules in the order in which a reason says most, which is not systemd's order; the set of valid names is the
/// same.
fn check(text: &str) -> Result<UnitType, String> {
    if text.is_empty() {
        return Err("is empty: give the unit's name, as in systemctl".to_owned());
    }
    if text.contains('/') {
        return Err("looks like a path: give the unit's name, as in systemctl".to_owned());
    }
    if let Some((index, wrong)) = text.chars().enumerate().find(|(_, c)| !UnitName::is_valid_char(*c)) {
        let (column, shown) = (index + 1, wrong.escape_debug());
        return Err(format!(
            "has '{shown}' in column {column}: only letters, digits and :-_.\\@ may be in a unit's name"
        ));
    }
    let (stem, suffix) = text.rsplit_once('.').ok_or("has no suffix: add .service")?;
    let unit_type = UnitType::of_suffix(suffix)
        .ok_or_else(|| format!("has the suffix .{suffix}, which is no type of unit: add .service"))?;
    if stem.is_empty() || stem.starts_with('@') {
        return Err(format!("has nothing before the {}", if stem.is_empty() { '.' } else { '@' }));
    }
    if text.len() > UnitName::MAX_BYTES {
        return Err(format!("is {} bytes long: {} are the most", text.len(), UnitName::MAX_BYTES));
    }
    Ok(unit_type)
}

/// Why a text is no unit name, or not one of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitNameError {
    text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for UnitNameError {
    /// `unit name "TEXT" REASON`. A backslash is shown as it is: it belongs to unit names (`\x2d`), and the name is
    /// there to be copied.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unit name \"")?;
        for c in self.text.chars() {
            match c {
                '\\' => f.write_char(c)?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        write!(f, "\" {}", self.reason)
    }
}

impl std::error::Error for UnitNameError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// text, type, prefix, instance, template?
    type Row = (&'static str, UnitType, &'static str, Option<&'static str>, bool);

    #[rustfmt::skip]
    const VALID: &[Row] = &[
        ("a.service",                 UnitType::Service, "a",             None,               false),
        ("a.b.service",               UnitType::Service, "a.b",           None,               false),
        ("sys-devices.device",        UnitType::Device,  "sys-devices",   None,               false),
        ("-.mount",                   UnitType::Mount,   "-",             None,               false),
        ("-.slice",                   UnitType::Slice,   "-",             None,               false),
        ("..service",                 UnitType::Service, ".",             None,               false),
        ("a@.service",                UnitType::Service, "a",             None,               true),
        ("a@1.service",               UnitType::Service, "a",             Some("1"),          false),
        ("a@1.2.socket",              UnitType::Socket,  "a",             Some("1.2"),        false),
        ("a@b@c.service",             UnitType::Service, "a",             Some("b@c"),        false),
        ("a@@.service",               UnitType::Service, "a",             Some("@"),          false),
        ("a@b@.service",              UnitType::Service, "a",             Some("b@"),         false),
        (r"foo\x2dbar@a\x20b.service", UnitType::Service, r"foo\x2dbar",   Some(r"a\x20b"),    false),
        ("user@1000.service",         UnitType::Service, "user",          Some("1000"),       false),
        ("0:1_2.timer",               UnitType::Timer,   "0:1_2",         None,               false),
        ("service.service",           UnitType::Service, "service",       None,               false),
    ];

    #[test]
    fn the_parts_of_a_name_are_those_of_systemd() {
        for (text, unit_type, prefix, instance, template) in VALID {
            let name: UnitName = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(name.to_string(), *text);
            assert_eq!(name.unit_type(), *unit_type, "{text}");
            assert_eq!(name.prefix(), *prefix, "{text}");
            assert_eq!(name.instance(), *instance, "{text}");
            assert_eq!(name.is_template(), *template, "{text}");
        }
    }

    #[rustfmt::skip]
    const INVALID: &[(&str, &str)] = &[
        ("",                  r#"unit name "" is empty: give the unit's name, as in systemctl"#),
        ("a",                 r#"unit name "a" has no suffix: add .service"#),
        ("a@1",               r#"unit name "a@1" has no suffix: add .service"#),
        ("my.app",            r#"unit name "my.app" has the suffix .app, which is no type of unit: add .service"#),
        ("a.Service",         r#"unit name "a.Service" has the suffix .Service, which is no type of unit: add .service"#),
        ("a.service.",        r#"unit name "a.service." has the suffix ., which is no type of unit: add .service"#),
        ("a.snapshot",        r#"unit name "a.snapshot" has the suffix .snapshot, which is no type of unit: add .service"#),
        (".service",          r#"unit name ".service" has nothing before the ."#),
        ("@.service",         r#"unit name "@.service" has nothing before the @"#),
        ("@1.service",        r#"unit name "@1.service" has nothing before the @"#),
        ("/etc/systemd/system/a.service",
                              r#"unit name "/etc/systemd/system/a.service" looks like a path: give the unit's name, as in systemctl"#),
        ("./a.service",       r#"unit name "./a.service" looks like a path: give the unit's name, as in systemctl"#),
        ("a b.service",       r#"unit name "a b.service" has ' ' in column 2: only letters, digits and :-_.\@ may be in a unit's name"#),
        ("a.service ",        r#"unit name "a.service " has ' ' in column 10: only letters, digits and :-_.\@ may be in a unit's name"#),
        ("%n",                r#"unit name "%n" has '%' in column 1: only letters, digits and :-_.\@ may be in a unit's name"#),
        ("äö*.service",       r#"unit name "äö*.service" has 'ä' in column 1: only letters, digits and :-_.\@ may be in a unit's name"#),
        ("a\n\u{1b}[0m.service", r#"unit name "a\n\u{1b}[0m.service" has '\n' in column 2: only letters, digits and :-_.\@ may be in a unit's name"#),
        (r"a\x2d*.service",   r#"unit name "a\x2d*.service" has '*' in column 6: only letters, digits and :-_.\@ may be in a unit's name"#),
    ];

    #[test]
    fn what_is_no_name_is_refused_with_its_reason() {
        for (text, message) in INVALID {
            assert_eq!(text.parse::<UnitName>().unwrap_err().to_string(), *message);
        }
    }

    #[test]
    fn names_end_at_255_bytes() {
        let name = |stem: usize| format!("{}.service", "a".repeat(stem));
        assert!(name(247).parse::<UnitName>().is_ok());
        assert_eq!(name(248).parse::<UnitName>().unwrap_err().reason, "is 256 bytes long: 255 are the most");
    }

    #[test]
    fn only_an_instance_has_a_template() {
        for (text, template) in [
            ("a@1.service", Some("a@.service")),
            ("a@b@c.socket", Some("a@.socket")),
            ("a@.service", None),
            ("a.service", None),
        ] {
            let name: UnitName = text.parse().unwrap();
            assert_eq!(name.template().map(|template| template.to_string()).as_deref(), template, "{text}");
            assert!(name.template().is_none_or(|template| template.is_template()), "{text}");
        }
    }

    #[test]
    fn what_keeps_a_host_reachable_is_never_stopped() {
        let is_protected = |text: &str| text.parse::<UnitName>().unwrap().protection().is_some();
        for never in [
            "ssh.service",
            "sshd.socket",
            "sshd@1-10.0.0.1:22-10.0.0.2:5.service",
            "dbus.socket",
            "dbus-broker.service",
            "systemd-journald.service",
            "systemd-resolved.service",
            "user@1000.service",
            "getty@tty1.service",
            "docker.service",
            "containerd.service",
            "init.scope",
            "session-3.scope",
            "app.slice",
            "multi-user.target",
        ] {
            assert!(is_protected(never), "{never}");
        }
        for may_be in
            ["app.service", "app@1.service", "app.socket", "run-1.scope", "sshguard.service", "dockerish.service"]
        {
            assert!(!is_protected(may_be), "{may_be}");
        }
    }

    #[test]
    fn a_template_is_not_runnable() {
        let runnable = |text: &str| text.parse::<UnitName>().and_then(UnitName::require_runnable);
        assert!(runnable("a.service").is_ok());
        assert!(runnable("a@1.service").is_ok());
        assert_eq!(
            runnable("a@.service").unwrap_err().to_string(),
            r#"unit name "a@.service" is a template: name an instance, as in a@1.service"#
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = text.parse::<UnitName>().map(|name| (name.prefix().len(), name.template()));
        }

        #[test]
        fn a_name_is_read_as_it_is_written(text in r"[a-z@.:\\_-]{1,12}\.(service|socket|scope)") {
            if let Ok(name) = text.parse::<UnitName>() {
                prop_assert_eq!(name.as_str(), text);
                prop_assert!(!name.prefix().is_empty());
                if let Some(template) = name.template() {
                    prop_assert_eq!(template.as_str().parse::<UnitName>(), Ok(template.clone()));
                }
            }
        }
    }
}
