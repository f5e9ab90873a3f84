//! What is wrong with a policy, where, and what to do about it. Only words: nothing is opened or decided here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{MAX_ENDPOINTS, MAX_FILE_BYTES};
use crate::model::{EndpointError, UnitName, UnitNameError, printable};

/// No more problems are shown: a file that is no policy at all must not flood the journal.
const MAX_SHOWN: usize = 20;

/// All that is wrong with the policy; at least one problem. Shown one a line, each `FILE:LINE:COLUMN: what: hint`, and
/// after the first 20 only how many more there are.
#[derive(Debug)]
pub struct PolicyError {
    problems: Vec<Problem>,
}

/// One fault and its place.
#[derive(Debug)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: Fault,
}

/// Where a fault is; they are ordered by file, and by place in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file or a folder as a whole.
    File(Arc<Path>),
    /// A place in the text of a file.
    Text {
        /// The file.
        file: Arc<Path>,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
    },
    /// A port on the command line.
    CommandLine,
}

/// A text and where its lines begin, for [`Place`]s in it.
pub(super) struct Lines<'t> {
    file: &'t Arc<Path>,
    text: &'t [u8],
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn of(file: &'t Arc<Path>, text: &'t [u8]) -> Self {
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(offset, _)| offset);
        Self { file, text, starts: std::iter::once(0).chain(ends.map(|end| end + 1)).collect() }
    }

    /// The place of this byte.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let before = &self.text[self.starts[line - 1]..offset];
        let column = String::from_utf8_lossy(before).chars().count() + 1;
        Place::Text { file: Arc::clone(self.file), line, column }
    }
}

/// What is wrong.
#[derive(Debug)]
pub enum Fault {
    /// A file or folder could not be opened or read.
    Io {
        /// What was tried: `open`, `read`, `list`.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else than root (or the caller, where that is not root) could change it.
    Untrusted {
        /// The file or folder; on the way to the place of this problem, or that itself.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// Who should own it.
        wanted: u32,
    },
    /// A symbolic link that neither root nor the caller made.
    UntrustedLink {
        /// The link; on the way to the place of this problem, or that itself.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who should own it.
        wanted: u32,
    },
    /// Neither a regular file nor the null device.
    NotRegular,
    /// More than [`MAX_FILE_BYTES`].
    TooLarge,
    /// A byte that is no UTF-8.
    NotUtf8,
    /// No TOML; what its parser says.
    Syntax(String),
    /// A key that does not belong here.
    UnknownKey {
        /// The key.
        key: String,
        /// What to do instead.
        hint: String,
    },
    /// A value of another type.
    WrongType {
        /// The key.
        key: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: String,
    },
    /// A value of the right type that cannot be used.
    BadValue {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
    /// A unit's name in which `\x2d` is what TOML 1.1 makes of it, and not what systemd means by it.
    HexEscape {
        /// As it is written, with its quotes.
        written: String,
        /// What TOML makes of it.
        name: String,
    },
    /// The NAME of `[unit."NAME"]`.
    BadUnit {
        /// Why.
        source: UnitNameError,
        /// The whole table header, where only the quotes are missing.
        unquoted: Option<String>,
    },
    /// A drop-in that is named as that of a unit, and would be read for none.
    OfNoUnit(UnitNameError),
    /// A table that is not of the unit whose drop-in the file is by its name.
    OutOfPlace {
        /// That unit.
        owner: UnitName,
        /// The unit of the table; `None` is `[defaults]`.
        of: Option<UnitName>,
    },
    /// An element of `ports` that is no endpoint.
    BadEndpoint(EndpointError),
    /// An element of `ports` that has a wrong `%` or `${}`, or one that means nothing for this unit.
    BadExpansion {
        /// The element as written.
        text: String,
        /// Why.
        reason: String,
    },
    /// An element of `ports` that is no endpoint once it is expanded.
    BadExpanded {
        /// The element as written.
        text: String,
        /// What was filled in: as written, and its value.
        filled: Vec<(String, String)>,
        /// Why.
        source: Box<EndpointError>,
    },
    /// More than [`MAX_ENDPOINTS`] for one unit.
    TooManyEndpoints(UnitName),
}

impl PolicyError {
    /// `problems` has at least one.
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "an error without a problem");
        Self { problems }
    }

