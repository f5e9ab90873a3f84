//! The rules that the texts of a process keep, whatever it calls itself: see [`crate::fuzzing`].

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";

/// The bytes as each of the files, and as what a process may choose in each of them.
pub(crate) fn of_a_process(bytes: &[u8]) {
    let stat = parse_stat(bytes);
    assert!(stat.is_none_or(|stat| stat.comm.len() <= 3 * bytes.len()));
    let line = [b"7 (", bytes, b") S 1 7 7 34816 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n"].concat();
    let stat = parse_stat(&line).unwrap();
    assert_eq!((stat.state, stat.ppid, stat.start), (b'S', Pid(1), StartTime(4711)), "a name changes nothing");
    assert_eq!((stat.flags, stat.terminal), (4_194_560, Some(Terminal(34816))));
    assert_eq!(stat.comm, String::from_utf8_lossy(bytes));

    let _ = parse_uid(bytes);
    let name: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\n').collect();
    let status = [b"Name:\t", &name[..], b"\nUmask:\t0022\nUid:\t33\t0\t0\t0\n", bytes].concat();
    assert_eq!(parse_uid(&status), Some(33), "the real user, whatever the name");

    let argv = parse_argv(bytes);
    let parts = bytes.split_inclusive(|byte| *byte == 0).count();
    // What is cut off has an argument that says so.
    assert!(argv.len() == parts || (argv.len() < parts && argv.last().is_some_and(|last| last == "…")), "{argv:?}");
    assert!(argv.len() <= ARGUMENTS + 2);
    assert!(!argv.iter().any(|argument| argument.contains('\0')));

    let id = Invocation::Known(ID.parse().unwrap());
    let variable = format!("INVOCATION_ID={ID}\0");
    assert_eq!(parse_invocation(&[variable.as_bytes(), bytes].concat()), id, "the first of the name counts");
    let value: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    assert_eq!(parse_invocation(&[b"X=", &value[..], b"\0", variable.as_bytes()].concat()), id, "a value is no name");
    if let Invocation::Known(id) = parse_invocation(bytes) {
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    let _ = parse_cgroup(bytes);
    let path = String::from_utf8_lossy(&name);
    let cgroup = parse_cgroup(&[b"1:cpu:/other\n0::/", &name[..], b"\n"].concat());
    assert_eq!(cgroup, Some(CgroupPath(format!("/{path}"))));
}
