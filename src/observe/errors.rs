//! What could not be read is said with its place, and with the reason that the kernel gave.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::cgroup::CgroupError;
use super::net_tables::{self, NetTablesError};
use super::proc::{self, ProcError};
use super::sock_diag::SockDiagError;
use super::users;
use crate::interrupt::Interrupt;
use crate::model::{Pid, Port, Protocol};

fn is_said(error: &dyn Error, words: &str, has_source: bool) {
    let said = error.to_string();
    assert!(said.starts_with(words) && said.len() > words.len(), "{said}");
    assert_eq!(error.source().is_some(), has_source, "{error:?}");
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(Errno::EACCES as i32)
}

#[test]
fn an_error_of_the_kernel_is_said_with_its_place() {
    let path = || PathBuf::from("/a");
    is_said(&CgroupError::NoMount, "no cgroup2 ", false);
    is_said(&CgroupError::Read { path: path(), source: denied() }, "/a: Permission denied", true);
    is_said(&ProcError::Read { path: path(), source: denied() }, "/a: Permission denied", true);
    is_said(&ProcError::Parse { path: path() }, "/a: ", false);
    is_said(&NetTablesError::Read { path: path(), source: denied() }, "/a: Permission denied", true);
    for (error, words) in [
        (SockDiagError::Open(Errno::EACCES), "no sock_diag netlink socket: EACCES"),
        (SockDiagError::Send(Errno::EACCES), "sock_diag request not sent: EACCES"),
        (SockDiagError::Receive(Errno::EACCES), "sock_diag answer not received: EACCES"),
        (SockDiagError::Refused(Errno::EACCES), "sock_diag refused: EACCES"),
    ] {
        is_said(&error, words, true);
    }
    for (error, words) in [
        (SockDiagError::Timeout, "sock_diag did not answer"),
        (SockDiagError::Unsteady, "the socket tables changed"),
        (SockDiagError::Malformed, "malformed sock_diag"),
    ] {
        is_said(&error, words, false);
    }
}

#[test]
fn a_file_that_is_not_as_the_kernel_writes_it_is_named() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("7/stat", "7 (torn");
    let error = proc::process(root.path(), Pid(7)).unwrap_err();
    is_said(&error, &format!("{}", root.path().join("7/stat").display()), false);
    // A folder where a file was to be.
    std::fs::create_dir_all(root.path().join("8/stat")).unwrap();
    let error = proc::process(root.path(), Pid(8)).unwrap_err();
    is_said(&error, &format!("{}", root.path().join("8/stat").display()), true);
    write("net/tcp", "heading\n 0: 0100007F:0050 torn\n");
    let deaf = Interrupt::default();
    let error = net_tables::sockets(root.path(), &[(Protocol::Tcp, Port::new(80).unwrap())], &deaf).unwrap_err();
    is_said(&error, &format!("{}", root.path().join("net/tcp").display()), true);
    // That of IPv6 alone may be missing.
    let error = net_tables::sockets(root.path(), &[(Protocol::Udp, Port::new(80).unwrap())], &deaf).unwrap_err();
    is_said(&error, &format!("{}: No such file", root.path().join("net/udp").display()), true);
}

#[test]
fn the_home_of_a_user_is_the_one_of_its_number() {
    let etc = tempfile::tempdir().unwrap();
    std::fs::write(etc.path().join("passwd"), "a:x:1:1::/home/a:/bin/sh\ntorn:x:2\nb:x:3:1::/home/b:/bin/sh\n")
        .unwrap();
    let home = |uid| users::home_of(etc.path(), uid);
    assert_eq!((home(1), home(3)), (Some("/home/a".into()), Some("/home/b".into())));
    assert_eq!((home(2), home(4)), (None, None));
    assert_eq!(users::home_of(&etc.path().join("absent"), 1), None);
}
