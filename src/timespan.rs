//! Spans of time, read as systemd.time(7) writes them and shown the same way.

use std::time::Duration;

use rustix::event::Timespec;

use crate::model::printable;

/// `850us`, `12ms`, `1.5s`, `1min 30s`.
#[must_use]
pub fn show(span: Duration) -> String {
    let (seconds, micros) = (span.as_secs(), span.subsec_micros());
    match (seconds, micros) {
        (0, 0..1000) => format!("{micros}us"),
        (0, _) => format!("{}ms", micros / 1000),
        (1..60, 0..1000) => format!("{seconds}s"),
        (1..60, _) => format!("{seconds}.{}s", micros / 100_000),
        _ if seconds.is_multiple_of(60) => format!("{}min", seconds / 60),
        _ => format!("{}min {}s", seconds / 60, seconds % 60),
    }
}

/// For poll(2); a span that is too long for it is as good as for ever.
#[must_use]
pub fn timespec(span: Duration) -> Timespec {
    Timespec::try_from(span).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

/// Names and length in microseconds (systemd.time(7); `extract_multiplier()`, systemd v257 `src/basic/time-util.c`).
/// Of two names where one begins the other, the longer one comes first.
const UNITS: &[(&str, u64)] = &[
    ("seconds", SECOND),
    ("second", SECOND),
    ("sec", SECOND),
    ("s", SECOND),
    ("minutes", 60 * SECOND),
    ("minute", 60 * SECOND),
    ("min", 60 * SECOND),
    ("months", 2_629_800 * SECOND),
    ("month", 2_629_800 * SECOND),
    ("M", 2_629_800 * SECOND),
    ("msec", 1000),
    ("ms", 1000),
    ("m", 60 * SECOND),
    ("hours", 3600 * SECOND),
    ("hour", 3600 * SECOND),
    ("hr", 3600 * SECOND),
    ("h", 3600 * SECOND),
    ("days", 86_400 * SECOND),
    ("day", 86_400 * SECOND),
    ("d", 86_400 * SECOND),
    ("weeks", 604_800 * SECOND),
    ("week", 604_800 * SECOND),
    ("w", 604_800 * SECOND),
    ("years", 31_557_600 * SECOND),
    ("year", 31_557_600 * SECOND),
    ("y", 31_557_600 * SECOND),
    ("usec", 1),
    ("us", 1),
    ("\u{b5}s", 1),
    ("\u{3bc}s", 1),
];

const SECOND: u64 = 1_000_000;
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// A bounded time span as in systemd.time(7): `10s`, `1min 30s`, `1.5h`; a number alone is in seconds.
///
/// As `parse_time()` of systemd, but for two things: `infinity` is refused, since what portguard waits for must end,
/// and a leading `+` is no number.
///
/// # Errors
/// The text is no span; the words say why.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim_matches(BLANKS);
    if rest.is_empty() {
        return Err("is empty: give a time span, as in \"10s\" or \"1min 30s\"".to_owned());
    }
    if rest == "infinity" {
        return Err("must end: give a time span, as in \"10s\" or \"1min 30s\"".to_owned());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (part, after) =
            component(rest).map_err(|reason| format!("\"{}\" is no time span: {reason}", printable(text)))?;
        total = total.checked_add(part).ok_or_else(|| format!("\"{}\" is too long", printable(text)))?;
        rest = after.trim_start_matches(BLANKS);
    }
    Ok(Duration::from_micros(total))
}

/// One number with its unit in microseconds, and what follows it.
fn component(text: &str) -> Result<(u64, &str), String> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(format!("a number should be at \"{}\"", printable(text)));
    }
    if fraction.is_empty() && text[whole.len()..].starts_with('.') {
        return Err("digits should follow the point".to_owned());
    }
    let at_unit = rest.trim_start_matches(BLANKS);
    let unit = UNITS.iter().find_map(|(name, micros)| Some((at_unit.strip_prefix(name)?, *micros)));
    let (after, micros) = unit.unwrap_or((at_unit, SECOND));
    if after.len() == rest.len() && !rest.is_empty() {
        return Err(format!("\"{}\" is no unit of time: us, ms, s, min, h, d, w, M, y", printable(rest)));
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| "the number is too large")? };
    let total = whole.checked_mul(micros).and_then(|span| span.checked_add(fraction_of(fraction, micros)));
    Ok((total.ok_or("the number is too large")?, after))
}

