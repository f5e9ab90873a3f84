//! Words of others, made safe to show.

/// Text that is safe in a log and on a terminal: whatever is no printable character is escaped, so that neither a
/// line break, an escape sequence nor a change of writing direction gets through.
///
/// Quotes and backslashes stay as they are, so that a unit name can be copied from the line.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' | '\\' => shown.push(c),
            // It escapes control, format, private and unassigned characters, and marks that combine.
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for (text, shown) in [
            ("plain text, ünïcode", "plain text, ünïcode"),
            ("a\nMESSAGE=forged", r"a\nMESSAGE=forged"),
            ("\x1b[2J\x07", r"\u{1b}[2J\u{7}"),
            ("\u{202e}gnp.exe", r"\u{202e}gnp.exe"),
            ("\u{9b}31m", r"\u{9b}31m"),
            (r#"dev-\x2d "quoted" 'single'"#, r#"dev-\x2d "quoted" 'single'"#),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_printable(text in proptest::prelude::any::<String>()) {
            proptest::prop_assert!(!printable(&text).chars().any(char::is_control));
        }
    }
}
