//! Patterns of unit names, as in `systemctl stop 'app-*.service'`.
//!
//! Source of the rules: glob(7), and `fnmatch()` as systemd calls it (`strv_fnmatch()`, systemd v257
//! `src/basic/strv.c`). There is no path in a unit's name, so `*` matches any character.

use std::fmt;
use std::str::FromStr;

use super::{UnitName, UnitType, printable};

/// A unit's name with `*`, `?` and `[a-z]` in it, or without.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitPattern {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Token {
    /// This very character.
    Plain(char),
    /// `?`.
    One,
    /// `*`.
    Any,
    /// `[abc]`, `[a-z]`, and with `!` or `^` in front none of these.
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl UnitPattern {
    /// Whether it has this name.
    #[must_use]
    pub fn matches(&self, unit: &UnitName) -> bool {
        let name: Vec<char> = unit.as_str().chars().collect();
        matches(&self.tokens, &name)
    }

    /// Whether it names one unit and no other.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.tokens.iter().all(|token| matches!(token, Token::Plain(_)))
    }
}

/// Without recursion: where a `*` has taken too little, it takes one more and all behind it is tried again.
fn matches(pattern: &[Token], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last_any = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(Token::Any) => {
                last_any = Some((p, n));
                p += 1;
                continue;
            }
            Some(token) if token.takes(name[n]) => {
                p += 1;
                n += 1;
                continue;
            }
            Some(Token::Plain(_) | Token::One | Token::Set { .. }) | None => {}
        }
        let Some((any, taken)) = last_any else { return false };
        last_any = Some((any, taken + 1));
        p = any + 1;
        n = taken + 1;
    }
    pattern[p..].iter().all(|token| *token == Token::Any)
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Plain(plain) => *plain == c,
            Self::One | Self::Any => true,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *negated
            }
        }
    }
}

impl FromStr for UnitPattern {
    type Err = String;

    /// What could match something that can be stopped: a service, a socket unit or a scope.
    fn from_str(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let pattern = Self { text: text.to_owned(), tokens };
        if pattern.is_plain() {
            // A backslash is part of a unit's name, and no escape: `dev-\x2d.service`.
            let unit: UnitName = text.parse().map_err(|error: super::UnitNameError| error.to_string())?;
            if unit.is_template() {
                return Err(format!(
                    "\"{unit}\" is a template: {}*.{} is each of its instances",
                    unit.stem(),
                    unit.unit_type().suffix()
                ));
            }
        }
        let suffix = text.rsplit_once('.').and_then(|(_, suffix)| UnitType::of_suffix(suffix));
        if suffix.is_some_and(UnitType::may_hold_ports) {
            Ok(pattern)
        } else {
            Err(format!("\"{}\" must end in .service, .socket or .scope", printable(text)))
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '[' => set(&mut chars).ok_or_else(|| format!("\"{}\": missing ] after [", printable(text)))?,
            plain if UnitName::is_valid_char(plain) => Token::Plain(plain),
            wrong => {
                return Err(format!(
                    "\"{}\": '{}' is neither part of a unit's name nor *, ? or [",
                    printable(text),
                    wrong.escape_debug()
                ));
            }
        });
    }
    Ok(tokens)
}

/// What follows a `[`. A `]` that comes first is one of the characters.
fn set(chars: &mut std::str::Chars<'_>) -> Option<Token> {
    let (inside, negated) = match chars.as_str().strip_prefix(['!', '^']) {
        Some(rest) => (rest, true),
        None => (chars.as_str(), false),
    };
    let end = inside.char_indices().skip(1).find(|(_, c)| *c == ']').map(|(at, _)| at)?;
    let all: Vec<char> = inside[..end].chars().collect();
    *chars = inside[end + 1..].chars();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < all.len() {
        if all.get(at + 1) == Some(&'-') && at + 2 < all.len() {
            ranges.push((all[at], all[at + 2]));
            at += 3;
        } else {
            ranges.push((all[at], all[at]));
            at += 1;
        }
    }
    Some(Token::Set { negated, ranges })
}

impl fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[rustfmt::skip]
    const ROWS: &[(&str, &str, bool)] = &[
        ("app.service",        "app.service",       true),
        ("app.service",        "app2.service",      false),
        ("app-*.service",      "app-old.service",   true),
        ("app-*.service",      "app-.service",      true),
        ("app-*.service",      "app-old.socket",    false),
        ("app@*.service",      "app@1.service",     true),
        ("*.service",          "a.service",         true),
        ("*a*b.service",       "xaxbxb.service",    true),
        ("*a*b.service",       "xaxbxc.service",    false),
        ("app-?.service",      "app-1.service",     true),
        ("app-?.service",      "app-12.service",    false),
        ("app-[0-9].service",  "app-7.service",     true),
        ("app-[0-9].service",  "app-x.service",     false),
        ("app-[!0-9].service", "app-x.service",     true),
        ("app-[^0-9].service", "app-7.service",     false),
        ("app-[]x].service",   "app-x.service",     true),
        ("app-[a-].service",   "app--.service",     true),
        (r"a\x2db.service",    r"a\x2db.service",   true),
        ("run-*.scope",        "run-12.scope",      true),
    ];

    #[test]
    fn a_pattern_matches_as_systemctl_would() {
        for (pattern, unit, expected) in ROWS {
            let pattern: UnitPattern = pattern.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(pattern.matches(&unit.parse().unwrap()), *expected, "{pattern} {unit}");
        }
    }

    #[rustfmt::skip]
    const WRONG: &[(&str, &str)] = &[
        ("",              r#"unit name "" is empty: give the unit's name, as in systemctl"#),
        ("app",           r#"unit name "app" has no suffix: add .service"#),
        ("app@.service",  r#""app@.service" is a template: app@*.service is each of its instances"#),
        ("app-*",         r#""app-*" must end in .service, .socket or .scope"#),
        ("*.slice",       r#""*.slice" must end in .service, .socket or .scope"#),
        ("a.target",      r#""a.target" must end in .service, .socket or .scope"#),
        ("a[b.service",   r#""a[b.service": missing ] after ["#),
        ("a b.service",   r#""a b.service": ' ' is neither part of a unit's name nor *, ? or ["#),
        ("a\u{301}.service", r#""a\u{301}.service": '\u{301}' is neither part of a unit's name nor *, ? or ["#),
        ("a/*.service",   r#""a/*.service": '/' is neither part of a unit's name nor *, ? or ["#),
    ];

    #[test]
    fn what_can_match_nothing_that_can_be_stopped_is_refused() {
        for (text, message) in WRONG {
            assert_eq!(text.parse::<UnitPattern>().unwrap_err(), *message);
        }
    }

    /// glob(7), as short as it can be written.
    fn naive(pattern: &[Token], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((Token::Any, rest)), None) => naive(rest, name),
            (Some((Token::Any, rest)), Some((_, tail))) => naive(rest, name) || naive(pattern, tail),
            (Some((token, rest)), Some((c, tail))) => token.takes(*c) && naive(rest, tail),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = text.parse::<UnitPattern>();
        }

        #[test]
        fn it_matches_as_the_naive_matcher_does(pattern in r"[ab*?]{0,6}(\[!?[a-c]{1,2}\])?[ab*]{0,3}\.service", name in "[abc]{1,8}") {
            let unit: UnitName = format!("{name}.service").parse().unwrap();
            if let Ok(pattern) = pattern.parse::<UnitPattern>() {
                let chars: Vec<char> = unit.as_str().chars().collect();
                prop_assert_eq!(pattern.matches(&unit), naive(&pattern.tokens, &chars));
            }
        }
    }
}