/// The digits after the point, cut below a microsecond as systemd does.
fn fraction_of(digits: &str, micros: u64) -> u64 {
    let mut place = micros;
    digits
        .bytes()
        .map(|digit| {
            place /= 10;
            u64::from(digit - b'0') * place
        })
        .sum()
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_too_long_for_poll_is_for_ever() {
        assert_eq!(timespec(Duration::from_millis(1_500)), Timespec { tv_sec: 1, tv_nsec: 500_000_000 });
        assert_eq!(timespec(Duration::MAX), Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    }

    /// Each value is what `systemd-analyze timespan` of systemd 252 says, in microseconds.
    #[rustfmt::skip]
    const SPANS: &[(&str, u64)] = &[
        ("10s",           10_000_000),
        ("5",             5_000_000),
        ("0",             0),
        ("1min 30s",      90_000_000),
        ("1min30s",       90_000_000),
        (" 5 s ",         5_000_000),
        ("5\ts",          5_000_000),
        ("5 10s",         15_000_000),
        ("5ms5",          5_005_000),
        ("500ms",         500_000),
        ("2h2h",          14_400_000_000),
        ("1.5min",        90_000_000),
        (".5s",           500_000),
        ("12.34 .56",     12_900_000),
        ("12.34s.56",     12_900_000),
        ("1.0000001s",    1_000_000),
        ("1 M",           2_629_800_000_000),
        ("1month",        2_629_800_000_000),
        ("1m",            60_000_000),
        ("1y",            31_557_600_000_000),
        ("3µs",           3),
        ("3μs",           3),
        ("1usec",         1),
        ("5sec",          5_000_000),
        ("1hr",           3_600_000_000),
    ];

    /// One of each unit, as it says as well.
    #[rustfmt::skip]
    const OF_ONE: &[(&str, u64)] = &[
        ("seconds second sec s",    1_000_000),
        ("minutes minute min m",    60_000_000),
        ("months month M",          2_629_800_000_000),
        ("msec ms",                 1_000),
        ("hours hour hr h",         3_600_000_000),
        ("days day d",              86_400_000_000),
        ("weeks week w",            604_800_000_000),
        ("years year y",            31_557_600_000_000),
        ("usec us µs μs",           1),
    ];

    #[test]
    fn every_name_of_a_unit_is_as_long_as_in_systemd() {
        for (names, micros) in OF_ONE {
            for name in names.split(' ') {
                assert_eq!(parse(&format!("1{name}")), Ok(Duration::from_micros(*micros)), "{name}");
            }
        }
        let names: Vec<&str> = OF_ONE.iter().flat_map(|(names, _)| names.split(' ')).collect();
        assert!(UNITS.iter().all(|(name, _)| names.contains(name)) && names.len() == UNITS.len());
    }

    #[test]
    fn time_spans_are_those_of_systemd() {
        for (text, micros) in SPANS {
            assert_eq!(parse(text), Ok(Duration::from_micros(*micros)), "{text:?}");
        }
    }

    #[rustfmt::skip]
    const NO_SPANS: &[(&str, &str)] = &[
        ("",                 "is empty: give a time span, as in \"10s\" or \"1min 30s\""),
        (" ",                "is empty: give a time span, as in \"10s\" or \"1min 30s\""),
        ("infinity",         "must end: give a time span, as in \"10s\" or \"1min 30s\""),
        ("s",                "\"s\" is no time span: a number should be at \"s\""),
        ("-1",               "\"-1\" is no time span: a number should be at \"-1\""),
        ("+5",               "\"+5\" is no time span: a number should be at \"+5\""),
        ("5.",               "\"5.\" is no time span: digits should follow the point"),
        ("1.2.3",            "\"1.2.3\" is no time span: \".3\" is no unit of time: us, ms, s, min, h, d, w, M, y"),
        ("5x",               "\"5x\" is no time span: \"x\" is no unit of time: us, ms, s, min, h, d, w, M, y"),
        ("5secs",            "\"5secs\" is no time span: a number should be at \"s\""),
        ("1nsec",            "\"1nsec\" is no time span: \"nsec\" is no unit of time: us, ms, s, min, h, d, w, M, y"),
        ("1 infinity",       "\"1 infinity\" is no time span: a number should be at \"infinity\""),
        ("99999999999999y",  "\"99999999999999y\" is no time span: the number is too large"),
        ("99999999999999999999", "\"99999999999999999999\" is no time span: the number is too large"),
        ("584000y 584000y",  "\"584000y 584000y\" is too long"),
    ];

    #[test]
    fn what_is_no_time_span_is_refused_with_its_reason() {
        for (text, reason) in NO_SPANS {
            assert_eq!(parse(text), Err((*reason).to_owned()), "{text:?}");
        }
    }

    #[test]
    fn spans_are_shown_in_two_units_at_the_most() {
        for (span, text) in [
            (Duration::ZERO, "0us"),
            (Duration::from_micros(999), "999us"),
            (Duration::from_micros(19_999), "19ms"),
            (Duration::from_secs(1), "1s"),
            (Duration::from_millis(1560), "1.5s"),
            (Duration::from_mins(1), "1min"),
            (Duration::from_secs(90), "1min 30s"),
        ] {
            assert_eq!(show(span), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn nothing_like_a_time_span_makes_the_parser_panic(text in "[0-9. smhdwyMµuin]{0,30}") {
            let _ = parse(&text);
        }
    }
}
