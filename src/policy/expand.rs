//! The elements of `ports` and `replaces`: `%i`, `%p`, `%n` and `${NAME}` in them, and what they mean for one unit. Pure
//! text.

use super::Place;
use super::error::Fault;
use crate::model::{EndpointRange, UnitName, UnitPattern, printable};

/// No endpoint and no name of a unit is half as long, in bytes; a hundred `%n` must not make a line of the log that is.
const MAX_EXPANDED: usize = 512;

/// An element of `ports`, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortText {
    pub(super) place: Place,
    text: String,
    meaning: Meaning,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    /// The same for every unit.
    Fixed(EndpointRange),
    /// Known once the unit and its environment are.
    Open(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Plain(String),
    Specifier(Specifier),
    /// The name in `${NAME}`.
    Variable(String),
}

/// Those of systemd.unit(5) that can be part of a port, with the same meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Specifier {
    /// `%i`, escapes and all. A unit that is no instance has none: an error here, where systemd takes it as empty,
    /// since `80%i` must not become port 80 by mistake.
    Instance,
    /// `%p`.
    Prefix,
    /// `%n`.
    Name,
}

impl Specifier {
    fn written(self) -> &'static str {
        match self {
            Self::Instance => "%i",
            Self::Prefix => "%p",
            Self::Name => "%n",
        }
    }

    fn value(self, unit: &UnitName) -> Option<&str> {
        match self {
            Self::Instance => unit.instance(),
            Self::Prefix => Some(unit.prefix()),
            Self::Name => Some(unit.as_str()),
        }
    }
}

impl PortText {
    /// Reads an element. What has nothing to expand is checked at once.
    ///
    /// `%%` is a `%`. A `$` is always the beginning of `${NAME}`: no endpoint has one, so nothing stands for it, and a
    /// bare `$NAME` is not expanded.
    pub(super) fn parse(text: &str, place: Place) -> Result<Self, Fault> {
        let pieces = pieces(text).map_err(|reason| Fault::BadExpansion { text: text.to_owned(), reason })?;
        let plain: Option<String> = pieces.iter().map(Piece::plain).collect();
        let meaning = match plain {
            Some(plain) => Meaning::Fixed(plain.parse().map_err(Fault::BadEndpoint)?),
            None => Meaning::Open(pieces),
        };
        Ok(Self { place, text: text.to_owned(), meaning })
    }

    /// What it means for `unit`, whose environment `env` gives.
    pub(super) fn expand(&self, unit: &UnitName, env: &dyn Fn(&str) -> Option<String>) -> Result<EndpointRange, Fault> {
        let pieces = match &self.meaning {
            Meaning::Fixed(range) => return Ok(*range),
            Meaning::Open(pieces) => pieces,
        };
        let mut expanded = String::new();
        let mut filled = Vec::new();
        for piece in pieces {
            let (written, value) = match piece {
                Piece::Plain(text) => {
                    expanded.push_str(text);
                    continue;
                }
                Piece::Specifier(specifier) => (specifier.written().to_owned(), self.specified(*specifier, unit)?),
                Piece::Variable(name) => (format!("${{{name}}}"), self.looked_up(name, env)?),
            };
            if expanded.len() + value.len() > MAX_EXPANDED {
                return Err(self.bad(format!("with {written} filled in it is longer than any endpoint")));
            }
            expanded.push_str(&value);
            filled.push((written, value));
        }
        expanded.parse().map_err(|source| Fault::BadExpanded {
            text: self.text.clone(),
            filled,
            source: Box::new(source),
        })
    }

    fn specified(&self, specifier: Specifier, unit: &UnitName) -> Result<String, Fault> {
        specifier
            .value(unit)
            .map(str::to_owned)
            .ok_or_else(|| self.bad(format!("{} is the name of an instance, and {unit} is none", specifier.written())))
    }

    fn looked_up(&self, name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Fault> {
        env(name).ok_or_else(|| {
            self.bad(format!("${{{name}}} is not set: set it with Environment= or EnvironmentFile= in the unit"))
        })
    }

    fn bad(&self, reason: String) -> Fault {
        Fault::BadExpansion { text: self.text.clone(), reason }
    }
}

/// An element of `replaces`, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PatternText {
    pub(super) place: Place,
    pieces: Vec<Piece>,
}

impl PatternText {
    /// Reads an element. What has nothing to expand is checked at once. There are no variables here: what the unit's
    /// environment says has no say in which unit is stopped.
    pub(super) fn parse(text: &str, place: Place) -> Result<Self, Fault> {
        let pieces = pieces(text).map_err(|reason| bad_pattern(format!("\"{}\": {reason}", printable(text))))?;
        if pieces.iter().any(|piece| matches!(piece, Piece::Variable(_))) {
            return Err(bad_pattern(format!(
                "\"{}\": a variable has no say in which unit is stopped",
                printable(text)
            )));
        }
        let plain: Option<String> = pieces.iter().map(Piece::plain).collect();
        if let Some(plain) = plain {
            plain.parse::<UnitPattern>().map_err(bad_pattern)?;
        }
        Ok(Self { place, pieces })
    }

