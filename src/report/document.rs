//! What a command of people's prints: one document, as JSON of a schema that is versioned, or as text for a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

use crate::model::printable;
use crate::timespan;

/// The version of `packaging/portguard.schema.json`. It grows with each change that a reader could stumble over; what is
/// added does not make it grow, and no field ever changes its meaning.
pub const SCHEMA: u32 = 1;

/// What is printed: its JSON is what it serialises to.
pub trait Document: Serialize {
    /// Its name in the schema.
    const KIND: &'static str;

    /// The same, of a type that is more than one of them.
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    /// The same for people.
    fn print(&self, page: &mut Page);
}

/// Around each document.
#[derive(Serialize)]
struct Envelope<'a, D> {
    schema: u32,
    kind: &'static str,
    content: &'a D,
}

/// The JSON of a document, in one line.
///
/// # Errors
/// None that a document of ours has: its keys are texts.
pub fn json<D: Document>(document: &D) -> serde_json::Result<String> {
    serde_json::to_string(&Envelope { schema: SCHEMA, kind: document.kind(), content: document })
}

/// Prints a document to standard output. A reader that has gone away is no error.
///
/// # Errors
/// It cannot be written.
pub fn show<D: Document>(document: &D, as_json: bool) -> io::Result<()> {
    let text = if as_json {
        json(document)? + "\n"
    } else {
        let mut page = Page::of_terminal();
        document.print(&mut page);
        page.text
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes the JSON of a document to standard output, as far as it is taken within `patience`.
///
/// # Errors
/// It cannot be written.
pub fn write_within<D: Document>(document: &D, patience: Duration) -> io::Result<()> {
    /// A pipe that can be written to has room for so much (`PIPE_BUF`, pipe(7)).
    const ROOM: usize = 4096;
    let text = json(document)? + "\n";
    let out = rustix::stdio::stdout();
    let until = Instant::now() + patience;
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let mut wanted = [PollFd::new(&out, PollFlags::OUT)];
        let rest = until.saturating_duration_since(Instant::now());
        if poll(&mut wanted, Some(&timespan::timespec(rest)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let written = rustix::io::write(out, &left[..left.len().min(ROOM)])?;
        left = &left[written..];
    }
    Ok(())
}

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// What it is about.
    Title,
    /// All is well.
    Good,
    /// To be looked at.
    Bad,
    /// By the way.
    Faint,
}

/// Text for people, as wide as their terminal. All of it is made printable but for our own colours.
#[derive(Debug)]
pub struct Page {
    text: String,
    /// Columns; no bound where it is no terminal.
    width: usize,
    colour: bool,
}

/// The narrowest and the widest page: nobody reads lines that are longer.
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=160;

impl Page {
    /// For standard output. Where that is a terminal it has the terminal's width, and colours unless `NO_COLOR` is set
    /// (no-color.org) or it knows none.
    fn of_terminal() -> Self {
        let out = io::stdout();
        if !out.is_terminal() {
            return Self::plain(usize::MAX);
        }
        let size = rustix::termios::tcgetwinsize(&out).map(|size| usize::from(size.ws_col)).ok();
        let width = size.filter(|columns| *columns > 0).unwrap_or(80).clamp(*WIDTHS.start(), *WIDTHS.end());
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let knows_colours = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Self { colour: knows_colours && !is_set("NO_COLOR"), ..Self::plain(width) }
    }

    /// Without colours.
    #[must_use]
    pub fn plain(width: usize) -> Self {
        Self { text: String::new(), width, colour: false }
    }

    /// What was printed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A line that is cut where the page ends: a piece of it may have a tone.
    pub fn line(&mut self, pieces: &[(&str, Option<Tone>)]) {
        let mut left = self.width;
        for (text, tone) in pieces {
            let shown = printable(text);
            let length = shown.chars().count();
            let cut: String =
                if length > left { shown.chars().take(left.saturating_sub(1)).chain(['…']).collect() } else { shown };
            left = left.saturating_sub(length);
            self.put(&cut, *tone);
            if left == 0 {
                break;
            }
        }
        self.text.push('\n');
    }

    /// Words that go on in the next line, as far in as the first, behind `lead`.
    pub fn words(&mut self, lead: &str, text: &str, tone: Option<Tone>) {
        let rest = " ".repeat(lead.chars().count());
        let room = self.width.saturating_sub(rest.len()).max(1);
        let shown = printable(text);
        let mut line = String::new();
        let mut before = lead;
        for word in shown.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                self.put(before, None);
                self.put(&std::mem::take(&mut line), tone);
                self.text.push('\n');
                before = &rest;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.put(before, None);
        self.put(&line, tone);
        self.text.push('\n');
    }

    /// Something to type, whole: on a line of its own where it would not fit.
    pub fn command(&mut self, lead: &str, what: &str, command: &str) {
        let shown = printable(command);
        if lead.chars().count() + what.len() + 1 + shown.chars().count() <= self.width {
            self.put(lead, None);
            self.put(what, None);
            self.text.push(' ');
        } else {
            self.put(lead, None);
            self.put(what, None);
            self.text.push('\n');
            self.put(lead, None);
            self.text.push_str("  ");
        }
        self.put(&shown, Some(Tone::Title));
        self.text.push('\n');
    }

    /// Columns, as wide as what is in them; the last is cut where the page ends.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let shown: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let width_of = |column: usize| {
            let cells = shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width_of).collect();
        let line = |cells: &[&str]| {
            let padded = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count()))));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.line(&[(&line(head), Some(Tone::Faint))]);
        for row in &shown {
            self.line(&[(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()), None)]);
        }
    }

    /// Text that is to go into a file as it is, and has nothing of others in it that is not printable.
    pub fn verbatim(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.text.push('\n');
    }

    fn put(&mut self, text: &str, tone: Option<Tone>) {
        let code = match tone.filter(|_| self.colour && !text.is_empty()) {
            None => return self.text.push_str(text),
            Some(Tone::Title) => "1",
            Some(Tone::Good) => "32",
            Some(Tone::Bad) => "31",
            Some(Tone::Faint) => "2",
        };
        // ECMA-48, "select graphic rendition".
        for part in ["\x1b[", code, "m", text, "\x1b[0m"] {
            self.text.push_str(part);
        }
    }
}

/// `5s`, `3min`, `2h 5min`, `4d 2h`: how long something has been so.
#[must_use]
pub fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}min"),
        (0, _, _) => format!("{hours}h {}min", minutes % 60),
        (_, _, _) => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_page_but_for_what_is_to_be_typed() {
        let mut page = Page::plain(20);
        page.line(&[("0123456789", None), ("0123456789abc", None), ("more", None)]);
        page.words("  - ", "some words that do not fit in one line", None);
        page.command("  ", "type:", "systemctl stop a.service");
        page.command("  ", "type:", "true");
        assert_eq!(
            page.text().lines().collect::<Vec<_>>(),
            [
                "0123456789012345678…",
                "  - some words that",
                "    do not fit in",
                "    one line",
                "  type:",
                "    systemctl stop a.service",
                "  type: true",
            ]
        );
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut page = Page::plain(30);
        page.table(&["PID", "COMMAND"], &[vec!["1".into(), "sys\x1btemd".into()], vec!["12345".into(), "a".into()]]);
        assert_eq!(page.text(), "PID    COMMAND\n1      sys\\u{1b}temd\n12345  a\n");
    }

    #[test]
    fn an_age_has_two_parts_at_most() {
        for (seconds, shown) in [(0, "0s"), (59, "59s"), (61, "1min"), (3720, "1h 2min"), (356_400, "4d 3h")] {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
    }
}
