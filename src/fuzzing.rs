//! What the fuzz targets (`fuzz/`) feed bytes to, and what `make test` replays their seeds through: one function a
//! target, each of which panics where a rule is broken. Nothing of it is in the release.
//!
//! The rules stand beside the code that they are about, in modules named `fuzz`.

use crate::model::{self, printable};
use crate::observe::{cgroup as cgroups, container, net_tables, proc as processes, sock_diag};
use crate::{ledger as runs, policy as policies, report};

/// The path of a cgroup, and `mountinfo`.
pub fn cgroup(bytes: &[u8]) {
    cgroups::fuzz::cgroup(bytes);
}

/// What Docker's daemon answers, and the cgroup of a container.
pub fn docker(bytes: &[u8]) {
    container::fuzz::docker(bytes);
}

/// What a person types as an endpoint.
pub fn endpoint(bytes: &[u8]) {
    model::fuzz::endpoint(bytes);
}

/// A ledger's file.
pub fn ledger(bytes: &[u8]) {
    runs::fuzz::ledger(bytes);
}

/// A datagram of `sock_diag`.
pub fn netlink(bytes: &[u8]) {
    sock_diag::fuzz::netlink(bytes);
}

/// A policy file, and what it means for its units.
pub fn policy(bytes: &[u8]) {
    policies::fuzz::policy(bytes);
}

/// The texts of `/proc`: those of a process, and the tables of sockets.
pub fn proc(bytes: &[u8]) {
    processes::fuzz::of_a_process(bytes);
    net_tables::fuzz::of_sockets(bytes);
}

/// A span of time, a signal, a path.
pub fn span(bytes: &[u8]) {
    policies::fuzz::span(bytes);
}

/// The name of a unit, and a pattern of names.
pub fn unit_name(bytes: &[u8]) {
    model::fuzz::unit_name(bytes);
}

/// The sentences about a process, and what they say to type.
pub fn words(bytes: &[u8]) {
    report::fuzz::words(bytes);
}

/// What is shown has nothing in it that a terminal or a log would take for more than text, and is one line.
pub(crate) fn assert_printable(shown: &str) {
    assert_eq!(printable(shown), shown);
}

/// The words that a shell (POSIX, "Shell Command Language", 2.2 and 2.3) makes of a line of plain words and quotes;
/// `None` where it would make anything else of it: a second command, an expansion, an open quote.
pub(crate) fn shell_words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => words.extend(word.take()),
            '\'' => {
                let (inside, after) = chars.as_str().split_once('\'')?;
                word.get_or_insert_default().push_str(inside);
                chars = after.chars();
            }
            '\\' => word.get_or_insert_default().push(chars.next().filter(|c| *c != '\n')?),
            '#' | '~' if word.is_none() => return None,
            '!' | '"' | '$' | '&' | '(' | ')' | '*' | ';' | '<' | '>' | '?' | '[' | ']' | '`' | '{' | '|' | '}' => {
                return None;
            }
            c if c.is_control() => return None,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    type Target = fn(&[u8]);

    /// The name of each target: that of its file, and of the folder of its seeds.
    const TARGETS: &[(&str, Target)] = &[
        ("cgroup", cgroup),
        ("docker", docker),
        ("endpoint", endpoint),
        ("ledger", ledger),
        ("netlink", netlink),
        ("policy", policy),
        ("proc", proc),
        ("span", span),
        ("unit_name", unit_name),
        ("words", words),
    ];

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_seed_keeps_the_rules_of_its_target() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let names: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names_in(&fuzz.join("seeds")), names);
        assert_eq!(
            names_in(&fuzz.join("fuzz_targets")),
            names.iter().map(|name| format!("{name}.rs")).collect::<Vec<_>>()
        );
        for (name, target) in TARGETS {
            let folder = fuzz.join("seeds").join(name);
            let seeds = names_in(&folder);
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for seed in seeds {
                let bytes = std::fs::read(folder.join(&seed)).unwrap();
                let kept = std::panic::catch_unwind(|| target(&bytes));
                assert!(kept.is_ok(), "fuzz/seeds/{name}/{seed} breaks a rule: see above");
            }
        }
    }

    #[test]
    fn words_are_those_that_a_shell_makes() {
        for line in [r"a 'b  c' d'e'f", r"'it'\''s' ''", r"-- '-H.service'", r"a\ b \x", "", "ss 'sport = :80'"] {
            let shell = Command::new("sh").args(["-c", &format!(r"printf '%s\0' {line}")]).output().unwrap();
            let said = String::from_utf8(shell.stdout).unwrap();
            let words: Vec<&str> = said.split_terminator('\0').collect();
            // printf prints its format once, also without words.
            let words = if line.is_empty() { Vec::new() } else { words };
            assert_eq!(shell_words(line).unwrap(), words, "{line}");
        }
        for line in ["a; b", "a & b", "$a", "`a`", "a > b", "'a", "\"a", "*.service", "#a", "~", "a\nb"] {
            assert_eq!(shell_words(line), None, "{line}");
        }
    }
}
