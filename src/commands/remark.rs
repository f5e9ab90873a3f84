//! What `portguard check` and `portguard audit` find: a remark each, with what to type next.

use std::fmt::Write as _;

use serde::Serialize;

use crate::model::EndpointRange;
use crate::policy;
use crate::report::document::{Document, Page, Tone};

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Remark {
    /// Where in the policy.
    pub(super) place: Option<Written>,
    pub(super) severity: Severity,
    /// What kind of thing it is: a word of portguard(8), "COMMANDS".
    pub(super) kind: &'static str,
    /// The units that it is about.
    pub(super) units: Vec<String>,
    /// The endpoint or range that it is about.
    pub(super) endpoint: Option<String>,
    /// A sentence.
    pub(super) message: String,
    /// The processes that it is about.
    pub(super) processes: Vec<Left>,
    /// What to type to mend it, or to see more.
    pub(super) next: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// A start fails, or would.
    Error,
    /// A start can fail, or something is other than it looks.
    Warning,
}

/// A process that was left behind.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) pid: i32,
    /// Its arguments, or its name where it has none.
    pub(super) command: String,
}

/// A place in a file.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Written {
    pub(super) file: String,
    /// From 1; none for the file as a whole.
    pub(super) line: Option<usize>,
    /// The character in the line, from 1.
    pub(super) column: Option<usize>,
}

impl Written {
    pub(super) fn at(place: &policy::Place) -> Option<Self> {
        let (file, line, column) = match place {
            policy::Place::File(file) => (file, None, None),
            policy::Place::Text { file, line, column } => (file, Some(*line), Some(*column)),
            policy::Place::CommandLine => return None,
        };
        Some(Self { file: file.to_string_lossy().into_owned(), line, column })
    }

    /// An editor at that line: most take `+LINE`.
    fn edit(&self) -> Option<String> {
        let line = self.line?;
        Some(format!("${{EDITOR:-vi}} +{line} {}", quoted(&self.file)))
    }
}

impl Remark {
    /// About these units.
    #[inline(never)]
    pub(super) fn new(severity: Severity, kind: &'static str, units: &[&str], message: String) -> Self {
        let units = units.iter().map(|unit| (*unit).to_owned()).collect();
        Self { place: None, severity, kind, units, endpoint: None, message, processes: Vec::new(), next: None }
    }

    /// About something that is written in the policy: what is to be typed next is an editor.
    #[inline(never)]
    pub(super) fn at(mut self, place: Option<&policy::Place>) -> Self {
        self.place = place.and_then(Written::at);
        self.next = self.place.as_ref().and_then(Written::edit);
        self
    }

    #[inline(never)]
    pub(super) fn with_endpoint(mut self, endpoint: EndpointRange) -> Self {
        self.endpoint = Some(endpoint.to_string());
        self
    }

    #[inline(never)]
    pub(super) fn with_next(mut self, next: String) -> Self {
        self.next = Some(next);
        self
    }

    fn print(&self, page: &mut Page) {
        let (word, tone) = match self.severity {
            Severity::Error => ("error: ", Tone::Bad),
            Severity::Warning => ("warning: ", Tone::Title),
        };
        let mut about = match &self.place {
            Some(Written { file, line: Some(line), column: Some(column) }) => format!("{file}:{line}:{column}"),
            Some(Written { file, .. }) => file.clone(),
            None => listed(&self.units),
        };
        if about.is_empty() {
            self.kind.clone_into(&mut about);
        }
        page.words("", &(word.to_owned() + &about), Some(tone));
        page.words("  ", &self.message, None);
        for Left { pid, command } in &self.processes {
            page.line(&[("  pid ", None), (&pid.to_string(), None), (" ", None), (command, None)]);
        }
        if let Some(next) = &self.next {
            page.command("  ", "next:", next);
        }
    }
}

/// What `check` and `audit` print.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    /// Which of the two.
    #[serde(skip)]
    pub(super) kind: &'static str,
    #[serde(rename = "findings")]
    pub(super) remarks: Vec<Remark>,
    /// How many units have portguard in front of their start, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guarded: Option<usize>,
    /// What could not be looked at, each in a sentence.
    pub(super) unseen: Vec<String>,
}

