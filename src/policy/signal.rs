//! Signals as a person writes them. Pure text.

use nix::sys::signal::Signal as NixSignal;

use crate::model::{Signal, printable};

/// A signal by name or number, as in `signal_from_string()`, systemd v257 `src/basic/signal-util.c`:
/// `SIGTERM`, `TERM`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
pub(super) fn signal(text: &str) -> Result<Signal, String> {
    if let Ok(number) = text.parse::<i64>() {
        return signal_of_number(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let number = match real_time_signal(name) {
        Some(number) => Some(number),
        None => format!("SIG{name}").parse::<NixSignal>().ok().map(|signal| signal as i32),
    };
    number.map(Signal).ok_or_else(|| {
        format!("\"{}\" is no signal: give its name as in signal(7), such as SIGTERM or SIGRTMIN+3", printable(text))
    })
}

/// A signal by its number. 32 and 33 are left out: the C library keeps them for itself (nptl(7)).
pub(super) fn signal_of_number(number: i64) -> Result<Signal, String> {
    let known = |number: &i32| NixSignal::try_from(*number).is_ok() || Signal::REAL_TIME.contains(number);
    i32::try_from(number).ok().filter(known).map(Signal).ok_or_else(|| format!("{number} is no number of a signal"))
}

/// `RTMIN`, `RTMIN+N`, `RTMAX` or `RTMAX-N`, within the range of real-time signals.
fn real_time_signal(name: &str) -> Option<i32> {
    let (lowest, highest) = Signal::REAL_TIME.into_inner();
    let offset = |text: &str, sign: char| -> Option<i32> {
        match text.strip_prefix(sign) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            Some(_) => None,
            None => text.is_empty().then_some(0),
        }
    };
    let number = match name.strip_prefix("RTMIN") {
        Some(rest) => lowest.checked_add(offset(rest, '+')?)?,
        None => highest.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?,
    };
    Signal::REAL_TIME.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("15", 15),
            ("SIGKILL", 9),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMIN+30", 64),
            ("SIGRTMAX", 64),
            ("RTMAX-30", 34),
            ("64", 64),
        ] {
            assert_eq!(signal(text), Ok(Signal(number)), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "",
            "SIG",
            "term",
            "sigterm",
            "SIGSIGTERM",
            "SIGFOO",
            " TERM",
            "RTMIN+31",
            "RTMIN+",
            "RTMIN-1",
            "RTMAX+1",
            "RTMAX-31",
            "RTMIN++1",
        ] {
            let reason = signal(text).unwrap_err();
            assert!(reason.starts_with(&format!("\"{text}\" is no signal")), "{reason}");
        }
        for text in ["0", "-1", "32", "33", "65", "9223372036854775807"] {
            assert_eq!(signal(text), Err(format!("{text} is no number of a signal")));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in proptest::prelude::any::<String>()) {
            let _ = signal(&text);
        }
    }
}