    /// What it means for `unit`.
    pub(super) fn expand(&self, unit: &UnitName) -> Result<UnitPattern, Fault> {
        let filled = self.pieces.iter().map(|piece| match piece {
            Piece::Plain(text) | Piece::Variable(text) => Ok(text.as_str()),
            Piece::Specifier(specifier) => specifier.value(unit).ok_or_else(|| {
                bad_pattern(format!("{} is the name of an instance, and {unit} is none", specifier.written()))
            }),
        });
        let filled = filled.collect::<Result<String, Fault>>()?;
        if filled.len() > MAX_EXPANDED {
            return Err(bad_pattern(format!("is longer than {MAX_EXPANDED} bytes, with %i, %p and %n filled in")));
        }
        filled.parse().map_err(bad_pattern)
    }
}

fn bad_pattern(reason: String) -> Fault {
    Fault::BadValue { key: "replaces".to_owned(), reason }
}

impl Piece {
    fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Specifier(_) | Self::Variable(_) => None,
        }
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['%', '$']) {
        if at > 0 {
            pieces.push(Piece::Plain(rest[..at].to_owned()));
        }
        let (piece, after) =
            if rest[at..].starts_with('%') { specifier(&rest[at + 1..])? } else { variable(&rest[at + 1..])? };
        pieces.push(piece);
        rest = after;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Plain(rest.to_owned()));
    }
    Ok(pieces)
}

/// What follows a `%`.
fn specifier(text: &str) -> Result<(Piece, &str), String> {
    let mut chars = text.chars();
    let piece = match chars.next() {
        Some('i') => Piece::Specifier(Specifier::Instance),
        Some('p') => Piece::Specifier(Specifier::Prefix),
        Some('n') => Piece::Specifier(Specifier::Name),
        Some('%') => Piece::Plain("%".to_owned()),
        Some(other) => return Err(format!("unknown specifier %{}: %i, %p, %n and %% are known", other.escape_debug())),
        None => return Err("a specifier should follow the %: %i, %p, %n or %%".to_owned()),
    };
    Ok((piece, chars.as_str()))
}

