//! The rules that names and endpoints keep, whatever is typed: see [`crate::fuzzing`].

use super::{EndpointRange, UnitName, UnitPattern, UnitType, printable};
use crate::fuzzing::assert_printable;

/// A text that is an endpoint or a range, or none.
pub(crate) fn endpoint(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<EndpointRange>() {
        Ok(range) => {
            assert_eq!(range.to_string().parse(), Ok(range), "what is shown can be typed again");
            let endpoints: Vec<_> = range.endpoints().collect();
            assert_eq!(endpoints.len(), range.port_count());
            assert!((1..=usize::from(EndpointRange::MAX_PORTS)).contains(&endpoints.len()));
            for endpoint in endpoints {
                assert!(endpoint.conflicts_with(endpoint.socket_addr(), false), "{endpoint} is in its own way");
                let alone: EndpointRange = endpoint.to_string().parse().unwrap();
                assert_eq!(alone.endpoints().collect::<Vec<_>>(), [endpoint]);
            }
        }
        Err(error) => {
            assert!(text.is_char_boundary(error.offset), "the place is in the text");
            assert_printable(&error.reason);
            assert_printable(&error.to_string());
        }
    }
}

/// The first line is a unit's name, or none; the second a pattern, or none.
pub(crate) fn unit_name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (name, pattern) = text.split_once('\n').unwrap_or((&text, &text));
    let unit = name.parse::<UnitName>();
    assert_eq!(unit.is_ok(), is_valid(name), "{name:?}");
    match &unit {
        Ok(unit) => of_a_unit(unit, name),
        Err(error) => {
            assert_printable(&error.to_string());
            assert_printable(&error.reason);
        }
    }
    match pattern.parse::<UnitPattern>() {
        Ok(pattern) => {
            assert_eq!(pattern.to_string().parse().as_ref(), Ok(&pattern));
            if let Ok(unit) = &unit {
                let matches = pattern.matches(unit);
                assert!(!pattern.is_plain() || matches == (pattern.to_string() == unit.as_str()));
                assert!(!matches || unit.unit_type().may_hold_ports(), "{pattern} is {unit}, which holds nothing");
            }
        }
        Err(reason) => assert_printable(&reason),
    }
}

fn of_a_unit(unit: &UnitName, text: &str) {
    assert_eq!(unit.as_str(), text);
    assert_printable(text);
    assert_eq!(format!("{}.{}", unit.stem(), unit.unit_type().suffix()), text);
    match (unit.instance(), unit.template()) {
        (Some(instance), Some(template)) => {
            assert_eq!(format!("{}@{instance}", unit.prefix()), unit.stem());
            assert_eq!(template.as_str().parse().as_ref(), Ok(&template));
            assert!(template.is_template() && template.prefix() == unit.prefix() && !unit.is_template());
        }
        (None, None) => assert_eq!(unit.is_template(), unit.stem().contains('@')),
        (instance, template) => panic!("{instance:?} of {template:?}"),
    }
    assert_eq!(unit.clone().require_runnable().is_err(), unit.is_template());
    // What is not stopped by name is not stopped by its pattern either.
    let pattern = text.parse::<UnitPattern>();
    let possible = unit.unit_type().may_hold_ports() && !unit.is_template();
    assert_eq!(pattern.as_ref().is_ok_and(|pattern| pattern.is_plain() && pattern.matches(unit)), possible);
}

/// `unit_name_is_valid(n, UNIT_NAME_ANY)`, systemd v257 `src/basic/unit-name.c`, line by line.
fn is_valid(n: &str) -> bool {
    const UNIT_NAME_MAX: usize = 256;
    if n.is_empty() || n.len() >= UNIT_NAME_MAX {
        return false;
    }
    let Some(e) = n.rfind('.').filter(|e| *e != 0) else { return false };
    if !UnitType::ALL.iter().any(|unit_type| unit_type.suffix() == &n[e + 1..]) {
        return false;
    }
    let is_valid_char = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    n[..e].bytes().all(is_valid_char) && n.find('@') != Some(0)
}

/// A text of anybody's, made safe to show.
pub(crate) fn shown(text: &str) {
    let shown = printable(text);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert_printable(&shown);
    // The longest escape is `\u{10ffff}`.
    assert!(shown.len() <= 10 * text.chars().count(), "{shown:?}");
}
