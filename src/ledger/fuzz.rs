//! The rules that the ledger's text keeps, whatever a file says: see [`crate::fuzzing`].

use super::{MAX_BYTES, format, parse};
use crate::model::{CgroupId, InvocationId, Run};

/// A ledger's file.
pub(crate) fn ledger(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let runs = parse(&text);
    assert!(runs.len() <= text.lines().count());
    assert_eq!(parse(&format(&runs)), runs);
    assert!(runs.iter().all(|run| run.invocation != InvocationId(0)), "no id is no proof");
    // Whatever is in the file, torn or not: the line that is added next is the last run.
    let next = Run { cgroup: Some(CgroupId(7)), invocation: InvocationId(1) };
    let runs = parse(&format!("{text}\n"));
    let appended = format!("{text}\n{}", format(&[next]));
    assert_eq!(parse(&appended).split_last(), Some((&next, &runs[..])));
    assert!(format(&[next; super::MAX_RUNS]).len() <= MAX_BYTES);
}