impl Document for Findings {
    const KIND: &'static str = "check";

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn print(&self, page: &mut Page) {
        print(page, &self.remarks, &self.unseen);
        if let Some(guarded) = self.guarded {
            page.words("", &count(guarded, "guarded unit"), None);
        }
    }
}

/// By place, and those of one place as they were found.
pub(super) fn in_order(remarks: Vec<Remark>) -> Vec<Remark> {
    let mut ordered: Vec<Remark> = Vec::new();
    for remark in remarks {
        let at = ordered.partition_point(|before| before.place <= remark.place);
        ordered.insert(at, remark);
    }
    ordered
}

/// All remarks, what could not be looked at, and how many there are.
fn print(page: &mut Page, remarks: &[Remark], unseen: &[String]) {
    for remark in remarks {
        remark.print(page);
        page.gap();
    }
    print_unseen(page, unseen);
    let errors = remarks.iter().filter(|remark| remark.severity == Severity::Error).count();
    let (text, tone) = match (errors, remarks.len() - errors) {
        (0, 0) => ("nothing found".to_owned(), Tone::Good),
        (errors, warnings) => (format!("{}, {}", count(errors, "error"), count(warnings, "warning")), Tone::Bad),
    };
    page.words("", &text, Some(tone));
}

/// What could not be looked at.
pub(super) fn print_unseen(page: &mut Page, unseen: &[String]) {
    for sentence in unseen {
        page.words("! ", sentence, Some(Tone::Bad));
    }
}

pub(super) fn count(number: usize, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

/// So many names are in a sentence; more are counted.
const MAX_NAMED: usize = 8;

/// `a, b and 3 more`.
pub(super) fn listed(names: &[String]) -> String {
    let (first, more) = names.split_at(names.len().min(MAX_NAMED));
    let mut text = first.join(", ");
    if !more.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, " and {} more", more.len());
    }
    text
}

/// A word for a shell.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-@:=,".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    fn page(remarks: &[Remark], unseen: &[&str]) -> String {
        let mut page = Page::plain(80);
        print(&mut page, remarks, &unseen.iter().map(ToString::to_string).collect::<Vec<_>>());
        page.text().to_owned()
    }

    #[test]
    fn a_remark_says_where_what_and_what_to_type() {
        let place = policy::Place::Text { file: Arc::from(Path::new("/etc/a b.toml")), line: 3, column: 10 };
        let message = "a sentence that is so long that it does not fit in one line of a terminal of eighty columns";
        let one = Remark::new(Severity::Error, "policy", &["app.service"], message.to_owned()).at(Some(&place));
        let left = Left { pid: 7, command: "evil\x1b[2J ".to_owned() + &"x".repeat(100) };
        let two = Remark {
            processes: vec![left],
            ..Remark::new(Severity::Warning, "left-over", &["a.service", "b.service"], "short".to_owned())
        };
        let cut = format!("  pid 7 evil\\u{{1b}}[2J {}…", "x".repeat(57));
        let expected = [
            "error: /etc/a b.toml:3:10",
            "  a sentence that is so long that it does not fit in one line of a terminal of",
            "  eighty columns",
            "  next: ${EDITOR:-vi} +3 '/etc/a b.toml'",
            "",
            "warning: a.service, b.service",
            "  short",
            &cut,
            "",
            "! something",
            "1 error, 1 warning",
        ];
        let shown = page(&[one, two], &["something"]);
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert_eq!(page(&[], &[]), "nothing found\n");
    }

    #[test]
    fn a_shell_takes_a_word_as_one() {
        for (word, typed) in [
            ("/etc/x.toml", "/etc/x.toml"),
            ("a b", "'a b'"),
            ("a'b", r"'a'\''b'"),
            ("$(x)", "'$(x)'"),
            ("", "''"),
            ("-x", "'-x'"),
        ] {
            assert_eq!(quoted(word), typed);
        }
    }

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (1..=10).map(|number| number.to_string()).collect();
        assert_eq!(listed(&names), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
        assert_eq!(listed(&names[..2]), "1, 2");
    }
}
