//! What cannot be meant is refused before anything is looked at.

use super::assert_names;
use crate::machine::Machine;

pub(super) fn refuses_bad_arguments_with_64(m: &Machine) {
    // The arguments, and the part of them that the message has to name.
    const BAD: &[(&str, &str)] = &[
        ("--unit ../etc/passwd", "../etc/passwd"),
        ("--unit foo", "foo"),
        ("--unit app.service --port 0/tcp", "0/tcp"),
        ("--unit app.service --port 9-8/tcp", "9-8/tcp"),
    ];
    for (arguments, culprit) in BAD {
        m.when(&format!("portguard runs with {arguments}"));
        let output = m.sh(&format!("portguard {arguments}"));

        m.then("it exits with 64 and says what is wrong");
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert_names(&output.stderr, &[culprit]);
    }
}