/// What follows a `$`.
fn variable(text: &str) -> Result<(Piece, &str), String> {
    let Some(inside) = text.strip_prefix('{') else {
        return Err("a $ begins a variable, which is written ${NAME}".to_owned());
    };
    let (name, after) = inside.split_once('}').ok_or("missing } after ${")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
        let shown = printable(name);
        return Err(format!(
            "\"{shown}\" is no name of a variable: letters, digits and _ make one, and no default can be given"
        ));
    }
    Ok((Piece::Variable(name.to_owned()), after))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn place() -> Place {
        Place::File(Arc::from(Path::new("p")))
    }

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "PORT" => "8080",
            "HOST" => "[::1]",
            "_9" => "9",
            "EMPTY" => "",
            "LONG" => return Some("8".repeat(600)),
            "HALF" => return Some("8".repeat(256)),
            "MORE" => return Some("8".repeat(257)),
            "WORD" => "a\nb",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn expanded(text: &str, unit: &str) -> Result<String, String> {
        let port = PortText::parse(text, place()).map_err(|fault| fault.to_string())?;
        let range = port.expand(&unit.parse().unwrap(), &env);
        range.map(|range| range.to_string()).map_err(|fault| fault.to_string())
    }

    #[rustfmt::skip]
    const EXPANDED: &[(&str, &str, &str)] = &[
        ("8080",                "a.service",      "8080/tcp"),
        ("80%i/udp",            "a@12.service",   "8012/udp"),
        ("%p",                  "8080@x.service", "8080/tcp"),
        ("%p",                  "8080.service",   "8080/tcp"),
        ("${PORT}",             "a.service",      "8080/tcp"),
        ("${HOST}:1%i${_9}/udp", "a@2.service",   "[::1]:129/udp"),
        ("${EMPTY}80",          "a.service",      "80/tcp"),
    ];

    #[test]
    fn specifiers_and_variables_become_part_of_the_endpoint() {
        for (text, unit, range) in EXPANDED {
            assert_eq!(expanded(text, unit).as_deref(), Ok(*range), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_filled_in_for_its_unit_and_has_no_variables() {
        let expanded = |text: &str, unit: &str| {
            let pattern = PatternText::parse(text, place()).map_err(|fault| fault.to_string())?;
            let pattern = pattern.expand(&unit.parse().unwrap());
            pattern.map(|pattern| pattern.to_string()).map_err(|fault| fault.to_string())
        };
        for (text, unit, result) in [
            ("old.service", "app.service", Ok("old.service")),
            ("old@%i.service", "app@7.service", Ok("old@7.service")),
            ("%p-*.service", "app@7.service", Ok("app-*.service")),
            ("old@%i.service", "app.service", Err("replaces: %i is the name of an instance, and app.service is none")),
            (
                "${X}.service",
                "app.service",
                Err("replaces: \"${X}.service\": a variable has no say in which unit is stopped"),
            ),
            ("old", "app.service", Err("replaces: unit name \"old\" has no suffix: add .service")),
            (
                "%x.service",
                "app.service",
                Err("replaces: \"%x.service\": unknown specifier %x: %i, %p, %n and %% are known"),
            ),
        ] {
            assert_eq!(expanded(text, unit), result.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[rustfmt::skip]
    const WRONG: &[(&str, &str, &str)] = &[
        // Known at once.
        ("80%I",        "a@1.service", r#"ports: "80%I": unknown specifier %I: %i, %p, %n and %% are known"#),
        ("80%",         "a@1.service", r#"ports: "80%": a specifier should follow the %: %i, %p, %n or %%"#),
        ("80%%",        "a@1.service", r#"ports: endpoint "80%", column 3: unexpected "%" after the port"#),
        ("$PORT",       "a.service",   r#"ports: "$PORT": a $ begins a variable, which is written ${NAME}"#),
        ("$$",          "a.service",   r#"ports: "$$": a $ begins a variable, which is written ${NAME}"#),
        ("80$",         "a.service",   r#"ports: "80$": a $ begins a variable, which is written ${NAME}"#),
        ("${PORT",      "a.service",   r#"ports: "${PORT": missing } after ${"#),
        ("${}",         "a.service",   r#"ports: "${}": "" is no name of a variable: letters, digits and _ make one, and no default can be given"#),
        ("${9}",        "a.service",   r#"ports: "${9}": "9" is no name of a variable: letters, digits and _ make one, and no default can be given"#),
        ("${P:-80}",    "a.service",   r#"ports: "${P:-80}": "P:-80" is no name of a variable: letters, digits and _ make one, and no default can be given"#),
        ("${a\u{301}}", "a.service",  r#"ports: "${a\u{301}}": "a\u{301}" is no name of a variable: letters, digits and _ make one, and no default can be given"#),
        ("${${PORT}}",  "a.service",   r#"ports: "${${PORT}}": "${PORT" is no name of a variable: letters, digits and _ make one, and no default can be given"#),
        ("",            "a.service",   r#"ports: endpoint "", column 1: empty: give a port, as in 8080/tcp"#),
        // Known once the unit is.
        ("80%i",        "a.service",   r#"ports: "80%i": %i is the name of an instance, and a.service is none"#),
        ("${NONE}/tcp", "a.service",   r#"ports: "${NONE}/tcp": ${NONE} is not set: set it with Environment= or EnvironmentFile= in the unit"#),
        ("${EMPTY}",    "a.service",   r#"ports: "${EMPTY}", where ${EMPTY} is "": endpoint "", column 1: empty: give a port, as in 8080/tcp"#),
        ("${WORD}/tcp", "a.service",   r#"ports: "${WORD}/tcp", where ${WORD} is "a\nb": endpoint "a\nb/tcp", column 2: '\n' is not plain ASCII"#),
        ("${PORT}%i",   "a@0.service", r#"ports: "${PORT}%i", where ${PORT} is "8080", %i is "0": endpoint "80800", column 1: ports end at 65535"#),
        ("${PORT}${LONG}", "a.service", r#"ports: "${PORT}${LONG}": with ${LONG} filled in it is longer than any endpoint"#),
        ("%n",          "a.service",   r#"ports: "%n", where %n is "a.service": endpoint "a.service", column 1: "a.service" is no port number"#),
        ("%%%i",        "a@1.service", r#"ports: "%%%i", where %i is "1": endpoint "%1", column 1: "%1" is no port number"#),
    ];

    #[test]
    fn what_cannot_be_expanded_is_refused_with_what_was_filled_in() {
        for (text, unit, message) in WRONG {
            assert_eq!(expanded(text, unit), Err((*message).to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_filled_in_is_at_most_512_bytes_long() {
        for (text, is_longer) in [("${HALF}${HALF}", false), ("${HALF}${MORE}", true)] {
            let reason = expanded(text, "a.service").unwrap_err();
            assert_eq!(reason.contains("is longer than any endpoint"), is_longer, "{reason}");
        }
        for (plain, is_longer) in [(512 - "a.service".len(), false), (513 - "a.service".len(), true)] {
            let pattern = PatternText::parse(&format!("{}%n", "x".repeat(plain)), place()).unwrap();
            let reason = pattern.expand(&"a.service".parse().unwrap()).unwrap_err().to_string();
            assert_eq!(reason.contains("is longer than 512 bytes"), is_longer, "{reason}");
        }
    }

    proptest! {
        #[test]
        fn what_is_filled_in_is_not_expanded_again(value in any::<String>()) {
            let port = PortText::parse("${V}", place()).unwrap();
            let range = port.expand(&"a@1.service".parse().unwrap(), &|_| Some(value.clone()));
            prop_assert_eq!(range.ok(), value.parse::<EndpointRange>().ok());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-z%$PORT{}:é/-]{0,16}") {
            let _ = expanded(&text, "a@1.service");
        }
    }
}