    /// The problems, file by file and in the order of the text.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Those that are shown where there are too many.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().take(MAX_SHOWN)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.shown().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        match self.problems.len().checked_sub(MAX_SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for PolicyError {
    /// That of the first problem.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problems.first().and_then(|problem| problem.fault.source())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", shown_path(file)),
            Self::Text { file, line, column } => write!(f, "{}:{line}:{column}", shown_path(file)),
            Self::CommandLine => f.write_str("--port"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
            Self::Untrusted { path, owner, mode, wanted } => write_untrusted(f, path, *owner, *mode, *wanted),
            Self::UntrustedLink { path, owner, wanted } => write_untrusted_link(f, path, *owner, *wanted),
            Self::NotRegular => {
                f.write_str("is no regular file: a policy is one, or a link to /dev/null that masks it")
            }
            Self::TooLarge => write!(f, "is larger than {} KiB", MAX_FILE_BYTES / 1024),
            Self::NotUtf8 => f.write_str("is not UTF-8 here: TOML is"),
            Self::Syntax(message) => write!(f, "no TOML: {message}"),
            Self::UnknownKey { key, hint } => write!(f, "unknown key \"{}\": {hint}", printable(key)),
            Self::WrongType { key, found, wanted } => write!(f, "{}: {found} where {wanted} should be", printable(key)),
            Self::BadValue { key, reason } => write!(f, "{}: {reason}", printable(key)),
            Self::BadUnit { source, unquoted: None } => write!(f, "{source}"),
            Self::BadUnit { unquoted: Some(header), .. } => write!(f, "the unit's name needs quotes: {header}"),
            Self::HexEscape { written, name } => write!(
                f,
                "to TOML {written} is {name}: write '{}', in single quotes, for the unit that systemd shows so",
                written.trim_matches('"')
            ),
            Self::OfNoUnit(source) => write!(f, "is read for the unit of its name alone, but {source}"),
            Self::OutOfPlace { owner, of: None } => write!(
                f,
                "only-{owner}.toml is read for {owner} alone: put these keys into [unit.\"{owner}\"], or name the \
                 file otherwise"
            ),
            Self::OutOfPlace { owner, of: Some(unit) } => write!(
                f,
                "only-{owner}.toml is read for {owner} alone: put what is for {unit} into only-{unit}.toml, or name the \
                 file otherwise"
            ),
            Self::BadEndpoint(source) => write!(f, "ports: {source}"),
            Self::BadExpansion { text, reason } => write!(f, "ports: \"{}\": {reason}", printable(text)),
            Self::BadExpanded { text, filled, source } => write_expanded(f, text, filled, source),
            Self::TooManyEndpoints(unit) => {
                write!(f, "{unit} has more than {MAX_ENDPOINTS} ports: name those alone that it binds")
            }
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::BadUnit { source, .. } | Self::OfNoUnit(source) => Some(source),
            Self::BadEndpoint(source) => Some(source),
            Self::BadExpanded { source, .. } => Some(source.as_ref()),
            Self::Untrusted { .. }
            | Self::UntrustedLink { .. }
            | Self::NotRegular
            | Self::TooLarge
            | Self::NotUtf8
            | Self::Syntax(_)
            | Self::UnknownKey { .. }
            | Self::WrongType { .. }
            | Self::BadValue { .. }
            | Self::BadExpansion { .. }
            | Self::OutOfPlace { .. }
            | Self::HexEscape { .. }
            | Self::TooManyEndpoints(_) => None,
        }
    }
}

fn write_untrusted(f: &mut fmt::Formatter<'_>, path: &Path, owner: u32, mode: u32, wanted: u32) -> fmt::Result {
    let (whole, file, name) = (shown_path(path), quoted_for_shell(path), user(wanted));
    write!(
        f,
        "{whole} belongs to uid {owner} with mode {mode:04o}, so others than {name} could decide what is stopped: \
         chown {name}: {file} && chmod go-w {file}"
    )
}

/// `chown` alone would change what the link points to.
fn write_untrusted_link(f: &mut fmt::Formatter<'_>, path: &Path, owner: u32, wanted: u32) -> fmt::Result {
    let (whole, file, name) = (shown_path(path), quoted_for_shell(path), user(wanted));
    write!(
        f,
        "{whole} is a symbolic link of uid {owner}, so others than {name} could decide what is stopped: \
         chown -h {name}: {file}"
    )
}

fn user(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { uid.to_string() }
}

fn write_expanded(
    f: &mut fmt::Formatter<'_>,
    text: &str,
    filled: &[(String, String)],
    source: &EndpointError,
) -> fmt::Result {
    write!(f, "ports: \"{}\"", printable(text))?;
    for (index, (written, value)) in filled.iter().enumerate() {
        let joint = if index == 0 { ", where " } else { ", " };
        write!(f, "{joint}{written} is \"{}\"", printable(value))?;
    }
    write!(f, ": {source}")
}

fn shown_path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// A word that a shell reads as this path, where the path is UTF-8.
fn quoted_for_shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    // Behind a dot, what begins with a dash is no option.
    let text = if text.starts_with('-') { format!("./{text}").into() } else { text };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-@%+:,".contains(&b)) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let file: Arc<Path> = Arc::from(Path::new("f"));
        let text = "a\nöäü x\n";
        for (offset, line, column) in [(0, 1, 1), (1, 1, 2), (2, 2, 1), (4, 2, 2), (9, 2, 5), (11, 3, 1), (99, 3, 1)] {
            let place = Place::Text { file: Arc::clone(&file), line, column };
            assert_eq!(Lines::of(&file, text.as_bytes()).place(offset), place, "{offset}");
        }
    }

    #[test]
    fn a_flood_of_problems_is_cut_short() {
        let problems =
            |count| (0..count).map(|_| Problem { place: Place::CommandLine, fault: Fault::NotUtf8 }).collect();
        let shown = |count| PolicyError::new(problems(count)).to_string();
        assert_eq!(shown(20).lines().count(), 20);
        assert_eq!(shown(22).lines().count(), 21);
        assert_eq!(shown(22).lines().last(), Some("and 2 more"));
    }

    #[test]
    fn the_hint_can_be_pasted_into_a_shell() {
        for (path, word) in [
            ("/etc/x.toml", "/etc/x.toml"),
            ("/etc/a b", "'/etc/a b'"),
            ("/e/it's", r"'/e/it'\''s'"),
            ("-x", "./-x"),
            ("", "''"),
        ] {
            assert_eq!(quoted_for_shell(Path::new(path)), word);
        }
    }
}
