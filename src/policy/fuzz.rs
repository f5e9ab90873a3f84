//! The rules that the policy's reader keeps, whatever the file says: see [`crate::fuzzing`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::fuzzing::{assert_printable, shell_words};
use crate::model::printable;
use crate::timespan;

/// A policy file, and what it means for its units.
pub(crate) fn policy(bytes: &[u8]) {
    let file: Arc<Path> = Arc::from(Path::new("p.toml"));
    let text = match load::decode(bytes.to_vec(), &file) {
        Ok(load::Layer { text, .. }) => text,
        Err(problem) => return problems_are_in(&String::from_utf8_lossy(bytes), &PolicyError::new(vec![problem])),
    };
    let read = match Policy::parse(&text, &file) {
        Ok(read) => read,
        Err(error) => return problems_are_in(&text, &error),
    };
    assert_eq!(read.clone().over(read.clone()), read, "the same file twice is the same policy");
    let strangers = ["a.service", "8080@1.service"].map(|name| name.parse().unwrap());
    for unit in read.units.keys().chain(&strangers) {
        // A value of each kind: a port, a host, none that fits, none at all.
        let env = |name: &str| match name.as_bytes().last()? {
            b'T' => Some("8080".to_owned()),
            b'H' => Some("[::1]:".to_owned()),
            b'X' => Some("a\n\u{1b}[m".repeat(100)),
            _ => None,
        };
        match read.rules_for(unit, &env, &[]) {
            Ok(rules) => {
                assert!(rules.endpoints.len() <= MAX_ENDPOINTS);
                assert_eq!(rules.endpoints.iter().collect::<BTreeSet<_>>().len(), rules.endpoints.len());
                assert!(rules.stop.timeout != Some(Duration::ZERO));
            }
            Err(error) => problems_are_in(&text, &error),
        }
    }
}

/// Each problem has a place in the text, comes in its order, and is a line of its own, which can be shown as it is.
fn problems_are_in(text: &str, error: &PolicyError) {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut last = (0, 0);
    assert!(!error.problems().is_empty());
    for Problem { place, fault } in error.problems() {
        let Place::Text { line, column, .. } = *place else { panic!("{place} is no place in the text") };
        assert!((1..=lines.len()).contains(&line), "{place}: {fault}");
        assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "{place}: {fault}");
        assert!(last <= (line, column), "{place} comes after {last:?}");
        last = (line, column);
        let shown = format!("{place}: {fault}");
        assert_printable(&shown);
        // A text can be in it three times, and an escape takes ten bytes.
        assert!(shown.len() <= 2048 + 40 * text.len(), "{} bytes: {shown}", shown.len());
    }
    assert!(error.to_string().lines().count() <= 21);
}

/// A span of time, a signal, and a path that may not be trusted.
pub(crate) fn span(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match timespan::parse(&text) {
        Ok(span) => {
            assert_eq!(timespan::parse(&format!("{}us", span.as_micros())), Ok(span));
            assert_printable(&timespan::show(span));
            let shown = timespan::parse(&timespan::show(span)).unwrap();
            assert!(shown <= span && shown * 2 >= span, "{shown:?} is shown for {span:?}");
        }
        Err(reason) => assert_printable(&reason),
    }
    match signal::signal(&text) {
        Ok(found) => {
            assert!((1..=64).contains(&found.0) && !(32..=33).contains(&found.0));
            assert_eq!(signal::signal(&found.to_string()), Ok(found), "what is shown can be typed again");
        }
        Err(reason) => assert_printable(&reason),
    }
    path_can_be_typed(&text);
}

/// The hint of an untrusted file is a command or two, each of which a shell gives the path as one word.
fn path_can_be_typed(text: &str) {
    // The report makes these safe to show, and nobody can type them.
    if text.chars().any(char::is_control) {
        return;
    }
    let path = PathBuf::from(text);
    let word = if text.starts_with('-') { format!("./{text}") } else { text.to_owned() };
    let words = |before: &[&str]| Some(before.iter().copied().chain([word.as_str()]).map(str::to_owned).collect());
    let link = Fault::UntrustedLink { path: path.clone(), owner: 1000, wanted: 0 }.to_string();
    let link = link.strip_prefix(&format!("{} is ", printable(text))).and_then(|said| said.split_once(": "));
    assert_eq!(link.and_then(|(_, command)| shell_words(command)), words(&["chown", "-h", "root:"]));
    let file = Fault::Untrusted { path, owner: 1000, mode: 0o666, wanted: 0 }.to_string();
    let file = file.strip_prefix(&format!("{} belongs ", printable(text))).and_then(|said| said.split_once(": "));
    let commands = file.map(|(_, commands)| commands).unwrap_or_default();
    // Both have the path, so the second begins where the same path has come to its end.
    let second = (commands.len() + "chown root: ".len() - "chmod go-w ".len() - " && ".len()) / 2;
    let (chown, chmod) = commands.split_at(second);
    assert_eq!(shell_words(chown), words(&["chown", "root:"]));
    assert_eq!(chmod.strip_prefix(" && ").and_then(shell_words), words(&["chmod", "go-w"]));
}
